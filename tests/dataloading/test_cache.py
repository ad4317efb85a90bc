"""Caches are computed once, are complete or absent, and return what was computed."""

import os
import pickle
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import datasets
import numpy as np
import pytest
import torch

from ser_ft import audio
from ser_ft.dataloading.batches import FrameBatches
from ser_ft.dataloading.cache import (
    ComputeArrays,
    FlatCache,
    JoinedCache,
    compute_frames,
    compute_statistics,
    make_room,
)
from ser_ft.dataloading.targets import ClipData
from ser_ft.models.classical import CLASSICAL_FUNCTIONALS, classical_feature_extractor, frame_statistics
from ser_ft.models.features import SpectralFeatureExtractor
from ser_ft.utils.errors import InputError

LENGTHS = (3, 1, 7, 2)
CLASSES = ("neutral", "happy", "sad")


def array(row: int) -> np.ndarray:
    return np.full((LENGTHS[row], 2), row, dtype=np.float32)


def compute_arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
    """Yields the longest first: rows may come in any order."""
    for row in sorted(rows.tolist(), key=lambda row: -LENGTHS[row]):
        yield row, array(row)


def refuse(*_: object, **__: object) -> Any:
    raise AssertionError("computed again")


def make(folder: Path, compute: ComputeArrays = compute_arrays, dtype: str = "float32") -> FlatCache:
    return FlatCache.make(folder, len(LENGTHS), compute, dtype)


def table(clips: int = 40) -> datasets.Dataset:
    random = np.random.default_rng(0)
    waveforms = [random.normal(scale=0.1, size=800 + 100 * row).astype(np.float32) for row in range(clips)]
    columns = {
        "audio": [{"bytes": audio.to_wav(sound), "path": None} for sound in waveforms],
        "emotion": [(0, 1, 0, 2)[row % 4] for row in range(clips)],
        "corpus": ["cremad" if row % 2 == 0 else "tess" for row in range(clips)],
    }
    return datasets.Dataset.from_dict(columns).cast_column("emotion", datasets.ClassLabel(names=list(CLASSES)))


@pytest.fixture(autouse=True)
def _own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SER_FT_CACHE", str(tmp_path / "cache"))


def test_rows_equal_what_was_computed_and_are_memory_mapped(tmp_path: Path) -> None:
    cache = make(tmp_path / "x")
    assert (len(cache), cache.size, cache.lengths.tolist()) == (4, 2, list(LENGTHS))
    assert all(np.array_equal(cache[row], array(row)) for row in range(4))
    assert isinstance(cache[2], np.memmap)
    assert not cache[2].flags.writeable


def test_an_existing_cache_is_not_computed_again(tmp_path: Path) -> None:
    make(tmp_path / "x")
    assert np.array_equal(make(tmp_path / "x", refuse)[2], array(2))


def test_values_beyond_the_range_of_half_precision_are_scaled(tmp_path: Path) -> None:
    """Layers of large encoders give values above 65504."""

    large = lambda rows: ((row, 1e5 * (1 + values)) for row, values in compute_arrays(rows))  # noqa: E731
    cache = make(tmp_path / "x", large, "float16")
    for row in range(4):
        np.testing.assert_allclose(cache[row], 1e5 * (1 + array(row)), rtol=1e-3)
    assert (tmp_path / "x" / "frames-0.bin").stat().st_size == 2 * 2 * sum(LENGTHS)


