"""EPBT around an evaluation function of any framework: the loop on the host.

It stacks the candidates' hyperparameters and calls the same strategies as the compiled
program does: one algorithm, two drivers.
"""

from __future__ import annotations

import copy
import functools
import math
import os
import pathlib
import time
import warnings
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import NamedTuple

import jax
import numpy as np

from jepbt.arguments import check_bool, check_whole
from jepbt.checkpoints import folder as run_directory
from jepbt.checkpoints.folder import describe_spaces
from jepbt.config import check_folder
from jepbt.host import breeding, evaluators, files
from jepbt.host.candidate import Candidate, field_dict
from jepbt.host.checks import (
    check_function,
    check_hparams,
    check_importable,
    check_picklable,
    check_population,
    check_strategy,
)
from jepbt.host.evaluators import EvaluationFn, Evaluator, Failure
from jepbt.host.files import Progress
from jepbt.hyperparameters import HyperParameters, encode, spaces
from jepbt.results import Generation
from jepbt.strategies import Strategy, resolve_strategy


class _Run(NamedTuple):
    """What stays the same while a run goes on."""

    n_generations: int
    hparams_type: type[HyperParameters]
    strategy: Strategy
    make_evaluator: Callable[[], Evaluator]
    asynchronous: bool
    retries: int
    seed: int
    folder: pathlib.Path | None


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
    function; then the strategy picks whose model goes on in each slot, and with which
    hyperparameters. This is the loop for code that is no JAX program;
    `jepbt.train_population` trains a population as one program, and
    `jepbt.strategies.epbt` builds the strategy of the same name, which both use.

    The evaluation function gets a `Candidate` of its own: a copy, so that its model,
    `None` at first, may be trained in place, and whatever else it changes there reaches
    no other candidate. It trains with `candidate.hparams`,
    measures fitness on validation data, and returns a *new* `Candidate`, perhaps with
    the fitness's `standard_error`, which `strategies.significant` needs. If it raises,
    or its process dies, or its fitness is not finite, that one evaluation has failed:
    a warning names slot, hyperparameters and error, its fitness is `nan`, and its slot
    goes to another's child. When all of a generation fail, the loop ends with a
    `RuntimeError`.

    An evaluation that never returns is waited for: only the function knows how long
    is too long. With `n_processes`, `signal.alarm(600)` as its first line (not on
    Windows) ends its process after ten minutes, which fails that one evaluation; and
    Ctrl-C, or closing the generator, ends all workers and what they have started.

    The initial population is used as given, but a candidate whose hyperparameters
    repeat an earlier one's would be the same trial again: it takes the strategy's first
    draw for its slot instead. So `[Candidate(None, Hyper()) for _ in range(8)]` starts
    with the defaults in slot 0 and draws from the prior in the others, as
    `train_population` does.

    JAX does the strategy's arithmetic on the CPU. On a machine whose GPU another
    framework needs, set the environment variable `JAX_PLATFORMS=cpu`: JAX reserves most
    of a GPU's memory once it starts.

    Args:
        n_generations: how often everyone is evaluated; there are `n_generations - 1`
            evolutions between. Asynchronous: a generation is as many results as there
            are candidates.
        initial_population: one `Candidate` for each slot, with hyperparameters of one
            class. Choices may be strings, tuples or anything else that is hashable.
        evaluation_function: `Candidate -> Candidate`.
        n_processes: how many spawned processes evaluate; `None` for this one. The
            function must then be importable: defined at the top level of a module.
        strategy: "epbt", "pbt", "random_search", ..., or what a builder in
            `jepbt.strategies` returns.
        executor: a `concurrent.futures.Executor` that evaluates instead, of Dask, MPI
            or loky for example. It stays open.
        asynchronous: whether a slot breeds as soon as its result is back, from the last
            known fitness of the others, instead of waiting for them: for evaluations
            of uneven length.
        retries: how often a failed evaluation is tried again before it counts.
        seed: of every random draw of the strategy, from 0 to 2**32 - 1. The evaluation
            function's own randomness is its own affair.
        run_dir: a folder for `config.json`, `history.jsonl` and, after every
            generation, `candidates.pkl`: a pickle of the population, made by this
            function of whatever objects the evaluation function returned. Loading a
            pickle runs code: continue only runs of your own.
        resume: whether to continue the run that `run_dir` holds, if it holds one; only
            generations that are still missing run, perhaps more than planned at first.

    Yields:
        The best candidate so far, after every generation; of a finished run that is
        resumed, once. Do not change it: children may descend from it.

    Raises:
        TypeError: for an argument of the wrong type; the message names it. Later, if
            the evaluation function returns something else than a new candidate.
        ValueError: for a value that is not allowed.
        RuntimeError: later, if all evaluations of a generation fail.

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
    check_whole("", "n_generations", n_generations, 1, 10**6)
    check_whole("", "retries", retries, 0, 10**6)
    check_whole("", "seed", seed, 0, 2**32 - 1)
    check_folder("run_dir", run_dir)
    for name, value in {"asynchronous": asynchronous, "resume": resume}.items():
        check_bool("", name, value)
    check_function(evaluation_function)
    hparams_type = check_population(initial_population)
    num_members = len(initial_population)
    if n_processes is not None:
        check_whole("", "n_processes", n_processes, 1, 10**4, note=", or None")
        if executor is not None:
            raise ValueError(
                f"n_processes={n_processes} and executor={executor!r} both say where "
                "to evaluate. Give one of them."
            )
    if executor is not None and not isinstance(executor, Executor):
        raise TypeError(
            f"executor must be a concurrent.futures.Executor, got {executor!r}. Of a "
            "Dask client it is client.get_executor()."
        )
    if n_processes is not None or isinstance(executor, ProcessPoolExecutor):
        check_importable(evaluation_function)
        check_picklable(initial_population, "another process")
    if run_dir is not None:
        check_picklable(initial_population, "run_dir")
    elif resume:
        raise ValueError("resume=True needs run_dir, the folder of the run.")
    strategy = resolve_strategy(strategy)
    check_strategy(strategy)
    # Here a strategy refuses a population that it does not fit.
    jax.eval_shape(
        lambda: strategy.init(
            jax.random.key(0), hparams_type, num_members, n_generations
        )
    )
    folder = progress = None
    if run_dir is not None:
        settings = {
            "loop": "jepbt.epbt",
            "population_size": num_members,
            "hparams": describe_spaces(hparams_type),
            "strategy": getattr(strategy.step, "__qualname__", "").partition(".")[0],
            "asynchronous": bool(asynchronous),
            "seed": int(seed),
        }
        folder, progress = files.open_directory(run_dir, resume, settings)
    if progress is None:
        progress = breeding.start(strategy, seed, initial_population, n_generations)
    if executor is not None:
        make = functools.partial(evaluators.on_executor, evaluation_function, executor)
    elif n_processes is not None:
        make = functools.partial(
            evaluators.in_processes,
            evaluation_function,
            min(n_processes, num_members),
        )
    else:
        make = functools.partial(evaluators.in_process, evaluation_function)
    run = _Run(
        n_generations,
        hparams_type,
        strategy,
        make,
        asynchronous,
        retries,
        seed,
        folder,
    )
    return _generations(run, progress)


