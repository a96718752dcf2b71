"""`upload`, `download` and `predict`; a fake kubectl runs the commands of the pod on this machine."""

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from support.fake_kubectl import FakeKubectl, get_created_pods, get_sentence, list_pods
from trainingtask_api import names
from trainingtask_cli import archive
from trainingtask_cli.helper_pod import CLAIM_DIR

Cli = Callable[..., Any]


@pytest.fixture
def trained(server: Any, make: SimpleNamespace, kubectl: FakeKubectl) -> Path:
    """A task whose model is in the claim; return the model's folder."""
    server.add(make.task("tickets", "Succeeded", spec={"output": {"volumeClaim": "models"}}))
    model = kubectl.claim / "tickets"
    (model / "nested").mkdir(parents=True)
    (model / names.MODEL_MANIFEST_FILE).write_text("{}")
    (model / "nested" / "weights").write_bytes(os.urandom(3_000_000))
    return model


class TestUpload:
    def test_files_and_folders_arrive(self, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path) -> None:
        (tmp_path / "tickets.csv").write_text("body,topics\n")
        (tmp_path / "parts" / "deep").mkdir(parents=True)
        (tmp_path / "parts" / "deep" / "train.csv").write_text("a")
        result = cli("upload", "tickets.csv", "parts", "--claim=data", "--path=new/folder")
        assert result.exit_code == 0, result.stderr
        assert result.stdout.splitlines() == [
            "2 files (13 B) uploaded to volume claim data",
            "dataset: {volumeClaim: data, path: new/folder/tickets.csv}",
            "dataset: {volumeClaim: data, path: new/folder/parts}",
        ]
        assert (kubectl.claim / "new" / "folder" / "tickets.csv").read_text() == "body,topics\n"
        assert (kubectl.claim / "new" / "folder" / "parts" / "deep" / "train.csv").read_text() == "a"

    def test_the_pod_is_restricted_and_deleted(
        self, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path
    ) -> None:
        (tmp_path / "a.csv").write_text("a")
        assert cli("upload", "a.csv", "--claim=data").exit_code == 0
        [pod] = get_created_pods(server)
        spec, [container] = pod["spec"], pod["spec"]["containers"]
        assert pod["metadata"]["labels"] == {"app.kubernetes.io/managed-by": "kubectl-trainingtask"}
        assert (spec["automountServiceAccountToken"], spec["serviceAccountName"]) == (False, "trainingtask-trainer")
        assert spec["activeDeadlineSeconds"] > 0
        assert (spec["securityContext"]["runAsUser"], spec["securityContext"]["fsGroup"]) == (1000, 1000)
        assert container["image"] == "registry/trainer:1"
        assert container["securityContext"]["readOnlyRootFilesystem"]
        assert spec["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "data", "readOnly": False}
        assert pod["metadata"]["annotations"]["trainingtask.dev/archive"] == Path(archive.__file__).read_text()
        assert list_pods(server) == []
        assert kubectl.arguments[:4] == ["--namespace=team-a", "exec", "-i", pod["metadata"]["name"]]

    def test_the_pod_has_the_user_of_the_namespaces_trainers(
        self, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path
    ) -> None:
        (tmp_path / "a.csv").write_text("a")
        annotations = server.objects["serviceaccounts", "trainingtask-trainer"]["metadata"]["annotations"]
        annotations[names.TRAINER_USER_ANNOTATION] = '{"runAsUser": 1234, "privileged": true, "runAsNonRoot": false}'
        assert cli("upload", "a.csv", "--claim=data").exit_code == 0
        assert get_created_pods(server)[0]["spec"]["securityContext"] == {
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
            "runAsUser": 1234,
        }
        annotations[names.TRAINER_USER_ANNOTATION] = '{"runAsUser": "root"}'
        sentence = get_sentence(cli("upload", "a.csv", "--claim=data"))
        assert "annotation trainingtask.dev/trainer-user of the ServiceAccount trainingtask-trainer is no" in sentence

    def test_the_image_may_be_named(self, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path) -> None:
        (tmp_path / "a.csv").write_text("a")
        server.objects["serviceaccounts", "trainingtask-trainer"]["metadata"].clear()
        assert "name it with --image" in get_sentence(cli("upload", "a.csv", "--claim=data"))
        assert cli("upload", "a.csv", "--claim=data", "--image=mine").exit_code == 0
        assert get_created_pods(server)[0]["spec"]["containers"][0]["image"] == "mine"

    def test_an_unprepared_namespace_is_refused(
        self, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path
    ) -> None:
        (tmp_path / "a.csv").write_text("a")
        del server.objects["serviceaccounts", "trainingtask-trainer"]
        sentence = get_sentence(cli("upload", "a.csv", "--claim=data"))
        assert "namespace team-a is not prepared for trainers" in sentence
        assert get_created_pods(server) == []

    def test_a_missing_claim_is_created_on_request(
        self, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path
    ) -> None:
        (tmp_path / "a.csv").write_text("a")
        sentence = get_sentence(cli("upload", "a.csv", "--claim=new"))
        assert sentence.startswith('persistentvolumeclaims "new" not found in namespace team-a: add --create 5Gi')
        for _ in range(2):  # of an existing claim the size is left as it is
            assert cli("upload", "a.csv", "--claim=new", "--create=2Gi").exit_code == 0
        [created] = server.get_bodies("/persistentvolumeclaims")
        assert created["spec"] == {"accessModes": ["ReadWriteOnce"], "resources": {"requests": {"storage": "2Gi"}}}

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            (["nowhere.csv"], "nowhere.csv: No such file or directory"),
            (["empty"], "there are no files in these folders"),
            (["x/a.csv", "y/a.csv"], "two of the files have one name"),
            (["x/a.csv", "--path=../up"], "--path: '../up' must be a path relative to the root of the volume claim"),
        ],
    )
    def test_wrong_files_are_refused_before_a_pod_starts(
        self, arguments: list[str], sentence: str, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path
    ) -> None:
        for name in ("x", "y", "empty"):
            (tmp_path / name).mkdir()
        for name in ("x", "y"):
            (tmp_path / name / "a.csv").touch()
        result = cli("upload", *arguments, "--claim=data")
        assert result.exit_code in (1, 2)
        assert sentence in result.stderr
        assert get_created_pods(server) == []

    @pytest.mark.parametrize(
        ("code", "error", "sentence"),
        [
            (
                1,
                "a\n[Errno 28] No space left\x1b[31m on device\ncommand terminated with exit code 1\n",
                "No space left",
            ),
            (1, "Error from server (Forbidden): you cannot create pods/exec\n", "you cannot create pods/exec: ask who"),
            (137, "command terminated with exit code 137\n", "ended with exit code 137 (it was killed"),
        ],
    )
    def test_a_failure_in_the_pod_is_told(
        self, code: int, error: str, sentence: str, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path
    ) -> None:
        (tmp_path / "large.csv").write_bytes(bytes(3_000_000))
        kubectl.fail(code, error)
        told = get_sentence(cli("upload", "large.csv", "--claim=data"))
        assert sentence in told
        assert "\x1b" not in told
        assert list_pods(server) == []

    def test_a_file_that_vanishes_meanwhile_is_named(
        self, cli: Cli, server: Any, kubectl: FakeKubectl, tmp_path: Path
    ) -> None:
        (tmp_path / "parts").mkdir()
        (tmp_path / "parts" / "a.csv").write_bytes(bytes(3_000_000))
        last = tmp_path / "parts" / "b.csv"
        last.touch()
        server.respond = lambda method, path: last.unlink() if method == "POST" else None
        assert get_sentence(cli("upload", "parts", "--claim=data")) == f"{last}: No such file or directory"
        assert list(kubectl.claim.iterdir()) == []
        assert list_pods(server) == []

    def test_kubectl_is_needed(
        self, cli: Cli, kubectl: FakeKubectl, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "a.csv").write_text("a")
        monkeypatch.setenv("PATH", "/nowhere")
        assert get_sentence(cli("upload", "a.csv", "--claim=data")).startswith("kubectl is not on the PATH")


