"""What the models here are made of: weights in dictionaries, and functions of them.

Weights are `f32`. `dtype` is what a layer computes in: weights and inputs are cast to
it, so that `bfloat16` halves what accelerators move, and what is summed over a batch or
handed out as logits stays `f32`.
"""

import numbers
from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

import jax
import jax.numpy as jnp
from jax import lax

from jepbt import nn

PyTree: TypeAlias = Any
Dropout: TypeAlias = float | Callable[[Any], jax.Array | float] | None

HE = jax.nn.initializers.he_normal()
LECUN = jax.nn.initializers.lecun_normal()

_NHWC = ("NHWC", "HWIO", "NHWC")


class Model(NamedTuple):
    """A network as two pure functions of one member, key first.

    Attributes:
        init: `(key, images, hparams=None) -> (params, variables)`; `images` is
            `f32[B, ...]` and only its shape matters. `params` are the weights that are
            trained, `variables` all else that travels with a member, such as batch
            statistics: pytrees of arrays, perhaps empty.
        apply: `(key, params, variables, hparams, images, *, train) -> (logits,
            variables)`; `train` is a Python bool, `hparams` the member's
            hyperparameters, read by attribute, or None.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[jax.Array, PyTree]]


def make_layer(initializer: Callable, key: jax.Array, shape: tuple[int, ...]) -> PyTree:
    """Draws a kernel, and a bias of zeros."""
    return {"kernel": initializer(key, shape), "bias": jnp.zeros(shape[-1])}


def dense(layer: PyTree, x: jax.Array, dtype: Any = jnp.float32) -> jax.Array:
    """Multiplies `[B, I]` by a kernel `[I, O]` and adds the bias."""
    product = x.astype(dtype) @ layer["kernel"].astype(dtype)
    return product + layer["bias"].reshape(1, -1).astype(dtype)


def conv(
    kernel: jax.Array, x: jax.Array, dtype: Any = jnp.float32, *, stride: int = 1
) -> jax.Array:
    """Convolves `[B, H, W, I]` with a kernel `[h, w, I, O]`; padded by half of it.

    The padding is the same on both sides at any stride, as in PyTorch and the papers;
    "SAME" would put less before the image than behind it.
    """
    pads = [(size // 2, (size - 1) // 2) for size in kernel.shape[:2]]
    return nn.conv_general_dilated(
        x.astype(dtype),
        kernel.astype(dtype),
        (stride, stride),
        pads,
        dimension_numbers=_NHWC,
    )


def drop(
    key: jax.Array, x: jax.Array, dropout: Dropout, hparams: Any, train: bool
) -> jax.Array:
    """Drops at a fixed rate, or at the rate that the member's hyperparameters say."""
    if dropout is None or not train:
        return x
    rate = dropout(hparams) if callable(dropout) else dropout
    return nn.dropout(key, x, rate, train=True)


def batch_norm(
    layer: PyTree, statistics: PyTree, x: jax.Array, *, train: bool
) -> tuple[jax.Array, PyTree]:
    """Normalises each channel by the batch, or in evaluation by running statistics.

    Args:
        layer: `{"scale": f32[C], "bias": f32[C]}`.
        statistics: `{"mean": f32[C], "var": f32[C]}`, of which a training step keeps
            nine tenths.
        x: `[..., C]`.
        train: whether to use, and take into account, this batch.

    Returns:
        The normalised `x`, in its dtype, and the statistics after it.

    Reference:
        Ioffe & Szegedy, "Batch Normalization", 2015, https://arxiv.org/abs/1502.03167
    """
    mean, var = statistics["mean"], statistics["var"]
    if train:
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes, dtype=jnp.float32)
        var = jnp.square(x.astype(jnp.float32)).mean(axes) - lax.square(mean)
        var = jnp.maximum(var, 0.0)  # which rounding may have made negative
        statistics = {
            "mean": 0.9 * statistics["mean"] + 0.1 * mean,
            "var": 0.9 * statistics["var"] + 0.1 * var,
        }
    factor = layer["scale"] * lax.rsqrt(var + 1e-5)
    added = layer["bias"] - mean * factor
    shape = (1,) * (x.ndim - 1) + (-1,)
    normalised = x * factor.reshape(shape) + added.reshape(shape)
    return normalised.astype(x.dtype), statistics


def is_positive_int(value: Any) -> bool:
    """Tells whether a setting counts something."""
    is_integer = isinstance(value, numbers.Integral) and not isinstance(value, bool)
    return is_integer and value >= 1


def check_settings(
    name: str, num_classes: Any, dropout: Any = None, dtype: Any = jnp.float32
) -> None:
    """Refuses settings of a model that could not work, by name."""
    if not is_positive_int(num_classes):
        raise ValueError(
            f"{name}: num_classes must be a positive integer, got {num_classes!r}."
        )
    is_rate = isinstance(dropout, numbers.Real) and 0 <= dropout < 1
    if not (dropout is None or callable(dropout) or is_rate):
        raise ValueError(
            f"{name}: dropout must be a number in [0, 1), a function of the "
            f"hyperparameters such as `lambda h: h.dropout`, or None; got {dropout!r}."
        )
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"{name}: dtype must be jnp.float32, jnp.bfloat16 or jnp.float16, in which "
            f"the layers compute; got {dtype!r}. Weights are float32 whatever it is."
        )


def check_pixels(name: str, images: jax.Array) -> None:
    """Refuses what is no batch of images, or too small to be halved twice."""
    shape = images.shape
    if len(shape) != 4 or min(shape[1:3]) < 4 or shape[3] < 1:
        raise ValueError(
            f"{name} takes images [B, H, W, C] of at least 4x4 pixels, which it halves "
            f"twice, got shape {shape}. For other shapes there is models.MLP."
        )
