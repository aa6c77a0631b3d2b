"""Calls the optimizers of optax, also those that ask for more than gradients."""

from collections.abc import Callable
from typing import Any

import jax
import optax

from jepbt.population import PyTree


def as_transformation(optimizer: Any) -> optax.GradientTransformation | None:
    """Returns an optimizer as optax's pair of functions; `None` if it is none."""
    if isinstance(optimizer, optax.MultiSteps):
        # Its own `gradient_transformation()` takes no more than gradients.
        return optax.GradientTransformationExtraArgs(optimizer.init, optimizer.update)
    is_pair = isinstance(optimizer, optax.GradientTransformation)
    return optimizer if is_pair else None


def update(
    optimizer: Any,
    gradients: PyTree,
    opt_state: PyTree,
    params: PyTree,
    *,
    value: jax.Array,
    value_fn: Callable[[PyTree], jax.Array],
) -> tuple[PyTree, PyTree]:
    """Computes an optimizer's updates, and gives it what else it asks for.

    A line search asks for `value`, `grad` and `value_fn`, Polyak's step and a plateau
    for `value`, Sophia for `obj_fn`, and SAM for `grad_fn`. Other optimizers ignore
    them, and cost what they would without. Here `value`, `f32[]`, is the loss, and
    `value_fn`, `params -> f32[]`, computes it on the same batch.

    Example:
        >>> import jax.numpy as jnp
        >>> polyak, x = optax.polyak_sgd(), jnp.float32(2.0)
        >>> more = {"value": x**2, "value_fn": jnp.square}
        >>> updates, _ = update(polyak, 2 * x, polyak.init(x), x, **more)
        >>> float(updates)  # -x² / (2 x)² * 2 x
        -1.0
    """

    def grad_fn(params, *_):
        return jax.grad(value_fn)(params)

    search = {"value": value, "grad": gradients, "value_fn": value_fn}
    more = {**search, "obj_fn": value_fn, "grad_fn": grad_fn}
    transformation = optax.with_extra_args_support(as_transformation(optimizer))
    # Most take any keyword. Line searches and SAM refuse others than their own, and so
    # does a chain of them.
    refusals = []
    for keywords in (more, search, {"grad_fn": grad_fn}, {}):
        try:
            return transformation.update(gradients, opt_state, params, **keywords)
        except jax.errors.JAXTypeError:
            raise
        except TypeError as error:
            refusals.append(error)
    raise TypeError(
        f"optimizer: its update cannot be called with gradients, state, params and "
        f"{', '.join(more)}: {refusals[0]}"
    ) from refusals[0]