class TestDownload:
    def test_the_model_arrives_in_a_new_folder(self, cli: Cli, server: Any, trained: Path, tmp_path: Path) -> None:
        result = cli("download", "tickets")
        assert result.exit_code == 0, result.stderr
        assert result.stdout == f"2 files of tickets downloaded to {tmp_path / 'tickets'}\n"
        found = tmp_path / "tickets" / "nested" / "weights"
        assert found.read_bytes() == (trained / "nested" / "weights").read_bytes()
        [pod] = get_created_pods(server)
        assert pod["spec"]["volumes"][-1]["persistentVolumeClaim"] == {"claimName": "models", "readOnly": True}
        assert not [path for path in tmp_path.iterdir() if path.name.startswith(".")]

    def test_folders_above_the_new_one_are_created(self, cli: Cli, trained: Path, tmp_path: Path) -> None:
        assert cli("download", "tickets", "--to=models/of/today").exit_code == 0
        assert (tmp_path / "models" / "of" / "today" / "nested").is_dir()
        (tmp_path / "file").touch()
        assert get_sentence(cli("download", "tickets", "--to=file/model")).startswith(f"{tmp_path / 'file'}: ")

    def test_an_earlier_model_is_replaced_with_force_alone(self, cli: Cli, trained: Path, tmp_path: Path) -> None:
        assert cli("download", "tickets", "--to=model").exit_code == 0
        (tmp_path / "model" / "old").touch()
        assert "exists already: name another folder with --to" in get_sentence(cli("download", "tickets", "--to=model"))
        assert cli("download", "tickets", "--to=model", "--force").exit_code == 0
        assert {path.name for path in (tmp_path / "model").iterdir()} == {"nested", names.MODEL_MANIFEST_FILE}

    def test_force_replaces_nothing_but_a_model(self, cli: Cli, trained: Path, tmp_path: Path) -> None:
        (tmp_path / "work").mkdir()
        (tmp_path / "work" / "thesis.tex").touch()
        sentence = get_sentence(cli("download", "tickets", "--to=work", "--force"))
        assert "is no trained model, which --force replaces" in sentence
        assert (tmp_path / "work" / "thesis.tex").exists()

    def test_a_model_that_is_gone_leaves_no_folder(self, cli: Cli, trained: Path, tmp_path: Path) -> None:
        trained.rename(trained.with_name("moved"))
        assert "No such file or directory" in get_sentence(cli("download", "tickets"))
        assert not (tmp_path / "tickets").exists()

    def test_the_sub_path_is_followed(
        self, cli: Cli, server: Any, trained: Path, make: SimpleNamespace, tmp_path: Path
    ) -> None:
        trained.rename(trained.with_name("other"))
        output = {"volumeClaim": "models", "subPath": "other"}
        server.add(make.task("tickets", "Succeeded", spec={"output": output}))
        assert cli("download", "tickets").exit_code == 0
        assert (tmp_path / "tickets" / "nested").is_dir()


