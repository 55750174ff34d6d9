"""Stages of a local decision: exit heads of the base model, the base model, and a smaller model in front of them."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, shape_inference

from benchmarks.literature.exits_on_device.cases import Case, Part
from cachenet.models.certify import traces
from cachenet.models.exits.activations import record
from cachenet.models.exits.certify import run_exits
from cachenet.models.exits.heads import HeadData, measure_lookup, measure_times, median_seconds, train_head
from cachenet.models.exits.select import ExitChoice
from cachenet.models.exits.sites import find_sites, shapes
from cachenet.models.export import cost
from cachenet.models.export.cost import Cost, model_cost
from cachenet.shared.cascade.probability import fit_temperature, softmax
from cachenet.shared.inference.engine import ModelPart, Session
from cachenet.shared.inference.graph_split import cut, read
from cachenet.shared.inference.image import blank
from cachenet.simulator.world.hardware_profiles import DeviceProfile

Logits = npt.NDArray[np.float32]
#: Most sites of exits.
SITES = 5
#: Operators of a head that run, beside those that ``cost.operators`` counts.
_ELEMENTWISE = ("Sub", "Mul")
#: Runs of the models in turns for a measured time.
_TURNS = 50


@dataclass(frozen=True)
class Stage:
    """A stage.

    Attributes:
        name: ``small``, ``base``, or ``exit`` and its share of the base model's multiply-adds.
        site: Place in the order of running: 0 for the smaller model, then the sites, then the end of the base model.
        model: File of the smaller model or of the head; None for the base model.
        tune, test: Logits ``(n, classes)``.
    """

    name: str
    site: int
    model: bytes | None
    tune: Logits
    test: Logits

    def choice(self, part: Part, logits: Logits, tune: Part, lookup: float) -> ExitChoice:
        """The stage's answers to the frames of ``part``, calibrated on ``tune`` to the full model's labels."""
        temperature = fit_temperature(self.tune, tune.full.argmax(1).astype(np.int64))
        risk = 1.0 - softmax(logits, temperature).max(1)
        return ExitChoice(self.site, risk, logits.argmax(1) != part.full.argmax(1), lookup, 0)


class Stages:
    """All stages of a case, trained.

    Attributes:
        all: The stages in the order of running.
        sites: The sites of the exits.
    """

    def __init__(self, case: Case, work: Path, most: int = SITES) -> None:
        """Train the exit heads, or read them from ``work``; ``most``: largest number of sites."""
        self.case = case
        self.graph = read(case.base.SerializeToString())
        self.sites = find_sites(case.base, case.spec.size, most)
        self.known = shapes(case.base, case.spec.size)
        self._files = files = [(number, work / f"{case.name}-{number}.onnx") for number in range(len(self.sites))]
        missing = [number for number, path in files if not path.exists()]
        if missing:
            self._train(missing, work)
        found = {
            name: run_exits(self.graph, self.sites, files, case.spec, part.pictures, 1)
            for name, part in (("tune", case.tune), ("test", case.test))
        }
        small, spec = case.small
        path = work / f"{case.name}-small.onnx"
        path.write_bytes(small.SerializeToString())
        session = Session(path, "cpu", 1)
        first = [traces.run_model(session, spec, part.pictures, case.spec) for part in (case.tune, case.test)]
        self.all = [
            Stage("small", 0, small.SerializeToString(), *first),
            *(
                Stage(f"exit {site.share:.2f}", 1 + number, files[number][1].read_bytes(), *own)
                for number, (site, own) in enumerate(
                    zip(self.sites, zip(found["tune"][0], found["test"][0], strict=True), strict=True)
                )
            ),
            Stage("base", 1 + len(self.sites), None, found["tune"][1], found["test"][1]),
        ]

    def _train(self, numbers: Sequence[int], work: Path) -> None:
        """Train the exit heads of the sites ``numbers``."""
        case, sites = self.case, [self.sites[number] for number in numbers]
        learn, tune = (
            HeadData(record(case.base, sites, case.spec, part.pictures, 1), scores)
            for part, scores in ((case.learn, case.teacher), (case.tune, case.tune.full))
        )
        times = measure_times(self.graph, self.sites, case.spec, 1)
        for number, site in zip(numbers, sites, strict=True):
            head = train_head("gati", number, site, self.known, learn, tune, times, 0, work)
            head.path.rename(self._files[number][1])

    @cached_property
    def measured(self) -> tuple[list[float], list[float]]:
        """Seconds until each site, and of each stage's own model, on this machine."""
        times = measure_times(self.graph, self.sites, self.case.spec, 1)
        small = ModelPart(self.all[0].model or b"", "small", "cpu", 1)
        lookups = [median_seconds(small, {small.takes[0]: blank(self.case.small[1])}, _TURNS)]
        heads = zip(self._files, self.sites, strict=True)
        lookups += [measure_lookup(path, site, self.known) for (_, path), site in heads]
        return [0.0, *times.reached, times.whole], [*lookups, 0.0]

    def estimated(self, machine: DeviceProfile) -> tuple[list[float], list[float]]:
        """The same on a device, by its profile. A further call of ONNX Runtime costs as much as an operator."""
        int8 = model_cost(self.case.base, self.case.spec.size).int8
        segments = [onnx.load_from_string(one.model) for one in cut(self.graph, [site.tensors for site in self.sites])]
        done = np.cumsum([cost.operators(one) for one in segments]).tolist()
        total = cost.macs(self.case.base, self.case.spec.size)
        reached = [
            machine.seconds(Cost(macs, operators, int8))
            for macs, operators in zip([*(site.macs for site in self.sites), total], done, strict=True)
        ]
        small = machine.seconds(model_cost(self.case.small[0], self.case.small[1].size))
        heads = [machine.seconds(head_cost(onnx.load_from_string(one.model or b""))) for one in self.all[1:-1]]
        return [0.0, *reached], [small, *heads, 0.0]

    def chain(self, chosen: Sequence[Stage]) -> tuple[list[float], float]:
        """Seconds until the end of each of ``chosen``, run one after another on this machine, and of the base model
        alone; medians of runs in turns."""
        exits = [stage for stage in chosen if 0 < stage.site <= len(self.sites)]
        runs_base = chosen[-1].site > len(self.sites)
        pieces = cut(self.graph, [self.sites[stage.site - 1].tensors for stage in exits])
        parts = [ModelPart(piece.model, "segment", "cpu", 1) for piece in pieces]
        heads = [ModelPart(stage.model or b"", "head", "cpu", 1) for stage in exits]
        small = [ModelPart(stage.model or b"", "small", "cpu", 1) for stage in chosen if not stage.site]
        whole = ModelPart(cut(self.graph, [])[0].model, "base", "cpu", 1)
        picture, little = {self.graph.image: blank(self.case.spec)}, blank(self.case.small[1])
        times: list[list[float]] = []
        for _ in range(_TURNS):
            begin, ends, tensors = time.perf_counter(), [], dict(picture)
            for one in small:
                one.run({one.takes[0]: little})
                ends.append(time.perf_counter() - begin)
            for part, head in zip(parts, heads, strict=False):
                tensors |= part.run(tensors)
                head.run(tensors)
                ends.append(time.perf_counter() - begin)
            if runs_base:
                parts[-1].run(tensors)
                ends.append(time.perf_counter() - begin)
            begin = time.perf_counter()
            whole.run(picture)
            times.append([*ends, time.perf_counter() - begin])
        *ended, alone = np.median(times, axis=0).tolist()
        return ended, alone


def head_cost(head: ModelProto) -> Cost:
    """Cost of an exit head for one picture."""
    fixed = ModelProto()
    fixed.CopyFrom(head)
    for value in fixed.graph.input:
        value.type.tensor_type.shape.dim[0].dim_value = 1
    inferred = shape_inference.infer_shapes(fixed, data_prop=True).graph
    sizes = {weight.name: list(weight.dims) for weight in fixed.graph.initializer}
    for value in (*inferred.input, *inferred.value_info, *inferred.output):
        sizes[value.name] = [size.dim_value for size in value.type.tensor_type.shape.dim]
    macs = sum(cost.node_macs(node, sizes) for node in fixed.graph.node)
    elementwise = sum(node.op_type in _ELEMENTWISE for node in fixed.graph.node)
    return Cost(macs, cost.operators(fixed) + elementwise + 1, False)
