"""The link emulator: a TCP proxy in user space that makes loopback behave like the link of a profile.

Stands between an agent and its broker and needs no privilege, unlike ``tc netem``. ``LinkDirection`` decides when
bytes arrive; here they are read, held until then and written. One link serves one device: connections through the same
emulator share its rate and its order.
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

from cachenet.simulator.world.lane import LinkDirection, lanes
from cachenet.simulator.world.links import LinkProfile

T = TypeVar("T")

#: Largest read, bytes, and what the link's bottleneck buffers beyond what is in flight.
_READ = 64 << 10
_BUFFER = 64 << 10
#: An outage begins this long into every minute: early, so that a short run meets it, and the same for every run.
OUTAGE_AT_S = 10.0
_MINUTE_S = 60.0


class Counts(msgspec.Struct, frozen=True):
    """TCP payload that has entered the link from (``bytes_up``) and to (``bytes_down``) the device."""

    bytes_up: int
    bytes_down: int


class LinkClock:
    """Time as the link lives it, seconds: it stands still while the link is dead. So nothing moves in an outage, and
    what piled up leaves afterwards in order and at the link's rate. It begins at 0, as a recorded link does."""

    def __init__(self) -> None:
        self._born = time.monotonic()
        self._alive = asyncio.Event()
        self._alive.set()
        self._dead_s = 0.0
        self._died_at = 0.0

    def now(self) -> float:
        return (time.monotonic() if self._alive.is_set() else self._died_at) - self._dead_s - self._born

    async def until(self, due: float) -> None:
        """Return at ``due`` or later, and only while the link is alive."""
        while not self._alive.is_set() or due > self.now():
            if self._alive.is_set():
                await asyncio.sleep(due - self.now())
            else:
                await self._alive.wait()

    def pause(self) -> None:
        if self._alive.is_set():
            self._died_at = time.monotonic()
            self._alive.clear()

    def resume(self) -> None:
        if not self._alive.is_set():
            self._dead_s += time.monotonic() - self._died_at
            self._alive.set()


class _Direction:
    """One way through the link, and all that has entered it."""

    def __init__(self, lane: LinkDirection, clock: LinkClock) -> None:
        self.lane, self.clock = lane, clock
        self.bytes = 0
        self.bound = _BUFFER + lane.in_flight


class _Flight:
    """What is on its way in one direction of one connection, in order; the end of the stream is an empty piece."""

    def __init__(self, direction: _Direction) -> None:
        self._direction = direction
        self._pieces: asyncio.Queue[tuple[float, bytes]] = asyncio.Queue()
        self._held = 0
        self._landed = asyncio.Event()

    async def take_in(self, source: asyncio.StreamReader) -> None:
        """Read until the stream ends or breaks. A full link stops reading, so that the sender feels it."""
        way = self._direction
        data = b"-"
        while data:
            try:
                data = await source.read(_READ)
            except OSError:
                data = b""
            way.bytes += len(data)
            self._held += len(data)
            self._pieces.put_nowait((way.lane.schedule(way.clock.now(), len(data)), data))
            while self._held > way.bound:
                self._landed.clear()
                await self._landed.wait()

    async def deliver(self, sink: asyncio.StreamWriter) -> None:
        """Write every piece when it is due, then the end. What nobody takes any more is dropped, while the other
        direction still carries what its sender said last."""
        data = b"-"
        while data:
            due, data = await self._pieces.get()
            await self._direction.clock.until(due)
            with contextlib.suppress(OSError):
                if data and not sink.is_closing():
                    sink.write(data)
                    await sink.drain()
            self._held -= len(data)
            self._landed.set()
        with contextlib.suppress(OSError):
            sink.write_eof()


class Emulator:
    """One emulated link from a port of this machine to ``to``. ``start`` and ``stop`` it in a running loop."""

    def __init__(self, profile: LinkProfile, to: tuple[str, int], seed: int = 0) -> None:
        self._profile, self._to = profile, to
        self._clock = LinkClock()
        up, down = lanes(profile, seed)
        self._up, self._down = _Direction(up, self._clock), _Direction(down, self._clock)
        self._connections: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None
        self._outages: asyncio.Task[None] | None = None

    async def start(self, port: int = 0) -> int:
        """Listen on the loopback interface; return the port. Raises ``OSError`` if it is taken."""
        listener = socket.create_server(("127.0.0.1", port))
        _tune(listener)
        self._server = await asyncio.start_server(self._accept, sock=listener, limit=_READ)
        if self._profile.outage_s:
            self._outages = asyncio.create_task(self._keep_failing())
        return int(listener.getsockname()[1])

    async def stop(self) -> Counts:
        """Break every connection, free the port and say what went through."""
        if self._outages:
            self._outages.cancel()
        if self._server:
            self._server.close()
        for connection in self._connections:
            connection.cancel()
        await asyncio.gather(*self._connections, return_exceptions=True)
        return self.counts()

    def counts(self) -> Counts:
        return Counts(self._up.bytes, self._down.bytes)

    def pause(self) -> None:
        """Kill the link: connections stay, bytes wait."""
        self._clock.pause()

    def resume(self) -> None:
        self._clock.resume()

    async def _keep_failing(self) -> None:
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
            # A cancelled or broken connection is an end like any other; the device will dial again.
            with contextlib.suppress(OSError, asyncio.CancelledError):
                await self._connect(reader, writer)
        finally:
            writer.close()
            self._connections.discard(task)

    async def _connect(self, device_in: asyncio.StreamReader, device_out: asyncio.StreamWriter) -> None:
        broker_in, broker_out = await asyncio.open_connection(*self._to, limit=_READ)
        _tune(broker_out.get_extra_info("socket"))
        try:
            # The kernel has already shaken the device's hand; over the real link that takes a round trip.
            await self._clock.until(self._clock.now() + self._profile.rtt_ms / 1e3)
            up, down = _Flight(self._up), _Flight(self._down)
            await asyncio.gather(
                up.take_in(device_in), up.deliver(broker_out), down.take_in(broker_in), down.deliver(device_out)
            )
        finally:
            broker_out.close()


def _tune(sock: socket.socket) -> None:
    """No Nagle, which asyncio leaves on in sockets that a bare listener accepts, nor megabytes that the kernel would
    buffer behind the emulated link's back. What is accepted inherits both from its listener."""
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _READ)


def run(main: Coroutine[Any, Any, T]) -> T:
    """``asyncio.run`` on ``select``, whose time-outs are in microseconds; those of ``epoll`` are whole milliseconds,
    which is a quarter of wifi's delay."""
    loop = asyncio.SelectorEventLoop(selectors.SelectSelector())
    try:
        return loop.run_until_complete(main)
    finally:
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()


async def serve(
    emulator: Emulator, port: int, listening: Callable[[], None], counted: Callable[[Counts], None]
) -> Counts:
    """Emulate until SIGINT or SIGTERM. ``listening`` is called once, ``counted`` at every SIGUSR1."""
    loop, ended = asyncio.get_running_loop(), asyncio.Event()
    for number in (signal.SIGINT, signal.SIGTERM):
        loop.add_signal_handler(number, ended.set)
    loop.add_signal_handler(signal.SIGUSR1, lambda: counted(emulator.counts()))
    await emulator.start(port)
    listening()
    await ended.wait()
    return await emulator.stop()
