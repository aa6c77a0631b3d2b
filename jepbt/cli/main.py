"""Runs the commands `jepbt train`, `compare`, `benchmark`, `check` and `report`.

Each command is a module: `TEXTS` for its help, `add_flags`, and `prepare`, which checks
the flags' values and returns the function that does the work. A mistake is one line.
"""

import argparse
import contextlib
import signal
import sys
import warnings
from collections.abc import Callable, Sequence
from typing import NoReturn

import jepbt
from jepbt.cli import benchmark, check, compare, report, train
from jepbt.cli.distributed import joined
from jepbt.cli.say import say_aside

_DESCRIPTION = """\
Trains a population of networks as one program, and evolves their hyperparameters and
loss functions.
"""
_EXAMPLE = """\
example:
  Train a small population, look at it, and ask whether evolution helped:

    jepbt train --model mlp --run-dir runs/first
    jepbt report runs/first
    jepbt compare --model mlp --arms random_search,taylor
"""
_COMMANDS = (train, compare, benchmark, check, report)


def main(argv: Sequence[str] | None = None) -> int:
    """Runs a command and returns its exit code: 2 if a flag or value is wrong."""
    arguments = _parse(argv)
    # Whoever debugs sees the whole traceback.
    is_debugged = getattr(arguments, "debug", False)
    mistakes = () if is_debugged else (ValueError, TypeError, OSError)
    failures = () if is_debugged else RuntimeError
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *rest, **kwargs: say_aside(
            f"jepbt: warning: {message}"
        )
        try:
            with contextlib.ExitStack() as stack:
                try:
                    stack.enter_context(joined(arguments))
                    run = arguments.prepare(arguments)
                except mistakes as error:
                    return _fail(str(error))
                run()
        except jepbt.Interrupted as stop:
            train.print_interruption(stop, arguments)
            return 128 + stop.signal_number
        except KeyboardInterrupt:  # before training, or the second Ctrl-C
            say_aside("jepbt: stopped at once")
            return 128 + signal.SIGINT
        except failures as error:  # nothing was learned
            say_aside(f"jepbt: {error}")
            return 1
    return 0


def _parse(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="jepbt",
        description=_DESCRIPTION,
        epilog=_EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--version", action="version", version=f"jepbt {jepbt.__version__}"
    )
    # argparse would print all flags before the one line that says what is wrong.
    parser.error = _exit_with(parser.prog)
    commands = parser.add_subparsers(title="commands", required=True, metavar="COMMAND")
    for module in _COMMANDS:
        name = module.__name__.rpartition(".")[2]
        form = argparse.RawDescriptionHelpFormatter
        command = commands.add_parser(name, formatter_class=form, **module.TEXTS)
        module.add_flags(command)
        command.set_defaults(prepare=module.prepare)
        command.error = _exit_with(command.prog)
    argv = sys.argv[1:] if argv is None else list(argv)
    arguments = parser.parse_args(argv)
    arguments.argv = argv
    return arguments


def _exit_with(name: str) -> Callable[[str], NoReturn]:
    return lambda message: sys.exit(_fail(f"{message} (see {name} --help)"))


def _fail(message: str) -> int:
    say_aside(f"jepbt: error: {message}")
    return 2
