"""Discrete soft actor-critic (P. Christodoulou, arXiv 1910.07207) without illegal actions, and its policy as ONNX.

The policy has two layers of 32. It reads ``World.observe``, and its most probable legal action is taken.
"""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime as ort
import torch
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

from benchmarks.literature.learned_offloading.world import ACTIONS, FEATURES, Numbers, Outcome, World
from cachenet.shared.command import atomic_files

Flags = npt.NDArray[np.bool_]
Observations = npt.NDArray[np.float32]

#: Discount of the next frame.
_DISCOUNT = 0.95
#: Weight of the entropy, in units of the reward: at the first step and at the last.
_ENTROPY = (0.3, 0.01)
_RATE = 1e-3
_BATCH = 512
#: Frames for each step of the optimisers.
_EVERY = 2
#: Transitions that are remembered.
_MEMORY = 200_000
#: Share of the target that moves to the critics in a step.
_FOLLOW = 0.01
#: Value of an illegal action.
_NEVER = -1e9


def network(hidden: int, outputs: int = ACTIONS) -> nn.Sequential:
    """A network of two layers from an observation to a value for each action."""
    return nn.Sequential(
        nn.Linear(FEATURES, hidden), nn.ReLU(), nn.Linear(hidden, hidden), nn.ReLU(), nn.Linear(hidden, outputs)
    )


class Memory:
    """The latest transitions: observation, legal actions, action, reward, next observation and its legal actions,
    and whether the episode went on."""

    def __init__(self) -> None:
        self.rows = 0
        shapes = ((FEATURES,), (ACTIONS,), (), (), (FEATURES,), (ACTIONS,), ())
        kinds = (np.float32, np.bool_, np.int64, np.float32, np.float32, np.bool_, np.float32)
        self._columns: list[npt.NDArray[Any]] = [
            np.zeros((_MEMORY, *shape), kind) for shape, kind in zip(shapes, kinds, strict=True)
        ]

    def add(self, *columns: npt.NDArray[np.generic]) -> None:
        """Add one transition of each episode."""
        at = (self.rows + np.arange(len(columns[0]))) % _MEMORY
        for column, values in zip(self._columns, columns, strict=True):
            column[at] = values
        self.rows += len(at)

    def sample(self, rng: np.random.Generator) -> list[Tensor]:
        """A random batch."""
        at = rng.integers(min(self.rows, _MEMORY), size=_BATCH)
        return [torch.from_numpy(column[at]) for column in self._columns]


class Learner:
    """Actor, two critics and their targets."""

    def __init__(self, seed: int) -> None:
        torch.manual_seed(seed)
        self.actor = network(32)
        self._critics = nn.ModuleList([network(64), network(64)])
        self._targets = copy.deepcopy(self._critics)
        self._optimisers = [torch.optim.Adam(part.parameters(), _RATE) for part in (self.actor, self._critics)]

    def probabilities(self, observations: Tensor, legal: Tensor) -> Tensor:
        """Log probabilities of the actions ``(b, ACTIONS)``."""
        return torch.log_softmax(self.actor(observations).masked_fill(~legal, _NEVER), 1)

    def draw(self, observations: Observations, legal: Flags) -> Numbers:
        """Random actions of the policy ``(b,)``."""
        with torch.no_grad():
            logs = self.probabilities(torch.from_numpy(observations), torch.from_numpy(legal))
            return torch.multinomial(logs.exp(), 1)[:, 0].numpy()

    def update(self, batch: list[Tensor], entropy: float) -> None:
        """One step of the critics and of the actor."""
        state, legal, action, reward, following, then_legal, goes_on = batch
        with torch.no_grad():
            logs = self.probabilities(following, then_legal)
            value = torch.min(*(target(following) for target in self._targets))
            soft = (logs.exp() * (value - entropy * logs)).masked_fill(~then_legal, 0.0).sum(1)
            wanted = reward + _DISCOUNT * goes_on * soft
        values = [critic(state) for critic in self._critics]
        chosen = [value.gather(1, action[:, None])[:, 0] for value in values]
        self._step(1, sum((nn.functional.smooth_l1_loss(value, wanted) for value in chosen), torch.zeros(())))
        logs = self.probabilities(state, legal)
        lowest = torch.min(*values).detach()
        self._step(0, (logs.exp() * (entropy * logs - lowest)).masked_fill(~legal, 0.0).sum(1).mean())
        with torch.no_grad():
            for target, own in zip(self._targets.parameters(), self._critics.parameters(), strict=True):
                target.lerp_(own, _FOLLOW)

    def _step(self, which: int, loss: Tensor) -> None:
        self._optimisers[which].zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        self._optimisers[which].step()


