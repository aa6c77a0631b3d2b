"""Writes the calls that make a run again."""

import dataclasses
import html
import shlex
from typing import Any

from jepbt.config import Config
from jepbt.results import Recorded
from jepbt.strategies import STRATEGY_NAMES
from jepbt.tasks import StandardHyperParameters

_HOST_LOOP = (
    "<p>Made by <code>jepbt.epbt</code> with an evaluation function, which is not in "
    "the run's folder; the seed is above.</p>"
)
_NOTE = (
    '<p class="quiet">Bits repeat on the same versions, devices and chunk size. The '
    "task's own code (data, model, optimizer) is not in the run's folder. "
    "<code>schedule.json</code>, <code>loss.py</code> and <code>best/</code> can be "
    "read without jepbt.</p>"
)
_CODE = """import jepbt

task = {task}
result = jepbt.train_population(
    task,
    strategy={strategy},
{settings})

# one fresh network along the winner's schedule
again = jepbt.replay(task, {folder})
"""


def reproduce(run: Recorded) -> str:
    """Writes, as HTML, the calls that make a run again and replay its winner."""
    if "loop" in run.settings["config"]:
        return _HOST_LOOP
    settings = _changed_settings(run)
    strategy = run.settings.get("strategy", "epbt")
    is_named = strategy in STRATEGY_NAMES
    compute_dtype = run.settings.get("compute_dtype", "float32")
    dtype = {} if compute_dtype == "float32" else {"compute_dtype": compute_dtype}
    code = _CODE.format(
        task=_make_task(run, dtype),
        strategy=repr(strategy if is_named else "..."),
        settings="".join(f"    {k}={v!r},\n" for k, v in settings.items()),
        folder=repr(str(run.folder)),
    )
    blocks = [code]
    if is_named and _is_of_the_command(run):
        flags = {"data": _data_name(run), "model": run.settings["model"].lower()}
        words = ["jepbt", "train"]
        flags |= dtype | {"strategy": strategy} | settings
        for name, value in flags.items():
            flag = f"--{name.replace('_', '-')}"
            words += [flag] if value is True else [flag, str(value)]
        blocks.insert(0, shlex.join(words))
    return _NOTE + "".join(f"<pre>{html.escape(block)}</pre>" for block in blocks)


def _make_task(run: Recorded, settings: dict[str, Any]) -> str:
    """The call that makes the task, known by the facts that it leaves in a run."""
    facts = run.settings.keys()
    data = "..."
    if {"data", "num_classes", "model"} <= facts:
        function = "classification"
        data = repr(_data_name(run)) if run.settings["data"] != "arrays" else data
    elif {"model", "compute_dtype"} <= facts:
        function = "regression"
    else:
        return "...  # the jepbt.Task of your own"
    arguments = ", ".join([data, *(f"{k}={v!r}" for k, v in settings.items())])
    return f"jepbt.{function}({arguments})  # with your model, if it had one"


def _changed_settings(run: Recorded) -> dict[str, Any]:
    """The settings that decide the run's bits, unless they are the defaults.

    Some are always named, as the command's defaults are not those of `Config`.
    """
    config, defaults = run.settings["config"], Config()
    named = ("num_generations", "steps_per_generation", "batch_size")
    changed = {
        name: value
        for name, value in config.items()
        if (value != getattr(defaults, name, None) or name in named)
        and name not in ("run_dir", "progress", "resume")
    }
    # The chunk size that was chosen decides the last bits.
    chunk_size = run.settings.get("chunk_size", config["chunk_size"])
    return changed | {"chunk_size": chunk_size}


def _data_name(run: Recorded) -> str:
    """The name that `jepbt.datasets.load` knows the data by; a file's is its path."""
    note = run.settings.get("data_note", "")
    return note if note.endswith(".npz") else run.settings["data"]


def _is_of_the_command(run: Recorded) -> bool:
    """Whether `jepbt train` can make this task: its data, model and search space."""
    settings = run.settings
    standard = {field.name for field in dataclasses.fields(StandardHyperParameters)}
    note = settings.get("data_note", "")
    return (
        set(settings["hparams"]) == standard
        and settings.get("model") in ("CNN", "MLP")
        and (note in ("embedded, MIT", "TensorFlow Datasets") or note.endswith(".npz"))
    )
