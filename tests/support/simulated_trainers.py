"""kwok stages for the pods of `task_namespace`: each runs at once, and exits after 1 to 4 s as its image defines."""

import json
from pathlib import Path

from support.task_namespace import EXIT_CODES, FAILURE, RESULTS, WAITS

_NODE = """\
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: node-ready}
spec:
  resourceRef: {apiGroup: v1, kind: Node}
  selector:
    matchExpressions:
      - {key: '.status.conditions.[] | select( .type == "Ready" ) | .status', operator: NotIn, values: ["True"]}
  next:
    statusTemplate: |
      {{ $now := Now }}
      conditions:
      {{ range NodeConditions }}
      - {type: {{ .type | Quote }}, status: {{ .status | Quote }}, reason: {{ .reason | Quote }}, message: {{ .message | Quote }}, lastHeartbeatTime: {{ $now | Quote }}, lastTransitionTime: {{ $now | Quote }}}
      {{ end }}
      allocatable: {cpu: "1000", memory: 10Ti, pods: "1000"}
      capacity: {cpu: "1000", memory: 10Ti, pods: "1000"}
"""
_POD = """\
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: NAME}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
      - {key: .metadata.deletionTimestamp, operator: DELETED}
      - {key: .status.phase, operator: In, values: [FROM]}
MORE
  next:
    statusTemplate: |
      {{ $now := Now }}
      {{ $root := . }}
      {{ $failures := index .metadata.annotations "batch.kubernetes.io/job-index-failure-count" }}
      phase: PHASE
      startTime: STARTED
      containerStatuses:
      {{ range .spec.containers }}
      - {name: {{ .name | Quote }}, image: {{ .image | Quote }}, imageID: "", ready: READY, restartCount: 0, state: STATE}
      {{ end }}
"""
_DELETE = """\
---
apiVersion: kwok.x-k8s.io/v1alpha1
kind: Stage
metadata: {name: pod-delete}
spec:
  resourceRef: {apiGroup: v1, kind: Pod}
  selector:
    matchExpressions:
      - {key: .metadata.deletionTimestamp, operator: Exists}
      - {key: .status.phase, operator: In, values: [Failed, Succeeded]}
  next: {delete: true}
"""
_NOW, _BEGIN = "{{ $now | Quote }}", "{{ $root.status.startTime | Quote }}"


def write_stages(path: Path) -> Path:
    """Write kwok's configuration."""
    ends = [_build_exit_stage(image, code) for image, code in EXIT_CODES.items()]
    run = _build_pod_stage(
        "pod-run",
        "Pending",
        "Running",
        f"{{running: {{startedAt: {_NOW}}}}}",
        started=_NOW,
        ready="true",
        more="      - {key: '.spec.containers.[].image', operator: NotIn, values: ['" + WAITS + "']}",
    )
    stop = _build_pod_stage("pod-stop", "Pending, Running", "Failed", _build_terminated(143, ""), deleted="Exists")
    path.write_text("".join([_NODE, run, *ends, stop, _DELETE]))
    return path


def _build_exit_stage(image: str, code: int) -> str:
    more = (
        "      - {key: '.spec.containers.[].image', operator: In, values: ['" + image + "']}\n"
        "  delay: {durationMilliseconds: 1000, jitterDurationMilliseconds: 3000}"
    )
    report = {0: {"phase": "Done", "results": RESULTS}, 64: {"phase": "Failed", "failure": FAILURE}}.get(code)
    message = ""
    if report is not None:
        # The termination message: the attempt is one more than the failures that Kubernetes has counted.
        text = json.dumps({"attempt": 0, **report, "finishTime": "NOW"})
        attempt = '{{ if eq $failures "0" }}1{{ else if eq $failures "1" }}2{{ else }}3{{ end }}'
        message = text.replace('"attempt": 0', f'"attempt": {attempt}').replace("NOW", "{{ $now }}")
    phase = "Failed" if code else "Succeeded"
    return _build_pod_stage(image.replace(":", "-"), "Running", phase, _build_terminated(code, message), more=more)


def _build_terminated(code: int, message: str) -> str:
    field = f", message: '{message}'" if message else ""
    return f"{{terminated: {{exitCode: {code}, startedAt: {_BEGIN}, finishedAt: {_NOW}{field}}}}}"


def _build_pod_stage(
    name: str,
    before: str,
    phase: str,
    state: str,
    *,
    deleted: str = "DoesNotExist",
    more: str = "",
    started: str = _BEGIN,
    ready: str = "false",
) -> str:
    parts = {"NAME": name, "DELETED": deleted, "FROM": before, "MORE\n": more and f"{more}\n"}
    parts |= {"PHASE": phase, "STARTED": started, "READY": ready, "STATE": state}
    text = _POD
    for part, value in parts.items():
        text = text.replace(part, value, 1)
    return text
