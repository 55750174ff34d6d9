"""One episode as a Gymnasium environment."""

from __future__ import annotations

from typing import Any

import gymnasium
import numpy as np
import numpy.typing as npt

from benchmarks.literature.learned_offloading.links import Durations
from benchmarks.literature.learned_offloading.world import ACTIONS, ASK, FEATURES, LOCAL, Episodes, World

Observation = npt.NDArray[np.float32]


class OffloadingEnv(gymnasium.Env[Observation, np.int64]):
    """A random one of ``episodes`` with a random budget. A step is a frame.

    An illegal action is replaced by a question at full precision, or by the local answer where only this is legal;
    ``info["action_mask"]`` has the legal actions. The reward is minus the latency and the price of the risk, in run
    times of the full model on the device.
    """

    def __init__(self, episodes: Episodes, durations: Durations, budgets: dict[float, float]) -> None:
        """``budgets``: price of an error by risk budget, seconds."""
        self.observation_space = gymnasium.spaces.Box(-5.0, 5.0, (FEATURES,), np.float32)
        self.action_space = gymnasium.spaces.Discrete(ACTIONS)
        self._episodes, self._durations, self._budgets = episodes, durations, budgets
        self._world: World | None = None
        self._price = 0.0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Observation, dict[str, Any]]:
        """Start an episode."""
        super().reset(seed=seed, options=options)
        budget = float(self.np_random.choice(list(self._budgets)))
        self._price = self._budgets[budget]
        row = self.np_random.integers(len(self._episodes), size=1)
        self._world = World(self._episodes.take(row, np.array([budget])), self._durations)
        return self._world.observe()[0], {"action_mask": self._world.legal[0].astype(np.int8)}

    def step(self, action: np.int64) -> tuple[Observation, float, bool, bool, dict[str, Any]]:
        """Answer a frame."""
        assert self._world is not None
        world = self._world
        if not world.legal[0, action]:
            action = np.int64(ASK if world.legal[0, ASK] else LOCAL)
        outcome = world.step(np.array([action]))
        latency, charge = float(outcome.latency[0]), float(outcome.charge[0])
        reward = -(latency + self._price * charge) / self._durations.full
        info = {
            "action_mask": world.legal[0].astype(np.int8),
            "latency": latency,
            "charge": charge,
            "wrong": bool(outcome.wrong[0]),
        }
        return world.observe()[0], reward, world.done, False, info
