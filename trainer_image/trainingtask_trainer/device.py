"""Where torch computes, and how loud transformers is about it."""

from typing import Any

import torch
import transformers

from trainingtask_api.spec import Device
from trainingtask_trainer.errors import Fault


def prepare_torch(device: Device) -> torch.device:
    """Return the device of a task for torch, and turn off transformers' own bars and advice: the run reports for itself.

    Raises
    ------
    Fault
        When the task wants a GPU and there is none.
    """
    logging: Any = transformers.logging
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if device == Device.CPU:
        return torch.device("cpu")
    if not torch.cuda.is_available():
        raise Fault(
            "NoGPU",
            "device is 'gpu', but torch finds no usable GPU here: check the node's driver, the runtime class and "
            "that the trainer image is the one for GPUs",
        )
    return torch.device("cuda")
