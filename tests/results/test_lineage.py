"""Who descends from whom, worked out by hand."""

import numpy as np
import pytest

from jepbt.results import Generation, History, lineage, load_history, to_json

#      slots   0  1  2  3
PARENTS = np.array(
    [
        [0, 1, 2, 3],
        [0, 1, 1, 3],  # 1 replaces 2
        [3, 1, 2, 3],  # 3 replaces 0
        [1, 1, 1, 3],  # 1 replaces 0, and 2, which descends from 1 anyway
        [0, 1, 2, 2],  # 2 replaces 3: founder 1 alone
    ]
)
NONE = np.zeros(PARENTS.shape, bool)
FRESH = NONE.copy()
FRESH[3, 2] = True


def founders(parents, fresh=NONE):
    """The first ancestor of every slot, by following each back alone."""
    names = np.empty(parents.shape, int)
    for generation, slot in np.ndindex(parents.shape):
        line = lineage.ancestry(parents, generation, slot, fresh)
        names[generation, slot] = line.generations[0] * len(parents[0]) + line.slots[0]
    return names


def make_history(fitness=None):
    rng = np.random.default_rng(0)
    history = History()
    rate = rng.random(PARENTS.shape).astype(np.float32)
    for number, parents in enumerate(PARENTS):
        scores = rng.random(4).astype(np.float32)
        scores[number % 4] = np.nan
        hparams = {
            "rate": rate[0] if number < 2 else rate[number],
            "depth": np.arange(4, dtype=np.int32),
            "flag": np.array([True, False, True, False]),
            "name": np.array(["relu", "tanh", "relu", "<b>"], object),
            "loss": rng.normal(size=(4, 8)).astype(np.float32),
        }
        history.generations.append(
            Generation(
                number,
                scores,
                scores / 10,
                parents.astype(np.int32),
                hparams,
                {"loss": -scores},
                {"fresh": FRESH[number]},
                {"train": 0.25},
            )
        )
    return history


def test_a_line_is_followed_through_every_copy():
    for generation, slot, slots in ((4, 3, [1, 1, 1, 2, 3]), (2, 0, [3, 3, 0])):
        line = lineage.ancestry(PARENTS, generation, slot, NONE)
        np.testing.assert_array_equal(line.slots, slots)
        np.testing.assert_array_equal(line.generations, np.arange(generation + 1))


def test_a_line_begins_where_its_weights_were_new():
    line = lineage.ancestry(PARENTS, 4, 3, FRESH)
    np.testing.assert_array_equal(line, [[3, 4], [2, 3]])
    names = founders(PARENTS, FRESH)[-1]
    np.testing.assert_array_equal(names, [1, 1, 3 * 4 + 2, 3 * 4 + 2])


def test_naming_a_member_that_never_was_is_an_error():
    with pytest.raises(ValueError, match="generation=5 must be from 0 to 4"):
        lineage.ancestry(PARENTS, 5, 0, NONE)
    with pytest.raises(ValueError, match="slot=-1 must be from 0 to 3"):
        lineage.ancestry(PARENTS, 1, -1, NONE)


def test_takeover_is_when_one_founder_is_left():
    expected = [[0, 1, 2, 3], [0, 1, 1, 3], [3, 1, 1, 3], [1, 1, 1, 3], [1, 1, 1, 1]]
    np.testing.assert_array_equal(founders(PARENTS), expected)
    assert lineage.takeover_generation(founders(PARENTS)) == 4
    assert lineage.takeover_generation(founders(PARENTS[:4])) is None
    assert lineage.takeover_generation(founders(PARENTS, FRESH)) is None
    assert lineage.takeover_generation(np.zeros((3, 1), int)) == 0


