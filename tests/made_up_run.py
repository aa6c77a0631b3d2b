"""A run that never happened, of any size, as a folder: for pictures and pages."""

import json

import numpy as np

from jepbt.results import Generation, to_json

EVIL = "</script><img src=x onerror=alert(1)>"


def write_run(folder, num_members=6, num_generations=5, seed=0, has_loss=True):
    """Elites keep their slots, the rest become noisy copies; one slot starts afresh."""
    rng = np.random.default_rng(seed)
    slots = np.arange(num_members)
    rate = np.exp(rng.uniform(np.log(1e-3), 0, num_members))
    dropout = rng.uniform(0, 0.6, num_members)
    theta = np.tile([1, -1, 4 / 3, 2, -2, 0, 0.5, 0.5], (num_members, 1))
    choice = np.array(["relu", EVIL], object)[slots % 2]
    lines = []
    for number in range(num_generations):
        parents, fresh = slots, np.zeros(num_members, bool)
        if number > 0:
            rank = np.argsort(np.argsort(-np.nan_to_num(fitness, nan=-1)))  # noqa: F821
            best = np.argsort(rank)[: max(1, num_members // 2)]
            is_child = rank >= num_members // 2
            parents = np.where(is_child, rng.choice(best, num_members), slots)
            noise = np.where(is_child, rng.normal(size=num_members), 0)
            rate = rate[parents] * np.exp(0.1 * noise)
            dropout = np.clip(dropout[parents] + 0.02 * noise, 0, 0.6)
            choice = choice[parents]
            mutation = 0.1 * rng.normal(size=theta.shape) * is_child[:, None]
            theta = theta[parents] + mutation
            fresh[1] = number == num_generations // 2
        fitness = 0.9 - 0.5 * np.exp(-number / 8) - 0.01 * np.abs(np.log(rate / 0.05))
        fitness = np.float32(fitness + 0.01 * rng.normal(size=num_members))
        fitness[0] = np.nan if number == 1 else fitness[0]
        hparams = {
            "rate": np.float32(rate),
            "dropout": np.float32(dropout),
            "activation": choice,
        }
        if has_loss:
            hparams["loss"] = np.float32(theta)
        generation = Generation(
            number=number,
            fitness=fitness,
            standard_error=np.full(num_members, 0.01, np.float32),
            parents=np.int32(parents),
            hparams=hparams,
            metrics={"loss": 1 - fitness},
            info={"fresh": fresh},
            seconds={"train": 1.0},
        )
        lines.append(to_json(generation) + "\n")
    folder.mkdir(exist_ok=True)
    (folder / "history.jsonl").write_text("".join(lines))
    real = {"kind": "Real", "default": 0.1, "max": 1.0}
    spaces = {
        "rate": real | {"min": 1e-3, "log": True},
        "dropout": real | {"min": 0.0, "log": False},
        "activation": {
            "kind": "Categorical",
            "default": "relu",
            "choices": ["relu", EVIL],
        },
    }
    if has_loss:
        default = [1, -1, 4 / 3, 2, -2, 0, 0.5, 0.5]
        spaces["loss"] = {"kind": "TaylorLoss", "default": default}
        spaces["loss"] |= {"noise": 0.0, "sigma": 0.1}
    settings = {
        "config": {
            "population_size": num_members,
            "num_generations": num_generations,
            "steps_per_generation": 10,
            "seed": seed,
            "run_dir": str(folder),
            "chunk_size": "auto",
        },
        "batch_size": 32,
        "chunk_size": 2,
        "strategy": "epbt",
        "hparams": spaces,
        "platform": "cpu",
        "devices": ["cpu"],
        "examples": {"train": 100},
        "data": EVIL,
        "num_classes": 4,
        "model": EVIL,
        "versions": {"jepbt": "0.1.0", "jax": EVIL},
    }
    (folder / "config.json").write_text(json.dumps(settings))
    return folder
