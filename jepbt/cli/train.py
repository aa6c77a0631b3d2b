"""`jepbt train`: prepares a run, prints what it is, and runs it."""

import argparse
import contextlib
import dataclasses
import functools
import math
import pathlib
import sys
from collections.abc import Callable, Iterator

import jax
import numpy as np

import jepbt
from jepbt import config as configs
from jepbt.arguments import user_path
from jepbt.checkpoints import folder as run_directory
from jepbt.cli.distributed import add_process_flags
from jepbt.cli.flags import (
    add_training_flags,
    make_task,
    resume_command,
    with_noise,
)
from jepbt.cli.say import say, say_aside
from jepbt.engine.devices import is_host
from jepbt.engine.processes import together
from jepbt.hyperparameters import TaylorLoss, spaces
from jepbt.results import Generation, describe
from jepbt.training import Prepared, Result, execute
from jepbt.training import prepare as prepare_run
from jepbt.training.progress import is_terminal

TEXTS = {
    "help": "train a population on the embedded images, or on data of your choice",
    "usage": "jepbt train [flags]",
    "description": """\
Trains a population and evolves it. Without flags: 32 small convolutional networks on
10,000 embedded Fashion-MNIST images.
""",
    "epilog": """\
example:
  A small population on the embedded images, in a folder of its own, and later on from
  where it was stopped:

    jepbt train --model mlp --population-size 16 --run-dir runs/mine
    jepbt train --model mlp --population-size 16 --run-dir runs/mine --resume
""",
}


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of `jepbt train`."""
    add_training_flags(command)
    add_process_flags(command)


def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
    """Checks, compiles and announces a run, and returns the function that runs it."""
    names = [field.name for field in dataclasses.fields(jepbt.Config)]
    config = jepbt.Config(**{name: getattr(arguments, name) for name in names})
    jepbt.use_all_cpu_cores()
    configs.check(config)
    with together():
        clean = jepbt.datasets.load(arguments.data)
        dataset = with_noise(clean, arguments, config.seed)
    task = make_task(dataset, arguments)
    with folder_of(config) as folder:
        prepared = prepare_run(
            task,
            strategy=arguments.strategy,
            config=dataclasses.replace(config, run_dir=folder),
            devices=arguments.device,
            early=True,
        )
    go_on = resume_command(arguments, prepared.folder)
    _print_before(prepared, go_on)
    return functools.partial(_run, prepared, go_on)


def _run(prepared: Prepared, go_on: str) -> None:
    result = execute(prepared, [_announcer(prepared)])
    _print_after(result, prepared)
    done, wanted = len(result.history), prepared.config.num_generations
    is_anyone_left = np.isfinite(result.history.fitness[-1]).any()
    if done < wanted and is_anyone_left:
        say(f"Stopped after {done} of {wanted} generations; {go_on}   goes on")


@contextlib.contextmanager
def folder_of(config: jepbt.Config) -> Iterator[pathlib.Path]:
    """Names a run's folder, and removes one that was made if nothing comes of it."""
    if config.run_dir is not None:
        yield user_path("run_dir", config.run_dir)
        return
    folder = run_directory.next_numbered(user_path("runs", "runs"))
    try:
        yield folder
    except BaseException:
        with contextlib.suppress(OSError):  # a folder with files in it stays
            run_directory.discard(folder)
            folder.parent.rmdir()
        raise


def _print_before(prepared: Prepared, go_on: str) -> None:
    config, task, about = prepared.config, prepared.task, prepared.task.about
    device = prepared.mesh.devices.flat[0]
    kind = "CPU" if is_host(device) else device.device_kind
    sizes = " / ".join(
        f"{len(rows['label']):,} {name}"
        for name, rows in task.data._asdict().items()
        if rows is not None
    )
    say(
        f"jepbt {jepbt.__version__} | jax {jax.__version__} | "
        f"{_count(prepared.mesh.size, f'{kind} device')} | {about['data']} {sizes} "
        f"({about['data_note']})"
    )
    params = prepared.programs.init.out_info.population.state.params
    weights = sum(math.prod(leaf.shape[1:]) for leaf in jax.tree.leaves(params))
    evolving = " ".join(
        f"{name}[8]" if isinstance(space, TaylorLoss) else name
        for name, space in spaces(task.hparams).items()
    )
    say(
        f"{config.population_size} {about['model']}s x {weights:,} weights | "
        f"{config.num_generations} generations x {config.steps_per_generation} steps "
        f"of {config.batch_size} | evolving {evolving}"
    )
    steps = config.num_generations * config.steps_per_generation
    flops = config.population_size * steps * prepared.step_flops
    say(
        f"needs {prepared.memory_bytes / 1e9:.2f} of "
        f"{prepared.memory_limit / 1e9:.0f} GB, {flops / 1e12:.3g} TFLOP to train | "
        f"{_count(prepared.chunk.size, 'member')} at a time on each device "
        f"({prepared.chunk.reason}) | "
        f"checkpoints of {prepared.checkpoint_bytes / 1e6:.1f} MB, "
        f"{config.keep_checkpoints} kept"
    )
    if prepared.last_generation >= 0:
        say(f"goes on after generation {prepared.last_generation + 1}")
    say(f"{prepared.folder}   Ctrl-C saves; {go_on}   goes on")


