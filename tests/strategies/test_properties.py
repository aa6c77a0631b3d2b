"""What every operator and every strategy promises, whatever it is given.

One table of each; a new one is a new row. Programs are compiled once for each strategy
and size, without optimisation, for a batch of runs, and hypothesis varies what goes in.
"""

import functools
import itertools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as draw
from hypothesis.extra.numpy import arrays
from numerics import jit as quickly

import jepbt
from jepbt import strategies
from jepbt.hyperparameters import sample_population, spaces
from jepbt.operators import (
    best_first,
    binary_tournament,
    duel,
    gaussian,
    is_elite,
    perturb,
    spread_out,
    truncation,
    uniform,
)
from jepbt.strategies import Evaluation, take

NUM_RUNS = 4
NUM_STEPS = 5
NUM_BEHAVIOURS = 3


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
    twin: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)
    dropout: float = jepbt.hparam(0.1, min=0.0, max=0.6)
    width: int = jepbt.hparam(3, min=1, max=100)
    activation: str = jepbt.hparam("b", choices=("a", "b", "c"))
    size: str = jepbt.hparam("s", choices=("s", "m", "l"), ordered=True)
    layers: tuple[float, ...] = jepbt.hparam((0.1, 0.02), min=1e-3, max=0.5, log=True)
    direction: jepbt.Loss = jepbt.taylor_hparam(noise=0.1, genome="effective")


EPBT = strategies.epbt()
STRATEGIES = {
    "epbt": EPBT,
    "epbt, novelty": strategies.epbt(
        novelty=strategies.pulsation(period=2, pool=1.5, num_examples=NUM_BEHAVIOURS)
    ),
    "pbt": strategies.pbt(),
    "pbt, duel": strategies.pbt(exploit=duel, copy_hparams=False),
    "pbt, t-test": strategies.pbt(exploit=strategies.welch_test(2), burn_in=1),
    "pbt, significant": strategies.pbt(exploit=strategies.significant(level=0.4)),
    "pb2": strategies.pb2(num_candidates=4, num_observations=15),
    "mf_pbt": strategies.mf_pbt(intervals=(1, 2)),
    "restarts": strategies.restarts(strategies.pbt(), patience=2),
    "frozen": strategies.frozen(strategies.pbt(), {"rate": (0, None)}),
    "random_search": strategies.random_search(),
    "scheduled": strategies.random_search(schedules={"rate": strategies.cosine_decay}),
    "successive_halving": strategies.successive_halving(),
}
# What these change in slots that stay is what they are for.
CHANGES_STAYING = {"scheduled"}
LEAVES_DEAD = {"random_search", "scheduled", "restarts"}
LOSES_BEST = {"restarts"}
TOO_SMALL = {
    ("epbt, novelty", 1): "pool of 2, more than the population of 1",
    ("mf_pbt", 1): "2 intervals need at least as many members",
}
every_strategy = pytest.mark.parametrize("name", STRATEGIES)
# Each is a program to compile: what only wraps another strategy is for the slow run.
WRAPPED = {"pbt, significant", "restarts", "frozen", "random_search", "scheduled"}
FEW_MEMBERS = [
    pytest.param(name, size, marks=[pytest.mark.slow] * (size == 1 or name in WRAPPED))
    for name, size in itertools.product(STRATEGIES, (1, 2))
]

SELECTIONS = {
    "binary_tournament": binary_tournament,
    "duel": duel,
    "truncation": truncation(0.4),
}
VARIATIONS = {
    "gaussian": gaussian(),
    "gaussian, wide": gaussian(sigma=1.0, reset=0.3),
    "perturb": perturb(),
    "uniform": lambda key, h: uniform()(key, h, jnp.ones(h.rate.size, bool)),
}

fitness_values = draw.sampled_from([float("nan"), -1.0, 0.0, 0.5, 0.5, 0.7, 1e30])
seeds = draw.integers(0, 2**31)
often = settings(max_examples=8, deadline=None, derandomize=True, database=None)


