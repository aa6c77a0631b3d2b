"""Programs of the main job and of ResNets, compiled for TPUs that are not here.

    python -m pytest -m tpu tests/engine/test_tpu.py

in an environment with the extra `tpu-compile`. Every figure is the compiler's.
"""

import math
import os
import pathlib
import re
import runpy
from concurrent.futures import ThreadPoolExecutor

import jax
import numpy as np
import optax
import pytest

import jepbt

EXAMPLE = pathlib.Path(__file__).parents[2] / "examples" / "compile_for_tpu.py"
example = runpy.run_path(str(EXAMPLE))
NAMES, estimated_cycles = example["NAMES"], example["estimated_cycles"]

pytestmark = pytest.mark.tpu

MEMBERS_EACH = 32
TOPOLOGIES = {"v5e:1x1": 1, "v5e:2x4": 8, "v5e:16x16": 256}
ITEMSIZE = {"pred": 1, "s8": 1, "u8": 1, "bf16": 2, "f32": 4, "s32": 4, "u32": 4}
MEMBER_BYTES = 2 * 105_866 * 4  # weights and momentum


@pytest.fixture(scope="module", autouse=True)
def compiles_anew():
    """A program for devices that are not here can be put into a cache, but not read."""
    before = jax.config.jax_enable_compilation_cache
    jax.config.update("jax_enable_compilation_cache", False)
    yield
    jax.config.update("jax_enable_compilation_cache", before)


def lower(topology, **settings):
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"  # it only compiles, no chip is used
    return example["lower_for_tpu"](
        jepbt.classification("fashion_mnist"),
        topology,
        population_size=MEMBERS_EACH * TOPOLOGIES[topology],
        num_generations=20,
        steps_per_generation=100,
        **settings,
    )


@pytest.fixture(scope="module", params=TOPOLOGIES)
def compiled(request):
    """`(topology, programs by name)`, all members at once.

    Then memory is at its largest, and hardly any of it fits beside the cores.
    """
    ahead = lower(request.param, chunk_size=MEMBERS_EACH)
    with ThreadPoolExecutor(2) as pool:
        lowered = [getattr(ahead.programs, name) for name in NAMES]
        programs = list(pool.map(lambda program: program.compile(), lowered))
    programs = dict(zip(NAMES, programs, strict=True))
    return request.param, programs


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
    topology, programs = compiled
    for program in programs.values():
        devices = program.input_shardings[0]
        assert devices and estimated_cycles(program.as_text()) > 0, topology


def largest(program, *operations):
    text = program.as_text()
    return max((max(moved(text, op), default=0) for op in operations), default=0)


def test_weights_are_inherited_around_a_ring_and_never_gathered(compiled):
    """All that is gathered is a population's fitness and hyperparameters."""
    topology, programs = compiled
    gathered = largest(programs["evolve"], "all-gather", "all-to-all", "all-reduce")
    assert gathered < MEMBER_BYTES / 2
    passed = largest(programs["evolve"], "collective-permute")
    if TOPOLOGIES[topology] == 1:
        assert passed == gathered == 0
    else:  # the largest leaf of a device's share
        assert passed >= MEMBERS_EACH * 1568 * 64 * 4


def test_keeping_the_best_moves_one_member(compiled):
    """With it travels a handful of numbers of each member: fitness, errors, loss."""
    topology, programs = compiled
    handful = 32 * MEMBERS_EACH * TOPOLOGIES[topology]
    for name in ("init", "evaluate"):
        gathered = largest(programs[name], "all-gather", "all-to-all", "all-reduce")
        assert gathered < 1.1 * MEMBER_BYTES + handful, name


def test_members_do_not_meet_while_they_train(compiled):
    _, programs = compiled
    operations = ("all-gather", "all-to-all", "all-reduce", "collective-permute")
    assert largest(programs["train"], *operations) < MEMBER_BYTES / 2


@pytest.fixture(scope="module")
def residual():
    """Programs of two ResNet-8s a chip, on 256 chips, lowered.

    Beside weights they have running statistics and many small leaves. The pictures are
    tiny: what is asked does not hang on them.
    """
    os.environ["ALLOW_MULTIPLE_LIBTPU_LOAD"] = "1"
    images = np.zeros((64, 8, 8, 3), np.uint8)
    task = jepbt.classification(
        (images, np.arange(64) % 10),
        hparams=example["Hyper"],
        model=jepbt.models.ResNet(depth=8, width=8),
        loss=lambda h: jepbt.losses.cross_entropy,
        optimizer=lambda h: optax.sgd(h.rate, momentum=0.9),
        batch_size=8,
    )
    settings = {"num_generations": 3, "steps_per_generation": 2}
    return example["lower_for_tpu"](
        task, "v5e:16x16", population_size=2 * 256, **settings
    ).programs


def bytes_of(leaf):
    return leaf.size * leaf.dtype.itemsize


SUMMING = ("all-gather", "all-reduce", "all-to-all", "reduce-scatter")


def test_on_256_chips_each_leaf_goes_around_a_ring_and_nothing_is_gathered(residual):
    """A turn of all rings sends a chip's share of the members' states, once."""
    leaves = jax.tree.leaves(residual.init.out_info.population.state)
    text = residual.evolve.compile().as_text()
    assert not any(moved(text, operation) for operation in SUMMING)
    passed = moved(text, "collective-permute")
    assert len(passed) == len(leaves)
    assert sum(passed) == sum(map(bytes_of, leaves)) // 256


def test_on_256_chips_no_weights_move_while_members_train_and_are_scored(residual):
    """A number of each member does; and keeping the best moves one member."""
    state = residual.init.out_info.population.state
    kernel = max(bytes_of(leaf) for leaf in jax.tree.leaves(state.params)) // 512
    member = sum(bytes_of(leaf) for leaf in jax.tree.leaves(state)) // 512
    numbers = 32 * 512
    most = {"train": kernel / 2, "evaluate": 1.1 * member + numbers}
    for name, limit in most.items():
        text = getattr(residual, name).compile().as_text()
        for operation in (*SUMMING, "collective-permute", "collective-broadcast"):
            assert max(moved(text, operation), default=0) < limit, (name, operation)


def test_the_default_chunk_is_estimated_faster_than_all_at_once_and_than_one(compiled):
    """By the compiler's cycles of the training program."""
    topology, programs = compiled
    if topology != "v5e:1x1":
        pytest.skip("chunks are of one device")
    default, single = (
        lower(topology, only=("train",), **settings)
        for settings in ({}, {"chunk_size": 1})
    )
    program = default.programs.train.compile()
    cycles = estimated_cycles(program.as_text())
    assert 1.5 * cycles < estimated_cycles(programs["train"].as_text())
    assert 1.2 * cycles < estimated_cycles(single.programs.train.compile().as_text())


def test_the_example_tells_a_chips_cycles_and_bytes():
    """At least the weights and momentum of two members, held twice."""
    cycles, megabytes = example["estimate"]("lax", 2, 1, 8, num_steps=2)
    assert cycles > 0
    assert 2 * 2 * 4 * 105_866 < megabytes * 1e6 < 40e6
