"""The errors of commands. `__main__` prints the message and ends with the exit code, without a traceback.

::

    CommandError           the request was refused or failed: exit code 1
    ├── NotFoundError      there is no such object
    ├── TemporaryError     no answer, or not now: the same request may succeed later
    └── GoneError          the resource version has expired: list again
    UsageError             wrong arguments: exit code 2
"""


class CommandError(Exception):
    """A request was refused or failed; the message has the cause and the next step."""


class NotFoundError(CommandError):
    """There is no such object."""


class TemporaryError(CommandError):
    """No answer, or not now."""


class GoneError(CommandError):
    """The resource version has expired."""


class UsageError(Exception):
    """The arguments are wrong; the message has the right form."""