@functools.cache
def compiled(name, num_members):
    """A strategy from its start through `NUM_STEPS` steps: `NUM_RUNS` in a program."""
    strategy = STRATEGIES[name]

    def run(seed, fitness):
        key = jax.random.key(seed)
        first, hparams = strategy.init(key, Hyper, num_members, NUM_STEPS + 1)
        behaviour = jax.random.bernoulli(key, 0.5, (num_members, NUM_BEHAVIOURS))

        def step(carried, given):
            state, hparams = carried
            generation, fitness = given
            evaluation = Evaluation(
                fitness,
                jnp.full_like(fitness, 0.01),
                behaviour.astype(jnp.float32) if strategy.behaviour else None,
            )
            step_key = jax.random.fold_in(key, generation)
            state, plan = strategy.step(
                step_key, state, generation, hparams, evaluation
            )
            if plan.fresh is None:
                plan = plan._replace(fresh=jnp.zeros(num_members, bool))
            return (state, plan.hparams), (hparams, plan._replace(info={}))

        generations = jnp.arange(1, NUM_STEPS + 1)
        return jax.lax.scan(step, (first, hparams), (generations, fitness))[1]

    return quickly(jax.vmap(run))


def run(name, fitness, seed):
    """Runs with fitness `[NUM_RUNS, NUM_STEPS, P]` and seeds that follow `seed`."""
    fitness = np.asarray(fitness, np.float32)
    seeds = np.uint32(seed) + np.arange(NUM_RUNS, dtype=np.uint32)
    return jax.device_get(compiled(name, fitness.shape[2])(seeds, fitness))


def check_runs(name, fitness, seed):
    results = run(name, fitness, seed)
    for number, each in enumerate(fitness):
        check_plans(name, each, *take(results, number))


def histories(num_members):
    shape = (NUM_RUNS, NUM_STEPS, num_members)
    return arrays(np.float32, shape, elements=fitness_values)


def rows(hparams, where):
    return [np.asarray(leaf)[where] for leaf in jax.tree.leaves(hparams)]


def check_bounds(hparams):
    for field, space in spaces(Hyper).items():
        values = np.asarray(getattr(hparams, field))
        assert np.isfinite(values).all(), field
        if getattr(space, "min", None) is not None:
            assert space.min <= values.min(), field
            assert float(values.max()) <= space.max, field
        if hasattr(space, "choices"):
            assert set(np.unique(values)) <= set(range(len(space.choices)))
            assert values.dtype == np.int32
        if getattr(space, "shape", ()):
            assert values.shape[-1:] == space.shape, field
        if getattr(space, "genome", None) == "effective":
            numbers = jepbt.taylorglo.effective(values)
            size = np.linalg.norm(np.stack(numbers), axis=0)
            np.testing.assert_allclose(size, space.scale, rtol=1e-5)


def check_plans(name, fitness, before, plans):
    """What holds for any strategy, fitness and size, generation by generation."""
    num_members = np.shape(fitness)[1]
    slots = np.arange(num_members)
    check_bounds(plans.hparams)
    for step, scores in enumerate(np.asarray(fitness, np.float32)):
        parents, fresh = plans.parents[step], plans.fresh[step]
        old, new = (rows(tree, step) for tree in (before, plans.hparams))
        assert parents.dtype == np.int32
        assert ((parents >= 0) & (parents < num_members)).all()
        dead = np.isnan(scores)
        moved = parents != slots
        assert not dead[parents[moved]].any(), "a failed member is a parent"
        if not dead.all() and name not in LEAVES_DEAD:
            assert (moved | fresh)[dead].all(), "a failed member stays"
        stays = ~moved & ~fresh
        if not dead.all() and name not in LOSES_BEST:
            best = np.nanargmax(scores)
            assert stays[best], "the best member is lost"
        if name.startswith("epbt"):
            stays &= plans_elites(scores, num_members, best=name == "epbt")
        if name not in CHANGES_STAYING:
            for a, b in zip(old, new, strict=True):
                np.testing.assert_array_equal(a[stays], b[stays])


