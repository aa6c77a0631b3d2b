"""Turns flax modules, linen and nnx, into two plain functions of one member, and back.

Flax is imported only when a model is given that must be a flax module.
"""

import functools
import inspect
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from jepbt.arguments import accepts


def adapt(model: Any) -> tuple[Callable, Callable]:
    """Turns a linen instance, or a builder of nnx modules, into `(init, apply)`.

    Raises:
        TypeError: if it is neither; the message says what to pass instead.
    """
    from flax import linen

    if isinstance(model, linen.Module):
        return from_linen(model)
    from flax import nnx  # takes a while, which a linen module does not need

    is_class = isinstance(model, type)
    if is_class and issubclass(model, linen.Module):
        raise TypeError(
            f"model: {model.__name__} is a linen class; pass an instance of it, "
            f"{model.__name__}(...)."
        )
    if isinstance(model, nnx.Module):
        name = type(model).__name__
        raise TypeError(
            f"model: an instance of the nnx class {name} has one set of weights, and "
            "every member needs its own; pass a function that makes one, "
            f"`lambda rngs: {name}(..., rngs=rngs)`."
        )
    is_function = inspect.isroutine(model) or isinstance(model, functools.partial)
    if is_function or (is_class and issubclass(model, nnx.Module)):
        return from_nnx(model)
    raise TypeError(
        "model must be a jepbt.models.Model, a pair of functions (init, apply), an "
        "instance of a flax linen module, or a function `rngs -> nnx.Module`; got "
        f"{model!r} of type {type(model).__name__}."
    )


def bind(model: Any, params: Any, variables: Any) -> Any:
    """Makes the user's own module again, with the weights of one trained member.

    A linen instance becomes a bound module. What makes nnx modules makes one more, set
    to evaluation.
    """
    from flax import linen

    if isinstance(model, linen.Module):
        streams = _streams(jax.random.key(0))
        return model.bind({"params": params, **variables}, rngs=streams)
    from flax import nnx

    module = _with_rngs_alone(model)(nnx.Rngs(0))  # as `apply` below makes it
    module.eval()
    nnx.update(module, params)
    nnx.update(module, variables)
    return module


def from_linen(module: Any) -> tuple[Callable, Callable]:
    """Turns a linen instance into `(init, apply)`.

    The collection `params` becomes the weights, all others together the variables.
    """
    call = type(module).__call__

    def init(key, images, hparams=None):
        settings = _settings(call, hparams, train=False)
        try:
            variables = dict(module.init(_streams(key), images, **settings))
        except AttributeError as error:
            if hparams is None and "'NoneType' object has no attribute" in str(error):
                raise ValueError(
                    f"model: {type(module).__name__} reads a hyperparameter while its "
                    "weights are made, and init was given none: call "
                    "init(key, images, hparams), or read it under `if train:` only."
                ) from error
            raise
        return variables.pop("params", {}), variables

    def apply(key, params, variables, hparams, images, *, train):
        logits, changed = module.apply(
            {"params": params, **variables},
            images,
            rngs=_streams(key),
            # A carried state must keep its structure, so nothing may be added to it.
            mutable=list(variables) if train else [],
            **_settings(call, hparams, train),
        )
        return logits, {**variables, **changed}

    return init, apply


