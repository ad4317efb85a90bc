"""The corpora: the metadata in their file names, and their numbers of clips and speakers."""

from __future__ import annotations

import csv
from collections import Counter, defaultdict
from dataclasses import asdict
from pathlib import Path, PurePosixPath
from typing import Any

import pandas as pd
import pytest

from ser_ft.audio import decode
from ser_ft.data.corpora import CORPORA, Skip, Utterance, cremad
from ser_ft.labels import EMOTION_NAMES
from tests.helpers.corpus_files import catalog_of, distributed_names, reasons, write_zip

SEVEN = tuple(name for name in EMOTION_NAMES if name != "calm")


def parse(corpus: str, path: str) -> Utterance | str | None:
    """Return what a corpus makes of a path: an utterance, the reason for skipping it, or None."""
    try:
        return CORPORA[corpus].parse(PurePosixPath(path))
    except Skip as skip:
        return skip.reason


@pytest.mark.parametrize(
    ("corpus", "path", "utterance"),
    [
        (
            "ravdess", "Audio_Speech_Actors_01-24/Actor_12/03-01-06-02-02-01-12.wav",
            ("ravdess-03-01-06-02-02-01-12", "ravdess-12", "fear", "female", None, "strong",
             "Dogs are sitting by the door"),
        ),
        (
            "tess", "anywhere/YAF_pleasant_surprised/yaf_germ_PS.WAV",
            ("tess-YAF_germ_ps", "tess-YAF", "surprise", "female", 26, None, "Say the word germ"),
        ),
        (
            "cremad", "AudioWAV/1001_ieo_ang_hi.wav",
            ("cremad-1001_IEO_ANG_HI", "cremad-1001", "angry", "male", 51, "high", "It's eleven o'clock"),
        ),
        ("savee", "AudioData/JK/su07.wav", ("savee-JK_su07", "savee-JK", "surprise", "male", None, None, "su07")),
    ],
)  # fmt: skip
def test_all_metadata_is_read_from_a_name(corpus: str, path: str, utterance: tuple[Any, ...]) -> None:
    """The fields are id, speaker, emotion, gender, age, intensity, statement."""
    assert parse(corpus, path) == Utterance(*utterance)


@pytest.mark.parametrize(
    ("corpus", "path", "expected"),
    [
        ("ravdess", "03-01-01-01-01-01-25.wav", None),
        ("ravdess", "03-01-01-01-01-01-00.wav", None),
        ("ravdess", "03-01-09-01-01-01-01.wav", None),
        ("ravdess", "03-01-01-01-01-01.wav", None),
        ("ravdess", "03-01-01-01-01-01-01 (1).wav", None),
        ("ravdess", "٠٣-01-01-01-01-01-01.wav", None),
        ("ravdess", "01-01-01-01-01-01-01.mp4", "other-recording"),
        ("ravdess", "02-02-01-01-01-01-01.mp4", "other-recording"),
        ("tess", "OAF_bite_bored.wav", None),
        ("tess", "XAF_bite_sad.wav", None),
        ("cremad", "1092_DFA_ANG_XX.wav", None),
        ("cremad", "1001_DFA_SUR_XX.wav", None),
        ("cremad", "1076_mti_sad_xx.wav", "known-bad"),
        ("cremad", "1006_TIE_HAP_XX.mp3", "known-bad"),
        ("savee", "a01.wav", None),
        ("savee", "XY/a01.wav", None),
        ("savee", "XY_a01.wav", None),
    ],
)
def test_other_names_are_not_clips(corpus: str, path: str, expected: str | None) -> None:
    assert parse(corpus, path) == expected


def test_all_spellings_of_a_clip_have_one_id() -> None:
    for corpus, spellings in {
        "tess": ("OAF_bite_neutral.wav", "OA_bite_neutral.wav", "oaf_bite_NEUTRAL.flac"),
        "cremad": ("1040_ITH_SAD_X.wav", "1040_ITH_SAD_XX.wav", "1040_ith_sad_x.MP3"),
        "savee": ("DC/a01.wav", "DC_a01.wav", "dc/A01.WAV", "ALL/DC_a01.wav"),
    }.items():
        (utterance,) = {parse(corpus, path) for path in spellings}
        assert isinstance(utterance, Utterance)


def test_no_name_belongs_to_two_corpora(shared_data: Path) -> None:
    for corpus, paths in distributed_names(shared_data / "manifests").items():
        for other in set(CORPORA) - {corpus}:
            assert not any(parse(other, path) for path in paths[::7]), other


