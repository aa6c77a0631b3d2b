"""Checks a user's loss, optimizer, augmentation and model one by one."""

from __future__ import annotations

import contextlib
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import optax

from jepbt.arguments import accepts
from jepbt.hyperparameters import HyperParameters, decode, default_member


def require_parts(name: str, hparams: type[HyperParameters], **parts: Any) -> None:
    """Refuses a task some of whose parts are `None`, by name."""
    for part, value in parts.items():
        if value is None:
            raise ValueError(
                f"{name}: {part} is missing. With hparams={hparams.__name__} of your "
                f"own, give {', '.join(parts)} too: the defaults read fields that it "
                "may not have."
            )


def _check_parts(hparams, network, loss, optimizer, augment, example, outputs) -> None:
    """Traces each part on its own, so that an error can name the one that is wrong."""
    parts = {"loss": loss, "optimizer": optimizer, "augment": augment}
    for name, function in parts.items():
        if name != "augment" or function is not None:
            _check_takes_hparams(name, function)
    key = jax.eval_shape(lambda: jax.random.key(0))
    member = jax.eval_shape(lambda: default_member(hparams))
    labels = jax.ShapeDtypeStruct((example.shape[0], outputs.size), jnp.float32)

    def apply(key, params, variables, h, images, train):
        return network.apply(key, params, variables, decode(h), images, train=train)

    def compute_loss(h, logits, labels):
        loss_fn = loss(decode(h))
        if not callable(loss_fn) or not accepts(loss_fn, None, None):
            raise TypeError(
                f"loss: {_WANTED['loss']}, of (outputs, labels); it returned "
                f"{_name(loss_fn)}."
            )
        return loss_fn(logits, labels)

    def update(h, params):
        transformation = optimizer(decode(h))
        if not isinstance(transformation, optax.GradientTransformation):
            kind = type(transformation).__name__
            raise TypeError(f"optimizer: {_WANTED['optimizer']}; it returned {kind}.")
        return transformation.update(params, transformation.init(params), params)

    with _naming("model"):
        made = jax.eval_shape(
            lambda k, images, h: network.init(k, images, decode(h)),
            key,
            example,
            member,
        )
        params, variables = _check_pair("init", "(params, variables)", made)
        for train in (True, False):
            applied = jax.eval_shape(
                functools.partial(apply, train=train),
                key,
                params,
                variables,
                member,
                example,
            )
            logits, _ = _check_pair("apply", "(logits, variables)", applied)
            got = getattr(logits, "shape", type(logits).__name__)
            if got != labels.shape:
                raise ValueError(
                    f"model: its output must be {outputs.words}, got {got} for "
                    f"{example.shape[0]} example. Change the last layer's size."
                )
    if augment is not None:
        with _naming("augment"):
            _check_augment(augment, key, member, example, labels)
    with _naming("loss"):
        value = jax.eval_shape(compute_loss, member, logits, labels)
        got = getattr(value, "shape", type(value).__name__)
        if got not in (labels.shape[:1], ()):
            raise ValueError(
                "loss: it must return one number for each example, shape [B], got "
                f"{got} for one example."
            )
    with _naming("optimizer"):
        jax.eval_shape(update, member, params)


def _check_augment(augment, key, member, images, labels) -> None:
    def distort(key, h, images, labels):
        augmentation = augment(decode(h))
        if not callable(augmentation) or not accepts(augmentation, *[None] * 3):
            raise TypeError(
                f"augment: {_WANTED['augment']}, of (key, images, labels); it returned "
                f"{_name(augmentation)}."
            )
        return augmentation(key, images, labels)

    distorted = jax.eval_shape(distort, key, member, images, labels)
    if not isinstance(distorted, tuple) or len(distorted) != 2:
        raise ValueError(
            f"augment: it must return (images, labels), got {type(distorted).__name__}."
        )
    for name, before, after in zip(
        ("images", "labels"), (images, labels), distorted, strict=True
    ):
        was, now = (
            f"{getattr(each, 'dtype', type(each).__name__)}"
            f"{list(getattr(each, 'shape', ()))}"
            for each in (before, after)
        )
        if was != now:
            raise ValueError(
                f"augment: it must keep the shape and dtype of the {name}, and made "
                f"{now} of {was}."
            )


_WANTED = {
    "augment": "must be a function of the hyperparameters that returns an "
    "augmentation, as in augment=lambda h: jepbt.augment.shift(h.shift)",
    "loss": "must be a function of the hyperparameters that returns a loss, as in "
    "loss=lambda h: jepbt.losses.brier",
    "optimizer": "must be a function of the hyperparameters that returns an optax "
    "optimizer, as in optimizer=lambda h: optax.sgd(h.learning_rate)",
}


def _check_takes_hparams(name: str, function: Any) -> None:
    if not callable(function) or not accepts(function, None):
        given = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"{name}: {_WANTED[name]}; got {given}.")


def _check_pair(name: str, wanted: str, result: Any) -> tuple[Any, Any]:
    if not isinstance(result, tuple) or len(result) != 2:
        got = f"{len(result)} values" if isinstance(result, tuple) else _name(result)
        raise TypeError(f"model: {name} must return {wanted}, got {got}.")
    return result


def _name(value: Any) -> str:
    return getattr(value, "__name__", repr(value))


@contextlib.contextmanager
def _naming(part: str) -> Iterator[None]:
    """Says which part of a task needs a number where a traced value is."""
    try:
        yield
    except AttributeError as error:
        if not isinstance(error.obj, HyperParameters):
            raise
        raise ValueError(f"{part}: {error}") from error
    except NameError as error:
        if "unbound axis name" not in str(error):
            raise
        raise ValueError(
            f"{part}: it averages over an axis that is not there ({error}). A member "
            "lives on one device, with its whole batch: leave axis_name out."
        ) from error
    except jax.errors.JAXTypeError as error:
        advice = (
            "Hyperparameters are arrays inside the compiled step: Python branches, "
            "int() and float() do not work on them. "
        )
        advice += {
            "optimizer": "For a schedule, scale one of unit peak: optax.chain(..., "
            "optax.scale_by_schedule(unit), optax.scale(-h.learning_rate)).",
            "augment": "Use jax.numpy functions, jax.lax.cond or jepbt.choose.",
            "model": "For dropout use jepbt.nn.dropout; else jax.lax.cond or "
            "jepbt.choose.",
            "loss": "Use jax.numpy functions, jax.lax.cond or jepbt.choose.",
        }[part]
        raise ValueError(
            f"{part}: it asks for the number behind a hyperparameter. {advice}"
        ) from error
