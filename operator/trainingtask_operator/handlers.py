"""The only file with kopf decorators: watch tasks, their Jobs and their pods, and put the task's key on the queue."""

from typing import Any

import kopf

from trainingtask_api import names
from trainingtask_operator.app import App

Key = tuple[str, str]


@kopf.on.startup(id="start")
async def start(settings: kopf.OperatorSettings, memo: kopf.Memo, **indexes: Any) -> None:
    """Configure kopf and start the workers over its indexes."""
    settings.posting.enabled = False  # log lines are not Events; events.py decides what is one
    settings.peering.standalone = True
    settings.process.ultimate_exiting_timeout = 20
    settings.watching.server_timeout = 300
    for kind in ("jobs", "pods"):
        settings.watching.label_selectors[kind] = names.TASK_UID_LABEL
    app: App = memo.app
    await app.start(indexes["tasks"], indexes["jobs"], indexes["pods"])


@kopf.on.login(id="login")
def login(**kwargs: Any) -> Any:
    """Use the pod's service account or a kubeconfig; kopf's other ways would load a second Kubernetes client."""
    return kopf.login_with_service_account(**kwargs) or kopf.login_with_kubeconfig(**kwargs)


@kopf.on.cleanup(id="stop")
async def stop(memo: kopf.Memo, **_: Any) -> None:
    """Stop the workers."""
    await memo.app.stop()


@kopf.on.probe(id="queue")
def queue_depth(memo: kopf.Memo, **_: Any) -> int:
    """Say on /healthz how many tasks wait for the reconciler."""
    return len(memo.app.queue)


def _kept(body: kopf.Body, *fields: str) -> dict[str, Any]:
    """Return the named fields and the part of the metadata that a reconcile reads."""
    metadata = {key: value for key, value in body["metadata"].items() if key not in ("managedFields", "annotations")}
    return {
        "apiVersion": body.get("apiVersion"),
        "kind": body.get("kind"),
        "metadata": metadata,
        **{f: body[f] for f in fields if f in body},
    }


def _task_uid(body: kopf.Body) -> str:
    return str(body["metadata"]["labels"][names.TASK_UID_LABEL])


@kopf.index(names.GROUP, names.VERSION, names.PLURAL, id="tasks")
def tasks(namespace: str | None, name: str, body: kopf.Body, **_: Any) -> dict[Key, dict[str, Any]]:
    """Index tasks by namespace and name."""
    return {(namespace or "", name): _kept(body, "spec", "status")}


@kopf.index("batch", "v1", "jobs", id="jobs", labels={names.TASK_UID_LABEL: kopf.PRESENT})
def jobs(body: kopf.Body, **_: Any) -> dict[str, dict[str, Any]]:
    """Index Jobs by the uid of their task."""
    job = _kept(body, "status")
    spec = body["spec"]
    job["spec"] = {field: spec[field] for field in ("suspend", "ttlSecondsAfterFinished") if field in spec}
    return {_task_uid(body): job}


@kopf.index("v1", "pods", id="pods", labels={names.TASK_UID_LABEL: kopf.PRESENT})
def pods(body: kopf.Body, **_: Any) -> dict[str, dict[str, Any]]:
    """Index pods by the uid of their task."""
    pod = _kept(body, "status")
    annotations = body["metadata"].get("annotations", {})
    counts = (names.FAILURE_COUNT_ANNOTATION, names.IGNORED_FAILURE_COUNT_ANNOTATION)
    pod["metadata"]["annotations"] = {name: annotations[name] for name in counts if name in annotations}
    containers = {container["name"]: container for container in body["spec"]["containers"]}
    container = containers.get(names.TRAINER_CONTAINER, {})  # an injected sidecar may come first
    limits = container.get("resources", {}).get("limits", {})
    pod["spec"] = {
        "nodeName": body["spec"].get("nodeName"),
        "image": container.get("image"),
        "memoryLimit": limits.get("memory"),
    }
    return {_task_uid(body): pod}


@kopf.on.event(names.GROUP, names.VERSION, names.PLURAL, id="task")
def task_changed(namespace: str | None, name: str, type: str, body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Look at a task that changed, and close the record of one that is gone."""
    if type == "DELETED":
        memo.app.deleted(body)
    memo.app.saw(body, (namespace or "", name))


@kopf.on.event("batch", "v1", "jobs", id="job", labels={names.TASK_UID_LABEL: kopf.PRESENT})
@kopf.on.event("v1", "pods", id="pod", labels={names.TASK_UID_LABEL: kopf.PRESENT})
def child_changed(namespace: str | None, body: kopf.Body, memo: kopf.Memo, **_: Any) -> None:
    """Look at the task whose Job or pod changed."""
    memo.app.saw(body, (namespace or "", body["metadata"]["labels"].get(names.TASK_NAME_LABEL, "")))
