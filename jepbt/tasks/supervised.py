"""Makes tasks of examples with inputs and targets, learned by gradients."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import models
from jepbt.arguments import check_real
from jepbt.hyperparameters import HyperParameters, spaces
from jepbt.population import PyTree, take
from jepbt.tasks.distillation import Distillation, make_teacher, mix
from jepbt.tasks.parts import check_parts
from jepbt.tasks.task import Blend, Splits, Task

_AUGMENT = 0x61756720  # makes a key for augmentation of the step's, the model's own


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Learner:
    """The state of a network that learns by gradients."""

    params: PyTree  # the weights
    opt_state: PyTree  # the optimizer's state
    variables: PyTree  # all else that the model carries, such as batch statistics


class Outputs(NamedTuple):
    """The shape that a network's outputs must have."""

    size: int  # C, the number of outputs for each example
    words: str  # such as "logits [B, 3] for the data's 3 classes"


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
    """Makes a task of the user's parts, after checking each of them by a trace.

    `inputs` names the array of a batch that the network sees; `labels` makes the
    targets of the loss. `average_of` makes of outputs what an ensemble averages and
    strategies compare as a member's behaviour; `score` accepts that, too.
    """
    spaces(hparams)
    if distillation is not None and not isinstance(distillation, Distillation):
        raise TypeError(
            "distillation must be made by jepbt.distillation(...), got "
            f"{getattr(distillation, '__name__', type(distillation).__name__)}."
        )
    has_teacher = distillation is not None and distillation.weight > 0
    network, rows = models.as_model(model), data.train[inputs]
    example = jax.ShapeDtypeStruct((1, *rows.shape[1:]), jnp.float32)
    check_parts(hparams, network, loss, optimizer, augment, example, outputs)
    steps = _Steps(
        network,
        example,
        _normalizer(rows),
        inputs,
        labels,
        loss,
        optimizer,
        augment,
        distillation if has_teacher else None,
    )

    def evaluate(key, state, hparams, batch, shared):
        return score(steps.predict(key, state, hparams, batch), batch)

    def behaviour(key, state, hparams, batch, shared=None):
        return average_of(steps.predict(key, state, hparams, batch))

    return Task(
        hparams,
        steps.init,
        steps.train_step,
        evaluate,
        data,
        batch_size,
        behaviour=behaviour,
        prepare=make_teacher(distillation, steps.predict) if has_teacher else None,
        blend=Blend(behaviour, score, _average_states, steps.adapt),
    )


class _Steps(NamedTuple):
    """The user's parts, and what a member does with them."""

    network: models.Model
    example: jax.ShapeDtypeStruct
    normalize: Callable[[jax.Array], jax.Array]
    inputs: str
    labels: Callable[[PyTree], jax.Array]
    loss: Callable[[HyperParameters], Callable[..., jax.Array]]
    optimizer: Callable[[HyperParameters], optax.GradientTransformation]
    augment: Callable[[HyperParameters], Callable[..., Any]] | None
    distillation: Distillation | None

    def init(self, key, hparams):
        zeros = jnp.zeros(self.example.shape, self.example.dtype)
        params, variables = self.network.init(key, zeros, hparams)
        return Learner(params, self.optimizer(hparams).init(params), variables)

    def train_step(self, key, state, hparams, batch, shared):
        batch, lesson = batch if self.distillation else (batch, None)
        targets = self.labels(batch)
        seen = self.normalize(batch[self.inputs])
        if self.augment is not None:
            augment_key = jax.random.fold_in(key, _AUGMENT)
            seen, targets = self.augment(hparams)(augment_key, seen, targets)

        def objective(params):
            outputs, variables = self.network.apply(
                key, params, state.variables, hparams, seen, train=True
            )
            value = jnp.mean(self.loss(hparams)(outputs, targets))
            if self.distillation:
                value = mix(self.distillation, value, outputs, lesson)
            return value, variables

        differentiate = jax.value_and_grad(objective, has_aux=True)
        (value, variables), gradients = differentiate(state.params)
        updates, opt_state = self.optimizer(hparams).update(
            gradients, state.opt_state, state.params
        )
        params = optax.apply_updates(state.params, updates)
        return Learner(params, opt_state, variables), {"loss": value}

    def predict(self, key, state, hparams, batch):
        return self._apply(key, state, hparams, batch, train=False)[0]

    def adapt(self, key, state, hparams, batch):
        _, variables = self._apply(key, state, hparams, batch, train=True)
        return dataclasses.replace(state, variables=variables)

    def _apply(self, key, state, hparams, batch, *, train):
        seen = self.normalize(batch[self.inputs])
        return self.network.apply(
            key, state.params, state.variables, hparams, seen, train=train
        )


def _average_states(states: Learner) -> Learner:
    """Averages the weights of members; takes the first member's optimizer state."""

    def mean(leaf):
        return leaf.mean(0) if jnp.issubdtype(leaf.dtype, jnp.inexact) else leaf[0]

    params, variables = jax.tree.map(mean, (states.params, states.variables))
    return Learner(params, take(states.opt_state, 0), variables)


def _normalizer(images: np.ndarray) -> Callable[[jax.Array], jax.Array]:
    """Makes a function that standardises uint8 pixels by channel, and leaves floats."""
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
    """Lets members that are restarted keep a part of their weights.

    A restarted member's weights are `shrink` times the old plus `noise` times newly
    drawn ones; optimizer state and all else start new. Both numbers are our choice.

    Args:
        task: the task, whose state must have `params`, such as a `Learner`.
        shrink: the factor of the old weights, in [0, 1].
        noise: the factor of the new weights, at least 0.

    Returns:
        The task with a `restart` of this kind.

    Raises:
        ValueError: if a number is outside its range.

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

        def soften(old, fresh):
            return (shrink * old + noise * fresh).astype(old.dtype)

        params = jax.tree.map(soften, state.params, new.params)
        return dataclasses.replace(new, params=params)

    return dataclasses.replace(task, restart=restart)
