"""Operators: pure functions that select, mutate, cross and compare members."""

from jepbt.hyperparameters import MIN_FACTOR
from jepbt.operators.crossover import CrossoverFn, pair_children, uniform
from jepbt.operators.mutation import MutationFn, gaussian, perturb
from jepbt.operators.novelty import (
    Behaviour,
    Pulsation,
    check_pulsation,
    novel_elites,
    pulsation,
    spread_out,
)
from jepbt.operators.selection import (
    SelectionFn,
    best_first,
    binary_tournament,
    draw_opponents,
    duel,
    is_elite,
    truncation,
)
from jepbt.operators.significance import Exploit, significant, welch_p_value, welch_test

__all__ = [
    "MIN_FACTOR",
    "Behaviour",
    "CrossoverFn",
    "Exploit",
    "MutationFn",
    "Pulsation",
    "SelectionFn",
    "best_first",
    "binary_tournament",
    "check_pulsation",
    "draw_opponents",
    "duel",
    "gaussian",
    "is_elite",
    "novel_elites",
    "pair_children",
    "perturb",
    "pulsation",
    "significant",
    "spread_out",
    "truncation",
    "uniform",
    "welch_p_value",
    "welch_test",
]
