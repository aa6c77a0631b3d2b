"""CPU cores as JAX devices, which may be late without being stuck."""

import os
import subprocess
import sys

import jax
import pytest

from jepbt.engine import cores

HAS_FLAG = jax.__version_info__ >= (0, 9)

LATE = """
import itertools, time
import jax, numpy as np
import jepbt
from tiny_task import Hyper, train

assert jepbt.use_all_cpu_cores() > 1
calls = itertools.count()

def wait(x):
    if next(calls) == 0:  # one member of one device, in one step
        time.sleep(70)
    return np.asarray(x)

def step(key, x, h, batch, shared):
    x = jax.pure_callback(wait, x, x, vmap_method="sequential")
    return x - h.rate * x, {"loss": x}

task = jepbt.Task(
    hparams=Hyper,
    init=lambda key, h: jax.numpy.float32(1.0),
    train_step=step,
    evaluate=lambda key, x, h, batch, shared: -x[None],
)
devices = jax.devices()
print(len(train(task, len(devices), 2, 1, devices=devices).history), "generations")
"""


def test_where_jax_has_no_cpu_there_are_no_cores_to_use(monkeypatch):
    """As with JAX_PLATFORMS=cuda, once JAX has started."""

    def refuse(*args):
        raise RuntimeError("Unknown backend: 'cpu' requested")

    jax.devices()
    monkeypatch.setattr(cores.jax, "devices", refuse)
    assert cores.use_all_cpu_cores() == 0


def test_the_cores_are_counted_where_the_system_does_not_tell_whose(monkeypatch):
    def refuse(process):
        raise OSError(38, "none")

    monkeypatch.setattr(os, "sched_getaffinity", refuse)
    assert cores.count_cpu_cores() == os.cpu_count()


@pytest.mark.parametrize("given", [None, "--xla_cpu_enable_fast_math=false"])
def test_devices_may_wait_for_each_other_and_given_flags_stay(monkeypatch, given):
    monkeypatch.delenv("XLA_FLAGS", raising=False)
    if given:
        monkeypatch.setenv("XLA_FLAGS", given)
    cores._let_devices_wait()
    once = os.environ.get("XLA_FLAGS", "")
    assert (given or "") in once
    assert ("terminate_timeout_seconds=604800" in once) == HAS_FLAG
    cores._let_devices_wait()
    assert os.environ.get("XLA_FLAGS", "") == once


@pytest.mark.slow
@pytest.mark.skipif(not HAS_FLAG, reason="JAX 0.8 ends the process")
@pytest.mark.skipif(cores.count_cpu_cores() < 2, reason="needs two cores")
def test_a_device_that_is_a_minute_late_ends_no_run():
    done = subprocess.run(
        [sys.executable, "-c", LATE],
        capture_output=True,
        text=True,
        env={
            **{name: os.environ[name] for name in os.environ if name != "XLA_FLAGS"},
            "PYTHONPATH": os.pathsep.join(sys.path),
            "JAX_PLATFORMS": "cpu",
        },
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "2 generations" in done.stdout
