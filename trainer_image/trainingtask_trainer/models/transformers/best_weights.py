"""The weights of the best epoch so far, in memory or, where that is short, on the local disk."""

import shutil
from pathlib import Path

import torch
from safetensors.torch import load_file, load_model, save_file
from transformers import PreTrainedModel


class BestWeights:
    """A copy of a model's weights, which its training goes on changing."""

    def __init__(self, folder: Path | None) -> None:
        """Keep nothing yet; what comes is kept in a file of `folder`, in memory without one."""
        self._file = folder and folder / "best-epoch.safetensors"
        self._tensors: dict[str, torch.Tensor] | None = None
        self._is_stored = False

    @property
    def is_empty(self) -> bool:
        """Whether nothing is kept: the model's own weights are the best, or there was no validation yet."""
        return self._tensors is None and not self._is_stored

    def keep(self, model: PreTrainedModel) -> None:
        """Keep a copy of the model's weights instead of the earlier one."""
        self.clear()
        if self._file is None:
            self._tensors = {name: tensor.cpu().clone() for name, tensor in model.state_dict().items()}
        else:
            save_file(_collect_distinct(model), self._file)
            self._is_stored = True

    def clear(self) -> None:
        """Keep nothing."""
        self._tensors, self._is_stored = None, False

    def read(self, file: Path) -> None:
        """Keep the weights of a file that `write` has written."""
        if self._file is None:
            self._tensors = load_file(file)
        else:
            shutil.copyfile(file, self._file)
            self._is_stored = True

    def write(self, file: Path) -> None:
        """Write the weights that are kept into a safetensors file."""
        if self._file is None:
            save_file(self._tensors or {}, file)
        else:
            shutil.copyfile(self._file, file)

    def restore(self, model: PreTrainedModel) -> None:
        """Give the model the weights that are kept; its own where nothing is."""
        if self._tensors is not None:
            model.load_state_dict(self._tensors, strict=False)  # read from a file, where a tied weight stands once
        elif self._file is not None and self._is_stored:
            load_model(model, self._file)


def _collect_distinct(model: PreTrainedModel) -> dict[str, torch.Tensor]:
    """Return the weights by name, of tied ones the first: a safetensors file holds no memory twice."""
    tensors = {tensor.data_ptr(): (name, tensor) for name, tensor in reversed(model.state_dict().items())}
    return {name: tensor.cpu().contiguous() for name, tensor in tensors.values()}
