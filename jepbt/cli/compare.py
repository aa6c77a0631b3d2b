"""`jepbt compare`: losses and strategies over the same seeds, at equal cost."""

import argparse
import dataclasses
import functools
import pathlib
import sys
from collections.abc import Callable
from typing import Any, TypeAlias

import jepbt
from jepbt import config as configs
from jepbt import losses
from jepbt.arguments import check_whole
from jepbt.checkpoints import folder as run_directory
from jepbt.cli.flags import (
    add_data_flags,
    add_progress_flag,
    add_size_flags,
    make_task,
    read_names,
    resume_command,
    whole,
    with_noise,
)
from jepbt.cli.say import say, say_aside
from jepbt.cli.train import folder_of
from jepbt.comparison import (
    Comparison,
    Outcome,
    Plan,
    describe_rest,
    plan_comparison,
    run_comparison,
    step_cost,
)
from jepbt.datasets import Dataset
from jepbt.optional import optional
from jepbt.tasks import Adaptation, StandardHyperParameters
from jepbt.tasks.classification import standard_optimizer


@dataclasses.dataclass
class Hyper(StandardHyperParameters):
    """The hyperparameters of all arms, so that all start from the same ones.

    What an arm's loss does not read evolves without effect.
    """

    q: float = jepbt.hparam(0.7, min=0.05, max=1.0)
    smoothing: float = jepbt.hparam(0.1, min=0.0, max=0.5)
    meta_rate: float = jepbt.hparam(0.04, min=0.003, max=0.5, log=True)


EXPANSION = jepbt.taylorglo.CROSS_ENTROPY_EXPANSION
Loss: TypeAlias = Callable[[Hyper], losses.LossFn] | Adaptation
LOSSES: dict[str, Loss] = {
    "taylor": lambda h: losses.taylor(h.loss),
    "fixed": lambda h: losses.taylor(EXPANSION),
    "cross_entropy": lambda h: losses.cross_entropy,
    "gce": lambda h: losses.generalized_cross_entropy(h.q),
    "label_smoothing": lambda h: losses.label_smoothing(h.smoothing),
    "transition": jepbt.adapt(losses.confusion(), rate=lambda h: h.meta_rate),
    "offsets": jepbt.adapt(losses.confusion("offsets"), rate=lambda h: h.meta_rate),
}
STRATEGIES = ("random_search", "pbt", "successive_halving")
NAMES = (*LOSSES, *STRATEGIES)

TEXTS = {
    "help": "tell whether it helped: losses and strategies over seeds, at equal cost",
    "usage": "jepbt compare [flags]",
    "description": """\
Trains each arm once a seed, from the same weights and on the same batches, and reports
paired differences to a control, with intervals and tests.
""",
    "epilog": """\
example:
  Does a loss that changes help when 40 % of the training labels are wrong, each class
  mistaken for one other?

    jepbt compare --arms gce,fixed,taylor,transition --primary transition \\
        --label-noise 0.4 --label-noise-pattern pairs --seeds 5 --model mlp
""",
}


