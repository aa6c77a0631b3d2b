"""Evolves candidates of any framework around a user's evaluation function.

The loop stacks the candidates' hyperparameters and calls the same strategies as the
compiled program: one algorithm, two drivers.
"""

import contextlib
import copy
import dataclasses
import functools
import math
import os
import pathlib
import time
import weakref
from collections.abc import Iterator, Sequence
from concurrent.futures import Executor

import numpy as np

from jepbt.arguments import check_bool, check_whole, user_path
from jepbt.checkpoints.folder import describe_spaces
from jepbt.config import check_folder
from jepbt.engine.forks import check_fork
from jepbt.engine.state import Record
from jepbt.host import breeding
from jepbt.host.candidate import Candidate, encode_population
from jepbt.host.checks import (
    check_evaluation,
    check_picklable,
    check_population,
    check_result,
    check_strategy,
)
from jepbt.host.evaluation import EvaluationFn, Failure, Outcome
from jepbt.host.evaluators import Evaluator, open_evaluator
from jepbt.host.progress import Progress, identify, open_run, save
from jepbt.optional import warn
from jepbt.results import Generation, make_generation
from jepbt.strategies import Strategy, resolve_strategy


def epbt(
    n_generations: int,
    initial_population: Sequence[Candidate],
    evaluation_function: EvaluationFn,
    n_processes: int | None = None,
    *,
    strategy: str | Strategy = "epbt",
    executor: Executor | None = None,
    asynchronous: bool = False,
    retries: int = 0,
    seed: int = 0,
    run_dir: str | os.PathLike | None = None,
    resume: bool = False,
) -> Iterator[Candidate]:
    """Evolves models of any framework while they train, one generation a step.

    In every generation all candidates, elites included, are given to the evaluation
    function; then the strategy picks, for each slot, whose model continues there and
    with which hyperparameters. This loop is for code that JAX cannot compile;
    `jepbt.train_population` trains a population as one program, with the same
    strategies.

    The evaluation function gets a copy of a `Candidate`, so it may train the model
    (`None` at first) in place, and nothing that it changes reaches another candidate.
    It trains with `candidate.hparams`, measures fitness on validation data, and returns
    a *new* `Candidate`, perhaps with the `standard_error` of the fitness, which
    `strategies.significant` needs. If it raises, or its process dies, or its fitness is
    not finite, that one evaluation has failed: a warning names slot, hyperparameters
    and error, the fitness is `nan`, and the slot goes to the child of another. When all
    evaluations of a generation fail, the loop ends with a `RuntimeError`.

    The loop waits for an evaluation that never returns, since only the function knows
    how long is too long. With `n_processes`, `signal.alarm(600)` as its first line (not
    on Windows) ends its process after ten minutes, which fails that one evaluation.
    Ctrl-C, or closing the generator, ends all workers and what they have started.

    The initial population is used as given, but a candidate whose hyperparameters
    repeat an earlier one's takes the strategy's first draw for its slot instead. So
    `[Candidate(None, Hyper()) for _ in range(8)]` starts with the defaults in slot 0
    and draws from the prior in the others, as `train_population` does.

    JAX does the strategy's arithmetic on the CPU. On a machine whose GPU another
    framework needs, set the environment variable `JAX_PLATFORMS=cpu`: JAX reserves most
    of a GPU's memory once it starts.

    Args:
        n_generations: the number of times that every slot is evaluated, with
            `n_generations - 1` evolutions between. If asynchronous, a generation is as
            many results as there are slots.
        initial_population: a list of candidates, one for each slot, with
            hyperparameters of one class. Choices may be strings, tuples or anything
            else that is hashable.
        evaluation_function: a function `Candidate -> Candidate`.
        n_processes: the number of spawned processes that evaluate; `None` evaluates in
            this one. Spawned processes import the function, so it must be defined at
            the top level of a module.
        strategy: a name ("epbt", "pbt", "random_search", ...), or the result of a
            builder in `jepbt.strategies`.
        executor: a `concurrent.futures.Executor` (of Dask, MPI or loky, for example)
            that evaluates instead. It stays open.
        asynchronous: `True` lets a slot breed as soon as its own result is back, from
            the last known fitness of the others, which suits evaluations of uneven
            length.
        retries: the number of times that a failed evaluation is repeated before it
            counts.
        seed: the seed of the strategy's random draws, from 0 to 2**32 - 1. The
            evaluation function seeds its own.
        run_dir: a folder for `config.json`, `history.jsonl` and `candidates.pkl`, a
            pickle of the population after every generation, with whatever objects the
            evaluation function returned. Loading a pickle runs code: continue only
            runs of your own. `~` is the home folder; a relative path starts from the
            folder that is the current one now, whatever evaluations change it to.
        resume: `True` continues the run that `run_dir` holds, if it holds one, under
            the same strategy with the same settings. Only the missing generations run,
            perhaps more than planned at first.

    Yields:
        The best candidate so far, after every generation; of a finished run that is
        resumed, once. Do not change it: children may descend from it.

    Raises:
        TypeError: for an argument of the wrong type; the message names it. Later, if
            the evaluation function returns anything but a new candidate.
        ValueError: for a value that is not allowed, also a `run_dir` that cannot be
            written to.
        RuntimeError: in a forked process whose parent has used JAX. Later, if all
            evaluations of a generation fail.

    Warns:
        RuntimeWarning: if an evaluation fails; or if `run_dir` cannot be written to any
            more, from a disk that is full: the run goes on, and what is missing is
            written once it can be.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     step: float = jepbt.hparam(0.01, min=0.001, max=0.5, log=True)
        >>> def evaluate(candidate):  # a model that is one number, climbing -x²
        ...     x = 1.0 if candidate.model is None else candidate.model
        ...     x = x - candidate.hparams.step * 2 * x
        ...     return Candidate(x, candidate.hparams, fitness=-(x**2))
        >>> population = [Candidate(None, Hyper()) for _ in range(8)]
        >>> for best in epbt(5, population, evaluate):
        ...     pass
        >>> best.fitness > -0.1
        True

    Reference:
        Liang et al., "Regularized Evolutionary Population-Based Training", 2021,
        https://arxiv.org/abs/2002.04225
    """
    check_fork("epbt")
    hparams_type = check_population(initial_population)
    check_whole("", "n_generations", n_generations, 1, 10**6)
    check_whole("", "retries", retries, 0, 10**6)
    check_whole("", "seed", seed, 0, 2**32 - 1)
    check_bool("", "asynchronous", asynchronous)
    check_bool("", "resume", resume)
    check_evaluation(evaluation_function, n_processes, executor, initial_population)
    check_folder("run_dir", run_dir)
    strategy = resolve_strategy(strategy)
    num_members = len(initial_population)
    check_strategy(strategy, hparams_type, num_members, n_generations, asynchronous)
    with contextlib.ExitStack() as resources:
        folder = progress = None
        if run_dir is not None:
            check_picklable(initial_population, "run_dir")
            settings = {
                "loop": "jepbt.epbt",
                "population_size": num_members,
                "hparams": describe_spaces(hparams_type),
                "strategy": getattr(strategy.step, "__qualname__", "").split(".")[0],
                "asynchronous": asynchronous,
                "seed": int(seed),
            }
            path = user_path("run_dir", run_dir)
            describe = functools.partial(identify, strategy, hparams_type, num_members)
            folder, progress = open_run(
                path, resume, settings, describe, n_generations, resources
            )
        elif resume:
            raise ValueError("resume=True needs run_dir, the folder of the run.")
        if progress is None:
            progress = breeding.start(strategy, seed, initial_population, n_generations)
        evaluator = open_evaluator(
            evaluation_function, n_processes, executor, num_members
        )
        resources.callback(evaluator.close)
        resources = resources.pop_all()  # from here on `_generations` closes them
    generations = _generations(
        _Run(
            n_generations=n_generations,
            strategy=strategy,
            seed=seed,
            retries=retries,
            asynchronous=asynchronous,
            evaluator=evaluator,
            folder=folder,
            progress=progress,
        ),
        resources,
    )
    # Also if nobody ever asks for the first generation.
    weakref.finalize(generations, resources.close)
    return generations


