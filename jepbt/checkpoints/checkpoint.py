"""Checkpoints on the disk: orbax writes them, a manifest proves that they are whole.

`checkpoints/000012` is a checkpoint of orbax with one more file: `manifest.json` holds
the size and the SHA-256 of every file in it, and a few facts about the run. orbax asks
for it when everything else is written, and renames the folder into its place after
that, so a folder with the name of a checkpoint is complete. orbax does not notice a
bit that flips later; the manifest does, and such a checkpoint is not used. Nothing in
a checkpoint is executed or unpickled.
"""

import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.engine import Best, RunState
from jepbt.engine.devices import is_host
from jepbt.engine.generation import Phases

FOLDER = "checkpoints"
_MANIFEST = "manifest.json"
_UNFINISHED = ".orbax-checkpoint-tmp"
# orbax writes these two after it has called for the manifest, and reads neither to
# restore arrays; a desktop hides the third in folders that somebody has looked at.
_NOT_LISTED = {"_CHECKPOINT_METADATA", "commit_success.txt", ".DS_Store"}


class Damaged(Exception):
    """Says why a folder is not a whole checkpoint."""


def list_all(root: pathlib.Path) -> list[pathlib.Path]:
    """Lists everything that has the name of a checkpoint, the newest first."""
    return sorted(root.glob("[0-9]" * 6), reverse=True)


def seal(root: pathlib.Path, generation: int, facts: Mapping[str, Any]) -> None:
    """Writes the manifest of a checkpoint, after forcing its files to the disk."""
    name = f"{generation:06d}"
    (folder,) = [
        path
        for path in root.iterdir()
        if path.name == name or path.name.startswith(f"{name}{_UNFINISHED}")
    ]
    body = {
        "facts": {**facts, "generation": generation},
        "files": _describe_files(folder),
    }
    text = json.dumps({"sha256": _hash(body), **body}, indent=1)
    temporary = folder / f".{_MANIFEST}"
    temporary.write_text(text)
    for path in (*folder.rglob("*"), folder):
        sync(path)
    temporary.rename(folder / _MANIFEST)
    sync(folder)


def verify(path: pathlib.Path) -> dict[str, Any]:
    """Compares every byte of a checkpoint with the manifest, and returns its facts."""
    try:
        if path.is_symlink() or not path.is_dir():
            raise Damaged("it is not a folder")
        stored = json.loads((path / _MANIFEST).read_bytes())
        facts, files = stored["facts"], stored["files"]
        if stored["sha256"] != _hash({"facts": facts, "files": files}):
            raise Damaged("its manifest has changed")
        found = _describe_files(path)
        for name in sorted({*files, *found}):
            if name not in files and _is_of_the_system(name):
                continue
            if files.get(name) != found.get(name):
                kind = "missing" if name not in found else "changed"
                raise Damaged(f"{name} {'is foreign' if name not in files else kind}")
        if facts["generation"] != int(path.name):
            raise Damaged("it belongs to another generation")
        return facts
    except OSError as error:
        raise Damaged(f"it cannot be read: {error}") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise Damaged("its manifest cannot be read") from error


def find_newest(
    root: pathlib.Path,
) -> tuple[dict[str, Any] | None, dict[pathlib.Path, str]]:
    """Finds the newest whole checkpoint's facts, and why later ones are not whole."""
    damaged: dict[pathlib.Path, str] = {}
    for path in list_all(root):
        try:
            return verify(path), damaged
        except Damaged as error:
            damaged[path] = str(error)
    return None, damaged


