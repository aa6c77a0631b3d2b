"""`jepbt benchmark`: measures the models asked for, prints and keeps the numbers."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import json
import pathlib
from collections.abc import Callable, Sequence

import jax

import jepbt
from jepbt import plots
from jepbt.arguments import check_whole, user_file
from jepbt.benchmark import ScalingReport, scaling
from jepbt.benchmark.speed import compare_speed, start_workers
from jepbt.benchmark.startup import format_startup, measure_startup
from jepbt.benchmark.workloads import WORKLOADS, Workload, make_task
from jepbt.cli.say import say
from jepbt.engine.devices import use_compilation_cache
from jepbt.optional import optional

NAMES = tuple(dict.fromkeys(workload.name for workload in WORKLOADS))


@dataclasses.dataclass
class BenchmarkOptions:
    """What to measure, and how often.

    Attributes:
        models: one or more of tiny_mlp, mlp, cnn and wide_mlp, with commas between; all
            of them if left out.
        max_population: the largest population whose cost is measured; by default the
            one that the controls train.
        num_rounds: measurements behind each median; every round measures everything.
        quick: smaller populations, a tenth of the steps, two rounds, no torch.compile:
            to see that it works; its figures say little.
        startup: measure nothing but where the time goes until the default run of
            `jepbt train` has trained a first, short generation.
        json: a file for all numbers.
        figure: a PNG file for the picture of the first model's scaling; those of
            further models get their names appended.
    """

    models: str = ",".join(NAMES)
    max_population: int | None = None
    num_rounds: int | None = None
    quick: bool = False
    startup: bool = False
    json: str | None = None
    figure: str | None = None


def prepare_benchmark(arguments: argparse.Namespace) -> Callable[[], None]:
    """Checks the user's options, and returns the function that measures and prints."""
    options = arguments.options
    workloads = _choose_workloads(options.models)
    for name in ("max_population", "num_rounds"):
        if getattr(options, name) is not None:
            check_whole("", name, getattr(options, name), 1)
    for name in ("json", "figure"):
        if getattr(options, name) is not None:
            path = user_file(name, getattr(options, name))
            setattr(options, name, str(path))
    if options.quick:
        first = {workload.name: workload for workload in reversed(workloads)}
        workloads = [_shorten(first[name]) for name in NAMES if name in first]
    return functools.partial(_run, options, workloads)


def _choose_workloads(names: str) -> list[Workload]:
    wanted = [name.strip() for name in names.split(",")]
    for name in wanted:
        if name not in NAMES:
            raise ValueError(
                f"models={names!r}: {name!r} is none of {', '.join(NAMES)}. Give one "
                "or more of them, with commas between."
            )
    return [workload for workload in WORKLOADS if workload.name in wanted]


def _shorten(workload: Workload) -> Workload:
    return dataclasses.replace(
        workload,
        population_size=4,
        num_steps=max(2, workload.num_steps // 10),
        num_vmap_steps=max(2, workload.num_vmap_steps // 10),
    )


def _run(options: BenchmarkOptions, workloads: Sequence[Workload]) -> None:
    if options.startup:
        startup = measure_startup()
        say(format_startup(startup))
        _write_json(options.json, {"startup": startup})
        return
    jepbt.use_all_cpu_cores()
    use_compilation_cache()
    num_rounds = options.num_rounds or (2 if options.quick else 5)
    devices = jax.devices()
    say(
        f"jepbt {jepbt.__version__} | jax {jax.__version__} | {len(devices)} x "
        f"{devices[0].device_kind} | Fashion-MNIST, cross-entropy, SGD with momentum, "
        "a learning rate for each member"
    )
    models, scalings = [], []
    with start_workers() as workers:
        for workload in workloads:
            speed = compare_speed(
                workload,
                workers,
                num_rounds=num_rounds,
                with_compiled=not options.quick,
            )
            say(f"\n{speed}")
            costs = scaling(
                make_task(workload),
                max_population=options.max_population or workload.population_size,
                num_rounds=num_rounds,
            )
            say(f"\n{costs}")
            facts = {"speed": dataclasses.asdict(speed)}
            models.append(facts | {"scaling": json.loads(costs.to_json())})
            scalings.append(costs)
    _write_json(options.json, {"models": models})
    if options.figure is not None:
        with optional(f"{options.figure} is not drawn"):
            _draw(pathlib.Path(options.figure), workloads, scalings)


def _draw(
    path: pathlib.Path,
    workloads: Sequence[Workload],
    scalings: Sequence[ScalingReport],
) -> None:
    for i, (workload, costs) in enumerate(zip(workloads, scalings, strict=True)):
        name = f"{path.stem}-{workload.name}-{workload.batch_size}{path.suffix}"
        target = path.with_name(name) if i else path
        axes = plots.scaling(costs)
        axes.set_title(f"{workload.title}, batch {workload.batch_size}")
        axes.figure.savefig(target)
        say(f"Look: {target}")


def _write_json(path: str | None, facts: dict) -> None:
    if path is None:
        return
    versions = {"jepbt": jepbt.__version__, "jax": jax.__version__}
    text = json.dumps({"versions": versions} | facts, indent=1, allow_nan=False)
    with optional(f"{path} is not written"):
        pathlib.Path(path).write_text(text + "\n")
        say(f"All numbers: {path}")
