"""Times functions in turns, here or in processes of their own."""

from __future__ import annotations

import multiprocessing
import os
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

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


class Worker:
    """A spawned process with a control built in it.

    Messages go over a pipe; `start` and `wait` are apart, so that several workers run
    side by side. Use it as a context: leaving it ends the process.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end,), daemon=True)
        # JAX reads its variables while it is imported, which is before `_serve` runs.
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        end.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.terminate()  # it holds nothing worth a tidy end
        self._process.join()

    def build(self, builder: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Starts building a control; `wait` returns when it is warm."""
        self._pipe.send(("build", builder, args, kwargs))

    def start(self, name: str = "run") -> None:
        """Starts a function of the control."""
        self._pipe.send((name,))

    def wait(self) -> Any:
        """Waits for what was started, and returns its result.

        Raises:
            RuntimeError: if it failed in the process; the message has its traceback.
        """
        try:
            is_done, result = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("the process of a control died.") from error
        if not is_done:
            raise RuntimeError(result)
        return result


def run_all(workers: Sequence[Worker]) -> None:
    """Runs all workers' controls side by side."""
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait()


def _serve(pipe: Any) -> None:
    control = None
    while True:
        try:
            name, *rest = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if name == "build":
                builder, args, kwargs = rest
                control = builder(*args, **kwargs)
                pipe.send((True, control.num_steps))
            else:
                pipe.send((True, getattr(control, name)()))
        except KeyboardInterrupt:
            return
        except Exception:
            pipe.send((False, traceback.format_exc()))