@pytest.fixture
def stored(server: Any, make: SimpleNamespace, trained: Path) -> Any:
    """A task whose model is in an object store; return its Job."""
    output = {"uri": "s3://bucket/tickets"}
    server.add(make.task("tickets", "Succeeded", spec={"output": output}, jobName="tickets-1"))
    container = {
        "name": "trainer",
        "image": "registry/trainer:7",
        "env": [
            {"name": "TRAININGTASK_HISTORY_URL", "value": "secret"},
            {"name": "HOME", "value": "/tmp"},
            {"name": "AWS_ENDPOINT_URL", "value": "http://store"},
        ],
        "envFrom": [{"secretRef": {"name": "store-keys", "optional": True}}],
        "volumeMounts": [
            {"name": "claim-0", "mountPath": "/mnt/dataset"},
            {"name": "ca-bundle", "mountPath": names.CA_BUNDLE_DIR, "readOnly": True},
        ],
    }
    volumes = [
        {"name": "claim-0", "persistentVolumeClaim": {}},
        {"name": "ca-bundle", "configMap": {"name": "authorities"}},
    ]
    labels = {"trainingtask.dev/task-uid": "uid", "batch.kubernetes.io/job-name": "tickets-1", "cloud/identity": "yes"}
    job = {
        "metadata": {"name": "tickets-1"},
        "spec": {"template": {"metadata": {"labels": labels}, "spec": {"containers": [container], "volumes": volumes}}},
    }
    server.objects["jobs", "tickets-1"] = job
    return job