def train(
    make: Callable[[int], tuple[World, npt.NDArray[np.float64]]], rounds: int, seed: int, say: Callable[[str], None]
) -> nn.Sequential:
    """Train a policy; return the actor.

    Args:
        make: Makes the world of a round, and the price of an error in each of its episodes, seconds.
        rounds: Number of worlds.
        seed: Seed of the weights and of all draws.
        say: Takes lines of progress.
    """
    learner, memory, rng = Learner(seed), Memory(), np.random.default_rng(seed)
    for number in range(rounds):
        world, price = make(number)
        share = number / max(1, rounds - 1)
        entropy = _ENTROPY[0] ** (1 - share) * _ENTROPY[1] ** share
        latency = []
        while not world.done:
            observation, legal = world.observe(), world.legal
            action = learner.draw(observation, legal)
            outcome: Outcome = world.step(action)
            reward = -(outcome.latency + price * outcome.charge) / world.durations.full
            goes_on = np.full(len(action), not world.done, np.float32)
            memory.add(observation, legal, action, reward.astype(np.float32), world.observe(), world.legal, goes_on)
            if world.frame % _EVERY == 0:
                learner.update(memory.sample(rng), entropy)
            latency.append(outcome.latency.mean())
        if number % 5 == 4 or number == rounds - 1:
            say(f"round {number + 1} of {rounds}: {1e3 * float(np.mean(latency)):.1f} ms a frame")
    return learner.actor


def export(actor: nn.Sequential, path: Path) -> None:
    """Write the policy as ONNX: ``observation`` ``(n, FEATURES)`` to ``preference`` ``(n, ACTIONS)``, float32."""
    nodes, weights, name = [], [], "observation"
    for at, layer in enumerate(actor):
        following = "preference" if at == len(actor) - 1 else f"x{at}"
        if isinstance(layer, nn.Linear):
            own = {f"weight{at}": layer.weight, f"bias{at}": layer.bias}
            weights += [numpy_helper.from_array(values.detach().numpy(), key) for key, values in own.items()]
            nodes.append(helper.make_node("Gemm", [name, f"weight{at}", f"bias{at}"], [following], transB=1))
        else:
            nodes.append(helper.make_node("Relu", [name], [following]))
        name = following
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["n", FEATURES])],
        [helper.make_tensor_value_info("preference", TensorProto.FLOAT, ["n", ACTIONS])],
        weights,
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)
    onnx.checker.check_model(model)
    atomic_files.write(path, model.SerializeToString(deterministic=True))


class Learned:
    """The policy of a file."""

    def __init__(self, path: Path) -> None:
        options = ort.SessionOptions()
        options.intra_op_num_threads = 1
        self._session = ort.InferenceSession(path.read_bytes(), options, providers=["CPUExecutionProvider"])

    def act(self, world: World) -> Numbers:
        """The most probable legal action of each episode ``(b,)``."""
        return best(self._session.run(None, {"observation": world.observe()})[0], world.legal)

    def learn(self, world: World, actions: Numbers, outcome: Outcome) -> None:
        """Learn nothing: the policy was trained before."""


def best(preference: npt.NDArray[np.float32], legal: Flags) -> Numbers:
    """The preferred legal action of each episode ``(b,)``."""
    found: Numbers = np.where(legal, preference, -np.inf).argmax(1)
    return found
