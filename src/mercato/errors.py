"""The exception that Mercato raises on purpose."""


class MercatoError(Exception):
    """An error the user can fix; the message names the table, row and field (or the option), and says what to do.

    The command line prints it without a traceback and exits with 1; the HTTP API answers it as 4xx.
    """


class NotFoundError(MercatoError):
    """What was asked for is not there; the HTTP API answers it as 404."""


class FullError(MercatoError):
    """There is no room on a disk for what was to be written; the HTTP API answers it as 507."""


class BoundError(MercatoError):
    """More was asked for than is given without a key; the message names the bound. The HTTP API answers it as 403."""


class ExpiredError(MercatoError):
    """What was asked for is over; the HTTP API answers it as 410."""


class DamagedError(MercatoError):
    """A file is not what was written; the message names it and says what to do. The HTTP API answers it as 500."""
