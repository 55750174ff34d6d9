"""Places: regions of static clips, with the objects that the full model finds in them, divided into times."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from benchmarks.literature.clip import video
from benchmarks.real_tasks import ONE, WALKERS, ZONES, Region
from cachenet.models.data.frames import Frames, find
from cachenet.models.detect.footage import Block, label, take
from cachenet.models.export.detector import DetectorModel
from cachenet.shared.cascade.detect.detections import Detections, checked
from cachenet.shared.inference.detector import in_input
from cachenet.shared.inference.image import Input, crop

#: Times of a place: equal parts of its clip. The first one has only submodels, the last one only queries.
TIMES = 3


@dataclass(frozen=True)
class Place:
    """A region of a clip. The clip's name is that of the camera."""

    name: str
    camera: str
    region: Region


@dataclass(frozen=True)
class Segment:
    """A place at one time."""

    place: Place
    time: int
    block: Block


#: Places of classifiers: the zones of ``benchmarks.real_tasks`` on the two clips with people.
ZONE_PLACES = tuple(Place(zone.name, zone.clip.video, zone.region) for zone in ZONES if zone.clip in (ONE, WALKERS))
#: Regions whose first time trains the general classifier.
ZONE_GENERAL = (
    *(
        Place(f"vt_general{x}", WALKERS.video, (x, y, side, side))
        for x, y, side in ((32, 240, 160), (640, 160, 128), (240, 400, 176), (400, 330, 150))
    ),
    *(
        Place(f"ob_general{x}", ONE.video, (x, y, side, side))
        for x, y, side in ((100, 0, 332), (450, 100, 300), (300, 200, 200))
    ),
)
#: Places of detectors: six tiles of one clip and two of the other.
TILE_PLACES = (
    *(Place(f"vt_tile{x}_{y}", WALKERS.video, (x, y, 256, 288)) for y in (0, 288) for x in (0, 256, 512)),
    *(Place(f"ob_tile{x}", ONE.video, (x, 0, 324, 432)) for x in (120, 444)),
)
#: Regions whose first time trains the general detector.
TILE_GENERAL = (
    *(Place(f"vt_general{x}", WALKERS.video, (x, 144, 256, 288)) for x in (128, 384)),
    Place("ob_general", ONE.video, (282, 0, 324, 432)),
)


def clips(data: Path, step: int) -> dict[str, Frames]:
    """Every ``step``-th frame of the clips, by camera. Raises ``UserError`` if a clip is not there."""
    return {one.video: find(video(one, data), step) for one in (ONE, WALKERS)}


def blocks(
    full: DetectorModel,
    frames: Frames,
    places: Sequence[Place],
    spec: Input,
    work: Path,
    advance: Callable[[int], object],
) -> dict[Place, Block]:
    """The places of a clip as models of ``spec`` see them, with the full model's objects.

    The full model sees the complete frames, once; its objects are stored in ``work``.
    """
    directory = work / f"{frames.files[0].stem}-{frames.frame_step}"
    objects, files, sizes = label(full, frames, directory, 1, advance)
    pictures: dict[Place, list[npt.NDArray[np.uint8]]] = {place: [] for place in places}
    for frame in frames:
        for place in places:
            x, y, width, height = place.region
            pictures[place].append(crop(frame.picture[y : y + height, x : x + width], spec)[:, :, ::-1])
    return {
        place: Block(
            np.stack(pictures[place]),
            tuple(
                in_input(within(found, place.region, size), place.region[2:], spec)
                for found, size in zip(objects, sizes, strict=True)
            ),
            files,
            full.decoder.score,
        )
        for place in places
    }


def within(found: Detections, region: Region, size: tuple[int, int]) -> Detections:
    """The objects whose centre is in a region, as shares of the region.

    Args:
        found: Objects as shares of a picture.
        region: Left, top, width and height, pixels.
        size: Width and height of the picture, pixels.
    """
    x, y, width, height = region
    boxes = found.boxes * np.array([*size, *size], np.float32) - np.array([x, y, x, y], np.float32)
    boxes /= np.array([width, height, width, height], np.float32)
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    rows = np.flatnonzero(((centres >= 0) & (centres < 1)).all(1))
    return checked(boxes[rows], found.labels[rows], found.scores[rows], int(found.labels.max(initial=0)) + 1)


def divided(place: Place, block: Block) -> list[Segment]:
    """The place at each of its times."""
    parts = np.array_split(np.arange(len(block)), TIMES)
    return [Segment(place, time, take(block, rows)) for time, rows in enumerate(parts)]
