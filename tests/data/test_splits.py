"""Splits by speaker, by corpus, published ones and random ones."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import datasets
import numpy as np
import pytest

from ser_ft.data.corpora.folder import folder_parser
from ser_ft.data.splits import NAMED_FOLDS, PARTS, SPLIT_KINDS, Split, make_split
from ser_ft.utils.errors import InputError
from tests.helpers.speaker_tables import SPEAKERS, check_split, corpora_table, table_of

EMOBOX_RAVDESS = [{1, 11, 20, 21}, {4, 10, 12, 14}, {8, 9, 19, 23}, {3, 5, 7, 24}, {2, 15, 16, 18}, {6, 13, 17, 22}]
XLSR_RAVDESS = [{2, 5, 14, 15, 16}, {3, 6, 7, 13, 18}, {10, 11, 12, 19, 20}, {8, 17, 21, 23, 24}, {1, 4, 9, 22}]


@pytest.fixture(scope="module")
def all_corpora() -> datasets.Dataset:
    """The four corpora, 121 speakers."""
    return table_of(SPEAKERS)


@pytest.fixture(scope="module")
def ravdess() -> datasets.Dataset:
    return corpora_table("ravdess")


def actors(speakers: Sequence[str]) -> set[int]:
    return {int(speaker.rsplit("-", 1)[1]) for speaker in speakers}


@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize(
    ("kind", "corpora", "options"),
    [
        ("speaker", "ravdess tess cremad savee", {}),
        ("speaker", "ravdess", {"test": 0.5, "validation": 0}),
        ("speaker", "tess", {}),
        ("kfold", "ravdess tess cremad savee", {"folds": 5, "fold": 4}),
        ("kfold", "savee", {"folds": 4}),
        ("corpus", "ravdess tess cremad savee", {"corpus": "cremad"}),
        ("corpus", "ravdess tess", {"corpus": "ravdess"}),
        ("cross-corpus", "ravdess tess cremad savee", {"corpus": "cremad"}),
        ("cross-corpus", "ravdess tess", {"corpus": "tess"}),
        ("emobox-ravdess", "ravdess", {"fold": 5}),
        ("xlsr-ravdess", "ravdess", {"fold": 4}),
        ("emobox-savee", "savee", {"fold": 3}),
        ("tess-talker", "tess", {"fold": 1}),
        ("audeering-cremad", "cremad", {}),
    ],
)
def test_parts_share_no_speaker(kind: str, corpora: str, options: dict[str, Any], seed: int) -> None:
    table = corpora_table(*corpora.split())
    split = make_split(table, kind, seed=seed, **options)
    check_split(split, table)
    assert sum(map(len, split.parts.values())) == len(table)
    assert split == make_split(table, kind, seed=seed, **options)
    fold = options.get("fold", 0 if kind == "kfold" or kind in NAMED_FOLDS else None)
    assert (split.seed, split.fold) == (seed, fold)


@pytest.mark.parametrize("kind", ["speaker", "kfold", "random"])
def test_another_seed_gives_another_split(ravdess: datasets.Dataset, kind: str) -> None:
    assert len({make_split(ravdess, kind, seed=seed).parts["test"] for seed in range(4)}) == 4


def test_the_order_of_the_rows_does_not_matter(all_corpora: datasets.Dataset) -> None:
    for kind in ("speaker", "kfold"):
        assert make_split(all_corpora, kind).speakers == make_split(all_corpora.shuffle(seed=1), kind).speakers


def test_parts_have_their_fractions_of_the_speakers(ravdess: datasets.Dataset) -> None:
    fractions = {(0.2, 0.15): [16, 3, 5], (0.5, 0.25): [9, 3, 12], (0.01, 0.01): [22, 1, 1], (0.9, 0): [2, 0, 22]}
    for (test, validation), counts in fractions.items():
        split = make_split(ravdess, test=test, validation=validation)
        assert [len(split.speakers[part]) for part in PARTS] == counts


def test_every_corpus_with_two_speakers_is_in_the_test_part(all_corpora: datasets.Dataset) -> None:
    for seed in range(5):
        split = make_split(all_corpora, seed=seed)
        tested = Counter(speaker.split("-")[0] for speaker in split.speakers["test"])
        assert tested == {"ravdess": 5, "tess": 1, "cremad": 18, "savee": 1}


def test_the_last_speaker_of_a_corpus_is_in_the_training_part() -> None:
    talkers = table_of({"tess": SPEAKERS["tess"]}, clips=20)
    table = datasets.concatenate_datasets([talkers, corpora_table("savee")])
    for seed in range(3):
        split = make_split(table, seed=seed, validation=0.3)
        assert {speaker.split("-")[0] for speaker in split.speakers["train"]} == {"tess", "savee"}
        assert len(split.speakers["validation"]) == 1


@pytest.mark.parametrize(
    ("corpora", "folds"), [("ravdess", 5), ("ravdess tess cremad savee", 5), ("savee tess", 3), ("savee", 4)]
)
def test_every_speaker_is_in_the_test_part_of_one_fold(corpora: str, folds: int) -> None:
    table = corpora_table(*corpora.split())
    tested = [make_split(table, "kfold", seed=3, fold=fold, folds=folds).speakers["test"] for fold in range(folds)]
    assert sorted(speaker for fold in tested for speaker in fold) == sorted(set(table["speaker"]))
    sizes = [len(fold) for fold in tested]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("kind", ["speaker", "kfold"])
def test_each_part_has_the_distribution_of_the_data(all_corpora: datasets.Dataset, kind: str) -> None:
    frame = all_corpora.to_pandas()
    expected = frame["emotion"].value_counts(normalize=True)
    split = make_split(all_corpora, kind)
    for part, near in (("train", 0.02), ("validation", 0.04), ("test", 0.02)):
        rows = frame[frame["id"].isin(split.parts[part])]
        fractions = rows["emotion"].value_counts(normalize=True).reindex(expected.index, fill_value=0)
        assert (fractions - expected).abs().max() < near
        women = rows.drop_duplicates("speaker")["gender"].eq("female").mean()
        assert 0.35 < women < 0.65


def test_no_emotion_is_missing_from_the_test_part() -> None:
    rows = [
        {"id": f"{n}-{k}", "speaker": f"x-{n:02d}", "corpus": "x", "emotion": n % 4, "gender": None}
        for n in range(16)
        for k in range(3)
    ]
    table = datasets.Dataset.from_list(rows).cast_column("emotion", datasets.ClassLabel(names=list("abcd")))
    for seed in range(5):
        split = make_split(table, seed=seed, test=0.25, validation=0)
        assert {int(speaker[2:]) % 4 for speaker in split.speakers["test"]} == {0, 1, 2, 3}


@pytest.mark.parametrize(("kind", "folds"), [("emobox-ravdess", EMOBOX_RAVDESS), ("xlsr-ravdess", XLSR_RAVDESS)])
def test_published_folds_of_ravdess(ravdess: datasets.Dataset, kind: str, folds: list[set[int]]) -> None:
    tested = [actors(make_split(ravdess, kind, fold=fold).speakers["test"]) for fold in range(len(folds))]
    assert tested == folds
    assert sorted(actor for fold in tested for actor in fold) == list(range(1, 25))
    assert len(make_split(ravdess, kind).speakers["validation"]) == 3

    fewer = table_of({"ravdess": SPEAKERS["ravdess"][:20]})
    for fold, members in enumerate(folds):
        split = make_split(fewer, kind, fold=fold)
        check_split(split, fewer)
        assert actors(split.speakers["test"]) == members & set(range(1, 21))


def test_published_folds_of_savee_and_tess() -> None:
    savee, tess = corpora_table("savee"), corpora_table("tess")
    tested = [make_split(savee, "emobox-savee", fold=fold).speakers["test"] for fold in range(4)]
    assert tested == [("savee-JE",), ("savee-KL",), ("savee-DC",), ("savee-JK",)]
    assert len(make_split(savee, "emobox-savee").speakers["validation"]) == 1
    for fold, (trained, tested) in enumerate((("tess-OAF", "tess-YAF"), ("tess-YAF", "tess-OAF"))):
        split = make_split(tess, "tess-talker", fold=fold)
        assert split.speakers == {"train": (trained,), "validation": (), "test": (tested,)}
        assert "no speaker is left for validation" in split.describe()


def test_the_published_split_of_cremad(shared_data: Path) -> None:
    published = json.loads((shared_data / "splits" / "cremad_audeering_1.1.0.json").read_text())
    split = make_split(corpora_table("cremad"), "audeering-cremad")
    for part, theirs in (("train", "train"), ("validation", "dev"), ("test", "test")):
        assert actors(split.speakers[part]) == set(published[theirs])
    assert [len(split.speakers[part]) for part in PARTS] == [56, 18, 17]
    from_file = make_split(corpora_table("cremad"), "file", file=shared_data / "splits" / "cremad_audeering_1.1.0.json")
    assert from_file.speakers == split.speakers
    assert from_file.parts == split.parts


def test_one_corpus_is_left_out(all_corpora: datasets.Dataset) -> None:
    for corpus, names in SPEAKERS.items():
        split = make_split(all_corpora, "corpus", corpus=corpus)
        check_split(split, all_corpora)
        assert split.name == f"corpus-{corpus}"
        assert set(split.speakers["test"]) == {f"{corpus}-{name}" for name in names}
        assert split.speakers["validation"]


@pytest.mark.parametrize(("test", "validation"), [(0.3, 0.05), (0.2, 0.0)])
def test_random_splits_are_marked_as_leaking(all_corpora: datasets.Dataset, test: float, validation: float) -> None:
    split = make_split(all_corpora, "random", test=test, validation=validation)
    assert split.leaking
    assert "LEAKING: speakers are in several parts" in split.describe()
    fractions = np.array([len(split.parts[part]) / len(all_corpora) for part in PARTS])
    assert np.abs(fractions - [(1 - test) * (1 - validation), (1 - test) * validation, test]).max() < 0.005
    assert len(set(split.speakers["train"]) & set(split.speakers["test"])) > 100
    assert len(set().union(*split.parts.values())) == len(all_corpora)
    emotion = dict(zip(all_corpora["id"], all_corpora["emotion"], strict=True))
    per_class = Counter(emotion[clip] for clip in split.parts["test"])
    for label, count in Counter(emotion.values()).items():
        assert abs(per_class[label] / count - test) < 0.02


def test_cross_corpus_tests_on_held_out_speakers_and_other_corpora(all_corpora: datasets.Dataset) -> None:
    split = make_split(all_corpora, "cross-corpus", corpus="ravdess")
    assert {name.split("-")[0] for part in ("train", "validation") for name in split.speakers[part]} == {"ravdess"}
    tested = [name for name in split.speakers["test"] if not name.startswith("ravdess-")]
    assert set(tested) == {name for name in all_corpora["speaker"] if not name.startswith("ravdess-")}
    assert len(split.speakers["test"]) - len(tested) == 5
    assert split.name == "cross-corpus-ravdess"


def test_cross_corpus_keeps_a_single_speaker_for_training() -> None:
    split = make_split(table_of({"mine": ["a"], "other": ["b", "c"]}), "cross-corpus", corpus="mine")
    assert [split.speakers[part] for part in PARTS] == [("mine-a",), (), ("other-b", "other-c")]


@pytest.mark.parametrize(
    ("corpora", "kind", "options", "message"),
    [
        ("one", "speaker", {}, "needs 2 speakers or more, and the data has 1; split.kind: random is possible"),
        ("unnamed", "speaker", {}, "name the speakers in folders (EMOTION/SPEAKER/clip) or in a manifest"),
        ("unnamed", "folders", {}, "no clip is in a folder named train (there are no parts)"),
        ("one", "kfold", {}, "a split into 5 folds by speaker needs 5 speakers or more, and the data has 1"),
        ("savee", "kfold", {"folds": 5}, "needs 5 speakers or more, and the data has 4"),
        ("savee", "kfold", {"folds": 1}, "split.folds must be 2 or more, not 1"),
        ("savee", "kfold", {"folds": 2, "fold": 2}, "split.fold is 2: folds are numbered 0 to 1"),
        ("savee", "emobox-savee", {"fold": 4}, "split.fold is 4: folds are numbered 0 to 3"),
        ("savee", "emobox-savee", {"fold": -1}, "split.fold is -1"),
        ("savee", "emobox-ravdess", {}, "the split emobox-ravdess is of ravdess alone; the data also holds savee"),
        ("talker", "tess-talker", {}, "fold 0 of tess-talker tests on tess-YAF; the data has tess-OAF"),
        ("savee", "corpus", {"corpus": "savee"}, "the data holds savee alone: a split by corpus needs two"),
        ("savee", "cross-corpus", {}, "split.corpus must name the corpus to train on: one of savee, not None"),
        ("savee", "corpus", {}, "split.corpus must name the corpus to test on: one of savee, not None"),
        ("savee", "corpus", {"corpus": "tess"}, "one of savee, not 'tess'"),
        ("savee", "alphabetical", {}, f"unknown split 'alphabetical': use one of {', '.join(SPLIT_KINDS)}"),
        ("savee", "speaker", {"test": 0}, "split.test must be a fraction between 0 and 1, not 0"),
        ("savee", "speaker", {"test": 1.5}, "split.test must be a fraction between 0 and 1, not 1.5"),
        ("savee", "speaker", {"validation": 1}, "split.validation must be a fraction between 0 and 1, not 1"),
        ("savee", "file", {}, "name the file with split.file"),
    ],
)
def test_impossible_splits_are_refused(corpora: str, kind: str, options: dict[str, Any], message: str) -> None:
    speakers = {"one": {"mine": ["a"]}, "unnamed": {"mine": ["unknown"]}, "talker": {"tess": ["OAF"]}}
    table = table_of(speakers.get(corpora) or {corpora: SPEAKERS[corpora]})
    with pytest.raises(InputError, match=re.escape(message)) as caught:
        make_split(table, kind, **options)
    assert "\n" not in str(caught.value)


def folder_table(paths: Sequence[str], corpus: str = "mine") -> datasets.Dataset:
    """Return the table of clips in folders, each of which occurs once per emotion, in place of its `*`."""
    parse = folder_parser(corpus, lambda folder: folder in ("sad", "happy"))
    clips = [parse(PurePosixPath(path.replace("*", emotion))) for path in paths for emotion in ("sad", "happy")]
    rows = [
        {"id": clip.id, "speaker": clip.speaker, "corpus": corpus, "emotion": clip.emotion, "gender": clip.gender}
        for clip in clips
        if clip is not None
    ]
    return datasets.Dataset.from_list(rows)


def parts_in(split: Split) -> dict[str, set[str]]:
    """Return part -> the last letters of the names of its clips."""
    return {part: {clip[-1] for clip in clips} for part, clips in split.parts.items()}


@pytest.mark.parametrize(
    ("paths", "parts"),
    [
        (("train/*/a", "validation/*/b", "test/*/c"), "a b c"),
        (("*/Training/a", "*/Dev/b", "*/Testing/c"), "a b c"),
        (("TRAIN/ann/*/a", "VALID/bob/*/b", "EVAL/cy/*/c"), "a b c"),
        (("test/all/train/*/a", "test/all/val_set/*/b", "test/all/test_set/*/c"), "a b c"),
        (("train/*/a", "eval/*/b", "test/*/c"), "a b c"),
        (("train/*/a", "dev/*/b", "eval/*/c", "test/*/d", "more/*/e"), "a b cd"),
    ],
)
@pytest.mark.parametrize("corpus", ["mine", "my-test-data"])
def test_the_parts_of_existing_folders_are_taken(paths: Sequence[str], parts: str, corpus: str) -> None:
    split = make_split(folder_table(paths, corpus), "folders")
    assert parts_in(split) == dict(zip(PARTS, map(set, parts.split()), strict=True))
    assert split.leaking == (False if "ann" in paths[0] else "unknown")
    assert ("UNVERIFIED" in split.describe()) == bool(split.leaking)
    assert split.to_dict()["leaking"] == split.leaking
    assert split.unused == (2 if len(paths) == 5 else 0)


def test_a_speaker_in_two_folders_of_a_split_leaks() -> None:
    paths = ("train/ann/*/a", "train/bob/*/b", "test/ann/*/c", "test/cy/*/d")
    assert make_split(folder_table(paths), "folders").leaking is True


def test_a_missing_validation_part_is_taken_from_the_training_part() -> None:
    names = ("ann", "bob", "cy", "di")
    split = make_split(folder_table([f"train/{name}/*/1" for name in names] + ["test/ed/*/2"]), "folders")
    assert [len(split.speakers[part]) for part in PARTS] == [3, 1, 1]
    assert split.leaking is False
    table = folder_table([f"train/*/{take}" for take in range(8)] + ["test/*/9"])
    split = make_split(table, "folders", validation=0.25)
    assert [len(split.parts[part]) for part in PARTS] == [12, 4, 2]
    assert split.leaking == "unknown"
    assert not make_split(folder_table(["train/*/1", "test/*/2"]), "folders", validation=0).parts["validation"]


@pytest.mark.parametrize("kind", ["speaker", "kfold", "cross-corpus"])
def test_unknown_speakers_make_a_split_by_speaker_impossible(kind: str) -> None:
    table = folder_table(["train/*/1", "test/*/2", "ann/*/3", "bob/*/4", "cy/*/5", "di/*/6", "ed/*/7"])
    other = table_of({"other": ["a", "b"]})
    rows = [row | {"emotion": "sad"} for row in other.select_columns(table.column_names)]
    table = datasets.Dataset.from_list([*table, *rows])
    with pytest.raises(
        InputError, match=r"4 of \d+ clips have none \(mine-train/sad/1 is the first\): name the speakers"
    ):
        make_split(table, kind, corpus="mine")


def test_a_corpus_without_known_speakers_is_used_for_training_only() -> None:
    table = table_of({"mine": ["unknown"], "savee": SPEAKERS["savee"]})
    for options in ({}, {"kind": "kfold", "folds": 4, "fold": 3}):
        split = make_split(table, **options)
        assert "mine-unknown" in split.speakers["train"]
        assert len(split.speakers["test"]) == len(split.speakers["validation"]) == 1


def test_tables_of_few_speakers_are_split() -> None:
    assert make_split(table_of({"mine": ["a"]}, clips=10), "random").leaking
    split = make_split(corpora_table("tess"))
    assert [len(split.speakers[part]) for part in PARTS] == [1, 0, 1]
    table = table_of({name: ["a"] for name in ("one", "two", "three", "four", "five")})
    split = make_split(table)
    check_split(split, table)
    assert [len(split.speakers[part]) for part in PARTS] == [3, 1, 1]


def test_a_prepared_table_is_split(miniature_table: datasets.Dataset) -> None:
    split = make_split(miniature_table)
    check_split(split, miniature_table)
    assert len(split.speakers["test"]) == 4
    rows = split.row_indices(miniature_table)
    assert sum(map(len, rows.values())) == len(miniature_table)
