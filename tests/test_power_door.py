"""The examples on `Task` are short, say what they do, and run."""

import ast
import re

import numpy as np
import pytest
from example_scripts import FOLDER, load_example

SHORT = ["pbt_toy", "rl_cartpole", "frozen_backbone", "multilabel"]


@pytest.mark.parametrize("name", SHORT)
def test_a_power_door_example_has_at_most_60_lines(name):
    """Of code: what is no import, docstring, comment or blank line."""
    text = (FOLDER / f"{name}.py").read_text()
    skipped = set()
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef):
            if ast.get_docstring(node) is None:
                continue
            node = node.body[0]
        elif not isinstance(node, ast.Import | ast.ImportFrom):
            continue
        skipped |= set(range(node.lineno, node.end_lineno + 1))
    body = [
        line
        for number, line in enumerate(text.splitlines(), 1)
        if number not in skipped and line.strip() and line.strip()[0] != "#"
    ]
    assert len(body) <= 60


@pytest.mark.parametrize("name", [*SHORT, "resnet_population"])
def test_an_example_opens_with_command_time_and_figure(name):
    text = ast.get_docstring(ast.parse((FOLDER / f"{name}.py").read_text()))
    assert f"python examples/{name}.py" in text
    assert re.search(r"2 CPU cores", text) and re.search(r"\d+ (second|minute)", text)
    assert re.search(r"[Ee]xpect", text)


def test_the_toy_problem_shows_its_five_figures(tmp_path):
    """Over 200 seeds; grid search is exact by arithmetic, as a term never shrinks.

    A member alone shrinks one of two terms by 0.98 in each of 200 steps. The others are
    means of an independent simulation in NumPy of 20,000 seeds, from which the mean of
    200 differs by less than 4 of its standard errors.
    """
    means = load_example("pbt_toy").main(num_seeds=200, picture=tmp_path / "toy.png")
    alone = 1.2 - 0.81 - 0.81 * 0.98**400
    np.testing.assert_allclose(means["grid search"], alone, rtol=1e-5)
    np.testing.assert_allclose(means["exploit only"], 1.1675, atol=0.0006)
    np.testing.assert_allclose(means["PBT"], 1.1630, atol=0.008)
    np.testing.assert_allclose(means["PBT, copying h too"], 1.0729, atol=0.036)
    np.testing.assert_allclose(means["explore only"], 0.26, atol=0.8)
    assert (tmp_path / "toy.png").stat().st_size > 10_000


@pytest.mark.slow
def test_agents_learn_to_balance():
    """With a few updates the best of 4 agents stays up longer than at first."""
    result = load_example("rl_cartpole").main(
        population_size=4, num_generations=4, steps_per_generation=4, progress=False
    )
    assert result.best.fitness.mean > 1.3 * result.first_best.fitness.mean or (
        result.best.fitness.mean > 150
    )


def test_a_poles_acceleration_is_the_textbooks():
    """Upright, pushed with 10 N: a cart of 1 kg and a pole of 0.1 kg, 1 m long."""
    state = np.zeros((4, 1), np.float32)
    after = load_example("rl_cartpole").move(state, np.ones(1))
    turned = -(10 / 1.1) / (0.5 * (4 / 3 - 0.1 / 1.1))
    pushed = 10 / 1.1 - 0.05 * turned / 1.1
    np.testing.assert_allclose(np.ravel(after), [0, 0.02 * pushed, 0, 0.02 * turned])


@pytest.mark.slow
def test_heads_share_one_backbone():
    """Every member holds a head of 650 weights and its optimizer's copy, no more."""
    first, result = load_example("frozen_backbone").main(
        population_size=2, num_generations=2, num_steps=6
    )
    params, _ = result.population.state
    assert sum(leaf[0].size for leaf in params["dense1"].values()) == 650
    assert set(result.task.shared) == set(first.best.params)
    assert result.best.fitness.mean > 0.15  # by chance 0.1, give or take 0.01


def test_several_labels_and_labels_per_pixel_are_scored_as_is_said():
    """By hand: 1 of 3 labels named or true is right; 3 of 4 pixels are."""
    example = load_example("multilabel")
    labels = np.float32([[1, 1, 0, 0]])
    overlap = example.overlap(np.float32([[2, -1, 3, -4]]), labels)
    np.testing.assert_allclose(overlap, 1 / 3)
    pixels = np.array([[[0, 1], [2, 10]]])
    logits = np.eye(11, dtype=np.float32)[[[[0, 1], [3, 10]]]]
    assert example.right_pixels(logits, pixels) == 0.75
    h = example.Hyper(0.1, 4.0)
    loss = example.label_per_pixel(h, logits, pixels)
    right, wrong = np.log(np.e + 10) - 1, np.log(np.e + 10)
    np.testing.assert_allclose(loss, (9 * right + 4 * wrong) / 4, rtol=1e-6)


@pytest.mark.slow
def test_several_labels_and_labels_per_pixel_are_learned():
    results = load_example("multilabel").main(
        population_size=2, num_generations=2, steps_per_generation=20, progress=False
    )
    for result in results.values():
        fitness = result.history.fitness
        assert np.nanmax(fitness[-1]) > np.nanmax(fitness[0]) - 0.01
    assert results["pixels"].best.fitness.mean > 0.5  # background alone


def start_resnets(folder, monkeypatch, *flags):
    """Images whose brightness tells their class, and networks of depth 8."""
    generator = np.random.default_rng(0)
    labels = np.arange(240) % 10
    images = (
        generator.integers(0, 30, (240, 32, 32, 3)) + 22 * labels[:, None, None, None]
    )
    arrays = {"x_train": images[:200], "y_train": labels[:200, None]}
    arrays |= {"x_test": images[200:], "y_test": labels[200:, None]}
    np.savez(folder / "data.npz", **{k: v.astype(np.uint8) for k, v in arrays.items()})
    flags = [*flags, f"--data={folder / 'data.npz'}", "--depth=8", "--num-members=2"]
    monkeypatch.setattr("sys.argv", ["resnet_population.py", *flags, "--batch-size=16"])
    load_example("resnet_population").main()


@pytest.mark.slow
def test_a_population_of_resnets_trains_on_a_file(tmp_path, monkeypatch, capsys):
    start_resnets(tmp_path, monkeypatch, "--num-generations=2", "--num-steps=8")
    accuracy = re.search(r"best validation accuracy (0\.\d+)", capsys.readouterr().out)
    assert float(accuracy[1]) >= 0.2  # by chance 0.1


@pytest.mark.slow
def test_a_population_of_resnets_is_timed_beside_pytorch(tmp_path, monkeypatch, capsys):
    """Two rounds: a time for each of three, and what the times say as ratios."""
    pytest.importorskip("torch", reason="needs PyTorch: pip install jepbt[examples]")
    flags = ["--compare", "--num-steps=1", "--num-rounds=2"]
    start_resnets(tmp_path, monkeypatch, *flags)
    output = capsys.readouterr().out
    assert len(re.findall(r"\d\.\d{3} s per member-step", output)) == 3
    for other in ("one member", "PyTorch"):
        ratio = re.search(rf"is (\d+\.\d\d) times as fast as {other}", output)
        assert float(ratio[1]) > 0