def plans_elites(scores, num_members, best):
    """Only elites keep what they have in EPBT: a child may be its own parent."""
    order = np.argsort(-scores, kind="stable")
    count = max(1, num_members // 2) if best else 1
    elites = np.zeros(num_members, bool)
    elites[order[:count]] = True
    return elites & ~np.isnan(scores)


@every_strategy
def test_plans_are_valid_for_any_fitness(name):
    @often
    @given(histories(5), seeds)
    def holds(fitness, seed):
        check_runs(name, fitness, seed)

    holds()


@every_strategy
def test_plans_are_valid_where_all_are_equal_or_all_but_one_failed(name):
    fitness = np.full((NUM_RUNS, NUM_STEPS, 5), 0.5)
    fitness[1] = np.nan
    fitness[1, :, 3] = 0.5
    fitness[2, 2:, :4] = np.nan
    fitness[3, 1:3] = np.nan
    check_runs(name, fitness, 5)


@pytest.mark.parametrize(("name", "num_members"), FEW_MEMBERS)
def test_plans_are_valid_for_very_few_members(name, num_members):
    if (name, num_members) in TOO_SMALL:
        with pytest.raises(ValueError, match=TOO_SMALL[name, num_members]):
            run(name, np.zeros((NUM_RUNS, NUM_STEPS, num_members)), 0)
        return
    fitness = np.full((NUM_RUNS, NUM_STEPS, num_members), 0.5)
    fitness[1, :, -1] = np.nan
    fitness[2] = np.nan
    fitness[3, :, 0] = np.arange(NUM_STEPS)
    check_runs(name, fitness, 3)


@every_strategy
def test_plans_depend_on_nothing_but_their_arguments(name):
    fitness = np.tile([0.3, 0.1, 0.9, 0.2, 0.7], (NUM_RUNS, NUM_STEPS, 1))
    first, again = (run(name, fitness, seed) for seed in (1, 1))
    jax.tree.map(np.testing.assert_array_equal, first, again)
    rates = first[0].rate
    shifted = run(name, fitness, 2)[0].rate  # the same seeds, but one place earlier
    np.testing.assert_array_equal(rates[1:], shifted[:-1])
    assert not np.array_equal(rates[0], rates[1])


@every_strategy
def test_twins_differ(name):
    """Children of one parent do not stay copies of each other."""
    fitness = np.tile([0.3, 0.1, 0.9, 0.2, np.nan], (NUM_RUNS, NUM_STEPS, 1))
    _, plans = run(name, fitness, 0)
    slots = np.arange(5)
    for number, step in itertools.product(range(NUM_RUNS), range(NUM_STEPS)):
        moved = plans.parents[number, step] != slots
        made = moved | plans.fresh[number, step]
        leaves = rows(plans.hparams, (number, step))
        children = {tuple(np.hstack([leaf[i] for leaf in leaves])) for i in slots[made]}
        assert len(children) == made.sum()


@pytest.mark.parametrize("select", SELECTIONS)
def test_selections_never_choose_the_failed(select):
    selected = quickly(SELECTIONS[select])

    @often
    @given(draw.lists(fitness_values, min_size=6, max_size=6), seeds)
    def holds(fitness, seed):
        fitness = np.asarray(fitness, np.float32)
        parents = np.asarray(selected(jax.random.key(seed), fitness))
        dead = np.isnan(fitness)
        if dead.all():
            np.testing.assert_array_equal(parents, np.arange(6))
        else:
            assert not dead[parents].any()

    holds()


@pytest.mark.parametrize("vary", VARIATIONS)
def test_variations_stay_in_their_spaces(vary):
    @quickly
    def generations(key):
        def step(hparams, key):
            return VARIATIONS[vary](key, hparams), None

        first = sample_population(key, Hyper, 6)
        first, _ = jax.lax.scan(step, first, jax.random.split(key, 4))
        return first

    @often
    @given(seeds)
    def holds(seed):
        hparams = jax.device_get(generations(jax.random.key(seed)))
        if vary == "uniform":  # swaps coefficients: what leaves a scale, `clip` mends
            hparams = jepbt.hyperparameters.clip_all(hparams)
        check_bounds(hparams)

    holds()


def test_ranking_elites_and_novelty_do_not_depend_on_where_members_stand():
    both = quickly(lambda f, b: (best_first(f), is_elite(f, 3), spread_out(f, b, 3, 5)))

    @often
    @given(draw.permutations(range(7)), seeds)
    def holds(places, seed):
        places = np.array(places)
        random = np.random.default_rng(seed)
        fitness = random.permutation(7).astype(np.float32)
        fitness[random.integers(7)] = np.nan
        behaviour = random.normal(size=(7, NUM_BEHAVIOURS)).astype(np.float32)
        order, elites, novel = both(fitness, behaviour)
        moved = both(fitness[places], behaviour[places])
        np.testing.assert_array_equal(places[np.asarray(moved[0])], order)
        np.testing.assert_array_equal(moved[1], np.asarray(elites)[places])
        np.testing.assert_array_equal(moved[2], np.asarray(novel)[places])

    holds()
