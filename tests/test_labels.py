"""Emotions and label schemes."""

from __future__ import annotations

import re
from collections.abc import Mapping

import pytest

from ser_ft.labels import COLORS, EMOTION_NAMES, EMOTIONS, SCHEMES, canonical_name, label_color, make_scheme
from ser_ft.utils.errors import InputError


def test_the_table_has_eight_emotions_and_no_word_twice() -> None:
    words = [word for emotion in EMOTIONS for word in (emotion.name, *emotion.synonyms)]
    assert EMOTION_NAMES == ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")
    assert len(words) == len(set(words))
    assert len(set(COLORS.values())) == 8
    colors = [label_color(name, index) for index, name in enumerate((*EMOTION_NAMES, *"abcdefghij"))]
    assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)


@pytest.mark.parametrize(
    ("word", "name"),
    [
        ("Anger", "angry"),
        ("fearful", "fear"),
        (" HAPPINESS ", "happy"),
        ("Pleasant Surprise", "surprise"),
        ("pleasant-surprised", "surprise"),
        ("none", None),
        ("boredom", None),
        ("", None),
        *[
            (word, "angry")
            for word in ("Wut", "ÄRGER", "A\u0308rger", "Arger", "Aerger", "colère", "COLERE", "ira", "rabbia")
        ],
        *[(word, "surprise") for word in ("Überraschung", "Uberraschung", "sorpresa", "surpris")],
        *[(word, "fear") for word in ("Angst", "peur", "miedo", "paura")],
        *[(word, "happy") for word in ("Freude", "joie", "alegría", "alegria", "felicità")],
        *[(word, None) for word in "WLEAFTN"],  # EMO-DB's letters: A is Angst, not anger, and F is Freude, not fear
    ],
)
def test_synonyms_have_canonical_names(word: str, name: str | None) -> None:
    assert canonical_name(word) == name


@pytest.mark.parametrize(
    ("labels", "calm", "classes", "class_by_label"),
    [
        ("eight", "keep", EMOTION_NAMES, {"calm": "calm", "Fearful": "fear", "boredom": None}),
        ("eight", "neutral", SCHEMES["seven"], {"calm": "neutral"}),
        ("eight", "drop", SCHEMES["seven"], {"calm": None, "relaxed": None}),
        ("seven", "keep", SCHEMES["seven"], {"calm": None}),
        ("six", "keep", ("neutral", "happy", "sad", "angry", "fear", "disgust"), {"surprise": None, "calm": None}),
        ("six", "neutral", SCHEMES["six"], {"calm": "neutral"}),
        ("four", "keep", ("neutral", "happy", "sad", "angry"), {"fear": None, "anger": "angry"}),
        ({"happy": "good", "ang": "bad"}, "keep", ("good", "bad"), {"angry": "bad", "Joy": "good", "sad": None}),
        ({"sad": "sad", "Happy": "happy"}, "keep", ("happy", "sad"), {"HAPPY": "happy"}),
        ({"Excited": "up", "tired": "down"}, "keep", ("up", "down"), {"excited": "up", "TIRED": "down"}),
        ({"calm": "low", "sad": "low", "happy": "high"}, "drop", ("low", "high"), {"calm": None, "sad": "low"}),
        ({"neutral": "low", "calm": "x", "happy": "high"}, "neutral", ("low", "high"), {"calm": "low"}),
        # A word of its own in the mapping outranks the emotion that it is a synonym of, whatever the order.
        ({"happy": "plain", "joy": "bright"}, "keep", ("plain", "bright"), {"happiness": "plain", "Joy": "bright"}),
        ({"joy": "bright", "happy": "plain"}, "keep", ("bright", "plain"), {"happiness": "plain", "joy": "bright"}),
    ],
)
def test_classes_and_members_of_schemes(
    labels: str | Mapping[str, str], calm: str, classes: tuple[str, ...], class_by_label: dict[str, str | None]
) -> None:
    scheme = make_scheme(labels, calm)
    assert scheme.classes == classes
    assert {word: scheme.class_of(word) for word in class_by_label} == class_by_label


@pytest.mark.parametrize(
    ("labels", "calm", "message"),
    [
        ("nine", "keep", "unknown label scheme 'nine': use one of eight, seven, six, four"),
        ("eight", "merge", "calm must be one of keep, neutral, drop, not 'merge'"),
        ({}, "keep", "empty"),
        ({"happy": "x", "sad": "x"}, "keep", "at least two classes"),
        ({"happy": "x", "sad": ""}, "keep", "an emotion without a class"),
        ({"happy": "x", "sad": None}, "keep", "an emotion without a class"),
        ({"calm": "low", "happy": "high"}, "drop", "at least two classes"),
    ],
)
def test_wrong_schemes_are_refused(labels: str | Mapping[str, str], calm: str, message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        make_scheme(labels, calm)
