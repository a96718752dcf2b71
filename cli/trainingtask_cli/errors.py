"""What a command may fail with. `__main__` prints the sentence and ends with the exit code; nobody sees a traceback.

::

    CommandError           the request was refused or failed: exit code 1
    ├── TemporaryError     nobody answered, or not now: the same request may succeed later
    └── GoneError          the API server does not remember so far back: list again
    UsageError             the command was called wrongly: exit code 2
"""


class CommandError(Exception):
    """A request was refused or failed; the message says why and what to do."""


class TemporaryError(CommandError):
    """Nobody answered, or not now."""


class GoneError(CommandError):
    """The API server does not remember so far back."""


class UsageError(Exception):
    """The command was called wrongly; the message says how it is called."""
