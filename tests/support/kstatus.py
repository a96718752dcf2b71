"""The status of a custom resource by the rules of kstatus (sigs.k8s.io/cli-utils v0.37, pkg/kstatus/status), restated.

Flux waits for it, and so do kpt and other GitOps tools. A test cannot import the Go package.
"""

from typing import Any


def compute_kstatus(item: dict[str, Any]) -> tuple[str, str]:
    """Return Terminating, InProgress, Failed or Current, and the message.

    In this order, as `Compute` has it: deletion, generation, the conditions Reconciling and Stalled, the condition Ready.
    """
    metadata, status = item["metadata"], item.get("status") or {}
    if metadata.get("deletionTimestamp"):
        return "Terminating", "Resource scheduled for deletion"
    generation, observed = metadata.get("generation"), status.get("observedGeneration")
    if generation is not None and observed is not None and observed != generation:
        return "InProgress", f"generation is {generation}, but latest observed generation is {observed}"
    conditions = status.get("conditions") or []
    for condition in conditions:
        if (condition["type"], condition["status"]) == ("Reconciling", "True"):
            return "InProgress", condition["message"]
        if (condition["type"], condition["status"]) == ("Stalled", "True"):
            return "Failed", condition["message"]
    for condition in conditions:
        if condition["type"] == "Ready" and condition["status"] in ("False", "Unknown"):
            return "InProgress", condition["message"]
    return "Current", "Resource is current"
