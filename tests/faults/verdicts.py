"""How an injection can end besides well."""


class NotSurvivedError(Exception):
    """The run did not go on, or hung, or ended with the wrong code, or did not say what it must."""


class SilentlyWrongError(NotSurvivedError):
    """The worst: exit code 0, and the result is wrong or missing."""


class MissedError(Exception):
    """The fault did not strike, so that nothing was shown; to be tried again, earlier in the run."""


class CannotRunError(Exception):
    """This machine lacks what the class needs."""
