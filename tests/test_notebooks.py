"""The notebooks: what is committed can be read, and executing them works.

After a change, with the extra `notebook` installed: `jupyter execute --inplace
notebooks/*.ipynb`.
"""

import json
import os
import pathlib
import re
import shutil
import subprocess
import sys

import pytest

FOLDER = pathlib.Path(__file__).parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
PATH = re.compile(r"(?<![\w.:/])/(?:home|root|tmp|work|usr|opt|mnt|Users|content)/")
FALLEN = "Warning: this runtime has a "

each_notebook = pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)


def code_cells(path):
    cells = json.loads(path.read_text())["cells"]
    return [cell for cell in cells if cell["cell_type"] == "code"]


def outputs(path):
    return [output for cell in code_cells(path) for output in cell["outputs"]]


def pictures(path):
    return [one for one in outputs(path) if "image/png" in one.get("data", {})]


def texts(path):
    """All that the outputs show as text, pictures left out."""
    for output in outputs(path):
        yield "".join(output.get("text", []))
        for kind, content in output.get("data", {}).items():
            if not kind.startswith("image/"):
                yield "".join(content)


def source_of(cell):
    return "".join(cell["source"])


def first_cell(path):
    return source_of(code_cells(path)[0])


def with_source(cell, source):
    """Sets `SOURCE` in a first cell, as users do whose notebook is not in the clone."""
    line = f"SOURCE = {str(source)!r}"
    cell, count = re.subn(r"^SOURCE = .*$", lambda _: line, cell, flags=re.M)
    assert count == 1
    return cell


def run_first_cell(tmp_path, source=FOLDER.parent, before="", **environment):
    """Runs it elsewhere, as a script: it must not need IPython."""
    cell = with_source(first_cell(NOTEBOOKS[0]), source)
    return subprocess.run(
        [sys.executable, "-c", before + cell],
        cwd=tmp_path,
        env=os.environ | {"JAX_PLATFORMS": "cpu"} | environment,
        capture_output=True,
        text=True,
    )


WITHOUT_JEPBT = """
import importlib.metadata

def version(name, found=importlib.metadata.version):
    if name == "jepbt":
        raise importlib.metadata.PackageNotFoundError(name)
    return found(name)

importlib.metadata.version = version
"""

# Stands in for pip: lists two packages, and keeps what it is asked to install.
PIP = """
import json, os, pathlib, sys

arguments = sys.argv[1:]
if "list" in arguments:
    print("jax==0.7.2")
    print("numpy==2.4.6")
elif os.environ.get("PIP_FAILS"):
    sys.exit("ERROR: cannot install jepbt because these versions conflict")
else:
    pins = pathlib.Path(arguments[arguments.index("-c") + 1]).read_text()
    pathlib.Path("pip.json").write_text(json.dumps([arguments, pins]))
"""


def run_without_jepbt(tmp_path, **settings):
    """Runs the first cell where jepbt is missing and pip is a stand-in."""
    (tmp_path / "pip.py").write_text(PIP)
    paths = str(tmp_path), str(FOLDER.parent)
    return run_first_cell(
        tmp_path, before=WITHOUT_JEPBT, PYTHONPATH=os.pathsep.join(paths), **settings
    )


# Pictures in what is kept of each: the card is no picture.
NUM_PICTURES = {
    "label_noise_loss": 3,
    "population_scaling": 2,
    "quickstart": 3,
    "your_own": 4,
}


def test_all_notebooks_are_here():
    assert [path.stem for path in NOTEBOOKS] == sorted(NUM_PICTURES)


def test_the_quickstart_has_a_score_in_the_first_cell_after_the_install():
    cell = code_cells(FOLDER / "quickstart.ipynb")[1]
    text = "".join("".join(output["text"]) for output in cell["outputs"])
    assert re.search(r"^  test +0\.\d{3} ±0\.\d{3}$", text, re.M)


def test_the_quickstarts_own_network_is_plain_flax():
    (cell,) = [
        source
        for source in map(source_of, code_cells(FOLDER / "quickstart.ipynb"))
        if "class Network(" in source
    ]
    network = cell[cell.index("class Network(") : cell.index("@dataclass")]
    assert "nnx.Conv" in network and "jepbt" not in network


def test_the_label_noise_notebook_compares_over_seeds():
    text = "".join(texts(FOLDER / "label_noise_loss.ipynb"))
    assert re.search(r"transition, adapted \*: [+-]\d\.\d\d points", text)
    assert "confusions found" in text


def test_the_quickstart_shows_a_card_and_goes_on_without_jepbt():
    path = FOLDER / "quickstart.ipynb"
    assert any("jepbt-card" in text for text in texts(path))
    sources = map(source_of, code_cells(path))
    (cell,) = [source for source in sources if "schedule.json" in source]
    assert "jepbt" not in cell


@each_notebook
def test_outputs_are_kept_in_order_and_without_errors(path):
    counts = [cell["execution_count"] for cell in code_cells(path)]
    assert counts == list(range(1, len(counts) + 1))
    assert not [one for one in outputs(path) if one["output_type"] == "error"]
    assert not [one for one in outputs(path) if one.get("name") == "stderr"]
    assert len(pictures(path)) == NUM_PICTURES[path.stem]


