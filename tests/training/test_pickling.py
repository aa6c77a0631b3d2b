"""What a run found can be pickled and copied, and so come back from a process."""

import copy
import dataclasses
import importlib
import inspect
import pickle
import pkgutil
import signal
import types

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax.training.train_state import TrainState
from resumable import assert_equal_bits, make_task, train

import jepbt


@pytest.fixture(scope="module")
def result():
    return train(population_size=4, num_generations=3)


def through_a_pickle(value):
    return pickle.loads(pickle.dumps(value))


def test_a_pickled_result_is_the_result_on_the_host(result):
    again = through_a_pickle(result)
    assert_equal_bits(again, result)
    leaves = jax.tree.leaves(again.population)
    assert all(isinstance(leaf, np.ndarray) for leaf in leaves)
    assert (again.config, again.seconds) == (result.config, result.seconds)
    assert repr(again) == repr(result)
    assert again.num_founders == result.num_founders
    assert again.schedule.to_json() == result.schedule.to_json()
    assert again.evolved_loss.formula == result.evolved_loss.formula
    assert again.describe_loss() == result.describe_loss()
    assert again._repr_html_() == result._repr_html_()
    jepbt.plots.hparam_schedules(again)
    assert_equal_bits(through_a_pickle(again), result)


def test_what_needs_the_task_says_so_until_it_is_put_back(result):
    again = through_a_pickle(result)
    for use in (again.test, again.ensemble, again.average):
        with pytest.raises(RuntimeError, match=r"result\.task = task"):
            use()
    again.task = make_task()
    assert again.test() == result.test()
    assert again.ensemble(2).mean == result.ensemble(2).mean
    assert through_a_pickle(again).test() == result.test()  # as it was measured


def test_an_ensemble_is_pickled_with_its_members(result):
    ensemble = result.ensemble(2)
    again = through_a_pickle(ensemble)
    assert (again.slots, again.mean) == (ensemble.slots, ensemble.mean)
    inputs = result.task.data.validation["image"]
    with pytest.raises(RuntimeError, match="task=task"):
        again.predict(inputs)
    again = dataclasses.replace(again, task=make_task())
    np.testing.assert_array_equal(again.predict(inputs), ensemble.predict(inputs))


def test_a_new_run_starts_from_a_pickled_result(result):
    again = through_a_pickle(result)
    more = train(initial=again, population_size=4, num_generations=1)
    # The fittest keep their slots, with their own hyperparameters.
    order = np.argsort(-result.history.fitness[-1], kind="stable")
    np.testing.assert_array_equal(
        more.history.hparams["rate"][0], result.population.hparams.rate[order]
    )


@pytest.mark.parametrize("copier", [copy.copy, copy.deepcopy])
def test_a_copy_keeps_its_task_and_its_arrays(result, copier):
    again = copier(result)
    assert again.task is result.task
    assert_equal_bits(again, result)
    assert again.test() == result.test()
    for part in (result.best, result.history, result.schedule, result.evolved_loss):
        assert type(copier(part)) is type(part)
    assert copier(result.ensemble(2)).task is result.task
    again.run_dir = "elsewhere"
    assert result.run_dir is None


def test_a_deep_copy_shares_no_history(result):
    again = copy.deepcopy(result)
    again.history.generations.pop()
    again.best.state.params["dense1"]["bias"][:] = 7
    assert len(result.history) == 3
    assert (result.best.params["dense1"]["bias"] != 7).all()


@pytest.mark.parametrize(
    "part", ["best", "history", "schedule", "evolved_loss", "config", "population"]
)
def test_every_part_of_a_result_can_be_pickled(result, part):
    before, after = getattr(result, part), through_a_pickle(getattr(result, part))
    assert type(after) is type(before)
    if part == "best":
        assert repr(after.hparams) == repr(before.hparams)
        assert after.fitness == before.fitness
    if part == "history":
        np.testing.assert_array_equal(after.fitness, before.fitness)


CHOICES = (None, jnp.tanh, lambda x: x)


@dataclasses.dataclass
class Odd(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.01, max=1.0)
    function: object = jepbt.hparam(None, choices=CHOICES)


def test_functions_among_choices_and_in_states_do_not_keep_a_result(result):
    """A flax `TrainState` holds its optimizer, which is made of closures."""

    def init(key, h):
        params = {"w": jnp.float32(1.0)}
        return TrainState.create(apply_fn=None, params=params, tx=optax.sgd(0.1))

    task = jepbt.Task(
        hparams=Odd,
        init=init,
        train_step=lambda key, s, h, batch, shared: (s, {"loss": h.rate}),
        evaluate=lambda key, s, h, batch, shared: h.rate[None],
    )
    settings = {"population_size": 4, "num_generations": 2, "progress": False}
    before = jepbt.train_population(
        task, steps_per_generation=1, strategy="random_search", **settings
    )
    with pytest.warns(RuntimeWarning, match="dictionaries of arrays by path"):
        after = through_a_pickle(before)
    functions = before.history.hparams["function"]
    assert len(set(functions.ravel())) > 1
    assert (after.history.hparams["function"] == functions).all()
    assert after.best.hparams == before.best.hparams
    np.testing.assert_array_equal(after.best.state["params/w"], before.best.params["w"])
    deep = copy.deepcopy(before)
    assert isinstance(deep.best.state, TrainState)


def test_an_interruption_brings_its_result_through_a_pool(result):
    stop = jepbt.Interrupted(result, signal.SIGTERM)
    again = through_a_pickle(stop)
    assert str(again) == str(stop) and again.signal_number == signal.SIGTERM
    assert_equal_bits(again.result, result)
    error = ZeroDivisionError("mine")
    error.result = result
    assert_equal_bits(through_a_pickle(error).result, result)


def test_every_error_of_jepbt_comes_through_a_pickle(result):
    """A pool that cannot load a worker's error waits for ever, or breaks."""
    found = set()
    for module in pkgutil.walk_packages(jepbt.__path__, "jepbt."):
        if module.name.endswith("__main__"):
            continue
        for _, kind in inspect.getmembers(importlib.import_module(module.name)):
            is_error = isinstance(kind, type) and issubclass(kind, BaseException)
            if is_error and kind.__module__.startswith("jepbt"):
                found.add(kind)
    assert jepbt.Interrupted in found and len(found) >= 3
    for kind in found - {jepbt.Interrupted}:
        again = through_a_pickle(kind("what happened"))
        assert (type(again), str(again)) == (kind, "what happened")


def test_a_task_that_is_absent_answers_what_python_asks():
    task = types.SimpleNamespace(hparams=Odd, about={})
    absent = jepbt.results.pickled.AbsentTask(task)
    assert not hasattr(absent, "__deepcopy__")
    assert copy.deepcopy(absent).hparams is Odd
