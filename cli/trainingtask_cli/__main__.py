"""`kubectl trainingtask`: the commands and their options, which `commands` and `history` implement."""

# ruff: noqa: PLC0415 - a command imports its modules when it runs, so that `--help` is fast

from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from trainingtask_cli import options
from trainingtask_cli.errors import CommandError, UsageError
from trainingtask_cli.options import Format

_COMMON_OPTIONS = ("-n", "--namespace", "--context", "--kubeconfig")


class _Commands(TyperGroup):
    """Ends a failed command with one sentence and its exit code."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        # As with kubectl, common options may precede the command.
        before: list[str] = []
        while args and args[0].partition("=")[0] in _COMMON_OPTIONS:
            used = 1 if "=" in args[0] else 2
            before, args = before + args[:used], args[used:]
        return super().parse_args(ctx, args[:1] + before + args[1:])

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except (CommandError, UsageError) as error:
            from trainingtask_cli.formatting import format_cell

            typer.echo(f"error: {format_cell(str(error))}", err=True)
            raise typer.Exit(2 if isinstance(error, UsageError) else 1) from None


app = typer.Typer(
    cls=_Commands,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="Train text classifiers on Kubernetes: start TrainingTasks, watch them, compare what they score.",
)


@app.command("list")
def list_(
    *,
    namespace: options.Namespace = None,
    all_namespaces: options.AllNamespaces = False,
    output: options.Output = Format.TABLE,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """List tasks."""
    from trainingtask_cli import commands

    commands.list_tasks(commands.Cluster(kubeconfig, context, namespace), output, all_namespaces=all_namespaces)


@app.command()
def watch(
    names: options.AnyNames = None,
    *,
    namespace: options.Namespace = None,
    all_namespaces: options.AllNamespaces = False,
    output: options.Output = Format.TABLE,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Show how far tasks are, until all have ended; with names, exit code 1 where one has not succeeded."""
    from trainingtask_cli import commands

    commands.watch(commands.Cluster(kubeconfig, context, namespace), names or [], output, all_namespaces=all_namespaces)


