"""Measures what populations cost by their size, model after model."""

from __future__ import annotations

import functools
import time
from collections.abc import Callable
from typing import Any

import jax
import numpy as np
import optax

from jepbt import datasets, losses, models
from jepbt.benchmark.check.record import Finding, Record
from jepbt.benchmark.check.sizes import RESNET, Size, workload_named
from jepbt.benchmark.controls import population_program
from jepbt.benchmark.timing import matmul_peak, measure_in_turns, peak_rate
from jepbt.benchmark.workloads import MOMENTUM, LearningRate, make_task
from jepbt.engine.devices import is_host
from jepbt.engine.memory import DoesNotFit
from jepbt.tasks import Task, classification
from jepbt.training import prepare

STEPS = 100
"""The steps of a generation that seconds are scaled to."""

PEAK = "matmul peak"


def cost_parts(size: Size) -> dict[str, Callable[[Record], Finding]]:
    """Makes the parts: the matmul peak, then a population of each model and size."""
    parts: dict[str, Callable[[Record], Finding]] = {PEAK: lambda record: _peak()}
    for i, number in enumerate(size.populations):
        for model in size.models:
            before = size.populations[i - 1] if i else None
            parts[f"{model} P={number}"] = functools.partial(
                _measure, size=size, model=model, number=number, before=before
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
    record: Record, *, size: Size, model: str, number: int, before: int | None
) -> Finding:
    num_steps = size.num_steps
    if is_host(jax.devices()[0]):
        num_steps = size.num_steps_on_cpu
    smaller = record.findings.get(f"cost/{model} P={before}")
    if smaller is not None:
        expected = smaller.figures.get("seconds", np.inf) * num_steps / STEPS
        expected *= number / (before or 1)
        if expected > size.most_seconds:
            return Finding(None, {"note": "left out: it would take too long here"})
    try:
        prepared = prepare(
            make_task_of(model),
            strategy="random_search",
            population_size=number,
            num_generations=1,
            steps_per_generation=num_steps,
        )
    except DoesNotFit as error:
        return Finding(None, {"note": str(error)[:100]})
    seconds = time_call(population_program(prepared).run) / num_steps
    peak = record.findings.get(f"cost/{PEAK}")
    one = record.findings.get(f"cost/{model} P=1")
    figures: dict[str, Any] = {
        "seconds": STEPS * seconds,
        "samples/s": number * prepared.config.batch_size / seconds,
        "compile seconds": prepared.compile_seconds,
        "MB": prepared.memory_bytes / 1e6,
        "chunk": prepared.chunk.size,
    }
    if number == 1 or one is not None:
        alone = STEPS * seconds if number == 1 else one.figures["seconds"]
        figures["cost of one"] = STEPS * seconds / alone
    if peak is not None and "GFLOP/s" in peak.figures:
        rate = number * prepared.step_flops / seconds
        figures["share of peak"] = rate / (1e9 * peak.figures["GFLOP/s"])
    return Finding(None, {name: _round(value) for name, value in figures.items()})


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
    return classification(
        datasets.from_arrays((images, draw.integers(0, 10, 2000)), num_classes=10),
        hparams=LearningRate,
        model=models.ResNet(depth=20),
        loss=lambda h: losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.learning_rate, momentum=MOMENTUM),
        compute_dtype=compute_dtype,
    )


def _round(value: Any) -> Any:
    return float(f"{value:.4g}") if isinstance(value, float) else value
