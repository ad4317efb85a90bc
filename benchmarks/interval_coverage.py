"""How often the intervals for UAR hold the true UAR: simulated test sets of speakers whose skill varies.

A clip of speaker s and class c is recognised with probability sigmoid(b_c + a_s + e_sc): the classes' ease b is spread
evenly over two logits, the speakers' skill a and each speaker's way with a class e are normal. The true UAR is the
mean over classes of the expectation of that probability (Gauss-Hermite quadrature). Two sorts of model: a middling
one (skill around 1 logit) and a good one (around 3.5 logits, UAR about 0.95, where scores crowd at the ceiling).

Test sets, of eight classes:
    complete    8 clips of each class from each speaker: "t"; also the plain t interval, off the logit scale
    two_groups  half of the speakers lack two classes, as CREMA-D's lack calm and surprise: "bootstrap-t"
    holes       each speaker lacks each class with a chance of 0.2: "bootstrap-t"
    uneven      Poisson clips of a rate that varies from speaker to speaker (gamma of shape 4, mean 6): "bootstrap-t"

"given" is the share of test sets for which the method gave an interval; coverage is over those. The lines at the end
are the mean and the lowest coverage over the kinds of test set and model.

Run: python benchmarks/interval_coverage.py [--simulations 1000] [--seed 0]
"""

from __future__ import annotations

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field

import numpy as np
from scipy.special import expit, stdtrit

from ser_ft.results.intervals import interval_from_counts

CLASSES = 8
CLIPS = 8
ONE_CORPUS_ONLY = (1, 7)
MODELS = {"middling": (1.0, 0.6, 0.5), "good": (3.5, 0.8, 0.5)}  # logits: mean and spread of skill, spread of e
LEVEL = 0.95

Ends = tuple[float, float] | None
Design = Callable[[int, np.random.Generator], np.ndarray]
Method = Callable[[np.ndarray, np.ndarray, np.random.Generator], Ends]


def complete(speakers: int, _random: np.random.Generator) -> np.ndarray:
    """Return clips per speaker and class, shape (speakers, classes), as the others do: all equal."""
    return np.full((speakers, CLASSES), CLIPS)


def two_groups(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Half of the speakers lack two classes."""
    clips = complete(speakers, random)
    clips[: speakers // 2, ONE_CORPUS_ONLY] = 0
    return clips


def holes(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Each speaker lacks each class with a chance of 0.2; speakers without any clip are not there."""
    clips = complete(speakers, random) * (random.random((speakers, CLASSES)) >= 0.2)
    return clips[clips.any(axis=1)]


def uneven(speakers: int, random: np.random.Generator) -> np.ndarray:
    """Some speakers speak more than others; speakers without any clip are not there."""
    clips = random.poisson(random.gamma(4, 1.5, (speakers, 1)), (speakers, CLASSES))
    return clips[clips.any(axis=1)]


def of_package(method: str) -> Method:
    """Return what makes the package's interval, None where it has none or takes another method."""

    def ends(correct: np.ndarray, clips: np.ndarray, random: np.random.Generator) -> Ends:
        found = interval_from_counts(correct, clips, LEVEL, seed=int(random.integers(2**31)))
        return None if found is None or found.method != method else (found.low, found.high)

    return ends


def plain_t(correct: np.ndarray, clips: np.ndarray, _random: np.random.Generator) -> Ends:
    """Return the t interval of the per-speaker UARs without the logit scale."""
    per_speaker = (correct / clips).mean(axis=1)
    half = stdtrit(len(clips) - 1, (1 + LEVEL) / 2) * per_speaker.std(ddof=1) / np.sqrt(len(clips))
    return per_speaker.mean() - half, per_speaker.mean() + half


METHODS: dict[str, tuple[Method, tuple[Design, ...]]] = {
    "plain t": (plain_t, (complete,)),
    "t": (of_package("t"), (complete,)),
    "bootstrap-t": (of_package("bootstrap-t"), (two_groups, holes, uneven)),
}


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
    centre, skill, manner = MODELS[model]
    ease = centre + np.linspace(-1, 1, CLASSES)
    nodes, weights = np.polynomial.hermite_e.hermegauss(60)
    truth = float((expit(ease[:, None] + np.hypot(skill, manner) * nodes) @ weights / weights.sum()).mean())
    tally = Tally()
    for _ in range(simulations):
        clips = design(speakers, random)
        people = len(clips)
        logits = ease + skill * random.standard_normal((people, 1)) + manner * random.standard_normal((people, CLASSES))
        tally.add(method(random.binomial(clips, expit(logits)), clips, random), truth)
    return tally


def main() -> None:
    """Print a row per kind of test set, then the coverage by method and number of speakers."""
    parser = argparse.ArgumentParser(description="Coverage of the nominal 95 %% intervals for UAR, by simulation.")
    parser.add_argument("--simulations", type=int, default=1000, help="test sets per row (default: 1000)")
    parser.add_argument("--seed", type=int, default=0, help="of all random numbers (default: 0)")
    parser.add_argument("--speakers", type=int, nargs="+", default=[4, 5, 10, 24], help="speakers per test set")
    chosen = parser.parse_args()
    random = np.random.default_rng(chosen.seed)
    print("method       speakers test set   model     given coverage  too low too high    width (median)")
    figures: dict[str, list[float]] = {}
    for name, (method, designs) in METHODS.items():
        for speakers in chosen.speakers:
            coverages = figures.setdefault(f"{name.replace(' ', '_').replace('-', '_')}_{speakers}_speakers", [])
            for design, model in ((design, model) for design in designs for model in MODELS):
                tally = simulate(speakers, design, model, method, chosen.simulations, random)
                given = tally.given / chosen.simulations
                print(f"{name:12} {speakers:8} {design.__name__:10} {model:8} {given:6.2f} {tally}", flush=True)
                coverages += [tally.coverage] if tally.given else []
    for name, coverages in figures.items():
        print(f"coverage_{name}: {np.mean(coverages):.3f}" if coverages else f"coverage_{name}: none given")
        if coverages:
            print(f"lowest_coverage_{name}: {min(coverages):.3f}")


if __name__ == "__main__":
    main()
