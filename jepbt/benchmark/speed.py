"""Trains one population in all the ways there are, in turns: equal work."""

from __future__ import annotations

import contextlib
import dataclasses
import functools
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np

from jepbt.benchmark import controls, pytorch
from jepbt.benchmark.reports import SpeedReport, SpeedRow, Spread
from jepbt.benchmark.timing import Control, Start, Worker, measure_in_turns, run_all
from jepbt.benchmark.workloads import Workload, make_task
from jepbt.engine.devices import count_cpu_cores
from jepbt.training import prepare

LOOPS = {
    "loop over jitted steps": controls.loop_over_steps,
    "loop over jitted scans": controls.loop_over_scans,
}


class Workers(NamedTuple):
    """Processes in which controls run, kept from one model to the next.

    Attributes:
        one_device: JAX with a single CPU device; `None` if the main process has one.
        pytorch: one for each core, of a single thread; none without PyTorch.
    """

    one_device: Worker | None
    pytorch: tuple[Worker, ...]


@contextlib.contextmanager
def start_workers(num_devices: int) -> Iterator[Workers]:
    """Starts the processes that the controls need, and ends them.

    Args:
        num_devices: the number of CPU devices of the main process.

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
        workers: the processes, from `start_workers`.
        num_rounds: the number of measurements of each way.
        with_compiled: includes `torch.compile`, which takes longest.

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
    start = controls.make_start(prepared)
    note = f"{prepared.mesh.size} devices, chunk {prepared.chunk.size}"
    own = controls.population_program(prepared)
    ways = [own._replace(name="jepbt", note=note)]
    ways += _jax_ways(workload, start, workers.one_device, prepared.mesh.size)
    notes: list[str] = []
    if pytorch.is_installed():
        given = pytorch_start(workload, start)
        ways += _pytorch_ways(given, workers.pytorch, with_compiled, notes)
    else:
        notes.append(
            "PyTorch is not installed and was left out; to compare with it: "
            "pip install torch"
        )
    for way in ways:
        way.run()
    runs = {str(i): way.run for i, way in enumerate(ways)}
    seconds = list(measure_in_turns(runs, num_rounds).values())
    return SpeedReport(
        title=workload.title,
        population_size=workload.population_size,
        batch_size=workload.batch_size,
        num_steps=workload.num_steps,
        num_rounds=num_rounds,
        rows=tuple(_make_rows(workload, ways, seconds)),
        notes=tuple(notes),
    )


def pytorch_start(workload: Workload, start: Start) -> Start:
    """Standardises the images as jepbt's task does, and keeps the rest."""
    images = make_task(workload).data.train["image"]
    mean, deviation = images.mean(dtype=float), images.std(dtype=float)
    batches = (start.batches["image"].astype(np.float32) - mean) / deviation
    labels = start.batches["label"]
    return start._replace(
        learning_rate=np.asarray(start.learning_rate),
        batches={"image": batches.astype(np.float32), "label": labels},
    )


def _jax_ways(
    workload: Workload,
    start: Start,
    worker: Worker | None,
    num_devices: int,
) -> Iterator[Control]:
    note = f"1 of {num_devices} CPU devices" if worker else ""
    for name, loop in LOOPS.items():
        yield loop(workload, start)._replace(name=name, note=note)
    if worker is not None:
        for name, loop in LOOPS.items():
            num_steps = worker.build(loop, workload, start).result()
            run = functools.partial(run_all, [worker], loop)
            note = "a process with one CPU device"
            yield Control(run, None, num_steps, name, note)
        name, note = "jitted scans, dealt to devices", f"{num_devices} at a time"
        yield controls.deal_scans(workload, start)._replace(name=name, note=note)
    control = controls.plain_vmap(workload, start)
    note = ""
    if workload.kind == "cnn":
        note = f"flax's convolution, {control.num_steps} steps"
    yield control._replace(name="plain vmap, scan over steps", note=note)


def _pytorch_ways(
    start: Start,
    workers: Sequence[Worker],
    with_compiled: bool,
    notes: list[str],
) -> Iterator[Control]:
    cores = count_cpu_cores()
    layout = "channels-last" if "conv1" in start.params else ""
    builders = {
        f"PyTorch, {cores} threads": (pytorch.one_at_a_time, layout, ()),
        "PyTorch, torch.func.vmap": (pytorch.vmapped, "", ()),
    }
    if with_compiled:
        name = f"PyTorch, {cores} threads, compiled"
        builders[name] = (pytorch.one_at_a_time, layout, (True,))
    for name, (builder, note, settings) in builders.items():
        try:
            control = builder(start, cores, *settings)
        except Exception as error:  # a compiler or an operator may be missing
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            notes.append(f"{name}: does not work here ({reason[0][:90]})")
            continue
        yield control._replace(name=name, note=note)
    used = workers[: len(start.learning_rate)]
    builder = pytorch.one_at_a_time
    building = [
        worker.build(builder, start.share(index, len(used)), 1)
        for index, worker in enumerate(used)
    ]
    for future in building:
        future.result()
    note = ", ".join(filter(None, ["1 thread each", layout]))
    run = functools.partial(run_all, used, builder)
    name = f"PyTorch, {len(used)} processes"
    yield Control(run, None, len(start.batches["label"]), name, note)


def _make_rows(
    workload: Workload, ways: Sequence[Control], seconds: Sequence[np.ndarray]
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
    in_pytorch = [row for row in rows if row.name.startswith("PyTorch")]
    if in_pytorch:
        better = min(in_pytorch, key=lambda row: row.ratio.median)
        note = f"is {better.name.removeprefix('PyTorch, ')}"
        rows.append(dataclasses.replace(better, name="better PyTorch", note=note))
    return rows
