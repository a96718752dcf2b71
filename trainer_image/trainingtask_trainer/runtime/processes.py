"""The processes that train together: which of them this one is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True)
class Processes:
    """The place of this process among those of the task, in torch's words.

    Attributes
    ----------
    rank
        Its number among all processes, from 0. Rank 0 alone reports, and writes checkpoints and the model.
    world_size
        All processes, on all nodes.
    local_rank, local_world_size
        The same among the processes of this pod.
    """

    rank: int = 0
    world_size: int = 1
    local_rank: int = 0
    local_world_size: int = 1

    @property
    def is_main(self) -> bool:
        """Whether this is rank 0."""
        return self.rank == 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Processes":
        """Return what torch's agent has set; without an agent this process is the only one."""
        names = {field: field.upper() for field in ("rank", "world_size", "local_rank", "local_world_size")}
        return cls(**{field: int(environment[name]) for field, name in names.items() if name in environment})
