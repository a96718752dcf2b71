"""A model folder is data: no module that it names or holds is imported, nor one of the working directory."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from sklearn.pipeline import FeatureUnion

from support.hostile_models import BROKEN, INSTALLED, edit_json, refusal, write_distribution, write_manifest
from trainingtask_trainer.__main__ import main
from trainingtask_trainer.models.classical import skops_files

pytestmark = pytest.mark.usefixtures("isolated_process")


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
