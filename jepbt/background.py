"""One thread beside a run, for one job after another."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable


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
