"""Figures: what is drawn is what the history says."""

import numpy as np
import pytest
from made_up_run import write_run
from matplotlib.colors import to_hex
from tiny_task import train

import jepbt
from jepbt import plots, taylorglo
from jepbt.plots import losses, style
from jepbt.results import load_history, recorded

FIGURES = ("fitness", "hparam_schedules", "lineage", "evolved_loss", "attraction")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "0001")


def winner_line(axes):
    """The data of the line in the winner's colour."""
    (line,) = [one for one in axes.lines if to_hex(one.get_color()) == style.WINNER]
    return line.get_xydata()


@pytest.mark.parametrize("name", FIGURES)
def test_every_figure_is_labelled_and_can_be_saved(name, folder, tmp_path):
    axes = np.ravel(getattr(plots, name)(folder))
    axes[0].figure.savefig(tmp_path / "figure.png")
    assert (tmp_path / "figure.png").stat().st_size > 5_000
    for each in axes:
        assert each.get_ylabel() or each.get_title(loc="left")
    assert axes[-1].get_xlabel()


@pytest.mark.parametrize("name", ["fitness", "hparam_schedules", "lineage"])
def test_a_run_of_one_generation_and_one_member_is_drawn_too(name, tmp_path):
    folder = write_run(tmp_path / "run", num_members=1, num_generations=1)
    axes = np.ravel(getattr(plots, name)(folder))
    axes[0].figure.savefig(tmp_path / "figure.png")


def test_the_winners_line_is_its_ancestry(folder):
    history = load_history(folder)
    line = history.ancestry()
    expected = np.stack([line.generations, history.fitness[line]], 1)
    drawn = winner_line(plots.fitness(folder))
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)
    rates = winner_line(plots.hparam_schedules(folder)[0])[:, 1]
    np.testing.assert_allclose(rates, history.hparams["rate"][line])


def test_axes_are_logarithmic_where_the_space_is(folder):
    rate, dropout, activation = plots.hparam_schedules(folder)
    assert rate.get_yscale() == "log" and dropout.get_yscale() == "linear"
    labels = [label.get_text() for label in activation.get_yticklabels()]
    assert labels[0] == "relu" and labels[1].endswith("…")


def test_the_tree_has_a_line_for_every_child_and_none_for_fresh_slots(folder):
    history = load_history(folder)
    axes = plots.lineage(folder)
    segments = sum(len(each.get_segments()) for each in axes.collections[:2])
    assert history.fresh.sum() == 1
    assert segments == history.fitness[1:].size - 1


def test_loss_curves_are_the_loss_and_its_gradient():
    """Against numerical differentiation of the loss behind a softmax."""
    rng = np.random.default_rng(0)
    theta = rng.normal(size=8).astype(np.float32)
    p = np.array([0.1, 0.5, 0.9])
    loss, push = losses.curves(theta, p, 4)

    def measure(logit):
        powers = np.exp([logit, 0, 0, 0])
        probs, labels = powers / powers.sum(), np.eye(4)[0]
        a, x, y = theta[:6].astype(float), labels - theta[6], probs - theta[7]
        terms = np.stack([y, y**2, y**3, x * y, x * y**2, x**2 * y])
        return -(a @ terms).sum()

    logits = np.log(3 * p / (1 - p))
    np.testing.assert_allclose(
        loss, [measure(v) - measure(50.0) for v in logits], atol=1e-9
    )
    step = 1e-5
    slopes = [(measure(v - step) - measure(v + step)) / (2 * step) for v in logits]
    np.testing.assert_allclose(push, slopes, atol=1e-7)


def test_attraction_is_drawn_member_by_member(folder):
    axes = plots.attraction(folder)
    history = load_history(folder)
    drawn = axes.collections[0].get_offsets()[:, 1]
    expected = taylorglo.attraction(history.hparams["loss"]).ravel()
    np.testing.assert_allclose(drawn, expected, rtol=1e-6)
    line = history.ancestry()
    expected = expected.reshape(history.fitness.shape)[line][-1]
    np.testing.assert_allclose(winner_line(axes)[-1, 1], expected, rtol=1e-6)


