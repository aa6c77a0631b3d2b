"""Says how much of a device is checked."""

from __future__ import annotations

import dataclasses


@dataclasses.dataclass(frozen=True)
class Size:
    """How much a check trains and times.

    Attributes:
        run: the settings of the runs that tell whether it is right.
        models: the names of the models whose cost is measured.
        populations: the population sizes whose cost is measured, the smallest first.
        num_steps: the steps of a timed call.
        num_steps_on_cpu: the same on CPU, where a call costs next to nothing.
        num_forms: the forms that are compared, the most telling first.
        num_members: the members that they are compared with.
        num_members_on_cpu: the same on CPU, where one form is a hundred times slower.
        most_seconds: a timed call that would take longer is left out.
    """

    run: dict[str, int]
    models: tuple[str, ...]
    populations: tuple[int, ...]
    num_steps: int
    num_steps_on_cpu: int
    num_forms: int
    num_members: int
    num_members_on_cpu: int
    most_seconds: float


RESNET = "resnet20"

SIZES = {
    "full": Size(
        {"population_size": 8, "num_generations": 3, "steps_per_generation": 20},
        ("tiny_mlp", "mlp", "cnn", "wide_mlp", RESNET),
        (1, 16, 64, 256, 1024),
        num_steps=100,
        num_steps_on_cpu=20,
        num_forms=22,
        num_members=64,
        num_members_on_cpu=8,
        most_seconds=5.0,
    ),
    "toy": Size(
        {"population_size": 4, "num_generations": 2, "steps_per_generation": 2},
        ("tiny_mlp",),
        (1, 2),
        num_steps=2,
        num_steps_on_cpu=2,
        num_forms=4,
        num_members=2,
        num_members_on_cpu=2,
        most_seconds=60.0,
    ),
}
