"""Times functions in turns, here or in processes of their own."""

from __future__ import annotations

import contextlib
import multiprocessing
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from typing import Any, NamedTuple

import jax
import numpy as np

from jepbt.engine.devices import is_host

MATMUL_SIZE, MATMUL_SIZE_ON_CPU = 8192, 2048
"""The rows and columns of the matrices that measure the hardware's peak.

An accelerator multiplies smaller ones in less time than a call takes.
"""


class Start(NamedTuple):
    """The start of all controls, as NumPy arrays alone, to cross processes."""

    params: dict[str, dict[str, np.ndarray]]  # [P, ...] the weights, by layer
    learning_rate: np.ndarray  # f32[P]
    batches: dict[str, np.ndarray]  # [S, B, ...] images and labels

    def share(self, index: int, count: int) -> Start:
        """Takes every `count`-th member, from `index` on."""
        members = (self.params, self.learning_rate)
        return Start(*jax.tree.map(lambda x: x[index::count], members), self.batches)


class Control(NamedTuple):
    """One way to train a population; of those with one name the fastest is shown."""

    run: Callable[[], None]  # trains every member `num_steps` further
    num_steps: int
    params: Callable[[], Any] | None = None  # returns the weights [P, ...]
    name: str = ""
    note: str = ""  # the place or the manner in which it runs


def measure_in_turns(
    runs: Mapping[str, Callable[[], object]], num_rounds: int
) -> dict[str, np.ndarray]:
    """Times functions round by round, so that other work on the machine hits all.

    Each is called once beforehand, to warm up, and returns when its work is done.
    Every round starts with another one. Returns seconds `[num_rounds]` by name.
    """
    names = list(runs)
    seconds = {name: np.empty(num_rounds) for name in names}
    for run in runs.values():
        run()
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
    """Prepares calls that multiply large f32 matrices, as fast as the hardware can.

    A CPU device can use all cores by itself, or each device its own: which is faster
    depends on the machine, so both are measured.
    """
    multiply = jax.jit(lambda matrix: matrix @ matrix)
    shape = 2 * (_matmul_size(),)
    host = np.random.default_rng(0).normal(size=shape).astype(np.float32)
    placed = [jax.device_put(host, device) for device in devices]
    return {
        "one": lambda: jax.block_until_ready(multiply(placed[0])),
        "each": lambda: jax.block_until_ready(list(map(multiply, placed))),
    }


def _matmul_size() -> int:
    return MATMUL_SIZE_ON_CPU if is_host(jax.devices()[0]) else MATMUL_SIZE


def peak_rate(seconds: Mapping[str, np.ndarray], num_devices: int) -> float:
    """Takes the larger FLOP/s of `matmul_peak`'s calls, each a median over rounds."""
    flops = 2.0 * _matmul_size() ** 3
    one, each = (float(np.median(seconds[name])) for name in ("one", "each"))
    return max(flops / one, num_devices * flops / each)


@contextlib.contextmanager
def start_workers(number: int) -> Iterator[list[ProcessPoolExecutor]]:
    """Makes processes with one CPU device each, which start at their first use.

    They keep the controls that are built in them.
    """
    spawn = multiprocessing.get_context("spawn")
    with contextlib.ExitStack() as stack:
        workers = [
            ProcessPoolExecutor(1, spawn, _use_one_device) for _ in range(number)
        ]
        yield [stack.enter_context(worker) for worker in workers]


def _use_one_device() -> None:
    jax.config.update("jax_num_cpu_devices", 1)


_BUILT: dict[Callable[..., Control], Control] = {}


def build_all(
    workers: Sequence[ProcessPoolExecutor],
    builder: Callable[..., Control],
    arguments: Sequence[tuple[Any, ...]],
) -> Callable[[], None]:
    """Builds a control in each worker, and returns a call that runs them side by side.

    A worker forgets what the same builder built before.
    """
    for future in [
        worker.submit(_build, builder, given)
        for worker, given in zip(workers, arguments, strict=True)
    ]:
        future.result()

    def run():
        for future in [worker.submit(_run, builder) for worker in workers]:
            future.result()

    return run


def _build(builder: Callable[..., Control], args: tuple[Any, ...]) -> None:
    _BUILT.pop(builder, None)  # frees its memory first
    _BUILT[builder] = builder(*args)


def _run(builder: Callable[..., Control]) -> None:
    _BUILT[builder].run()
