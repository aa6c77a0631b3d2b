"""Where the host loop's evaluations run: in this process, in others, on an executor.

An `Evaluator` takes candidates and hands back outcomes as they come. However it runs
them, an evaluation works on a copy of the candidate of its own, so that a model can be
trained in place without touching its siblings.
"""

from __future__ import annotations

import atexit
import collections
import contextlib
import copy
import dataclasses
import math
import multiprocessing
import multiprocessing.connection
import os
import pickle
import queue
import signal
import traceback
from collections.abc import Callable
from concurrent.futures import BrokenExecutor, Executor
from typing import Any, NamedTuple, TypeAlias

from jepbt.host.candidate import Candidate

EvaluationFn: TypeAlias = Callable[[Candidate], Candidate]


@dataclasses.dataclass(frozen=True)
class Failure:
    """What came of an evaluation without a result.

    Attributes:
        reason: one line.
        traceback: of the error, if there was one.
        is_mistake: whether the evaluation function breaks its contract, which no other
            candidate could mend.
    """

    reason: str
    traceback: str = ""
    is_mistake: bool = False


class Evaluator(NamedTuple):
    """Runs evaluations.

    Attributes:
        submit: `(slot, candidate)`: returns at once.
        receive: `() -> (slot, Candidate | Failure)`: waits for the next outcome.
        close: `()`: gives up what still runs.
    """

    submit: Callable[[int, Candidate], None]
    receive: Callable[[], tuple[int, Candidate | Failure]]
    close: Callable[[], None]


def in_process(function: EvaluationFn) -> Evaluator:
    """Evaluates here, one after the other, in the order of submission."""
    waiting: collections.deque[tuple[int, Candidate]] = collections.deque()

    def receive():
        slot, candidate = waiting.popleft()
        return slot, _evaluate_copy(function, candidate)

    return Evaluator(
        lambda slot, candidate: waiting.append((slot, candidate)),
        receive,
        waiting.clear,
    )


def on_executor(function: EvaluationFn, executor: Executor) -> Evaluator:
    """Evaluates on the user's executor, which stays open."""
    done: queue.SimpleQueue = queue.SimpleQueue()
    pending = set()

    def submit(slot, candidate):
        try:
            future = executor.submit(_evaluate_copy, function, candidate)
        except BrokenExecutor as error:
            raise _broken(executor, error) from error
        pending.add(future)
        future.add_done_callback(lambda future: done.put((slot, future)))

    def receive():
        slot, future = done.get()
        pending.discard(future)
        try:
            return slot, future.result()
        except BrokenExecutor as error:
            raise _broken(executor, error) from error
        except Exception as error:  # whatever the user's executor makes of a failure
            return slot, _failure(error)

    def close():
        for future in pending:
            future.cancel()

    return Evaluator(submit, receive, close)


@dataclasses.dataclass
class _Worker:
    process: multiprocessing.process.BaseProcess
    connection: multiprocessing.connection.Connection
    slot: int | None = None
    is_ready: bool = False


def in_processes(function: EvaluationFn, num_processes: int) -> Evaluator:
    """Evaluates in spawned processes, each with one candidate at a time.

    A process that dies fails the candidate that it had, and no other; a new process
    takes its place. Each leads a process group of its own, so that `close` also ends
    what an evaluation has started.
    """
    context = multiprocessing.get_context("spawn")
    pickled_function = pickle.dumps(function)
    waiting: collections.deque[tuple[int, Candidate]] = collections.deque()
    workers: list[_Worker] = []

    def start():
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, pickled_function))
        process.start()
        theirs.close()
        return _Worker(process, ours)

    def assign(worker):
        slot, candidate = waiting.popleft()
        try:
            message = pickle.dumps(candidate)
        except Exception as error:  # whatever a model's own pickling raises
            raise TypeError(
                f"the candidate of slot {slot} cannot be pickled, which n_processes "
                f"needs: {_one_line(error)}"
            ) from error
        worker.slot = slot
        try:
            worker.connection.send_bytes(message)
        except OSError:  # it died idle
            waiting.appendleft((slot, candidate))
            worker.slot = None

    def bury(worker):
        """Replaces a dead worker; returns the outcome of what it had."""
        worker.connection.close()
        worker.process.join(timeout=1)
        _signal_group(worker.process, signal.SIGKILL)  # and what it has started
        worker.process.join()
        code = worker.process.exitcode
        if not worker.is_ready:
            raise RuntimeError(
                f"a process of n_processes={num_processes} ended with exit code {code} "
                "before it could work; its own error is above. A script needs "
                "`if __name__ == '__main__':` around what starts a run."
            )
        workers[workers.index(worker)] = start()
        how = (
            f"signal {signal.Signals(-code).name}" if code < 0 else f"exit code {code}"
        )
        return worker.slot, Failure(f"its process died ({how})")

    def listen(worker):
        """Reads one message; returns an outcome or None."""
        try:
            # A sentinel may be what woke us: a dead worker has nothing more to say.
            if not worker.connection.poll():
                raise EOFError
            message = worker.connection.recv_bytes()
        except (EOFError, OSError):
            slot, failure = bury(worker)
            return None if slot is None else (slot, failure)
        if not worker.is_ready:
            problem = pickle.loads(message)
            if problem is not None:
                raise RuntimeError(
                    "evaluation_function cannot be loaded in another process: "
                    f"{problem.reason}. Define it at the top level of a module.\n"
                    f"{problem.traceback}"
                )
            worker.is_ready = True
            return None
        slot, worker.slot = worker.slot, None
        try:
            return slot, pickle.loads(message)
        except Exception as error:  # whatever the user's classes raise
            reason = f"its result cannot be unpickled: {_one_line(error)}"
            return slot, Failure(reason, traceback.format_exc(), is_mistake=True)

    def receive():
        while True:
            for worker in workers:
                if worker.is_ready and worker.slot is None and waiting:
                    assign(worker)
            sources = {worker.connection: worker for worker in workers}
            sources |= {worker.process.sentinel: worker for worker in workers}
            ready = multiprocessing.connection.wait(list(sources))
            outcome = listen(sources[ready[0]])
            if outcome is not None:
                return outcome

    def close():
        if not workers:
            return  # `atexit` closed it, and a loop left open ends without any modules
        for worker in workers:
            _signal_group(worker.process, signal.SIGTERM)
        for worker in workers:
            worker.process.join(timeout=5)
            _signal_group(worker.process, signal.SIGKILL)
            worker.process.join()
            worker.connection.close()
        workers.clear()
        atexit.unregister(close)

    # Runs before multiprocessing, which registered earlier, would wait for them.
    atexit.register(close)
    try:
        workers.extend(start() for _ in range(num_processes))
    except BaseException:
        close()
        raise
    return Evaluator(
        lambda slot, candidate: waiting.append((slot, candidate)), receive, close
    )


