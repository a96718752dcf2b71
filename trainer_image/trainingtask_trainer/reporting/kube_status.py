"""The sink to `status.training` of the task, by server-side apply: the only field that the trainer owns."""

import re
import time
from collections.abc import Iterator
from concurrent.futures import Future
from importlib import import_module
from typing import Any, Protocol

from pydantic import ValidationError

from trainingtask_api import names
from trainingtask_api.scores import MAX_REPORTED_LABELS
from trainingtask_api.status import MAX_SOURCES, Source, TrainingReport
from trainingtask_api.task import Metadata
from trainingtask_trainer.reporting.background import (
    MIN_STATUS_INTERVAL,
    BackgroundSink,
    DeliveryError,
    PermanentDeliveryError,
)

_FINAL_TIMEOUT = 60.0  # seconds
_REQUEST_TIMEOUT = (3.0, 5.0)  # seconds to connect, and to answer

_READ_TIMEOUT = 60.0  # seconds; a report is refused as well until the operator has stored which pod is the task's
_READER = f"{names.TRAINER_FIELD_MANAGER}-reader"
_COMMIT = re.compile(r"[0-9a-f]{40}")

EarlierSources = Future[list[Source]]
"""What earlier attempts read from hubs, once the status has been read; DeliveryError when it cannot be."""


class Apply(Protocol):
    """Applies a patch to the task's status, or pretends to, and returns the task; raises `DeliveryError`."""

    def __call__(self, body: dict[str, Any], *, is_dry_run: bool = False) -> dict[str, Any]:
        """Apply the patch."""
        ...


def create_status_sink(
    metadata: Metadata, apply: Apply | None = None, earlier: EarlierSources | None = None
) -> BackgroundSink:
    """Return the sink that reports to the task's status.

    Parameters
    ----------
    metadata
        Name, namespace and uid of the task.
    apply
        The default sends patches to the API server of this pod's cluster.
    earlier
        Receives what earlier attempts read from hubs, before the first report replaces it.
    """
    return BackgroundSink(
        "the task's status",
        _Delivery(metadata, apply or _LazyApply(metadata), earlier or Future()),
        interval=MIN_STATUS_INTERVAL,
        final_timeout=_FINAL_TIMEOUT,
    )


class _Delivery:
    """Applies reports, with the commits of earlier attempts until this one reports its own."""

    def __init__(self, metadata: Metadata, apply: Apply, earlier: EarlierSources) -> None:
        self._metadata = metadata
        self._apply = apply
        self._earlier = earlier
        self._begin = time.monotonic()

    def __call__(self, report: TrainingReport) -> None:
        if not self._earlier.done():
            self._read_earlier(report)
        earlier = [] if self._earlier.exception() else self._earlier.result()
        own = report.sources or []
        fields = {source.field for source in own}
        sources = [*own, *(source for source in earlier if source.field not in fields)][:MAX_SOURCES]
        self._apply(build_patch(self._metadata, report.model_copy(update={"sources": sources or None})))

    def _read_earlier(self, report: TrainingReport) -> None:
        """Read the status by a dry run: a trainer may patch it and nothing else, and the answer holds the whole task."""
        least = TrainingReport(attempt=report.attempt, phase=report.phase)
        try:
            task = self._apply(build_patch(self._metadata, least), is_dry_run=True)
        except DeliveryError as error:
            is_permanent = isinstance(error, PermanentDeliveryError)
            if is_permanent or time.monotonic() - self._begin > _READ_TIMEOUT:
                self._earlier.set_exception(error)
            if is_permanent or not self._earlier.done():
                raise
        else:
            self._earlier.set_result(list(_iter_hub_sources(task)))


def _iter_hub_sources(task: dict[str, Any]) -> Iterator[Source]:
    """Yield the sources of a task's status that name a commit; they become parts of addresses."""
    training = (task.get("status") or {}).get("training") or {}
    for entry in training.get("sources") or ():
        try:
            source = Source.model_validate(entry)
        except ValidationError:
            continue
        if source.commit and _COMMIT.fullmatch(source.commit):
            yield source


def build_patch(metadata: Metadata, report: TrainingReport) -> dict[str, Any]:
    """Return the server-side apply patch of a report.

    With the uid, the API server refuses it for a later task of the same name.
    """
    identity = {"name": metadata.name, "namespace": metadata.namespace}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": identity | ({"uid": metadata.uid} if metadata.uid else {}),
        "status": {"training": shorten_report(report).to_json()},
    }


def shorten_report(report: TrainingReport) -> TrainingReport:
    """Return a report with as many labels' scores as the status holds."""
    results = report.results
    if results is None:
        return report
    evaluation = results.evaluation.keep_labels(MAX_REPORTED_LABELS)
    return report.model_copy(update={"results": results.model_copy(update={"evaluation": evaluation})})


class _LazyApply:
    """Creates the client on first use, in the sink's thread: importing it takes seconds."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._apply: Apply | None = None

    def __call__(self, body: dict[str, Any], *, is_dry_run: bool = False) -> dict[str, Any]:
        if self._apply is None:
            self._apply = _create_in_cluster_apply(self._metadata)
        return self._apply(body, is_dry_run=is_dry_run)


def _create_in_cluster_apply(metadata: Metadata) -> Apply:
    from kubernetes import client  # noqa: PLC0415

    config: Any = import_module("kubernetes.config")
    configuration = client.Configuration()
    try:
        config.load_incluster_config(client_configuration=configuration)
        return create_apply(configuration, metadata)
    except (config.ConfigException, OSError) as error:
        raise DeliveryError(str(error)) from error


def create_apply(configuration: Any, metadata: Metadata) -> Apply:
    """Return the function that applies a patch to the task's status at the API server of `configuration`."""
    from kubernetes import client  # noqa: PLC0415
    from urllib3.exceptions import HTTPError  # noqa: PLC0415

    configuration.retries = False  # the sink retries, with the newest report
    configuration.proxy = None  # the API server is in this cluster; a proxy of the environment is for the hub
    custom_objects = client.CustomObjectsApi(client.ApiClient(configuration))

    def apply(body: dict[str, Any], *, is_dry_run: bool = False) -> dict[str, Any]:
        # A manager of its own: fields that the trainer's manager applied and now leaves out would be removed.
        manager = _READER if is_dry_run else names.TRAINER_FIELD_MANAGER
        try:
            task: Any = custom_objects.patch_namespaced_custom_object_status(
                names.GROUP,
                names.VERSION,
                metadata.namespace,
                names.PLURAL,
                metadata.name,
                body,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=_REQUEST_TIMEOUT,
                field_manager=manager,
                dry_run="All" if is_dry_run else None,
            )
        except client.ApiException as error:
            message = f"{error.status} {error.reason}: {_truncate_body(error.body)}"
            # All others may be temporary: 403 is, until the operator has stored which pod is the task's.
            if error.status == 404 or (error.status == 409 and "uid" in message.lower()):
                raise PermanentDeliveryError(message) from error
            raise DeliveryError(message) from error
        except (HTTPError, OSError) as error:
            raise DeliveryError(type(error).__name__) from error
        return dict(task)

    return apply


def _truncate_body(body: Any) -> str:
    return str(body or "")[:300]
