"""Separability of traits, on features in which the traits are planted."""

from __future__ import annotations

from itertools import product

import numpy as np
import pandas as pd
import pytest

from ser_ft.report.exploration.findings import interpret_separability
from ser_ft.report.exploration.separability import (
    OVERALL,
    PER_CORPUS,
    PER_SPEAKER,
    Separability,
    embed_in_2d,
    estimate_separability,
    normalize_by_group,
    normalize_features,
)

EMOTIONS = ("angry", "happy", "sad")


def clip_table(corpora: int = 2, speakers: int = 10, takes: int = 4) -> pd.DataFrame:
    """Each speaker of each corpus says each emotion `takes` times."""
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


def planted_features(clips: pd.DataFrame, seed: int = 0, **strengths: float) -> np.ndarray:
    """12 features of unit noise, shifted for each value of a trait in proportion to its strength."""
    random = np.random.default_rng(seed)
    features = random.normal(size=(len(clips), 12)).astype(np.float32)
    for trait, strength in strengths.items():
        shift = {name: random.normal(size=12) * strength for name in sorted(set(clips[trait]))}
        features += np.stack([shift[name] for name in clips[trait]]).astype(np.float32)
    return features


def separability(clips: pd.DataFrame, features: np.ndarray, **allowed: tuple[str, ...]) -> dict[str, Separability]:
    allowed_classes = {name: allowed.get(name, EMOTIONS) for name in set(clips["corpus"])}
    results = estimate_separability(clips, normalize_features(clips, features), allowed_classes, show_progress=False)
    return {result.trait: result for result in results}


def test_planted_traits_are_predicted_and_others_are_at_chance() -> None:
    clips = clip_table()
    results = separability(clips, planted_features(clips, corpus=4.0))
    assert list(results) == ["emotion", "corpus", "gender", "speaker"]
    assert results["corpus"].uar[OVERALL] == 1.0
    assert results["corpus"].chance_corrected == 1.0
    assert results["emotion"].chance == pytest.approx(1 / 3)
    assert abs(results["emotion"].chance_corrected) < 0.15
    assert abs(results["gender"].chance_corrected) < 0.25
    first, advice, *_ = interpret_separability(list(results.values()))
    assert first.startswith("The features show the corpus more than the emotion: from its 15 nearest neighbors")
    assert advice.startswith("If emotions are distributed unevenly over the corpora")
    results = separability(clips, planted_features(clips, emotion=4.0))
    assert results["emotion"].uar[OVERALL] > 0.98
    assert abs(results["corpus"].chance_corrected) < 0.25
    assert "show the corpus less than the emotion" in interpret_separability(list(results.values()))[0]


def test_emotions_are_not_predicted_from_the_speaker() -> None:
    """Each speaker has one emotion: clips of the same speaker would give the emotion away."""
    clips = clip_table(corpora=1, speakers=30)
    clips["emotion"] = [EMOTIONS[int(name.split("-")[1]) % 3] for name in clips["speaker"]]
    results = separability(clips, planted_features(clips, speaker=6.0))
    assert results["speaker"].uar[OVERALL] > 0.98
    assert results["emotion"].speaker_disjoint
    assert results["emotion"].chance_corrected < 0.3
    assert "corpus" not in results
    assert interpret_separability(list(results.values()))[1].startswith("A model easily learns voices")


def test_normalizing_each_speaker_reveals_the_emotion() -> None:
    clips = clip_table(corpora=1)
    result = separability(clips, planted_features(clips, speaker=8.0, emotion=2.0))["emotion"]
    assert result.uar[PER_SPEAKER] > max(0.9, result.uar[OVERALL] + 0.1)
    assert "the emotion is predicted with UAR" in interpret_separability([result])[-1]
    assert PER_CORPUS not in result.uar


def test_a_corpus_with_one_speaker_is_excluded() -> None:
    """Its only speaker is in one fold; with clips of that speaker as neighbors, the voice would be recognized."""
    single = clip_table(1, 1, 20).assign(corpus="t", speaker="t-1")
    clips = pd.concat([clip_table(), single], ignore_index=True)
    results = separability(clips, planted_features(clips, corpus=4.0))
    assert results["corpus"].classes == ("c0", "c1")
    assert results["corpus"].excluded == ("t",)
    assert results["corpus"].clips == len(clips) - 60
    assert "chance: 0.500, of c0 and c1" in interpret_separability(list(results.values()))[0]


