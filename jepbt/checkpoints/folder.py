"""Writes the files of a run: readable without jepbt, never left half-written."""

from __future__ import annotations

import contextlib
import dataclasses
import errno
import io
import json
import os
import pathlib
import warnings
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from jepbt.hyperparameters import HyperParameters, spaces
from jepbt.results import Generation, to_json

if TYPE_CHECKING:
    import filelock

HISTORY = "history.jsonl"
_CONFIG = "config.json"
_LOCK = ".lock"
_OWN = {_CONFIG, HISTORY, "checkpoints", "best", "figures", "lock", "schedule.json"}
_OWN |= {"loss.py", "test.json", "report.html", "candidates.pkl", "writable"}


def claim(path: str | os.PathLike, *, resume: bool = False) -> pathlib.Path:
    """Makes or takes over a folder for a run.

    Args:
        path: a path where nothing is, or a folder without a run in it.
        resume: True if a run in the folder may continue.

    Returns:
        The folder.

    Raises:
        ValueError: if the path is a file, holds a run, or cannot be written to.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> claim(folder) == pathlib.Path(folder)
        True
    """
    folder = pathlib.Path(path)
    try:
        if os.path.exists(folder) and not folder.is_dir():
            raise ValueError(f"run_dir={str(path)!r} is a file. Name a folder.")
        if holds_run(folder) and not resume:
            raise ValueError(
                f"run_dir={str(path)!r} holds a run already, which stays as it is. "
                "Name another folder, or go on with it: resume=True, or --resume."
            )
        _refuse_links(folder)
        folder.mkdir(parents=True, exist_ok=True)
        # As much as a settings file, since a full disk still takes an empty one.
        replace(folder / "writable", bytes(2**14))
        (folder / "writable").unlink()
    except OSError as error:
        raise not_writable(path, error) from error
    return folder


def not_writable(path: str | os.PathLike, error: OSError) -> ValueError:
    """Makes the error for a folder that cannot be written to."""
    reason = error.strerror or str(error)
    name = os.path.basename(error.filename or "").lstrip(".")
    where = f" ({name[:60]})" if name else ""
    return ValueError(
        f"run_dir={str(path)!r} cannot be written to: {reason}{where}. Name "
        "another folder, or make room in this one."
    )


def holds_run(folder: pathlib.Path) -> bool:
    """Tells if a run has written anything here."""
    names = (_CONFIG, HISTORY, "checkpoints")
    return any(os.path.exists(folder / name) for name in names)


def _refuse_links(folder: pathlib.Path) -> None:
    """Refuses a folder from which a run would write somewhere else."""
    for path in (folder, *(folder / name for name in ("best", "figures"))):
        for entry in path.iterdir() if path.is_dir() else ():
            is_ours = path != folder or entry.name.removeprefix(".") in _OWN
            if entry.is_symlink() and is_ours:
                raise ValueError(
                    f"run_dir={str(folder)!r}: {entry.relative_to(folder)} is a link "
                    "to another place, where a run does not write. Name another folder."
                )


def next_numbered(root: str | os.PathLike) -> pathlib.Path:
    """Makes the next of `root/0001`, `root/0002`, ...; no two callers get the same.

    Args:
        root: the folder of all runs; made if it is missing.

    Returns:
        A new, empty folder.

    Raises:
        ValueError: if it cannot be made.

    Example:
        >>> import tempfile
        >>> root = tempfile.mkdtemp()
        >>> next_numbered(root).name, next_numbered(root).name
        ('0001', '0002')
    """
    root = pathlib.Path(root)
    try:
        root.mkdir(parents=True, exist_ok=True)
        taken = [int(p.name) for p in root.iterdir() if p.name.isdecimal()]
        number = max(taken, default=0) + 1
        while True:
            try:
                (root / f"{number:04d}").mkdir()
                return root / f"{number:04d}"
            except FileExistsError:
                number += 1
    except OSError as error:
        raise ValueError(
            f"a run folder cannot be made in {str(root)!r}: {error.strerror}. Name one "
            "with --run-dir."
        ) from error


