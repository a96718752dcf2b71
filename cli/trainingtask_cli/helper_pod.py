"""A pod that mounts a volume claim for as long as a command needs it, and commands in it through `kubectl exec`."""

import secrets
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, BinaryIO, cast

from pydantic import BaseModel, ConfigDict
from pydantic.alias_generators import to_camel

from trainingtask_api import names
from trainingtask_api.nested import get_path
from trainingtask_cli import archive
from trainingtask_cli.api_errors import Request, build_response_error
from trainingtask_cli.cluster import Cluster
from trainingtask_cli.errors import CommandError, NotFoundError
from trainingtask_cli.output import print_note
from trainingtask_cli.parsing import Object

CLAIM_DIR = "/mnt/claim"
ARCHIVE_FILE = "/etc/trainingtask-cli/archive.py"

_CONTAINER = "helper"
_ARCHIVE_ANNOTATION = f"{names.GROUP}/archive"
_TRAINER_VARIABLES = ("TRAININGTASK_", "HOME", "HF_HOME")  # of an attempt, and folders that are not mounted
# Whatever the namespace's annotations hold: those are anyone's who may edit its ServiceAccounts.
_POD_SECURITY_CONTEXT = {"runAsNonRoot": True, "seccompProfile": {"type": "RuntimeDefault"}}
_CONTAINER_SECURITY_CONTEXT = {
    "allowPrivilegeEscalation": False,
    "readOnlyRootFilesystem": True,
    "capabilities": {"drop": ["ALL"]},
}
_DEADLINE_SECONDS = 4 * 3600  # after which a pod ends whose command was killed
_POLL_SECONDS = 1
# Causes that waiting does not remove.
_FINAL_CAUSES = ("ImagePullBackOff", "InvalidImageName", "ErrImageNeverPull", "CreateContainerConfigError")
_FORBIDDEN = "Error from server (Forbidden):"
_EXEC_NOTE = "command terminated with exit code"
_KILLED = 137


class PodUser(BaseModel):
    """User and groups of the trainers, which read and write the same claims; None leaves a field to the platform."""

    model_config = ConfigDict(alias_generator=to_camel, frozen=True)

    run_as_user: int | None = None
    run_as_group: int | None = None
    fs_group: int | None = None
    fs_group_change_policy: str | None = None


