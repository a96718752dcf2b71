"""The errors of authentication and of the Kubernetes API.

::

    HTTPException
    ├── SignInRequired     401; a browser is redirected to the sign-in page
    └── TooManyAttempts    429
    ApiServerError         no answer, or the web app's own request was refused
    TaskRejected           a task was refused; the message is the API server's

No message holds a token.
"""

from starlette.exceptions import HTTPException


class SignInRequired(HTTPException):
    """401 for a program, a redirect to the sign-in page for a browser."""

    def __init__(self, sentence: str) -> None:
        super().__init__(401, sentence, {"WWW-Authenticate": "Bearer"})


class TooManyAttempts(HTTPException):
    """429: too many unknown tokens from one address, or from all together."""

    def __init__(self, seconds: float) -> None:
        sentence = "Too many unknown tokens came from this address, or from all together: check the token, and try again in a minute."
        super().__init__(429, sentence, {"Retry-After": f"{seconds:.0f}"})


class ApiServerError(Exception):
    """The API server did not answer, or refused a request of the web app itself."""


class TaskRejected(Exception):  # noqa: N818 - an answer, not a fault
    """The API server refused to create a task."""

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status
