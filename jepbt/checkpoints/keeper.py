"""Saves a run while it goes on, and continues it where it stopped."""

from __future__ import annotations

import contextlib
import pathlib
import threading
import time
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from jepbt.checkpoints import checkpoint
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.resume import RunFolder
from jepbt.config import Config
from jepbt.engine import Best, RunState
from jepbt.engine.generation import Phases
from jepbt.engine.processes import agree, are_several, in_first, is_lost
from jepbt.optional import optional, reason_of, warn
from jepbt.results import Generation
from jepbt.results.json_lines import NO_CHOICES, odd_choices

# With `checkpoint_every="auto"` saving may take this part of a run's time, and comes
# again after so many seconds at least: a save costs some kilobytes of memory for good,
# because tensorstore, which writes for orbax, never frees the text of its settings. A
# tiny run that saved all the time would lose a gigabyte a day.
SHARE = 0.03
PAUSE = 30.0


class Keeper:
    """Appends to a run's history and saves its state, in all processes together.

    orbax copies the state between two generations and writes it in the background;
    every process writes the part that its devices hold, so all of them must see the
    same disk. The first process alone has a folder, and writes the other files.
    """

    def __init__(self, folder: RunFolder | None, config: Config):
        self._folder, self._config = folder, config
        self._root: pathlib.Path | None = None
        if config.run_dir is not None:
            self._root = pathlib.Path(config.run_dir) / checkpoint.FOLDER
        self._manager: Any = None
        self._choices: Mapping[str, Sequence] = NO_CHOICES
        self.first: Best | None = None  # the best member of the first generation
        self._unwritten: list[Generation] = []
        self._told: set[str] = set()
        self._saved = -1  # the generation of the newest checkpoint
        self._started, self._cost, self._written_at = 0.0, 0.0, -float("inf")

    def find(self, programs: Phases) -> tuple[RunState | None, list[Generation]]:
        """Loads the newest whole checkpoint, and the history up to it, if any."""
        hparams = programs.init.out_info.population.hparams
        self._choices = odd_choices(type(hparams))
        if self._root is None:
            return None, []
        number = agree(-1 if self._folder is None else self._folder.generation)
        generations = in_first(lambda: self._make_ready(number))
        if number < 0:
            return None, []
        if generations is None:  # in another process, after the first has tidied up
            generations = run_directory.read_history(
                self._root.parent, number + 1, self._choices
            )
        try:
            state, self.first = checkpoint.restore(self._open(), number, programs)
        except (ValueError, TypeError, KeyError, OSError) as error:
            raise ValueError(
                f"run_dir={str(self._config.run_dir)!r}: the checkpoint of generation "
                f"{number} does not fit this run: {error}. Name another folder."
            ) from error
        self._saved = number
        return state, generations

    def keep(self, state: RunState, reports: Sequence[Generation]) -> None:
        """Appends a call's generations to the history, and saves the state if due.

        The run's first generation has a call of its own.
        """
        last = reports[-1]
        if last.number == 0:
            self.first = checkpoint.copy(state.best)
        if self._root is None:
            return
        if self._folder is not None:  # otherwise another process writes
            self._unwritten.extend(reports)
        self._append_history()
        is_live = last.num_failed < last.fitness.size
        if is_live and self._is_due(report.number for report in reports):
            self._save(state, last.number)

    def finish(self, state: RunState, last: Generation) -> None:
        """Saves the last generation, if any member is alive, and waits for the disk."""
        if self._root is None:
            return
        # Only the first process knows whether its files reached the disk.
        self._wait()
        self._append_history()
        is_live = last.num_failed < last.fitness.size
        if agree(int(is_live and self._saved < last.number)):
            self._save(state, last.number)
        self._wait()
        if self._folder is not None:
            self._folder.remove_oldest(self._config.keep_checkpoints)

    def __enter__(self) -> Keeper:
        return self

    def __exit__(self, kind, error, trace) -> None:
        # A second Ctrl-C returns at once; what is being written is still finished. The
        # part of a process that was lost would never be.
        if isinstance(error, KeyboardInterrupt) or (are_several() and is_lost(error)):
            threading.Thread(target=self._let_go, daemon=True).start()
            return
        self._let_go()

    def _let_go(self) -> None:
        try:
            self._wait()
            with optional(f"orbax has not let go of {self._root}"):
                if self._manager is not None:
                    self._manager.close()
        finally:
            if self._folder is not None:
                self._folder.release()

    def _make_ready(self, number: int) -> list[Generation] | None:
        """Leaves only what the run continues from in its folder."""
        folder = self._folder
        if number < 0:
            path = folder.path / run_directory.HISTORY
            with optional(f"{path} may hold an earlier run's lines"):
                run_directory.replace(path, b"")
            return None
        generations = run_directory.read_history(
            folder.path, number + 1, self._choices, cut=True
        )
        folder.set_damaged_aside()
        folder.remove_oldest(self._config.keep_checkpoints)
        return generations

    def _open(self) -> Any:
        """Makes orbax's manager when it is first needed: importing orbax takes time."""
        if self._manager is None:
            import orbax.checkpoint as orbax

            self._root.mkdir(exist_ok=True)
            self._manager = orbax.CheckpointManager(
                self._root,
                options=orbax.CheckpointManagerOptions(
                    max_to_keep=self._config.keep_checkpoints,
                    step_format_fixed_length=6,
                    # Without these two, no process waits for the others here.
                    create=False,
                    save_root_metadata=False,
                    enable_async_checkpointing=True,
                    async_options=orbax.AsyncOptions(
                        post_finalization_callback=self._seal
                    ),
                ),
            )
        return self._manager

    def _append_history(self) -> None:
        """Appends to the history, starting with what a full disk refused earlier."""
        path = self._root.parent
        missing = f"{path / run_directory.HISTORY} lacks generations, as do checkpoints"
        with optional(missing, self._told) as attempt:
            while self._unwritten:
                first = self._unwritten[0]
                run_directory.append_history(path, first, self._choices)
                self._unwritten.pop(0)
        if not attempt.failed:
            self._told.discard(missing)  # the next time is news again

    def _is_due(self, numbers: Iterable[int]) -> bool:
        every = self._config.checkpoint_every
        if every != "auto":
            return any((number + 1) % every == 0 for number in numbers)
        is_idle = self._manager is None or not self._manager.is_saving_in_progress()
        if is_idle:
            self._wait()
        rested = time.monotonic() - self._written_at
        is_due = is_idle and rested >= max(self._cost * (1 / SHARE - 1), PAUSE)
        # The clock of the first process decides.
        return bool(agree(int(self._folder is not None and is_due)))

    def _save(self, state: RunState, number: int) -> None:
        """Hands the state to orbax, in all processes."""
        self._wait()
        if agree(len(self._unwritten)):  # it could not be continued without its history
            return
        self._started = time.monotonic()
        self._saved = number
        errors = []

        def save() -> None:
            try:
                arrays = checkpoint.pack(state, self.first)
                manager = self._open()
                import orbax.checkpoint as orbax

                manager.save(number, args=orbax.args.StandardSave(arrays), force=True)
            except Exception as error:  # whatever it is, the run continues
                errors.append(error)

        # Threads that orbax starts here are daemons, as this one is. Python waits for
        # all others at its end, and so would a second Ctrl-C.
        thread = threading.Thread(target=save, daemon=True)
        thread.start()
        thread.join()
        if errors:
            self._give_up(errors[0])

    def _seal(self) -> None:
        """Adds the manifest; orbax calls this in the first process, in its thread."""
        held = self._folder
        checkpoint.sync(held.path / run_directory.HISTORY)
        facts = {"identity": held.identity, "chunk_size": held.chunk_size}
        checkpoint.seal(self._root, self._saved, facts)
        self._told.discard(self._no_checkpoint)
        self._rest()

    def _rest(self) -> None:
        """Notes when the writing ended, and how long it took."""
        self._written_at = time.monotonic()
        self._cost = self._written_at - self._started

    def _wait(self) -> None:
        """Waits until nothing is being written, and warns if that has failed."""
        if self._manager is None:
            return
        try:
            self._manager.wait_until_finished()
        except Exception as error:  # whatever it is, the run continues
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        """Warns that a checkpoint could not be written; the next one starts afresh."""
        if self._manager is not None:
            with contextlib.suppress(Exception):
                self._manager.close()
            self._manager = None
        self._saved = -1
        self._rest()
        last = "none"
        with contextlib.suppress(OSError):  # a disk that has failed, or is gone
            if self._folder is not None:
                checkpoint.clean(self._root)
            if kept := checkpoint.list_all(self._root):
                last = f"the last is of generation {int(kept[0].name)}"
        if self._no_checkpoint not in self._told:
            self._told.add(self._no_checkpoint)
            reason = reason_of(error)
            warn(f"{self._no_checkpoint} ({reason}): all else goes on ({last}).")

    @property
    def _no_checkpoint(self) -> str:
        return f"no checkpoint could be written to {str(self._root)!r}"
