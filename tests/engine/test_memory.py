"""Memory: a lower bound before anything compiles, the compiler's figure after."""

import jax
import numpy as np
import pytest

import jepbt
from jepbt.engine import memory
from jepbt.engine.member import TracedMember, trace_member
from jepbt.engine.memory import DoesNotFit, check_programs
from jepbt.hyperparameters import HyperParameters
from jepbt.training import preparation, prepare

STATE = jax.ShapeDtypeStruct((25,), np.float32)  # 100 bytes
MEMBER = TracedMember(STATE, (), {}, None, None)


def need(monkeypatch, limit, num_members, data=None, num_devices=2):
    monkeypatch.setattr(memory, "memory_limit", lambda device: limit)
    task = jepbt.Task(
        HyperParameters,
        init=lambda key, h: 0,
        train_step=lambda key, s, h, batch, shared: 0,
        evaluate=lambda key, s, h, batch, shared: 0,
        data=data,
    )
    config = jepbt.Config(population_size=num_members)
    return memory.check_memory(MEMBER, task, config, jax.devices()[:num_devices])


@pytest.mark.devices(2)
@pytest.mark.devices("cpu")
def test_every_member_is_held_once_and_the_data_on_each_device(monkeypatch):
    """1,000 bytes: 10 members of 100, or 6 with 200 bytes of data on both devices."""
    assert need(monkeypatch, 1_000, 10) == 1_000
    with pytest.raises(DoesNotFit, match="At most 10 members fit"):
        need(monkeypatch, 1_000, 12)
    data = jepbt.Splits(np.zeros(30, np.float32), np.zeros(20, np.float32))
    assert need(monkeypatch, 1_000, 6, data) == 1_000
    with pytest.raises(DoesNotFit, match="At most 6 members fit"):
        need(monkeypatch, 1_000, 8, data)


@pytest.mark.parametrize("chunk_size", [1, 4])
def test_a_population_is_held_once_and_a_chunk_beside_it(chunk_size):
    """32 members on one device: what a program holds beside them is a chunk's share.

    A second population, as `lax.map` and `leaf[parents]` make one, would be as large as
    the first: temp bytes of one state at least.
    """
    prepared = prepare(
        TASK, population_size=32, **(SETTINGS | {"chunk_size": chunk_size})
    )
    state = prepared.checkpoint_bytes
    for name in ("evolve", "train", "evaluate"):
        memory = getattr(prepared.programs, name).memory_analysis()
        assert memory.temp_size_in_bytes < 0.6 * state, name
        assert memory.alias_size_in_bytes > 0.9 * state, name


def test_programs_that_reserve_too_much_are_refused_with_what_to_choose():
    config = jepbt.Config(population_size=8, batch_size=64)
    check_programs(4_000, 4_000, config, 4)
    with pytest.raises(DoesNotFit, match=r"4 members at a time.*Choose chunk_size=1"):
        check_programs(4_001, 4_000, config, 4)
    with pytest.raises(DoesNotFit, match=r"1 member at a time.*a smaller batch_size"):
        check_programs(4_001, 4_000, config, 1)
    with pytest.raises(DoesNotFit, match=r"reserve more than the 4 kB there are"):
        check_programs(float("inf"), 4_000, config, 1)  # the compiler itself refused


IMAGES = np.zeros((100, 64), np.float32)
DATA = jepbt.datasets.from_arrays((IMAGES, np.arange(100) % 2), validation=50)
TASK = jepbt.classification(
    DATA, model=jepbt.models.MLP(num_classes=2, hidden=(256,), dropout=None)
)
SETTINGS = {"progress": False, "devices": jax.devices()[:1], "chunk_size": 1}


def test_a_batch_too_large_for_memory_is_refused_before_a_run_starts(monkeypatch):
    """Two members fit many times over; the activations of 50,000 examples do not."""
    for module in (memory, preparation):
        monkeypatch.setattr(module, "memory_limit", lambda device: 20e6)
    settings = SETTINGS | {"population_size": 2, "steps_per_generation": 1}
    prepare(TASK, batch_size=8, **settings)
    with pytest.raises(DoesNotFit, match=r"batch_size=50000: the compiled programs"):
        prepare(TASK, batch_size=50_000, **settings)


def test_the_bound_is_below_what_the_compiler_reserves():
    """Above it, what could run would be refused; far below, it would tell nothing."""
    settings = SETTINGS | {"population_size": 16, "steps_per_generation": 2}
    prepared = prepare(TASK, batch_size=8, **settings)
    member = trace_member(TASK, jepbt.strategies.epbt(), prepared.config)
    bound = memory.check_memory(member, TASK, prepared.config, jax.devices()[:1])
    assert 0.5 < bound / prepared.memory_bytes <= 1
