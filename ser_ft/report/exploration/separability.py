"""What the descriptors of clips tell: how well emotion, corpus, gender and speaker are found from them, and a map."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.corpora.folder import UNKNOWN_SPEAKER
from ...evaluation.metrics import uar
from ...utils.progress import bar

if TYPE_CHECKING:
    import pandas as pd

NEIGHBOURS = 15
FOLDS = 5
VERSIONS = ("as found", "within each corpus", "within each speaker")
TRAITS = ("emotion", "corpus", "gender", "speaker")
_FARTHEST = 5.0  # deviations: one odd clip does not stretch a whole axis
_COMPONENTS = 30
_FEWEST_EMBEDDED = 30
_FEWEST_OF_CLASS = 5
_MOST_OF_ONE = 0.9  # of a class's clips: with more from one speaker, the class cannot be told from the voice


@dataclass(frozen=True)
class Separability:
    """How well a trait is told from the clips most like a clip.

    Attributes:
        trait: of `TRAITS`. classes: those asked for. clips: how many were judged.
        by_speaker: whether the clips compared with are other speakers', or any others.
        left_out: classes that cannot be asked for: nine tenths of their clips or more are one speaker's, or they have
            under 5 clips where the speakers are not kept apart.
        guess: the UAR of guessing evenly among the classes that each clip can have.
        uar: of each of `VERSIONS` that there is.
    """

    trait: str
    classes: tuple[str, ...]
    clips: int
    by_speaker: bool
    left_out: tuple[str, ...]
    guess: float
    uar: Mapping[str, float]

    def share(self, version: str = VERSIONS[0]) -> float:
        """Return how far the UAR lies on the way from guessing (0) to being always right (1)."""
        return (self.uar[version] - self.guess) / (1 - self.guess)


def known_speakers(clips: pd.DataFrame) -> np.ndarray:
    """Return which clips' speakers are known, shape (clips,)."""
    return np.array([isinstance(name, str) and not name.endswith(f"-{UNKNOWN_SPEAKER}") for name in clips["speaker"]])


def one_voice(speakers: pd.Series[str]) -> bool:
    """Say whether a class is heard from one speaker alone, or from one who has nine tenths of its clips."""
    return not len(speakers) or bool(speakers.value_counts(normalize=True).iloc[0] >= _MOST_OF_ONE)


def versions(clips: pd.DataFrame, features: np.ndarray) -> dict[str, np.ndarray]:
    """Standardise features, shape (clips, numbers): over all clips, and within each corpus and speaker of several.

    Returns:
        those of `VERSIONS` that differ from the one before.
    """
    found = {VERSIONS[0]: standardised(features, np.zeros(len(clips)))}
    if clips["corpus"].nunique() > 1:
        found[VERSIONS[1]] = standardised(features, clips["corpus"].to_numpy())
    if known_speakers(clips).all() and clips["speaker"].nunique() > 1:
        found[VERSIONS[2]] = standardised(features, clips["speaker"].to_numpy())
    return found


