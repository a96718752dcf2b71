"""Options of several commands, named as kubectl names them."""

from enum import StrEnum
from typing import Annotated

import typer


def _require_names(value: str | list[str] | None) -> str | list[str] | None:
    """Refuse empty names, as of an unset variable: the API server would take the request for one of all tasks."""
    if value == "" or (isinstance(value, list) and "" in value):
        raise typer.BadParameter("the name of a task cannot be empty")
    return value


class Format(StrEnum):
    """Output format of a reading command."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"
    CSV = "csv"


Namespace = Annotated[
    str | None,
    typer.Option("-n", "--namespace", help="Namespace of the tasks. Default: the kubeconfig context's."),
]
AllNamespaces = Annotated[bool, typer.Option("-A", "--all-namespaces", help="Tasks of all namespaces.")]
Context = Annotated[str | None, typer.Option("--context", help="Context of the kubeconfig. Default: its current one.")]
Kubeconfig = Annotated[
    str | None, typer.Option("--kubeconfig", help="Path of the kubeconfig. Default: KUBECONFIG, or ~/.kube/config.")
]
Output = Annotated[
    Format, typer.Option("-o", "--output", help="json and yaml show the objects as the API server has them.")
]
Name = Annotated[
    str, typer.Argument(metavar="NAME", help="Name of a TrainingTask.", show_default=False, callback=_require_names)
]
Names = Annotated[
    list[str],
    typer.Argument(metavar="NAME...", help="Names of TrainingTasks.", show_default=False, callback=_require_names),
]
AnyNames = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[NAME...]", help="Names of TrainingTasks. Default: all.", show_default=False, callback=_require_names
    ),
]
Image = Annotated[
    str | None, typer.Option("--image", help="Image of the helper pod. Default: the trainer's, as the chart names it.")
]
Timeout = Annotated[
    int, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long to wait for the helper pod to start.")
]
