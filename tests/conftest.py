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


@pytest.fixture(autouse=True)
def fixed_chunks(monkeypatch):
    """No test's bits or time hang on which chunk size was fastest just then."""
    from jepbt.engine import chunks
    from jepbt.engine.chunks import ChunkChoice

    monkeypatch.setattr(
        chunks,
        "choose_by_measuring",
        lambda candidates, *rest: ChunkChoice(candidates[0], "fixed by the tests"),
    )
