"""Where the trained model of a task is, and what a helper pod needs to read it."""

from dataclasses import dataclass, field
from pathlib import PurePosixPath

from pydantic import TypeAdapter, ValidationError

from trainingtask_api import names
from trainingtask_api.fields import RelativePath
from trainingtask_api.nested import get_path
from trainingtask_cli.cluster import Cluster
from trainingtask_cli.describe import describe_condition
from trainingtask_cli.errors import CommandError, NotFoundError, UsageError
from trainingtask_cli.helper_pod import CLAIM_DIR, get_trainer
from trainingtask_cli.parsing import Object, get_spec, parse_status

_DEFAULT_MEMORY = "2Gi"  # as the chart's default for a trainer


@dataclass(frozen=True)
class SavedModel:
    """Where the trained model of a task is, and what a pod needs that uses it."""

    address: str
    """Its folder, as a helper pod mounts it, or its address in an object store or on a hub."""
    claim: str | None
    image: str | None
    """The task's own."""
    memory: str
    code: str | None
    """The ConfigMap with the code of a model of the user's own."""
    template: Object = field(default_factory=dict)
    """The pod template of the task's Job, for access to the store."""


def find_model(cluster: Cluster, task: Object) -> SavedModel:
    """Return the model of a task.

    Raises
    ------
    CommandError
        When there is none, or no access to it.
    """
    name, spec, output = task["metadata"]["name"], get_spec(task), _get_output(task)
    image, code = spec.get("image"), get_path(spec, "code", "configMap")
    memory = str(get_path(spec, "resources", "memory") or _DEFAULT_MEMORY)
    if claim := output.get("volumeClaim"):
        folder = join_claim_path(output.get("subPath") or name, "spec.output.subPath")
        return SavedModel(folder, claim, image, memory, code)
    address = str(output.get("uri") or f"hf://{output.get('hub')}")
    try:
        job = cluster.get("jobs", _get_job_name(task))
    except NotFoundError as error:
        raise CommandError(
            f"{error}, whose access to {address} would be used: read it with rights of your own, as by"
            f" `trainingtask-trainer predict {address}` or `trainingtask-trainer download {address} FOLDER`"
        ) from None
    template = get_path(job, "spec", "template") or {}
    image = image or get_trainer(template).get("image")
    return SavedModel(address, None, image, memory, code, template)


def _get_job_name(task: Object) -> str:
    """Return the name of the task's Job, of a task on several nodes that of its JobSet's Job."""
    name = parse_status(task).job_name or str(task["metadata"]["name"])
    has_nodes = (get_path(get_spec(task), "resources", "nodes") or 1) > 1
    return f"{name}-{names.REPLICATED_JOB}-0" if has_nodes else name


def _get_output(task: Object) -> Object:
    """Return `spec.output` of a task that has trained its model.

    Raises
    ------
    CommandError
        When there is no model.
    """
    name, status = task["metadata"]["name"], parse_status(task)
    if status.finished_at is None:
        raise CommandError(f"{name} has no model yet. {describe_condition(task)} (kubectl trainingtask watch {name})")
    if not status.is_true("Complete"):
        raise CommandError(f"{name} has failed and left no model. {describe_condition(task)}")
    output = get_path(get_spec(task), "output")
    if not isinstance(output, dict) or not output:
        raise CommandError(
            f"{name} has no spec.output, so its model was deleted with its pod: train it again with a destination, such"
            " as output.volumeClaim"
        )
    return output


def join_claim_path(folder: str, field: str) -> str:
    """Return a folder of the claim, as a helper pod mounts it."""
    try:
        TypeAdapter(RelativePath).validate_python(folder)
    except ValidationError as error:
        raise UsageError(f"{field}: {folder!r} {error.errors()[0]['msg'].removeprefix('Value error, ')}") from None
    return str(PurePosixPath(CLAIM_DIR, folder))
