"""Transformer encoders with a sequence-classification head, trained by Hugging Face's Trainer in float32."""

import math
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
import transformers
from torch.nn.functional import binary_cross_entropy_with_logits
from torch.utils.data import Dataset
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
    Trainer,
    TrainerCallback,
    TrainerControl,
    TrainerState,
    TrainingArguments,
)

from trainingtask_api.spec import Device, TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_trainer.checkpoint import checkpoint_folder, checkpoint_name
from trainingtask_trainer.cpus import cpu_limit
from trainingtask_trainer.errors import Fault
from trainingtask_trainer.metrics import LabelMatrix, Probabilities
from trainingtask_trainer.models.base import Fitted, Predictor, label_prior
from trainingtask_trainer.places import Places
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.preprocessors.tokenizer import TokenIds, Tokenizer, encode
from trainingtask_trainer.progress import Progress, Step

DEFAULT_EPOCHS = 3
DEFAULT_BATCH_SIZE = 32
DEFAULT_LEARNING_RATE = 5e-5
DEFAULT_WEIGHT_DECAY = 0.01
_PREDICTION_BATCH = 64
_LOSS_EVERY = 10  # steps; reading the loss makes a GPU wait

Batch = dict[str, torch.Tensor]


class Transformer:
    """A pretrained encoder of the family that the task names, fine-tuned for many labels at once."""

    preprocessor: ClassVar[str] = "tokenizer"
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "accelerate", "safetensors")

    def __init__(self, spec: TrainingTaskSpec, places: Places) -> None:
        self._on_gpu = spec.device == Device.GPU
        if self._on_gpu and not torch.cuda.is_available():
            raise Fault(
                "NoGPU",
                "device is 'gpu', but torch finds no usable GPU here: check the node's driver, the runtime class and "
                "that the trainer image is the one for GPUs",
            )
        torch.set_num_threads(cpu_limit())
        _be_quiet()
        self._training = spec.training
        self._name = checkpoint_name(spec.model)
        self._folder = checkpoint_folder(spec.model, places.model)
        self._epochs = spec.training.epochs or DEFAULT_EPOCHS
        self._batch_size = spec.training.batch_size or DEFAULT_BATCH_SIZE
        self._learning_rate = spec.training.learning_rate or DEFAULT_LEARNING_RATE
        decay = spec.training.weight_decay
        self._weight_decay = DEFAULT_WEIGHT_DECAY if decay is None else decay
        self._model: PreTrainedModel | None = None
        self._tokenizer: PreTrainedTokenizerBase | None = None

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults."""
        return {
            "model.checkpoint": self._name,
            "training.epochs": self._epochs,
            "training.batchSize": self._batch_size,
            "training.learningRate": self._learning_rate,
            "training.weightDecay": self._weight_decay,
        }

    def fit(
        self,
        features: TokenIds,
        labels: LabelMatrix,
        label_names: Sequence[str],
        preprocessor: Preprocessor,
        progress: Progress,
    ) -> Fitted:
        """Fine-tune on token ids; the learning rate falls linearly to 0.

        Raises
        ------
        Fault
            When the loss is not a finite number.
        """
        self._tokenizer = _tokenizer_of(preprocessor)
        transformers.set_seed(self._training.seed)  # before the head's weights are drawn
        self._model = _with_head(self._folder, label_names)
        _start_at_prior(self._model, label_prior(labels))
        with tempfile.TemporaryDirectory() as scratch:
            arguments = self._arguments(Path(scratch))
            trainer = Trainer(
                model=self._model,
                args=arguments,
                train_dataset=_Rows(features, labels),
                data_collator=_Collator(self._tokenizer),
                compute_loss_func=_loss,
                callbacks=[_ProgressCallback(progress, len(labels), self._epochs)],
            )
            trainer.remove_callback(transformers.PrinterCallback)
            output = trainer.train()
        loss = float(output.training_loss)
        _require_finite(loss, output.global_step)
        spare = torch.cuda.device_count() - 1 if self._on_gpu else 0
        warnings = (f"{spare} of the pod's GPUs were not used: training runs on one",) if spare > 0 else ()
        return Fitted(output.global_step, loss, len(labels) * self._epochs, warnings)

    def predict(self, features: TokenIds) -> Probabilities:
        """Return probabilities of shape [rows, labels] in the order of the rows."""
        assert self._model is not None and self._tokenizer is not None  # noqa: S101, PT018 - fit comes first
        return _predict(self._model, self._tokenizer, features)

    def save(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write weights (safetensors), configuration with label names, and tokenizer."""
        assert self._model is not None  # noqa: S101 - fit comes first
        tokenizer = _tokenizer_of(preprocessor)
        assert isinstance(preprocessor, Tokenizer)  # noqa: S101 - checked by _tokenizer_of
        tokenizer.model_max_length = preprocessor.max_length  # whoever loads it cuts where training did
        self._model.save_pretrained(folder)
        tokenizer.save_pretrained(folder)

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Return the predictor of a saved model; runs no code from the folder."""
        _be_quiet()
        tokenizer = AutoTokenizer.from_pretrained(folder)
        model = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)

        def predict(texts: Sequence[str]) -> Probabilities:
            return _predict(model, tokenizer, encode(tokenizer, texts, tokenizer.model_max_length))

        return predict

    def _arguments(self, scratch: Path) -> TrainingArguments:
        arguments = TrainingArguments(
            output_dir=str(scratch),
            num_train_epochs=self._epochs,
            per_device_train_batch_size=self._batch_size,
            learning_rate=self._learning_rate,
            weight_decay=self._weight_decay,
            lr_scheduler_type="linear",
            seed=self._training.seed,
            data_seed=self._training.seed,
            use_cpu=not self._on_gpu,
            logging_steps=_LOSS_EVERY,
            logging_first_step=True,
            logging_nan_inf_filter=False,  # the filter would hide the very loss we stop for
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=self._on_gpu,
        )
        if self._on_gpu:
            # With several GPUs Trainer would multiply the batch by their number (DataParallel).
            _ = arguments.device
            arguments._n_gpu = 1
        return arguments


class _Rows(Dataset[dict[str, Any]]):
    def __init__(self, token_ids: TokenIds, labels: LabelMatrix) -> None:
        self._token_ids = token_ids
        self._labels = labels.astype(np.float32)

    def __len__(self) -> int:
        return len(self._token_ids)

    def __getitem__(self, row: int) -> dict[str, Any]:
        return {"input_ids": self._token_ids[row], "labels": self._labels[row]}


class _Collator:
    """Pads a batch to its own longest row."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase) -> None:
        self._tokenizer = tokenizer

    def __call__(self, rows: list[dict[str, Any]]) -> Batch:
        batch = _pad(self._tokenizer, [row["input_ids"] for row in rows])
        return batch | {"labels": torch.from_numpy(np.stack([row["labels"] for row in rows]))}


