"""How well the model that ships recognises emotion: speakers that it never heard, another corpus, and worse sound.

    ser-ft sweep recipes/shipped.yaml --seeds 0,1 --out sweeps/shipped --jobs 2
    python benchmarks/shipped.py sweeps/shipped --data data/ravdess_cremad --unseen data/tess

The network of each run of the sweep is asked about the clips of its own fold's test speakers, as they are and made
worse in ways that are named, and about a corpus that no run was trained on. Per corpus the answers of all folds are
pooled for each seed; the figures are means over the seeds. A clip is only asked what its corpus can hold.
"""

import argparse
import json
from collections import defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path

import datasets
import numpy as np

import ser_ft
from ser_ft import audio
from ser_ft.data.augmentation.transforms import TRANSFORMS
from ser_ft.data.prepare import corpus_info
from ser_ft.dataloading.targets import allowed_classes
from ser_ft.evaluation.calibration import expected_calibration_error
from ser_ft.evaluation.metrics import uar, uar_confidence_interval
from ser_ft.evaluation.pooling import find_runs
from ser_ft.inference.backends import Backend, open_backend
from ser_ft.utils.progress import progress_bar

BINS = 10
Change = Callable[[np.ndarray, np.random.Generator], np.ndarray]


def transform(name: str, **settings: object) -> Change:
    return lambda sound, generator: TRANSFORMS[name].apply(sound, generator, **settings)


def between_silence(sound: np.ndarray, _: np.random.Generator) -> np.ndarray:
    still = np.zeros(audio.SAMPLE_RATE, dtype=np.float32)
    return np.concatenate([still, sound, still])


def quiet(sound: np.ndarray, _: np.random.Generator) -> np.ndarray:
    return audio.from_wav(audio.to_wav(sound * np.float32(10 ** (-30 / 20))))


CONDITIONS: dict[str, Change] = {
    "as recorded": lambda sound, _: sound,
    **{f"white noise, SNR {snr} dB": transform("noise", color="white", snr_db=snr) for snr in (20, 10, 5)},
    **{f"pink noise, SNR {snr} dB": transform("noise", color="pink", snr_db=snr) for snr in (20, 10, 5)},
    "telephone, G.711": transform("telephone"),
    "30 dB softer, 16 bit": quiet,
    "20 % faster": transform("stretch", rate=1.2),
    "20 % slower": transform("stretch", rate=0.8),
    "a second of silence on both sides": between_silence,
    "MP3, variable rate, about 14 kbit/s": transform("codec", format="mp3", compression_level=0.95),
    "room, 0.5 s": transform("room", rt60=0.5, drr_db=3.0),
}