def _generations(run: _Run, progress: Progress) -> Iterator[Candidate]:
    if progress.generation >= run.n_generations:
        yield progress.best
        return
    num_members = len(progress.candidates)
    evaluator = run.make_evaluator()
    try:
        for slot, pending in progress.pending.items():
            evaluator.submit(slot, pending.candidate)
        while progress.generation < run.n_generations:
            seconds = {"evolve": 0.0, "evaluate": 0.0}
            failures = []
            _breed(run, progress, evaluator, seconds)
            for num_received in range(1, num_members + 1):
                failures += _receive(run, progress, evaluator, seconds)
                num_left = num_members - num_received
                num_left += num_members * (run.n_generations - progress.generation - 1)
                if run.asynchronous and len(progress.pending) < num_left:
                    _breed(run, progress, evaluator, seconds)
            if len(failures) == num_members:
                raise RuntimeError(
                    f"all {num_members} evaluations of generation "
                    f"{progress.generation} failed. The first: {failures[0].reason}\n"
                    f"{failures[0].traceback}"
                )
            progress.generation += 1
            if run.folder is not None:
                run_directory.append_history(run.folder, _report(progress, seconds))
                files.save(run.folder, progress)
            yield progress.best
    finally:
        evaluator.close()


def _breed(
    run: _Run, progress: Progress, evaluator: Evaluator, seconds: dict[str, float]
) -> None:
    begin = time.perf_counter()
    for slot in breeding.breed(
        run.strategy, run.seed, progress, one_by_one=run.asynchronous
    ):
        evaluator.submit(slot, progress.pending[slot].candidate)
    seconds["evolve"] += time.perf_counter() - begin


