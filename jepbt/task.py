"""Tasks made for the user: image classification with any model, loss and optimizer."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import inspect
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import datasets, losses, models, taylorglo
from jepbt.augment import Augmentation
from jepbt.hyperparameters import (
    HyperParameters,
    Loss,
    TaylorLoss,
    decode,
    hparam,
    map_fields,
    sample_population,
    spaces,
    taylor_hparam,
)
from jepbt.population import PyTree, Splits, Task
from jepbt.strategies import take

_AUGMENT = 0x61756720  # a step's key is the model's; folded with this, augmentation's


@dataclasses.dataclass
class StandardHyperParameters(HyperParameters):
    """What evolves in a classification whose user names no hyperparameters."""

    learning_rate: float = hparam(0.05, min=1e-3, max=1.0, log=True)
    momentum: float = hparam(0.9, min=0.0, max=0.99)
    weight_decay: float = hparam(1e-4, min=1e-6, max=1e-2, log=True)
    dropout: float = hparam(0.1, min=0.0, max=0.6)
    loss: Loss = taylor_hparam()


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


def classification(
    data: str | datasets.Dataset | tuple[Any, Any] = "fashion_mnist",
    *,
    hparams: type[HyperParameters] | None = None,
    model: Any = None,
    loss: Callable[[HyperParameters], losses.LossFn] | None = None,
    optimizer: Callable[[HyperParameters], optax.GradientTransformation] | None = None,
    augment: Callable[[HyperParameters], Augmentation] | None = None,
    batch_size: int = 64,
) -> Task:
    """Makes the task of classifying images, or vectors, with the user's network.

    `loss` and `optimizer` are functions of a member's own hyperparameters, called
    inside the compiled step, so one program serves every value. Images of `uint8` stay
    so on the device and are standardised by the training split's mean and deviation
    when read; floats are taken as they are. A TaylorGLO loss that could not train is
    repaired before a member spends steps on it. Fitness is the validation accuracy.

    Args:
        data: a data set's name, a `Dataset`, or `(images, labels)`, of which a tenth
            becomes the validation split.
        hparams: the class of what evolves; the standard one evolves learning rate,
            momentum, weight decay, dropout and loss. Given, the next three must be too.
        model: a `models.Model`, `(init, apply)`, a flax linen module, or a function
            `rngs -> nnx.Module`.
        loss: `h -> (logits [B, C], one-hot labels [B, C]) -> f32[B]`.
        optimizer: `h -> optax.GradientTransformation`.
        augment: `h -> (key, images, labels) -> (images, labels)`, such as
            `lambda h: jepbt.augment.shift(h.shift)`, of training batches as the network
            sees them; None for none.
        batch_size: examples in a training step.

    Returns:
        A `Task` whose state is a `Learner`.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if the data, the hyperparameters' class, the model's output, the
            loss or the optimizer cannot work; the message names it.

    Example:
        >>> from dataclasses import dataclass
        >>> import numpy as np, optax
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
        >>> images = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32)
        >>> task = jepbt.classification(
        ...     (images, (images[:, 0] > 0).astype(int)),
        ...     hparams=Hyper,
        ...     model=jepbt.models.MLP(num_classes=2, hidden=(8,)),
        ...     loss=lambda h: jepbt.losses.cross_entropy,
        ...     optimizer=lambda h: optax.sgd(h.learning_rate),
        ... )
        >>> task.data.validation["label"].shape
        (4,)
    """
    dataset = _as_dataset(data)
    num_classes = dataset.num_classes
    if hparams is None:
        hparams = StandardHyperParameters
        model = _standard_model(dataset) if model is None else model
        loss = loss or (lambda h: losses.taylor(h.loss))
        optimizer = optimizer or _standard_optimizer
    for name, value in {"model": model, "loss": loss, "optimizer": optimizer}.items():
        if value is None:
            raise ValueError(
                f"classification: {name} is missing. With hparams={hparams.__name__} "
                "of your own, give model, loss and optimizer too: the defaults read "
                "fields that it may not have."
            )
    fields = spaces(hparams)
    network = models.as_model(model)
    normalize = _normalizer(dataset.train["image"])
    example = jax.ShapeDtypeStruct((1, *dataset.train["image"].shape[1:]), jnp.float32)

    def init(key, hparams):
        images = jnp.zeros(example.shape, example.dtype)
        params, variables = network.init(key, images, hparams)
        return Learner(params, optimizer(hparams).init(params), variables)

    def train_step(key, state, hparams, batch, shared):
        labels = jax.nn.one_hot(batch["label"], num_classes)
        images = normalize(batch["image"])
        if augment is not None:
            augment_key = jax.random.fold_in(key, _AUGMENT)
            images, labels = augment(hparams)(augment_key, images, labels)

        def objective(params):
            logits, variables = network.apply(
                key, params, state.variables, hparams, images, train=True
            )
            return jnp.mean(loss(hparams)(logits, labels)), variables

        (value, variables), gradients = jax.value_and_grad(objective, has_aux=True)(
            state.params
        )
        updates, opt_state = optimizer(hparams).update(
            gradients, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return Learner(params, opt_state, variables), {"loss": value}

    def evaluate(key, state, hparams, batch, shared):
        logits, _ = network.apply(
            key,
            state.params,
            state.variables,
            hparams,
            normalize(batch["image"]),
            train=False,
        )
        is_correct = jnp.argmax(logits, -1) == batch["label"]
        # The largest of nan is class 0, which a broken network would be credited with.
        return jnp.where(jnp.isfinite(logits).all(-1), is_correct, jnp.nan)

    def repair(hparams):
        def fix(space, leaf):
            if isinstance(space, TaylorLoss):
                return taylorglo.repair(leaf, num_classes)
            return leaf

        return map_fields(fix, hparams)

    _check_parts(hparams, network, loss, optimizer, augment, example, num_classes)
    has_taylor = any(isinstance(space, TaylorLoss) for space in fields.values())
    return Task(
        hparams=hparams,
        init=init,
        train_step=train_step,
        evaluate=evaluate,
        data=Splits(dataset.train, dataset.validation, dataset.test),
        batch_size=batch_size,
        repair=repair if has_taylor else None,
    )


def _as_dataset(data: Any) -> datasets.Dataset:
    if isinstance(data, datasets.Dataset):
        return data
    if isinstance(data, str):
        return datasets.load(data)
    if isinstance(data, tuple) and len(data) == 2:
        return datasets.from_arrays(data)
    raise TypeError(
        "classification: data must be a data set's name, a jepbt.datasets.Dataset, or "
        f"(images, labels), got {type(data).__name__}. See jepbt.datasets.from_arrays."
    )


def _standard_model(dataset: datasets.Dataset) -> models.Model:
    build = models.CNN if dataset.train["image"].ndim == 4 else models.MLP
    return build(num_classes=dataset.num_classes, dropout=lambda h: h.dropout)


def _standard_optimizer(h: StandardHyperParameters) -> optax.GradientTransformation:
    return optax.chain(
        optax.add_decayed_weights(h.weight_decay),
        optax.sgd(h.learning_rate, momentum=h.momentum, nesterov=True),
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


def _check_parts(
    hparams, network, loss, optimizer, augment, example, num_classes
) -> None:
    """Traces each part on its own, so that an error can name the one that is wrong."""
    parts = {"loss": loss, "optimizer": optimizer, "augment": augment}
    for name, function in parts.items():
        if name != "augment" or function is not None:
            _check_takes_hparams(name, function)
    key = jax.eval_shape(lambda: jax.random.key(0))
    member = jax.eval_shape(lambda k: take(sample_population(k, hparams, 1), 0), key)
    labels = jax.ShapeDtypeStruct((example.shape[0], num_classes), jnp.float32)

    def apply(key, params, variables, h, images, train):
        return network.apply(key, params, variables, decode(h), images, train=train)

    def compute_loss(h, logits, labels):
        loss_fn = loss(decode(h))
        if not callable(loss_fn):
            raise TypeError(f"loss: {_WANTED['loss']}; it returned {loss_fn!r}.")
        return loss_fn(logits, labels)

    def update(h, params):
        transformation = optimizer(decode(h))
        if not isinstance(transformation, optax.GradientTransformation):
            kind = type(transformation).__name__
            raise TypeError(f"optimizer: {_WANTED['optimizer']}; it returned {kind}.")
        return transformation.update(params, transformation.init(params), params)

    with _naming("model"):
        params, variables = jax.eval_shape(
            lambda k, images, h: network.init(k, images, decode(h)),
            key,
            example,
            member,
        )
        for train in (True, False):
            logits, _ = jax.eval_shape(
                functools.partial(apply, train=train),
                key,
                params,
                variables,
                member,
                example,
            )
            got = getattr(logits, "shape", type(logits).__name__)
            if got != labels.shape:
                raise ValueError(
                    f"model: its output must be logits [B, {num_classes}] for the "
                    f"data's {num_classes} classes, got {got} for {example.shape[0]} "
                    "image. Change the last layer's size."
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
        if not callable(augmentation):
            raise TypeError(
                f"augment: {_WANTED['augment']}; it returned {augmentation!r}."
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
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        given = getattr(function, "__name__", type(function).__name__)
        raise TypeError(f"{name}: {_WANTED[name]}; got {given}.") from error


@contextlib.contextmanager
def _naming(part: str) -> Iterator[None]:
    """Says which part of a task needs a number where a traced value is."""
    try:
        yield
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
