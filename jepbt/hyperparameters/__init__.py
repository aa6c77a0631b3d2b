"""What evolves: a user's hyperparameters, their spaces, and their two readings."""

from jepbt.hyperparameters.declaration import (
    HyperParameters,
    Loss,
    hparam,
    spaces,
    taylor_hparam,
)
from jepbt.hyperparameters.priors import normal, prior, sample_population, uniforms
from jepbt.hyperparameters.spaces import (
    Categorical,
    Integer,
    Real,
    Space,
    TaylorLoss,
    clip,
    move_loss,
)
from jepbt.hyperparameters.values import (
    Choice,
    choose,
    clip_all,
    decode,
    default_member,
    encode,
    map_fields,
    to_python,
)

__all__ = [
    "Categorical",
    "Choice",
    "HyperParameters",
    "Integer",
    "Loss",
    "Real",
    "Space",
    "TaylorLoss",
    "choose",
    "clip",
    "clip_all",
    "decode",
    "default_member",
    "encode",
    "hparam",
    "map_fields",
    "move_loss",
    "normal",
    "prior",
    "sample_population",
    "spaces",
    "taylor_hparam",
    "to_python",
    "uniforms",
]
