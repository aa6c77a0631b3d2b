"""Runs under JAX's own switches: 64 bits, the search for nan, strict types, guards."""

import contextlib
import dataclasses
import functools
from dataclasses import dataclass

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax import experimental
from numerics import enable_x64

import jepbt
from jepbt import Candidate, strategies
from jepbt.strategies import epbt, pbt, pulsation, welch_test

of = dataclasses.replace
USUAL = {"population_size": 4, "num_generations": 3, "steps_per_generation": 2}


@dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.3, log=True)
    pair: tuple[float, ...] = jepbt.hparam((0.5, 0.5), min=0.1, max=1.0)
    repeats: int = jepbt.hparam(2, min=1, max=8)
    scale: float = jepbt.hparam(1.0, choices=(0.25, 0.5, 1.0), ordered=True)
    kind: str = jepbt.hparam("a", choices=("a", "b", "c"))
    loss: jepbt.Loss = jepbt.taylor_hparam(noise=0.3, genome="effective")


def walk(key, x, h, batch, shared):
    x = x - h.rate * h.scale * h.pair * x
    return x, {"loss": jnp.sum(x**2)}


WALK = jepbt.Task(
    Hyper,
    init=lambda key, h: jax.random.normal(key, (2,), jnp.float32),
    train_step=walk,
    evaluate=lambda key, x, h, batch, shared: -(x**2)[batch["row"]],
    data=jepbt.Splits(*[{"row": np.arange(2, dtype=np.int32)}] * 2),
    batch_size=2,
)


def halve(key, state, generation, hparams, evaluation):
    """A user's own step, which does not mind types."""
    hparams = of(hparams, rate=hparams.rate * jnp.ones(4) / 2)
    return state, strategies.Plan(jnp.arange(4), hparams, {})


STRATEGIES = {
    "epbt": epbt(),
    "pulsation": epbt(novelty=pulsation(period=2, pool=2.0, metric="loss")),
    "welch": pbt(exploit=welch_test(2)),
    "pb2": strategies.pb2(num_candidates=4, num_observations=8),
    "mf_pbt": strategies.mf_pbt(intervals=(1, 2)),
    "cosine": strategies.random_search(schedules={"rate": strategies.cosine_decay}),
    "halving": strategies.successive_halving(),
    "own": strategies.random_search()._replace(step=halve),
    "rounds": strategies.restarts(strategies.frozen(pbt(), {"rate": (0, 2)})),
}


@pytest.mark.parametrize(
    ("name", "batches"),
    [*((name, "shared") for name in STRATEGIES), ("epbt", "per_member")],
)
def test_every_strategy_fits_together_in_64_bits(name, batches):
    config = jepbt.Config(**USUAL, batches=batches)
    run = jepbt.make_run(WALK, STRATEGIES[name], config)
    with enable_x64(True):
        key = jax.eval_shape(lambda: jax.random.key(0))
        population, _, _ = jax.eval_shape(run, key, WALK.data)
    assert {leaf.dtype.itemsize for leaf in jax.tree.leaves(population)} == {4}


@dataclass
class Rate(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.3, log=True)


INPUTS = np.random.default_rng(0).normal(size=(40, 3))


def learn(**changes):
    parts = {
        "hparams": Rate,
        "model": jepbt.models.MLP(num_classes=1, hidden=()),
        "optimizer": lambda h: optax.sgd(h.rate),
        "batch_size": 8,
    }
    task = jepbt.regression((INPUTS, INPUTS[:, 0]), **(parts | changes))
    settings = USUAL | {"devices": jax.devices()[:1], "progress": False}
    return jepbt.train_population(task, strategy="pbt", **settings)


usually = functools.cache(learn)


@pytest.mark.parametrize("is_wide", [False, True])
def test_runs_work_under_all_switches(is_wide):
    """With every switch on, a run has the numbers of a run without, in 32 bits."""
    expected = usually()
    with contextlib.ExitStack() as switches:
        switches.enter_context(enable_x64(is_wide))
        if not is_wide:
            for switch, value in (
                (jax.debug_nans, True),
                (jax.debug_infs, True),
                (jax.numpy_dtype_promotion, "strict"),
                (jax.transfer_guard, "disallow"),
            ):
                switches.enter_context(switch(value))
        result = learn()
        leaves = jax.tree.leaves(result.population)
    assert {leaf.dtype.itemsize for leaf in leaves} == {4}
    np.testing.assert_allclose(
        result.history.fitness, expected.history.fitness, rtol=1e-4
    )


def test_a_task_with_adam_is_made_under_strict_promotion():
    """Its own optimizer is AdamW, which optax itself computes with mixed types."""
    with jax.numpy_dtype_promotion("strict"):
        assert jepbt.regression((INPUTS, INPUTS[:, 0])).data.test is None


def test_the_host_loop_works_under_switches():
    def score(candidate):
        return Candidate(None, candidate.hparams, float(candidate.hparams.rate))

    population = [Candidate(None, Rate()) for _ in range(4)]
    with enable_x64(True), jax.debug_nans(True), jax.debug_infs(True):
        bests = list(jepbt.epbt(3, population, score, strategy="pbt"))
    assert len(bests) == 3


def broken(h):
    def loss(predictions, targets):
        error = jnp.square(predictions - targets).mean(-1)
        return error + 0 * jnp.log(jnp.where(h.rate > 0.04, -1.0, 1.0))  # here

    return loss


def test_a_members_own_nan_is_found_where_it_arises():
    with jax.debug_nans(True), pytest.raises(FloatingPointError) as found:
        learn(loss=broken)
    lines = [str(entry.statement) for entry in found.traceback]
    assert any(line.endswith("# here") for line in lines)
    assert "in generation 0, after 0 of 2 steps" in found.value.__notes__[-1]


def test_disabled_compilation_is_refused():
    with jax.disable_jit(), pytest.raises(ValueError, match="jax_disable_jit is on"):
        jepbt.train_population(WALK, **USUAL)


def count_calls(calls, **settings):
    def train_step(key, x, h, batch, shared):
        jax.debug.callback(calls.append, h.rate)
        experimental.io_callback(calls.append, None, x, **settings)
        return x * h.rate, {"loss": h.rate}

    return of(WALK, hparams=Rate, train_step=train_step)


def test_a_step_may_call_back(tmp_path):
    """Each member does in each step of each generation, on whichever device it is."""
    calls = []
    settings = USUAL | {"chunk_size": 2, "progress": False, "run_dir": tmp_path / "r"}
    settings |= {"devices": jax.devices()[:2], "strategy": "random_search"}
    jepbt.train_population(count_calls(calls), **settings)
    jax.effects_barrier()
    assert len(calls) == 2 * 4 * 3 * 2


def test_ordered_callbacks_are_refused_with_a_way_out():
    task = count_calls([], ordered=True)
    with pytest.raises(ValueError, match="ordered") as refusal:
        jepbt.train_population(
            task, devices=jax.devices()[:1], chunk_size=2, progress=False, **USUAL
        )
    assert "chunk_size=1 computes" in refusal.value.__notes__[0]
