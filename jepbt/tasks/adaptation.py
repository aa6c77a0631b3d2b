"""Trains a loss's own parameters by the gradient of the validation loss."""

import dataclasses
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from jepbt.arguments import accepts, check_whole
from jepbt.losses import AdaptiveLoss
from jepbt.population import PyTree, are_finite, count_rows, take

_SCORED_AT_ONCE = 250
_MOVE = 0.01
_ADAM = optax.scale_by_adam(0.9, 0.99)


class Adaptation(NamedTuple):
    """The settings that `adapt` checks and returns."""

    loss: AdaptiveLoss
    rate: Callable[[Any], jax.Array]
    every: int
    batch_size: int


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Adapted:
    """What a member has learned of its loss.

    Attributes:
        parameters: the loss's parameters.
        adam: the state of Adam, which moves them.
        is_started: `bool[]` whether `AdaptiveLoss.start` is behind it.
    """

    parameters: PyTree
    adam: optax.ScaleByAdamState
    is_started: jax.Array

    @property
    def is_due(self) -> jax.Array:
        """Tells whether it has seen gradients and no start yet: `bool[]`."""
        return ~self.is_started & (self.adam.count > 0)


class Turn(NamedTuple):
    """What all members do about their losses in a step; leaves `[S, ...]`.

    Attributes:
        adapts: `bool[S]` whether the loss's parameters take a step, too.
        starts: `bool[S]` whether members that are due take `AdaptiveLoss.start`.
        rows: `i32[S, N]` the validation examples that the step reads.
    """

    adapts: jax.Array
    starts: jax.Array
    rows: jax.Array


def adapt(
    loss: AdaptiveLoss,
    *,
    rate: Callable[[Any], Any],
    every: int = 10,
    batch_size: int = 128,
) -> Adaptation:
    """Makes a loss for `classification(loss=...)` that learns from validation labels.

    The loss's parameters are trained inside a member's steps: before every tenth of
    them they move so that the step lowers the cross-entropy of validation examples
    more. They are inherited with the weights, and neither mutated nor crossed; only
    their rate evolves. This pays where validation labels can be trusted and training
    labels are wrong by a pattern. Fitness is then measured on labels that the loss has
    learned from: trust the test split.

    With weights `w`, parameters `φ` and validation loss `V`, the gradient of
    `⟨∂l(w; φ)/∂w, ∂V/∂w⟩` by `φ` is ascended by Adam (0.9, 0.99) at the rate given. It
    is the derivative of `-V` after one step of plain gradient descent. One that is not
    finite leaves the parameters as they were.

    Args:
        loss: the loss and its parameters, such as `losses.confusion()`.
        rate: `h -> f32[]`, the rate of the parameters: `lambda h: h.meta_rate`, with
            `meta_rate: float = hparam(0.03, min=0.003, max=0.5, log=True)`.
        every: the number of training steps from one gradient to the next. A generation
            begins with one.
        batch_size: the number of validation examples for a gradient. For training
            examples it takes those of the step.

    Raises:
        TypeError: if loss or rate are of another kind.
        ValueError: if a number is out of range.

    Example:
        >>> from jepbt import losses
        >>> adapt(losses.confusion(), rate=lambda h: h.meta_rate).every
        10

    Reference:
        Patrini et al., 2017, https://arxiv.org/abs/1609.03683, for the loss; the
        one-step gradient of a validation loss as in Ren et al., "Learning to Reweight
        Examples for Robust Deep Learning", 2018, https://arxiv.org/abs/1803.09050
    """
    if not isinstance(loss, AdaptiveLoss):
        raise TypeError(
            "adapt: loss must be a jepbt.losses.AdaptiveLoss, such as "
            f"jepbt.losses.confusion(), got {getattr(loss, '__name__', loss)!r}."
        )
    if not callable(rate) or not accepts(rate, None):
        raise TypeError(
            "adapt: rate must be a function of the hyperparameters, as in rate=lambda "
            f"h: h.meta_rate, got {rate!r}."
        )
    check_whole("adapt", "every", every, 1)
    check_whole("adapt", "batch_size", batch_size, 1)
    return Adaptation(loss, rate, every, batch_size)


def begin(settings: Adaptation, num_classes: int) -> Adapted:
    """Makes what a new member knows of its loss."""
    return _renew(settings.loss.init(num_classes), is_started=False)


