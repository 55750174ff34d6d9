"""Recent frames of devices with the full model's answers: what a server gives to a training process, in one file."""

from __future__ import annotations

import os
from pathlib import Path

import msgspec

from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.command.regular_files import open_regular
from cachenet.shared.transport import protocol
from cachenet.shared.transport.protocol import MAX_PICTURE, Answer, DetectionAnswer, Malformed

#: Largest file, bytes.
MAX_BYTES = 512 << 20


class RecentFramesError(UserError):
    """A file holds no usable recent frames. The message names the reason."""


class RecentFrame(msgspec.Struct, frozen=True, array_like=True):
    """A frame that a device sent.

    Attributes:
        device: Name of the device.
        picture: The picture as it was sent, encoded.
        answer: The full model's answer.
    """

    device: str
    picture: bytes
    answer: Answer | DetectionAnswer


class RecentFrames(msgspec.Struct, frozen=True):
    """Frames in the order in which they arrived.

    Attributes:
        devices: Names of the devices whose frames these are: one device, or several with one view.
    """

    devices: tuple[str, ...]
    frames: tuple[RecentFrame, ...]


def write(path: Path, recent: RecentFrames) -> None:
    """Write a file that ``read`` reads. Raises ``OSError``."""
    atomic_files.write(path, protocol.encode(recent))


def read(path: Path, manifest: Manifest) -> RecentFrames:
    """Read a file and check each frame against the full model of ``manifest``. Raises ``RecentFramesError``."""
    try:
        with os.fdopen(open_regular(path), "rb") as file:
            data = file.read(MAX_BYTES + 1)
        recent = protocol.decode(data, RecentFrames, MAX_BYTES)
        _check(recent, manifest)
    except OSError as error:
        raise RecentFramesError(f"{path}: {error.strerror}") from None
    except Malformed as error:
        raise RecentFramesError(f"{path} is no file of recent frames for {manifest.name}: {error}") from None
    return recent


def _check(recent: RecentFrames, manifest: Manifest) -> None:
    """Raises ``Malformed``."""
    full, classes = manifest.models[manifest.only("full")].sha256, len(manifest.labels)
    for device in recent.devices:
        protocol.check_device(device)
    for number, frame in enumerate(recent.frames):
        if frame.device not in recent.devices:
            raise Malformed(f"frame {number} is of {frame.device[:80]!r}, which is not among the file's devices")
        if not 0 < len(frame.picture) <= MAX_PICTURE:
            raise Malformed(f"frame {number} has a picture of {len(frame.picture)} bytes")
        if frame.answer.model != full:
            raise Malformed(f"frame {number} was answered by another full model")
        if isinstance(frame.answer, Answer) != (manifest.task == "classification"):
            raise Malformed(f"frame {number} has an answer of another task than {manifest.task}")
        if isinstance(frame.answer, Answer):
            frame.answer.logits(classes)
        else:
            frame.answer.detections(classes)
