"""Checkpoints that hold exactly what was saved, or do not exist.

A checkpoint is a folder `checkpoints/000012`: arrays, written by orbax, a few facts,
and a manifest with the size and SHA-256 of every file. It is written beside its place,
forced to the disk, and renamed into it. One whose manifest does not match is not used.
Nothing in it is executed or unpickled.
"""

from __future__ import annotations

import hashlib
import json
import math
import os
import pathlib
import re
import shutil
import threading
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.engine import Best, RunState
from jepbt.engine.processes import to_host
from jepbt.engine.programs import Programs
from jepbt.engine.state import Record

FOLDER = "checkpoints"
_MANIFEST = "manifest.json"
_FACTS = "facts.json"
_ARRAYS = "arrays"


_LARGE = 2**20
_OWN = threading.local()


class Damaged(Exception):
    """A folder that is no checkpoint, and why."""


def write(
    root: pathlib.Path,
    generation: int,
    facts: Mapping[str, Any],
    arrays: Mapping[str, np.ndarray],
    num_kept: int,
) -> None:
    """Writes a checkpoint whole or not at all, then removes the oldest.

    Args:
        root: the folder of all checkpoints of a run; made if missing.
        generation: the last one that it has seen.
        facts: what JSON can hold, such as the identity of the run.
        arrays: host arrays by name.
        num_kept: how many checkpoints stay.

    Raises:
        OSError: for a full or read-only disk. What was there before still is.

    Example:
        >>> import tempfile
        >>> root = pathlib.Path(tempfile.mkdtemp())
        >>> write(root, 7, {"seed": 0}, {"x": np.arange(3)}, num_kept=1)
        >>> facts = verify(root / "000007")
        >>> facts["seed"], read(root / "000007", facts)
        (0, {'x': array([0, 1, 2])})
    """
    name = f"{generation:06d}"
    temporary = root / f".saving-{name}"
    header = [[key, str(array.dtype), array.shape] for key, array in arrays.items()]
    facts = {**facts, "generation": generation, "arrays": header}
    try:
        remove(temporary)
        temporary.mkdir(parents=True)
        _write_arrays(temporary / _ARRAYS, arrays)
        (temporary / _FACTS).write_text(json.dumps(facts, indent=1))
        _write_manifest(temporary)
        remove(root / name)  # one that was found to be damaged
        temporary.rename(root / name)
        _sync(root)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    for path in list_all(root)[num_kept:]:
        remove(path)


def list_all(root: pathlib.Path) -> list[pathlib.Path]:
    """Lists what has the name of a checkpoint, the newest first."""
    if not root.is_dir():
        return []
    numbers = [int(p.name) for p in root.iterdir() if re.fullmatch("[0-9]+", p.name)]
    paths = [root / f"{number:06d}" for number in sorted(numbers, reverse=True)]
    return [path for path in paths if path.exists() or path.is_symlink()]


