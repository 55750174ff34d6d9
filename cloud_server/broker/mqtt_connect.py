"""Parser of the MQTT packet CONNECT (MQTT 5 section 3.1, MQTT 3.1.1 section 3.1). Pure."""

from __future__ import annotations

from dataclasses import dataclass

#: Longest accepted CONNECT packet, bytes. The length field of a will allows 64 kB.
MAX_CONNECT = 80_000
#: First byte of a CONNECT packet.
_CONNECT = 0x10
#: Protocol level of MQTT 5.
_MQTT_5 = 5
#: Bits of the connect flags: clean start, will, password, user name.
_CLEAN_START, _WILL, _PASSWORD, _USER = 0x02, 0x04, 0x40, 0x80
#: Characters that rumqttd refuses in a client id.
_FORBIDDEN = frozenset("+#$/")


class BadConnect(ValueError):
    """The bytes are not a valid CONNECT packet; the message says why."""


@dataclass(frozen=True)
class Connect:
    """A CONNECT packet."""

    #: Protocol level: 5 for MQTT 5, 4 for MQTT 3.1.1, 3 for MQTT 3.1.
    level: int
    client_id: str
    #: Bytes before and after the client id of an MQTT 5 packet, without the fixed header.
    head: bytes = b""
    tail: bytes = b""

    @property
    def valid_id(self) -> bool:
        """Whether rumqttd accepts the client id."""
        return not _FORBIDDEN.intersection(self.client_id)

    def renamed(self, client_id: str) -> bytes:
        """The same MQTT 5 packet with another client id."""
        name = client_id.encode()
        body = self.head + len(name).to_bytes(2, "big") + name + self.tail
        return bytes([_CONNECT]) + _varint(len(body)) + body


def length(start: bytes) -> int | None:
    """Length of the packet that begins with ``start``, bytes; None if more bytes are needed. Raises ``BadConnect``."""
    if start[:1] not in (b"", b"\x10"):
        raise BadConnect("not a CONNECT packet")
    if len(start) < 2:
        return None
    reader = _Reader(start[1:5])
    try:
        size = reader.varint()
    except BadConnect:
        if len(start) < 5:
            return None
        raise
    if size > MAX_CONNECT:
        raise BadConnect(f"a CONNECT packet of {size} bytes, {MAX_CONNECT} allowed")
    return 1 + reader.at + size


def parse(packet: bytes) -> Connect:
    """Parse a complete packet. Raises ``BadConnect``."""
    reader = _Reader(packet)
    reader.take(1)
    reader.varint()
    start = reader.at
    name, level = reader.field(), reader.take(1)[0]
    if (name, level) not in ((b"MQTT", _MQTT_5), (b"MQTT", 4), (b"MQIsdp", 3)):
        raise BadConnect("an unknown protocol or version")
    flags = reader.take(1)[0]
    if flags & 1:
        raise BadConnect("a reserved flag")
    reader.take(2)  # keep alive
    if level == _MQTT_5:
        reader.take(reader.varint())  # properties
    id_start = reader.at
    client_id = reader.text()
    id_end = reader.at
    if flags & _WILL:
        if level == _MQTT_5:
            reader.take(reader.varint())
        reader.text()
        reader.field()
    if flags & _USER:
        reader.text()
    if flags & _PASSWORD:
        reader.field()
    if reader.at != len(packet):
        raise BadConnect("bytes after the end of the packet")
    head = bytearray(packet[start:id_start])
    head[len(name) + 3] |= _CLEAN_START
    return Connect(level, client_id, bytes(head), packet[id_end:])


def _varint(number: int) -> bytes:
    digits = bytearray()
    while True:
        number, digit = number >> 7, number & 0x7F
        digits.append(digit | (0x80 if number else 0))
        if not number:
            return bytes(digits)


class _Reader:
    """Reads fields in order. Every method raises ``BadConnect`` for an incomplete field."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self.at = 0

    def take(self, size: int) -> bytes:
        data = self._data[self.at : self.at + size]
        if len(data) < size:
            raise BadConnect("an incomplete field")
        self.at += size
        return data

    def varint(self) -> int:
        number = 0
        for shift in (0, 7, 14, 21):
            digit = self.take(1)[0]
            number |= (digit & 0x7F) << shift
            if not digit & 0x80:
                return number
        raise BadConnect("a length of more than four bytes")

    def field(self) -> bytes:
        return self.take(int.from_bytes(self.take(2), "big"))

    def text(self) -> str:
        try:
            return self.field().decode()
        except UnicodeDecodeError:
            raise BadConnect("text that is not UTF-8") from None
