"""How well traits are told from features, where it is known how well they can be."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from ser_ft.report.exploration.findings import meaning
from ser_ft.report.exploration.separability import (
    VERSIONS,
    Separability,
    embedded,
    estimate_separability,
    standardised,
    versions,
)

EMOTIONS = ("angry", "happy", "sad")
AS_FOUND, WITHIN_CORPUS, WITHIN_SPEAKER = VERSIONS


def table(corpora: int = 2, speakers: int = 10, takes: int = 4) -> pd.DataFrame:
    """Speakers of each corpus who say each emotion so many times."""
    rows = [
        {
            "emotion": emotion,
            "corpus": f"c{corpus}",
            "speaker": f"c{corpus}-{speaker}",
            "gender": ("female", "male")[speaker % 2],
        }
        for corpus, speaker, emotion, _ in product(range(corpora), range(speakers), EMOTIONS, range(takes))
    ]
    return pd.DataFrame(rows)


def planted(clips: pd.DataFrame, seed: int = 0, **strengths: float) -> np.ndarray:
    """Noise of deviation 1 in 12 numbers, and for each trait a place of its own for each of its values."""
    draw = np.random.default_rng(seed)
    features = draw.normal(size=(len(clips), 12)).astype(np.float32)
    for trait, strength in strengths.items():
        place = {name: draw.normal(size=12) * strength for name in sorted(set(clips[trait]))}
        features += np.stack([place[name] for name in clips[trait]]).astype(np.float32)
    return features


def ask(clips: pd.DataFrame, features: np.ndarray, **can_hold: tuple[str, ...]) -> dict[str, Separability]:
    holds = {name: can_hold.get(name, EMOTIONS) for name in set(clips["corpus"])}
    return {item.trait: item for item in estimate_separability(clips, versions(clips, features), holds, shown=False)}


def test_what_is_planted_is_told_and_what_is_not_is_guessed() -> None:
    clips = table()
    told = ask(clips, planted(clips, corpus=4.0))
    assert list(told) == ["emotion", "corpus", "gender", "speaker"]
    assert told["corpus"].uar[AS_FOUND] == 1.0
    assert told["corpus"].share() == 1.0
    assert told["emotion"].guess == pytest.approx(1 / 3)
    assert abs(told["emotion"].share()) < 0.15
    assert abs(told["gender"].share()) < 0.25
    assert meaning(list(told.values()))[0].startswith("The corpus shows more than the emotion: from the 15 clips")
    other = ask(clips, planted(clips, emotion=4.0))
    assert other["emotion"].uar[AS_FOUND] > 0.98
    assert abs(other["corpus"].share()) < 0.25
    assert meaning(list(other.values()))[0].startswith("The corpus shows less than the emotion")


def test_emotions_are_not_told_by_knowing_the_speaker() -> None:
    """Each speaker has one emotion: among clips of the same speaker any emotion would be found, and mean nothing."""
    clips = table(corpora=1, speakers=30)
    clips["emotion"] = [EMOTIONS[int(name.split("-")[1]) % 3] for name in clips["speaker"]]
    told = ask(clips, planted(clips, speaker=6.0))
    assert told["speaker"].uar[AS_FOUND] > 0.98
    assert told["emotion"].by_speaker
    assert told["emotion"].share() < 0.3
    assert "corpus" not in told
    assert meaning(list(told.values()))[:2][1].startswith("A model is easily taken in by voices that it knows")


def test_each_speakers_own_scale_brings_the_emotion_out() -> None:
    clips = table(corpora=1)
    told = ask(clips, planted(clips, speaker=8.0, emotion=2.0))["emotion"]
    assert told.uar[WITHIN_SPEAKER] > 0.9
    assert told.uar[WITHIN_SPEAKER] > told.uar[AS_FOUND] + 0.1
    assert "with UAR" in meaning([told])[-1]
    assert WITHIN_CORPUS not in told.uar


def test_a_corpus_of_one_voice_is_not_asked_for() -> None:
    """Held out, its only voice would never be known; not held out, the voice is told and not the corpus."""
    clips = pd.concat(
        [
            table(),
            pd.DataFrame([{**row, "corpus": "t", "speaker": "t-1"} for row in table(1, 1, 20).to_dict("records")]),
        ],
        ignore_index=True,
    )
    told = ask(clips, planted(clips, corpus=4.0))
    assert told["corpus"].classes == ("c0", "c1")
    assert told["corpus"].left_out == ("t",)
    assert told["corpus"].clips == len(clips) - 60
    assert "guessing: 0.500, of c0 and c1" in meaning(list(told.values()))[0]


def test_one_speaker_and_unknown_speakers() -> None:
    for name in ("own-ann", "own-unknown"):
        clips = table(1, 1, 30).assign(corpus="own", speaker=name)
        told = ask(clips, planted(clips, emotion=4.0))
        assert list(told) == ["emotion"]
        assert not told["emotion"].by_speaker
        assert told["emotion"].uar[AS_FOUND] > 0.98
        assert WITHIN_SPEAKER not in told["emotion"].uar


def test_only_emotions_that_a_corpus_can_hold_are_answered() -> None:
    """As CREMA-D has no surprise: the angry clips of c1 sound as the sad ones of c0, and cannot be sad."""
    clips = table()
    clips = clips[(clips["corpus"] == "c0") | (clips["emotion"] != "sad")].reset_index(drop=True)
    few = (clips["corpus"] == "c1") & (clips["speaker"].str[-1] > "2")
    clips = clips[~few].reset_index(drop=True)
    sound = clips["emotion"].where((clips["corpus"] == "c0") | (clips["emotion"] != "angry"), "sad")
    features = planted(clips.assign(emotion=sound), emotion=6.0)
    told = ask(clips, features, c1=("angry", "happy"))["emotion"]
    shares = {"angry": (40 / 3 + 12 / 2) / 52, "happy": (40 / 3 + 12 / 2) / 52, "sad": 1 / 3}
    assert told.guess == pytest.approx(sum(shares.values()) / 3)
    assert told.uar[AS_FOUND] > 0.95
    assert ask(clips, features)["emotion"].uar[AS_FOUND] < 0.95


def test_rare_classes_have_the_same_say() -> None:
    """Without it, nine neighbours of ten are of the frequent class, whatever the features say."""
    clips = table(corpora=1, speakers=20, takes=20)
    kept = (clips["emotion"] == "angry") | (clips.groupby(["speaker", "emotion"]).cumcount() < 1)
    clips = clips[kept].reset_index(drop=True)
    told = ask(clips, planted(clips, emotion=0.8))["emotion"]
    assert told.uar[AS_FOUND] > 0.65


def test_too_little_to_ask() -> None:
    assert estimate_separability(table(1, 1, 1), {AS_FOUND: np.zeros((3, 2))}, {"c0": EMOTIONS}, shown=False) == []
    assert meaning([]) == []


def test_standardised_by_group() -> None:
    draw = np.random.default_rng(0)
    features = draw.normal(3, 2, (60, 4)).astype(np.float32)
    groups = np.repeat(["a", "b", "c"], [30, 29, 1])
    features[groups == "b"] += 100
    features[0, 1] = np.nan
    features[:, 3] = 7
    made = standardised(features, groups)
    for name in "ab":
        part = made[groups == name]
        assert np.allclose(part.mean(axis=0), 0, atol=1e-4)
        assert np.allclose(part[:, 0].std(), 1, atol=1e-3)
    assert made[0, 1] == 0, "what is missing is the mean"
    assert not made[:, 3].any()
    assert not made[-1].any(), "a clip alone in its group is its mean"


def test_the_map_puts_like_clips_together() -> None:
    clips = table(2, 10, 2)
    plane, method = embedded(standardised(planted(clips, corpus=5.0), np.zeros(len(clips))), seed=0)
    assert method == "t-SNE"
    assert plane.shape == (len(clips), 2)
    apart = np.linalg.norm(plane[:, None] - plane[None], axis=2)
    np.fill_diagonal(apart, np.inf)
    names = clips["corpus"].to_numpy()
    assert (names[apart.argmin(axis=1)] == names).all()
    again, _ = embedded(standardised(planted(clips, corpus=5.0), np.zeros(len(clips))), seed=0)
    assert np.array_equal(plane, again)


@pytest.mark.parametrize("clips", [3, 29])
def test_few_clips_are_laid_out_by_their_components(clips: int) -> None:
    plane, method = embedded(np.random.default_rng(0).normal(size=(clips, 5)))
    assert method == "principal components"
    assert plane.shape == (clips, 2)
    assert np.isfinite(plane).all()
