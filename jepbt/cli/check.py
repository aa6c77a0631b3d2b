"""`jepbt check`: is jepbt right on this device, what does it cost, which form wins?"""

import argparse
import functools
from collections.abc import Callable

import jepbt
from jepbt.arguments import check_real, user_file
from jepbt.benchmark.check import (
    SIZES,
    Finding,
    Record,
    check_device,
    markdown,
    open_record,
)
from jepbt.cli.flags import number, read_names
from jepbt.cli.say import say
from jepbt.engine.programs import use_compilation_cache

KINDS = ("right", "cost", "lowering")
TEXTS = {
    "help": "check on this device that jepbt is right, what it costs, which form wins",
    "usage": "jepbt check [flags]",
    "description": """\
Checks the device that JAX finds, without a network: that training is right, what
populations cost, and in which form they are fastest. Ends with tables in Markdown. What
is finished is kept in a file, and the same command goes on. The exit code is 1 if
something is not right.
""",
    "epilog": """\
example:
  See in two minutes what it prints:

    jepbt check --size toy
""",
}


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds what is checked, and for how long."""
    add = command.add_argument_group("what is checked").add_argument
    add(
        "--parts",
        metavar="NAMES",
        default=",".join(KINDS),
        help="one or more of right, cost and lowering, with commas between; all if "
        "left out",
    )
    add(
        "--size",
        choices=tuple(SIZES),
        default="full",
        help="full (the default); or toy, which shows in two minutes that it works",
    )
    add(
        "--max-seconds",
        metavar="SECONDS",
        type=number,
        default=480.0,
        help="start no further part after this time (default: %(default)s)",
    )
    add(
        "--json",
        metavar="FILE",
        default="check.json",
        help="the file that keeps what was found, and that the same command goes on "
        "with (default: %(default)s)",
    )


def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
    """Checks the user's flags, and returns the function that runs the check."""
    kinds = read_names("parts", arguments.parts, KINDS)
    check_real("", "max_seconds", arguments.max_seconds, 0, above=True)
    path = user_file("json", arguments.json)
    jepbt.use_all_cpu_cores()
    record = open_record(path, arguments.size)
    return functools.partial(_run, arguments, kinds, record)


def _run(arguments: argparse.Namespace, kinds: list[str], record: Record) -> None:
    use_compilation_cache()
    about = record.about
    say(f"jepbt {about['jepbt']} | jax {about['jax']} | {about['device']}")
    left_out = check_device(
        record,
        SIZES[arguments.size],
        kinds,
        max_seconds=arguments.max_seconds,
        tell=_tell,
    )
    say(f"\n{markdown(record, left_out)}")
    say(f"\nAll numbers: {record.path}")
    if left_out:
        say("The same command goes on with what the time did not allow.")
    if wrong := record.wrong():
        raise RuntimeError(f"not right on this device: {'; '.join(wrong)}")


def _tell(part: str, finding: Finding) -> None:
    words = finding.error or ", ".join(f"{k} {v}" for k, v in finding.figures.items())
    verdict = {True: "holds: ", False: "DOES NOT HOLD: ", None: ""}[finding.holds]
    say(f"{finding.seconds:6.1f} s  {part}  {verdict}{words}")
