"""How well emotion, corpus, gender and speaker can be predicted from clip features, and a 2-D map of the clips."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from ...data.corpora.folder import UNKNOWN_SPEAKER
from ...evaluation.metrics import uar
from ...utils.progress import progress_bar

if TYPE_CHECKING:
    import pandas as pd

NUM_NEIGHBORS = 15
NUM_FOLDS = 5
OVERALL, PER_CORPUS, PER_SPEAKER = "over all clips", "within each corpus", "within each speaker"
NORMALIZATIONS = (OVERALL, PER_CORPUS, PER_SPEAKER)
TRAITS = ("emotion", "corpus", "gender", "speaker")
_MAX_DEVIATIONS = 5.0  # so that one outlier does not stretch a whole axis
_NUM_COMPONENTS = 30
_MIN_TSNE_CLIPS = 30
_MIN_CLASS_CLIPS = 5
_SINGLE_SPEAKER_FRACTION = 0.9  # a class with this share of clips from one speaker measures that speaker's voice


@dataclass(frozen=True)
class Separability:
    """How well a trait is predicted from a clip's nearest neighbors.

    Attributes:
        clips: number of clips that were classified.
        speaker_disjoint: whether the neighbors are clips of other speakers only.
        excluded: classes that cannot be predicted: nine tenths of their clips or more are from one speaker, or, where
            the neighbors may be of the same speaker, they have fewer than 5 clips.
        chance: UAR of guessing evenly among the classes that each clip can have.
        uar: UAR for each of the `NORMALIZATIONS` that was computed.
    """

    trait: str
    classes: tuple[str, ...]
    clips: int
    speaker_disjoint: bool
    excluded: tuple[str, ...]
    chance: float
    uar: Mapping[str, float]

    @property
    def chance_corrected(self) -> float:
        """The UAR with `OVERALL` normalization, scaled so that chance is 0 and perfect is 1."""
        return (self.uar[OVERALL] - self.chance) / (1 - self.chance)


def known_speakers(clips: pd.DataFrame) -> np.ndarray:
    """Return whether each clip's speaker is known, shape (clips,)."""
    return np.array([isinstance(name, str) and not name.endswith(f"-{UNKNOWN_SPEAKER}") for name in clips["speaker"]])


def is_single_speaker(speakers: pd.Series[str]) -> bool:
    """Return whether one speaker has nine tenths of the clips or more."""
    return not len(speakers) or bool(speakers.value_counts(normalize=True).iloc[0] >= _SINGLE_SPEAKER_FRACTION)


def normalize_features(clips: pd.DataFrame, features: np.ndarray) -> dict[str, np.ndarray]:
    """Normalize features over all clips, within each corpus, and within each speaker, if these differ."""
    normalized = {OVERALL: normalize_by_group(features, np.zeros(len(clips)))}
    if clips["corpus"].nunique() > 1:
        normalized[PER_CORPUS] = normalize_by_group(features, clips["corpus"].to_numpy())
    if known_speakers(clips).all() and clips["speaker"].nunique() > 1:
        normalized[PER_SPEAKER] = normalize_by_group(features, clips["speaker"].to_numpy())
    return normalized


