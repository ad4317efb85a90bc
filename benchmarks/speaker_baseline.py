"""Effect of `ser-ft monitor --speaker-baseline` on predictions for unseen speakers: before and after.

    python benchmarks/speaker_baseline.py benchmarks/results/ravdess/plain_cnn_ravdess*/fold*

RUNs are run folders with predictions of test speakers, such as a sweep's. Each speaker's clips are treated as one
recording: some random clips (ten draws) are the baseline, and the others are evaluated with and without it. The
baseline consists of neutral and calm clips, as intended; of any clips, as at the start of a real conversation; or of
angry clips, the case in which it is wrong. Printed are the UAR over all classes, the share of neutral and calm clips
that are recognized as negative emotions, and the share of angry, sad, fearful and disgusted clips that are.
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.inference.windows import Window, WindowSettings
from ser_ft.labels import canonical_name
from ser_ft.monitor import speaker_baseline
from ser_ft.monitor.negative_segments import negative_classes

BASELINES = {"neutral": speaker_baseline.NEUTRAL_EMOTIONS, "any": None, "angry": ("angry",)}
CLIPS, DRAWS = 6, 10
SETTINGS = WindowSettings(smoothing=0.0)


def windows(probabilities: np.ndarray) -> list[Window]:
    """Return a window of one second of speech for each clip's prediction."""
    return [
        Window(float(second), second + 1.0, 1.0, prediction, prediction, -20.0, ((float(second), second + 1.0),))
        for second, prediction in enumerate(probabilities)
    ]


def scores(probabilities: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> tuple[float, float, float]:
    """Return the UAR, and the shares of neutral and of negative clips that are recognized as negative."""
    negative = np.isin(classes, negative_classes(classes))
    neutral = speaker_baseline.neutral_classes(classes)
    predictions = probabilities.argmax(axis=1)
    uar = np.mean([(predictions[labels == number] == number).mean() for number in np.unique(labels)])
    return (
        float(uar),
        float(negative[predictions[neutral[labels]]].mean()),
        float(negative[predictions[negative[labels]]].mean()),
    )


def scores_before_and_after(
    probabilities: np.ndarray,
    labels: np.ndarray,
    classes: Sequence[str],
    of: Sequence[str] | None,
    random: np.random.Generator,
) -> np.ndarray | None:
    """Return a speaker's scores before and after, shape (2, 3); None if the speaker has too few clips."""
    eligible = [of is None or canonical_name(classes[label]) in of for label in labels]
    first = random.permutation(np.flatnonzero(eligible))[:CLIPS]
    rest = np.setdiff1d(np.arange(len(labels)), first)
    baseline = (
        speaker_baseline.estimate_baseline(windows(probabilities[[*first, *rest]]), classes, float(len(first)), 1.0)
        if len(first)
        else None
    )
    if baseline is None:
        return None
    after = [
        window.smoothed for window in speaker_baseline.apply_baseline(windows(probabilities[rest]), baseline, SETTINGS)
    ]
    return np.array([scores(values, labels[rest], classes) for values in (probabilities[rest], np.array(after))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    for name, of in BASELINES.items():
        results = []
        for folder in args.runs:
            run = RunFolder.open(folder)
            classes = tuple(run.metrics["classes"])
            table = run.predictions
            table = table[table["part"] == "test"]
            for _, own in table.groupby("speaker"):
                labels = own["label"].map(classes.index).to_numpy()
                probabilities = own[list(classes)].fillna(0.0).to_numpy()
                results += [scores_before_and_after(probabilities, labels, classes, of, random) for _ in range(DRAWS)]
        scored = np.array([result for result in results if result is not None])
        for column, metric in enumerate(("uar", "false_alarms", "recall")):
            for when, value in zip(("before", "after"), scored.mean(axis=0)[:, column], strict=True):
                print(f"{name}_{metric}_{when}: {value:.3f}")


if __name__ == "__main__":
    main()
