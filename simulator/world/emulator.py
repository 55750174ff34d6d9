"""The link emulator: a TCP proxy in user space that makes loopback behave like the link of a profile.

The proxy stands between an agent and its broker. It needs no privilege, unlike ``tc netem``. ``LinkDirection`` decides
when bytes arrive; the proxy reads them, holds them until then and writes them. One emulator is the link of one device:
its connections share rate and order.
"""

from __future__ import annotations

import asyncio
import contextlib
import selectors
import signal
import socket
import time
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

import msgspec

from cachenet.simulator.world.link_direction import LinkDirection, directions
from cachenet.simulator.world.link_profiles import LinkProfile

T = TypeVar("T")

#: Largest read, bytes.
_READ = 64 << 10
#: Buffer of the link's bottleneck beyond the bytes in flight, bytes.
_BUFFER = 64 << 10
#: Start of the outage in every minute, seconds: early, so that a short run includes one.
OUTAGE_AT_S = 10.0
_MINUTE_S = 60.0


class Counts(msgspec.Struct, frozen=True):
    """TCP payload that has entered the link from (``bytes_up``) and to (``bytes_down``) the device, bytes."""

    bytes_up: int
    bytes_down: int


class LinkClock:
    """The link's clock, seconds from 0. It stands still while the link is down, so bytes queued in an outage leave
    afterwards in order and at the link's rate."""

    def __init__(self) -> None:
        self._started = time.monotonic()
        self._up = asyncio.Event()
        self._up.set()
        self._down_s = 0.0
        self._paused_at = 0.0

    def now(self) -> float:
        """The time of the link."""
        return (time.monotonic() if self._up.is_set() else self._paused_at) - self._down_s - self._started

    async def until(self, due: float) -> None:
        """Return at ``due`` or later, while the link is up."""
        while not self._up.is_set() or due > self.now():
            if self._up.is_set():
                await asyncio.sleep(due - self.now())
            else:
                await self._up.wait()

    def pause(self) -> None:
        """Take the link down."""
        if self._up.is_set():
            self._paused_at = time.monotonic()
            self._up.clear()

    def resume(self) -> None:
        """Bring the link up."""
        if not self._up.is_set():
            self._down_s += time.monotonic() - self._paused_at
            self._up.set()


class _Direction:
    """One direction of the link, and the count of its bytes."""

    def __init__(self, rule: LinkDirection, clock: LinkClock) -> None:
        self.rule, self.clock = rule, clock
        self.bytes = 0
        self.bound = _BUFFER + rule.in_flight


class _Pipe:
    """Bytes under way in one direction of one connection, in order; an empty piece is the end of the stream."""

    def __init__(self, direction: _Direction) -> None:
        self._direction = direction
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._held = 0
        self._written = asyncio.Event()

    async def read(self, source: asyncio.StreamReader) -> None:
        """Read until the stream ends or breaks. A full link stops reading, so that the sender must wait."""
        direction = self._direction
        data = b"-"
        while data:
            try:
                data = await source.read(_READ)
            except OSError:
                data = b""
            direction.bytes += len(data)
            self._held += len(data)
            self._pieces.put_nowait((direction.rule.schedule(direction.clock.now(), len(data)), data))
            while self._held > direction.bound:
                self._written.clear()
                await self._written.wait()

    async def write(self, sink: asyncio.StreamWriter) -> None:
        """Write every piece when it is due, then the end. Bytes to a closed receiver are dropped; the other direction
        goes on until its own end."""
        data = b"-"
        while data:
            due, data = await self._pieces.get()
            await self._direction.clock.until(due)
            with contextlib.suppress(OSError):
                if data and not sink.is_closing():
                    sink.write(data)
                    await sink.drain()
            self._held -= len(data)
            self._written.set()
        with contextlib.suppress(OSError):
            sink.write_eof()


class Emulator:
    """An emulated link from a port of this machine to the address ``to``, in a running event loop."""

    def __init__(self, profile: LinkProfile, to: tuple[str, int], seed: int = 0) -> None:
        self._profile, self._to = profile, to
        self._clock = LinkClock()
        up, down = directions(profile, seed)
        self._up, self._down = _Direction(up, self._clock), _Direction(down, self._clock)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._outages: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> int:
        """Listen on the loopback interface; return the port. Raises ``OSError`` if the port is taken."""
        listener = socket.create_server(("127.0.0.1", port))
        _tune(listener)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=_READ)
        if self._profile.outage_s:
            self._outages = asyncio.create_task(self._repeat_outages())
        return int(listener.getsockname()[1])

    async def stop(self) -> Counts:
        """Break every connection, free the port and return the byte counts."""
        if self._outages:
            self._outages.cancel()
        if self._server:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        return self.counts()

    def counts(self) -> Counts:
        """The byte counts so far."""
        return Counts(self._up.bytes, self._down.bytes)

    def pause(self) -> None:
        """Take the link down: connections stay, bytes wait."""
        self._clock.pause()

    def resume(self) -> None:
        """Bring the link up."""
        self._clock.resume()

    async def _repeat_outages(self) -> None:
        await asyncio.sleep(OUTAGE_AT_S)
        while True:
            self.pause()
            await asyncio.sleep(self._profile.outage_s)
            self.resume()
            await asyncio.sleep(_MINUTE_S - self._profile.outage_s)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self._connections.add(task)
        try:
            # A cancelled or broken connection just ends; the device connects again.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            writer.close()
            self._connections.discard(task)

    async def _connect(self, device_in: asyncio.StreamReader, device_out: asyncio.StreamWriter) -> None:
        broker_in, broker_out = await asyncio.open_connection(*self._to, limit=_READ)
        _tune(broker_out.get_extra_info("socket"))
        try:
            # The kernel has done the device's TCP handshake already; over the real link it takes a round trip.
            await self._clock.until(self._clock.now() + self._profile.rtt_ms / 1e3)
            up, down = _Pipe(self._up), _Pipe(self._down)
            await asyncio.gather(up.read(device_in), up.write(broker_out), down.read(broker_in), down.write(device_out))
        finally:
            broker_out.close()


def _tune(sock: socket.socket) -> None:
    """Disable Nagle's algorithm and large kernel buffers, which would add delays and hide queues of the emulated link.
    Accepted connections inherit both from their listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ)


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on ``select``, whose time-outs are in microseconds. Those of ``epoll`` are whole milliseconds, a
    quarter of the wifi profile's delay."""
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def serve(
    emulator: Emulator, port: int, on_listening: Callable[[], None], on_counts: Callable[[Counts], None]
) -> Counts:
    """Emulate until SIGINT or SIGTERM. ``on_listening`` is called once, ``on_counts`` at every SIGUSR1."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: on_counts(emulator.counts()))
    await emulator.start(port)
    on_listening()
    await ended.wait()
    return await emulator.stop()
