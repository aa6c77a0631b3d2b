"""Computes a network in bfloat16, while its weights stay in float32."""

from typing import Any

import jax
import jax.numpy as jnp

from jepbt.models.model import Model
from jepbt.population import like

COMPUTE_DTYPES = ("float32", "bfloat16")


def computing_in(model: Model, compute_dtype: str) -> Model:
    """Makes a model compute in a dtype.

    Weights and float inputs are cast before the network is applied, and its outputs and
    variables cast back after, so that a member's weights, their gradients, its batch
    statistics and whatever else it carries keep their own dtypes. Variables and
    hyperparameters reach the network as they are.

    Layers follow the dtype of what they are given: flax's do, as long as they are given
    no `dtype` of their own, and so do `jepbt.models` and most plain functions. What
    cannot be done from outside: a layer with a `dtype` computes in that one; from flax
    0.12 on, nnx's `BatchNorm` makes all that follows `float32`, as its statistics are,
    unless it is given `dtype=jnp.bfloat16`; and so does what is multiplied with a
    hyperparameter or another `float32` array: write `x * h.scale.astype(x.dtype)`.

    Args:
        model: the network, whose weights are floats of any kind.
        compute_dtype: "bfloat16"; with "float32" the model is returned as it is.

    Returns:
        A `Model` with the same weights and outputs of `float32`.

    Example:
        >>> def init(key, images, hparams=None):
        ...     return {"scale": jnp.float32(1.001)}, {}
        >>> def apply(key, params, variables, hparams, images, *, train):
        ...     return params["scale"] * images, variables
        >>> model = computing_in(Model(init, apply), "bfloat16")
        >>> params, variables = model.init(None, None)
        >>> outputs, _ = model.apply(None, params, variables, None, 3.0, train=False)
        >>> outputs.item(), outputs.dtype.name
        (3.0, 'float32')
    """
    if compute_dtype == "float32":
        return model

    def apply(key, params, variables, hparams, images, *, train):
        params, images = _cast((params, images), jnp.dtype(compute_dtype))
        outputs, after = model.apply(
            key, params, variables, hparams, images, train=train
        )
        # Variables of another structure are refused where they are carried.
        if jax.tree.structure(after) == jax.tree.structure(variables):
            after = like(variables, after)
        return _cast(outputs, jnp.dtype("float32")), after

    return Model(model.init, apply)


def _cast(tree: Any, dtype: jnp.dtype) -> Any:
    """Casts the floats of a tree, and leaves all else."""

    def cast(leaf):
        is_float = jnp.issubdtype(jnp.result_type(leaf), jnp.floating)
        return jnp.asarray(leaf, dtype) if is_float else leaf

    return jax.tree.map(cast, tree)
