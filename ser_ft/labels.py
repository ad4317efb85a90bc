"""The emotions, their colors, and the label schemes: the only table of labels in the project."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .utils.errors import InputError


@dataclass(frozen=True)
class Emotion:
    """An emotion with its color in all figures and other words for it."""

    name: str
    color: str
    synonyms: tuple[str, ...]


# Colors of Okabe & Ito (2008), "Color Universal Design", which can be distinguished with any color vision. Black is
# lightened to gray and yellow is darkened, so that both are visible on white and on black.
EMOTIONS: tuple[Emotion, ...] = (
    Emotion("neutral", "#7f7f7f", ("neu", "neutrality")),
    Emotion("calm", "#56b4e9", ("calmness", "relaxed", "serene")),
    Emotion("happy", "#e69f00", ("hap", "happiness", "joy", "joyful", "amused")),
    Emotion("sad", "#0072b2", ("sadness", "sorrow")),
    Emotion("angry", "#d55e00", ("ang", "anger")),
    Emotion("fear", "#cc79a7", ("fea", "fearful", "afraid", "scared")),
    Emotion("disgust", "#009e73", ("dis", "disgusted")),
    Emotion("surprise", "#c8b400", ("sur", "surprised", "ps", "pleasant_surprise", "pleasant_surprised")),
)
EMOTION_NAMES: tuple[str, ...] = tuple(emotion.name for emotion in EMOTIONS)
COLORS: dict[str, str] = {emotion.name: emotion.color for emotion in EMOTIONS}
# For classes of a user's own mapping that are not in the table, by their index in the scheme.
OTHER_COLORS = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#882255", "#aa4499")

_NAME_BY_WORD = {word: emotion.name for emotion in EMOTIONS for word in (emotion.name, *emotion.synonyms)}

SCHEMES: dict[str, tuple[str, ...]] = {
    "eight": EMOTION_NAMES,
    "seven": tuple(name for name in EMOTION_NAMES if name != "calm"),
    "six": tuple(name for name in EMOTION_NAMES if name not in ("calm", "surprise")),
    "four": ("neutral", "happy", "sad", "angry"),
}
CALM_POLICIES = ("keep", "neutral", "drop")


def canonical_name(word: str) -> str | None:
    """Return the table's name for a word ("Anger" -> "angry"), or None if the table does not contain the word."""
    return _NAME_BY_WORD.get(word.strip().lower().replace(" ", "_").replace("-", "_"))


def label_color(name: str, index: int = 0) -> str:
    """Return the color ("#rrggbb") of an emotion, or of a user's own class with this index in its scheme."""
    return COLORS.get(name) or OTHER_COLORS[index % len(OTHER_COLORS)]


@dataclass(frozen=True)
class LabelScheme:
    """A set of classes in the order of their indices, and the class of each source label (lower case).

    `name` is "eight", "seven", "six", "four" or "own". Labels missing from `class_by_label` are not part of the scheme.
    """

    name: str
    classes: tuple[str, ...]
    class_by_label: Mapping[str, str]

    def class_of(self, label: str) -> str | None:
        """Return the class of a source label, or None if the label is not part of the scheme."""
        word = label.strip().lower()
        return self.class_by_label.get(word) or self.class_by_label.get(canonical_name(word) or "")


def make_scheme(labels: str | Mapping[str, str] = "eight", calm: str = "keep") -> LabelScheme:
    """Create a label scheme: one of `SCHEMES`, or "own" from a mapping of emotions (or source labels) to classes.

    `calm` says what happens to calm speech: "keep" it as a class if the scheme has one, count it as "neutral", or
    "drop" it. InputError is raised if the scheme or `calm` is unknown, or if there are fewer than two classes.
    """
    if calm not in CALM_POLICIES:
        raise InputError(f"calm must be one of {', '.join(CALM_POLICIES)}, not {calm!r}")
    if isinstance(labels, str):
        if labels not in SCHEMES:
            raise InputError(f"unknown label scheme {labels!r}: use one of {', '.join(SCHEMES)}, or your own mapping")
        name, classes = labels, SCHEMES[labels]
        class_by_label = {emotion: emotion for emotion in classes}
    else:
        if not labels:
            raise InputError("the label mapping is empty: give at least two pairs, emotion: class")
        mapping = {str(label).strip().lower(): str(value or "").strip() for label, value in labels.items()}
        if "" in mapping.values():
            raise InputError("the label mapping has an emotion without a class: leave that emotion out")
        order = {value: (*EMOTION_NAMES, value).index(value) for value in mapping.values()}
        name, classes = "own", tuple(sorted(order, key=lambda value: order[value]))
        # A word stands for its synonyms too, unless they have a class of their own.
        class_by_label = {canonical_name(label) or label: value for label, value in mapping.items()} | mapping
    if calm != "keep":
        class_by_label = {word: value for word, value in class_by_label.items() if canonical_name(word) != "calm"}
        if calm == "neutral" and "neutral" in class_by_label:
            class_by_label["calm"] = class_by_label["neutral"]
        classes = tuple(value for value in classes if value in class_by_label.values())
    if len(classes) < 2:
        only = ", ".join(map(repr, classes)) or "'calm'"
        raise InputError(f"a label scheme needs at least two classes, not only {only}")
    return LabelScheme(name, classes, class_by_label)
