"""The one base class of the errors that heatserve explains to its user."""


class HeatserveError(ValueError):
    """Something the user can mend: names the thing, what was expected and what came.

    The command line prints its message without a traceback and exits with 1.
    """
