"""Label schemes, and the labels that listeners heard."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from ser_ft.data.prepare import corpus_info
from ser_ft.labels import EMOTION_NAMES, SCHEMES
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import actor, find, labels_of, load, reasons, skipped, told, write


@pytest.mark.parametrize(
    ("labels", "calm", "classes", "counts", "dropped"),
    [
        ("eight", "keep", EMOTION_NAMES, [2] * 8, 0),
        ("eight", "neutral", SCHEMES["seven"], [4] + [2] * 6, 0),
        ("seven", "keep", SCHEMES["seven"], [2] * 7, 2),
        ("six", "neutral", SCHEMES["six"], [4] + [2] * 5, 2),
        ("four", "drop", SCHEMES["four"], [2] * 4, 8),
        ({"happy": "good", "fear": "bad", "anger": "bad"}, "keep", ("good", "bad"), [2, 4], 10),
    ],
)
def test_label_schemes(
    tmp_path: Path, labels: Any, calm: str, classes: tuple[str, ...], counts: list[int], dropped: int
) -> None:
    table = load(write(tmp_path / "x", actor(1) + actor(2)), tmp_path / "c", labels=labels, calm=calm)
    assert tuple(table.features["emotion"].names) == classes
    assert [Counter(table["emotion"])[place] for place in range(len(classes))] == counts
    assert list(skipped(table).values()) == ["not-in-scheme"] * dropped
    assert corpus_info(table)["ravdess"]["classes"] == list(classes)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"labels": "nine"}, "unknown label scheme 'nine'"),
        ({"labels": {}}, "the label mapping is empty"),
        ({"calm": "merge"}, "calm must be one of"),
        ({"cremad_labels": "face"}, "cremad_labels must be one of intended, voice, voice-soft, not 'face'"),
        ({"labels": {"joy": "x", "boredom": "y", "anger": "z"}}, None),
        ({"labels": {"boredom": "y", "contempt": "z"}}, "its label is not in the label scheme: 8"),
    ],
)
def test_wrong_options(tmp_path: Path, options: dict[str, Any], says: str | None) -> None:
    root = write(tmp_path / "x", actor(1))
    if says is None:
        assert len(load(root, tmp_path / "c", **options)) == 2
        return
    with pytest.raises(InputError, match=re.escape(says)):
        load(root, tmp_path / "c", **options)
    assert not (tmp_path / "c").exists()


SUMMARY = '"","FileName","VoiceVote","VoiceLevel"\n' + "".join(
    f'"{number}","1001_{clip}","{vote}","50"\n'
    for number, (clip, vote) in enumerate(
        {"DFA_ANG_XX": "A", "DFA_SAD_XX": "N", "DFA_FEA_XX": "F:N", "DFA_DIS_XX": "D", "ITH_SAD_X": "S"}.items()
    )
)
TABULATED = '"","A","D","F","H","N","S","fileName","numResponses"\n' + "\n".join(
    (
        # 1...: the voice alone; 2...: the face, 3...: both.
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


def test_the_label_that_listeners_heard(tmp_path: Path) -> None:
    root = with_votes(tmp_path / "x", summaryTable=SUMMARY)
    book = find(root, "six", cremad_labels="voice")
    heard = {name.removeprefix("cremad-1001_DFA_"): label for name, (_, label) in told(book).items()}
    assert heard == {"ANG_XX": "angry", "SAD_XX": "neutral", "DIS_XX": "disgust"}
    assert {name[9:12]: reason for name, reason in reasons(book).items()} == {"FEA": "no-vote", "HAP": "no-vote"}
    book = find(root, "four", cremad_labels="voice")
    assert {name[9:12]: reason for name, reason in reasons(book).items()} == {
        "FEA": "no-vote",
        "HAP": "no-vote",
        "DIS": "not-in-scheme",
    }


def test_a_class_takes_the_votes_of_all_its_emotions(tmp_path: Path) -> None:
    mapping = {"angry": "tense", "disgust": "tense", "neutral": "flat", "fear": "tense", "sad": "flat", "happy": "up"}
    book = find(with_votes(tmp_path / "x", tabulatedVotes=TABULATED), mapping, cremad_labels="voice")
    heard = {name[16:19]: label for name, (_, label) in told(book).items()}
    assert heard == {"ANG": "tense", "SAD": "flat", "DIS": "tense"}


def test_what_most_heard_has_no_place(tmp_path: Path) -> None:
    """A clip that most hear as disgust is not angry because the second most do."""
    book = find(with_votes(tmp_path / "x", tabulatedVotes=TABULATED), "four", cremad_labels="voice-soft")
    assert reasons(book)["1001_DFA_DIS_XX.wav"] == "not-in-scheme"
    assert "'disgust' is not in the label scheme" in next(skip.detail for skip in book.skipped if "DIS" in skip.path)


def test_soft_labels(tmp_path: Path) -> None:
    root = with_votes(tmp_path / "x", tabulatedVotes=TABULATED, summaryTable=SUMMARY)
    write(root, actor(1))
    table = load(root, tmp_path / "c", labels="six", cremad_labels="voice-soft")
    votes = {row["id"][-16:]: dict(zip(SCHEMES["six"], row["votes"], strict=True)) for row in table}
    assert votes["-1001_DFA_ANG_XX"] == pytest.approx(
        dict.fromkeys(SCHEMES["six"], 0) | {"angry": 0.6, "disgust": 0.3, "fear": 0.1}
    )
    assert votes["-1001_DFA_FEA_XX"]["fear"] == 0.5
    assert labels_of(table)["cremad-1001_DFA_FEA_XX"] == "fear"
    assert labels_of(table)["cremad-1001_DFA_SAD_XX"] == "neutral"
    assert votes["-01-05-01-01-01-01"[-16:]]["angry"] == 1.0
    assert all(abs(sum(shares.values()) - 1) < 1e-6 for shares in votes.values())
    assert skipped(table)["1001_DFA_HAP_XX.wav"] == "no-vote"
    assert "votes" not in load(root, tmp_path / "c", labels="six").column_names


@pytest.mark.parametrize(
    ("tables", "says"),
    [
        ({}, "cremad_labels needs CREMA-D's processedResults/tabulatedVotes.csv or summaryTable.csv"),
        ({"summaryTable": "a,b\n1,2\n"}, "summaryTable.csv: not CREMA-D's"),
        ({"tabulatedVotes": TABULATED.replace('"100001"', "x")}, "tabulatedVotes.csv: a line is broken"),
        ({"tabulatedVotes": TABULATED.replace(",6,3,", ",six,3,")}, "tabulatedVotes.csv: a line is broken"),
        ({"summaryTable": SUMMARY + '"9","1001_DFA_HAP_XX"\n'}, "summaryTable.csv: a line is broken"),
    ],
)
def test_wrong_vote_tables(tmp_path: Path, tables: dict[str, str], says: str) -> None:
    with pytest.raises(InputError, match=re.escape(says)):
        find(with_votes(tmp_path / "x", **tables), cremad_labels="voice")


def test_votes_on_the_voices_of_real_actors(shared_data: Path) -> None:
    book = find(shared_data / "CREMA-D", "six", cremad_labels="voice")
    counts = Counter(clip.label for clip in book.clips)
    # More than half of the clips are heard as neutral (Cao et al. 2014).
    assert counts.most_common(1)[0][0] == "neutral"
    assert 0.5 < counts["neutral"] / counts.total() < 0.6
    assert 550 < Counter(skip.reason for skip in book.skipped)["no-vote"] < 700
