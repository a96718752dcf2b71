"""An S3 server with a bucket, in this process."""

import logging
import os
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import boto3
import pytest
from moto.server import ThreadedMotoServer


@dataclass(frozen=True)
class Bucket:
    """A bucket of the server: its uri, and the client of another library to fill and to read it with."""

    name: str
    port: int
    client: Any

    @property
    def uri(self) -> str:
        """The bucket's address as a task has it."""
        return f"s3://{self.name}"

    @property
    def environment(self) -> dict[str, str]:
        """The variables that a task's pod has for it."""
        return get_environment(self.port)

    def put(self, objects: Mapping[str, bytes]) -> None:
        """Write objects."""
        for key, content in objects.items():
            self.client.put_object(Bucket=self.name, Key=key, Body=content)

    def read(self) -> dict[str, bytes]:
        """Return all objects."""
        listed = self.client.list_objects_v2(Bucket=self.name).get("Contents", ())
        return {
            entry["Key"]: self.client.get_object(Bucket=self.name, Key=entry["Key"])["Body"].read() for entry in listed
        }

    def empty(self) -> None:
        """Delete all objects."""
        for entry in self.client.list_objects_v2(Bucket=self.name).get("Contents", ()):
            self.client.delete_object(Bucket=self.name, Key=entry["Key"])


def get_environment(port: int) -> dict[str, str]:
    """Return the variables of an S3 server on this machine."""
    return {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "an-id",
        "AWS_SECRET_ACCESS_KEY": "a-secret",
        "AWS_REGION": "us-east-1",
    }


def clear_credentials(monkeypatch: pytest.MonkeyPatch) -> None:
    """Remove the variables of all stores from the environment."""
    for name in list(os.environ):
        if name.startswith(("AWS_", "GOOGLE_", "AZURE_")):
            monkeypatch.delenv(name)


@contextmanager
def serve_bucket(name: str = "a-bucket") -> Iterator[Bucket]:
    """Run an S3 server with one bucket."""
    logging.getLogger("werkzeug").setLevel(logging.ERROR)
    server = ThreadedMotoServer("127.0.0.1", port=0, verbose=False)
    server.start()
    _, port = server.get_host_and_port()
    client = boto3.client(
        "s3",
        endpoint_url=f"http://127.0.0.1:{port}",
        region_name="us-east-1",
        aws_access_key_id="an-id",
        aws_secret_access_key="a-secret",
    )
    try:
        client.create_bucket(Bucket=name)
        yield Bucket(name, port, client)
    finally:
        client.close()
        server.stop()
