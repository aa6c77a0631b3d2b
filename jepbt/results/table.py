"""Lays out a history as a table: a row for each member of each generation."""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

if TYPE_CHECKING:
    from pandas import DataFrame

    from jepbt.results.history import History


def columns(history: History) -> dict[str, np.ndarray]:
    """Makes the columns of `History.to_frame`, arrays of `G * P` values by name.

    The rows are those of generation 0 by slot, then those of generation 1, and so on.
    `"hparams/rate/before"` is a masked array, which holds nothing where the member's
    value is its parent's.

    Example:
        >>> import numpy as np
        >>> from jepbt.results import Generation, History
        >>> history = History()
        >>> for number, rates in enumerate(([1.0, 2.0], [1.0, 0.5])):
        ...     history.generations.append(Generation(
        ...         number, np.ones(2), np.ones(2), np.zeros(2, int),
        ...         {"rate": np.array(rates)}, {}, {}, {},
        ...     ))
        >>> table = columns(history)
        >>> table["hparams/rate"].tolist(), table["hparams/rate/before"].tolist()
        ([1.0, 2.0, 1.0, 0.5], [None, None, None, 1.0])
    """
    parents, fresh = history.parents, history.fresh
    numbers, slots = np.indices(parents.shape)
    table = {
        "generation": numbers,
        "member": slots,
        "fitness": history.fitness,
        "standard_error": history.standard_error,
        "parent": parents,
        "operation": history.operations,
    }
    is_child = (numbers > 0) & ~fresh
    for name, values in scalars(history.hparams):
        before = values[np.maximum(numbers - 1, 0), parents]
        is_same = ~is_child | (before == values)
        table[f"hparams/{name}"] = values
        table[f"hparams/{name}/before"] = np.ma.masked_array(before, is_same)
    for name, values in history.metrics.items():
        table[f"metrics/{name}"] = values
    return {name: values.reshape(-1) for name, values in table.items()}


def make_frame(columns: Mapping[str, np.ndarray]) -> DataFrame:
    """Makes a pandas `DataFrame` of columns by name.

    Raises:
        ImportError: if pandas is not installed.
    """
    try:
        import pandas
    except ImportError as error:
        raise ImportError(
            "to_frame needs pandas: pip install pandas. to_csv writes the same rows "
            "without."
        ) from error
    return pandas.DataFrame(columns)


def write_csv(columns: Mapping[str, np.ndarray], path: str | os.PathLike) -> None:
    """Writes columns as comma-separated text, their names first: `History.to_csv`."""
    with open(path, "w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(zip(*map(_as_texts, columns.values()), strict=True))


def scalars(
    values_by_name: Mapping[str, np.ndarray],
) -> Iterator[tuple[str, np.ndarray]]:
    """Lists arrays `[G, P]` by name; of vectors `[G, P, n]` an array for each entry."""
    for name, values in values_by_name.items():
        if values.ndim == 2:
            yield name, values
            continue
        for place in range(values.shape[2]):
            yield f"{name}[{place}]", values[..., place]


def _as_texts(column: np.ndarray) -> list[str]:
    values = np.ma.getdata(column)
    is_empty = np.ma.getmaskarray(column)
    if values.dtype.kind == "f":
        is_empty = is_empty | np.isnan(values)
    if values.dtype == object:
        texts = [v if isinstance(v, str) else repr(v) for v in values.tolist()]
    else:  # the shortest digits that give these bits back
        texts = values.astype(str).tolist()
    return ["" if empty else text for text, empty in zip(texts, is_empty, strict=True)]
