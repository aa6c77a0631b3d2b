"""Makes schedules of what the winner's ancestors trained with, step by step."""

import dataclasses
import json
import os
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import jax.numpy as jnp
import numpy as np

from jepbt.arguments import user_path
from jepbt.results.json_lines import UNREADABLE, from_lists, to_lists

FORMAT = "jepbt-schedule-1"


@dataclasses.dataclass(frozen=True, eq=False)
class Schedules(Mapping):
    """Hyperparameters by name, each an optax schedule: constant within a generation.

    `schedules["learning_rate"]` is a function `step -> value` that also takes a traced
    step, and keeps its last value after the last step. If the choices of a
    hyperparameter are not numbers, its function takes a Python step and returns the
    choice.

    Attributes:
        by_generation: `[L, ...]` by name, a row for each generation of the winner's
            line.
        steps_per_generation: the number of steps that each row holds.
        batch_size: the number of examples in a step; `None` if unknown.

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
        """The number of generations in the winner's line."""
        return len(next(iter(self.by_generation.values())))

    @property
    def num_steps(self) -> int:
        """The number of steps that the winner trained for."""
        return self.num_generations * self.steps_per_generation

    def to_json(self) -> str:
        """Writes the text of `schedule.json`, which other programs can read."""
        fields = {
            "format": FORMAT,
            "steps_per_generation": self.steps_per_generation,
            "num_steps": self.num_steps,
            "batch_size": self.batch_size,
            "values": {k: to_lists(value) for k, value in self.by_generation.items()},
        }
        return json.dumps(fields, indent=2, allow_nan=False)

    def __repr__(self) -> str:
        return (
            f"Schedules({', '.join(self)}: {self.num_generations} generations of "
            f"{self.steps_per_generation} steps)"
        )


def load_schedules(run: str | os.PathLike) -> Schedules:
    """Reads `schedule.json` again.

    Args:
        run: the run's folder, or the file.

    Returns:
        The schedules.

    Raises:
        ValueError: if the file cannot be read, or holds something else.

    Example:
        >>> import pathlib, tempfile
        >>> path = pathlib.Path(tempfile.mkdtemp()) / "schedule.json"
        >>> written = Schedules({"rate": np.array([0.5, 0.1], np.float32)}, 10)
        >>> _ = path.write_text(written.to_json())
        >>> load_schedules(path).by_generation["rate"]
        array([0.5, 0.1], dtype=float32)
    """
    path = user_path("run", run)
    if path.is_dir():
        path = path / "schedule.json"
    try:
        fields = json.loads(path.read_text(encoding="utf-8"))
        if fields["format"] != FORMAT:
            raise ValueError(f"format={fields['format']!r}, expected {FORMAT!r}")
        return Schedules(
            {name: from_lists(value) for name, value in fields["values"].items()},
            fields["steps_per_generation"],
            fields["batch_size"],
        )
    except (OSError, *UNREADABLE) as error:
        raise ValueError(
            f"{str(path)!r} is no schedule of a run ({error}). Name the folder of "
            "a run that has finished a generation, or its schedule.json."
        ) from error
