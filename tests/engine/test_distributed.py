"""Two processes that share a population do what one does."""

import json
import signal
import socket
import subprocess
import sys
import time

import numpy as np
import pytest

PROGRAM = """
import dataclasses, json, sys
import jax
jax.config.update("jax_num_cpu_devices", int(sys.argv[1]))
process, count, address, folder = int(sys.argv[2]), int(sys.argv[3]), *sys.argv[4:6]
settings = {"num_generations": 4} | json.loads(sys.argv[6])
if count > 1:
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    jax.distributed.initialize(address, count, process)
import numpy as np, optax
import jepbt

@dataclasses.dataclass
class Hyper(jepbt.HyperParameters):
    rate: float = jepbt.hparam(0.05, min=1e-3, max=0.5, log=True)

generator = np.random.default_rng(0)
images = generator.normal(size=(300, 6)).astype(np.float32)
data = jepbt.datasets.from_arrays(
    (images[:200], (images[:200, 0] > 0).astype(int)),
    validation=50,
    test=(images[200:], (images[200:, 0] > 0).astype(int)),
)
task = jepbt.classification(
    data,
    hparams=Hyper,
    model=jepbt.models.MLP(num_classes=2, hidden=(8,)),
    loss=lambda h: jepbt.losses.cross_entropy,
    optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
)
result = jepbt.train_population(
    task, population_size=8, steps_per_generation=10,
    progress=False, chunk_size=1, run_dir=folder, **settings,
)
assert jax.device_count() == 4
print(json.dumps({
    "fitness": result.history.fitness.tolist(),
    "parents": result.history.parents.tolist(),
    "test": result.test().best.mean,
    "weight": float(result.best.params["dense1"]["kernel"].sum()),
    "median": float(result.median.params["dense1"]["kernel"].sum()),
}))
"""


def start(tmp_path, name, devices, process, count, address, **settings):
    return subprocess.Popen(
        [
            sys.executable,
            "-c",
            PROGRAM,
            *map(str, (devices, process, count, address, tmp_path / name)),
            json.dumps(settings),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def outcome(process):
    stdout, stderr = process.communicate(timeout=280)
    assert process.returncode == 0, stderr[-3000:]
    return json.loads(stdout.splitlines()[-1])


def start_pair(tmp_path, name, **settings):
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{probe.getsockname()[1]}"
    return [start(tmp_path, name, 2, rank, 2, address, **settings) for rank in range(2)]


def test_two_processes_of_two_devices_equal_one_of_four(tmp_path):
    first, second = map(outcome, start_pair(tmp_path, "two"))
    assert first == second
    alone = outcome(start(tmp_path, "one", 4, 0, 1, "unused"))
    np.testing.assert_array_equal(first["parents"], alone["parents"])
    for name in ("fitness", "test", "weight", "median"):
        np.testing.assert_allclose(first[name], alone[name], atol=1e-4)
    lines = (tmp_path / "two" / "history.jsonl").read_text().splitlines()
    assert len(lines) == 4  # written by one process alone


@pytest.mark.slow
def test_two_processes_go_on_from_their_checkpoint(tmp_path):
    whole, _ = map(outcome, start_pair(tmp_path, "whole"))
    limits = {"max_seconds": 1e-9, "resume": True}
    stopped, _ = map(outcome, start_pair(tmp_path, "run", **limits))
    assert stopped["fitness"] == whole["fitness"][:1]
    first, second = map(outcome, start_pair(tmp_path, "run", resume=True))
    assert first == second == whole


@pytest.mark.slow
def test_what_one_process_refuses_stops_both(tmp_path):
    for process in start_pair(tmp_path, "run", num_generations=1):
        outcome(process)
    changed = {"resume": True, "seed": 1}
    for process in start_pair(tmp_path, "run", **changed):
        _, stderr = process.communicate(timeout=280)
        assert process.returncode != 0 and "seed was 0 and is 1" in stderr


@pytest.mark.slow
def test_a_signal_to_one_process_stops_both(tmp_path):
    pair = start_pair(tmp_path, "run", num_generations=100_000)
    history = tmp_path / "run" / "history.jsonl"
    deadline = time.monotonic() + 200
    while time.monotonic() < deadline and not (
        history.exists() and history.read_text().count("\n") > 2
    ):
        time.sleep(0.1)
    pair[1].send_signal(signal.SIGTERM)
    for process in pair:
        _, stderr = process.communicate(timeout=280)
        assert process.returncode != 0 and "Interrupted: stopped by SIGTERM" in stderr
    saved = sorted(int(p.name) for p in (tmp_path / "run" / "checkpoints").iterdir())
    assert saved[-1] == history.read_text().count("\n") - 1
