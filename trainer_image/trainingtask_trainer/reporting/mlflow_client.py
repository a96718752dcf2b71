"""The few calls of MLflow's REST API that record a run."""

import base64
import os
import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Self, TypeVar
from urllib.parse import quote

import httpx
from pydantic import BaseModel, ValidationError

from trainingtask_api import names
from trainingtask_trainer.reporting.background import DeliveryError, PermanentDeliveryError
from trainingtask_trainer.reporting.mlflow_answers import (
    Accepted,
    CreatedRun,
    Error,
    Experiment,
    ExperimentId,
    FoundRuns,
    Run,
)
from trainingtask_trainer.reporting.scalars import Scalar

# Seconds to connect, and between two packets.
_TIMEOUT = httpx.Timeout(10.0, connect=3.0)
_MAX_ANSWER_BYTES = 4 << 20
_MAX_WORDS = 300
_TEMPORARY_STATUS = (408, 425, 429, 500, 502, 503, 504)
# Limits of the server for one request, and for the parts of it.
_MAX_METRICS, _MAX_PARAMS = 1000, 100
_MAX_KEY_LENGTH, _MAX_PARAM_LENGTH = 250, 6000
_ORIGIN = re.compile(r"https?://([^/?#@\s]{1,300})")

_Answer = TypeVar("_Answer", bound=BaseModel)


class RefusedError(PermanentDeliveryError):
    """The server refused a request; `code` is MLflow's name of the error."""

    def __init__(self, message: str, code: str = "") -> None:
        super().__init__(message)
        self.code = code


@dataclass(frozen=True)
class Credentials:
    """A token, or a user's name and password; '' for none."""

    token: str = field(default="", repr=False)
    username: str = ""
    password: str = field(default="", repr=False)

    @classmethod
    def from_environment(cls) -> Self:
        """Return those of MLflow's own variables; a Secret's value often ends in a newline."""
        variables = (names.ENV_MLFLOW_TOKEN, names.ENV_MLFLOW_USERNAME, names.ENV_MLFLOW_PASSWORD)
        return cls(*(os.environ.get(name, "").strip() for name in variables))

    def build_headers(self) -> dict[bytes, bytes]:
        """Return the header that authenticates a request."""
        if self.token:
            return {b"Authorization": f"Bearer {self.token}".encode()}
        return {b"Authorization": b"Basic " + self._encode()} if self.username else {}

    def redact(self, text: str) -> str:
        """Return a text without these credentials, which a server may repeat."""
        for secret in filter(None, (self.token, self.password, self.username and self._encode().decode())):
            text = text.replace(secret, "***")
        return text

    def _encode(self) -> bytes:
        return base64.b64encode(f"{self.username}:{self.password}".encode())


@dataclass(frozen=True)
class MLflowServer:
    """Address of a server, and what authenticates to it."""

    uri: str
    credentials: Credentials

    @property
    def host(self) -> str:
        """The host, with its port."""
        origin = _ORIGIN.match(self.uri)
        return origin[1] if origin else ""

    def build_run_url(self, experiment_id: str, run_id: str) -> str:
        """Return the page of a run."""
        return f"{self.uri.rstrip('/')}/#/experiments/{experiment_id}/runs/{run_id}"

    @contextmanager
    def connect(self) -> Iterator["MLflowClient"]:
        """Yield a client, which is closed at the end: none stays open between two reports."""
        try:
            # A redirect is not followed: it would take the credentials along.
            http = httpx.Client(
                base_url=f"{self.uri.rstrip('/')}/api/2.0/",
                headers={b"Accept-Encoding": b"identity", **self.credentials.build_headers()},
                timeout=_TIMEOUT,
                follow_redirects=False,
            )
        except (httpx.InvalidURL, OSError) as error:  # OSError: of the file that SSL_CERT_FILE names
            raise RefusedError(f"it cannot be asked ({type(error).__name__}: {error})") from error
        with http:
            yield MLflowClient(http, self.credentials)


