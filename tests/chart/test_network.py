"""The chart's NetworkPolicies: each pod accepts connections of its clients only.

The local cluster's network enforces no policies, so the rendered rules are evaluated on the labels of the rendered pods.
"""

from dataclasses import dataclass

import pytest

from support import specs
from support.helm import CHART, Manifest, helm, named, of_kind, render
from trainingtask_api import TrainingTask
from trainingtask_operator.controller.pod_builder import build_labels

SYSTEM, TEAM, OTHER = "ops", "team", "other"
OPTIONS = (f"--set=trainer.namespaces={{{TEAM}}}", "--set=web.enabled=true")
RELEASE = "tt-trainingtask-operator"


@dataclass(frozen=True)
class Pod:
    namespace: str
    labels: dict[str, str]
    ports: dict[str, int]


def get_pods(manifests: list[Manifest]) -> dict[str, Pod]:
    def of(kind: str, name: str) -> Pod:
        template = named(manifests, kind, name)["spec"]["template"]
        (container,) = template["spec"]["containers"]
        return Pod(SYSTEM, template["metadata"]["labels"], {p["name"]: p["containerPort"] for p in container["ports"]})

    task = specs.task("a", specs.CLASSICAL, TEAM)
    task["metadata"]["uid"] = "u"
    trainer = build_labels(TrainingTask.model_validate(task))
    member = {**trainer, "jobset.sigs.k8s.io/jobset-uid": "j"}  # as JobSet labels its pods
    return {
        "operator": of("Deployment", RELEASE),
        "web": of("Deployment", f"{RELEASE}-web"),
        "postgres": of("StatefulSet", f"{RELEASE}-postgres"),
        "trainer": Pod(TEAM, trainer, {}),
        "trainer of a group": Pod(TEAM, member, {}),
        "another of a group": Pod(TEAM, member, {}),
        "a group's labels elsewhere": Pod(OTHER, member, {}),
        "pod of another JobSet": Pod(TEAM, {"jobset.sigs.k8s.io/jobset-uid": "k"}, {}),
        "pod beside trainers": Pod(TEAM, {"app": "x"}, {}),
        "trainer's labels elsewhere": Pod(OTHER, trainer, {}),
        "operator's labels elsewhere": Pod(TEAM, of("Deployment", RELEASE).labels, {}),
        "pod beside the operator": Pod(SYSTEM, {"app": "x"}, {}),
    }


def is_selected(selector: Manifest | None, labels: dict[str, str]) -> bool:
    selector = selector or {}
    expressions = selector.get("matchExpressions", [])
    assert all(e["operator"] in ("In", "Exists") for e in expressions)
    return selector.get("matchLabels", {}).items() <= labels.items() and all(
        e["key"] in labels and (e["operator"] == "Exists" or labels[e["key"]] in e["values"]) for e in expressions
    )


def is_peer(peer: Manifest, pod: Pod, policy: Manifest) -> bool:
    if "namespaceSelector" in peer:
        is_in_namespace = is_selected(peer["namespaceSelector"], {"kubernetes.io/metadata.name": pod.namespace})
    else:
        is_in_namespace = pod.namespace == policy["metadata"]["namespace"]
    return is_in_namespace and is_selected(peer.get("podSelector"), pod.labels)


def can_connect(manifests: list[Manifest], source: Pod, target: Pod, port: int) -> bool:
    """Return whether the target accepts a connection: no policy selects it, or a rule allows port and peer."""
    policies = [
        policy
        for policy in of_kind(manifests, "NetworkPolicy")
        if policy["metadata"]["namespace"] == target.namespace
        and is_selected(policy["spec"]["podSelector"], target.labels)
        and "Ingress" in policy["spec"]["policyTypes"]
    ]
    return not policies or any(
        ("ports" not in rule or any(target.ports.get(p["port"]) == port for p in rule["ports"]))
        and ("from" not in rule or any(is_peer(peer, source, policy) for peer in rule["from"]))
        for policy in policies
        for rule in policy["spec"].get("ingress", [])
    )


ALL_PODS = {
    "operator",
    "web",
    "postgres",
    "trainer",
    "trainer of a group",
    "another of a group",
    "a group's labels elsewhere",
    "pod of another JobSet",
    "pod beside trainers",
    "trainer's labels elsewhere",
    "operator's labels elsewhere",
    "pod beside the operator",
}


@pytest.mark.parametrize(
    ("target", "port", "admitted"),
    [
        ("postgres", 5432, {"operator", "web", "trainer", "trainer of a group", "another of a group"}),
        ("postgres", 22, set()),
        ("web", 8000, ALL_PODS),
        ("web", 8080, set()),
        ("operator", 8080, ALL_PODS),
        ("operator", 8081, ALL_PODS),
        ("operator", 5432, set()),
        ("trainer", 8000, set()),
        ("trainer of a group", 29500, {"trainer of a group", "another of a group"}),
        ("pod beside trainers", 8000, ALL_PODS),  # not selected by the chart
    ],
)
def test_a_pod_accepts_connections_of_its_clients_only(target: str, port: int, admitted: set[str]) -> None:
    manifests = render(*OPTIONS)
    rendered = get_pods(manifests)
    assert {name for name, pod in rendered.items() if can_connect(manifests, pod, rendered[target], port)} == admitted


def test_the_web_app_can_be_limited_to_given_peers() -> None:
    manifests = render(*OPTIONS, f'--set-json=networkPolicy.webFrom=[{{"namespaceSelector":{{"matchLabels":{{"kubernetes.io/metadata.name":"{OTHER}"}}}}}}]')  # fmt: skip
    rendered = get_pods(manifests)
    assert {name for name, pod in rendered.items() if can_connect(manifests, pod, rendered["web"], 8000)} == {
        "trainer's labels elsewhere",
        "a group's labels elsewhere",
    }


def test_the_database_has_no_egress() -> None:
    spec = named(render(*OPTIONS), "NetworkPolicy", f"{RELEASE}-postgres")["spec"]
    assert "Egress" in spec["policyTypes"]
    assert "egress" not in spec


def test_a_part_that_is_not_installed_has_no_policy() -> None:
    def names(*options: str) -> set[str]:
        return {policy["metadata"]["name"] for policy in of_kind(render(*options), "NetworkPolicy")}

    assert names("--set=history.mode=none") == {RELEASE, "trainingtask-trainer", "trainingtask-trainer-group"}
    assert names("--set=networkPolicy.enabled=false") == set()


def test_an_empty_peer_is_refused() -> None:
    done = helm("template", "tt", str(CHART), "--set-json=networkPolicy.webFrom=[{}]")
    assert "at '/networkPolicy/webFrom/0'" in done.stderr
