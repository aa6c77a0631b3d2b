"""Times functions in turns, here or in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

MATMUL_SIZE = 2048
"""The rows and columns of the matrices that measure the hardware's peak."""


class Start(NamedTuple):
    """The start of all controls, as NumPy arrays alone, to cross processes.

    Attributes:
        params: `[P, ...]` the members' weights, by layer.
        learning_rate: `f32[P]`.
        batches: `[S, B, ...]` images and labels.
    """

    params: dict[str, dict[str, np.ndarray]]
    learning_rate: np.ndarray
    batches: dict[str, np.ndarray]

    def share(self, index: int, count: int) -> Start:
        """Takes every `count`-th member, from `index` on."""
        members = (self.params, self.learning_rate)
        return Start(*jax.tree.map(lambda x: x[index::count], members), self.batches)


class Control(NamedTuple):
    """One way to train a population, warmed up.

    Attributes:
        run: trains every member `num_steps` further, and returns when that is done.
        params: returns the members' weights, each with the leading axis `P`.
        num_steps: the training steps of each member in a run.
        name: the name of its row; of those with one name the fastest is shown.
        note: the place or the manner in which it runs.
    """

    run: Callable[[], None]
    params: Callable[[], Any] | None
    num_steps: int
    name: str = ""
    note: str = ""


def measure_in_turns(
    runs: Mapping[str, Callable[[], object]], num_rounds: int
) -> dict[str, np.ndarray]:
    """Times functions round by round, so that other work on the machine hits all.

    Args:
        runs: functions by name, warmed up, that return when their work is done.
        num_rounds: the number of calls of each; every round starts with another one.

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


def matmul_peak(devices: Sequence[jax.Device]) -> dict[str, Callable[[], object]]:
    """Prepares the measurement of the most that the hardware can do.

    A CPU device can use all cores by itself, or each device its own: which is faster
    depends on the machine, so both are measured.

    Args:
        devices: the devices that are used together.

    Returns:
        Calls to time, by name, that multiply large f32 matrices.
    """
    multiply = jax.jit(lambda left, right: left @ right)
    shape = (MATMUL_SIZE, MATMUL_SIZE)
    host = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    runs = {}
    for name, used in {"one": devices[:1], "each": devices}.items():
        placed = [jax.device_put(host, device) for device in used]

        def run(placed=placed):
            jax.block_until_ready([multiply(matrix, matrix) for matrix in placed])

        run()
        runs[name] = run
    return runs


def peak_rate(seconds: Mapping[str, np.ndarray], num_devices: int) -> float:
    """Takes the larger FLOP/s of `matmul_peak`'s calls, each a median over rounds."""
    flops = 2.0 * MATMUL_SIZE**3
    one, each = (float(np.median(seconds[name])) for name in ("one", "each"))
    return max(flops / one, num_devices * flops / each)


class Worker:
    """A spawned process in which controls are built and run.

    Use it as a context: leaving it ends the process.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        spawn = multiprocessing.get_context("spawn")
        self._pool = ProcessPoolExecutor(1, mp_context=spawn)
        # JAX reads its variables while it is imported, so they are set at the start.
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            self._pool.submit(os.getpid)
        finally:
            os.environ.clear()
            os.environ.update(before)

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown()

    def build(self, builder: Callable[..., Control], *args: Any) -> Future[int]:
        """Starts building a control, known by its builder, whose result is its steps.

        What was built by that builder before is dropped.
        """
        return self._pool.submit(_build, builder, args)

    def run(self, builder: Callable[..., Control]) -> Future[None]:
        """Starts a run of the control that this builder built."""
        return self._pool.submit(_run, builder)


def run_all(workers: Sequence[Worker], builder: Callable[..., Control]) -> None:
    """Runs the workers' controls of one builder side by side."""
    for future in [worker.run(builder) for worker in workers]:
        future.result()


_CONTROLS: dict[Callable[..., Control], Control] = {}


def _build(builder: Callable[..., Control], args: tuple[Any, ...]) -> int:
    _CONTROLS.pop(builder, None)  # frees its memory first
    _CONTROLS[builder] = builder(*args)
    return _CONTROLS[builder].num_steps


def _run(builder: Callable[..., Control]) -> None:
    _CONTROLS[builder].run()
