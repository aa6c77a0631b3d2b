"""One run directory, one process."""

from __future__ import annotations

import os
import pathlib
import warnings
from typing import IO

from jepbt.run_directory import not_writable

NAME = ".lock"


def lock(folder: pathlib.Path) -> IO:
    """Takes a run directory for this process alone, until the file is closed.

    The system lets go of it when the process ends, however it ends.

    Args:
        folder: exists.

    Returns:
        An open file; closing it lets go.

    Raises:
        ValueError: if another run is being written there.

    Example:
        >>> import tempfile
        >>> held = lock(pathlib.Path(tempfile.mkdtemp()))
        >>> held.close()
    """
    try:
        # It stays open as long as the run.
        file = open(folder / NAME, "a")  # noqa: SIM115
    except OSError as error:
        raise not_writable(folder, error) from error
    try:
        import fcntl
    except ImportError:  # Windows has no flock
        return file
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise ValueError(
            f"run_dir={str(folder)!r} is in use by another run. Wait until it has "
            "ended, or name another folder."
        ) from None
    except OSError as error:
        warnings.warn(
            f"run_dir={str(folder)!r} is on a disk that cannot lock files "
            f"({os.strerror(error.errno)}): see to it that no other run writes there.",
            RuntimeWarning,
            stacklevel=2,
        )
    return file


def discard(folder: pathlib.Path) -> None:
    """Removes a folder that was made for a run and holds nothing but its lock."""
    (folder / NAME).unlink(missing_ok=True)
    if not any(folder.iterdir()):
        folder.rmdir()
