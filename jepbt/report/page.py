"""Writes a run as one page that opens anywhere, without a network.

The charts are drawn by Apache ECharts, whose "common" bundle (0.7 MB, Apache 2.0) lies
beside this module and is written into the page. It was chosen over plotly.js
(4.5 MB) because a page is meant to be mailed, and over smaller libraries because it has
hovering, clicking and scatter plots of thousands of points built in.
"""

from __future__ import annotations

import html
import importlib.resources
import json
import os
import pathlib
import string
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from jepbt import plots
from jepbt.checkpoints import folder as run_directory
from jepbt.losses import taylorglo
from jepbt.plots import style
from jepbt.plots.history import rank_founders
from jepbt.report.card import as_image, format_value, make_card
from jepbt.report.reproduce import reproduce
from jepbt.results import Recorded, Score, lineage, recorded
from jepbt.results.json_lines import to_lists
from jepbt.results.sample import choose_shown

if TYPE_CHECKING:  # matplotlib takes longer to import than all of jepbt
    from matplotlib.figure import Figure

_ENVIRONMENT = ("data", "data_note", "num_classes", "examples", "model")
_ENVIRONMENT += ("platform", "devices", "chunk_size")
_COLOURS = ("WINNER", "MEMBER", "MEDIAN", "INK", "LINES")


def write_report(
    run_dir: str | os.PathLike, *, reload_seconds: int = 0
) -> pathlib.Path:
    """Writes `report.html` into a run's folder, also while the run is going.

    Args:
        run_dir: the run's folder.
        reload_seconds: the seconds after which the page reloads itself; 0 for never.

    Returns:
        The path of the page, which is replaced whole.

    Raises:
        ValueError: if the folder holds no run that has finished a generation, or no
            member of it ever had a finite fitness.

    Example:
        >>> write_report("runs/0001")  # doctest: +SKIP
    """
    run = recorded.read(run_dir)
    path = run.folder / "report.html"
    run_directory.replace(path, make_page(run, reload_seconds).encode())
    return path


def make_page(run: Recorded, reload_seconds: int) -> str:
    """Writes the page of a run with a folder; whatever the run wrote is escaped."""
    history, config = run.history, run.settings["config"]
    shown = choose_shown(history.parents, history.fresh, history.ancestry())
    generation, slot = history.winner
    at = history.generations[generation]
    best = Score(float(at.fitness[slot]), float(at.standard_error[slot]))
    numbers = {"best on validation data": str(best)} | _read_test(run.folder)
    first, last = history.fitness[0], history.fitness[-1]
    if np.isfinite(last).any():
        numbers["median of the last generation"] = f"{np.nanmedian(last):.3f}"
    if np.isfinite(first).any():
        numbers["best of the first"] = f"{np.nanmax(first):.3f}"
    seconds = sum(sum(g.seconds.values()) for g in history.generations)
    environment = {k: run.settings[k] for k in _ENVIRONMENT if run.settings.get(k)}
    texts = {
        "title": f"{run.folder.name}: {best}",
        "folder": str(run.folder),
        "headline": f"{best} on validation data: "
        f"member {slot} of generation {generation}",
        "status": _status(run, seconds, reload_seconds > 0),
        "reload": str(reload_seconds),
        "lineage": plots.describe_lineage(history),
        "shown": _describe_shown(shown),
    }
    return string.Template(_resource("report.html")).substitute(
        {name: html.escape(text) for name, text in texts.items()},
        css=_resource("report.css"),
        numbers="".join(
            f"<div>{html.escape(name)}<b>{html.escape(value)}</b></div>"
            for name, value in numbers.items()
        ),
        card=make_card(run, {}, seconds),
        figures="".join(_figures(run)),
        configuration=_table(
            {name: value for name, value in config.items() if value is not None}
            | _describe_spaces(run)
        ),
        environment=_table(environment | run.settings.get("versions", {})),
        reproduce=reproduce(run),
        data=_as_script_data(_chart_data(run, shown)),
        echarts=_resource("echarts.common.min.js"),
        script=_resource("report.js"),
    )


