"""Operators: pure functions that select, mutate, cross and compare members."""

from jepbt.operators.crossover import CrossoverFn, pair_children, uniform
from jepbt.operators.mutation import MIN_FACTOR, MutationFn, gaussian, perturb
from jepbt.operators.novelty import (
    Behaviour,
    Pulsation,
    check_pulsation,
    novel_elites,
    pool_size,
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
    "pool_size",
    "pulsation",
    "significant",
    "spread_out",
    "truncation",
    "uniform",
    "welch_p_value",
    "welch_test",
]
