"""Draws the examples that each step reads: every epoch in an order of its own."""

from __future__ import annotations

import math

import jax
import jax.numpy as jnp

from jepbt.nn.lowering import EACH_ITS_OWN, XLA, lower
from jepbt.population import PyTree

_FEW = 1000
"""Up to this many examples sorting is as fast, and every order is possible."""

_ROUNDS = 8


def batch_indices(
    key: jax.Array,
    generation: jax.Array,
    *,
    num_examples: int,
    batch_size: int,
    num_steps: int,
) -> jax.Array:
    """Draws the examples of a generation's steps: every epoch a new permutation.

    Generations continue where the last one stopped, within an epoch too, so that the
    whole run reads every example equally often. What it costs follows from the
    examples read, not from those there are: sorting a million random numbers would
    take a CPU longer than a generation of small networks.

    Args:
        key: the key of all batches, the same in every generation.
        generation: `i32[]`; `(generation + 1) * num_steps * batch_size` is below 2**31.
        num_examples: `N`, the examples of the training split.
        batch_size: `B`, the examples of a step.
        num_steps: `S`, the steps of a generation.

    Returns:
        `i32[S, B]` row numbers.

    Example:
        >>> import jax
        >>> rows = [
        ...     batch_indices(
        ...         jax.random.key(0), g, num_examples=6, batch_size=3, num_steps=1
        ...     )
        ...     for g in range(2)
        ... ]
        >>> sorted(rows[0].ravel().tolist() + rows[1].ravel().tolist())
        [0, 1, 2, 3, 4, 5]

    Reference:
        Black, Rogaway, "Ciphers with Arbitrary Finite Domains", CT-RSA 2002: a Feistel
        network over two residues, walked until it is in range. Mitchell et al.,
        "Bandwidth-Optimal Random Shuffling for GPUs", 2021,
        https://arxiv.org/abs/2106.06161: such networks instead of sorting.
    """
    count = num_steps * batch_size
    start = generation * count
    first_epoch = start // num_examples
    num_epochs = (count - 1) // num_examples + 2  # as many as a generation can touch
    keys = jax.vmap(lambda epoch: jax.random.fold_in(key, first_epoch + epoch))(
        jnp.arange(num_epochs, dtype=jnp.int32)
    )
    if num_examples <= _FEW:
        epochs = jax.vmap(lambda key: jax.random.permutation(key, num_examples))(keys)
        offset = start % num_examples
        rows = jax.lax.dynamic_slice(epochs.ravel(), (offset,), (count,))
    else:
        positions = start + jnp.arange(count, dtype=jnp.int32)
        words = jax.vmap(lambda key: jax.random.bits(key, (_ROUNDS,), jnp.uint32))(keys)
        of_position = words[positions // num_examples - first_epoch]
        rows = _permute(positions % num_examples, of_position, num_examples)
    return rows.reshape(num_steps, batch_size)


def _permute(places: jax.Array, words: jax.Array, num: int) -> jax.Array:
    """Sends each of `num` places to another, one to one for the same words.

    Args:
        places: `i32[n]`, below `num`.
        words: `u32[n, rounds]`, random.
        num: the number of places.

    Returns:
        `i32[n]`, below `num`.
    """
    high = math.isqrt(num - 1) + 1
    low = -(-num // high)

    def shuffle(value):
        """Permutes `high * low` values, hardly more than `num`."""
        left, right = value // low, value % low
        for number in range(0, _ROUNDS, 2):
            left = (left + _mix(right ^ words[:, number]) % high) % high
            right = (right + _mix(left ^ words[:, number + 1]) % low) % low
        return left * low + right

    # Cycle-walking: the permutation is applied again until the value is in range.
    value = jax.lax.while_loop(
        lambda value: (value >= num).any(),
        lambda value: jnp.where(value >= num, shuffle(value), value),
        shuffle(places.astype(jnp.uint32)),
    )
    return value.astype(jnp.int32)


def _mix(word: jax.Array) -> jax.Array:
    """Makes every bit depend on every bit: the finalizer of MurmurHash3."""
    word = (word ^ (word >> 16)) * jnp.uint32(0x85EBCA6B)
    word = (word ^ (word >> 13)) * jnp.uint32(0xC2B2AE35)
    return word ^ (word >> 16)


def read_by_each(own: PyTree, rows: jax.Array) -> jax.Array:
    """Lets each member read rows that all share for itself, where that is faster.

    What all members share, `vmap` does not batch: it joins the first layers of all
    members to one matrix, whose weights a GPU then transposes in every step. `own` are
    arrays that each member has of its own, and `rows` are returned as they are.
    """
    forms = {XLA: lambda own, rows: rows, EACH_ITS_OWN: _copy}
    return lower("batch", forms, own, rows)


@jax.custom_batching.custom_vmap
def _copy(own: PyTree, rows: jax.Array) -> jax.Array:
    """Returns the rows, of which `vmap` makes a copy for each member."""
    return rows


@_copy.def_vmap
def _copy_for_members(axis_size, in_batched, own, rows):
    if not in_batched[1]:
        rows = jnp.broadcast_to(rows, (axis_size, *rows.shape))
    return rows, True
