"""How often the intervals for UAR, and for the difference of two, hold the truth: simulated test sets of speakers.

A clip of speaker s and class c is recognised with probability sigmoid(b_c + a_s + e_sc): the classes' ease b is spread
evenly over two logits, the speakers' skill a and each speaker's way with a class e are normal. The true UAR is the
mean over classes of the expectation of that probability (Gauss-Hermite quadrature). Two sorts of model: a middling
one (skill around 1 logit) and a good one (around 3.5 logits, UAR about 0.95, where scores crowd at the ceiling).

Test sets, of eight classes:
    complete    8 clips of each class from each speaker: "t"; also the plain t interval, off the logit scale
    two_groups  half of the speakers lack two classes, as CREMA-D's lack calm and surprise: "jackknife-t"
    minority    all but a quarter of the speakers (3 or more) lack these two classes: "jackknife-t"
    holes       each speaker lacks each class with a chance of 0.2: "jackknife-t"
    uneven      Poisson clips of a rate that varies from speaker to speaker (gamma of shape 4, mean 6): "jackknife-t"
    unequal     a third of the speakers have four times as many clips of each class as the others: "jackknife-t"

"given" is the share of test sets for which the method gave an interval; coverage is over those.

Then pairs of systems on the same clips, which share 0.7 of the variance of a and e (a speaker that is hard for one is
hard for the other), and are equally good or 0.5 logits apart: how often the difference's interval holds the true one,
and how often the permutation test gives p < 0.05. For equal systems that is its error, meant to be 0.05 or less: with
four speakers p cannot be under 0.125. The lines at the end are means, lowest and highest over the kinds of test set
and model that gave 100 intervals or more.

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
ONE_CORPUS_ONLY = (1, 7)
MODELS = {"middling": (1.0, 0.6, 0.5), "good": (3.5, 0.8, 0.5)}  # logits: mean and spread of skill, spread of e
LEVEL = 0.95
SHARED = 0.7
APART = {"equal": 0.0, "apart": 0.5}  # logits
FEWEST_GIVEN = 100  # intervals that a coverage of the last lines rests on

Ends = tuple[float, float] | None
Design = Callable[[int, np.random.Generator], np.ndarray]
Method = Callable[[np.ndarray, np.ndarray], Ends]


def complete(speakers: int, _random: np.random.Generator) -> np.ndarray:
    """Return clips per speaker and class, shape (speakers, classes), as the others do: all equal."""
    return np.full((speakers, CLASSES), CLIPS)


def two_groups(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Half of the speakers lack two classes."""
    clips = complete(speakers, random)
    clips[: speakers // 2, ONE_CORPUS_ONLY] = 0
    return clips


def minority(speakers: int, random: np.random.Generator) -> np.ndarray:
    """A quarter of the speakers, 3 or more, have all classes, the others lack two."""
    clips = complete(speakers, random)
    clips[max(3, speakers // 4) :, ONE_CORPUS_ONLY] = 0
    return clips


def holes(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Each speaker lacks each class with a chance of 0.2; speakers without any clip are not there."""
    clips = complete(speakers, random) * (random.random((speakers, CLASSES)) >= 0.2)
    return clips[clips.any(axis=1)]


def uneven(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Some speakers speak more than others; speakers without any clip are not there."""
    clips = random.poisson(random.gamma(4, 1.5, (speakers, 1)), (speakers, CLASSES))
    return clips[clips.any(axis=1)]


def unequal(speakers: int, _random: np.random.Generator) -> np.ndarray:
    """A third of the speakers have four times as many clips as the others."""
    clips = complete(speakers, _random)
    clips[: -(-speakers // 3)] *= 4
    return clips


def of_package(method: str) -> Method:
    """Return what makes the package's interval, None where it has none or takes another method."""

    def ends(correct: np.ndarray, clips: np.ndarray) -> Ends:
        found = interval_from_counts(correct, clips, LEVEL)
        return None if found is None or found.method != method else (found.low, found.high)

    return ends


def plain_t(correct: np.ndarray, clips: np.ndarray) -> Ends:
    """Return the t interval of the per-speaker UARs without the logit scale."""
    per_speaker = (correct / clips).mean(axis=1)
    half = stdtrit(len(clips) - 1, (1 + LEVEL) / 2) * per_speaker.std(ddof=1) / np.sqrt(len(clips))
    return per_speaker.mean() - half, per_speaker.mean() + half


METHODS: dict[str, tuple[Method, tuple[Design, ...]]] = {
    "plain t": (plain_t, (complete,)),
    "t": (of_package("t"), (complete,)),
    "jackknife-t": (of_package("jackknife-t"), (two_groups, minority, holes, uneven, unequal)),
}


PAIRED: tuple[Design, ...] = (complete, minority, holes, uneven, unequal)


@dataclass
class Tally:
    """What became of the intervals of one kind."""

    given: int = 0
    too_low: int = 0
    too_high: int = 0
    widths: list[float] = field(default_factory=list)

    def add(self, ends: Ends, truth: float) -> None:
        """Count an interval, or that there was none."""
        if ends is not None:
            self.given += 1
            self.too_low += ends[1] < truth
            self.too_high += ends[0] > truth
            self.widths.append(ends[1] - ends[0])

    @property
    def coverage(self) -> float:
        """The share of intervals that hold the truth."""
        return 1 - (self.too_low + self.too_high) / self.given

    def __str__(self) -> str:
        if not self.given:
            return "none"
        misses = f"{self.too_low / self.given:8.3f} {self.too_high / self.given:8.3f}"
        return f"{self.coverage:8.3f} {misses} {np.median(self.widths):8.3f}"


def simulate(
    speakers: int, design: Design, model: str, method: Method, simulations: int, random: np.random.Generator
) -> Tally:
    """Draw test sets and tally the intervals that a method gives for them."""
    ease, skill, manner = of_model(model)
    truth = true_uar(model)
    tally = Tally()
    for _ in range(simulations):
        clips = design(speakers, random)
        people = len(clips)
        logits = ease + skill * random.standard_normal((people, 1)) + manner * random.standard_normal((people, CLASSES))
        tally.add(method(random.binomial(clips, expit(logits)), clips), truth)
    return tally


def of_model(model: str) -> tuple[np.ndarray, float, float]:
    """Return the ease of each class, and the spread of skill and of each speaker's way with a class, in logits."""
    centre, skill, manner = MODELS[model]
    return centre + np.linspace(-1, 1, CLASSES), skill, manner


def true_uar(model: str, harder: float = 0.0) -> float:
    """Return the UAR over many speakers, of a model for which everything is so many logits harder."""
    ease, skill, manner = of_model(model)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    return float((expit(ease[:, None] - harder + np.hypot(skill, manner) * nodes) @ weights / weights.sum()).mean())


def compared(speakers: int, design: Design, model: str, harder: float, random: np.random.Generator) -> PairedComparison:
    """Draw a test set and two systems' answers to it, and compare them."""
    ease, skill, manner = of_model(model)
    clips = design(speakers, random)
    people = len(clips)

    def varied(columns: int) -> tuple[np.ndarray, np.ndarray]:
        both, first, second = random.standard_normal((3, people, columns))
        own = np.sqrt(1 - SHARED)
        return np.sqrt(SHARED) * both + own * first, np.sqrt(SHARED) * both + own * second

    answers = []
    speaker, column = np.nonzero(clips)
    number = clips[speaker, column]
    labels = np.repeat(column, number)
    for a, e, less in zip(varied(1), varied(CLASSES), (0.0, harder), strict=True):
        chance = expit(ease - less + skill * a + manner * e)[speaker, column].repeat(number)
        answers.append(np.where(random.random(len(labels)) < chance, labels, (labels + 1) % CLASSES))
    names = np.array([f"{place:03}" for place in range(people)])[speaker].repeat(number)
    first, second = answers
    return compare_paired(labels, first, second, names.tolist(), CLASSES, LEVEL, seed=int(random.integers(2**31)))


def intervals(counts: list[int], simulations: int, random: np.random.Generator) -> dict[str, list[float]]:
    """Print a row per kind of test set, and return the coverages by method and number of speakers."""
    print("method       speakers test set   model     given coverage  too low too high    width (median)")
    figures: dict[str, list[float]] = {}
    for name, (method, designs) in METHODS.items():
        for speakers in counts:
            coverages = figures.setdefault(
                f"coverage_{name.replace(' ', '_').replace('-', '_')}_{speakers}_speakers", []
            )
            for design, model in ((design, model) for design in designs for model in MODELS):
                tally = simulate(speakers, design, model, method, simulations, random)
                given = tally.given / simulations
                print(f"{name:12} {speakers:8} {design.__name__:10} {model:8} {given:6.2f} {tally}", flush=True)
                coverages += [tally.coverage] if tally.given >= FEWEST_GIVEN else []
    return figures


def differences(counts: list[int], pairs: int, random: np.random.Generator) -> dict[str, list[float]]:
    """Print a row per kind of test set and pair, and return coverages and how often p < 0.05."""
    print("systems      speakers test set   model     given coverage  too low too high    width (median)  p < 0.05")
    figures: dict[str, list[float]] = {}
    for speakers, (kind, harder) in ((speakers, pair) for speakers in counts for pair in APART.items()):
        coverages = figures.setdefault(f"coverage_difference_{kind}_{speakers}_speakers", [])
        found = figures.setdefault(f"p_under_0.05_{kind}_{speakers}_speakers", [])
        for design, model in ((design, model) for design in PAIRED for model in MODELS):
            truth = true_uar(model) - true_uar(model, harder)
            tally, told = Tally(), 0
            for _ in range(pairs):
                result = compared(speakers, design, model, harder, random)
                ends = None if result.low is None or result.high is None else (result.low, result.high)
                tally.add(ends, truth)
                told += result.p_value < 0.05
            given = tally.given / pairs
            row = f"{kind:12} {speakers:8} {design.__name__:10} {model:8} {given:6.2f} {tally}"
            print(f"{row:84} {told / pairs:8.3f}", flush=True)
            coverages += [tally.coverage] if tally.given >= FEWEST_GIVEN else []
            found.append(told / pairs)
    return figures


def main() -> None:
    """Print a row per kind of test set, then the coverage by method and number of speakers."""
    parser = argparse.ArgumentParser(description="Coverage of the nominal 95 %% intervals for UAR, by simulation.")
    parser.add_argument("--simulations", type=int, default=5000, help="test sets per row (default: 5000)")
    parser.add_argument("--pairs", type=int, default=1000, help="pairs of systems per row (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[4, 5, 10, 24], help="speakers per test set")
    chosen = parser.parse_args()
    random = np.random.default_rng(chosen.seed)
    figures = intervals(chosen.speakers, chosen.simulations, random)
    figures |= differences(chosen.speakers, chosen.pairs, random)
    for name, values in figures.items():
        print(f"{name}: {np.mean(values):.3f}" if values else f"{name}: none given")
        if values:
            print(f"lowest_{name}: {min(values):.3f}")
            print(f"highest_{name}: {max(values):.3f}")


if __name__ == "__main__":
    main()
