"""Keys of paid addresses: from the environment only, never from a recipe."""

import os
from collections.abc import Mapping

from distill.core.errors import InputError
from serve.keys import NO_KEY


def endpoint_key(variable: str | None, where: str, environment: Mapping[str, str] = os.environ) -> str:
    """The key in the environment variable that a recipe names.

    Args:
        variable: its name; none or empty where the address wants no key.
        where: the recipe's field that names it.

    Raises:
        InputError: the variable is not set.
    """
    if not variable:
        return NO_KEY  # the client insists on one, a server without keys does not read it
    if key := environment.get(variable, ""):
        return key
    raise InputError(f"{where}: the environment variable {variable} is not set -> export it before the run")
