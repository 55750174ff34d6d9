"""The outbox of a device: stores frames while there is no server, and sends them when one is there again."""

from __future__ import annotations

import logging
import queue
import secrets
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import cast

from cachenet.edge_agent.outbox.backlog import REPLY_S, Backlog, Counts, Entry, Result
from cachenet.edge_agent.outbox.database import OVERHEAD, Damaged, OutboxFile, StoredFrame
from cachenet.shared.command.supervision import SupervisedThread
from cachenet.shared.inference.image import BadPicture
from cachenet.shared.transport import protocol
from cachenet.shared.transport.mqtt import Link, Message

log = logging.getLogger(__name__)

#: Most frames that wait to be stored. Pictures of detectors are whole frames, and a device has little memory.
_CAPACITY = 4
#: Longest time between two steps of the thread, seconds.
_STEP_S = 0.1
#: Time between two attempts to open a file that the disk has refused, seconds.
_RETRY_S = 60.0
#: Difference between two clocks that counts as a step of one, seconds. A clock that is slewed differs by less a step.
_CLOCK_STEP_S = 1.0
#: Longest wait for the last frames to be stored at the end of the run, seconds.
_STOP_S = 5.0


@dataclass(frozen=True, slots=True)
class UnsentFrame:
    """A frame that no server could be asked about.

    Attributes:
        camera: Name of its camera and zone.
        miss: Whether the cascade had no answer to it; otherwise it was to be audited.
        model: Name of the full model.
        encode: Gives content type and bytes of its picture, as ``CloudClient`` sends it.
    """

    camera: str
    miss: bool
    model: str
    encode: Callable[[], tuple[str, bytes]]


