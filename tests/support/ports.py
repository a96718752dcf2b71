"""Free ports of this machine."""

import random
import socket
from pathlib import Path

_NODE_PORTS = 30_000  # from here on a cluster on this machine may use them
_RETURNED: set[int] = set()


def free_port() -> int:
    """Return a free port, never the same twice.

    It is below the ephemeral ports, which a connection may take before the test listens, and on which a client of a
    stopped server may connect to itself.
    """
    first_ephemeral = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    while True:
        port = random.randrange(10_000, min(first_ephemeral, _NODE_PORTS))
        if port not in _RETURNED and _is_free(port):
            _RETURNED.add(port)
            return port


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
        return True
