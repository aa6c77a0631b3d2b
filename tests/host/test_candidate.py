"""Candidates order by fitness; mistakes are named before anything runs."""

import dataclasses
import itertools
import threading

import numpy as np
import pytest
from host_functions import Hyper, climb, population
from simple_parsing import ArgumentParser

import jepbt
from jepbt import Candidate, field_dict

NAN = float("nan")


@dataclasses.dataclass
class Other(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.1, min=0.0, max=1.0)


@dataclasses.dataclass
class WithLoss(jepbt.HyperParameters):
    loss: jepbt.Loss = jepbt.taylor_hparam()


def test_candidates_order_by_fitness_and_failures_rank_last():
    scores = [0.3, None, -np.inf, 0.7, NAN, 0.5]
    ranked = sorted(Candidate(None, Hyper(), score) for score in scores)
    assert {ranked[0].fitness is None, ranked[1].fitness is None} == {True, False}
    assert [c.fitness for c in ranked[2:]] == [-np.inf, 0.3, 0.5, 0.7]
    assert max(ranked).fitness == 0.7


def test_comparisons_are_complete():
    """For every pair one of <, > holds, or both <= and >= do."""
    candidates = [Candidate(None, Hyper(), score) for score in (0.1, 0.1, 0.2, NAN)]
    for a, b in itertools.product(candidates, repeat=2):
        assert (a < b) + (a > b) + (a <= b and a >= b) == 1
        assert (a < b) == (b > a) and (a <= b) == (b >= a)
    with pytest.raises(TypeError):
        candidates[0] < 0.5  # noqa: B015


def test_a_users_candidate_that_is_a_plain_dataclass_works():
    """Its generated `==` compares models, which arrays do not take: nothing uses it."""

    @dataclasses.dataclass
    class Mine(Candidate):
        epochs: int = 0

    def evaluate(candidate):
        weights = np.zeros(3) if candidate.model is None else candidate.model
        weights += candidate.hparams.rate
        return Mine(weights, candidate.hparams, weights.sum(), candidate.epochs + 1)

    given = [Mine(None, Hyper()) for _ in range(4)]
    best = list(jepbt.epbt(3, given, evaluate))[-1]
    assert best.epochs == 3 and best.model.shape == (3,)


def test_losses_evolve_too():
    def evaluate(candidate):
        assert candidate.hparams.loss.shape == (8,)
        return Candidate(None, candidate.hparams, -float(candidate.hparams.loss[2]))

    bests = list(jepbt.epbt(6, [Candidate(None, WithLoss())] * 4, evaluate))
    assert bests[-1].fitness > bests[0].fitness


def test_field_dict_lists_fields_as_they_are():
    model = object()
    fields = field_dict(Candidate(model, Hyper(), 0.5))
    assert list(fields) == ["model", "hparams", "fitness", "standard_error"]
    assert fields["model"] is model and isinstance(fields["hparams"], Hyper)


class Unpicklable:
    def __init__(self):
        self.lock = threading.Lock()


def test_hyperparameters_that_cannot_be_pickled_are_named_when_processes_need_it():
    @dataclasses.dataclass
    class Local(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.1, min=0.0, max=1.0)

    given = [Candidate(None, Local()) for _ in range(2)]
    assert next(jepbt.epbt(1, given, lambda c: Candidate(None, c.hparams, 1.0)))
    with pytest.raises(TypeError, match=r"\[0\]\.hparams cannot be pickled"):
        jepbt.epbt(1, given, climb, 2)


@pytest.mark.parametrize(
    ("returned", "message"),
    [
        (lambda c: None, "must return a jepbt.Candidate, got None"),
        (lambda c: 0.5, "must return a jepbt.Candidate, got 0.5"),
        (lambda c: (c.model, c.hparams, 0.5), r"must return a jepbt.Candidate, got \("),
        (lambda c: c, "returned the candidate it was given"),
        (lambda c: Candidate(0, c.hparams, "0.5"), "fitness is a number, got '0.5'"),
        (lambda c: Candidate(0, c.hparams, [0.5]), r"fitness is a number, got \[0.5\]"),
        (
            lambda c: Candidate(0, c.hparams, np.array([0.5])),
            r"fitness is a number, got array\(\[0.5\]\)",
        ),
        (lambda c: Candidate(0, c.hparams, 1j), "fitness is a number, got 1j"),
        (lambda c: Candidate(0, Other(), 0.5), "slot 0, hparams is a Other"),
        (lambda c: Candidate(0, None, 0.5), "slot 0, hparams must be a dataclass"),
    ],
)
def test_an_evaluation_function_that_returns_something_else_is_told(returned, message):
    with pytest.raises(TypeError, match=message):
        next(jepbt.epbt(2, population(2), returned))


def test_a_model_that_cannot_be_copied_is_named():
    given = [Candidate(Unpicklable(), Hyper()) for _ in range(2)]
    with pytest.raises(TypeError, match="its candidate cannot be copied"):
        next(jepbt.epbt(1, given, climb))


def test_simple_parsing_reads_a_users_hyperparameters_and_config():
    @dataclasses.dataclass
    class Config(jepbt.Config):
        log_level: str = "info"

    parser = ArgumentParser()
    parser.add_arguments(Hyper, dest="hparams")
    parser.add_arguments(WithLoss, dest="evolved")
    parser.add_arguments(Config, dest="config")
    flags = "--rate 0.1 --width 7 --nesterov false --optimizer adam --layers 64 64"
    flags += " --population_size 4 --log_level debug"
    arguments = parser.parse_args(flags.split())
    assert arguments.hparams == Hyper(0.1, 0.1, 7, False, "adam", (64, 64), 32)
    assert arguments.config == Config(population_size=4, log_level="debug")
    np.testing.assert_array_equal(arguments.evolved.loss, WithLoss().loss)
    given = [Candidate(None, arguments.hparams) for _ in range(4)]
    used = []
    next(jepbt.epbt(1, given, lambda c: used.append(c.hparams) or climb(c)))
    assert used[0] == arguments.hparams
