"""A run as a study of Optuna, for its dashboard and its plots.

    jepbt train --run-dir runs/mine
    python examples/export_optuna.py runs/mine sqlite:///optuna.db
    optuna-dashboard sqlite:///optuna.db        # pip install optuna-dashboard

Needs `pip install -e ".[trackers]"`. 2 CPU cores, about 15 seconds for 480 trials, of
32 members and 15 generations. Expect one line, such as `480 trials, the best 0.864`,
with the best fitness of your run.

A trial is one member in one generation: the hyperparameters that it trained with and
the fitness that it had then, on weights that its ancestors have trained before. That is
one more reason why trials of later generations are better; the attribute `generation`
tells them apart. A member that failed is a failed trial.
"""

import argparse

import numpy as np
import optuna
from optuna.distributions import (
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)

from jepbt.hyperparameters import Categorical, Integer
from jepbt.results.recorded import read


def distribution(space, values):
    """Declares to Optuna where a hyperparameter's values come from."""
    if isinstance(space, Categorical):
        return CategoricalDistribution(space.choices)
    low, high = values.min().item(), values.max().item()
    if space.is_bounded:
        low, high = space.min, space.max
    if isinstance(space, Integer):
        return IntDistribution(low, high, log=space.log)
    return FloatDistribution(low, high, log=space.log)


def to_trial_value(value, space):
    """Makes the Python value that Optuna expects of one that was kept in 32 bits."""
    value = getattr(value, "item", lambda: value)()
    if not isinstance(space, CategoricalDistribution) or value in space.choices:
        return value
    return min(space.choices, key=lambda choice: abs(choice - value))


def trials_of(run):
    """Yields a trial for each generation and member, in order."""
    history, operations = run.history, run.history.operations
    spaces = {name: distribution(space, rows) for name, rows, space in run.columns}
    for place in np.ndindex(history.fitness.shape):
        fitness = history.fitness[place].item()
        state = "FAIL" if np.isnan(fitness) else "COMPLETE"
        yield optuna.trial.create_trial(
            state=optuna.trial.TrialState[state],
            value=None if np.isnan(fitness) else fitness,
            params={
                name: to_trial_value(rows[place], spaces[name])
                for name, rows, _ in run.columns
            },
            distributions=spaces,
            user_attrs={
                "generation": place[0],
                "slot": place[1],
                "parent": history.parents[place].item(),
                "operation": str(operations[place]),
            },
        )


def main(folder, storage=None, name=None):
    study = optuna.create_study(storage=storage, study_name=name, direction="maximize")
    study.add_trials(list(trials_of(read(folder))))
    print(f"{len(study.trials)} trials, the best {study.best_value:.3f}")
    return study


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("folder", help="the folder of a run")
    parser.add_argument("storage", help="such as sqlite:///optuna.db")
    parser.add_argument("--name", help="the study's name; by default Optuna's choice")
    main(**vars(parser.parse_args()))
