"""Of thousands of members some are drawn: which, in figures and in the page."""

import json
import re

import numpy as np
import pytest
from made_up_run import write_run

import jepbt
from jepbt.report import write_report
from jepbt.results import lineage
from jepbt.results.sample import FEWEST, choose_shown


def _made_up(num_generations, num_members, seed):
    """Random parents, a few slots that start over, and any member as the winner."""
    rng = np.random.default_rng(seed)
    shape = num_generations, num_members
    parents = rng.integers(0, num_members, shape)
    parents[0] = np.arange(num_members)
    fresh = rng.random(shape) < 0.01
    fresh[0] = False
    winner = rng.integers(num_generations), rng.integers(num_members)
    return parents, fresh, lineage.ancestry(parents, *winner, fresh)


@pytest.mark.parametrize("seed", range(5))
def test_every_shown_member_is_shown_with_its_ancestors(seed):
    parents, fresh, line = _made_up(30, 200, seed)
    shown = choose_shown(parents, fresh, line, most=30 * 40)
    assert shown[line].all()
    assert (shown.sum(1) <= 40).all() and (shown.sum(1) >= 39).all()
    for number in range(1, 30):
        inherits = shown[number] & ~fresh[number]
        assert shown[number - 1, parents[number][inherits]].all()


def test_a_small_run_is_shown_whole_and_a_long_one_in_part():
    parents, fresh, line = _made_up(30, 200, 0)
    assert choose_shown(parents, fresh, line, most=30 * 200).all()
    assert choose_shown(parents, fresh, line, most=1).sum(1).max() == FEWEST


def test_founders_keep_their_shares_among_those_shown():
    """Half of all descend from founder 0, a tenth from founder 1, in every row."""
    num_members = 1000
    founders = np.repeat(np.arange(1000), [500, 100, *[1] * 400, *[0] * 598])
    parents = np.stack([np.arange(num_members), founders] + [np.arange(1000)] * 8)
    fresh = np.zeros(parents.shape, bool)
    line = lineage.ancestry(parents, 9, 0, fresh)
    shown = choose_shown(parents, fresh, line, most=10 * 100)
    for number in (1, 5, 9):
        share = (
            (founders[shown[number]] == 0).mean(),
            (founders[shown[number]] == 1).mean(),
        )
        np.testing.assert_allclose(share, (0.5, 0.1), atol=0.03)


@pytest.fixture(scope="module")
def large(tmp_path_factory):
    return write_run(tmp_path_factory.mktemp("runs") / "large", 1500, 40)


@pytest.mark.parametrize("figure", ["fitness", "lineage", "hparam_schedules"])
def test_a_figure_of_thousands_draws_a_bounded_number_of_lines(large, figure):
    axes = np.ravel(getattr(jepbt.plots, figure)(large))
    for each in axes:
        for collection in each.collections:
            segments = getattr(collection, "get_segments", list)()
            assert len(segments) <= 20_000
    if figure == "hparam_schedules":
        assert max(len(c.get_offsets()) for c in axes[0].collections) <= 20_000
    if figure == "lineage":
        drawn = axes[0].get_ylabel()
        assert drawn == "1500 members, 500 drawn, siblings together"


def test_a_page_of_thousands_holds_some_members_and_says_so(large):
    text = write_report(large).read_text()
    data = json.loads(re.search(r'id="run">(.*?)</script>', text, re.S)[1])
    assert data["members"] == 1500 and "Of 1500 members at most 500" in text
    counts = {
        name: sum(map(len, data[name])) for name in ("slots", "fitness", "places")
    }
    assert len(set(counts.values())) == 1 and counts["slots"] <= 20_000
    history = jepbt.load_history(large)
    generation, slot = data["winner"]
    assert slot in data["slots"][generation]
    for number in (0, 20, 39):
        whole = history.hparams["rate"][number][data["slots"][number]]
        np.testing.assert_array_equal(
            np.float32(data["hparams"]["rate"][number]), whole
        )
