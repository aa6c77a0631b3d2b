"""Keeps a run's state while it goes on, and hands it over where it stopped."""

from __future__ import annotations

import queue
import threading
import time
import warnings
from collections.abc import Callable, Mapping

import jax
import numpy as np

from jepbt.checkpoints import checkpoint
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.checkpoint import (
    Damaged,
    Snapshot,
    detach,
    history_arrays,
    restore,
    state_arrays,
)
from jepbt.checkpoints.resume import RunFolder
from jepbt.config import Config
from jepbt.engine import Best, RunState
from jepbt.engine.processes import agree, in_first, share
from jepbt.engine.programs import Programs
from jepbt.engine.state import Record
from jepbt.results import Generation, make_generation

SHARE = 0.03
"""Of a run's time, what "auto" lets the writing of checkpoints take."""


class Keeper:
    """Writes checkpoints beside a run, and finds where a run was left.

    The state is copied to the host between two generations; a thread does the rest.

    Attributes:
        first: the best member of the first generation, on the host.
    """

    def __init__(self, folder: RunFolder | None, config: Config):
        self.first: Best | None = None
        self._folder, self._config = folder, config
        self._records: list[Record] = []
        self._seconds: list[Mapping[str, float]] = []
        self._writer = JobThread("jepbt-checkpoint")
        self._error: BaseException | None = None
        self._saved = -1
        self._cost, self._written_at = 0.0, -float("inf")

    def find(self, programs: Programs) -> tuple[RunState | None, list[Generation]]:
        """Takes up the newest checkpoint, in all processes.

        Args:
            programs: that will go on with it.

        Returns:
            Its state and generations; `None` and none for a run that starts.

        Raises:
            ValueError: if a checkpoint is there that the programs cannot go on with.
        """
        folder = self._folder
        number = -1 if folder is None or folder.facts is None else folder.generation
        number = agree(number)
        if number < 0:
            if folder is not None:
                run_directory.write_safely(run_directory.write_history, folder.path, [])
            return None, []
        found = share(in_first(self._read))
        where = str(self._config.run_dir)
        try:
            snapshot = restore(found, number + 1, programs)
        except (ValueError, TypeError, KeyError, IndexError) as error:
            raise ValueError(
                f"run_dir={where!r}: the checkpoint of generation {number} does not "
                f"fit this run: {error}. Name another folder."
            ) from error
        return self._go_on(snapshot)

    def keep(self, state: RunState, record: Record, report: Generation) -> None:
        """Takes note of a generation, and saves it if it is time."""
        if report.number == 0:
            self.first = jax.tree.map(detach, state.best)
        if self._config.run_dir is None:
            return
        # Copies: a view keeps its whole device array, kilobytes for a few numbers.
        self._records.append(jax.tree.map(np.array, record))
        self._seconds.append(report.seconds)
        if report.num_failed < report.fitness.size and self._is_due(report.number):
            self._save(state)

    def finish(self, state: RunState) -> None:
        """Saves the last generation, if it has live members, and waits."""
        number = len(self._records) - 1
        is_live = number >= 0 and not np.isnan(self._records[-1].fitness).all()
        # Whether the one before came to disk, only the process that wrote it knows.
        self._wait()
        if agree(int(is_live and self._saved < number)):
            self._save(state)
        self._wait()

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind, error, trace) -> None:
        if kind is not None and issubclass(kind, KeyboardInterrupt):
            # A second Ctrl-C does not wait: the thread ends what it writes.
            threading.Thread(target=self._let_go, daemon=True).start()
            return
        self._wait()
        self._let_go()

    def _let_go(self) -> None:
        self._writer.close()
        if self._folder is not None:
            self._folder.lock.close()

    def _read(self) -> dict[str, np.ndarray]:
        folder = self._folder
        try:
            found = checkpoint.read(folder.newest, folder.facts)
        except Damaged as error:
            raise ValueError(
                f"checkpoint {str(folder.newest)!r} cannot be read: {error}."
            ) from error
        folder.set_damaged_aside()
        return found

    def _go_on(self, snapshot: Snapshot) -> tuple[RunState, list[Generation]]:
        self.first = snapshot.first
        self._records, self._seconds = list(snapshot.records), list(snapshot.seconds)
        self._saved = len(self._records) - 1
        generations = [
            make_generation(number, record, seconds)
            for number, (record, seconds) in enumerate(
                zip(self._records, self._seconds, strict=True)
            )
        ]
        if self._folder is not None:
            run_directory.write_safely(
                run_directory.write_history, self._folder.path, generations
            )
        return snapshot.state, generations

    def _is_due(self, number: int) -> bool:
        every = self._config.checkpoint_every
        if every != "auto":
            return (number + 1) % every == 0
        is_idle = self._writer.is_idle
        if is_idle:
            self._wait()
        rested = time.monotonic() - self._written_at
        is_due = is_idle and rested >= self._cost * (1 / SHARE - 1)
        # The clock of the process that writes decides.
        return bool(agree(int(self._folder is not None and is_due)))

    def _save(self, state: RunState) -> None:
        self._wait()
        start = time.monotonic()
        arrays = state_arrays(state, self.first)  # every process takes part
        number = len(self._records) - 1
        self._saved = number
        if self._folder is None:
            return
        records, seconds = list(self._records), list(self._seconds)
        facts = {
            "identity": self._folder.identity,
            "chunk_size": self._folder.chunk_size,
        }
        root, num_kept = self._folder.checkpoints, self._config.keep_checkpoints

        def write():
            try:
                content = arrays | history_arrays(records, seconds)
                checkpoint.write(root, number, facts, content, num_kept)
            except BaseException as error:
                self._error = error
            self._written_at = time.monotonic()
            self._cost = self._written_at - start

        self._writer.start(write)

    def _wait(self) -> None:
        """Waits for what is being written, and says if it could not be."""
        self._writer.wait()
        # The thread alone knows how orbax fails: whatever it is, the run goes on.
        error, self._error = self._error, None
        if error is not None:
            self._saved = -1
            kept = checkpoint.list_all(self._folder.checkpoints)
            last = f"the last is of generation {int(kept[0].name)}" if kept else "none"
            reason = str(error).splitlines()[0][:200] if str(error) else repr(error)
            _warn(
                f"no checkpoint could be written to {str(self._folder.checkpoints)!r} "
                f"({reason}): the run goes on without ({last})."
            )


