"""Ports of this machine that a test may listen on."""

import random
import socket
from pathlib import Path

_NODE_PORTS = 30_000  # a cluster on this machine may catch these and those that follow
_HANDED_OUT: set[int] = set()


def free_port() -> int:
    """Return a port that nobody listens on, never the same twice.

    From below those that the kernel gives to connections. Of those, one may be taken between this moment and the one
    in which somebody listens on it; and a client that tries to reach a server that is down may connect to itself.
    """
    first_of_connections = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, min(first_of_connections, _NODE_PORTS))
        if port not in _HANDED_OUT and _is_free(port):
            _HANDED_OUT.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
