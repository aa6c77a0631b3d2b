"""The ways that `beside_ray.py` compares, each at toy size, as a user starts them."""

import json

import pytest
from example_scripts import run_example


@pytest.mark.slow
@pytest.mark.parametrize(
    ("way", "packages"),
    [
        ("jepbt", []),
        ("torch_func", ["torch"]),
        ("pool", ["torch"]),
        ("ray", ["torch", "ray"]),
        ("ray_reused", ["torch", "ray"]),
    ],
)
def test_each_way_trains_all_members_and_lets_the_worst_copy_the_best(
    tmp_path, way, packages
):
    """Copies are counted by the weights; a member of no known weights is an error."""
    for package in packages:
        pytest.importorskip(package, reason=f"{way} needs {package}")
    flags = ["--size", "toy", "--ways", way, "--json", str(tmp_path / "runs.json")]
    run_example("beside_ray", *flags, timeout=1_800)
    (run,) = json.loads((tmp_path / "runs.json").read_text())["runs"]
    assert run["way"] == way and len(run["accuracies"]) == 4
    assert min(run["accuracies"]) > 0.4  # of ten classes
    assert run["num_copied"] == 2  # a quarter of 4 members, twice
    assert run["seconds"] > 0
