"""The emotions, their colors, and the label schemes: the only table of labels in the project."""

from __future__ import annotations

import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass

from .utils.errors import InputError
from .utils.text import fold, nfc


@dataclass(frozen=True)
class Emotion:
    """An emotion with its color in all figures and other words for it."""

    name: str
    color: str
    synonyms: tuple[str, ...]


def _words(words: str) -> tuple[str, ...]:
    return tuple(words.split())


def _plain(word: str) -> str:
    """Return a word without case and accents, with underscores between its parts: "En colère" -> "en_colere"."""
    decomposed = unicodedata.normalize("NFD", fold(word).replace(" ", "_").replace("-", "_"))
    return "".join(character for character in decomposed if not unicodedata.combining(character))


# Colors of Okabe & Ito (2008), "Color Universal Design", which can be distinguished with any color vision. Black is
# lightened to gray and yellow is darkened, so that both are visible on white and on black.
# The synonyms are English, German, French, Spanish and Italian nouns and adjectives, and common abbreviations.
EMOTIONS: tuple[Emotion, ...] = (
    Emotion(
        "neutral",
        "#7f7f7f",
        _words("neu neutrality neutralität neutre neutralité neutro neutra neutralidad neutrale neutralità"),
    ),
    Emotion(
        "calm",
        "#56b4e9",
        _words(
            "calmness relaxed serene ruhig ruhe gelassen entspannt calme calma calmo tranquilo tranquilla tranquillo"
        ),
    ),
    Emotion(
        "happy",
        "#e69f00",
        _words(
            "hap happiness joy joyful amused freude fröhlich froehlich glücklich gluecklich joie joyeux joyeuse "
            "heureux heureuse alegría alegre felicidad feliz gioia felice felicità allegria"
        ),
    ),
    Emotion("sad", "#0072b2", _words("sadness sorrow trauer traurig traurigkeit tristesse triste tristeza tristezza")),
    Emotion(
        "angry",
        "#d55e00",
        _words(
            "ang anger wut wütend wuetend ärger aerger ärgerlich aergerlich zorn zornig colère en_colère fâché fâchée "
            "ira enojo enojado enojada enfado enfadado enfadada rabia rabbia arrabbiato arrabbiata"
        ),
    ),
    Emotion(
        "fear",
        "#cc79a7",
        _words(
            "fea fearful afraid scared angst ängstlich aengstlich furcht peur apeuré apeurée effrayé effrayée miedo "
            "asustado asustada temor paura spaventato spaventata"
        ),
    ),
    Emotion(
        "disgust",
        "#009e73",
        _words("dis disgusted ekel angeekelt dégoût dégoûté dégoûtée asco disgusto disgustato disgustata"),
    ),
    Emotion(
        "surprise",
        "#c8b400",
        _words(
            "sur surprised ps pleasant_surprise pleasant_surprised überraschung ueberraschung überrascht ueberrascht "
            "surpris sorpresa sorprendido sorprendida sorpreso"
        ),
    ),
)
EMOTION_NAMES: tuple[str, ...] = tuple(emotion.name for emotion in EMOTIONS)
COLORS: dict[str, str] = {emotion.name: emotion.color for emotion in EMOTIONS}
# For classes of a user's own mapping that are not in the table, by their index in the scheme.
OTHER_COLORS = ("#332288", "#88ccee", "#44aa99", "#117733", "#999933", "#ddcc77", "#882255", "#aa4499")

_NAME_BY_WORD = {_plain(word): emotion.name for emotion in EMOTIONS for word in (emotion.name, *emotion.synonyms)}

SCHEMES: dict[str, tuple[str, ...]] = {
    "eight": EMOTION_NAMES,
    "seven": tuple(name for name in EMOTION_NAMES if name != "calm"),
    "six": tuple(name for name in EMOTION_NAMES if name not in ("calm", "surprise")),
    "four": ("neutral", "happy", "sad", "angry"),
}
CALM_POLICIES = ("keep", "neutral", "drop")


def canonical_name(word: str) -> str | None:
    """Return the table's name for a word ("Anger" -> "angry"), or None if the table does not contain the word.

    Words with and without accents, in Unicode NFC and NFD, are the same.
    """
    return _NAME_BY_WORD.get(_plain(word))


def same_emotion(label: str, other: str) -> bool:
    """Return whether two labels are one word, or synonyms in the table."""
    return (canonical_name(label) or fold(label)) == (canonical_name(other) or fold(other))


def label_color(name: str, index: int = 0) -> str:
    """Return the color ("#rrggbb") of an emotion, or of a user's own class with this index in its scheme."""
    return COLORS.get(name) or OTHER_COLORS[index % len(OTHER_COLORS)]


@dataclass(frozen=True)
class LabelScheme:
    """A set of classes in the order of their indices, and the class of each source label (folded).

    `name` is "eight", "seven", "six", "four" or "own". Labels missing from `class_by_label` are not part of the scheme.
    """

    name: str
    classes: tuple[str, ...]
    class_by_label: Mapping[str, str]

    def class_of(self, label: str) -> str | None:
        """Return the class of a source label, or None if the label is not part of the scheme."""
        word = fold(label)
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
        mapping = {fold(str(label)): nfc(str(value or "")).strip() for label, value in labels.items()}
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
