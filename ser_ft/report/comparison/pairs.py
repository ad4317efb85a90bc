"""Systems beside a baseline and beside each other: differences over the same clips, and what may be said of them."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field

from ...evaluation.significance import PairedComparison, compare_paired
from ...evaluation.systems import Leaderboard, System
from ...utils.errors import InputError
from ...utils.text import count_text

TOLD = 0.05  # a difference is told where p, corrected for the number of comparisons, is no higher


@dataclass(frozen=True)
class Compared:
    """A test set with the comparisons made on it.

    Attributes:
        tested: the systems. baseline: what the others stand beside, None where there is none.
        beside: name of a system -> it less the baseline. pairs: names of two models -> the first less the second.
        corrected: the same -> Holm's p. transfer: name of a transfer model -> p beside the baseline, likewise.
    """

    tested: Leaderboard
    baseline: System | None = None
    beside: dict[str, PairedComparison] = field(default_factory=dict)
    pairs: dict[tuple[str, str], PairedComparison] = field(default_factory=dict)
    corrected: dict[tuple[str, str], float] = field(default_factory=dict)
    transfer: dict[str, float] = field(default_factory=dict)

    @property
    def leaking(self) -> bool:
        """Whether the test speakers were heard in training."""
        return self.tested.best.leaking

    @property
    def title(self) -> str:
        """What was tested on: "ravdess, 1,199 clips of 20 speakers, split kfold"."""
        first = self.tested.best
        people = count_text(self.tested.speakers, "speaker")
        return f"{' + '.join(self.tested.corpora)}, {count_text(len(first.labels), 'clip')} of {people}, split {first.split}"


def compare_set(tested: Leaderboard, wanted: str | None = None) -> Compared:
    """Make the comparisons of a test set.

    None on a leaking split, whose figures say nothing of new speakers, and none where speakers are not known.

    Args:
        tested: the systems. wanted: the baseline's name; by default the best mfcc-cnn, else the best classic network.
    """
    if tested.best.leaking or tested.best.has_unknown_speakers:
        return Compared(tested)
    baseline = _baseline(tested, wanted)
    beside = {}
    if baseline is not None:
        beside = {one.name: difference(one, baseline) for one in tested.systems if one is not baseline}
    moved = [one.name for one in tested.systems if one.kind == "transfer" and one.name in beside]
    transfer = dict(zip(moved, holm([beside[name].p_value for name in moved]), strict=True))
    if tested.is_cross_corpus:
        return Compared(tested, baseline, beside, transfer=transfer)
    two = itertools.combinations(tested.models, 2)
    pairs = {(one.name, other.name): difference(one, other) for one, other in two}
    corrected = dict(zip(pairs, holm([pair.p_value for pair in pairs.values()]), strict=True))
    return Compared(tested, baseline, beside, pairs, corrected, transfer)


def check_baseline(sets: Sequence[Leaderboard], wanted: str | None) -> None:
    """Refuse a baseline that is nowhere.

    Raises:
        InputError: no system goes by that name.
    """
    if wanted is None or any(wanted in (one.name, one.model) for tested in sets for one in tested.systems):
        return
    known = dict.fromkeys(one.name for tested in sets for one in tested.systems)
    raise InputError(f"--baseline {wanted}: no such model here; there are {', '.join(known)}")


def difference(first: System, second: System) -> PairedComparison:
    """Compare two systems of one test set: the first's UAR less the second's."""
    speakers = first.clips["speaker"].tolist()
    return compare_paired(first.labels, first.predictions, second.predictions, speakers, len(first.classes))


def holm(values: Sequence[float]) -> list[float]:
    """Correct p values for their number (Holm 1979, "A simple sequentially rejective multiple test procedure").

    Args:
        values: of all comparisons made at once.

    Returns:
        as many, in the same order: the k-th smallest of n times n - k + 1, none under a smaller one's, 1 at most.
    """
    order = sorted(range(len(values)), key=lambda place: values[place])
    found, least = [0.0] * len(values), 0.0
    for rank, place in enumerate(order):
        least = max(least, min(1.0, (len(values) - rank) * values[place]))
        found[place] = least
    return found


def verdict(name: str, other: str, found: PairedComparison, p: float) -> str:
    """Say in words what a comparison shows.

    Args:
        name: of the first system. other: of the second. found: the first less the second. p: corrected.
    """
    people = count_text(found.speakers, "speaker")
    if found.smallest_p_value > TOLD:
        least = p_text(found.smallest_p_value)
        return f"{people} cannot tell {name} from {other}: no difference, however large, gives a p under {least}"
    if p > TOLD:
        return f"No difference between {name} and {other} can be told from {people}"
    return f"{name} recognises {'more' if found.difference > 0 else 'less'} than {other}"


def p_text(p: float) -> str:
    """Write a p: "0.031", "<0.001"."""
    return "<0.001" if p < 0.001 else f"{p:.3f}"


def signed(value: float | None) -> str:
    """Write a difference of scores: "+0.041", and one that does not exist as "-"."""
    return "-" if value is None else f"{value:+.3f}"


def signed_interval(found: PairedComparison) -> str:
    """Write the interval of a difference: "-0.012 to +0.094", or "-" where there is none."""
    return "-" if found.low is None or found.high is None else f"{signed(found.low)} to {signed(found.high)}"


def _baseline(tested: Leaderboard, wanted: str | None) -> System | None:
    if wanted is not None:
        exact = [one for one in tested.systems if one.name == wanted]
        return next(iter(exact or [one for one in tested.systems if one.model == wanted]), None)
    for kind in ("baseline", "from-scratch"):
        for one in tested.systems:  # the best first
            if one.kind == kind:
                return one
    return None
