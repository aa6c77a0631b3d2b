"""Checks that what jepbt computes on a device is right."""

from __future__ import annotations

import dataclasses
import functools
import pathlib
import tempfile
from collections.abc import Callable
from typing import Any, TypeAlias

import jax
import jax.numpy as jnp
import numpy as np
import optax

from jepbt import datasets, losses, models
from jepbt.benchmark import controls
from jepbt.benchmark.check.record import Finding
from jepbt.benchmark.check.reference import train_in_numpy
from jepbt.benchmark.check.sizes import Size
from jepbt.benchmark.parts import first_generation
from jepbt.benchmark.speed import pytorch_start
from jepbt.benchmark.timing import Control, Start
from jepbt.benchmark.workloads import Workload, make_task, workload_named
from jepbt.engine.devices import is_host
from jepbt.hyperparameters import HyperParameters, Loss, hparam, taylor_hparam
from jepbt.tasks import Task, classification
from jepbt.training import Result, train_population

Train: TypeAlias = Callable[..., Result]
"""Trains the same small run, with other settings if some are given."""

CLOSE = 2e-4
"""The largest gap between weights that rounding explains, after some 20 steps."""

CLOSE_FITNESS = 0.03
"""The same between accuracies on 1,000 images after a first generation."""

TOO_HIGH = 0.05
"""The learning rate above which a member's loss is nan, where members must fail."""


@dataclasses.dataclass
class Hyper(HyperParameters):
    """The search space of the runs: a learning rate and a loss."""

    learning_rate: float = hparam(0.05, min=1e-3, max=1.0, log=True)
    loss: Loss = taylor_hparam()


@dataclasses.dataclass
class Rate(HyperParameters):
    """The search space of a run whose first member, at the default, fails at once."""

    learning_rate: float = hparam(2 * TOO_HIGH, min=1e-3, max=1.0, log=True)


def right_parts(size: Size) -> dict[str, Callable[[], Finding]]:
    """Makes the parts, by the claim that each checks."""

    @functools.cache
    def task() -> Task:
        return _classify(Hyper, lambda h: losses.taylor(h.loss))

    def train(**settings: Any) -> Result:
        # A GPU's own precision of float32 is lower, and small gaps grow by training.
        with jax.default_matmul_precision("highest"):
            chosen = size.run | settings
            return train_population(task(), seed=3, progress=False, **chosen)

    first = functools.cache(train)
    checks = {
        "memory is estimated well": lambda: _check_memory(size),
        "a member equals plain NumPy in float64": lambda: _check_plain(size),
        "a population of MLPs equals its members alone": lambda: _check_alone(
            size, "mlp"
        ),
        "a population of CNNs equals its members alone": lambda: _check_alone(
            size, "cnn"
        ),
        "the same call twice gives the same bits": lambda: _compare_bits(
            first(), train()
        ),
        "chunks change no draw": lambda: _compare_generations(
            first(), train(chunk_size=1, num_generations=1, devices=jax.devices()[:1])
        ),
        "the CPU's first generation is the same": lambda: _check_cpu(first, train),
        "resumed equals uninterrupted": lambda: _check_resumed(first, train),
        "members that fail are replaced": lambda: _check_quarantine(size),
    }
    return {f"right/{name}": check for name, check in checks.items()}


def _classify(hparams: type[HyperParameters], loss: Any) -> Task:
    return classification(
        datasets.load("fashion_mnist"),
        hparams=hparams,
        model=models.MLP(num_classes=10, hidden=(32,)),
        loss=loss,
        optimizer=lambda h: optax.sgd(h.learning_rate, momentum=0.9, nesterov=True),
    )


def _check_memory(size: Size) -> Finding:
    """Compares what programs reserve with the most that the device has held."""
    device = jax.devices()[0]
    if is_host(device) or "peak_bytes_in_use" not in (device.memory_stats() or {}):
        return Finding(None, {"note": "the device does not tell what it holds"})
    before = device.memory_stats()["bytes_in_use"]
    task = make_task(workload_named("cnn"))
    prepared = controls.prepare_training(task, size.num_members, num_steps=2)
    first_generation(prepared)
    held = device.memory_stats()["peak_bytes_in_use"] - before
    estimated = prepared.memory_bytes
    figures = {"estimated MB": round(estimated / 1e6), "held MB": round(held / 1e6)}
    return Finding(bool(0.5 * estimated <= held <= 1.1 * estimated), figures)


