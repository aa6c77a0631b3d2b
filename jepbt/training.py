"""One generation, and a whole run, as pure functions of arrays.

    evolve:   parents, hparams <- strategy(hparams, fitness);  state <- state[parents]
    train:    each member takes S steps with its own hyperparameters
    evaluate: fitness <- mean validation score;  best <- the best member ever seen

A run is `init`, then `train, evaluate`, then `evolve, train, evaluate` again and again.
"""

from __future__ import annotations

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from jepbt.batches import batch_indices
from jepbt.config import Config, check
from jepbt.execution import check_chunk, map_members, over_members, replicated
from jepbt.hyperparameters import HyperParameters, decode
from jepbt.inheritance import inherit
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
    Population,
    PyTree,
    Splits,
    Task,
    derive_key,
)
from jepbt.strategies import Behaviour, Evaluation, Plan, Strategy, take, where

EVALUATION_BATCH = 250
"""Examples scored at a time: large enough for one matmul, small enough for a cache."""


class Inputs(NamedTuple):
    """What every program reads and none changes, an argument so that it is no constant.

    Attributes:
        key: the run's key.
        train: training rows, leaves `[N, ...]`, or `None`.
        validation: validation rows, or `None`.
        shared: the task's.
    """

    key: jax.Array
    train: PyTree
    validation: PyTree
    shared: PyTree


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("member", "standard_error", "generation", "slot"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class Best:
    """The fittest member of all generations so far (ties: the earliest).

    Attributes:
        member: one `Member`, without the axis `P`.
        standard_error: `f32[]` of its fitness.
        generation: `i32[]` when it was seen.
        slot: `i32[]` where.
    """

    member: Member
    standard_error: jax.Array
    generation: jax.Array
    slot: jax.Array


@functools.partial(
    jax.tree_util.register_dataclass,
    data_fields=("population", "evaluation", "best", "strategy"),
    meta_fields=(),
)
@dataclasses.dataclass(frozen=True)
class RunState:
    """Everything that one generation hands to the next.

    Attributes:
        population: leaves `[P, ...]`.
        evaluation: of that population.
        best: so far.
        strategy: whatever the strategy remembers.
    """

    population: Population
    evaluation: Evaluation
    best: Best
    strategy: PyTree


class Record(NamedTuple):
    """What one generation reports; leaves `[P]`, in a history `[G, P]`.

    Attributes:
        fitness: `f32[P]` after training, `nan` if failed.
        standard_error: `f32[P]` of the fitness.
        parents: `i32[P]` whose state each slot trained on from.
        hparams: leaves `[P, ...]` that it trained with.
        metrics: `f32[P]` by name, means over the generation's steps.
        info: what the strategy reports.
    """

    fitness: jax.Array
    standard_error: jax.Array
    parents: jax.Array
    hparams: HyperParameters
    metrics: dict[str, jax.Array]
    info: dict[str, jax.Array]


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


def make_run(
    task: Task, strategy: Strategy, config: Config
) -> Callable[[jax.Array, Splits | None], tuple[Population, Best, Record]]:
    """Makes a whole run one pure function: jit it, or vmap it over keys.

    `train_population` computes the same generations, and adds devices, files and
    progress.

    Args:
        task: of one member.
        strategy: between members, such as `strategies.epbt()`.
        config: of the run; limits, files and `"auto"` (here: 1) do not apply.

    Returns:
        `run(key, data) -> (population, best, history)`, with `data` like the task's and
        a history of leaves `[G, P]`.

    Raises:
        TypeError: if the task or the strategy is none.
        ValueError: if a field of the config is not allowed.

    Example:
        Three seeds of two members that climb `-x²`, as one program:

        >>> from dataclasses import dataclass
        >>> import jax, jax.numpy as jnp
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     rate: float = jepbt.hparam(0.01, min=1e-3, max=0.5, log=True)
        >>> task = jepbt.Task(
        ...     hparams=Hyper,
        ...     init=lambda key, h: jnp.float32(1.0),
        ...     train_step=lambda key, x, h, batch, shared: (
        ...         x - h.rate * 2 * x,
        ...         {"loss": x**2},
        ...     ),
        ...     evaluate=lambda key, x, h, batch, shared: -(x**2)[None],
        ... )
        >>> config = jepbt.Config(
        ...     population_size=2, num_generations=5, steps_per_generation=4
        ... )
        >>> run = jepbt.make_run(task, jepbt.strategies.pbt(), config)
        >>> keys = jax.random.split(jax.random.key(0), 3)
        >>> _, best, history = jax.jit(jax.vmap(run, (0, None)))(keys, None)
        >>> history.fitness.shape, bool((best.member.fitness > -1).all())
        ((3, 5, 2), True)
    """
    check(config)
    for name, value, kind in (("task", task, Task), ("strategy", strategy, Strategy)):
        if not isinstance(value, kind):
            raise TypeError(
                f"make_run: {name} must be a {kind.__name__}, got {value!r}. Make one "
                "with jepbt.classification, or with jepbt.strategies.epbt()."
            )
    check_chunk(config.chunk_size, config.population_size)
    chunk_size = 1 if config.chunk_size == "auto" else config.chunk_size
    phases = make_phases(task, strategy, config, chunk_size=chunk_size)

    def run(key, data):
        if data is not None and not isinstance(data, Splits):
            raise TypeError(
                "run(key, data): data must be a jepbt.Splits such as task.data, or "
                f"None, got {type(data).__name__}."
            )
        # The task's own arrays may be NumPy's, whose rows a traced index cannot pick.
        data, shared = jax.tree.map(jnp.asarray, (data, task.shared))
        inputs = make_inputs(key, data, shared)

        def stay(generation, state):
            _, plan = jax.eval_shape(phases.evolve, inputs, generation, state)
            plan = jax.tree.map(lambda leaf: jnp.zeros(leaf.shape, leaf.dtype), plan)
            return state, plan._replace(parents=jnp.arange(config.population_size))

        def generation_step(state, generation):
            state, plan = jax.lax.cond(
                generation > 0,
                functools.partial(phases.evolve, inputs),
                stay,
                generation,
                state,
            )
            state, metrics = phases.train(inputs, generation, state)
            state = phases.evaluate(inputs, generation, metrics, state)
            return state, make_record(state, metrics, plan.parents, plan.info)

        state, history = jax.lax.scan(
            generation_step, phases.init(inputs), jnp.arange(config.num_generations)
        )
        return state.population, state.best, history

    return run


def make_inputs(key: jax.Array, data: Splits | None, shared: PyTree) -> Inputs:
    """Collects what every program of a run reads.

    Args:
        key: the run's.
        data: the examples; the test split stays behind.
        shared: the task's.

    Returns:
        The inputs.
    """
    if data is None:
        return Inputs(key, None, None, shared)
    return Inputs(key, data.train, data.validation, shared)


def make_record(
    state: RunState,
    metrics: dict[str, jax.Array],
    parents: jax.Array,
    info: dict[str, jax.Array],
) -> Record:
    """Collects what one generation reports, after its evaluation."""
    return Record(
        fitness=state.evaluation.fitness,
        standard_error=state.evaluation.standard_error,
        parents=parents,
        hparams=state.population.hparams,
        metrics=metrics,
        info=info,
    )


def score_examples(
    task: Task,
    key: jax.Array,
    state: PyTree,
    values: HyperParameters,
    rows: PyTree,
    shared: PyTree,
) -> jax.Array:
    """Scores one member on all examples of a split.

    Args:
        task: whose `evaluate` gives one score for each example.
        key: the same for all members.
        state: one member's.
        values: its hyperparameters, decoded.
        rows: leaves `[N, ...]`, or `None`.
        shared: the task's.

    Returns:
        `f32[N]` the scores.
    """
    if rows is None:
        scores = jnp.ravel(task.evaluate(key, state, values, None, shared))
    else:
        num_rows = _num_rows(rows)
        num_batches = math.ceil(num_rows / EVALUATION_BATCH)
        size = math.ceil(num_rows / num_batches)
        # The last batch is filled up with the first rows, whose second scores are cut.
        batches = (jnp.arange(num_batches * size) % num_rows).reshape(-1, size)
        scores = jax.lax.map(
            lambda batch: task.evaluate(key, state, values, take(rows, batch), shared),
            batches,
        ).ravel()[:num_rows]
    return scores.astype(jnp.float32)


def score(
    task: Task,
    key: jax.Array,
    state: PyTree,
    values: HyperParameters,
    rows: PyTree,
    shared: PyTree,
) -> tuple[jax.Array, jax.Array]:
    """Computes a member's mean score `f32[]` and its standard error on a split."""
    return summarize(score_examples(task, key, state, values, rows, shared))


def summarize(scores: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Computes the mean of scores `f32[N]`, and its standard error."""
    return scores.mean(), scores.std() / math.sqrt(scores.size)


def has_finite_params(state: PyTree) -> jax.Array:
    """Tells whether a member's weights are finite: `bool[]`.

    A weight that has become nan or inf may be one that no example has read yet. Of a
    state without `params` nothing is known: it is judged by its loss and its scores.

    Args:
        state: one member's.

    Returns:
        Whether every number in `state.params` is finite, if there is such a thing.

    Example:
        >>> from types import SimpleNamespace
        >>> import jax.numpy as jnp
        >>> bool(has_finite_params(SimpleNamespace(params=[jnp.array([1.0, jnp.inf])])))
        False
    """
    leaves = jax.tree.leaves(getattr(state, "params", ()))
    is_finite = [
        jnp.isfinite(leaf).all()
        for leaf in leaves
        if jnp.issubdtype(leaf.dtype, jnp.inexact)
    ]
    return jnp.all(jnp.array(is_finite, bool))


def behave(
    wanted: Behaviour,
    task: Task,
    key: jax.Array,
    state: PyTree,
    values: HyperParameters,
    inputs: Inputs,
    scores: jax.Array,
) -> jax.Array:
    """Measures what one member does, as its strategy asks for.

    Args:
        wanted: the strategy's `behaviour`.
        task: whose `behaviour` is called, if the strategy wants that.
        key: the same for all members.
        state: one member's.
        values: its hyperparameters, decoded.
        inputs: with the validation rows.
        scores: `f32[N]` on them.

    Returns:
        `f32[K]`.
    """
    if wanted.metric == "scores":
        return scores[: wanted.num_examples]
    rows = jax.tree.map(lambda leaf: leaf[: wanted.num_examples], inputs.validation)
    behaviour = task.behaviour(key, state, values, rows, inputs.shared)
    return jnp.ravel(behaviour).astype(jnp.float32)


def keep_best(
    best: Best, population: Population, evaluation: Evaluation, generation: jax.Array
) -> Best:
    """Replaces the best member so far if a live one of this generation beats it.

    Args:
        best: so far.
        population: just evaluated.
        evaluation: of that population.
        generation: `i32[]`.

    Returns:
        The better of both; the earlier one if they are equal.
    """
    score = jnp.where(jnp.isnan(evaluation.fitness), -jnp.inf, evaluation.fitness)
    slot = jnp.argmax(score)
    # Indexed by an array, so that over devices only one member moves: XLA answers a
    # scalar index with a copy of the whole population on each.
    member = take(take(population, slot[None]), 0)
    candidate = Best(
        member,
        evaluation.standard_error[slot],
        jnp.asarray(generation, jnp.int32),
        slot.astype(jnp.int32),
    )
    is_better = score[slot] > best.member.fitness
    return jax.tree.map(
        lambda new, old: jnp.where(is_better, new, old), candidate, best
    )


def _num_rows(rows: PyTree) -> int:
    return jax.tree.leaves(rows)[0].shape[0]