def standardised(features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Take off each group's mean and divide by its deviation; what is missing becomes the mean.

    Args:
        features: shape (clips, numbers), nan where one is missing. groups: shape (clips,).

    Returns:
        shape (clips, numbers), within 5 deviations.
    """
    made = np.zeros_like(features)
    for group in np.unique(groups):
        rows = groups == group
        there = ~np.isnan(features[rows])
        count = np.maximum(there.sum(axis=0), 1)
        apart = np.where(there, features[rows], 0.0)
        apart = np.where(there, apart - apart.sum(axis=0) / count, 0.0)
        made[rows] = apart / np.maximum(np.sqrt(np.square(apart).sum(axis=0) / count), 1e-6)
    within: np.ndarray = np.clip(made, -_FARTHEST, _FARTHEST)
    return within


def estimate_separability(
    clips: pd.DataFrame,
    made: Mapping[str, np.ndarray],
    can_hold: Mapping[str, Sequence[str]],
    seed: int = 0,
    shown: bool = True,
) -> list[Separability]:
    """Find how well each trait is told from the nearest clips.

    A clip gets the class most frequent among the 15 clips nearest to it (each class's count divided by its share of
    the clips compared with: a rare class has the same say). These are clips of other speakers, in five folds; for
    the speaker itself, and where the speakers are not known or each class has one, other clips.

    Args:
        clips: a row each with emotion, corpus, gender and speaker, None where one is not known.
        made: of `versions`.
        can_hold: corpus -> the emotions that its clips can have; others are not taken into account for them.

    Returns:
        the traits that can be asked for, in the order of `TRAITS`.
    """
    asked = [question for trait in TRAITS if (question := _question(clips, trait, can_hold)) is not None]
    found = []
    with bar(total=len(asked) * len(made), desc="comparing", unit=" tables", shown=shown) as progress:
        for question in asked:
            scores = {}
            for name, numbers in made.items():
                predicted = _nearest(numbers[question.rows], question, seed)
                scores[name] = uar(question.labels, predicted, len(question.classes))
                progress.update()
            found.append(question.told(scores))
    return found


@dataclass(frozen=True)
class _Question:
    trait: str
    classes: tuple[str, ...]
    rows: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray | None
    possible: np.ndarray
    left_out: tuple[str, ...]

    def told(self, scores: Mapping[str, float]) -> Separability:
        even = 1 / self.possible.sum(axis=1)
        guess = float(np.mean([even[self.labels == place].mean() for place in range(len(self.classes))]))
        by_speaker = self.speakers is not None
        return Separability(self.trait, self.classes, len(self.labels), by_speaker, self.left_out, guess, dict(scores))


def _question(clips: pd.DataFrame, trait: str, can_hold: Mapping[str, Sequence[str]]) -> _Question | None:
    """Find the clips and classes that a trait can be asked of; None where there are not two classes."""
    known = known_speakers(clips)
    rows = known & clips["speaker"].notna().to_numpy() if trait == "speaker" else clips[trait].notna().to_numpy()
    values = clips[trait].to_numpy(dtype=object)
    names = sorted(set(values[rows]))
    heard = {name: set(clips["speaker"][rows & known & (values == name)]) for name in names}
    by_speaker = trait != "speaker" and sum(len(people) > 1 for people in heard.values()) > 1
    if by_speaker:
        rows = rows & known
        kept = [name for name in names if len(heard[name]) > 1]
    else:
        kept = [name for name in names if (values[rows] == name).sum() >= _FEWEST_OF_CLASS]
    if len(kept) < 2:
        return None
    places = np.flatnonzero(rows & np.isin(values, np.array(kept, dtype=object)))
    place = {name: at for at, name in enumerate(kept)}
    labels = np.array([place[name] for name in values[places]])
    possible = np.ones((len(places), len(kept)), dtype=bool)
    if trait == "emotion":
        answers = {corpus: np.isin(kept, list(can_hold[corpus])) for corpus in set(clips["corpus"])}
        possible = np.stack([answers[corpus] for corpus in clips["corpus"].to_numpy()[places]])
        possible[np.arange(len(places)), labels] = True
    speakers = clips["speaker"].to_numpy()[places] if by_speaker else None
    left_out = tuple(name for name in names if name not in place)
    return _Question(trait, tuple(kept), places, labels, speakers, possible, left_out)


def _nearest(numbers: np.ndarray, question: _Question, seed: int) -> np.ndarray:
    """Return the class that each clip's neighbours in the other folds have, shape (clips,)."""
    from sklearn.neighbors import KNeighborsClassifier

    predicted = np.zeros(len(numbers), dtype=np.int64)
    for fold in range(FOLDS):
        held = _folds(question, seed) == fold
        if not held.any() or held.all():
            continue
        near = KNeighborsClassifier(min(NEIGHBOURS, int((~held).sum())))
        near.fit(numbers[~held], question.labels[~held])
        votes = near.predict_proba(numbers[held]) / np.bincount(question.labels[~held])[near.classes_]
        votes = np.where(question.possible[held][:, near.classes_], votes, -1.0)
        predicted[held] = near.classes_[votes.argmax(axis=1)]
    return predicted


def _folds(question: _Question, seed: int) -> np.ndarray:
    """Deal the clips, or the speakers, out to folds: those of each class, or of each mixture of classes, in turn."""
    draw = np.random.default_rng(seed)
    if question.speakers is None:
        order = np.lexsort((draw.random(len(question.labels)), question.labels))
        folds = np.empty(len(order), dtype=np.int64)
        folds[order] = np.arange(len(order)) % FOLDS
        return folds
    people, inverse = np.unique(question.speakers, return_inverse=True)
    # The rarest class of a speaker's, by speakers that have it: each fold gets its share of these speakers.
    has = np.zeros((len(people), len(question.classes)), dtype=bool)
    has[inverse, question.labels] = True
    rarest = np.where(has, has.sum(axis=0), np.inf).argmin(axis=1)
    order = np.lexsort((draw.random(len(people)), rarest))
    turn = np.empty(len(people), dtype=np.int64)
    turn[order] = np.arange(len(people)) % FOLDS
    return turn[inverse]


def embedded(numbers: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Lay clips out on a plane, like clips near each other.

    Principal components, then t-SNE (van der Maaten & Hinton 2008, "Visualizing Data using t-SNE") on the first 30;
    the first two components alone where there are under 30 clips.

    Args:
        numbers: standardised features, shape (clips, numbers).

    Returns:
        places, shape (clips, 2), and the method's name: "t-SNE" or "principal components".
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    wanted = min(_COMPONENTS, *numbers.shape)
    parts = PCA(wanted, random_state=seed).fit_transform(numbers)
    if len(numbers) < _FEWEST_EMBEDDED:
        return np.pad(parts, ((0, 0), (0, 2)))[:, :2], "principal components"
    perplexity = min(30.0, (len(numbers) - 1) / 3)
    plane: Any = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(parts)
    return plane, "t-SNE"
