"""One generation as pure functions of arrays.

    evolve:   parents, hparams <- strategy(hparams, fitness);  state <- state[parents]
    train:    each member takes S steps with its own hyperparameters
    evaluate: fitness <- mean validation score;  best <- the best member ever seen

A run is `init`, then `train, evaluate`, then `evolve, train, evaluate` again and again.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jepbt.config import Config
from jepbt.engine.batches import batch_indices
from jepbt.engine.devices import map_members, over_members, replicated
from jepbt.engine.evaluation import (
    _num_rows,
    behave,
    has_finite_params,
    keep_best,
    score_examples,
    summarize,
)
from jepbt.engine.inheritance import inherit
from jepbt.engine.state import Best, Inputs, RunState
from jepbt.hyperparameters import decode
from jepbt.population import (
    BATCHES,
    EVALUATE,
    FIRST_HPARAMS,
    FIRST_STATES,
    FRESH,
    PREPARE,
    STRATEGY,
    TRAIN,
    Member,
    derive_key,
    take,
    where,
)
from jepbt.strategies import Evaluation, Plan, Strategy
from jepbt.tasks import Task


class Phases(NamedTuple):
    """The parts of a run, each pure and ready to be jitted.

    Attributes:
        init: `(inputs) -> RunState`.
        evolve: `(inputs, generation, state) -> (state, Plan)`.
        train: `(inputs, generation, state) -> (state, metrics)`.
        evaluate: `(inputs, generation, metrics, state) -> state`.
    """

    init: Callable[[Inputs], RunState]
    evolve: Callable[..., tuple[RunState, Plan]]
    train: Callable[..., tuple[RunState, dict[str, jax.Array]]]
    evaluate: Callable[..., RunState]


def make_phases(
    task: Task,
    strategy: Strategy,
    config: Config,
    *,
    mesh: Mesh | None = None,
    chunk_size: int = 1,
) -> Phases:
    """Writes a task, a strategy and a config out as the phases of a generation.

    Args:
        task: of one member.
        strategy: between members.
        config: checked.
        mesh: of the devices that share the population; `None` for no sharding.
        chunk_size: members of a device computed together.

    Returns:
        Pure functions.
    """
    num_members = config.population_size
    batch_size = config.batch_size or task.batch_size
    mapped = functools.partial(map_members, mesh=mesh, chunk_size=chunk_size)
    slots = jnp.arange(num_members)

    def constrain(tree, sharding):
        if mesh is None:
            return tree
        return jax.lax.with_sharding_constraint(tree, sharding(mesh))

    def draw_batches(key, generation, rows):
        return batch_indices(
            key,
            generation,
            num_examples=_num_rows(rows),
            batch_size=batch_size,
            num_steps=config.steps_per_generation,
        )

    def first_state(member, inputs):
        slot, hparams = member
        return task.init(derive_key(inputs.key, FIRST_STATES, slot), decode(hparams))

    def fresh_state(member, common):
        slot, state, hparams = member
        inputs, generation = common
        key = derive_key(inputs.key, FRESH, generation, slot)
        if task.restart is not None:
            return task.restart(key, state, decode(hparams))
        return task.init(key, decode(hparams))

    def train_member(member, common):
        slot, state, hparams = member
        inputs, generation, indices, prepared = common
        member_key = derive_key(inputs.key, TRAIN, generation, slot)
        values = decode(hparams)
        if inputs.train is not None and indices is None:
            own_key = derive_key(inputs.key, BATCHES, slot)
            indices = draw_batches(own_key, generation, inputs.train)

        def step(state, counted):
            number, rows, extra = counted
            key = jax.random.fold_in(member_key, number)
            batch = take(inputs.train, rows)
            if task.prepare is not None:
                batch = (batch, extra)
            return task.train_step(key, state, values, batch, inputs.shared)

        counted = (jnp.arange(config.steps_per_generation), indices, prepared)
        state, metrics = jax.lax.scan(step, state, counted)
        return state, jax.tree.map(jnp.mean, metrics)

    def score_member(member, common):
        state, hparams = member
        inputs, generation = common
        key = derive_key(inputs.key, EVALUATE, generation)
        values = decode(hparams)
        scores = score_examples(
            task, key, state, values, inputs.validation, inputs.shared
        )
        behaviour = None
        if strategy.behaviour is not None:
            behaviour = behave(
                strategy.behaviour, task, key, state, values, inputs, scores
            )
        fitness, standard_error = summarize(scores)
        fitness = jnp.where(has_finite_params(state), fitness, jnp.nan)
        return fitness, standard_error, behaviour

    def init(inputs):
        key = derive_key(inputs.key, FIRST_HPARAMS)
        strategy_state, hparams = strategy.init(
            key, task.hparams, num_members, config.num_generations
        )
        hparams = hparams if task.repair is None else task.repair(hparams)
        state = mapped(first_state)((slots, hparams), inputs)
        unknown = jnp.full(num_members, jnp.nan)
        population = Member(state, hparams, unknown)
        nobody = Best(
            dataclasses.replace(take(population, 0), fitness=jnp.float32(-jnp.inf)),
            jnp.float32(jnp.nan),
            jnp.int32(-1),
            jnp.int32(-1),
        )
        evaluation = Evaluation(unknown, unknown)
        if strategy.behaviour is not None:
            member, common = take((state, hparams), 0), (inputs, jnp.int32(0))
            _, _, shape = jax.eval_shape(score_member, member, common)
            nothing = jnp.full((num_members, *shape.shape), jnp.nan)
            evaluation = evaluation._replace(behaviour=nothing)
        return RunState(population, evaluation, nobody, strategy_state)

    def evolve(inputs, generation, state):
        hparams = constrain(state.population.hparams, replicated)
        evaluation = constrain(state.evaluation, replicated)
        strategy_state, plan = strategy.step(
            derive_key(inputs.key, STRATEGY, generation),
            state.strategy,
            generation,
            hparams,
            evaluation,
        )
        if task.repair is not None:
            plan = plan._replace(hparams=task.repair(plan.hparams))
        inherited = inherit(state.population.state, plan.parents, mesh)
        fitness = evaluation.fitness[plan.parents]
        if plan.fresh is not None:
            fitness = jnp.where(plan.fresh, jnp.nan, fitness)
            started = mapped(fresh_state)(
                (slots, inherited, plan.hparams), (inputs, generation)
            )
            inherited = where(plan.fresh, started, inherited)
            plan = plan._replace(info={**plan.info, "fresh": plan.fresh})
        inherited = constrain(inherited, over_members)
        population = Member(inherited, plan.hparams, fitness)
        state = dataclasses.replace(
            state, population=population, strategy=strategy_state
        )
        return state, plan

    def train(inputs, generation, state):
        indices = None
        if inputs.train is not None and config.batches == "shared":
            key = derive_key(inputs.key, BATCHES)
            indices = draw_batches(key, generation, inputs.train)
        population = state.population
        prepared = None
        if task.prepare is not None:
            # A slot that still has the fitness measured there holds what was measured.
            stays = population.fitness == state.evaluation.fitness
            known = jnp.where(stays, population.fitness, jnp.nan)
            prepared = task.prepare(
                derive_key(inputs.key, PREPARE, generation),
                dataclasses.replace(population, fitness=known),
                take(inputs.train, indices),
                inputs.shared,
            )
        trained, metrics = mapped(train_member)(
            (slots, population.state, population.hparams),
            (inputs, generation, indices, prepared),
        )
        population = dataclasses.replace(population, state=trained)
        return dataclasses.replace(state, population=population), metrics

    def evaluate(inputs, generation, metrics, state):
        population = state.population
        fitness, standard_error, behaviour = mapped(score_member)(
            (population.state, population.hparams), (inputs, generation)
        )
        is_live = jnp.isfinite(fitness) & jnp.isfinite(metrics["loss"])
        fitness = jnp.where(is_live, fitness, jnp.nan)
        if behaviour is not None:
            behaviour = jnp.where(is_live[:, None], behaviour, jnp.nan)
        evaluation = Evaluation(fitness, standard_error, behaviour)
        population = dataclasses.replace(population, fitness=fitness)
        best = keep_best(state.best, population, evaluation, generation)
        return RunState(population, evaluation, best, state.strategy)

    return Phases(init, evolve, train, evaluate)
