"""What a run has seen, generation by generation, on the host."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepbt.hyperparameters import Categorical, HyperParameters, spaces
from jepbt.training import Record


@dataclasses.dataclass(frozen=True)
class Generation:
    """What callbacks get after every generation; NumPy copies, free to keep.

    Attributes:
        number: from 0.
        fitness: `f32[P]`, higher is better, `nan` if the member failed.
        standard_error: `f32[P]` of the fitness over validation examples.
        parents: `i32[P]` whose state each slot trained on from.
        hparams: `[P, ...]` by name, as values: of categoricals, the choice itself.
        metrics: `f32[P]` by name, means over the steps, `"loss"` among them.
        info: what the strategy reports, such as `"elites"` of `bool[P]`: the slots that
            were kept as they were when this generation began.
        seconds: by phase: evolve, train, evaluate.
    """

    number: int
    fitness: np.ndarray
    standard_error: np.ndarray
    parents: np.ndarray
    hparams: Mapping[str, np.ndarray]
    metrics: Mapping[str, np.ndarray]
    info: Mapping[str, np.ndarray]
    seconds: Mapping[str, float]

    @property
    def num_failed(self) -> int:
        """How many members have no finite fitness."""
        return int(np.isnan(self.fitness).sum())


class History:
    """All generations of a run, as arrays with leading axes `[G, P]`.

    Attributes:
        generations: the `Generation` of each.
    """

    def __init__(self) -> None:
        self.generations: list[Generation] = []

    def __len__(self) -> int:
        return len(self.generations)

    @property
    def fitness(self) -> np.ndarray:
        """`f32[G, P]`."""
        return self._stack("fitness")

    @property
    def standard_error(self) -> np.ndarray:
        """`f32[G, P]`."""
        return self._stack("standard_error")

    @property
    def parents(self) -> np.ndarray:
        """`i32[G, P]`; in row 0 every slot is its own."""
        return self._stack("parents")

    @property
    def hparams(self) -> dict[str, np.ndarray]:
        """`[G, P, ...]` by name."""
        return self._stack_by_name("hparams")

    @property
    def metrics(self) -> dict[str, np.ndarray]:
        """`f32[G, P]` by name."""
        return self._stack_by_name("metrics")

    def _stack(self, name: str) -> np.ndarray:
        return np.stack([getattr(g, name) for g in self.generations])

    def _stack_by_name(self, name: str) -> dict[str, np.ndarray]:
        rows = [getattr(g, name) for g in self.generations]
        return {key: np.stack([row[key] for row in rows]) for key in rows[0]}


def make_generation(
    number: int, record: Record, seconds: Mapping[str, float]
) -> Generation:
    """Turns a fetched record into what people and callbacks read.

    Args:
        number: of the generation.
        record: NumPy arrays, fetched from the device.
        seconds: by phase.

    Returns:
        The generation.
    """
    return Generation(
        number=number,
        fitness=np.array(record.fitness),
        standard_error=np.array(record.standard_error),
        parents=np.array(record.parents),
        hparams=_readable(record.hparams),
        metrics={name: np.array(value) for name, value in record.metrics.items()},
        info={name: np.array(value) for name, value in record.info.items()},
        seconds=dict(seconds),
    )


def describe(generation: Generation) -> str:
    """Says in one line how a generation went.

    Args:
        generation: to describe.

    Returns:
        Best and median fitness of the live, failures, seconds.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.5, np.nan, 0.7], np.float32)
        >>> describe(
        ...     Generation(1, scores, scores, np.arange(3), {}, {}, {}, {"train": 2.0})
        ... )
        'best 0.700  median 0.600  1 failed  2.0 s'
    """
    live = generation.fitness[~np.isnan(generation.fitness)]
    best, median = (live.max(), np.median(live)) if live.size else (np.nan, np.nan)
    return (
        f"best {best:.3f}  median {median:.3f}  "
        f"{generation.num_failed} failed  {sum(generation.seconds.values()):.1f} s"
    )


def to_json(generation: Generation) -> str:
    """Writes a generation as one line of JSON; `nan` becomes `null`.

    Args:
        generation: to write.

    Returns:
        A line without its end.

    Example:
        >>> import numpy as np
        >>> scores = np.array([0.5, np.nan], np.float32)
        >>> line = to_json(Generation(0, scores, scores, np.arange(2), {}, {}, {}, {}))
        >>> line[:42]
        '{"generation": 0, "fitness": [0.5, null], '
    """
    fields = {
        "generation": generation.number,
        "fitness": _jsonable(generation.fitness),
        "standard_error": _jsonable(generation.standard_error),
        "parents": _jsonable(generation.parents),
    }
    for name in ("hparams", "metrics", "info"):
        values = getattr(generation, name)
        fields[name] = {key: _jsonable(value) for key, value in values.items()}
    fields["seconds"] = {k: round(v, 6) for k, v in generation.seconds.items()}
    return json.dumps(fields, allow_nan=False)


def _readable(hparams: HyperParameters) -> dict[str, np.ndarray]:
    readable = {}
    for name, space in spaces(type(hparams)).items():
        value = np.array(getattr(hparams, name))
        if isinstance(space, Categorical):
            value = np.array(space.choices, dtype=None if space.is_numeric else object)[
                value
            ]
        readable[name] = value
    return readable


def _jsonable(value: Any) -> Any:
    """Lists of Python numbers; numbers that JSON does not have become `None`."""
    if isinstance(value, np.ndarray):
        if value.dtype == np.float32:  # the shortest digits that give these bits back
            value = value.astype(str).astype(np.float64)
        return _jsonable(value.tolist())
    if isinstance(value, list):
        return [_jsonable(item) for item in value]
    if isinstance(value, float) and not np.isfinite(value):
        return None
    if isinstance(value, bool | int | float | str | None):
        return value
    return repr(value)  # a choice that is neither number nor text
