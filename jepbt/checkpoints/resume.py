"""A run's own folder: who may write to it, and what in it can go on."""

from __future__ import annotations

import contextlib
import dataclasses
import logging
import pathlib
import shutil
import warnings
from collections.abc import Callable, Iterator, Mapping
from typing import IO, Any

from jepbt.checkpoints import checkpoint
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.folder import lock
from jepbt.checkpoints.identity import differences
from jepbt.config import Config

logger = logging.getLogger("jepbt")


@dataclasses.dataclass
class RunFolder:
    """A run directory that this process alone may write to.

    Attributes:
        path: of the folder.
        lock: open as long as it is held.
        newest: checkpoint that is whole, or `None`.
        facts: of that checkpoint, or `None`.
        damaged: newer checkpoints that are not, and why.
        identity: of the run that is about to start, as soon as it is known.
        settings: that `config.json` holds.
        chunk_size: that it trains with.
    """

    path: pathlib.Path
    lock: IO
    newest: pathlib.Path | None = None
    facts: Mapping[str, Any] | None = None
    damaged: list[tuple[pathlib.Path, str]] = dataclasses.field(default_factory=list)
    identity: Mapping[str, Any] | None = None
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    chunk_size: int = 1

    @property
    def checkpoints(self) -> pathlib.Path:
        """Where they are."""
        return self.path / checkpoint.FOLDER

    @property
    def generation(self) -> int:
        """The last one that the newest checkpoint has seen; -1 without one."""
        return -1 if self.newest is None else int(self.newest.name)

    @property
    def holds_run(self) -> bool:
        """Whether there is anything that this run would continue."""
        return self.facts is not None or run_directory.holds_run(self.path)

    def known_chunk(self, num_members: int) -> int:
        """The chunk size that the run began with; 0 if there is none that fits."""
        size = self.facts.get("chunk_size") if self.facts else None
        fits = type(size) is int and 0 < size <= num_members and num_members % size == 0
        return size if fits else 0

    def check(self, identity: Mapping[str, Any], config: Config) -> None:
        """Refuses to continue a run that is not this one.

        Args:
            identity: from `identify`.
            config: of this run.

        Raises:
            ValueError: with everything that differs.
        """
        self.identity = identity
        before = self._identity_there()
        where = f"run_dir={str(self.path)!r}"
        found = differences(before, identity) if before else []
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
        if before and before.get("versions") != identity["versions"]:
            logger.warning(
                "%s was started with %s and goes on with %s: bits may differ",
                self.path,
                before.get("versions"),
                identity["versions"],
            )

    def check_space(self, num_bytes: int, config: Config) -> None:
        """Refuses a run whose checkpoints the disk does not hold.

        Args:
            num_bytes: of one.
            config: of the run.

        Raises:
            ValueError: with what is needed and what is there.
        """
        there = len(checkpoint.list_all(self.checkpoints))
        # A new one is whole before the oldest goes.
        count = min(config.keep_checkpoints + 1, config.num_generations)
        missing = max(count - there, 1) * num_bytes
        free = shutil.disk_usage(self.path).free
        if missing > free:
            raise ValueError(
                f"run_dir={str(self.path)!r}: keep_checkpoints="
                f"{config.keep_checkpoints} and the one being written need "
                f"{missing / 1e9:.3g} GB more, and {free / 1e9:.3g} GB are free. Keep "
                "fewer, name a folder on another disk, or choose a smaller "
                "population_size."
            )

    def describe(self, settings: Mapping[str, Any]) -> None:
        """Writes `config.json`.

        Raises:
            ValueError: if it cannot be written.
        """
        self.settings = settings
        try:
            run_directory.write_config(self.path, self._with_identity())
        except OSError as error:
            raise run_directory.not_writable(self.path, error) from error

    def complete(self, identify: Callable[[], Mapping[str, Any]]) -> None:
        """Adds the identity to `config.json`, unless it was known before the run.

        Before a run's first generation has ended there is nothing to continue: until
        then nobody needs it.
        """
        if self.identity is None:
            self.identity = identify()
            run_directory.write_safely(
                run_directory.write_config, self.path, self._with_identity()
            )

    def _with_identity(self) -> dict[str, Any]:
        return {**self.settings, "identity": self.identity}

    def _identity_there(self) -> Mapping[str, Any] | None:
        where = f"run_dir={str(self.path)!r}"
        if not self.holds_run:
            return None
        facts = self.facts
        if facts is None:
            facts = run_directory.read_config(self.path)
        if "loop" in facts:
            raise ValueError(
                f"{where} holds a run of jepbt.epbt, which goes on with that function "
                "alone. Name another folder."
            )
        before = facts.get("identity", "unknown")
        is_new = before is None and not run_directory.has_history(self.path)
        # As much as tells runs apart.
        if not is_new and not isinstance(_settings(before), Mapping):
            raise ValueError(
                f"{where} holds a run that cannot go on: it has no checkpoint, and its "
                "config.json does not say what it was. Name another folder."
            )
        if self.facts is None:
            _warn(
                f"{where} holds a run without a checkpoint: it starts again from its "
                "first generation."
            )
        return before

    def set_damaged_aside(self) -> None:
        """Renames what is no checkpoint, and says which is used instead."""
        for path, reason in self.damaged:
            aside = path.with_name(f"damaged-{path.name}")
            _warn(
                f"checkpoint {str(path)!r} is damaged ({reason}): the one before it "
                f"is used, of generation {self.generation}. What is left of "
                f"it is now {aside.name!r}."
            )
            try:
                checkpoint.remove(aside)
                path.rename(aside)
            except OSError:  # it is not used either way
                continue
        self.damaged = []


def open_folder(config: Config) -> RunFolder | None:
    """Takes a run's folder, and finds in it what a run can go on from.

    Args:
        config: checked; `run_dir` and `resume` count.

    Returns:
        The folder, or `None` if the run writes no files.

    Raises:
        ValueError: if the folder cannot be used; the message says why.
    """
    if config.run_dir is None:
        return None
    path = run_directory.claim(config.run_dir, resume=config.resume)
    folder = RunFolder(path, lock(path))
    try:
        # Another run may have been here between the question and the lock.
        run_directory.claim(config.run_dir, resume=config.resume)
        checkpoint.clean(folder.checkpoints)
        if config.resume:
            _find_newest(folder)
    except BaseException:
        folder.lock.close()
        raise
    return folder


@contextlib.contextmanager
def released_on_error(folder: RunFolder | None) -> Iterator[None]:
    """Lets go of a folder if what was to be done with it fails."""
    try:
        yield
    except BaseException:
        if folder is not None:
            folder.lock.close()
        raise


def _find_newest(folder: RunFolder) -> None:
    for path in checkpoint.list_all(folder.checkpoints):
        try:
            folder.facts = checkpoint.verify(path)
            folder.newest = path
            return
        except checkpoint.Damaged as error:
            folder.damaged.append((path, str(error)))
    if folder.damaged:
        reasons = "; ".join(f"{path.name}: {why}" for path, why in folder.damaged)
        raise ValueError(
            f"run_dir={str(folder.path)!r} holds a run of which no checkpoint is whole "
            f"({reasons}). Put a copy back, or name another folder."
        )


def _settings(identity: Any) -> Any:
    return identity.get("settings") if isinstance(identity, Mapping) else None


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)
