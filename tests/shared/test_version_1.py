"""Version 1 of the protocol: what its devices read, byte for byte."""

from __future__ import annotations

import msgspec
import pytest

from cachenet.shared.bundle.manifest import BundleError, parse
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.protocol import Chunk, Malformed

#: Characters of a refusal's detail that a device of version 1 shows.
_SHOWN = 80


def test_a_refusal_has_the_form_of_version_1() -> None:
    """A map with the tag ``refusal``, a reason that version 1 knows, and a line that it shows as a whole."""
    decoded = msgspec.msgpack.decode(protocol.encode(version_1.REJECTION))
    assert decoded == {"type": "refusal", "reason": "unknown-model", "detail": version_1.REFUSAL}
    assert len(version_1.REFUSAL) <= _SHOWN
    assert "\n" not in version_1.REFUSAL


def test_the_error_of_a_file_has_the_form_of_version_1() -> None:
    decoded = msgspec.msgpack.decode(protocol.encode(Chunk(7, 0, b"", version_1.REFUSAL)))
    assert decoded == {"offset": 7, "total": 0, "data": b"", "error": version_1.REFUSAL}


def test_a_device_refuses_the_catalogue_with_the_same_line() -> None:
    """The reader of manifests is that of version 1, which logs its message."""
    with pytest.raises(BundleError, match=version_1.REFUSAL):
        parse(version_1.CATALOGUE)


def test_the_line_names_both_versions_and_what_to_update() -> None:
    assert f"version {protocol.VERSION}" in version_1.REFUSAL
    assert "version 1" in version_1.REFUSAL
    assert "update edge-agent" in version_1.REFUSAL


@pytest.mark.parametrize(
    ("topic", "payload", "server"),
    [
        ("cachenet/1/catalogue/tiny", b'{"format": 3}', True),
        ("cachenet/1/catalogue/tiny", b"", False),
        ("cachenet/1/catalogue/tiny", version_1.CATALOGUE, False),
        ("cachenet/2/catalogue/tiny", b'{"format": 3}', False),
        ("cachenet/1/cam/status", b"{}", False),
    ],
)
def test_a_server_of_version_1_is_recognised_by_its_catalogue(topic: str, payload: bytes, server: bool) -> None:
    assert version_1.is_server(topic, payload) == server


def test_topics_of_one_version_are_none_of_the_other() -> None:
    old, current = protocol.topic("cam", "answer", root=version_1.ROOT), protocol.topic("cam", "answer")
    assert (old, current) == ("cachenet/1/cam/answer", "cachenet/2/cam/answer")
    assert protocol.device_of(old, version_1.ROOT) == protocol.device_of(current) == ("cam", ("answer",))
    for topic, root in ((old, protocol.ROOT), (current, version_1.ROOT), ("cachenet/10/cam/answer", version_1.ROOT)):
        with pytest.raises(Malformed, match="outside"):
            protocol.device_of(topic, root)


def test_every_shared_subscription_has_a_group_of_its_own() -> None:
    topics = (*protocol.SERVER_TOPICS, *version_1.SERVER_TOPICS)
    assert len({topic.split("/")[1] for topic in topics}) == len(topics)
