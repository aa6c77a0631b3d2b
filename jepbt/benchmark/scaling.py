"""Measures what a population costs by its size, on the user's task and devices."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np

from jepbt import config as configs
from jepbt.arguments import check_whole
from jepbt.benchmark import parts
from jepbt.benchmark.reports import ScalingReport, ScalingRow, Spread
from jepbt.benchmark.timing import matmul_peak, measure_in_turns, peak_rate
from jepbt.engine.devices import choose_devices
from jepbt.engine.memory import DoesNotFit
from jepbt.strategies import Strategy, resolve_strategy
from jepbt.tasks import Task
from jepbt.training import Prepared, prepare

SECONDS_PER_CALL = 0.3
"""The aim for a timed call: long beside the errors of clock and scheduler."""

LIKELY_FLOPS = 1e11
"""A CPU's usual FLOP/s in networks; decides only how many steps are timed."""

BRIEF = 2
"""The steps of the shortest generation that is timed: one step would be no loop."""

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
    config = configs.Config(
        population_size=max_population,
        num_generations=2,
        steps_per_generation=steps_per_generation,
        batch_size=batch_size,
        chunk_size=chunk_size,
        progress=False,
    )
    configs.check(config)
    check_whole("", "num_rounds", num_rounds, 1)
    resolved = resolve_strategy(strategy)
    offered = choose_devices(devices, 0)
    flops = parts.step_flops(task, resolved, config)
    runs, notes = _prepare_sizes(task, resolved, config, flops, devices)
    if not runs:
        raise ValueError(
            "task: not even one member fits: " + " ".join(notes) + " Choose a smaller "
            "model or batch."
        )
    sizes = [_Size(prepared) for prepared in runs]
    chunks = _other_chunks(sizes[-1], notes)
    calls = matmul_peak(offered)
    calls |= {f"chunk {chunk}": call for chunk, call in chunks.items()}
    for i, size in enumerate(sizes):
        calls |= {f"{name} {i}": call for name, call in size.calls.items()}
    seconds = measure_in_turns(calls, num_rounds)
    peak_flops = peak_rate(seconds, len(offered))
    largest = runs[-1]
    chunk_seconds = {chunk: seconds[f"chunk {chunk}"] for chunk in chunks}
    chunk_seconds[largest.chunk.size] = seconds[f"train {len(sizes) - 1}"]
    return ScalingReport(
        devices=describe_devices(offered),
        steps_per_generation=steps_per_generation,
        batch_size=largest.config.batch_size,
        num_rounds=num_rounds,
        peak_flops=peak_flops,
        step_flops=flops,
        rows=_make_rows(runs, seconds, steps_per_generation, flops, peak_flops),
        notes=tuple(notes),
        chunk_costs={
            chunk: Spread.of(spent / chunk_seconds[largest.chunk.size])
            for chunk, spent in sorted(chunk_seconds.items())
        },
    )


def population_sizes(largest: int) -> list[int]:
    """Lists 1, 2, 4, ... up to a size, and the size itself.

    Example:
        >>> population_sizes(12)
        [1, 2, 4, 8, 12]
    """
    sizes = [2**power for power in range(largest.bit_length())]
    return sizes if sizes[-1] == largest else [*sizes, largest]


def chunk_candidates(num_members: int) -> list[int]:
    """Lists the chunk sizes worth measuring: one, about eight, and all members.

    Example:
        >>> chunk_candidates(32), chunk_candidates(6)
        ([1, 8, 32], [1, 6])
    """
    return sorted({1, _largest_divisor(num_members, 8), num_members})


def describe_devices(devices: Sequence[jax.Device]) -> str:
    """Says in words what the devices are.

    Example:
        >>> import jax
        >>> describe_devices(jax.devices("cpu")[:1])
        '1 x cpu'
    """
    return f"{len(devices)} x {devices[0].device_kind}"


def _largest_divisor(number: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if number % n == 0)


