"""Encoder and decoder of the features between the two parts of a split model.

N. Li et al., "Attention-based Feature Compression for CNN Inference Offloading in Edge Computing" (AECNN, arXiv
2211.13745): channel attention finds the most important channels; only these are quantised, coded and sent; a small
decoder restores all channels. ``Transform`` puts a strided convolution between selection and quantiser, with a rate
penalty, as Y. Matsubara et al. (SC2, arXiv 2203.08875) and A. Furutanpey et al. (FrankenSplit, arXiv 2302.10681) do.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: Bits of a quantised value.
BITS = 8
#: Channels of the hidden layer of the attention, as a share of all channels.
_REDUCTION = 4
#: Channels of the decoder's hidden layers.
_HIDDEN = 48
#: Factor of the logarithm of gains, so that they move faster than weights.
_SPEED = 5.0
#: Stride of the encoder of ``Transform``: two convolutions with a stride of 2.
_STRIDE = 4
#: Least spread of the distribution of quantised values.
_MIN_SPREAD = 0.05
#: Least probability of a value in the rate penalty.
_MIN_PROBABILITY = 1e-6


class ChannelAttention(nn.Module):
    """Weights of channels ``(n, channels)``, 0 to 1, from the mean and the maximum of each channel's map.

    S. Woo et al., "CBAM" (arXiv 1807.06521), section 3, as in AECNN.
    """

    def __init__(self, channels: int) -> None:
        super().__init__()
        hidden = max(1, channels // _REDUCTION)
        self.layers = nn.Sequential(nn.Linear(channels, hidden), nn.ReLU(), nn.Linear(hidden, channels))

    def forward(self, features: Tensor) -> Tensor:
        return torch.sigmoid(self.layers(features.mean((2, 3))) + self.layers(features.amax((2, 3))))


class Decoder(nn.Module):
    """Dequantised values ``(n, sent, h / stride, w / stride)`` to features ``(n, channels, h, w)``."""

    def __init__(self, sent: int, channels: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.first = nn.Conv2d(sent, _HIDDEN * stride**2, 3, padding=1)
        self.second = nn.Conv2d(_HIDDEN, channels, 3, padding=1)

    def forward(self, values: Tensor, size: Sequence[int]) -> Tensor:
        hidden = F.pixel_shuffle(F.relu(self.first(values)), self.stride)
        restored = F.relu(self.second(hidden))
        return restored[:, :, : size[0], : size[1]]


class Autoencoder(nn.Module):
    """Features to integers and back, at several rates that share all weights but a gain for each value's channel.

    A gain is the reciprocal of the quantiser's step (Z. Cui et al., "Asymmetric Gained Deep Image Compression",
    arXiv 2003.02012). A channel whose gain is 0 is not sent.

    Attributes:
        chosen: Numbers of the channels that the encoder uses.
        low, high: Least and largest integer.
    """

    chosen: Tensor
    importance: Tensor
    decoder: Decoder

    def __init__(self, shape: tuple[int, int, int], chosen: Tensor, importance: Tensor, sent: int, levels: int) -> None:
        """Create an autoencoder of features of ``shape``: channels, height and width.

        Args:
            chosen: Numbers of the channels that the encoder uses.
            importance: Their mean attention, by which they are scaled.
            sent: Channels of the integers.
            levels: Number of rates, the lowest first.
        """
        super().__init__()
        self.shape = shape
        self.register_buffer("chosen", chosen)
        self.register_buffer("importance", importance)
        self.middle = nn.Parameter(torch.zeros(levels, sent))
        self.spread = nn.Parameter(torch.ones(levels, sent))
        self.low, self.high = -(2 ** (BITS - 1)), 2 ** (BITS - 1) - 1

    def gains(self) -> Tensor:
        """Gain of each level and channel, ``(levels, sent)``, not negative."""
        raise NotImplementedError

    def transform(self, features: Tensor) -> Tensor:
        """Values to be quantised ``(n, sent, h', w')`` of features ``(n, channels, h, w)``."""
        raise NotImplementedError

    def encode(self, features: Tensor, level: Tensor) -> Tensor:
        """Integers, as floats, of features ``(n, channels, h, w)`` at the levels ``(n,)``.

        Its gradient is that of the identity within the range of integers (straight-through estimator).
        """
        scaled = self.transform(features) * self.gains()[level][:, :, None, None]
        scaled = scaled.clamp(self.low, self.high)
        return scaled + (scaled.round() - scaled).detach()

    def decode(self, integers: Tensor, level: Tensor) -> Tensor:
        """Features of integers at the levels ``(n,)``."""
        gains = self.gains()[level][:, :, None, None]
        values = torch.where(gains > 0, integers / gains.clamp_min(1e-9), 0.0)
        restored: Tensor = self.decoder(values, self.shape[1:])
        return restored

    def bits(self, integers: Tensor, level: Tensor) -> Tensor:
        """Estimated bits of each picture ``(n,)``: a penalty for training. What is reported are encoded bytes.

        The distribution of a channel's integers is a logistic one, in steps of one.
        """
        middle, spread = self.middle[level][:, :, None, None], self.spread[level].abs()[:, :, None, None] + _MIN_SPREAD
        upper, lower = (torch.sigmoid((integers - middle + half) / spread) for half in (0.5, -0.5))
        return -(upper - lower).clamp_min(_MIN_PROBABILITY).log2().sum((1, 2, 3))


class Selection(Autoencoder):
    """AECNN: the most important channels themselves, in 2 to 8 bits; a level is a number of channels and of bits."""

    fixed: Tensor

    def __init__(
        self,
        shape: tuple[int, int, int],
        order: Tensor,
        importance: Tensor,
        top: Tensor,
        rates: Sequence[tuple[int, int]],
    ) -> None:
        """Create the autoencoder.

        Args:
            shape: Channels, height and width of the features.
            order: Numbers of all channels, the most important first.
            importance: Mean attention of each.
            top: Largest value of each channel, the last step of the quantiser.
            rates: Channels and bits of each level.
        """
        most = max(count for count, _ in rates)
        super().__init__(shape, order[:most], importance[:most], most, len(rates))
        gains = torch.zeros(len(rates), most)
        for level, (count, bits) in enumerate(rates):
            gains[level, :count] = (2**bits - 1) / (top * importance)[:count].clamp_min(1e-6)
        self.register_buffer("fixed", gains)
        self.low, self.high = 0, 2**BITS - 1
        self.decoder = Decoder(most, shape[0], 1)

    def gains(self) -> Tensor:
        return self.fixed

    def transform(self, features: Tensor) -> Tensor:
        return features[:, self.chosen] * self.importance[None, :, None, None]


class Transform(Autoencoder):
    """The improvement: strided convolutions of the important channels, and steps that are learned for each rate."""

    def __init__(self, shape: tuple[int, int, int], chosen: Tensor, importance: Tensor, sent: int, levels: int) -> None:
        super().__init__(shape, chosen, importance, sent, levels)
        self.encoder = nn.Sequential(
            nn.Conv2d(len(chosen), 2 * sent, 3, 2, 1), nn.ReLU(), nn.Conv2d(2 * sent, sent, 3, 2, 1)
        )
        self.decoder = Decoder(sent, shape[0], _STRIDE)
        self.steps = nn.Parameter(torch.linspace(0.0, 2.0 / _SPEED, levels)[:, None].repeat(1, sent))

    def gains(self) -> Tensor:
        return (_SPEED * self.steps).exp()

    def transform(self, features: Tensor) -> Tensor:
        transformed: Tensor = self.encoder(features[:, self.chosen] * self.importance[None, :, None, None])
        return transformed
