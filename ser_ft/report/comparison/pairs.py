"""Paired comparisons of systems on the same clips, with a baseline and with each other."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...data.splits import Leaking
from ...evaluation.significance import PairedComparison, compare_paired
from ...evaluation.systems import Leaderboard, System
from ...utils.errors import InputError
from ...utils.text import MISSING, count_text

ALPHA = 0.05
"""A difference is significant if its p value, corrected for the number of comparisons, is at most this."""


@dataclass(frozen=True)
class SystemComparison:
    """The systems that were tested on the same clips, with the comparisons between them.

    Attributes:
        baseline: the system that the others are compared with.
        versus_baseline: a system's name -> the system minus the baseline.
        pairs: the names of two models -> the first minus the second.
        corrected: the same names -> the p value corrected for the number of pairs (Holm).
        transfer: the name of a pretrained model -> the corrected p value of its difference from the baseline.
    """

    tested: Leaderboard
    baseline: System | None = None
    versus_baseline: dict[str, PairedComparison] = field(default_factory=dict)
    pairs: dict[tuple[str, str], PairedComparison] = field(default_factory=dict)
    corrected: dict[tuple[str, str], float] = field(default_factory=dict)
    transfer: dict[str, float] = field(default_factory=dict)

    @property
    def leaking(self) -> Leaking:
        """Whether test speakers were seen in training."""
        return self.tested.best.leaking

    @property
    def title(self) -> str:
        """The test set: "ravdess, 1,199 clips of 20 speakers, split kfold"."""
        best = self.tested.best
        clips = f"{count_text(len(best.labels), 'clip')} of {count_text(self.tested.speakers, 'speaker')}"
        return f"{' + '.join(self.tested.corpora)}, {clips}, split {best.split}"


def compare_systems(tested: Leaderboard, baseline_name: str | None = None) -> SystemComparison:
    """Compare the systems that were tested on the same clips.

    The baseline is by default the best mfcc-cnn, or the best network trained from scratch. There are no comparisons on
    a leaking split, whose scores do not hold for new speakers, nor with unknown speakers.
    """
    if tested.best.leaking or tested.best.has_unknown_speakers:
        return SystemComparison(tested)
    baseline = _select_baseline(tested, baseline_name)
    versus_baseline = {}
    if baseline is not None:
        others = (system for system in tested.systems if system is not baseline)
        versus_baseline = {system.name: paired_difference(system, baseline) for system in others}
    pretrained = [s.name for s in tested.systems if s.kind == "transfer" and s.name in versus_baseline]
    transfer = dict(zip(pretrained, holm([versus_baseline[name].p_value for name in pretrained]), strict=True))
    if tested.is_cross_corpus:
        return SystemComparison(tested, baseline, versus_baseline, transfer=transfer)
    pairs = {
        (first.name, second.name): paired_difference(first, second)
        for first, second in itertools.combinations(tested.models, 2)
    }
    corrected = dict(zip(pairs, holm([pair.p_value for pair in pairs.values()]), strict=True))
    return SystemComparison(tested, baseline, versus_baseline, pairs, corrected, transfer)


def check_baseline(leaderboards: Sequence[Leaderboard], baseline_name: str | None) -> None:
    """Check that the baseline exists on at least one test set.

    Raises:
        InputError: no system has this name.
    """
    systems = [system for tested in leaderboards for system in tested.systems]
    if baseline_name is None or any(baseline_name in (system.name, system.model) for system in systems):
        return
    names = dict.fromkeys(system.name for system in systems)
    raise InputError(f"--baseline {baseline_name}: no such model here; there are {', '.join(names)}")


def paired_difference(first: System, second: System) -> PairedComparison:
    """Compare two systems on the same clips: the UAR of the first minus that of the second."""
    speakers = first.clips["speaker"].tolist()
    return compare_paired(first.labels, first.predictions, second.predictions, speakers, len(first.classes))


def holm(p_values: Sequence[float]) -> list[float]:
    """Correct p values for multiple comparisons (Holm 1979, "A simple sequentially rejective multiple test procedure").

    The k-th smallest of n p values is multiplied by n - k + 1, and raised to at least the one before and at most 1.
    """
    corrected, minimum = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        minimum = max(minimum, min(1.0, (len(p_values) - rank) * p_values[index]))
        corrected[index] = minimum
    return corrected


def conclusion(first: str, second: str, comparison: PairedComparison, p_value: float) -> str:
    """State in words what the comparison of two systems, the first minus the second, shows; `p_value` is corrected."""
    speakers = count_text(comparison.speakers, "speaker")
    if comparison.smallest_p_value > ALPHA:
        limit = f"no difference, however large, has a p value under {p_text(comparison.smallest_p_value)}"
        return f"{speakers} are too few to distinguish {first} from {second}: {limit}"
    if p_value > ALPHA:
        return f"{speakers} show no significant difference between {first} and {second}"
    return f"{first} has a {'higher' if comparison.difference > 0 else 'lower'} UAR than {second}"


def p_text(p_value: float) -> str:
    """Return a p value as text: "0.031", "<0.001"."""
    return "<0.001" if p_value < 0.001 else f"{p_value:.3f}"


def signed_text(value: float | None) -> str:
    """Return a difference of scores with its sign: "+0.041", or "-" if it does not exist."""
    return MISSING if value is None else f"{value:+.3f}"


def signed_interval_text(comparison: PairedComparison) -> str:
    """Return the interval of a difference: "-0.012 to +0.094", or "-" if it does not exist."""
    is_missing = comparison.low is None or comparison.high is None
    return MISSING if is_missing else f"{signed_text(comparison.low)} to {signed_text(comparison.high)}"


def _select_baseline(tested: Leaderboard, name: str | None) -> System | None:
    # The systems are sorted by UAR, the best first.
    if name is not None:
        exact = [system for system in tested.systems if system.name == name]
        return next(iter(exact or [system for system in tested.systems if system.model == name]), None)
    kinds = ("baseline", "from-scratch")
    return next((system for kind in kinds for system in tested.systems if system.kind == kind), None)
