"""Runs an arm at one seed after another, in the programs compiled for its first."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping
from typing import Any

import jax
import numpy as np

from jepbt.comparison.arms import Arm, Entrant
from jepbt.comparison.biases import biased_accuracy, tune_biases
from jepbt.datasets.dataset import classes_of
from jepbt.engine.evaluation import map_batches, mean_score
from jepbt.engine.member import trace_member, trace_task
from jepbt.engine.programs import place_inputs
from jepbt.engine.switches import own_rules
from jepbt.hyperparameters import decode, encode
from jepbt.population import EVALUATE, derive_key
from jepbt.strategies import resolve_strategy
from jepbt.tasks import Task
from jepbt.training import Callback, Prepared, Result, execute, prepare


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What an arm reached at one seed.

    Attributes:
        arm: the arm's name.
        seed: the seed.
        score: the winner's on the test split; on validation data if there is none.
        validation: the winner's fitness, by which it was chosen.
        biased: its accuracy on the test split once a bias for each class has been tuned
            on validation data; `nan` unless asked for.
        num_generations: the generations that it took; fewer than planned if all members
            failed.
        seconds: the time of evolving, training and evaluating.
        compile_seconds: the time of compiling, if this was the programs' first seed.
    """

    arm: str
    seed: int
    score: float
    validation: float
    biased: float
    num_generations: int
    seconds: float
    compile_seconds: float


@dataclasses.dataclass(frozen=True, eq=False)
class Compiled:
    """An arm's programs.

    Attributes:
        arm: the arm at the seed that they were compiled for.
        prepared: the run without its inputs, which come with each seed.
        score: the program that scores a winner: see `_make_scorer`.
        fingerprints: the hashes of what they compute, once they have been needed, of
            the task alone (`True`) and with the strategy's.
    """

    arm: Arm
    prepared: Prepared
    score: Callable[..., Any]
    fingerprints: dict[bool, Mapping[str, str]]


def compile_arm(
    entrant: Entrant, arm: Arm, seed: int, devices: Any, *, post_hoc: bool
) -> Compiled:
    """Compiles an arm, for all seeds at which it computes the same."""
    config = dataclasses.replace(entrant.config, seed=seed)
    prepared = prepare(
        arm.task,
        strategy=arm.strategy,
        config=config,
        devices=devices,
        traced=entrant.member if arm is entrant.first else None,
    )
    prepared = dataclasses.replace(prepared, inputs=None)
    score = _make_scorer(arm.task, config.num_generations, post_hoc)
    return Compiled(arm, prepared, score, {})


@own_rules()
def serves(compiled: Compiled, arm: Arm, entrant: Entrant) -> bool:
    """Tells whether programs compute what an arm does at another seed.

    Data are inputs of the programs, and may be others. What a function has closed over,
    such as class counts that a loss was built with, is a constant in them.
    """
    first, known = compiled.arm, compiled.fingerprints
    if arm.task is first.task and arm.strategy == first.strategy:
        return True
    is_same = arm.strategy == first.strategy and arm.task.hparams is first.task.hparams
    # To trace and lower a strategy takes longer than all the rest.
    hashes = _hash_task if is_same else _hash_all
    if is_same not in known:
        known[is_same] = hashes(first, entrant)
    return hashes(arm, entrant) == known[is_same]


def _hash_task(arm: Arm, entrant: Entrant) -> Mapping[str, str]:
    if arm is entrant.first:
        return dataclasses.replace(entrant.member, strategy=()).fingerprint()
    return trace_task(arm.task, entrant.config).fingerprint()


def _hash_all(arm: Arm, entrant: Entrant) -> Mapping[str, str]:
    strategy = resolve_strategy(arm.strategy)
    return trace_member(arm.task, strategy, entrant.config).fingerprint()


def run_arm(
    compiled: Compiled,
    entrant: Entrant,
    arm: Arm,
    seed: int,
    callback: Callback,
) -> Outcome:
    """Trains an arm at a seed, and reads its test split once."""
    task, first = arm.task, compiled.prepared
    with own_rules():
        inputs = place_inputs(task, seed, first.mesh)
    prepared = dataclasses.replace(
        first,
        task=dataclasses.replace(first.task, data=task.data, shared=task.shared),
        config=dataclasses.replace(entrant.config, seed=seed),
        inputs=inputs,
    )
    try:
        result = execute(prepared, [callback])
    except RuntimeError as error:
        error.add_note(f"This was arm {entrant.name!r} at seed {seed}.")
        raise
    score, biased = _score(compiled, result)
    seconds = {k: v for k, v in result.seconds.items() if k != "compile"}
    is_first = seed == first.config.seed
    return Outcome(
        arm=entrant.name,
        seed=seed,
        score=score,
        validation=result.best.fitness.mean,
        biased=biased,
        num_generations=len(result.history),
        seconds=sum(seconds.values()),
        compile_seconds=first.compile_seconds if is_first else 0.0,
    )


@own_rules()
def _score(compiled: Compiled, result: Result) -> tuple[float, float]:
    """Scores the winner, plain and with biases for its classes."""
    task, seed = result.task, result.config.seed
    if split_of_scores(task) == "validation":
        return result.best.fitness.mean, math.nan
    platform = compiled.prepared.mesh.devices.flat[0].platform
    device = jax.local_devices(backend=platform)[0]
    member = result.best.state, encode(result.best.hparams)

    def read(rows):
        args = jax.device_put((member, rows, task.shared), device)
        return jax.device_get(compiled.score(np.uint32(seed), *args))

    score, predictions = read(task.data.test)
    if predictions is None:
        return float(score), math.nan
    _, tuned_on = read(task.data.validation)
    biases = tune_biases(tuned_on, classes_of(task.data.validation["label"]))
    labels = classes_of(task.data.test["label"])
    return float(score), biased_accuracy(predictions, labels, biases)


def split_of_scores(task: Task) -> str:
    """Names the split that winners are scored on: "validation" without a test split."""
    return "validation" if task.data is None or task.data.test is None else "test"


def _make_scorer(task: Task, number: int, predicts: bool) -> Callable[..., Any]:
    """Compiles `(seed, member, rows, shared) -> (score f32[], predictions)`."""

    def score(seed, member, rows, shared):
        state, hparams = member
        key = derive_key(jax.random.key(seed), EVALUATE, number)
        values = decode(hparams)
        mean, _ = mean_score(task, key, state, values, rows, shared)
        if not predicts:
            return mean, None

        def predict(batch):
            return task.blend.predict(key, state, values, batch)

        return mean, map_batches(predict, rows, state)

    return jax.jit(score)
