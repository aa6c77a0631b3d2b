"""Runs the commands `jepbt train`, `compare`, `benchmark`, `check` and `report`.

Flags are generated from dataclasses by simple-parsing, which builds on argparse, so
that an error is one line, and which takes a user's `HyperParameters` as well.
"""

from __future__ import annotations

import argparse
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

from simple_parsing import ArgumentParser, DashVariant

import jepbt
from jepbt.cli.benchmark import BenchmarkOptions, prepare_benchmark
from jepbt.cli.check import DESCRIPTION as CHECK_DESCRIPTION
from jepbt.cli.check import HELP as CHECK_HELP
from jepbt.cli.check import CheckOptions, prepare_check
from jepbt.cli.compare import (
    DESCRIPTION,
    EXAMPLE,
    HELP,
    CompareOptions,
    prepare_comparison,
)
from jepbt.cli.report import add_report_arguments, prepare_report
from jepbt.cli.say import say_aside
from jepbt.cli.train import (
    MAIN_JOB,
    TrainOptions,
    prepare_training,
    print_interruption,
)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 2 if a flag or value is wrong."""
    arguments = _parse(argv)
    is_debugged = getattr(getattr(arguments, "config", None), "debug", False)
    # Whoever debugs sees the whole traceback.
    mistakes = () if is_debugged else (ValueError, TypeError, OSError)
    failures = () if is_debugged else RuntimeError
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **kwargs: say_aside(
            f"jepbt: warning: {message}"
        )
        try:
            try:
                run = arguments.prepare(arguments)
            except mistakes as error:
                return _fail(str(error))
            run()
        except jepbt.Interrupted as stop:
            print_interruption(stop, arguments)
            return 128 + stop.signal_number
        except KeyboardInterrupt:  # before training, or the second Ctrl-C
            say_aside("jepbt: stopped at once")
            return 128 + signal.SIGINT
        except failures as error:  # nothing was learned
            say_aside(f"jepbt: {error}")
            return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = ArgumentParser(
        prog="jepbt",
        description="Trains a population of networks as one program and evolves their "
        "hyperparameters and loss functions.",
    )
    parser.add_argument(
        "--version", action="version", version=f"jepbt {jepbt.__version__}"
    )
    # argparse would print all flags before the one line that says what is wrong.
    parser.error = _exit_with(parser.prog)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")

    def add_command(name: str, prepare: Callable, help: str, description: str):
        command = commands.add_parser(
            name,
            help=help,
            description=description,
            # simple-parsing keeps this setting for all parsers at once: the last one's.
            add_option_string_dash_variants=DashVariant.DASH,
        )
        command.set_defaults(prepare=prepare)
        command.error = _exit_with(command.prog)
        return command

    train = add_command(
        "train",
        prepare_training,
        "train a population on the embedded images, or on data of your choice",
        "Trains a population and evolves it. Without flags: 32 small "
        "convolutional networks on 10,000 embedded Fashion-MNIST images.",
    )
    train.add_arguments(TrainOptions, dest="options")
    train.add_arguments(jepbt.Config, dest="config", default=MAIN_JOB)
    compare = add_command("compare", prepare_comparison, HELP, DESCRIPTION)
    compare.epilog = EXAMPLE
    compare.add_arguments(CompareOptions, dest="options")
    benchmark = add_command(
        "benchmark",
        prepare_benchmark,
        "measure populations against other ways to train them, on this machine",
        "Trains populations of four models in jepbt, in loops over "
        "members, in plain vmap, and in PyTorch if it is installed: equal work, in "
        "turns. Then measures what a population costs by its size. With --startup, "
        "measures where the time goes until training starts instead.",
    )
    benchmark.add_arguments(BenchmarkOptions, dest="options")
    check = add_command("check", prepare_check, CHECK_HELP, CHECK_DESCRIPTION)
    check.add_arguments(CheckOptions, dest="options")
    add_report_arguments(
        add_command(
            "report",
            prepare_report,
            "write a run as one page, report.html, that opens without a network",
            "Writes RUN_DIR/report.html, also while the run is going.",
        )
    )
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(argv)
    arguments.argv = argv
    return arguments


def _exit_with(name: str) -> Callable[[str], NoReturn]:
    return lambda message: sys.exit(_fail(f"{message} (see {name} --help)"))


def _fail(message: str) -> int:
    say_aside(f"jepbt: error: {message}")
    return 2