@dataclasses.dataclass
class _Run:
    """A run of the loop: its settings, and how far it has come."""

    n_generations: int
    strategy: Strategy
    seed: int
    retries: int
    asynchronous: bool
    evaluator: Evaluator
    folder: pathlib.Path | None
    progress: Progress
    failures: list[Failure] = dataclasses.field(default_factory=list)
    seconds: dict[str, float] = dataclasses.field(default_factory=dict)
    unwritten: list[Generation] = dataclasses.field(default_factory=list)
    told: set[str] = dataclasses.field(default_factory=set)

    @contextlib.contextmanager
    def timed(self, phase: str) -> Iterator[None]:
        begin = time.perf_counter()
        yield
        self.seconds[phase] += time.perf_counter() - begin


def _generations(run: _Run, resources: contextlib.ExitStack) -> Iterator[Candidate]:
    """Yields the best candidate after each generation, and saves the run."""
    progress = run.progress
    with resources:
        if progress.generation >= run.n_generations:
            yield progress.best
            return
        for slot, pending in progress.pending.items():
            run.evaluator.submit(slot, pending.candidate)
        for generation in range(progress.generation, run.n_generations):
            run.failures, run.seconds = [], {"evolve": 0.0, "evaluate": 0.0}
            _evaluate_generation(run)
            if len(run.failures) == len(progress.candidates):
                raise RuntimeError(
                    f"all {len(run.failures)} evaluations of generation {generation} "
                    f"failed. The first: {run.failures[0].reason}\n"
                    f"{run.failures[0].traceback}"
                )
            if run.folder is not None:
                run.unwritten.append(_report(run, generation))
                save(run.folder, progress, run.unwritten, run.told)
            yield progress.best


