"""The errors of an object store as mistakes of the task's author, or as faults that a later attempt may not meet.

The library's typed errors are used where there are any; an error of a listing carries its HTTP status as text alone.
"""

import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, NamedTuple

from obstore.exceptions import (
    BaseError,
    InvalidPathError,
    PermissionDeniedError,
    PreconditionError,
    UnauthenticatedError,
)

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault, TrainerError, UserError

CREDENTIALS: Final = {
    "s3": "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and, for temporary ones, AWS_SESSION_TOKEN",
    "gs": "GOOGLE_SERVICE_ACCOUNT_KEY",
    "az": "AZURE_STORAGE_ACCOUNT_NAME and AZURE_STORAGE_ACCOUNT_KEY, or AZURE_STORAGE_SAS_TOKEN",
}
METADATA_HOSTS: Final = {"s3": "169.254.169.254", "gs": "metadata.google.internal", "az": "169.254.169.254"}

_STATUS = re.compile(r"status code: (\d{3})")
_CODE = re.compile(r"<Code>(\w{1,60})</Code>")
_SYSTEM_ERROR = re.compile(r'(?:message|error): "([^"\\\n]{1,120})"')
_CERTIFICATE_ERROR = re.compile(r"InvalidCertificate\(\s*(\w+)")
_RETRIED_STATUS = (408, 409, 429)
_SLOW_UPLOAD_CODE = "RequestTimeout"  # S3 answers it with 400
_NO_BUCKET_CODES = ("NoSuchBucket", "ContainerNotFound")
_REGION_CODES = ("AuthorizationHeaderMalformed", "PermanentRedirect", "IllegalLocationConstraintException")


class StoreReasons(NamedTuple):
    """The reasons that errors of a store are reported with."""

    not_found: Reason
    denied: Reason
    unavailable: Reason


SOURCE_REASONS: Final = StoreReasons(Reason.SOURCE_NOT_FOUND, Reason.SOURCE_DENIED, Reason.SOURCE_UNAVAILABLE)


class Location(NamedTuple):
    """The address of a store as the task has it, and the field that has it."""

    field: str
    uri: str
    reasons: StoreReasons

    @property
    def scheme(self) -> str:
        """The part of the uri before ``://``."""
        return self.uri.partition("://")[0]

    @property
    def bucket(self) -> str:
        """The bucket or container."""
        return self.uri.partition("://")[2].partition("/")[0]

    def deny(self, what: str) -> UserError:
        """Return the error that access is refused; `what` is the cause."""
        return UserError(
            self.reasons.denied,
            f"{self}: access is refused ({what}): pass {CREDENTIALS[self.scheme]} through spec.env, and check that they are "
            "valid and allow it",
        )

    def __str__(self) -> str:
        return f"{self.field} '{self.uri}'"


@contextmanager
def translate_errors(location: Location, name: str = "") -> Iterator[None]:
    """Turn an error of the store into a UserError or a Fault; `name` is the object in question, relative to the uri."""
    started = time.monotonic()
    try:
        yield
    except (BaseError, FileNotFoundError, ValueError) as error:
        if isinstance(error, OSError) and error.errno is not None:  # the file system's, not the store's
            raise
        raise _classify(error, location, name, time.monotonic() - started) from error


def _classify(error: Exception, location: Location, name: str, seconds: float) -> TrainerError:
    text = str(error)
    status = int(found[1]) if (found := _STATUS.search(text)) else None
    code = found[1] if (found := _CODE.search(text)) else ""
    answer = f"the server answers {status} {code}".rstrip()
    if isinstance(error, InvalidPathError | ValueError):
        return UserError(
            location.reasons.not_found,
            f"{location}: {_quote_path(text)} cannot be the name of a file: no part of it may be empty, '.' or '..', nor "
            "hold control characters",
        )
    if any(host in text for host in METADATA_HOSTS.values()) and (status is None or status < 500):
        return location.deny("no credentials were found")
    if isinstance(error, FileNotFoundError) or status == 404:
        if code in _NO_BUCKET_CODES or "NoSuchBucket" in text or not name:
            return UserError(location.reasons.not_found, f"{location}: there is no bucket '{location.bucket}'")
        return UserError(location.reasons.not_found, f"{location}: there is no object '{name}'")
    if isinstance(error, PreconditionError) or status == 412:
        return Fault(location.reasons.unavailable, f"{location}: '{name}' was changed while it was read")
    if "BareRedirect" in text or code in _REGION_CODES:
        return UserError(
            location.reasons.denied,
            f"{location}: bucket '{location.bucket}' is in another region: pass its region as AWS_REGION through spec.env",
        )
    is_temporary = status in _RETRIED_STATUS or code == _SLOW_UPLOAD_CODE
    is_refused = status is not None and 400 <= status < 500 and not is_temporary
    if isinstance(error, PermissionDeniedError | UnauthenticatedError) or is_refused:
        return location.deny(answer)
    cause = answer if status is not None else _describe_connection_error(text)
    return Fault(location.reasons.unavailable, f"{location}: the store could not be used for {seconds:.0f} s ({cause})")


def _describe_connection_error(text: str) -> str:
    if found := _CERTIFICATE_ERROR.search(text):
        return (
            f"its certificate is not trusted, {found[1]}: SSL_CERT_FILE names the file with the certificate of its CA"
        )
    if found := _SYSTEM_ERROR.search(text):
        return found[1]
    return "no answer in time" if "Timeout" in text or "TimedOut" in text else "the connection broke"


def _quote_path(text: str) -> str:
    found = re.search(r'Path "(.{1,200}?)"', text)
    return repr(found[1]) if found else "a name in it"
