"""Errors of the endpoint and its clients that a user can act on."""


class ServeError(Exception):
    """A failure with its remedy in the message: printed without traceback. Picklable (plain string arguments)."""


class UnknownModelError(ServeError):
    """The endpoint answers, but serves no model of that name."""


def fault_label(error: Exception) -> str:
    """Class and HTTP status of an OpenAI client's error, e.g. `BadRequestError 400`: short enough to count by."""
    status = getattr(error, "status_code", None)
    return type(error).__name__ if status is None else f"{type(error).__name__} {status}"
