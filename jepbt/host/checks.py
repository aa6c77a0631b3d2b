"""Checks what the host loop is given: argument, value and remedy in each message."""

import math
import sys
from collections.abc import Sequence
from concurrent.futures import Executor, ProcessPoolExecutor
from typing import Any

import jax

from jepbt import strategies
from jepbt.arguments import check_whole, if_defined_twice
from jepbt.host.candidate import Candidate, field_dict
from jepbt.host.evaluation import EvaluationFn, pickled
from jepbt.hyperparameters import HyperParameters, spaces
from jepbt.strategies import Strategy


def check_population(population: Any) -> type[HyperParameters]:
    """Checks the candidates that a user starts with; returns their hparams' class."""
    if not isinstance(population, Sequence) or isinstance(population, str):
        raise TypeError(
            "initial_population must be a list of jepbt.Candidate, got "
            f"{type(population).__name__}: [Candidate(None, Hyper()) for _ in range(8)]"
        )
    if not population:
        raise ValueError(
            "initial_population is empty. Give at least one jepbt.Candidate; 8 or more "
            "make evolution worth its name."
        )
    for slot, candidate in enumerate(population):
        where = f"initial_population[{slot}]"
        if not isinstance(candidate, Candidate):
            raise TypeError(
                f"{where} must be a jepbt.Candidate, got {type(candidate).__name__}."
            )
        check_hparams(
            f"{where}.hparams", candidate.hparams, type(population[0].hparams)
        )
    return type(population[0].hparams)


def check_hparams(where: str, hparams: Any, hparams_type: type) -> None:
    """Checks one candidate's hyperparameters against their spaces."""
    if not isinstance(hparams, HyperParameters):
        raise TypeError(
            f"{where} must be a dataclass that inherits from jepbt.HyperParameters, "
            f"got {hparams!r}."
        )
    if type(hparams) is not hparams_type:
        raise TypeError(
            f"{where} is a {type(hparams).__name__}, others are a "
            f"{hparams_type.__name__}: all candidates share one class."
            + if_defined_twice(type(hparams), hparams_type)
        )
    for name, space in spaces(hparams_type).items():
        space.check(f"{where}.{name}", getattr(hparams, name))


def check_evaluation(
    function: Any, n_processes: Any, executor: Any, population: Sequence[Candidate]
) -> None:
    """Checks what evaluates, and where."""
    is_builder = any(function is named for named in vars(strategies).values())
    if isinstance(function, Strategy) or is_builder:
        raise TypeError(
            "evaluation_function is a strategy, or builds one: pass that as strategy=, "
            "and here a function that trains a Candidate and returns a new one."
        )
    if not callable(function):
        raise TypeError(
            "evaluation_function must be a function that trains a Candidate and "
            f"returns a new one, got {function!r}."
        )
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
        _check_importable(function)
        check_picklable(population, "another process")


def check_strategy(
    strategy: Strategy,
    hparams_type: type[HyperParameters],
    num_members: int,
    num_generations: int,
    asynchronous: bool,
) -> None:
    """Raises `ValueError` for a strategy that this run cannot use."""
    if strategy.behaviour is not None:
        raise ValueError(
            "strategy: it compares what members do with validation examples, which "
            "this loop never sees. strategies.pulsation(metric='loss') compares losses."
        )
    # Here a strategy refuses a population that it does not fit.
    state, _ = jax.eval_shape(
        lambda: strategy.init(
            jax.random.key(0), hparams_type, num_members, num_generations
        )
    )

    def check_rows(by_slot, part):
        for leaf in jax.tree.leaves(part) if by_slot else ():
            if leaf.shape[:1] != (num_members,):
                raise ValueError(
                    "strategy: asynchronous=True evolves each slot's own row of its "
                    f"state, but an array of shape {leaf.shape} has no row for each of "
                    f"{num_members} slots. Say so: Strategy(init, step, by_slot=...)."
                )

    if asynchronous:
        jax.tree.map(check_rows, strategy.by_slot, state)


def check_result(
    slot: int, where: str, result: Candidate, given: Candidate, strategy: Strategy
) -> None:
    """Checks the candidate that an evaluation has returned for a slot."""
    check_hparams(
        f"evaluation_function returned, for slot {slot}, hparams",
        result.hparams,
        type(given.hparams),
    )
    has_error = math.isnan(result.fitness) or result.standard_error >= 0
    if strategy.needs_standard_error and not has_error:
        raise TypeError(
            f"{where}: the strategy compares standard errors of the fitness, and "
            "evaluation_function returned none. Return Candidate(model, "
            "candidate.hparams, fitness, standard_error=...), or use another strategy."
        )


def _check_importable(function: EvaluationFn) -> None:
    """Refuses a function that another process cannot import by module and name."""
    name = getattr(function, "__qualname__", repr(function))
    pickled(function, f"evaluation_function={name}", "another process")
    main = sys.modules["__main__"]
    has_file = hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None
    if getattr(function, "__module__", None) == "__main__" and not has_file:
        raise TypeError(
            f"evaluation_function={name} is defined in a notebook or interactive "
            "session, where another process cannot find it. Define it with def, at the "
            "top level of a module."
        )


def check_picklable(population: Sequence[Candidate], needed_by: str) -> None:
    """Refuses the first field of a candidate that cannot be pickled."""
    for slot, candidate in enumerate(population):
        for name, value in field_dict(candidate).items():
            pickled(value, f"initial_population[{slot}].{name}", needed_by)
