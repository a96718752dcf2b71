"""The work of both bare variants for a task: create its Job, write `Running` and its end into its status."""

import json
import os
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from support.kube_api import JOBS, MERGE_PATCH, TASKS, Api, ApiError

LABEL = "trainingtask.dev/task-uid"


class Work:
    """The requests of one variant. The Job is the one that the operator itself would make, read from a file."""

    def __init__(self) -> None:
        self.api = Api(os.environ["KUBECONFIG"])
        self._template = Path(os.environ["BENCH_JOB"]).read_text()
        self._states: dict[str, str] = {}  # uid of the task -> the state that was written last

    async def __aenter__(self) -> "Work":
        await self.api.__aenter__()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.api.__aexit__()

    async def create_job(self, task: Mapping[str, Any]) -> None:
        metadata = task["metadata"]
        if metadata["uid"] in self._states or "state" in (task.get("status") or {}):
            return
        text = self._template.replace("TASK-UID", metadata["uid"]).replace("TASK-NAME", metadata["name"])
        try:
            await self.api.request("POST", f"{JOBS}/namespaces/{metadata['namespace']}/jobs", json.loads(text))
        except ApiError as error:
            if error.status != 409:
                raise

    async def on_pod_event(self, pod: Mapping[str, Any]) -> None:
        if pod["status"].get("phase") == "Running":
            await self._write_state(pod, "Running")

    async def on_job_event(self, job: Mapping[str, Any], *, report_running: bool = False) -> None:
        status = job.get("status") or {}
        ended = {c["type"] for c in status.get("conditions") or [] if c["status"] == "True"}
        if "Complete" in ended:
            await self._write_state(job, "Succeeded")
        elif "Failed" in ended:
            await self._write_state(job, "Failed")
        elif report_running and status.get("ready"):
            await self._write_state(job, "Running")

    async def _write_state(self, child: Mapping[str, Any], state: str) -> None:
        labels, namespace = child["metadata"]["labels"], child["metadata"]["namespace"]
        if self._states.get(labels[LABEL]) in (state, "Succeeded", "Failed"):
            return
        self._states[labels[LABEL]] = state
        condition = {
            "type": "Complete" if state == "Succeeded" else state,
            "status": "True",
            "reason": "Bench",
            "message": state,
            "lastTransitionTime": datetime.now(UTC).isoformat(timespec="seconds"),
        }
        await self.api.request(
            "PATCH",
            f"{TASKS}/namespaces/{namespace}/trainingtasks/{labels['trainingtask.dev/task-name']}/status",
            {"status": {"state": state, "conditions": [condition]}},
            MERGE_PATCH,
        )
