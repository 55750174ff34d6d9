"""A scene submodel for the devices of one view, from the frames that they sent.

It is trained on the earlier frames, and proven on the latest against the detector that runs there now.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
import numpy as np
import torch
from rich.progress import Progress

from cachenet.models.bundle_writer import link_models, publish, under_construction
from cachenet.models.certify import intervals
from cachenet.models.data.frames import FramesError
from cachenet.models.detect import agreement
from cachenet.models.detect.agreement import Agreement
from cachenet.models.detect.build import write_detector
from cachenet.models.detect.fine_tune import EPOCHS, fine_tune
from cachenet.models.detect.footage import Block, take
from cachenet.models.device_submodels import making_room, next_name
from cachenet.models.export.detector import DetectorModel, load_detector
from cachenet.models.train.fine_tune import NoImprovement
from cachenet.shared.bundle.manifest import Bundle, Manifest, Model
from cachenet.shared.cascade.detect.detections import counts
from cachenet.shared.cascade.detect.spec import CANDIDATES, MAX_OBJECT_ERROR
from cachenet.shared.inference.detector import in_input
from cachenet.shared.inference.image import BadPicture, Input, crop
from cachenet.shared.media.pictures import decode
from cachenet.shared.transport.protocol import DetectionAnswer
from cachenet.shared.transport.recent_frames import RecentFrames

#: Share of the frames to learn from, and of the latest ones to prove on. Those between tell when to stop, and give the
#: thresholds.
_LEARN, _PROVE = 0.6, 0.25
#: Frames left out before the latest ones and before those between, as a share of all frames.
_GAP = 0.025
#: Least number of frames, and of objects in the latest ones.
_MIN_FRAMES, _MIN_OBJECTS = 60, 30
#: Frames of a block of the bootstrap. Devices ask about every tenth frame or fewer, so neighbours are less alike than
#: those of a video.
_BLOCK = 4
#: Least gain in F1. A smaller one is not worth the download.
_MIN_GAIN = 0.01
#: Error on the frames that devices ask about, as a multiple of that on all frames, that is assumed for a submodel:
#: where its detections alone then keep the default budget, they are answered as they are. FastestDet had 2.7 on
#: vtest.avi (F1 .664 and .876).
_HARDER = 1.5
#: Most scene submodels in a bundle; the oldest is removed.
_MAX_SCENES = 16
#: Before the number in a scene submodel's name.
_PREFIX = "scene-"


@dataclass(frozen=True)
class Comparison:
    """F1 of a detector and of the one that runs on the device, on the latest frames.

    Attributes:
        gain: The difference, and its 95 % interval over blocks of frames.
        score: The detector's threshold.
    """

    f1: float
    resident: float
    gain: tuple[float, float]
    score: float

    @property
    def proven(self) -> bool:
        """Whether the detector is better."""
        return self.f1 - self.resident >= _MIN_GAIN and self.gain[0] > 0.0

    def __str__(self) -> str:
        low, high = self.gain
        return f"F1 {self.f1:.3f} against {self.resident:.3f} (95 % interval of the gain {low:+.3f} to {high:+.3f})"


@dataclass(frozen=True, eq=False)
class Measured:
    """A detector on the latest frames: counts of each frame ``(n, 3)``, and its agreement at its threshold."""

    counts: intervals.Counts
    agreement: Agreement


def update(bundle: Bundle, recent: RecentFrames, out: Path, progress: Progress) -> Bundle:
    """Write ``bundle`` with a submodel for the devices of ``recent`` to ``out``.

    Another device's submodel is taken where it is proven better there; otherwise one is trained.

    Raises:
        NoImprovement: No detector is proven better than the present one.
        NotTrainable: The detector cannot be trained.
        FramesError: There are too few frames or objects.
        OSError: ``out`` cannot be written.
    """
    manifest = bundle.manifest
    resident = manifest.better_detector(recent.devices[0]) or manifest.only("base")
    present = model_of(bundle, resident)
    learn, tune, prove = divided(block_of(recent, present.input, manifest))
    before = measure(present, tune, prove)
    with under_construction(out) as building:
        for name in reversed(manifest.submodels()):
            if name != resident and manifest.models[name].devices:
                other = model_of(bundle, name)
                _, *parts = divided(block_of(recent, other.input, manifest))
                if compare(measure(other, *parts), before).proven:
                    shared = msgspec.structs.replace(
                        manifest.models[name], devices=(*manifest.models[name].devices, *recent.devices)
                    )
                    return _publish(bundle, building, out, name, shared)
        with tempfile.TemporaryDirectory(prefix="cachenet-") as work:
            trained, _ = fine_tune(present, learn, tune, Path(work), progress, "scene submodel", EPOCHS)
        found = compare(measure(trained, tune, prove), before)
        if not found.proven:
            raise NoImprovement(f"on the latest {len(prove)} frames, trained and {resident}: {found}")
        name = next_name(manifest.models, _PREFIX)
        entry = write_detector(building, name, "submodel", trained, manifest.name)
        assert entry.decoder is not None
        entry = msgspec.structs.replace(
            entry,
            decoder=msgspec.structs.replace(entry.decoder, score=round(CANDIDATES * found.score, 3)),
            coverage=(round(found.f1, 4),) * len(manifest.labels),
            answer_score=found.score if found.f1 >= 1.0 - _HARDER * MAX_OBJECT_ERROR else None,
            devices=recent.devices,
        )
        progress.console.print(f"{name} for {', '.join(recent.devices)}: {found}")
        return _publish(bundle, building, out, name, entry)


def block_of(recent: RecentFrames, spec: Input, manifest: Manifest) -> Block:
    """The frames as a detector of ``spec`` sees them; those that cannot be decoded are left out."""
    pictures, objects = [], []
    classes, full = len(manifest.labels), manifest.models[manifest.only("full")]
    for frame in recent.frames:
        assert isinstance(frame.answer, DetectionAnswer)
        try:
            picture = decode(frame.picture)
        except BadPicture:
            continue
        pictures.append(np.ascontiguousarray(crop(picture, spec)[:, :, ::-1]))
        objects.append(in_input(frame.answer.detections(classes), (picture.shape[1], picture.shape[0]), spec))
    if len(pictures) < _MIN_FRAMES:
        raise FramesError(f"{len(pictures)} frames of {', '.join(recent.devices)}, and {_MIN_FRAMES} are needed")
    assert full.decoder is not None
    return Block(np.stack(pictures), tuple(objects), np.zeros(len(pictures), np.int64), full.decoder.score)


def divided(block: Block) -> tuple[Block, Block, Block]:
    """The frames to learn from, to tune with and to prove on, by time. Raises ``FramesError``."""
    n = len(block)
    gap, end, last = max(1, round(_GAP * n)), round(_LEARN * n), round((1 - _PROVE) * n)
    parts = (range(end), range(end + gap, last - gap), range(last, n))
    learn, tune, prove = (take(block, np.array(rows, np.int64)) for rows in parts)
    if (objects := sum(map(len, prove.reference))) < _MIN_OBJECTS:
        raise FramesError(f"{objects} objects in the latest {len(prove)} frames, and {_MIN_OBJECTS} are needed")
    return learn, tune, prove


def measure(model: DetectorModel, tune: Block, prove: Block) -> Measured:
    """Run a detector over the latest frames, with the threshold that is best on the frames before."""
    detector = agreement.lowered(model).detector(torch.get_num_threads())
    best = agreement.best(agreement.run(detector, tune), tune.reference)
    found = agreement.run(detector, prove)
    pairs = zip(found, prove.reference, strict=True)
    each = np.array([counts(one.take(one.scores >= best.score), other) for one, other in pairs])
    return Measured(each, agreement.at(found, prove.reference, best.score))


def compare(new: Measured, present: Measured) -> Comparison:
    """Compare two detectors on the same frames."""
    _, within = intervals.difference(new.counts, [present.counts], [1.0], 0, _BLOCK)
    low, high = within or (-1.0, 1.0)
    return Comparison(new.agreement.f1, present.agreement.f1, (low, high), new.agreement.score)


def model_of(bundle: Bundle, name: str) -> DetectorModel:
    """A detector of a bundle, to be trained."""
    entry = bundle.manifest.models[name]
    assert entry.decoder is not None
    return replace(load_detector(bundle.path(name), entry.input), decoder=entry.decoder)


def _publish(bundle: Bundle, building: Path, out: Path, name: str, entry: Model) -> Bundle:
    """Write the bundle with ``entry`` as its newest model. A model without devices that run it any more is removed."""
    models = making_room(bundle.manifest, entry.devices, _PREFIX, _MAX_SCENES).models
    linked = models if name not in bundle.manifest.models else {**models, name: entry}
    link_models(bundle, linked, building)
    return publish(building, msgspec.structs.replace(bundle.manifest, models={**models, name: entry}), out)
