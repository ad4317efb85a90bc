"""A speaker's own baseline: how the voice sounds at first, and what of it is taken off all that follows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from ..inference.windows import Window, WindowSettings, smooth_windows
from ..labels import canonical_name
from ..utils.errors import InputError

ORDINARY = ("neutral", "calm")
"""What an ordinary way of talking is taken to be."""
ORDINARY_SHARE = 0.5
"""Of the answer to an ordinary voice, the share that these two have; the other classes share the rest alike."""


@dataclass(frozen=True)
class Baseline:
    """What was taken off a speaker's answers.

    Attributes:
        until: where the baseline ends, in seconds of the recording. windows: how many answers it is made from.
        lowered: by how much the log-odds of each class were lowered, 0 or more; never raised.
    """

    until: float
    windows: int
    lowered: dict[str, float]


def ordinary(classes: Sequence[str]) -> np.ndarray:
    """Return which classes are an ordinary way of talking: bool, shape (classes,).

    Raises:
        InputError: none is, or all are: there is nothing to set a voice against.
    """
    usual = np.array([canonical_name(name) in ORDINARY for name in classes])
    if not usual.any() or usual.all():
        raise InputError(
            f"--baseline: needs a model that knows neutral or calm, not {', '.join(classes)}: leave it out"
        )
    return usual


def baseline(windows: Sequence[Window], classes: Sequence[str], seconds: float, hop: float) -> Baseline | None:
    r"""Measure a speaker's baseline, the windows up to the first `seconds` of speech.

    For each class c, the mean over these windows of log(p_c / p_o), where p_o is the probability of neutral and calm
    together, is set against what an ordinary voice gets: p_o = 0.5, and the other classes alike. What it is above
    that is taken off the log-odds of the class everywhere; what is below stays as it is, so that a quiet beginning
    makes nothing look stronger. It follows the idea of normalising by a speaker's own neutral speech (Busso,
    Mariooryad, Metallinou & Narayanan 2013, "Iterative feature normalization scheme for automatic emotion detection
    from speech"), applied to answers instead of features.

    What it does on 20 unseen RAVDESS speakers with a plain-cnn (benchmarks/baseline.py), told by the share of the other
    neutral and calm clips that are taken for dissatisfaction, and that of the negative clips found: a baseline of six
    neutral or calm clips takes the first from 0.22 to 0.13 and the second from 0.77 to 0.76; of any six clips, from
    0.21 to 0.04 and from 0.77 to 0.68; of six angry ones, from 0.21 to 0.08 and from 0.75 to 0.63.

    Args:
        windows: of one speaker, in order. classes: of their probabilities. seconds: of speech.
        hop: from window to window, in seconds: as much of a window's speech is counted as its own.

    Returns:
        None where less than twice `seconds` of speech is there: too little would be left to judge.

    Raises:
        InputError: see `ordinary`.
    """
    usual = ordinary(classes)
    judged = [(window, window.probabilities) for window in windows if window.probabilities is not None]
    heard = np.cumsum([window.speech * hop for window, _ in judged])
    if not len(heard) or heard[-1] < 2 * seconds:
        return None
    count = int(np.searchsorted(heard, seconds)) + 1
    answers = np.log(np.maximum(np.array([answer for _, answer in judged[:count]]), 1e-12))
    base = np.logaddexp.reduce(answers[:, usual], axis=1, keepdims=True)
    expected = np.log((1 - ORDINARY_SHARE) / (~usual).sum() / ORDINARY_SHARE)
    above = np.where(usual, 0.0, np.maximum(0.0, (answers - base).mean(axis=0) - expected))
    return Baseline(judged[count - 1][0].end, count, dict(zip(classes, map(float, above), strict=True)))


def taken_off(windows: Sequence[Window], found: Baseline, settings: WindowSettings) -> list[Window]:
    """Return the windows with a baseline taken off their answers, smoothed anew."""
    weights = np.exp(-np.array(list(found.lowered.values())))
    lowered = [replace(window, probabilities=_lowered(window.probabilities, weights)) for window in windows]
    return smooth_windows(lowered, settings)


def _lowered(answer: np.ndarray | None, weights: np.ndarray) -> np.ndarray | None:
    return None if answer is None else np.asarray(answer * weights / (answer * weights).sum())
