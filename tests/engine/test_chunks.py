"""How many members a device computes together follows from a rule, not from a clock."""

import jax
import numpy as np
import pytest

import jepbt
from jepbt.engine.devices import choose_chunk, largest_divisor
from jepbt.training import preparation, prepare


@pytest.mark.parametrize(
    ("num_members", "platform", "step_flops", "chosen"),
    [
        (32, "cpu", 2e6, 8),  # small steps: as many as a cache holds
        (12, "cpu", 2e6, 6),
        (7, "cpu", 2e6, 7),
        (11, "cpu", 2e6, 1),
        (32, "cpu", 26e6, 1),  # a core is busy with one
        (32, "cpu", 0, 1),  # nothing is known
        (32, "tpu", 400e6, 8),
        (4096, "gpu", 400e6, 4096),
    ],
)
def test_the_rule_by_platform_and_step(num_members, platform, step_flops, chosen):
    assert choose_chunk(num_members, platform, step_flops).size == chosen


@pytest.mark.parametrize("number", [1, 2, 6, 12, 97, 4096])
def test_a_chunk_divides_the_members_of_a_device(number):
    for most in (1, 5, 8, 10_000):
        divisor = largest_divisor(number, most)
        assert number % divisor == 0 and divisor <= most
        assert not any(number % n == 0 for n in range(divisor + 1, most + 1))


def test_chunks_that_do_not_fit_are_halved_until_they_do(monkeypatch):
    """Eight small members at once hold more activations than four."""
    task = jepbt.classification(
        (np.zeros((40, 6), np.float32), np.arange(40) % 2),
        model=jepbt.models.MLP(num_classes=2, hidden=(4,)),
    )
    settings = {"population_size": 8, "num_generations": 1, "steps_per_generation": 1}
    settings |= {"progress": False, "devices": jax.devices()[:1], "batch_size": 2000}

    def prepare_with(limit):
        monkeypatch.setattr(preparation, "memory_limit", lambda device: limit)
        return prepare(task, **settings)

    free = prepare_with(1e12)
    assert free.chunk.size == 8
    tight = prepare_with(free.memory_bytes - 1)
    assert tight.chunk == (4, "as many as fit")
    assert tight.memory_bytes < free.memory_bytes
