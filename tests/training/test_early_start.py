"""A CPU trains while it compiles what comes after training."""

import dataclasses
import threading

import jax
import numpy as np
import pytest

import jepbt
from jepbt.engine.memory import DoesNotFit
from jepbt.engine.programs import AFTER_TRAINING, Later
from jepbt.training import execute, preparation, prepare

rng = np.random.default_rng(0)
IMAGES = rng.normal(size=(120, 6)).astype(np.float32)
TASK = jepbt.classification(
    jepbt.datasets.from_arrays((IMAGES, np.arange(120) % 2), validation=40),
    model=jepbt.models.MLP(num_classes=2, hidden=(4,), dropout=None),
)
SETTINGS = {
    "population_size": 4,
    "num_generations": 3,
    "steps_per_generation": 2,
    "batch_size": 8,
    "progress": False,
}


class Waits:
    """A lowered program that compiles once an event has come."""

    def __init__(self, lowered, event):
        self.lowered, self.event = lowered, event

    def compile(self, *args):
        assert self.event.wait(60), "nobody trained before this was compiled"
        return self.lowered.compile(*args)


def hold_back(monkeypatch, event):
    """Lets nothing that comes after training compile before an event."""
    lower = preparation.lower_each

    def lower_each(*args):
        for name, lowered in lower(*args):
            yield name, Waits(lowered, event) if name in AFTER_TRAINING else lowered

    monkeypatch.setattr(preparation, "lower_each", lower_each)


@pytest.mark.devices("cpu")
def test_training_does_not_wait_for_the_programs_that_come_after_it(monkeypatch):
    hold_back(monkeypatch, trained := threading.Event())
    prepared = prepare(TASK, early=True, **SETTINGS)
    train = prepared.programs.train

    def train_and_tell(*args):
        result = jax.block_until_ready(train(*args))
        trained.set()
        return result

    programs = prepared.programs._replace(train=train_and_tell)
    early = execute(dataclasses.replace(prepared, programs=programs))
    late = execute(prepare(TASK, **SETTINGS))
    for one, other in zip(
        jax.tree.leaves(early.population), jax.tree.leaves(late.population), strict=True
    ):
        np.testing.assert_array_equal(one, other)


@pytest.mark.devices("cpu")
def test_without_early_all_programs_are_there_before_anything_runs():
    prepared = prepare(TASK, **SETTINGS)
    assert not any(isinstance(program, Later) for program in prepared.programs)
    assert {f"compile {name}" for name in AFTER_TRAINING} <= set(prepared.seconds)


@pytest.mark.devices("cpu")
def test_a_late_program_that_reserves_too_much_is_refused_at_its_first_use(monkeypatch):
    """Training and the rest seem to reserve 1 byte, what compiles later 2 GB."""
    sizes = iter([1, 1, 1, 2_000_000_000, 2_000_000_000])
    monkeypatch.setattr(preparation, "reserved_bytes", lambda program: next(sizes))
    monkeypatch.setattr(preparation, "memory_limit", lambda device: 1_000_000_000)
    with pytest.raises(DoesNotFit, match="reserve 2 GB of 1 GB there are"):
        jepbt.train_population(TASK, devices=jax.devices()[:1], **SETTINGS)


@pytest.mark.devices("cpu")
def test_what_comes_after_training_does_not_compile_if_training_cannot(monkeypatch):
    lower, compiled = preparation.lower_each, []

    class Fails:
        def __init__(self, lowered):
            self.out_info = lowered.out_info

        def compile(self, *args):
            raise jax.errors.JaxRuntimeError("INTERNAL: no")

    class Counts:
        def __init__(self, lowered):
            self.lowered = lowered

        def compile(self, *args):
            compiled.append(self.lowered)
            return self.lowered.compile(*args)

    def lower_each(*args):
        for name, lowered in lower(*args):
            if name == "train":
                yield name, Fails(lowered)
            else:
                yield name, Counts(lowered) if name in AFTER_TRAINING else lowered

    monkeypatch.setattr(preparation, "lower_each", lower_each)
    with pytest.raises(jax.errors.JaxRuntimeError, match="INTERNAL: no"):
        jepbt.train_population(TASK, **SETTINGS)
    assert compiled == []
