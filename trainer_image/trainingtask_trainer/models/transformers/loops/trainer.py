"""Hugging Face's Trainer as the loop: its optimizer steps and checkpoints, the session's batches, losses and decisions."""

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import transformers
from safetensors.torch import save_file
from torch.utils.data import DataLoader, Sampler
from transformers import PreTrainedModel, Trainer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from trainingtask_api.training import Precision
from trainingtask_trainer.models.transformers import packed_attention
from trainingtask_trainer.models.transformers.collation import Batch, count_rows_and_tokens, move_to_device
from trainingtask_trainer.models.transformers.optimization import accumulate_gradients, create_optimizer_and_scheduler
from trainingtask_trainer.models.transformers.step_graphs import StepGraphs
from trainingtask_trainer.models.transformers.training_state import WEIGHTS_FILE, TrainingSession


def train(model: PreTrainedModel, session: TrainingSession) -> None:
    """Train until the session is finished."""
    with tempfile.TemporaryDirectory(dir=session.scratch) as scratch:
        trainer = _StepTrainer(model, session, _build_training_arguments(session, scratch))
        resumed = session.resumed_from
        trainer.train(resume_from_checkpoint=None if resumed is None else str(resumed.folder))
        trainer.accelerator.unwrap_model(model, keep_fp32_wrapper=False)


def _build_training_arguments(session: TrainingSession, scratch: str) -> TrainingArguments:
    settings = session.settings
    arguments = TrainingArguments(
        output_dir=scratch,
        num_train_epochs=settings.epochs,
        # A batch of the Trainer is a whole optimizer step, however it is split.
        per_device_train_batch_size=settings.batch_size * settings.gradient_accumulation_steps,
        max_grad_norm=settings.max_gradient_norm,
        bf16=settings.precision == Precision.BF16,
        fp16=settings.precision == Precision.FP16,
        seed=settings.seed,
        use_cpu=not settings.on_gpu,
        logging_strategy="no",
        logging_nan_inf_filter=False,  # the filter would hide a loss that is not finite
        save_strategy="no",  # the callback requests each save
        report_to="none",
        disable_tqdm=True,
    )
    if settings.on_gpu:
        # With several GPUs Trainer would multiply the batch by their number (DataParallel).
        _ = arguments.device
        arguments._n_gpu = 1
    return arguments


class _StepTrainer(Trainer):
    """A Trainer whose batch is one optimizer step: a list of micro-batches."""

    def __init__(self, model: PreTrainedModel, session: TrainingSession, arguments: TrainingArguments) -> None:
        super().__init__(
            model,
            arguments,
            callbacks=[_SessionCallback(session)],
            optimizers=create_optimizer_and_scheduler(model, session.settings, session.plan.total_steps),
        )
        self.remove_callback(transformers.PrinterCallback)
        self._session = session
        has_graphs = packed_attention.IS_USED_ON_GPUS and session.settings.on_gpu
        self._graphs = StepGraphs(model, session.plan.max_tokens) if has_graphs else None

    def get_train_dataloader(self) -> "DataLoader[Batch]":
        """Return the loader of an epoch's optimizer steps."""
        return DataLoader(
            self._session.dataset,
            batch_sampler=OptimizerStepSampler(self._session),
            collate_fn=lambda batches: {"micro_batches": batches},
            generator=torch.Generator(),  # by default it draws from the numbers that dropout uses
        )

    def training_step(
        self, model: torch.nn.Module, inputs: dict[str, Any], num_items_in_batch: Any = None
    ) -> torch.Tensor:
        """Add the gradients of all micro-batches and return the step's mean loss."""
        del num_items_in_batch  # counted per batch, which is a list here
        batches: list[Batch] = inputs["micro_batches"]
        model.train()
        loss = accumulate_gradients(
            model,
            move_to_device(batches, self.args.device),
            self._session.loss_function,
            self.accelerator.backward,
            graphs=self._graphs,
        )
        self._session.record_step(loss, *count_rows_and_tokens(batches))
        return loss

    def save_model(self, output_dir: str | None = None, _internal_call: bool = False) -> None:
        """Write the weights under the model's own names; the library would use those of the pretrained file."""
        folder = Path(output_dir or str(self.args.output_dir))
        folder.mkdir(parents=True, exist_ok=True)
        save_file(self.accelerator.unwrap_model(self.model).state_dict(), folder / WEIGHTS_FILE)

    def floating_point_ops(self, inputs: dict[str, Any]) -> int:
        """Return 0: nothing uses the number, and the library's estimate needs a single batch."""
        del inputs
        return 0


class OptimizerStepSampler(Sampler[list[list[int]]]):
    """Samples the micro-batches of each optimizer step of the running epoch; the Trainer skips the steps that are done."""

    def __init__(self, session: TrainingSession) -> None:
        self._session = session

    def __len__(self) -> int:
        return self._session.plan.steps_per_epoch

    def __iter__(self) -> Iterator[list[list[int]]]:
        plan = self._session.plan
        return map(plan.split_step, plan.plan_epoch(self._session.epoch))


class _SessionCallback(TrainerCallback):
    """Calls the session after steps and epochs, and has the Trainer save and stop as the session decides."""

    def __init__(self, session: TrainingSession) -> None:
        self._session = session

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save = self._session.end_step()

    def on_epoch_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        control.should_save = self._session.end_epoch()
        control.should_training_stop = self._session.is_finished

    def on_save(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **_: Any) -> None:
        written = Path(str(args.output_dir)) / f"checkpoint-{state.global_step}"

        def move_files(folder: Path) -> None:
            for path in written.iterdir():
                path.rename(folder / path.name)
            shutil.rmtree(written)

        self._session.write_checkpoint(move_files)
