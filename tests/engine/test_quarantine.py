"""Members that fail: nan and inf in loss, weights and fitness, at random moments."""

import dataclasses
import functools
from dataclasses import dataclass
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import jepbt
from jepbt import population as keys
from jepbt.engine import make_phases
from jepbt.engine.generation import generation as run_generation
from jepbt.engine.state import Inputs
from jepbt.population import derive_key
from jepbt.results import make_generation

P, G, S = 8, 5, 3
RUN_KEY = 7
KINDS = ("loss", "weights", "fitness")
STRATEGIES = ("epbt", "pbt", "random_search")
rng = np.random.default_rng(0)


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.01, max=0.5, log=True)


class Net(NamedTuple):
    params: Any
    broken: Any


def train_step(key, net, h, batch, shared):
    """Climbs, unless this is the step that is to fail: its key says which it is."""
    is_now = (jax.random.key_data(key)[None, None] == shared["keys"]).all(-1)
    bad = jnp.where(is_now[None], shared["bad"], 0.0).sum((-2, -1))  # of each kind
    x, unread = net.params
    x = x - h.rate * (x - 1)
    params = x, unread + bad[KINDS.index("weights")]
    loss = (x - 1) ** 2 + bad[KINDS.index("loss")]
    net = Net(params, bad[KINDS.index("fitness")])
    return net, {"loss": loss, "rate": h.rate}


def evaluate(key, net, h, batch, shared):
    return (net.broken - (net.params[0] - 1) ** 2)[None]


TASK = jepbt.Task(
    hparams=Hyper,
    init=lambda key, h: Net((jax.random.normal(key), jnp.zeros(3)), jnp.float32(0)),
    train_step=train_step,
    evaluate=lambda key, net, h, batch, shared: (net.broken - (net.params[0] - 1) ** 2)[
        None
    ],
)


def step_keys():
    """`u32[G, P, 2]`: of the last step of each slot in each generation."""

    def of(generation, slot):
        key = derive_key(jax.random.key(RUN_KEY), keys.TRAIN, generation, slot)
        return jax.random.key_data(jax.random.fold_in(key, S - 1))

    over_slots = jax.vmap(of, (None, 0))
    return jax.vmap(over_slots, (0, None))(jnp.arange(G), jnp.arange(P))


@functools.cache
def programs(name):
    config = jepbt.Config(
        population_size=P, num_generations=G, steps_per_generation=S, chunk_size=4
    )
    strategy = getattr(jepbt.strategies, name)()
    phases = make_phases(TASK, strategy, config, chunk_size=4)
    return type(phases)(*map(jax.jit, phases)), step_keys()


def run(name, bad):
    """Runs all generations; `bad f32[kinds, G, P]` is added where a step has its key.

    Returns each generation's report and state, and the best member.
    """
    phases, table = programs(name)
    shared = {"keys": table, "bad": jnp.asarray(bad, jnp.float32)}
    inputs = Inputs(jax.random.key(RUN_KEY), None, None, shared)
    state = phases.init(inputs)
    reports, states = [], []
    for number in range(G):
        state, record = run_generation(
            phases, inputs, np.int32(number), state, evolves=number > 0
        )
        reports.append(make_generation(number, jax.device_get(record), {}))
        states.append(jax.device_get(state.population.state))
    return reports, states, jax.device_get(state.best)


def nothing():
    return np.zeros((len(KINDS), G, P))


def cases(name, count):
    """`count` of 1, P/2 and P-1 members, nan or inf, each kind, at a random moment."""
    for number in range(count):
        bad = nothing()
        kind = number % 3
        generation = int(rng.integers(G))
        slots = rng.choice(P, (1, P // 2, P - 1)[number // 3 % 3], replace=False)
        bad[kind, generation, slots] = (np.nan, np.inf, -np.inf)[rng.integers(3)]
        yield KINDS[kind], generation, slots, run(name, bad)


def same_bits(left, right, slots):
    jax.tree.map(
        lambda a, b: np.testing.assert_array_equal(a[slots], b[slots]),
        *[
            left,
            right,
        ],
    )


@pytest.mark.parametrize("name", STRATEGIES)
def test_the_failed_are_counted_and_never_copied_nor_kept(name):
    for kind, generation, slots, (reports, _, best) in cases(name, 18):
        stays = name == "random_search" and kind == "weights"  # it copies nobody
        for report in reports:
            is_bad = report.number == generation or (
                stays and report.number > generation
            )
            failed = np.isnan(report.fitness)
            expected = np.isin(np.arange(P), slots) & is_bad
            np.testing.assert_array_equal(failed, expected)
            assert report.num_failed == expected.sum()
            assert np.isfinite(report.fitness[~failed]).all()
            # What it trained with is what the history shows beside the failure.
            used, shown = report.metrics["rate"], report.hparams["rate"]
            np.testing.assert_allclose(used, shown, rtol=1e-6)
        if generation + 1 < G:
            after = reports[generation + 1]
            moved = after.parents != np.arange(P)
            assert not np.isin(after.parents[moved], slots).any()
            if name != "random_search":
                assert not np.isin(after.parents, slots).any()
            if name == "epbt":
                assert not after.info["elites"][slots].any()
        top = np.nanmax([report.fitness for report in reports])
        assert best.member.fitness == top and np.isfinite(best.member.state.params[0])


@pytest.mark.parametrize("name", STRATEGIES)
def test_a_failure_changes_no_bit_of_the_others(name):
    """In its own generation; and for ever, where nobody is copied."""
    clean_reports, clean_states, _ = run(name, nothing())
    for _, generation, slots, (reports, states, _) in cases(name, 9):
        others = np.setdiff1d(np.arange(P), slots)
        last = G if name == "random_search" else generation + 1
        for number in range(last):
            who = others if number >= generation else np.arange(P)
            same_bits(states[number], clean_states[number], who)
            left, right = (r[number].fitness for r in (reports, clean_reports))
            np.testing.assert_array_equal(left[who], right[who])


@pytest.mark.parametrize(("name", "kind"), list(zip(STRATEGIES, KINDS, strict=True)))
def test_when_all_fail_the_best_of_before_is_kept_and_the_run_says_why(name, kind):
    generation = int(rng.integers(1, G))
    bad = nothing()
    bad[KINDS.index(kind), generation] = np.nan
    shared = {"keys": step_keys(), "bad": jnp.asarray(bad, jnp.float32)}
    task = dataclasses.replace(TASK, shared=shared)
    settings = {"population_size": P, "steps_per_generation": S, "chunk_size": 4}
    reason = f"all members failed in generation {generation}: .* rate .* kept"
    with pytest.warns(RuntimeWarning, match=reason):
        result = jepbt.train_population(
            task,
            strategy=name,
            num_generations=G,
            seed=RUN_KEY,
            devices=jax.devices()[:1],
            **settings,
        )
    assert len(result.history) == generation + 1
    before = result.history.fitness[:generation]
    assert result.best.fitness.mean == before.max()
    assert result.history.generations[-1].num_failed == P
