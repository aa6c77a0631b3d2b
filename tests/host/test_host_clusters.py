"""Evaluations on Dask and Ray: each happens, whatever happens to its worker."""

import concurrent.futures
import dataclasses
import re

import jax
import jax.numpy as jnp
import pytest
from example_scripts import run_example

import jepbt
from jepbt import Candidate
from jepbt.hyperparameters import spaces


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-4, max=1.0, log=True)


class ComputingEqualCallsOnce(concurrent.futures.Executor):
    """Dask's rule, without Dask: a call that equals an earlier one is not repeated."""

    def __init__(self):
        self.results = {}

    def submit(self, function, /, *args):
        key = repr([function, *args])
        if key not in self.results:
            self.results[key] = function(*args)
        future = concurrent.futures.Future()
        future.set_result(self.results[key])
        return future


def test_equal_candidates_are_evaluated_each():
    """All children are copies of slot 0; their training need not end alike."""
    num_calls = 0

    def count(candidate):
        nonlocal num_calls
        num_calls += 1
        return Candidate(None, candidate.hparams, 1.0)

    copies = jepbt.strategies.pbt(
        exploit=lambda key, fitness: jnp.zeros(4, int), explore=lambda key, h: h
    )
    given = [Candidate(None, Hyper()) for _ in range(4)]
    with ComputingEqualCallsOnce() as executor:
        list(jepbt.epbt(3, given, count, strategy=copies, executor=executor))
    assert num_calls == 12


def load_again(class_, default):
    """Writes equal or other fields over a class's own, as cloudpickle does."""
    other = dataclasses.make_dataclass(
        "Hyper",
        [("rate", float, jepbt.hparam(default, min=1e-4, max=1.0, log=True))],
        bases=(jepbt.HyperParameters,),
    )
    class_.__dataclass_fields__ = other.__dataclass_fields__


def test_a_class_that_comes_back_from_a_worker_is_not_compiled_for_again():
    own = dataclasses.make_dataclass(
        "Hyper",
        [("rate", float, jepbt.hparam(0.05, min=1e-4, max=1.0, log=True))],
        bases=(jepbt.HyperParameters,),
    )
    traced = []
    program = jax.jit(lambda hparams: traced.append(1) or hparams.rate)
    before = spaces(own)
    for _ in range(3):
        program(own(0.1))
        load_again(own, 0.05)
    assert len(traced) == 1 and spaces(own) is before
    load_again(own, 0.06)
    program(own(0.1))
    assert len(traced) == 2 and spaces(own)["rate"].default == 0.06


def test_a_class_without_instances_is_none_that_jax_keeps():
    """Or each candidate that comes from a worker would leave one behind."""

    @dataclasses.dataclass
    class Dropped(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.05)

    jax.tree_util.register_pytree_node(Dropped, lambda h: ((), None), lambda *_: None)


def run(place, *flags):
    return run_example("many_evaluations", place, *flags)


def number(pattern, output):
    return int(re.search(pattern, output).group(1))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("place", "package"), [("dask", "distributed"), ("ray", "ray")]
)
def test_a_killed_worker_costs_nothing_and_a_late_one_is_used(place, package):
    pytest.importorskip(package, reason=f"needs {package}")
    size = ["--num-evaluations", "300", "--population-size", "20"]
    output = run(place, *size, "--kill", "--late")
    assert number(r"(\d+) evaluations, 0 failed", output) == 300
    assert number(r"(\d+) began anew", output) >= 1
    assert number(r"(\d+) evaluations on 1 late process", output) >= 10


@pytest.mark.slow
@pytest.mark.parametrize("place", ["serial", "processes"])
def test_many_evaluations_need_no_more_memory_than_few(place):
    output = run(place, "--num-evaluations", "2000", "--population-size", "20")
    early, late = (
        number(rf"memory at {at}: (\d+) MB here", output)
        for at in ("a tenth", "the end")
    )
    assert late <= early + 30
