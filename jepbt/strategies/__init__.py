"""Strategies: they decide who is copied over whom, with which hyperparameters."""

from jepbt.hyperparameters import sample_population
from jepbt.operators import (
    Behaviour,
    binary_tournament,
    duel,
    pulsation,
    significant,
    truncation,
    welch_test,
)
from jepbt.population import take, where
from jepbt.strategies.base import Evaluation, Plan, Strategy, check_strategy
from jepbt.strategies.epbt import epbt
from jepbt.strategies.frozen import frozen
from jepbt.strategies.mf_pbt import mf_pbt
from jepbt.strategies.pb2 import pb2
from jepbt.strategies.pbt import pbt
from jepbt.strategies.random_search import cosine_decay, random_search
from jepbt.strategies.registry import STRATEGY_NAMES, resolve_strategy
from jepbt.strategies.restarts import restarts
from jepbt.strategies.successive_halving import successive_halving

__all__ = [
    "STRATEGY_NAMES",
    "Behaviour",
    "Evaluation",
    "Plan",
    "Strategy",
    "binary_tournament",
    "check_strategy",
    "cosine_decay",
    "duel",
    "epbt",
    "frozen",
    "mf_pbt",
    "pb2",
    "pbt",
    "pulsation",
    "random_search",
    "resolve_strategy",
    "restarts",
    "sample_population",
    "significant",
    "successive_halving",
    "take",
    "truncation",
    "welch_test",
    "where",
]
