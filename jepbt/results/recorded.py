"""Gives one view of a run, whether it is a result in memory or a folder of files."""

import dataclasses
import json
import os
import pathlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from jepbt.arguments import user_path
from jepbt.hyperparameters import Space, losses_in, read_space, spaces
from jepbt.losses import EvolvedLoss
from jepbt.results.history import History
from jepbt.results.json_lines import UNREADABLE, load_history
from jepbt.results.schedules import Schedules
from jepbt.results.table import scalars


@dataclasses.dataclass(frozen=True)
class Recorded:
    """What figures, reports and a run's files are made from.

    The settings are those of `config.json`; they and the spaces are empty if unknown.
    `table` is what the winner's loss has learned of the labels, if it does.
    """

    history: History
    spaces: Mapping[str, Space] = dataclasses.field(default_factory=dict)
    settings: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    folder: pathlib.Path | None = None
    table: np.ndarray | None = None

    @property
    def confusions(self) -> np.ndarray:
        """The table `f32[C, C]` that the winner's loss has learned."""
        if self.table is None:
            self._require_more_than_history("what the winner's loss has learned")
            raise ValueError(
                "this run's loss has learned no table of confusions: it is none of "
                "loss=jepbt.adapt(jepbt.losses.confusion(), rate=...)."
            )
        return self.table

    @property
    def evolved_loss(self) -> EvolvedLoss:
        """The winner's loss, the first of several."""
        for name in losses_in(self.spaces):
            thetas = self.history.hparams[name][self.history.ancestry()]
            return EvolvedLoss(name, thetas[-1], thetas)
        self._require_more_than_history("which of its hyperparameters is a loss")
        raise ValueError(
            f"no loss evolved in this run: of its hyperparameters "
            f"({', '.join(self.spaces) or 'none'}) none is declared with "
            "jepbt.taylor_hparam()."
        )

    def _require_more_than_history(self, what: str) -> None:
        """Raises a `ValueError` if what is asked for may be there, but is unknown."""
        if not self.spaces:
            raise ValueError(
                f"a history alone does not tell {what}: pass the jepbt.Result that it "
                "belongs to, or the run's folder."
            )

    @property
    def num_classes(self) -> int:
        """The number of classes of the run's data, or 10 if it is unknown."""
        return self.settings.get("num_classes", 10)

    @property
    def has_loss(self) -> bool:
        """Whether a loss evolved."""
        return bool(losses_in(self.spaces))

    @property
    def columns(self) -> list[tuple[str, np.ndarray, Space | None]]:
        """Name, values `[G, P]` and space of all but losses; vectors entry by entry."""
        losses = losses_in(self.spaces)
        shown = {  # a vector whose space is unknown may be a loss
            name: values
            for name, values in self.history.hparams.items()
            if name not in losses and (values.ndim == 2 or name in self.spaces)
        }
        return [
            (name, values, self.spaces.get(name.partition("[")[0]))
            for name, values in scalars(shown)
        ]

    @property
    def schedule(self) -> Schedules:
        """The winner's hyperparameters by step, since its weights were new."""
        line = self.history.ancestry()
        return Schedules(
            {name: value[line] for name, value in self.history.hparams.items()},
            self.settings["config"]["steps_per_generation"],
            self.settings["batch_size"],
        )


def read(run: Any) -> Recorded:
    """Collects what is known of a `Result`, a `History` or the folder of a run."""
    if isinstance(run, Recorded):
        return run
    if isinstance(run, History):  # it knows no spaces
        return Recorded(run)
    if isinstance(run, str | os.PathLike):
        return _read_folder(user_path("run", run))
    try:
        task, config, table = run.task, run.config, run.best.confusions
        history, folder = run.history, run.run_dir
    except AttributeError:
        raise TypeError(
            "expected a jepbt.Result, its history, or the folder of a run, got "
            f"{type(run).__name__}."
        ) from None
    settings = {
        **task.about,
        "config": dataclasses.asdict(config),
        "batch_size": config.batch_size,
    }
    return Recorded(history, spaces(task.hparams), settings, folder, table)


def _read_folder(folder: pathlib.Path) -> Recorded:
    history = load_history(folder)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        read_spaces = {
            name: read_space(fields) for name, fields in settings["hparams"].items()
        }
    except (OSError, *UNREADABLE) as error:
        raise ValueError(
            f"{str(folder / 'config.json')!r} is no configuration of a run ({error})."
        ) from error
    if "loop" in settings:  # the host loop's, where a generation is one step
        hparams = settings.pop("hparams")
        settings.pop("identity", None)
        config = {**settings, "num_generations": None, "steps_per_generation": 1}
        settings = {"config": config, "batch_size": None, "hparams": hparams}
    return Recorded(history, read_spaces, settings, folder, _read_table(folder))


def _read_table(folder: pathlib.Path) -> np.ndarray | None:
    """Reads what the winner's loss has learned, if there is such a file."""
    try:
        table = json.loads((folder / "confusions.json").read_text(encoding="utf-8"))
        table = np.array(table["table"], np.float32)
    except (OSError, *UNREADABLE):
        return None
    return table if table.ndim == 2 and len(set(table.shape)) == 1 else None
