"""Holds and checks the fixed settings of a run."""

from __future__ import annotations

import dataclasses
import difflib
import os
from collections.abc import Mapping
from typing import Any

from jepbt.arguments import (
    check_bool,
    check_choice,
    check_real,
    check_whole,
    user_path,
)

VERSION = "0.1.0"
"""The version of jepbt."""


@dataclasses.dataclass
class Config:
    """Fixed settings of a run; `train_population`'s keywords are these fields.

    Inherit from it to keep an experiment's own settings beside them. Values are checked
    by `check` when a run is made of them, not here, so that a subclass may compute.

    The same settings and seed give the same bits, run after run and process after
    process, as long as program, chunk size, number of devices, kind of device and
    versions of jax and jaxlib are the same. What may differ otherwise:

    - Chunk size and number of devices change how XLA sums, so fitness may differ in
      its last digits, and once a rank flips so does everything that descends from it.
      Draws never change: a slot's examples, initial weights, noise and parents follow
      from seed, generation and slot alone.
    - `chunk_size="auto"` is a rule by platform and by the arithmetic of a step, and so
      the same on every machine of that platform.
    - Another processor, jaxlib or compiler flag is another program.
    - `max_seconds` ends a run where the clock says.

    Attributes:
        population_size: `P`, the number of networks that train side by side.
        num_generations: `G`, the number of times that they train and are evaluated;
            there are `G - 1` evolutions between.
        steps_per_generation: `S`, the training steps between two evaluations.
        batch_size: the number of examples in a training step; `None` takes the task's.
        seed: the seed of every random draw, from 0 to 2**32 - 1. A new seed compiles
            nothing again.
        batches: "shared" trains all members on the same batches, "per_member" draws
            each member its own.
        chunk_size: members of a device computed together: a divisor of their number,
            or "auto", which chooses by a rule: see `scaling` to measure.
        generations_per_call: the generations that are handed to the devices at once,
            before the host looks at what came of them: for tiny tasks, where it costs
            more to look than to train. The bits are those of 1, and every generation is
            in the history, the log and the callbacks, after the call that it was in.
            Checkpoints, `max_seconds`, `target_fitness`, Ctrl-C, a callback's error and
            the end of a population whose members have all failed wait for the end of a
            call. The first generation is a call of its own.
        max_seconds: the time after which no further generation starts; `None` for no
            limit.
        target_fitness: the fitness at which the run stops; `None` for no target.
        run_dir: a folder for the run's files, made if missing; `None` writes nothing.
            `~` is the home folder; a relative path starts from the folder that is the
            current one when the run begins, whatever a callback changes it to.
        resume: `True` continues the run in `run_dir` from its newest checkpoint, or
            starts one if there is none.
        checkpoint_every: the generations between two checkpoints, or "auto": at most
            every 30 seconds, and as often as keeps the time for writing them to 3
            percent. Ctrl-C, the end of a run and an error in a callback save in any
            case. What ends the process at once, as `kill -9` does, costs the
            generations since the newest checkpoint: `resume` trains them again, to the
            same bits, and callbacks get them a second time. With 1, and one generation
            a call, they are two at most: one in flight, and one that was being saved.
        keep_checkpoints: the number of checkpoints that stay; older ones are removed.
        progress: `True` shows a progress bar in a terminal or notebook.
        log_level: the level of the logger "jepbt": "debug", "info" (a line a
            generation, to standard error where no logging is set up), "warning" or
            "error".
        debug: `True` stops at the first member that fails and names it, instead of
            continuing without it; the command line then shows Python's tracebacks.

    Example:
        >>> Config(population_size=8).num_generations
        20
    """

    population_size: int = 32
    num_generations: int = 20
    steps_per_generation: int = 100
    batch_size: int | None = None
    seed: int = 0
    batches: str = "shared"
    chunk_size: int | str = "auto"
    generations_per_call: int = 1
    max_seconds: float | None = None
    target_fitness: float | None = None
    run_dir: str | os.PathLike | None = None
    resume: bool = False
    checkpoint_every: int | str = "auto"
    keep_checkpoints: int = 3
    progress: bool = True
    log_level: str = "warning"
    debug: bool = False


_COUNTS = {
    "population_size": 2**31 - 1,
    "num_generations": 10**6,
    "steps_per_generation": 10**6,
    "batch_size": 2**31 - 1,
    "generations_per_call": 10**6,
}


def merge(where: str, config: Config | None, fields: Mapping[str, Any]) -> Config:
    """Puts settings over those of a config, checks them, and fixes where files go.

    Args:
        where: the function that was called.
        config: the settings, or `None` for the defaults.
        fields: settings by name, over those of `config`.

    Raises:
        TypeError: if `config` is no `Config`, or a setting's name is unknown.
        ValueError: if a value is not allowed.
    """
    if config is None:
        config = Config()
    if not isinstance(config, Config):
        check(config)
    names = [field.name for field in dataclasses.fields(config)]
    for name in fields:
        if name not in names:
            close = difflib.get_close_matches(name, names, 1)
            hint = f" Did you mean {close[0]}?" if close else ""
            raise TypeError(
                f"{where} has no setting {name!r}.{hint} The settings are "
                f"{', '.join(names)}."
            )
    config = dataclasses.replace(config, **fields)
    check(config)
    if config.run_dir is None:
        return config
    return dataclasses.replace(config, run_dir=user_path("run_dir", config.run_dir))


def check(config: Config) -> None:
    """Raises an error that tells a remedy unless every field has an allowed value."""
    if not isinstance(config, Config):
        hint = " Call it: Config()." if config is Config else ""
        raise TypeError(
            f"config must be a jepbt.Config, got {type(config).__name__}.{hint}"
        )
    for name, largest in _COUNTS.items():
        value = getattr(config, name)
        if not (name == "batch_size" and value is None):
            check_whole("", name, value, 1, largest)
    check_whole("", "seed", config.seed, 0, 2**32 - 1)
    check_choice("", "batches", config.batches, ("shared", "per_member"))
    for name, largest in {"chunk_size": 2**31 - 1, "checkpoint_every": 10**6}.items():
        value = getattr(config, name)
        if not (isinstance(value, str) and value == "auto"):
            check_whole("", name, value, 1, largest, note=" or 'auto'")
    if config.max_seconds is not None:
        note = ", or None"
        check_real("", "max_seconds", config.max_seconds, 0, above=True, note=note)
    if config.target_fitness is not None:
        check_real("", "target_fitness", config.target_fitness, note=", or None")
    levels = ("debug", "info", "warning", "error")
    check_choice("", "log_level", config.log_level, levels)
    check_whole("", "keep_checkpoints", config.keep_checkpoints, 1, 10**6)
    for name in ("progress", "debug", "resume"):
        check_bool("", name, getattr(config, name))
    if config.debug and config.generations_per_call > 1:
        raise ValueError(
            f"generations_per_call={config.generations_per_call} must be 1 with "
            "debug=True, which stops at the first generation that has a failed member. "
            "Leave one of the two out: the bits are the same."
        )
    if config.resume and config.run_dir is None:
        raise ValueError("resume=True needs run_dir: the folder of the run to resume.")
    check_folder("run_dir", config.run_dir)


def check_folder(name: str, folder: str | os.PathLike | None) -> None:
    """Raises a `ValueError` unless a value is a folder's path or `None`."""
    if folder is None:
        return
    # An empty path would be the current folder.
    is_path = isinstance(folder, str | os.PathLike) and str(folder)
    if not is_path or "\0" in str(folder):
        raise ValueError(
            f"{name}={folder!r} must be a folder's path, a text without null "
            "characters, or None."
        )
