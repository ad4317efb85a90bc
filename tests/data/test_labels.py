"""Label schemes, and CREMA-D's labels by the listeners' votes."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ser_ft.data.catalog import Catalog
from ser_ft.data.prepare import corpus_info
from ser_ft.labels import EMOTION_NAMES, SCHEMES
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import actor_clips, catalog_of, labels_of, load, reasons, skipped, write


@pytest.mark.parametrize(
    ("labels", "calm", "classes", "counts", "num_skipped"),
    [
        ("eight", "keep", EMOTION_NAMES, [2] * 8, 0),
        ("eight", "neutral", SCHEMES["seven"], [4] + [2] * 6, 0),
        ("seven", "keep", SCHEMES["seven"], [2] * 7, 2),
        ("six", "neutral", SCHEMES["six"], [4] + [2] * 5, 2),
        ("four", "drop", SCHEMES["four"], [2] * 4, 8),
        ({"happy": "good", "fear": "bad", "anger": "bad"}, "keep", ("good", "bad"), [2, 4], 10),
    ],
)
def test_a_label_scheme_selects_and_merges_emotions(
    tmp_path: Path, labels: Any, calm: str, classes: tuple[str, ...], counts: list[int], num_skipped: int
) -> None:
    table = load(write(tmp_path / "x", actor_clips(1) + actor_clips(2)), tmp_path / "c", labels=labels, calm=calm)
    assert tuple(table.features["emotion"].names) == classes
    assert [Counter(table["emotion"])[label] for label in range(len(classes))] == counts
    assert list(skipped(table).values()) == ["not-in-scheme"] * num_skipped
    assert corpus_info(table)["ravdess"]["classes"] == list(classes)


def test_labels_outside_the_table_of_emotions_can_be_mapped(tmp_path: Path) -> None:
    root = write(tmp_path / "x", actor_clips(1))
    assert len(load(root, tmp_path / "c", labels={"joy": "x", "boredom": "y", "anger": "z"})) == 2


SUMMARY = '"","FileName","VoiceVote","VoiceLevel"\n' + "".join(
    f'"{number}","1001_{clip}","{vote}","50"\n'
    for number, (clip, vote) in enumerate(
        {"DFA_ANG_XX": "A", "DFA_SAD_XX": "N", "DFA_FEA_XX": "F:N", "DFA_DIS_XX": "D", "ITH_SAD_X": "S"}.items()
    )
)
TABULATED = '"","A","D","F","H","N","S","fileName","numResponses"\n' + "\n".join(
    (
        # 1...: voice alone; 2...: face; 3...: both.
        '"100001",6,3,1,0,0,0,"1001_DFA_ANG_XX",10',
        '"200001",0,0,0,9,0,0,"1001_DFA_ANG_XX",9',
        '"100002",0,0,0,0,8,2,"1001_DFA_SAD_XX",10',
        '"100003",0,0,5,0,5,0,"1001_DFA_FEA_XX",10',
        '"100004",1,7,0,0,2,0,"1001_DFA_DIS_XX",10',
        '"100005",0,0,0,0,0,4,"1040_ITH_SAD_X",4',
        '"300006",9,0,0,0,0,0,"1001_DFA_HAP_XX",9',
    )
)
VOTED = [f"AudioWAV/1001_DFA_{code}_XX.wav" for code in ("ANG", "SAD", "FEA", "DIS", "HAP")]


def with_votes(root: Path, **tables: str) -> Path:
    write(root, VOTED)
    return write(root, {f"processedResults/{name}.csv": content.encode() for name, content in tables.items()})


def labels_by_code(catalog: Catalog) -> dict[str, str]:
    return {clip.utterance.id[16:19]: clip.label for clip in catalog.clips}


def test_the_majority_label_is_used_and_ties_are_skipped(tmp_path: Path) -> None:
    root = with_votes(tmp_path / "x", summaryTable=SUMMARY)
    catalog = catalog_of(root, "six", cremad_labels="voice")
    no_vote = {"FEA": "no-vote", "HAP": "no-vote"}
    assert labels_by_code(catalog) == {"ANG": "angry", "SAD": "neutral", "DIS": "disgust"}
    assert {name[9:12]: reason for name, reason in reasons(catalog).items()} == no_vote
    catalog = catalog_of(root, "four", cremad_labels="voice")
    assert {name[9:12]: reason for name, reason in reasons(catalog).items()} == no_vote | {"DIS": "not-in-scheme"}


def test_a_class_has_the_votes_of_all_its_emotions(tmp_path: Path) -> None:
    mapping = {"angry": "tense", "disgust": "tense", "neutral": "flat", "fear": "tense", "sad": "flat", "happy": "up"}
    catalog = catalog_of(with_votes(tmp_path / "x", tabulatedVotes=TABULATED), mapping, cremad_labels="voice")
    assert labels_by_code(catalog) == {"ANG": "tense", "SAD": "flat", "DIS": "tense"}


def test_a_majority_outside_the_scheme_is_skipped(tmp_path: Path) -> None:
    catalog = catalog_of(with_votes(tmp_path / "x", tabulatedVotes=TABULATED), "four", cremad_labels="voice-soft")
    assert reasons(catalog)["1001_DFA_DIS_XX.wav"] == "not-in-scheme"
    assert "'disgust' is not in the label scheme" in next(skip.detail for skip in catalog.skipped if "DIS" in skip.path)


def test_soft_labels_are_the_fractions_of_votes(tmp_path: Path) -> None:
    root = with_votes(tmp_path / "x", tabulatedVotes=TABULATED, summaryTable=SUMMARY)
    write(root, actor_clips(1))
    table = load(root, tmp_path / "c", labels="six", cremad_labels="voice-soft")
    votes = {row["id"][-16:]: dict(zip(SCHEMES["six"], row["votes"], strict=True)) for row in table}
    fractions = dict.fromkeys(SCHEMES["six"], 0) | {"angry": 0.6, "disgust": 0.3, "fear": 0.1}
    assert votes["-1001_DFA_ANG_XX"] == pytest.approx(fractions)
    assert votes["-1001_DFA_FEA_XX"]["fear"] == 0.5
    assert labels_of(table)["cremad-1001_DFA_FEA_XX"] == "fear"
    assert labels_of(table)["cremad-1001_DFA_SAD_XX"] == "neutral"
    assert votes["-01-05-01-01-01-01"[-16:]]["angry"] == 1.0
    assert all(abs(sum(fractions.values()) - 1) < 1e-6 for fractions in votes.values())
    assert skipped(table)["1001_DFA_HAP_XX.wav"] == "no-vote"
    assert "votes" not in load(root, tmp_path / "c", labels="six").column_names


@pytest.mark.parametrize(
    ("tables", "message"),
    [
        ({}, "cremad_labels needs CREMA-D's processedResults/tabulatedVotes.csv or summaryTable.csv"),
        ({"summaryTable": "a,b\n1,2\n"}, "summaryTable.csv: not CREMA-D's"),
        ({"tabulatedVotes": TABULATED.replace('"100001"', "x")}, "tabulatedVotes.csv: a line is broken"),
        ({"tabulatedVotes": TABULATED.replace(",6,3,", ",six,3,")}, "tabulatedVotes.csv: a line is broken"),
        ({"summaryTable": SUMMARY + '"9","1001_DFA_HAP_XX"\n'}, "summaryTable.csv: a line is broken"),
    ],
)
def test_wrong_tables_of_votes_are_refused(tmp_path: Path, tables: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=re.escape(message)):
        catalog_of(with_votes(tmp_path / "x", **tables), cremad_labels="voice")


def test_most_votes_on_real_clips_are_neutral(shared_data: Path) -> None:
    catalog = catalog_of(shared_data / "CREMA-D", "six", cremad_labels="voice")
    counts = Counter(clip.label for clip in catalog.clips)
    # The votes for more than half of the clips are neutral (Cao et al. 2014).
    assert counts.most_common(1)[0][0] == "neutral"
    assert 0.5 < counts["neutral"] / counts.total() < 0.6
    assert 550 < Counter(skip.reason for skip in catalog.skipped)["no-vote"] < 700
