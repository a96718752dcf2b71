"""A model folder is data: whatever stands in one, `predict` runs no code from it.

Attack: somebody is given a folder that claims to be a model, and labels a text with it. Each folder here would write a
marker file if any code of the attacker's ran.
"""

import io
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
import tracemalloc
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from sklearn.feature_extraction.text import CountVectorizer, HashingVectorizer
from sklearn.pipeline import FeatureUnion, Pipeline
from sklearn.svm import SVC

from support.specs import CLASSICAL, changed
from support.specs import task as manifest_of
from trainingtask_trainer import registry
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.models.classical import skops_files

INSTALLED = Path(sys.executable).with_name("trainingtask-trainer")
BROKEN = "is not a saved model of this project, or was changed"


class Payload:
    """Touches the marker when it is unpickled."""

    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.marker}",)


@pytest.fixture
def marker(tmp_path: Path) -> Path:
    return tmp_path / "code-ran"


@pytest.fixture
def touches(marker: Path) -> str:
    """Return Python source that writes the marker, with every class name that an attack asks for."""
    return f"open({str(marker)!r}, 'w').close()\nclass Model: ...\n"


@pytest.fixture(autouse=True)
def a_process_of_its_own(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    monkeypatch.setattr(registry, "_code_folders", [])
    before = set(sys.modules)
    yield
    for name in set(sys.modules) - before:
        if name.partition(".")[0] in ("evil", "mine", "helper"):
            del sys.modules[name]


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a function that gives the folder of an honest model, trained once."""
    root = tmp_path_factory.mktemp("trained")

    def train(model: str) -> Path:
        if not (root / model).exists():
            spec = changed(CLASSICAL, model__name=model, dataset__sampleSize=100, output__volumeClaim="models")
            spec["training"] = {"trees": 3} if model == "random_forest" else {}
            (root / "task.yaml").write_text(yaml.safe_dump(manifest_of(model.replace("_", "-"), spec)))
            arguments = [f"--output-dir={root}", f"--history=sqlite:///{root}/history.db"]
            assert main(["run", str(root / "task.yaml"), *arguments]) == 0
            (root / model.replace("_", "-")).rename(root / model)
        return root / model

    return train


@pytest.fixture
def classical(trained: Callable[[str], Path], tmp_path: Path) -> Path:
    return Path(shutil.copytree(trained("logistic_regression"), tmp_path / "model"))


@pytest.fixture
def transformer(tiny_models: Path, tmp_path: Path) -> Path:
    """Return a saved model of two labels."""
    import transformers

    folder = tmp_path / "model"
    shutil.copytree(tiny_models / "bert", folder)
    transformers.AutoModelForSequenceClassification.from_pretrained(folder, num_labels=2).save_pretrained(folder)
    edit_json(folder / "tokenizer_config.json", model_max_length=16)
    write_manifest(folder, model="bert", preprocessor="tokenizer", labels=["a", "b"], thresholds=[0.0, 0.0])
    return folder


def write_manifest(folder: Path, **values: Any) -> None:
    path = folder / "trainingtask.json"
    known = json.loads(path.read_text()) if path.exists() else {"task": "a-task"}
    path.write_text(json.dumps(known | values))


def edit_json(path: Path, **values: Any) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def refusal(folder: Path, capsys: pytest.CaptureFixture[str], *arguments: str) -> str:
    """Return the one sentence with which `predict` refuses a folder."""
    assert main(["predict", str(folder), "a slow page", *arguments]) == 64
    said = capsys.readouterr()
    assert said.out == ""
    assert "Traceback" not in said.err
    return said.err


def test_an_honest_classical_model_is_read(classical: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(classical), "the page is very slow"]) == 0
    assert "crash" in capsys.readouterr().out


@pytest.mark.parametrize("name", ["evil:Model", "evil.inner:Model", "subprocess:Popen", "os:_wrap_close", "sys:flags"])
def test_a_manifest_names_code_that_is_not_in_the_code_folder(
    classical: Path, marker: Path, touches: str, capsys: pytest.CaptureFixture[str], tmp_path: Path, name: str
) -> None:
    for folder in (tmp_path, classical, tmp_path / "installed"):  # the working directory, the model, what is installed
        (folder / "evil").mkdir(parents=True)
        (folder / "evil" / "__init__.py").write_text(touches)
        (folder / "evil" / "inner.py").write_text(touches)
    sys.path[:0] = [str(tmp_path / "installed"), str(tmp_path)]
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine.py").write_text("")
    write_manifest(classical, model=name)
    said = refusal(classical, capsys)
    assert said.startswith(
        f"model.name '{name}' of the saved model is code, which is loaded from --code-dir and nowhere else"
    )
    assert "pass --code-dir with the folder of the code, if you trust it" in said
    said = refusal(classical, capsys, f"--code-dir={tmp_path / 'code'}")
    assert f"has no module {name.partition(':')[0]}; the task's own code has mine" in said
    assert not marker.exists()


def test_an_installed_module_stands_before_the_one_in_the_code_folder(
    classical: Path, marker: Path, touches: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    for folder, source in (("installed", touches), ("code", "class Model: ...\n")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "evil.py").write_text(source)
    sys.path.insert(0, str(tmp_path / "installed"))
    write_manifest(classical, model="evil:Model")
    said = refusal(classical, capsys, f"--code-dir={tmp_path / 'code'}")
    assert "an installed module evil would be imported in the place of the one in --code-dir" in said
    assert not marker.exists()


def test_a_preprocessor_in_the_skops_file_names_code(
    classical: Path, marker: Path, touches: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    state = skops_files.load(classical / "model.skops")
    del state["vectorizer"]
    skops_files.dump(state | {"preprocessor": "evil:Model"}, classical / "model.skops")
    (tmp_path / "evil.py").write_text(touches)
    sys.path.insert(0, str(tmp_path))
    assert "preprocessor.name 'evil:Model' of the saved model is code" in refusal(classical, capsys)
    assert not marker.exists()


def test_code_in_the_code_folder_is_loaded_with_its_helpers(
    classical: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    (tmp_path / "code").mkdir()
    (tmp_path / "code" / "mine").mkdir()  # a folder without __init__.py is a package, too
    (tmp_path / "code" / "mine" / "models.py").write_text(
        "from helper import answer\nclass Model:\n"
        "    preprocessor, packages = 'tfidf', ()\n    arguments = fit = predict = save = None\n"
        "    @staticmethod\n    def load(folder):\n        return answer\n"
    )
    (tmp_path / "code" / "helper.py").write_text(
        "import numpy as np\ndef answer(texts): return np.tile([0.9, 0.1], (len(texts), 1))\n"
    )
    write_manifest(classical, model="mine.models:Model", labels=["yes", "no"], thresholds=[0.5, 0.5])
    assert main(["predict", str(classical), "a text", f"--code-dir={tmp_path / 'code'}"]) == 0
    assert capsys.readouterr().out == "yes (0.90)\ta text\n"


FORGED = {
    "key": ({"hook": "evil:run"}, "hook: 'evil:run' is refused: Extra inputs are not permitted"),
    "model type": ({"model": ["bert"]}, "model: Input should be a valid string"),
    "model name": ({"model": "../evil"}, "model: '../evil' is refused: must be a registered name"),
    "no labels": ({"labels": [], "thresholds": []}, "labels: .*at least 1 item"),
    "label type": ({"labels": [{"a": 1}]}, "labels.0: Input should be a valid string"),
    "label length": ({"labels": ["a" * 201]}, "labels.0: .*at most 200 characters"),
    "threshold": ({"thresholds": [1.5]}, "thresholds.0: 1.5 is refused: Input should be less than or equal to 1"),
    "no number": ({"thresholds": [float("nan")]}, "thresholds.0: nan is refused"),
    "counts": ({"labels": ["a", "b"], "thresholds": [0.5]}, "has 2 labels and 1 thresholds: one threshold per label"),
    "more labels than the model": ({"labels": ["a"], "thresholds": [0.5]}, r"shape \(1, 8\) for 1 texts and 1 labels"),
}


@pytest.mark.parametrize("forged", FORGED)
def test_a_manifest_out_of_bounds_is_refused(classical: Path, capsys: pytest.CaptureFixture[str], forged: str) -> None:
    values, sentence = FORGED[forged]
    write_manifest(classical, **values)
    said = refusal(classical, capsys)
    assert BROKEN in said
    assert re.search(sentence, said), said


def test_a_manifest_that_is_no_json_or_too_large_is_refused(
    classical: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = classical / "trainingtask.json"
    path.write_text("[" * 100_000)
    assert f"{BROKEN}: trainingtask.json: " in refusal(classical, capsys)
    with path.open("wb") as file:
        file.truncate((32 << 20) + 1)  # a hole: takes no space
    assert "trainingtask.json has 33554433 bytes, at most 33554432 are allowed" in refusal(classical, capsys)


def test_a_skops_file_holds_a_function_of_the_system(classical: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with zipfile.ZipFile(classical / "model.skops") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    schema = json.loads(parts["schema.json"])
    schema["content"]["vectorizer"] = {"__class__": "system", "__module__": "os", "__loader__": "FunctionNode"}
    write_archive(classical / "model.skops", parts | {"schema.json": json.dumps(schema).encode()})
    said = refusal(classical, capsys)
    assert BROKEN in said
    assert "os.system" in said


def write_archive(path: Path, parts: dict[str, bytes]) -> None:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)


def test_a_skops_file_holds_a_pickled_array(classical: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    buffer = io.BytesIO()
    np.save(buffer, np.array([Payload(marker)], dtype=object), allow_pickle=True)
    with zipfile.ZipFile(classical / "model.skops") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    assert any(name.endswith(".npy") for name in parts)
    pickled = {name: buffer.getvalue() for name in parts if name.endswith(".npy")}
    write_archive(classical / "model.skops", parts | pickled)
    assert BROKEN in refusal(classical, capsys)
    assert not marker.exists()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 half a file", b"\x80\x04cos\nsystem\n"])
def test_a_skops_file_that_is_none_is_refused(
    classical: Path, capsys: pytest.CaptureFixture[str], content: bytes
) -> None:
    (classical / "model.skops").write_bytes(content)
    assert BROKEN in refusal(classical, capsys)


def test_a_pickle_in_the_place_of_the_skops_file(
    classical: Path, marker: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (classical / "model.skops").write_bytes(pickle.dumps(Payload(marker)))
    assert BROKEN in refusal(classical, capsys)
    assert not marker.exists()


def forge_nodes(**first: int) -> Callable[[dict[str, Any]], None]:
    """Return a function that writes fields of the first node of a forest's first tree."""

    def forge(state: dict[str, Any]) -> None:
        tree = state["fitted"]["forest"].estimators_[0].tree_
        described = tree.__getstate__()
        for field, value in first.items():
            described["nodes"][field][0] = value
        tree.__setstate__(described)

    return forge


def forge_rows(state: dict[str, Any]) -> None:
    state["fitted"]["features"].indices[0] = 1 << 30


@pytest.mark.parametrize(
    ("model", "forge", "sentence"),
    [
        ("random_forest", forge_nodes(left_child=1 << 40), "a tree names nodes or features that it does not have"),
        (
            "random_forest",
            forge_nodes(left_child=0, right_child=0),
            "a tree names nodes or features that it does not have",
        ),
        ("random_forest", forge_nodes(feature=1 << 40), "a tree names nodes or features that it does not have"),
        ("knn", forge_rows, "indices must be < "),
    ],
)
def test_an_index_that_leads_out_of_its_array_is_refused(
    trained: Callable[[str], Path], tmp_path: Path, capsys: pytest.CaptureFixture[str],
    model: str, forge: Callable[[dict[str, Any]], None], sentence: str,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(trained(model), tmp_path / "model"))
    state = skops_files.load(folder / "model.skops")
    forge(state)
    skops_files.dump(state, folder / "model.skops")
    capsys.readouterr()  # the training's words
    said = refusal(folder, capsys)
    assert BROKEN in said
    assert sentence in said


def svc() -> SVC:
    """Return an estimator whose compiled code reads as many vectors as its counts say."""
    estimator = SVC(kernel="linear").fit(np.eye(8), [0, 1] * 4)
    estimator._n_support = np.full(2, 1 << 28, dtype=np.int32)
    return estimator


def forge_estimator(state: dict[str, Any]) -> None:
    state["fitted"]["estimators"][0] = svc()


def forge_vectorizer(state: dict[str, Any]) -> None:
    state["vectorizer"] = Pipeline([("words", state["vectorizer"]), ("nested", FeatureUnion([("svc", svc())]))])


def forge_vocabulary(state: dict[str, Any]) -> None:
    words = state["vectorizer"]
    state["vectorizer"] = CountVectorizer(vocabulary=words.vocabulary_)
    state["vectorizer"].vocabulary_ = dict.fromkeys(words.vocabulary_, 1 << 30)


def forge_hashes(state: dict[str, Any]) -> None:
    state["vectorizer"] = HashingVectorizer(n_features=0)


def forge_features(state: dict[str, Any]) -> None:
    forest = state["fitted"]["forest"]
    tree = forest.estimators_[0].tree_
    constructor, (_, *others), content = tree.__reduce__()
    content["nodes"]["feature"][content["nodes"]["left_child"] != -1] = (1 << 40) - 1
    forest.estimators_[0].tree_ = constructor(1 << 40, *others)
    forest.estimators_[0].tree_.__setstate__(content)


def forge_method(state: dict[str, Any]) -> None:
    state["fitted"]["forest"]._validate_X_predict = np.float32  # in the place of the method that counts the features


def forge_single_tree(state: dict[str, Any]) -> None:
    state["fitted"] = {"estimators": state["fitted"]["forest"].estimators_, "chain": False}


@pytest.mark.parametrize(
    ("model", "forge", "sentence"),
    [
        ("random_forest", forge_method, "a value stands in the place of a method of RandomForestClassifier"),
        ("random_forest", forge_single_tree, "a tree stands outside of a forest"),
        ("logistic_regression", forge_estimator, "it holds a sklearn.svm._classes.SVC, where a vectorizer or an"),
        ("logistic_regression", forge_vectorizer, "it holds a sklearn.svm._classes.SVC, where a vectorizer or an"),
        ("logistic_regression", forge_vocabulary, "a vocabulary does not number its terms from 0 on, each once"),
        ("logistic_regression", forge_hashes, "n_features of a HashingVectorizer is 0, at least 1 is allowed"),
        ("random_forest", forge_features, "a tree of a forest reads other features than the forest"),
    ],
)
def test_compiled_code_follows_no_number_unchecked(
    trained: Callable[[str], Path], tmp_path: Path,
    model: str, forge: Callable[[dict[str, Any]], None], sentence: str,
) -> None:  # fmt: skip
    folder = Path(shutil.copytree(trained(model), tmp_path / "model"))
    state = skops_files.load(folder / "model.skops")
    forge(state)
    skops_files.dump(state, folder / "model.skops")
    done = subprocess.run(  # apart: it would end the process
        [INSTALLED, "predict", folder, "the page is very slow"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 64, done
    assert BROKEN in done.stderr
    assert sentence in done.stderr


def test_a_file_that_unpacks_to_more_than_itself_is_not_read(
    classical: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with zipfile.ZipFile(classical / "model.skops") as archive:
        schema = json.loads(archive.read("schema.json"))
    with zipfile.ZipFile(classical / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", json.dumps(schema) + " " * (200 << 20))
    tracemalloc.start()
    said = refusal(classical, capsys)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert BROKEN in said
    assert re.search(r"model\.skops has \d+ bytes and unpacks to 209\d+: at most its own size is allowed", said), said
    assert peak < 50 << 20


def test_an_honest_transformer_is_read(transformer: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["predict", str(transformer), "the page is slow"]) == 0
    assert capsys.readouterr().out.count("(0.") == 2


@pytest.mark.parametrize("model_type", ["bert", "evil"])
def test_a_configuration_names_classes_in_the_folder(
    transformer: Path, marker: Path, touches: str, capsys: pytest.CaptureFixture[str], model_type: str
) -> None:
    (transformer / "evil.py").write_text(touches)
    names = {"AutoConfig": "evil.Model", "AutoModelForSequenceClassification": "evil.Model"}
    edit_json(transformer / "config.json", auto_map=names, model_type=model_type)
    edit_json(transformer / "tokenizer_config.json", auto_map={"AutoTokenizer": ["evil.Model", "evil.Model"]})
    if model_type == "evil":
        assert BROKEN in refusal(transformer, capsys)
    else:  # the library has a class of its own for this type, and takes that
        assert main(["predict", str(transformer), "the page is slow"]) == 0
    assert not marker.exists()


@pytest.mark.parametrize("key", ["attn_implementation", "_attn_implementation"])
def test_a_configuration_names_native_code_of_a_hub(
    transformer: Path, capsys: pytest.CaptureFixture[str], key: str
) -> None:
    edit_json(transformer / "config.json", part={key: {"": "evil/attention"}})
    said = refusal(transformer, capsys)
    assert f"{key} {{'': 'evil/attention'}} in config.json would load code: remove it, or use eager or sdpa" in said


def test_weights_are_a_pickle(transformer: Path, marker: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (transformer / "model.safetensors").unlink()
    (transformer / "pytorch_model.bin").write_bytes(pickle.dumps(Payload(marker)))
    said = refusal(transformer, capsys)
    assert "has no *.safetensors" in said
    assert "weights in another format may be code, convert them where you trust them" in said
    (transformer / "other.safetensors").touch()
    said = refusal(transformer, capsys)
    assert "no file named model.safetensors" in said
    assert not marker.exists()


@pytest.mark.parametrize("file", ["tokenizer.json", "config.json", "model.safetensors"])
@pytest.mark.parametrize("content", [b"", b"[]", b'{"a": ' * 2000, b"\xff" * 64])
def test_files_that_are_not_what_they_are_called(
    transformer: Path, capsys: pytest.CaptureFixture[str], file: str, content: bytes
) -> None:
    (transformer / file).write_bytes(content)
    refusal(transformer, capsys)


SHADOWS = ("json.py", "argparse.py", "numpy.py", "sklearn.py", "pydantic.py", "trainingtask_api.py")


@pytest.mark.parametrize("how", ["script", "module"])
def test_modules_in_the_working_directory_shadow_nothing(classical: Path, marker: Path, touches: str, how: str) -> None:
    for name in SHADOWS:
        (classical / name).write_text(touches)
    write_distribution(classical, "evil")
    (classical / "evil.py").write_text(touches)
    write_manifest(classical, model="evil")
    command = [str(INSTALLED)] if how == "script" else [sys.executable, "-m", "trainingtask_trainer"]
    done = subprocess.run(
        [*command, "predict", ".", "a slow page"],
        cwd=classical, env=os.environ | {"PYTHONSAFEPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 64, done.stderr
    assert "model.name 'evil' is not offered by this image" in done.stderr
    assert not marker.exists()


@pytest.mark.parametrize("how", ["script", "module"])
def test_a_file_that_asks_for_processes_runs_nothing_of_the_folder(
    classical: Path, marker: Path, touches: str, how: str
) -> None:
    state = skops_files.load(classical / "model.skops")
    skops_files.dump(
        state | {"vectorizer": FeatureUnion([("words", state["vectorizer"])], n_jobs=2)}, classical / "model.skops"
    )
    (classical / "joblib").mkdir()
    (classical / "joblib" / "__init__.py").write_text(touches)
    command = [str(INSTALLED)] if how == "script" else [sys.executable, "-m", "trainingtask_trainer"]
    done = subprocess.run(
        [*command, "predict", ".", "the page is very slow"],
        cwd=classical, env=os.environ | {"PYTHONSAFEPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "crash" in done.stdout
    assert not marker.exists()


def test_the_script_is_safe_from_a_package_of_its_own_name(classical: Path, marker: Path, touches: str) -> None:
    (classical / "trainingtask_trainer").mkdir()
    for name in ("__init__.py", "__main__.py"):
        (classical / "trainingtask_trainer" / name).write_text(touches)
    done = subprocess.run(
        [INSTALLED, "predict", ".", "the page is very slow"],
        cwd=classical, env=os.environ | {"PYTHONSAFEPATH": ""}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert "crash" in done.stdout
    assert not marker.exists()


def write_distribution(folder: Path, name: str) -> None:
    metadata = folder / f"{name}-1.0.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 1.0\n")
    (metadata / "entry_points.txt").write_text(f"[trainingtask.models]\n{name} = {name}:Model\n")
