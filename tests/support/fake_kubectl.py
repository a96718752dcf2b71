"""A kubectl that runs the commands of a helper pod on this machine, and a namespace in which such a pod may run."""

import json
import sys
from pathlib import Path
from typing import Any

from support.fake_api_server import FakeApiServer
from trainingtask_api import names
from trainingtask_cli import archive
from trainingtask_cli.helper_pod import ARCHIVE_FILE, CLAIM_DIR

_RUNNING = {"phase": "Running", "containerStatuses": [{"name": "helper", "state": {"running": {}}}]}

_PROGRAM = """#!{python}
import json, os, sys
from pathlib import Path
folder = Path({folder!r})
(folder / "arguments.json").write_text(json.dumps(sys.argv[1:]))
if (folder / "error").exists():
    code, _, message = (folder / "error").read_text().partition(" ")
    sys.stderr.write(message)
    sys.exit(int(code))
command = sys.argv[sys.argv.index("--") + 1:]
if command[2:5] == ["-m", "trainingtask_trainer", "download"]:
    assert command[6] == "/tmp/model"
elif command[2] == "-m":
    for line in sys.stdin.read().splitlines():
        labels = [] if line == "none" else [dict(label=label, probability=1 / len(label)) for label in line.split()]
        print(json.dumps(dict(text=line, labels=labels)))
else:
    places = {{{archive_file!r}: {archive!r}, "/tmp/model": str(folder / "claim" / "tickets")}}
    mapped = [places.get(part, part.replace({claim!r}, str(folder / "claim"))) for part in command]
    os.execv({python!r}, [{python!r}, "-I", *mapped[1:]])
"""


class FakeKubectl:
    """The program, in a folder of its own.

    Attributes
    ----------
    claim
        The folder that commands see as the claim.
    """

    def __init__(self, folder: Path) -> None:
        self.folder, self.claim = folder, folder / "claim"
        self.claim.mkdir(parents=True)
        program = folder / "kubectl"
        program.write_text(
            _PROGRAM.format(
                python=sys.executable,
                folder=str(folder),
                archive_file=ARCHIVE_FILE,
                archive=archive.__file__,
                claim=CLAIM_DIR,
            )
        )
        program.chmod(0o755)

    def fail(self, code: int, errors: str) -> None:
        """End each command with this exit code and standard error."""
        (self.folder / "error").write_text(f"{code} {errors}")

    @property
    def arguments(self) -> list[str]:
        """Those of the last call."""
        found: list[str] = json.loads((self.folder / "arguments.json").read_text())
        return found


def prepare_namespace(server: FakeApiServer) -> None:
    """Add the account and a claim 'data' to the namespace; pods run as they are created."""
    server.new_pod_status = _RUNNING
    annotations = {names.TRAINER_IMAGE_ANNOTATION: "registry/trainer:1"}
    server.objects["serviceaccounts", names.TRAINER_SERVICE_ACCOUNT] = {"metadata": {"annotations": annotations}}
    server.objects["persistentvolumeclaims", "data"] = {"metadata": {"name": "data"}}


def get_created_pods(server: FakeApiServer) -> list[dict[str, Any]]:
    """Return the pods that were created, oldest first."""
    return [body for body in server.get_bodies("/pods") if body.get("kind") == "Pod"]


def list_pods(server: FakeApiServer) -> list[str]:
    """Return the names of the pods that are there."""
    return [name for plural, name in server.objects if plural == "pods"]


def get_sentence(result: Any) -> str:
    """Return the sentence with which a command has failed."""
    assert result.exit_code == 1, result.stdout
    assert result.stdout == ""
    last: str = result.stderr.splitlines()[-1]
    return last.removeprefix("error: ")