@dataclass(frozen=True)
class HelperPod:
    """What a helper pod runs as, and what it mounts."""

    purpose: str
    """Part of its name."""
    image: str
    user: PodUser
    claim: str | None = None
    is_read_only: bool = True
    code: str | None = None
    """A ConfigMap to mount as `names.CODE_DIR`."""
    memory: str = "512Mi"
    template: Object = field(default_factory=dict)
    """A trainer's pod template, whose access to stores and hubs it has."""

    def build_manifest(self) -> Object:
        """Return a pod that only waits, under the restricted Pod Security Standard."""
        volumes, mounts = self._build_volumes()
        trainer = get_trainer(self.template)
        environment = [entry for entry in trainer.get("env") or () if not entry["name"].startswith(_TRAINER_VARIABLES)]
        labels = get_path(self.template, "metadata", "labels") or {}
        return {
            "apiVersion": "v1",
            "kind": "Pod",
            "metadata": {
                "name": f"trainingtask-{self.purpose}-{secrets.token_hex(4)}",
                # Such as those by which a cloud gives an identity to pods; the pod is none of the task's.
                "labels": {key: value for key, value in labels.items() if not key.startswith(names.OWN_PREFIXES)}
                | {"app.kubernetes.io/managed-by": "kubectl-trainingtask"},
                "annotations": {_ARCHIVE_ANNOTATION: Path(archive.__file__).read_text(encoding="utf-8")},
            },
            "spec": {
                "restartPolicy": "Never",
                "activeDeadlineSeconds": _DEADLINE_SECONDS,
                "terminationGracePeriodSeconds": 1,  # `sleep` as process 1 ignores SIGTERM
                "serviceAccountName": names.TRAINER_SERVICE_ACCOUNT,
                "automountServiceAccountToken": False,
                "enableServiceLinks": False,
                "securityContext": _POD_SECURITY_CONTEXT | self.user.model_dump(by_alias=True, exclude_none=True),
                "containers": [
                    {
                        "name": _CONTAINER,
                        "image": self.image,
                        "command": ["sleep", "infinity"],
                        "workingDir": "/tmp",  # noqa: S108 - the only writable folder of a read-only root file system
                        "env": [*environment, {"name": "HOME", "value": "/tmp"}],  # noqa: S108
                        "envFrom": trainer.get("envFrom") or [],
                        "resources": {
                            "requests": {"cpu": "100m", "memory": self.memory},
                            "limits": {"cpu": "2", "memory": self.memory},
                        },
                        "volumeMounts": mounts,
                        "securityContext": _CONTAINER_SECURITY_CONTEXT,
                    }
                ],
                "volumes": volumes,
            },
        }

    def _build_volumes(self) -> tuple[list[Object], list[Object]]:
        """Return the pod's volumes and the container's mounts."""
        path = f"metadata.annotations['{_ARCHIVE_ANNOTATION}']"
        module = {"path": Path(ARCHIVE_FILE).name, "fieldRef": {"fieldPath": path}}
        volumes: list[Object] = [
            {"name": "archive", "downwardAPI": {"items": [module]}},
            {"name": "tmp", "emptyDir": {}},
        ]
        mounts: list[Object] = [
            {"name": "archive", "mountPath": str(Path(ARCHIVE_FILE).parent), "readOnly": True},
            {"name": "tmp", "mountPath": "/tmp"},  # noqa: S108
        ]
        if self.claim is not None:
            claim = {"claimName": self.claim, "readOnly": self.is_read_only}
            volumes.append({"name": "claim", "persistentVolumeClaim": claim})
            mounts.append({"name": "claim", "mountPath": CLAIM_DIR, "readOnly": self.is_read_only})
        if self.code is not None:
            volumes.append({"name": "code", "configMap": {"name": self.code}})
            mounts.append({"name": "code", "mountPath": names.CODE_DIR, "readOnly": True})
        trainer_volumes = {volume["name"]: volume for volume in get_path(self.template, "spec", "volumes") or ()}
        for mount in get_trainer(self.template).get("volumeMounts") or ():
            if mount["mountPath"] == names.CA_BUNDLE_DIR:
                volumes.append(trainer_volumes[mount["name"]])
                mounts.append(mount)
        return volumes, mounts


def get_trainer(template: Object) -> Object:
    """Return the trainer's container of a pod template, {} without one."""
    containers: list[Object] = get_path(template, "spec", "containers") or []
    return next((container for container in containers if container["name"] == names.TRAINER_CONTAINER), {})


@contextmanager
def run_helper_pod(cluster: Cluster, pod: HelperPod, timeout: float) -> Iterator["RunningPod"]:
    """Run a helper pod while the block runs; delete it at the end.

    Raises
    ------
    CommandError
        When the pod is refused, or does not start within `timeout` seconds; with the cause.
    """
    manifest = pod.build_manifest()
    name = manifest["metadata"]["name"]
    cluster.create("pods", manifest)
    try:
        print_note(f"starting pod {name}")
        _wait_until_running(cluster, name, timeout)
        yield RunningPod(cluster, name)
    finally:
        _delete(cluster, name)


