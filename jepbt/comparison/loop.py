"""Runs a comparison, arm by arm at each seed, and reports it."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager

import numpy as np

from jepbt.comparison.arms import Arm, Entrant, check_same_data, describe_spaces
from jepbt.comparison.plan import BIASED, Plan, is_classification
from jepbt.comparison.report import Comparison, Cost
from jepbt.comparison.runs import Compiled, Outcome, compile_arm, run_arm, serves
from jepbt.optional import warn
from jepbt.training import Interrupted
from jepbt.training.progress import Draw, open_bar


def run_comparison(
    plan: Plan, observe: Callable[[Outcome], None] = lambda outcome: None
) -> Comparison:
    """Runs what is missing of a comparison, and reports it: see `compare`.

    Args:
        plan: the comparison that `plan_comparison` has checked.
        observe: a function that gets each run that has finished.
    """
    compiled: dict[str, Compiled] = {}
    try:
        with _open_bar(plan) as draw:
            for seed in plan.seeds:
                wanted = {name for name, number in plan.missing if number == seed}
                if not wanted:
                    continue
                arms = {entrant.name: entrant.at(seed) for entrant in plan.entrants}
                check_same_data(arms, seed)
                for entrant in plan.entrants:
                    if entrant.name in wanted:
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
    name, seconds = entrant.name, 0.0
    draw(lambda bar: bar.set_description_str(f"{name}, seed {seed}"))
    is_first = name not in compiled
    if is_first or not serves(compiled[name], arm, entrant):
        if not is_first:
            warn(
                f"compare: arm {name!r} computes something else at seed {seed} than at "
                "the seed before, and is compiled anew. Its functions, not only its "
                "data, depend on the seed: a constant, such as class counts or the "
                "mean of the pixels, is part of the program. Task.shared is not."
            )
        programs = compile_arm(entrant, arm, seed, plan.devices, post_hoc=plan.post_hoc)
        compiled[name] = programs
        seconds = programs.prepared.compile_seconds
    outcome = run_arm(
        compiled[name],
        entrant,
        arm,
        seed,
        lambda report: draw(lambda bar: bar.update()),
        post_hoc=plan.post_hoc,
    )
    return dataclasses.replace(outcome, compile_seconds=seconds)


def _open_bar(plan: Plan) -> AbstractContextManager[Draw]:
    """Opens a bar over the generations of all runs, with the time that is left."""
    per_run = plan.config.num_generations
    total = len(plan.seeds) * len(plan.entrants) * per_run
    done = total - len(plan.missing) * per_run
    end = " {elapsed}, {remaining} left  {desc}"
    return open_bar(plan.config.progress, total, end, done)


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
    data = first.first.task.data
    return Comparison(
        names=tuple(scores),
        seeds=np.array(plan.seeds, np.int64),
        scores=np.array(list(scores.values()), np.float64),
        validation=np.array(list(fitness.values()), np.float64),
        control=plan.control,
        primary=plan.primary,
        split="validation" if data is None or data.test is None else "test",
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
    data = plan.entrants[0].first.task.data
    if data is None or data.test is None:
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
