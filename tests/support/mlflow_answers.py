"""An MLflow server that stores nothing."""

import json

from support.http_server import Answer, Request

_EXPERIMENT = {"experiment": {"experiment_id": "1"}}
_RUN = {"run": {"info": {"run_id": "r1", "artifact_uri": "mlflow-artifacts:/1/r1/artifacts"}}}


def answer_json(content: object, status: int = 200) -> Answer:
    return Answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})


def answer_as_mlflow(request: Request) -> Answer:
    """Answer as a server with one experiment, and without runs; each new one is called r1."""
    contents = {"get-by-name": _EXPERIMENT, "runs/create": _RUN}
    return answer_json(next((content for path, content in contents.items() if path in request.path), {}))
