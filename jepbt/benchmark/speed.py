"""jepbt against its controls: one population, equal work, in turns."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from jepbt.benchmark import pytorch
from jepbt.benchmark.controls import (
    Start,
    loop_over_scans,
    loop_over_steps,
    make_start,
    plain_vmap,
    population_program,
)
from jepbt.benchmark.reports import SpeedReport, SpeedRow, Spread
from jepbt.benchmark.timing import Worker, measure_in_turns, run_all
from jepbt.benchmark.workloads import Workload, make_task
from jepbt.engine.devices import count_cpu_cores
from jepbt.training import prepare


class Workers(NamedTuple):
    """Processes that controls run in, kept from one model to the next.

    Attributes:
        one_device: JAX with a single CPU device; `None` where the main process has one.
        pytorch: one for each core, of a single thread; none without PyTorch.
    """

    one_device: Worker | None
    pytorch: tuple[Worker, ...]


@contextlib.contextmanager
def start_workers(num_devices: int) -> Iterator[Workers]:
    """Starts the processes that the controls need, and ends them.

    Args:
        num_devices: CPU devices of the main process.

    Yields:
        The workers.
    """
    cores = count_cpu_cores() if pytorch.is_installed() else 0
    single = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
    with contextlib.ExitStack() as stack:
        one_device = None
        if num_devices > 1:
            environment = {"JAX_NUM_CPU_DEVICES": "1", "JAX_PLATFORMS": "cpu"}
            one_device = stack.enter_context(Worker(environment))
        workers = [stack.enter_context(Worker(single)) for _ in range(cores)]
        yield Workers(one_device, tuple(workers))


class Way(NamedTuple):
    """One way to train the population, ready to be timed.

    Attributes:
        name: of its row; ways of one name are variants, of which the faster is shown.
        note: where or how it runs.
        run: what is timed.
        num_steps: of each member in a run.
    """

    name: str
    note: str
    run: Callable[[], Any]
    num_steps: int


def compare_speed(
    workload: Workload,
    workers: Workers,
    *,
    num_rounds: int = 5,
    with_compiled: bool = True,
) -> SpeedReport:
    """Trains a workload's population in all ways there are, in turns.

    Args:
        workload: the model and its sizes.
        workers: from `start_workers`.
        num_rounds: measurements of each way.
        with_compiled: whether to wait for `torch.compile`, which takes longest.

    Returns:
        The report, with the fastest control of PyTorch named "better PyTorch".
    """
    prepared = prepare(
        make_task(workload),
        strategy="random_search",
        population_size=workload.population_size,
        num_generations=1,
        steps_per_generation=workload.num_steps,
    )
    start = make_start(prepared)
    program = population_program(prepared)
    own = Way(
        "jepbt",
        f"{prepared.mesh.size} devices, chunk {prepared.chunk.size}",
        program.run,
        program.num_steps,
    )
    from_jax = list(_jax_ways(workload, start, workers, prepared.mesh.size))
    from_pytorch, notes = _pytorch_ways(workload, start, workers, with_compiled)
    ways = [own, *from_jax, *from_pytorch]
    for way in ways:
        way.run()
    seconds = measure_in_turns(
        {str(i): way.run for i, way in enumerate(ways)}, num_rounds
    )
    rows = _make_rows(workload, ways, [seconds[str(i)] for i in range(len(ways))])
    controls = [row for row in rows if row.name.startswith("PyTorch")]
    if controls:
        better = min(controls, key=lambda row: row.ratio.median)
        note = f"is {better.name.removeprefix('PyTorch, ')}"
        rows.append(dataclasses.replace(better, name="better PyTorch", note=note))
    return SpeedReport(
        title=workload.title,
        population_size=workload.population_size,
        batch_size=workload.batch_size,
        num_steps=workload.num_steps,
        num_rounds=num_rounds,
        rows=tuple(rows),
        notes=tuple(notes),
    )


def pytorch_start(workload: Workload, start: Start) -> pytorch.PyTorchStart:
    """Standardises the images as jepbt's task does, and keeps the rest.

    Args:
        workload: whose training images they are.
        start: from `make_start`.

    Returns:
        What PyTorch's controls start from.
    """
    images = make_task(workload).data.train["image"]
    mean, deviation = images.mean(dtype=float), images.std(dtype=float)
    batches = start.batches["image"].astype(np.float32)
    return pytorch.PyTorchStart(
        kind=workload.kind,
        params=start.params,
        learning_rate=np.asarray(start.learning_rate),
        images=((batches - mean) / deviation).astype(np.float32),
        labels=start.batches["label"],
    )


def _jax_ways(
    workload: Workload, start: Start, workers: Workers, num_devices: int
) -> Iterator[Way]:
    loops = {
        "loop over jitted steps": loop_over_steps,
        "loop over jitted scans": loop_over_scans,
    }
    for name, loop in loops.items():
        control = loop(workload, start)
        note = f"1 of {num_devices} CPU devices" if workers.one_device else ""
        yield Way(name, note, control.run, control.num_steps)
    if workers.one_device is not None:
        worker = workers.one_device
        worker.build(one_device_loops, workload, start)
        num_steps = worker.wait()
        for name, function in zip(loops, ("run", "run_scans"), strict=True):

            def run(function=function):
                worker.start(function)
                worker.wait()

            yield Way(name, "a process with one CPU device", run, num_steps)
        control = loop_over_scans(workload, start, over_devices=True)
        yield Way(
            "jitted scans, dealt to devices",
            f"{num_devices} at a time",
            control.run,
            control.num_steps,
        )
    control = plain_vmap(workload, start)
    layers = "flax's convolution" if workload.kind == "cnn" else ""
    steps = f"{control.num_steps} steps" if workload.kind == "cnn" else ""
    note = ", ".join(filter(None, [layers, steps]))
    yield Way("plain vmap, scan over steps", note, control.run, control.num_steps)


class OneDeviceLoops(NamedTuple):
    """Both loops over members, for a worker."""

    run: Callable[[], None]
    run_scans: Callable[[], None]
    num_steps: int


def one_device_loops(workload: Workload, start: Start) -> OneDeviceLoops:
    """Builds both loops over members in a process with one CPU device."""
    steps = loop_over_steps(workload, start)
    scans = loop_over_scans(workload, start)
    steps.run()
    scans.run()
    return OneDeviceLoops(steps.run, scans.run, steps.num_steps)


def _pytorch_ways(
    workload: Workload, start: Start, workers: Workers, with_compiled: bool
) -> tuple[list[Way], list[str]]:
    if not pytorch.is_installed():
        return [], [
            "PyTorch is not installed and was left out; to compare with it: "
            "pip install torch"
        ]
    given = pytorch_start(workload, start)
    cores = count_cpu_cores()
    notes: list[str] = []
    ways: list[Way] = []
    layout = "channels-last" if workload.kind == "cnn" else ""
    builders = {
        f"PyTorch, {cores} threads": pytorch.one_at_a_time,
        "PyTorch, torch.func.vmap": pytorch.vmapped,
    }
    if with_compiled:
        builders[f"PyTorch, {cores} threads, compiled"] = functools.partial(
            pytorch.one_at_a_time, is_compiled=True
        )
    for name, builder in builders.items():
        try:
            control = builder(given, cores)
        except Exception as error:  # a compiler or an operator may be missing
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            notes.append(f"{name}: does not work here ({reason[0][:90]})")
            continue
        note = "" if builder is pytorch.vmapped else layout
        ways.append(Way(name, note, control.run, control.num_steps))
    count = min(len(workers.pytorch), len(given.learning_rate))
    used = workers.pytorch[:count]
    for index, worker in enumerate(used):
        worker.build(pytorch.one_at_a_time, given.share(index, count), 1)
    for worker in used:
        worker.wait()
    ways.append(
        Way(
            f"PyTorch, {count} processes",
            ", ".join(filter(None, ["1 thread each", layout])),
            functools.partial(run_all, used),
            len(given.labels),
        )
    )
    return ways, notes


def _make_rows(
    workload: Workload, ways: Sequence[Way], seconds: Sequence[np.ndarray]
) -> list[SpeedRow]:
    """Compares seconds a step; only the fastest way of a name is marked as used."""
    samples = workload.population_size * workload.batch_size
    per_step = [s / way.num_steps for way, s in zip(ways, seconds, strict=True)]
    medians = [float(np.median(s)) for s in per_step]
    rows = []
    for i, way in enumerate(ways):
        rivals = [m for w, m in zip(ways, medians, strict=True) if w.name == way.name]
        rows.append(
            SpeedRow(
                name=way.name,
                samples_per_second=Spread.of(samples / per_step[i]),
                ratio=Spread.of(per_step[i] / per_step[0]),
                note=way.note,
                is_used=medians[i] == min(rivals),
            )
        )
    return rows