class TestStored:
    """A model in an object store or on a hub is read with the access that its trainer had."""

    def test_it_is_downloaded_through_the_pod(self, cli: Cli, stored: Any, trained: Path, tmp_path: Path) -> None:
        result = cli("download", "tickets")
        assert result.exit_code == 0, result.stderr
        assert (tmp_path / "tickets" / "nested" / "weights").is_file()

    def test_it_predicts_where_it_is(self, cli: Cli, stored: Any, trained: Path, kubectl: FakeKubectl) -> None:
        assert cli("predict", "tickets", "a").exit_code == 0
        assert kubectl.arguments[-3:] == ["predict", "s3://bucket/tickets", "--json"]

    def test_the_pod_has_the_trainers_access_and_none_of_its_labels(self, cli: Cli, server: Any, stored: Any) -> None:
        assert cli("predict", "tickets", "a").exit_code == 0
        [pod] = get_created_pods(server)
        [container] = pod["spec"]["containers"]
        assert container["image"] == "registry/trainer:7"
        assert container["env"] == [
            {"name": "AWS_ENDPOINT_URL", "value": "http://store"},
            {"name": "HOME", "value": "/tmp"},
        ]
        assert container["envFrom"] == [{"secretRef": {"name": "store-keys", "optional": True}}]
        assert [volume["name"] for volume in pod["spec"]["volumes"]] == ["archive", "tmp", "ca-bundle"]
        assert {mount["name"] for mount in container["volumeMounts"]} == {"archive", "tmp", "ca-bundle"}
        labels = {"cloud/identity": "yes", "app.kubernetes.io/managed-by": "kubectl-trainingtask"}
        assert pod["metadata"]["labels"] == labels

    def test_of_several_nodes_the_jobsets_job_has_the_access(
        self, cli: Cli, server: Any, stored: Any, make: SimpleNamespace, trained: Path
    ) -> None:
        spec = {"output": {"uri": "s3://bucket/tickets"}, "resources": {"nodes": 2}}
        server.add(make.task("tickets", "Succeeded", spec=spec, jobName="tickets-1"))
        job = server.objects.pop(("jobs", "tickets-1"))
        job["spec"]["template"]["metadata"]["labels"]["jobset.sigs.k8s.io/jobset-name"] = "tickets-1"
        server.objects["jobs", "tickets-1-trainer-0"] = job
        assert cli("predict", "tickets", "a").exit_code == 0
        [pod] = get_created_pods(server)
        assert pod["metadata"]["labels"].keys() == {"cloud/identity", "app.kubernetes.io/managed-by"}

    def test_a_hub_has_an_address_too(
        self, cli: Cli, server: Any, stored: Any, make: SimpleNamespace, trained: Path, kubectl: FakeKubectl
    ) -> None:
        server.add(make.task("tickets", "Succeeded", spec={"output": {"hub": "me/tickets"}}, jobName="tickets-1"))
        assert cli("predict", "tickets", "a").exit_code == 0
        assert kubectl.arguments[-2] == "hf://me/tickets"

    @pytest.mark.parametrize("command", [["download", "tickets"], ["predict", "tickets", "a text"]], ids=["get", "ask"])
    def test_without_the_job_there_is_no_access(self, command: list[str], cli: Cli, server: Any, stored: Any) -> None:
        del server.objects["jobs", "tickets-1"]
        sentence = get_sentence(cli(*command))
        assert sentence.startswith('jobs "tickets-1" not found, whose access to s3://bucket/tickets would be used')
        assert get_created_pods(server) == []


