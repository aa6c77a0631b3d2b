"""`jepbt benchmark`: measures the models asked for, prints and keeps the numbers."""

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
from jepbt.benchmark.speed import compare_speed
from jepbt.benchmark.startup import format_startup, measure_startup
from jepbt.benchmark.timing import start_workers
from jepbt.benchmark.workloads import WORKLOADS, Workload, make_task, workload_named
from jepbt.cli.flags import read_names, whole
from jepbt.cli.say import say
from jepbt.engine.cores import count_cpu_cores
from jepbt.engine.programs import use_compilation_cache
from jepbt.optional import optional

NAMES = tuple(dict.fromkeys(workload.name for workload in WORKLOADS))

TEXTS = {
    "help": "measure populations against other ways to train them, on this machine",
    "usage": "jepbt benchmark [flags]",
    "description": """\
Trains populations of four models in jepbt, in loops over members, in plain vmap, and in
PyTorch if it is installed: equal work, in turns. Then measures what a population costs
by its size.
""",
    "epilog": """\
example:
  One of the models, up to a population of 64, with all numbers in a file:

    jepbt benchmark --models mlp --max-population 64 --json speed.json
""",
}


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of `jepbt benchmark`."""
    add = command.add_argument_group("what to measure").add_argument
    add(
        "--models",
        metavar="NAMES",
        default=",".join(NAMES),
        help="one or more of tiny_mlp, mlp, cnn and wide_mlp, with commas between; all "
        "of them if left out",
    )
    add(
        "--max-population",
        metavar="N",
        type=whole,
        help="the largest population whose cost is measured; the one that is compared "
        "if left out",
    )
    add(
        "--num-rounds",
        metavar="N",
        type=whole,
        help="measurements behind each median (5, and 2 with --quick)",
    )
    add(
        "--quick",
        action="store_true",
        help="see that it works: smaller populations, a tenth of the steps, no "
        "torch.compile; its figures say little",
    )
    add(
        "--startup",
        action="store_true",
        help="measure nothing but where the time goes until jepbt train has trained a "
        "first, short generation",
    )
    add = command.add_argument_group("files").add_argument
    add("--json", metavar="FILE", help="write all numbers to a file")
    add(
        "--figure",
        metavar="FILE",
        help="draw the first model's scaling as a PNG; further models have their names "
        "appended",
    )


def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
    """Checks the flags, and returns the function that measures and prints."""
    wanted = read_names("models", arguments.models, NAMES)
    workloads = [workload for workload in WORKLOADS if workload.name in wanted]
    for name in ("max_population", "num_rounds"):
        if getattr(arguments, name) is not None:
            check_whole("", name, getattr(arguments, name), 1)
    for name in ("json", "figure"):
        if getattr(arguments, name) is not None:
            setattr(arguments, name, user_file(name, getattr(arguments, name)))
    if arguments.quick:
        workloads = [_shorten(workload_named(name)) for name in NAMES if name in wanted]
    return functools.partial(_run, arguments, workloads)


def _shorten(workload: Workload) -> Workload:
    return dataclasses.replace(
        workload,
        population_size=4,
        num_steps=max(2, workload.num_steps // 10),
        num_vmap_steps=max(2, workload.num_vmap_steps // 10),
    )


def _run(arguments: argparse.Namespace, workloads: Sequence[Workload]) -> None:
    if arguments.startup:
        startup = measure_startup()
        say(format_startup(startup))
        _write_json(arguments.json, {"startup": startup})
        return
    jepbt.use_all_cpu_cores()
    use_compilation_cache()
    num_rounds = arguments.num_rounds or (2 if arguments.quick else 5)
    devices = jax.devices()
    say(
        f"jepbt {jepbt.__version__} | jax {jax.__version__} | {len(devices)} x "
        f"{devices[0].device_kind} | Fashion-MNIST, cross-entropy, SGD with momentum, "
        "a learning rate for each member"
    )
    models, scalings = [], []
    with start_workers(1 + count_cpu_cores()) as workers:
        for workload in workloads:
            speed = compare_speed(
                workload,
                workers,
                num_rounds=num_rounds,
                with_compiled=not arguments.quick,
            )
            say(f"\n{speed}")
            costs = scaling(
                make_task(workload),
                max_population=arguments.max_population or workload.population_size,
                num_rounds=num_rounds,
            )
            say(f"\n{costs}")
            facts = {"speed": dataclasses.asdict(speed)}
            models.append(facts | {"scaling": json.loads(costs.to_json())})
            scalings.append(costs)
            _write_json(arguments.json, {"models": models})
    if arguments.figure is not None:
        with optional(f"{arguments.figure} is not drawn"):
            _draw(arguments.figure, workloads, scalings)


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


def _write_json(path: pathlib.Path | None, facts: dict) -> None:
    if path is None:
        return
    versions = {"jepbt": jepbt.__version__, "jax": jax.__version__}
    text = json.dumps({"versions": versions} | facts, indent=1, allow_nan=False)
    with optional(f"{path} is not written"):
        path.write_text(text + "\n")
        say(f"All numbers: {path}")
