"""Does evolving the loss help when labels are wrong? The runs of RESULTS.md.

    python examples/wrong_labels.py pattern --seeds 20
    python examples/wrong_labels.py --help

Each table compares losses and strategies at equal cost over seeds, in a folder of its
own, and goes on where it stopped if it is started again. Every arm is a population of
the same size; the members' learning rate, weight decay and loss evolve.

At full size, for an accelerator, with all 60,000 images of Fashion-MNIST (159 s on one
NVIDIA H200):

    python examples/wrong_labels.py other-data --data fashion_mnist.npz \\
        --images 60000 --cnn --population-size 64 --seeds 3 --folder runs/full
"""

import argparse
import dataclasses
import functools
import pathlib
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import numpy as np
import optax

import jepbt
from jepbt import datasets, losses
from jepbt.comparison import step_cost

STEPS = 104  # a generation's, of an arm whose loss does not adapt; 80 of one that does
EXPANSION = jepbt.taylorglo.CROSS_ENTROPY_EXPANSION


@dataclass
class Hyper(jepbt.HyperParameters):
    """One search space for all arms; what a loss does not read has no effect."""

    learning_rate: float = jepbt.hparam(0.03, min=0.002, max=0.5, log=True)
    weight_decay: float = jepbt.hparam(1e-4, min=1e-5, max=0.02, log=True)
    q: float = jepbt.hparam(0.5, min=0.02, max=1.0)
    smoothing: float = jepbt.hparam(0.1, min=0.0, max=0.6)
    tau: float = jepbt.hparam(1.0, min=0.0, max=3.0)
    meta_rate: float = jepbt.hparam(0.04, min=0.003, max=0.5, log=True)
    loss: jepbt.Loss = jepbt.taylor_hparam()


def adapted(form: str, counts: np.ndarray | None = None):
    table = losses.confusion(form, counts=counts)
    return jepbt.adapt(table, rate=lambda h: h.meta_rate)


LOSSES: dict[str, Any] = {
    "cross-entropy": lambda h: losses.cross_entropy,
    "expansion, fixed": lambda h: losses.taylor(EXPANSION),
    "Taylor, evolved": lambda h: losses.taylor(h.loss),
    "GCE 0.7, fixed": lambda h: losses.generalized_cross_entropy(0.7),
    "GCE 0.8, fixed": lambda h: losses.generalized_cross_entropy(0.8),
    "GCE, q evolved": lambda h: losses.generalized_cross_entropy(h.q),
    "smoothing, evolved": lambda h: losses.label_smoothing(h.smoothing),
    "offsets, adapted": adapted("offsets"),
    "transition, adapted": adapted("transition"),
}
RANDOM = ", random search"
PBT = "cross-entropy, PBT"
GLC = "GLC, from a population"
GLC_ONE = "GLC, from one network"
HALF = "GCE, half of the trusted labels in training"
ADJUSTED = "GCE on adjusted logits, evolved"

CONTROL, PRIMARY = "GCE, q evolved", "transition, adapted"
CHIEF = ("cross-entropy", "expansion, fixed", "Taylor, evolved", CONTROL, PRIMARY)
GOLD = (GLC, GLC_ONE)
OTHERS = (
    "offsets, adapted",
    GLC_ONE,
    HALF,
)  # that a figure shows beside the chief arms
ALL = (*LOSSES, PRIMARY + RANDOM, "Taylor, evolved" + RANDOM, PBT, *GOLD, HALF)


@dataclass(frozen=True)
class Table:
    """A question: the data of a seed, the network, and the arms."""

    data: Callable[[int], datasets.Dataset]
    arms: tuple[str, ...] = CHIEF
    network: Callable[[int], Any] = lambda classes: jepbt.models.MLP(
        num_classes=classes, hidden=(64,)
    )
    population_size: int = 16
    num_generations: int = 15
    has_long_tail: bool = False


@functools.cache
def clean(path: str | None = None, count: int = 10_000) -> datasets.Dataset:
    """The embedded Fashion-MNIST, or `count` training images of a file as of Keras."""
    if path is None:
        return datasets.load("fashion_mnist")
    with np.load(path) as file:
        arrays = {name: file[name] for name in file.files}
    images = {k: shrink(arrays[f"x_{k}"]) for k in ("train", "test")}
    labels = {k: arrays[f"y_{k}"].ravel() for k in ("train", "test")}
    part = images["train"], labels["train"]
    if count < len(part[1]):
        carved = datasets.from_arrays(part, count).validation
        part = carved["image"], carved["label"]
    return datasets.from_arrays(
        part, 1_000, (images["test"], labels["test"]), name=pathlib.Path(path).stem
    )


