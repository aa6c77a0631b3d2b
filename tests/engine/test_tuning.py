"""Chunk sizes are measured once, and what was measured is remembered."""

import dataclasses
import json
import time

import jax
import numpy as np
import optax
import pytest

import jepbt
from jepbt.engine import chunks, make_mesh, programs
from jepbt.engine.chunks import (
    choose_by_measuring,
    chunk_candidates,
    lower_tuned,
    program_key,
)
from jepbt.engine.member import check_task, count_step_flops


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty folder that remembers, and a process that does not yet."""
    monkeypatch.setattr(chunks, "_CHOSEN", {})
    before = jax.config.jax_compilation_cache_dir
    jax.config.update("jax_compilation_cache_dir", str(tmp_path))
    yield tmp_path
    jax.config.update("jax_compilation_cache_dir", before)


def sleeping(milliseconds, log):
    """Calls that take as long as said for each size."""

    def make_call(size, num_steps):
        log.append(size)
        return lambda: time.sleep(milliseconds[size] / 1000 * num_steps)

    return make_call


@pytest.mark.parametrize("num_members", [1, 2, 6, 12, 32, 97, 128, 4096])
@pytest.mark.parametrize("platform", ["cpu", "gpu", "tpu"])
def test_candidates_are_at_most_three_divisors(num_members, platform):
    candidates = chunk_candidates(num_members, platform)
    assert 1 <= len(set(candidates)) == len(candidates) <= 3
    assert all(num_members % size == 0 for size in candidates)
    first = {"cpu": range(1, 2), "gpu": [num_members], "tpu": range(1, 9)}
    assert candidates[0] in first[platform]


@pytest.mark.parametrize(
    ("milliseconds", "chosen"),
    [
        ({1: 4, 8: 2, 32: 3}, 8),  # twice as fast
        ({1: 4, 8: 8, 32: 2}, 32),
        ({1: 4, 8: 3.85, 32: 6}, 1),  # 4 % faster is not enough
        ({1: 4, 8: 8, 32: 12}, 1),
    ],
)
def test_the_default_stays_unless_another_is_a_tenth_faster(
    cache, milliseconds, chosen
):
    choice = choose_by_measuring([1, 8, 32], sleeping(milliseconds, []), "a")
    assert choice.size == chosen
    others = sorted({1, 8, 32} - {chosen})
    assert all(f"x over {other}" in choice.reason for other in others)


def test_what_was_measured_is_remembered_by_this_process_and_the_next(
    cache, monkeypatch
):
    log = []
    make_call = sleeping({1: 4, 8: 2}, log)
    assert choose_by_measuring([1, 8], make_call, "b").size == 8
    measured = len(log)
    assert choose_by_measuring([1, 8], make_call, "b").reason == "measured before"
    monkeypatch.setattr(chunks, "_CHOSEN", {})
    assert choose_by_measuring([1, 8], make_call, "b").size == 8
    assert len(log) == measured
    choose_by_measuring([1, 8], make_call, "another program")
    assert len(log) > measured


@pytest.mark.parametrize("content", ["", "{", "7", '"8"', "null", "\x00"])
def test_a_damaged_memory_is_measured_anew(cache, content):
    folder = cache / "jepbt-chunk-sizes"
    folder.mkdir()
    (folder / "c.json").write_text(content)
    make_call = sleeping({1: 4, 8: 2}, [])
    assert choose_by_measuring([1, 8], make_call, "c").size == 8
    assert json.loads((folder / "c.json").read_text()) == 8


def test_long_steps_spare_the_third_candidate(cache):
    log = []
    choose_by_measuring([1, 8, 32], sleeping({1: 30, 8: 20, 32: 1}, log), "d")
    assert 32 not in log


def test_a_key_tells_programs_apart():
    devices = jax.devices()
    keys = {program_key(text, devices) for text in ("a", "b")}
    keys.add(program_key("a", devices[:1]))
    assert len(keys) == 3
    assert program_key("a", devices) in keys


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.5, log=True)


def test_the_same_call_twice_gives_the_same_bits(cache, monkeypatch, tmp_path):
    monkeypatch.setattr(chunks, "choose_by_measuring", choose_by_measuring)
    images = np.random.default_rng(0).normal(size=(120, 6)).astype(np.float32)
    task = jepbt.classification(
        (images, (images[:, 0] > 0).astype(int)),
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=2, hidden=(8,)),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
    )
    sizes, fitness, weights = [], [], []
    for name in ("first", "second"):
        result = jepbt.train_population(
            task,
            population_size=8,
            num_generations=3,
            steps_per_generation=5,
            devices=jax.devices()[:1],
            progress=False,
            run_dir=tmp_path / name,
        )
        config = json.loads((tmp_path / name / "config.json").read_text())
        sizes.append(config["chunk_size"])
        fitness.append(result.history.fitness)
        weights.append(result.best.params["dense1"]["kernel"])
    assert sizes[0] == sizes[1] and sizes[0] in (1, 8)
    np.testing.assert_array_equal(*fitness)
    np.testing.assert_array_equal(*weights)


@pytest.mark.parametrize(
    ("width", "is_measured"),
    # 64 examples of 784 values: forward and both gradients but the images'.
    [(16, True), (512, False)],
)
def test_steps_that_keep_a_core_busy_are_not_measured(monkeypatch, width, is_measured):
    log = []

    def measure(candidates, *rest):
        log.append(candidates)
        return chunks.ChunkChoice(candidates[0], "measured")

    monkeypatch.setattr(chunks, "choose_by_measuring", measure)
    task = jepbt.classification(
        (np.zeros((80, 784), np.float32), np.arange(80) % 10),
        hparams=Hyper,
        model=jepbt.models.MLP(hidden=(width,)),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate),
    )
    config = jepbt.Config(population_size=4, batch_size=64, steps_per_generation=2)
    mesh = make_mesh(jax.devices()[:1])
    inputs = programs.place_inputs(task, 0, mesh)
    strategy = jepbt.strategies.epbt()
    flops = count_step_flops(task, check_task(task, strategy, config))
    _, choice = lower_tuned(task, strategy, config, inputs, mesh, flops)
    assert bool(log) == is_measured
    assert choice.size == 1
    assert ("MFLOP" in choice.reason) != is_measured
