"""The networks: a classifier, whose convolutions are the encoder, and a decoder that is dropped after training."""

from __future__ import annotations

from torch import Tensor, nn

from cachenet.models.train.networks import Network, ResNet

#: Channels of the decoder's layers.
_CHANNELS = (32, 16)


class ConvertingAutoencoder(Network):
    """A classifier with a decoder on its last maps.

    Attributes:
        classifier: The network that remains.
        decoder: From maps ``(n, channels, h, w)`` to a picture ``(n, 3, 4 h, 4 w)``.
    """

    def __init__(self, classifier: ResNet) -> None:
        super().__init__()
        self.classifier = classifier
        layers: list[nn.Module] = []
        channels = classifier.head.in_features
        for width in _CHANNELS:
            layers += [nn.ConvTranspose2d(channels, width, 4, 2, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()]
            channels = width
        self.decoder = nn.Sequential(*layers, nn.Conv2d(channels, 3, 3, 1, 1))

    def heads(self, x: Tensor) -> list[Tensor]:
        """Return the picture ``(n, 3, 4 h, 4 w)`` and the logits ``(n, classes)``."""
        maps = self.classifier.stem(x)
        for stage in self.classifier.stages:
            maps = stage(maps)
        return [self.decoder(maps), self.classifier.head(maps.mean((2, 3)))]