def from_nnx(factory: Callable[..., Any]) -> tuple[Callable, Callable]:
    """Turns a function `rngs -> nnx.Module` into `(init, apply)`.

    Each `nnx.Param` becomes a weight; every other `nnx.Variable`, but random state and
    intermediates, a variable.
    """
    from flax import nnx

    transient = nnx.Any(nnx.Param, nnx.RngState, nnx.Intermediate)
    other = nnx.All(nnx.Variable, nnx.Not(transient))
    make = _with_rngs_alone(factory)

    def build(key):
        module = make(nnx.Rngs(key))
        if not isinstance(module, nnx.Module):
            raise TypeError(
                "model: a function of rngs must return an nnx.Module, and this one "
                f"returned an object of type {type(module).__name__}. A pair of "
                "functions is given as (init, apply)."
            )
        return module

    def state_of(module, kind):
        return nnx.to_pure_dict(nnx.state(module, kind))

    def reseed(module, key):
        """Restarts every random stream, each from a key of its own."""
        keys, structure = jax.tree.flatten(state_of(module, nnx.RngKey))
        for i, old in enumerate(keys):
            new = jax.random.fold_in(key, i)
            keys[i] = jax.random.split(new, old.shape) if old.shape else new
        nnx.update(module, structure.unflatten(keys))
        counts = jax.tree.map(jnp.zeros_like, state_of(module, nnx.RngCount))
        nnx.update(module, counts)

    def settings(module, key, hparams, train):
        """Gives `rngs` to modules that require it, or keep no streams themselves."""
        call = type(module).__call__
        rngs = inspect.signature(call).parameters.get("rngs")
        keeps_own = bool(jax.tree.leaves(state_of(module, nnx.RngState)))
        if rngs is None or (keeps_own and rngs.default is not rngs.empty):
            return _settings(call, hparams, train)
        return _settings(call, hparams, train, rngs=nnx.Rngs(key))

    def init(key, images, hparams=None):
        module = build(key)
        return state_of(module, nnx.Param), state_of(module, other)

    def apply(key, params, variables, hparams, images, *, train):
        # Building the module here makes its variables belong to the current trace, even
        # inside a gradient; the first values are never used, and compiled away. One
        # fixed key keeps what a module draws outside of any Variable the same.
        module = build(0)
        if train:
            module.train()
        else:
            module.eval()
        nnx.update(module, params)
        nnx.update(module, variables)
        reseed(module, key)
        logits = module(images, **settings(module, key, hparams, train))
        return logits, state_of(module, other) if train else variables

    return init, apply


def _settings(
    call: Callable[..., Any], hparams: Any, train: bool, **more: Any
) -> dict[str, Any]:
    """Picks the keyword arguments that a module's `__call__` names."""
    offered = {
        "hparams": hparams,
        "train": train,
        "training": train,
        "is_training": train,
        "deterministic": not train,
        "use_running_average": not train,
        **more,
    }
    named = inspect.signature(call).parameters
    missing = [
        name
        for name, parameter in list(named.items())[2:]  # after self and the images
        if parameter.default is parameter.empty
        and parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
        and name not in offered
    ]
    if missing:
        raise TypeError(
            f"model: {call.__qualname__} needs {', '.join(missing)}, and is given, "
            f"beside its input, only {', '.join(offered)}, as far as it names them. "
            "Give it a default; random numbers come from self.make_rng(...) in linen, "
            "from an argument `rngs`, or an nnx.Rngs that the module keeps, in nnx."
        )
    return {name: value for name, value in offered.items() if name in named}


def _streams(key: jax.Array) -> dict[str, jax.Array]:
    """Makes linen's random streams; any other name falls back to "params"."""
    return {"params": jax.random.fold_in(key, 1), "dropout": key}


def _with_rngs_alone(factory: Callable[..., Any]) -> Callable[[Any], Any]:
    """Makes a builder that can be called with `rngs` by position."""
    # nnx's metaclass hides a class's signature, so its constructor is asked.
    is_class = isinstance(factory, type)
    target = functools.partial(factory.__init__, None) if is_class else factory
    if accepts(target, rngs=None):
        return lambda rngs: factory(rngs=rngs)
    if accepts(target, None):
        return factory
    name = getattr(factory, "__name__", repr(factory))
    raise TypeError(
        f"model: {name}{inspect.signature(target)} cannot be called with rngs alone; "
        "pass a function of rngs that gives it the rest, such as "
        f"`lambda rngs: {name}(..., rngs=rngs)`."
    )
