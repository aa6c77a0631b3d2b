"""Runs one generation: members inherit, train and are evaluated.

Everything here is a pure function of arrays. Whatever happens to one member is written
for one member, and `map_members` batches it.

The four phases take what the run is made of (`Spec`), what it reads (`Inputs`), the
generation's number `i32[]`, and the state after the phase before.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from jepbt.config import Config
from jepbt.engine.devices import over_members, replicated
from jepbt.engine.evaluation import behaviour_shape, keep_best, score_member
from jepbt.engine.inheritance import inherit
from jepbt.engine.state import Best, Inputs, Record, RunState, Spec
from jepbt.engine.steps import member_steps, share_steps
from jepbt.hyperparameters import decode, default_member
from jepbt.population import (
    FIRST_HPARAMS,
    FIRST_STATES,
    FRESH,
    STRATEGY,
    Member,
    Population,
    PyTree,
    derive_key,
    like,
    take,
    where,
)
from jepbt.strategies import Evaluation, Plan, Strategy
from jepbt.tasks import Task


class Phases(NamedTuple):
    """The parts of a run: pure functions, or programs compiled from them.

    Attributes:
        init: `(inputs) -> RunState`, before the first generation.
        evolve: `(inputs, number, state) -> (state, Plan)`.
        train: `(inputs, number, state) -> (state, metrics)`.
        evaluate: `(inputs, number, metrics, state) -> state`.
        pick: `(population, slots) -> members`, two of a population by their slots.
    """

    init: Callable[[Inputs], RunState]
    evolve: Callable[..., tuple[RunState, Plan]]
    train: Callable[..., tuple[RunState, dict[str, jax.Array]]]
    evaluate: Callable[..., RunState]
    pick: Callable[..., Population] = take


def generation(
    phases: Phases,
    inputs: Inputs,
    number: jax.Array,
    state: RunState,
    *,
    evolves: bool = True,
    lap: Callable[[str, Any], None] = lambda name, tree: None,
) -> tuple[RunState, Record]:
    """Runs one generation, and reports it.

        parents, hparams <- strategy(hparams, fitness)
        weights          <- weights[parents]
        weights          <- S training steps, each member with its own hparams
        fitness          <- each member's mean validation score
        best             <- the fittest member that there ever was

    Args:
        phases: the parts, pure or compiled.
        inputs: the run's inputs.
        number: `i32[]` the generation, from 0.
        state: the state after the generation before.
        evolves: False leaves out the first two lines, as in the first generation,
            which has nothing to select by.
        lap: a function that is called after each phase with its name and what it made.

    Returns:
        The state after the evaluation, and what the generation reports.
    """
    # Of NumPy: JAX would compile a program for it.
    parents = np.arange(state.population.fitness.size, dtype=np.int32)
    info = {}
    if evolves:
        state, plan = phases.evolve(inputs, number, state)
        parents, info = plan.parents, plan.info
    lap("evolve", state)
    state, metrics = phases.train(inputs, number, state)
    lap("train", state)
    state = phases.evaluate(inputs, number, metrics, state)
    lap("evaluate", state)
    record = Record(
        fitness=state.evaluation.fitness,
        standard_error=state.evaluation.standard_error,
        parents=parents,
        hparams=state.population.hparams,
        metrics=metrics,
        info=info,
    )
    return state, record


def make_phases(
    task: Task,
    strategy: Strategy,
    config: Config,
    *,
    mesh: Mesh | None = None,
    chunk_size: int = 1,
) -> Phases:
    """Makes the parts of a run as pure functions: see `Spec` for the arguments."""
    spec = Spec(task, strategy, config, mesh, chunk_size)
    return Phases(
        *(functools.partial(part, spec) for part in (start, evolve, train, evaluate))
    )


def start(spec: Spec, inputs: Inputs) -> RunState:
    """Draws the first population: hyperparameters by the strategy, states by the task.

    No member has a fitness yet.
    """
    size = spec.config.population_size
    key = derive_key(inputs.key, FIRST_HPARAMS)
    strategy_state, hparams = spec.strategy.init(
        key, spec.task.hparams, size, spec.config.num_generations
    )
    if spec.task.repair is not None:
        hparams = spec.task.repair(hparams)
    hparams = like(default_member(spec.task.hparams), hparams)

    def init(member, inputs):
        slot, hparams = member
        key = derive_key(inputs.key, FIRST_STATES, slot)
        return spec.task.init(key, decode(hparams))

    state = spec.over_members(init)((spec.slots, hparams), inputs)
    unknown = jnp.full(size, jnp.nan, jnp.float32)
    population = Member(state, hparams, unknown)
    nobody = Best(
        dataclasses.replace(take(population, 0), fitness=jnp.float32(-jnp.inf)),
        jnp.float32(jnp.nan),
        jnp.int32(-1),
        jnp.int32(-1),
    )
    behaviour = behaviour_shape(spec, *take((state, hparams), 0))
    if behaviour is not None:
        behaviour = jnp.full((size, *behaviour.shape), jnp.nan, jnp.float32)
    evaluation = Evaluation(unknown, unknown, behaviour)
    return RunState(population, evaluation, nobody, strategy_state)


def evolve(
    spec: Spec, inputs: Inputs, number: jax.Array, state: RunState
) -> tuple[RunState, Plan]:
    """Lets the strategy choose parents and hyperparameters, and copies the weights.

    A member that stands where its parent stood keeps its fitness; the others' is `nan`.
    """
    hparams = spec.place(state.population.hparams, replicated)
    evaluation = spec.place(state.evaluation, replicated)
    key = derive_key(inputs.key, STRATEGY, number)
    strategy_state, plan = spec.strategy.step(
        key, state.strategy, number, hparams, evaluation
    )
    if spec.task.repair is not None:
        plan = plan._replace(hparams=spec.task.repair(plan.hparams))
    # A strategy may compute in 64 bits where they are switched on.
    strategy_state = like(state.strategy, strategy_state)
    plan = plan._replace(
        parents=plan.parents.astype(jnp.int32),
        hparams=like(state.population.hparams, plan.hparams),
    )
    members = inherit(state.population.state, plan.parents, spec.mesh)
    stays = plan.parents == spec.slots
    if plan.fresh is not None:
        members = _restart(spec, inputs, number, members, plan)
        stays &= ~plan.fresh
        plan = plan._replace(info={**plan.info, "fresh": plan.fresh})
    members = spec.place(members, over_members)
    fitness = jnp.where(stays, evaluation.fitness, jnp.nan)
    population = Member(members, plan.hparams, fitness)
    return RunState(population, state.evaluation, state.best, strategy_state), plan


def _restart(spec, inputs, number, members, plan) -> PyTree:
    """Gives the slots that a plan calls fresh a state to start from."""

    def restart(member, common):
        slot, state, hparams = member
        inputs, number = common
        key = derive_key(inputs.key, FRESH, number, slot)
        if spec.task.restart is None:
            return spec.task.init(key, decode(hparams))
        return spec.task.restart(key, state, decode(hparams))

    slots = (spec.slots, members, plan.hparams)
    started = spec.over_members(restart)(slots, (inputs, number))
    return where(plan.fresh, started, members)


def train(
    spec: Spec, inputs: Inputs, number: jax.Array, state: RunState
) -> tuple[RunState, dict[str, jax.Array]]:
    """Lets every member take the generation's steps with its own hyperparameters.

    Returns:
        The state with the trained population, and `f32[P]` by name, each member's
        metrics as means over the steps.
    """
    population = state.population
    indices, prepared = share_steps(spec, inputs, number, population)

    def train_member(member, common):
        state, (slot, hparams) = member
        step, counted = member_steps(spec, slot, hparams, *common)
        state, metrics = jax.lax.scan(step, state, counted)
        return state, jax.tree.map(jnp.mean, metrics)

    trained, metrics = spec.over_members(train_member, in_place=True)(
        (population.state, (spec.slots, population.hparams)),
        (inputs, number, indices, prepared),
    )
    population = dataclasses.replace(population, state=trained)
    return dataclasses.replace(state, population=population), metrics


def evaluate(
    spec: Spec,
    inputs: Inputs,
    number: jax.Array,
    metrics: dict[str, jax.Array],
    state: RunState,
) -> RunState:
    """Scores every member on the validation split, and keeps the best ever.

    `metrics` are those of training, `f32[P]` by name. A member whose loss, score or
    weights are not finite has the fitness `nan`.
    """

    def score(member, common):
        state, hparams = member
        return score_member(spec, *common, state, hparams)

    population = state.population
    fitness, standard_error, behaviour = spec.over_members(score)(
        (population.state, population.hparams), (inputs, number)
    )
    is_live = jnp.isfinite(fitness) & jnp.isfinite(metrics["loss"])
    fitness = jnp.where(is_live, fitness, jnp.nan)
    if behaviour is not None:
        behaviour = jnp.where(is_live[:, None], behaviour, jnp.nan)
    evaluation = Evaluation(fitness, standard_error, behaviour)
    population = dataclasses.replace(population, fitness=fitness)
    best = keep_best(state.best, population, evaluation, number)
    return RunState(population, evaluation, best, state.strategy)
