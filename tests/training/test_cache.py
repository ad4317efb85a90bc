"""Frames are computed once, are whole or absent, and reach the model as they were computed."""

from collections.abc import Iterator
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch

from ser_ft import audio
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.training.cache import FlatCache, frames_of
from ser_ft.training.inputs import Inputs, TrainingClips

LENGTHS = (3, 1, 7, 2)
CLASSES = ("neutral", "happy", "sad")


def arrays() -> list[np.ndarray]:
    return [np.full((length, 2), row, dtype=np.float32) for row, length in enumerate(LENGTHS)]


def table(clips: int = 40) -> datasets.Dataset:
    random = np.random.default_rng(0)
    sounds = [random.normal(scale=0.1, size=800 + 100 * row).astype(np.float32) for row in range(clips)]
    columns = {
        "audio": [{"bytes": audio.to_wav(sound), "path": None} for sound in sounds],
        "emotion": [(0, 1, 0, 2)[row % 4] for row in range(clips)],
        "corpus": ["cremad" if row % 2 == 0 else "tess" for row in range(clips)],
    }
    return datasets.Dataset.from_dict(columns).cast_column("emotion", datasets.ClassLabel(names=list(CLASSES)))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))


def test_each_row_is_what_was_computed(tmp_path: Path) -> None:
    found = FlatCache.make(tmp_path / "x", arrays)
    assert (len(found), found.size, found.lengths.tolist()) == (4, 2, list(LENGTHS))
    assert all(np.array_equal(found[row], array) for row, array in enumerate(arrays()))


def test_rows_are_read_from_the_file_not_kept_in_memory(tmp_path: Path) -> None:
    row = FlatCache.make(tmp_path / "x", arrays)[2]
    assert isinstance(row, np.memmap)
    assert not row.flags.writeable


def test_what_is_there_is_not_computed_again(tmp_path: Path) -> None:
    FlatCache.make(tmp_path / "x", arrays)

    def never() -> list[np.ndarray]:
        raise AssertionError("computed again")

    assert np.array_equal(FlatCache.make(tmp_path / "x", never)[2], arrays()[2])


def test_a_failure_half_way_leaves_nothing(tmp_path: Path) -> None:
    def broken() -> Iterator[np.ndarray]:
        yield from arrays()[:2]
        raise RuntimeError("the disk is gone")

    with pytest.raises(RuntimeError, match="disk"):
        FlatCache.make(tmp_path / "x", broken)
    assert list(tmp_path.iterdir()) == []
    assert len(FlatCache.make(tmp_path / "x", arrays)) == 4


def test_another_process_may_finish_first(tmp_path: Path) -> None:
    def overtaken() -> Iterator[np.ndarray]:
        yield from arrays()
        first.append(FlatCache.make(tmp_path / "x", arrays))

    first: list[FlatCache] = []
    assert np.array_equal(FlatCache.make(tmp_path / "x", overtaken)[2], first[0][2])
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_what_is_left_of_a_broken_cache_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "frames.bin").write_bytes(b"half")
    assert len(FlatCache.make(tmp_path / "x", arrays)) == 4


def test_frames_of_a_table_are_the_extractors(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, extractor = table(), SpectralFeatureExtractor()
    found = frames_of(clips, extractor, shown=False)
    for row in (0, 31, 32, 39):
        alone = extractor(audio.from_wav(clips[row]["audio"]["bytes"]))["input_features"][0]
        np.testing.assert_allclose(found[row], alone, atol=1e-3)

    def called(*args: object, **kwargs: object) -> None:
        raise AssertionError("computed again")

    monkeypatch.setattr(SpectralFeatureExtractor, "__call__", called)
    assert np.array_equal(frames_of(clips, SpectralFeatureExtractor(), shown=False)[39], found[39])
    for other, settings in ((clips, {"hop_length": 200}), (clips.select(range(39)), {})):
        with pytest.raises(AssertionError, match="computed again"):
            frames_of(other, SpectralFeatureExtractor(**settings), shown=False)


def test_inputs_are_padded_to_the_longest_and_marked() -> None:
    clips = table()
    frames = frames_of(clips, SpectralFeatureExtractor(), shown=False)
    inputs = Inputs.of(clips, frames)
    batch = inputs.collate([39, 0])
    assert batch["input_features"].shape == (2, frames.lengths[39], 20)
    assert batch["attention_mask"].sum(dim=1).tolist() == [frames.lengths[39], frames.lengths[0]]
    np.testing.assert_array_equal(batch["input_features"][0], frames[39])
    np.testing.assert_array_equal(batch["input_features"][1, : frames.lengths[0]], frames[0])
    assert not batch["input_features"][1, frames.lengths[0] :].any()
    assert {value.dtype for value in batch.values()} == {torch.float32, torch.int64}


def test_targets_are_labels_or_votes_and_a_corpus_holds_its_own_classes() -> None:
    clips = table(8)
    frames = frames_of(clips, SpectralFeatureExtractor(), shown=False)
    inputs = Inputs.of(clips, frames)
    assert inputs.labels.tolist() == [0, 1, 0, 2] * 2
    assert np.array_equal(inputs.targets, np.eye(3)[inputs.labels])
    assert inputs.allowed[:2].tolist() == [[True, False, False], [False, True, True]]
    votes = [[0.5, 0.25, 0.25]] * 8
    assert np.array_equal(Inputs.of(clips.add_column("votes", votes), frames).targets, np.array(votes))


def test_places_in_a_part_are_rows_of_the_table() -> None:
    part = TrainingClips(np.array([5, 9, 2]))
    assert [part[place] for place in range(len(part))] == [5, 9, 2]
