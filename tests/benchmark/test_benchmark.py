"""The benchmark: that its controls do equal work, and that its numbers add up."""

import dataclasses
import json
import re
import subprocess
import sys
from dataclasses import replace

import jax
import numpy as np
import pytest

import jepbt
from jepbt.benchmark import ScalingReport, ScalingRow, Spread, pytorch, scaling
from jepbt.benchmark.controls import (
    loop_over_scans,
    loop_over_steps,
    make_start,
    plain_vmap,
    population_program,
    prepare_training,
)
from jepbt.benchmark.scaling import chunk_candidates, population_sizes
from jepbt.benchmark.speed import compare_speed, pytorch_start
from jepbt.benchmark.timing import Start, build_all, measure_in_turns, start_workers
from jepbt.benchmark.workloads import WORKLOADS, make_task
from jepbt.engine.member import trace_member

slow = pytest.mark.slow

SMALL = {
    workload.name: replace(
        workload, population_size=2, batch_size=8, num_steps=2, num_vmap_steps=2
    )
    for workload in WORKLOADS
}


def start_of(workload):
    prepared = prepare_training(
        make_task(workload), workload.population_size, workload.num_steps
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


def deal_scans(workload, start):
    return loop_over_scans(workload, start, jax.devices())


def vmap_flax_layers(workload, start):
    task = make_task(workload, has_flax_layers=True)
    return plain_vmap(task, start, workload.num_steps)


@pytest.mark.parametrize(
    "build", [loop_over_steps, loop_over_scans, deal_scans, vmap_flax_layers]
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
    workload, start, expected = trained
    build = {"one at a time": pytorch.one_at_a_time, "vmapped": pytorch.vmapped}[name]
    given = pytorch_start(workload, start)
    control = build(given, 1)
    control.run()
    wanted, first = (
        pytorch.stack_weights(pytorch.make_networks(given._replace(params=params)))
        for params in (expected, start.params)
    )
    for weight, trained in control.params().items():
        np.testing.assert_allclose(trained, wanted[weight], rtol=1e-3, atol=1e-5)
        assert abs(trained - first[weight]).max() > 1e-4  # they did train


def test_shares_of_the_processes_are_the_whole_population():
    rates = np.array([0.1, 0.2, 0.3], np.float32)
    params = {"dense1": {"bias": rates[:, None] * 10}}
    given = Start(params, rates, {})
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
    assert "".join(calls) == "abc" + "abcbcacab"  # each once before, to warm up
    assert all(values.shape == (3,) for values in seconds.values())


@pytest.mark.devices(2)
def test_scaling_measures_a_task_of_the_users_own_and_says_what_it_did():
    report = scaling(
        make_task(SMALL["tiny_mlp"]),
        max_population=3,
        steps_per_generation=4,
        strategy="random_search",
        chunk_size=2,
        num_rounds=2,
        devices=jax.devices()[:2],
    )
    assert [row.population_size for row in report.rows] == [1, 2, 3]
    assert [row.num_devices for row in report.rows] == [1, 2, 1]
    assert [row.chunk_size for row in report.rows] == [1, 1, 1]
    text = str(report)
    assert "P=3 is not divisible by 2 devices: 1 of them used" in text
    assert "P=2: chunk_size=2 does not divide the 1 members of a device; 1 used" in text
    assert "P=3: chunk_size=2 does not divide the 3 members of a device; 1 used" in text
    first, last = report.rows[0], report.rows[-1]
    assert first.relative_cost == Spread(1.0, 1.0, 1.0)
    samples = 3 * 4 * report.batch_size
    assert last.samples_per_second.median == pytest.approx(
        np.mean([samples / last.seconds.low, samples / last.seconds.high])
    )
    assert last.memory_bytes > first.memory_bytes > 0
    assert sorted(report.chunk_costs) == [1, 3]
    assert report.chunk_costs[1] == Spread(1.0, 1.0, 1.0)
    assert "At P = 3 chunk_size=" in text


@pytest.mark.devices(4)
@pytest.mark.devices("cpu")
def test_scaling_skips_what_does_not_fit(monkeypatch):
    task = make_task(SMALL["tiny_mlp"])
    # A device holds 0.7 MB of data, a member 39 kB: two of each fit, four do not.
    monkeypatch.setattr("jepbt.engine.memory.memory_limit", lambda device: 2_000_000)
    report = scaling(
        task,
        max_population=8,
        num_rounds=1,
        steps_per_generation=2,
        strategy="random_search",
    )
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


def test_the_fastest_chunk_and_its_gain_by_hand():
    """Half of the seconds is twice the speed."""
    costs = {1: Spread(1.0, 1.0, 1.0), 8: Spread(0.5, 0.4, 0.7)}
    report = replace(report_of([25.0, 50.0], 0.2), chunk_costs=costs)
    assert report.fastest_chunk == 8 and report.chunk_gain == 2
    assert "At P = 2 chunk_size=8 is 2.00 times as fast as 1" in str(report)
    report = replace(report, chunk_costs=costs | {8: Spread(1.2, 1.1, 1.3)})
    assert "chunk_size=1, the one in use, is the fastest" in str(report)
    report = replace(report, chunk_costs={})
    assert report.fastest_chunk == 1 and report.chunk_gain == 1


def test_chunks_worth_measuring_divide_the_members():
    assert chunk_candidates(64) == [1, 8, 64]
    assert chunk_candidates(12) == [1, 6, 12]
    assert chunk_candidates(1) == [1]


def test_json_holds_every_number():
    costs = {1: Spread(1.0, 1.0, 1.0), 2: Spread(0.5, 0.4, 0.7)}
    report = replace(report_of([25.0, 50.0], 0.2), chunk_costs=costs)
    facts = json.loads(report.to_json())
    rows = tuple(
        ScalingRow(
            **{k: Spread(**v) if isinstance(v, dict) else v for k, v in r.items()}
        )
        for r in facts["rows"]
    )
    names = [field.name for field in dataclasses.fields(report)]
    again = {name: facts[name] for name in names}
    chunks = {int(k): Spread(**v) for k, v in facts["chunk_costs"].items()}
    again |= {"rows": rows, "notes": tuple(facts["notes"]), "chunk_costs": chunks}
    assert ScalingReport(**again) == report
    assert facts["knee"] == 2 and facts["ceiling"] == pytest.approx(5)
    assert facts["fastest_chunk"] == 2 and facts["chunk_gain"] == 2


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
    with start_workers(1) as workers, pytest.raises(ValueError, match="zero-size arr"):
        build_all(workers, Spread.of, [([],)])


@slow
@pytest.mark.filterwarnings("ignore")  # PyTorch's own
def test_each_way_of_pytorch_has_a_row():
    pytest.importorskip("torch")
    with start_workers(3) as workers:  # one for JAX, two for PyTorch
        report = compare_speed(
            SMALL["tiny_mlp"], workers, num_rounds=1, with_compiled=False
        )
    names = {row.name for row in report.rows if "PyTorch" in row.name}
    assert {"PyTorch, torch.func.vmap", "better PyTorch"} <= names
    assert "PyTorch, 2 processes" in names or pytorch.has_gpu()


def command(*arguments, cwd=None):
    return subprocess.run(
        [sys.executable, "-m", "jepbt", "benchmark", *arguments],
        capture_output=True,
        text=True,
        cwd=cwd,
        timeout=600,
    )


@slow
def test_the_command_tells_where_the_time_goes_until_training_starts(tmp_path):
    done = command("--startup", "--json", "b.json", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    rows = {re.split(r"\s{2,}", line.strip())[0] for line in done.stdout.splitlines()}
    assert {"import jepbt", "data and task", "prepare", "all"} <= rows
    facts = json.loads((tmp_path / "b.json").read_text())["startup"]
    assert 0 < facts["warm"]["all"] < facts["cold"]["all"]  # the cache was found
    whole = sum(v for k, v in facts["cold"].items() if k[0] != " " and k != "all")
    assert whole == pytest.approx(facts["cold"]["all"])


@slow
def test_the_command_prints_its_rows_and_writes_its_files(tmp_path):
    done = command(
        *["--models", "tiny_mlp", "--quick", "--max-population", "2"],
        *["--num-rounds", "1", "--json", "b.json", "--figure", "b.png"],
        cwd=tmp_path,
    )
    assert done.returncode == 0, done.stderr
    starts = [line[:12] for line in done.stdout.splitlines()]
    for row in ("jepbt  ", "loop over ji", "plain vmap, ", "One member a", "At P = 2 "):
        assert any(start.startswith(row) for start in starts), (row, done.stdout)
    assert "PyTorch" in done.stdout  # its rows, or how to install it
    (model,) = json.loads((tmp_path / "b.json").read_text())["models"]
    assert [row["population_size"] for row in model["scaling"]["rows"]] == [1, 2]
    assert model["speed"]["rows"][0]["ratio"] == {"median": 1, "low": 1, "high": 1}
    assert (tmp_path / "b.png").exists()
