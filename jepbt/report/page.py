"""`jepbt report`: a run as one page that opens anywhere, without a network.

The charts are drawn by Apache ECharts, whose "common" bundle (0.7 MB, Apache 2.0) lies
beside this module and is written into the page. It was chosen over plotly.js
(4.5 MB) because a page is meant to be mailed, and over smaller libraries because it has
hovering, clicking and scatter plots of thousands of points built in.
"""

from __future__ import annotations

import base64
import dataclasses
import html
import importlib.resources
import io
import json
import os
import pathlib
import shlex
import string
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepbt import plots
from jepbt.checkpoints import folder as run_directory
from jepbt.config import Config
from jepbt.losses import taylorglo
from jepbt.plots import style
from jepbt.report.card import format_value, make_card
from jepbt.results import Recorded, Score, lineage, recorded
from jepbt.tasks import StandardHyperParameters

_ENVIRONMENT = ("data", "data_note", "num_classes", "examples", "model")
_ENVIRONMENT += ("platform", "devices", "chunk_size")

_FIGURES = {
    "hparam_schedules": "Hyperparameters of every member; dark is fit.",
    "evolved_loss": "The winner's loss, early to late, and its gradient.",
    "attraction": "How losses treat a confident, correct output.",
}


def write_report(run_dir: str | os.PathLike) -> pathlib.Path:
    """Writes `report.html` into a run's folder, also while the run is going.

    Args:
        run_dir: the folder.

    Returns:
        The file, replaced whole.

    Raises:
        ValueError: if the folder holds no run that has finished a generation, or no
            member of it ever had a finite fitness.

    Example:
        >>> write_report("runs/0001")  # doctest: +SKIP
    """
    run = recorded.read(pathlib.Path(run_dir))
    path = run.folder / "report.html"
    run_directory.replace(path, make_page(run).encode())
    return path


def make_page(run: Recorded) -> str:
    """Writes the page as text; values from the run are escaped.

    Args:
        run: read from a folder.

    Returns:
        HTML with nothing to load.
    """
    history, config = run.history, run.settings["config"]
    generation, slot = history.winner
    at = history.generations[generation]
    best = Score(float(at.fitness[slot]), float(at.standard_error[slot]))
    last = history.fitness[-1]
    numbers = {"best on validation data": str(best)}
    numbers |= _read_test(run.folder)
    if np.isfinite(last).any():
        numbers["median of the last generation"] = f"{np.nanmedian(last):.3f}"
    if np.isfinite(history.fitness[0]).any():
        numbers["best of the first"] = f"{np.nanmax(history.fitness[0]):.3f}"
    seconds = sum(sum(g.seconds.values()) for g in history.generations)
    template = string.Template(_resource("report.html"))
    return template.substitute(
        title=_text(f"{run.folder.name}: {best}"),
        css=_resource("report.css"),
        folder=_text(str(run.folder)),
        headline=_text(
            f"{best} on validation data: member {slot} of generation {generation}"
        ),
        status=_text(_status(run, seconds)),
        numbers="".join(
            f"<div>{_text(name)}<b>{_text(value)}</b></div>"
            for name, value in numbers.items()
        ),
        card=make_card(run, {}, seconds),
        lineage=_text(
            f"{plots.describe_lineage(history)}. Siblings stand together and no two "
            "lines cross; strong lines lead to the last generation, faint ones died "
            "out; the founders with most descendants have a colour each."
        ),
        figures="".join(_figures(run)),
        configuration=_table(_flatten(config) | _describe_spaces(run)),
        environment=_table(
            {
                name: run.settings[name]
                for name in _ENVIRONMENT
                if run.settings.get(name)
            }
            | run.settings.get("versions", {})
        ),
        reproduce=_reproduce(run),
        data=_as_script_data(_chart_data(run)),
        echarts=_resource("echarts.common.min.js"),
        script=_resource("report.js"),
    )


def _status(run: Recorded, seconds: float) -> str:
    done, wanted = len(run.history), run.settings["config"]["num_generations"]
    members = run.history.fitness.shape[1]
    state = (
        f"{done} generations"
        if wanted is None
        else f"all {wanted} generations"
        if done >= wanted
        else f"{done} of {wanted} generations so far (this page does not update itself)"
    )
    return f"{members} members, {state}, {seconds:.0f} s without compiling"


