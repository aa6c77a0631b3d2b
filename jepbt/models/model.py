"""Turns what a user calls a model into two pure functions of one member.

Four things are a model: an instance of a flax linen module, a function `rngs ->
nnx.Module`, a `Model`, and any pair of functions `(init, apply)` like it. `as_model`
makes a `Model` of each.

A flax module's `__call__` takes the images first. Of `hparams`, `train`, `training`,
`is_training`, `deterministic` and `use_running_average` it gets those that its
signature names: this is how hyperparameters reach a network. An nnx module also gets
`rngs`, unless it keeps random streams and can do without. A dropout rate that
evolves is an array, and flax's own Dropout compares its rate in Python, so give the
rate to `jepbt.nn.dropout` instead. In linen:

    @nn.compact
    def __call__(self, images, *, hparams, train):
        x = nn.relu(nn.Dense(64)(images))
        key = self.make_rng("dropout")
        x = jepbt.nn.dropout(key, x, hparams.dropout, train=train)
        return nn.Dense(10)(x)

In nnx, where `rngs` is an `nnx.Rngs` of the step's, or kept in `__init__`:

    def __call__(self, images, *, hparams, train, rngs):
        x = nnx.relu(self.hidden(images))
        key = rngs.dropout()
        x = jepbt.nn.dropout(key, x, hparams.dropout, train=train)
        return self.head(x)

A member does not carry random state: every step makes its random numbers from the
step's key. Otherwise members that inherit the same weights would share dropout masks.

`bind` makes a flax module of `params` and `variables` again, and so does
`result.best.model`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from jepbt.arguments import accepts
from jepbt.models import flax
from jepbt.population import PyTree


class Model(NamedTuple):
    """A network as two pure functions of one member, key first.

    Attributes:
        init: `(key, images, hparams=None) -> (params, variables)`; `images` is
            `f32[B, ...]` and only its shape matters. `params` are the weights that are
            trained, `variables` all else that travels with a member, such as batch
            statistics: pytrees of arrays, perhaps empty.
        apply: `(key, params, variables, hparams, images, *, train) -> (logits,
            variables)`; `train` is a Python bool, `hparams` the member's
            hyperparameters, read by attribute, or None.
    """

    init: Callable[..., tuple[PyTree, PyTree]]
    apply: Callable[..., tuple[jax.Array, PyTree]]


def as_model(model: Any) -> Model:
    """Makes a `Model` of what a user calls a model.

    Args:
        model: an instance of a flax linen module; a function `rngs -> nnx.Module`, or
            an nnx class that needs only `rngs`; a `Model`; a pair `(init, apply)`,
            whose `init` may leave out `hparams`. linen's `params` and nnx's `nnx.Param`
            become `params`; all other collections and variables, but random state and
            intermediates, become `variables`. Both are nested dictionaries.

    Returns:
        A `Model`; a complete one is returned as it is.

    Raises:
        TypeError: if `model` is something else, or its functions take other arguments.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> def init(key, images):
        ...     return {"scale": jnp.ones(())}, {}
        >>> def apply(key, params, variables, hparams, images, *, train):
        ...     return params["scale"] * images, variables
        >>> params, variables = as_model((init, apply)).init(None, None)
        >>> params["scale"].item()
        1.0
    """
    is_pair = isinstance(model, tuple) and len(model) == 2
    if not (is_pair and all(map(callable, model))):
        return Model(*flax.adapt(model))
    init, apply = model
    if not accepts(apply, *[None] * 5, train=True):
        raise TypeError(
            "model: apply must take (key, params, variables, hparams, images, *, train)"
            " and return (logits, variables)."
        )
    if accepts(init, None, None, None):
        return Model(init, apply)
    if accepts(init, None, None):
        return Model(lambda key, images, hparams=None: init(key, images), apply)
    raise TypeError(
        "model: init must take (key, images), perhaps hparams too, and return "
        "(params, variables)."
    )


def bind(model: Any, params: PyTree, variables: PyTree, hparams: Any = None) -> Any:
    """Makes of a model what its user calls one, with the weights of one member.

    Args:
        model: the model, as `as_model` takes it.
        params: the member's weights.
        variables: all else that the model carries, such as batch statistics.
        hparams: the member's hyperparameters, which only functions are given.

    Returns:
        For a linen instance, the bound module, with fixed random streams. For a
        function `rngs -> nnx.Module`, a module of its own, set to evaluation. For a
        pair `(init, apply)`, a function of a batch of inputs, whose outputs are those
        of `apply` with `train=False`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from flax import linen
        >>> layer = linen.Dense(3)
        >>> inputs = jnp.ones((1, 2))
        >>> params, variables = as_model(layer).init(jax.random.key(0), inputs)
        >>> bind(layer, params, variables)(jnp.zeros((5, 2))).shape
        (5, 3)
    """
    params, variables = jax.tree.map(jnp.asarray, (params, variables))
    if not isinstance(model, tuple):
        return flax.bind(model, params, variables)
    apply = as_model(model).apply

    def predict(inputs):
        key = jax.random.key(0)
        return apply(key, params, variables, hparams, inputs, train=False)[0]

    return predict


def name_of(model: Any) -> str:
    """Names a model for people: by its class, or by the function that made it."""
    if isinstance(model, tuple):  # the function that defined `init`
        model = model[0]
    name = getattr(model, "__qualname__", type(model).__name__)
    return name.partition(".<locals>")[0]
