"""Two small networks as flax modules: a multilayer perceptron and a CNN.

Written to be copied. Three things make a flax network fit for a population:
`linen.Conv(..., conv_general_dilated=nn.conv_general_dilated)` and `nn.max_pool`, which
are fast on CPU when many members train, and `nn.dropout`, whose rate may evolve.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen

from jepbt import nn
from jepbt.arguments import check_real, check_whole

Dropout: TypeAlias = float | Callable[[Any], jax.Array | float] | None

HE = jax.nn.initializers.he_normal()


class MLP(linen.Module, kw_only=True):
    """A multilayer perceptron; images are flattened.

    Attributes:
        num_classes: the number of logits, `C`.
        hidden: the widths of the hidden layers, each followed by ReLU and dropout; an
            empty tuple makes a softmax regression.
        dropout: a rate in [0, 1), a function of the member's hyperparameters that
            returns one, or None.
        dtype: the dtype of the computation, `jnp.bfloat16` for example. Weights and
            logits are always `f32`.

    Raises:
        ValueError: if a setting is out of range, or an image is a single number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = MLP(num_classes=3, hidden=(8, 8), dropout=lambda h: h.dropout)
        >>> variables = model.init(jax.random.key(0), jnp.zeros((1, 4)))
        >>> model.apply(variables, jnp.zeros((5, 4))).shape
        (5, 3)
    """

    num_classes: int = 10
    hidden: Sequence[int] = (256,)
    dropout: Dropout = None
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_settings("MLP", self.num_classes, self.dropout, self.dtype)
        if not isinstance(self.hidden, Sequence) or isinstance(self.hidden, str):
            raise ValueError(
                f"MLP: hidden={self.hidden!r} must be a sequence of widths, one for "
                "each hidden layer, as in hidden=(256,)."
            )
        for number, width in enumerate(self.hidden):
            check_whole("MLP", f"hidden[{number}]", width, 1)
        super().__post_init__()

    @linen.compact
    def __call__(
        self, images: jax.Array, *, hparams: Any = None, train: bool = False
    ) -> jax.Array:
        """Computes logits `f32[B, C]` of images `f32[B, ...]`."""
        if images.ndim < 2:
            raise ValueError(
                "MLP takes images [B, ...], a batch of vectors at least; got shape "
                f"{images.shape}."
            )
        x = images.reshape(images.shape[0], -1)
        names = [f"dense{i + 1}" for i in range(len(self.hidden) + 1)]
        for name, width in zip(names, self.hidden, strict=False):
            x = linen.Dense(width, dtype=self.dtype, kernel_init=HE, name=name)(x)
            x = drop(self, linen.relu(x), hparams, train)
        x = linen.Dense(self.num_classes, dtype=self.dtype, name=names[-1])(x)
        return x.astype(jnp.float32)


class CNN(linen.Module, kw_only=True):
    """A small convolutional network: 105,866 weights for 28x28x1 and 10 classes.

    Twice a 3x3 convolution (16 and 32 channels), 2x2 max pooling and ReLU, then a dense
    layer of 64, ReLU, dropout and a dense layer of `num_classes`. It takes images
    `f32[B, H, W, C]` of at least 4x4 pixels.

    Attributes:
        num_classes: the number of logits.
        dropout: a rate in [0, 1), a function of the member's hyperparameters that
            returns one, or None.
        dtype: the dtype of the computation, `jnp.bfloat16` for example. Weights and
            logits are always `f32`.

    Raises:
        ValueError: if a setting is out of range, or the images are not as above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = CNN(num_classes=10, dropout=lambda h: h.dropout)
        >>> params = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))["params"]
        >>> sum(weight.size for weight in jax.tree.leaves(params))
        105866
        >>> params["conv1"]["kernel"].shape
        (3, 3, 1, 16)
    """

    num_classes: int = 10
    dropout: Dropout = None
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_settings("CNN", self.num_classes, self.dropout, self.dtype)
        super().__post_init__()

    @linen.compact
    def __call__(
        self, images: jax.Array, *, hparams: Any = None, train: bool = False
    ) -> jax.Array:
        """Computes logits `f32[B, num_classes]` of images `f32[B, H, W, C]`."""
        check_pixels("CNN", images)
        x = ConvPool(16, self.dtype, name="conv1")(images)
        x = ConvPool(32, self.dtype, name="conv2")(x)
        x = x.reshape(x.shape[0], -1)
        x = linen.Dense(64, dtype=self.dtype, kernel_init=HE, name="dense1")(x)
        x = drop(self, linen.relu(x), hparams, train)
        x = linen.Dense(self.num_classes, dtype=self.dtype, name="dense2")(x)
        return x.astype(jnp.float32)


class ConvPool(linen.Module):
    """A 3x3 convolution, 2x2 max pooling, a bias and ReLU.

    A bias moves all values of a window alike. Adding it after pooling gives the same
    bits for a quarter of the additions.
    """

    features: int
    dtype: Any

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes `[B, H // 2, W // 2, features]`."""
        kernel = self.param("kernel", HE, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", linen.initializers.zeros, (self.features,))
        x, kernel, bias = (a.astype(self.dtype) for a in (x, kernel, bias))
        layout = ("NHWC", "HWIO", "NHWC")
        x = nn.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return linen.relu(nn.max_pool(x) + bias.reshape(1, 1, 1, -1))


def drop(module: linen.Module, x: jax.Array, hparams: Any, train: bool) -> jax.Array:
    """Drops at a module's fixed rate, or at the rate its hyperparameters give."""
    if module.dropout is None or not train:
        return x
    rate = module.dropout(hparams) if callable(module.dropout) else module.dropout
    return nn.dropout(module.make_rng("dropout"), x, rate, train=True)


def check_settings(
    name: str, num_classes: Any, dropout: Any = None, dtype: Any = jnp.float32
) -> None:
    """Refuses settings of a model that could not work, by name."""
    check_whole(name, "num_classes", num_classes, 1)
    if dropout is not None and not callable(dropout):
        note = ", or be a function such as `lambda h: h.dropout`, or None"
        check_real(name, "dropout", dropout, 0, 1, below=True, note=note)
    if dtype not in (jnp.float32, jnp.bfloat16, jnp.float16):
        raise ValueError(
            f"{name}: dtype={dtype!r} must be jnp.float32, jnp.bfloat16 or "
            "jnp.float16, in which the layers compute. Weights are always float32."
        )


def check_pixels(name: str, images: jax.Array) -> None:
    """Refuses what is not a batch of images, or too small to be halved twice."""
    shape = images.shape
    if len(shape) != 4 or min(shape[1:3]) < 4 or shape[3] < 1:
        raise ValueError(
            f"{name} takes images [B, H, W, C] of at least 4x4 pixels, which it halves "
            f"twice, got shape {shape}. For other shapes there is models.MLP."
        )
