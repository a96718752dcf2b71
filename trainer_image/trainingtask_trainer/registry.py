"""The data sets, preprocessors and models of an image: entry points, or a ``module:Class`` that a task names."""

import ast
import sys
from collections.abc import Sequence
from importlib import import_module
from importlib.machinery import ModuleSpec, PathFinder
from importlib.metadata import EntryPoint, entry_points
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

from trainingtask_api.reasons import Reason
from trainingtask_trainer.errors import Fault, UserError, describe_with_location

Kind = Literal["datasets", "preprocessors", "models"]
KINDS: tuple[Kind, ...] = ("datasets", "preprocessors", "models")

_code_folders: list[Path] = []  # appended to `sys.path`, and named in messages


def add_code_folder(folder: Path) -> None:
    """Make the modules in a folder available as ``module:Class``; installed modules of the same name take precedence."""
    if folder not in _code_folders:
        _code_folders.append(folder)
        sys.path.append(str(folder))


def list_entry_points(kind: Kind) -> dict[str, EntryPoint]:
    """Return the registered names of a kind, sorted, with the entry point behind each."""
    points = {point.name: point for point in entry_points(group=f"trainingtask.{kind}")}
    return dict(sorted(points.items()))


def read_summary(point: EntryPoint) -> str:
    """Return the first line of a class's docstring, read from its source without importing it; "" without one."""
    source = _find_source_file(point.module)
    for node in ast.parse(source.read_bytes()).body if source else ():
        if isinstance(node, ast.ClassDef) and node.name == point.attr:
            return (ast.get_docstring(node) or "").partition("\n")[0]
    return ""


def _find_source_file(module: str) -> Path | None:
    found = _find_module(module)
    return Path(found.origin) if found and found.origin and found.origin.endswith(".py") else None


def _find_module(module: str, path: Sequence[str] | None = None) -> ModuleSpec | None:
    """Find a module in the folders of `path` (default: `sys.path`) without importing it, None when it is not there."""
    parts = module.split(".")
    for depth in range(1, len(parts)):
        # Package by package: `importlib.util.find_spec` would import the packages.
        package = PathFinder.find_spec(".".join(parts[:depth]), path)
        if package is None or package.submodule_search_locations is None:
            return None
        path = package.submodule_search_locations
    return PathFinder.find_spec(module, path)


def check_name(kind: Kind, name: str) -> None:
    """Refuse a name that `load` would refuse, without importing the class of a registered name.

    Raises
    ------
    UserError
        As `load` does.
    """
    if ":" in name:
        load(kind, name)
    else:
        _get_entry_point(kind, name)


def load_for_saved_model(kind: Kind, name: str) -> Any:
    """Return the class that a saved model names: a registered one, or a ``module:Class`` of the code folders.

    The name comes from the model's author, who may be untrusted: any other module that could be imported, such as one
    of the standard library or of the working directory, is refused before it is.

    Raises
    ------
    UserError
        When the module stands in no code folder, or another one of its name comes first; else as `load` does.
    Fault
        As `load` does.
    """
    if ":" in name:
        _check_in_code_folders(kind, name)
    return load(kind, name)


def load(kind: Kind, name: str) -> Any:
    """Return the class behind a registered name, or behind ``module:Class``.

    Raises
    ------
    UserError
        When this image does not offer the name, the module cannot be imported or holds no such class, or the class
        lacks something that its kind must have.
    Fault
        When the class of a registered name cannot be imported: the image is incomplete.
    """
    if ":" in name:
        loaded = _import_class(kind, name)
    else:
        point = _get_entry_point(kind, name)
        try:
            loaded = point.load()
        except (ImportError, AttributeError) as error:
            raise Fault(
                Reason.BROKEN_IMAGE, f"{_get_field_path(kind)} '{name}' ({point.value}) cannot be loaded: {error}"
            ) from error
    if missing := _get_required_members(kind) - set(dir(loaded)):
        raise UserError(
            Reason.INVALID_CODE,
            f"{_get_field_path(kind)} '{name}' lacks {', '.join(sorted(missing))}, which each of the {kind} must have "
            f"(the protocol is in trainingtask_trainer.{kind}.base): add it to the class",
        )
    return loaded


