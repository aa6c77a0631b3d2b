"""Networks as flax modules: a perceptron, a small CNN, and CIFAR's ResNets.

Written to be copied. They compute in the dtype of their inputs and weights, and their
logits are `f32`. Three things make a flax network fit for a population:
`linen.Conv(..., conv_general_dilated=nn.conv_general_dilated)` and `nn.max_pool`, which
are fast on CPU when many members train, and `nn.dropout`, whose rate may evolve.
"""

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
from flax import linen

from jepbt import nn
from jepbt.arguments import check_real, check_whole, is_whole

Dropout: TypeAlias = float | Callable[[Any], jax.Array | float] | None

_HE = jax.nn.initializers.he_normal()


class MLP(linen.Module, kw_only=True):
    """A multilayer perceptron; images are flattened.

    Attributes:
        num_classes: the number of logits, `C`.
        hidden: the widths of the hidden layers, each followed by ReLU and dropout; an
            empty tuple makes a softmax regression.
        dropout: a rate in [0, 1), a function of the member's hyperparameters that
            returns one, or None.

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

    def __post_init__(self) -> None:
        _check_settings("MLP", self.num_classes, self.dropout)
        if not isinstance(self.hidden, Sequence) or isinstance(self.hidden, str):
            raise ValueError(
                f"MLP: hidden={self.hidden!r} must be a sequence of widths, one for "
                "each hidden layer, as in hidden=(256,)."
            )
        for number, width in enumerate(self.hidden):
            check_whole("MLP", f"hidden[{number}]", width, 1)
        super().__post_init__()

    @linen.compact
    def __call__(self, images, *, hparams=None, train: bool = False) -> jax.Array:
        """Computes logits `f32[B, C]` of images `f32[B, ...]`."""
        if images.ndim < 2:
            raise ValueError(
                "MLP takes images [B, ...], a batch of vectors at least; got shape "
                f"{images.shape}."
            )
        x = images.reshape(images.shape[0], -1)
        for i, width in enumerate(self.hidden, 1):
            dense = linen.Dense(width, kernel_init=_HE, name=f"dense{i}")
            x = _drop(self, linen.relu(dense(x)), hparams, train)
        name = f"dense{len(self.hidden) + 1}"
        x = linen.Dense(self.num_classes, name=name)(x)
        return x.astype(jnp.float32)


class CNN(linen.Module, kw_only=True):
    """A small convolutional network: 105,866 weights for 28x28x1 and 10 classes.

    Twice a 3x3 convolution (16 and 32 channels), 2x2 max pooling and ReLU, then a dense
    layer of 64, ReLU, dropout and a dense layer of `num_classes`. It takes images
    `f32[B, H, W, C]` of at least 4x4 pixels.

    Attributes:
        num_classes: the number of logits.
        dropout: a rate or a function, as in `MLP`.

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

    def __post_init__(self) -> None:
        _check_settings("CNN", self.num_classes, self.dropout)
        super().__post_init__()

    @linen.compact
    def __call__(self, images, *, hparams=None, train: bool = False) -> jax.Array:
        """Computes logits `f32[B, num_classes]` of images `f32[B, H, W, C]`."""
        _check_pixels("CNN", images)
        x = ConvPool(16, name="conv1")(images)
        x = ConvPool(32, name="conv2")(x)
        x = x.reshape(x.shape[0], -1)
        x = linen.Dense(64, kernel_init=_HE, name="dense1")(x)
        x = _drop(self, linen.relu(x), hparams, train)
        x = linen.Dense(self.num_classes, name="dense2")(x)
        return x.astype(jnp.float32)