def _prepare_sizes(
    task: Task, strategy: Strategy, config: configs.Config, flops: float, devices: Any
) -> tuple[list[Prepared], list[str]]:
    """Compiles one run for each size until one does not fit, with notes on each."""
    offered = len(choose_devices(devices, 0))
    runs: list[Prepared] = []
    notes: list[str] = []
    held = 0
    for number in population_sizes(config.population_size):
        used = len(choose_devices(devices, number))
        share = number // used
        if number > 1 and used < offered:
            notes.append(
                f"P={number} is not divisible by {offered} devices: {used} of them "
                "used."
            )
        chunk = config.chunk_size
        if chunk != "auto" and share % chunk:
            chunk = _largest_divisor(share, chunk)
            notes.append(
                f"P={number}: chunk_size={config.chunk_size} does not divide the "
                f"{share} members of a device; {chunk} used."
            )
        affordable = SECONDS_PER_CALL * LIKELY_FLOPS / (number * flops or 1e9)
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
            if not runs:
                raise
            notes.append(f"P={number} skipped: {error}")
            break
        # All sizes are kept at once, to be measured in turns.
        if held + prepared.memory_bytes > prepared.memory_limit:
            notes.append(
                f"P={number} skipped: its programs reserve "
                f"{prepared.memory_bytes / 1e9:.2f} GB, and smaller ones hold "
                f"{held / 1e9:.2f} of {prepared.memory_limit / 1e9:.2f} GB."
            )
            break
        held += prepared.memory_bytes
        runs.append(prepared)
    return runs, notes


class _Size:
    """A population of one size: the state it carries on, and what is timed of it."""

    def __init__(self, prepared: Prepared) -> None:
        programs, chunk = prepared.programs, prepared.chunk.size
        self.prepared = prepared
        self.state = parts.first_generation(prepared)
        plan = parts.compile_plan(prepared, self.state)
        brief, _ = parts.compile_train(prepared, BRIEF, chunk)
        self.calls = {
            "train": self.step(programs.train, parts.FIRST),
            "brief": self.step(brief, parts.FIRST),
            "evolve": self.step(programs.evolve, parts.SECOND),
            "plan": plan,
        }
        for call in self.calls.values():
            call()

    def step(self, program: Any, number: np.int32) -> Callable[[], None]:
        """Makes a call that runs a program on the state and keeps the new one."""

        def call():
            self.state, _ = program(self.prepared.inputs, number, self.state)
            jax.block_until_ready(self.state)

        return call


def _other_chunks(size: _Size, notes: list[str]) -> dict[int, Callable[[], None]]:
    """Compiles the largest population's training with each other chunk size."""
    prepared = size.prepared
    steps, used = prepared.config.steps_per_generation, prepared.chunk.size
    share = prepared.config.population_size // prepared.mesh.size
    on_cpu = prepared.mesh.devices.flat[0].platform == "cpu"
    calls = {}
    for chunk in chunk_candidates(share):
        if chunk == used:
            continue
        program, reserved = parts.compile_train(prepared, steps, chunk)
        if reserved * (prepared.mesh.size if on_cpu else 1) > prepared.memory_limit:
            notes.append(f"chunk_size={chunk} does not fit and was left out.")
            continue
        calls[chunk] = size.step(program, parts.FIRST)
        calls[chunk]()
    return calls


def _make_rows(
    runs: Sequence[Prepared],
    seconds: dict[str, np.ndarray],
    steps: int,
    flops: float,
    peak_flops: float,
) -> tuple[ScalingRow, ...]:
    """Scales what was timed to whole generations, round by round."""
    rows, first = [], None
    for i, prepared in enumerate(runs):
        config, number = prepared.config, prepared.config.population_size
        train, timed = seconds[f"train {i}"], config.steps_per_generation
        # Shuffling, and copying members in and out, are paid once a generation.
        stepping = (train - np.median(seconds[f"brief {i}"])) / max(timed - BRIEF, 1)
        stepping = np.maximum(stepping, 0.1 * train / timed)
        once = np.maximum(train - stepping * timed, 0)
        spent = stepping * steps + once
        first = spent if first is None else first
        samples = number * steps * config.batch_size
        plan = seconds[f"plan {i}"]
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
                inherit_seconds=Spread.of(np.maximum(seconds[f"evolve {i}"] - plan, 0)),
                compile_seconds=prepared.compile_seconds,
                memory_bytes=prepared.memory_bytes,
            )
        )
    return tuple(rows)
