"""Networks that a build trains: a general model of each size, and from each a submodel for each partition."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from cachenet.models.build_config import DEFAULT_SHARES, BuildConfig, key
from cachenet.models.data.dataset import Dataset
from cachenet.models.export import cost
from cachenet.models.export.classifier import PRESETS, serving_graph
from cachenet.models.export.export import export
from cachenet.models.report.remarks import SLOW
from cachenet.models.train import clusters, partitions
from cachenet.models.train.networks import BASE, ResNet, Shape, macs, sized
from cachenet.models.train.partitions import Partition, WorkingSet
from cachenet.shared.bundle.manifest import digest
from cachenet.shared.command import atomic_files
from cachenet.shared.inference.image import Input, Size, blank

#: Clusters for each label.
_CLUSTERS_PER_LABEL = 4
#: Maximum number of clusters.
_MAX_CLUSTERS = 256
#: Maximum multiply-adds of a small network, as a share of the full model's.
SMALL = 1 / 30
#: Blocks of each stage of a small network: dispatching its operators takes as long as their arithmetic.
_SMALL_BLOCKS = (1, 1, 1)
#: Maximum absolute normalised colour of an input that networks are trained on.
_MAX_COLOUR = 10.0
#: Timed runs of each model.
RUNS = 50
#: Maximum number of halvings of the base model's share.
_HALVINGS = 6
#: Multiply-adds below which a smaller model is hardly faster, because dispatching some twenty operators dominates.
_CHEAP = 2e6


@dataclass(frozen=True)
class TrainedModel:
    """A local model to train."""

    name: str  # Name in the bundle
    size: str  # Multiply-adds relative to the full model's, as text (``1in13``)
    shape: Shape | None  # Architecture; None for the user's base model
    part: Partition | None = None  # Partition of a submodel; None for a general model


def propose(config: BuildConfig, dataset: Dataset, likely: Sequence[WorkingSet]) -> list[TrainedModel]:
    """Return the general models, the base model first, and submodels for ``likely`` working sets.

    Return the base model alone if the user supplies it.
    """
    if dataset.base is not None:
        return [TrainedModel("base", "as given", None)]
    sizes = _sizes(config.shares, dataset)
    first = next(iter(sizes))
    models = [TrainedModel("base" if size == first else f"general-{size}", size, net) for size, net in sizes.items()]
    for number, part in enumerate(_partition(config, dataset, likely), 1):
        name = model_name(f"c{number:02}", [dataset.classifier.labels[label] for label in part.labels])
        models += [
            TrainedModel(name if size == first else f"{name}-{size}", size, net, part)
            for size, net in _sizes(config.submodel_shares or config.shares, dataset).items()
        ]
    return models


def model_name(prefix: str, labels: Sequence[str]) -> str:
    """Return a model name of at most 40 ASCII characters: ``prefix`` and ``labels``."""
    words = "-".join(labels).lower()
    plain = "".join(letter if letter.isascii() and letter.isalnum() else "-" for letter in words)
    return f"{prefix}-{plain}"[:40].rstrip("-")


def _sizes(shares: Sequence[float], dataset: Dataset) -> dict[str, Shape]:
    """Return the distinct architectures by size, in the order of ``shares``."""
    classifier = dataset.classifier
    side = classifier.input.size
    full = max(1, cost.macs(classifier.graph, side))
    shapes = dict.fromkeys(network_shape(share, full, side, len(classifier.labels)) for share in shares)
    return {f"1in{full / macs(ResNet(net), side):.3g}": net for net in shapes}


def network_shape(share: float, full: int, side: Size, classes: int) -> Shape:
    """Return the architecture for a ``share`` of the ``full`` model's multiply-adds."""
    return sized(int(share * full), side, classes, _SMALL_BLOCKS if share < SMALL else BASE.blocks)


def affordable_shares(config: BuildConfig, dataset: Dataset, work: Path) -> tuple[float, ...]:
    """Return ``config.shares``; adapt a default share so that the base model is fast on this machine.

    The share is raised to ``_CHEAP`` multiply-adds, then halved until the base model takes at most ``SLOW`` of the full
    model's time or cannot get smaller. The result is stored in ``work``.
    """
    if dataset.base is not None or config.shares != DEFAULT_SHARES:
        return config.shares
    classifier, spec = dataset.classifier, local_input(dataset.classifier.input)
    stored = work / f"share-{key(digest(classifier.graph.SerializeToString(deterministic=True)), config.shares)}.txt"
    if not stored.exists():
        full, [share] = max(1, cost.macs(classifier.graph, classifier.input.size)), config.shares
        share = max(share, min(SLOW, _CHEAP / full))
        with tempfile.TemporaryDirectory(prefix="cachenet-") as directory:
            path = Path(directory, "full.onnx")
            path.write_bytes(serving_graph(classifier, {}).SerializeToString(deterministic=True))
            [full_seconds] = cost.run_seconds([path], blank(classifier.input), RUNS)
            tried: Shape | None = None
            for halved in [share / 2**times for times in range(_HALVINGS)]:
                net = network_shape(halved, full, spec.size, len(classifier.labels))
                if net == tried:
                    break
                tried, share = net, halved
                path = Path(directory, "base.onnx")
                export(ResNet(net).eval(), path, {})
                if cost.run_seconds([path], blank(spec), RUNS)[0] <= SLOW * full_seconds:
                    break
        atomic_files.write(stored, repr(share).encode())
    return (float(stored.read_text()),)


def local_input(spec: Input) -> Input:
    """Return the preprocessing of trained networks for a full model of ``spec``: same crop, RGB, small numbers."""
    mean, std = spec.mean, spec.std
    if spec.colour == "bgr":
        mean, std = mean[::-1], std[::-1]
    largest = max(max(middle, 255 - middle) / spread for middle, spread in zip(mean, std, strict=True))
    if spec.colour == "grey" or largest > _MAX_COLOUR:
        mean, std = PRESETS["imagenet"].mean, PRESETS["imagenet"].std
    return msgspec.structs.replace(spec, mean=mean, std=std, colour="rgb")


def _partition(config: BuildConfig, dataset: Dataset, likely: Sequence[WorkingSet]) -> list[Partition]:
    learn, classes = dataset.learn, len(dataset.classifier.labels)
    if not config.submodels:
        return []
    count = min(_MAX_CLUSTERS, _CLUSTERS_PER_LABEL * classes, len(learn) // 4)
    own = clusters.assign(learn.embeddings, clusters.fit(learn.embeddings, count, config.seed))
    return partitions.group_clusters(own, learn.full_labels, classes, likely, config.submodels)
