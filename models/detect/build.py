"""Builds a bundle from a detector and unlabelled footage: the full detector's boxes are the labels.

Results of each stage are stored in a work directory. So an interrupted build resumes, and the bundle appears under its
name when it is complete.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import msgspec
import numpy as np
import onnx
import torch
from rich.progress import Progress

from cachenet.models.build_config import key
from cachenet.models.bundle_writer import publish, under_construction
from cachenet.models.data.frames import Frames
from cachenet.models.detect import agreement
from cachenet.models.detect import fine_tune as fine_tuning
from cachenet.models.detect.agreement import LEAST, Agreement
from cachenet.models.detect.certify import certify
from cachenet.models.detect.export import export
from cachenet.models.detect.fine_tune import fine_tune
from cachenet.models.detect.footage import Block, Footage, collect, first_size
from cachenet.models.detect.network import HeatmapNet, HeatmapShape, input_size
from cachenet.models.detect.train import BATCH, STEPS, train
from cachenet.models.export import cost
from cachenet.models.export.classifier import PRESETS
from cachenet.models.export.detector import DetectorModel, detector_graph
from cachenet.models.export.metadata import format_labels
from cachenet.models.train.local_models import LocalModel, manifest_entry
from cachenet.models.train.onnx_network import NotTrainable
from cachenet.shared.bundle.manifest import FORMAT, Bundle, Manifest, Model, digest
from cachenet.shared.cascade.detect.scene_features import SceneStage
from cachenet.shared.cascade.detect.spec import CANDIDATES
from cachenet.shared.command import atomic_files
from cachenet.shared.command.errors import UserError
from cachenet.shared.inference.decoders import Decoder
from cachenet.shared.inference.detector import Detector
from cachenet.shared.inference.engine import Session
from cachenet.shared.inference.image import Input, region_text

#: Largest overlap of two objects of one label, for the own detector: people who walk side by side overlap by half.
_OVERLAP = 0.6
#: Name of the submodel for the place of the footage, where the user gives a base model.
SCENE: Literal["scene"] = "scene"

#: F1 of the fine-tuned detector on the frames to tune after each epoch, in the provenance.
CURVE = "f1 by epoch"
#: Before a local model's name, in the provenance: its F1 against the full model on the block to prove with.
AGREEMENT = "f1 of "
Role = Literal["base", "submodel", "full"]
#: Stage of a local model by its role.
STAGES: dict[str, SceneStage] = {"base": "base", "submodel": "submodel"}


class LabelsError(UserError):
    """The labels of two detectors have nothing in common."""


@dataclass(frozen=True)
class DetectorConfig:
    """All inputs that decide the bundle, except the footage and the user's detectors.

    Attributes:
        widths: Channels of the own detector; see ``HeatmapShape``.
        area: Pixels of its input.
        epochs: Epochs of its training, of ``train.STEPS`` steps.
        batch: Frames of a step.
        tuning_epochs: Epochs of the fine-tuning of a given base model, of ``fine_tune.STEPS`` steps.
    """

    name: str
    widths: tuple[int, int, int] = (16, 32, 32)
    area: int = 384 * 288
    epochs: int = 30
    batch: int = BATCH
    tuning_epochs: int = fine_tuning.EPOCHS
    seed: int = 0


#: Configuration of a trial run: it takes a minute.
QUICK = DetectorConfig("quick", widths=(8, 16, 32), area=192 * 160, epochs=2, batch=8, tuning_epochs=2)


def build(
    config: DetectorConfig,
    full: DetectorModel,
    base: DetectorModel | None,
    sources: Sequence[Frames],
    work: Path,
    out: Path,
    progress: Progress,
) -> Bundle:
    """Write the bundle to ``out``, in place of any bundle there.

    Args:
        base: The user's base model, with the labels of ``full``. It is fine-tuned to a submodel for the place of the
            footage; where that is not possible, the submodel is an own detector. None: an own detector is the base
            model.
        sources: Footage; or footage to train on, and held-out footage.
        work: Directory of intermediate results.

    Raises:
        TargetError: Something other than a bundle is at ``out``.
        UserError: The footage is too little or cannot be read, or a model does not run.
        OSError: ``work`` or ``out`` cannot be written.
    """
    with under_construction(out) as building:
        tuned = base if base is not None and is_trainable(base, progress) else None
        spec = tuned.input if tuned is not None else own_input(first_size(sources[0]), config.area)
        footage = collect(full, sources, spec, work, torch.get_num_threads(), progress)
        models = {"full": write_detector(building, "full", "full", full, config.name)}
        if base is not None:
            models["base"] = write_detector(building, "base", "base", base, config.name)
        name: Literal["base", "scene"] = "base" if base is None else SCENE
        results = work / f"detectors-{key(fingerprint(footage.learn))}"
        models[name], training = trained(building, config, name, tuned, spec, full.labels, footage, results, progress)
        task = progress.add_task("thresholds", total=None)
        models, found = measured(building, models, footage)
        progress.remove_task(task)
        draft = Manifest(FORMAT, config.name, "detection", full.labels, models, {})
        runs = draft.better_detector() or "base"
        task = progress.add_task("certificates", total=None)
        scores = {stage: found[model].score for model, stage in stages(models).items()}
        certified = certify(
            local_detectors(building, models), _tuning(footage, base), footage.prove, STAGES[models[runs].role], scores
        )
        progress.remove_task(task)
        answering = {
            model: msgspec.structs.replace(models[model], answer_score=certified.answer_scores.get(stage))
            for model, stage in stages(models).items()
        }
        provenance = {
            "plan": digest(msgspec.json.encode(config)),
            **({"region": region_text(region)} if (region := sources[0].region) is not None else {}),
            **about(footage),
            **{f"{AGREEMENT}{model}": f"{one.f1:.4f}" for model, one in found.items()},
            "certified on": f"{certified.about}, with the model '{runs}'",
            **training,
            "torch": str(torch.__version__),
        }
        manifest = msgspec.structs.replace(
            draft,
            models=models | answering,
            provenance=provenance,
            certificates=certified.certificates,
            scene_priors=certified.priors,
        )
        return publish(building, manifest, out)


def trained(
    building: Path,
    config: DetectorConfig,
    name: Literal["base", "scene"],
    tuned: DetectorModel | None,
    spec: Input,
    labels: tuple[str, ...],
    footage: Footage,
    work: Path,
    progress: Progress,
) -> tuple[Model, dict[str, str]]:
    """Train the model ``name`` of the bundle and write it.

    Args:
        tuned: The base model to fine-tune; None to train an own detector from nothing.
        spec: Input of the detector.

    Returns:
        Its entry in the manifest, and what the provenance says of the training.
    """
    role: Role = "base" if name == "base" else "submodel"
    if tuned is None:
        shape = HeatmapShape(config.widths, len(labels))
        network, _ = train(shape, spec, footage.learn, config.epochs, work, progress, name, config.batch)
        entry = write_own(building, name, role, network, spec, labels, config.name)
        return entry, {name: f"heatmap detector, {config.epochs * STEPS} steps of {config.batch} frames"}
    scene, history = fine_tune(tuned, footage.learn, footage.tune, work, progress, name, config.tuning_epochs)
    entry = write_detector(building, name, role, scene, config.name)
    return entry, {
        name: f"base model, fine-tuned in {config.tuning_epochs * fine_tuning.STEPS} steps",
        CURVE: " ".join(f"{row['f1']:.4f}" for row in history),
    }


def stages(models: Mapping[str, Model]) -> dict[str, SceneStage]:
    """Stage of each local model."""
    return {name: STAGES[model.role] for name, model in models.items() if model.role in STAGES}


def _tuning(footage: Footage, base: DetectorModel | None) -> dict[SceneStage, list[Block]]:
    """Footage to tune with: a model of the user's has not learned from any of it."""
    own = [footage.tune]
    return {"base": own if base is None else [footage.learn, footage.tune], "submodel": own}