def _warn(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=5)


class JobThread:
    """Runs jobs one at a time in a thread that stays.

    One thread for all: memory that a new thread allocates stays with it when it ends,
    which cost tens of kilobytes a job. A daemon, so that the interpreter does not wait
    for it after a second Ctrl-C.

    Args:
        name: of the thread, which starts with the first job.

    Example:
        >>> done = []
        >>> thread = JobThread("example")
        >>> thread.start(lambda: done.append(1))
        >>> thread.close()
        >>> done
        [1]
    """

    def __init__(self, name: str):
        self._name = name
        self._jobs: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._idle = threading.Event()
        self._idle.set()
        self._thread: threading.Thread | None = None

    @property
    def is_idle(self) -> bool:
        """Whether no job is running or waiting."""
        return self._idle.is_set()

    def start(self, job: Callable[[], None]) -> None:
        """Hands over a job that raises nothing, after the one before has ended."""
        self.wait()
        if self._thread is None:
            self._thread = threading.Thread(
                target=self._work, name=self._name, daemon=True
            )
            self._thread.start()
        self._idle.clear()
        self._jobs.put(job)

    def wait(self) -> None:
        """Returns when there is no job."""
        self._idle.wait()

    def close(self) -> None:
        """Waits for the job and ends the thread; the next job starts another."""
        self.wait()
        if self._thread is not None:
            self._jobs.put(None)
            self._thread.join()
            self._thread = None

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            try:
                job()
            finally:
                self._idle.set()
