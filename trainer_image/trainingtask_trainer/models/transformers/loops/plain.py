"""The plain loop, the default: all that a training does, in the order in which it happens.

accelerate's `Accelerator` adds mixed precision, and saves the optimizer and the random numbers.
"""

from pathlib import Path

import numpy as np
from accelerate import Accelerator
from accelerate.utils import DataLoaderConfiguration
from transformers import PreTrainedModel, set_seed

from trainingtask_trainer.models.transformers import packed_attention
from trainingtask_trainer.models.transformers.collation import move_to_device
from trainingtask_trainer.models.transformers.gradient_exchange import GradientExchange
from trainingtask_trainer.models.transformers.optimization import (
    accumulate_gradients,
    create_optimizer_and_scheduler,
    share_optimizer_state,
)
from trainingtask_trainer.models.transformers.step_graphs import StepGraphs
from trainingtask_trainer.models.transformers.training_state import TrainingSession

_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(model: PreTrainedModel, session: TrainingSession) -> None:
    """Train until the session is finished."""
    settings = session.settings
    set_seed(settings.seed)
    accelerator = Accelerator(
        mixed_precision=_MIXED_PRECISION[settings.precision.value],
        cpu=not settings.on_gpu,
        dataloader_config=DataLoaderConfiguration(split_batches=True),  # one step of the scheduler for one of all ranks
    )
    optimizer, scheduler = create_optimizer_and_scheduler(model, settings, session.plan.total_steps)
    # `evaluation_mode` alone leaves out DistributedDataParallel.
    model = accelerator.prepare_model(model, evaluation_mode=True)
    optimizer, scheduler = accelerator.prepare(optimizer, scheduler)
    if session.resumed_from is not None:
        accelerator.load_state(str(session.resumed_from.folder))
    if session.resumed_step is not None:
        share_optimizer_state(optimizer, scheduler, accelerator.scaler)
    if not session.processes.is_main:  # dropout differs from rank 0's, whose random numbers are in the checkpoint
        entropy = [settings.seed, session.state.step, session.processes.rank]
        set_seed(int(np.random.SeedSequence(entropy).generate_state(1)[0]))
    exchange = GradientExchange(model)
    graphs = (
        StepGraphs(model, session.plan.max_tokens) if packed_attention.IS_USED_ON_GPUS and settings.on_gpu else None
    )

    def save_state(folder: Path) -> None:
        accelerator.save_state(str(folder))

    while not session.is_finished:
        for step in session.plan.iter_remaining_steps(session.state.step):
            with exchange.time_step():
                model.train()
                batches = [session.dataset[rows] for rows in session.plan.split_step(step)]
                rows, tokens = session.plan.count_rows_and_tokens(step)
                loss = accumulate_gradients(
                    model,
                    move_to_device(batches, accelerator.device),
                    session.loss_function,
                    accelerator.backward,
                    decisions=rows * int(model.config.num_labels or 0),
                    graphs=graphs,
                )
                loss = exchange.sum_gradients(loss)
                if settings.max_gradient_norm > 0:
                    accelerator.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
            session.record_step(loss, rows, tokens)
            if session.end_step():
                session.write_checkpoint(save_state)
        if session.end_epoch():
            session.write_checkpoint(save_state)
    session.scaling_efficiency = exchange.measure_efficiency()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
