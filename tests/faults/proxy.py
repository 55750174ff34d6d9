"""A TCP proxy on the loopback interface that gives an MQTT connection the faults of a network."""

from __future__ import annotations

import asyncio
import contextlib
import threading
from collections.abc import Iterator
from typing import Literal

from cachenet.simulator.world.processes import free_port

Mode = Literal["pass", "partition", "half_open", "slow", "duplicate", "reorder"]
#: Rate of a slow link, bytes per second, and bytes that it sends at a time.
_SLOW_RATE, _SLOW_PIECE = 1000, 100
#: Longest time that a message waits for the next one, which overtakes it, seconds.
_HOLD_S = 0.3
_PUBLISH = 3


class Proxy:
    """Forwards connections from its port to another; ``mode`` applies to new and to open connections.

    - ``partition``: connections are reset and refused.
    - ``half_open``: connections stay open, and all bytes are lost; at the end they are reset.
    - ``slow``: 1 kB/s in each direction.
    - ``duplicate``: each message (PUBLISH) is sent twice.
    - ``reorder``: each second message overtakes the one before.
    """

    def __init__(self, upstream: int) -> None:
        """``upstream``: port of the broker."""
        self.port = free_port()
        #: Messages that were sent twice, or overtaken.
        self.changed = 0
        self._upstream, self._mode = upstream, "pass"
        self._open: set[asyncio.StreamWriter] = set()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Listen on ``port``."""
        ready = threading.Event()
        self._loop.call_soon(ready.set)
        self._server = self._loop.run_until_complete(asyncio.start_server(self._accept, "127.0.0.1", self.port))
        self._thread.start()
        ready.wait()

    def set(self, mode: Mode) -> None:
        """Change the mode."""
        self._loop.call_soon_threadsafe(self._set, mode)

    def stop(self) -> None:
        """Reset all connections and end."""
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()

    def _run(self) -> None:
        try:
            self._loop.run_forever()
        finally:
            self._set("partition")
            self._server.close()
            for task in asyncio.all_tasks(self._loop):
                task.cancel()
            self._loop.run_until_complete(asyncio.sleep(0))
            self._loop.close()

    def _set(self, mode: Mode) -> None:
        # Bytes were lost while the connections were half open, so the connections have no use afterwards.
        if mode == "partition" or self._mode == "half_open":
            for writer in self._open:
                writer.transport.abort()
        self._mode = mode

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        if self._mode == "partition":
            writer.transport.abort()
            return
        self._open.add(writer)
        upstream: asyncio.StreamWriter | None = None
        try:
            if self._mode == "half_open":
                await self._swallow(reader)
                return
            with contextlib.suppress(OSError):
                back, upstream = await asyncio.open_connection("127.0.0.1", self._upstream)
                self._open.add(upstream)
                both = [
                    asyncio.ensure_future(self._pump(reader, upstream)),
                    asyncio.ensure_future(self._pump(back, writer)),
                ]
                await asyncio.wait(both, return_when=asyncio.FIRST_COMPLETED)
                for task in both:
                    task.cancel()
        finally:
            for end in filter(None, (writer, upstream)):
                end.transport.abort()
                self._open.discard(end)

    async def _swallow(self, reader: asyncio.StreamReader) -> None:
        with contextlib.suppress(OSError):
            while await reader.read(1 << 16):
                pass

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        """Forward packets until the connection ends."""
        left, held = b"", b""
        with contextlib.suppress(OSError):
            while True:
                wait_s = _HOLD_S if held else None
                try:
                    data = await asyncio.wait_for(reader.read(1 << 16), wait_s)
                except asyncio.TimeoutError:
                    await self._send(writer, held)
                    held = b""
                    continue
                if not data:
                    return
                if self._mode == "half_open":
                    continue
                found, left = packets(left + data)
                for packet in found:
                    if packet[0] >> 4 != _PUBLISH:
                        await self._send(writer, packet)
                    elif self._mode == "duplicate":
                        self.changed += 1
                        await self._send(writer, packet + packet)
                    elif held:
                        self.changed += 1
                        await self._send(writer, packet + held)
                        held = b""
                    elif self._mode == "reorder":
                        held = packet
                    else:
                        await self._send(writer, packet)

    async def _send(self, writer: asyncio.StreamWriter, data: bytes) -> None:
        while data:
            size = _SLOW_PIECE if self._mode == "slow" else len(data)
            writer.write(data[:size])
            await writer.drain()
            data = data[size:]
            if self._mode == "slow":
                await asyncio.sleep(size / _SLOW_RATE)


def packets(data: bytes) -> tuple[list[bytes], bytes]:
    """Split a stream into whole MQTT packets and the rest: a byte of type and flags, a length as a varint, a body."""
    found: list[bytes] = []
    at = 0
    while (end := _end(data, at)) is not None:
        found.append(data[at:end])
        at = end
    return found, data[at:]


def _end(data: bytes, at: int) -> int | None:
    """End of the packet that begins at ``at``; None if it is not complete."""
    length = 0
    for number, byte in enumerate(_bytes(data, at + 1, 4)):
        length |= (byte & 0x7F) << 7 * number
        if byte < 0x80:
            end = at + 2 + number + length
            return end if end <= len(data) else None
    return None


def _bytes(data: bytes, at: int, most: int) -> Iterator[int]:
    yield from data[at : at + most]
