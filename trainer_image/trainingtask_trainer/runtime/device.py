"""The device of torch, and process-wide settings of torch and transformers."""

from typing import Any

import torch
import transformers

from trainingtask_api.reasons import Reason
from trainingtask_api.spec import Device
from trainingtask_trainer.errors import Fault
from trainingtask_trainer.runtime.memory import disable_malloc_trim
from trainingtask_trainer.runtime.processes import Processes


def prepare_torch(device: Device) -> torch.device:
    """Return torch's device for a task, after setting up allocator, kernels and logging of this process.

    transformers' own progress bars and warnings are turned off: the reporter shows the progress.

    Raises
    ------
    Fault
        When the task wants a GPU and there is none.
    """
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if device == Device.CPU:
        disable_malloc_trim()
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Fault(
            Reason.NO_GPU,
            "device is 'gpu', but torch finds no usable GPU here: check the node's driver, the runtime class and "
            "that the trainer image is the one for GPUs",
        )
    # cuDNN plans its attention for each shape, 0.1 s each time, and batches here have many shapes.
    torch.backends.cuda.enable_cudnn_sdp(False)
    torch.cuda.set_device(Processes.from_environment().local_rank)
    return torch.device("cuda")