def write_config(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes `config.json`: the settings of a run, and its machine."""
    replace(folder / _CONFIG, json.dumps(settings, indent=2, default=str).encode())


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """Reads `config.json`.

    Args:
        folder: the run's folder.

    Returns:
        The settings in the file.

    Raises:
        ValueError: if the file is missing, or is not a JSON object.
    """
    path = folder / _CONFIG
    try:
        settings = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(settings, dict):
            raise ValueError("it is not an object")
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(
            f"{str(path)!r} cannot be read, and so it is not known what the run there "
            f"was ({error}). Name another folder."
        ) from error
    return settings


def describe_spaces(hparams_type: type[HyperParameters]) -> dict[str, Any]:
    """Describes the spaces of a class in JSON values, as `config.json` holds them."""
    described = {name: space.describe() for name, space in spaces(hparams_type).items()}
    return json.loads(json.dumps(described, default=str))


def append_history(
    folder: pathlib.Path,
    generation: Generation,
    exact: Mapping[str, Any] | None = None,
) -> None:
    """Adds a line to `history.jsonl`, whole or not at all.

    Args:
        folder: the run's folder.
        generation: the generation to add.
        exact: more values for the line: see `to_json`.
    """
    line = (to_json(generation, exact) + "\n").encode()
    with open(folder / HISTORY, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        written = file.write(line)
        if written < len(line):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), HISTORY)


def save_figure(folder: pathlib.Path, axes: Any) -> None:
    """Writes the fitness plot: `figures/fitness.png`."""
    (folder / "figures").mkdir(exist_ok=True)
    image = io.BytesIO()
    axes.figure.savefig(image, format="png")
    replace(folder / "figures" / "fitness.png", image.getvalue())


def save_member(
    folder: pathlib.Path,
    state: Any,
    hparams: HyperParameters,
    facts: Mapping[str, Any],
) -> None:
    """Writes one member: `weights.npz` and `member.json`.

    The arrays of the state are named by their path, `params/dense/kernel` for example,
    and read by NumPy alone. Types that NumPy files do not have (bfloat16) are widened
    to float32, which keeps every bit of the value.

    Args:
        folder: the folder for both files, made if it is missing. The weights are
            written first: if they cannot be, what describes the earlier ones stays.
        state: the member's state, host arrays.
        hparams: its hyperparameters, Python values.
        facts: the fitness, the generation and other facts for `member.json`.
    """
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "state"
        arrays[name] = _as_numpy(leaf)
    weights = io.BytesIO()
    np.savez(weights, **arrays)
    replace(folder / "weights.npz", weights.getbuffer())
    values = {
        field.name: getattr(hparams, field.name)
        for field in dataclasses.fields(hparams)
    }
    values = {
        name: value.tolist() if isinstance(value, np.ndarray) else value
        for name, value in values.items()
    }
    text = json.dumps({**facts, "hparams": values}, indent=2, default=str)
    replace(folder / "member.json", text.encode())


def _as_numpy(leaf: Any) -> np.ndarray:
    if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key):
        leaf = jax.random.key_data(leaf)
    array = np.asarray(leaf)
    return array.astype(np.float32) if array.dtype.kind == "V" else array


def write_safely(
    write: Callable[[pathlib.Path, Any], None], folder: pathlib.Path, content: Any
) -> bool:
    """Writes a file of the run; a full disk costs the file, never the run.

    Args:
        write: the function that writes; called with the other two arguments.
        folder: the run's folder.
        content: the content to write.

    Returns:
        True if the file was written.

    Warns:
        RuntimeWarning: if it could not be written.
    """
    try:
        write(folder, content)
    except OSError as error:
        # A disk that fills up while a file is written does not say which.
        name = os.path.basename(error.filename2 or error.filename or "a file")
        warnings.warn(
            f"run_dir={str(folder)!r} cannot be written to ({name}: "
            f"{error.strerror}): the run goes on, and its result stays in memory.",
            RuntimeWarning,
            stacklevel=4,
        )
        return False
    return True


def replace(
    path: pathlib.Path, content: bytes | memoryview, *, sync: bool = False
) -> None:
    """Writes a file whole or not at all; with `sync` it survives a loss of power."""
    temporary = path.with_name(f".{path.name}")
    temporary.unlink(missing_ok=True)  # of a process that was killed, or a link
    try:
        with open(temporary, "xb") as file:
            file.write(content)
            if sync:
                file.flush()
                os.fsync(file.fileno())
        temporary.replace(path)
    except BaseException:
        with contextlib.suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise


def lock(folder: pathlib.Path) -> filelock.BaseFileLock | None:
    """Takes a run's folder for this process alone, until it releases it or ends.

    Args:
        folder: the run's folder, which exists.

    Returns:
        The lock, held; `None` where the package `filelock` is missing.

    Raises:
        ValueError: if another run is being written there.

    Warns:
        RuntimeWarning: if the folder cannot be locked; a run does not need it.

    Example:
        >>> import tempfile
        >>> held = lock(pathlib.Path(tempfile.mkdtemp()))
        >>> held.release()
    """
    try:
        import filelock
    except ImportError:
        _warn_unlocked(folder, "cannot be locked without the package filelock")
        return None
    # Any thread may release it: after a second Ctrl-C another one does.
    held = filelock.FileLock(folder / _LOCK, timeout=0, thread_local=False)
    try:
        held.acquire()
    except filelock.Timeout:
        raise ValueError(
            f"run_dir={str(folder)!r} is in use by another run. Wait until it has "
            "ended, or name another folder."
        ) from None
    except NotImplementedError:
        _warn_unlocked(folder, "is on a disk that cannot lock files")
    except OSError as error:
        raise not_writable(folder, error) from error
    return held


def _warn_unlocked(folder: pathlib.Path, why: str) -> None:
    message = f"run_dir={str(folder)!r} {why}: see to it that no other run writes there"
    warnings.warn(f"{message}.", RuntimeWarning, stacklevel=3)


def discard(folder: pathlib.Path) -> None:
    """Removes a folder that was made for a run and holds nothing but its lock."""
    (folder / _LOCK).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