def test_effective_size_is_that_of_a_population_that_draws_parents_at_random():
    """Of P members that draw parents at random, two share one with chance 1/P."""
    rng = np.random.default_rng(0)
    parents = rng.integers(20, size=(20_001, 20))
    sizes = lineage.effective_size(parents, np.zeros(parents.shape, bool))
    chance = (1 / sizes[1:]).mean()
    np.testing.assert_allclose(chance, 1 / 20, rtol=0.02)
    sizes = lineage.effective_size(PARENTS, NONE)
    np.testing.assert_allclose(sizes, [np.inf, 12 / 2, 12 / 2, 12 / 6, 12 / 2])
    assert lineage.effective_size(PARENTS, FRESH)[3] == 12 / 2


def test_survivors_have_descendants_at_the_end():
    expected = [[0, 1, 0, 0], [0, 1, 0, 0], [0, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]
    np.testing.assert_array_equal(lineage.survivors(PARENTS, NONE), expected)


def test_operations_tell_what_happened_to_each_slot():
    operations = make_history().operations
    assert set(operations[0]) == {"fresh"}
    history = make_history()
    for generation in history.generations:  # nothing but the rate varies
        del generation.hparams["loss"]
    assert history.operations[1].tolist() == ["kept", "kept", "copied", "kept"]
    assert history.operations[2].tolist() == ["copied", "varied", "varied", "varied"]
    assert history.operations[3].tolist() == ["copied", "varied", "fresh", "varied"]


def test_a_line_is_an_index_into_what_is_recorded():
    history = make_history()
    expected = [history.fitness[3, 2], history.fitness[4, 3]]
    np.testing.assert_array_equal(history.fitness[history.ancestry(4, 3)], expected)
    np.testing.assert_array_equal(history.founders, founders(PARENTS, FRESH))


def test_a_history_that_grew_is_the_history_at_once():
    """Read after every generation, or only once at the end: the same arrays."""
    whole, grown = make_history(), History()
    for number, generation in enumerate(whole.generations):
        grown.generations.append(generation)
        assert grown.fitness.shape == (number + 1, 4)
        expected = np.unique(founders(PARENTS, FRESH)[number])
        np.testing.assert_array_equal(grown.surviving_founders, expected)
        for name, values in grown.hparams.items():
            np.testing.assert_array_equal(values[-1], generation.hparams[name])
    for name in ("fitness", "standard_error", "parents", "fresh", "founders"):
        mine, its = getattr(grown, name), getattr(whole, name)
        assert mine.dtype == its.dtype and not mine.flags.writeable
        np.testing.assert_array_equal(mine, its)


def test_rows_of_longer_text_and_larger_numbers_fit():
    history = History()
    for number, name in enumerate(["a", "longer"]):
        size = np.array([1 << 40 * number], ("i4", "i8")[number])
        hparams = {"name": np.array([name]), "size": size}
        zeros = np.zeros(1, np.float32)
        history.generations.append(
            Generation(number, zeros, zeros, np.zeros(1, int), hparams, {}, {}, {})
        )
        assert history.hparams["name"][-1, 0] == name
        assert history.hparams["size"][-1, 0] == 1 << 40 * number


def test_an_empty_history_says_so():
    with pytest.raises(ValueError, match="holds no generation yet"):
        _ = History().fitness


def test_lines_of_the_tree_do_not_cross():
    rng = np.random.default_rng(0)
    parents = rng.integers(12, size=(9, 12))
    places = lineage.tree_order(parents, np.zeros(parents.shape, bool))
    for number in range(1, 9):
        assert sorted(places[number]) == list(range(12))
        before = places[number - 1][parents[number]]
        assert (np.diff(before[np.argsort(places[number])]) >= 0).all()


def test_a_line_that_is_being_written_is_left_out(tmp_path):
    lines = [to_json(generation) + "\n" for generation in make_history().generations]
    path = tmp_path / "history.jsonl"
    path.write_text("".join(lines[:2]) + lines[2][:50])
    assert len(load_history(path)) == 2


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "holds no generation yet"),
        ("{}\n", "line 1 is no generation of a run"),
        ("not json\n", "line 1 is no generation of a run"),
    ],
)
def test_a_damaged_history_says_so(text, message, tmp_path):
    (tmp_path / "history.jsonl").write_text(text)
    with pytest.raises(ValueError, match=message):
        load_history(tmp_path)
