"""The flags of `jepbt train`, of which other commands share some, and their reading."""

import argparse
import dataclasses
import functools
import pathlib
import shlex
from collections.abc import Callable, Sequence
from typing import Any

import jepbt
from jepbt.datasets import Dataset, with_label_noise
from jepbt.strategies import STRATEGY_NAMES

MAIN_JOB = jepbt.Config(num_generations=15, steps_per_generation=60, batch_size=32)
"""The settings of `jepbt train` without flags: a whole evolution in a few minutes."""

Add = Callable[..., Any]
"""The `add_argument` of a group of flags."""


def whole(text: str) -> int:
    """Reads a whole number, or raises `argparse.ArgumentTypeError`."""
    try:
        return int(text)
    except ValueError:
        message = f"{text!r} is not a whole number"
        raise argparse.ArgumentTypeError(message) from None


def number(text: str) -> float:
    """Reads a number, or raises `argparse.ArgumentTypeError`."""
    try:
        return float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number") from None


def whole_or_word(text: str) -> int | str:
    """Reads a whole number, or leaves a word such as "auto" for `Config` to judge."""
    try:
        return int(text)
    except ValueError:
        return text


def read_names(
    flag: str, text: str, known: Sequence[str], at_least: str = "one"
) -> list[str]:
    """Reads names with commas between, or raises a `ValueError` that lists them all."""
    names = [name.strip() for name in text.split(",")]
    for name in names:
        if name not in known:
            raise ValueError(
                f"{flag}={text!r}: {name!r} is none of {', '.join(known)}. Give "
                f"{at_least} or more of them, with commas between."
            )
    return names


def with_noise(clean: Dataset, arguments: argparse.Namespace, seed: int) -> Dataset:
    """Makes labels wrong as the flags of `add_data_flags` say."""
    return with_label_noise(
        clean,
        arguments.label_noise,
        validation_label_noise=arguments.validation_label_noise,
        pattern=arguments.label_noise_pattern,
        seed=seed,
    )


def make_task(
    dataset: Dataset, arguments: argparse.Namespace, **settings: Any
) -> jepbt.Task:
    """Makes the task that the flags of `add_data_flags` name."""
    build = {"cnn": jepbt.models.CNN, "mlp": jepbt.models.MLP}[arguments.model]
    return jepbt.classification(
        dataset,
        model=build(num_classes=dataset.num_classes, dropout=lambda h: h.dropout),
        compute_dtype=arguments.compute_dtype,
        **settings,
    )


def resume_command(arguments: argparse.Namespace, folder: pathlib.Path) -> str:
    """Writes the command line that continues the run that `arguments` started."""
    added = [] if arguments.run_dir else ["--run-dir", str(folder)]
    added += [] if arguments.resume else ["--resume"]
    return shlex.join(["jepbt", *arguments.argv, *added])


def add_training_flags(command: argparse.ArgumentParser) -> None:
    """Adds the flags of `jepbt train`, one for each field of `Config` among them."""
    add_data_flags(command)
    add = command.add_argument_group("evolution").add_argument
    add_whole = functools.partial(add, metavar="N", type=whole)
    add(
        "--strategy",
        choices=STRATEGY_NAMES,
        default="epbt",
        help="what chooses parents and hyperparameters after a generation "
        "(default: %(default)s)",
    )
    add_size_flags(add)
    add_whole("--seed", help="the seed of every random draw (default: %(default)s)")
    add(
        "--batches",
        metavar="KIND",
        help="shared: all members train on the same batches (the default); "
        "per_member: each draws its own",
    )
    add(
        "--chunk-size",
        metavar="N",
        type=whole_or_word,
        help="members of a device computed together, or auto (the default)",
    )
    add_whole(
        "--generations-per-call",
        help="generations that run before anything looks at them, for tiny tasks "
        "(default: %(default)s)",
    )
    add = command.add_argument_group("when to stop").add_argument
    add(
        "--max-seconds",
        metavar="SECONDS",
        type=number,
        help="start no generation after this time",
    )
    add(
        "--target-fitness",
        metavar="FITNESS",
        type=number,
        help="stop once a member has reached this fitness",
    )
    add(
        "--debug",
        action="store_true",
        help="stop at the first member that fails, and show Python's tracebacks",
    )
    _add_file_flags(command)
    command.set_defaults(**dataclasses.asdict(MAIN_JOB))


def _add_file_flags(command: argparse.ArgumentParser) -> None:
    add = command.add_argument_group("files and output").add_argument
    add(
        "--run-dir",
        metavar="FOLDER",
        help="the run's folder, made if missing; the next of runs/0001, runs/0002, ... "
        "if left out",
    )
    add(
        "--resume",
        action="store_true",
        help="go on with the run in --run-dir, or start it if there is none",
    )
    add(
        "--checkpoint-every",
        metavar="N",
        type=whole_or_word,
        help="generations between two checkpoints, or auto (the default): at most "
        "every 30 seconds, at 3 percent of the time",
    )
    add(
        "--keep-checkpoints",
        metavar="N",
        type=whole,
        help="checkpoints that stay (default: %(default)s)",
    )
    add_progress_flag(add)
    add(
        "--log-level",
        metavar="LEVEL",
        help="debug, info (a line a generation), warning (the default) or error",
    )


def add_data_flags(command: argparse.ArgumentParser) -> None:
    """Adds what is trained on what: the data, their labels, the model, the device."""
    add = command.add_argument_group("data and model").add_argument
    add(
        "--data",
        metavar="NAME",
        default="fashion_mnist",
        help="fashion_mnist, which is embedded (the default), tfds:NAME, or FILE.npz",
    )
    add(
        "--label-noise",
        metavar="SHARE",
        type=number,
        default=0.0,
        help="make this share of the training labels wrong, from 0 to 1",
    )
    add(
        "--validation-label-noise",
        metavar="SHARE",
        type=number,
        default=0.0,
        help="make this share of the validation labels wrong",
    )
    add(
        "--label-noise-pattern",
        choices=("uniform", "pairs"),
        default="uniform",
        help="a wrong label is any other class (uniform, the default), or each class "
        "is mistaken for one other (pairs)",
    )
    add(
        "--model",
        choices=("cnn", "mlp"),
        default="cnn",
        help="two convolutions and two dense layers (cnn, the default), or one hidden "
        "layer of 256 (mlp)",
    )
    add(
        "--compute-dtype",
        choices=("float32", "bfloat16"),
        default="float32",
        help="what the network computes in; its weights are float32 all the same "
        "(default: %(default)s)",
    )
    add(
        "--device",
        metavar="KIND",
        help="cpu, gpu or tpu; what JAX prefers if left out",
    )


def add_size_flags(add: Add) -> None:
    """Adds how much is trained: members, generations, steps, examples, the seed."""
    for name, text in {
        "population_size": "networks that train side by side",
        "num_generations": "times that they train and are evaluated",
        "steps_per_generation": "training steps between two evaluations",
        "batch_size": "examples in a training step",
    }.items():
        add(
            f"--{name.replace('_', '-')}",
            metavar="N",
            type=whole,
            default=getattr(MAIN_JOB, name),
            help=f"{text} (default: %(default)s)",
        )


def add_progress_flag(add: Add) -> None:
    """Adds the flag that hides the progress bar."""
    add(
        "--no-progress",
        dest="progress",
        action="store_false",
        help="show no progress bar",
    )