def _announcer(prepared: Prepared) -> Callable[[Generation], None]:
    """Makes a callback that estimates the run's time once, and prints lines.

    A bar, or the log, shows how far the run is without them.
    """
    num_generations = prepared.config.num_generations
    first = prepared.last_generation + 1
    is_shown = prepared.config.progress and is_terminal(sys.stderr)
    is_shown = is_shown or prepared.config.log_level in ("debug", "info")

    def announce(report: Generation) -> None:
        # The first one's time is also that of programs that still compile.
        if report.number == first + 1 < num_generations - 1:
            seconds = (num_generations - first) * sum(report.seconds.values())
            say(f"about {_duration(seconds)}, by its second generation")
        if not is_shown:
            number = f"{report.number + 1}/{num_generations}"
            say(f"generation {number}  {describe(report)}")

    return announce


def _print_after(result: Result, prepared: Prepared) -> None:
    config, data = prepared.config, prepared.task.data
    heading = f"validation ({len(data.validation['label']):,})"
    test, scores = "no test split", ("", "", "")
    if data.test is not None:
        report = result.test()
        test = f"test ({len(data.test['label']):,}, read once)"
        scores = report.best, report.median, report.first
    say()
    _print_row("", f"{heading:22}{test}")
    names = f"winner #{result.best.slot}", "median", "first gen."
    winners = result.best, result.median, result.first_best
    for name, winner, score in zip(names, winners, scores, strict=True):
        _print_row(name, f"{winner.fitness!s:22}{score}")
    hparams = [
        f"{name} {getattr(result.best.hparams, name):.3g}"
        for name, space in spaces(prepared.task.hparams).items()
        if not isinstance(space, TaylorLoss)
    ]
    _print_row("hparams", "  ".join(hparams))
    _print_row("loss", result.describe_loss())
    seconds = dict(result.seconds)
    compiling = seconds.pop("compile")
    total = sum(seconds.values())
    shares = "  ".join(f"{k} {100 * v / total:.1f} %" for k, v in seconds.items())
    steps = result.history.fitness.size * config.steps_per_generation
    speed = f"{steps * config.batch_size / seconds['train'] / 1000:.1f}k samples/s"
    times = f"{_duration(total)}: {shares}; compile {compiling:.1f} s; {speed}"
    _print_row("time", times)
    left = f"{_count(result.num_founders, 'founder')} left of {config.population_size}"
    _print_row("lineage", f"{left}; {result.num_failed} failed")
    say(
        "Did evolution help?  One run cannot tell: jepbt compare --arms "
        "taylor,fixed,random_search"
    )
    say(f"Look: {config.run_dir / 'figures' / 'fitness.png'}")


def print_interruption(stop: jepbt.Interrupted, arguments: argparse.Namespace) -> None:
    """Tells what an interrupted run leaves behind, and how to continue it."""
    result = stop.result
    folder = result.run_dir or result.config.run_dir  # process 0 alone has the first
    is_over = len(result.history) == result.config.num_generations
    command = resume_command(arguments, folder)
    say_aside(
        f"\nstopped after {_count(len(result.history), 'generation')}; best so far "
        f"{result.best.fitness} on validation data, kept in {folder / 'best'}\n"
        + ("it had no more to do" if is_over else f"{command}   goes on")
    )


def _print_row(name: str, text: str | None) -> None:
    say(f"{name:14}{text}")


def _count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _duration(seconds: float) -> str:
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s" if minutes else f"{rest} s"