def _check_plain(size: Size) -> Finding:
    """Trains members with jepbt, and with a loop that knows nothing of JAX."""
    workload = workload_named("mlp")
    with jax.default_matmul_precision("highest"):
        population, start = _prepare(size, workload)
        population.run()
    expected = train_in_numpy(pytorch_start(workload, start))
    # A unit whose input is 0 but for rounding may be on in one and off in the other,
    # which moves its own weights: one of 256 here, so 99 % of all must be close.
    return _compare_weights(population.params(), expected, share=0.99)


def _check_alone(size: Size, name: str) -> Finding:
    workload = workload_named(name)
    with jax.default_matmul_precision("highest"):
        population, start = _prepare(size, workload)
        alone = controls.loop_over_scans(workload, start)
        population.run()
        alone.run()
    return _compare_weights(population.params(), alone.params())


def _prepare(size: Size, workload: Workload) -> tuple[Control, Start]:
    """Prepares a population, and copies the weights and batches it starts with."""
    prepared = controls.prepare_training(
        make_task(workload), size.run["population_size"], num_steps=10
    )
    start = controls.make_start(prepared)
    return controls.population_program(prepared), start


def _compare_weights(ours: Any, theirs: Any, share: float = 1.0) -> Finding:
    """Tells whether a share of the weights of every layer are close."""
    gaps = jax.tree.map(
        lambda a, b: np.quantile(np.abs(a - b), share, method="higher"), ours, theirs
    )
    gap = np.max(jax.tree.leaves(gaps))
    name = "largest gap of a weight" if share == 1 else f"gap of {share:.0%} of weights"
    return Finding(bool(gap <= CLOSE), {name: _plain(gap)})


def _plain(gap: np.ndarray) -> float | str:
    """Makes a JSON value of a number that may be nan."""
    return float(gap) if np.isfinite(gap) else str(gap)


def _compare_bits(one: Result, other: Result) -> Finding:
    """Tells whether two runs have the same bits of fitness, parents and draws."""
    histories = one.history, other.history
    pairs = [(h.fitness, h.parents, h.hparams["learning_rate"]) for h in histories]
    is_same = all(
        np.array_equal(a, b, equal_nan=a.dtype.kind == "f")
        for a, b in zip(*pairs, strict=True)
    )
    return Finding(is_same, {})


def _check_cpu(first: Train, train: Train) -> Finding:
    if is_host(jax.devices()[0]):
        return Finding(None, {"note": "this is the CPU"})
    return _compare_generations(first(), train(devices="cpu", num_generations=1))


def _compare_generations(first: Result, other: Result) -> Finding:
    """Compares draws, which must be equal, and fitness, up to rounding."""
    one, two = (result.history.fitness[0] for result in (first, other))
    rates = [r.history.hparams["learning_rate"][0] for r in (first, other)]
    gap, same = np.abs(one - two).max(), bool(np.array_equal(*rates))
    figures = {"largest gap of a fitness": _plain(gap), "same draws": same}
    return Finding(same and bool(gap <= CLOSE_FITNESS), figures)


def _check_resumed(first: Train, train: Train) -> Finding:
    with tempfile.TemporaryDirectory() as folder:
        where = {"run_dir": pathlib.Path(folder, "run")}
        train(**where, max_seconds=1e-9)  # ends after its first generation
        return _compare_bits(first(), train(**where, resume=True))


def _check_quarantine(size: Size) -> Finding:
    """Trains members of which some fail at once: no child may have such a parent."""

    def loss(h):
        spoilt = jnp.where(h.learning_rate > TOO_HIGH, jnp.nan, 1.0)
        return lambda logits, labels: spoilt * losses.cross_entropy(logits, labels)

    task = _classify(Rate, loss)
    history = train_population(task, seed=3, progress=False, **size.run).history
    failed = np.isnan(history.fitness)
    orphans = [
        bool(before[parents].any())
        for before, parents in zip(failed, history.parents[1:], strict=False)
    ]
    figures = {"failed by generation": failed.sum(1).tolist()}
    return Finding(bool(failed[:-1].any() and not any(orphans)), figures)
