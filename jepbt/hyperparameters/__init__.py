"""Hyperparameters: what users declare, their kinds, and their readings."""

from jepbt.hyperparameters.base import Space
from jepbt.hyperparameters.categorical import Categorical, Choice, choose
from jepbt.hyperparameters.declaration import (
    HyperParameters,
    Loss,
    hparam,
    spaces,
    taylor_hparam,
)
from jepbt.hyperparameters.draws import (
    columns,
    draw_for,
    normal,
    whole_below,
)
from jepbt.hyperparameters.integer import Integer
from jepbt.hyperparameters.numeric import MIN_FACTOR, Number, Real, Vector
from jepbt.hyperparameters.taylor import TaylorLoss
from jepbt.hyperparameters.values import (
    clip_all,
    decode,
    default_member,
    encode,
    losses_in,
    map_fields,
    read_space,
    sample_population,
    sample_prior,
    to_python,
)

__all__ = [
    "MIN_FACTOR",
    "Categorical",
    "Choice",
    "HyperParameters",
    "Integer",
    "Loss",
    "Number",
    "Real",
    "Space",
    "TaylorLoss",
    "Vector",
    "choose",
    "clip_all",
    "columns",
    "decode",
    "default_member",
    "draw_for",
    "encode",
    "hparam",
    "losses_in",
    "map_fields",
    "normal",
    "read_space",
    "sample_population",
    "sample_prior",
    "spaces",
    "taylor_hparam",
    "to_python",
    "whole_below",
]
