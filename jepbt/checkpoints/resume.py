"""Takes a run's folder, and decides if and where the run in it may continue."""

import contextlib
import dataclasses
import logging
import math
import os
import pathlib
import secrets
import shutil
import time
from collections.abc import Iterator, Mapping
from typing import Any

import jax

from jepbt.checkpoints import checkpoint
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.identity import differences
from jepbt.config import Config
from jepbt.engine.processes import agree, are_several, in_first, together
from jepbt.optional import optional, warn

logger = logging.getLogger("jepbt")

PATIENCE = 10.0
"""The seconds in which a network disk shows a new file to other machines."""


@dataclasses.dataclass
class RunFolder:
    """A run's folder, which only this process may write to until it releases it."""

    path: pathlib.Path
    lock: Any  # see `folder.lock`
    facts: Mapping[str, Any] | None = None
    """The facts in the newest checkpoint that is whole."""
    damaged: Mapping[pathlib.Path, str] = dataclasses.field(default_factory=dict)
    """The later checkpoints, which are not whole, and why."""
    identity: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """The identity of the run that is about to start."""
    chunk_size: int = 1

    @property
    def checkpoints(self) -> pathlib.Path:
        """The folder of all checkpoints."""
        return self.path / checkpoint.FOLDER

    @property
    def generation(self) -> int:
        """The last generation that the newest checkpoint has seen; -1 without one."""
        return -1 if self.facts is None else int(self.facts["generation"])

    def release(self) -> None:
        """Lets other runs use the folder."""
        with optional(f"run_dir={str(self.path)!r} stays locked by this process"):
            if self.lock is not None:
                self.lock.release()

    def known_chunk(self, num_members: int) -> int:
        """Returns the chunk size that the run began with; 0 if it does not fit."""
        size = (self.facts or {}).get("chunk_size")
        fits = type(size) is int and size > 0 and num_members % size == 0
        return size if fits else 0

    def check(self, identity: Mapping[str, Any], config: Config) -> None:
        """Refuses to continue a run that is not the one about to start."""
        self.identity = identity
        if self.facts is None and not run_directory.holds_run(self.path):
            return
        before = self._identity_before()
        where = f"run_dir={str(self.path)!r}"
        found = differences(before, identity)
        if found:
            raise ValueError(
                f"{where} holds a run that this one does not continue: "
                f"{'; '.join(found)}. Give what it was started with, or name another "
                "folder. num_generations, max_seconds, target_fitness, callbacks and "
                "devices may change."
            )
        done = self.generation + 1
        if done > config.num_generations:
            raise ValueError(
                f"num_generations={config.num_generations} must be at least {done}: "
                f"{where} holds a run of that many generations."
            )
        if before.get("versions") != identity["versions"]:
            with optional("the log lacks a line on other versions"):
                logger.warning(
                    "%s was started with %s and goes on with %s: bits may differ",
                    self.path,
                    before.get("versions"),
                    identity["versions"],
                )

    def check_space(self, num_bytes: int, config: Config) -> None:
        """Refuses a run whose checkpoints, of so many bytes each, do not fit."""
        free = math.inf
        with optional("no one knows whether the disk has room for checkpoints"):
            free = shutil.disk_usage(self.path).free
        there = len(checkpoint.list_all(self.checkpoints))
        # A new checkpoint is whole before the oldest one goes.
        count = min(config.keep_checkpoints + 1, config.num_generations)
        missing = max(count - there, 1) * num_bytes
        if missing > free:
            raise ValueError(
                f"run_dir={str(self.path)!r}: keep_checkpoints="
                f"{config.keep_checkpoints} and the one being written need "
                f"{missing / 1e9:.3g} GB more, and {free / 1e9:.3g} GB are free. Keep "
                "fewer, name a folder on another disk, or choose a smaller "
                "population_size."
            )

    def set_damaged_aside(self) -> None:
        """Renames checkpoints that are not whole, and warns which one is used."""
        for path, reason in self.damaged.items():
            aside = path.with_name(f"damaged-{path.name}")
            warn(
                f"checkpoint {str(path)!r} is damaged ({reason}): the one before it "
                f"is used, of generation {self.generation}. What is left of "
                f"it is now {aside.name!r}."
            )
            with contextlib.suppress(OSError):  # it is not used either way
                checkpoint.remove(aside)
                path.rename(aside)

    def remove_oldest(self, num_kept: int) -> None:
        """Removes all but the newest few checkpoints.

        Half-written ones go too, and links and files that only have a checkpoint's
        name: orbax would fail when their turn came to be removed.
        """
        with optional(f"{self.checkpoints} keeps more than it should"):
            checkpoint.clean(self.checkpoints)
            for number, path in enumerate(checkpoint.list_all(self.checkpoints)):
                if number >= num_kept or path.is_symlink() or not path.is_dir():
                    checkpoint.remove(path)

    def _identity_before(self) -> Mapping[str, Any]:
        where = f"run_dir={str(self.path)!r}"
        facts = self.facts
        if facts is None:
            facts = run_directory.read_config(self.path)
        if "loop" in facts:
            raise ValueError(
                f"{where} holds a run of jepbt.epbt, which goes on with that function "
                "alone. Name another folder."
            )
        match facts:
            case {"identity": {"settings": {}} as identity}:
                pass
            case _:  # without its settings nothing tells the run from others
                raise ValueError(
                    f"{where} holds a run that cannot go on: it has no checkpoint, and "
                    "its config.json does not say what it was. Name another folder."
                )
        if self.facts is None:
            warn(
                f"{where} holds a run without a checkpoint: it starts again from its "
                "first generation."
            )
        return identity


