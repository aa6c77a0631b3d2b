"""What is known of a run, from its result in memory or from its files alike."""

from __future__ import annotations

import dataclasses
import json
import os
import pathlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from jepbt.hyperparameters import Space, losses_in, read_space, spaces
from jepbt.losses import EvolvedLoss
from jepbt.results.history import History, load_history
from jepbt.results.schedules import Schedules, make_schedules


@dataclasses.dataclass(frozen=True)
class Recorded:
    """A run to look at.

    Attributes:
        history: its generations so far.
        spaces: of its hyperparameters, by name.
        settings: what `config.json` holds; empty if the run has no folder.
        folder: of the run, or `None`.
    """

    history: History
    spaces: Mapping[str, Space]
    settings: Mapping[str, Any]
    folder: pathlib.Path | None

    @property
    def evolved_loss(self) -> EvolvedLoss:
        """The winner's loss; an error if none evolved."""
        return find_loss(self.spaces, self.history.hparams, self.history.ancestry())

    @property
    def num_classes(self) -> int:
        """That of the run's data, or 10 where that is not known."""
        return self.settings.get("num_classes", 10)

    @property
    def has_loss(self) -> bool:
        """Whether a loss evolved."""
        return bool(losses_in(self.spaces))

    def by_number(
        self, values: Mapping[str, np.ndarray]
    ) -> Iterator[tuple[str, np.ndarray, Space | None]]:
        """Lists hyperparameters that are no losses, each entry of a vector by itself.

        Args:
            values: `[..., *its own shape]` by name.

        Yields:
            Name (an entry's is `rates[0]`), values `[...]`, and space, if known.
        """
        for name, array in values.items():
            space = self.spaces.get(name)
            if name in losses_in(self.spaces):
                continue
            if not getattr(space, "shape", ()):
                yield name, array, space
                continue
            for place in range(array.shape[-1]):
                yield f"{name}[{place}]", array[..., place], space

    @property
    def schedule(self) -> Schedules:
        """The winner's hyperparameters by step."""
        return make_schedules(
            self.history,
            self.settings["config"]["steps_per_generation"],
            self.settings["batch_size"],
        )


def read(run: Any) -> Recorded:
    """Collects what is known of a run.

    Args:
        run: a `Result`, a `History`, the folder of a run, or what this returns.

    Returns:
        The same view of each. A history alone knows no spaces.

    Raises:
        TypeError: if it is none of these.
        ValueError: if the folder's files cannot be read.
    """
    if isinstance(run, Recorded):
        return run
    if isinstance(run, History):
        return Recorded(run, {}, {}, None)
    if isinstance(run, str | os.PathLike):
        return _read_folder(pathlib.Path(run))
    if hasattr(run, "history") and hasattr(run, "task"):
        config = dataclasses.asdict(run.config)
        settings = {**run.task.about, "config": config}
        settings["batch_size"] = run.config.batch_size
        return Recorded(run.history, spaces(run.task.hparams), settings, run.run_dir)
    raise TypeError(
        "expected a jepbt.Result, its history, or the folder of a run, got "
        f"{type(run).__name__}."
    )


def _read_folder(folder: pathlib.Path) -> Recorded:
    history = load_history(folder)
    try:
        settings = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        read_spaces = {
            name: read_space(fields) for name, fields in settings["hparams"].items()
        }
    except (
        OSError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
        RecursionError,
    ) as error:
        raise ValueError(
            f"{str(folder / 'config.json')!r} is no configuration of a run ({error})."
        ) from error
    if "loop" in settings:
        settings = _host_settings(settings)
    return Recorded(history, read_spaces, settings, folder)


def _host_settings(settings: Mapping[str, Any]) -> Mapping[str, Any]:
    """Settings of the host loop in the engine's form: a generation is one step."""
    config = {key: value for key, value in settings.items() if key != "hparams"}
    config |= {"num_generations": None, "steps_per_generation": 1}
    return {"config": config, "batch_size": None, "hparams": settings["hparams"]}


def find_loss(
    spaces: Mapping[str, Space],
    hparams: Mapping[str, np.ndarray],
    line: Sequence[int],
) -> EvolvedLoss:
    """Takes the evolved loss of a line of ancestors out of a history.

    Args:
        spaces: of the run's hyperparameters, by name.
        hparams: `[G, P, ...]` by name.
        line: the slots of the line, from `ancestry`.

    Returns:
        The loss; of several, the first.

    Raises:
        ValueError: if no loss evolved in the run.

    Example:
        >>> from jepbt.hyperparameters import TaylorLoss
        >>> from jepbt.losses import taylorglo
        >>> theta = taylorglo.CROSS_ENTROPY_EXPANSION
        >>> space = TaylorLoss(tuple(theta.tolist()), noise=0.0, sigma=0.1)
        >>> find_loss({"loss": space}, {"loss": theta[None, None]}, [0]).name
        'loss'
    """
    for name in losses_in(spaces):
        born = int(np.argmax(np.asarray(line) >= 0))
        slots = np.asarray(line)[born:]
        thetas = hparams[name][np.arange(born, len(line)), slots]
        return EvolvedLoss(name, thetas[-1], thetas)
    raise ValueError(
        f"no loss evolved in this run: of its hyperparameters "
        f"({', '.join(spaces) or 'none'}) none is declared with jepbt.taylor_hparam()."
    )
