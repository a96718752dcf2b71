"""The download of a file from a web server: resumed where it broke, with redirects that stay outside of the cluster."""

import ipaddress
import os
import re
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path, PurePosixPath
from typing import Final

import httpx

from trainingtask_api.names import ENV_ALLOW_PRIVATE_REDIRECTS
from trainingtask_api.reasons import Reason
from trainingtask_api.status import SourceObject
from trainingtask_trainer.errors import Fault, TrainerError, UserError
from trainingtask_trainer.storage.retry_after import parse_retry_after
from trainingtask_trainer.storage.scratch import check_free_space, is_file_name

# A server that is away for a minute is survived: it is asked again, after pauses of 0.5 to 10 s, until nothing has come
# for 3 minutes.
RETRY_SECONDS: Final = 180.0
FIRST_PAUSE: Final = 0.5
_MAX_PAUSE = 10.0
# A large file may take hours on a slow link, a silent server may not.
_TIMEOUT = httpx.Timeout(60.0, connect=10.0)
_MAX_REDIRECTS = 5
_RETRIED_STATUS = (408, 425, 429, 500, 502, 503, 504)
_PROXY_VARIABLES = {"HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"}
_CONTENT_RANGE = re.compile(r"bytes (\d+)-\d+/(\d+|\*)")


def download_file(url: str, field: str, folder: Path, on_bytes: Callable[[int, int | None], None]) -> SourceObject:
    """Write the file at a URL into a folder, under its name in the URL, and return what was read.

    Parameters
    ----------
    url
        Address of the file; its query is shown nowhere.
    field
        The field of the spec that has the URL, for messages.
    folder
        Receives the file.
    on_bytes
        Is called with the bytes so far and the bytes in all, where the server knows them; an exception that it raises
        ends the download.

    Raises
    ------
    UserError
        When the file does not exist, access is refused, or a redirect goes where it may not.
    Fault
        When the server cannot be reached or fails for longer than `RETRY_SECONDS`, or there is not enough space.
    """
    what = f"{field} '{url.partition('?')[0]}'"
    try:
        address = httpx.URL(url)
    except httpx.InvalidURL as error:
        raise UserError(
            Reason.SOURCE_NOT_FOUND, f"{what}: it cannot be an address ({error}): correct its host and port"
        ) from error
    name = PurePosixPath(address.path).name
    if not is_file_name(name):
        raise UserError(Reason.SOURCE_NOT_FOUND, f"{what}: its path must end in the name of a file")
    download = _Download(what, folder / name, on_bytes)
    headers = {"Accept-Encoding": "identity"}  # sizes and ranges are those of the file
    with httpx.Client(timeout=_TIMEOUT, headers=headers) as client:
        download.run(client, address)
    return SourceObject(name=name, size=download.written, etag=(download.etag or "")[:128] or None)


class _RetryableError(Exception):
    """The server may answer another time; `pause` is what it asks for, in seconds."""

    def __init__(self, cause: str, pause: float | None = None) -> None:
        super().__init__(cause)
        self.pause = pause


