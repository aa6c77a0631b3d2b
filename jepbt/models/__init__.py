"""Models: two pure functions of one member, batched by whoever calls them."""

from jepbt.models.layers import Model
from jepbt.models.networks import CNN, MLP, as_model
from jepbt.models.resnet import ResNet

__all__ = [
    "CNN",
    "MLP",
    "Model",
    "ResNet",
    "as_model",
]