class ConvPool(linen.Module):
    """A 3x3 convolution, 2x2 max pooling, a bias and ReLU.

    A bias moves all values of a window alike. Adding it after pooling gives the same
    bits for a quarter of the additions.
    """

    features: int

    @linen.compact
    def __call__(self, x: jax.Array) -> jax.Array:
        """Computes `[B, H // 2, W // 2, features]`."""
        kernel = self.param("kernel", _HE, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", linen.initializers.zeros, (self.features,))
        x, kernel, bias = linen.dtypes.promote_dtype(x, kernel, bias)
        layout = ("NHWC", "HWIO", "NHWC")
        x = nn.conv_general_dilated(x, kernel, (1, 1), "SAME", dimension_numbers=layout)
        return linen.relu(nn.max_pool(x) + bias.reshape(1, 1, 1, -1))


class ResNet(linen.Module, kw_only=True):
    """A residual network for CIFAR: 269,722 weights at depth 20, 464,154 at 32.

    A 3x3 convolution, then three stages of `(depth - 2) / 6` blocks at 1, 1/2 and 1/4
    of the resolution with 1, 2 and 4 times `width` channels, the average over pixels,
    and a dense layer. It takes images `f32[B, H, W, C]` of at least 4x4 pixels. The
    running statistics of the batch norms are the model's variables.

    Attributes:
        depth: the number of layers, `6 n + 2`: 8, 14, 20, 32, 44, 56, 110.
        num_classes: the number of logits.
        width: the number of channels in the first stage.

    Raises:
        ValueError: if a setting is out of range, or the images are not as above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        >>> made = jax.eval_shape(ResNet(depth=20).init, jax.random.key(0), images)
        >>> sum(weight.size for weight in jax.tree.leaves(made["params"]))
        269722

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2,
        https://arxiv.org/abs/1512.03385
    """

    depth: int = 20
    num_classes: int = 10
    width: int = 16

    def __post_init__(self) -> None:
        _check_settings("ResNet", self.num_classes)
        check_whole("ResNet", "width", self.width, 1)
        if not is_whole(self.depth) or self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(
                f"ResNet: depth={self.depth!r} must be 6 n + 2 for three stages of n "
                "blocks of two layers: 8, 14, 20, 26, 32, 44, 56, 110."
            )
        super().__post_init__()

    @linen.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes logits `f32[B, num_classes]` of images `f32[B, H, W, C]`."""
        _check_pixels("ResNet", images)
        x = linen.relu(ConvNorm(self.width)(images, train))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Block(self.width * 2**stage, stride)(x, train)
        x = x.mean((1, 2), dtype=jnp.float32).astype(x.dtype)
        return linen.Dense(self.num_classes)(x).astype(jnp.float32)


class Block(linen.Module):
    """Two convolutions, to whose output the block's input is added.

    Where the resolution halves, the input's every other pixel is added, with channels
    of zeros (option A of the paper), so that this shortcut has no weights.
    """

    features: int
    stride: int

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes `[B, H / stride, W / stride, features]`."""
        y = ConvNorm(self.features, self.stride)(x, train)
        y = ConvNorm(self.features)(linen.relu(y), train)
        if self.stride > 1:
            x = x[:, :: self.stride, :: self.stride]
            added = self.features - x.shape[-1]
            around = (added // 2, added - added // 2)
            x = jnp.pad(x, ((0, 0), (0, 0), (0, 0), around))
        return linen.relu(x + y)


class ConvNorm(linen.Module):
    """A 3x3 convolution without bias, and batch norm.

    The padding is 1 on every side at any stride, as in the paper and in PyTorch; "SAME"
    would put less of it before the image than behind it.
    """

    features: int
    stride: int = 1

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes `[B, H / stride, W / stride, features]`."""
        x = linen.Conv(
            self.features,
            (3, 3),
            self.stride,
            padding=1,
            use_bias=False,
            kernel_init=_HE,
            conv_general_dilated=nn.conv_general_dilated,
        )(x)
        return linen.BatchNorm(not train, momentum=0.9)(x)


def _drop(module: linen.Module, x: jax.Array, hparams: Any, train: bool) -> jax.Array:
    """Drops at a module's fixed rate, or at the rate its hyperparameters give."""
    if module.dropout is None or not train:
        return x
    rate = module.dropout(hparams) if callable(module.dropout) else module.dropout
    return nn.dropout(module.make_rng("dropout"), x, rate, train=True)


def _check_settings(name: str, num_classes: Any, dropout: Any = None) -> None:
    """Refuses settings of a model that could not work, by name."""
    check_whole(name, "num_classes", num_classes, 1)
    if dropout is not None and not callable(dropout):
        note = ", or be a function such as `lambda h: h.dropout`, or None"
        check_real(name, "dropout", dropout, 0, 1, below=True, note=note)


def _check_pixels(name: str, images: jax.Array) -> None:
    """Refuses what is not a batch of images, or too small to be halved twice."""
    shape = images.shape
    if len(shape) != 4 or min(shape[1:3]) < 4 or shape[3] < 1:
        is_turned = len(shape) == 4 and shape[1] in (1, 3) and min(shape[2:]) >= 4
        hint = " Channels come last: images.transpose(0, 2, 3, 1)." * is_turned
        raise ValueError(
            f"{name} takes images [B, H, W, C] of at least 4x4 pixels, which it halves "
            f"twice, got shape {shape}.{hint} For other shapes there is models.MLP."
        )
