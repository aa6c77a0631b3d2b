"""What the host loop refuses before it starts, by argument, value and remedy."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Sequence
from typing import Any

from jepbt import strategies
from jepbt.host.candidate import Candidate, field_dict
from jepbt.host.evaluators import EvaluationFn
from jepbt.hyperparameters import HyperParameters, spaces
from jepbt.strategies import Strategy


def check_population(population: Any) -> type[HyperParameters]:
    """Checks the candidates that a user starts with.

    Args:
        population: as given.

    Returns:
        The class of their hyperparameters.

    Raises:
        TypeError: if it is no sequence of candidates with hyperparameters of one class.
        ValueError: if it is empty, or a value lies outside of its space.
    """
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
    """Checks one candidate's hyperparameters against their spaces.

    Args:
        where: names them in messages.
        hparams: one candidate's.
        hparams_type: the class of all candidates' hyperparameters.

    Raises:
        TypeError: for another class, or a value of the wrong type.
        ValueError: for a value outside of its space.

    Example:
        >>> from dataclasses import dataclass
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     width: int = jepbt.hparam(4, min=1, max=64)
        >>> check_hparams("hparams", Hyper(width=65), Hyper)
        Traceback (most recent call last):
            ...
        ValueError: hparams.width=65 lies outside its bounds [1, 64].
    """
    if not isinstance(hparams, HyperParameters):
        raise TypeError(
            f"{where} must be a dataclass that inherits from jepbt.HyperParameters, "
            f"got {hparams!r}."
        )
    if type(hparams) is not hparams_type:
        raise TypeError(
            f"{where} is a {type(hparams).__name__}, others are a "
            f"{hparams_type.__name__}: all candidates share one class."
        )
    for name, space in spaces(hparams_type).items():
        space.check(f"{where}.{name}", getattr(hparams, name))


def check_function(function: Any) -> None:
    """Raises `TypeError` for an evaluation function that is none."""
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


def check_strategy(strategy: Strategy) -> None:
    """Raises `ValueError` for a strategy that asks for what this loop cannot know."""
    if strategy.behaviour is not None:
        raise ValueError(
            "strategy: it compares what members do with validation examples, which "
            "this loop never sees. strategies.pulsation(metric='loss') compares losses."
        )


def check_importable(function: EvaluationFn) -> None:
    """Raises `TypeError` for a function that another process cannot import.

    Pickles hold a function's module and name only.
    """
    name = getattr(function, "__qualname__", repr(function))
    advice = "Define it with def, at the top level of a module."
    try:
        pickle.dumps(function)
    except Exception as error:  # whatever a callable object's own pickling raises
        raise TypeError(
            f"evaluation_function={name} cannot be sent to another process: {error}. "
            f"{advice}"
        ) from error
    main = sys.modules["__main__"]
    has_file = hasattr(main, "__file__") or getattr(main, "__spec__", None) is not None
    if getattr(function, "__module__", None) == "__main__" and not has_file:
        raise TypeError(
            f"evaluation_function={name} is defined in a notebook or interactive "
            f"session, where another process cannot find it. {advice}"
        )


def check_picklable(population: Sequence[Candidate], purpose: str) -> None:
    """Raises `TypeError` for the first field of a candidate that cannot be pickled."""
    for slot, candidate in enumerate(population):
        for name, value in field_dict(candidate).items():
            try:
                pickle.dumps(value)
            except Exception as error:  # whatever the value's own pickling raises
                raise TypeError(
                    f"initial_population[{slot}].{name} cannot be pickled, which "
                    f"{purpose} needs: {error}. Define its class at the top level of "
                    "a module."
                ) from error
