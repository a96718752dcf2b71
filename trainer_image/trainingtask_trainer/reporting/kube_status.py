"""The sink to `status.training` of the task, by server-side apply: the only field that the trainer owns."""

from collections.abc import Callable
from importlib import import_module
from typing import Any

from trainingtask_api import names
from trainingtask_api.status import TrainingReport
from trainingtask_api.task import Metadata
from trainingtask_trainer.reporting.background import (
    MIN_STATUS_INTERVAL,
    BackgroundSink,
    DeliveryError,
    PermanentDeliveryError,
)

_FINAL_TIMEOUT = 60.0  # seconds
_REQUEST_TIMEOUT = (3.0, 5.0)  # seconds to connect, and to answer

Apply = Callable[[dict[str, Any]], None]


def create_status_sink(metadata: Metadata, apply: Apply | None = None) -> BackgroundSink:
    """Return the sink that reports to the task's status.

    Parameters
    ----------
    metadata
        Name, namespace and uid of the task.
    apply
        Sends a patch and raises `DeliveryError`; the default sends it to the API server of this pod's cluster.
    """
    lazy = apply or _LazyApply(metadata)
    return BackgroundSink(
        "the task's status",
        lambda report: lazy(build_patch(metadata, report)),
        interval=MIN_STATUS_INTERVAL,
        final_timeout=_FINAL_TIMEOUT,
    )


def build_patch(metadata: Metadata, report: TrainingReport) -> dict[str, Any]:
    """Return the server-side apply patch of a report.

    With the uid, the API server refuses it for a later task of the same name.
    """
    identity = {"name": metadata.name, "namespace": metadata.namespace}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": identity | ({"uid": metadata.uid} if metadata.uid else {}),
        "status": {"training": report.to_json()},
    }


class _LazyApply:
    """Creates the client on first use, in the sink's thread: importing it takes seconds."""

    def __init__(self, metadata: Metadata) -> None:
        self._metadata = metadata
        self._apply: Apply | None = None

    def __call__(self, body: dict[str, Any]) -> None:
        if self._apply is None:
            self._apply = _create_in_cluster_apply(self._metadata)
        self._apply(body)


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
    custom_objects = client.CustomObjectsApi(client.ApiClient(configuration))

    def apply(body: dict[str, Any]) -> None:
        try:
            custom_objects.patch_namespaced_custom_object_status(
                names.GROUP,
                names.VERSION,
                metadata.namespace,
                names.PLURAL,
                metadata.name,
                body,
                field_manager=names.TRAINER_FIELD_MANAGER,
                force=True,
                _content_type="application/apply-patch+yaml",
                _request_timeout=_REQUEST_TIMEOUT,
            )
        except client.ApiException as error:
            message = f"{error.status} {error.reason}: {_truncate_body(error.body)}"
            # All others may be temporary: 403 is, until the operator has stored which pod is the task's.
            if error.status == 404 or (error.status == 409 and "uid" in message.lower()):
                raise PermanentDeliveryError(message) from error
            raise DeliveryError(message) from error
        except (HTTPError, OSError) as error:
            raise DeliveryError(type(error).__name__) from error

    return apply


def _truncate_body(body: Any) -> str:
    return str(body or "")[:300]
