"""What tasks with inputs and targets share: one gradient step, one check of parts."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import models
from jepbt.adapters import accepts
from jepbt.hyperparameters import HyperParameters, decode, default_member, spaces
from jepbt.population import Blend, PyTree, Splits, Task
from jepbt.teaching import Distillation, make_teacher, mix

_AUGMENT = 0x61756720  # a step's key is the model's; folded with this, augmentation's


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("params", "opt_state", "variables"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Learner:
    """The state of a network that learns by gradients.

    Attributes:
        params: its weights.
        opt_state: the optimizer's.
        variables: what else the model carries, batch statistics for example.
    """

    params: PyTree
    opt_state: PyTree
    variables: PyTree


class Outputs(NamedTuple):
    """What a network must return for each example.

    Attributes:
        size: how many numbers.
        words: the same for a message, such as "logits [B, 3] for the data's 3 classes".
    """

    size: int
    words: str


def learn_from_examples(
    data: Splits,
    *,
    inputs: str,
    labels: Callable[[PyTree], jax.Array],
    outputs: Outputs,
    score: Callable[[jax.Array, PyTree], jax.Array],
    average_of: Callable[[jax.Array], jax.Array] = lambda outputs: outputs,
    hparams: type[HyperParameters],
    model: Any,
    loss: Callable[[HyperParameters], Callable[..., jax.Array]],
    optimizer: Callable[[HyperParameters], optax.GradientTransformation],
    augment: Callable[[HyperParameters], Callable[..., Any]] | None,
    batch_size: int,
    distillation: Distillation | None = None,
) -> Task:
    """Makes a task of the user's parts, after tracing each of them.

    Args:
        data: dictionaries of arrays `[N, ...]`.
        inputs: the name of what the network sees, among them.
        labels: `(batch) -> f32[B, C]`, what the loss compares the outputs with.
        outputs: of the network.
        score: `(outputs f32[B, C], batch) -> f32[B]`, higher is better.
        average_of: what of the outputs an ensemble averages, `f32[B, C]`, which `score`
            takes as well.
        hparams: the class of what evolves.
        model: whatever `models.as_model` takes.
        loss: `h -> (outputs, labels) -> f32[B]`.
        optimizer: `h -> optax.GradientTransformation`.
        augment: `h -> (key, inputs, labels) -> (inputs, labels)`, or None.
        batch_size: examples in a training step.
        distillation: who teaches the members, or None; for outputs that are logits.

    Returns:
        A `Task` whose state is a `Learner`.

    Raises:
        TypeError: if a part is of no allowed kind.
        ValueError: if a part cannot work; the message names it.
    """
    spaces(hparams)
    network = models.as_model(model)
    normalize = _normalizer(data.train[inputs])
    example = jax.ShapeDtypeStruct((1, *data.train[inputs].shape[1:]), jnp.float32)
    if distillation is not None and not isinstance(distillation, Distillation):
        raise TypeError(
            "distillation must be made by jepbt.distillation(...), got "
            f"{getattr(distillation, '__name__', type(distillation).__name__)}."
        )
    has_teacher = distillation is not None and distillation.weight > 0

    def init(key, hparams):
        zeros = jnp.zeros(example.shape, example.dtype)
        params, variables = network.init(key, zeros, hparams)
        return Learner(params, optimizer(hparams).init(params), variables)

    def train_step(key, state, hparams, batch, shared):
        batch, lesson = batch if has_teacher else (batch, None)
        targets = labels(batch)
        seen = normalize(batch[inputs])
        if augment is not None:
            augment_key = jax.random.fold_in(key, _AUGMENT)
            seen, targets = augment(hparams)(augment_key, seen, targets)

        def objective(params):
            outputs, variables = network.apply(
                key, params, state.variables, hparams, seen, train=True
            )
            value = jnp.mean(loss(hparams)(outputs, targets))
            if has_teacher:
                value = mix(distillation, value, outputs, lesson)
            return value, variables

        (value, variables), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer(hparams).update(
            gradients, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return Learner(params, opt_state, variables), {"loss": value}

    def predict(key, state, hparams, batch):
        predicted, _ = network.apply(
            key,
            state.params,
            state.variables,
            hparams,
            normalize(batch[inputs]),
            train=False,
        )
        return predicted

    def evaluate(key, state, hparams, batch, shared):
        return score(predict(key, state, hparams, batch), batch)

    _check_parts(hparams, network, loss, optimizer, augment, example, outputs)

    def predict_average(key, state, hparams, batch):
        return average_of(predict(key, state, hparams, batch))

    def average_states(states):
        def mean(leaf):
            return leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0]

        first = jax.tree.map(lambda leaf: leaf[0], states)
        params, variables = jax.tree.map(mean, (states.params, states.variables))
        return Learner(params, first.opt_state, variables)

    def adapt(key, state, hparams, batch):
        _, variables = network.apply(
            key,
            state.params,
            state.variables,
            hparams,
            normalize(batch[inputs]),
            train=True,
        )
        return dataclasses.replace(state, variables=variables)

    return Task(
        hparams,
        init,
        train_step,
        evaluate,
        data,
        batch_size,
        behaviour=lambda key, state, h, batch, shared: predict(key, state, h, batch),
        prepare=make_teacher(distillation, predict) if has_teacher else None,
        blend=Blend(predict_average, score, average_states, adapt),
    )


def require_parts(name: str, hparams: type[HyperParameters], **parts: Any) -> None:
    """Refuses a task some of whose parts are `None`, by name."""
    for part, value in parts.items():
        if value is None:
            raise ValueError(
                f"{name}: {part} is missing. With hparams={hparams.__name__} of your "
                f"own, give {', '.join(parts)} too: the defaults read fields that it "
                "may not have."
            )


def _normalizer(images: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """Standardises uint8 images by channel; leaves floats alone."""
    if images.dtype != np.uint8:
        return lambda batch: batch
    channels = images.reshape(-1, images.shape[-1] if images.ndim == 4 else 1)
    levels = np.arange(256)
    # Counting levels is exact, and needs no copy of the images as floats.
    counts = np.stack([np.bincount(c, minlength=256) for c in channels.T])
    weights = counts / counts.sum(1, keepdims=True)
    mean = weights @ levels
    deviation = np.sqrt(np.maximum(weights @ levels**2 - mean**2, 1e-6))
    scale, shift = np.float32(1 / deviation), np.float32(-mean / deviation)

    def normalize(batch):
        shape = (1,) * (batch.ndim - 1) + (-1,)
        return batch.astype(jnp.float32) * scale.reshape(shape) + shift.reshape(shape)

    return normalize


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