class MLflowClient:
    """The calls; all raise `DeliveryError`, or `RefusedError` where another try is useless."""

    def __init__(self, http: httpx.Client, credentials: Credentials) -> None:
        self._http = http
        self._credentials = credentials

    def get_experiment(self, name: str) -> str:
        """Return the id of an experiment, which is created if it is not there."""
        try:
            answer = self._call("GET", "experiments/get-by-name", Experiment, params={"experiment_name": name})
        except RefusedError as error:
            if error.code != "RESOURCE_DOES_NOT_EXIST":
                raise
        else:
            return answer.experiment.experiment_id
        try:
            return self._post("experiments/create", {"name": name}, ExperimentId).experiment_id
        except RefusedError as error:
            if error.code == "RESOURCE_ALREADY_EXISTS":  # another task created it meanwhile
                raise DeliveryError(str(error)) from error
            raise

    def find_run(self, experiment_id: str, tag: str, value: str) -> Run | None:
        """Return the run with this value of a tag, None where there is none."""
        body = {"experiment_ids": [experiment_id], "filter": f"tags.`{tag}` = '{value}'", "max_results": 1}
        return next(iter(self._post("runs/search", body, FoundRuns).runs), None)

    def create_run(self, experiment_id: str, name: str, start_time: int, tags: Mapping[str, str]) -> Run:
        """Create a run; its start is in milliseconds since 1970."""
        body = {"experiment_id": experiment_id, "run_name": name, "start_time": start_time, "tags": _list_pairs(tags)}
        return self._post("runs/create", body, CreatedRun).run

    def update_run(self, run: Run, status: str, end_time: int | None = None) -> None:
        """Set the status of a run, and its end in milliseconds since 1970."""
        end = {} if end_time is None else {"end_time": end_time}
        self._post("runs/update", {"run_id": run.info.run_id, "status": status, **end}, Accepted)

    def log_metrics(self, run: Run, scalars: Sequence[Scalar], timestamp: int) -> None:
        """Record values, all with one time in milliseconds since 1970."""
        metrics = [{**scalar._asdict(), "key": scalar.name, "timestamp": timestamp} for scalar in scalars]
        for start in range(0, len(metrics), _MAX_METRICS):
            self._log_batch(run, metrics=metrics[start : start + _MAX_METRICS])

    def log_params(self, run: Run, params: Mapping[str, Any]) -> None:
        """Record parameters, but those that the run has: none can be changed."""
        known = {param.key for param in run.data.params}
        pairs = [
            {"key": key, "value": str(value)[:_MAX_PARAM_LENGTH]}
            for key, value in ((clean_key(key), value) for key, value in params.items())
            if key not in known
        ]
        for start in range(0, len(pairs), _MAX_PARAMS):
            self._log_batch(run, params=pairs[start : start + _MAX_PARAMS])

    def log_tags(self, run: Run, tags: Mapping[str, str]) -> None:
        """Set tags of a run."""
        self._log_batch(run, tags=_list_pairs(tags))

    def upload(self, path: str, content: bytes) -> None:
        """Write a file among the artifacts that the server stores itself."""
        self._request("PUT", f"mlflow-artifacts/artifacts/{quote(path)}", content=content)

    def _log_batch(self, run: Run, **entries: Any) -> None:
        self._post("runs/log-batch", {"run_id": run.info.run_id, **entries}, Accepted)

    def _post(self, path: str, body: Mapping[str, Any], kind: type[_Answer]) -> _Answer:
        return self._call("POST", path, kind, json=body)

    def _call(self, method: str, path: str, kind: type[_Answer], **options: Any) -> _Answer:
        body = self._request(method, f"mlflow/{path}", **options)
        try:
            return kind.model_validate_json(body)
        except ValidationError as error:
            raise RefusedError("its answer is not one of MLflow's") from error

    def _request(self, method: str, path: str, **options: Any) -> bytes:
        try:
            with self._http.stream(method, path, **options) as response:
                body = _read_body(response)
        except (httpx.HTTPError, UnicodeError) as error:  # UnicodeError: a host that cannot be a name
            raise DeliveryError(_describe(error)) from error
        if response.is_success:
            return body
        if response.has_redirect_location:
            origin = _ORIGIN.match(response.headers["location"])
            target = f"'{origin[0]}'" if origin else "another path"
            raise RefusedError(f"it redirects to {target}, which is not followed")
        code, text = _read_error(body)
        words = _shorten(self._credentials.redact(text))
        message = f"it answers {response.status_code}" + (f" ({words})" if words else "")
        if response.status_code in _TEMPORARY_STATUS:
            raise DeliveryError(message)
        raise RefusedError(message, code)


def clean_key(key: str) -> str:
    """Return a key of a metric or a parameter without characters that the server refuses."""
    return re.sub(r"[^\w\-. :]", "_", key)[:_MAX_KEY_LENGTH]


def _list_pairs(entries: Mapping[str, str]) -> list[dict[str, str]]:
    return [{"key": key, "value": value} for key, value in entries.items()]


def _read_body(response: httpx.Response) -> bytes:
    """Return the body of an answer.

    Raises
    ------
    RefusedError
        When it is longer than any of MLflow's, or compressed: a few bytes could fill the memory.
    """
    if response.headers.get("content-encoding", "identity") != "identity":
        raise RefusedError("its answer is compressed, which it was not asked for")
    body = bytearray()
    for chunk in response.iter_raw():
        body += chunk
        if len(body) > _MAX_ANSWER_BYTES:
            raise RefusedError(f"its answer is longer than {_MAX_ANSWER_BYTES >> 20} MiB")
    return bytes(body)


def _read_error(body: bytes) -> tuple[str, str]:
    """Return MLflow's code of an error, and what the server says."""
    try:
        error = Error.model_validate_json(body)
    except ValidationError:
        return "", body.decode(errors="replace")
    return error.error_code, ": ".join(filter(None, (error.error_code, error.message)))


def _shorten(text: str) -> str:
    """Return the beginning of a text on one line."""
    words = " ".join("".join(character if character.isprintable() else " " for character in text).split())
    return words if len(words) <= _MAX_WORDS else f"{words[: _MAX_WORDS - 3]}..."


def _describe(error: Exception) -> str:
    """Return the cause of a failed request; only those of a connection have a message without parts of the request."""
    if isinstance(error, httpx.TimeoutException):
        return "no answer in time"
    if isinstance(error, httpx.ConnectError) and "CERTIFICATE_VERIFY_FAILED" in str(error):
        return "its certificate is not trusted: SSL_CERT_FILE names the file with the certificate of its CA"
    return f"no connection ({error})" if isinstance(error, httpx.ConnectError) else type(error).__name__
