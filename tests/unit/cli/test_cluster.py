"""The client of the API server over real HTTP, through outages."""

import itertools
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml

from trainingtask_api import names
from trainingtask_cli.cluster import Cluster
from trainingtask_cli.errors import CommandError, TemporaryError
from trainingtask_cli.parsing import get_state


@pytest.fixture
def cluster(kubeconfig: Path) -> Cluster:
    return Cluster()


def event(kind: str, task: Any) -> Any:
    return {"type": kind, "object": task}


GONE = {"kind": "Status", "code": 410, "reason": "Expired", "message": "too old resource version"}


def states(tasks: dict[str, Any]) -> dict[str, str]:
    return {task["metadata"]["name"]: get_state(task) for task in tasks.values()}


def test_the_context_decides_namespace_and_token(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a"))
    server.add(make.task("b", namespace="team-b"))
    assert cluster.namespace == "team-a"
    assert [task["metadata"]["name"] for task in cluster.list_tasks()] == ["a"]
    assert {request.token for request in server.requests} == {"the-users-token"}
    assert cluster.get_token() == "the-users-token"
    assert Cluster(namespace="team-b").get_task("b")["metadata"]["namespace"] == "team-b"


def test_a_context_can_be_named_without_a_current_one(kubeconfig: Path, server: Any, make: SimpleNamespace) -> None:
    content = make.kubeconfig(server.url)
    content["contexts"].append({"name": "bare", "context": {"cluster": "here", "user": "nobody"}})
    content["users"].append({"name": "nobody", "user": {}})
    del content["current-context"]
    kubeconfig.write_text(yaml.safe_dump(content))
    bare = Cluster(context="bare")
    assert (bare.namespace, bare.get_token()) == ("default", None)
    with pytest.raises(CommandError, match=r"kubeconfig .* cannot be used"):
        Cluster()
    with pytest.raises(CommandError, match="elsewhere"):
        Cluster(context="elsewhere")


def test_kubeconfigs_are_merged_as_kubectl_merges_them(
    kubeconfig: Path, server: Any, make: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = make.kubeconfig(server.url)
    parts = {
        "one": {k: whole[k] for k in ("contexts", "users")},
        "two": {k: whole[k] for k in ("clusters", "current-context")},
    }
    for name, part in parts.items():
        (tmp_path / name).write_text(yaml.safe_dump({"apiVersion": "v1", "kind": "Config", **part}))
    monkeypatch.setenv("KUBECONFIG", f"{tmp_path / 'one'}:{tmp_path / 'two'}")
    assert Cluster().list_tasks() == []


def test_lists_are_paged_and_items_have_a_kind(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    server.page_size = 2
    made = [server.add(make.task(f"t{number}")) for number in range(5)]
    assert cluster.list_tasks() == made
    assert len(server.requests) == 3


def test_names_are_quoted_in_paths(cluster: Cluster, server: Any) -> None:
    with pytest.raises(CommandError, match="there is no TrainingTask"):
        cluster.get_task("../../pods/x?y")
    assert server.requests[-1].path.endswith("/trainingtasks/..%2F..%2Fpods%2Fx%3Fy")


def test_a_task_is_deleted_by_its_uid(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    cluster.delete_task(server.add(make.task("a")))
    assert server.get_bodies() == [{"preconditions": {"uid": "uid-team-a-a"}, "propagationPolicy": "Background"}]


def test_a_watch_yields_each_change(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a"))
    server.watches.put(
        [event("MODIFIED", make.task("a", "Running")), event("ADDED", make.task("b")), event("DELETED", make.task("a"))]
    )
    seen = [states(tasks) for tasks in itertools.islice(cluster.watch_tasks(pause=0), 4)]
    assert seen == [{"a": ""}, {"a": "Running"}, {"a": "Running", "b": ""}, {"b": ""}]


def test_a_new_list_finds_missed_changes(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a"))
    server.add(make.task("b"))
    followed = cluster.watch_tasks(pause=0)
    assert states(next(followed)) == {"a": "", "b": ""}
    del server.tasks["team-a", "b"]
    server.add(make.task("a", "Running"))
    server.watches.put([event("ERROR", GONE)])
    assert states(next(followed)) == {"a": "Running"}
    server.watches.put([])  # the API server ends a watch now and then
    assert states(next(followed)) == {"a": "Running"}


def test_a_short_outage_does_not_end_the_watch(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    server.add(make.task("a"))
    followed = cluster.watch_tasks(pause=0)
    next(followed)
    answers = iter([(503, "starting"), (429, "slowly"), None, None])
    server.respond = lambda method, path: next(answers)
    server.watches.put([event("MODIFIED", make.task("a", "Running"))])
    assert [states(next(followed)) for _ in range(2)] == [{"a": ""}, {"a": "Running"}]


def test_an_outage_before_the_first_list_raises(cluster: Cluster, server: Any) -> None:
    server.respond = lambda method, path: (503, "starting")
    with pytest.raises(TemporaryError, match="503: starting"):
        next(cluster.watch_tasks())


def test_a_forbidden_list_ends_the_watch(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    followed = cluster.watch_tasks(pause=0)
    next(followed)
    server.respond = lambda method, path: (403, make.status(403, "Forbidden", "not for you"))
    with pytest.raises(CommandError, match="not for you"):
        next(followed)


def test_the_newest_pod_is_that_of_the_latest_attempt(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    task = server.add(make.task("a"))
    for name, second, uid in (
        ("a-1", 1, task["metadata"]["uid"]),
        ("a-2", 9, task["metadata"]["uid"]),
        ("b-1", 10, "other"),
    ):
        labels = {"trainingtask.dev/task-uid": uid}
        server.pods.append(
            {"metadata": {"name": name, "labels": labels, "creationTimestamp": f"2026-05-04T10:00:{second:02d}Z"}}
        )
    newest = cluster.get_newest_pod(task)
    assert newest is not None
    assert newest["metadata"]["name"] == "a-2"
    assert cluster.get_newest_pod(make.task("c")) is None


def test_a_log_is_copied_unchanged(cluster: Cluster, server: Any) -> None:
    server.logs["a-1"] = b"\xff 1\n" * 100_000
    assert b"".join(cluster.stream_log("a-1")) == server.logs["a-1"]
    assert "follow=false" in server.requests[-1].path


def test_in_a_pod_the_service_account_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, content in (("namespace", "team-c"), ("token", "the-pods-token"), ("ca.crt", "a certificate")):
        (tmp_path / name).write_text(content)
    monkeypatch.setattr("trainingtask_cli.cluster._SERVICE_ACCOUNT_DIR", tmp_path)
    loader = "kubernetes.config.incluster_config"
    monkeypatch.setattr(f"{loader}.SERVICE_TOKEN_FILENAME", str(tmp_path / "token"))
    monkeypatch.setattr(f"{loader}.SERVICE_CERT_FILENAME", str(tmp_path / "ca.crt"))
    monkeypatch.setenv("KUBERNETES_SERVICE_HOST", "10.0.0.1")
    monkeypatch.setenv("KUBERNETES_SERVICE_PORT", "443")
    monkeypatch.setenv("KUBECONFIG", str(tmp_path / "none"))
    here = Cluster()
    assert (here.namespace, here.get_token()) == ("team-c", "the-pods-token")
    assert Cluster(namespace="team-d").namespace == "team-d"
    with pytest.raises(CommandError, match="there is no such file"):
        Cluster(context="another")


def test_of_several_nodes_the_pod_is_that_of_the_first(cluster: Cluster, server: Any, make: SimpleNamespace) -> None:
    task = server.add(make.task("a"))
    for name, second, restarts, index in (("a-0", 1, 1, 0), ("a-1", 9, 1, 1), ("a-0-before", 5, 0, 0)):
        metadata: dict[str, Any] = {"name": name, "creationTimestamp": f"2026-05-04T10:00:{second:02d}Z"}
        metadata["labels"] = {names.TASK_UID_LABEL: task["metadata"]["uid"]}
        metadata["annotations"] = {
            names.RESTART_COUNT_ANNOTATION: str(restarts),
            names.NODE_RANK_ANNOTATION: str(index),
        }
        server.pods.append({"metadata": metadata})
    newest = cluster.get_newest_pod(task)
    assert newest is not None
    assert newest["metadata"]["name"] == "a-0"
