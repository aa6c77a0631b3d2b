"""README.md: short, and nothing in it points at what is not there."""

import pathlib
import re

import jepbt

FOLDER = pathlib.Path(__file__).parents[1]
TEXT = (FOLDER / "README.md").read_text()


def test_it_can_be_read_in_five_minutes():
    assert len(TEXT.splitlines()) <= 180


def test_the_tests_that_it_names_exist():
    named = set(re.findall(r"`(test_\w+)`", TEXT))
    tests = "".join(path.read_text() for path in FOLDER.glob("tests/**/test_*.py"))
    assert len(named) == 6
    assert not [name for name in named if f"def {name}(" not in tests]


def test_the_files_that_it_names_exist():
    linked = re.findall(r"\]\((?!http)([^)#]+)\)", TEXT)
    named = re.findall(r"(?:examples|notebooks)/\w+\.\w+", TEXT)
    folders = re.findall(r"`(?:jepbt/)?(\w+/)`", TEXT)
    assert linked and named and folders
    paths = [
        *linked,
        *named,
        *(f"jepbt/{name}" for name in folders if name != "tests/"),
    ]
    assert not [path for path in paths if not (FOLDER / path).exists()]


def test_the_functions_that_it_names_exist():
    for name in re.findall(r"\bjepbt((?:\.[a-z_]+)+)\(", TEXT):
        value = jepbt
        for part in name.strip(".").split("."):
            value = getattr(value, part)
        assert callable(value), name


def test_its_map_shows_every_folder():
    *_, files = TEXT.split("## Files")
    for path in (FOLDER / "jepbt").iterdir():
        if path.is_dir() and path.name != "__pycache__":
            assert f"`{path.name}/`" in files or f"jepbt/{path.name}/`" in files, path
