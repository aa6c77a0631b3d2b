"""A process of its own that does one kind of work, again and again, when told to.

For benchmarks whose settings are fixed once a process has started: the number of JAX's
CPU devices, or of threads.
"""

from __future__ import annotations

import multiprocessing
import os
import traceback
from collections.abc import Callable, Sequence
from typing import Any


class Worker:
    """A spawned process with a control built in it.

    Messages go over a pipe; `start` and `wait` are apart, so that several workers run
    side by side. Use it as a context: leaving it ends the process.
    """

    def __init__(self, environment: dict[str, str] | None = None) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, end = context.Pipe()
        self._process = context.Process(target=_serve, args=(end,), daemon=True)
        # JAX reads its variables while it is imported, which is before `_serve` runs.
        before = dict(os.environ)
        os.environ.update(environment or {})
        try:
            self._process.start()
        finally:
            os.environ.clear()
            os.environ.update(before)
        end.close()

    def __enter__(self) -> Worker:
        return self

    def __exit__(self, *error: object) -> None:
        self._pipe.close()
        self._process.terminate()  # it holds nothing worth a tidy end
        self._process.join()

    def build(self, builder: Callable[..., Any], *args: Any, **kwargs: Any) -> None:
        """Starts building a control; `wait` returns when it is warm."""
        self._pipe.send(("build", builder, args, kwargs))

    def start(self, name: str = "run") -> None:
        """Starts a function of the control."""
        self._pipe.send((name,))

    def wait(self) -> Any:
        """Waits for what was started, and returns its result.

        Raises:
            RuntimeError: if it failed in the process; the message has its traceback.
        """
        try:
            is_done, result = self._pipe.recv()
        except EOFError as error:
            raise RuntimeError("the process of a control died.") from error
        if not is_done:
            raise RuntimeError(result)
        return result


def run_all(workers: Sequence[Worker]) -> None:
    """Runs all workers' controls side by side."""
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.wait()


def _serve(pipe: Any) -> None:
    control = None
    while True:
        try:
            name, *rest = pipe.recv()
        except (EOFError, KeyboardInterrupt):
            return
        try:
            if name == "build":
                builder, args, kwargs = rest
                control = builder(*args, **kwargs)
                pipe.send((True, control.num_steps))
            else:
                pipe.send((True, getattr(control, name)()))
        except KeyboardInterrupt:
            return
        except Exception:
            pipe.send((False, traceback.format_exc()))
