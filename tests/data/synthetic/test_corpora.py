"""The miniature: its names are parsed as those of the real corpora, and its sound fits its labels."""

from __future__ import annotations

import itertools
from collections import Counter, defaultdict
from pathlib import Path

import numpy as np
import pytest
import soundfile

from ser_ft.audio import decode, is_silent
from ser_ft.data.corpora import CORPORA
from ser_ft.data.synthetic import corpora
from ser_ft.data.synthetic.corpora import NOTE_FILE, SYNTHETIC_NOTE, miniature_clips, write_miniature
from ser_ft.utils.errors import InputError

RATES = {"RAVDESS": 48_000, "TESS": 24_414, "CREMA-D": 16_000, "SAVEE": 44_100}


@pytest.fixture
def savee_only(monkeypatch: pytest.MonkeyPatch) -> None:
    """Write only SAVEE, whose first speaker has 24 clips."""
    monkeypatch.setattr(corpora, "_NAMES", {"savee": corpora._NAMES["savee"]})


def fundamental(samples: np.ndarray, rate: int = 16_000) -> float:
    """Median of the autocorrelation's peak between 60 and 500 Hz over the louder 40 ms windows."""
    size = rate // 25
    windows = samples[: len(samples) // size * size].reshape(-1, size)
    power = np.sqrt((windows**2).mean(axis=1))
    estimates = []
    for window in windows[power > 0.4 * power.max()]:
        window = (window - window.mean()) * np.hanning(size)
        line = np.correlate(window, window, mode="full")[size - 1 :]
        line = line / np.correlate(np.hanning(size), np.hanning(size), mode="full")[size - 1 :].clip(1)
        lags = slice(rate // 500, rate // 60)
        estimates.append(rate / (rate // 500 + int(line[lags].argmax())))
    return float(np.median(estimates))


def files(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_every_name_is_parsed_by_its_corpus_alone() -> None:
    counts: dict[str, Counter[str]] = defaultdict(Counter)
    speakers: dict[str, Counter[str]] = defaultdict(Counter)
    genders = {}
    for clip in miniature_clips():
        utterance = CORPORA[clip.corpus].parse(clip.path)
        assert utterance is not None
        assert utterance == clip.utterance
        assert not any(other.parse(clip.path) for name, other in CORPORA.items() if name != clip.corpus)
        counts[clip.corpus][utterance.emotion] += 1
        speakers[clip.corpus][utterance.speaker] += 1
        genders[utterance.speaker] = utterance.gender
    assert counts["ravdess"] == {"neutral": 16} | dict.fromkeys(CORPORA["ravdess"].emotions[1:], 32)
    assert counts["tess"] == dict.fromkeys(CORPORA["tess"].emotions, 16)
    assert counts["cremad"] == dict.fromkeys(CORPORA["cremad"].emotions, 36)
    assert counts["savee"] == dict.fromkeys(CORPORA["savee"].emotions, 12) | {"neutral": 24}
    assert [len(speakers[corpus]) for corpus in ("ravdess", "tess", "cremad", "savee")] == [8, 2, 12, 4]
    assert all(len(set(voices.values())) == 1 for voices in speakers.values())
    for corpus in ("ravdess", "cremad"):
        assert Counter(genders[speaker] for speaker in speakers[corpus])["female"] == len(speakers[corpus]) / 2


def test_all_clips_are_written_under_their_names(miniature_tree: Path) -> None:
    written = {path.relative_to(miniature_tree).as_posix() for path in miniature_tree.rglob("*.wav")}
    assert written == {clip.path.as_posix() for clip in miniature_clips(speakers=2)}
    assert "RAVDESS/Audio_Speech_Actors_01-24/Actor_01/03-01-05-02-01-01-01.wav" in written
    assert {"TESS/OAF_Fear/OAF_back_fear.wav", "TESS/YAF_pleasant_surprised/YAF_dog_ps.wav"} <= written
    assert {"CREMA-D/AudioWAV/1001_IEO_ANG_HI.wav", "SAVEE/AudioData/DC/n06.wav"} <= written
    assert (miniature_tree / NOTE_FILE).read_text(encoding="utf-8") == SYNTHETIC_NOTE + "\n"
    assert not list(miniature_tree.parent.glob(".*"))


def test_the_sound_is_neither_silent_nor_clipped(miniature_tree: Path) -> None:
    for path in miniature_tree.rglob("*.wav"):
        samples, rate = soundfile.read(path, dtype="float32")
        assert (rate, samples.ndim) == (RATES[path.relative_to(miniature_tree).parts[0]], 1)
        assert 0.89 < len(samples) / rate < 2.01
        assert not is_silent(samples)
        assert np.abs(samples).max() < 0.97
        assert np.sqrt(np.mean(samples**2)) > 10 ** (-50 / 20)


def test_angry_is_louder_and_higher_than_sad(miniature_tree: Path) -> None:
    levels: dict[tuple[str, str], list[float]] = defaultdict(list)
    pitches: dict[tuple[str, str], list[float]] = defaultdict(list)
    for clip in miniature_clips(speakers=2):
        if clip.utterance.emotion in ("angry", "sad"):
            key = clip.utterance.speaker, clip.utterance.emotion
            samples = decode(miniature_tree / clip.path)
            levels[key].append(float(np.sqrt(np.mean(samples**2))))
            pitches[key].append(fundamental(samples))
    for speaker in {speaker for speaker, _ in levels}:
        for measured in (levels, pitches):
            assert np.mean(measured[speaker, "angry"]) > np.mean(measured[speaker, "sad"]), speaker


def test_women_speak_higher_than_men(miniature_tree: Path) -> None:
    man, woman = (
        np.mean([fundamental(decode(file)) for file in (miniature_tree / "RAVDESS").rglob(f"{actor}/03-01-01-*.wav")])
        for actor in ("Actor_01", "Actor_02")
    )
    assert woman > 1.3 * man


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path, savee_only: None) -> None:
    first, again, other = (
        files(write_miniature(tmp_path / name, seed, progress=False, speakers=1))
        for name, seed in (("first", 3), ("again", 3), ("other", 4))
    )
    assert len(first) == 24 + 2
    assert first == again
    assert first.keys() == other.keys()
    assert all(first[name] != other[name] for name in first if name.endswith(".wav"))


def test_a_clip_does_not_depend_on_other_clips() -> None:
    clips = miniature_clips(speakers=1)[::20]
    backward = {clip.path: corpora.synthesize_clip(clip, 1)[0] for clip in reversed(clips)}
    for clip in clips:
        np.testing.assert_array_equal(corpora.synthesize_clip(clip, 1)[0], backward[clip.path])


def test_a_complete_miniature_is_not_written_again(
    tmp_path: Path, savee_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_miniature(tmp_path / "root", progress=False, speakers=1)
    with monkeypatch.context() as patch:
        patch.setattr(corpora, "synthesize_clip", lambda *_: pytest.fail("written again"))
        assert write_miniature(root, progress=False, speakers=1) == root
    before = files(root)
    (root / "SAVEE/AudioData/DC/a01.wav").unlink()
    assert files(write_miniature(root, progress=False, speakers=1)) == before
    assert files(write_miniature(root, seed=1, progress=False, speakers=1)) != before
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_a_failed_run_leaves_nothing(tmp_path: Path, savee_only: None, monkeypatch: pytest.MonkeyPatch) -> None:
    synthesize_clip, calls = corpora.synthesize_clip, itertools.count()

    def fail_at_sixth(clip: corpora.SyntheticClip, seed: int = 0) -> tuple[np.ndarray, int]:
        if next(calls) == 5:
            raise OSError("no space left on device")
        return synthesize_clip(clip, seed)

    with monkeypatch.context() as patch:
        patch.setattr(corpora, "synthesize_clip", fail_at_sixth)
        with pytest.raises(OSError, match="No space"):
            write_miniature(tmp_path / "root", progress=False, speakers=1)
    assert list(tmp_path.iterdir()) == []
    assert len(files(write_miniature(tmp_path / "root", progress=False, speakers=1))) == 26


def test_a_failed_replacement_keeps_the_old_miniature(
    tmp_path: Path, savee_only: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = write_miniature(tmp_path / "root", progress=False, speakers=1)
    before = files(root)
    replace = Path.replace

    def fail(source: Path, target: Path) -> Path:
        if target == root and not source.name.endswith("-old"):
            raise OSError("disk full")
        return replace(source, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", fail)
        with pytest.raises(OSError, match="disk full"):
            write_miniature(root, seed=1, progress=False, speakers=1)
    assert files(root) == before
    assert [path.name for path in tmp_path.iterdir()] == ["root"]


def test_other_files_are_not_overwritten_and_wrong_numbers_are_refused(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine", encoding="utf-8")
    with pytest.raises(InputError, match="choose another"):
        write_miniature(tmp_path, progress=False)
    with pytest.raises(InputError, match="is not a folder"):
        write_miniature(tmp_path / "thesis.txt", progress=False)
    assert (tmp_path / "thesis.txt").read_text(encoding="utf-8") == "mine"

    for wrong in ({"seed": -1}, {"speakers": 0}):
        with pytest.raises(InputError, match="seed must be 0 or more, and its speakers 1 or more"):
            write_miniature(tmp_path / "root", progress=False, **wrong)
