"""Compares arms over seeds at equal cost: the one question of population training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from jepbt.comparison.arms import (
    Arm,
    Entrant,
    Source,
    check_same_data,
    describe_spaces,
)
from jepbt.comparison.plan import BIASED, Plan, is_classification, plan_comparison
from jepbt.comparison.report import Comparison, Cost
from jepbt.comparison.runs import (
    Compiled,
    Outcome,
    compile_arm,
    run_arm,
    serves,
    split_of_scores,
)
from jepbt.config import Config
from jepbt.optional import warn
from jepbt.training import Interrupted
from jepbt.training.progress import Draw, open_bar


def compare(
    arms: Mapping[str, Source],
    *,
    seeds: int | Sequence[int] = 20,
    control: str | None = None,
    primary: str | None = None,
    post_hoc: bool = False,
    config: Config | None = None,
    devices: str | Sequence[jax.Device] | None = None,
    **fields: Any,
) -> Comparison:
    """Trains each arm once a seed, and tells whether it helped, at equal cost.

    At each seed all arms have the same examples, initial weights, batches and, if their
    hyperparameters are of one class, the same first hyperparameters: these follow from
    the seed. Every run hands over its best member by validation, whose test score is
    read once. Each arm is compiled once for all seeds. One whose functions, not only
    its data, depend on the seed is compiled anew where they do, with a warning.

    Name the control, and the one comparison that you will claim, before you look: the
    primary arm's p stands as it is, all others are corrected by Holm's method.

    Args:
        arms: `(task, strategy)` by name, or a `jepbt.Arm`; for data that differ by
            seed (noise, splits) a function of the seed that returns one, of the same
            shapes.
        seeds: the number of seeds, from 0 on, or the seeds themselves. Take others than
            those that settings were tuned on.
        control: the arm that the others are compared with; the first if left out.
        primary: the arm whose difference is the claim; the only other one if there are
            two arms, otherwise none if left out.
        post_hoc: True adds for each arm what biases of the classes, tuned on validation
            data after training, make of its winners: a control that costs nothing.
        config: the settings of every run; the defaults of `Config` if left out.
        devices: a platform's name or a list of devices; all that JAX has if left out.
        **fields: settings of `Config`, over those of `config`. With `run_dir` each
            finished run is kept there, and `resume=True` goes on with those that are
            missing, also for more seeds than before.

    Returns:
        The `Comparison`; printed, it is a table with a forest plot.

    Raises:
        TypeError: if an argument is of no allowed kind.
        ValueError: if arms cannot be compared: they differ in data, batch size or cost;
            the message says how, and comes before anything compiles.
        RuntimeError: if no member of a run ever had a finite fitness.
        Interrupted: on Ctrl-C or SIGTERM, after the generation in flight.

    Example:
        Do learning rates above 0.01 help?

        >>> from dataclasses import dataclass
        >>> import jax.numpy as jnp
        >>> import jepbt
        >>> @dataclass
        ... class Hyper(jepbt.HyperParameters):
        ...     rate: float = jepbt.hparam(0.01, min=1e-3, max=0.5, log=True)
        >>> def descend(limit):
        ...     return jepbt.Task(
        ...         hparams=Hyper,
        ...         init=lambda key, h: jax.random.normal(key),
        ...         train_step=lambda key, x, h, batch, shared: (
        ...             x - jnp.minimum(h.rate, limit) * 2 * x, {"loss": x**2}
        ...         ),
        ...         evaluate=lambda key, x, h, batch, shared: -(x**2)[None],
        ...     )
        >>> comparison = compare(
        ...     {"low": descend(0.01), "high": descend(0.5)}, seeds=3, progress=False,
        ...     population_size=4, num_generations=3, steps_per_generation=5,
        ... )
        >>> low, high = comparison.scores  # of three seeds each
        >>> bool((high > low).all())
        True

    Reference:
        Bouthillier et al., "Accounting for Variance in Machine Learning Benchmarks",
        2021, https://arxiv.org/abs/2103.03098
    """
    plan = plan_comparison(
        arms,
        seeds=seeds,
        control=control,
        primary=primary,
        post_hoc=post_hoc,
        config=config,
        devices=devices,
        **fields,
    )
    return run_comparison(plan)


def run_comparison(
    plan: Plan, observe: Callable[[Outcome], None] = lambda outcome: None
) -> Comparison:
    """Runs what is missing of a comparison, and reports it: see `compare`.

    Args:
        plan: the comparison that `plan_comparison` has checked.
        observe: a function that gets each run that has finished.
    """
    compiled: dict[str, Compiled] = {}
    config, missing = plan.config, set(plan.missing)
    total = len(plan.seeds) * len(plan.entrants) * config.num_generations
    done = total - len(missing) * config.num_generations
    end = " {elapsed}, {remaining} left  {desc}"
    try:
        with open_bar(config.progress, total, end, done) as draw:
            for seed in plan.seeds:
                wanted = [e for e in plan.entrants if (e.name, seed) in missing]
                if not wanted:
                    continue
                arms = {entrant.name: entrant.at(seed) for entrant in plan.entrants}
                check_same_data(arms, seed)
                for entrant in wanted:
                    arm = arms[entrant.name]
                    outcome = _run(plan, entrant, arm, seed, compiled, draw)
                    plan.record.add(outcome)
                    observe(outcome)
    except Interrupted as stop:
        stop.add_note(describe_rest(plan))
        raise
    finally:
        plan.record.release()
    return _report(plan)


def describe_rest(plan: Plan) -> str:
    """Says how far a comparison has come, and how it goes on."""
    total = len(plan.seeds) * len(plan.entrants)
    done = f"{total - len(plan.missing)} of {total} runs of the comparison are finished"
    if plan.record.folder is None:
        return f"{done}; with run_dir they would have been kept."
    return f"{done} and kept; resume=True with the same run_dir does the others."


def _run(
    plan: Plan,
    entrant: Entrant,
    arm: Arm,
    seed: int,
    compiled: dict[str, Compiled],
    draw: Draw,
) -> Outcome:
    """Runs an arm at a seed, and compiles it if no program does what it does."""
    name = entrant.name
    draw(lambda bar: bar.set_description_str(f"{name}, seed {seed}"))
    if name in compiled and not serves(compiled[name], arm, entrant):
        warn(
            f"compare: arm {name!r} computes something else at seed {seed} than at the "
            "seed before, and is compiled anew. Its functions, not only its data, "
            "depend on the seed: a constant, such as class counts or the mean of the "
            "pixels, is part of the program. Task.shared is not."
        )
        del compiled[name]
    if name not in compiled:
        compiled[name] = compile_arm(
            entrant, arm, seed, plan.devices, post_hoc=plan.post_hoc
        )
    return run_arm(
        compiled[name],
        entrant,
        arm,
        seed,
        lambda report: draw(lambda bar: bar.update()),
    )


def _report(plan: Plan) -> Comparison:
    outcomes = plan.record.outcomes
    by_arm = {
        entrant.name: [outcomes[entrant.name, seed] for seed in plan.seeds]
        for entrant in plan.entrants
    }
    scores = {name: [o.score for o in each] for name, each in by_arm.items()}
    fitness = {name: [o.validation for o in each] for name, each in by_arm.items()}
    if plan.post_hoc:
        for name, each in by_arm.items():
            scores[name + BIASED] = [o.biased for o in each]
            fitness[name + BIASED] = fitness[name]
    config, first = plan.config, plan.entrants[0]
    return Comparison(
        names=tuple(scores),
        seeds=np.array(plan.seeds, np.int64),
        scores=np.array(list(scores.values()), np.float64),
        validation=np.array(list(fitness.values()), np.float64),
        control=plan.control,
        primary=plan.primary,
        split=split_of_scores(first.first.task),
        is_accuracy=all(is_classification(e.first.task) for e in plan.entrants),
        settings={
            "population_size": config.population_size,
            "num_generations": config.num_generations,
            "steps_per_generation": config.steps_per_generation,
            "batch_size": first.config.batch_size,
        },
        costs=_costs(plan, by_arm),
        notes=tuple(_notes(plan, by_arm)),
    )


def _costs(plan: Plan, by_arm: Mapping[str, Sequence[Outcome]]) -> dict[str, Cost]:
    """Computes what a run of each arm costs.

    The compiler counts a branch that is rarely taken as if it were taken always: the
    cost of a step that was declared counts instead.
    """
    plain = [e.member.step_flops for e in plan.entrants if e.first.step_cost is None]
    costs = {}
    for entrant in plan.entrants:
        config, declared = entrant.config, entrant.first.step_cost
        step_flops = entrant.member.step_flops
        if declared is not None and plain:
            step_flops = declared * min(plain)
        num_steps = config.num_generations * config.steps_per_generation
        each = by_arm[entrant.name]
        costs[entrant.name] = Cost(
            num_steps,
            declared or 1.0,
            config.population_size * num_steps * step_flops,
            float(np.mean([outcome.seconds for outcome in each])),
            sum(outcome.compile_seconds for outcome in each),
        )
    return costs


def _notes(plan: Plan, by_arm: Mapping[str, Sequence[Outcome]]) -> list[str]:
    notes = describe_spaces(plan.entrants)
    if split_of_scores(plan.entrants[0].first.task) == "validation":
        notes.append(
            "the tasks have no test split: scores are the winners' fitness, which they "
            "were chosen by, and flatter all arms"
        )
    for entrant in plan.entrants:
        cost = entrant.first.step_cost
        if cost is not None:
            notes.append(
                f"a step of {entrant.name} costs {cost:g} others by declaration: it "
                f"takes {entrant.config.steps_per_generation} steps a generation where "
                f"others take {plan.config.steps_per_generation}"
            )
        if entrant.member.step_flops == 0:
            notes.append(f"the FLOPs of {entrant.name} are unknown and unchecked")
    for name, each in by_arm.items():
        short = [
            o.seed for o in each if o.num_generations < plan.config.num_generations
        ]
        if short:
            notes.append(f"all members of {name} failed in the end at seeds {short}")
    return notes
