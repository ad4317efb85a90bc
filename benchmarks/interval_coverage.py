"""Coverage of the confidence intervals for UAR, and for the difference of two, on simulated test sets.

A clip of speaker s and class c is recognized with probability sigmoid(b_c + a_s + e_sc): the class effects b are
evenly spaced over two logits, the speaker effects a and the interactions e are normal. The true UAR is the mean over
the classes of the expectation of that probability (Gauss-Hermite quadrature). There are two models: an average one
(mean a of 1 logit) and a good one (3.5 logits, UAR about 0.95, near the ceiling).

Test sets with eight classes:
    complete    8 clips of each class from each speaker: "t"; also the plain t interval, without the logit scale
    two_groups  half of the speakers lack two classes, as CREMA-D's lack calm and surprise: "jackknife-t"
    minority    all but a quarter of the speakers (3 or more) lack these two classes: "jackknife-t"
    holes       each speaker lacks each class with probability 0.2: "jackknife-t"
    uneven      Poisson numbers of clips with a rate that varies between speakers (gamma, mean 6): "jackknife-t"
    unequal     a third of the speakers have four times as many clips of each class: "jackknife-t"

"given" is the share of test sets for which the method gave an interval; the coverage is that of these intervals.

Then pairs of systems on the same clips, which share 0.7 of the variance of a and e (a speaker that is difficult for
one is difficult for the other), and are equally good or differ by 0.5 logits: the coverage of the difference's
interval, and how often the permutation test gives p < 0.05. For equal systems that is its error, which should be at
most 0.05; with four speakers p is at least 0.125. The last lines are means, minima and maxima over the kinds of test
set and model that gave 100 intervals or more.

Run: python benchmarks/interval_coverage.py [--simulations 5000] [--pairs 1000] [--seed 0]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, stdtrit

from ser_ft.evaluation.confidence_intervals import interval_from_counts
from ser_ft.evaluation.significance import PairedComparison, compare_paired

CLASSES = 8
CLIPS = 8
MISSING_CLASSES = (1, 7)
MODELS = {
    "average": (1.0, 0.6, 0.5),
    "good": (3.5, 0.8, 0.5),
}  # logits: mean and standard deviation of a, standard deviation of e
LEVEL = 0.95
SHARED_VARIANCE = 0.7
DIFFERENCES = {"equal": 0.0, "different": 0.5}  # logits
MIN_INTERVALS = 100  # smallest number of intervals for a coverage in the last lines

Ends = tuple[float, float] | None
Design = Callable[[int, np.random.Generator], np.ndarray]
Method = Callable[[np.ndarray, np.ndarray], Ends]


def complete(speakers: int, _random: np.random.Generator) -> np.ndarray:
    """Return numbers of clips, shape (speakers, classes), as all designs do: all equal."""
    return np.full((speakers, CLASSES), CLIPS)


def two_groups(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Half of the speakers lack two classes."""
    clips = complete(speakers, random)
    clips[: speakers // 2, MISSING_CLASSES] = 0
    return clips


def minority(speakers: int, random: np.random.Generator) -> np.ndarray:
    """A quarter of the speakers, 3 or more, have all classes, the others lack two."""
    clips = complete(speakers, random)
    clips[max(3, speakers // 4) :, MISSING_CLASSES] = 0
    return clips


def holes(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Each speaker lacks each class with probability 0.2; speakers without clips are removed."""
    clips = complete(speakers, random) * (random.random((speakers, CLASSES)) >= 0.2)
    return clips[clips.any(axis=1)]


def uneven(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Some speakers have more clips than others; speakers without clips are removed."""
    clips = random.poisson(random.gamma(4, 1.5, (speakers, 1)), (speakers, CLASSES))
    return clips[clips.any(axis=1)]


def unequal(speakers: int, _random: np.random.Generator) -> np.ndarray:
    """A third of the speakers have four times as many clips as the others."""
    clips = complete(speakers, _random)
    clips[: -(-speakers // 3)] *= 4
    return clips


def package_interval(method: str) -> Method:
    """Return a function for the package's interval; None if it has none or uses another method."""

    def ends(correct: np.ndarray, clips: np.ndarray) -> Ends:
        interval = interval_from_counts(correct, clips, LEVEL)
        return None if interval is None or interval.method != method else (interval.low, interval.high)

    return ends


def plain_t(correct: np.ndarray, clips: np.ndarray) -> Ends:
    """Return the t interval of the per-speaker UARs without the logit scale."""
    per_speaker = (correct / clips).mean(axis=1)
    half_width = stdtrit(len(clips) - 1, (1 + LEVEL) / 2) * per_speaker.std(ddof=1) / np.sqrt(len(clips))
    return per_speaker.mean() - half_width, per_speaker.mean() + half_width


METHODS: dict[str, tuple[Method, tuple[Design, ...]]] = {
    "plain t": (plain_t, (complete,)),
    "t": (package_interval("t"), (complete,)),
    "jackknife-t": (package_interval("jackknife-t"), (two_groups, minority, holes, uneven, unequal)),
}


PAIRED: tuple[Design, ...] = (complete, minority, holes, uneven, unequal)


@dataclass
class Tally:
    """Counts of the intervals of one kind."""

    num_intervals: int = 0
    too_low: int = 0
    too_high: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, ends: Ends, true_value: float) -> None:
        """Count an interval, or its absence."""
        if ends is not None:
            self.num_intervals += 1
            self.too_low += ends[1] < true_value
            self.too_high += ends[0] > true_value
            self.widths.append(ends[1] - ends[0])

    @property
    def coverage(self) -> float:
        """The share of intervals that contain the true value."""
        return 1 - (self.too_low + self.too_high) / self.num_intervals

    def __str__(self) -> str:
        if not self.num_intervals:
            return "none"
        misses = f"{self.too_low / self.num_intervals:8.3f} {self.too_high / self.num_intervals:8.3f}"
        return f"{self.coverage:8.3f} {misses} {np.median(self.widths):8.3f}"


def simulate(
    speakers: int, design: Design, model: str, method: Method, simulations: int, random: np.random.Generator
) -> Tally:
    """Simulate test sets and count the intervals that a method gives for them."""
    class_logits, speaker_std, interaction_std = model_parameters(model)
    true_value = true_uar(model)
    tally = Tally()
    for _ in range(simulations):
        clips = design(speakers, random)
        speakers_with_clips = len(clips)
        logits = (
            class_logits
            + speaker_std * random.standard_normal((speakers_with_clips, 1))
            + interaction_std * random.standard_normal((speakers_with_clips, CLASSES))
        )
        tally.add(method(random.binomial(clips, expit(logits)), clips), true_value)
    return tally


def model_parameters(model: str) -> tuple[np.ndarray, float, float]:
    """Return the mean logit of each class, and the standard deviations of a and e."""
    mean, speaker_std, interaction_std = MODELS[model]
    return mean + np.linspace(-1, 1, CLASSES), speaker_std, interaction_std


def true_uar(model: str, harder: float = 0.0) -> float:
    """Return the true UAR of a model, with all logits reduced by `harder`."""
    class_logits, speaker_std, interaction_std = model_parameters(model)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float(
        (
            expit(class_logits[:, None] - harder + np.hypot(speaker_std, interaction_std) * nodes)
            @ weights
            / weights.sum()
        ).mean()
    )


def compare_systems(
    speakers: int, design: Design, model: str, harder: float, random: np.random.Generator
) -> PairedComparison:
    """Simulate a test set and two systems' predictions for it, and compare them."""
    class_logits, speaker_std, interaction_std = model_parameters(model)
    clips = design(speakers, random)
    speakers_with_clips = len(clips)

    def correlated_effects(columns: int) -> tuple[np.ndarray, np.ndarray]:
        both, first, second = random.standard_normal((3, speakers_with_clips, columns))
        independent = np.sqrt(1 - SHARED_VARIANCE)
        return np.sqrt(SHARED_VARIANCE) * both + independent * first, np.sqrt(
            SHARED_VARIANCE
        ) * both + independent * second

    predictions = []
    speaker, column = np.nonzero(clips)
    number = clips[speaker, column]
    labels = np.repeat(column, number)
    for a, e, reduction in zip(correlated_effects(1), correlated_effects(CLASSES), (0.0, harder), strict=True):
        probability = expit(class_logits - reduction + speaker_std * a + interaction_std * e)[speaker, column].repeat(
            number
        )
        predictions.append(np.where(random.random(len(labels)) < probability, labels, (labels + 1) % CLASSES))
    names = np.array([f"{index:03}" for index in range(speakers_with_clips)])[speaker].repeat(number)
    first, second = predictions
    return compare_paired(labels, first, second, names.tolist(), CLASSES, LEVEL, seed=int(random.integers(2**31)))


def intervals(counts: list[int], simulations: int, random: np.random.Generator) -> dict[str, list[float]]:
    """Print a row per kind of test set; return the coverages by method and number of speakers."""
    print("method       speakers test set   model     given coverage  too low too high    width (median)")
    coverages_by_row: dict[str, list[float]] = {}
    for name, (method, designs) in METHODS.items():
        for speakers in counts:
            coverages = coverages_by_row.setdefault(
                f"coverage_{name.replace(' ', '_').replace('-', '_')}_{speakers}_speakers", []
            )
            for design, model in ((design, model) for design in designs for model in MODELS):
                tally = simulate(speakers, design, model, method, simulations, random)
                share = tally.num_intervals / simulations
                print(f"{name:12} {speakers:8} {design.__name__:10} {model:8} {share:6.2f} {tally}", flush=True)
                coverages += [tally.coverage] if tally.num_intervals >= MIN_INTERVALS else []
    return coverages_by_row


def differences(counts: list[int], pairs: int, random: np.random.Generator) -> dict[str, list[float]]:
    """Print a row per kind of test set and pair; return coverages and how often p < 0.05."""
    print("systems      speakers test set   model     given coverage  too low too high    width (median)  p < 0.05")
    coverages_by_row: dict[str, list[float]] = {}
    for speakers, (kind, harder) in ((speakers, pair) for speakers in counts for pair in DIFFERENCES.items()):
        coverages = coverages_by_row.setdefault(f"coverage_difference_{kind}_{speakers}_speakers", [])
        rejections = coverages_by_row.setdefault(f"p_under_0.05_{kind}_{speakers}_speakers", [])
        for design, model in ((design, model) for design in PAIRED for model in MODELS):
            true_value = true_uar(model) - true_uar(model, harder)
            tally, rejected = Tally(), 0
            for _ in range(pairs):
                result = compare_systems(speakers, design, model, harder, random)
                ends = None if result.low is None or result.high is None else (result.low, result.high)
                tally.add(ends, true_value)
                rejected += result.p_value < 0.05
            share = tally.num_intervals / pairs
            row = f"{kind:12} {speakers:8} {design.__name__:10} {model:8} {share:6.2f} {tally}"
            print(f"{row:84} {rejected / pairs:8.3f}", flush=True)
            coverages += [tally.coverage] if tally.num_intervals >= MIN_INTERVALS else []
            rejections.append(rejected / pairs)
    return coverages_by_row


def main() -> None:
    """Print a row per kind of test set, then the coverage by method and number of speakers."""
    parser = argparse.ArgumentParser(description="Coverage of the nominal 95 %% intervals for UAR, by simulation.")
    parser.add_argument("--simulations", type=int, default=5000, help="test sets per row (default: 5000)")
    parser.add_argument("--pairs", type=int, default=1000, help="pairs of systems per row (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="random seed (default: 0)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[4, 5, 10, 24], help="speakers per test set")
    args = parser.parse_args()
    random = np.random.default_rng(args.seed)
    coverages_by_row = intervals(args.speakers, args.simulations, random)
    coverages_by_row |= differences(args.speakers, args.pairs, random)
    for name, values in coverages_by_row.items():
        print(f"{name}: {np.mean(values):.3f}" if values else f"{name}: no intervals")
        if values:
            print(f"lowest_{name}: {min(values):.3f}")
            print(f"highest_{name}: {max(values):.3f}")


if __name__ == "__main__":
    main()