class _Download:
    """A file that grows by several requests, if need be."""

    def __init__(self, what: str, file: Path, on_bytes: Callable[[int, int | None], None]) -> None:
        self._what = what
        self._file = file
        self._on_bytes = on_bytes
        self._validator: str | None = None  # of the state that is being read, for If-Range
        self._modified: str | None = None
        self._total: int | None = None
        self._last_bytes = 0.0  # when the last ones came, on the monotonic clock
        self.written = 0
        self.etag: str | None = None

    def run(self, client: httpx.Client, url: httpx.URL) -> None:
        """Ask for the file, or the rest of it, until it is complete."""
        since, pause = time.monotonic(), FIRST_PAUSE
        while True:
            started = time.monotonic()
            try:
                self._request(client, url)
                return
            except UnicodeError as error:  # an empty or too long part of a host, also of a redirect's
                raise UserError(
                    Reason.SOURCE_NOT_FOUND,
                    f"{self._what}: its host, or the one that it redirects to, cannot be a name of a server: correct the "
                    "address",
                ) from error
            except (httpx.TransportError, _RetryableError) as error:
                if self._last_bytes >= started:
                    since, pause = time.monotonic(), FIRST_PAUSE
                wanted = max(pause, getattr(error, "pause", None) or 0.0)
                waited = time.monotonic() - since
                if waited + wanted > RETRY_SECONDS:
                    raise Fault(
                        Reason.SOURCE_UNAVAILABLE,
                        f"{self._what}: the server could not be used for {waited:.0f} s ({_describe(error)})",
                    ) from error
            time.sleep(wanted)
            self._on_bytes(self.written, None)
            pause = min(2 * pause, _MAX_PAUSE)

    def _request(self, client: httpx.Client, url: httpx.URL) -> None:
        headers = {}
        if self.written and self._validator:
            headers = {"Range": f"bytes={self.written}-", "If-Range": self._validator}
        with self._open(client, url, headers) as response:
            total = self._start(response)
            with self._file.open("ab" if self.written else "wb") as target:
                for chunk in response.iter_raw():  # as they come: none is lost when the connection breaks
                    self.written += target.write(chunk)
                    self._last_bytes = time.monotonic()
                    self._on_bytes(self.written, total)
        if total is not None and self.written != total:
            raise _RetryableError(f"{self.written} of {total} bytes came")

    def _start(self, response: httpx.Response) -> int | None:
        """Take over what the response says of the file, and return the size of the whole file, where it is known."""
        part = _CONTENT_RANGE.fullmatch(response.headers.get("content-range", ""))
        is_part = response.status_code == httpx.codes.PARTIAL_CONTENT
        if is_part and part and int(part[1]) == self.written:
            total = self._total if part[2] == "*" else int(part[2])
            if self._is_unchanged(response) and self._total in (None, total):
                return total
        self.written = 0
        self._file.unlink(missing_ok=True)  # the space for the whole file is checked without it
        if is_part:
            raise _RetryableError("it answers with a part of another file, or with another part of it")
        self.etag, self._modified = response.headers.get("etag"), response.headers.get("last-modified")
        self._validator = self._modified if self.etag is None or self.etag.startswith("W/") else self.etag
        length = response.headers.get("content-length", "")
        self._total = int(length) if length.isascii() and length.isdigit() else None
        if self._total is not None:
            check_free_space(self._file.parent, self._total, self._what)
        return self._total

    def _is_unchanged(self, response: httpx.Response) -> bool:
        """Return whether a part is of the state that was read before: a server may know ranges, and no If-Range."""
        etag, modified = response.headers.get("etag"), response.headers.get("last-modified")
        if etag and self.etag:
            return bool(etag == self.etag)
        return None in (modified, self._modified) or modified == self._modified

    @contextmanager
    def _open(self, client: httpx.Client, url: httpx.URL, headers: dict[str, str]) -> Iterator[httpx.Response]:
        """Yield a successful response, that of the last of several redirects."""
        for redirects in range(_MAX_REDIRECTS + 1):
            with client.stream("GET", url, headers=headers) as response:
                if redirects:
                    self._check_peer(response)
                if response.next_request is None:
                    self._check_status(response)
                    yield response
                    return
                self._check_redirect(url, response.next_request.url)
                url = response.next_request.url
        raise UserError(Reason.SOURCE_DENIED, f"{self._what}: it redirects more than {_MAX_REDIRECTS} times")

    def _check_redirect(self, url: httpx.URL, target: httpx.URL) -> None:
        """Refuse a redirect that leads from https to http, or to a private address."""
        if target.scheme not in ("https", url.scheme):
            raise UserError(
                Reason.SOURCE_DENIED,
                f"{self._what}: it redirects to '{target.scheme}://{target.host}': https is needed",
            )
        for address in _resolve(target.host):
            self._check_address(address, target.host)

    def _check_peer(self, response: httpx.Response) -> None:
        """Check the address that a redirect was followed to: a name may have another one at each look-up."""
        stream = response.extensions.get("network_stream")
        peer = stream.get_extra_info("server_addr") if stream is not None else None
        if peer and not os.environ.keys() & _PROXY_VARIABLES:  # a proxy's own address may be private
            self._check_address(peer[0], response.url.host)

    def _check_address(self, address: str, host: str) -> None:
        if os.environ.get(ENV_ALLOW_PRIVATE_REDIRECTS) != "true" and not ipaddress.ip_address(address).is_global:
            raise UserError(
                Reason.SOURCE_DENIED,
                f"{self._what}: it redirects to '{host}', a private address, which an admin may allow: name that address "
                "itself",
            )

    def _check_status(self, response: httpx.Response) -> None:
        status = response.status_code
        if status in (httpx.codes.OK, httpx.codes.PARTIAL_CONTENT):
            return
        if status == httpx.codes.REQUESTED_RANGE_NOT_SATISFIABLE:
            self.written = 0
            raise _RetryableError("the file was changed while it was read")
        if status in _RETRIED_STATUS:
            pause = parse_retry_after(response.headers.get("retry-after", ""))
            wish = f" and asks for a pause of {pause:.0f} s" if pause else ""
            raise _RetryableError(f"it answers {status}{wish}", pause)
        raise self._refuse(status)

    def _refuse(self, status: int) -> TrainerError:
        if status in (httpx.codes.NOT_FOUND, httpx.codes.GONE):
            return UserError(
                Reason.SOURCE_NOT_FOUND, f"{self._what}: there is no such file, the server answers {status}"
            )
        return UserError(
            Reason.SOURCE_DENIED,
            f"{self._what}: the server answers {status}: the address must be open to all, or carry a signature that is "
            "still valid",
        )


def _resolve(host: str) -> set[str]:
    """Return the addresses of a host; none when its name is known to the proxy alone, or to nobody."""
    try:
        return {str(entry[4][0]).partition("%")[0] for entry in socket.getaddrinfo(host, None)}
    except (OSError, UnicodeError):
        return set()


def _describe(error: Exception) -> str:
    """Return the cause of a failed request, without its URL."""
    if isinstance(error, _RetryableError):
        return str(error)
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    text = str(error)
    if "CERTIFICATE_VERIFY_FAILED" in text:
        return "its certificate is not trusted: SSL_CERT_FILE names the file with the certificate of its CA"
    return "the connection broke" if "://" in text or not text else text
