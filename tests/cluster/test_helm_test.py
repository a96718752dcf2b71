"""`helm test` of the installed release: it trains the quickstart, finds its row, and leaves its pod alone."""

from support.helm import helm
from support.kubectl import Kubectl
from support.release import RELEASE, SYSTEM


def test_helm_test_trains_and_leaves_only_the_row_and_its_pod(kubectl: Kubectl, system: Kubectl) -> None:
    done = helm("test", RELEASE, f"--namespace={SYSTEM}", "--logs", "--timeout=10m")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has succeeded" in done.stdout
    assert "its row in the history says Succeeded" in done.stdout
    assert f"{RELEASE}-test" not in kubectl(
        "get", "trainingtasks,roles,rolebindings", "--all-namespaces", "--output=name"
    )
    assert f"{RELEASE}-test" not in system("get", "serviceaccounts", "--output=name")
    assert system.get("pod", f"{RELEASE}-test")["status"]["phase"] == "Succeeded", (
        "for its log; the next test replaces it"
    )
