"""Evaluates one candidate, whatever the user's function does."""

import copy
import dataclasses
import math
import os
import pickle
import traceback
from collections.abc import Callable
from typing import Any, TypeAlias

from jepbt.host.candidate import Candidate

EvaluationFn: TypeAlias = Callable[[Candidate], Candidate]


@dataclasses.dataclass(frozen=True)
class Failure:
    """The outcome of an evaluation that has no result, and the reason in one line."""

    reason: str
    traceback: str = ""
    is_mistake: bool = False  # of the function itself: other candidates fare no better


Outcome: TypeAlias = Candidate | Failure


def evaluate_copy(
    function: EvaluationFn, candidate: Candidate, token: str = ""
) -> Outcome:
    """Evaluates a copy, so that the function may change what it is given.

    The token is not read: it makes a call unlike all others.
    """
    try:
        own = copy.deepcopy(candidate)
    except Exception as error:  # whatever the model's own copying raises
        return mistaken(
            "its candidate cannot be copied, but every evaluation gets a copy of its "
            "own. Keep weights in `model` instead",
            error,
        )
    return evaluate(function, own)


def evaluate(function: EvaluationFn, candidate: Candidate) -> Outcome:
    """Calls the evaluation function, and checks what it returns."""
    try:
        result = function(candidate)
    except Exception as error:  # a failed training must not end the others
        return failed(error)
    try:
        _check_result(candidate, result)
    except TypeError as error:
        return Failure(f"evaluation_function {error}", is_mistake=True)
    return result


def _check_result(given: Candidate, result: Any) -> None:
    """Refuses what is not a new candidate; makes Python floats of its numbers."""
    if result is given:
        raise TypeError(
            "returned the candidate it was given. Return a new one: "
            "Candidate(model, candidate.hparams, fitness)"
        )
    if not isinstance(result, Candidate):
        raise TypeError(
            f"must return a jepbt.Candidate, got {result!r:.80}. Return "
            "Candidate(model, candidate.hparams, fitness)"
        )
    result.fitness = _as_float(result.fitness, "fitness is a number")
    wanted = "standard_error is a number from 0 up, or None"
    result.standard_error = _as_float(result.standard_error, wanted, least=0)


def _as_float(value: Any, wanted: str, least: float = -math.inf) -> float:
    """Makes a float of any framework's scalar: `nan` of `None` and infinity."""
    try:
        if isinstance(value, str | bytes | bool) or getattr(value, "shape", ()) != ():
            raise TypeError
        number = math.nan if value is None else float(value)
        if number < least:
            raise ValueError
    except (TypeError, ValueError):
        raise TypeError(
            f"must return a candidate whose {wanted}, got {value!r:.80}"
        ) from None
    return number if math.isfinite(number) else math.nan


def failed(error: BaseException) -> Failure:
    """Describes an error that other candidates need not meet."""
    lines = traceback.extract_tb(error.__traceback__)
    where = [f" ({os.path.basename(line.filename)}:{line.lineno})" for line in lines]
    return Failure(one_line(error) + "".join(where[-1:]), _trace(error))


def mistaken(what: str, error: BaseException) -> Failure:
    """Describes an error that ends the run."""
    return Failure(f"{what}: {one_line(error)}", _trace(error), is_mistake=True)


def one_line(error: BaseException) -> str:
    """Writes an error's type and message in one line."""
    try:
        text = str(error)
    except Exception:  # an error whose own message fails
        text = "its message cannot be shown"
    return " ".join(f"{type(error).__name__}: {text}".split())


def pickled(value: Any, what: str, needed_by: str) -> bytes:
    """Pickles what a user has made, or says what it is and what needs the pickle."""
    try:
        return pickle.dumps(value)
    except Exception as error:  # whatever the user's own pickling raises
        raise TypeError(
            f"{what} cannot be pickled, which {needed_by} needs: {one_line(error)}. "
            "Functions and classes must be defined, by def and class, at the top level "
            "of a module."
        ) from error


def _trace(error: BaseException) -> str:
    return "".join(traceback.format_exception(error))