def _evaluate_generation(run: _Run) -> None:
    """Evaluates as many candidates as a generation has.

        breed a child for every idle slot, and submit them
        P times:
            receive a result
            if asynchronous, unless the run's last evaluations are all pending:
                breed a child for the slot of the result, and submit it

    The candidates of the first generation are pending from the beginning. Afterwards
    all slots are idle here, or none if asynchronous: then a slot is idle only in a run
    that had ended, and continues for more generations.
    """
    progress = run.progress
    num_members = len(progress.candidates)
    idle = [slot for slot in range(num_members) if slot not in progress.pending]
    _breed(run, idle)
    for _ in range(num_members):
        slot = _receive(run)
        num_left = run.n_generations * num_members - sum(progress.ages)
        if run.asynchronous and len(progress.pending) < num_left:
            _breed(run, [slot])


def _breed(run: _Run, slots: Sequence[int]) -> None:
    """Submits a child for each slot, bred by itself if asynchronous."""
    with run.timed("evolve"):
        if slots and not run.asynchronous:
            breeding.breed(run.strategy, run.seed, run.progress)
        for slot in slots:
            if run.asynchronous:
                breeding.breed(run.strategy, run.seed, run.progress, slot)
            run.evaluator.submit(slot, run.progress.pending[slot].candidate)


def _receive(run: _Run) -> int:
    """Takes in the next result, and returns its slot."""
    with run.timed("evaluate"):
        slot, outcome = _next_outcome(run)
    where = f"slot {slot} in generation {run.progress.generation}"
    given = run.progress.pending[slot].candidate
    if not isinstance(outcome, Failure):
        check_result(slot, where, outcome, given, run.strategy)
        if math.isnan(outcome.fitness):
            reason = f"slot {slot} returned a fitness that is not finite"
            run.failures.append(Failure(reason))
    elif outcome.is_mistake:
        raise TypeError(f"{where}: {outcome.reason}.\n{outcome.traceback}".rstrip())
    else:
        run.failures.append(outcome)
        warn(
            f"the evaluation of {where} failed: {outcome.reason}. Hyperparameters: "
            f"{given.hparams}. Its fitness is nan."
        )
        # The model it was given: what the failed evaluation made of it is lost.
        outcome = copy.copy(given)
        outcome.fitness = outcome.standard_error = math.nan
    run.progress.finish(slot, outcome)
    return slot


def _next_outcome(run: _Run) -> tuple[int, Outcome]:
    """Waits for an evaluation that has ended, and will not be tried again."""
    while True:
        slot, outcome = run.evaluator.receive()
        pending = run.progress.pending[slot]
        is_failure = isinstance(outcome, Failure) and not outcome.is_mistake
        if not is_failure or pending.failures == run.retries:
            return slot, outcome
        pending.failures += 1
        run.evaluator.submit(slot, pending.candidate)


def _report(run: _Run, generation: int) -> Generation:
    """Describes the generation that has just ended, as the history holds it."""
    candidates = run.progress.candidates
    record = Record(
        fitness=np.array([c.fitness for c in candidates], np.float32),
        standard_error=np.array([c.standard_error for c in candidates], np.float32),
        parents=np.array(run.progress.parents),
        hparams=encode_population(candidates),
        metrics={},
        info={},
    )
    return make_generation(generation, record, run.seconds)