class _ProgressCallback(TrainerCallback):
    """Tells the run's progress, and stops it on a loss that is not a number."""

    def __init__(self, progress: Progress, rows: int, epochs: int) -> None:
        self._progress = progress
        self._rows = rows
        self._epochs = epochs
        self._loss: float | None = None

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, Any] | None = None,
        **_: Any,
    ) -> None:
        if logs and "loss" in logs:
            self._loss = float(logs["loss"])
            _require_finite(self._loss, state.global_step)

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        done = state.epoch or 0.0
        self._progress(
            Step(
                epoch=math.ceil(round(done, 6)),
                epochs=self._epochs,
                step=state.global_step,
                total_steps=state.max_steps,
                rows=round(done * self._rows),
                loss=self._loss,
            )
        )


def _loss(outputs: Any, labels: torch.Tensor, num_items_in_batch: torch.Tensor | int | None = None) -> torch.Tensor:
    """Return the cross-entropy summed over rows and labels, divided by the decisions of the *optimiser step*.

    The loss inside the model is a mean per micro-batch, which gradient accumulation then counts once too often.
    """
    total = binary_cross_entropy_with_logits(outputs.logits, labels, reduction="sum")
    return total / (labels.numel() if num_items_in_batch is None else num_items_in_batch)


def _require_finite(loss: float, step: int) -> None:
    if not np.isfinite(loss):
        raise Fault(
            "NonFiniteLoss", f"the loss is {loss} at step {step}: lower training.learningRate or look at the data"
        )


def _be_quiet() -> None:
    """Turn off the library's own progress bars and advice: the run reports for itself."""
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()


def _with_head(folder: Path, label_names: Sequence[str]) -> PreTrainedModel:
    model: PreTrainedModel = AutoModelForSequenceClassification.from_pretrained(
        folder,
        num_labels=len(label_names),
        id2label=dict(enumerate(label_names)),
        label2id={name: index for index, name in enumerate(label_names)},
        problem_type="multi_label_classification",
        # The default follows the checkpoint, and training in half precision diverges.
        dtype=torch.float32,
        # A checkpoint that was fine-tuned for other labels starts with a new head.
        ignore_mismatched_sizes=True,
    )
    return model


def _start_at_prior(model: PreTrainedModel, prior: Probabilities) -> None:
    """Set the output bias to the labels' log-odds: from 0 the first epochs only learn how rare labels are."""
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear) and part.out_features == len(prior)]
    if layers and layers[-1].bias is not None:
        with torch.no_grad():
            layers[-1].bias.copy_(torch.from_numpy(np.log(prior / (1 - prior))))


def _tokenizer_of(preprocessor: Preprocessor) -> PreTrainedTokenizerBase:
    if not isinstance(preprocessor, Tokenizer):
        raise Fault("TrainerCrashed", f"{type(preprocessor).__name__} cannot feed a transformer")
    return preprocessor.tokenizer


def _pad(tokenizer: PreTrainedTokenizerBase, token_ids: TokenIds) -> Batch:
    return dict(tokenizer.pad({"input_ids": token_ids}, return_tensors="pt"))


def _predict(model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, token_ids: TokenIds) -> Probabilities:
    """Return probabilities in the order of the rows; batches are sorted by length, which saves most of the padding."""
    labels = int(model.config.num_labels or 0)
    result: Probabilities = np.empty((len(token_ids), labels))
    order = sorted(range(len(token_ids)), key=lambda row: len(token_ids[row]), reverse=True)
    model.train(False)
    for start in range(0, len(order), _PREDICTION_BATCH):
        rows = order[start : start + _PREDICTION_BATCH]
        batch = _pad(tokenizer, [token_ids[row] for row in rows])
        with torch.inference_mode():
            logits = model(**{name: tensor.to(model.device) for name, tensor in batch.items()}).logits
        result[rows] = torch.sigmoid(logits.double()).cpu().numpy()
    return result
