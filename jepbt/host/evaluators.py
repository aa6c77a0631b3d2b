"""Runs evaluations: in this process, in processes of its own, or on an executor.

An evaluator takes candidates with `submit`, which returns at once, and hands back their
outcomes with `receive`, one by one as they come. `close` gives up what still runs.
Every evaluation works on a copy of its own, so that a model can be trained in place
without changing that of another candidate.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import uuid
from concurrent.futures import BrokenExecutor, Executor, Future
from typing import Any, TypeAlias

from jepbt.host.candidate import Candidate
from jepbt.host.evaluation import (
    EvaluationFn,
    Failure,
    Outcome,
    evaluate,
    evaluate_copy,
    failed,
    mistaken,
    one_line,
    pickled,
)
from jepbt.optional import optional


class _InThisProcess:
    """Evaluates here, one candidate after the other, in the order of submission."""

    def __init__(self, function: EvaluationFn):
        self._function = function
        self._waiting: collections.deque[tuple[int, Candidate]] = collections.deque()

    def submit(self, slot: int, candidate: Candidate) -> None:
        self._waiting.append((slot, candidate))

    def receive(self) -> tuple[int, Outcome]:
        slot, candidate = self._waiting.popleft()
        return slot, evaluate_copy(self._function, candidate)

    def close(self) -> None:
        self._waiting.clear()


class _OnExecutor:
    """Evaluates on the user's executor, which stays open."""

    def __init__(self, function: EvaluationFn, executor: Executor):
        self._function, self._executor = function, executor
        self._pending: set[Future] = set()
        self._done: queue.SimpleQueue[tuple[int, Future]] = queue.SimpleQueue()

    def submit(self, slot: int, candidate: Candidate) -> None:
        # Dask computes equal calls once: without a token of its own, children that
        # happen to be equal would share one evaluation, its random draws included.
        token = uuid.uuid4().hex
        try:
            future = self._executor.submit(
                evaluate_copy, self._function, candidate, token
            )
        except BrokenExecutor as error:
            raise self._broken(error) from error
        self._pending.add(future)
        future.add_done_callback(lambda future: self._done.put((slot, future)))

    def receive(self) -> tuple[int, Outcome]:
        slot, future = self._done.get()
        self._pending.discard(future)
        try:
            return slot, future.result()
        except BrokenExecutor as error:
            raise self._broken(error) from error
        except Exception as error:  # whatever the user's executor makes of a failure
            return slot, failed(error)

    def close(self) -> None:
        with optional("evaluations that nobody waits for may still run"):
            for future in self._pending:
                future.cancel()

    def _broken(self, error: BaseException) -> RuntimeError:
        return RuntimeError(
            f"executor={type(self._executor).__name__} is broken ({one_line(error)}), "
            "and only its owner can make a new one. With n_processes= a process that "
            "dies costs one evaluation; with run_dir=, resume=True goes on after the "
            "last generation."
        )


class _InProcesses:
    """Evaluates in spawned processes, each with one candidate at a time.

    They start when the first outcome is asked for. One that dies fails the candidate
    that it had, and no other; a new process takes its place. Each leads a process group
    of its own, so that `close` also ends what an evaluation has started.
    """

    def __init__(self, function: EvaluationFn, num_processes: int):
        self._function = pickle.dumps(function)
        self._num_processes = num_processes
        self._waiting: collections.deque[tuple[int, Candidate]] = collections.deque()
        self._workers: list[_Worker] = []
        # Runs before multiprocessing, which registered earlier, would wait for them.
        atexit.register(self.close)

    def submit(self, slot: int, candidate: Candidate) -> None:
        self._waiting.append((slot, candidate))

    def receive(self) -> tuple[int, Outcome]:
        while True:
            while len(self._workers) < self._num_processes:
                self._workers.append(_Worker(self._function))
            for worker in self._workers:
                is_idle = worker.is_ready and worker.slot is None
                if is_idle and self._waiting and worker.send(*self._waiting[0]):
                    self._waiting.popleft()
            worker = self._wait()
            slot = worker.slot
            try:
                outcome = worker.receive()
            except (EOFError, OSError):
                self._workers.remove(worker)
                outcome = worker.bury(self._num_processes)
            if slot is not None:
                return slot, outcome

    def close(self) -> None:
        for worker in self._workers:
            worker.signal(signal.SIGTERM)
        for worker in self._workers:
            worker.end(timeout=5)
        self._workers.clear()
        atexit.unregister(self.close)

    def _wait(self) -> _Worker:
        """Waits for a worker that has sent something, or has died."""
        sources = {worker.connection: worker for worker in self._workers}
        sources |= {worker.process.sentinel: worker for worker in self._workers}
        return sources[multiprocessing.connection.wait(list(sources))[0]]


