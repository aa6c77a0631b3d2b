"""The residual networks that He et al. made for CIFAR, as a flax module."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from flax import linen

from jepbt import nn
from jepbt.arguments import check_whole, is_whole
from jepbt.models.networks import HE, check_pixels, check_settings


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
        dtype: the dtype of the computation, `jnp.bfloat16` for example. Weights,
            statistics and logits are always `f32`.

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
    dtype: Any = jnp.float32

    def __post_init__(self) -> None:
        check_settings("ResNet", self.num_classes, dtype=self.dtype)
        check_whole("ResNet", "width", self.width, 1)
        if not is_whole(self.depth) or self.depth < 8 or self.depth % 6 != 2:
            raise ValueError(
                f"ResNet: depth={self.depth!r} must be 6 n + 2 for three stages of n blocks "
                "of two layers: 8, 14, 20, 26, 32, 44, 56, 110."
            )
        super().__post_init__()

    @linen.compact
    def __call__(self, images: jax.Array, *, train: bool = False) -> jax.Array:
        """Computes logits `f32[B, num_classes]` of images `f32[B, H, W, C]`."""
        check_pixels("ResNet", images)
        x = linen.relu(ConvNorm(self.width, dtype=self.dtype)(images, train))
        for stage in range(3):
            for block in range((self.depth - 2) // 6):
                stride = 2 if stage > 0 and block == 0 else 1
                x = Block(self.width * 2**stage, stride, self.dtype)(x, train)
        x = x.mean((1, 2), dtype=jnp.float32)
        return linen.Dense(self.num_classes, dtype=self.dtype)(x).astype(jnp.float32)


class Block(linen.Module):
    """Two convolutions, to whose output the block's input is added.

    Where the resolution halves, the input's every other pixel is added, with channels
    of zeros (option A of the paper), so that this shortcut has no weights.
    """

    features: int
    stride: int
    dtype: Any

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes `[B, H / stride, W / stride, features]`."""
        y = ConvNorm(self.features, self.stride, self.dtype)(x, train)
        y = ConvNorm(self.features, 1, self.dtype)(linen.relu(y), train)
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
    dtype: Any = jnp.float32

    @linen.compact
    def __call__(self, x: jax.Array, train: bool) -> jax.Array:
        """Computes `[B, H / stride, W / stride, features]`."""
        x = linen.Conv(
            self.features,
            (3, 3),
            self.stride,
            padding=1,
            use_bias=False,
            dtype=self.dtype,
            kernel_init=HE,
            conv_general_dilated=nn.conv_general_dilated,
        )(x)
        return linen.BatchNorm(not train, momentum=0.9, dtype=self.dtype)(x)
