"""The one base class of the errors that heatserve explains to its user."""


class HeatserveError(ValueError):
    """Something that the user can mend; the message names it, and says what was expected and what came.

    The command line prints its message without a traceback and exits with 1.
    """
