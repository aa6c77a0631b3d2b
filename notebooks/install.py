"""Readies a notebook's runtime for jepbt; the first cell of each notebook runs it.

Installs jepbt from the clone that this file lies in, unless it is there already, lets
JAX use all CPU cores, and prints which accelerator was found. Packages are added and
none is replaced: the installed JAX and its plugin stay as they are.
"""

import importlib
import importlib.metadata
import os
import pathlib
import subprocess
import sys
import tempfile

CLONE = pathlib.Path(__file__).resolve().parents[1]
TPU_SIGNS = "COLAB_TPU_1VM", "COLAB_TPU_ADDR", "TPU_ACCELERATOR_TYPE", "TPU_NAME"


def install() -> None:
    """Adds jepbt and what it lacks, with every installed package at its version.

    Raises:
        FileNotFoundError: if this file does not lie in a clone of jepbt.
        RuntimeError: if pip fails.
    """
    if not (CLONE / "pyproject.toml").is_file() or not (CLONE / "jepbt").is_dir():
        raise FileNotFoundError(
            f"{str(CLONE)!r} is no clone of jepbt: it lacks pyproject.toml or the "
            "folder jepbt. Set SOURCE to the folder of a whole clone."
        )
    # A newer jaxlib would leave this runtime's GPU or TPU plugin behind, so everything
    # here is pinned to its version: where that cannot be, pip stops and says why.
    with tempfile.TemporaryDirectory() as folder:
        pins = pathlib.Path(folder, "installed.txt")
        pins.write_text(run_pip("list", "--format=freeze"), encoding="utf-8")
        run_pip("install", "-q", "-c", str(pins), str(CLONE))
    importlib.invalidate_caches()


def run_pip(*arguments: str) -> str:
    """Runs this Python's pip, and returns what it prints.

    Raises:
        RuntimeError: if it fails; the message ends with pip's own.
    """
    command = [sys.executable, "-m", "pip", "--disable-pip-version-check", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise RuntimeError(f"pip could not install jepbt:\n{done.stderr}")
    return done.stdout


def find_accelerator() -> str | None:
    """Names the kind of accelerator that this machine has, whether or not JAX uses it.

    Returns:
        "GPU", "TPU", or `None`.
    """
    if subprocess.getoutput("nvidia-smi -L").startswith("GPU 0"):
        return "GPU"
    return "TPU" if any(os.environ.get(name) for name in TPU_SIGNS) else None


def main() -> None:
    """Installs what is missing, and says which devices there are."""
    try:
        importlib.metadata.version("jepbt")
    except importlib.metadata.PackageNotFoundError:
        install()

    import jax

    import jepbt

    jepbt.use_all_cpu_cores()  # before JAX is first used; changes no GPU or TPU
    print(f"jepbt {jepbt.__version__}, jax {jax.__version__}, kept:", *jax.devices())
    accelerator = find_accelerator()
    if jax.default_backend() == "cpu" and accelerator:
        print(
            f"Warning: this runtime has a {accelerator}, but jax found only the CPU, "
            "so everything below is slow. Its jaxlib and its plugin are probably of "
            "different versions: start a fresh runtime and run this cell first."
        )


main()
