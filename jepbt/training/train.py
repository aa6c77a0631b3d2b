"""`train_population`: the one place with side effects."""

from __future__ import annotations

import dataclasses
import logging
import sys
import time
from collections.abc import Callable, Iterable, Sequence
from typing import Any

import jax
import numpy as np
from tqdm.auto import tqdm

from jepbt import plots
from jepbt.arguments import accepts
from jepbt.checkpoints import Keeper
from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.engine import Best, RunState, make_record
from jepbt.engine.evaluation import score
from jepbt.engine.processes import agree
from jepbt.engine.programs import Programs
from jepbt.hyperparameters import decode, encode, spaces, to_python
from jepbt.population import EVALUATE, Member, derive_key, take
from jepbt.results import (
    Generation,
    History,
    Recorded,
    Score,
    describe,
    make_generation,
)
from jepbt.strategies import Strategy
from jepbt.tasks import Task
from jepbt.training.interruption import Interrupted, listen
from jepbt.training.observers import (
    Callback,
    _call,
    _check_parents,
    _hand_over,
    _hides_progress,
    _report_extinction,
    _show,
    _stop_at_failure,
    _winners_files,
)
from jepbt.training.preparation import Prepared, prepare
from jepbt.training.result import Result, Winner

logger = logging.getLogger("jepbt")


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
        task: what to learn, from `classification` or a `Task` of your own.
        strategy: a name, such as "epbt" or "pbt", or one from `jepbt.strategies`.
        config: the run's settings; the defaults of `Config` if left out.
        initial: weights that every member starts from (a state's `params`), or an
            earlier `Result` whose last population goes on, of another size too; `None`
            starts from the task's `init`.
        devices: a platform's name or a list of devices; all that JAX has if left out.
        callbacks: each is called with every `Generation`.
        **fields: of `Config`, over those of `config`: `population_size=32`,
            `num_generations=20`, `steps_per_generation=100`, `seed=0`, ...

    Returns:
        The `Result`: the best network by validation, the last population, the history.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if a value is not allowed; the message names it. Both come before
            anything compiles.
        RuntimeError: if no member ever had a finite fitness.
        Interrupted: on Ctrl-C or SIGTERM, after the generation in flight, even if it
            is the last; its `.result` is what there is.

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
    prepared = prepare(
        task,
        strategy=strategy,
        config=config,
        devices=devices,
        initial=initial,
        **fields,
    )
    return execute(prepared, callbacks)


def execute(prepared: Prepared, callbacks: Sequence[Callback] = ()) -> Result:
    """Runs what `prepare` made, generation by generation: see `train_population`."""
    config, programs, inputs = prepared.config, prepared.programs, prepared.inputs
    logger.setLevel(config.log_level.upper())
    deadline = time.monotonic() + (config.max_seconds or float("inf"))
    history = History()
    take_away = _recorded(prepared, history)
    keeper = Keeper(prepared.held, config)
    parents, info = np.arange(config.population_size, dtype=np.int32), {}
    best = error = None
    stop = 0
    with (
        keeper,
        listen() as request,
        tqdm(
            total=config.num_generations,
            disable=_hides_progress(config),
            # A notebook draws the bar itself, in place of a plain {bar}.
            bar_format="{n_fmt}/{total_fmt} "
            + ("{bar:20}" if sys.stderr.isatty() else "{bar}")
            + " {elapsed}  {desc}",
            ascii=" =",
        ) as bar,
    ):
        state, before = keeper.find(programs)
        if state is None:
            state = programs.init(inputs)
            if prepared.start is not None:
                state = prepared.start(state)
        else:
            history.generations.extend(before)
            bar.update(len(before))
            best = _as_winner(jax.device_get(state.best))
            if prepared.folder is not None:
                for write, content in _winners_files(best, take_away):
                    run_directory.write_safely(write, prepared.folder, content)
        is_over = _is_reached(config.target_fitness, best)
        for number in range(len(history), 0 if is_over else config.num_generations):
            generation = np.int32(number)
            clock = _Clock()
            if number > 0:
                state, plan = programs.evolve(inputs, generation, state)
                parents, info = plan.parents, plan.info
            clock.lap("evolve", state)
            state, metrics = programs.train(inputs, generation, state)
            if prepared.held is not None:  # while the devices are busy
                prepared.held.complete(prepared.identify)
            clock.lap("train", state)
            state = programs.evaluate(inputs, generation, metrics, state)
            clock.lap("evaluate", state)
            record = jax.device_get(make_record(state, metrics, parents, info))
            report = make_generation(number, record, clock.seconds)
            if history.generations:
                _check_parents(report, history.generations[-1])
            history.generations.append(report)
            if (
                best is None
                or np.nanmax([*report.fitness, -np.inf]) > best.fitness.mean
            ):
                best = _as_winner(jax.device_get(state.best))
                if prepared.folder is not None and best is not None:
                    for write, content in _winners_files(best, take_away):
                        run_directory.write_safely(write, prepared.folder, content)
            if prepared.folder is not None:
                run_directory.write_safely(
                    run_directory.append_history, prepared.folder, report
                )
            if not bar.disable:
                _show(bar, prepared, history, best)
            logger.info(
                "generation %d/%d  %s",
                number + 1,
                config.num_generations,
                describe(report),
            )
            keeper.keep(state, record, report)
            error = _call(callbacks, report)
            if config.debug and report.num_failed:
                _stop_at_failure(report)
            if report.num_failed == config.population_size:
                _report_extinction(report, best)
                break
            is_over = time.monotonic() > deadline or _is_reached(
                config.target_fitness, best
            )
            # Several processes stop together, whichever of them has a reason.
            stop = agree(
                _FAILED if error is not None else request.signal_number or is_over
            )
            if stop:
                break
        keeper.finish(state)
        # It may have come as late as while the end was being saved.
        signal_number = agree(request.signal_number or 0)
    result = _make_result(prepared, programs, state, best, keeper.first, history)
    if prepared.folder is not None:
        axes = plots.fitness(history)
        run_directory.write_safely(run_directory.save_figure, prepared.folder, axes)
    if error is not None:
        _hand_over(error, result)
    if stop == _FAILED:
        raise RuntimeError("a callback failed in another process, which stops the run.")
    if signal_number:
        raise Interrupted(result, signal_number)
    return result


_FAILED = 1000
"""Beyond all numbers of signals: the strongest reason to stop."""


def _make_result(
    prepared: Prepared,
    programs: Programs,
    state: RunState,
    best: Winner | None,
    first: Best,
    history: History,
) -> Result:
    final_best, median = _pick(programs, state, history.generations[-1])
    spent = {
        phase: sum(report.seconds[phase] for report in history.generations)
        for phase in ("evolve", "train", "evaluate")
    }
    return Result(
        best=best,
        final_best=final_best or best,
        median=median or best,
        first_best=_as_winner(first) or best,
        history=history,
        population=state.population,
        task=prepared.task,
        config=prepared.config,
        seconds={"compile": prepared.compile_seconds, **spent},
        run_dir=prepared.folder,
        score_on_test=_make_test_scorer(prepared),
    )


def _recorded(prepared: Prepared, history: History) -> Recorded:
    """The run as its files will know it; grows with the history."""
    settings = {
        **prepared.task.about,
        "config": dataclasses.asdict(prepared.config),
        "batch_size": prepared.config.batch_size or prepared.task.batch_size,
    }
    return Recorded(history, spaces(prepared.task.hparams), settings, prepared.folder)


class _Clock:
    """Seconds by phase; waits for the devices, so that each phase pays for itself."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str, tree: Any) -> None:
        # Waiting here also lets Python handle signals between two programs.
        jax.block_until_ready(tree)
        now = time.perf_counter()
        self.seconds[name] = now - self._last
        self._last = now


def _as_winner(best: Best) -> Winner | None:
    if best.slot < 0:
        return None
    return _make_winner(
        best.member, best.standard_error, int(best.generation), int(best.slot)
    )


def _make_winner(member: Member, standard_error, generation: int, slot: int) -> Winner:
    return Winner(
        state=member.state,
        hparams=to_python(member.hparams),
        fitness=Score(float(member.fitness), float(standard_error)),
        generation=generation,
        slot=slot,
    )


def _pick(programs: Programs, state: RunState, last: Generation):
    """Fetches the last generation's best and its median member, if any lives."""
    ranked = np.argsort(-last.fitness, kind="stable")[
        : last.fitness.size - last.num_failed
    ]
    if not ranked.size:
        return None, None
    slots = np.array([ranked[0], ranked[ranked.size // 2]], np.int32)
    picked = jax.device_get(programs.pick(state.population, slots))
    return tuple(
        _make_winner(take(picked, i), last.standard_error[slot], last.number, int(slot))
        for i, slot in enumerate(slots)
    )


def _is_reached(target: float | None, best: Winner | None) -> bool:
    return target is not None and best is not None and best.fitness.mean >= target


def _make_test_scorer(prepared: Prepared) -> Callable[[Sequence[Winner]], list[Score]]:
    def score_on_test(winners):
        task = prepared.task
        device = jax.local_devices(backend=prepared.mesh.devices.flat[0].platform)[0]
        key = jax.random.key(prepared.config.seed)
        members = [(winner.state, encode(winner.hparams)) for winner in winners]
        stacked = jax.tree.map(lambda *leaves: np.stack(leaves), *members)

        def run(key, stacked, rows, shared):
            key = derive_key(key, EVALUATE, prepared.config.num_generations)
            return jax.lax.map(
                lambda member: score(
                    task, key, member[0], decode(member[1]), rows, shared
                ),
                stacked,
            )

        args = jax.device_put((key, stacked, task.data.test, task.shared), device)
        means, errors = jax.device_get(jax.jit(run)(*args))
        return [Score(float(m), float(e)) for m, e in zip(means, errors, strict=True)]

    return score_on_test