class Answers:
    """Labels, probabilities and speakers of clips, gathered over folds."""

    def __init__(self) -> None:
        self.parts: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
        self.certain: list[np.ndarray] = []

    def add(self, seed: int, labels: np.ndarray, shares: np.ndarray, speakers: np.ndarray, least: float) -> None:
        """Take in answers; those whose largest probability is below `least` are uncertain."""
        self.parts[seed].append((labels, shares, speakers))
        sure = shares.max(axis=1) >= least
        self.certain.append(np.stack([sure, sure & (shares.argmax(axis=1) == labels)]))

    def pooled(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for pieces in self.parts.values():
            labels, shares, speakers = (np.concatenate(values) for values in zip(*pieces, strict=True))
            yield labels, shares, speakers

    def told(self) -> str:
        rows = list(self.pooled())
        classes = rows[0][1].shape[1]
        guesses = [shares.argmax(axis=1) for _, shares, _ in rows]
        scores = [uar(labels, guess, classes) for (labels, _, _), guess in zip(rows, guesses, strict=True)]
        right = np.mean([(labels == guess).mean() for (labels, _, _), guess in zip(rows, guesses, strict=True)])
        intervals = [
            uar_confidence_interval(labels, guess, speakers.tolist(), classes)
            for (labels, _, speakers), guess in zip(rows, guesses, strict=True)
        ]
        known = [(found.low, found.high) for found in intervals if found is not None]
        low, high = np.mean(known, axis=0) if known else (np.nan, np.nan)
        spread = f" ({low:.3f} to {high:.3f})" if known else ""
        sure, sure_and_right = np.concatenate(self.certain, axis=1).mean(axis=1)
        unsure = f"uncertain {1 - sure:.3f}, accuracy of the others {sure_and_right / max(sure, 1e-9):.3f}"
        clips = f"{len(rows[0][0])} clips x {len(rows)}"
        return f"UAR {np.mean(scores):.3f}{spread}, accuracy {right:.3f}, {unsure}, {clips}"

    def calibration(self) -> tuple[float, float]:
        """The calibration error, and what one whose every probability were true would show by chance alone."""
        generator, found, floor = np.random.default_rng(0), [], []
        for labels, shares, _ in self.pooled():
            found.append(expected_calibration_error(labels, shares, BINS))
            for _ in range(100):
                drawn = (generator.random((len(shares), 1)) > shares.cumsum(axis=1)).sum(axis=1)
                drawn = drawn.clip(max=shares.shape[1] - 1)
                floor.append(expected_calibration_error(drawn, shares, BINS))
        return float(np.mean(found)), float(np.mean(floor))


def ask(engine: Backend, table: datasets.Dataset, rows: np.ndarray, change: Change, what: str) -> np.ndarray:
    """Probabilities over the classes that each clip's corpus can hold, shape (clips, classes)."""
    classes = engine.info.classes
    chosen = table.select(rows)
    allowed = allowed_classes(list(chosen["corpus"]), corpus_info(table), classes)
    found = np.zeros((len(rows), len(classes)))
    for place, (sound, name) in enumerate(
        progress_bar(list(zip(chosen["audio"], chosen["id"], strict=True)), desc=what)
    ):
        seed = np.random.default_rng([ord(letter) for letter in name])
        changed = change(audio.from_wav(sound["bytes"]), seed).astype(np.float32)
        found[place] = engine.probabilities(changed[None])[0] * allowed[place]
    return found / found.sum(axis=1, keepdims=True)


def labels_of(table: datasets.Dataset, rows: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    names = table.features["emotion"].names
    return np.array([classes.index(names[number]) for number in table.select(rows)["emotion"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="run folders, or a folder of them")
    parser.add_argument("--data", required=True, help="the prepared table that they were made of")
    parser.add_argument("--unseen", help="a prepared table of a corpus that none was trained on")
    parser.add_argument("--conditions", nargs="*", default=list(CONDITIONS), help="of those above; none: as recorded")
    parser.add_argument("--worse", default="ravdess", help="the corpus that is made worse")
    chosen = parser.parse_args()
    table = ser_ft.open_prepared(chosen.data)
    unseen = ser_ft.open_prepared(chosen.unseen) if chosen.unseen else None
    corpora, speakers, ids = (np.array(table[name]) for name in ("corpus", "speaker", "id"))
    answers: dict[str, Answers] = defaultdict(Answers)
    apart: list[float] = []
    for run in find_runs([chosen.sweep]):
        engine, seed = open_backend(run.path, threads=1), run.metrics["seed"]
        classes = engine.info.classes
        held = json.loads(run.split_file.read_text(encoding="utf-8"))["parts"]["test"]["clips"]
        test = np.flatnonzero(np.isin(ids, held))
        for condition in chosen.conditions or ["as recorded"]:
            for corpus in np.unique(corpora[test]):
                if condition != "as recorded" and corpus != chosen.worse:
                    continue
                rows = test[corpora[test] == corpus]
                shares = ask(engine, table, rows, CONDITIONS[condition], f"{run.path.name} {corpus} {condition}")
                least = engine.info.threshold or 0.0
                labels = labels_of(table, rows, classes)
                answers[f"{corpus}, {condition}"].add(seed, labels, shares, speakers[rows], least)
                if condition == "as recorded":
                    answers["all corpora, as recorded"].add(seed, labels, shares, speakers[rows], least)
        if unseen is not None:
            rows = np.arange(len(unseen))
            shares = ask(engine, unseen, rows, CONDITIONS["as recorded"], f"{run.path.name} unseen")
            labels = labels_of(unseen, rows, classes)
            apart.append(float(uar(labels, shares.argmax(axis=1), len(classes))))
    for name, found in answers.items():
        print(f"{name}: {found.told()}")
    for name, found in answers.items():
        if name.endswith("as recorded"):
            error, floor = found.calibration()
            print(f"{name}, calibration error, {BINS} bins: {error:.3f} (of perfect probabilities: {floor:.3f})")
    if apart:
        print(f"unseen corpus, UAR of single runs: {np.mean(apart):.3f} ({min(apart):.3f} to {max(apart):.3f})")


if __name__ == "__main__":
    main()
