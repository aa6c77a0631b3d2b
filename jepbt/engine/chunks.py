"""How many members a device should compute together: measured once, then remembered."""

from __future__ import annotations

import dataclasses
import functools
import hashlib
import json
import os
import pathlib
import platform as machine
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import jaxlib
import numpy as np
from jax.sharding import Mesh

from jepbt.config import Config
from jepbt.engine.devices import compiler_options
from jepbt.engine.generation import make_phases
from jepbt.engine.programs import Programs, lower
from jepbt.engine.state import Inputs
from jepbt.strategies import Strategy
from jepbt.tasks import Task

NUM_ROUNDS = 5
SHORTEST = 0.05
"""Seconds that a measured call should take at least, or its overhead would count."""

MOST_STEPS = 512
"""Of a measured call, however short they are."""

GAIN = 1.1
"""How much faster than the default another size must be to be taken."""


BUSY = 1e8
"""FLOPs of a step from which one member keeps a CPU core busy by itself.

Measured: more members at once gain 1.1 to 1.3 times up to 7 MFLOP a step, and lose as
much from 26 MFLOP on, with dense layers and convolutions alike."""


class ChunkChoice(NamedTuple):
    """The members that a device computes together, and why.

    Attributes:
        size: a divisor of the members of a device.
        reason: one line for people.
    """

    size: int
    reason: str


def chunk_candidates(num_members: int, platform: str) -> list[int]:
    """Lists the sizes worth measuring, the default first.

    Args:
        num_members: of one device.
        platform: of the devices.

    Returns:
        At most three divisors of `num_members`: on CPU one member at a time first,
        which a core's caches favour; on TPU up to eight, whose activations the chip's
        own memory holds (so its compiler estimates); elsewhere all of them.

    Example:
        >>> chunk_candidates(32, "cpu"), chunk_candidates(6, "gpu")
        ([1, 8, 32], [6, 1])
    """
    divisors = [n for n in range(1, num_members + 1) if num_members % n == 0]
    few = max(n for n in divisors if n <= 8)
    many = max(n for n in divisors if n <= 64)
    if platform == "cpu":
        return sorted({1, few, many})
    if platform == "tpu":
        return [few, *sorted({divisors[-1], 1} - {few}, reverse=True)]
    return sorted({divisors[-1], many, 1}, reverse=True)


def choose_by_measuring(
    candidates: list[int],
    make_call: Callable[[int, int], Callable[[], None]],
    key: str,
) -> ChunkChoice:
    """Times each candidate once for all runs of a program on this machine.

    Args:
        candidates: from `chunk_candidates`, the default first.
        make_call: `(chunk_size, num_steps) -> call`, compiles a short generation;
            `call()` runs it to its end.
        key: from `program_key`; what was chosen under it before is chosen again, so
            that the same call gives the same bits.

    Returns:
        The default, unless another is at least `GAIN` times as fast.
    """
    if len(candidates) == 1:
        return ChunkChoice(candidates[0], "the only way to divide them")
    known = _recall(key)
    if known in candidates:
        return ChunkChoice(known, "measured before")
    start = time.perf_counter()
    calls = _warm_calls(candidates, make_call)
    seconds = {size: [] for size in calls}
    for _ in range(NUM_ROUNDS):  # in turns, so that other work slows all alike
        for size, call in calls.items():
            seconds[size].append(_time(call))
    best = {size: min(times) for size, times in seconds.items()}  # noise only adds
    default, fastest = candidates[0], min(best, key=best.get)
    size = fastest if best[default] >= GAIN * best[fastest] else default
    _remember(key, size)
    rest = [other for other in calls if other != size]
    gains = ", ".join(f"{best[other] / best[size]:.1f}x over {other}" for other in rest)
    spent = time.perf_counter() - start
    return ChunkChoice(size, f"{gains}; measured in {spent:.0f} s")


