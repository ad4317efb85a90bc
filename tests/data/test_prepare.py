"""The cache, the files of a prepared table, and what is overwritten."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow as pa
import pytest

from ser_ft.audio import decode, to_wav
from ser_ft.data import builder
from ser_ft.data.prepare import corpus_info, open_prepared, prepare, summary
from ser_ft.data.scan import SYNTHETIC_NOTE, ArchiveFile
from ser_ft.labels import EMOTION_NAMES, SCHEMES
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import actor_clips, catalog_of, load, noise, samples, skipped, write, write_zip


def modification_times(folder: Path) -> dict[str, int]:
    return {str(path): path.stat().st_mtime_ns for path in folder.rglob("*") if not path.name.endswith(".lock")}


def test_a_second_call_decodes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write(tmp_path / "x", actor_clips(1))
    first, before = load(root, tmp_path / "c"), modification_times(tmp_path / "c")
    monkeypatch.setattr("ser_ft.audio.decode_clip", lambda *args, **kwargs: pytest.fail("decoded again"))
    second = load(root, tmp_path / "c")
    assert modification_times(tmp_path / "c") == before
    assert second.to_list() == first.to_list()
    assert skipped(second) == skipped(first)


def test_added_changed_and_removed_files_rebuild_the_table(tmp_path: Path) -> None:
    root = write(tmp_path / "x", actor_clips(1))
    assert len(load(root, tmp_path / "c")) == 8
    write(root, actor_clips(2))
    assert len(load(root, tmp_path / "c")) == 16
    for name in actor_clips(1):
        (root / name).unlink()
    assert len(load(root, tmp_path / "c")) == 8
    file = root / actor_clips(2)[0]
    file.write_bytes(to_wav(samples("other")))
    os.utime(file, ns=(0, file.stat().st_mtime_ns + 1))
    table = load(root, tmp_path / "c")
    assert to_wav(decode(to_wav(samples("other")))) in [sound["bytes"] for sound in table["audio"]]


def test_changes_of_files_in_a_manifest_rebuild_the_table(tmp_path: Path) -> None:
    sound = write(tmp_path / "far", ["1.wav", "2.wav"]) / "1.wav"
    manifest = write(tmp_path / "x", {"m.csv": f"path,emotion\n{sound},sad\n../far/2.wav,happy\n".encode()}) / "m.csv"
    assert len(load(manifest, tmp_path / "c")) == 2
    sound.write_bytes(b"")
    assert skipped(load(manifest, tmp_path / "c")) == {"1.wav": "empty"}


def test_other_options_have_another_cache_key(tmp_path: Path) -> None:
    a, b = (write(tmp_path / "in" / name, ["DC_a01.wav", f"happy/{name}.wav"]) for name in "ab")
    options: list[dict[str, Any]] = [
        *({"roots": roots} for roots in (a, b, [a, b], [b, a], {"savee": a}, {"mine": a}, {"yours": a})),
        {"roots": a, "labels": "six"},
        {"roots": a, "calm": "neutral"},
        {"roots": a, "labels": {"happy": "1", "angry": "2"}},
        {"roots": a, "labels": {"happy": "2", "angry": "1"}},
        {"roots": a, "include_song": True},
        {"roots": a, "notes": {"savee": "synthetic"}},
    ]
    keys = [catalog_of(**settings).key for settings in options]
    assert len(set(keys)) == len(keys)
    assert keys == [catalog_of(**settings).key for settings in options]


def test_datasets_reads_the_table_without_ser_ft(miniature_folder: Path) -> None:
    code = f"""if True:
        import io, sys, datasets, soundfile
        table = datasets.load_from_disk({str(miniature_folder)!r})
        row = table[5]
        assert not any(name.startswith("ser_ft") for name in sys.modules)
        assert soundfile.read(io.BytesIO(row["audio"]["bytes"]))[1] == 16000
        print(len(table), table.features["emotion"].int2str(row["emotion"]))
    """
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=miniature_folder.parent)
    assert result.returncode == 0, result.stderr
    count, emotion = result.stdout.split()
    assert (int(count), emotion in EMOTION_NAMES) == (len(open_prepared(miniature_folder)), True)


def test_corpora_json_and_skipped_csv_are_written(miniature_folder: Path, miniature_table: datasets.Dataset) -> None:
    content = json.loads((miniature_folder / "corpora.json").read_text(encoding="utf-8"))
    assert (content["clips"], content["skipped"]) == (len(miniature_table), 0)
    assert (miniature_folder / "skipped.csv").read_text().split() == ["path,corpus,reason,detail"]
    assert content["corpora"] == corpus_info(miniature_table)
    assert {corpus["note"] for corpus in content["corpora"].values()} == {SYNTHETIC_NOTE}
    assert {corpus["license"] for corpus in content["corpora"].values()} == {"Apache-2.0"}
    assert content["corpora"]["cremad"]["classes"] == list(SCHEMES["six"])
    assert content["corpora"]["tess"]["classes"] == list(SCHEMES["seven"])


def test_the_table_has_the_terms_of_its_corpora(tmp_path: Path) -> None:
    root = write(tmp_path / "x", [*actor_clips(1), "1001_DFA_ANG_XX.wav", "happy/1.wav"])
    info = corpus_info(load(root, tmp_path / "c"))
    licenses = {name: corpus["license"] for name, corpus in info.items()}
    assert licenses == {"ravdess": "CC-BY-NC-SA-4.0", "cremad": "ODbL-1.0", "x": "other"}
    assert "10.1371/journal.pone.0196391" in info["ravdess"]["citation"]
    assert info["cremad"]["classes"] == list(SCHEMES["six"])
    assert info["x"]["classes"] == ["happy"]


def test_a_note_of_the_data_cannot_be_replaced(tmp_path: Path, miniature_tree: Path) -> None:
    root = write(tmp_path / "x", ["1001_DFA_ANG_XX.wav", "1001_DFA_SAD_XX.ogg"])
    assert catalog_of(root, notes={"cremad": "mine"}).corpus_info()["cremad"]["note"] == "CREMA-D, rebuilt audio; mine"
    info = catalog_of(miniature_tree, notes={"savee": "mine"}).corpus_info()["savee"]
    assert (info["note"], info["license"]) == (f"{SYNTHETIC_NOTE}; mine", "Apache-2.0")
    with pytest.raises(InputError, match="ravdess: synthetic voices and recordings are mixed"):
        catalog_of([miniature_tree, write(tmp_path / "y", actor_clips(24))])


def test_corpus_info_of_filtered_joined_and_other_tables(miniature_table: datasets.Dataset, tmp_path: Path) -> None:
    info = corpus_info(miniature_table)
    savee = miniature_table.filter(lambda corpus: corpus == "savee", input_columns="corpus")
    assert corpus_info(savee) == {"savee": info["savee"]}
    assert corpus_info(datasets.concatenate_datasets([savee, miniature_table])).keys() == info.keys()
    bare = datasets.Dataset.from_dict({"corpus": ["x", "x"], "emotion": [1, 0]})
    bare = bare.cast_column("emotion", datasets.ClassLabel(names=["up", "down"]))
    unknown = {"license": "other", "terms": "unknown", "citation": "", "note": ""}
    assert corpus_info(bare)["x"] == {"title": "x", **unknown, "classes": ["up", "down"]}


def test_the_summary_is_complete(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write(tmp_path / "x", actor_clips(1) + actor_clips(2) + ["DC_a01.wav", "music.wav"])
    write(root, {"DC_a02.wav": b"", "03-02-01-01-01-01-01.wav": noise("s")})
    prepare(root, tmp_path / "out", labels="seven", notes={"savee": "synthetic"})
    output = capsys.readouterr()
    lines = output.out.splitlines()
    assert lines[0].split() == ["corpus", "clips", "speakers", "hours", *SCHEMES["seven"], "skipped"]
    assert lines[2].split() == ["ravdess", "14", "2", "0.00", *["2"] * 7, "3"]
    assert lines[3].split() == ["savee", "1", "1", "0.00", *"0001000", "1"]
    assert lines[4].split() == ["all", "15", "3", "0.00", *"2223222", "5"]
    for text in (
        "2  ravdess: its label is not in the label scheme",
        "1  -: its name fits no corpus",
        "1  ravdess: sung, not spoken",
        "1  savee: no samples in the file",
        "License: CC-BY-NC-SA-4.0 (non-commercial; share alike; name the authors)",
        "cite: Livingstone SR",
        "note: synthetic",
        f"written: {tmp_path / 'out'} (every skipped file: {tmp_path / 'out' / 'skipped.csv'})",
    ):
        assert text in output.out
    assert "reading" in output.err
    table, listed = open_prepared(tmp_path / "out"), builder.read_skipped(tmp_path / "out" / "skipped.csv")
    assert summary(table, listed) in output.out


def test_preparing_again_decodes_only_changed_data(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    root, out = write(tmp_path / "x", actor_clips(1)), tmp_path / "deep" / "out"
    prepare(root, out, verbose=False)
    before = modification_times(out)
    with monkeypatch.context() as patched:
        patched.setattr("ser_ft.audio.decode_clip", lambda *args, **kwargs: pytest.fail("decoded again"))
        prepare(root, out)
    assert modification_times(out) == before
    assert "is up to date" in capsys.readouterr().out
    write(root, actor_clips(2))
    assert len(prepare(root, out, verbose=False)) == 16
    assert len(prepare(root, out, "four", verbose=False)) == 8
    assert sorted(path.name for path in out.parent.iterdir()) == ["out"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["deep", "x"]


@pytest.mark.parametrize(
    ("files", "out", "message"),
    [
        ({"out/thesis.txt": b"x"}, "out", "contains thesis.txt, which is not part of a prepared table"),
        ({"out/corpora.json": b"{}"}, "out", "contains something that is not a prepared table"),
        ({"out": b"a file"}, "out/deeper/still", "cannot be written"),
    ],
)
def test_other_files_are_not_overwritten(tmp_path: Path, files: dict[str, bytes], out: str, message: str) -> None:
    root = write(tmp_path / "x", actor_clips(1))
    write(tmp_path, files)
    before = modification_times(tmp_path)
    with pytest.raises(InputError, match=re.escape(message)):
        prepare(root, tmp_path / out, verbose=False)
    assert modification_times(tmp_path) == before


@pytest.mark.parametrize("files", [{}, {"corpora.json": b'{"key": "old"}', "data.arrow": b"", "skipped.csv": b""}])
def test_an_empty_folder_and_an_older_table_are_replaced(tmp_path: Path, files: dict[str, bytes]) -> None:
    (tmp_path / "out").mkdir()
    write(tmp_path / "out", files)
    assert len(prepare(write(tmp_path / "x", actor_clips(1)), tmp_path / "out", verbose=False)) == 8
    assert len(open_prepared(tmp_path / "out")) == 8


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt])
def test_a_failed_build_leaves_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, error: Any) -> None:
    root = write(tmp_path / "x", actor_clips(1) + actor_clips(2))
    prepare(write(tmp_path / "y", actor_clips(3)), tmp_path / "old", verbose=False)
    before = modification_times(tmp_path)

    def fail(skipped: object, file: object) -> None:
        raise error("disk full")

    monkeypatch.setattr(builder, "write_skipped", fail)
    for out in ("new", "old"):
        with pytest.raises((error, datasets.exceptions.DatasetGenerationError)):
            prepare(root, tmp_path / out, verbose=False)
    assert modification_times(tmp_path) == before
    with pytest.raises((error, datasets.exceptions.DatasetGenerationError)):
        load(root, tmp_path / "c")
    assert not list((tmp_path / "c").rglob("*.arrow"))
    monkeypatch.undo()
    assert len(load(root, tmp_path / "c")) == 16


KILLED = """
import os, signal, sys
from ser_ft.data import builder
from ser_ft.data.prepare import prepare
builder.write_skipped = lambda *_: os.kill(os.getpid(), signal.SIGKILL)
prepare(sys.argv[1], sys.argv[2], verbose=False)
"""


def test_a_killed_run_leaves_the_table_and_the_next_one_removes_the_rest(tmp_path: Path) -> None:
    root, out = write(tmp_path / "x", actor_clips(1)), tmp_path / "out"
    prepare(root, out, verbose=False)
    write(root, actor_clips(2))
    subprocess.run([sys.executable, "-c", KILLED, str(root), str(out)], check=False)
    assert {path.name for path in tmp_path.iterdir()} > {"x", "out"}
    assert len(open_prepared(out)) == 8
    for name in actor_clips(2):
        (root / name).unlink()
    assert len(prepare(root, out, verbose=False)) == 8, "nothing is built again"
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out", "x"]


def test_missing_and_damaged_tables_are_refused(tmp_path: Path, miniature_folder: Path) -> None:
    with pytest.raises(InputError, match="no prepared table; make one: ser-ft prepare"):
        open_prepared(tmp_path)
    files = {path.name: path.read_bytes()[:5000] for path in miniature_folder.iterdir()}
    with pytest.raises(InputError, match="damaged"):
        open_prepared(write(tmp_path / "cut", files))
    del files["dataset_info.json"]
    with pytest.raises(InputError, match="damaged"):
        open_prepared(write(tmp_path / "less", files))


def test_one_long_clip_is_in_memory_at_a_time(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "mine", [f"happy/{number:02d}.wav" for number in range(16)])
    decode, most = ArchiveFile.decode, 0
    in_memory: set[str] = set()

    def decode_as_long(file: ArchiveFile, before_long: Callable[[], None]) -> tuple[np.ndarray, int]:
        nonlocal most
        if int(file.relative_path.stem) % 4 != 1:
            before_long()
            in_memory.add(file.path)
            most = max(most, len(in_memory))
        return decode(file)

    monkeypatch.setattr("os.cpu_count", lambda: 8)
    monkeypatch.setattr(ArchiveFile, "decode", decode_as_long)
    clips = catalog_of(tmp_path / "mine").clips
    names = []
    for clip, decoded in builder._decode_in_threads(clips):
        assert decoded.error is None
        names.append(Path(clip.path).stem)
        in_memory.discard(clip.path)
    assert names == [f"{number:02d}" for number in range(16)]
    assert most == 1


def test_memory_does_not_grow_with_the_number_of_clips(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = [f"{code}/{number}.wav" for code in ("happy", "sad") for number in range(300)]
    catalog = catalog_of(write_zip(tmp_path / "mine.zip", names))
    decoded = builder._decode_in_threads(catalog.clips)
    started = []
    decode = builder._DecodedClip

    def count(clip: Any, before_long: Any) -> builder._DecodedClip:
        started.append(clip)
        return decode(clip, before_long)

    monkeypatch.setattr(builder, "_DecodedClip", count)
    next(decoded)
    time.sleep(0.3)
    assert len(started) < 100
    decoded.close()
    assert pa.total_allocated_bytes() < 1 << 28
