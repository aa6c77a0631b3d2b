"""Trains a population: the one place with side effects."""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn

import jax
import numpy as np

from jepbt import plots
from jepbt.arguments import accepts
from jepbt.checkpoints import Keeper
from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.engine import RunState
from jepbt.engine.debugging import Watch
from jepbt.engine.generation import generation
from jepbt.engine.processes import agree
from jepbt.engine.programs import copy
from jepbt.engine.state import Spec
from jepbt.engine.switches import own_rules
from jepbt.optional import optional
from jepbt.results import Generation, make_generation
from jepbt.strategies import Strategy
from jepbt.tasks import Task
from jepbt.training.interruption import Interrupted, listen
from jepbt.training.lost_process import told_if_lost
from jepbt.training.observers import (
    Callback,
    call,
    is_extinct,
    log,
    logger,
    stop_at_failure,
    write_best,
)
from jepbt.training.preparation import Prepared, prepare
from jepbt.training.progress import progress_bar
from jepbt.training.result import Result
from jepbt.training.run import Run


def train_population(
    task: Task,
    *,
    strategy: str | Strategy = "epbt",
    config: Config | None = None,
    initial: Any = None,
    devices: str | Sequence[jax.Device] | None = None,
    callbacks: Sequence[Callback] = (),
    **fields: Any,
) -> Result:
    """Trains a population of networks and evolves it while it trains.

    A member whose loss, fitness or weights (`params` of its state) are nan or inf has
    failed: it is counted in the history with the hyperparameters that it trained with,
    and is never copied. What a run must hold of memory is
    checked before it compiles, what its programs reserve after.
    `Config` says when two runs give the same bits.

    Args:
        task: the task to learn, from `classification` or a `Task` of your own.
        strategy: a name, such as "epbt" or "pbt", or one from `jepbt.strategies`.
        config: the run's settings; the defaults of `Config` if left out.
        initial: weights that every member starts from (a state's `params`), or an
            earlier `Result` whose last population goes on, of another size too; `None`
            starts from the task's `init`.
        devices: a platform's name or a list of devices; all that JAX has if left out.
        callbacks: each is called with every `Generation`. An error in one ends the run,
            after everything has been saved; with `jepbt.may_fail(callback)` the run
            goes on without it.
        **fields: settings of `Config`, over those of `config`: `population_size=32`,
            `num_generations=20`, `steps_per_generation=100`, `seed=0`, ...

    Returns:
        The `Result`: the best network by validation, the last population, the history.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if a value is not allowed; the message names it. Both come before
            anything compiles.
        RuntimeError: if no member ever had a finite fitness; in a forked process whose
            parent has used JAX; or, as `LostProcess`, if another process of the run
            was lost.
        Interrupted: on Ctrl-C or SIGTERM, after the generation in flight, even if it
            is the last; its `.result` is what there is.

    Warns:
        RuntimeWarning: if something fails that the result does not depend on (a file, a
            figure, the progress bar, a cache): the run goes on, and the warning says
            what is missing.

    Example:
        >>> from dataclasses import dataclass
        >>> import numpy as np, optax
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     learning_rate: float = jepbt.hparam(0.1, min=1e-3, max=1.0, log=True)
        >>> images = np.random.default_rng(0).normal(size=(200, 5)).astype(np.float32)
        >>> task = jepbt.classification(
        ...     (images, (images[:, 0] > 0).astype(int)),
        ...     hparams=Hyper,
        ...     model=jepbt.models.MLP(num_classes=2, hidden=(8,)),
        ...     loss=lambda h: jepbt.losses.cross_entropy,
        ...     optimizer=lambda h: optax.sgd(h.learning_rate),
        ... )
        >>> result = jepbt.train_population(
        ...     task, population_size=4, num_generations=3, steps_per_generation=20,
        ...     progress=False,
        ... )
        >>> result.history.fitness.shape, result.best.fitness.mean > 0.8
        ((3, 4), True)

    Reference:
        Liang et al., "Regularized Evolutionary Population-Based Training", 2021,
        https://arxiv.org/abs/2002.04225
    """
    callbacks = tuple(callbacks) if isinstance(callbacks, Iterable) else callbacks
    if not isinstance(callbacks, tuple) or not all(
        callable(callback) and accepts(callback, None) for callback in callbacks
    ):
        raise TypeError(
            f"callbacks={callbacks!r} must be a list of functions of a Generation, "
            "such as [print]."
        )
    with told_if_lost("resume=True with the same run_dir goes on."):
        prepared = prepare(
            task,
            strategy=strategy,
            config=config,
            devices=devices,
            initial=initial,
            early=True,
            **fields,
        )
        return execute(prepared, callbacks)


def execute(prepared: Prepared, callbacks: Sequence[Callback] = ()) -> Result:
    """Runs what `prepare` made, generation by generation: see `train_population`."""
    spec = Spec(prepared.task, prepared.strategy, prepared.config)
    watch = Watch(spec, prepared.inputs)
    with own_rules():
        return _execute(prepared, callbacks, watch)


