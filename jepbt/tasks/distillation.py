"""Distils knowledge: members also learn from what the best of them predict."""

from __future__ import annotations

import numbers
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepbt.arguments import check_real
from jepbt.hyperparameters import decode
from jepbt.operators import best_first
from jepbt.population import Population, PyTree, take


class Distillation(NamedTuple):
    """The settings that `distillation` checks and returns."""

    weight: float
    temperature: float
    teacher: str
    num_elites: int | None


class Lesson(NamedTuple):
    """A teacher's predictions for the batches of a generation.

    Attributes:
        targets: `f32[S, B, C]` softened probabilities.
        weight: `f32[S]` the weight of the distillation, 0 in the first generation.
    """

    targets: jax.Array
    weight: jax.Array


def distillation(
    *,
    weight: float = 0.3,
    temperature: float = 2.0,
    teacher: str = "best",
    num_elites: int | None = None,
) -> Distillation:
    """Makes the settings of `classification(distillation=...)`.

    A member's objective becomes `(1 - weight) * own loss + weight * T² *
    cross-entropy`, where the cross-entropy compares its outputs with the teacher's,
    both softened by the temperature `T`. The teacher stays the same for a generation:
    it is the best member of the last one, or the mean of the softened outputs of its
    elites. In the first generation there is no teacher, because no member has been
    evaluated. The teacher's outputs are computed once for each batch, for all members,
    without augmentation: do not combine distillation with an augmentation that mixes
    examples. A mean of elites costs a forward pass for each of them.

    The paper says that EPBT distils, against overfitting, but we found no published
    settings: weight, temperature, the factor `T²` and the teacher are our choice.

    Args:
        weight: the weight of the teacher, in [0, 1]; 0 leaves the program unchanged.
        temperature: the temperature, above 0.
        teacher: "best" or "elites".
        num_elites: the number of elites that teach; `None` for half of the population.

    Returns:
        A `Distillation`.

    Raises:
        ValueError: names the setting, its value and what is allowed.

    Example:
        >>> distillation(weight=0.5).teacher
        'best'

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225; Hinton et al.,
        "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531
    """
    check_real("distillation", "weight", weight, 0, 1)
    check_real("distillation", "temperature", temperature, 0, above=True)
    if teacher not in ("best", "elites"):
        raise ValueError(
            f"distillation: teacher={teacher!r} must be 'best' or 'elites'."
        )
    if num_elites is not None and (
        teacher == "best"
        or isinstance(num_elites, bool)
        or not isinstance(num_elites, numbers.Integral)
        or num_elites < 1
    ):
        raise ValueError(
            f"distillation: num_elites={num_elites!r} must be a whole number from 1 "
            "up, with teacher='elites'."
        )
    return Distillation(weight, temperature, teacher, num_elites)


def make_teacher(
    settings: Distillation, predict: Callable[..., jax.Array]
) -> Callable[..., Lesson]:
    """Makes a task's `prepare`, which computes the teacher's lesson.

    Args:
        settings: the settings of the distillation.
        predict: `(key, state, hparams, batch) -> logits f32[B, C]`, without training.

    Returns:
        A function `prepare(key, population, batches, shared) -> Lesson`.
    """

    def prepare(key, population, batches, shared):
        fitness = population.fitness
        order = best_first(fitness)[: _count(settings, fitness.size)]
        members = take(population, order)
        is_teacher = ~jnp.isnan(members.fitness)
        targets = jax.lax.map(
            lambda batch: _mean_prediction(
                key, settings, predict, members, is_teacher, batch
            ),
            batches,
        )
        weight = jnp.where(is_teacher.any(), jnp.float32(settings.weight), 0.0)
        return Lesson(targets, jnp.broadcast_to(weight, targets.shape[:1]))

    return prepare


def mix(
    settings: Distillation, own_loss: jax.Array, logits: jax.Array, lesson: Lesson
) -> jax.Array:
    """Mixes a member's own loss with its distance from the teacher.

    Args:
        settings: the settings of the distillation.
        own_loss: `f32[]` the member's own loss.
        logits: `f32[B, C]` the member's outputs.
        lesson: the lesson of this step, with targets `f32[B, C]` and weight `f32[]`.

    Returns:
        `f32[]` the member's objective.

    Example:
        >>> import jax.numpy as jnp
        >>> logits, lesson = jnp.zeros((1, 2)), Lesson(jnp.full((1, 2), 0.5), 1.0)
        >>> settings = distillation(temperature=1.0)
        >>> round(float(mix(settings, jnp.float32(9.0), logits, lesson)), 3)
        0.693
    """
    temperature = settings.temperature
    log_probs = jax.nn.log_softmax(logits / temperature)
    distance = -jnp.mean(jnp.sum(lesson.targets * log_probs, -1)) * temperature**2
    return (1 - lesson.weight) * own_loss + lesson.weight * distance


def _count(settings: Distillation, num_members: int) -> int:
    if settings.teacher == "best":
        return 1
    if settings.num_elites is None:
        return max(1, num_members // 2)
    if settings.num_elites > num_members:
        raise ValueError(
            f"distillation: num_elites={settings.num_elites} exceeds the population of "
            f"{num_members}. Choose a number from 1 to {num_members}."
        )
    return settings.num_elites


def _mean_prediction(
    key: jax.Array,
    settings: Distillation,
    predict: Callable[..., jax.Array],
    members: Population,
    is_teacher: jax.Array,
    batch: PyTree,
) -> jax.Array:
    """Averages the predictions of the elites that did not fail: `f32[B, C]`."""

    def add_one(total, member_and_mask):
        member, counts = member_and_mask
        logits = predict(key, member.state, decode(member.hparams), batch)
        soft = jax.nn.softmax(logits / settings.temperature)
        return total + jnp.where(counts, soft, 0.0), None

    shape = jax.eval_shape(lambda: predict(key, *_first(members), batch))
    zero = jnp.zeros(shape.shape, jnp.float32)
    total, _ = jax.lax.scan(add_one, zero, (members, is_teacher))
    return total / jnp.maximum(is_teacher.sum(), 1)


def _first(members: Population) -> tuple[PyTree, PyTree]:
    member = take(members, 0)
    return member.state, decode(member.hparams)
