"""Where torch computes, and how loud transformers is about it."""

from typing import Any

import torch
import transformers

from trainingtask_api.reasons import Reason
from trainingtask_api.spec import Device
from trainingtask_trainer.errors import Fault
from trainingtask_trainer.runtime.memory import disable_malloc_trim


def prepare_torch(device: Device) -> torch.device:
    """Return the device of a task for torch, with memory and log of this process made ready for it.

    transformers' own bars and advice are turned off: the run reports for itself.

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
    # cuDNN's attention is planned anew for each shape, a tenth of a second each time, and batches here have many shapes.
    torch.backends.cuda.enable_cudnn_sdp(False)
    return torch.device("cuda")
