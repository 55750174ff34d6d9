"""Parser of the packet CONNECT."""

from __future__ import annotations

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from paho.mqtt.client import Client, MQTTv5, MQTTv31, MQTTv311
from paho.mqtt.enums import CallbackAPIVersion
from paho.mqtt.packettypes import PacketTypes
from paho.mqtt.properties import Properties

from cachenet.cloud_server.broker.mqtt_connect import (
    MAX_CONNECT,
    BadConnect,
    Connect,
    length,
    parse,
)

_IDS = st.text(st.characters(codec="utf-8", exclude_characters="\0"), min_size=1, max_size=300)


def packet(
    client_id: str, level: int = MQTTv5, user: str | None = None, will: bytes | None = None, properties: int = 0
) -> bytes:
    """The CONNECT packet that paho sends."""
    sent: list[bytes] = []
    client = Client(CallbackAPIVersion.VERSION2, client_id, protocol=level)  # type: ignore[arg-type]
    if user is not None:
        client.username_pw_set(user, "secret")
    if will is not None:
        client.will_set("a/will", will, qos=1, retain=True)
    client._packet_queue = lambda _command, data, *_: sent.append(bytes(data))  # type: ignore[assignment, method-assign]
    connect_properties = Properties(PacketTypes.CONNECT)  # type: ignore[no-untyped-call]
    connect_properties.UserProperty = [("name", "x" * 50)] * properties
    client._connect_properties = connect_properties if properties else None
    client._send_connect(60)
    return sent[0]


@pytest.mark.parametrize(("protocol", "level"), [(MQTTv31, 3), (MQTTv311, 4), (MQTTv5, 5)])
@given(client_id=_IDS, user=st.none() | st.text("abc", max_size=9), will=st.none() | st.binary(max_size=300))
def test_the_packet_of_a_client_is_parsed(
    protocol: int, level: int, client_id: str, user: str | None, will: bytes | None
) -> None:
    data = packet(client_id, protocol, user or None, will)
    assert length(data) == len(data)
    connect = parse(data)
    assert (connect.level, connect.client_id) == (level, client_id)


@given(client_id=_IDS, other=_IDS, will=st.none() | st.binary(max_size=300), properties=st.integers(0, 5))
def test_renaming_changes_only_the_client_id(client_id: str, other: str, will: bytes | None, properties: int) -> None:
    renamed = parse(packet(client_id, will=will, properties=properties)).renamed(other)
    assert renamed == packet(other, will=will, properties=properties)


@given(st.binary(max_size=200))
def test_other_bytes_only_raise_bad_connect(data: bytes) -> None:
    with contextlib.suppress(BadConnect):
        size = length(data)
        if size is not None:
            assert isinstance(parse(data[:size]), Connect)


@given(st.data())
def test_an_incomplete_packet_is_refused(data: st.DataObject) -> None:
    whole = packet("cam", user="me", will=b"offline", properties=1)
    with pytest.raises(BadConnect):
        parse(whole[: data.draw(st.integers(0, len(whole) - 1))])


def test_the_length_comes_from_the_first_bytes_and_is_bounded() -> None:
    whole = packet("c" * 200)
    assert [length(whole[:count]) for count in range(4)] == [None, None, None, len(whole)]
    with pytest.raises(BadConnect, match="80000 allowed"):
        length(b"\x10\xff\xff\xff\x7f")
    with pytest.raises(BadConnect, match="four bytes"):
        length(b"\x10\xff\xff\xff\xff\xff")
    assert MAX_CONNECT > 65_535


@pytest.mark.parametrize("name", ["a/b", "a#", "+", "$SYS"])
def test_client_ids_that_rumqttd_refuses_are_invalid(name: str) -> None:
    assert not parse(packet(name)).valid_id
    assert parse(packet("cam-1")).valid_id
