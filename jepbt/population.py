"""Holds the one idea: a pytree whose every leaf has a leading axis `P`."""

import dataclasses
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np

PyTree: TypeAlias = Any


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Member:
    """One network in training, and everything that travels with it.

    Inside `vmap` the leaves have a member's shapes. Outside, the same class is a
    `Population` and every leaf gains a leading axis `P`, without exception: selection,
    sharding and checkpointing rely on it.

    Attributes:
        state: whatever the task's `init` returned; the engine never looks inside.
        hparams: the user's `HyperParameters`, leaves `f32[]`, `f32[n]` or `i32[]`.
        fitness: `f32[]` last validation score, higher is better, `nan` if it failed.
    """

    state: PyTree
    hparams: PyTree
    fitness: jax.Array


Population: TypeAlias = Member


# Purposes of random draws. A draw is a function of the run's key, its purpose, and the
# generation and slot it is for: no key is ever stored or inherited, so that chunks,
# devices and a resumed run draw the same numbers.
FIRST_HPARAMS, FIRST_STATES, STRATEGY, BATCHES, TRAIN, EVALUATE, FRESH = range(7)
PREPARE = 7


def derive_key(run_key: jax.Array, purpose: int, *indices: jax.Array) -> jax.Array:
    """Derives the key of one draw.

    Args:
        run_key: the key of the run.
        purpose: one of this module's constants.
        indices: `i32[]` each: generation, slot, step, as far as the draw has them.

    Returns:
        A key, different for every purpose and index.

    Example:
        >>> import jax
        >>> run_key = jax.random.key(0)
        >>> bool(derive_key(run_key, TRAIN, 1, 2) == derive_key(run_key, TRAIN, 2, 1))
        False
    """
    key = jax.random.fold_in(run_key, purpose)
    for index in indices:
        key = jax.random.fold_in(key, index)
    return key


def take(tree: Any, parents: jax.Array) -> Any:
    """Gathers rows `parents` (`i32[P]`) of every leaf `[P, ...]`."""
    return jax.tree.map(lambda leaf: leaf[parents], tree)


def key_shape() -> jax.ShapeDtypeStruct:
    """Returns the shape of one random key, to trace a function with."""
    return jax.eval_shape(lambda: jax.random.key(0))


def count_rows(tree: Any) -> int:
    """Counts the rows of a tree: the leading axis that its leaves share.

    Example:
        >>> count_rows({"image": jnp.zeros((5, 2)), "label": jnp.zeros(5)})
        5
    """
    return jax.tree.leaves(tree)[0].shape[0]


def stack_shapes(member: Any, size: int) -> Any:
    """Gives the shapes of a member's leaves a leading axis of that size.

    Example:
        >>> stack_shapes(jax.ShapeDtypeStruct((3,), jnp.float32), 8).shape
        (8, 3)
    """
    return jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct((size, *leaf.shape), leaf.dtype), member
    )


def outline(tree: Any) -> str:
    """Writes a tree for people: its arrays by dtype and shape, many by their number.

    Example:
        >>> outline({"image": jnp.zeros((5, 2)), "label": None})
        "{'image': float32[5, 2], 'label': None}"
        >>> outline([jnp.zeros((5, 2))] * 100)
        '<100 arrays of 1,000 numbers>'
    """
    leaves = jax.tree.leaves(tree)
    if len(leaves) > 24:
        return f"<{len(leaves)} arrays of {sum(map(np.size, leaves)):,} numbers>"
    return repr(jax.tree.map(_Outline, tree))


class _Outline:
    def __init__(self, leaf: Any):
        is_array = hasattr(leaf, "dtype") and hasattr(leaf, "shape")
        kind = type(leaf).__name__
        self._text = f"{leaf.dtype}{list(leaf.shape)}" if is_array else kind

    def __repr__(self) -> str:
        return self._text


def like(example: Any, tree: Any) -> Any:
    """Gives the leaves of a tree the types that another tree of its structure has.

    Example:
        >>> like({"a": jnp.int32(1)}, {"a": jnp.float32(2.0)})["a"].dtype.name
        'int32'
    """
    return jax.tree.map(
        lambda old, new: new if new.dtype == old.dtype else new.astype(old.dtype),
        example,
        tree,
    )


def are_finite(tree: Any) -> jax.Array:
    """Tells whether all floats of a tree are finite: `bool[]`.

    Example:
        >>> bool(are_finite([jnp.array([1.0, jnp.inf]), jnp.int32(1)]))
        False
    """
    leaves = [
        jnp.isfinite(leaf).all()
        for leaf in jax.tree.leaves(tree)
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    # An array without elements, handed to every device, ends JAX 0.11's compiler.
    return jnp.all(jnp.array(leaves)) if leaves else jnp.bool_(True)


def where(mask: jax.Array, chosen: Any, otherwise: Any) -> Any:
    """Picks each slot's row from one of two trees, by a mask `bool[P]`."""

    def pick(left, right):
        rows = jnp.reshape(mask, mask.shape + (1,) * (left.ndim - 1))
        return jnp.where(rows, left, right)

    return jax.tree.map(pick, chosen, otherwise)