@app.command()
def logs(
    name: options.Name,
    *,
    follow: Annotated[bool, typer.Option("-f", "--follow", help="Go on as the log grows.")] = False,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Print the log of a task's newest pod."""
    from trainingtask_cli import commands

    commands.logs(commands.Cluster(kubeconfig, context, namespace), name, follow=follow)


@app.command()
def describe(
    name: options.Name,
    *,
    namespace: options.Namespace = None,
    output: options.Output = Format.TABLE,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Say where a task stands and why, what it has been through, and what it scores."""
    from trainingtask_cli import commands

    commands.describe(commands.Cluster(kubeconfig, context, namespace), name, output)


@app.command()
def compare(
    names: options.Names,
    *,
    namespace: options.Namespace = None,
    output: options.Output = Format.TABLE,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Show what differs between up to 10 tasks, and their scores side by side."""
    from trainingtask_cli import commands

    commands.compare(commands.Cluster(kubeconfig, context, namespace), names, output)


@app.command()
def cancel(
    names: options.Names,
    *,
    yes: Annotated[bool, typer.Option("-y", "--yes", help="Do not ask.")] = False,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Delete tasks, with their Jobs and pods; the history keeps their record."""
    from trainingtask_cli import commands

    commands.cancel(commands.Cluster(kubeconfig, context, namespace), names, is_confirmed=yes)


@app.command()
def retry(
    name: options.Name,
    *,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Create a task with the same spec under a new name."""
    from trainingtask_cli import commands

    commands.retry(commands.Cluster(kubeconfig, context, namespace), name)


@app.command()
def submit(
    *,
    name: Annotated[str | None, typer.Option(help="Name of the task.")] = None,
    dataset: Annotated[str | None, typer.Option(help="dataset.name, such as support_tickets.")] = None,
    model: Annotated[str | None, typer.Option(help="model.name, such as distilbert.")] = None,
    checkpoint: Annotated[str | None, typer.Option(help="model.checkpoint.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu or gpu.")] = None,
    epochs: Annotated[int | None, typer.Option(help="training.epochs.")] = None,
    batch_size: Annotated[int | None, typer.Option(help="training.batchSize.")] = None,
    learning_rate: Annotated[float | None, typer.Option(help="training.learningRate.")] = None,
    settings: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="PATH=VALUE", help="Any field of the spec, such as training.seed=7; repeatable."),
    ] = None,
    file: Annotated[
        str | None,
        typer.Option("-f", "--file", help="A TrainingTask as YAML, - for standard input; flags win over it."),
    ] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the YAML and create nothing.")] = False,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Create a task from flags, from a file, or from both."""
    from trainingtask_cli import commands

    fields = {
        "dataset.name": dataset,
        "model.name": model,
        "model.checkpoint": checkpoint,
        "device": device,
        "training.epochs": epochs,
        "training.batchSize": batch_size,
        "training.learningRate": learning_rate,
    }
    commands.submit(
        lambda: commands.Cluster(kubeconfig, context, namespace),
        file,
        name=name,
        namespace=namespace,
        fields=fields,
        settings=settings or [],
        dry_run=dry_run,
    )


@app.command()
def upload(
    files: Annotated[
        list[Path], typer.Argument(metavar="FILE...", help="Files, and folders with all in them.", show_default=False)
    ],
    *,
    claim: Annotated[str, typer.Option(help="PersistentVolumeClaim to copy into.", show_default=False)],
    path: Annotated[str, typer.Option(metavar="FOLDER", help="Folder of the claim.")] = ".",
    create: Annotated[
        str | None, typer.Option(metavar="SIZE", help="Create the claim with this size, such as 5Gi, if there is none.")
    ] = None,
    image: options.Image = None,
    timeout: options.Timeout = 300,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Copy files into a volume claim, as data for tasks."""
    from trainingtask_cli import transfer

    cluster = transfer.Cluster(kubeconfig, context, namespace)
    transfer.upload(cluster, files, claim, transfer.PodOptions(image, timeout), folder=path, size=create)


@app.command()
def download(
    name: options.Name,
    *,
    to: Annotated[Path | None, typer.Option(metavar="FOLDER", help="The new folder. Default: the task's name.")] = None,
    force: Annotated[bool, typer.Option("--force", help="Replace a model that is there.")] = False,
    image: options.Image = None,
    timeout: options.Timeout = 300,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Copy the trained model of a task to this machine."""
    from trainingtask_cli import transfer

    cluster = transfer.Cluster(kubeconfig, context, namespace)
    transfer.download(cluster, name, to, transfer.PodOptions(image, timeout), is_forced=force)


@app.command()
def predict(
    name: options.Name,
    texts: Annotated[
        list[str] | None,
        typer.Argument(metavar="[TEXT...]", help="Texts. Default: each line of standard input.", show_default=False),
    ] = None,
    *,
    output: Annotated[
        Format, typer.Option("-o", "--output", help="json, yaml and csv have the probabilities unrounded.")
    ] = Format.TABLE,
    image: options.Image = None,
    timeout: options.Timeout = 300,
    namespace: options.Namespace = None,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Label texts with the trained model of a task."""
    from trainingtask_cli import transfer

    cluster = transfer.Cluster(kubeconfig, context, namespace)
    transfer.predict(cluster, name, texts or [], output, transfer.PodOptions(image, timeout))


@app.command()
def history(
    run: Annotated[str | None, typer.Argument(metavar="[RUN_ID]", help="Show one run.", show_default=False)] = None,
    *,
    state: Annotated[str | None, typer.Option(help="Such as Succeeded, Failed or Cancelled.")] = None,
    dataset: Annotated[str | None, typer.Option(help="Name of the data set.")] = None,
    model: Annotated[str | None, typer.Option(help="Name of the model.")] = None,
    label: Annotated[str | None, typer.Option(metavar="KEY=VALUE", help="A label of the task.")] = None,
    since: Annotated[str | None, typer.Option(help="A time, or an age such as 12h or 7d.")] = None,
    text: Annotated[str | None, typer.Option(help="Words of name, data set, model, reason or message.")] = None,
    limit: Annotated[int, typer.Option(min=1, help="How many runs, the newest first.")] = 50,
    server: Annotated[
        str | None, typer.Option(metavar="URL", help="The web app. Default: TRAININGTASK_SERVER.")
    ] = None,
    token: Annotated[
        str | None, typer.Option(help="Bearer token for it. Default: TRAININGTASK_TOKEN, or the kubeconfig's own.")
    ] = None,
    database: Annotated[
        str | None, typer.Option(metavar="URL", help="The database instead. Default: TRAININGTASK_HISTORY_URL.")
    ] = None,
    namespace: Annotated[str | None, typer.Option("-n", "--namespace", help="Default: all you may see.")] = None,
    output: options.Output = Format.TABLE,
    context: options.Context = None,
    kubeconfig: options.Kubeconfig = None,
) -> None:
    """Show the runs that are recorded, also of tasks that are gone."""
    from datetime import UTC, datetime

    from trainingtask_cli import history as runs

    filters = {
        "namespace": namespace,
        "state": state,
        "dataset": dataset,
        "model": model,
        "label": label,
        "since": runs.parse_since(since, datetime.now(UTC)),
        "text": text,
    }

    def get_kubeconfig_token() -> str | None:
        from trainingtask_cli.cluster import Cluster

        return Cluster(kubeconfig, context).get_token()

    runs.history(runs.open_source(server, database, token, get_kubeconfig_token), run, filters, limit, output)


def main() -> None:
    """Run the command line as a kubectl plugin."""
    app(prog_name="kubectl trainingtask")


if __name__ == "__main__":
    main()
