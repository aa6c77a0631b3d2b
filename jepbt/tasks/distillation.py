"""Distils knowledge: members also learn from what the best of them predict."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp

from jepbt.arguments import check_choice, check_real, check_whole
from jepbt.hyperparameters import decode
from jepbt.operators import best_first
from jepbt.population import take


class Distillation(NamedTuple):
    """The settings that `distillation` checks and returns."""

    weight: float
    temperature: float
    num_teachers: int | None  # None for half of the population


class Lesson(NamedTuple):
    """A teacher's predictions for the batches of a generation."""

    targets: jax.Array  # f32[S, B, C], softened probabilities
    weight: jax.Array  # f32[S], the weight of the distillation, 0 without a teacher


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

    Raises:
        ValueError: names the setting, its value and what is allowed.

    Example:
        >>> distillation(weight=0.5).temperature
        2.0

    Reference:
        Liang et al., 2021, https://arxiv.org/abs/2002.04225; Hinton et al.,
        "Distilling the Knowledge in a Neural Network", https://arxiv.org/abs/1503.02531
    """
    check_real("distillation", "weight", weight, 0, 1)
    check_real("distillation", "temperature", temperature, 0, above=True)
    check_choice("distillation", "teacher", teacher, ("best", "elites"))
    if num_elites is not None:
        check_whole("distillation", "num_elites", num_elites, 1)
        if teacher == "best":
            raise ValueError(
                f"distillation: num_elites={num_elites} must be None with "
                "teacher='best', or come with teacher='elites'."
            )
    return Distillation(weight, temperature, 1 if teacher == "best" else num_elites)


def make_teacher(
    settings: Distillation, predict: Callable[..., jax.Array]
) -> Callable[..., Lesson]:
    """Makes a task's `prepare`, which computes the teacher's lesson.

    `predict` is `(key, state, hparams, batch) -> logits f32[B, C]`, without training.
    """

    def prepare(key, population, batches, shared):
        fitness = population.fitness
        elites = best_first(fitness)[: _count(settings, fitness.size)]
        members = take(population, elites)
        num_teachers = jnp.sum(~jnp.isnan(members.fitness))

        def teach(batch):
            """Averages the predictions of the elites that did not fail: `f32[B, C]`."""

            def soften(member):
                logits = predict(key, member.state, decode(member.hparams), batch)
                soft = jax.nn.softmax(logits / settings.temperature)
                return jnp.where(jnp.isnan(member.fitness), 0.0, soft)

            total = jax.lax.map(soften, members).sum(0)
            return total / jnp.maximum(num_teachers, 1)

        targets = jax.lax.map(teach, batches)
        weight = jnp.where(num_teachers > 0, jnp.float32(settings.weight), 0.0)
        return Lesson(targets, jnp.full(targets.shape[:1], weight))

    return prepare


def mix(
    settings: Distillation, own_loss: jax.Array, logits: jax.Array, lesson: Lesson
) -> jax.Array:
    """Mixes a member's own loss with its distance from one step's lesson."""
    temperature = settings.temperature
    log_probs = jax.nn.log_softmax(logits / temperature)
    distance = -jnp.mean(jnp.sum(lesson.targets * log_probs, -1)) * temperature**2
    return (1 - lesson.weight) * own_loss + lesson.weight * distance


def _count(settings: Distillation, num_members: int) -> int:
    count = settings.num_teachers
    if count is None:
        return max(1, num_members // 2)
    if count > num_members:
        raise ValueError(
            f"distillation: num_elites={count} exceeds the population of "
            f"{num_members}. Choose a number from 1 to {num_members}."
        )
    return count
