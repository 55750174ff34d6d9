"""Random networks of a few blocks, whose kernels cover the shapes of networks for small devices."""

from __future__ import annotations

import functools
from collections.abc import Callable

import numpy as np

from benchmarks.literature.time_estimation.builder import ACTIVATIONS, Builder, Map
from benchmarks.literature.time_estimation.recording import Network

#: Most multiply-adds and floats of a layer, of most networks and of large ones; most weights of a layer.
_LIMITS, _LARGE_LIMITS, _WEIGHTS = (120e6, 1.5e6), (480e6, 2.5e6), 2.4e6
#: One network in this many is large.
_ONE_LARGE_IN = 9
#: Most layers' blocks of a network.
_BLOCKS = 7
#: Shares of the activations ``ACTIVATIONS``.
_SHARES = (0.4, 0.15, 0.15, 0.05, 0.05, 0.2)
#: Sides of maps, pixels: the least and the greatest, of most networks and of large ones.
_SIDES, _LARGE_SIDES = (2, 224), (20, 224)


def networks(count: int) -> list[Network]:
    """``count`` networks, the same in each call; the last ones are large."""
    first_large = count - count // _ONE_LARGE_IN
    return [
        Network(str(number), "sweep", functools.partial(_network, number, number >= first_large))
        for number in range(count)
    ]


def _network(number: int, large: bool) -> bytes:
    return Sampler(number, large).network()


