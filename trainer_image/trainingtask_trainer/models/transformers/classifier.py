"""Transformer encoders with a sequence-classification head, fine-tuned for many labels at once."""

import hashlib
import tempfile
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any, ClassVar

import torch

from trainingtask_api.reasons import Reason
from trainingtask_trainer.runtime.import_guard import block_transformers_import

with block_transformers_import("scipy"):  # used by losses of object detectors; 8 % of the time to the first step
    from transformers import (
        AutoModelForSequenceClassification,
        AutoTokenizer,
        PreTrainedModel,
        PreTrainedTokenizerBase,
        set_seed,
    )

from trainingtask_api.spec import Device, TrainingTaskSpec
from trainingtask_api.status import Scalar
from trainingtask_api.training import Loop
from trainingtask_trainer.errors import Fault
from trainingtask_trainer.evaluation.metrics import Floats, Probabilities
from trainingtask_trainer.models.base import FitResult, Predictor, TrainingRows
from trainingtask_trainer.models.transformers import memory_budget
from trainingtask_trainer.models.transformers.batch_planning import BatchPlan
from trainingtask_trainer.models.transformers.checkpointing import CheckpointStore
from trainingtask_trainer.models.transformers.collation import Collator, MicroBatchDataset
from trainingtask_trainer.models.transformers.inference import predict_probabilities
from trainingtask_trainer.models.transformers.losses import compute_initial_bias, create_loss_function
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.models.transformers.step_cost import measure_overhead_tokens
from trainingtask_trainer.models.transformers.training_state import TrainingSession, TrainingState
from trainingtask_trainer.preprocessors.base import Preprocessor
from trainingtask_trainer.preprocessors.tokenizer import TokenIds, Tokenizer, encode, save_tokenizer
from trainingtask_trainer.pretrained.checkpoint import (
    check_is_data,
    check_weights,
    fetch_checkpoint,
    get_checkpoint_name,
    translate_read_errors,
)
from trainingtask_trainer.reporting.progress import Progress
from trainingtask_trainer.runtime.device import prepare_torch
from trainingtask_trainer.runtime.processes import Processes
from trainingtask_trainer.runtime.signals import defer_interrupts
from trainingtask_trainer.storage.folder_store import FolderStore
from trainingtask_trainer.volumes import Volumes


