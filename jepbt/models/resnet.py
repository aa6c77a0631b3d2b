"""The residual networks that He et al. made for CIFAR."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp

from jepbt.models.layers import (
    HE,
    LECUN,
    Model,
    batch_norm,
    check_pixels,
    check_settings,
    conv,
    dense,
    is_positive_int,
    make_layer,
)


def ResNet(
    *,
    depth: int = 20,
    num_classes: int = 10,
    width: int = 16,
    dtype: Any = jnp.float32,
) -> Model:
    """Builds a residual network for CIFAR: 269,722 weights at depth 20, 464,154 at 32.

    A 3x3 convolution, then three stages of `(depth - 2) / 6` blocks at 1, 1/2 and 1/4
    of the resolution with 1, 2 and 4 times `width` channels, the average over pixels,
    and a dense layer. A block is two 3x3 convolutions, each with batch norm, around
    which its input is carried; between stages every other pixel of it, with channels of
    zeros added (option A of the paper), so that no shortcut has weights. Running
    statistics of the batch norms are the model's variables.

    Args:
        depth: `6 n + 2` layers: 8, 14, 20, 32, 44, 56, 110.
        num_classes: `C`, the number of logits.
        width: channels of the first stage.
        dtype: what it computes in, `jnp.bfloat16` for example. Weights, statistics and
            logits are `f32` whatever it is.

    Returns:
        A `Model` of images `f32[B, H, W, C]` of at least 4x4 pixels.

    Raises:
        ValueError: if a setting is out of range; and from `init` and `apply` if the
            images are not as above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = ResNet(depth=20)
        >>> images = jax.ShapeDtypeStruct((1, 32, 32, 3), jnp.float32)
        >>> params, _ = jax.eval_shape(model.init, jax.random.key(0), images)
        >>> sum(weight.size for weight in jax.tree.leaves(params))
        269722

    Reference:
        He et al., "Deep Residual Learning for Image Recognition", 2015, section 4.2,
        https://arxiv.org/abs/1512.03385
    """
    check_settings("ResNet", num_classes, dtype=dtype)
    if not is_positive_int(depth) or depth < 8 or depth % 6 != 2:
        raise ValueError(
            f"ResNet: depth={depth!r} must be 6 n + 2 for three stages of n blocks of "
            "two layers: 8, 14, 20, 26, 32, 44, 56, 110."
        )
    if not is_positive_int(width):
        raise ValueError(f"ResNet: width must be a positive integer, got {width!r}.")
    num_blocks = (depth - 2) // 6
    blocks = [
        (
            f"stage{stage + 1}_block{block + 1}",
            width * 2**stage,
            stage > 0 and block == 0,
        )
        for stage in range(3)
        for block in range(num_blocks)
    ]

    def init(key, images, hparams=None):
        check_pixels("ResNet", images)
        keys = iter(jax.random.split(key, 2 * len(blocks) + 2))
        first, statistics = _make_conv(next(keys), images.shape[-1], width)
        params, variables = {"first": first}, {"first": statistics}
        channels = width
        for name, features, _ in blocks:
            one = _make_conv(next(keys), channels, features)
            two = _make_conv(next(keys), features, features)
            params[name] = {"conv1": one[0], "conv2": two[0]}
            variables[name] = {"conv1": one[1], "conv2": two[1]}
            channels = features
        params["last"] = make_layer(LECUN, next(keys), (channels, num_classes))
        return params, variables

    def apply(key, params, variables, hparams, images, *, train):
        check_pixels("ResNet", images)
        after = {}

        def convolve(layer, statistics, x, stride=1):
            x = conv(layer["kernel"], x, dtype, stride=stride)
            return batch_norm(layer, statistics, x, train=train)

        x, after["first"] = convolve(params["first"], variables["first"], images)
        x = jax.nn.relu(x)
        for name, features, is_smaller in blocks:
            layers, statistics = params[name], variables[name]
            stride = 2 if is_smaller else 1
            y, one = convolve(layers["conv1"], statistics["conv1"], x, stride)
            y, two = convolve(layers["conv2"], statistics["conv2"], jax.nn.relu(y))
            x = jax.nn.relu(y + _shortcut(x, features, stride))
            after[name] = {"conv1": one, "conv2": two}
        x = x.mean((1, 2), dtype=jnp.float32)
        return dense(params["last"], x, dtype).astype(jnp.float32), after

    return Model(init, apply)


def _make_conv(key: jax.Array, channels: int, features: int) -> tuple[Any, Any]:
    """A convolution's kernel, which needs no bias, with its batch norm."""
    params = {
        "kernel": HE(key, (3, 3, channels, features)),
        "scale": jnp.ones(features),
        "bias": jnp.zeros(features),
    }
    return params, {"mean": jnp.zeros(features), "var": jnp.ones(features)}


def _shortcut(x: jax.Array, features: int, stride: int) -> jax.Array:
    x = x[:, ::stride, ::stride]
    added = features - x.shape[-1]
    if added == 0:
        return x
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (added // 2, added - added // 2)))
