"""The one error of requests to the API server."""


class ClusterError(Exception):
    """The API server refused a request, or did not answer.

    Attributes
    ----------
    status
        The HTTP status; 0 when there was no answer.
    """

    def __init__(self, status: int, message: str) -> None:
        super().__init__(message)
        self.status = status

    @property
    def is_not_found(self) -> bool:
        """Return whether the object does not exist."""
        return self.status == 404

    @property
    def is_not_served(self) -> bool:
        """Return whether the kind of the object does not exist, or not at the moment: the message names no object."""
        return self.is_not_found and '" not found' not in str(self)

    @property
    def is_conflict(self) -> bool:
        """Return whether the object exists already, or has another uid than the request names."""
        return self.status == 409

    @property
    def is_rejected(self) -> bool:
        """Return whether the request is invalid or forbidden: repeating it unchanged cannot succeed."""
        return self.status in (400, 403, 422)
