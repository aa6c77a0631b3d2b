"""Makes sure that all processes of a run see the same folder."""

import os
import pathlib
import secrets
import time

import jax

from jepbt.checkpoints import folder as run_directory
from jepbt.engine.processes import agree, are_several, in_first, together

_PATIENCE = 10.0
"""The seconds in which a network disk shows a new file to other machines."""


def check_shared(run_dir: str | os.PathLike | None) -> None:
    """Refuses a run's folder that some process does not see, or cannot write to.

    Every process writes a part of each checkpoint. On machines without a common disk
    the folder of each would hold a part of the run, and none could continue it. Raises
    a `ValueError` in every process if one does not see what the first wrote.
    """
    if run_dir is None or not are_several():
        return
    folder, index = pathlib.Path(run_dir), jax.process_index()
    token = agree(secrets.randbelow(2**31 - 1) if index == 0 else 0)
    mark = folder / ".processes"
    in_first(lambda: run_directory.replace(mark, str(token).encode()))
    with together():
        if index > 0:
            _find(mark, str(token), run_dir)
            own = folder / f".process-{index}"
            try:
                run_directory.replace(own, b"")
                own.unlink()
            except OSError as error:
                raise run_directory.not_writable(folder, error) from error
    in_first(mark.unlink)


def _find(mark: pathlib.Path, token: str, run_dir: str | os.PathLike) -> None:
    """Waits until a file holds what the first process wrote to it."""
    deadline = time.monotonic() + _PATIENCE
    while not (mark.exists() and mark.read_text() == token):
        if time.monotonic() > deadline:
            raise ValueError(
                f"run_dir={str(run_dir)!r} is another folder here than in process 0, "
                "and every process writes a part of each checkpoint there. Name a "
                "folder on a disk that all machines share."
            )
        time.sleep(0.2)