Evaluator: TypeAlias = _InThisProcess | _OnExecutor | _InProcesses


def open_evaluator(
    function: EvaluationFn,
    num_processes: int | None,
    executor: Executor | None,
    num_members: int,
) -> Evaluator:
    """Starts the evaluator that a user has asked for."""
    if executor is not None:
        return _OnExecutor(function, executor)
    if num_processes is not None:
        return _InProcesses(function, min(num_processes, num_members))
    return _InThisProcess(function)


class _Worker:
    """A process, seen from the one that has started it."""

    def __init__(self, function: bytes):
        context = multiprocessing.get_context("spawn")
        self.connection, theirs = context.Pipe()
        self.process = context.Process(target=_work, args=(theirs, function))
        self.process.start()
        theirs.close()
        self.slot: int | None = None  # of the candidate that it evaluates
        self.is_ready = False  # once it has loaded the evaluation function

    def send(self, slot: int, candidate: Candidate) -> bool:
        """Gives it a candidate; returns whether it was still alive to take it."""
        message = pickled(candidate, f"the candidate of slot {slot}", "n_processes")
        try:
            self.connection.send_bytes(message)
        except OSError:  # it died idle, which `receive` will notice
            return False
        self.slot = slot
        return True

    def receive(self) -> Outcome | None:
        """Reads its answer; `None` says that it is ready. A dead one raises."""
        # The end of the process may be what woke us: then there is nothing to read.
        if not self.connection.poll():
            raise EOFError
        message = self.connection.recv_bytes()
        self.slot = None
        try:
            answer = pickle.loads(message)
        except Exception as error:  # whatever the user's classes raise
            return mistaken("its result cannot be unpickled", error)
        if not self.is_ready and answer is not None:
            raise RuntimeError(
                "evaluation_function cannot be loaded in another process: "
                f"{answer.reason}. Define it at the top level of a module.\n"
                f"{answer.traceback}"
            )
        self.is_ready = True
        return answer

    def bury(self, num_processes: int) -> Failure:
        """Ends what a dead process has left behind, and says how it died."""
        self.end(timeout=1)
        code = self.process.exitcode
        if not self.is_ready:
            raise RuntimeError(
                f"a process of n_processes={num_processes} ended with exit code {code} "
                "before it could work; its own error is above. A script needs "
                "`if __name__ == '__main__':` around what starts a run."
            )
        how = f"exit code {code}" if code >= 0 else f"signal {-code}"
        with contextlib.suppress(ValueError):  # some signals have no name
            how = f"signal {signal.Signals(-code).name}" if code < 0 else how
        return Failure(f"its process died ({how})")

    def end(self, timeout: float) -> None:
        """Kills its process group unless it ends in time."""
        self.process.join(timeout=timeout)
        self.signal(signal.SIGKILL)  # also for what it has started
        self.process.join()
        self.connection.close()

    def signal(self, number: int) -> None:
        """Sends a signal to the process and all that it has started."""
        try:
            os.killpg(self.process.pid, number)
        except (ProcessLookupError, PermissionError):  # gone, or has no group yet
            with contextlib.suppress(ProcessLookupError):
                if self.process.is_alive():
                    os.kill(self.process.pid, number)


def _work(connection: Any, pickled_function: bytes) -> None:
    """Lives as a worker; plain pickles, since tensors may travel their own way."""
    os.setpgrp()  # Ctrl-C is for the parent, which ends this group
    try:
        function = pickle.loads(pickled_function)
    except Exception as error:  # whatever importing the user's module raises
        connection.send_bytes(pickle.dumps(failed(error)))
        return
    # A broken or ended pipe means that nobody waits for a result any more.
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(pickle.dumps(None))
        while True:
            connection.send_bytes(_answer(function, connection.recv_bytes()))


def _answer(function: EvaluationFn, message: bytes) -> bytes:
    """Evaluates a pickled candidate; returns the pickled outcome."""
    step = "its candidate cannot be unpickled"
    try:
        outcome = evaluate(function, pickle.loads(message))
        step = "its result cannot be pickled"
        return pickle.dumps(outcome)
    except Exception as error:  # whatever pickling raises of the user's own classes
        return pickle.dumps(mistaken(step, error))
