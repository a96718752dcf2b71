"""The rights that the chart grants, compared with those used by the audit log; runs after all other tests."""

from dataclasses import dataclass
from datetime import datetime
from typing import Any

import pytest
import yaml

from support import specs
from support.audit_log import get_used_right, is_allowed, read_audit_events
from support.helm import get_rights
from support.kubectl import Kubectl, eventually, run
from support.release import NAMESPACE, RELEASE, SYSTEM

OPERATOR = f"system:serviceaccount:{SYSTEM}:{RELEASE}"
WEB = f"{OPERATOR}-web"
TRAINER = ":trainingtask-trainer"
# Modules that use the rights; without them unused rights cannot be found.
USING_MODULES = {
    "test_faults",
    "test_groups",
    "test_life",
    "test_operations",
    "test_reasons",
    "test_sidecars",
    "test_web_access",
}
CLUSTER = "cluster"
# Granted but unused, or unused where they are granted -> why they stay.
UNUSED = {
    (OPERATOR, CLUSTER, "trainingtask.dev", "trainingtasks", "get"): (
        "a row may be of a namespace that is no longer prepared; all users may read tasks"
    ),
    (OPERATOR, CLUSTER, "batch", "jobs", "get"): "for a task whose namespace is no longer prepared; it may list them",
    (OPERATOR, CLUSTER, "jobset.x-k8s.io", "jobsets", "get"): "as of Jobs",
}


@dataclass(frozen=True)
class Use:
    """A request of an account, allowed or denied."""

    account: str
    namespace: str
    group: str
    resource: str
    verb: str
    allowed: bool
    code: int
    time: datetime


Grant = tuple[str, str, str, str, str]  # account, namespace or CLUSTER, group, resource, verb


@pytest.fixture(scope="module")
def uses(system: Kubectl, session_begin: datetime) -> list[Use]:
    """Return the requests of the chart's accounts since the session began."""
    return [use for use in map(_parse_use, read_audit_events(session_begin)) if use is not None]


def _parse_use(event: dict[str, Any]) -> Use | None:
    account, target = event["user"]["username"], event.get("objectRef")
    if target is None or not (account in (OPERATOR, WEB) or account.endswith(TRAINER)):
        return None
    group, resource, verb = get_used_right(event)
    namespace = "" if resource == "namespaces" else target.get("namespace", "")
    allowed = is_allowed(event)
    code = event.get("responseStatus", {}).get("code", 0)
    account = TRAINER if account.endswith(TRAINER) else account
    time = datetime.fromisoformat(event["requestReceivedTimestamp"])
    return Use(account, namespace, group, resource, verb, allowed, code, time)


@pytest.fixture(scope="module")
def granted(system: Kubectl) -> set[Grant]:
    """Return the rules of the installed release, one grant per account, resource and verb."""
    manifests = [item for item in yaml.safe_load_all(run("helm", "get", "manifest", RELEASE, f"-n{SYSTEM}")) if item]
    roles = {
        _role_key(item, item["kind"]): get_rights(item) for item in manifests if item["kind"] in ("Role", "ClusterRole")
    }
    found: set[Grant] = set()
    for binding in manifests:
        if binding["kind"] not in ("RoleBinding", "ClusterRoleBinding"):
            continue
        where = CLUSTER if binding["kind"] == "ClusterRoleBinding" else binding["metadata"]["namespace"]
        for subject in binding["subjects"]:
            name = f"system:serviceaccount:{subject['namespace']}:{subject['name']}"
            account = TRAINER if name.endswith(TRAINER) else name
            rights = roles[_role_key(binding, binding["roleRef"]["kind"], binding["roleRef"]["name"])]
            found |= {(account, where, *right) for right in rights}
    return found


def _role_key(item: dict[str, Any], kind: str, name: str = "") -> tuple[str, str, str]:
    return kind, item["metadata"].get("namespace", "") if kind == "Role" else "", name or item["metadata"]["name"]


def test_a_task_in_an_unprepared_namespace_is_not_accepted(system: Kubectl) -> None:
    elsewhere = Kubectl("trainingtask-elsewhere")
    elsewhere("create", "namespace", elsewhere.namespace)
    try:
        elsewhere.apply(specs.task("t", specs.CLASSICAL, elsewhere.namespace))
        refused = eventually("the task is refused", lambda: elsewhere.condition("t", "Accepted"))
        assert refused["reason"] == "NamespaceNotPrepared"
        assert eventually("its event", lambda: elsewhere.find("events"))[0]["reason"] == "NamespaceNotPrepared"
        assert elsewhere.jobs("t") == []
    finally:
        elsewhere("delete", "namespace", elsewhere.namespace, "--wait=false")


def test_no_request_of_the_charts_accounts_is_denied(uses: list[Use], release: datetime) -> None:
    assert uses
    # Earlier, the namespace of the last session is deleted, whose Roles may go before its tasks.
    denied = {use for use in uses if not use.allowed and use.time > release}
    assert denied == set()


def test_every_granted_right_is_used(uses: list[Use], granted: set[Grant], request: pytest.FixtureRequest) -> None:
    missing = USING_MODULES - {item.path.stem for item in request.session.items}
    if missing:
        pytest.skip(f"only the whole of tests/cluster uses all rights: without {', '.join(sorted(missing))}")
    prepared = {where for account, where, *_ in granted if account == TRAINER}
    unused = {grant for grant in granted if not any(_is_used_by(use, grant, prepared) for use in uses)}
    # Each prepared namespace has the same roles; the tests use those of one.
    unused = {grant for grant in unused if grant[1] not in prepared - {NAMESPACE}}
    assert unused == UNUSED.keys()


def _is_used_by(use: Use, grant: Grant, prepared: set[str]) -> bool:
    """Return whether the request needs this grant; a cluster-wide grant must be used outside of `prepared`."""
    account, where, *what = grant
    if [use.group, use.resource, use.verb] != what or use.account != account:
        return False
    return use.namespace not in prepared if where == CLUSTER else use.namespace == where
