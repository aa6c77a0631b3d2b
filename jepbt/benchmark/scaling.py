"""Measures what a population costs by its size, on the user's task and devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax
import numpy as np

from jepbt import config as configs
from jepbt.arguments import check_whole
from jepbt.benchmark.parts import BRIEF, Parts
from jepbt.benchmark.reports import ScalingReport, ScalingRow, Spread
from jepbt.benchmark.timing import matmul_peak, measure_in_turns, peak_rate
from jepbt.config import Config
from jepbt.engine.devices import choose_devices, largest_divisor
from jepbt.engine.member import decide_batch_size, trace_member
from jepbt.engine.memory import DoesNotFit
from jepbt.strategies import Strategy, resolve_strategy
from jepbt.tasks import Task
from jepbt.training import prepare

FLOPS_PER_CALL = 3e10
"""About 0.3 s of a CPU for a timed call: long beside the errors of its clock."""

FEWEST_STEPS = 8
"""At least this many steps are timed, unless a generation has fewer."""


def scaling(
    task: Task,
    *,
    max_population: int = 64,
    steps_per_generation: int = 100,
    strategy: str | Strategy = "epbt",
    batch_size: int | None = None,
    chunk_size: int | str = "auto",
    num_rounds: int = 5,
    devices: str | Sequence[jax.Device] | None = None,
) -> ScalingReport:
    """Measures populations of 1, 2, 4, ... members of a task, in turns.

    Each size runs the programs that `train_population` would run. Of a generation's
    steps as many are timed as take about 0.3 s, and the time is scaled to all of them.
    The machine's matmul peak is measured in the same turns. Shuffling the examples,
    once a generation, counts in its seconds, and not in the share of the peak. The
    largest population is also trained in chunks of other sizes, to tell which
    `chunk_size` is the fastest for this task.

    Args:
        task: the task, from `classification` for example.
        max_population: the largest size; itself measured if it is no power of 2.
        steps_per_generation: the steps that a generation's seconds are scaled to.
        strategy: the strategy between generations, by name or from `strategies`.
        batch_size: the number of examples in a training step; `None` takes the task's.
        chunk_size: a size or "auto", as in `Config`; a size that does not divide a
            device's members becomes the next smaller one that does.
        num_rounds: the number of measurements of each size.
        devices: a platform's name or a list of devices; all that JAX has if left out.

    Returns:
        A `ScalingReport`: `print` it, `.to_json()`, or `jepbt.plots.scaling(report)`.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if a value is not allowed; or if not even one member fits.

    Example:
        >>> import jepbt
        >>> task = jepbt.classification("fashion_mnist")
        >>> jepbt.scaling(task, max_population=16)  # doctest: +SKIP
    """
    check_whole("", "max_population", max_population, 1)
    config = Config(
        population_size=max_population,
        num_generations=2,
        steps_per_generation=steps_per_generation,
        batch_size=batch_size,
        chunk_size=chunk_size,
        progress=False,
    )
    configs.check(config)
    check_whole("", "num_rounds", num_rounds, 1)
    strategy = resolve_strategy(strategy)
    offered = choose_devices(devices, 0)
    config = decide_batch_size(task, config)
    flops = trace_member(task, strategy, config).step_flops
    sizes, notes = _prepare_sizes(task, strategy, config, flops, offered)
    chunks = _other_chunks(sizes[-1], notes)
    calls = matmul_peak(offered)
    calls |= {f"chunk {chunk}": call for chunk, call in chunks.items()}
    for i, size in enumerate(sizes):
        calls |= {f"{name} {i}": call for name, call in size.calls.items()}
    seconds = measure_in_turns(calls, num_rounds)
    peak_flops = peak_rate(seconds, len(offered))
    used = seconds[f"train {len(sizes) - 1}"]
    by_chunk = {chunk: seconds[f"chunk {chunk}"] for chunk in chunks}
    by_chunk[sizes[-1].prepared.chunk.size] = used
    return ScalingReport(
        devices=f"{len(offered)} x {offered[0].device_kind}",
        steps_per_generation=steps_per_generation,
        batch_size=config.batch_size,
        num_rounds=num_rounds,
        peak_flops=peak_flops,
        step_flops=flops,
        rows=_make_rows(sizes, seconds, steps_per_generation, flops, peak_flops),
        notes=tuple(notes),
        chunk_costs={
            chunk: Spread.of(spent / used) for chunk, spent in sorted(by_chunk.items())
        },
    )


def population_sizes(largest: int) -> list[int]:
    """Lists 1, 2, 4, ... up to a size, and the size itself."""
    return sorted({2**power for power in range(largest.bit_length())} | {largest})


def chunk_candidates(num_members: int) -> list[int]:
    """Lists the chunk sizes worth measuring: one, about eight, and all members."""
    return sorted({1, largest_divisor(num_members, 8), num_members})


def _prepare_sizes(
    task: Task,
    strategy: Strategy,
    config: Config,
    flops: float,
    devices: Sequence[jax.Device],
) -> tuple[list[Parts], list[str]]:
    """Compiles one run for each size until one does not fit, with notes on each."""
    sizes: list[Parts] = []
    notes: list[str] = []
    held = 0
    for number in population_sizes(config.population_size):
        used = len(choose_devices(devices, number))
        share, chunk = number // used, config.chunk_size
        if number > 1 and used < len(devices):
            notes.append(
                f"P={number} is not divisible by {len(devices)} devices: {used} of "
                "them used."
            )
        if chunk != "auto" and share % chunk:
            chunk = largest_divisor(share, chunk)
            notes.append(
                f"P={number}: chunk_size={config.chunk_size} does not divide the "
                f"{share} members of a device; {chunk} used."
            )
        affordable = FLOPS_PER_CALL / (number * flops or 1e9)
        steps = min(config.steps_per_generation, max(FEWEST_STEPS, int(affordable)))
        try:
            prepared = prepare(
                task,
                strategy=strategy,
                config=config,
                devices=devices,
                population_size=number,
                steps_per_generation=steps,
                chunk_size=chunk,
            )
        except DoesNotFit as error:
            if not sizes:
                raise
            notes.append(f"P={number} skipped: {error}")
            break
        # All sizes are kept at once, to be measured in turns.
        if sizes and held + prepared.memory_bytes > prepared.memory_limit:
            notes.append(
                f"P={number} skipped: its programs reserve "
                f"{prepared.memory_bytes / 1e9:.2f} GB, and smaller ones hold "
                f"{held / 1e9:.2f} of {prepared.memory_limit / 1e9:.2f} GB."
            )
            break
        held += prepared.memory_bytes
        sizes.append(Parts(prepared))
    return sizes, notes


def _other_chunks(size: Parts, notes: list[str]) -> dict[int, Callable[[], None]]:
    """Compiles the largest population's training with each other chunk size."""
    prepared, config = size.prepared, size.prepared.config
    share = config.population_size // prepared.mesh.size
    calls = {}
    for chunk in chunk_candidates(share):
        if chunk == prepared.chunk.size:
            continue
        call, reserved = size.train_otherwise(config.steps_per_generation, chunk)
        if reserved > prepared.memory_limit:
            notes.append(f"chunk_size={chunk} does not fit and was left out.")
        else:
            calls[chunk] = call
    return calls


