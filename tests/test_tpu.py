"""The main job's programs, compiled for TPUs that are not here.

    python -m pytest -m tpu tests/test_tpu.py

in an environment with the extra `tpu-compile`. Every figure is the compiler's.
"""

import math
import os
import re
from concurrent.futures import ThreadPoolExecutor

import pytest

import jepbt
from jepbt.ahead import NAMES, compiled_bytes, estimated_cycles, lower_for_tpu
from jepbt.estimate import array_bytes

pytestmark = pytest.mark.tpu

MEMBERS_EACH = 32
TOPOLOGIES = {"v5e:1x1": 1, "v5e:2x4": 8, "v5e:16x16": 256}
ITEMSIZE = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f32": 4, "s32": 4, "u32": 4}
# One member's weights; a population's fitness and hyperparameters are far smaller.
WEIGHTS_BYTES = 105_866 * 4


@pytest.fixture(scope="module", params=TOPOLOGIES)
def compiled(request):
    """`(topology, programs by name, jepbt's estimates by name)`."""
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # it only compiles, no chip is used
    ahead = lower_for_tpu(
        jepbt.classification("fashion_mnist"),
        request.param,
        population_size=MEMBERS_EACH * TOPOLOGIES[request.param],
        num_generations=20,
        steps_per_generation=100,
    )
    with ThreadPoolExecutor(2) as pool:
        lowered = [getattr(ahead.programs, name) for name in NAMES]
        programs = list(pool.map(lambda program: program.compile(), lowered))
    programs = dict(zip(NAMES, programs, strict=True))
    return request.param, programs, ahead.estimated_bytes


def moved(text, operation):
    """The bytes of each result of a collective operation in a compiled program."""
    found = re.findall(rf"= (.*?) {operation}(?:-start)?\(", text)
    return [
        sum(
            ITEMSIZE[dtype] * math.prod(int(n) for n in shape.split(",") if n)
            for dtype, shape in re.findall(r"(\w+)\[([\d,]*)\]", result)
        )
        for result in found
    ]


def test_compiles_for_the_chip_named(compiled):
    topology, programs, _ = compiled
    for program in programs.values():
        devices = program.input_shardings[0]
        assert devices and estimated_cycles(program.as_text()) > 0, topology


def test_weights_are_inherited_around_a_ring_and_never_gathered(compiled):
    topology, programs, _ = compiled
    text = programs["evolve"].as_text()
    for operation in ("all-gather", "all-to-all", "all-reduce"):
        assert max(moved(text, operation), default=0) < WEIGHTS_BYTES, operation
    passed = max(moved(text, "collective-permute"), default=0)
    if TOPOLOGIES[topology] == 1:
        assert passed == 0
    else:  # the largest leaf of a device's share
        assert passed >= MEMBERS_EACH * 1568 * 64 * 4


def test_members_do_not_meet_while_they_train(compiled):
    _, programs, _ = compiled
    text = programs["train"].as_text()
    for operation in ("all-gather", "all-to-all", "all-reduce", "collective-permute"):
        assert max(moved(text, operation), default=0) < 64 * 1024, operation


@pytest.mark.parametrize("name", NAMES)
def test_bytes_on_a_device_are_as_estimated(compiled, name):
    _, programs, estimated = compiled
    assert estimated[name] == pytest.approx(compiled_bytes(programs[name]), rel=0.2)


def test_a_population_is_stored_in_tiles(compiled):
    """The compiler's bytes of a share's arguments are those of 8 x 128 tiles."""
    topology, programs, _ = compiled
    layers = [(3, 3, 1, 16), (16,), (3, 3, 16, 32), (32,)]
    layers += [(1568, 64), (64,), (64, 10), (10,)]
    shares = [array_bytes((MEMBERS_EACH, *shape), 4, "tpu") for shape in layers]
    best = [array_bytes(shape, 4, "tpu") for shape in layers]
    expected = 2 * sum(shares) + 2 * sum(best)  # weights and momentum
    given = programs["evolve"].memory_analysis().argument_size_in_bytes
    assert given == pytest.approx(expected, rel=0.02), topology