def verify(path: pathlib.Path) -> dict[str, Any]:
    """Reads every byte of a checkpoint and compares it with the manifest.

    Args:
        path: of the checkpoint.

    Returns:
        Its facts, with its `"generation"`.

    Raises:
        Damaged: if any file is missing, changed or was not there when it was written.
    """
    try:
        if path.is_symlink() or not path.is_dir():
            raise Damaged("it is no folder")
        stored = json.loads((path / _MANIFEST).read_bytes())
        body = stored["files"]
        if stored["sha256"] != _hash_text(_canonical(body)):
            raise Damaged("its manifest has changed")
        found = _describe_files(path)
        for name in sorted({*body, *found}):
            if body.get(name) != found.get(name):
                kind = "missing" if name not in found else "changed"
                raise Damaged(f"{name} {'is foreign' if name not in body else kind}")
        facts = json.loads((path / _FACTS).read_bytes())
        if facts["generation"] != int(path.name):
            raise Damaged("it is another generation's")
        return facts
    except OSError as error:
        raise Damaged(f"it cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("its manifest cannot be read") from error


def read(path: pathlib.Path, facts: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Reads the arrays of a verified checkpoint.

    Args:
        path: of the checkpoint.
        facts: from `verify`.

    Returns:
        Host arrays by name.

    Raises:
        Damaged: if they are not those that the facts tell of, for which a manifest
            would have to have been forged.
    """
    import orbax.checkpoint as orbax

    try:
        header = [(key, np.dtype(kind), tuple(s)) for key, kind, s in facts["arrays"]]
        sizes = [math.prod(shape) * dtype.itemsize for _, dtype, shape in header]
        numbers = [f"{i:05d}" for i, size in enumerate(sizes) if size >= _LARGE]
        num_packed = sum(size for size in sizes if size < _LARGE)
        numbers += [f"packed{num_packed}"] if num_packed else []
        stored = {}
        if numbers:
            wanted = orbax.RestoreArgs(restore_type=np.ndarray)
            with _checkpointer() as checkpointer:
                stored |= checkpointer.restore(
                    (path / _ARRAYS).absolute(),
                    args=orbax.args.PyTreeRestore(
                        item=dict.fromkeys(numbers, 0),
                        restore_args=dict.fromkeys(numbers, wanted),
                    ),
                )
        arrays, start = {}, 0
        packed = stored.get(f"packed{num_packed}", np.zeros(0, np.uint8))
        for i, (key, dtype, shape) in enumerate(header):
            if sizes[i] >= _LARGE:
                array = stored[f"{i:05d}"]
            else:
                part = packed[start : start + sizes[i]].copy()
                array = part.view(dtype).reshape(shape)
                start += sizes[i]
            if array.shape != shape or array.dtype != dtype or dtype.hasobject:
                raise ValueError(f"{key} is {array.dtype}{list(array.shape)}")
            arrays[key] = array
    except (ValueError, TypeError, KeyError, OSError) as error:
        raise Damaged(f"its arrays are others: {error}") from error
    return arrays


def remove(path: pathlib.Path) -> None:
    """Removes a checkpoint; one that is half gone no longer has a checkpoint's name."""
    if not path.exists() and not path.is_symlink():
        return
    if path.is_symlink() or not path.is_dir():
        path.unlink()
        return
    doomed = path.with_name(f".removing-{path.name.removeprefix('.')}")
    if doomed.exists():
        shutil.rmtree(doomed)
    path.rename(doomed)
    shutil.rmtree(doomed)


def clean(root: pathlib.Path) -> None:
    """Removes what a killed process left half-written."""
    if root.is_dir():
        for path in root.iterdir():
            if re.fullmatch(r"\.(saving|removing)-(saving-)?[0-9]+", path.name):
                shutil.rmtree(path, ignore_errors=True)


def _write_arrays(path: pathlib.Path, arrays: Mapping[str, np.ndarray]) -> None:
    import orbax.checkpoint as orbax

    named = {f"{i:05d}": x for i, x in enumerate(arrays.values()) if x.nbytes >= _LARGE}
    # A history is many small arrays, each of which costs orbax more than its bytes,
    # some kilobytes for good among that: all of them together are one.
    small = [
        np.ascontiguousarray(x).reshape(-1).view(np.uint8)
        for x in arrays.values()
        if x.nbytes < _LARGE
    ]
    total = sum(part.size for part in small)
    if total:
        named[f"packed{total}"] = packed = np.zeros(_rounded(total), np.uint8)
        np.concatenate(small, out=packed[:total])
    if not named:
        return
    # One for all that a thread writes: each of them leaves memory behind.
    if not hasattr(_OWN, "checkpointer"):
        _OWN.checkpointer = _checkpointer()
    try:
        _OWN.checkpointer.save(path.absolute(), args=orbax.args.PyTreeSave(named))
    except BaseException:
        _OWN.checkpointer.close()
        del _OWN.checkpointer
        raise


def _rounded(size: int) -> int:
    """The next power of two: copies of few different sizes leave no holes in memory."""
    return 1 << max(size - 1, 2**16 - 1).bit_length()


def _checkpointer() -> Any:
    """One process writes and reads what it holds; the others wait for nothing."""
    import jax
    import orbax.checkpoint as orbax

    options = {}
    if jax.process_count() > 1:
        options["multiprocessing_options"] = orbax.options.MultiprocessingOptions(
            primary_host=0,
            active_processes={0},
            barrier_sync_key_prefix="jepbt",
        )
    return orbax.Checkpointer(orbax.PyTreeCheckpointHandler(**options), **options)


def _write_manifest(folder: pathlib.Path) -> None:
    body = _describe_files(folder, sync=True)
    text = _canonical(body)
    manifest = {"files": body, "sha256": _hash_text(text)}
    path = folder / _MANIFEST
    path.write_text(json.dumps(manifest, indent=1))
    _sync(path)
    for parent, _, _ in os.walk(folder):
        _sync(pathlib.Path(parent))


def _describe_files(folder: pathlib.Path, sync: bool = False) -> dict[str, Any]:
    """Size and SHA-256 of every file but those that a desktop hides in folders."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise Damaged(f"{name} is a link")
        if path.is_file() and name != _MANIFEST and path.name != ".DS_Store":
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"sha256": digest, "size": path.stat().st_size}
            if sync:
                _sync(path)
    return found


def _canonical(body: Any) -> str:
    return json.dumps(body, sort_keys=True, separators=(",", ":"))


def _hash_text(text: str) -> str:
    return hashlib.sha256(text.encode()).hexdigest()


def _sync(path: pathlib.Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":  # folders cannot be opened there
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


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
