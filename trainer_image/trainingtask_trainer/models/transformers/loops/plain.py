"""The plain loop, the default: all that a training does, in the order in which it happens.

accelerate's `Accelerator` adds mixed precision, and saves the optimizer and the random numbers.
"""

from accelerate import Accelerator
from transformers import PreTrainedModel, set_seed

from trainingtask_trainer.models.transformers.collation import count_rows_and_tokens, move_to_device
from trainingtask_trainer.models.transformers.optimization import accumulate_gradients, create_optimizer_and_scheduler
from trainingtask_trainer.models.transformers.training_state import TrainingSession

_MIXED_PRECISION = {"fp32": "no", "bf16": "bf16", "fp16": "fp16"}


def train(model: PreTrainedModel, session: TrainingSession) -> None:
    """Train until the session is finished."""
    settings = session.settings
    set_seed(settings.seed)
    accelerator = Accelerator(mixed_precision=_MIXED_PRECISION[settings.precision.value], cpu=not settings.on_gpu)
    optimizer, scheduler = create_optimizer_and_scheduler(model, settings, session.plan.total_steps)
    model, optimizer, scheduler = accelerator.prepare(model, optimizer, scheduler)
    if session.resumed_from is not None:
        accelerator.load_state(str(session.resumed_from.folder))

    def write_checkpoint() -> None:
        with session.write_checkpoint() as folder:
            accelerator.save_state(str(folder))

    while not session.is_finished:
        for micro_batches in session.plan.iter_remaining_steps(session.state.step):
            model.train()
            batches = [session.dataset[rows] for rows in micro_batches]
            loss = accumulate_gradients(
                model, move_to_device(batches, accelerator.device), session.loss_function, accelerator.backward
            )
            if settings.max_gradient_norm > 0:
                accelerator.clip_grad_norm_(model.parameters(), settings.max_gradient_norm)
            optimizer.step()
            scheduler.step()
            optimizer.zero_grad()
            session.record_step(loss, *count_rows_and_tokens(batches))
            if session.end_step():
                write_checkpoint()
        if session.end_epoch():
            write_checkpoint()
    accelerator.unwrap_model(model, keep_fp32_wrapper=False)
