"""Recent frames of devices as a model sees them, divided by time into blocks to learn, to tune and to prove with."""

from __future__ import annotations

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from cachenet.models.certify.traces import Labels, Logits, as_pictures, run_model, view
from cachenet.models.data.cifar10 import Images
from cachenet.shared.bundle.manifest import Manifest
from cachenet.shared.cascade.frame import Signature
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import BadPicture, Input
from cachenet.shared.media.pictures import decode
from cachenet.shared.media.signature import sign
from cachenet.shared.transport.protocol import Answer
from cachenet.shared.transport.recent_frames import RecentFrames, RecentFramesError

#: Least number of recent frames: the proof has five blocks then, and all must be better.
MIN_FRAMES = 120
#: Share of the frames, from the first one, that a model learns from.
_LEARN_SHARE = 1 / 2
#: Share of the frames before the proof.
_BEFORE_PROOF = 2 / 3
#: Frames left out before tuning and before the proof, because consecutive frames are alike.
_GAP = 4


@dataclass(frozen=True)
class Footage:
    """Consecutive frames with the full model's answers.

    Attributes:
        images: As a model sees them, before normalisation ``(n, height, width, 3)`` uint8 RGB.
        full: Logits of the full model ``(n, classes)``.
        signatures: Of the pictures that devices sent.
    """

    images: Images
    full: Logits
    signatures: Sequence[Signature]

    def __len__(self) -> int:
        return len(self.images)

    @property
    def labels(self) -> Labels:
        """The full model's labels ``(n,)``."""
        return np.asarray(self.full.argmax(1), np.int64)

    def part(self, rows: slice) -> Footage:
        return Footage(self.images[rows], self.full[rows], self.signatures[rows])

    def logits(self, session: Session, spec: Input) -> Logits:
        """Logits of a model that sees the same pictures ``(n, classes)``."""
        return run_model(session, spec, as_pictures(self.images))


@dataclass(frozen=True)
class Blocks:
    """Parts of the recent frames in order of time, with gaps between them."""

    learn: Footage
    tune: Footage
    proof: Footage


def footage(recent: RecentFrames, manifest: Manifest, spec: Input) -> Footage:
    """The frames as a model of ``spec`` sees them; what is no picture is left out. Raises ``RecentFramesError``."""
    full, classes = manifest.models[manifest.only("full")].input, len(manifest.labels)
    images, scores, signatures = [], [], []
    for frame in recent.frames:
        with contextlib.suppress(BadPicture):
            picture = decode(frame.picture)
            images.append(view(picture, spec, full)[:, :, ::-1])
            assert isinstance(frame.answer, Answer)
            scores.append(frame.answer.logits(classes))
            signatures.append(sign(picture))
    if len(images) < MIN_FRAMES:
        raise RecentFramesError(f"{len(images)} recent frames, and {MIN_FRAMES} are needed")
    return Footage(np.stack(images), np.stack(scores), signatures)


def divide(frames: Footage) -> Blocks:
    """Divide frames by time."""
    learned, proof = (int(len(frames) * share) for share in (_LEARN_SHARE, _BEFORE_PROOF))
    return Blocks(
        frames.part(slice(0, learned)),
        frames.part(slice(learned + _GAP, proof)),
        frames.part(slice(proof + _GAP, None)),
    )
