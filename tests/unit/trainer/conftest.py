import json
import string
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from specs import task as manifest
from trainingtask_api.task import TrainingTask
from trainingtask_trainer.places import Places

LETTERS = string.ascii_lowercase
GO_EMOTIONS = Path(__file__).parents[3] / ".." / "shared" / "data" / "go_emotions"


@pytest.fixture
def places(tmp_path: Path) -> Places:
    return Places(tmp_path / "dataset", tmp_path / "model", tmp_path / "output")


@pytest.fixture
def make_task() -> Callable[..., TrainingTask]:
    def make(spec: dict[str, Any], name: str = "a-task") -> TrainingTask:
        return TrainingTask.model_validate(manifest(name, spec))

    return make


@pytest.fixture
def write_task(tmp_path: Path) -> Callable[..., Path]:
    def write(spec: dict[str, Any], name: str = "a-task") -> Path:
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(manifest(name, spec)))
        return path

    return write


@pytest.fixture(scope="session")
def tiny_models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder with checkpoints `bert` and `distilbert`: random weights, a vocabulary of letters."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizerFast, DistilBertConfig, DistilBertModel

    root = tmp_path_factory.mktemp("models")
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *LETTERS, *(f"##{letter}" for letter in LETTERS)]
    vocabulary += ["slow", "charged", "password", "guide", "the", "page"]
    (root / "vocab.txt").write_text("\n".join(vocabulary))
    torch.manual_seed(0)
    models = {
        "bert": BertModel(
            BertConfig(
                vocab_size=len(vocabulary),
                hidden_size=32,
                num_hidden_layers=1,
                num_attention_heads=2,
                intermediate_size=32,
                max_position_embeddings=64,
            )
        ),
        "distilbert": DistilBertModel(
            DistilBertConfig(
                vocab_size=len(vocabulary), dim=32, n_layers=1, n_heads=2, hidden_dim=32, max_position_embeddings=64
            )
        ),
    }
    for name, model in models.items():
        model.save_pretrained(root / name)
        BertTokenizerFast(str(root / "vocab.txt")).save_pretrained(root / name)
    return root


@pytest.fixture(scope="session")
def go_emotions() -> Path:
    if not GO_EMOTIONS.is_dir():
        pytest.skip(f"{GO_EMOTIONS} is absent: no real text on this machine")
    return GO_EMOTIONS


@pytest.fixture
def read_json() -> Callable[[Path], Any]:
    return lambda path: json.loads(path.read_text())
