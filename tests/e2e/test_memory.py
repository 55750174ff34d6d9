"""What submodels really cost: the process's own books, over two hundred of them coming and going."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np

from cachenet.shared.bundle.manifest import Bundle

ROOT = Path(__file__).parents[2]

#: Runs in a process of its own, whose memory nobody else uses.
PROGRAM = """
import json, random, sys
from pathlib import Path
import numpy as np
from cachenet.edge_agent.agent import Agent
from cachenet.edge_agent.outputs.report import JsonLinesWriter
from cachenet.edge_agent.settings import Settings
from cachenet.edge_agent.sources import Files, SourceFrame
from cachenet.shared.bundle.manifest import Bundle
from cachenet.shared.inference.engine import resident_bytes

bundle = Bundle(Path("models/zoo/cifar10"))
budget, swaps = int(sys.argv[1]), int(sys.argv[2])
agent = Agent(Settings(memory_budget=str(budget)), [Files([], None)], (), None, bundle)
(camera,) = agent.cameras
agent.loader.start()
camera.wait_for_bundle()
floor = resident_bytes()
rng, names = random.Random(0), bundle.manifest.submodels()
picture = np.random.default_rng(0).integers(0, 256, (32, 32, 3), np.uint8)
sink, most, scores, dropped = JsonLinesWriter(""), 0, {}, 0
for index in range(swaps):
    name = names[index % len(names)] if index < len(names) else rng.choice(names)
    before = set(camera.cascade.submodels.names())
    for _ in range(5000):
        # As often as a server would say so: memory may be short while another loads.
        camera.cascade.pending_fetch = name
        camera.active_bundle.maintain()
        if name in camera.cascade.submodels.names():
            break
        agent.stopped.wait(0.002)
    else:
        raise SystemExit(
            f"swap {index}: {name} never came; {resident_bytes()} bytes resident, {floor} at first, "
            f"{camera.active_bundle.evicted}, {agent.loader.error}"
        )
    camera.cascade.pending_fetch = None
    dropped += len(before - set(camera.cascade.submodels.names()))
    camera.answer(index, SourceFrame(picture), sink)
    most = max(most, resident_bytes())
    model = camera.cascade.submodels._resident[name]
    logits = model.score(type("View", (), {"crop": lambda self, spec: picture})()).tolist()
    scores.setdefault(name, logits)
    assert scores[name] == logits, name
agent.loader.stop()
print(json.dumps({"floor": floor, "most": most, "dropped": dropped, "scores": scores}))
"""


def run(budget: int, swaps: int) -> dict[str, object]:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(budget), str(swaps)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, object] = json.loads(done.stdout)
    return result


def test_two_hundred_submodels_are_swapped_within_the_memory_budget_without_changing_their_scores() -> None:
    there = len(Bundle(ROOT / "models/zoo/cifar10").manifest.submodels())
    few = run(1_000_000_000, there)
    budget = few["floor"] + 7_000_000  # type: ignore[operator]
    many = run(budget, 200)
    assert many["dropped"] > 100  # type: ignore[operator]
    assert many["most"] <= 1.05 * budget  # type: ignore[operator]
    assert many["scores"] == few["scores"], "scores do not depend on evicted models"
    assert len(few["scores"]) == there  # type: ignore[arg-type]
    assert np.isfinite(list(few["scores"].values())).all()  # type: ignore[attr-defined]
