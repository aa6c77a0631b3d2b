"""Measuring: in turns, against the machine's own peak, with the work counted."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import jax
import numpy as np


def measure_in_turns(
    runs: Mapping[str, Callable[[], object]], num_rounds: int
) -> dict[str, np.ndarray]:
    """Times functions round by round, so that other work on the machine hits all.

    Args:
        runs: functions that return when their work is done, warmed up.
        num_rounds: how often each is called; every round starts with another one.

    Returns:
        Seconds `[num_rounds]` by name.

    Example:
        >>> seconds = measure_in_turns({"sum": lambda: sum(range(10))}, 3)
        >>> seconds["sum"].shape
        (3,)
    """
    names = list(runs)
    seconds = {name: np.empty(num_rounds) for name in names}
    for number in range(num_rounds):
        first = number % len(names)
        for name in names[first:] + names[:first]:
            # Threads that still spin after the last one's work would take its cores.
            time.sleep(0.005)
            start = time.perf_counter()
            runs[name]()
            seconds[name][number] = time.perf_counter() - start
    return seconds


class Peak(NamedTuple):
    """Two ways to keep all cores busy with one large f32 matmul after another.

    Attributes:
        runs: by name.
        flops: of one call of each.
    """

    runs: dict[str, Callable[[], object]]
    flops: dict[str, float]


def matmul_peak(devices: Sequence[jax.Device], size: int = 2048) -> Peak:
    """Prepares the measurement of what the hardware can do at most.

    A CPU device can use all cores by itself, or each device its own: which is faster
    depends on the machine, so both are measured.

    Args:
        devices: that are used together.
        size: of the square matrices.

    Returns:
        What to call, warmed up; the peak is the largest FLOP/s of them.
    """
    multiply = jax.jit(lambda left, right: left @ right)
    host = np.random.default_rng(0).normal(size=(size, size)).astype(np.float32)
    runs, flops = {}, {}
    for name, used in {"one": devices[:1], "each": devices}.items():
        placed = [jax.device_put(host, device) for device in used]

        def run(placed=placed):
            jax.block_until_ready([multiply(matrix, matrix) for matrix in placed])

        run()
        runs[name], flops[name] = run, 2.0 * size**3 * len(used)
    return Peak(runs, flops)


def best_rate(peak: Peak, seconds: Mapping[str, np.ndarray]) -> float:
    """Takes the larger FLOP/s, each the median over the rounds."""
    return max(peak.flops[name] / np.median(seconds[name]) for name in peak.runs)