def add_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of `jepbt compare`."""
    add = command.add_argument_group("arms and seeds").add_argument
    add(
        "--arms",
        metavar="NAMES",
        default="fixed,taylor,cross_entropy,random_search",
        help="two or more of these, with commas between (default: %(default)s). "
        "Losses, under EPBT: taylor (evolves), fixed (what it starts from, held "
        "fixed), cross_entropy, gce and label_smoothing (whose number evolves), "
        "transition and offsets (which learn from validation labels what training "
        "labels confuse). Strategies, with the evolving loss: random_search, pbt, "
        "successive_halving",
    )
    add(
        "--control",
        metavar="ARM",
        help="the arm that the others are compared with; the first if left out",
    )
    add(
        "--primary",
        metavar="ARM",
        help="the arm whose difference is the claim; the p-values of all others are "
        "corrected for their number",
    )
    add(
        "--seeds",
        metavar="N",
        type=whole,
        default=5,
        help="the number of seeds, from --seed on (default: %(default)s)",
    )
    add(
        "--seed",
        metavar="N",
        type=whole,
        default=0,
        help="the first seed (default: %(default)s); take others than those that "
        "settings were tuned on",
    )
    add(
        "--post-hoc",
        action="store_true",
        help="add what a bias for each class, tuned on validation data after "
        "training, makes of each winner",
    )
    add_data_flags(command)
    add_size_flags(command.add_argument_group("each run").add_argument)
    add = command.add_argument_group("files and output").add_argument
    add(
        "--run-dir",
        metavar="FOLDER",
        help="the comparison's folder; the next of runs/0001, runs/0002, ... if left "
        "out",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the comparison in --run-dir; more --seeds may be asked for",
    )
    add_progress_flag(add)


_OF_CONFIG = ("population_size", "num_generations", "steps_per_generation")
_OF_CONFIG += ("batch_size", "run_dir", "resume", "progress")


def prepare(arguments: argparse.Namespace) -> Callable[[], None]:
    """Checks and announces a comparison, and returns the function that runs it."""
    config = jepbt.Config(**{name: getattr(arguments, name) for name in _OF_CONFIG})
    configs.check(config)
    check_whole("", "seeds", arguments.seeds, 1, 10**6)
    check_whole("", "seed", arguments.seed, 0, 2**32 - arguments.seeds)
    jepbt.use_all_cpu_cores()
    seeds = range(arguments.seed, arguments.seed + arguments.seeds)
    arms = _make_arms(arguments)
    with folder_of(config) as folder:
        plan = plan_comparison(
            arms,
            seeds=seeds,
            control=arguments.control,
            primary=arguments.primary,
            post_hoc=arguments.post_hoc,
            config=dataclasses.replace(config, run_dir=folder),
            devices=arguments.device,
        )
    go_on = resume_command(arguments, folder)
    _print_before(plan, folder, go_on)
    return functools.partial(_run, plan, folder, go_on)


def _make_arms(arguments: argparse.Namespace) -> dict[str, Any]:
    names = read_names("arms", arguments.arms, NAMES, at_least="two")
    clean = jepbt.datasets.load(arguments.data)

    @functools.lru_cache(maxsize=1)  # all arms of a seed share it
    def dataset_at(seed: int) -> Dataset:
        return with_noise(clean, arguments, seed)

    def task_of(loss: Loss, dataset: Dataset = clean) -> jepbt.Task:
        settings = {"hparams": Hyper, "loss": loss, "optimizer": standard_optimizer}
        return make_task(dataset, arguments, **settings)

    @functools.cache
    def cost_of(loss: Loss) -> float | None:
        return step_cost(task_of, loss) if isinstance(loss, Adaptation) else None

    def make(name: str, seed: int) -> jepbt.Arm:
        strategy = name if name in STRATEGIES else "epbt"
        loss = LOSSES.get(name, LOSSES["taylor"])
        return jepbt.Arm(task_of(loss, dataset_at(seed)), strategy, cost_of(loss))

    if arguments.label_noise or arguments.validation_label_noise:
        return {name: functools.partial(make, name) for name in names}
    return {name: make(name, seed=0) for name in names}


def _print_before(plan: Plan, folder: pathlib.Path, go_on: str) -> None:
    task, config = plan.entrants[0].first.task, plan.config
    say(
        f"{len(plan.entrants)} arms x {len(plan.seeds)} seeds: "
        f"{', '.join(entrant.name for entrant in plan.entrants)} | "
        f"{task.about['data']} ({task.about['data_note']})\n"
        f"a run: {config.population_size} {task.about['model']}s, "
        f"{config.num_generations} generations x {config.steps_per_generation} steps\n"
        f"{folder}   Ctrl-C keeps what has finished; {go_on}   goes on"
    )
    total = len(plan.seeds) * len(plan.entrants)
    if len(plan.missing) < total:
        say(f"{total - len(plan.missing)} of {total} runs are finished already")


def _run(plan: Plan, folder: pathlib.Path, go_on: str) -> None:
    def announce(outcome: Outcome) -> None:
        say(
            f"{outcome.arm}, seed {outcome.seed}: {outcome.score:.4f}, "
            f"{outcome.seconds:.1f} s"
        )

    try:
        comparison = run_comparison(plan, announce)
    except jepbt.Interrupted as stop:
        say_aside(f"\n{describe_rest(plan)}\n{go_on}   goes on")
        sys.exit(128 + stop.signal_number)
    say(f"\n{comparison}\n")
    with optional(f"{folder} lacks the comparison's files"):
        _write(folder, comparison)
    say(f"Look: {folder / 'figures' / 'comparison.png'}")
    say(f"All numbers: {folder / 'comparison.json'}")


def _write(folder: pathlib.Path, comparison: Comparison) -> None:
    """Writes the table, the numbers and the figure of a comparison."""
    run_directory.replace(folder / "comparison.txt", f"{comparison}\n".encode())
    run_directory.replace(folder / "comparison.json", comparison.to_json().encode())
    axes = jepbt.plots.comparison(comparison)
    run_directory.save_figure(folder, axes, "comparison.png")
