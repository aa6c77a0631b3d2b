"""The moving picture: it unfolds from left to right, and ends with the whole run."""

import numpy as np
import pytest
from made_up_run import write_run
from matplotlib.colors import to_rgb
from PIL import Image

from jepbt import plots
from jepbt.plots import style
from jepbt.results import Generation, History

WINNER = np.round(255 * np.array(to_rgb(style.WINNER)))


def read_frames(path):
    """All frames, `u8[N, H, W, 3]`, and the milliseconds for which each is shown."""
    frames, durations = [], []
    with Image.open(path) as picture:
        for number in range(picture.n_frames):
            picture.seek(number)
            frames.append(np.asarray(picture.convert("RGB")))
            durations.append(picture.info["duration"])
    return np.stack(frames), durations


def right_ends(frames):
    """The column of the rightmost pixel of the winner's line, -1 if there is none."""
    is_winner = np.abs(frames - WINNER).sum(-1) < 40
    columns = is_winner.any(1)
    last = columns.shape[1] - 1 - np.argmax(columns[:, ::-1], 1)
    return np.where(columns.any(1), last, -1)


def test_the_run_unfolds_from_left_to_right(tmp_path):
    folder = write_run(tmp_path / "run", 8, 12)
    path = plots.animate(folder, tmp_path / "run.gif")
    assert path == tmp_path / "run.gif"
    frames, durations = read_frames(path)
    assert frames.shape[1:] == (450, 800, 3) and 40 <= len(frames) <= 60
    assert durations[-1] == 3000 and sum(durations) == pytest.approx(8_900, rel=0.05)
    assert (frames[:, 0, 0] == 255).all()  # on a white page no edge shows
    left = right_ends(frames[:, :250, :460])  # fitness, above the legend
    for ends in (left, right_ends(frames[:, :, 490:])):
        assert (np.diff(ends) >= 0).all() and len(np.unique(ends)) > 15
        assert ends[0] < 120
    # Further to the right than the line has come, nothing but the grid is drawn yet.
    half = frames[len(frames) // 2]
    assert (half[60:180, 700:790] > 200).all()
    assert (frames[-1][60:180, 700:790] < 200).any()


def test_a_large_run_stays_below_a_megabyte(tmp_path):
    folder = write_run(tmp_path / "run", num_members=64, num_generations=100)
    assert plots.animate(folder, tmp_path / "run.gif").stat().st_size < 1e6


def test_the_hyperparameter_is_the_one_asked_for(tmp_path):
    folder = write_run(tmp_path / "run", 4, 3)
    pictures = {}
    for name in ("rate", "dropout", "activation", None):
        path = plots.animate(folder, tmp_path / f"{name}.gif", hparam=name)
        pictures[name] = read_frames(path)[0][-1]
    assert (pictures[None] == pictures["rate"]).all()  # the first of them
    for name in ("dropout", "activation"):
        assert (pictures[name] != pictures["rate"]).any()


@pytest.mark.parametrize("hparams", [{}, {"rate": np.float32([0.1])}])
def test_the_smallest_history_moves_too(hparams, tmp_path):
    history, score = History(), np.float32([0.5])
    slots = np.int32([0])
    history.generations = [Generation(0, score, score, slots, hparams, {}, {}, {})]
    path = plots.animate(history, tmp_path / "run.gif")
    assert right_ends(read_frames(path)[0])[-1] > 0


def test_a_hyperparameter_that_cannot_be_shown_is_refused(tmp_path):
    folder = write_run(tmp_path / "run", 3, 2)
    with pytest.raises(ValueError, match="hparam='loss' must be one of rate, dropout"):
        plots.animate(folder, tmp_path / "run.gif", hparam="loss")
    assert not (tmp_path / "run.gif").exists()
