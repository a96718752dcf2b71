"""A bucket on this machine that tasks on the local cluster read from and write to, with keys from Secrets."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from support.kubectl import Kubectl
from support.object_store import Bucket
from support.release import STORE_SETTINGS
from support.s3_server import EXPIRED_KEY_ID, KEY_ID, SECRET, S3Server, serve_s3
from support.tiny_models import write_tiny_models

BUCKET = "team-data"
TICKETS = Path(__file__).parents[2] / "examples" / "data" / "tickets.csv"
KEYS = {"valid": KEY_ID, "unknown": "another-id", "expired": EXPIRED_KEY_ID}
COLUMNS = {"text": "body", "labels": "topics", "delimiter": "|"}
TABLE: dict[str, Any] = {"name": "table", "uri": f"s3://{BUCKET}/tickets.csv", "columns": COLUMNS}


@pytest.fixture(scope="module")
def store(kubectl: Kubectl, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[S3Server, Bucket]]:
    """Run an S3 server on this machine that holds a table and a checkpoint; give its keys and address to the namespace."""
    folder = write_tiny_models(tmp_path_factory.mktemp("checkpoints")) / "bert"
    with serve_s3(kubectl.get_node_address(), BUCKET) as (server, bucket):
        bucket.put({"tickets.csv": TICKETS.read_bytes()})
        bucket.put({f"bert/{file.name}": file.read_bytes() for file in folder.iterdir()})
        kubectl.apply(
            *(
                {
                    "apiVersion": "v1",
                    "kind": "Secret",
                    "metadata": {"name": f"{name}-keys"},
                    "stringData": {"id": key, "secret": SECRET},
                }
                for name, key in KEYS.items()
            ),
            {
                "apiVersion": "v1",
                "kind": "ConfigMap",
                "metadata": {"name": STORE_SETTINGS},
                "data": {"AWS_ENDPOINT_URL": server.url},
            },
        )
        yield server, bucket
        kubectl("delete", "configmap", STORE_SETTINGS)


def name_keys(keys: str = "valid") -> list[dict[str, Any]]:
    """Return the variables of a task with these keys."""
    return [
        {"name": variable, "secretKeyRef": {"name": f"{keys}-keys", "key": key}}
        for variable, key in (("AWS_ACCESS_KEY_ID", "id"), ("AWS_SECRET_ACCESS_KEY", "secret"))
    ]


def list_folder(bucket: Bucket, folder: str) -> set[str]:
    return {key.removeprefix(f"{folder}/") for key in bucket.read() if key.startswith(f"{folder}/")}