def _receive(
    run: _Run, progress: Progress, evaluator: Evaluator, seconds: dict[str, float]
) -> list[Failure]:
    """Takes in one result; says why if it is a failed one."""
    begin = time.perf_counter()
    while True:
        slot, outcome = evaluator.receive()
        pending = progress.pending[slot]
        is_failure = isinstance(outcome, Failure)
        if not is_failure or outcome.is_mistake or pending.failures == run.retries:
            break
        pending.failures += 1
        evaluator.submit(slot, pending.candidate)
    seconds["evaluate"] += time.perf_counter() - begin
    given = progress.pending.pop(slot).candidate
    if not is_failure:
        check_hparams(
            f"evaluation_function returned, for slot {slot}, hparams",
            outcome.hparams,
            run.hparams_type,
        )
        result, failures = outcome, []
        if run.strategy.needs_standard_error and not (
            math.isnan(result.fitness) or result.standard_error >= 0
        ):
            raise TypeError(
                f"slot {slot} in generation {progress.generation}: the strategy "
                "compares standard errors of the fitness, and evaluation_function "
                "returned none. Return Candidate(model, candidate.hparams, fitness, "
                "standard_error=...), or use another strategy."
            )
        if math.isnan(result.fitness):
            failures = [Failure(f"slot {slot} returned a fitness that is not finite")]
    elif outcome.is_mistake:
        raise TypeError(
            f"slot {slot} in generation {progress.generation}: {outcome.reason}."
            + f"\n{outcome.traceback}".rstrip()
        )
    else:
        # The model it was given: what the failed evaluation made of it is lost.
        result, failures = copy.copy(given), [outcome]
        result.fitness = result.standard_error = math.nan
        warnings.warn(
            f"the evaluation of slot {slot} in generation {progress.generation} "
            f"failed: {outcome.reason}. Hyperparameters: {given.hparams}. Its fitness "
            "is nan.",
            RuntimeWarning,
            stacklevel=3,
        )
    progress.candidates[slot] = result
    progress.fitness[slot] = result.fitness
    progress.standard_error[slot] = result.standard_error
    columns = jax.tree.leaves(progress.hparams)
    row = jax.tree.leaves(encode(result.hparams))
    for column, value in zip(columns, row, strict=True):
        column[slot] = value
    progress.parents[slot] = pending.parent
    progress.ages[slot] += 1
    if progress.best is None or progress.best < result:
        progress.best = result
    return failures


def _report(progress: Progress, seconds: dict[str, float]) -> Generation:
    fitness = np.array([c.fitness for c in progress.candidates])
    rows = [field_dict(c.hparams) for c in progress.candidates]
    hparams = {name: [row[name] for row in rows] for name in rows[0]}
    for name, space in spaces(type(progress.hparams)).items():
        if space.shape:  # a tuple would be taken for a choice
            hparams[name] = np.array(hparams[name], space.dtype)
    return Generation(
        number=progress.generation - 1,
        fitness=fitness,
        standard_error=np.array([c.standard_error for c in progress.candidates]),
        parents=np.array(progress.parents),
        hparams=hparams,
        metrics={},
        info={},
        seconds=seconds,
    )
