"""`helm test` of the installed release: it trains the quickstart, finds its row, and leaves its pod alone."""

from sqlalchemy import make_url

from support.helm import helm
from support.kubectl import Kubectl
from support.release import RELEASE, SYSTEM
from trainingtask_api import names


def test_helm_test_trains_and_leaves_only_the_row_and_its_pod(kubectl: Kubectl, system: Kubectl) -> None:
    done = helm("test", RELEASE, f"--namespace={SYSTEM}", "--logs", "--timeout=15m")
    assert done.returncode == 0, done.stdout + done.stderr
    assert "has succeeded" in done.stdout
    assert "its row in the history says Succeeded" in done.stdout
    assert f"{RELEASE}-test" not in kubectl(
        "get", "trainingtasks,roles,rolebindings", "--all-namespaces", "--output=name"
    )
    assert f"{RELEASE}-test" not in system("get", "serviceaccounts", "--output=name")
    pod = system.get("pod", f"{RELEASE}-test")
    assert pod["status"]["phase"] == "Succeeded", "for its log; the next test replaces it"
    variables = {variable["name"]: variable for variable in pod["spec"]["containers"][0]["env"]}
    assert make_url(variables[names.ENV_HISTORY_URL]["value"]).username == names.HISTORY_READER_ROLE
