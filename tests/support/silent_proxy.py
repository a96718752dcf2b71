"""An HTTP proxy that accepts connections and never answers, as the environment's for all requests."""

import socket
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

_SCHEMES = ("HTTP", "HTTPS", "ALL")


@contextmanager
def use_silent_proxy(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Name the proxy in all variables, without exceptions; fail when it was asked."""
    with socket.create_server(("127.0.0.1", 0)) as proxy, monkeypatch.context() as environment:
        for name in (f"{scheme}_PROXY" for scheme in _SCHEMES):
            for variable in (name, name.lower()):
                environment.setenv(variable, f"http://127.0.0.1:{proxy.getsockname()[1]}")
        for variable in ("NO_PROXY", "no_proxy"):
            environment.delenv(variable, raising=False)
        yield
        proxy.setblocking(False)
        with pytest.raises(BlockingIOError):  # nobody is waiting
            proxy.accept()
