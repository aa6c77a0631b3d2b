"""Models: flax modules, or two pure functions of one member.

`MLP`, `CNN` and `ResNet` are flax linen modules, written to be read and copied.
"""

from jepbt.models.model import Model, as_model, bind
from jepbt.models.networks import CNN, MLP, ResNet

__all__ = ["CNN", "MLP", "Model", "ResNet", "as_model", "bind"]
