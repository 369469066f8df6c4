"""The one exception that Mercato raises on purpose."""


class MercatoError(Exception):
    """Something the person running Mercato can mend; the message says where it is and what to do.

    The command line prints it without a traceback and exits with 1; the HTTP API answers it as 4xx.
    """