def program_key(text: str, devices: list[jax.Device]) -> str:
    """Names a program on a machine.

    Args:
        text: of the lowered program, which holds its sizes but no data.
        devices: that it is to run on.

    Returns:
        64 hexadecimal digits.

    Example:
        >>> import jax
        >>> len(program_key("module {}", jax.devices()))
        64
    """
    where = (
        [device.device_kind for device in devices],
        machine.node(),
        machine.processor(),
        os.cpu_count(),
        jaxlib.__version__,
    )
    return hashlib.sha256(f"{text}{where}".encode()).hexdigest()


def _warm_calls(candidates, make_call) -> dict[int, Callable[[], None]]:
    """Compiles side by side, with as many steps as make a call long enough.

    Where two steps of the default are long already, overhead is not what limits them,
    and the third candidate is not worth its compilation.
    """

    def warm(size, num_steps):
        call = make_call(size, num_steps)
        call()
        return call

    num_steps = 2
    first = warm(candidates[0], num_steps)
    seconds = _time(first)
    if seconds < SHORTEST:
        num_steps = min(MOST_STEPS, int(num_steps * SHORTEST / seconds) + 1)
        first = warm(candidates[0], num_steps)
    else:
        candidates = candidates[:2]
    with ThreadPoolExecutor(len(candidates)) as pool:
        rest = pool.map(lambda size: warm(size, num_steps), candidates[1:])
        return dict(zip(candidates, [first, *rest], strict=True))


def _time(call: Callable[[], None]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


_CHOSEN: dict[str, int] = {}


def _file(key: str) -> pathlib.Path | None:
    folder = jax.config.jax_compilation_cache_dir
    return folder and pathlib.Path(folder) / "jepbt-chunk-sizes" / f"{key}.json"


def _recall(key: str) -> Any:
    if key in _CHOSEN:
        return _CHOSEN[key]
    try:
        return json.loads(_file(key).read_text())
    except (OSError, ValueError, AttributeError):  # none yet, damaged, or no folder
        return None


def _remember(key: str, size: int) -> None:
    _CHOSEN[key] = size
    path = _file(key)
    if path is None:
        return
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_suffix(f".{os.getpid()}")
        temporary.write_text(json.dumps(size))
        temporary.replace(path)
    except (
        OSError
    ):  # a cache that cannot be written to costs the next run a measurement
        return


def lower_tuned(
    task: Task,
    strategy: Strategy,
    config: Config,
    inputs: Inputs,
    mesh: Mesh,
    step_flops: float = 0.0,
) -> tuple[Programs, ChunkChoice]:
    """Lowers the programs with the chunk size given, or with the one measured best."""
    platform = mesh.devices.flat[0].platform
    candidates = chunk_candidates(config.population_size // mesh.size, platform)

    def lower_with(chunk_size, settings=config, only=Programs._fields):
        phases = make_phases(task, strategy, settings, mesh=mesh, chunk_size=chunk_size)
        return lower(phases, inputs, mesh, only)

    if config.chunk_size != "auto":
        return lower_with(config.chunk_size), ChunkChoice(config.chunk_size, "as given")
    lowered = lower_with(candidates[0])
    if jax.process_count() > 1:  # each would measure something else
        reason = "the default; measured only in a single process"
        return lowered, ChunkChoice(candidates[0], reason)
    if platform == "cpu" and step_flops >= BUSY:
        reason = f"a step of {step_flops / 1e6:.0f} MFLOP keeps a core busy by itself"
        return lowered, ChunkChoice(candidates[0], reason)
    options = compiler_options(platform)
    start = functools.cache(lambda: lowered.init.compile(options)(inputs))

    def make_call(chunk_size, num_steps):
        settings = dataclasses.replace(config, steps_per_generation=num_steps)
        program = lower_with(chunk_size, settings, ("train",)).train.compile(options)
        state = jax.tree.map(jnp.copy, start())

        def call():
            nonlocal state
            state, _ = jax.block_until_ready(program(inputs, np.int32(0), state))

        return call

    key = program_key(lowered.train.as_text(), list(mesh.devices.flat))
    choice = choose_by_measuring(candidates, make_call, key)
    if choice.size != candidates[0]:
        lowered = lower_with(choice.size)
    return lowered, choice
