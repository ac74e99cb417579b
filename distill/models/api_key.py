"""API keys of endpoints: read from the environment, never from a recipe."""

import os
from collections.abc import Mapping

from distill.core.errors import InputError
from serve.key_variables import NO_KEY


class ApiKey:
    """An API key on its way to another process: no log shows it, however it prints what it is given. Picklable.

    Not a dataclass: Ray Data writes those into its logs field by field.
    """

    def __init__(self, value: str) -> None:
        self.value = value

    def __repr__(self) -> str:
        return "ApiKey(hidden)"


def endpoint_key(variable: str | None, where: str, environment: Mapping[str, str] = os.environ) -> str:
    """The API key in an environment variable.

    Args:
        variable: name of the environment variable; None or empty if the endpoint needs no key.
        where: the recipe field that gives this name, for the error message.

    Raises:
        InputError: the variable is not set.
    """
    if not variable:
        return NO_KEY  # the client requires a key; a server without keys ignores it
    if key := environment.get(variable, ""):
        return key
    raise InputError(f"{where}: the environment variable {variable} is not set -> export it before the run")
