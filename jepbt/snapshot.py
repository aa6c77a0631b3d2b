"""A run between two generations as host arrays by name, and back."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.processes import to_host
from jepbt.programs import Programs
from jepbt.training import Best, Record, RunState

_PHASES = ("evolve", "train", "evaluate")


class Snapshot(NamedTuple):
    """Everything that a run goes on from.

    Attributes:
        state: on the devices.
        first: the best member of the first generation, on the host.
        records: of every generation so far, on the host.
        seconds: of every generation, by phase.
    """

    state: RunState
    first: Best
    records: Sequence[Record]
    seconds: Sequence[Mapping[str, float]]


def state_arrays(state: RunState, first: Best) -> dict[str, np.ndarray]:
    """Copies a state to the host; every process must take part.

    Args:
        state: after a generation.
        first: the best member of the first one.

    Returns:
        Arrays by the path of their leaf; of keys, the data.
    """
    return {name: to_host(leaf) for name, leaf in _named((state, first))}


def history_arrays(
    records: Sequence[Record], seconds: Sequence[Mapping[str, float]]
) -> dict[str, np.ndarray]:
    """Stacks what the generations reported, a column for each quantity.

    Args:
        records: one a generation.
        seconds: one a generation.

    Returns:
        Columns by name, with a row for each generation, or for each but the first,
        which had no evolution to report of.
    """
    columns: dict[str, list] = {}
    for record, spent in zip(records, seconds, strict=True):
        times = {f"seconds/{name}": np.float64(spent[name]) for name in _PHASES}
        for name, value in (_flatten(record) | times).items():
            columns.setdefault(name, []).append(value)
    return {f"history/{name}": np.stack(rows) for name, rows in columns.items()}


def restore(
    arrays: Mapping[str, np.ndarray], num_generations: int, programs: Programs
) -> Snapshot:
    """Puts a state back on the devices of the programs that go on with it.

    Args:
        arrays: of `state_arrays` and `history_arrays`.
        num_generations: that they have seen.
        programs: compiled.

    Returns:
        The snapshot.

    Raises:
        ValueError: if they do not fit the programs; the message names the array.
    """
    info = programs.init.out_info
    like = (info, info.best)
    leaves, tree = jax.tree.flatten(like)
    for (name, _), leaf in zip(_named(like), leaves, strict=True):
        _check(name, arrays.get(name), *_hosted(leaf))
    found = [arrays[name] for name, _ in _named(like)]
    shardings = jax.tree.leaves(programs.init.output_shardings)
    placed = [
        _wrap(_to_device(array, sharding), leaf)
        for array, leaf, sharding in zip(found, leaves, shardings, strict=False)
    ]
    first = [
        _wrap(array, leaf)
        for array, leaf in zip(found[len(placed) :], leaves[len(placed) :], strict=True)
    ]
    state, first = jax.tree.unflatten(tree, [*placed, *first])
    records, seconds = _read_history(arrays, num_generations, info.population)
    return Snapshot(state, first, records, seconds)


def detach(leaf: Any) -> Any:
    """Copies to the host what the next program is about to take over."""
    return _wrap(to_host(leaf), leaf)


def _read_history(arrays, num_generations, population):
    columns = {
        name.removeprefix("history/"): column
        for name, column in arrays.items()
        if name.startswith("history/")
    }
    num_members = population.fitness.shape[0]
    hparams = dict(_named(population.hparams))
    needed = {
        "fitness": ((num_members,), np.dtype(np.float32)),
        "standard_error": ((num_members,), np.dtype(np.float32)),
        "parents": ((num_members,), np.dtype(np.int32)),
        **{f"hparams{name}": (x.shape, x.dtype) for name, x in hparams.items()},
        **{f"seconds/{name}": ((), np.dtype(np.float64)) for name in _PHASES},
    }
    for name, (shape, dtype) in needed.items():
        _check(f"history/{name}", columns.get(name), (num_generations, *shape), dtype)
    records = []
    for number in range(num_generations):
        row = {
            name: column[number - num_generations]
            for name, column in columns.items()
            if len(column) >= num_generations - number
        }
        groups = {
            group: {
                name.removeprefix(f"{group}/"): value
                for name, value in row.items()
                if name.startswith(f"{group}/")
            }
            for group in ("metrics", "info")
        }
        values = [row[f"hparams{name}"] for name in hparams]
        records.append(
            Record(
                fitness=row["fitness"],
                standard_error=row["standard_error"],
                parents=row["parents"],
                hparams=jax.tree.unflatten(
                    jax.tree.structure(population.hparams), values
                ),
                **groups,
            )
        )
    seconds = [
        {name: float(columns[f"seconds/{name}"][number]) for name in _PHASES}
        for number in range(num_generations)
    ]
    return records, seconds


def _flatten(record: Record) -> dict[str, np.ndarray]:
    flat = {name: getattr(record, name) for name in record._fields[:3]}
    flat |= {f"hparams{name}": leaf for name, leaf in _named(record.hparams)}
    for group in ("metrics", "info"):
        values = getattr(record, group)
        flat |= {f"{group}/{name}": np.asarray(x) for name, x in values.items()}
    return flat


def _named(tree: Any) -> list[tuple[str, Any]]:
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [(jax.tree_util.keystr(path), leaf) for path, leaf in leaves]


def _check(name: str, array: np.ndarray | None, shape: tuple, dtype: np.dtype) -> None:
    if array is None:
        raise ValueError(f"{name} is missing")
    if array.shape != tuple(shape) or array.dtype != dtype:
        raise ValueError(
            f"{name} is {array.dtype}{list(array.shape)}, not {dtype}{list(shape)}"
        )


def _is_key(leaf: Any) -> bool:
    return jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key)


def _hosted(leaf: Any) -> tuple[tuple, np.dtype]:
    """The shape and type that `to_host` gives an array."""
    if _is_key(leaf):
        shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
        leaf = jax.eval_shape(jax.random.key_data, shape)
    return leaf.shape, leaf.dtype


def _to_device(array: np.ndarray, sharding: Any) -> jax.Array:
    """Puts an array where the programs expect it, in memory of its own."""
    placed = jax.make_array_from_callback(
        array.shape, sharding, lambda index: array[index]
    )
    if array.size == 0:  # a copy's compiler forgets where nothing is
        return placed
    return jnp.copy(placed)  # donated later: it must not be NumPy's memory


def _wrap(array: Any, leaf: Any) -> Any:
    """Makes keys of their data, where the tree has keys."""
    if not _is_key(leaf):
        return array
    kinds = []
    shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype)
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), shape)
    return jax.random.wrap_key_data(jnp.asarray(array), impl=kinds[0])
