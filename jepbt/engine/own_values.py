"""Lets members train with their own hyperparameters, also where a state keeps a copy.

`optax.inject_hyperparams`, and optimizers like it, write a hyperparameter into their
state when a member is born, and read it there ever after. A child takes over the state
of its parent, and would go on with the parent's value, whatever its own has become.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.engine.devices import compiler_options
from jepbt.hyperparameters import default_member
from jepbt.population import PyTree, stack_shapes
from jepbt.tasks import Task


def find_copies(
    init: Callable[..., PyTree], step: Callable[..., Any], *shapes: PyTree
) -> list[int]:
    """Finds the arrays of a state that are copies of hyperparameters.

    These follow from the hyperparameters alone when a member is born, and steps leave
    them as they are: no gradient, example or random number reaches them. What begins at
    a hyperparameter and is then adapted, such as an estimate of the right learning rate
    or a countdown, is inherited like a weight, and is no copy.

    Args:
        init: `(key, hparams) -> state`, jitted.
        step: `(key, state, hparams, batch, shared) -> (state, metrics)`, jitted.
        shapes: the shapes of a step's arguments.

    Returns:
        The numbers of these arrays among the state's leaves; none, for most tasks.

    Raises:
        ValueError: if the state may hold copies, and the step cannot be differentiated
            forward, so that it does not show whether it changes them.
    """
    key, _, hparams, *_ = shapes
    of_key, of_hparams = (_dependent(init, (key, hparams), on) for on in (0, 1))
    found = sorted(of_hparams - of_key)
    if found:
        moved = _moved_by_others(step, found, shapes)
        found = [i for i in found if i not in moved]
    if found:
        found = _that_stay(init, step, found, shapes)
    return found


def renew(task: Task, copies: Sequence[int]) -> Task:
    """Makes a task whose steps begin with copies of the member's own hyperparameters.

    Args:
        task: any task.
        copies: the numbers of leaves of its state, from `find_copies`.

    Returns:
        The same task, if there are none.
    """
    if not copies:
        return task

    def train_step(key, state, hparams, batch, shared):
        born = jax.tree.leaves(task.init(key, hparams))
        leaves, structure = jax.tree.flatten(state)
        for i in copies:
            leaves[i] = born[i]
        return task.train_step(key, structure.unflatten(leaves), hparams, batch, shared)

    return dataclasses.replace(task, train_step=train_step)


def _dependent(
    function: Callable[..., PyTree], args: tuple[PyTree, ...], on: int
) -> set[int]:
    """Names the leaves of a function's result that depend on one of its arguments.

    What depends on a mapped argument is mapped, and a custom rule is told about it.
    """
    found = set()

    @jax.custom_batching.custom_vmap
    def look(leaves):
        return leaves

    @look.def_vmap
    def rule(size, is_mapped, leaves):
        found.update(i for i, mapped in enumerate(is_mapped[0]) if mapped)
        return leaves, is_mapped[0]

    axes = [0 if i == on else None for i in range(len(args))]
    args = [stack_shapes(a, 2) if i == on else a for i, a in enumerate(args)]
    look_at = jax.vmap(lambda *args: look(jax.tree.leaves(function(*args))), axes)
    jax.eval_shape(look_at, *args)
    return found


def _moved_by_others(
    step: Callable[..., Any], found: Sequence[int], shapes: Sequence[PyTree]
) -> set[int]:
    """Names those leaves that have a derivative by anything real but each other.

    A derivative sees through conditions: an optimizer that takes or skips a step by
    looking at its gradients does not change what both branches hand on.
    """
    key, *rest = shapes
    leaves, structure = jax.tree.flatten(rest)  # the state's come first
    others = [
        i
        for i, leaf in enumerate(leaves)
        if jnp.issubdtype(leaf.dtype, jnp.inexact) and i not in found
    ]
    moved = set()

    @jax.custom_jvp
    def look(values):
        return values

    def rule(primals, tangents):
        zero = jax.custom_derivatives.SymbolicZero
        pairs = zip(found, tangents[0], strict=True)
        moved.update(i for i, tangent in pairs if not isinstance(tangent, zero))
        return primals[0], tangents[0]

    look.defjvp(rule, symbolic_zeros=True)

    def differentiate(key, leaves):
        def run(values):
            given = dict(enumerate(leaves)) | dict(zip(others, values, strict=True))
            state, _ = step(key, *structure.unflatten(given.values()))
            after = jax.tree.leaves(state)
            return look([after[i] for i in found])

        values = [leaves[i] for i in others]
        return jax.jvp(run, (values,), (values,))[0]

    try:
        jax.eval_shape(differentiate, key, leaves)
    except (NotImplementedError, TypeError, ValueError) as error:
        paths = jax.tree_util.tree_leaves_with_path(shapes[1])
        names = ", ".join(jax.tree_util.keystr(paths[i][0]) for i in found)
        raise ValueError(
            f"init writes hyperparameters into the state ({names}), where children "
            "would find their parent's. Whether steps change them cannot be told: "
            f"{str(error)[:200]} Read hyperparameters in each step instead, as in "
            "optimizer=lambda h: optax.sgd(h.learning_rate), without "
            "optax.inject_hyperparams."
        ) from error
    return moved


def _that_stay(
    init: Callable[..., PyTree],
    step: Callable[..., Any],
    found: Sequence[int],
    shapes: Sequence[PyTree],
) -> list[int]:
    """Tries which leaves a step leaves as they are, at unusual values of them."""
    key, state, hparams, *rest = shapes
    values = default_member(type(hparams))

    def compare(key, rest):
        leaves = jax.tree.leaves(init(key, values))
        for i in found:
            leaves[i] = jnp.full_like(leaves[i], 3)  # no default, 0 or 1
        before = jax.tree.unflatten(jax.tree.structure(state), leaves)
        after = jax.tree.leaves(step(key, before, values, *rest)[0])
        return [jnp.array_equal(leaves[i], after[i]) for i in found]

    with jax.ensure_compile_time_eval():
        args = jax.tree.map(lambda x: jnp.zeros(x.shape, x.dtype), (key, rest))
        options = compiler_options(jax.devices()[0].platform, "none")
        compiled = jax.jit(compare).lower(*args).compile(options)
        return [i for i, is_same in zip(found, compiled(*args), strict=True) if is_same]
