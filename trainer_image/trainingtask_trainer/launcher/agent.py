"""The launcher of a task with several processes: it starts one worker for each under torch's elastic agent."""

import logging
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, launch_agent

from trainingtask_api import names
from trainingtask_api.status import Phase
from trainingtask_trainer.errors import Interrupted, WorkerFailedError, diagnose
from trainingtask_trainer.launcher.failures import diagnose_workers, is_consequence
from trainingtask_trainer.launcher.node_exchange import NodeExchange
from trainingtask_trainer.reporting.report_file import ReportFile
from trainingtask_trainer.runtime.memory import count_oom_kills
from trainingtask_trainer.runtime.processes import Group
from trainingtask_trainer.runtime.shared_folder import ENV_SHARED_FOLDER

# A pod is killed 60 s after SIGTERM. The workers have 45 of them for a checkpoint; the rest is for the last report.
_SHUTDOWN_SECONDS = 45
_POLL_SECONDS = 0.1


def launch(group: Group, arguments: Sequence[str], run_id: str, folder: Path) -> None:
    """Run the command line `arguments` in all processes of this node, and wait for them.

    Parameters
    ----------
    group
        The processes.
    arguments
        Of ``python -m trainingtask_trainer``.
    run_id
        Names the run, the same on all its nodes.
    folder
        An empty folder that the processes of this node share.

    Raises
    ------
    WorkerFailedError
        When a process failed, on this node or another; the others are ended then.
    Fault
        When the other nodes do not appear.
    Interrupted
        When this process was asked to stop; the workers have written a checkpoint and ended.
    """
    logging.getLogger("torch.distributed").setLevel(logging.ERROR)  # it warns of each signal that it sends
    os.environ[ENV_SHARED_FOLDER] = str(folder)
    kills = count_oom_kills()
    exchange = NodeExchange(group)
    try:
        launch_agent(
            _configure(group, run_id, folder / "logs"),
            sys.executable,
            ["-P", "-m", "trainingtask_trainer", *arguments],
        )
    except ChildFailedError as error:
        own = diagnose_workers(
            error.failures, folder / "logs", phase=_get_phase(folder), is_out_of_memory=count_oom_kills() > kills
        )
        if group.node_count > 1 and is_consequence(own.failure):
            raise WorkerFailedError(exchange.find_cause(own), is_of_other_node=True) from None
        exchange.tell_cause(own)
        raise WorkerFailedError(own) from None
    except Interrupted as error:
        exchange.tell_cause(diagnose(error, _get_phase(folder)))
        raise


def _get_phase(folder: Path) -> Phase:
    report = ReportFile(folder).read()
    return report.phase if report else Phase.STARTING


def _configure(group: Group, run_id: str, logs: Path) -> LaunchConfig:
    rendezvous: dict[str, Any] = (
        {
            "rdzv_backend": "static",
            "rdzv_endpoint": f"{group.main_address}:{names.MAIN_PORT}",
            "rdzv_configs": {"rank": group.node_rank},
        }
        if group.node_count > 1
        else {"rdzv_backend": "c10d", "rdzv_endpoint": "localhost:0", "local_addr": "localhost"}
    )
    return LaunchConfig(
        min_nodes=group.node_count,
        max_nodes=group.node_count,
        nproc_per_node=group.local_world_size,
        run_id=run_id,
        role="trainer",
        max_restarts=0,  # a retry is another attempt of the task, in new pods
        monitor_interval=_POLL_SECONDS,
        logs_specs=DefaultLogsSpecs(str(logs), tee=Std.ERR),
        log_line_prefix_template="[rank ${rank}] ",
        signals_to_handle="SIGHUP,SIGQUIT",  # SIGTERM and SIGINT raise Interrupted here as in every process
        shutdown_timeout=_SHUTDOWN_SECONDS,
        **rendezvous,
    )