def _make_rows(
    sizes: Sequence[Parts],
    seconds: dict[str, np.ndarray],
    steps: int,
    flops: float,
    peak_flops: float,
) -> tuple[ScalingRow, ...]:
    """Scales what was timed to whole generations, round by round."""
    rows, first = [], None
    for i, size in enumerate(sizes):
        prepared, config = size.prepared, size.prepared.config
        number, timed = config.population_size, config.steps_per_generation
        train, brief, evolve, plan = (seconds[f"{name} {i}"] for name in size.calls)
        # Shuffling, and copying members in and out, are paid once a generation.
        stepping = (train - np.median(brief)) / max(timed - BRIEF, 1)
        stepping = np.maximum(stepping, 0.1 * train / timed)
        once = np.maximum(train - stepping * timed, 0)
        spent = stepping * steps + once
        first = spent if first is None else first
        samples = number * steps * config.batch_size
        rows.append(
            ScalingRow(
                population_size=number,
                num_devices=prepared.mesh.size,
                chunk_size=prepared.chunk.size,
                seconds=Spread.of(spent),
                samples_per_second=Spread.of(samples / spent),
                relative_cost=Spread.of(spent / first),
                seconds_per_member=Spread.of(spent / number),
                share_of_peak=float(number * flops / np.median(stepping) / peak_flops),
                select_and_vary_seconds=Spread.of(plan),
                inherit_seconds=Spread.of(np.maximum(evolve - plan, 0)),
                compile_seconds=prepared.compile_seconds,
                memory_bytes=prepared.memory_bytes,
            )
        )
    return tuple(rows)
