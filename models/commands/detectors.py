"""The command ``build`` for a detector."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from cachenet.models.build_config import BuildSettings
from cachenet.models.commands import options
from cachenet.models.data.frames import Frames
from cachenet.models.detect.build import QUICK, DetectorConfig, build, common_labels
from cachenet.models.export.detector import load_detector
from cachenet.models.export.preprocessing import parse_preprocessing
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.command.config import flag

#: Settings of a build that mean nothing for a detector.
_OF_CLASSIFIERS = (
    "embedding",
    "scenes",
    "share",
    "submodel_share",
    "submodels",
    "min_coverage",
    "batch",
    "refine_epochs",
    "precision",
)


def build_detectors(
    settings: BuildSettings,
    name: str,
    labels: tuple[str, ...] | None,
    sources: Sequence[Frames],
    work: Path,
) -> Bundle:
    """Build the bundle of a detector.

    Args:
        name: Name of the bundle.
        labels: Labels from the user's file; None for the model's.

    Raises:
        UserError: A model, the footage or a setting cannot be used.
        OSError: A directory cannot be written.
    """
    usual = BuildSettings(full="", data="", out="")
    for setting in _OF_CLASSIFIERS:
        if getattr(settings, setting) != getattr(usual, setting):
            options.refuse(f"{flag(setting)} is for a classifier, and {settings.full} is a detector")
    preprocessing, base_preprocessing = (
        parse_preprocessing(text) if text else None for text in (settings.preprocessing, settings.base_preprocessing)
    )
    kind = None if settings.decoder == "auto" else settings.decoder
    full = load_detector(Path(settings.full), preprocessing, labels, kind)
    base = None
    if settings.base:
        full, base = common_labels(full, load_detector(Path(settings.base), base_preprocessing, labels))
    config = replace(QUICK, name=name) if settings.quick else DetectorConfig(name, epochs=settings.epochs)
    with options.progress_bar() as progress:
        return build(config, full, base, sources, work, Path(settings.out), progress)