class Outbox:
    """Frames on the disk, and the thread that writes and sends them. All cameras of an agent share it.

    A frame is deleted when a server has answered it. Until then it is sent again, with the same id.

    Attributes:
        bytes_up: Payload bytes sent.
        bytes_down: Payload bytes of replies.
    """

    def __init__(
        self,
        store: Path,
        max_bytes: int,
        device: str,
        link: Link,
        is_asking: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
        wall_clock: Callable[[], float] = time.time,
    ) -> None:
        """Create an outbox that is not yet started.

        Args:
            store: Store directory.
            max_bytes: Largest size of all frames, bytes.
            is_asking: Returns whether a camera waits for the answer to a question, which goes first.
        """
        self._device, self._link, self._is_asking = device, link, is_asking
        self._clock, self._wall_clock = clock, wall_clock
        self._file = OutboxFile(store)
        self._lock = threading.Lock()  # of the backlog; never held while the disk or the network is used
        self._backlog = Backlog(clock, max_bytes)
        self._unsent: queue.Queue[UnsentFrame] = queue.Queue(_CAPACITY)
        #: Ids of frames that are no longer in the backlog, to be deleted from the file.
        self._removed: list[bytes] = []
        self._opened = False
        #: Times of the next attempt to open the file, and to delete frames from it.
        self._open_at = self._tidy_at = clock()
        #: Difference of the clocks at which the times in the file were true.
        self._offset = wall_clock() - clock()
        self._error = ""
        self.bytes_up = self.bytes_down = 0
        self._thread = SupervisedThread("outbox", self._work)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Store what still waits, within some seconds, and close the file."""
        if self._thread.stop(_STOP_S):
            while not self._unsent.empty():
                self._store(self._unsent.get_nowait())
            self._file.close()

    def counts(self) -> Counts:
        """Counts of this run."""
        with self._lock:
            return self._backlog.counts()

    def offer(self, frame: UnsentFrame) -> None:
        """Store a frame soon; called by the hot loop, which does not wait."""
        with self._lock:
            if frame.miss and not self._backlog.admits_miss(frame.camera):
                return
            try:
                self._unsent.put_nowait(frame)
            except queue.Full:
                self._backlog.refuse("error")

    def on_server(self) -> None:
        """Send at once; called when this device or a server has connected to the broker."""
        with self._lock:
            self._backlog.server_began()

    def receive(self, message: Message) -> None:
        """Receive a message of the ``answer`` topic, on the connection's thread. Raises ``protocol.Malformed``."""
        frame = message.correlation or b""
        with self._lock:
            if not self._backlog.holds(frame):
                return
        self.bytes_down += len(message.payload)
        reply: protocol.Reply = protocol.decode(message.payload, protocol.Reply)  # type: ignore[arg-type]
        result: Result = "answered"
        if isinstance(reply, protocol.Rejection) and reply.reason != "duplicate":
            result = "later" if reply.reason in ("busy", "expired") else "refused"
        with self._lock:
            if self._backlog.answered(frame, result):
                self._removed.append(frame)

    def _work(self) -> None:
        """One step: store a frame, delete what is done, send one."""
        try:
            unsent = self._unsent.get(timeout=_STEP_S)
        except queue.Empty:
            unsent = None
        self.step(unsent)

    def step(self, unsent: UnsentFrame | None = None) -> None:
        """Do what is due; called by the thread."""
        if unsent is not None:
            self._store(unsent)
        if not self._is_open():
            return
        if self._clock() >= self._tidy_at and not self._guarded(self._tidy):
            self._tidy_at = self._clock() + _RETRY_S
        if self._opened:
            self._send()

    def _is_open(self) -> bool:
        """Whether the file is open; tries to open it now and then."""
        if not self._opened and self._clock() >= self._open_at:
            self._open_at = self._clock() + _RETRY_S
            self._guarded(self._open)
        return self._opened

    def _open(self) -> None:
        now, wall = self._clock(), self._wall_clock()
        rows = self._file.index()
        if not rows:
            self._file.remove()  # left by a run that ended before it could
        self._opened, self._offset = True, wall - now
        with self._lock:
            for frame, size, stored in rows:
                # A frame from the future was stored before the clock was set back: nobody knows its age.
                self._backlog.add(Entry(frame, size, now - max(0.0, wall - stored)), restored=True)
            # The bound may be lower than in the last run.
            self._removed += self._backlog.make_room(0) or []

    def _store(self, unsent: UnsentFrame) -> None:
        if not self._is_open():
            self._refuse()
            return
        try:
            content, picture = unsent.encode()
        except BadPicture as error:
            log.debug("a frame of %s is not stored: %s", unsent.camera, error)
            self._refuse()
            return
        size = len(picture) + OVERHEAD
        with self._lock:
            dropped = self._backlog.make_room(size)
            if dropped is None:
                return
            self._removed += dropped
        added = StoredFrame(secrets.token_bytes(16), self._clock() + self._offset, unsent.model, content, picture)
        if not self._guarded(lambda: self._exchange(added)):
            self._refuse()
            return
        self._error = ""
        with self._lock:
            self._backlog.add(Entry(added.id, size, self._clock()))

    def _tidy(self) -> None:
        """Delete what is done or too old, and correct the times in the file after a step of the clock."""
        with self._lock:
            self._removed += self._backlog.expire()
            empty = not self._backlog.counts().waiting
        if self._removed and empty:  # a full disk takes no deletions from a file, but that of the file
            self._file.remove()
            with self._lock:
                self._removed.clear()
        elif self._removed:
            self._exchange(None)
        offset = self._wall_clock() - self._clock()
        if abs(offset - self._offset) > _CLOCK_STEP_S:
            self._file.shift(offset - self._offset)
            self._offset = offset

    def _exchange(self, added: StoredFrame | None) -> None:
        """Delete the removed frames from the file, and store ``added``."""
        with self._lock:
            removed = list(self._removed)
        self._file.exchange(removed, added)
        with self._lock:
            del self._removed[: len(removed)]

    def _send(self) -> None:
        """Send the oldest frame, if it is due and no camera asks."""
        if not self._link.connected.is_set() or self._is_asking():
            return
        with self._lock:
            frame = self._backlog.next()
        if frame is not None and not self._guarded(lambda: self._publish(frame)):
            with self._lock:
                self._backlog.asked(frame)
                self._backlog.answered(frame, "later")

    def _publish(self, frame: bytes) -> None:
        """Read a frame and send it, unless a camera asks meanwhile. Raises ``OSError`` and ``Damaged``."""
        stored = self._file.read(frame)
        if stored is None:
            raise OSError(0, "a frame is missing", str(self._file.path))
        if self._is_asking():
            return
        with self._lock:
            self._backlog.asked(frame)  # before an answer can come
        content = cast(protocol.ContentType, stored.content)
        request = protocol.Request(stored.model, content, frame, int(1000 * REPLY_S), audit=True, id=frame.hex())
        sent = self._link.publish(
            protocol.topic(self._device, "audit", stored.model),
            stored.picture,
            qos=1,
            content=content,
            correlation=frame,
            properties=request.properties(),
            expiry_s=int(REPLY_S),
        )
        self.bytes_up += len(stored.picture) * sent
        if not sent:
            with self._lock:
                self._backlog.answered(frame, "later")

    def _guarded(self, use: Callable[[], None]) -> bool:
        """Whether the disk has not refused ``use``. A damaged file is renamed. Each new error is logged once."""
        try:
            use()
        except Damaged as damaged:
            self._opened, self._open_at = False, self._clock()
            error, renamed = f"{damaged}; it is renamed, and a new file is begun", True
            try:
                self._file.rename_damaged()
            except OSError as refused:
                error, renamed = f"{damaged}; it cannot be renamed: {refused.strerror}", False
                self._open_at += _RETRY_S
            with self._lock:
                self._backlog.forget(renamed)
                self._removed.clear()
        except OSError as refused:
            error = f"{self._file.path}: {refused.strerror}"
        else:
            return True
        if error != self._error:
            log.error("outbox: %s", error)
        self._error = error
        return False

    def _refuse(self) -> None:
        with self._lock:
            self._backlog.refuse("error")
