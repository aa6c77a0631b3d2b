"""A small run shared by processes, each with some of the devices, as a program.

    python tests/processes.py '{"devices": 2, "process": 0, "count": 2, ...}'

prints the digest of every array that a run leaves, by name, or why it was refused: one
line of JSON a run.
"""

import dataclasses
import hashlib
import json
import os
import pathlib
import socket
import subprocess
import sys

import numpy as np

SMALL = {
    "population_size": 8,
    "num_generations": 4,
    "steps_per_generation": 10,
    "batch_size": 16,
    "chunk_size": 1,
    "progress": False,
}


def start(layout, *runs):
    """Starts the processes of a layout, such as (2, 2) for two of two devices each.

    Args:
        layout: the number of processes, and of devices in each.
        *runs: the settings of the runs, one after the other, over those of `SMALL`;
            "in_1" are over those, in process 1 alone, "seed_of_data" makes other data,
            and "elsewhere" hides the run's folder.
    """
    count, devices = layout
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    facts = {"devices": devices, "count": count, "address": address, "runs": runs}
    return [launch(facts | {"process": process}) for process in range(count)]


def launch(facts):
    """Starts one process, on the CPU: `facts` are its program's argument."""
    path = os.pathsep.join(map(str, sys.path))
    return subprocess.Popen(
        [sys.executable, __file__, json.dumps(facts)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
    )


def outcomes(processes):
    """Waits, and returns what the runs left, the same in all processes."""
    found = told(processes)
    assert all(runs == found[0] for runs in found)
    return found[0]


def told(processes):
    """Waits, and returns what each process said of its runs."""
    ended = [(process, *process.communicate(timeout=280)) for process in processes]
    for process, _, stderr in ended:
        assert process.returncode == 0, stderr[-3000:]
    return [
        [json.loads(line) for line in stdout.splitlines() if line.startswith("{")]
        for _, stdout, _ in ended
    ]


def make_task(seed_of_data=0):
    import optax

    import jepbt

    @dataclasses.dataclass
    class Hyper(jepbt.HyperParameters):
        rate: float = jepbt.hparam(0.05, min=1e-3, max=0.5, log=True)

    generator = np.random.default_rng(seed_of_data)
    images = generator.normal(size=(300, 6)).astype(np.float32)
    labels = (images[:, 0] + images[:, 1] > 0).astype(int)
    data = jepbt.datasets.from_arrays(
        (images[:200], labels[:200]), validation=50, test=(images[200:], labels[200:])
    )
    return jepbt.classification(
        data,
        hparams=Hyper,
        model=jepbt.models.MLP(num_classes=2, hidden=(8,)),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
    )


def everything(result):
    """All that a run hands back and that no process holds a part of only, by name."""
    import jax

    history = result.history
    found = {
        "fitness": history.fitness,
        "parents": history.parents,
        "test": np.array([score.mean for score in result.test()]),
        **history.hparams,
        **history.metrics,
    }
    for name in ("best", "median", "first_best"):
        for path, leaf in jax.tree_util.tree_leaves_with_path(
            getattr(result, name).params
        ):
            found[f"{name}{jax.tree_util.keystr(path)}"] = np.asarray(leaf)
    return found


def digest(arrays):
    return {
        name: hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]
        for name, array in arrays.items()
    }


def main():
    facts = json.loads(sys.argv[1])
    import jax

    jax.config.update("jax_num_cpu_devices", facts["devices"])
    if facts["count"] > 1:
        jax.distributed.initialize(
            facts["address"],
            facts["count"],
            facts["process"],
            heartbeat_timeout_seconds=20,
        )
    print("joined", flush=True)
    import jepbt

    assert jax.device_count() == facts["devices"] * facts["count"]
    for settings in facts["runs"]:
        changed = settings.pop("in_1", {})
        settings = SMALL | settings | (changed if facts["process"] == 1 else {})
        if settings.pop("elsewhere", False):
            hide_folder()
        task = make_task(settings.pop("seed_of_data", 0))
        try:
            found = digest(everything(jepbt.train_population(task, **settings)))
        except ValueError as error:
            found = {"refused": str(error)}
        print(json.dumps(found), flush=True)


def hide_folder():
    """Makes this process look for the run's folder on a disk that is not shared."""
    from jepbt.checkpoints import resume

    wait, resume.PATIENCE = resume._wait_for, 0.1
    resume._wait_for = lambda mark, token: wait(mark.parent / "nowhere", token)


if __name__ == "__main__":
    sys.path.insert(0, str(pathlib.Path(__file__).parent.parent))
    main()
