"""The proxy passes MQTT unchanged, and each of its faults is what its name says."""

from __future__ import annotations

import socket
import threading
from collections.abc import Iterator

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.faults.proxy import Proxy, packets

bodies = st.lists(st.tuples(st.integers(1, 15), st.binary(max_size=300)), max_size=8)


def packet(kind: int, body: bytes) -> bytes:
    length, digits = len(body), bytearray()
    while length > 0x7F:
        digits.append(length & 0x7F | 0x80)
        length >>= 7
    return bytes([kind << 4, *digits, length]) + body


@given(bodies, st.integers(0, 400))
def test_packets_are_found_whole_wherever_the_stream_is_cut(parts: list[tuple[int, bytes]], cut: int) -> None:
    whole = [packet(kind, body) for kind, body in parts]
    stream = b"".join(whole)
    first, rest = packets(stream[:cut])
    second, left = packets(rest + stream[cut:])
    assert (first + second, left) == (whole, b"")


class Pair:
    """A client and an upstream, joined by a proxy."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.proxy = Proxy(self._listener.getsockname()[1])
        self.proxy.start()
        self.client, self.upstream = self.connect()

    def connect(self) -> tuple[socket.socket, socket.socket]:
        client = socket.create_connection(("127.0.0.1", self.proxy.port))
        upstream, _ = self._listener.accept()
        for end in (client, upstream):
            end.settimeout(10)
        return client, upstream

    def set(self, mode: str) -> None:
        """Change the mode, and wait until the proxy has."""
        self.proxy.set(mode)  # type: ignore[arg-type]
        done = threading.Event()
        self.proxy._loop.call_soon_threadsafe(done.set)
        assert done.wait(10)

    def received(self, count: int) -> bytes:
        data = b""
        while len(data) < count:
            data += self.upstream.recv(count - len(data))
        return data

    def close(self) -> None:
        self.proxy.stop()
        for one in (self.client, self.upstream, self._listener):
            one.close()


@pytest.fixture
def pair() -> Iterator[Pair]:
    joined = Pair()
    yield joined
    joined.close()


ONE, TWO, PING = packet(3, b"one"), packet(3, b"two"), packet(12, b"")


def test_packets_pass_unchanged(pair: Pair) -> None:
    pair.client.sendall(ONE + PING + TWO)
    assert pair.received(len(ONE + PING + TWO)) == ONE + PING + TWO


def test_messages_are_duplicated_and_other_packets_are_not(pair: Pair) -> None:
    pair.set("duplicate")
    pair.client.sendall(ONE + PING + TWO)
    assert pair.received(2 * len(ONE + TWO) + len(PING)) == ONE + ONE + PING + TWO + TWO


def test_a_message_overtakes_the_one_before_and_a_last_one_is_not_lost(pair: Pair) -> None:
    pair.set("reorder")
    pair.client.sendall(ONE + TWO + ONE)
    assert pair.received(len(ONE + TWO + ONE)) == TWO + ONE + ONE


def test_a_partition_resets_and_refuses(pair: Pair) -> None:
    pair.set("partition")
    with pytest.raises(ConnectionError):
        while pair.client.recv(1):
            pass
        raise ConnectionResetError  # an orderly end would do, too
    again = socket.create_connection(("127.0.0.1", pair.proxy.port))
    again.settimeout(10)
    with pytest.raises(ConnectionError):
        again.sendall(ONE)
        if not again.recv(1):
            raise ConnectionResetError
    again.close()


def test_a_half_open_connection_loses_bytes_and_is_reset_at_the_end(pair: Pair) -> None:
    pair.set("half_open")
    pair.client.sendall(ONE)
    pair.upstream.settimeout(0.2)
    with pytest.raises(TimeoutError):
        pair.upstream.recv(1)
    pair.set("pass")
    pair.client, pair.upstream = pair.connect()
    pair.client.sendall(TWO)
    assert pair.received(len(TWO)) == TWO


def test_a_slow_link_passes_a_message_in_pieces(pair: Pair) -> None:
    pair.set("slow")
    message = packet(3, bytes(300))
    pair.client.sendall(message)
    assert len(pair.upstream.recv(4096)) < len(message)
    pair.set("pass")
    assert pair.received(1)
