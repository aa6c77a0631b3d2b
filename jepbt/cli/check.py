"""`jepbt check`: is jepbt right on this device, what does it cost, which form wins?"""

from __future__ import annotations

import argparse
import dataclasses
import functools
from collections.abc import Callable
from typing import Literal

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
from jepbt.cli.say import say
from jepbt.engine.devices import use_compilation_cache

KINDS = ("right", "cost", "lowering")
HELP = "check on this device that jepbt is right, what it costs, and which form wins"
DESCRIPTION = (
    "Checks the device that JAX finds, without a network: that training is right, "
    "what populations cost, and in which form a population of CNNs is fastest. Ends "
    "with tables in Markdown. What is finished is kept in a file, and the same command "
    "goes on. The exit code is 1 if something is not right."
)


@dataclasses.dataclass
class CheckOptions:
    """What is checked, and for how long.

    Attributes:
        parts: one or more of right, cost and lowering, with commas between.
        size: full; or toy, which shows in two minutes that it works.
        max_seconds: the time after which no further part starts.
        json: the file that keeps what was found, and that the same command goes on
            with.
    """

    parts: str = ",".join(KINDS)
    size: Literal["full", "toy"] = "full"
    max_seconds: float = 480.0
    json: str = "check.json"


def prepare_check(arguments: argparse.Namespace) -> Callable[[], None]:
    """Checks the user's options, and returns the function that runs the check."""
    options = arguments.options
    kinds = tuple(name.strip() for name in options.parts.split(","))
    for name in kinds:
        if name not in KINDS:
            raise ValueError(
                f"parts={options.parts!r}: {name!r} is none of {', '.join(KINDS)}. "
                "Give one or more of them, with commas between."
            )
    check_real("", "max_seconds", options.max_seconds, 0, above=True)
    path = user_file("json", options.json)
    jepbt.use_all_cpu_cores()
    record = open_record(path, options.size)
    return functools.partial(_run, options, kinds, record)


def _run(options: CheckOptions, kinds: tuple[str, ...], record: Record) -> None:
    use_compilation_cache()
    about = record.about
    say(f"jepbt {about['jepbt']} | jax {about['jax']} | {about['device']}")
    left_out = check_device(
        record,
        SIZES[options.size],
        tuple(kind for kind in KINDS if kind in kinds),
        max_seconds=options.max_seconds,
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