@pytest.mark.parametrize("speaker", ["own-ann", "own-unknown"])
def test_with_one_speaker_or_unknown_ones_any_clips_are_neighbors(speaker: str) -> None:
    clips = clip_table(1, 1, 30).assign(corpus="own", speaker=speaker)
    results = separability(clips, planted_features(clips, emotion=4.0))
    assert list(results) == ["emotion"]
    assert not results["emotion"].speaker_disjoint
    assert results["emotion"].uar[OVERALL] > 0.98
    assert PER_SPEAKER not in results["emotion"].uar


def test_only_emotions_that_a_corpus_can_contain_are_predicted() -> None:
    """As CREMA-D has no surprise: angry clips of c1 have the features of sad clips of c0, but cannot be sad."""
    clips = clip_table()
    clips = clips[(clips["corpus"] == "c0") | (clips["emotion"] != "sad")]
    clips = clips[(clips["corpus"] == "c0") | (clips["speaker"].str[-1] <= "2")].reset_index(drop=True)
    planted = clips["emotion"].where((clips["corpus"] == "c0") | (clips["emotion"] != "angry"), "sad")
    features = planted_features(clips.assign(emotion=planted), emotion=6.0)
    result = separability(clips, features, c1=("angry", "happy"))["emotion"]
    recalls = {"angry": (40 / 3 + 12 / 2) / 52, "happy": (40 / 3 + 12 / 2) / 52, "sad": 1 / 3}
    assert result.chance == pytest.approx(sum(recalls.values()) / 3)
    assert result.uar[OVERALL] > 0.95
    assert separability(clips, features)["emotion"].uar[OVERALL] < 0.95


def test_rare_classes_weigh_as_much_as_frequent_ones() -> None:
    clips = clip_table(corpora=1, speakers=20, takes=20)
    frequent = clips["emotion"] == "angry"
    clips = clips[frequent | (clips.groupby(["speaker", "emotion"]).cumcount() < 1)].reset_index(drop=True)
    assert separability(clips, planted_features(clips, emotion=0.8))["emotion"].uar[OVERALL] > 0.65


def test_too_few_clips_give_no_result() -> None:
    clips = clip_table(1, 1, 1)
    assert estimate_separability(clips, {OVERALL: np.zeros((3, 2))}, {"c0": EMOTIONS}, show_progress=False) == []
    assert interpret_separability([]) == []


def test_features_are_normalized_within_groups() -> None:
    features = np.random.default_rng(0).normal(3, 2, (60, 4)).astype(np.float32)
    groups = np.repeat(["a", "b", "c"], [30, 29, 1])
    features[groups == "b"] += 100
    features[0, 1] = np.nan
    features[:, 3] = 7
    normalized = normalize_by_group(features, groups)
    for name in "ab":
        assert np.allclose(normalized[groups == name].mean(axis=0), 0, atol=1e-4)
        assert np.allclose(normalized[groups == name][:, 0].std(), 1, atol=1e-3)
    assert normalized[0, 1] == 0, "a missing value becomes the mean"
    assert not normalized[:, 3].any()
    assert not normalized[-1].any(), "the only clip of a group is its mean"


def test_similar_clips_are_close_on_the_map() -> None:
    clips = clip_table(2, 10, 2)
    features = normalize_by_group(planted_features(clips, corpus=5.0), np.zeros(len(clips)))
    points, method = embed_in_2d(features, seed=0)
    assert method == "t-SNE"
    assert points.shape == (len(clips), 2)
    distances = np.linalg.norm(points[:, None] - points[None], axis=2)
    np.fill_diagonal(distances, np.inf)
    corpora = clips["corpus"].to_numpy()
    assert (corpora[distances.argmin(axis=1)] == corpora).all()
    assert np.array_equal(points, embed_in_2d(features, seed=0)[0])


@pytest.mark.parametrize("clips", [3, 29])
def test_few_clips_are_placed_by_principal_components(clips: int) -> None:
    points, method = embed_in_2d(np.random.default_rng(0).normal(size=(clips, 5)))
    assert method == "principal components"
    assert points.shape == (clips, 2)
    assert np.isfinite(points).all()
