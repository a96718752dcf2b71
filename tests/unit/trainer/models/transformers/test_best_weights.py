from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from trainingtask_trainer.models.transformers.best_weights import BestWeights


class TiedModel(torch.nn.Module):
    """Two names of one weight, as an encoder with tied embeddings has them, and one that is not contiguous."""

    def __init__(self) -> None:
        super().__init__()
        self.first = torch.nn.Linear(2, 2, bias=False)
        self.second = torch.nn.Linear(2, 2, bias=False)
        self.second.weight = self.first.weight
        self.turned = torch.nn.Parameter(torch.arange(6.0).reshape(2, 3).T)


@pytest.mark.parametrize("on_disk", [False, True], ids=["memory", "disk"])
def test_the_kept_weights_come_back_after_the_model_went_on(tmp_path: Path, on_disk: bool) -> None:
    model: Any = TiedModel()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    best = BestWeights(tmp_path if on_disk else None)
    assert best.is_empty
    best.keep(model)
    assert not best.is_empty
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    best.restore(model)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
    assert model.first.weight is model.second.weight
    best.clear()
    assert best.is_empty


@pytest.mark.parametrize("kind", [TiedModel, lambda: torch.nn.Linear(2, 2)], ids=["tied", "linear"])
def test_kept_weights_go_through_a_checkpoint(tmp_path: Path, kind: Callable[[], Any]) -> None:
    model = kind()
    kept = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    (tmp_path / "here").mkdir()
    here, there = BestWeights(tmp_path / "here"), BestWeights(None)
    here.keep(model)
    here.write(tmp_path / "best.safetensors")
    there.read(tmp_path / "best.safetensors")
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(1)
    there.restore(model)
    assert all(torch.equal(tensor, kept[name]) for name, tensor in model.state_dict().items())
