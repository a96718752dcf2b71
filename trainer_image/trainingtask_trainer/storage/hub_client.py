"""The HTTP client of huggingface_hub: it waits for a hub in trouble as long as the hub asks for, within a limit."""

import time
from http import HTTPStatus
from typing import Any

import httpx2
import huggingface_hub

from trainingtask_trainer.storage.retry_after import parse_retry_after

MAX_WAIT = 300.0
"""Seconds for which a request is repeated."""
_FIRST_PAUSE, _LONGEST_PAUSE = 1.0, 30.0
_TIMEOUT = 30.0  # for connecting and between two packets, where the library has none
_TEMPORARY = {HTTPStatus.REQUEST_TIMEOUT, HTTPStatus.TOO_MANY_REQUESTS, 500, 502, 503, 504}
_LOST = (httpx2.TimeoutException, httpx2.NetworkError, httpx2.RemoteProtocolError)


class HubSilentError(ConnectionError):
    """The hub gave no usable answer.

    Attributes
    ----------
    waited
        Seconds from the first try to the last.
    last
        The last answer, or the kind of the last error.
    """

    def __init__(self, waited: float, last: str) -> None:
        super().__init__(f"tried for {waited:.0f} s, the last answer: {last}")
        self.waited = waited
        self.last = last


class PatientClient(httpx2.Client):
    """Repeats requests that only read; the library's own retries wait for any length of time, or not at all."""

    _has_given_up = False  # then nothing is waited for again: the caller goes to the cache

    def send(self, request: httpx2.Request, **options: Any) -> httpx2.Response:
        """Return the answer to a request.

        Raises
        ------
        HubSilentError
            When the hub had no other than temporary errors for `MAX_WAIT` seconds.
        """
        timeout = request.extensions.get("timeout", {})
        request.extensions["timeout"] = {kind: limit or _TIMEOUT for kind, limit in timeout.items()}
        if request.method not in ("GET", "HEAD"):
            return super().send(request, **options)
        begin, pause = time.monotonic(), _FIRST_PAUSE
        while True:
            wait = pause
            try:
                response = super().send(request, **options)
            except _LOST as error:
                last = f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
            else:
                if response.status_code not in _TEMPORARY:
                    self._has_given_up = False  # the hub is back
                    return response
                response.close()
                last = f"HTTP {response.status_code}"
                wait = parse_retry_after(response.headers.get("Retry-After", "").strip()) or pause
            waited = time.monotonic() - begin
            if self._has_given_up or waited + wait > MAX_WAIT:
                self._has_given_up = True
                raise HubSilentError(waited, last)
            time.sleep(wait)
            pause = min(2 * pause, _LONGEST_PAUSE)


def install_client() -> None:
    """Have huggingface_hub, and with it `datasets`, send its requests by a `PatientClient`."""
    # Its telemetry asks for a list of known agents before all else, and in an outage would use up the waiting.
    huggingface_hub.constants.HF_HUB_DISABLE_TELEMETRY = True
    hooks = huggingface_hub.get_session().event_hooks
    huggingface_hub.set_client_factory(lambda: PatientClient(event_hooks=hooks, follow_redirects=True, timeout=None))
