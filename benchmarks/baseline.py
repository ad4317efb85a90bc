"""What `ser-ft monitor --speaker-baseline` does to the answers: before it and after, on speakers that the model never heard.

    python benchmarks/baseline.py benchmarks/results/ravdess/plain_cnn_ravdess*/fold*

RUNs are run folders with predictions of test speakers, such as a sweep's. Each speaker's clips take turns as a
recording: some of them, drawn by lot (ten draws), are the baseline, and the rest is judged with and without it. The
baseline is made of neutral and calm speech, as it is meant; of any clips, as where it begins anyhow; and of angry ones,
the case that it cannot tell from an angry voice. Printed are the UAR over all classes, the share of neutral and calm
clips that are predicted as negative, and the share of angry, sad, fearful and disgusted clips that are.
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

BASELINES = {"ordinary": speaker_baseline.NEUTRAL_EMOTIONS, "any": None, "angry": ("angry",)}
CLIPS, DRAWS = 6, 10
SETTINGS = WindowSettings(smoothing=0.0)


def windows(answers: np.ndarray) -> list[Window]:
    """Make a window of each clip's answer, a second of speech each."""
    return [
        Window(float(at), at + 1.0, 1.0, answer, answer, -20.0, ((float(at), at + 1.0),))
        for at, answer in enumerate(answers)
    ]


def scores(answers: np.ndarray, labels: np.ndarray, classes: Sequence[str]) -> tuple[float, float, float]:
    """Return the UAR, and the shares of ordinary and of negative clips that are taken for negative ones."""
    negative = np.isin(classes, negative_classes(classes))
    usual = speaker_baseline.neutral_classes(classes)
    found = answers.argmax(axis=1)
    uar = np.mean([(found[labels == place] == place).mean() for place in np.unique(labels)])
    return float(uar), float(negative[found[usual[labels]]].mean()), float(negative[found[negative[labels]]].mean())


def judged(
    answers: np.ndarray, labels: np.ndarray, classes: Sequence[str], of: Sequence[str] | None, draw: np.random.Generator
) -> np.ndarray | None:
    """Return a speaker's scores before and after, shape (2, 3); None where it has too few clips for it."""
    fits = [of is None or canonical_name(classes[label]) in of for label in labels]
    first = draw.permutation(np.flatnonzero(fits))[:CLIPS]
    rest = np.setdiff1d(np.arange(len(labels)), first)
    found = (
        speaker_baseline.estimate_baseline(windows(answers[[*first, *rest]]), classes, float(len(first)), 1.0)
        if len(first)
        else None
    )
    if found is None:
        return None
    after = [window.smoothed for window in speaker_baseline.apply_baseline(windows(answers[rest]), found, SETTINGS)]
    return np.array([scores(given, labels[rest], classes) for given in (answers[rest], np.array(after))])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    given = parser.parse_args()
    draw = np.random.default_rng(0)
    for name, of in BASELINES.items():
        found = []
        for folder in given.runs:
            run = RunFolder.open(folder)
            classes = tuple(run.metrics["classes"])
            table = run.predictions
            table = table[table["part"] == "test"]
            for _, own in table.groupby("speaker"):
                labels = own["label"].map(classes.index).to_numpy()
                answers = own[list(classes)].fillna(0.0).to_numpy()
                found += [judged(answers, labels, classes, of, draw) for _ in range(DRAWS)]
        kept = np.array([one for one in found if one is not None])
        for place, what in enumerate(("uar", "false_alarms", "found")):
            for when, value in zip(("before", "after"), kept.mean(axis=0)[:, place], strict=True):
                print(f"{name}_{what}_{when}: {value:.3f}")


if __name__ == "__main__":
    main()
