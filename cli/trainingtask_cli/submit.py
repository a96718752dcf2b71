"""Flags and files -> a TrainingTask to create, checked by the models that the API server's schema is made from. Pure."""

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
# What a person may say of an object; the rest of an exported one is the API server's.
_OWN_METADATA = ("name", "namespace", "labels", "annotations")
_RECOMMENDED = "app.kubernetes.io/"
_LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"


class _NamedObject(BaseModel):
    name: ObjectName


def read_manifest(text: str, where: str) -> Manifest:
    """Return the one TrainingTask of a YAML text."""
    try:
        documents = [document for document in yaml.safe_load_all(text) if document is not None]
    except yaml.YAMLError as error:
        raise CommandError(f"{where} is no YAML: {' '.join(str(error).split())}") from None
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
    """Return the manifest of a task, with just the fields that somebody has set.

    Parameters
    ----------
    base
        What a file says; flags and settings win over it.
    name, namespace
        Of the task, where they are given by flags.
    fields
        Values by their path in the spec; None is not set.
    settings
        As `--set` gives them: ``training.seed=7``. The value is YAML; a plain word is what the field takes it for.

    Raises
    ------
    UsageError
        When a setting is none, or no name is given.
    CommandError
        When the task is not valid, in sentences.
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
    checked = task.spec.model_dump(mode="json", by_alias=True, exclude_unset=True, exclude_none=True)
    return {"apiVersion": task.api_version, "kind": task.kind, "metadata": metadata, "spec": checked}


def dump_manifest(manifest: Manifest) -> str:
    """Return the manifest as a person would write it."""
    text: str = yaml.safe_dump(manifest, sort_keys=False, allow_unicode=True, width=10_000)
    return text


def build_retry(task: Mapping[str, Any], name: str) -> Manifest:
    """Return the same task under another name, not created yet; its labels find both in the history."""
    metadata = {"name": name, "namespace": task["metadata"]["namespace"]}
    # The recommended labels say what an object is a part of, and by whose hand: that is not true of this one.
    labels = {k: v for k, v in task["metadata"].get("labels", {}).items() if not k.startswith(_RECOMMENDED)}
    return {
        "apiVersion": names.API_VERSION,
        "kind": names.KIND,
        "metadata": metadata | ({"labels": labels} if labels else {}),
        "spec": task["spec"],
    }


def next_name(name: str, taken: Collection[str]) -> str:
    """Return the first free name of the row `name`, `name-2`, `name-3`, …, cut to what a task's name may have."""
    counted = re.fullmatch(r"(.+)-([1-9][0-9]?)", name)
    base, number = (counted[1], int(counted[2])) if counted else (name, 1)
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
    metadata = {key: found[key] for key in _OWN_METADATA if found.get(key)}
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
    # Scalars stay text: the field knows whether '1e-5', 'true' or '2024-01-01' is a number, a word or a date.
    try:
        value = yaml.load(text, Loader=yaml.BaseLoader)  # noqa: S506 - it makes nothing but text, lists and mappings
    except yaml.YAMLError:
        raise UsageError(f"--set {setting!r}: the value is no YAML, put quotes around it") from None
    return "" if value is None else value