def _work(connection: Any, pickled_function: bytes) -> None:
    """The life of a worker; plain pickles, since tensors may travel their own way."""
    os.setpgrp()  # Ctrl-C is for the parent, which ends this group
    try:
        function = pickle.loads(pickled_function)
    except Exception as error:  # whatever importing the user's module raises
        connection.send_bytes(pickle.dumps(_failure(error)))
        return
    # A broken or ended pipe means that nobody waits for a result any more.
    with contextlib.suppress(EOFError, OSError):
        connection.send_bytes(pickle.dumps(None))
        while True:
            connection.send_bytes(_answer(function, connection.recv_bytes()))


def _answer(function: EvaluationFn, message: bytes) -> bytes:
    try:
        candidate = pickle.loads(message)
    except Exception as error:  # whatever the user's classes raise
        reason = f"its candidate cannot be unpickled: {_one_line(error)}"
        return pickle.dumps(Failure(reason, traceback.format_exc(), is_mistake=True))
    outcome = _evaluate(function, candidate)
    try:
        return pickle.dumps(outcome)
    except Exception as error:  # whatever the model's own pickling raises
        reason = f"its result cannot be pickled: {_one_line(error)}"
        return pickle.dumps(Failure(reason, traceback.format_exc(), is_mistake=True))


def _evaluate_copy(function: EvaluationFn, candidate: Candidate) -> Candidate | Failure:
    try:
        own = copy.deepcopy(candidate)
    except Exception as error:  # whatever the model's own copying raises
        reason = (
            f"its candidate cannot be copied ({_one_line(error)}), but every "
            "evaluation gets a copy of its own. Keep weights in `model` instead"
        )
        return Failure(reason, traceback.format_exc(), is_mistake=True)
    return _evaluate(function, own)


def _evaluate(function: EvaluationFn, candidate: Candidate) -> Candidate | Failure:
    try:
        result = function(candidate)
    except Exception as error:  # a failed training must not end the others
        return _failure(error)
    if result is candidate:
        return Failure(
            "evaluation_function returned the candidate it was given. Return a new "
            "one: Candidate(model, candidate.hparams, fitness)",
            is_mistake=True,
        )
    if not isinstance(result, Candidate):
        return Failure(
            "evaluation_function must return a jepbt.Candidate, got "
            f"{result!r:.80}. Return Candidate(model, candidate.hparams, fitness)",
            is_mistake=True,
        )
    try:
        result.fitness = _as_fitness(result.fitness)
    except (TypeError, ValueError):
        return Failure(
            "evaluation_function must return a candidate whose fitness is a number, "
            f"got {result.fitness!r:.80}",
            is_mistake=True,
        )
    try:
        error = _as_fitness(result.standard_error)
    except (TypeError, ValueError):
        error = -1.0
    if error < 0:
        return Failure(
            "evaluation_function must return a candidate whose standard_error is a "
            f"number from 0 up, or None, got {result.standard_error!r:.80}",
            is_mistake=True,
        )
    result.standard_error = error
    return result


def _as_fitness(fitness: Any) -> float:
    """A Python float of any framework's scalar; what is not finite has failed."""
    if fitness is None:
        return math.nan
    if isinstance(fitness, str | bytes | bool) or getattr(fitness, "shape", ()) != ():
        raise TypeError
    fitness = float(fitness)
    return fitness if math.isfinite(fitness) else math.nan


def _failure(error: BaseException) -> Failure:
    lines = traceback.extract_tb(error.__traceback__)
    where = [f" ({os.path.basename(line.filename)}:{line.lineno})" for line in lines]
    text = "".join(traceback.format_exception(error))
    return Failure(_one_line(error) + "".join(where[-1:]), text)


def _one_line(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())


def _broken(executor: Executor, error: BaseException) -> RuntimeError:
    return RuntimeError(
        f"executor={type(executor).__name__} is broken ({_one_line(error)}), and only "
        "its owner can make a new one. With n_processes= a process that dies costs one "
        "evaluation; with run_dir=, resume=True goes on after the last generation."
    )


def _signal_group(process: multiprocessing.process.BaseProcess, number: int) -> None:
    try:
        os.killpg(process.pid, number)
    except (ProcessLookupError, PermissionError):  # gone, or has no group yet
        if process.is_alive():
            os.kill(process.pid, number)