def shrink(images: np.ndarray) -> np.ndarray:
    """Makes colour images `[N, 32, 32, 3]` grey and `[N, 16, 16, 1]`."""
    if images.shape[-1] != 3:
        return images.reshape(*images.shape[:3], 1)
    grey = images.mean(-1).reshape(-1, 16, 2, 16, 2).mean((2, 4))
    return grey.round().astype(np.uint8)[..., None]


def with_pattern(seed: int, rate: float = 0.4, *source: Any) -> datasets.Dataset:
    dataset = clean(*source)
    if rate == 0:
        return dataset
    return datasets.with_label_noise(dataset, rate, pattern="pairs", seed=seed)


def with_few_trusted(seed: int, count: int) -> datasets.Dataset:
    """Keeps so many of the trusted labels, as many of each class."""
    dataset = with_pattern(seed)
    keep = first_of_each_class(dataset.validation["label"], [count // 10] * 10)
    validation = {name: rows[keep] for name, rows in dataset.validation.items()}
    return dataclasses.replace(dataset, validation=validation)


def with_long_tail(seed: int) -> datasets.Dataset:
    """Gives the rarest class a twentieth of the commonest, and 30 % wrong labels."""
    dataset = clean()
    counts = (900 * 0.05 ** (np.arange(10) / 9)).astype(int)
    keep = first_of_each_class(dataset.train["label"], counts)
    train = {name: rows[keep] for name, rows in dataset.train.items()}
    dataset = dataclasses.replace(dataset, train=train)
    return datasets.with_label_noise(dataset, 0.3, pattern="pairs", seed=seed)


def first_of_each_class(labels: np.ndarray, counts) -> np.ndarray:
    rows = [np.flatnonzero(labels == c)[:n] for c, n in enumerate(counts)]
    return np.sort(np.concatenate(rows))


def tables(path: str | None, count: int = 10_000) -> dict[str, Table]:
    made = {
        "pattern": Table(with_pattern, ALL),
        "mild": Table(lambda seed: with_pattern(seed, 0.2)),
        "clean": Table(lambda seed: with_pattern(seed, 0.0)),
        "trusted-300": Table(
            lambda seed: with_few_trusted(seed, 300), (*CHIEF, GLC_ONE)
        ),
        "trusted-100": Table(
            lambda seed: with_few_trusted(seed, 100), (*CHIEF, GLC_ONE)
        ),
        "long-tail": Table(
            with_long_tail,
            (ADJUSTED, "cross-entropy", PRIMARY, "offsets, adapted", GLC_ONE),
            has_long_tail=True,
        ),
        "cnn": Table(
            with_pattern,
            network=make_cnn,
            population_size=8,
            num_generations=10,
        ),
    }
    if path is not None:
        other = Table(
            lambda seed: with_pattern(seed, 0.4, path, count),
            (*CHIEF, "offsets, adapted", GLC_ONE),
        )
        made["other-data"] = other
    return made


def make_cnn(num_classes: int) -> Any:
    return jepbt.models.CNN(num_classes=num_classes)


def make_task(table: Table, dataset: datasets.Dataset, loss: Any) -> jepbt.Task:
    return jepbt.classification(
        dataset,
        hparams=Hyper,
        model=table.network(dataset.num_classes),
        loss=loss,
        optimizer=lambda h: optax.chain(
            optax.add_decayed_weights(h.weight_decay),
            optax.sgd(h.learning_rate, momentum=0.9, nesterov=True),
        ),
    )


@dataclass(frozen=True)
class Budget:
    """What every population of a table gets."""

    population_size: int
    num_generations: int
    steps: int

    def train(self, task: jepbt.Task, seed: int, **changes: Any) -> jepbt.Result:
        settings = {
            "population_size": self.population_size,
            "num_generations": self.num_generations,
            "steps_per_generation": self.steps,
            "seed": seed,
        }
        return jepbt.train_population(task, progress=False, **(settings | changes))


def make_arms(table: Table, names: tuple[str, ...], budget: Budget) -> dict[str, Any]:
    """Makes the arms of a table, each a function of the seed."""
    data = functools.lru_cache(maxsize=1)(table.data)

    @functools.lru_cache(maxsize=1)
    def gold(seed: int, size: int) -> np.ndarray:
        """Estimates the transition by networks trained with cross-entropy."""
        task = make_task(table, data(seed), LOSSES["cross-entropy"])
        # A population of one is a network with the default hyperparameters.
        result = budget.train(task, seed, population_size=size)
        rows, best = task.data.validation, result.best
        predict = jax.jit(
            lambda state: task.blend.predict(
                jax.random.key(0), state, best.hparams, rows
            )
        )
        p, labels = np.asarray(predict(best.state), np.float64), rows["label"]
        matrix = np.stack([p[labels == c].mean(0) for c in range(p.shape[1])])
        return matrix / matrix.sum(1, keepdims=True)

    def loss_of(name: str, seed: int) -> Any:
        if name in GOLD:
            size = 1 if name == GLC_ONE else table.population_size
            correct = losses.forward_corrected(gold(seed, size))
            return lambda h: correct
        if table.has_long_tail and name in (ADJUSTED, "offsets, adapted"):
            counts = np.bincount(data(seed).train["label"])
            if name == ADJUSTED:
                return adjusted(counts)
            return adapted("offsets", counts)
        return LOSSES[PBT.removesuffix(", PBT") if name == PBT else name]

    def arm(name: str, seed: int) -> jepbt.Arm:
        strategy = "epbt"
        if name.endswith(RANDOM):
            name, strategy = name.removesuffix(RANDOM), "random_search"
        elif name == PBT:
            strategy = "pbt"
        loss = loss_of(name, seed)
        make = functools.partial(make_task, table, data(seed))
        cost = None if callable(loss) else cost_of(make, loss)
        return jepbt.Arm(make(loss), strategy, cost)

    costs = {}

    def cost_of(make, loss):
        # The adapting losses' own arithmetic is a thousandth of the network's.
        if not costs:
            costs["step"] = step_cost(make, loss)
        return costs["step"]

    return {name: functools.partial(arm, name) for name in names if name != HALF}


def adjusted(counts: np.ndarray) -> Callable[[Hyper], losses.LossFn]:
    offsets = np.log(counts / counts.sum()).astype(np.float32)

    def loss(h):
        gce = losses.generalized_cross_entropy(h.q)
        return lambda logits, labels: gce(logits + h.tau * offsets[None], labels)

    return loss


def train_on_half(table: Table, budget: Budget, seeds) -> tuple[list[float], ...]:
    """Trains on half of the trusted labels, four times each; the others select."""
    scores, fitness = [], []
    for seed in seeds:
        dataset = table.data(seed)
        labels = dataset.validation["label"]
        chosen = first_of_each_class(labels, np.bincount(labels) // 2)
        others = np.setdiff1d(np.arange(len(labels)), chosen)
        rows = np.repeat(chosen, 4)
        train = {
            name: np.concatenate([dataset.train[name], dataset.validation[name][rows]])
            for name in dataset.train
        }
        validation = {k: v[others] for k, v in dataset.validation.items()}
        dataset = dataclasses.replace(dataset, train=train, validation=validation)
        result = budget.train(make_task(table, dataset, LOSSES[CONTROL]), seed)
        scores.append(result.test().best.mean)
        fitness.append(result.best.fitness.mean)
    return scores, fitness


def run(name: str, table: Table, budget: Budget, seeds, folder: pathlib.Path):
    """Runs a table, or what is missing of it, and writes its numbers."""
    control = ADJUSTED if table.has_long_tail else CONTROL
    arms = make_arms(table, table.arms, budget)
    with warnings.catch_warnings():
        # Gold Loss Correction and class counts are constants of a seed's program.
        warnings.filterwarnings("ignore", ".*is compiled anew")
        comparison = jepbt.compare(
            arms,
            seeds=seeds,
            control=control,
            primary=PRIMARY,
            run_dir=folder / name,
            resume=True,
            population_size=budget.population_size,
            num_generations=budget.num_generations,
            steps_per_generation=budget.steps,
        )
    if HALF in table.arms:
        scores, fitness = train_on_half(table, budget, seeds)
        comparison = dataclasses.replace(
            comparison,
            names=(*comparison.names, HALF),
            scores=np.vstack([comparison.scores, scores]),
            validation=np.vstack([comparison.validation, fitness]),
            costs={**comparison.costs, HALF: comparison.costs[CONTROL]},
        )
    comparison.to_json(folder / name / "comparison.json")
    return comparison


def write_table(comparison: jepbt.Comparison) -> str:
    """Writes a comparison in Markdown, in points."""
    control = comparison.control
    lines = [
        f"| arm | accuracy (sd, worst) | minus {control} | 95 % interval | p |",
        "|---|---|---|---|---|",
    ]
    for row, scores in zip(comparison.rows, comparison.scores, strict=True):
        of = f"{100 * row.score.mean:.2f} ({100 * row.score.sd:.2f}, "
        of += f"{100 * scores.min():.2f})"
        cells = ["", "", ""]
        if row.difference is not None:
            mean, low, high = (
                100 * value
                for value in (
                    row.difference.estimate.mean,
                    row.difference.estimate.low,
                    row.difference.estimate.high,
                )
            )
            error = 100 * row.difference.estimate.sd / len(scores) ** 0.5
            p = "< 0.0001" if row.p < 1e-4 else f"{row.p:.2g}"
            cells = [f"{mean:+.2f} ± {error:.2f}", f"{low:+.2f} .. {high:+.2f}", p]
        bold = "**" if row.name == comparison.primary else ""
        lines.append(f"| {bold}{row.name}{bold} | {of} | {' | '.join(cells)} |")
    return "\n".join(lines)


def draw(comparison: jepbt.Comparison, path: pathlib.Path) -> None:
    """Draws the differences of the chief arms to the control."""
    shown = [name for name in (*CHIEF, *OTHERS) if name in comparison.names]
    rows = [comparison.names.index(name) for name in shown]
    chief = dataclasses.replace(
        comparison, names=tuple(shown), scores=comparison.scores[rows]
    )
    jepbt.plots.comparison(chief).figure.savefig(path)


def schedule_or_value(budget: Budget, seeds) -> str:
    """Trains fresh networks along a winner's line, with its losses put differently."""
    table = tables(None)["pattern"]
    rows = {}
    for loss, field in (("Taylor, evolved", "loss"), (CONTROL, "q")):
        for seed in seeds:
            task = make_task(table, table.data(seed), LOSSES[loss])
            found = budget.train(task, seed).schedule
            values = np.asarray(found.by_generation[field])
            order = np.random.default_rng(seed).permutation(len(values))
            kinds = {
                "as found": values,
                "shuffled in time": values[order],
                "its last value": np.repeat(values[-1:], len(values), 0),
                "its first value": np.repeat(values[:1], len(values), 0),
            }
            for kind, changed in kinds.items():
                line = dataclasses.replace(
                    found, by_generation={**found.by_generation, field: changed}
                )
                again = jepbt.replay(task, line, seed=seed + 1_000, progress=False)
                again = dataclasses.replace(again, best=again.final_best)
                score = 100 * again.test().best.mean
                rows.setdefault((loss, kind), []).append(score)
    lines = ["| loss | schedule | accuracy | minus as found |", "|---|---|---|---|"]
    for (loss, kind), scores in rows.items():
        gap = np.subtract(scores, rows[loss, "as found"])
        error = gap.std(ddof=1) / len(gap) ** 0.5 if len(gap) > 1 else np.nan
        lines.append(
            f"| {loss} | {kind} | {np.mean(scores):.2f} | {gap.mean():+.2f} ± "
            f"{error:.2f} |"
        )
    return "\n".join(lines)


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", choices=[*tables("x"), "schedule"])
    parser.add_argument("--seeds", type=int, default=20)
    parser.add_argument("--first-seed", type=int, default=200)
    parser.add_argument("--data", help="an .npz with x_train, y_train, x_test, y_test")
    parser.add_argument("--images", type=int, default=10_000, help="of that file")
    parser.add_argument("--cnn", action="store_true", help="in place of the MLP")
    parser.add_argument("--population-size", type=int)
    parser.add_argument("--folder", type=pathlib.Path, default="runs/wrong_labels")
    parser.add_argument("--figure", type=pathlib.Path, help="a picture of the table")
    parser.add_argument("--toy", action="store_true", help="a few steps, to try it")
    options = parser.parse_args(arguments)
    if options.table == "other-data" and options.data is None:
        parser.error("other-data needs --data FILE.npz")
    jepbt.use_all_cpu_cores()
    seeds = range(options.first_seed, options.first_seed + options.seeds)
    table = tables(options.data, options.images).get(options.table)
    table = table or tables(None)["pattern"]  # which "schedule" reads
    if options.cnn:
        table = dataclasses.replace(table, network=make_cnn)
    if options.population_size is not None:
        size = options.population_size
        table = dataclasses.replace(table, population_size=size)
    budget = Budget(table.population_size, table.num_generations, STEPS)
    if options.toy:
        budget = Budget(4, 2, 26)
    if options.table == "schedule":
        print(schedule_or_value(budget, seeds))
        return
    comparison = run(options.table, table, budget, seeds, options.folder)
    print(write_table(comparison))
    if options.figure is not None:
        draw(comparison, options.figure)


if __name__ == "__main__":
    main()