def _check_in_code_folders(kind: Kind, name: str) -> None:
    """Refuse a ``module:Class`` whose import would not come from the code folders."""
    module = name.partition(":")[0]
    package = module.partition(".")[0]
    folders = [str(folder) for folder in _code_folders]
    own = PathFinder.find_spec(package, folders)
    if own is None or _find_module(module, folders) is None:
        where = (
            f"{' and '.join(folders)} has no module {module}{_describe_code_folders()}" if folders else "none is given"
        )
        raise UserError(
            Reason.UNKNOWN_NAME,
            f"{_get_field_path(kind)} '{name}' of the saved model is code, which is loaded from --code-dir and nowhere else; "
            f"{where}: pass --code-dir with the folder of the code, if you trust it",
        )
    imported = find_spec(package)
    if imported is None or _get_locations(imported) != _get_locations(own):
        raise UserError(
            Reason.INVALID_CODE,
            f"{_get_field_path(kind)} '{name}' of the saved model: an installed module {package} would be imported in the place of "
            "the one in --code-dir: rename yours, and train the model anew",
        )


def _get_locations(spec: ModuleSpec) -> tuple[str | None, list[str]]:
    return spec.origin, list(spec.submodule_search_locations or ())


def _get_field_path(kind: Kind) -> str:
    return f"{kind.removesuffix('s')}.name"


def _get_entry_point(kind: Kind, name: str) -> EntryPoint:
    known = list_entry_points(kind)
    if name not in known:
        raise UserError(
            Reason.UNKNOWN_NAME,
            f"{_get_field_path(kind)} '{name}' is not offered by this image, which knows {', '.join(known)}: use one of them, "
            "an image that adds the name (spec.image), or a class of your own as 'module:Class' (spec.code.configMap)",
        )
    classes = sorted({point.value for point in entry_points(group=f"trainingtask.{kind}", name=name)})
    if len(classes) > 1:
        raise UserError(
            Reason.UNKNOWN_NAME,
            f"{_get_field_path(kind)} '{name}' is registered for several classes in this image: name one of {', '.join(classes)}",
        )
    return known[name]


def _import_class(kind: Kind, name: str) -> type:
    """Return the class of a ``module:Class``."""
    module_name, _, class_name = name.partition(":")
    what = f"{_get_field_path(kind)} '{name}'"
    try:
        module = import_module(module_name)
    except ModuleNotFoundError as error:
        if f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(
                Reason.UNKNOWN_NAME,
                f"{what}: there is no module {error.name}{_describe_code_folders()}. Name the ConfigMap that holds {error.name}.py in "
                "spec.code.configMap (without a cluster, its folder as --code-dir), or an image with the module in spec.image",
            ) from error
        raise UserError(
            Reason.INVALID_CODE,
            f"{what}: {module_name} imports {error.name}, which this image does not have: name an image that has it in "
            "spec.image, or do without it",
        ) from error
    except Exception as error:  # the user's module may raise anything
        raise UserError(
            Reason.INVALID_CODE, f"{what}: {module_name} cannot be imported: {describe_with_location(error)}"
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type):
        own = (value for value in vars(module).values() if isinstance(value, type) and value.__module__ == module_name)
        there = ", ".join(sorted(value.__name__ for value in own)) or "none at all"
        raise UserError(
            Reason.UNKNOWN_NAME,
            f"{what}: {module_name} ({getattr(module, '__file__', None)}) has no class {class_name}; it has {there}",
        )
    return found


def _describe_code_folders() -> str:
    """Return the modules in the code folders, as part of a sentence."""
    modules = sorted(file.stem for folder in _code_folders for file in folder.glob("*.py"))
    return f"; the task's own code has {', '.join(modules)}" if modules else ""


def _get_required_members(kind: Kind) -> set[str]:
    """Return the names that a class of this kind must have."""
    protocol = getattr(import_module(f"trainingtask_trainer.{kind}.base"), kind.removesuffix("s").capitalize())
    return {name for name in (*vars(protocol), *protocol.__annotations__) if not name.startswith("_")}