class Transformer:
    """A pretrained encoder of the family that the task names, fine-tuned for many labels at once."""

    preprocessor: ClassVar[str] = "tokenizer"
    is_distributed: ClassVar[bool] = True
    packages: ClassVar[tuple[str, ...]] = ("torch", "transformers", "tokenizers", "accelerate", "safetensors")

    def __init__(self, spec: TrainingTaskSpec, volumes: Volumes) -> None:
        self._processes = Processes.from_environment()
        self._settings = Settings.from_spec(spec.training, prepare_torch(spec.device).type == "cuda")
        self._name = get_checkpoint_name(spec.model)
        self._revision = spec.model.revision
        self._folder = fetch_checkpoint(spec.model, volumes.model)
        self._max_tokens: int | None = None
        self._model: PreTrainedModel | None = None
        self._collator: Collator | None = None

    def arguments(self) -> dict[str, Scalar]:
        """Return the arguments after all defaults, by their path in the spec."""
        return {"model.checkpoint": self._name} | self._settings.arguments()

    def fit(
        self, rows: TrainingRows, preprocessor: Preprocessor, progress: Progress, checkpoints: FolderStore | None
    ) -> FitResult:
        """Fine-tune on token ids, resume from the last checkpoint where there is one; keep the best epoch's weights.

        Raises
        ------
        UserError
            When the loss is not a finite number, or the checkpoint does not fit the task.
        Interrupted
            When the process was asked to stop; a checkpoint is written first, where there is a folder for it.
        """
        settings = self._settings
        tokenizer = _get_tokenizer(preprocessor)
        with translate_read_errors(self._name, "has weights that cannot be read"):
            memory_budget.check_weights_fit(self._folder, settings.device, settings.autocast_dtype)
        set_seed(settings.seed)  # before the head's weights are drawn
        model = self._model = self._load_pretrained(rows.label_names)
        _set_output_bias(model, compute_initial_bias(settings, rows.labels))
        torch.nn.Module.to(model, settings.device)  # the model's own `to` has no type

        collator = self._collator = Collator(model, tokenizer)
        lengths = rows.features.lengths
        memory = memory_budget.plan_memory(model, max(lengths), settings.autocast_dtype)
        plan = BatchPlan(
            lengths,
            settings,
            collator.split,
            memory.max_tokens,
            shard_rows=collator.shard,
            processes=self._processes,
        )

        def validate(before_batch: Any) -> Probabilities:
            return predict_probabilities(
                model,
                collator,
                rows.validation_features,
                dtype=settings.autocast_dtype,
                max_tokens=plan.max_tokens,
                before_batch=before_batch,
                processes=self._processes,
            )

        with tempfile.TemporaryDirectory(prefix="trainingtask-") as scratch:
            store = None
            if checkpoints is not None:
                store = CheckpointStore(checkpoints, self._compute_checkpoint_key(rows), Path(scratch))
            session = TrainingSession(
                model=model,
                settings=settings,
                plan=plan,
                dataset=MicroBatchDataset(collator, rows.features, rows.labels),
                loss_function=create_loss_function(settings, rows.labels),
                validation_labels=rows.validation_labels,
                validate=validate,
                progress=progress,
                checkpoints=store,
                scratch=Path(scratch),
                processes=self._processes,
                is_best_on_disk=memory.is_best_on_disk,
            )
            with defer_interrupts():
                session.start()
                self._max_tokens = plan.max_tokens
                if not session.is_finished:
                    if collator.is_overhead_unknown:
                        collator.overhead_tokens = session.get_overhead_tokens(
                            lambda: measure_overhead_tokens(
                                model, max(lengths), plan.max_tokens, settings.autocast_dtype
                            )
                        )
                    _import_train_function(settings.loop)(model, session)
            session.restore_best()
        return FitResult(
            global_step=session.state.step,
            training_loss=session.training_loss,
            rows_seen=session.rows_seen,
            tokens_seen=session.tokens_seen,
            best_epoch=session.state.best_epoch,
            resumed_from_step=session.resumed_step,
            curve=tuple(session.state.curve),
            warnings=tuple(store.list_warnings()) if store else (),
            scaling_efficiency=session.scaling_efficiency,
        )

    def predict(self, features: TokenIds) -> Probabilities:
        """Return probabilities of shape [rows, labels] in the order of the rows, in fp32 as the saved model will."""
        assert self._model is not None and self._collator is not None  # noqa: S101, PT018 - fit comes first
        return predict_probabilities(
            self._model, self._collator, features, max_tokens=self._max_tokens, processes=self._processes
        )

    def save(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write weights (safetensors), configuration with label names, and tokenizer."""
        assert self._model is not None  # noqa: S101 - fit comes first
        self._model.save_pretrained(folder)
        _save_tokenizer(preprocessor, folder)

    def export(self, folder: Path, preprocessor: Preprocessor) -> None:
        """Write the ONNX file, configuration with label names, and tokenizer; afterwards the model is on the CPU.

        Raises
        ------
        NotExportableError
            When the tokenizer has no file that `tokenizers` reads, or an operation has no counterpart in ONNX.
        """
        from trainingtask_trainer.models.transformers import onnx_export  # noqa: PLC0415 - the extra `onnx`

        assert self._model is not None  # noqa: S101 - fit comes first
        _save_tokenizer(preprocessor, folder)
        self._model.config.architectures = [type(self._model).__name__]
        self._model.config.save_pretrained(folder)
        onnx_export.write_classifier(self._model, _get_tokenizer(preprocessor), folder)

    @staticmethod
    def load(folder: Path) -> Predictor:
        """Return the predictor of a saved model; runs no code from the folder."""
        prepare_torch(Device.CPU)
        check_is_data(folder, str(folder))
        tokenizer = AutoTokenizer.from_pretrained(folder, trust_remote_code=False)
        model = AutoModelForSequenceClassification.from_pretrained(
            folder, dtype=torch.float32, trust_remote_code=False, use_safetensors=True
        )
        collator = Collator(model, tokenizer)

        def predict(texts: Sequence[str]) -> Probabilities:
            return predict_probabilities(model, collator, encode(tokenizer, texts, tokenizer.model_max_length)[0])

        return predict

    def _load_pretrained(self, label_names: Sequence[str]) -> PreTrainedModel:
        model: PreTrainedModel
        with translate_read_errors(self._name, "is no usable sequence classifier"):
            model, loading = AutoModelForSequenceClassification.from_pretrained(
                self._folder,
                num_labels=len(label_names),
                id2label=dict(enumerate(label_names)),
                label2id={name: index for index, name in enumerate(label_names)},
                problem_type="multi_label_classification",
                # The default follows the checkpoint, and training in half precision diverges.
                dtype=torch.float32,
                # A checkpoint that was fine-tuned for other labels starts with a new head.
                ignore_mismatched_sizes=True,
                trust_remote_code=False,
                use_safetensors=True,
                output_loading_info=True,
            )
        check_weights(model, loading, self._name)
        return model

    def _compute_checkpoint_key(self, rows: TrainingRows) -> str:
        """Return the digest of all that this training depends on, which its checkpoints carry."""
        state = [field.name for field in fields(TrainingState)]  # a checkpoint of another release may lack a field
        parts = (self._name, self._revision, self._settings, list(rows.label_names), state)
        digest = hashlib.sha256(repr(parts).encode())
        for features, labels in ((rows.features, rows.labels), (rows.validation_features, rows.validation_labels)):
            for array in (features.ids, features.ends, labels):
                digest.update(array.tobytes())
        return digest.hexdigest()


def _import_train_function(loop: Loop) -> Any:
    """Return the loop's `train`; each loop imports libraries that the other does not need."""
    if loop == Loop.ACCELERATE:
        from trainingtask_trainer.models.transformers.loops import plain  # noqa: PLC0415

        return plain.train
    with block_transformers_import("datasets"):  # and with it pandas: a tenth of the time to the first step
        from trainingtask_trainer.models.transformers.loops import trainer  # noqa: PLC0415

    return trainer.train


def _set_output_bias(model: PreTrainedModel, bias: Floats) -> None:
    """Set the bias of the output layer, which is the last one in each family, under various names."""
    layers = [part for part in model.modules() if isinstance(part, torch.nn.Linear)]
    if layers and layers[-1].out_features == len(bias) and layers[-1].bias is not None:
        with torch.no_grad():
            layers[-1].bias.copy_(torch.from_numpy(bias))


def _get_tokenizer(preprocessor: Preprocessor) -> PreTrainedTokenizerBase:
    if not isinstance(preprocessor, Tokenizer):
        raise Fault(Reason.TRAINER_CRASHED, f"{type(preprocessor).__name__} cannot feed a transformer")
    return preprocessor.tokenizer


def _save_tokenizer(preprocessor: Preprocessor, folder: Path) -> None:
    tokenizer = _get_tokenizer(preprocessor)
    assert isinstance(preprocessor, Tokenizer)  # noqa: S101 - checked by _get_tokenizer
    save_tokenizer(tokenizer, preprocessor.max_length, folder)
