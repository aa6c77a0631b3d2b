"""Layers that stay fast under a population: convolution, pooling, dropout."""

from jepbt.nn.convolution import conv_general_dilated
from jepbt.nn.dropout import dropout
from jepbt.nn.pooling import avg_pool, max_pool

__all__ = [
    "avg_pool",
    "conv_general_dilated",
    "dropout",
    "max_pool",
]
