"""What the outbox stores on the disk, and what it sends of it."""

from __future__ import annotations

import sqlite3
import stat
import subprocess
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import numpy as np
import pytest

from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outbox import outbox as module
from cachenet.edge_agent.outbox.backlog import MAX_AGE_S, REPLY_S, SEND_EVERY_S, Counts
from cachenet.edge_agent.outbox.database import OVERHEAD, OutboxFile, StoredFrame
from cachenet.edge_agent.outbox.outbox import Outbox, UnsentFrame
from cachenet.edge_agent.outputs.metrics import endpoint
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.remote import CloudClient
from cachenet.edge_agent.settings import CameraTable, Settings
from cachenet.edge_agent.updates.store import Store
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.image import BadPicture, encode
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Address, MqttConnection
from tests.bundles import tiny_bundle
from tests.edge_agent.agents import Pictures
from tests.edge_agent.links import FakeLink, message
from tests.edge_agent.test_remote import PICTURE, missed

_ANSWER = protocol.encode(protocol.Answer(b"", "0" * 64, None, protocol.Timing(0, 0, 0, 1)))
_SIZE = 100


class Device:
    """An outbox on a fake link with a clock of its own; ``step`` does what its thread does."""

    def __init__(self, store: Path, max_bytes: int = 1_000_000) -> None:
        self.now, self.wall = 50.0, 1_700_000_000.0
        self.asking = False
        self.sent: list[tuple[bytes, protocol.Request]] = []
        self.link = FakeLink(self._publish)
        self.outbox = Outbox(
            store,
            max_bytes,
            "cam",
            cast(MqttConnection, self.link),
            lambda: self.asking,
            lambda: self.now,
            lambda: self.wall,
        )

    def _publish(self, topic: str, payload: bytes, rest: dict[str, Any]) -> bool:
        request = protocol.request(topic.split("/")[3:], rest["content"], rest["correlation"], rest["properties"])
        assert rest["qos"] == 1
        self.sent.append((payload, request))
        return True

    def pass_time(self, seconds: float) -> None:
        self.now += seconds
        self.wall += seconds

    def store(self, *pictures: bytes, miss: bool = False) -> None:
        self.link.connected.clear()
        for picture in pictures:
            self.outbox.step(UnsentFrame("", miss, "full", lambda own=picture: ("image/png", own)))  # type: ignore[misc]
        self.link.connected.set()

    def reply(self, payload: bytes = _ANSWER) -> None:
        """The reply to the last request."""
        self.outbox.receive(message(payload, self.sent[-1][1].correlation))

    def deliver(self) -> list[bytes]:
        """Send and answer everything; the pictures."""
        before = len(self.sent)
        self.outbox.on_server()
        self.outbox.step()
        while len(self.sent) > before and self.outbox.counts().waiting:
            self.reply()
            self.pass_time(SEND_EVERY_S)
            self.outbox.step()
        return [picture for picture, _ in self.sent[before:]]

    @property
    def counts(self) -> Counts:
        return self.outbox.counts()


def pictures(count: int) -> list[bytes]:
    return [bytes([number]) * _SIZE for number in range(count)]


def ids(store: Path) -> list[bytes]:
    file = OutboxFile(store)
    try:
        return [frame for frame, _, _ in file.index()]
    finally:
        file.close()


