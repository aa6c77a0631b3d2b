"""The loop on the host runs every strategy, and hands on standard errors."""

import dataclasses
import math

import jax.numpy as jnp
import numpy as np
import pytest

import jepbt
from jepbt import Candidate, strategies
from jepbt.hyperparameters import sample_population
from jepbt.strategies import STRATEGY_NAMES


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.4, log=True)


STRATEGIES = {name: name for name in STRATEGY_NAMES} | {
    "pb2": strategies.pb2(num_candidates=4, num_observations=10),
    "significant": strategies.pbt(exploit=strategies.significant()),
    "t-test": strategies.pbt(exploit=strategies.welch_test(2)),
    "restarts": strategies.restarts(strategies.pbt(), patience=1),
    "frozen": strategies.frozen(strategies.epbt(), {"rate": (1, 3)}),
    "scheduled": strategies.random_search(schedules={"rate": strategies.cosine_decay}),
}


def climb(candidate):
    """A model that is one number; it climbs -x², measured with an error of 0.001."""
    x = 1.0 if candidate.model is None else candidate.model
    x -= 2 * candidate.hparams.rate * x
    return Candidate(x, candidate.hparams, -(x**2), standard_error=0.001)


def given(num_members, *rates):
    rates = rates or [0.05] * num_members
    return [Candidate(None, Hyper(rate)) for rate in rates]


@pytest.mark.parametrize("asynchronous", [False, True])
@pytest.mark.parametrize("name", STRATEGIES)
def test_every_strategy_runs(name, asynchronous):
    seen = list(
        jepbt.epbt(
            4, given(5), climb, strategy=STRATEGIES[name], asynchronous=asynchronous
        )
    )
    scores = [best.fitness for best in seen]
    assert len(seen) == 4 and scores == sorted(scores) and scores[-1] > -1


def test_a_schedule_scales_the_rates_that_were_given(tmp_path):
    rates = [0.4, 0.2, 0.1, 0.05]
    loop = jepbt.epbt(
        3, given(4, *rates), climb, strategy=STRATEGIES["scheduled"], run_dir=tmp_path
    )
    list(loop)
    seen = jepbt.load_history(tmp_path).hparams["rate"]
    factors = (1 + np.cos(np.pi * np.arange(3) / 3)) / 2
    np.testing.assert_allclose(seen, np.outer(factors, rates), rtol=1e-5)


@pytest.mark.parametrize(("error", "copies"), [(1e-4, True), (10.0, False)])
def test_the_gate_reads_the_standard_errors_that_came_back(error, copies, tmp_path):
    def measured(candidate):
        result = climb(candidate)
        result.standard_error = error
        return result

    rates = [0.4, 0.001, 0.001, 0.001]
    for _ in jepbt.epbt(
        2,
        given(4, *rates[:2], 0.002, 0.003),
        measured,
        strategy=STRATEGIES["significant"],
        run_dir=tmp_path,
    ):
        pass
    history = jepbt.load_history(tmp_path)
    assert (history.parents[1] != np.arange(4)).any() == copies
    np.testing.assert_array_equal(history.standard_error, np.float32(error))


def test_the_gate_asks_for_a_standard_error():
    def bare(candidate):
        return Candidate(1.0, candidate.hparams, 0.5)

    with pytest.raises(TypeError, match=r"slot 0 in generation 0: .* standard_error="):
        list(jepbt.epbt(2, given(4), bare, strategy=STRATEGIES["significant"]))
    assert math.isnan(next(jepbt.epbt(2, given(2), bare)).standard_error)


@pytest.mark.parametrize("error", [-0.1, "small"])
def test_a_standard_error_that_is_none_is_named(error):
    def wrong(candidate):
        return Candidate(1.0, candidate.hparams, 0.5, standard_error=error)

    with pytest.raises(TypeError, match=f"number from 0 up, or None, got {error!r}"):
        next(jepbt.epbt(2, given(2), wrong))


def test_novelty_that_needs_examples_is_refused_before_anything_runs():
    strategy = strategies.epbt(novelty=strategies.pulsation())
    with pytest.raises(ValueError, match=r"pulsation\(metric='loss'\) compares losses"):
        jepbt.epbt(2, given(4), climb, strategy=strategy)


def test_an_edited_step_is_compiled_anew():
    """IPython's autoreload gives the function that there is other code, in place."""

    def scale(key, state, generation, hparams, evaluation):
        slots = jnp.arange(evaluation.fitness.size)
        return state, strategies.Plan(slots, Hyper(hparams.rate * 2), {})

    def edited(key, state, generation, hparams, evaluation):
        slots = jnp.arange(evaluation.fitness.size)
        return state, strategies.Plan(slots, Hyper(hparams.rate * 4), {})

    def start(key, hparams_type, num_members, num_generations):
        return (), sample_population(key, hparams_type, num_members)

    def last_rate():
        strategy = strategies.Strategy(start, scale)
        *_, best = jepbt.epbt(2, given(2, 0.01, 0.02), climb, strategy=strategy)
        return best.hparams.rate

    assert math.isclose(last_rate(), 0.04, rel_tol=1e-5)
    scale.__code__ = edited.__code__
    assert math.isclose(last_rate(), 0.08, rel_tol=1e-5)
