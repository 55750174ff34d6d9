"""The emulator on loopback, against an echo server. Times have lower bounds only: the machine may be busy."""

from __future__ import annotations

import asyncio
import contextlib
import os
import random
import signal
import socket
import subprocess
import sys
import time
from collections.abc import AsyncIterator

import msgspec

from cachenet.simulator.world import link_profiles
from cachenet.simulator.world.emulator import Counts, Emulator, run

_QUICK = msgspec.structs.replace(link_profiles.load("wifi"), loss=0.0, jitter_ms=1.0)


async def _echo(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with contextlib.suppress(OSError):
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
    writer.close()


@contextlib.asynccontextmanager
async def _link(
    profile: link_profiles.LinkProfile = _QUICK,
) -> AsyncIterator[tuple[Emulator, asyncio.StreamReader, asyncio.StreamWriter]]:
    server = await asyncio.start_server(_echo, "127.0.0.1", 0)
    emulator = Emulator(profile, ("127.0.0.1", server.sockets[0].getsockname()[1]), seed=1)
    reader, writer = await asyncio.open_connection("127.0.0.1", await emulator.start())
    try:
        yield emulator, reader, writer
    finally:
        writer.close()
        await emulator.stop()
        server.close()


def test_bytes_arrive_complete_in_order_and_counted() -> None:
    async def exchange() -> tuple[bytes, bytes, Counts]:
        sent = random.Random(0).randbytes(1_000_003)
        async with _link(link_profiles.load("lossy")) as (emulator, reader, writer):
            writer.write(sent)
            writer.write_eof()
            return sent, await asyncio.wait_for(reader.read(-1), 60), emulator.counts()

    sent, received, counts = run(exchange())
    assert received == sent
    assert counts == Counts(len(sent), len(sent))


def test_a_round_trip_takes_at_least_that_of_the_profile() -> None:
    async def exchange() -> list[float]:
        took = []
        async with _link() as (_, reader, writer):
            for _ in range(20):
                start = time.monotonic()
                writer.write(b"ping")
                assert await reader.readexactly(4) == b"ping"
                took.append(time.monotonic() - start)
        return took

    assert min(run(exchange())) >= 0.008


def test_the_rate_is_at_most_that_of_the_profile() -> None:
    async def exchange() -> float:
        async with _link(msgspec.structs.replace(_QUICK, up_mbit=8.0)) as (_, reader, writer):
            start = time.monotonic()
            writer.write(bytes(300_000))
            await reader.readexactly(300_000)
            return time.monotonic() - start

    assert run(exchange()) >= 0.3


def test_bytes_wait_while_the_link_is_down() -> None:
    async def exchange() -> None:
        async with _link() as (emulator, reader, writer):
            writer.write(b"before")
            assert await reader.readexactly(6) == b"before"
            emulator.pause()
            writer.write(b"during")
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(reader.readexactly(1), 0.2)
                raise AssertionError("a link that is down carried a byte")
            emulator.resume()
            assert await asyncio.wait_for(reader.readexactly(6), 30) == b"during"

    run(exchange())


def test_a_full_link_stops_reading() -> None:
    async def exchange() -> int:
        async with _link() as (emulator, _, writer):
            await asyncio.sleep(0.05)
            emulator.pause()
            for _ in range(400):
                writer.write(bytes(65536))
            await asyncio.sleep(0.3)
            return emulator.counts().bytes_up

    assert run(exchange()) < 400_000


def test_the_last_bytes_of_a_device_arrive_after_it_has_closed_its_socket() -> None:
    """Bytes down to the closed socket must not stop the bytes up."""
    received = bytearray()

    async def talk(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        for _ in range(200):
            writer.write(bytes(1000))
        while data := await reader.read(65536):
            received.extend(data)
        writer.close()

    async def exchange() -> None:
        server = await asyncio.start_server(talk, "127.0.0.1", 0)
        emulator = Emulator(_QUICK, ("127.0.0.1", server.sockets[0].getsockname()[1]))
        reader, writer = await asyncio.open_connection("127.0.0.1", await emulator.start())
        await reader.readexactly(1000)
        writer.write(b"farewell")
        await writer.drain()
        writer.transport.abort()
        for _ in range(200):
            await asyncio.sleep(0.02)
            if received:
                break
        await emulator.stop()
        server.close()

    run(exchange())
    assert received == b"farewell"


def test_the_link_process_counts_bytes_and_ends_on_a_signal() -> None:
    async def exchange() -> bytes:
        server = await asyncio.start_server(_echo, "127.0.0.1", 0)
        to = server.sockets[0].getsockname()[1]
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "cachenet.simulator", "link", "--profile", "lan", "--json"),
            *("--listen", str(port), "--to", f"127.0.0.1:{to}"),
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            assert process.stderr is not None and process.stdout is not None
            assert b"listening" in await asyncio.wait_for(process.stderr.readline(), 60)
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            writer.write(b"hello")
            assert await reader.readexactly(5) == b"hello"
            os.kill(process.pid, signal.SIGUSR1)
            live = await asyncio.wait_for(process.stdout.readline(), 30)
            process.terminate()
            out, _ = await asyncio.wait_for(process.communicate(), 30)
            assert process.returncode == 0
            assert live == out
            writer.close()
            return out
        finally:
            if process.returncode is None:
                process.kill()
            server.close()

    # Child processes need the loop's child watcher, so this one runs on asyncio's own loop.
    assert msgspec.json.decode(asyncio.run(exchange()), type=Counts) == Counts(5, 5)
