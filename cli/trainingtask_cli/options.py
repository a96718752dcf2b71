"""Options of several commands, named as kubectl names them."""

from enum import StrEnum
from typing import Annotated

import typer


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
Name = Annotated[str, typer.Argument(metavar="NAME", help="Name of a TrainingTask.", show_default=False)]
Names = Annotated[list[str], typer.Argument(metavar="NAME...", help="Names of TrainingTasks.", show_default=False)]
AnyNames = Annotated[
    list[str] | None,
    typer.Argument(metavar="[NAME...]", help="Names of TrainingTasks. Default: all.", show_default=False),
]
Image = Annotated[
    str | None, typer.Option("--image", help="Image of the helper pod. Default: the trainer's, as the chart names it.")
]
Timeout = Annotated[
    int, typer.Option("--timeout", metavar="SECONDS", min=1, help="How long to wait for the helper pod to start.")
]
