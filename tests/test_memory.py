"""Memory: estimated before anything compiles, and refused with what would fit."""

import os
import subprocess
import sys

import jax
import numpy as np
import pytest

import jepbt
from jepbt import memory
from jepbt.checks import check_task
from jepbt.hyperparameters import HyperParameters
from jepbt.memory import MemberBytes
from jepbt.preparation import prepare
from jepbt.tuning import chunk_candidates


def need(monkeypatch, limit, member, num_members, data=None, num_devices=2, **settings):
    monkeypatch.setattr(memory, "memory_limit", lambda device: limit)
    task = jepbt.Task(
        HyperParameters,
        init=lambda key, h: 0,
        train_step=lambda key, s, h, batch, shared: 0,
        evaluate=lambda key, s, h, batch, shared: 0,
        data=data,
    )
    config = jepbt.Config(population_size=num_members, **settings)
    devices = jax.devices()[:num_devices]
    return memory.check_memory(member, task, config, devices)


def test_every_member_is_held_twice_and_the_data_on_each_device(monkeypatch):
    """2,000 bytes: 10 members of 100, or 8 with 200 bytes of data on both devices."""
    member = MemberBytes(100)
    assert need(monkeypatch, 2_000, member, 10).num_bytes == 2_000
    with pytest.raises(ValueError, match="At most 10 members fit"):
        need(monkeypatch, 2_000, member, 12)
    data = jepbt.Splits(np.zeros(30, np.float32), np.zeros(20, np.float32))
    assert need(monkeypatch, 2_000, member, 8, data).num_bytes == 2_000
    with pytest.raises(ValueError, match="At most 8 members fit"):
        need(monkeypatch, 2_000, member, 10, data)


def test_members_computed_together_must_fit_beside_the_population(monkeypatch):
    """8 members of 100 leave 2,400 of 4,000 bytes: 1,200 a device, 2 steps of 500."""
    member = MemberBytes(100, train=500, evaluate=300)
    fits = need(monkeypatch, 4_000, member, 8, chunk_size=2)
    assert (fits.num_bytes, fits.most_at_once) == (3_600, 2)
    with pytest.raises(ValueError, match=r"chunk_size=4, .* Choose chunk_size=2, 'aut"):
        need(monkeypatch, 4_000, member, 8, chunk_size=4)
    assert need(monkeypatch, 4_000, member, 8).most_at_once == 2
    assert chunk_candidates(32, "gpu", 10) == [8, 1]
    assert chunk_candidates(32, "cpu", 4) == [1, 4]
    assert chunk_candidates(32, "tpu", 1) == [1]


def test_a_batch_that_does_not_fit_is_refused_with_one_that_does(monkeypatch):
    """1,200 bytes are left of the 2,000 that a step of 64 takes: 38 fit."""
    with pytest.raises(ValueError, match=r"batch_size=64: .* Choose batch_size=38 or "):
        need(monkeypatch, 4_000, MemberBytes(100, 2_000, 300), 8)
    with pytest.raises(ValueError, match=r"Choose fewer members, or a smaller model"):
        need(monkeypatch, 4_000, MemberBytes(100, 500, 3_000), 8)


MLP = jepbt.models.MLP(num_classes=10, dropout=lambda h: h.dropout)
CNN = jepbt.models.CNN(num_classes=10, dropout=lambda h: h.dropout)


@pytest.mark.parametrize(
    ("model", "num_members", "chunk_size", "batch_size"),
    [
        (MLP, 16, 4, 256),
        pytest.param(CNN, 8, 1, 64, marks=pytest.mark.slow),
        pytest.param(CNN, 8, 4, 64, marks=pytest.mark.slow),
        pytest.param(CNN, 8, 8, 256, marks=pytest.mark.slow),
    ],
)
def test_the_estimate_is_near_what_the_compiler_reserves(
    model, num_members, chunk_size, batch_size
):
    """Within a half, never more than a tenth below: what is refused could not run."""
    task = jepbt.classification("fashion_mnist", model=model)
    settings = {"population_size": num_members, "chunk_size": chunk_size}
    settings |= {"batch_size": batch_size, "steps_per_generation": 20}
    prepared = prepare(task, devices=jax.devices()[:1], progress=False, **settings)
    strategy = jepbt.strategies.epbt()
    member = check_task(task, strategy, prepared.config)
    estimated = memory.check_memory(
        member, task, prepared.config, jax.devices()[:1]
    ).num_bytes
    assert 0.9 < estimated / prepared.memory_bytes < 1.5


SCRIPT = """
import re
import jax, jepbt
from jepbt.checks import check_task
from jepbt.memory import check_memory
def peak():  # getrusage would remember the process that started this one
    status = open("/proc/self/status").read()
    return 1024 * int(re.search("VmHWM:(.*)kB", status)[1])
task = jepbt.classification("fashion_mnist", model=jepbt.models.MLP(
    num_classes=10, hidden=(1024, 1024), dropout=lambda h: h.dropout))
config = jepbt.Config(population_size=24, chunk_size=1, num_generations=2,
                      steps_per_generation=2, progress=False)
jepbt.train_population(task, config=jepbt.Config(population_size=1, chunk_size=1,
    num_generations=2, steps_per_generation=2, progress=False))
before = peak()
member = check_task(task, jepbt.strategies.epbt(), config)
print(check_memory(member, task, config, jax.devices()).num_bytes)
jepbt.train_population(task, config=config)
print(peak() - before)
"""


@pytest.mark.slow
def test_the_estimate_is_near_what_the_process_takes(tmp_path):
    """A factor of 1.5, beyond what one member, the library and compiling take.

    Compiling takes 100 to 300 MB of its own, so a first process does it.
    """
    settings = {"JAX_PLATFORMS": "cpu", "JAX_COMPILATION_CACHE_DIR": str(tmp_path)}
    for _ in ("compiles", "is measured"):
        done = subprocess.run(
            [sys.executable, "-c", SCRIPT],
            capture_output=True,
            text=True,
            check=True,
            env=os.environ | settings,
        )
    estimated, taken = map(int, done.stdout.split()[-2:])
    print(f"estimated {estimated / 1e6:.0f} MB, taken {taken / 1e6:.0f} MB")
    assert 1 / 1.5 < estimated / taken < 1.5
