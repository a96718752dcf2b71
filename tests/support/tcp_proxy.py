"""A TCP proxy before a database that refuses, stalls, or breaks connections on a given message."""

import asyncio
import contextlib
from typing import Self

from support.ports import free_port


class TcpProxy:
    """Forwards bytes in both directions.

    Attributes
    ----------
    is_stalled
        Connections are accepted and stay open, but their bytes are dropped.
    cut_at
        Breaks the connection on which the client sends these bytes, `cuts` times.
    cut_after
        Whether the server still receives these bytes.
    """

    def __init__(self, port: int) -> None:
        self.port = free_port()
        self.is_stalled = False
        self.cut_at: bytes | None = None
        self.cut_after = False
        self.cuts = 0
        self._upstream = port
        self._writers: set[asyncio.StreamWriter] = set()
        self._server: asyncio.Server | None = None

    async def __aenter__(self) -> Self:
        await self.open()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    async def open(self) -> None:
        """Accept connections."""
        if self._server is None:
            self._server = await asyncio.start_server(self._serve, "127.0.0.1", self.port)

    async def close(self) -> None:
        """Break all connections and refuse new ones."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()

    async def _serve(self, client: asyncio.StreamReader, to_client: asyncio.StreamWriter) -> None:
        server, to_server = await asyncio.open_connection("127.0.0.1", self._upstream)
        writers = {to_client, to_server}
        self._writers |= writers
        try:
            await asyncio.gather(
                self._forward(client, to_server, writers, is_client=True), self._forward(server, to_client, writers)
            )
        finally:
            self._writers -= writers
            for writer in writers:
                writer.transport.abort()

    async def _forward(
        self,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        both: set[asyncio.StreamWriter],
        *,
        is_client: bool = False,
    ) -> None:
        with contextlib.suppress(ConnectionError):
            while data := await reader.read(2**16):
                cut = is_client and self.cuts > 0 and self.cut_at is not None and self.cut_at in data
                if not self.is_stalled and (not cut or self.cut_after):
                    writer.write(data)
                    await writer.drain()
                if cut:
                    self.cuts -= 1
                    break
        if not self.is_stalled:
            for end in both:
                end.close()
