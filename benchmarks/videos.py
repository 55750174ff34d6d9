"""Real videos: is the promise kept, and when does the frame cache answer?

    python -m benchmarks.videos vtest.avi traffic_sequence.mp4

Nobody knows what a CIFAR-10 model should say of them, so the full model is the reference, as for false hits everywhere.
With ``--tiles 3`` every ninth of the picture is a camera of its own, and ``at_least`` is the 95 % lower bound on the
mean over them: over the budget it would be certain that the promise is broken. ``frames_hits`` by whether anything
moves: a pixel that differs by more than 25 grey levels from five frames before, after a blur against noise, moves;
``still`` frames have under 0.1 % of them, a patch of 7 by 7 in a ninth of 768x576.
"""

from __future__ import annotations

import argparse
import json
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from models import gates, recorded, replay
from shared.bundle import Bundle
from shared.image import Picture, cut
from shared.video import BadVideo, Video

_STILL, _DIFFERENT, _LAG = 1e-3, 25, 5


def measure(directory: Path, video: Path, most: int, tiles: int) -> dict[str, object]:
    """The figures as the command prints them."""
    bundle = Bundle(directory)
    models = recorded.opened(bundle, 2)
    pictures = _read(video, most)
    share = 1.0 / tiles
    rows = [
        _watch(bundle, models, [cut(picture, (share * column, share * row, share, share)) for picture in pictures])
        for row in range(tiles)
        for column in range(tiles)
    ]
    false_hits = [row.false_hits for row in rows]
    still = np.concatenate([row.still for row in rows])
    by_frames = np.concatenate([row.by_frames for row in rows])
    return {
        "video": video.name,
        "frames": len(pictures),
        "cameras": len(rows),
        "max_false_hits": bundle.manifest.gate(0.01).max_false_hits,
        "local_share": float(np.mean([row.local for row in rows])),
        "false_hit_rate": float(np.mean(false_hits)),
        "at_least": max(0.0, 2.0 * float(np.mean(false_hits)) - gates.upper_bound(false_hits, 0.95))
        if tiles > 1
        else 0.0,
        "worst_camera": max(false_hits),
        "agreement": float(np.mean([row.agreement for row in rows])),
        "frames_hits": {
            name: {"frames": int(where.sum()), "share": float(by_frames[where].mean()) if where.any() else None}
            for name, where in (("still", still), ("moving", ~still))
        },
    }


@dataclass(frozen=True)
class _Watched:
    """What one camera's stream came to; arrays ``(frames,)``."""

    still: npt.NDArray[np.bool_]
    by_frames: npt.NDArray[np.bool_]
    local: float
    false_hits: float
    agreement: float


def _read(video: Path, most: int) -> list[Picture]:
    try:
        pictures = [frame.picture for frame in islice(Video(video).frames(), most)]
    except (OSError, BadVideo) as error:
        raise SystemExit(f"videos: {video}: {error}") from None
    if not pictures:
        raise SystemExit(f"videos: {video}: no frame of it can be decoded")
    return pictures


def _watch(bundle: Bundle, models: recorded.Models, pictures: list[Picture]) -> _Watched:
    family = replay.family(bundle.manifest)
    stream = recorded.film(pictures, np.zeros(len(pictures), np.int64), models)
    full = stream.logits[family.full].argmax(1)
    done = replay.run(stream, family, replay.ours(stream, family, bundle.manifest.gate(0.01).claim))
    return _Watched(
        np.array([_moving(pictures[max(0, index - _LAG)], own) < _STILL for index, own in enumerate(pictures)]),
        np.array([level == "frames" for level in done.levels]),
        float(done.hit.mean()),
        done.false_hits(replay.reference_labels(stream, family)),
        float((done.labels == full).mean()),
    )


def _moving(before: Picture, picture: Picture) -> float:
    """Share of the pixels that differ."""
    first, second = (cv2.GaussianBlur(cv2.cvtColor(one, cv2.COLOR_BGR2GRAY), (0, 0), 2.0) for one in (before, picture))
    return float((cv2.absdiff(first, second) > _DIFFERENT).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("videos", nargs="+", type=Path)
    parser.add_argument("--bundle", type=Path, default=Path("models/zoo/cifar10"))
    parser.add_argument("--frames", type=int, default=3000)
    parser.add_argument("--tiles", type=int, default=1)
    asked = parser.parse_args()
    print(json.dumps([measure(asked.bundle, video, asked.frames, asked.tiles) for video in asked.videos]))


if __name__ == "__main__":
    main()
