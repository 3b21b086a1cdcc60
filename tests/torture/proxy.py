"""A bad line between the gateway and its archive: a TCP proxy whose `mode` may change at any time.

pass       as it came
cut        connections are closed, and nobody is admitted
reset      each connection is reset (RST) somewhere in its first bytes, now and then it is let through
hole       open, accepting, and nothing ever arrives
half-open  the archive's side is closed; the gateway's stays open and is told nothing
trickle    a byte a second each way
flap       cut and pass in turns, every few seconds
"""

from __future__ import annotations

import asyncio
import random
import socket
import struct
import threading
import time
from contextlib import suppress
from types import TracebackType

CHUNK = 65_536
FLAP_SECONDS = 2.0


class Proxy:
    """A context manager; `port` is where to connect to."""

    def __init__(self, target: int, chance: random.Random) -> None:
        self._target, self._chance = target, chance
        self.mode = "pass"
        self.connections = 0
        self._server_socket = socket.create_server(("127.0.0.1", 0), backlog=100)
        self.port: int = self._server_socket.getsockname()[1]
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> Proxy:
        self._thread.start()
        return self

    def __exit__(self, *_: type[BaseException] | BaseException | TracebackType | None) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(10)

    def _run(self) -> None:
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(asyncio.start_server(self._serve, sock=self._server_socket))
        self._loop.run_forever()
        for task in asyncio.all_tasks(self._loop):
            task.cancel()
        self._loop.run_until_complete(self._loop.shutdown_asyncgens())
        self._server_socket.close()

    def now(self) -> str:
        """The mode of this moment."""
        if self.mode == "flap":
            return "cut" if int(time.monotonic() / FLAP_SECONDS) % 2 else "pass"
        return self.mode

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        if self.now() == "cut":
            return writer.close()
        try:
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self._target)
        except OSError:
            return writer.close()
        resets_at = self._chance.choice((200, 5_000, 60_000, 400_000, 1 << 40))
        line = _Line(writer, far_writer, resets_at)
        tasks = [
            asyncio.create_task(self._carry(line, reader, far_writer)),
            asyncio.create_task(self._carry(line, far_reader, writer)),
            asyncio.create_task(self._watch(line)),
        ]
        with suppress(asyncio.CancelledError):  # the proxy ends
            await asyncio.wait(tasks, return_when=asyncio.FIRST_COMPLETED)
        line.close()

    async def _carry(self, line: _Line, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while data := await reader.read(CHUNK):
                while self.now() in ("hole", "half-open"):
                    await asyncio.sleep(0.05)
                if self.now() == "trickle":
                    await self._trickle(data, writer)
                    continue
                line.carried += len(data)
                if self.now() == "reset" and line.carried > line.resets_at:
                    return line.reset()
                writer.write(data)
                await writer.drain()
        except OSError:
            pass  # one side has gone: so goes the other

    async def _trickle(self, data: bytes, writer: asyncio.StreamWriter) -> None:
        for at in range(len(data)):
            if self.now() != "trickle":
                writer.write(data[at:])
                break
            writer.write(data[at : at + 1])
            await writer.drain()  # raises where that side has gone
            await asyncio.sleep(1.0)
        await writer.drain()

    async def _watch(self, line: _Line) -> None:
        """Ends when the line is cut; closes the far side when the line is half open."""
        while self.now() != "cut":
            if self.now() == "half-open" and not line.half:
                line.half = True
                line.far.close()
            if line.half and self.now() == "pass":
                await asyncio.sleep(3600)  # for this connection the line never comes back
            await asyncio.sleep(0.05)


class _Line:
    def __init__(self, near: asyncio.StreamWriter, far: asyncio.StreamWriter, resets_at: int) -> None:
        self.near, self.far, self.resets_at = near, far, resets_at
        self.carried, self.half = 0, False

    def reset(self) -> None:
        for writer in (self.near, self.far):
            sock = writer.get_extra_info("socket")
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
            writer.transport.abort()

    def close(self) -> None:
        self.near.close()
        self.far.close()
