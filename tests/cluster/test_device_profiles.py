"""Device profiles that name a scheduler, spread trainers, or claim devices, as the API server and the scheduler take them."""

import json
import re
from collections.abc import Callable
from typing import Any

import yaml

from support import specs
from support.fake_nodes import PROFILES
from support.helm import ROOT
from support.kubectl import Kubectl, eventually

Apply = Callable[[str, dict[str, Any]], str]


def test_trainers_are_spread_as_their_profile_says(kubectl: Kubectl, task: Apply) -> None:
    task("zoned", specs.changed(specs.CLASSICAL, resources={"profile": "zoned"}))
    condition = eventually(
        "a reason", lambda: (c := kubectl.condition("zoned", "Running")).get("reason") == "Unschedulable" and c
    )
    assert "pod topology spread constraints (missing required label)" in condition["message"]


def test_a_profile_names_a_scheduler_and_claims_devices(kubectl: Kubectl, task: Apply) -> None:
    task("claimed", specs.changed(specs.TRANSFORMER, device="gpu", resources={"profile": "claimed"}))
    (pod,) = eventually("its pod", lambda: kubectl.pods("claimed"))
    profile = PROFILES["claimed"]
    assert pod["spec"]["schedulerName"] == profile["schedulerName"]
    assert pod["spec"]["resourceClaims"] == profile["resourceClaims"]
    resources = pod["spec"]["containers"][0]["resources"]
    assert resources["claims"] == [{"name": "gpu"}]
    assert not [name for name in resources["limits"] if "/" in name]


def test_the_guides_template_of_claims_is_accepted(kubectl: Kubectl) -> None:
    guide = (ROOT / "docs" / "how-to" / "train-on-gpus.md").read_text(encoding="utf-8")
    blocks = map(yaml.safe_load, re.findall(r"^```yaml\n(.*?)^```", guide, re.DOTALL | re.MULTILINE))
    (template,) = [block for block in blocks if block.get("kind") == "ResourceClaimTemplate"]
    template["metadata"]["namespace"] = kubectl.namespace
    kubectl("create", "--dry-run=server", "--validate=strict", "-f", "-", stdin=json.dumps(template))