def make_turns(
    settings: Adaptation, num_validation: int
) -> Callable[[jax.Array, Any, PyTree, PyTree], Turn]:
    """Makes a task's `prepare`, which decides what members do about their losses.

    All members do it in the same steps, so that the program need not compute it in the
    others.
    """

    def prepare(key, population, batches, shared):
        num_steps = count_rows(batches)
        steps = jnp.arange(num_steps)
        is_due = population.state.loss.is_due
        shape = num_steps, settings.batch_size
        return Turn(
            adapts=steps % settings.every == 0,
            starts=(steps == 0) & jnp.any(is_due),
            rows=jax.random.randint(key, shape, 0, num_validation),
        )

    return prepare


def start(
    settings: Adaptation,
    learned: Adapted,
    turn: Turn,
    predict: Callable[[PyTree], jax.Array],
    labels: Callable[[PyTree], jax.Array],
    rows: PyTree,
) -> Adapted:
    """Applies `AdaptiveLoss.start` once in a member's life, after its first generation.

    `turn` is one step's; `predict` and `labels` make the member's logits and the
    trusted labels, `f32[N, C]`, of `rows`, all validation examples.
    """
    if settings.loss.start is None:
        return learned

    def estimate():
        count = count_rows(rows)
        # The last batch is filled up with the first rows, whose second logits are cut.
        size = min(count, _SCORED_AT_ONCE)
        batches = (jnp.arange(-(-count // size) * size) % count).reshape(-1, size)
        logits = jax.lax.map(lambda batch: predict(take(rows, batch)), batches)
        logits = logits.reshape(-1, logits.shape[-1])[:count]
        new = settings.loss.start(learned.parameters, logits, labels(rows))
        starts = learned.is_due & are_finite(new)
        started = _renew(new, is_started=True)
        return jax.tree.map(lambda a, b: jnp.where(starts, a, b), started, learned)

    return jax.lax.cond(turn.starts, estimate, lambda: learned)


def improve(
    settings: Adaptation,
    learned: Adapted,
    rate: jax.Array,
    params: PyTree,
    training: tuple[Callable[[PyTree], jax.Array], jax.Array],
    validation: tuple[Callable[[PyTree], jax.Array], jax.Array],
) -> Adapted:
    """Moves a loss's parameters one step along their gradient: see `adapt`.

    `training` is a function `(weights) -> logits [B, C]` of training examples, and
    their labels; `validation` are those of validation examples.
    """
    gradient = direction(
        settings.loss, learned.parameters, params, training, validation
    )
    steps, adam = _ADAM.update(gradient, learned.adam)

    def move(value, step):
        limit = settings.loss.limit
        return jnp.clip(value + rate * step, -limit, limit)

    parameters = jax.tree.map(move, learned.parameters, steps)
    new = Adapted(parameters, adam, learned.is_started)
    is_finite = are_finite((gradient, parameters))
    return jax.tree.map(lambda a, b: jnp.where(is_finite, a, b), new, learned)


def direction(
    loss: AdaptiveLoss,
    parameters: PyTree,
    params: PyTree,
    training: tuple[Callable[[PyTree], jax.Array], jax.Array],
    validation: tuple[Callable[[PyTree], jax.Array], jax.Array],
) -> PyTree:
    """Computes the gradient of `⟨∂l/∂w, ∂V/∂w⟩` by the loss's parameters.

    `l` is the sum of the loss over training examples, `V` the mean cross-entropy of
    validation examples. How the logits change as the weights move along `∂V/∂w` is
    measured by moving them by a hundredth of their size, forth and back: layers with a
    backward pass of their own have no derivative of that kind.
    """
    predict, targets = validation

    def validate(params):
        return optax.softmax_cross_entropy(predict(params), targets).mean()

    towards = jax.grad(validate)(params)
    predict, targets = training
    step = _MOVE * optax.tree.norm(params) / optax.tree.norm(towards)

    def at(size):
        return predict(jax.tree.map(lambda w, v: w + size * v, params, towards))

    ahead, behind = at(step), at(-step)
    logits, moved = (ahead + behind) / 2, (ahead - behind) / (2 * step)

    def align(parameters):
        def total(logits):
            return loss.loss(parameters, logits, targets).sum()

        return jnp.vdot(jax.grad(total)(logits), moved)

    return jax.grad(align)(parameters)


def _renew(parameters: PyTree, *, is_started: bool) -> Adapted:
    return Adapted(parameters, _ADAM.init(parameters), jnp.bool_(is_started))
