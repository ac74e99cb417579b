"""What a user of served models can act on."""


class ServeError(Exception):
    """A failure with its remedy in the message: printed without traceback. Picklable (plain string arguments)."""


class UnknownModelError(ServeError):
    """The endpoint is there, and serves no model of that name."""


def fault_label(error: Exception) -> str:
    """The kind of a fault of an OpenAI client with its HTTP status, short enough to be counted."""
    status = getattr(error, "status_code", None)
    return type(error).__name__ if status is None else f"{type(error).__name__} {status}"
