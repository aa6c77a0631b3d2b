"""A run's figures in Weights & Biases, TensorBoard or MLflow, generation by generation.

    python examples/trackers.py tensorboard     # or wandb, or mlflow

Needs `pip install -e ".[trackers]"`. 2 CPU cores, about 10 seconds. Trains a small
population on the embedded images and writes to `tracked/`, without a network; expect a
best fitness of about 0.86. To look at it:

    tensorboard --logdir tracked
    mlflow ui --backend-store-uri sqlite:///tracked/mlflow.db
    wandb sync tracked/wandb/offline-run-*

Copy `scalars` and the function that you need. A tracker is a callback, and `may_fail`
lets the run go on without it where it fails: there is one warning. A run with `run_dir`
can send later what its tracker lacks:

    for generation in jepbt.load_history("runs/0001").generations:
        track(generation)
"""

import argparse
import functools
import pathlib

import numpy as np

import jepbt


def scalars(generation):
    """The generation's figures by name: those of its best member, and the spread."""
    figures = {"num_failed": generation.num_failed}
    if generation.num_failed < generation.fitness.size:
        best = np.nanargmax(generation.fitness)
        figures["fitness/best"] = generation.fitness[best]
        figures["fitness/median"] = np.nanmedian(generation.fitness)
        for kind in ("hparams", "metrics"):
            for name, values in getattr(generation, kind).items():
                if values.ndim == 1 and values.dtype.kind in "biuf":  # no text
                    figures[f"{kind}/{name}"] = values[best]
    return {name: float(value) for name, value in figures.items()}


def wandb_tracker(**settings):
    """Logs to Weights & Biases; the settings are those of `wandb.init`."""
    import wandb

    start = functools.cache(lambda: wandb.init(reinit="create_new", **settings))

    def track(generation):
        start().log(scalars(generation), step=generation.number)

    return jepbt.may_fail(track)


def tensorboard_tracker(folder):
    """Writes TensorBoard's files; `torch.utils.tensorboard` has the same writer."""
    from tensorboardX import SummaryWriter

    start = functools.cache(lambda: SummaryWriter(str(folder), flush_secs=1))

    def track(generation):
        for name, value in scalars(generation).items():
            start().add_scalar(name, value, generation.number)

    return jepbt.may_fail(track)


def mlflow_tracker(uri, **settings):
    """Logs to MLflow's server or file; the settings are those of `mlflow.start_run`."""
    import mlflow

    @functools.cache
    def start():
        mlflow.set_tracking_uri(uri)
        return mlflow.start_run(**settings).info.run_id

    def track(generation):
        mlflow.log_metrics(scalars(generation), generation.number, run_id=start())

    return jepbt.may_fail(track)


def main(name, folder="tracked", **settings):
    folder = pathlib.Path(folder).absolute()
    folder.mkdir(exist_ok=True)
    if name == "wandb":
        track = wandb_tracker(project="jepbt", mode="offline", dir=folder)
    elif name == "tensorboard":
        track = tensorboard_tracker(folder)
    else:
        track = mlflow_tracker(f"sqlite:///{folder}/mlflow.db")
    task = jepbt.classification("fashion_mnist", model=jepbt.models.MLP())
    result = jepbt.train_population(task, callbacks=[track], **settings)
    print(f"best fitness {result.best.fitness}")
    return result


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=("wandb", "tensorboard", "mlflow"))
    jepbt.use_all_cpu_cores()
    main(
        parser.parse_args().name,
        population_size=8,
        num_generations=5,
        steps_per_generation=60,
    )
