"""What tasks with inputs and targets share: one gradient step, one check of parts."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import models
from jepbt.arguments import check_real
from jepbt.hyperparameters import HyperParameters, spaces
from jepbt.population import PyTree
from jepbt.tasks.distillation import Distillation, make_teacher, mix
from jepbt.tasks.parts import _check_parts
from jepbt.tasks.task import Blend, Splits, Task

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


def shrink_and_perturb(task: Task, *, shrink: float = 0.4, noise: float = 0.1) -> Task:
    """Lets slots that start afresh keep something of their weights.

    A restarted member's weights are `shrink` of the old plus `noise` of newly drawn
    ones; optimizer state and all else start new. Both numbers are our choice.

    Args:
        task: whose state has `params`, such as `classification`'s `Learner`.
        shrink: of the old weights, in [0, 1].
        noise: of new weights, from 0.

    Returns:
        A task that restarts so.

    Raises:
        ValueError: if a number is not allowed.

    Example:
        >>> import numpy as np
        >>> import jepbt
        >>> x = np.random.default_rng(0).normal(size=(40, 5))
        >>> task = jepbt.tasks.shrink_and_perturb(jepbt.regression((x, x[:, 0])))
        >>> task.restart is None
        False

    Reference:
        Ash & Adams, "On Warm-Starting Neural Network Training", 2020,
        https://arxiv.org/abs/1910.08475
    """
    if not isinstance(task, Task):
        raise TypeError(
            f"shrink_and_perturb: task must be a jepbt.Task, got {type(task).__name__}."
        )
    check_real("shrink_and_perturb", "shrink", shrink, 0, 1)
    check_real("shrink_and_perturb", "noise", noise, 0)

    def restart(key, state, hparams):
        new = task.init(key, hparams)
        if not hasattr(state, "params"):
            raise ValueError(
                "shrink_and_perturb: the task's state is a "
                f"{type(state).__name__} without `params`. Give Task.restart yourself."
            )
        params = jax.tree.map(
            lambda old, fresh: (shrink * old + noise * fresh).astype(old.dtype),
            state.params,
            new.params,
        )
        return dataclasses.replace(new, params=params)

    return dataclasses.replace(task, restart=restart)
