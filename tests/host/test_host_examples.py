"""Each example of the host loop, as a user starts it, at toy size."""

import re

import numpy as np
import pytest
from example_scripts import run_example


def numbers(pattern, output):
    return [float(number) for number in re.findall(pattern, output)]


def needs(package, extra="examples"):
    pytest.importorskip(
        package, reason=f"this example needs {package}: pip install jepbt[{extra}]"
    )


def test_the_dummy_example_reaches_the_figure_it_promises(tmp_path):
    errors = numbers(r"error +(\S+)", run_example("dummy_example", cwd=tmp_path))
    assert len(errors) == 20
    assert errors == sorted(errors, reverse=True)
    assert errors[0] > 1 and errors[-1] < 1e-6


@pytest.mark.slow
def test_the_pytorch_example_learns_and_goes_on(tmp_path):
    """Flags set hyperparameters and config; a saved run continues."""
    needs("torch")
    flags = ["--learning_rate", "0.05", "--population_size", "2", "--run_dir", "run"]
    flags += ["--samples_per_generation", "1500", "--n_processes", "1"]
    flags += ["--data", str(tiny_images(tmp_path)), "--num_generations"]
    run_example("mnist_pytorch_example", *flags, "2", cwd=tmp_path)
    output = run_example(
        "mnist_pytorch_example", *flags, "4", "--resume", "true", cwd=tmp_path
    )
    validation, test = numbers(r"accuracy (\S+)", output)
    assert validation > 0.9 and test > 0.9
    history = (tmp_path / "run" / "history.jsonl").read_text().splitlines()
    assert len(history) == 4
    assert '"learning_rate": [0.05, ' in history[0]


def tiny_images(folder):
    """Ten classes that a network learns in seconds: the bright row says which."""
    labels = np.arange(2_000) % 10
    images = np.random.default_rng(0).integers(0, 100, (2_000, 12, 12), np.uint8)
    images[np.arange(2_000), labels] = 255
    np.savez(
        folder / "images.npz",
        x_train=images[:1_500],
        y_train=labels[:1_500],
        x_test=images[1_500:],
        y_test=labels[1_500:],
    )
    return folder / "images.npz"


@pytest.mark.slow
def test_the_scikit_learn_example_learns_in_two_processes(tmp_path):
    needs("sklearn")
    flags = ["--num-generations", "2", "--population-size", "3", "--num-images", "800"]
    output = run_example("sklearn_example", *flags, cwd=tmp_path)
    validation, test = (
        numbers(r"validation (\S+)", output),
        numbers(r"test accuracy (\S+)", output),
    )
    assert len(validation) == 2 and len(test) == 1
    assert validation[-1] > 0.6 and test[0] > 0.6


@pytest.mark.slow
def test_the_dask_example_learns_on_two_workers(tmp_path):
    needs("distributed")
    flags = ["--num-generations", "2", "--population-size", "3", "--num-images", "800"]
    output = run_example("dask_example", *flags, cwd=tmp_path)
    validation = numbers(r"validation (\S+)", output)
    assert len(validation) == 2
    assert validation[-1] > 0.6


@pytest.mark.slow
def test_the_ray_example_computes_what_one_process_does(tmp_path):
    needs("ray", "ray")
    flags = ["--num-generations", "4", "--population-size", "4"]
    there = run_example("ray_example", *flags, cwd=tmp_path)
    here = run_example("dummy_example", *flags, cwd=tmp_path)
    assert there == here and len(here.splitlines()) == 4


@pytest.mark.slow
def test_the_keras_example_learns_in_two_processes(tmp_path, monkeypatch):
    monkeypatch.setenv("KERAS_BACKEND", "jax")  # it imports TensorFlow otherwise
    needs("keras", "keras")
    flags = ["--num-generations", "3", "--population-size", "2", "--num-images", "1500"]
    output = run_example("keras_example", *flags, cwd=tmp_path)
    validation = numbers(r"validation (\S+)", output)
    test = numbers(r"test accuracy (\S+)", output)
    assert len(validation) == 3 and len(test) == 1
    assert validation[-1] > 0.6 and test[0] > 0.6
