"""The winner's schedule: what its ancestors trained with, as functions of the step."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jepbt.results.history import History

FORMAT = "jepbt-schedule-1"


@dataclasses.dataclass(frozen=True, eq=False)
class Schedules(Mapping):
    """Hyperparameters by name, each an optax schedule: constant within a generation.

    `schedules["learning_rate"]` is a function `step -> value`, also of a traced step,
    that keeps its last value after the last step. Of a hyperparameter whose choices are
    no numbers it takes a Python step and returns the choice.

    Attributes:
        by_generation: `[G', ...]` by name, a row for each generation of the winner's
            line.
        steps_per_generation: how many steps each value holds.
        batch_size: of each step, as the run had it; `None` if unknown.

    Example:
        >>> schedules = Schedules({"rate": np.array([0.5, 0.25])}, 10)
        >>> [float(schedules["rate"](step)) for step in (0, 9, 10, 99)]
        [0.5, 0.5, 0.25, 0.25]
    """

    by_generation: Mapping[str, np.ndarray]
    steps_per_generation: int
    batch_size: int | None = None

    def __getitem__(self, name: str) -> Callable[[Any], Any]:
        values = self.by_generation[name]
        length = self.steps_per_generation

        def schedule(step):
            if values.dtype == object:
                return values[min(int(step) // length, len(values) - 1)]
            number = jnp.minimum(jnp.asarray(step) // length, len(values) - 1)
            return jnp.asarray(values)[number.astype(jnp.int32)]

        return schedule

    def __iter__(self) -> Iterator[str]:
        return iter(self.by_generation)

    def __len__(self) -> int:
        return len(self.by_generation)

    @property
    def num_generations(self) -> int:
        """How many generations the winner's line has."""
        return len(next(iter(self.by_generation.values())))

    @property
    def num_steps(self) -> int:
        """How many steps the winner trained for."""
        return self.num_generations * self.steps_per_generation

    def to_json(self) -> str:
        """Writes everything as JSON that other programs read: see `schedule.json`."""
        fields = {
            "format": FORMAT,
            "steps_per_generation": self.steps_per_generation,
            "num_steps": self.num_steps,
            "batch_size": self.batch_size,
            "values": {
                name: _as_lists(value) for name, value in self.by_generation.items()
            },
        }
        return json.dumps(fields, indent=2, allow_nan=False)

    def __repr__(self) -> str:
        return (
            f"Schedules({', '.join(self)}: {self.num_generations} generations of "
            f"{self.steps_per_generation} steps)"
        )


def make_schedules(
    history: History, steps_per_generation: int, batch_size: int | None = None
) -> Schedules:
    """Follows the winner's line through a history.

    Args:
        history: of the run.
        steps_per_generation: of the run.
        batch_size: of the run.

    Returns:
        The schedules, from the generation in which the winner's weights were new.

    Raises:
        ValueError: if no member ever had a finite fitness.
    """
    line = history.ancestry()
    born = int(np.argmax(line >= 0))
    rows = np.arange(born, len(line)), line[born:]
    values = {name: value[rows] for name, value in history.hparams.items()}
    return Schedules(values, steps_per_generation, batch_size)


def load_schedules(run: str | os.PathLike) -> Schedules:
    """Reads `schedule.json` again.

    Args:
        run: the run's folder, or the file.

    Returns:
        The schedules.

    Raises:
        ValueError: if it cannot be read, or is no schedule.

    Example:
        >>> import tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "schedule.json"
        >>> written = Schedules({"rate": np.array([0.5, 0.1], np.float32)}, 10)
        >>> _ = path.write_text(written.to_json())
        >>> load_schedules(path).by_generation["rate"]
        array([0.5, 0.1], dtype=float32)
    """
    path = pathlib.Path(run)
    if path.is_dir():
        path = path / "schedule.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"format={fields['format']!r}, expected {FORMAT!r}")
        return Schedules(
            {name: _as_array(value) for name, value in fields["values"].items()},
            fields["steps_per_generation"],
            fields["batch_size"],
        )
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{str(path)!r} is no schedule of a run ({error}). Name the folder of one "
            "that has finished a generation, or its schedule.json."
        ) from error


def _as_lists(values: np.ndarray) -> list:
    if values.dtype == np.float32:  # the shortest digits that give these bits back
        values = values.astype(str).astype(np.float64)
    if values.dtype == object:
        return [v if isinstance(v, str | int | float) else repr(v) for v in values]
    return values.tolist()


def _as_array(values: list) -> np.ndarray:
    array = np.array(values)
    narrow = {"f": np.float32, "i": np.int32, "b": bool}
    return array.astype(narrow.get(array.dtype.kind, object))