@each_notebook
def test_outputs_name_no_path_of_the_machine_they_were_made_on(path):
    assert not [text for text in texts(path) if PATH.search(text)]


def test_the_pattern_finds_paths():
    assert PATH.search("saved in /home/me/run")
    assert not PATH.search("https://arxiv.org/abs/2002.04225, samples/s, 1/u")


@each_notebook
def test_a_notebook_stays_small(path):
    assert path.stat().st_size < 800_000


def test_all_notebooks_install_alike():
    assert len({first_cell(path) for path in NOTEBOOKS}) == 1


def test_the_first_cell_is_three_lines():
    assert len([line for line in first_cell(NOTEBOOKS[0]).split("\n") if line]) == 3


def test_installing_adds_the_clone_and_pins_what_is_there(tmp_path):
    done = run_without_jepbt(tmp_path)
    assert done.returncode == 0, done.stderr
    arguments, pins = json.loads((tmp_path / "pip.json").read_text())
    assert arguments[1:3] == ["install", "-q"] and arguments[-1] == str(FOLDER.parent)
    assert pins.split() == ["jax==0.7.2", "numpy==2.4.6"]
    assert done.stdout.startswith("jepbt ")


def test_what_is_installed_is_not_installed_again(tmp_path):
    (tmp_path / "pip.py").write_text("raise SystemExit('pip was called')")
    done = run_first_cell(tmp_path, PYTHONPATH=str(tmp_path))
    assert done.returncode == 0, done.stderr


def test_pips_own_words_say_why_it_failed(tmp_path):
    done = run_without_jepbt(tmp_path, PIP_FAILS="1")
    assert "RuntimeError: pip could not install jepbt" in done.stderr
    assert "because these versions conflict" in done.stderr


def test_a_source_that_is_no_clone_is_named(tmp_path):
    done = run_first_cell(tmp_path, source="nowhere")
    last = done.stderr.splitlines()[-1]
    assert re.search(r"FileNotFoundError: .*nowhere/notebooks/install\.py", last)


def test_notebooks_without_the_package_are_no_clone(tmp_path):
    (tmp_path / "notebooks").mkdir()
    shutil.copy(FOLDER / "install.py", tmp_path / "notebooks")
    done = run_without_jepbt(tmp_path, source=tmp_path)
    assert f"{str(tmp_path)!r} is no clone of jepbt" in done.stderr.splitlines()[-1]
    assert not (tmp_path / "pip.json").exists()


def test_first_cell_prints_the_kept_accelerator_alone(tmp_path):
    done = run_first_cell(tmp_path)
    assert done.returncode == 0, done.stderr
    assert re.fullmatch(r"jepbt \S+, jax \S+, kept:.*cpu.*\n", done.stdout, re.I)


@pytest.mark.skipif(os.name == "nt", reason="the stand-in is a shell script")
def test_a_gpu_runtime_that_fell_to_the_cpu_is_named_once(tmp_path):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'GPU 0: NVIDIA L4 (UUID: GPU-0)'\n")
    tool.chmod(0o755)
    path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
    done = run_first_cell(tmp_path, PATH=path)
    assert done.stdout.count(FALLEN + "GPU, but jax found only the CPU") == 1


def test_a_tpu_runtime_that_fell_to_the_cpu_is_named_once(tmp_path):
    done = run_first_cell(tmp_path, TPU_ACCELERATOR_TYPE="v5litepod-1")
    assert done.stdout.count(FALLEN + "TPU, but jax found only the CPU") == 1


TOY = {
    "population_size": 4,
    "max_population": 2,
    "num_generations": 3,
    "steps_per_generation": 4,
    "num_rounds": 1,
}


def shrink(source):
    """Caps the sizes that a cell gives as numbers."""
    for name, most in TOY.items():
        source = re.sub(
            rf"\b{name}=(\d+)",
            lambda found, most=most: found[0].replace(
                found[1], str(min(most, int(found[1])))
            ),
            source,
        )
    return source


def execute(notebook, path, **environment):
    """Executes a notebook at a path of its own, so that what is kept stays."""
    first = next(cell for cell in notebook["cells"] if cell["cell_type"] == "code")
    first["source"] = with_source(source_of(first), FOLDER.parent)
    path.write_text(json.dumps(notebook))
    command = [sys.executable, "-c", "import nbclient.cli; nbclient.cli.main()"]
    done = subprocess.run(
        [*command, "--inplace", str(path)],
        env=os.environ | environment,
        capture_output=True,
        text=True,
        timeout=900,
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.notebook
@pytest.mark.parametrize("name", ["quickstart", "your_own"])
def test_executes_at_toy_size(name, tmp_path):
    notebook = json.loads((FOLDER / f"{name}.ipynb").read_text())
    for cell in notebook["cells"]:
        cell["source"] = shrink("".join(cell["source"]))
    copy = tmp_path / f"{name}.ipynb"
    execute(notebook, copy)
    assert len(pictures(copy)) == NUM_PICTURES[name]


@pytest.mark.notebook
@each_notebook
def test_executes_as_it_is(path, tmp_path):
    """Optimised, unlike all else that tests compile: notebooks train for minutes."""
    copy = tmp_path / path.name
    execute(json.loads(path.read_text()), copy, XLA_FLAGS="")
    assert len(pictures(copy)) == len(pictures(path))