@pytest.mark.parametrize("command", [["download", "tickets"], ["predict", "tickets", "a text"]], ids=["get", "ask"])
@pytest.mark.parametrize(
    ("state", "output", "sentence"),
    [
        ("", {"volumeClaim": "m"}, "tickets has no model yet. The operator has not looked at it yet"),
        ("Running", {"volumeClaim": "m"}, "tickets has no model yet. Running: tickets is Running. (kubectl training"),
        ("Failed", {"volumeClaim": "m"}, "tickets has failed and left no model. Failed: tickets is Failed."),
        ("Succeeded", None, "tickets has no spec.output, so its model was deleted with its pod"),
    ],
)
def test_a_task_without_a_model_is_explained(
    command: list[str],
    state: str,
    output: Any,
    sentence: str,
    cli: Cli,
    server: Any,
    kubectl: FakeKubectl,
    make: SimpleNamespace,
) -> None:
    server.add(make.task("tickets", state, spec={"output": output} if output else {}))
    assert get_sentence(cli(*command)).startswith(sentence)
    assert get_created_pods(server) == []


class TestPredict:
    def test_labels_are_printed_by_text(self, cli: Cli, server: Any, trained: Path, kubectl: FakeKubectl) -> None:
        result = cli("predict", "tickets", "billing access", "none")
        assert result.exit_code == 0, result.stderr
        assert [re.split(" {3,}", line) for line in result.stdout.splitlines()] == [
            ["LABELS", "TEXT"],
            ["billing (0.14), access (0.17)", "billing access"],
            ["-", "none"],
        ]
        assert kubectl.arguments[-2:] == [f"{CLAIM_DIR}/tickets", "--json"]
        assert "billing access" not in json.dumps(get_created_pods(server))

    def test_texts_come_from_standard_input_by_line(self, cli: Cli, trained: Path) -> None:
        result = cli("predict", "tickets", "-o", "json", stdin="a bb\n\nccc\r\n")
        assert json.loads(result.stdout) == [
            {"text": "a bb", "labels": [{"label": "a", "probability": 1}, {"label": "bb", "probability": 0.5}]},
            {"text": "ccc", "labels": [{"label": "ccc", "probability": 1 / 3}]},
        ]

    def test_a_text_of_several_lines_stays_one(self, cli: Cli, trained: Path) -> None:
        [prediction] = json.loads(cli("predict", "tickets", "a\nb\r\nc", "-o", "json").stdout)
        assert prediction["text"] == "a b c"

    def test_csv_has_a_row_for_each_label(self, cli: Cli, trained: Path) -> None:
        rows = list(csv.reader(io.StringIO(cli("predict", "tickets", "a bb", "none", "-o", "csv").stdout)))
        assert rows == [["text", "label", "probability"], ["a bb", "a", "1.0"], ["a bb", "bb", "0.5"]]

    def test_the_tasks_image_memory_and_code_are_used(
        self, cli: Cli, server: Any, trained: Path, make: SimpleNamespace, kubectl: FakeKubectl
    ) -> None:
        spec = {
            "output": {"volumeClaim": "models"},
            "image": "registry/own:2",
            "resources": {"memory": "6Gi"},
            "code": {"configMap": "my-model"},
        }
        server.add(make.task("tickets", "Succeeded", spec=spec))
        assert cli("predict", "tickets", "a").exit_code == 0
        [container] = get_created_pods(server)[0]["spec"]["containers"]
        assert container["image"] == "registry/own:2"
        assert container["resources"]["limits"]["memory"] == "6Gi"
        assert container["volumeMounts"][-1] == {"name": "code", "mountPath": names.CODE_DIR, "readOnly": True}
        assert kubectl.arguments[-2:] == ["--code-dir", names.CODE_DIR]

    def test_no_text_is_a_wrong_call(self, cli: Cli, server: Any, trained: Path) -> None:
        result = cli("predict", "tickets", stdin="\n")
        assert (result.exit_code, result.stdout) == (2, "")
        assert "there are no texts" in result.stderr
        assert get_created_pods(server) == []

    def test_the_trainers_refusal_is_told(self, cli: Cli, trained: Path, kubectl: FakeKubectl) -> None:
        kubectl.fail(64, "/mnt/claim/tickets is not a saved model\n")
        assert get_sentence(cli("predict", "tickets", "a")) == "/mnt/claim/tickets is not a saved model"
