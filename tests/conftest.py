"""Strict numerics, several CPU devices and a quick compiler, for every test."""

import os

import jax
import pytest

# Programs here run for milliseconds: optimising them takes longer than they do. Given
# XLA_FLAGS stay as they are, be they empty. An unknown flag ends the process, and the
# last one is known no longer in JAX 0.11.
flags = [
    "--xla_backend_optimization_level=0",
    "--xla_cpu_parallel_codegen_split_count=1",
]
if jax.__version_info__ < (0, 11):
    flags.append("--xla_cpu_use_fusion_emitters=false")
if jax.__version_info__ >= (0, 8):  # a device that is late is not stuck
    flags.append("--xla_cpu_collective_call_terminate_timeout_seconds=3600")
os.environ.setdefault("XLA_FLAGS", " ".join(flags))
jax.config.update("jax_num_cpu_devices", 4)
# GPUs and TPUs round multiplications to fewer digits, unless told not to.
jax.config.update("jax_default_matmul_precision", "highest")
# Callbacks, and the count of arithmetic, need the CPU beside an accelerator.
platforms = jax.config.jax_platforms
if platforms and "cpu" not in platforms.split(","):
    jax.config.update("jax_platforms", f"{platforms},cpu")
jax.config.update("jax_numpy_rank_promotion", "raise")


def pytest_configure(config):
    """Keeps compiled programs from test to test and from session to session.

    Tests compile the same programs again and again. All workers, and the processes that
    tests start, share a folder below pytest's own cache, unless one is configured;
    `pytest --cache-clear` empties it, and `-p no:cacheprovider` does without.
    """
    has_cache = hasattr(config, "cache")
    if has_cache and jax.config.jax_compilation_cache_dir is None:
        settings = {
            "jax_compilation_cache_dir": str(config.cache.mkdir("jax")),
            "jax_persistent_cache_min_compile_time_secs": 0.0,
            "jax_persistent_cache_min_entry_size_bytes": -1,
        }
        for name, value in settings.items():
            jax.config.update(name, value)
            os.environ[name.upper()] = str(value)


def pytest_runtest_setup(item):
    """Skips a test that needs more devices than there are, as on one GPU.

    A test says so by `@pytest.mark.devices(4)`, a case by its parameter `num_devices`;
    `@pytest.mark.devices("cpu")` asks for the CPU as the platform.
    """
    needed = [mark.args[0] for mark in item.iter_markers("devices")]
    case = getattr(item, "callspec", None)
    needed += [case.params.get("num_devices", 1)] if case else []
    for wanted in needed:
        if wanted == 1:
            continue
        devices = jax.devices()
        if wanted == "cpu" and devices[0].platform != "cpu":
            pytest.skip(f"is about the CPU, and this is a {devices[0].platform}")
        if wanted != "cpu" and wanted > len(devices):
            pytest.skip(f"needs {wanted} devices, and there are {len(devices)}")


@pytest.fixture
def key():
    return jax.random.key(0)
