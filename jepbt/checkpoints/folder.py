"""Writes the files of a run: readable without jepbt, never left half-written."""

import contextlib
import dataclasses
import errno
import io
import itertools
import json
import os
import pathlib
import re
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jepbt.checkpoints.checkpoint import FOLDER, without_keys
from jepbt.hyperparameters import HyperParameters, spaces
from jepbt.optional import warn
from jepbt.results import Generation, to_json
from jepbt.results.json_lines import NO_CHOICES, from_lines

try:
    import filelock
except ImportError:
    filelock = None

HISTORY = "history.jsonl"
_CONFIG = "config.json"
_LOCK = ".lock"
_OWN = {_CONFIG, HISTORY, FOLDER, "best", "figures", "lock", "schedule.json"}
_OWN |= {"loss.py", "confusions.json", "test.json", "report.html", "writable"}
_OWN |= {"candidates.pkl", "runs.jsonl"}


def claim(path: str | os.PathLike, *, resume: bool = False) -> pathlib.Path:
    """Makes a folder for a run, or takes one over: with a run in it if `resume`."""
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
    return any(os.path.exists(folder / name) for name in (_CONFIG, HISTORY, FOLDER))


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
        for number in itertools.count(max(taken, default=0) + 1):
            with contextlib.suppress(FileExistsError):
                (root / f"{number:04d}").mkdir()
                return root / f"{number:04d}"
    except OSError as error:
        raise ValueError(
            f"a run folder cannot be made in {str(root)!r}: {error.strerror}. Name one "
            "with --run-dir."
        ) from error


def write_config(folder: pathlib.Path, settings: Mapping[str, Any]) -> None:
    """Writes `config.json`: the settings of a run, and its machine."""
    text = json.dumps(settings, indent=2, default=str)
    try:
        replace(folder / _CONFIG, text.encode())
    except OSError as error:
        raise not_writable(folder, error) from error


def read_config(folder: pathlib.Path) -> dict[str, Any]:
    """Reads `config.json` again."""
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
    return json.loads(json.dumps(described, default=without_address))


def without_address(value: Any) -> str:
    """Writes an object, such as a function, in words that are the same in each process.

    Example:
        >>> without_address(object())
        '<object object>'
    """
    return re.sub(" at 0x[0-9a-fA-F]+", "", str(value))


def append_history(
    folder: pathlib.Path,
    generation: Generation,
    choices: Mapping[str, Sequence] = NO_CHOICES,
) -> None:
    """Adds a generation's line to `history.jsonl`."""
    append_line(folder / HISTORY, to_json(generation, choices))


def append_line(path: pathlib.Path, text: str) -> None:
    """Adds a line to a file, whole or not at all."""
    line = f"{text}\n".encode()
    with open(path, "ab", buffering=0) as file:
        size = file.seek(0, os.SEEK_END)
        if file.write(line) < len(line):
            file.truncate(size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), path.name)


def read_history(
    folder: pathlib.Path,
    num_generations: int,
    choices: Mapping[str, Sequence],
    *,
    cut: bool = False,
) -> list[Generation]:
    """Reads the first generations of `history.jsonl`; with `cut` the others go.

    If a line that is needed is damaged or missing, the file stays as it is.
    """
    path = folder / HISTORY
    try:
        content = path.read_bytes()
        lines = content.split(b"\n")[:-1][:num_generations]
        needed = b"".join(line + b"\n" for line in lines)
        generations = from_lines(needed.decode(), choices)
        if len(generations) != num_generations:
            raise ValueError(f"it holds {len(generations)} whole lines")
        if cut and needed != content:
            replace(path, needed)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"run_dir={str(folder)!r}: {HISTORY} does not hold the {num_generations} "
            f"generations that the run would continue from ({error}). The weights in "
            "checkpoints/ and best/ are whole. Put a copy of the file back to continue "
            "this run, or start another one in a new folder, from these weights with "
            "initial=."
        ) from error
    return generations


def save_figure(folder: pathlib.Path, axes: Any, name: str = "fitness.png") -> None:
    """Writes a plot into `figures/`: that of the fitness, if no other is named."""
    (folder / "figures").mkdir(exist_ok=True)
    image = io.BytesIO()
    axes.figure.savefig(image, format="png")
    replace(folder / "figures" / name, image.getvalue())


def save_member(
    folder: pathlib.Path,
    state: Any,
    hparams: HyperParameters,
    facts: Mapping[str, Any],
) -> None:
    """Writes one member: arrays by path to `weights.npz`, the rest to `member.json`."""
    folder.mkdir(parents=True, exist_ok=True)
    arrays = {}
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        array = np.asarray(without_keys(leaf))
        if array.dtype.kind == "V":  # bfloat16, which NumPy files do not have
            array = array.astype(np.float32)
        name = jax.tree_util.keystr(path, simple=True, separator="/") or "state"
        arrays[name] = array
    weights = io.BytesIO()
    # Not `np.savez`, which takes an array named "file" for its own argument.
    with zipfile.ZipFile(weights, "w") as archive:
        for name, array in arrays.items():
            with archive.open(f"{name}.npy", "w", force_zip64=True) as entry:
                np.lib.format.write_array(entry, array, allow_pickle=False)
    # If the weights cannot be written, what describes the earlier ones stays.
    replace(folder / "weights.npz", weights.getbuffer())
    values = {}
    for field in dataclasses.fields(hparams):
        value = getattr(hparams, field.name)
        values[field.name] = value.tolist() if isinstance(value, np.ndarray) else value
    text = json.dumps({**facts, "hparams": values}, indent=2, default=str)
    replace(folder / "member.json", text.encode())


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


def lock(folder: pathlib.Path) -> Any:
    """Takes a run's folder for this process alone, until it releases it or ends.

    Returns a `filelock.FileLock`, or `None` where that package is missing, which a run
    does not need: machines without a network have what they have.
    """
    if filelock is None:
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


def is_in_use(folder: pathlib.Path) -> bool:
    """Tells whether a run holds a folder; if that cannot be told, none does."""
    if filelock is None or not (folder / _LOCK).exists():
        return False
    try:
        with filelock.FileLock(folder / _LOCK, timeout=0):
            return False
    except filelock.Timeout:
        return True
    except (NotImplementedError, OSError):
        return False


def _warn_unlocked(folder: pathlib.Path, why: str) -> None:
    warn(f"run_dir={str(folder)!r} {why}: see to it that no other run writes there.")


def discard(folder: pathlib.Path) -> None:
    """Removes a folder that was made for a run and holds nothing but its lock."""
    (folder / _LOCK).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
