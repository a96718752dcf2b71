"""The hub's answers, from a server of our own: what the real client makes of them is the point."""

import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from trainingtask_api.model import Model
from trainingtask_trainer.errors import Fault, UserError
from trainingtask_trainer.pretrained.checkpoint import fetch_checkpoint


class _Refusal(BaseHTTPRequestHandler):
    code = "RepoNotFound"
    status = 404

    def do_GET(self) -> None:
        self.send_response(self.status)
        self.send_header("X-Error-Code", self.code)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        pass


@pytest.fixture
def hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[type[_Refusal]]:
    import huggingface_hub.constants as constants
    import huggingface_hub.hf_api as hf_api

    handler = type("Handler", (_Refusal,), {})
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(constants, "ENDPOINT", address)
    monkeypatch.setattr(hf_api.api, "endpoint", address)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    yield handler
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize(
    ("status", "code", "sentence"),
    [
        (404, "RepoNotFound", "does not exist on the hub, or is private and HF_TOKEN is missing"),
        (403, "GatedRepo", "is gated: ask for access on the hub"),
        (403, "", "the hub refuses access, check the HF_TOKEN in spec.env"),
        (404, "RevisionNotFound", "the hub knows no such revision"),
    ],
)
def test_what_the_hub_refuses_is_a_mistake(
    hub: type[_Refusal], tmp_path: Path, status: int, code: str, sentence: str
) -> None:
    hub.status, hub.code = status, code
    with pytest.raises(UserError, match=f"checkpoint 'someone/model' at revision 'main'.*{sentence}") as caught:
        fetch_checkpoint(Model(name="bert", checkpoint="someone/model"), tmp_path)
    assert caught.value.reason == "ModelUnavailable"


def test_a_hub_in_trouble_is_a_fault(hub: type[_Refusal], tmp_path: Path) -> None:
    hub.status, hub.code = 500, ""
    with pytest.raises(Fault, match="the hub could not be reached for checkpoint 'someone/model'") as caught:
        fetch_checkpoint(Model(name="bert", checkpoint="someone/model"), tmp_path)
    assert caught.value.reason == "HubUnavailable"
