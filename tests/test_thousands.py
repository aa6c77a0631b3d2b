"""The example that measures thousands of members, at toy size."""

import pytest
from example_scripts import load_example


@pytest.mark.parametrize(
    "case, size", [("many", (64, 4, 2)), ("wide", (8, 2, 1)), ("long", (4, 40, 1))]
)
def test_the_table_of_thousands_is_made_at_toy_size(case, size, tmp_path):
    table = load_example("thousands").measure(case, tmp_path / "run", *size)
    assert all(isinstance(value, int | float) for value in table.values())
    assert table["train: alias / state"] > 0.8
    assert table["run, s"] > 0 and table["history.jsonl, MB"] > 0
    if case == "wide":  # 105,866 weights of a member, and as many of momentum
        least = 8 * 105_866 * size[0] / 1e6
        assert least < table["state of all members, MB"] < 1.3 * least
