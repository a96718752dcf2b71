"""What the launchers of a task's nodes tell each other: that they are there, and why their workers failed."""

import json
import socket
import time
from collections.abc import Iterator
from datetime import timedelta

from pydantic import ValidationError
from torch.distributed import DistError, TCPStore  # type: ignore[attr-defined] # in no `__all__`

from trainingtask_api.names import MAIN_PORT
from trainingtask_api.reasons import Reason
from trainingtask_api.status import ExitCode, Failure
from trainingtask_trainer.errors import MAX_MESSAGE_LENGTH, Diagnosis, Fault, Interrupted, join_names
from trainingtask_trainer.runtime.processes import Group
from trainingtask_trainer.runtime.rank_store import ENDED_KEY

_ARRIVAL_SECONDS = 1800.0  # a node may have to pull the image
_REQUEST_TIMEOUT = timedelta(seconds=10)
_CAUSE_SECONDS = 15.0
_POLL_SECONDS = 0.5


class NodeExchange:
    """A store on the first node, which torch's agents use as well.

    Parameters
    ----------
    group
        The processes of the task; with a single node there is nothing to exchange.
    """

    def __init__(self, group: Group) -> None:
        self._group = group
        self._store = self._connect() if group.node_count > 1 else None

    def _connect(self) -> TCPStore:
        """Return the store once all nodes are there.

        Raises
        ------
        Fault
            When a node is missing after half an hour.
        """
        deadline = time.monotonic() + _ARRIVAL_SECONDS
        is_first = self._group.node_rank == 0
        # Torch's own waiting cannot be interrupted, and logs each try.
        while not is_first and not self._is_first_node_there():
            _wait_until(deadline, [0])
        store = TCPStore(
            self._group.main_address,
            MAIN_PORT,
            is_master=is_first,
            timeout=_REQUEST_TIMEOUT,
            wait_for_workers=False,
            multi_tenant=True,
        )
        store.set(f"node/{self._group.node_rank}", "")
        while missing := [node for node in range(self._group.node_count) if not store.check([f"node/{node}"])]:
            _wait_until(deadline, missing)
        return store

    def _is_first_node_there(self) -> bool:
        try:
            socket.create_connection((self._group.main_address, MAIN_PORT), _REQUEST_TIMEOUT.total_seconds()).close()
        except OSError:
            return False
        return True

    def tell_cause(self, diagnosis: Diagnosis) -> None:
        """Tell the other nodes why this one ends and with it the attempt."""
        self._tell("cause", diagnosis)

    def find_cause(self, own: Diagnosis) -> Diagnosis:
        """Return the failure of another node that caused this node's, for which it waits some seconds.

        All nodes end with its exit code: a user's mistake on one is not tried again because of another.
        """
        assert self._store is not None  # noqa: S101 - a single node has no other
        self._tell("consequence", own)
        deadline = time.monotonic() + _CAUSE_SECONDS
        silent = [0]
        try:
            while not (causes := list(self._iter_causes())):
                silent = [
                    node for node in range(self._group.node_count) if not self._store.check([f"consequence/{node}"])
                ]
                if not silent:
                    return own
                if time.monotonic() > deadline:
                    return _add_silent_nodes(own, silent)
                time.sleep(_POLL_SECONDS)
        except DistError:  # the first node has ended
            return _add_silent_nodes(own, [0])
        except Interrupted:  # Kubernetes has found the node that ended, and deletes the others
            return _add_silent_nodes(own, silent)
        return causes[0]

    def _tell(self, kind: str, diagnosis: Diagnosis) -> None:
        if self._store is None:
            return
        content = json.dumps({"exitCode": diagnosis.exit_code, "failure": diagnosis.failure.to_json()})
        try:
            self._store.set(f"{kind}/{self._group.node_rank}", content)
            self._store.set(ENDED_KEY, "")
        except DistError:
            return  # the first node has ended before, with a cause of its own

    def _iter_causes(self) -> Iterator[Diagnosis]:
        """Yield the valid causes that nodes told; the code of the task may write into the store, too."""
        assert self._store is not None  # noqa: S101 - checked by find_cause
        for node in range(self._group.node_count):
            if self._store.check([f"cause/{node}"]):
                try:
                    content = json.loads(self._store.get(f"cause/{node}"))
                    yield Diagnosis(ExitCode(content["exitCode"]), Failure.model_validate(content["failure"]))
                except (ValueError, TypeError, KeyError, ValidationError):
                    continue


def _wait_until(deadline: float, missing: list[int]) -> None:
    if time.monotonic() > deadline:
        raise Fault(
            Reason.PEER_LOST,
            f"{_name_nodes(missing)} did not start within {_ARRIVAL_SECONDS / 60:.0f} minutes: look at the events of the"
            " task's pods",
        )
    time.sleep(_POLL_SECONDS)


def _add_silent_nodes(own: Diagnosis, silent: list[int]) -> Diagnosis:
    """Return the failure of a node that lost peers, with the nodes that may have caused it."""
    if own.exit_code == ExitCode.INTERRUPTED:
        return own
    sentence = f"{own.failure.message}; {_name_nodes(silent)} ended or does not answer"
    return own._replace(failure=own.failure.model_copy(update={"message": sentence[:MAX_MESSAGE_LENGTH]}))


def _name_nodes(nodes: list[int]) -> str:
    return f"{'node' if len(nodes) == 1 else 'nodes'} {join_names([str(node) for node in nodes])}"