def common_labels(full: DetectorModel, base: DetectorModel) -> tuple[DetectorModel, DetectorModel]:
    """Both detectors with the labels that both have, in the order of ``full``. Raises ``LabelsError``."""
    labels = tuple(label for label in full.labels if label in base.labels)
    if not labels:
        raise LabelsError(
            f"{base.path.name} has no label of {full.path.name} ({', '.join(full.labels[:5])}); give --labels"
        )
    return with_labels(full, labels), with_labels(base, labels)


def with_labels(model: DetectorModel, labels: tuple[str, ...]) -> DetectorModel:
    """``model`` with these of its labels."""
    classes = tuple(model.decoder.classes[model.labels.index(label)] for label in labels)
    return replace(model, labels=labels, decoder=msgspec.structs.replace(model.decoder, classes=classes))


def own_input(size: tuple[int, int], area: int) -> Input:
    """Input of an own detector for footage of ``size`` (width, height): about ``area`` pixels."""
    width, height = input_size(size, area)
    preset = PRESETS["imagenet"]
    return Input(width, preset.mean, preset.std, fit="stretch", height=None if width == height else height)


def is_trainable(base: DetectorModel, progress: Progress) -> bool:
    """Whether the user's base model can be fine-tuned; where not, the reason is printed."""
    try:
        fine_tuning.training(base)
    except NotTrainable as error:
        progress.console.print(f"{base.path.name}: {error}; an own detector is trained in its place")
        return False
    return True


