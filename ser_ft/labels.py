"""The emotions, their colours, and the label schemes: one table, read by everything else."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from .utils.errors import InputError


@dataclass(frozen=True)
class Emotion:
    """An emotion: its name, its colour everywhere in the project, and other words for it."""

    name: str
    colour: str
    synonyms: tuple[str, ...]


# Colours: the eight of Okabe & Ito (2008), "Color Universal Design", told apart with any colour vision.
# Black is lightened to grey and yellow darkened, so that both stand on white and on black.
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
NAMES: tuple[str, ...] = tuple(emotion.name for emotion in EMOTIONS)
COLOURS: dict[str, str] = {emotion.name: emotion.colour for emotion in EMOTIONS}
# For classes of a user's own mapping that are no emotion of the table, in order of their place.
OTHER_COLOURS: tuple[str, ...] = (
    "#332288",
    "#88ccee",
    "#44aa99",
    "#117733",
    "#999933",
    "#ddcc77",
    "#882255",
    "#aa4499",
)

_BY_WORD = {word: emotion.name for emotion in EMOTIONS for word in (emotion.name, *emotion.synonyms)}

SCHEMES: dict[str, tuple[str, ...]] = {
    "eight": NAMES,
    "seven": tuple(name for name in NAMES if name != "calm"),
    "six": tuple(name for name in NAMES if name not in ("calm", "surprise")),
    "four": ("neutral", "happy", "sad", "angry"),
}
CALM = ("keep", "neutral", "drop")


def canonical(word: str) -> str | None:
    """Return the table's name for an emotion word ("Anger" -> "angry"), or None where it is no word of the table."""
    return _BY_WORD.get(word.strip().lower().replace(" ", "_").replace("-", "_"))


def colour(name: str, place: int = 0) -> str:
    """Return the fixed colour ("#rrggbb") of an emotion, or of a user's own class at `place` in its scheme."""
    return COLOURS.get(name) or OTHER_COLOURS[place % len(OTHER_COLOURS)]


@dataclass(frozen=True)
class LabelScheme:
    """Which classes there are, and in which of them each emotion lands.

    Attributes:
        name: "eight", "seven", "six", "four" or "own".
        classes: the classes, in the order of their numbers.
        places: source label (lower case) -> class; what is not in it has no place in the scheme.
    """

    name: str
    classes: tuple[str, ...]
    places: Mapping[str, str]

    def place(self, label: str) -> str | None:
        """Return the class of a source label, or None where the scheme has no place for it."""
        word = label.strip().lower()
        return self.places.get(word) or self.places.get(canonical(word) or "")


def scheme(labels: str | Mapping[str, str] = "eight", calm: str = "keep") -> LabelScheme:
    """Make a label scheme.

    Args:
        labels: "eight", "seven", "six", "four", or a mapping of one's own: emotion (or source label) -> class.
        calm: what becomes of calm speech: "keep" it as a class where the scheme has it, count it as "neutral",
            or "drop" it.

    Raises:
        InputError: the scheme, or the value of `calm`, is unknown, or there are fewer than two classes.
    """
    if calm not in CALM:
        raise InputError(f"calm must be one of {', '.join(CALM)}, not {calm!r}")
    if isinstance(labels, str):
        if labels not in SCHEMES:
            raise InputError(
                f"unknown label scheme {labels!r}: use one of {', '.join(SCHEMES)}, or a mapping of your own"
            )
        classes = SCHEMES[labels]
        places = {name: name for name in classes}
        name = labels
    else:
        if not labels:
            raise InputError("the label mapping is empty: give at least two pairs, emotion: class")
        pairs = {str(key).strip().lower(): str(value or "").strip() for key, value in labels.items()}
        if "" in pairs.values():
            raise InputError("the label mapping names no class for one of its emotions: leave that emotion out")
        order = {value: NAMES.index(value) if value in NAMES else len(NAMES) for value in pairs.values()}
        classes = tuple(sorted(order, key=lambda value: order[value]))
        # A word stands for its synonyms too, unless these are given a place of their own.
        places = {canonical(key) or key: value for key, value in pairs.items()} | pairs
        name = "own"
    if calm != "keep":
        places = {word: place for word, place in places.items() if canonical(word) != "calm"}
        if calm == "neutral" and "neutral" in places:
            places["calm"] = places["neutral"]
        classes = tuple(name for name in classes if name in places.values())
    if len(classes) < 2:
        raise InputError(
            f"a label scheme needs two classes or more, not only {', '.join(map(repr, classes)) or 'calm'}"
        )
    return LabelScheme(name, classes, places)