def _execute(prepared: Prepared, callbacks: Sequence[Callback], watch: Watch) -> Result:
    config = prepared.config
    logger.setLevel(config.log_level.upper())
    deadline = time.monotonic() + (config.max_seconds or float("inf"))
    run = Run(prepared.task, config, prepared.folder)
    keeper = Keeper(prepared.held, config)
    error = None
    with keeper, listen() as request, progress_bar(run) as show:
        state = _begin(prepared, run, keeper)
        show()
        reason = int(_is_reached(run))
        while not reason and len(run.history) < config.num_generations:
            numbers = _next_call(len(run.history), config, watch)
            state, reports = _run_call(prepared, numbers, state, watch)
            for report in reports:
                run.add(report)
                log(run)
            run.update_best(state.best, reports)
            write_best(run)
            show()
            keeper.keep(state, reports)
            error = call(callbacks, reports)
            watch.look(
                run.last.number, np.flatnonzero(np.isnan(run.last.fitness)).tolist()
            )
            stop_at_failure(run)
            if is_extinct(run):
                break
            is_over = _is_reached(run) or time.monotonic() > deadline
            # Several processes stop together, whichever of them has a reason.
            own_reason = request.signal_number or int(is_over)
            reason = agree(own_reason if error is None else _FAILED)
        keeper.finish(state, run.last)
        # It may have come as late as while the end was being saved.
        signal_number = agree(request.signal_number)
    result = run.result(
        state.population,
        lambda slots: jax.device_get(prepared.programs.pick(state.population, slots)),
        keeper.first,
        {"compile": prepared.compile_seconds},
    )
    if run.run_dir is not None:
        write_best(run, is_last=True)  # or what a disk refused that was full
        with optional(f"{run.run_dir / 'figures'} lacks fitness.png"):
            run_directory.save_figure(run.run_dir, plots.fitness(run.history))
    if error is not None:
        _hand_over(error, result)
    if reason == _FAILED:
        raise RuntimeError("a callback failed in another process, which stops the run.")
    if signal_number:
        raise Interrupted(result, signal_number)
    return result


def _next_call(first: int, config: Config, watch: Watch) -> range:
    """Lists the generations of the next call: the run's first has one of its own."""
    is_alone = first == 0 or watch.is_on
    count = 1 if is_alone else config.generations_per_call
    return range(first, min(first + count, config.num_generations))


def _run_call(
    prepared: Prepared, numbers: range, state: RunState, watch: Watch
) -> tuple[RunState, list[Generation]]:
    """Runs generations without a look between them, and fetches what they report.

    Of several generations only the whole time is measured, because to wait is what they
    save: each has an equal part of it, as training's.
    """
    seconds = dict.fromkeys(("evolve", "train", "evaluate"), 0.0)
    records, last = [], time.perf_counter()

    def lap(name: str, tree: Any) -> None:
        nonlocal last
        if len(numbers) > 1:
            return
        # Waiting here also lets Python handle signals between two programs.
        jax.block_until_ready(tree)
        if name == "evolve":
            watch.remember(tree.population)  # which is to be trained
        now = time.perf_counter()
        seconds[name] = now - last
        last = now

    for number in numbers:
        state, record = generation(
            prepared.programs,
            prepared.inputs,
            np.int32(number),
            state,
            evolves=number > 0,
            lap=lap,
        )
        # The next generation overwrites the state, whose arrays the record shares.
        records.append(record if number == numbers[-1] else copy(record))
    records = jax.device_get(records)
    if len(numbers) > 1:
        seconds["train"] = (time.perf_counter() - last) / len(numbers)
    both = zip(numbers, records, strict=True)
    return state, [make_generation(*each, seconds) for each in both]


_FAILED = 1000
"""Stands for a callback's error, beyond all numbers of signals: the first reason."""


def _begin(prepared: Prepared, run: Run, keeper: Keeper) -> RunState:
    """Takes up the run where its newest checkpoint left it, or starts a new one."""
    state, before = keeper.find(prepared.programs)
    if state is None:
        return prepared.start(prepared.programs.init(prepared.inputs))
    run.history.generations.extend(before)
    run.take_best(state.best)
    write_best(run)
    return state


def _is_reached(run: Run) -> bool:
    target, best = run.config.target_fitness, run.best
    return target is not None and best is not None and best.fitness.mean >= target


def _hand_over(error: Exception | SystemExit, result: Result) -> NoReturn:
    """Raises a callback's error with what was trained until then."""
    error.result = result
    go_on = "; resume=True with the same run_dir goes on" if result.run_dir else ""
    error.add_note(
        f"A callback raised this after {len(result.history)} generations; what was "
        f"trained is in the error's `.result`{go_on}."
    )
    raise error