def _status(run: Recorded, seconds: float, reloads: bool) -> str:
    done, wanted = len(run.history), run.settings["config"]["num_generations"]
    members = run.history.fitness.shape[1]
    if wanted is None:
        state = f"{done} generations"
    elif done >= wanted:
        state = f"all {wanted} generations"
    else:
        state = f"{done} of {wanted} generations so far (this page "
        state += "reloads itself)" if reloads else "does not update)"
    return f"{members} members, {state}, {seconds:.0f} s without compiling"


def _read_test(folder: pathlib.Path) -> dict[str, str]:
    """Reads the winner's score on the test split, if it was measured."""
    try:
        best = json.loads((folder / "test.json").read_text())["best"]
        score = Score(float(best["mean"]), float(best["standard_error"]))
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {"the same on test data": str(score)}


def _figures(run: Recorded) -> Iterator[str]:
    captions = {}
    if run.columns:
        captions["hparam_schedules"] = "Hyperparameters of every member; dark is fit."
    if run.has_loss:
        captions["evolved_loss"] = "The winner's loss, early to late, and its gradient."
        captions["attraction"] = "Each loss's effect on a confident, correct output."
    if run.table is not None:
        captions["confusions"] = "What the winner's loss has learned of the labels."
    for name, caption in captions.items():
        image = as_image(caption, _draw, name, run)
        caption = html.escape(caption)
        yield f"<figure>{image}<figcaption>{caption}</figcaption></figure>"


def _draw(name: str, run: Recorded) -> Figure:
    return np.ravel(getattr(plots, name)(run))[0].figure


def _chart_data(run: Recorded, shown: np.ndarray) -> dict[str, Any]:
    """Collects what `report.js` reads, in JSON's types."""
    history = run.history
    parents, fresh, fitness = history.parents, history.fresh, history.fitness
    low, high = style.robust_range(fitness, 0.05)
    margin = 0.1 * (high - low)
    hparams = {name: values for name, values, _ in run.columns}
    if run.has_loss:
        name = run.evolved_loss.name
        attraction = taylorglo.attraction(history.hparams[name])
        hparams[f"{name}: attraction"] = np.asarray(attraction)
    by_member = {
        "slots": np.broadcast_to(np.arange(parents.shape[1]), parents.shape),
        "fitness": fitness,
        "parents": parents,
        "fresh": fresh.astype(int),
        "operations": history.operations,
        "places": lineage.tree_order(parents, fresh),
        "founders": history.founders,
        "survives": lineage.survivors(parents, fresh),
    }
    return {
        "members": parents.shape[1],
        "median": to_lists(np.float32(style.medians(fitness))),
        "range": to_lists(np.float32([low - margin, high + margin])),
        "ranked": rank_founders(history.founders)[: len(style.LINES)],
        "winner": list(history.winner),
        "colours": {name: getattr(style, name) for name in _COLOURS},
        "hparams": {name: _of_shown(values, shown) for name, values in hparams.items()},
    } | {name: _of_shown(values, shown) for name, values in by_member.items()}


def _describe_shown(shown: np.ndarray) -> str:
    if shown.all():
        return "Every member is here."
    most = shown.sum(axis=1).max()
    return (
        f"Of {shown.shape[1]} members at most {most} a generation are here, evenly "
        "from the tree below, with all their ancestors; history.jsonl has the others."
    )


def _of_shown(values: np.ndarray, shown: np.ndarray) -> list[list]:
    """Lists values `[G, P]` of the members that are shown, generation by generation."""
    return [to_lists(row[mask]) for row, mask in zip(values, shown, strict=True)]


def _as_script_data(data: Any) -> str:
    """Writes JSON that cannot end the script element around it."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e")


def _describe_spaces(run: Recorded) -> dict[str, str]:
    described = {}
    for name, fields in run.settings["hparams"].items():
        rest = [
            f"{key} {format_value(value)}"
            for key, value in fields.items()
            if key != "kind" and value not in (None, False)
        ]
        described[f"hparams.{name}"] = f"{fields['kind']}: {', '.join(rest)}"
    return described


def _table(values: Mapping[str, Any]) -> str:
    rows = "".join(
        f"<tr><th>{html.escape(name)}</th><td>{html.escape(format_value(value))}</td></tr>"
        for name, value in values.items()
    )
    return f"<table>{rows}</table>"


def _resource(name: str) -> str:
    files = importlib.resources.files("jepbt.report")
    return (files / name).read_text(encoding="utf-8")