def _read_test(folder: pathlib.Path) -> dict[str, str]:
    """What the run's one reading of the test split gave, if it has happened."""
    try:
        best = json.loads((folder / "test.json").read_text())["best"]
        score = Score(float(best["mean"]), float(best["standard_error"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"the same on test data": str(score)}


def _chart_data(run: Recorded) -> dict[str, Any]:
    history = run.history
    parents, fresh, fitness = history.parents, history.fresh, history.fitness
    first = lineage.founders(parents, fresh)
    names, counts = np.unique(first, return_counts=True)
    ranked = names[np.argsort(-counts, kind="stable")]
    low, high = style.robust_range(fitness, 0.05)
    margin = 0.1 * (high - low)
    median = [np.nanmedian(f) if np.isfinite(f).any() else np.nan for f in fitness]
    hparams = {
        name: values
        for name, values, _ in run.by_number(history.hparams)
        if values.ndim == 2
    }
    if run.has_loss:
        loss = run.evolved_loss
        hparams[f"{loss.name}: attraction"] = taylorglo.attraction(
            history.hparams[loss.name]
        )
    return {
        "fitness": _rounded(fitness, 5),
        "median": _rounded(np.array(median), 5),
        "range": _rounded(np.array([low - margin, high + margin]), 4),
        "parents": parents.tolist(),
        "fresh": fresh.astype(int).tolist(),
        "operations": history.operations.tolist(),
        "places": lineage.tree_order(parents, fresh).tolist(),
        "founders": first.tolist(),
        "ranked": ranked[: len(style.LINES)].tolist(),
        "survives": lineage.survivors(parents, fresh).tolist(),
        "winner": history.winner,
        "hparams": {
            name: _rounded(values, 4) if values.dtype.kind == "f" else values.tolist()
            for name, values in hparams.items()
        },
    }


def _rounded(values: np.ndarray, digits: int) -> list:
    """Nested lists of numbers to so many digits; what JSON does not have is `None`."""
    flat = [
        float(f"{value:.{digits}g}") if np.isfinite(value) else None
        for value in values.ravel().tolist()
    ]
    if values.ndim == 1:
        return flat
    width = values.shape[1]
    return [flat[start : start + width] for start in range(0, len(flat), width)]


def _as_script_data(data: Any) -> str:
    """JSON that cannot end the script element it stands in."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"), default=str)
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def _figures(run: Recorded):
    for name, caption in _FIGURES.items():
        if name != "hparam_schedules" and not run.has_loss:
            continue
        if name == "hparam_schedules" and all(
            values.ndim > 2 for _, values, _ in run.by_number(run.history.hparams)
        ):
            continue
        figure = np.ravel(getattr(plots, name)(run))[0].figure
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png", dpi=130)
        encoded = base64.b64encode(buffer.getvalue()).decode()
        yield (
            f'<figure><img alt="{_text(caption)}" '
            f'src="data:image/png;base64,{encoded}">'
            f"<figcaption>{_text(caption)}</figcaption></figure>"
        )


def _describe_spaces(run: Recorded) -> dict[str, str]:
    described = {}
    for name, fields in run.settings["hparams"].items():
        rest = [
            f"{key} {_as_text(value)}"
            for key, value in fields.items()
            if key != "kind" and value not in (None, False)
        ]
        described[f"hparams.{name}"] = f"{fields['kind']}: {', '.join(rest)}"
    return described


def _reproduce(run: Recorded) -> str:
    """The calls that make this run again, and its winner's network alone."""
    config, defaults = run.settings["config"], Config()
    if "loop" in config:
        return (
            "<p>Made by <code>jepbt.epbt</code> with an evaluation function, which is "
            "not in the run's folder; the seed is above.</p>"
        )
    changed = {
        field: value
        for field, value in config.items()
        if value != getattr(defaults, field, None)
        and field not in ("run_dir", "progress", "resume", "chunk_size")
    }
    # The chunk size that was chosen decides the last bits.
    changed["chunk_size"] = run.settings.get("chunk_size", config["chunk_size"])
    strategy = run.settings.get("strategy", "epbt")
    arguments = "".join(f"\n    {k}={v!r}," for k, v in changed.items())
    name = strategy if strategy in ("epbt", "pbt", "random_search") else "..."
    data = run.settings.get("data")
    shown = "..." if data in (None, "arrays") else repr(_data_name(run))
    code = (
        "import jepbt\n\n"
        f"task = jepbt.classification({shown})  # with your model, if it had one\n"
        "result = jepbt.train_population(\n"
        f"    task,\n    strategy={name!r},{arguments}\n)\n\n"
        "# one fresh network along the winner's schedule\n"
        f"again = jepbt.replay(task, {str(run.folder)!r})\n"
    )
    shell = ""
    if name != "..." and _is_of_the_command(run):
        flags = {"data": _data_name(run), "model": run.settings["model"].lower()}
        flags |= {"strategy": name} | changed
        words = ["jepbt", "train"]
        for key, value in flags.items():
            words += [f"--{key.replace('_', '-')}", str(value)]
        shell = f"<pre>{_text(shlex.join(words))}</pre>"
    return (
        '<p class="quiet">Bits repeat on the same versions, devices and chunk size. '
        "The task's own code (data, model, optimizer) is not in the run's folder. "
        "<code>schedule.json</code>, <code>loss.py</code> and <code>best/</code> "
        "can be read without jepbt.</p>"
        f"{shell}<pre>{_text(code)}</pre>"
    )


def _data_name(run: Recorded) -> str:
    """What `jepbt.datasets.load` finds the data by: of a file its path."""
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


def _flatten(config: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in config.items() if value is not None}


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{_text(name)}</th><td>{_text(_as_text(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _as_text(value: Any) -> str:
    if isinstance(value, Mapping):
        return ", ".join(f"{k} {_as_text(v)}" for k, v in value.items())
    if isinstance(value, list | tuple):
        return " ".join(map(_as_text, value))
    if isinstance(value, int) and not isinstance(value, bool):
        return str(value)
    return format_value(value)


def _text(value: str) -> str:
    return html.escape(value, quote=True)


def _resource(name: str) -> str:
    files = importlib.resources.files("jepbt.report")
    return (files / name).read_text(encoding="utf-8")
