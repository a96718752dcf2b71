"""Flags and files -> a TrainingTask to create, validated by the models that the CRD is generated from. Pure."""

import copy
import re
from collections.abc import Collection, Mapping
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from trainingtask_api import TrainingTask, describe_errors, names
from trainingtask_api.fields import ObjectName
from trainingtask_cli.errors import CommandError, UsageError

Manifest = dict[str, Any]

_NAME_LENGTH = 63
# The metadata of users; the rest of an exported object is the API server's.
_USER_METADATA = ("name", "namespace", "labels", "annotations")
_RECOMMENDED_LABELS = "app.kubernetes.io/"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class _NamedObject(BaseModel):
    name: ObjectName


def read_manifest(text: str, where: str) -> Manifest:
    """Return the one TrainingTask of a YAML text."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise CommandError(f"{where} is no YAML: {' '.join(str(error).split())}") from None
    except ValueError as error:  # of a date such as 2026-02-30
        raise CommandError(f"{where} has a date or a number that is none ({error}): quote it, or correct it") from None
    kinds = [document.get("kind") if isinstance(document, dict) else None for document in documents]
    if kinds != [names.KIND]:
        found = ", ".join(str(kind) for kind in kinds) or "nothing"
        raise CommandError(
            f"{where} must hold one {names.KIND}, and holds: {found}. `kubectl apply -f` creates everything in a file"
        )
    manifest: Manifest = documents[0]
    return manifest


def build_manifest(
    base: Manifest | None,
    *,
    name: str | None = None,
    namespace: str | None = None,
    fields: Mapping[str, Any] | None = None,
    settings: Collection[str] = (),
) -> Manifest:
    """Return the manifest of a task, without defaults.

    Parameters
    ----------
    base
        Manifest of a file; flags and settings win over it.
    name, namespace
        Name and namespace of the flags.
    fields
        Values by their path in the spec; None is unset.
    settings
        Values of `--set`: ``training.seed=7``. The value is YAML; the field decides the type of a plain scalar.

    Raises
    ------
    UsageError
        When a setting is malformed, or no name is given.
    CommandError
        When the task is invalid.
    """
    manifest = base or {"apiVersion": names.API_VERSION, "kind": names.KIND}
    metadata = _build_metadata(manifest, name, namespace)
    spec = copy.deepcopy(manifest.get("spec")) or {}
    for path, value in (fields or {}).items():
        if value is not None:
            _set_path(spec, path, value)
    for setting in settings:
        path, equals, text = setting.partition("=")
        if not equals or not path.strip():
            raise UsageError(f"--set {setting!r}: expected path.to.field=value, such as training.seed=7")
        _set_path(spec, path.strip().removeprefix("spec."), _parse_value(text, setting))
    try:
        _NamedObject.model_validate({"name": metadata["name"]})
        task = TrainingTask.model_validate({**manifest, "metadata": metadata, "spec": spec, "status": None})
    except ValidationError as error:
        raise CommandError(f"no valid TrainingTask:\n{describe_errors(error)}") from None
    validated = task.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return {"apiVersion": task.api_version, "kind": task.kind, "metadata": metadata, "spec": validated}


def dump_manifest(manifest: Manifest) -> str:
    """Return the manifest as YAML."""
    text: str = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=10_000)
    return text


def build_retry(task: Mapping[str, Any], name: str) -> Manifest:
    """Return the manifest of the same task under another name; the history finds both by their labels."""
    metadata = {"name": name, "namespace": task["metadata"]["namespace"]}
    # The recommended labels name the release that an object belongs to; the new task belongs to none.
    labels = {k: v for k, v in task["metadata"].get("labels", {}).items() if not k.startswith(_RECOMMENDED_LABELS)}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": metadata | ({"labels": labels} if labels else {}),
        "spec": task["spec"],
    }


def find_free_name(name: str, taken: Collection[str]) -> str:
    """Return the first free name of `name-2`, `name-3`, …, cut to the length of a task's name."""
    numbered = re.fullmatch(r"(.+)-([1-9][0-9]?)", name)
    base, number = (numbered[1], int(numbered[2])) if numbered else (name, 1)
    while True:
        number += 1
        suffix = f"-{number}"
        candidate = base[: _NAME_LENGTH - len(suffix)].rstrip("-.") + suffix
        if candidate not in taken:
            return candidate


def _build_metadata(manifest: Manifest, name: str | None, namespace: str | None) -> Manifest:
    found = manifest.get("metadata") or {}
    if not isinstance(found, dict):
        raise CommandError("no valid TrainingTask:\nmetadata: expected a mapping with a name")
    metadata = {key: found[key] for key in _USER_METADATA if found.get(key)}
    if not isinstance(metadata.get("annotations", {}), dict):
        raise CommandError("no valid TrainingTask:\nmetadata.annotations: expected a mapping of names to texts")
    if "annotations" in metadata:
        metadata["annotations"] = {k: v for k, v in metadata["annotations"].items() if k != _LAST_APPLIED}
    if namespace and metadata.get("namespace", namespace) != namespace:
        raise UsageError(f"the file says namespace {metadata['namespace']!r}, and -n says {namespace!r}: which is it?")
    metadata |= {key: value for key, value in (("name", name), ("namespace", namespace)) if value}
    if "name" not in metadata:
        raise UsageError("a task needs a name: add --name")
    return metadata


def _set_path(spec: Any, path: str, value: Any) -> None:
    *parents, last = path.split(".")
    part = spec
    for parent in (*parents, None):
        if not isinstance(part, dict):
            raise UsageError(f"{path} cannot be set: {part!r} has no fields")
        if parent is not None:
            part = part.setdefault(parent, {})
    part[last] = value


def _parse_value(text: str, setting: str) -> Any:
    # Scalars stay text: the field decides whether '1e-5', 'true' or '2024-01-01' is a number, a boolean or a string.
    try:
        value = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - BaseLoader builds strings, lists and mappings alone
    except yaml.YAMLError:
        raise UsageError(f"--set {setting!r}: the value is no YAML, put quotes around it") from None
    return "" if value is None else value