def test_a_failed_computation_leaves_no_files(tmp_path: Path) -> None:
    def broken(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        yield from compute_arrays(rows[:2])
        raise RuntimeError("no disk space")

    with pytest.raises(RuntimeError, match="no disk space"):
        make(tmp_path / "x", broken)
    assert list(tmp_path.iterdir()) == []
    assert len(make(tmp_path / "x")) == 4


def test_another_run_may_finish_first(tmp_path: Path) -> None:
    def slow(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        yield from compute_arrays(rows)
        caches.append(make(tmp_path / "x"))

    caches: list[FlatCache] = []
    assert np.array_equal(make(tmp_path / "x", slow)[2], caches[0][2])
    assert [file.name for file in tmp_path.iterdir()] == ["x"]


def test_an_incomplete_cache_is_replaced(tmp_path: Path) -> None:
    (tmp_path / "x").mkdir()
    (tmp_path / "x" / "frames.bin").write_bytes(b"half")
    assert len(make(tmp_path / "x")) == 4


def test_frames_of_a_table_equal_those_of_the_extractor(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, extractor = table(), SpectralFeatureExtractor()
    cache = compute_frames(clips, extractor, show_progress=False)
    for row in (0, 31, 32, 39):
        single = extractor(audio.from_wav(clips[row]["audio"]["bytes"]))["input_features"][0]
        np.testing.assert_allclose(cache[row], single, atol=1e-3)
    monkeypatch.setattr(SpectralFeatureExtractor, "extract", refuse)
    assert np.array_equal(compute_frames(clips, SpectralFeatureExtractor(), show_progress=False)[39], cache[39])
    for other, settings in ((clips, {"hop_length": 200}), (clips.select(range(39)), {})):
        with pytest.raises(AssertionError, match="computed again"):
            compute_frames(other, SpectralFeatureExtractor(**settings), show_progress=False)


def test_cached_frames_do_not_depend_on_the_training_clips(monkeypatch: pytest.MonkeyPatch) -> None:
    """All folds share the frames, whatever mean and scale are fitted."""
    clips = table(4)
    unnormalized = compute_frames(clips, SpectralFeatureExtractor(normalize="none"), show_progress=False)
    fitted = SpectralFeatureExtractor(normalize="training", mean=[5.0] * 20, scale=[2.0] * 20)
    cache = compute_frames(clips, fitted, show_progress=False)
    assert all(np.array_equal(cache[row], unnormalized[row]) for row in range(4))
    monkeypatch.setattr(SpectralFeatureExtractor, "extract", refuse)
    fitted.mean = [7.0] * 20
    assert compute_frames(clips, fitted, show_progress=False).folder == cache.folder


def test_frames_are_computed_again_after_a_change_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, read_text = table(2), Path.read_text
    compute_frames(clips, SpectralFeatureExtractor(), show_progress=False)

    def corrected(file: Path, *args: object, **kwargs: object) -> str:
        return read_text(file, *args, **kwargs) + ("# corrected" if file.name == "descriptors.py" else "")

    monkeypatch.setattr(SpectralFeatureExtractor, "extract", refuse)
    compute_frames(clips, SpectralFeatureExtractor(), show_progress=False)
    monkeypatch.setattr(Path, "read_text", corrected)
    with pytest.raises(AssertionError, match="computed again"):
        compute_frames(clips, SpectralFeatureExtractor(), show_progress=False)


def test_statistics_do_not_depend_on_the_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    clips, extractor = table(), classical_feature_extractor()
    cache = compute_statistics(clips, show_progress=False)
    assert cache.shape == (40, len(CLASSICAL_FUNCTIONALS) * len(extractor.columns))
    assert np.isfinite(cache).all()
    for row in (0, 33, 39):
        single = extractor(audio.from_wav(clips[row]["audio"]["bytes"]), return_tensors="pt")
        expected = frame_statistics(single["input_features"], single["attention_mask"], CLASSICAL_FUNCTIONALS)[0]
        np.testing.assert_allclose(cache[row], expected, rtol=1e-3, atol=1e-3)
    monkeypatch.setattr(SpectralFeatureExtractor, "extract", refuse)
    assert np.array_equal(compute_statistics(clips, show_progress=False), cache)


def test_joined_caches_act_as_one(tmp_path: Path) -> None:
    """Augmented copies follow the original clips: row 4 is the first copy."""
    other = FlatCache.make(tmp_path / "y", 2, lambda rows: ((row, 10 + array(row)) for row in rows.tolist()))
    joined = JoinedCache([make(tmp_path / "x"), other])
    assert (len(joined), joined.size, joined.lengths.tolist()) == (6, 2, [*LENGTHS, *LENGTHS[:2]])
    for row in range(6):
        expected = array(row) if row < 4 else 10 + array(row - 4)
        assert np.array_equal(joined[np.int64(row)], expected)
    unpickled = pickle.loads(pickle.dumps(joined))
    assert np.array_equal(unpickled[5], joined[5])


def test_batches_are_padded_to_the_longest_clip_and_masked() -> None:
    clips = table()
    frames = compute_frames(clips, SpectralFeatureExtractor(), show_progress=False)
    batch = FrameBatches(frames, np.ones(40), SpectralFeatureExtractor()).collate([39, 0])
    assert batch["input_features"].shape == (2, frames.lengths[39], 20)
    assert batch["attention_mask"].sum(dim=1).tolist() == [frames.lengths[39], frames.lengths[0]]
    np.testing.assert_array_equal(batch["input_features"][0], frames[39])
    np.testing.assert_array_equal(batch["input_features"][1, : frames.lengths[0]], frames[0])
    assert not batch["input_features"][1, frames.lengths[0] :].any()
    assert {value.dtype for value in batch.values()} == {torch.float32, torch.int64}


def test_targets_are_labels_or_votes_and_classes_depend_on_the_corpus() -> None:
    clips = table(8)
    frames = compute_frames(clips, SpectralFeatureExtractor(), show_progress=False)
    batches = FrameBatches(frames, np.ones(8), SpectralFeatureExtractor())
    names = clips.features["emotion"].names
    clip_data = ClipData.from_table(clips, batches, names)
    assert clip_data.labels.tolist() == [0, 1, 0, 2] * 2
    assert np.array_equal(clip_data.targets, np.eye(3)[clip_data.labels])
    assert clip_data.allowed[:2].tolist() == [[True, False, False], [False, True, True]]
    votes = [[0.5, 0.25, 0.25]] * 8
    voted = clips.add_column("votes", votes)
    assert np.array_equal(ClipData.from_table(voted, batches, names).targets, np.array(votes))
    subset = ClipData.from_table(voted, batches, [names[0], names[2]])
    assert subset.labels.tolist() == [0, -1, 0, 1] * 2
    np.testing.assert_allclose(subset.targets, [[2 / 3, 1 / 3]] * 8, rtol=1e-6)


def test_old_caches_are_deleted_before_the_disk_is_full(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for name, days in (("older", 30), ("old", 20), ("fresh", 1)):
        make(tmp_path / name)
        last_use = time.time() - days * 24 * 3600
        os.utime(tmp_path / name / "metadata.json", (last_use, last_use))

    def disk(_: Path) -> SimpleNamespace:
        return SimpleNamespace(free=1000 - 300 * len(list(tmp_path.iterdir())))

    monkeypatch.setattr("ser_ft.dataloading.cache.shutil.disk_usage", disk)
    make_room(tmp_path / "new", 300)
    assert sorted(folder.name for folder in tmp_path.iterdir()) == ["fresh", "old"]
    with pytest.raises(InputError, match="SER_FT_CACHE"):
        make_room(tmp_path / "new", 900)
    assert [folder.name for folder in tmp_path.iterdir()] == ["fresh"]


def test_two_concurrent_runs_compute_once(tmp_path: Path) -> None:
    computed: list[int] = []

    def compute_arrays(rows: np.ndarray) -> Iterator[tuple[int, np.ndarray]]:
        computed.append(len(rows))
        time.sleep(0.3)
        yield from ((int(row), np.full((1, 2), row, dtype=np.float32)) for row in rows)

    with ThreadPoolExecutor(2) as pool:
        futures = [pool.submit(FlatCache.make, tmp_path / "kept", 3, compute_arrays) for _ in range(2)]
        assert [float(future.result()[2][0, 0]) for future in futures] == [2.0, 2.0]
    assert computed == [3]
