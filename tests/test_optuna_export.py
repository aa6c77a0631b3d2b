"""A run as a study of the real Optuna."""

from dataclasses import dataclass

import numpy as np
import pytest
from example_scripts import load_example
from made_up_run import write_run

import jepbt
from jepbt.hyperparameters import spaces

optuna = pytest.importorskip("optuna", reason="pip install 'jepbt[trackers]'")


def test_every_member_of_every_generation_is_a_trial(tmp_path):
    folder = write_run(tmp_path / "run", num_members=4, num_generations=3)
    history = jepbt.load_history(folder)
    study = load_example("export_optuna").main(
        folder, f"sqlite:///{tmp_path}/optuna.db", "mine"
    )
    kept = optuna.load_study(
        study_name="mine", storage=f"sqlite:///{tmp_path}/optuna.db"
    )
    trials = {
        (t.user_attrs["generation"], t.user_attrs["slot"]): t for t in kept.trials
    }
    assert list(trials) == list(np.ndindex(3, 4))
    for place, trial in trials.items():
        fitness = history.fitness[place]
        assert trial.value == (None if np.isnan(fitness) else fitness)
        assert trial.state.name == ("FAIL" if np.isnan(fitness) else "COMPLETE")
        assert trial.params["rate"] == pytest.approx(history.hparams["rate"][place])
        assert trial.params["activation"] == history.hparams["activation"][place]
        assert trial.user_attrs["parent"] == history.parents[place]
    assert trials[1, 0].state.name == "FAIL"  # as write_run makes it
    assert study.best_value == np.nanmax(history.fitness)
    rate = kept.best_trial.distributions["rate"]
    assert (rate.low, rate.high, rate.log) == (1e-3, 1.0, True)


@dataclass
class Hyper(jepbt.HyperParameters):
    dropout: float = jepbt.hparam(0.1, min=0.0, max=0.6)
    layers: int = jepbt.hparam(2, min=1, max=4)
    size: float = jepbt.hparam(0.1, choices=(0.1, 0.3))
    flip: bool = jepbt.hparam(False)


@pytest.mark.parametrize(
    ("name", "value"), [("dropout", 0.6), ("layers", 3), ("size", 0.3), ("flip", True)]
)
def test_a_value_kept_in_32_bits_is_one_that_optuna_takes(name, value):
    """In 32 bits 0.3 is not the choice 0.3, and 0.6 might lie above the bound."""
    space, example = spaces(Hyper)[name], load_example("export_optuna")
    kept = space.readable(np.array([space.encode(value)]))
    declared = example.distribution(space, kept)
    taken = example.to_trial_value(kept[0], declared)
    assert taken == pytest.approx(value) and type(taken) is type(value)
    trial = optuna.trial.create_trial(
        params={name: taken}, distributions={name: declared}, value=0.0
    )
    assert trial.params == {name: taken}