def test_what_is_no_run_is_refused(tmp_path):
    (tmp_path / "history.jsonl").write_text(
        (write_run(tmp_path / "run") / "history.jsonl").read_text()
    )
    with pytest.raises(ValueError, match="is no configuration of a run"):
        plots.hparam_schedules(tmp_path)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("attraction", "which of its hyperparameters is a loss: pass the jepbt.Result"),
        ("evolved_loss", "which of its hyperparameters is a loss: pass the"),
        ("confusions", "what the winner's loss has learned: pass the jepbt.Result"),
        ("comparison", "expected the Comparison that jepbt.compare returns, got Hist"),
        ("scaling", "expected the ScalingReport that jepbt.scaling returns, got Hist"),
    ],
)
def test_what_a_history_cannot_tell_is_said(name, words, folder):
    """A loss evolved in this run."""
    with pytest.raises((TypeError, ValueError), match=words):
        getattr(plots, name)(load_history(folder))


def test_a_lineage_is_described_from_whatever_holds_a_run(folder):
    words = plots.describe_lineage(load_history(folder))
    assert plots.describe_lineage(folder) == words and "left" in words
    with pytest.raises(TypeError, match="expected a jepbt"):
        plots.describe_lineage(3)


def test_a_result_and_its_folder_give_one_picture(tmp_path):
    task = jepbt.classification(
        "fashion_mnist", model=jepbt.models.MLP(num_classes=10, hidden=(4,))
    )
    result = train(task, 4, 2, 2, chunk_size=1, run_dir=tmp_path / "run")
    seen = recorded.read(result), recorded.read(tmp_path / "run")
    assert seen[0].spaces == seen[1].spaces
    for name in FIGURES:
        of_result, of_folder = (
            np.ravel(getattr(plots, name)(source))[0]
            for source in (result, tmp_path / "run")
        )
        for one, other in zip(of_result.lines, of_folder.lines, strict=True):
            np.testing.assert_array_equal(one.get_xydata(), other.get_xydata())
    html = result._repr_html_()
    assert str(result.best.fitness) in html and "learning_rate" in html
    assert "jepbt-loss" in html and "href=" not in html and len(html) < 60_000
    assert html.count("src=") == html.count('src="data:image/png;base64,')
    result.test()
    assert "the same on test data" in result._repr_html_()
    assert (tmp_path / "run" / "test.json").exists()


def test_the_loss_is_drawn_for_the_classes_of_the_runs_data(folder):
    """Four of them in the folder: pushed by hand at p = 1/4, where all are alike."""
    _, below = plots.evolved_loss(folder)
    assert "3 others share" in below.get_xlabel()
    theta = recorded.read(folder).evolved_loss.theta
    drawn = winner_line(below)
    at = np.argmin(np.abs(drawn[:, 0] - 0.25))
    p = drawn[at, 0]
    ch, chh, chy, cx, cxx = taylorglo.effective(theta.astype(float))
    rest = (1 - p) / 3
    slopes = np.array(
        [ch * p + chh * p**2 + chy * p + cx + cxx] + 3 * [ch * rest + chh * rest**2]
    )
    probs = np.array([p, rest, rest, rest])
    np.testing.assert_allclose(
        drawn[at, 1], p * (slopes[0] - probs @ slopes), rtol=1e-5
    )


@pytest.mark.parametrize("num_classes", [0, 1, 2.5])
def test_a_loss_is_drawn_for_two_classes_at_least(num_classes, folder):
    with pytest.raises(ValueError, match=f"num_classes={num_classes} must be a whole"):
        plots.evolved_loss(folder, num_classes=num_classes)


def test_a_task_of_three_classes_has_its_loss_drawn_for_three():
    images = np.random.default_rng(0).normal(size=(90, 4)).astype(np.float32)
    task = jepbt.classification((images, np.arange(90) % 3))
    result = train(task, 2, 1, 2, batch_size=8)
    assert "2 others share" in plots.evolved_loss(result)[1].get_xlabel()
    assert result.task.about["model"] == "MLP"
