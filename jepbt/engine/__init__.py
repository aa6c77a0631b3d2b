"""The engine: a generation as pure functions, and how they are compiled."""

from jepbt.engine.cores import use_all_cpu_cores
from jepbt.engine.devices import make_mesh
from jepbt.engine.generation import make_phases
from jepbt.engine.run import make_run
from jepbt.engine.state import Best, RunState, make_inputs

__all__ = [
    "Best",
    "RunState",
    "make_inputs",
    "make_mesh",
    "make_phases",
    "make_run",
    "use_all_cpu_cores",
]
