"""Effect of unsupervised speaker adaptation on predictions for unseen speakers, by the number of clips.

    python benchmarks/speaker_adaptation.py sweeps/NAME/frozen/fold*

RUNs are run folders with predictions of test speakers, such as a sweep's. Each speaker is known by some random clips,
of any emotions or of a single one (five draws). The speaker's other clips are evaluated; if the clips are of one
emotion, those of this emotion, as for a folder that holds nothing else. Printed is the UAR over all speakers and draws,
for each corpus and number of clips; 0: without adaptation.
"""

import argparse
from collections import defaultdict
from pathlib import Path

import numpy as np

from ser_ft.evaluation.metrics import uar
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.inference.speaker_adaptation import SpeakerAdaptation

COUNTS = (0, 1, 3, 5, 10, 20, 50)
DRAWS = 5


def evaluate(
    probabilities: np.ndarray, labels: np.ndarray, classes: tuple[str, ...], count: int, random: np.random.Generator
) -> np.ndarray:
    """Return the predicted class of clips of one speaker that are not among those that the speaker is known by; -1."""
    known = random.permutation(len(labels))[:count]
    predicted = SpeakerAdaptation(classes, probabilities[known]).adapt(probabilities).argmax(axis=1)
    if len(known) < len(labels):
        predicted[known] = -1
    return predicted


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="+", type=Path, metavar="RUN")
    args = parser.parse_args()
    random = np.random.default_rng(0)
    results = defaultdict(list)
    for folder in args.runs:
        run = RunFolder.open(folder)
        classes = tuple(run.metrics["classes"])
        table = run.predictions.query("part == 'test'")
        for (corpus, _), own in table.groupby(["corpus", "speaker"]):
            allowed = tuple(name for name in classes if own[name].notna().all())
            labels = own["label"].map(classes.index).to_numpy()
            probabilities = own[list(allowed)].to_numpy()
            numbers = np.array([classes.index(name) for name in allowed])
            groups = {"mixed": [labels >= 0], "one emotion": [labels == label for label in np.unique(labels)]}
            for kind, masks in groups.items():
                for count in COUNTS:
                    for mask in masks * DRAWS:
                        predicted = evaluate(probabilities[mask], labels[mask], allowed, count, random)
                        tested = predicted >= 0
                        results[corpus, kind, count].append((labels[mask][tested], numbers[predicted[tested]]))
    print(f"{'corpus':10} {'clips of':12}" + "".join(f" {count:>6}" for count in COUNTS))
    for corpus, kind in dict.fromkeys(key[:2] for key in results):
        scores = [
            uar(np.concatenate([pair[0] for pair in pairs]), np.concatenate([pair[1] for pair in pairs]), len(classes))
            for pairs in (results[corpus, kind, count] for count in COUNTS)
        ]
        print(f"{corpus:10} {kind:12}" + "".join(f" {score:6.3f}" for score in scores))


if __name__ == "__main__":
    main()
