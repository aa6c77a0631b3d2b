"""jepbt beside the packages of Colab's image: it adds what is missing, no more.

Needs a network or a local index, and minutes: `pytest -m install`.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

CLONE = pathlib.Path(__file__).parents[1]
PINS = CLONE / ".ci" / "colab-pins.txt"
TRAIN = """
from dataclasses import dataclass
import optax, jepbt
@dataclass
class Hyper(jepbt.HyperParameters):
    learning_rate: float = jepbt.hparam(0.05, min=1e-3, max=1.0, log=True)
task = jepbt.classification("fashion_mnist", hparams=Hyper,
    model=jepbt.models.MLP(hidden=(16,)),
    loss=lambda h: jepbt.losses.cross_entropy,
    optimizer=lambda h: optax.sgd(h.learning_rate))
result = jepbt.train_population(task, population_size=2, num_generations=1,
    steps_per_generation=20, chunk_size=1, progress=False)
print(jepbt.__file__, result.best.fitness.mean)
"""

pytestmark = pytest.mark.install


def run(*command, cwd):
    """Runs it with what the environment itself has, and nothing from elsewhere."""
    own = {"PYTHONPATH", "XLA_FLAGS"}  # another JAX may not know a flag, and ends then
    outside = {k: v for k, v in os.environ.items() if k not in own}
    done = subprocess.run(command, cwd=cwd, env=outside, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def installed(python, cwd):
    listed = json.loads(run(python, "-m", "pip", "list", "--format=json", cwd=cwd))
    return {one["name"].lower(): one["version"] for one in listed}


@pytest.fixture(scope="module")
def colab(tmp_path_factory):
    """A fresh environment with Colab's pins, and a clone without build leftovers."""
    folder = tmp_path_factory.mktemp("colab")
    run(sys.executable, "-m", "venv", "env", cwd=folder)
    (python,) = [*folder.glob("env/bin/python"), *folder.glob("env/Scripts/python.exe")]
    run(python, "-m", "pip", "install", "-q", "-r", PINS, cwd=folder)
    clone = folder / "clone"
    for name in ("jepbt", "notebooks"):
        ignored = shutil.ignore_patterns("__pycache__")
        shutil.copytree(CLONE / name, clone / name, ignore=ignored)
    for name in ("pyproject.toml", "README.md"):
        shutil.copyfile(CLONE / name, clone / name)
    return python, clone, installed(python, folder)


def test_installing_replaces_nothing(colab):
    python, clone, before = colab
    run(python, "-m", "pip", "install", "-q", clone, cwd=clone.parent)
    after = installed(python, clone.parent)
    assert "jepbt" in after
    assert {name: after.get(name) for name in before} == before


def test_a_population_trains_there(colab):
    python, clone, _ = colab
    where, fitness = run(python, "-c", TRAIN, cwd=clone.parent).split()
    assert pathlib.Path(where).is_relative_to(pathlib.Path(python).parents[1])
    assert float(fitness) > 0.2  # chance is 0.1


def test_the_notebooks_first_cell_installs_and_replaces_nothing(colab):
    python, clone, before = colab
    run(python, "-m", "pip", "uninstall", "-q", "-y", "jepbt", cwd=clone.parent)
    notebook = json.loads((clone / "notebooks" / "quickstart.ipynb").read_text())
    code = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    first = "".join(code[0]["source"])
    printed = run(python, "-c", first, cwd=clone / "notebooks")
    assert re.fullmatch(r"jepbt \S+, jax 0\.7\.2, kept: .*\n", printed)
    after = installed(python, clone.parent)
    assert {name: after.get(name) for name in before} == before