def normalize_by_group(features: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Subtract each group's mean and divide by its standard deviation; clip the result to 5 standard deviations.

    `features` have the shape (clips, features); missing values are nan and become the mean.
    """
    normalized = np.zeros_like(features)
    for group in np.unique(groups):
        rows = groups == group
        valid = ~np.isnan(features[rows])
        count = np.maximum(valid.sum(axis=0), 1)
        centered = np.where(valid, features[rows], 0.0)
        centered = np.where(valid, centered - centered.sum(axis=0) / count, 0.0)
        normalized[rows] = centered / np.maximum(np.sqrt(np.square(centered).sum(axis=0) / count), 1e-6)
    clipped: np.ndarray = np.clip(normalized, -_MAX_DEVIATIONS, _MAX_DEVIATIONS)
    return clipped


def estimate_separability(
    clips: pd.DataFrame,
    normalized: Mapping[str, np.ndarray],
    allowed_classes: Mapping[str, Sequence[str]],
    seed: int = 0,
    show_progress: bool = True,
) -> list[Separability]:
    """Estimate with a nearest-neighbor classifier how well each trait is predicted from the features.

    A clip gets the most frequent class among its 15 nearest neighbors, each class's count divided by the number of its
    clips, so that rare classes weigh as much as frequent ones. In five-fold cross-validation, the neighbors are
    clips of other speakers. They are any other clips when the trait is the speaker, and when the speakers are
    unknown or each class has only one.

    Args:
        clips: one row per clip with emotion, corpus, gender and speaker, None where unknown.
        normalized: from `normalize_features`.
        allowed_classes: corpus -> the emotions that its clips can have; others are never predicted for them.
        seed: of the assignment of clips to folds.

    Returns:
        The traits that have at least two classes to predict, in the order of `TRAITS`.
    """
    tasks = [task for trait in TRAITS if (task := _make_task(clips, trait, allowed_classes)) is not None]
    results, total = [], len(tasks) * len(normalized)
    with progress_bar(total=total, desc="comparing", unit=" tables", show_progress=show_progress) as progress:
        for task in tasks:
            scores = {}
            for name, features in normalized.items():
                predicted = _predict_from_neighbors(features[task.rows], task, seed)
                scores[name] = uar(task.labels, predicted, len(task.classes))
                progress.update()
            guess = 1 / task.allowed.sum(axis=1)
            chance = float(np.mean([guess[task.labels == index].mean() for index in range(len(task.classes))]))
            counts = (len(task.labels), task.speakers is not None)
            results.append(Separability(task.trait, task.classes, *counts, task.excluded, chance, scores))
    return results


@dataclass(frozen=True)
class _Task:
    trait: str
    classes: tuple[str, ...]
    rows: np.ndarray
    labels: np.ndarray
    speakers: np.ndarray | None  # None: neighbors may be of the same speaker
    allowed: np.ndarray
    excluded: tuple[str, ...]


def _make_task(clips: pd.DataFrame, trait: str, allowed_classes: Mapping[str, Sequence[str]]) -> _Task | None:
    """Select the clips and classes for which a trait can be predicted; None if there are fewer than two classes."""
    known = known_speakers(clips)
    usable = known & clips["speaker"].notna().to_numpy() if trait == "speaker" else clips[trait].notna().to_numpy()
    values = clips[trait].to_numpy(dtype=object)
    names = sorted(set(values[usable]))
    speakers_of = {name: set(clips["speaker"][usable & known & (values == name)]) for name in names}
    disjoint = trait != "speaker" and sum(len(speakers) > 1 for speakers in speakers_of.values()) > 1
    if disjoint:
        usable = usable & known
        classes = [name for name in names if len(speakers_of[name]) > 1]
    else:
        classes = [name for name in names if (values[usable] == name).sum() >= _MIN_CLASS_CLIPS]
    if len(classes) < 2:
        return None
    rows = np.flatnonzero(usable & np.isin(values, np.array(classes, dtype=object)))
    index_of = {name: index for index, name in enumerate(classes)}
    labels = np.array([index_of[name] for name in values[rows]])
    allowed = np.ones((len(rows), len(classes)), dtype=bool)
    if trait == "emotion":
        by_corpus = {corpus: np.isin(classes, list(allowed_classes[corpus])) for corpus in set(clips["corpus"])}
        allowed = np.stack([by_corpus[corpus] for corpus in clips["corpus"].to_numpy()[rows]])
        allowed[np.arange(len(rows)), labels] = True
    speakers = clips["speaker"].to_numpy()[rows] if disjoint else None
    excluded = tuple(name for name in names if name not in index_of)
    return _Task(trait, tuple(classes), rows, labels, speakers, allowed, excluded)


def _predict_from_neighbors(features: np.ndarray, task: _Task, seed: int) -> np.ndarray:
    """Predict each clip's class from its neighbors in the other folds."""
    from sklearn.neighbors import KNeighborsClassifier

    predicted = np.zeros(len(features), dtype=np.int64)
    folds = _assign_folds(task, seed)
    for fold in range(NUM_FOLDS):
        test, train = folds == fold, folds != fold
        if not test.any() or not train.any():
            continue
        classifier = KNeighborsClassifier(min(NUM_NEIGHBORS, int(train.sum())))
        classifier.fit(features[train], task.labels[train])
        votes = classifier.predict_proba(features[test]) / np.bincount(task.labels[train])[classifier.classes_]
        votes = np.where(task.allowed[test][:, classifier.classes_], votes, -1.0)
        predicted[test] = classifier.classes_[votes.argmax(axis=1)]
    return predicted


def _assign_folds(task: _Task, seed: int) -> np.ndarray:
    """Assign clips, or whole speakers, to folds, stratified by class."""
    random = np.random.default_rng(seed)
    if task.speakers is None:
        return _round_robin(task.labels, random)
    speakers, inverse = np.unique(task.speakers, return_inverse=True)
    # A speaker is stratified by the rarest class that it has, so that each fold gets speakers with that class.
    has_class = np.zeros((len(speakers), len(task.classes)), dtype=bool)
    has_class[inverse, task.labels] = True
    rarest = np.where(has_class, has_class.sum(axis=0), np.inf).argmin(axis=1)
    return _round_robin(rarest, random)[inverse]


def _round_robin(strata: np.ndarray, random: np.random.Generator) -> np.ndarray:
    order = np.lexsort((random.random(len(strata)), strata))
    folds = np.empty(len(order), dtype=np.int64)
    folds[order] = np.arange(len(order)) % NUM_FOLDS
    return folds


def embed_in_2d(features: np.ndarray, seed: int = 0) -> tuple[np.ndarray, str]:
    """Place clips on a plane so that similar clips are close to each other.

    t-SNE (van der Maaten & Hinton 2008, "Visualizing Data using t-SNE") on the first 30 principal components; with
    fewer than 30 clips, the first two principal components.

    Returns:
        Coordinates, shape (clips, 2), and the method's name: "t-SNE" or "principal components".
    """
    from sklearn.decomposition import PCA
    from sklearn.manifold import TSNE

    components = PCA(min(_NUM_COMPONENTS, *features.shape), random_state=seed).fit_transform(features)
    if len(features) < _MIN_TSNE_CLIPS:
        return np.pad(components, ((0, 0), (0, 2)))[:, :2], "principal components"
    perplexity = min(30.0, (len(features) - 1) / 3)
    coordinates: Any = TSNE(perplexity=perplexity, init="pca", random_state=seed).fit_transform(components)
    return coordinates, "t-SNE"
