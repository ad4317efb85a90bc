"""Emotion recognition of a shipped model for unseen speakers, in degraded audio, and in another corpus.

    ser-ft sweep recipes/small.yaml --seeds 0,1 --out sweeps/small --jobs 2
    python benchmarks/shipped.py sweeps/small --data data/ravdess_cremad --unseen data/tess

The runs of the default model, in sweeps/shipped, are made as benchmarks/ship.py says. The model of each run is
evaluated on the clips of its fold's test speakers, as recorded and degraded in several ways, and on a corpus that no
run was trained on. For each corpus the predictions of all folds are pooled for each seed; the results are means over
the seeds. A clip's prediction is one of the classes that its corpus contains.
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
    silence = np.zeros(audio.SAMPLE_RATE, dtype=np.float32)
    return np.concatenate([silence, sound, silence])


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


class PooledPredictions:
    """Labels, probabilities and speakers of clips, pooled over folds."""

    def __init__(self) -> None:
        self.parts: dict[int, list[tuple[np.ndarray, np.ndarray, np.ndarray]]] = defaultdict(list)
        self.certain: list[np.ndarray] = []

    def add(
        self, seed: int, labels: np.ndarray, probabilities: np.ndarray, speakers: np.ndarray, threshold: float
    ) -> None:
        """Add predictions; those whose largest probability is below `threshold` are uncertain."""
        self.parts[seed].append((labels, probabilities, speakers))
        certain = probabilities.max(axis=1) >= threshold
        self.certain.append(np.stack([certain, certain & (probabilities.argmax(axis=1) == labels)]))

    def pooled(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        for folds in self.parts.values():
            labels, probabilities, speakers = (np.concatenate(values) for values in zip(*folds, strict=True))
            yield labels, probabilities, speakers

    def summary(self) -> str:
        rows = list(self.pooled())
        classes = rows[0][1].shape[1]
        predictions = [probabilities.argmax(axis=1) for _, probabilities, _ in rows]
        scores = [uar(labels, predicted, classes) for (labels, _, _), predicted in zip(rows, predictions, strict=True)]
        accuracy = np.mean(
            [(labels == predicted).mean() for (labels, _, _), predicted in zip(rows, predictions, strict=True)]
        )
        intervals = [
            uar_confidence_interval(labels, predicted, speakers.tolist(), classes)
            for (labels, _, speakers), predicted in zip(rows, predictions, strict=True)
        ]
        ends = [(interval.low, interval.high) for interval in intervals if interval is not None]
        low, high = np.mean(ends, axis=0) if ends else (np.nan, np.nan)
        spread = f" ({low:.3f} to {high:.3f})" if ends else ""
        certain, certain_and_correct = np.concatenate(self.certain, axis=1).mean(axis=1)
        uncertain = (
            f"uncertain {1 - certain:.3f}, accuracy of the others {certain_and_correct / max(certain, 1e-9):.3f}"
        )
        clips = f"{len(rows[0][0])} clips x {len(rows)}"
        return f"UAR {np.mean(scores):.3f}{spread}, accuracy {accuracy:.3f}, {uncertain}, {clips}"

    def calibration(self) -> tuple[float, float]:
        """Return the calibration error, and that of perfectly calibrated probabilities, which is due to chance."""
        generator, errors, floor = np.random.default_rng(0), [], []
        for labels, probabilities, _ in self.pooled():
            errors.append(expected_calibration_error(labels, probabilities, BINS))
            for _ in range(100):
                sampled = (generator.random((len(probabilities), 1)) > probabilities.cumsum(axis=1)).sum(axis=1)
                sampled = sampled.clip(max=probabilities.shape[1] - 1)
                floor.append(expected_calibration_error(sampled, probabilities, BINS))
        return float(np.mean(errors)), float(np.mean(floor))


def predict(backend: Backend, table: datasets.Dataset, rows: np.ndarray, change: Change, what: str) -> np.ndarray:
    """Return probabilities over the classes that each clip's corpus contains, shape (clips, classes)."""
    classes = backend.info.classes
    clips = table.select(rows)
    allowed = allowed_classes(list(clips["corpus"]), corpus_info(table), classes)
    probabilities = np.zeros((len(rows), len(classes)))
    for index, (recording, name) in enumerate(
        progress_bar(list(zip(clips["audio"], clips["id"], strict=True)), desc=what)
    ):
        seed = np.random.default_rng([ord(letter) for letter in name])
        changed = change(audio.from_wav(recording["bytes"]), seed).astype(np.float32)
        probabilities[index] = backend.probabilities(changed[None])[0] * allowed[index]
    return np.asarray(probabilities / probabilities.sum(axis=1, keepdims=True))


def labels_of(table: datasets.Dataset, rows: np.ndarray, classes: tuple[str, ...]) -> np.ndarray:
    names = table.features["emotion"].names
    return np.array([classes.index(names[number]) for number in table.select(rows)["emotion"]])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sweep", type=Path, help="run folders, or a folder of them")
    parser.add_argument("--data", required=True, help="the prepared table of the runs")
    parser.add_argument("--unseen", help="a prepared table of a corpus that no run was trained on")
    parser.add_argument(
        "--conditions", nargs="*", default=list(CONDITIONS), help="conditions (default: all; empty: as recorded)"
    )
    parser.add_argument("--degrade", default="ravdess", help="the corpus that is degraded")
    args = parser.parse_args()
    table = ser_ft.open_prepared(args.data)
    unseen = ser_ft.open_prepared(args.unseen) if args.unseen else None
    corpora, speakers, ids = (np.array(table[name]) for name in ("corpus", "speaker", "id"))
    pools: dict[str, PooledPredictions] = defaultdict(PooledPredictions)
    unseen_uars: list[float] = []
    for run in find_runs([args.sweep]):
        backend, seed = open_backend(run.path, threads=1), run.metrics["seed"]
        classes = backend.info.classes
        test_ids = json.loads(run.split_file.read_text(encoding="utf-8"))["parts"]["test"]["clips"]
        test = np.flatnonzero(np.isin(ids, test_ids))
        for condition in args.conditions or ["as recorded"]:
            for corpus in np.unique(corpora[test]):
                if condition != "as recorded" and corpus != args.degrade:
                    continue
                rows = test[corpora[test] == corpus]
                probabilities = predict(
                    backend, table, rows, CONDITIONS[condition], f"{run.path.name} {corpus} {condition}"
                )
                threshold = backend.info.threshold or 0.0
                labels = labels_of(table, rows, classes)
                pools[f"{corpus}, {condition}"].add(seed, labels, probabilities, speakers[rows], threshold)
                if condition == "as recorded":
                    pools["all corpora, as recorded"].add(seed, labels, probabilities, speakers[rows], threshold)
        if unseen is not None:
            rows = np.arange(len(unseen))
            probabilities = predict(backend, unseen, rows, CONDITIONS["as recorded"], f"{run.path.name} unseen")
            labels = labels_of(unseen, rows, classes)
            unseen_uars.append(float(uar(labels, probabilities.argmax(axis=1), len(classes))))
    for name, pool in pools.items():
        print(f"{name}: {pool.summary()}")
    for name, pool in pools.items():
        if name.endswith("as recorded"):
            error, floor = pool.calibration()
            print(f"{name}, calibration error, {BINS} bins: {error:.3f} (of perfect probabilities: {floor:.3f})")
    if unseen_uars:
        print(
            f"unseen corpus, UAR of single runs: {np.mean(unseen_uars):.3f} "
            f"({min(unseen_uars):.3f} to {max(unseen_uars):.3f})"
        )


if __name__ == "__main__":
    main()