def test_stored_frames_are_sent_in_order_as_background_requests_and_then_leave_no_file(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.store(*pictures(2))
    device.store(b"m" * _SIZE, miss=True)
    assert stat.S_IMODE((tmp_path / "outbox.sqlite").stat().st_mode) == 0o600
    assert device.deliver() == [*pictures(2), b"m" * _SIZE]
    assert all(request.audit and request.id == request.correlation.hex() for _, request in device.sent)
    device.reply()
    device.outbox.step()
    assert (device.counts.stored, device.counts.sent, device.counts.waiting, device.counts.bytes) == (3, 3, 0, 0)
    assert list(tmp_path.iterdir()) == []
    assert device.outbox.bytes_up == 3 * _SIZE and device.outbox.bytes_down == 3 * len(_ANSWER)


def test_nothing_is_sent_while_a_camera_asks(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.asking = True
    device.outbox.step()
    assert device.sent == []
    device.asking = False
    asked = iter([False, True])
    device.outbox._is_asking = lambda: next(asked)
    device.outbox.step()
    assert device.sent == [], "a question has come while the picture was read"
    device.outbox._is_asking = lambda: device.asking
    device.outbox.step()
    assert len(device.sent) == 1


def test_an_unanswered_frame_is_sent_again_with_its_id_and_a_duplicate_is_an_answer(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.outbox.step()
    device.pass_time(REPLY_S)
    device.outbox.step()
    device.reply(protocol.encode(protocol.Rejection("busy", "")))
    device.outbox.on_server()
    device.outbox.step()
    assert len(device.sent) == 3 and len({request.id for _, request in device.sent}) == 1
    device.reply(protocol.encode(protocol.Rejection("duplicate", "")))
    device.outbox.step()
    assert (device.counts.sent, ids(tmp_path)) == (1, [])


def test_frames_of_an_earlier_run_are_sent_with_their_ids_although_it_was_killed(tmp_path: Path) -> None:
    program = (
        "import os, sys\nfrom pathlib import Path\n"
        "from cachenet.edge_agent.outbox.database import OutboxFile, StoredFrame\n"
        "file = OutboxFile(Path(sys.argv[1]))\n"
        "for number in range(20):\n"
        "    file.exchange([], StoredFrame(bytes([number]) * 16, 1.7e9, 'full', 'image/png', b'x' * 30000))\n"
        "os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run([sys.executable, "-c", program, str(tmp_path)], check=False, timeout=60)
    assert done.returncode == -9
    device = Device(tmp_path)
    device.asking = True
    device.outbox.step()
    device.asking = False
    assert device.counts.waiting == 20 and device.counts.stored == 0
    assert len(device.deliver()) == 20
    assert [request.correlation for _, request in device.sent] == [bytes([number]) * 16 for number in range(20)]


def test_the_bound_on_bytes_holds_and_a_lower_one_takes_effect_at_the_next_start(tmp_path: Path) -> None:
    device = Device(tmp_path, 3 * (_SIZE + OVERHEAD))
    device.store(*pictures(5), b"x" * 20_000)
    assert device.counts.dropped == {"age": 0, "bytes": 3, "error": 0, "rate": 0}
    device.outbox.stop()
    again = Device(tmp_path, 2 * (_SIZE + OVERHEAD))
    assert again.deliver() == pictures(5)[3:]


@pytest.mark.parametrize("step", [-1e9, 86_400.0, 5 * 365 * 86_400.0])
def test_a_step_of_the_clock_changes_no_age(tmp_path: Path, step: float) -> None:
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.pass_time(MAX_AGE_S / 2)
    device.wall += step
    device.store(*pictures(1))
    device.outbox.stop()
    again = Device(tmp_path)
    again.wall = device.wall
    again.outbox.step()
    assert again.counts.waiting == 2
    again.asking = True
    again.pass_time(MAX_AGE_S / 2 + 1)
    again.outbox.step()
    assert (again.counts.waiting, again.counts.dropped["age"]) == (1, 1)


def test_a_frame_from_the_future_is_as_old_as_the_run(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.outbox.stop()
    again = Device(tmp_path)
    again.wall = 0.0
    again.outbox.step()
    again.pass_time(MAX_AGE_S + 1)
    again.outbox.step()
    assert again.counts.dropped["age"] == 1


@pytest.mark.parametrize("begun", [True, False], ids=["while it runs", "at the start"])
def test_a_damaged_file_is_renamed_counted_and_logged_once(
    tmp_path: Path, begun: bool, caplog: pytest.LogCaptureFixture
) -> None:
    path = tmp_path / "outbox.sqlite"
    device = Device(tmp_path)
    if begun:
        device.store(*[b"x" * 100_000] * 5)
        device.outbox._file.close()  # the log is written into the file
        data = bytearray(path.read_bytes())
        data[4096:] = b"\xff" * (len(data) - 4096)
        path.write_bytes(data)
    else:
        path.write_bytes(b"no database " * 1000)
    device.outbox.step()
    device.store(*pictures(2))
    assert device.deliver()[-1:] == pictures(2)[-1:]
    assert device.counts.damaged == 1
    assert device.counts.dropped["error"] == (5 if begun else 0)
    assert (tmp_path / "outbox.sqlite.damaged").exists()
    assert len([line for line in caplog.messages if "outbox" in line]) == 1


def test_a_frame_of_other_types_is_a_damaged_file(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.outbox.stop()
    with sqlite3.connect(tmp_path / "outbox.sqlite") as connection:
        connection.execute("UPDATE frames SET model = NULL, picture = 5")
    connection.close()
    again = Device(tmp_path)
    again.outbox.step()
    assert (again.counts.damaged, again.sent) == (1, [])


@pytest.mark.parametrize(
    ("name", "damaged"),
    [(b"CREATE TABLE", b"CREATE T\x94BLE"), (b"tableframes", b"table\x94rames"), (b"stored REAL", b"stired REAL")],
)
def test_a_damaged_name_in_the_file_is_a_damaged_file(tmp_path: Path, name: bytes, damaged: bytes) -> None:
    """SQLite's error repeats the name, which is perhaps no text. It raises no error of a damaged file."""
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.outbox.stop()
    path = tmp_path / "outbox.sqlite"
    data = path.read_bytes()
    assert name in data
    path.write_bytes(data.replace(name, damaged))
    again = Device(tmp_path)
    again.outbox.step()
    again.store(*pictures(1))
    assert (again.counts.damaged, again.counts.stored) == (1, 1)


def test_a_damaged_file_that_cannot_be_renamed_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "outbox.sqlite").write_bytes(b"no database " * 1000)
    device = Device(tmp_path)
    with monkeypatch.context() as patch:
        patch.setattr(OutboxFile, "rename_damaged", refusing("Read-only file system"))
        device.store(*pictures(3))
        device.pass_time(module._RETRY_S)
        device.store(*pictures(1))
        assert (device.counts.damaged, device.counts.dropped["error"]) == (0, 4)
    device.pass_time(module._RETRY_S)
    device.outbox.step()
    device.store(*pictures(1))
    assert (device.counts.damaged, device.counts.stored) == (1, 1)


def test_a_file_of_a_later_version_is_not_misread(tmp_path: Path) -> None:
    with sqlite3.connect(tmp_path / "outbox.sqlite") as connection:
        connection.execute("PRAGMA user_version = 2")
    connection.close()
    device = Device(tmp_path)
    device.outbox.step()
    assert device.counts.damaged == 1


def refusing(error: str) -> Callable[..., None]:
    """A method of the file on a disk that refuses."""

    def refuse(*_: object) -> None:
        raise OSError(0, error, "outbox.sqlite")

    return refuse


def test_a_full_disk_loses_frames_and_is_logged_once_and_sending_goes_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    device = Device(tmp_path)
    device.store(*pictures(3))
    with monkeypatch.context() as patch:
        patch.setattr(OutboxFile, "exchange", refusing("database or disk is full"))
        device.store(*pictures(4))
        assert (device.counts.stored, device.counts.dropped["error"]) == (3, 4)
        for picture in pictures(2):
            device.outbox.on_server()
            device.outbox.step()
            assert device.sent[-1][0] == picture
            device.reply()
        device.outbox.step()
    (line,) = (line for line in caplog.messages if "outbox" in line)
    assert line.endswith("outbox.sqlite: database or disk is full")
    assert (device.counts.sent, len(device.outbox._file.index())) == (2, 3), "two could not be deleted"
    device.pass_time(module._RETRY_S)
    device.outbox.step()
    assert len(device.outbox._file.index()) == 1


def test_an_empty_outbox_frees_a_full_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = Device(tmp_path)
    device.store(*pictures(2))
    device.deliver()
    with monkeypatch.context() as patch:
        patch.setattr(OutboxFile, "exchange", refusing("database or disk is full"))
        device.reply()
        device.outbox.step()
    assert list(tmp_path.iterdir()) == []


def test_a_store_that_cannot_be_written_is_tried_again(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    store = tmp_path / "file"
    store.write_text("no directory")
    device = Device(store)
    device.store(*pictures(2))
    assert (device.counts.dropped["error"], len(caplog.messages)) == (2, 1)
    store.unlink()
    device.pass_time(module._RETRY_S)
    device.store(*pictures(1))
    assert device.counts.stored == 1


def test_a_file_that_another_process_uses_is_not_touched(tmp_path: Path) -> None:
    first, second = Device(tmp_path), Device(tmp_path)
    first.store(*pictures(1))
    second.outbox.step()
    second.store(*pictures(1))
    assert (second.counts.dropped["error"], second.counts.damaged) == (1, 0)
    assert first.deliver() == pictures(1)


def test_a_picture_that_cannot_be_encoded_is_counted(tmp_path: Path) -> None:
    def fail() -> tuple[str, bytes]:
        raise BadPicture("no picture")

    device = Device(tmp_path)
    device.outbox.step(UnsentFrame("", False, "full", fail))
    assert device.counts.dropped["error"] == 1


def test_the_hot_loop_never_waits_for_the_disk_and_what_waits_is_stored_at_the_end(tmp_path: Path) -> None:
    """The thread is not started: as one that the disk holds up."""
    device = Device(tmp_path)
    for picture in pictures(10):
        device.outbox.offer(UnsentFrame("", False, "full", lambda own=picture: ("image/png", own)))  # type: ignore[misc]
    assert device.counts.dropped["error"] == 10 - module._CAPACITY
    device.outbox.stop()
    assert len(ids(tmp_path)) == module._CAPACITY


def test_messages_that_are_no_replies_to_stored_frames_change_nothing(tmp_path: Path) -> None:
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.outbox.step()
    for correlation in (None, b"", b"x" * 16):
        device.outbox.receive(message(b"", correlation))
    with pytest.raises(protocol.Malformed):
        device.outbox.receive(message(b"\xff", device.sent[0][1].correlation))
    assert device.counts.waiting == 1
    device.reply(protocol.encode(protocol.Rejection("unknown-model", "")))
    assert (device.counts.waiting, device.counts.dropped["error"]) == (0, 1)


class Recorder:
    """An outbox that only notes what it is offered."""

    def __init__(self) -> None:
        self.frames: list[UnsentFrame] = []

    def offer(self, frame: UnsentFrame) -> None:
        self.frames.append(frame)


def test_a_camera_stores_what_it_cannot_send_and_nothing_that_it_sends(tmp_path: Path) -> None:
    """With the bytes that it would have sent; an offline audit does not count as sent."""
    bundle = Bundle(tiny_bundle(tmp_path))
    clock, link, noted = [0.0], FakeLink(lambda *_: True), Recorder()
    cloud = CloudClient(
        cast(MqttConnection, link), "cam", bundle.manifest, lambda: clock[0], cast(Outbox, noted), "yard"
    )
    assert cloud.audit(1, PICTURE)
    cloud.post(missed(2, (), 0.0, 1.0), lambda: PICTURE)
    assert noted.frames == [] and cloud.is_asking
    clock[0] += 3600.0
    assert not cloud.is_asking, "a question whose reply would be useless now"
    link.connected.clear()
    assert not cloud.audit(3, PICTURE)
    cloud.post(missed(4, (), 0.0, 1.0), lambda: PICTURE)
    cloud.ask(missed(5, (), 0.0, 1.0), lambda: PICTURE)
    assert not cloud.is_asking
    assert [(frame.camera, frame.miss, frame.model) for frame in noted.frames] == [
        ("yard", False, "full"), ("yard", True, "full"), ("yard", True, "full"),
    ]  # fmt: skip
    assert noted.frames[0].encode() == encode(PICTURE)
    link.connected.set()
    for index in range(6, 9):  # a server that is silent
        cloud.post(missed(index, (), clock[0], 1.0), lambda: PICTURE)
        clock[0] += 10.0
    cloud.post(missed(10, (), clock[0], 1.0), lambda: PICTURE)
    assert not cloud.audit(11, PICTURE)
    assert [frame.miss for frame in noted.frames[3:]] == [True, False]


def test_a_question_is_under_way_before_it_is_sent_and_until_its_wait_ends(tmp_path: Path) -> None:
    asking: list[bool] = []

    def publish(*_: object) -> bool:
        asking.append(cloud.is_asking)
        return True

    link = cast(MqttConnection, FakeLink(publish))
    cloud = CloudClient(link, "cam", Bundle(tiny_bundle(tmp_path)).manifest, lambda: 0.0)
    cloud.ask(missed(1, (), 0.0, 0.0), lambda: PICTURE)
    assert (asking, cloud.is_asking) == ([True], False)


def test_the_pictures_in_the_file_are_those_that_were_offered(tmp_path: Path) -> None:
    file = OutboxFile(tmp_path)
    data = np.random.default_rng(0).bytes(70_000)
    frame = StoredFrame(b"1" * 16, 5.0, "full", "image/jpeg", data)
    file.exchange([], frame)
    assert file.read(b"1" * 16) == frame
    assert file.read(b"2" * 16) is None
    file.shift(2.0)
    assert file.index() == [(b"1" * 16, 70_000 + OVERHEAD, 7.0)]
    file.close()


def test_cameras_share_one_outbox_whose_counts_are_in_summary_and_metrics(tmp_path: Path) -> None:
    """Of an agent that finds no broker: audits and misses of both cameras wait in one file."""
    bundle = Bundle(tiny_bundle(tmp_path / "bundle", risk=0.9))
    settings = Settings(
        broker="mqtt://127.0.0.1:1", store=str(tmp_path / "store"), outbox="5MB", levels=("base", "cloud"),
        audit_share=0.5, device="cam", camera=tuple(CameraTable(name, "pictures") for name in ("door", "yard")),
    )  # fmt: skip
    agent = Agent(settings, [Pictures(20), Pictures(20)], (Address("127.0.0.1", 1),), None, bundle)
    with endpoint(agent, "127.0.0.1", 0) as port:
        agent.run(JsonLinesWriter(""))
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as answer:
            text = answer.read().decode()
    counts = agent.summary()["outbox"]
    assert counts["stored"] == counts["waiting"] == len(ids(tmp_path / "store")) > 2
    assert f"cachenet_outbox_stored_total {counts['stored']}.0" in text
    assert f'cachenet_outbox_dropped_total{{reason="rate"}} {counts["dropped"]["rate"]}.0' in text
    assert f"cachenet_outbox_waiting {counts['waiting']}.0" in text
    for camera in agent.cameras:
        assert camera.cascade is not None and camera.cascade.audits is not None
        assert camera.audited == camera.cascade.audits.sent == 0


def test_an_agent_without_an_outbox_deletes_the_one_of_an_earlier_run(tmp_path: Path) -> None:
    store = Store(tmp_path)
    device = Device(tmp_path)
    device.store(*pictures(1))
    device.outbox.stop()
    agent = Agent(Settings(store=str(tmp_path)), [Pictures(0)], (), store, None)
    assert agent.outbox is None and agent.summary()["outbox"] is None
    assert not (tmp_path / "outbox.sqlite").exists()
