"""Measures what populations cost by their size, model after model."""

from __future__ import annotations

import functools
import itertools
import time
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jepbt import datasets, models
from jepbt.benchmark.check.record import Finding
from jepbt.benchmark.check.sizes import RESNET, Size
from jepbt.benchmark.controls import population_program, prepare_training
from jepbt.benchmark.timing import matmul_peak, measure_in_turns, peak_rate
from jepbt.benchmark.workloads import classify, make_task, workload_named
from jepbt.engine.devices import is_host
from jepbt.engine.memory import DoesNotFit
from jepbt.tasks import Task

STEPS = 100
"""The steps of a generation that seconds are scaled to."""

PEAK = "cost/matmul peak"


def cost_parts(
    size: Size, findings: Mapping[str, Finding]
) -> dict[str, Callable[[], Finding]]:
    """Makes the parts: the matmul peak, then a population of each model and size."""
    parts: dict[str, Callable[[], Finding]] = {PEAK: _peak}
    for before, number in itertools.pairwise((None, *size.populations)):
        for model in size.models:
            parts[f"cost/{model} P={number}"] = functools.partial(
                _measure, size, findings, model, number, before
            )
    return parts


def _peak() -> Finding:
    devices = jax.devices()
    seconds = measure_in_turns(matmul_peak(devices), 5)
    # Other work on the machine only ever makes it slower.
    fastest = {name: spent.min(keepdims=True) for name, spent in seconds.items()}
    flops = peak_rate(fastest, len(devices))
    return Finding(None, {"GFLOP/s": round(flops / 1e9, 1)})


def _measure(
    size: Size,
    findings: Mapping[str, Finding],
    model: str,
    number: int,
    before: int | None,
) -> Finding:
    """Measures one population; `before` is the size of the next smaller one."""
    num_steps = size.num_steps
    if is_host(jax.devices()[0]):
        num_steps = size.num_steps_on_cpu
    if before is not None:
        smaller = findings[f"cost/{model} P={before}"].figures
        expected = smaller.get("seconds", np.inf) * num_steps / STEPS
        if expected * number / before > size.most_seconds:
            return Finding(None, {"note": "left out: it would take too long here"})
    try:
        prepared = prepare_training(make_task_of(model), number, num_steps)
    except DoesNotFit as error:
        return Finding(None, {"note": str(error)[:100]})
    seconds = time_call(population_program(prepared).run) / num_steps
    alone = STEPS * seconds
    if before is not None:
        alone = findings[f"cost/{model} P=1"].figures["seconds"]
    figures = {
        "seconds": STEPS * seconds,
        "samples/s": number * prepared.config.batch_size / seconds,
        "compile seconds": prepared.compile_seconds,
        "MB": prepared.memory_bytes / 1e6,
        "chunk": prepared.chunk.size,
        "cost of one": STEPS * seconds / alone,
    }
    if peak := findings[PEAK].figures.get("GFLOP/s"):
        figures["share of peak"] = number * prepared.step_flops / seconds / (1e9 * peak)
    return Finding(None, rounded(figures))


def time_call(run: Callable[[], object]) -> float:
    """Times a call three times, or once if it takes seconds, and takes the fastest."""
    run()
    best, spent = float("inf"), 0.0
    for _ in range(3):
        started = time.perf_counter()
        run()
        best = min(best, time.perf_counter() - started)
        spent += best
        if spent > 3:
            break
    return best


def make_task_of(model: str, compute_dtype: str = "float32") -> Task:
    """Makes the task of a model of the benchmark, or of a ResNet-20."""
    if model != RESNET:
        return make_task(workload_named(model), compute_dtype=compute_dtype)
    draw = np.random.default_rng(0)
    images = draw.integers(0, 256, (2000, 32, 32, 3), dtype=np.uint8)
    dataset = datasets.from_arrays((images, draw.integers(0, 10, 2000)), num_classes=10)
    return classify(dataset, models.ResNet(depth=20), compute_dtype=compute_dtype)


def rounded(figures: Mapping[str, float]) -> dict[str, float]:
    """Rounds numbers to four digits, and leaves whole ones as they are."""
    return {
        name: float(f"{value:.4g}") if isinstance(value, float) else value
        for name, value in figures.items()
    }
