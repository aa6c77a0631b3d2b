"""A small run that can be stopped, killed and resumed, here and as a process."""

import dataclasses
import json
import sys

import numpy as np
import optax

import jepbt

generator = np.random.default_rng(0)
IMAGES = generator.normal(size=(300, 6)).astype(np.float32)
LABELS = (IMAGES[:, 0] + IMAGES[:, 1] > 0).astype(int)
SMALL = {
    "population_size": 8,
    "num_generations": 6,
    "steps_per_generation": 5,
    "progress": False,
    "chunk_size": 1,
    "checkpoint_every": 1,
}


@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.5, log=True)
    activation: str = jepbt.hparam("relu", choices=("relu", "tanh"))
    loss: jepbt.Loss = jepbt.taylor_hparam()


def make_task(images=IMAGES, hidden=8, momentum=0.9, hparams=Hyper):
    data = jepbt.datasets.from_arrays(
        (images[:200], LABELS[:200]),
        validation=50,
        test=(images[200:], LABELS[200:]),
    )
    return jepbt.classification(
        data,
        hparams=hparams,
        model=jepbt.models.MLP(num_classes=2, hidden=(hidden,)),
        loss=lambda h: jepbt.losses.taylor(h.loss),
        optimizer=lambda h: optax.sgd(h.rate, momentum=momentum),
    )


def train(task=None, **settings):
    return jepbt.train_population(task or make_task(), **(SMALL | settings))


def everything(result):
    """All arrays of a result, by name."""
    import jax

    history = result.history
    arrays = {
        "fitness": history.fitness,
        "standard_error": history.standard_error,
        "parents": history.parents,
    }
    arrays |= {f"hparams/{k}": v for k, v in history.hparams.items()}
    arrays |= {f"metrics/{k}": v for k, v in history.metrics.items()}
    for report in history.generations:
        arrays |= {f"info/{report.number}/{k}": v for k, v in report.info.items()}
    for name in ("population", "best", "final_best", "median", "first_best"):
        holder = getattr(result, name)
        for path, leaf in jax.tree_util.tree_leaves_with_path(holder.state):
            if jax.dtypes.issubdtype(leaf.dtype, jax.dtypes.prng_key):
                leaf = jax.random.key_data(leaf)
            arrays[f"{name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
        if name != "population":
            facts = [*holder.fitness, holder.generation, holder.slot]
            arrays[f"{name}/facts"] = np.array(facts)
            arrays[f"{name}/hparams"] = np.array([repr(holder.hparams)])
    return arrays


def assert_equal_bits(left, right):
    left, right = everything(left), everything(right)
    assert left.keys() == right.keys()
    for name, value in left.items():
        other = right[name]
        assert (value.dtype, value.shape) == (other.dtype, other.shape), name
        if value.dtype == object:
            assert value.tolist() == other.tolist(), name
        else:
            assert value.tobytes() == other.tobytes(), name


def main():
    """`python resumable.py FOLDER DEVICES OUT`: trains or resumes, saves all arrays."""
    import jax

    folder, devices, out, settings = sys.argv[1:5]
    jax.config.update("jax_num_cpu_devices", int(devices))
    task = make_task()
    prepared = jepbt.training.prepare(
        task, **(SMALL | json.loads(settings) | {"run_dir": folder, "resume": True})
    )
    print("start", flush=True)
    result = jepbt.training.execute(prepared, [lambda g: print(g.number, flush=True)])
    arrays = everything(result)
    arrays = {k: v.astype(str) if v.dtype == object else v for k, v in arrays.items()}
    np.savez(out, **{k.replace("/", "|"): v for k, v in arrays.items()})


if __name__ == "__main__":
    main()
