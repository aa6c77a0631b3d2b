"""Strict numerics, several CPU devices and a quick compiler, for every test."""

import os

import jax
import pytest

# Programs here run for milliseconds: optimising them takes longer than they do. Given
# XLA_FLAGS stay as they are, be they empty.
os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")
jax.config.update("jax_num_cpu_devices", 4)
jax.config.update("jax_numpy_rank_promotion", "raise")


@pytest.fixture
def key():
    return jax.random.key(0)
