"""The processes that train together: how many there are, and which of them this one is."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from trainingtask_api.names import ENV_MAIN_ADDRESS, ENV_NODE_RANK
from trainingtask_api.spec import TrainingTaskSpec


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

    @staticmethod
    def is_worker(environment: Mapping[str, str] = os.environ) -> bool:
        """Return whether torch's agent has started this process: ours, or that of torchrun."""
        return "RANK" in environment

    @classmethod
    def from_environment(cls, environment: Mapping[str, str] = os.environ) -> "Processes":
        """Return what torch's agent has set; without an agent this process is the only one."""
        names = {field: field.upper() for field in ("rank", "world_size", "local_rank", "local_world_size")}
        return cls(**{field: int(environment[name]) for field, name in names.items() if name in environment})


SINGLE_PROCESS = Processes()


@dataclass(frozen=True)
class Group:
    """The processes that a task needs, as the launcher of one node knows them.

    Attributes
    ----------
    local_world_size
        Processes on each node: one for each GPU, or one without GPUs.
    node_count, node_rank
        All nodes, and the number of this one, from 0.
    main_address
        Host name of the node with number 0, where all meet; empty with a single node.
    """

    local_world_size: int
    node_count: int = 1
    node_rank: int = 0
    main_address: str = ""

    @property
    def world_size(self) -> int:
        """All processes, on all nodes."""
        return self.local_world_size * self.node_count


def plan_group(
    spec: TrainingTaskSpec, processes: int | None = None, environment: Mapping[str, str] = os.environ
) -> Group:
    """Return the processes of a task: those of all its nodes in a pod, else those of this machine.

    Parameters
    ----------
    spec
        Of the task.
    processes
        Processes on this machine; by default one for each of the task's GPUs.
    environment
        Of this process.
    """
    local = processes or (spec.resources and spec.resources.gpus) or 1
    address = environment.get(ENV_MAIN_ADDRESS)
    if spec.node_count == 1 or not address:
        return Group(local)
    return Group(local, spec.node_count, int(environment[ENV_NODE_RANK]), address)