def _wait_until_running(cluster: Cluster, name: str, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    told = ""
    while True:
        pod = cluster.get("pods", name)
        if is_running(pod):
            return
        if get_path(pod, "status", "phase") in ("Failed", "Succeeded"):
            why = get_path(pod, "status", "message") or get_path(pod, "status", "reason") or "no cause is known"
            raise CommandError(f"pod {name} has ended before it was used: {why}")
        event = _find_event(cluster, pod) if _get_container_statuses(pod) else None  # of its node, if it has one
        reason, message = find_waiting_cause(pod) or event or ("Pending", "no cause is known yet")
        cause = f"{reason}: {message}"
        if reason in _FINAL_CAUSES:
            raise CommandError(f"pod {name} cannot start. {cause}")
        if time.monotonic() > deadline:
            raise CommandError(
                f"pod {name} has not started within {timeout:.0f} s. {cause} (--timeout waits longer for the pod)"
            )
        if reason != "Pending" and cause != told:
            print_note(f"waiting for pod {name}: {cause}")
            told = cause
        time.sleep(_POLL_SECONDS)


def is_running(pod: Object) -> bool:
    """Return whether the helper's container runs."""
    return any(get_path(status, "state", "running") is not None for status in _get_container_statuses(pod))


def find_waiting_cause(pod: Object) -> tuple[str, str] | None:
    """Return reason and message of a pod that waits, None when its status has none."""
    for status in _get_container_statuses(pod):
        reason = get_path(status, "state", "waiting", "reason")
        if reason not in (None, "ContainerCreating", "PodInitializing"):
            return reason, get_path(status, "state", "waiting", "message") or "no message"
    for condition in get_path(pod, "status", "conditions") or ():
        if condition["type"] == "PodScheduled" and condition["status"] == "False":
            return condition.get("reason", "Unschedulable"), condition.get("message", "no message")
    return None


def _get_container_statuses(pod: Object) -> list[Object]:
    statuses: list[Object] = get_path(pod, "status", "containerStatuses") or []
    return [status for status in statuses if status["name"] == _CONTAINER]


def _find_event(cluster: Cluster, pod: Object) -> tuple[str, str] | None:
    """Return reason and message of the pod's newest warning, such as of a volume that another node uses."""
    events: list[Object] = []
    with suppress(CommandError):  # not everyone may read events
        events = [event for event in cluster.list_pod_events(pod) if event.get("type") == "Warning"]
    newest = max(events, key=lambda event: str(event.get("lastTimestamp")), default=None)
    return None if newest is None else (str(newest.get("reason")), str(newest.get("message")))


def _delete(cluster: Cluster, name: str) -> None:
    try:
        cluster.delete_pod(name)
    except NotFoundError:
        pass
    except CommandError as error:
        print_note(f"pod {name} is left, delete it (kubectl delete pod {name} -n {cluster.namespace}): {error}")


class RunningPod:
    """A helper pod in which commands can be run."""

    def __init__(self, cluster: Cluster, name: str) -> None:
        self._cluster, self._name = cluster, name

    @contextmanager
    def execute(self, *command: str) -> Iterator[tuple[BinaryIO, BinaryIO]]:
        """Run a command in the pod while the block writes to its standard input and reads its standard output.

        Raises
        ------
        CommandError
            When the command fails, with the last line of its standard error, or when it ends before the block.
        """
        line = self._cluster.build_kubectl_command(
            "exec", "-i", self._name, f"--container={_CONTAINER}", "--", *command
        )
        failure: Exception | None = None
        with tempfile.TemporaryFile() as errors, _start(line, errors) as process:
            stdin, stdout = cast("BinaryIO", process.stdin), cast("BinaryIO", process.stdout)
            try:
                yield stdin, stdout
                stdin.close()
            except (BrokenPipeError, archive.ArchiveError) as error:
                failure = error  # most often since the command has failed, which has the cause
            finally:
                # The command ends, after it has cleaned up, as it can read and write no more.
                stdout.close()
                with suppress(BrokenPipeError):
                    stdin.close()
            if process.wait():
                errors.seek(0)
                raise _build_exec_error(errors.read().decode("utf-8", "replace"), process.returncode)
        if failure is not None:
            raise CommandError(f"the transfer was cut off, repeat the command: {failure}")


def _start(line: Sequence[str], errors: IO[bytes]) -> subprocess.Popen[bytes]:
    try:
        return subprocess.Popen(line, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors)
    except FileNotFoundError:
        raise CommandError("kubectl is not on the PATH: this command needs it to reach into a pod") from None


def _build_exec_error(text: str, code: int) -> CommandError:
    """Return the error for a failed `kubectl exec`, from its standard error."""
    lines = [line for line in text.splitlines() if line.strip() and not line.startswith(_EXEC_NOTE)]
    last = lines[-1] if lines else f"the command in the pod ended with exit code {code}"
    if last.startswith(_FORBIDDEN):
        return build_response_error(Request("create", "pods/exec"), 403, last.removeprefix(_FORBIDDEN))
    if code == _KILLED:
        last += " (it was killed, as by Kubernetes when it needs more memory than it may have)"
    return CommandError(last)