def open_folder(config: Config) -> RunFolder | None:
    """Takes a run's folder, and finds the checkpoint in it to continue from."""
    if config.run_dir is None:
        return None
    folder = take(config.run_dir, resume=config.resume)
    with released_on_error(folder):
        with optional(f"{folder.checkpoints} keeps what was half-written"):
            checkpoint.clean(folder.checkpoints)
        if config.resume:
            folder.facts, folder.damaged = checkpoint.find_newest(folder.checkpoints)
        if folder.damaged and folder.facts is None:
            reasons = [f"{path.name}: {why}" for path, why in folder.damaged.items()]
            raise ValueError(
                f"run_dir={str(folder.path)!r} holds a run of which no checkpoint is "
                f"whole ({'; '.join(reasons)}). Put a copy back, or name another "
                "folder."
            )
    return folder


def take(path: str | os.PathLike, *, resume: bool) -> RunFolder:
    """Takes a folder for a run of this process alone."""
    folder = run_directory.claim(path, resume=resume)
    held = RunFolder(folder, run_directory.lock(folder))
    with released_on_error(held):
        # Another run may have been here between the question and the lock.
        run_directory.claim(path, resume=resume)
    return held


@contextlib.contextmanager
def released_on_error(folder: RunFolder | None) -> Iterator[None]:
    """Releases a folder if the block under it fails."""
    try:
        yield
    except BaseException:
        if folder is not None:
            folder.release()
        raise


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
    try:
        with together():
            if index > 0:
                _wait_for(mark, str(token))
                own = folder / f".process-{index}"
                try:
                    run_directory.replace(own, b"")
                    own.unlink()
                except OSError as error:
                    raise run_directory.not_writable(folder, error) from error
    finally:
        with contextlib.suppress(OSError):
            if index == 0:
                mark.unlink()


def _wait_for(mark: pathlib.Path, token: str) -> None:
    """Waits until a file holds what the first process wrote to it."""
    deadline = time.monotonic() + PATIENCE
    while not (mark.exists() and mark.read_text() == token):
        if time.monotonic() > deadline:
            raise ValueError(
                f"run_dir={str(mark.parent)!r} is another folder here than in process "
                "0, and every process writes a part of each checkpoint there. Name a "
                "folder on a disk that all machines share."
            )
        time.sleep(0.2)