class Sampler:
    """Draws blocks; a block that would be too large is left out."""

    def __init__(self, seed: int, large: bool = False) -> None:
        self._rng = np.random.default_rng((17, seed))
        self._macs, self._floats = _LARGE_LIMITS if large else _LIMITS
        side = int(np.exp(self._rng.uniform(*np.log(_LARGE_SIDES if large else _SIDES))))
        other = max(2, round(side * self._rng.choice([1.0, 1.0, 0.75, 4 / 3])))
        picture = self._rng.random() < 0.35
        if picture:
            side, other = (max(24, 2 * one) for one in (side, other))
        most = min(640, int(self._floats / 2 / (side * other)))
        channels = 3 if picture else self.channels(4, max(8, most))
        self.net = Builder(channels, side, other, seed)

    def channels(self, least: int, most: int) -> int:
        """A number of channels, most often a multiple of 8."""
        exact = np.exp(self._rng.uniform(np.log(least), np.log(max(least + 1, most))))
        step = int(self._rng.choice([32, 16, 8, 4, 2], p=[0.2, 0.3, 0.25, 0.15, 0.1]))
        return max(2, round(exact / step) * step or step)

    def network(self) -> bytes:
        """A network."""
        x = self.net.image
        blocks: list[Callable[[Map], Map]] = [
            self._conv, self._conv, self._pointwise, self._pointwise, self._depthwise, self._residual, self._inverted,
            self._shuffled, self._joined, self._pooled, self._larger, self._larger, self._gated,
            self._pointwise, self._depthwise,
        ]  # fmt: skip
        if x.channels == 3:
            x = self._stem(x)
        for _ in range(int(self._rng.integers(3, _BLOCKS + 1))):
            x = blocks[self._rng.integers(len(blocks))](x)
        return self.net.model(self._end(x))

    def _activation(self) -> str:
        return str(self._rng.choice(ACTIVATIONS, p=_SHARES))

    def _chance(self, share: float) -> bool:
        return bool(self._rng.random() < share)

    def _width(self, x: Map) -> int:
        most = min(1280, 8 * x.channels, int(self._floats / (x.height * x.width)))
        return self.channels(max(4, min(x.channels // 4, most // 2)), max(8, most))

    def _try(self, x: Map, out: int, kernel: int, stride: int = 1, groups: int = 1, act: str | None = None) -> Map:
        weights = out * x.channels // groups * kernel**2
        cells = -(-x.height // stride) * -(-x.width // stride)
        if weights > _WEIGHTS or weights * cells > self._macs or out * cells > self._floats:
            return x
        return self.net.conv(x, out, kernel, stride, groups, self._activation() if act is None else act)

    def _stride(self, x: Map) -> int:
        return 2 if min(x.height, x.width) >= 4 and self._chance(0.3) else 1

    def _stem(self, x: Map) -> Map:
        if self._chance(0.15) and x.height % 2 == 0 and x.width % 2 == 0:
            return self._try(self.net.focus(x), self.channels(8, 48), 3)
        kernel, stride = [(3, 2), (3, 2), (3, 1), (7, 2), (4, 4), (5, 2)][self._rng.integers(6)]
        return self._try(x, self.channels(6, 72), kernel, stride)

    def _conv(self, x: Map) -> Map:
        kernel = int(self._rng.choice([3, 3, 3, 3, 5, 2]))
        return self._try(x, self._width(x), kernel, self._stride(x))

    def _pointwise(self, x: Map) -> Map:
        return self._try(x, self._width(x), 1, 2 if self._chance(0.05) else 1)

    def _depthwise(self, x: Map) -> Map:
        return self._try(x, x.channels, int(self._rng.choice([3, 3, 5])), self._stride(x), x.channels)

    def _residual(self, x: Map) -> Map:
        y = self._try(x, self._width(x), 3)
        y = self._try(y, x.channels, 3, act="none")
        if y.channels != x.channels or y is x:
            return x
        y = self.net.add(y, x)
        return self.net.activation(y, "relu") if self._chance(0.7) else y

    def _inverted(self, x: Map) -> Map:
        y = self._try(x, int(x.channels * self._rng.choice([2, 4, 6])), 1)
        y = self._depthwise(y)
        y = self._try(y, x.channels, 1, act="none")
        return self.net.add(x, y) if y[1:] == x[1:] and y is not x else y

    def _shuffled(self, x: Map) -> Map:
        if x.channels % 4:
            return x
        first, second = self.net.halves(x)
        y = self._try(self._try(second, second.channels, 1), second.channels, 3, 1, second.channels, "none")
        x = self.net.concat([first, self._try(y, second.channels, 1)])
        return self.net.shuffle(x) if self._chance(0.7) else x

    def _joined(self, x: Map) -> Map:
        parts = [self._try(x, self._width(x), int(self._rng.choice([1, 3]))) for _ in range(2)]
        parts = [one for one in parts if one is not x] + ([x] if self._chance(0.5) else [])
        return self.net.concat(parts) if len(parts) > 1 and sum(one.size for one in parts) < self._floats else x

    def _pooled(self, x: Map) -> Map:
        if min(x.height, x.width) < 4:
            return x
        kernel, stride = [(2, 2), (3, 2), (3, 2), (3, 1), (5, 1), (9, 1)][self._rng.integers(6)]
        return self.net.pool(x, kernel, stride, "Average" if self._chance(0.2) and kernel < 5 else "Max")

    def _larger(self, x: Map) -> Map:
        if 4 * x.size > self._floats:
            return x
        return self.net.larger(x, "linear" if self._chance(0.3) else "nearest")

    def _gated(self, x: Map) -> Map:
        """Squeeze and excitation."""
        gate = self.net.conv(self.net.global_pool(x), max(2, x.channels // 4), 1)
        return self.net.multiply(x, self.net.conv(gate, x.channels, 1, act="hardsigmoid"))

    def _end(self, x: Map) -> Map:
        kind = int(self._rng.integers(5))
        if kind == 0:
            return self.net.classifier(x, int(self._rng.choice([2, 10, 80, 1000])))
        if kind == 1 and x.size * 64 < _WEIGHTS:
            return self.net.linear(self.net.linear(self.net.flatten(x), self.channels(16, 64), "relu"), 10)
        if kind == 2:
            x = self.net.rows(x)
            return self.net.softmax(x) if self._chance(0.5) else self.net.activation(x, "sigmoid")
        if kind == 3:
            y = self._try(x, self.channels(4, 90), 1, act="none")
            x = self.net.rows(y)
            return self.net.concat([x, x])
        return x
