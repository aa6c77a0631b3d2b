"""Losses: fixed ones to compare with, and the one that evolves."""

from jepbt.losses import taylorglo
from jepbt.losses.classification import (
    LossFn,
    brier,
    cross_entropy,
    focal,
    forward_corrected,
    generalized_cross_entropy,
    label_smoothing,
    logit_adjusted,
    taylor,
)
from jepbt.losses.confusion import AdaptiveLoss, confusion
from jepbt.losses.evolved import EvolvedLoss

__all__ = [
    "AdaptiveLoss",
    "EvolvedLoss",
    "LossFn",
    "brier",
    "confusion",
    "cross_entropy",
    "focal",
    "forward_corrected",
    "generalized_cross_entropy",
    "label_smoothing",
    "logit_adjusted",
    "taylor",
    "taylorglo",
]
