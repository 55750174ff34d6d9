"""A general model of another size, for a bundle that is there already: a small device answers most frames with it in
less time than the base model takes, and a larger one knows more."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
from rich.progress import Progress

from cachenet.models.build import kept
from cachenet.models.build_config import BuildConfig
from cachenet.models.bundle_writer import PlaceError, check_place, lay
from cachenet.models.certify.recertify import again
from cachenet.models.data.dataset import Dataset
from cachenet.models.export import cost, quantise
from cachenet.models.export.export import export
from cachenet.models.export.metadata import written
from cachenet.models.train import candidates, teacher_runtime
from cachenet.models.train.candidates import TrainedModel
from cachenet.models.train.networks import ResNet, macs
from cachenet.shared.bundle.manifest import MANIFEST, Bundle, Model, file_digest
from cachenet.shared.bundle.trust import Signer
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.image import blank

_RUNS = 50


def add(
    plan: BuildConfig,
    bundle: Bundle,
    material: Dataset,
    work: Path,
    out: Path,
    progress: Progress,
    signer: Signer | None = None,
) -> Bundle:
    """Write ``bundle`` to ``out`` with a general model of ``plan.shares[0]`` of the full model's multiply-adds, and
    certified anew. Raises ``PlaceError`` and ``OSError``."""
    check_place(out)
    manifest, classifier = bundle.manifest, material.classifier
    spec, full, base = candidates.own_input(classifier.input), manifest.only("full"), manifest.only("base")
    whole, [share] = cost.macs(classifier.graph, spec.size), plan.shares
    shape = candidates.shape(share, whole, spec.size, len(classifier.labels))
    size = f"1in{whole / macs(ResNet(shape), spec.size):.3g}"
    name = f"general-{size}"
    if name in manifest.models:
        raise PlaceError(f"{manifest.name} has {name} already; name another --share")

    own = kept(plan.seed, material, work)
    wanted = [TrainedModel(name, size, shape)]
    network = candidates.train(plan, material, wanted, bundle.path(full), own, progress)[name].eval()
    staged = out.with_name(out.name + ".staged")
    shutil.rmtree(staged, ignore_errors=True)
    try:
        lay(bundle, manifest.models, staged)
        path = staged / name / "1" / "model.onnx"
        properties = {"bundle": manifest.name, "labels": written(classifier.labels), "model": name}
        export(network, path, {**properties, "input": msgspec.json.encode(spec).decode()})
        quantise.as_light_as(bundle.path(base), path, teacher_runtime.calibrating(spec, material.tune))
        model = Model(
            role="submodel",
            file=f"{name}/1/model.onnx",
            bytes=path.stat().st_size,
            sha256=file_digest(path),
            input=spec,
            temperature=1.0,  # this and what it covers are measured with the certificates
            parameters=network.parameters_count(),
            macs=macs(network, spec.size),
            milliseconds=round(1000 * cost.seconds([path], blank(spec), _RUNS)[0], 3),
            coverage=(0.0,) * len(classifier.labels),
        )
        models = {**manifest.models, name: model}
        about = {**manifest.provenance, name: f"from {len(material.learn)} frames, {plan.epochs} epochs"}
        grown = msgspec.structs.replace(manifest, models=models, provenance=about)
        atomic_files.write(staged / MANIFEST, msgspec.json.encode(grown))
        return again(plan, Bundle(staged), material.tune, material.prove, out, progress, signer)
    finally:
        shutil.rmtree(staged, ignore_errors=True)
