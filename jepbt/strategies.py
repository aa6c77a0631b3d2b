"""Every strategy, and the parts that they are made of, under one name.

A strategy decides what happens between generations: who is copied over whom, and what
becomes of the hyperparameters. `epbt`, `pbt`, `pb2`, `mf_pbt` evolve; `random_search`
and `successive_halving` are controls that cost as much; `frozen` and `restarts` wrap
another strategy.
"""

from jepbt.controls import cosine_decay, random_search, successive_halving
from jepbt.evolutionary import epbt
from jepbt.freezing import frozen
from jepbt.multi_frequency import mf_pbt
from jepbt.novelty import pulsation
from jepbt.pb2 import pb2
from jepbt.population_based import pbt
from jepbt.restarts import restarts, shrink_and_perturb
from jepbt.selection import binary_tournament, duel, truncation
from jepbt.significance import significant, welch_test
from jepbt.strategy import Behaviour, Evaluation, Plan, Strategy, take, where

__all__ = [
    "Behaviour",
    "Evaluation",
    "Plan",
    "Strategy",
    "binary_tournament",
    "cosine_decay",
    "duel",
    "epbt",
    "frozen",
    "mf_pbt",
    "pb2",
    "pbt",
    "pulsation",
    "random_search",
    "restarts",
    "shrink_and_perturb",
    "significant",
    "successive_halving",
    "take",
    "truncation",
    "welch_test",
    "where",
]
