"""What a user of served models can act on."""


class ServeError(Exception):
    """A failure with its remedy in the message: printed without traceback. Picklable (plain string arguments)."""


class UnknownModelError(ServeError):
    """The endpoint is there, and serves no model of that name."""
