"""Models: two pure functions of one member, batched by whoever calls them.

Four things are a model: a `Model`, any pair of functions `(init, apply)` like it, an
instance of a flax linen module, and a function `rngs -> nnx.Module`. `as_model` makes
a `Model` of each. A flax module's `__call__` takes the images first and gets, of
`hparams`, `train`, `training`, `is_training`, `deterministic` and
`use_running_average`, those that its signature names.

A dropout rate that evolves is an array, and flax's own Dropout compares its rate in
Python, so give the rate to `jepbt.nn.dropout` instead. In linen:

    @nn.compact
    def __call__(self, images, *, hparams, train):
        x = nn.relu(nn.Dense(64)(images))
        key = self.make_rng("dropout")
        x = jepbt.nn.dropout(key, x, hparams.dropout, train=train)
        return nn.Dense(10)(x)

In nnx, with `self.rngs = rngs` among the layers of `__init__`:

    def __call__(self, images, *, hparams, train):
        x = nnx.relu(self.hidden(images))
        key = self.rngs.dropout()
        x = jepbt.nn.dropout(key, x, hparams.dropout, train=train)
        return self.head(x)

Random state is no part of a member: each step restarts it from the step's key, or
members that inherit the same weights would also share their dropout masks.

From `params` and `variables` back to flax: `module.apply({"params": params,
**variables}, images)` in linen; in nnx make a module, then `nnx.update(module,
params)` and `nnx.update(module, variables)`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp

from jepbt import nn
from jepbt.arguments import accepts
from jepbt.models import flax
from jepbt.models.layers import (
    HE,
    LECUN,
    Dropout,
    Model,
    PyTree,
    check_pixels,
    check_settings,
    conv,
    dense,
    drop,
    is_positive_int,
    make_layer,
)


def CNN(
    *, num_classes: int = 10, dropout: Dropout = None, dtype: Any = jnp.float32
) -> Model:
    """Builds a small convolutional network: 105,866 weights for 28x28x1 and 10 classes.

    Twice a 3x3 convolution (16 and 32 channels), 2x2 max pooling and ReLU, then a dense
    layer of 64, ReLU, dropout and a dense layer of `num_classes`.

    Args:
        num_classes: `C`, the number of logits.
        dropout: a rate in [0, 1), a function of the member's hyperparameters that
            returns one, or None.
        dtype: what it computes in, `jnp.bfloat16` for example. Weights and logits are
            `f32` whatever it is.

    Returns:
        A `Model` of images `f32[B, H, W, C]` of at least 4x4 pixels.

    Raises:
        ValueError: if a setting is out of range; and from `init` and `apply` if the
            images are not as above.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = CNN(num_classes=10, dropout=lambda h: h.dropout)
        >>> params, variables = model.init(jax.random.key(0), jnp.zeros((1, 28, 28, 1)))
        >>> sum(weight.size for weight in jax.tree.leaves(params))
        105866
        >>> params["conv1"]["kernel"].shape
        (3, 3, 1, 16)
    """
    check_settings("CNN", num_classes, dropout, dtype)

    def init(key, images, hparams=None):
        check_pixels("CNN", images)
        _, height, width, channels = images.shape
        keys = jax.random.split(key, 4)
        return {
            "conv1": make_layer(HE, keys[0], (3, 3, channels, 16)),
            "conv2": make_layer(HE, keys[1], (3, 3, 16, 32)),
            "dense1": make_layer(HE, keys[2], (height // 4 * (width // 4) * 32, 64)),
            "dense2": make_layer(LECUN, keys[3], (64, num_classes)),
        }, {}

    def apply(key, params, variables, hparams, images, *, train):
        check_pixels("CNN", images)
        x = _conv_pool_relu(params["conv1"], images, dtype)
        x = _conv_pool_relu(params["conv2"], x, dtype)
        x = jax.nn.relu(dense(params["dense1"], x.reshape(x.shape[0], -1), dtype))
        x = drop(key, x, dropout, hparams, train)
        return dense(params["dense2"], x, dtype).astype(jnp.float32), variables

    return Model(init, apply)


def MLP(
    *,
    num_classes: int = 10,
    hidden: Sequence[int] = (256,),
    dropout: Dropout = None,
    dtype: Any = jnp.float32,
) -> Model:
    """Builds a multilayer perceptron; images are flattened.

    Args:
        num_classes: `C`, the number of logits.
        hidden: widths of the hidden layers, each followed by ReLU and dropout; none
            makes a softmax regression.
        dropout: a rate in [0, 1), a function of the member's hyperparameters that
            returns one, or None.
        dtype: what it computes in, `jnp.bfloat16` for example. Weights and logits are
            `f32` whatever it is.

    Returns:
        A `Model` of images `f32[B, ...]`.

    Raises:
        ValueError: if a setting is out of range; and from `init` if an image is a
            single number.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> model = MLP(num_classes=3, hidden=(8, 8))
        >>> images = jnp.zeros((5, 4))
        >>> params, variables = model.init(jax.random.key(0), images)
        >>> key = jax.random.key(1)
        >>> logits, _ = model.apply(key, params, variables, None, images, train=True)
        >>> logits.shape
        (5, 3)
    """
    check_settings("MLP", num_classes, dropout, dtype)
    is_sequence = isinstance(hidden, Sequence) and not isinstance(hidden, str)
    if not is_sequence or not all(is_positive_int(width) for width in hidden):
        raise ValueError(
            "MLP: hidden must be positive integers, one for each hidden layer as in "
            f"hidden=(256,), got {hidden!r}."
        )
    names = [f"dense{i + 1}" for i in range(len(hidden) + 1)]

    def init(key, images, hparams=None):
        if len(images.shape) < 2:
            raise ValueError(
                f"MLP takes images [B, ...], a batch of vectors at least; got shape "
                f"{images.shape}."
            )
        widths = [math.prod(images.shape[1:]), *hidden, num_classes]
        keys = jax.random.split(key, len(names))
        params = {
            name: make_layer(HE, keys[i], (widths[i], widths[i + 1]))
            for i, name in enumerate(names[:-1])
        }
        params[names[-1]] = make_layer(LECUN, keys[-1], (widths[-2], widths[-1]))
        return params, {}

    def apply(key, params, variables, hparams, images, *, train):
        x = images.reshape(images.shape[0], -1)
        for i, name in enumerate(names[:-1]):
            x = jax.nn.relu(dense(params[name], x, dtype))
            x = drop(jax.random.fold_in(key, i), x, dropout, hparams, train)
        return dense(params[names[-1]], x, dtype).astype(jnp.float32), variables

    return Model(init, apply)


def as_model(model: Any) -> Model:
    """Makes a `Model` of what a user calls a model.

    Args:
        model: a `Model`; a pair `(init, apply)`, whose `init` may leave out `hparams`;
            an instance of a flax linen module; a function `rngs -> nnx.Module`, or an
            nnx class that needs only `rngs`. linen's `params` and nnx's `nnx.Param`
            become `params`; all other collections and variables, but random state and
            intermediates, become `variables`. Both are nested dictionaries.

    Returns:
        A `Model`; a complete one is returned as it is.

    Raises:
        TypeError: if `model` is none of these, or its functions take other arguments.

    Example:
        >>> def init(key, images):
        ...     return {"scale": jnp.ones(())}, {}
        >>> def apply(key, params, variables, hparams, images, *, train):
        ...     return params["scale"] * images, variables
        >>> params, variables = as_model((init, apply)).init(None, None)
        >>> params["scale"].item()
        1.0
    """
    is_pair = isinstance(model, tuple) and len(model) == 2
    if not (is_pair and all(callable(function) for function in model)):
        return Model(*flax.from_flax(model))
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


def name_of(model: Any) -> str:
    """Names a model for people: its builder, its class, or its function.

    Example:
        >>> name_of(MLP(hidden=(8,)))
        'MLP'
    """
    if isinstance(model, tuple):  # whoever defined the first of the two functions
        model = model[0]
    name = getattr(model, "__qualname__", type(model).__name__)
    return name.partition(".<locals>")[0]


def _conv_pool_relu(layer: PyTree, x: jax.Array, dtype: Any) -> jax.Array:
    # The bias moves all of a window alike, so it is as well added to the largest: the
    # same bits from a quarter of the additions.
    pooled = nn.max_pool(conv(layer["kernel"], x, dtype), window=2)
    return jax.nn.relu(pooled + layer["bias"].reshape(1, 1, 1, -1).astype(dtype))