def remove(path: pathlib.Path) -> None:
    """Removes a checkpoint, or whatever else has its name."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def clean(root: pathlib.Path) -> None:
    """Removes what a killed process or a full disk left half-written."""
    for path in root.glob(f"[0-9]*{_UNFINISHED}*"):
        remove(path)


def sync(path: pathlib.Path) -> None:
    """Forces a file, or the names in a folder, to the disk."""
    if path.is_dir() and os.name == "nt":  # Windows cannot open folders
        return
    number = os.open(path, os.O_RDONLY)
    try:
        os.fsync(number)
    finally:
        os.close(number)


def pack(state: RunState, first: Best) -> dict[str, jax.Array]:
    """Names the arrays that a run continues from, ready for orbax to read."""
    # orbax stores neither keys nor arrays without elements.
    named = _named((state, first))
    arrays = {name: without_keys(leaf) for name, leaf in named if leaf.size}
    # It reads in the background. It copies from accelerators before it returns, but
    # on a CPU it would look at memory that the next program overwrites.
    return copy(arrays) if _is_on_cpu(arrays) else arrays


def restore(manager: Any, generation: int, programs: Phases) -> tuple[RunState, Best]:
    """Puts a checkpoint on the devices of the programs that continue from it.

    Returns the state after that generation, and the best member of the first one.
    """
    import orbax.checkpoint as orbax

    info, places = programs.init.out_info, programs.init.output_shardings
    like = jax.tree.map(
        lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), (info, info.best)
    )
    wanted = {}
    shardings = jax.tree.leaves((places, places.best))
    for (name, leaf), sharding in zip(_named(like), shardings, strict=True):
        data = jax.eval_shape(without_keys, leaf)
        wanted[name] = jax.ShapeDtypeStruct(data.shape, data.dtype, sharding=sharding)
    stored = {name: data for name, data in wanted.items() if data.size}
    found = manager.restore(generation, args=orbax.args.StandardRestore(stored))
    if _is_on_cpu(found):  # the programs must own what they overwrite
        found = copy(found)
    found |= {
        name: jnp.zeros(data.shape, data.dtype, device=data.sharding)
        for name, data in wanted.items()
        if not data.size
    }
    leaves = [_unpack(found[name], leaf) for name, leaf in _named(like)]
    return jax.tree.unflatten(jax.tree.structure(like), leaves)


def read_arrays(path: pathlib.Path) -> dict[str, np.ndarray]:
    """Reads the arrays of a checkpoint to the host, by the names that `pack` gave."""
    import orbax.checkpoint as orbax

    root, handler = path / "default", orbax.PyTreeCheckpointHandler()
    found = handler.metadata(root)
    names = list(getattr(found, "tree", found))
    to_host = orbax.RestoreArgs(restore_type=np.ndarray)
    args = orbax.args.PyTreeRestore(
        item=dict.fromkeys(names, 0), restore_args=dict.fromkeys(names, to_host)
    )
    return handler.restore(root, args=args)


def pick(arrays: Mapping[str, np.ndarray], part: str, like: Any) -> Any:
    """Picks a part of what `pack` named: a tree of arrays of the shapes of `like`.

    A part is named by the start of its path: "_0_population", "_0_best" or "_1". Raises
    a `ValueError` if the checkpoint holds another tree, or other shapes.
    """
    names = sorted(name for name in arrays if name[5:].startswith(f"{part}_"))
    leaves, tree = jax.tree.flatten(like)
    stored = [jax.eval_shape(without_keys, leaf) for leaf in leaves]
    num_stored = sum(leaf.size > 0 for leaf in stored)
    if len(names) != num_stored:
        raise ValueError(f"it has {len(names)} arrays where {num_stored} are needed")
    left, picked = iter(names), []
    for leaf, data in zip(leaves, stored, strict=True):
        name = next(left) if data.size else None
        array = arrays[name] if data.size else np.zeros(data.shape, data.dtype)
        if (array.shape, array.dtype) != (data.shape, data.dtype):
            raise ValueError(
                f"{name[5:]} is {array.dtype}{list(array.shape)} where "
                f"{data.dtype}{list(data.shape)} is needed"
            )
        picked.append(_unpack(array, leaf))
    return jax.tree.unflatten(tree, picked)


def copy(tree: Any) -> Any:
    """Copies arrays on their devices, into memory that nothing else refers to."""
    return jax.tree.map(
        lambda leaf: jax.device_put(leaf, leaf.sharding, may_alias=False), tree
    )


def without_keys(leaf: Any) -> Any:
    """Replaces an array of random keys by their data; others stay as they are."""
    return jax.random.key_data(leaf) if _is_key(leaf) else leaf


def _unpack(array: jax.Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    if not _is_key(leaf):
        return array
    kinds = []
    jax.eval_shape(lambda key: kinds.append(jax.random.key_impl(key)), leaf)
    return jax.random.wrap_key_data(array, impl=kinds[0])


def _named(tree: Any) -> list[tuple[str, Any]]:
    """Leaves by number and path, in letters that are safe in any storage."""
    leaves = jax.tree_util.tree_leaves_with_path(tree)
    return [
        (f"{i:05d}{re.sub('[^A-Za-z0-9]+', '_', jax.tree_util.keystr(path))[:100]}", x)
        for i, (path, x) in enumerate(leaves)
    ]


def _is_key(leaf: Any) -> bool:
    kind = getattr(leaf, "dtype", None)  # a number of Python's has none
    return kind is not None and jax.dtypes.issubdtype(kind, jax.dtypes.prng_key)


def _is_on_cpu(arrays: Mapping[str, jax.Array]) -> bool:
    return any(is_host(d) for x in arrays.values() for d in x.devices())


def _describe_files(folder: pathlib.Path) -> dict[str, Any]:
    found = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_symlink():
            raise Damaged(f"{name} is a link")
        if path.is_file() and name != _MANIFEST and path.name not in _NOT_LISTED:
            with open(path, "rb") as file:
                digest = hashlib.file_digest(file, "sha256").hexdigest()
            found[name] = {"sha256": digest, "size": path.stat().st_size}
    return found


def _is_of_the_system(name: str) -> bool:
    """Tells whether a file was left by a desktop or a network disk, not by a run."""
    last = name.rpartition("/")[2]
    return last.startswith(".") or last in ("Thumbs.db", "desktop.ini")


def _hash(body: Any) -> str:
    text = json.dumps(body, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()
