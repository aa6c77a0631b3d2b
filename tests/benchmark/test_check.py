"""`jepbt check`: it finds what is wrong, goes on where it stopped, and ends in time."""

import dataclasses
import functools
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest

from jepbt.benchmark.check import (
    SIZES,
    Finding,
    check,
    check_device,
    markdown,
    open_record,
    reference,
    right,
)
from jepbt.cli import main

TOY = SIZES["toy"]


@pytest.fixture
def parts(monkeypatch):
    """Parts that a test makes, and how often each has run."""
    counts = {}

    def use(**made):
        def count(name, run):
            counts[name] = counts.get(name, 0) + 1
            return run()

        named = {
            f"right/{name}": functools.partial(count, name, run)
            for name, run in made.items()
        }
        monkeypatch.setattr(check, "make_parts", lambda size, findings: named)
        return counts

    return use


def run_check(record, size, kinds, max_seconds):
    def tell(part, finding):
        assert record.findings[part] == finding

    return check_device(record, size, kinds, max_seconds=max_seconds, tell=tell)


def holds():
    return Finding(True, {"gap": 0.25})


def fails():
    raise RuntimeError("out of luck")


def test_what_is_finished_is_not_run_again_and_an_error_is(parts, tmp_path):
    path = tmp_path / "check.json"
    counts = parts(good=holds, bad=fails)
    for _ in range(2):
        record = open_record(path, "toy")
        assert run_check(record, TOY, ("right",), max_seconds=60) == []
    assert counts == {"good": 1, "bad": 2}
    assert record.findings["right/bad"].error == "RuntimeError: out of luck"
    assert record.wrong() == ["right/bad"]
    found = json.loads(path.read_text())
    assert found["about"]["device"] == jax.devices()[0].device_kind
    assert found["parts"]["right/good"]["figures"] == {"gap": 0.25}


def test_a_part_is_started_only_if_the_longest_so_far_would_end_in_time(
    parts, monkeypatch, tmp_path
):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(check.time, "perf_counter", lambda: clock.now)

    def slow():
        clock.now += 4
        return holds()

    parts(one=slow, two=slow, three=slow)
    record = open_record(tmp_path / "check.json", "toy")
    left_out = run_check(record, TOY, ("right",), max_seconds=9)
    assert (list(record.findings), left_out) == (
        ["right/one", "right/two"],
        ["right/three"],
    )
    assert "The time did not allow: right/three." in markdown(record, left_out)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "holds no record of jepbt check. Remove it"),
        ('{"parts": {"right/a": 3}}', "holds no record of jepbt check"),
        ('{"about": {"device": "H100"}, "parts": {}}', "made with device 'H100'"),
    ],
)
def test_a_record_of_something_else_is_refused(content, message, tmp_path):
    path = tmp_path / "check.json"
    path.write_text(content)
    with pytest.raises(ValueError, match=message):
        open_record(path, "toy")


@pytest.mark.parametrize(("run", "code"), [(holds, 0), (fails, 1)])
def test_the_exit_code_says_whether_all_is_right(run, code, parts, tmp_path, capsys):
    parts(one=run, two=holds)
    command = ["check", "--parts", "right", "--json", str(tmp_path / "a.json")]
    assert main([*command, "--size", "toy"]) == code
    out, err = capsys.readouterr()
    verdict = [
        "| one | yes | gap 0.25 |",
        "| one | **no** | RuntimeError: out of luck |",
    ]
    assert verdict[code] in out and "| two | yes |" in out
    assert ("not right on this device: right/one" in err) == bool(code)


def test_options_are_checked(capsys, tmp_path):
    assert main(["check", "--parts", "right,speed"]) == 2
    assert "'speed' is none of right, cost, lowering" in capsys.readouterr().err
    assert main(["check", "--json", str(tmp_path / "none" / "a.json")]) == 2
    assert "its folder does not exist" in capsys.readouterr().err


def result(fitness, rates=(0.1, 0.2), parents=((0, 1),)):
    arrays = {"fitness": np.array([fitness]), "parents": np.array(parents)}
    hparams = {"learning_rate": np.array([rates])}
    return SimpleNamespace(history=SimpleNamespace(hparams=hparams, **arrays))


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (result([0.5, np.nan]), True),
        (result([0.5, 0.25]), False),
        (result([0.5, np.nan], rates=(0.1, 0.25)), False),
        (result([0.5, np.nan], parents=((1, 1),)), False),
    ],
)
def test_one_other_bit_is_noticed(other, expected):
    assert right._compare_bits(result([0.5, np.nan]), other).holds is expected


@pytest.mark.parametrize(
    ("other", "expected"),
    [
        (result([0.5, 0.61]), True),  # rounding may flip a few of 1,000 images
        (result([0.5, 0.66]), False),
        (result([0.5, np.nan]), False),
        (result([0.5, 0.6], rates=(0.1, 0.21)), False),
    ],
)
def test_other_draws_or_another_fitness_are_noticed(other, expected):
    assert right._compare_generations(result([0.5, 0.6]), other).holds is expected


def test_the_reference_differentiates_like_finite_differences():
    draw = np.random.default_rng(0).normal
    weights = {
        "dense1": {"kernel": draw(size=(3, 4)), "bias": draw(size=4)},
        "dense2": {"kernel": draw(size=(4, 2)), "bias": draw(size=2)},
    }
    inputs, labels = draw(size=(5, 3)), np.array([0, 1, 1, 0, 1])

    def loss():
        hidden = np.maximum(
            inputs @ weights["dense1"]["kernel"] + weights["dense1"]["bias"], 0
        )
        logits = hidden @ weights["dense2"]["kernel"] + weights["dense2"]["bias"]
        logs = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        return -logs[np.arange(5), labels].mean()

    slopes = reference.gradients(weights, inputs, labels)
    for name, layer in weights.items():
        for k, values in layer.items():
            for place in np.ndindex(values.shape):
                before = values[place]
                values[place] = before + 1e-6
                above = loss()
                values[place] = before - 1e-6
                below = loss()
                values[place] = before
                assert abs((above - below) / 2e-6 - slopes[name][k][place]) < 1e-8


def test_a_wrong_optimizer_is_noticed(monkeypatch):
    """jepbt equals the reference, and no longer once that has another momentum."""
    assert right._check_plain(TOY).holds is True
    monkeypatch.setattr(reference, "MOMENTUM", 0.8)
    assert right._check_plain(TOY).holds is False


@pytest.mark.slow
def test_all_parts_run_and_all_is_right_here(tmp_path):
    record = open_record(tmp_path / "check.json", "toy")
    size = dataclasses.replace(TOY, models=("cnn",), num_forms=100)
    kinds = ("right", "cost", "lowering")
    assert run_check(record, size, kinds, max_seconds=600) == []
    assert record.wrong() == []
    text = markdown(record)
    assert f"x {jax.devices()[0].device_kind}" in text
    assert "| cnn P=2 |" in text and "| scan outside" not in text
    assert len(record.findings) == 9 + 3 + 22
