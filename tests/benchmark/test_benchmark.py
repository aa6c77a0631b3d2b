"""The benchmark: that its controls do equal work, and that its numbers add up."""

import dataclasses
import json
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

import jepbt
from jepbt.benchmark import ScalingReport, ScalingRow, Spread, scaling
from jepbt.benchmark.controls import (
    loop_over_scans,
    loop_over_steps,
    make_start,
    plain_vmap,
    population_program,
)
from jepbt.benchmark.pytorch import PyTorchStart
from jepbt.benchmark.scaling import population_sizes
from jepbt.benchmark.speed import pytorch_start
from jepbt.benchmark.timing import Worker, measure_in_turns
from jepbt.benchmark.workloads import WORKLOADS, make_task
from jepbt.engine.member import trace_member
from jepbt.training import prepare

slow = pytest.mark.slow

SMALL = {
    workload.name: replace(
        workload, population_size=2, batch_size=8, num_steps=2, num_vmap_steps=2
    )
    for workload in WORKLOADS
}


def start_of(workload):
    prepared = prepare(
        make_task(workload),
        strategy="random_search",
        population_size=workload.population_size,
        num_generations=1,
        steps_per_generation=workload.num_steps,
    )
    return prepared, make_start(prepared)


@pytest.fixture(scope="module", params=["mlp", pytest.param("cnn", marks=slow)])
def trained(request):
    """A workload, where it starts, and jepbt's own weights after its steps."""
    workload = SMALL[request.param]
    prepared, start = start_of(workload)
    program = population_program(prepared)
    program.run()
    return workload, start, program.params()


def assert_same_weights(params, expected, start):
    flat, treedef = jax.tree.flatten(expected)
    others, same = jax.tree.flatten(params)
    assert treedef == same
    for one, other, first in zip(
        flat, others, jax.tree.leaves(start.params), strict=True
    ):
        np.testing.assert_allclose(other, one, rtol=1e-3, atol=1e-5)
        assert np.abs(one - first).max() > 1e-4  # they did train


@pytest.mark.parametrize(
    "build",
    [
        loop_over_steps,
        loop_over_scans,
        lambda *args: loop_over_scans(*args, over_devices=True),
        plain_vmap,
    ],
    ids=["steps", "scans", "dealt", "vmap"],
)
def test_jax_controls_train_the_same_members_to_the_same_weights(trained, build):
    workload, start, expected = trained
    control = build(workload, start)
    control.run()
    assert control.num_steps == workload.num_steps
    assert_same_weights(control.params(), expected, start)


@pytest.mark.parametrize("name", ["one at a time", "vmapped"])
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_pytorch_controls_train_the_same_members_to_the_same_weights(trained, name):
    pytest.importorskip("torch")
    from jepbt.benchmark import pytorch

    workload, start, expected = trained
    build = {"one at a time": pytorch.one_at_a_time, "vmapped": pytorch.vmapped}[name]
    control = build(pytorch_start(workload, start), 1)
    control.run()
    assert_same_weights(control.params(), expected, start)


def test_shares_of_the_processes_are_the_whole_population():
    rates = np.array([0.1, 0.2, 0.3], np.float32)
    params = {"dense1": {"bias": rates[:, None] * 10}}
    given = PyTorchStart("mlp", params, rates, np.zeros(0), np.zeros(0))
    shares = [given.share(i, 2) for i in range(2)]
    assert [len(share.learning_rate) for share in shares] == [2, 1]
    assert sorted(np.concatenate([share.learning_rate for share in shares])) == sorted(
        rates
    )
    for share in shares:  # each with its own weights
        biases = share.params["dense1"]["bias"][:, 0]
        np.testing.assert_allclose(biases, 10 * share.learning_rate)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        # Two matmuls forward; both weights' gradients, one input's gradient backward.
        ("mlp", 2 * 64 * (3 * (784 * 256 + 256 * 10) - 784 * 256)),
        (
            "cnn",
            2
            * 64
            * (
                2 * 784 * 9 * 16  # no gradient of the images
                + 3 * (196 * 9 * 16 * 32 + 1568 * 64 + 640)
            ),
        ),
    ],
)
def test_flops_of_a_step_are_those_of_its_matmuls(name, expected):
    workload = next(w for w in WORKLOADS if w.name == name)
    task = make_task(workload)
    config = jepbt.Config(batch_size=64)
    member = trace_member(task, jepbt.strategies.epbt(), config)
    # The rest: biases, ReLU, the loss, the optimizer; and padding, not counted.
    assert member.step_flops == pytest.approx(expected, rel=0.1)


def test_turns_are_taken_round_by_round():
    calls = []
    runs = {name: lambda name=name: calls.append(name) for name in "abc"}
    seconds = measure_in_turns(runs, 3)
    assert "".join(calls) == "abcbcacab"
    assert all(values.shape == (3,) for values in seconds.values())