def write_detector(building: Path, name: str, role: Role, model: DetectorModel, bundle: str) -> Model:
    """Write a detector in the form of the user's, and return its entry in the manifest."""
    graph = detector_graph(model, {"bundle": bundle, "model": name})
    atomic_files.write(_path(building, name), graph.SerializeToString(deterministic=True))
    size = LocalModel(model.input, cost.parameters(model.graph), cost.macs(model.graph, model.input.size))
    return _entry(building, name, role, size, model.decoder)


def write_own(
    building: Path, name: str, role: Role, network: HeatmapNet, spec: Input, labels: tuple[str, ...], bundle: str
) -> Model:
    """Write an own detector, and return its entry in the manifest."""
    path = _path(building, name)
    decoder = Decoder("heatmap", tuple(range(len(labels))), overlap=_OVERLAP)
    # With these, ``load_detector`` can read the file again.
    described = {key: msgspec.json.encode(value).decode() for key, value in (("input", spec), ("decoder", decoder))}
    export(network, spec.size, path, {"bundle": bundle, "labels": format_labels(labels), "model": name, **described})
    size = LocalModel(spec, network.parameters_count(), cost.macs(onnx.load(str(path)), spec.size))
    return _entry(building, name, role, size, decoder)


def measured(
    building: Path, models: Mapping[str, Model], footage: Footage
) -> tuple[dict[str, Model], dict[str, Agreement]]:
    """Choose the threshold of each local detector on the tuning block, and compare it on the block to prove with.

    The user's base model gets a threshold as well: its own suits another footage. The bundle has a lower threshold than
    that of the greatest F1, because the risk models weigh what is found.

    Returns:
        All models; and the agreement of each local one.
    """
    chosen, found = dict(models), {}
    for name, model in models.items():
        if model.role == "full":
            continue
        assert model.decoder is not None
        session = Session(building / model.file, "cpu", torch.get_num_threads())
        lower = msgspec.structs.replace(model.decoder, score=min(LEAST, model.decoder.score))
        detector = Detector(session.run_all, model.input, lower)
        tuned = agreement.best(agreement.run(detector, footage.tune), footage.tune.reference)
        found[name] = agreement.at(agreement.run(detector, footage.prove), footage.prove.reference, tuned.score)
        decoder = msgspec.structs.replace(model.decoder, score=round(CANDIDATES * tuned.score, 3))
        coverage = (round(found[name].f1, 4),) * len(decoder.classes)
        chosen[name] = msgspec.structs.replace(model, decoder=decoder, coverage=coverage)
    return chosen, found


def local_detectors(building: Path, models: Mapping[str, Model]) -> dict[SceneStage, Detector]:
    """The device's detectors by stage, with the thresholds of the bundle."""
    detectors: dict[SceneStage, Detector] = {}
    for model in models.values():
        if (stage := STAGES.get(model.role)) is not None:
            assert model.decoder is not None
            session = Session(building / model.file, "cpu", torch.get_num_threads())
            detectors[stage] = Detector(session.run_all, model.input, model.decoder)
    return detectors


def about(footage: Footage) -> dict[str, str]:
    """Provenance of the footage: its frames, and how many different objects they show."""
    parts = {"learn": footage.learn, "tune": footage.tune, "prove": footage.prove}
    return {
        "frames": ", ".join(f"{len(block)} to {use}" for use, block in parts.items()),
        "objects": ", ".join(f"{sum(map(len, block.reference))} to {use}" for use, block in parts.items()),
        "tracks": ", ".join(f"{agreement.tracks(block)} to {use}" for use, block in parts.items()),
    }


def fingerprint(block: Block) -> str:
    """Digest of a block's labels and of the size of its pictures, which decide what is trained on it."""
    found = block.objects
    arrays = [np.concatenate([getattr(one, part) for one in found]) for part in ("boxes", "labels", "scores")]
    return digest(b"".join(array.tobytes() for array in arrays) + repr((block.pictures.shape, block.score)).encode())


def _path(building: Path, name: str) -> Path:
    return building / name / "1" / "model.onnx"


def _entry(building: Path, name: str, role: Role, size: LocalModel, decoder: Decoder) -> Model:
    """The manifest's entry of a detector: it needs no temperature and no coverage."""
    return msgspec.structs.replace(manifest_entry(building, name, role, size, 1.0, ()), decoder=decoder)