def test_the_ages_and_genders_of_cremad_are_those_of_its_table(shared_data: Path) -> None:
    with (shared_data / "CREMA-D" / "VideoDemographics.csv").open(newline="") as lines:
        actors = {row["ActorID"]: (int(row["Age"]), row["Sex"].lower()) for row in csv.DictReader(lines)}
    utterances = {actor: parse("cremad", f"{actor}_DFA_ANG_XX.wav") for actor in actors}
    assert {name: (item.age, item.gender) for name, item in utterances.items()} == actors  # type: ignore[union-attr]


@pytest.mark.slow
def test_all_12162_clips_of_the_corpora_are_found_in_archives(shared_data: Path, tmp_path: Path) -> None:
    names = distributed_names(shared_data / "manifests")
    assert sum(map(len, names.values())) == 12_162
    for corpus, paths in names.items():
        write_zip(tmp_path / f"{corpus}.zip", dict.fromkeys([*paths, f"__MACOSX/._{paths[0]}"], b"x" * 600))
    catalog = catalog_of(tmp_path)
    frame = pd.DataFrame([asdict(clip.utterance) | {"corpus": clip.corpus} for clip in catalog.clips])
    assert frame["id"].is_unique
    groups = frame.groupby("corpus")
    counts = {name: (len(part), part["speaker"].nunique(), Counter(part["emotion"])) for name, part in groups}
    # Distributed: 1271 each, 1087 neutral; without the seven bad ones.
    cremad_counts = {"angry": 1270, "disgust": 1270, "fear": 1270, "happy": 1270, "neutral": 1086, "sad": 1269}
    assert counts == {
        "ravdess": (1440, 24, Counter({name: 96 if name == "neutral" else 192 for name in EMOTION_NAMES})),
        "tess": (2800, 2, Counter(dict.fromkeys(SEVEN, 400))),
        "savee": (480, 4, Counter({name: 120 if name == "neutral" else 60 for name in SEVEN})),
        "cremad": (7435, 91, Counter(cremad_counts)),
    }
    genders = frame.drop_duplicates("speaker").groupby("corpus")["gender"].value_counts().unstack(fill_value=0)
    assert genders["female"].to_dict() == {"cremad": 43, "ravdess": 12, "savee": 0, "tess": 2}
    assert genders["male"].to_dict() == {"cremad": 48, "ravdess": 12, "savee": 4, "tess": 0}
    ravdess = frame[frame["corpus"] == "ravdess"]
    assert Counter(ravdess["intensity"]) == {"normal": 768, "strong": 672}
    assert (ravdess["emotion"].eq("neutral") & ravdess["intensity"].eq("strong")).sum() == 0
    assert Counter(frame.loc[frame["corpus"] == "tess", "age"]) == {64: 1400, 26: 1400}
    assert set(frame["language"]) == {"en"}
    clips_per_speaker = frame.groupby("speaker").size()
    assert set(clips_per_speaker[clips_per_speaker.index.str.startswith("ravdess")]) == {60}
    assert set(clips_per_speaker[clips_per_speaker.index.str.startswith("savee")]) == {120}
    stems = {"1076_MTI_SAD_XX", "1006_TIE_HAP_XX", "1006_TIE_NEU_XX", "1013_WSI_DIS_XX", "1013_WSI_SAD_XX"}
    stems |= {"1017_IWW_ANG_XX", "1017_IWW_FEA_XX"}
    assert reasons(catalog) == {f"{stem}.wav": "known-bad" for stem in stems}


def test_the_votes_of_cremad_are_read(shared_data: Path) -> None:
    table = shared_data / "CREMA-D" / "processedResults" / "summaryTable.csv"
    votes = cremad.read_votes(table.read_bytes(), str(table))
    winners: dict[int, Counter[str]] = defaultdict(Counter)
    for fractions in votes.values():
        assert abs(sum(fractions.values()) - 1) < 1e-9
        winners[len(fractions)][max(fractions, key=lambda emotion: fractions[emotion])] += 1
    assert len(votes) == 7442
    assert winners[1] == {"neutral": 3897, "angry": 986, "fear": 645, "disgust": 547, "sad": 370, "happy": 353}
    assert sum(winners[2].values()) == 574
    assert votes["cremad-1040_ITH_SAD_XX"]


def test_aiff_named_wav_and_stereo_are_decoded(shared_data: Path) -> None:
    odd = [decode(path) for path in sorted((shared_data / "TESS_odd").glob("*.wav"))]
    originals = [decode(path) for path in sorted((shared_data / "RAVDESS_original").rglob("*.wav"))[:8]]
    assert all(1.0 < len(samples) / 16_000 < 6 and abs(samples).max() > 0.01 for samples in odd + originals)
    assert len(odd) == 2