def test_scaling_measures_a_task_of_the_users_own_and_says_what_it_did():
    task = make_task(SMALL["tiny_mlp"])
    report = scaling(
        task, max_population=6, num_rounds=2, steps_per_generation=4, chunk_size=2
    )
    assert [row.population_size for row in report.rows] == [1, 2, 4, 6]
    # 4 devices (see conftest.py): 6 members share 3 of them.
    assert [row.num_devices for row in report.rows] == [1, 2, 4, 3]
    assert [row.chunk_size for row in report.rows] == [1, 1, 1, 2]
    text = str(report)
    assert "P=6 is not divisible by 4 devices: 3 of them used" in text
    assert "P=4: chunk_size=2 does not divide the 1 members of a device; 1 used" in text
    first, last = report.rows[0], report.rows[-1]
    assert first.relative_cost == Spread(1.0, 1.0, 1.0)
    samples = 6 * 4 * report.batch_size
    assert last.samples_per_second.median == pytest.approx(
        np.mean([samples / last.seconds.low, samples / last.seconds.high])
    )
    assert last.memory_bytes > first.memory_bytes > 0
    assert 0 < last.replaced_members < 6


def test_scaling_skips_what_does_not_fit(monkeypatch):
    task = make_task(SMALL["tiny_mlp"])
    # A device holds 0.7 MB of data, a member 39 kB: two of each fit, four do not.
    monkeypatch.setattr("jepbt.engine.memory.memory_limit", lambda device: 2_000_000)
    report = scaling(task, max_population=8, num_rounds=1, steps_per_generation=2)
    assert [row.population_size for row in report.rows] == [1, 2]
    assert report.notes[-1].startswith("P=4 skipped: population_size=4 needs at least")


def report_of(speeds, share):
    same = Spread(1.0, 1.0, 1.0)
    rows = tuple(
        ScalingRow(
            population_size=2**i,
            num_devices=1,
            chunk_size=1,
            seconds=same,
            samples_per_second=Spread(speed, 0.9 * speed, 1.1 * speed),
            relative_cost=same,
            seconds_per_member=same,
            share_of_peak=share * speed / speeds[0],
            select_and_vary_seconds=same,
            inherit_seconds=same,
            replaced_members=1,
            copy_seconds=same,
            compile_seconds=1.0,
            memory_bytes=1,
        )
        for i, speed in enumerate(speeds)
    )
    return ScalingReport("1 x test", 10, 64, 3, 1e11, 1e6, rows, ("a note",))


def test_ceiling_and_knee_by_hand():
    """One member at 20 % of the peak: at most 5 times; 95 is within a tenth of 100."""
    report = report_of([25.0, 50.0, 95.0, 100.0], 0.2)
    assert report.ceiling == pytest.approx(5)
    assert report.knee == 4
    assert "1/u = 5 times its throughput; here P = 8 gains 4 times" in report.law()


def test_json_holds_every_number():
    report = report_of([25.0, 50.0], 0.2)
    facts = json.loads(report.to_json())
    rows = tuple(
        ScalingRow(
            **{k: Spread(**v) if isinstance(v, dict) else v for k, v in r.items()}
        )
        for r in facts["rows"]
    )
    names = [field.name for field in dataclasses.fields(report)]
    again = {name: facts[name] for name in names}
    again |= {"rows": rows, "notes": tuple(facts["notes"])}
    assert ScalingReport(**again) == report
    assert facts["knee"] == 2 and facts["ceiling"] == pytest.approx(5)


def test_figure_shows_measurements_ideal_ceiling_and_knee(tmp_path):
    axes = jepbt.plots.scaling(report_of([25.0, 50.0, 95.0, 100.0], 0.2))
    lines = {line.get_label().split(":")[0]: line for line in axes.lines}
    np.testing.assert_allclose(lines["ideal"].get_ydata(), [25, 50, 100, 200])
    np.testing.assert_allclose(lines["ceiling"].get_ydata(), 125)
    np.testing.assert_allclose(lines["knee"].get_xdata(), 4)
    axes.figure.savefig(tmp_path / "scaling.png")
    assert (tmp_path / "scaling.png").stat().st_size > 10_000


def test_sizes_double_and_end_with_the_one_asked_for():
    assert population_sizes(1) == [1]
    assert population_sizes(8) == [1, 2, 4, 8]
    assert population_sizes(12) == [1, 2, 4, 8, 12]


def test_a_failure_in_a_worker_is_reported_by_the_parent():
    with Worker() as worker:
        worker.build(Spread.of, [])
        with pytest.raises(RuntimeError, match="ValueError"):
            worker.wait()


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "jepbt", "benchmark", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
    )


@slow
def test_the_command_prints_its_rows_and_writes_its_files(tmp_path):
    done = command(
        *["--models", "tiny_mlp", "--quick", "--max-population", "2"],
        *["--num-rounds", "1", "--json", "b.json", "--figure", "b.png"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    starts = [line[:12] for line in done.stdout.splitlines()]
    for row in ("jepbt  ", "loop over ji", "plain vmap, ", "One member a"):
        assert any(start.startswith(row) for start in starts), (row, done.stdout)
    assert "PyTorch" in done.stdout  # its rows, or how to install it
    (model,) = json.loads((tmp_path / "b.json").read_text())["models"]
    assert [row["population_size"] for row in model["scaling"]["rows"]] == [1, 2]
    assert model["speed"]["rows"][0]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert (tmp_path / "b.png").exists()
