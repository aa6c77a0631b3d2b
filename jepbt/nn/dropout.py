"""Drops units at a rate that may be traced, with few random bits."""

import math

import jax
import jax.numpy as jnp
from jax import lax

from jepbt.arguments import check_scalar


def dropout(
    key: jax.Array, x: jax.Array, rate: jax.Array | float, *, train: bool
) -> jax.Array:
    """Zeroes values at random, at a rate that may be traced and so may evolve.

    All other values are scaled by `1 / (1 - rate)`. The draw has 16 bits, so that the
    probability is `rate` rounded to a multiple of 1/65536. The key is
    `self.make_rng("dropout")` in flax linen, `self.rngs.dropout()` in flax nnx, and an
    argument in a plain function.

    Args:
        key: the random key, used for nothing else.
        x: floats of any shape.
        rate: `f32[]` in [0, 1]; at 0 `x` keeps every bit, at 1 all values are zero.
        train: a Python bool; if False, `x` is returned.

    Returns:
        An array of the shape and dtype of `x`.

    Raises:
        ValueError: if `rate` is not a scalar, or is a Python number outside of [0, 1],
            or if `x` has no floating dtype.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> kept = dropout(jax.random.key(0), jnp.ones(1000), 0.5, train=True)
        >>> sorted(set(kept.tolist()))
        [0.0, 2.0]

    Reference:
        Srivastava et al., "Dropout: A Simple Way to Prevent Neural Networks from
        Overfitting", JMLR 2014, https://jmlr.org/papers/v15/srivastava14a.html
    """
    check_scalar("dropout", "rate", rate, 0, 1)
    if not jnp.issubdtype(x.dtype, jnp.floating):
        raise ValueError(f"dropout: x must be of a floating dtype, got {x.dtype}.")
    if not train:
        return x
    rate = jnp.asarray(rate, jnp.promote_types(x.dtype, jnp.float32))
    is_kept = _random_16_bits(key, x.shape) >= jnp.round(rate * 2**16)
    # At a rate of 1 nothing is kept, but 1 / 0 would still make the gradient nan.
    scale = 1 / jnp.where(rate >= 1, 1, 1 - rate)
    return jnp.where(is_kept, x * scale.astype(x.dtype), 0)


def _random_16_bits(key: jax.Array, shape: tuple[int, ...]) -> jax.Array:
    """Draws whole numbers below 65536 as `f32`, two from each random word.

    `jax.random.bits` of `uint16` would compute a word for each of them.
    """
    num_values = math.prod(shape)
    words = jax.random.bits(key, ((num_values + 1) // 2,), jnp.uint32)
    halves = lax.bitcast_convert_type(words, jnp.uint16).reshape(-1)
    return halves[:num_values].reshape(shape).astype(jnp.float32)
