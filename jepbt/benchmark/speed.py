"""Trains one population in all the ways there are, in turns: equal work."""

from __future__ import annotations

import dataclasses
import functools
import importlib.util
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor

import jax
import numpy as np

from jepbt.benchmark import controls, pytorch
from jepbt.benchmark.reports import Spread, format_count, with_range
from jepbt.benchmark.timing import Control, Start, build_all, measure_in_turns
from jepbt.benchmark.workloads import Workload, make_task
from jepbt.engine.cores import count_cpu_cores
from jepbt.engine.devices import is_host
from jepbt.results.text import align
from jepbt.training import Prepared

LOOPS = {
    "loop over jitted steps": controls.loop_over_steps,
    "loop over jitted scans": controls.loop_over_scans,
}


@dataclasses.dataclass(frozen=True)
class SpeedRow:
    """One way to train the same population."""

    name: str
    samples_per_second: Spread  # summed over members
    ratio: Spread  # jepbt's speed over this one's, round by round
    note: str = ""
    is_used: bool = True  # the fastest of those that share its name


@dataclasses.dataclass(frozen=True, repr=False)
class SpeedReport:
    """jepbt beside its controls: one row for each way, jepbt first."""

    title: str
    population_size: int
    batch_size: int
    num_steps: int
    num_rounds: int
    rows: tuple[SpeedRow, ...]
    notes: tuple[str, ...] = ()

    def __repr__(self) -> str:
        """Lays the rows out as text; of two variants of one control, the faster."""
        body = [
            (
                row.name,
                with_range(row.samples_per_second, format_count),
                f"{row.ratio.median:.2f}x ({row.ratio.low:.2f}..{row.ratio.high:.2f})",
                row.note,
            )
            for row in self.rows
            if row.is_used
        ]
        title = (
            f"{self.title}, P={self.population_size}, batch {self.batch_size} | "
            f"{self.num_steps} steps a member | median (min..max) of "
            f"{self.num_rounds} rounds, in turns"
        )
        table = align([("", "samples/s", "jepbt is", ""), *body], left=(0, 3))
        return "\n".join([title, table, *self.notes])


def compare_speed(
    workload: Workload,
    workers: Sequence[ProcessPoolExecutor],
    *,
    num_rounds: int,
    with_compiled: bool,
) -> SpeedReport:
    """Trains a workload's population in all ways there are, in turns.

    Args:
        workload: the population, and how much of it is timed.
        workers: processes from `start_workers`: one for JAX, the others for PyTorch.
        num_rounds: the number of measurements of each way.
        with_compiled: True for a try of `torch.compile`, too, which takes long.
    """
    for_jax, *for_pytorch = workers
    prepared = controls.prepare_training(
        make_task(workload), workload.population_size, workload.num_steps
    )
    start = controls.make_start(prepared)
    ways = list(_jax_ways(workload, prepared, start, for_jax))
    notes: list[str] = []
    if importlib.util.find_spec("torch"):
        given = pytorch_start(workload, start)
        ways += _pytorch_ways(given, for_pytorch, with_compiled, notes)
    else:
        notes.append(
            "PyTorch is not installed and was left out; to compare with it: "
            "pip install torch"
        )
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
        batches={"image": batches.astype(np.float32), "label": labels}
    )


def _jax_ways(
    workload: Workload, prepared: Prepared, start: Start, worker: ProcessPoolExecutor
) -> Iterator[Control]:
    number = prepared.mesh.size
    shares_cpu = number > 1 and is_host(prepared.mesh.devices.flat[0])
    note = f"{number} devices, chunk {prepared.chunk.size}"
    yield controls.population_program(prepared)._replace(name="jepbt", note=note)
    note = f"1 of {number} CPU devices" if shares_cpu else ""
    for name, loop in LOOPS.items():
        yield loop(workload, start)._replace(name=name, note=note)
        if shares_cpu:
            run = build_all([worker], loop, [(workload, start)])
            where = "a process with one CPU device"
            yield Control(run, workload.num_steps, name=name, note=where)
    if number > 1:
        name, note = "jitted scans, dealt to devices", f"{number} at a time"
        dealt = controls.loop_over_scans(workload, start, jax.devices())
        yield dealt._replace(name=name, note=note)
    task = make_task(workload, has_flax_layers=True)
    control = controls.plain_vmap(task, start, workload.num_vmap_steps)
    is_cnn = workload.hidden is None
    note = f"flax's convolution, {control.num_steps} steps" if is_cnn else ""
    yield control._replace(name="plain vmap, scan over steps", note=note)


def _pytorch_ways(
    start: Start,
    workers: Sequence[ProcessPoolExecutor],
    with_compiled: bool,
    notes: list[str],
) -> Iterator[Control]:
    cores = count_cpu_cores()
    layout = "channels-last" if "conv1" in start.params else ""
    on_gpu = not is_host(jax.devices()[0]) and pytorch.has_gpu()
    device, where = "cpu", f"{cores} threads"
    if on_gpu:
        device, where = "cuda", "one at a time on the GPU"
    loop = functools.partial(pytorch.one_at_a_time, device=device)
    vmapped = functools.partial(pytorch.vmapped, device=device)
    builders: dict[str, tuple[Callable[..., Control], str]] = {
        f"PyTorch, {where}": (loop, layout),
        "PyTorch, torch.func.vmap": (vmapped, ""),
    }
    if with_compiled:
        compiled = functools.partial(loop, is_compiled=True)
        builders[f"PyTorch, {where}, compiled"] = compiled, layout
    for name, (builder, note) in builders.items():
        try:
            control = builder(start, cores)
        except Exception as error:  # a compiler or an operator may be missing
            reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
            notes.append(f"{name}: does not work here ({reason[0][:90]})")
            continue
        yield control._replace(name=name, note=note)
    if on_gpu:
        return  # processes would only share the GPU
    used = workers[: len(start.learning_rate)]
    shares = [(start.share(index, len(used)), 1) for index in range(len(used))]
    yield Control(
        build_all(used, pytorch.one_at_a_time, shares),
        len(start.batches["label"]),
        name=f"PyTorch, {len(used)} processes",
        note=", ".join(filter(None, ["1 thread each", layout])),
    )


def _make_rows(
    workload: Workload, ways: Sequence[Control], seconds: Sequence[np.ndarray]
) -> list[SpeedRow]:
    """Compares seconds a step; only the fastest way of a name is marked as used."""
    samples = workload.population_size * workload.batch_size
    per_step = [s / way.num_steps for way, s in zip(ways, seconds, strict=True)]
    medians = [float(np.median(s)) for s in per_step]
    rows = []
    for way, spent, median in zip(ways, per_step, medians, strict=True):
        rivals = [m for w, m in zip(ways, medians, strict=True) if w.name == way.name]
        rows.append(
            SpeedRow(
                name=way.name,
                samples_per_second=Spread.of(samples / spent),
                ratio=Spread.of(spent / per_step[0]),
                note=way.note,
                is_used=median == min(rivals),
            )
        )
    in_pytorch = [row for row in rows if row.name.startswith("PyTorch")]
    if in_pytorch:
        better = min(in_pytorch, key=lambda row: row.ratio.median)
        note = f"is {better.name.removeprefix('PyTorch, ')}"
        rows.append(dataclasses.replace(better, name="better PyTorch", note=note))
    return rows
