"""Keeps what each run of a comparison reached, a line of JSON as it finishes."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Mapping
from typing import Any

from jepbt.checkpoints import differences
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.resume import released_on_error, take
from jepbt.comparison.runs import Outcome
from jepbt.optional import optional, warn
from jepbt.results.json_lines import UNREADABLE, read_line, to_lists, write_line

RUNS = "runs.jsonl"


@dataclasses.dataclass(eq=False)
class Record:
    """The finished runs of a comparison, in memory and in its folder.

    Attributes:
        folder: the folder, or `None`.
        outcomes: the results of finished runs, by arm and seed.
        release: lets go of the folder.
    """

    folder: pathlib.Path | None = None
    outcomes: dict[tuple[str, int], Outcome] = dataclasses.field(default_factory=dict)
    release: Callable[[], None] = lambda: None

    def add(self, outcome: Outcome) -> None:
        """Takes in a finished run, and writes it down."""
        self.outcomes[outcome.arm, outcome.seed] = outcome
        if self.folder is not None:
            with optional(f"{self.folder / RUNS} lacks a run that has finished"):
                fields = dataclasses.asdict(outcome)
                line = write_line({k: to_lists(v) for k, v in fields.items()})
                run_directory.append_line(self.folder / RUNS, line)


def open_record(
    path: str | os.PathLike | None, resume: bool, make_identity: Callable[[], Mapping]
) -> Record:
    """Takes a folder for a comparison, and reads the runs that are finished in it.

    `make_identity` makes the JSON values that all numbers follow from: `"settings"`,
    and `"arms"` by name. Without a folder everything stays in memory.
    """
    if path is None:
        return Record()
    held = take(path, resume=resume)
    folder, outcomes = held.path, {}
    with released_on_error(held):
        identity = make_identity()
        if run_directory.holds_run(folder):
            _check(folder, identity)
            outcomes = _read(folder)
        else:
            run_directory.write_config(folder, {"comparison": identity})
    return Record(folder, outcomes, held.release)


def _check(folder: pathlib.Path, identity: Mapping[str, Any]) -> None:
    stored = run_directory.read_config(folder).get("comparison")
    if not isinstance(stored, Mapping):
        raise ValueError(
            f"run_dir={str(folder)!r} holds a run that jepbt.compare did not make. "
            "Name another folder."
        )
    now = json.loads(json.dumps(identity, default=str))
    found = differences(stored, now)
    before = stored.get("arms")
    for name, arm in now["arms"].items():
        if isinstance(before, Mapping) and name in before:
            found += [f"arm {name!r}: {x}" for x in differences(before[name], arm)]
    if found:
        raise ValueError(
            f"run_dir={str(folder)!r} holds another comparison: {'; '.join(found)}. "
            "Continue with the same arms and settings, or name another folder."
        )


def _read(folder: pathlib.Path) -> dict[tuple[str, int], Outcome]:
    """Reads finished runs; what is damaged or unfinished goes, and is run anew."""
    path = folder / RUNS
    if not path.exists():
        return {}
    *lines, unfinished = path.read_bytes().split(b"\n")
    outcomes, kept = {}, b""
    for number, line in enumerate(lines, start=1):
        try:
            outcome = _parse(line.decode())
        except UNREADABLE as error:
            warn(
                f"line {number} of {str(path)!r} is damaged ({error}): that run is "
                "done again."
            )
            continue
        outcomes[outcome.arm, outcome.seed] = outcome
        kept += line + b"\n"
    if unfinished or len(outcomes) < len(lines):
        run_directory.replace(path, kept)
    return outcomes


def _parse(line: str) -> Outcome:
    fields = read_line(line)
    numbers = ("score", "validation", "biased", "seconds", "compile_seconds")
    for name in numbers:
        value = fields[name]
        fields[name] = float("nan") if value is None else float(value)
    return Outcome(**fields)
