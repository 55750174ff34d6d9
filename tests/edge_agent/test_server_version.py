"""A device recognises a broker whose servers all speak version 1 of the protocol."""

from __future__ import annotations

import logging
import time
from pathlib import Path

import pytest

from cachenet.edge_agent import server_version
from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.doctor.health import Health
from cachenet.edge_agent.server_version import ServerVersion
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.transport import protocol, version_1
from cachenet.shared.transport.mqtt import Address, Message
from tests.e2e.servers import until
from tests.edge_agent.agents import Pictures

_OLD, _CURRENT = protocol.catalogue("tiny", version_1.ROOT), protocol.catalogue("tiny")


@pytest.fixture(autouse=True)
def short_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(server_version, "WAIT_S", 0.1)


def retained(topic: str, payload: bytes = b'{"format": 3}') -> Message:
    return Message(topic, payload, None, None, ())


def lines(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_a_server_of_version_1_alone_is_one_line_that_says_what_to_update(caplog: pytest.LogCaptureFixture) -> None:
    version = ServerVersion()
    assert version.receive(retained(_OLD))
    assert version.receive(retained(_OLD))
    until(lambda: version.error)
    time.sleep(0.2)
    assert lines(caplog) == [version.error] == [version_1.OLD_SERVER]
    assert "update cloud-server" in version.error


@pytest.mark.parametrize("order", [(_OLD, _CURRENT), (_CURRENT, _OLD)])
def test_an_old_catalogue_beside_a_present_one_means_nothing(
    order: tuple[str, str], caplog: pytest.LogCaptureFixture
) -> None:
    version = ServerVersion()
    for topic in order:
        assert version.receive(retained(topic)) == (topic == _OLD)
    time.sleep(0.3)
    assert (version.error, lines(caplog)) == ("", [])


@pytest.mark.parametrize("payload", [b"", version_1.CATALOGUE])
def test_the_notice_of_a_newer_server_is_no_server_of_version_1(payload: bytes) -> None:
    version = ServerVersion()
    assert version.receive(retained(_OLD, payload))
    time.sleep(0.3)
    assert version.error == ""


def test_the_error_ends_when_the_server_is_updated() -> None:
    version = ServerVersion()
    version.receive(retained(_OLD))
    until(lambda: version.error)
    version.receive(retained(_CURRENT))
    assert version.error == ""


def test_an_agent_that_waits_for_a_model_names_the_server_as_the_reason(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    agent = Agent(Settings(device="cam"), [Pictures(0)], (Address("127.0.0.1", 1),), Store(tmp_path), None)
    assert agent.link is not None
    topics = {topic for topic, _ in agent.link._subscriptions}
    assert {protocol.CATALOGUE_TOPICS, version_1.CATALOGUE_TOPICS} <= topics
    agent.link._current.link._error = ""
    agent._receive(retained(_OLD))
    until(lambda: agent.error)
    assert agent.error == version_1.OLD_SERVER
    assert version_1.OLD_SERVER in Health(agent)()
    assert lines(caplog) == [version_1.OLD_SERVER], "the manifest itself is not read"
    agent.close()
