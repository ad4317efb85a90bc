"""Two hundred unusual files: each gets a prediction or a one-line error."""

from __future__ import annotations

import io
import json
import os
import struct
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from ser_ft.cli import main
from tests.helpers.sound_files import encode

RATE = 16_000
ANSWER, EITHER = "answer", "either"
FORMATS = {
    "wav": ("PCM_16", "PCM_U8", "PCM_24", "PCM_32", "FLOAT", "DOUBLE", "ULAW", "ALAW", "IMA_ADPCM", "MS_ADPCM"),
    "wavex": ("PCM_16", "PCM_24", "FLOAT"),
    "rf64": ("PCM_16", "FLOAT"),
    "w64": ("PCM_16", "PCM_24"),
    "aiff": ("PCM_16", "PCM_S8", "PCM_24", "FLOAT"),
    "au": ("PCM_16", "ULAW", "FLOAT"),
    "caf": ("PCM_16", "ALAC_16"),
    "flac": ("PCM_16", "PCM_S8", "PCM_24"),
    "ogg": ("VORBIS", "OPUS"),
    "mp3": ("MPEG_LAYER_III",),
}
RATES = (8_000, 11_025, 12_000, 22_050, 24_000, 24_414, 32_000, 44_100, 48_000, 96_000, 192_000)
NAMES = (
    "UPPER.WAV", "two words.wav", "ümläut é.wav", "日本語.wav", "العربية.wav", "😀.wav", "combined e\u0301.wav",
    "new\nline.wav", "zero\u200bwidth.wav", "\u2028.wav",
    "tab\t.wav", "quote\"'.wav", "-rf.wav", "$HOME.wav", "*.wav", "a;b|c&d.wav", "\x1b[31mred.wav", "\u202eright.wav",
    "percent%s{}.wav", "back\\slash.wav", f"{'long' * 62}.wav", os.fsdecode(b"caf\xe9.wav"),
)  # fmt: skip


def valid_files(voice: np.ndarray) -> Iterator[tuple[str, bytes, str]]:
    """Yield names, contents and what is expected of files that must have an answer."""
    for kind, subtypes in FORMATS.items():
        for subtype in subtypes:
            suffix = kind if kind in ("flac", "ogg", "mp3") else "wav"
            yield f"{kind}-{subtype}.{suffix}", encode(voice, RATE, kind, subtype), ANSWER
    for rate in RATES:
        sound = np.interp(np.arange(0, len(voice), RATE / rate), np.arange(len(voice)), voice)
        yield f"{rate}.wav", encode(sound, rate), ANSWER
    for count in (2, 3, 4, 6, 8, 16):
        yield f"{count}-channels.wav", encode(np.stack([voice] * count, axis=1)), ANSWER
    yield "gsm.wav", encode(voice[::2], 8_000, "wav", "GSM610"), ANSWER
    for name in NAMES:
        yield name, encode(voice), ANSWER
    for suffix in ("mp3", "flac", "ogg", "opus", "aif", "au"):
        yield f"wav-named.{suffix}", encode(voice), ANSWER
    plain = encode(voice)
    yield "unknown-size.wav", plain[:4] + b"\xff" * 4 + plain[8:40] + b"\xff" * 4 + plain[44:], ANSWER
    extra = b"LIST" + struct.pack("<I", 5) + b"hello\0"
    yield "extra-chunk-before.wav", plain[:12] + extra + plain[12:], ANSWER
    yield "extra-chunk-after.wav", plain + extra, ANSWER
    yield "a-few-samples-short.wav", plain[:-100], ANSWER
    yield "a-tenth-of-a-second.wav", encode(voice[8_000:9_600]), ANSWER
    yield "quiet.wav", encode(voice * 0.01, subtype="FLOAT"), ANSWER
    yield "offset.wav", encode(voice * 0.5 + 0.5, subtype="FLOAT"), ANSWER
    yield "clipped.wav", encode(np.clip(voice * 30, -1, 1)), ANSWER
    yield "over-full-scale.wav", encode(voice * 30, subtype="FLOAT"), ANSWER
    yield "twenty-one-seconds.wav", encode(np.resize(voice, 21 * RATE)), ANSWER


def damaged_files(voice: np.ndarray) -> Iterator[tuple[str, bytes, str]]:
    """Yield names, contents and what is said of files that are not as they should be."""
    plain = encode(voice)
    yield "empty.wav", b"", "the file is empty"
    yield "half.wav", plain[: len(plain) // 2], "is cut short"
    yield "half.aiff", encode(voice, kind="aiff")[: len(voice)], "is cut short"
    for length in (1, 4, 8, 12, 20, 36, 40):
        yield f"first-{length}-bytes.wav", plain[:length], "not a sound file that can be decoded"
    yield "header-alone.wav", plain[:44], "is cut short"
    compressed = [("flac", "PCM_16"), ("ogg", "VORBIS"), ("mp3", "MPEG_LAYER_III")]
    for kind, subtype in (*compressed, ("ogg", "OPUS"), ("caf", "PCM_16")):
        content = encode(voice, kind=kind, subtype=subtype)
        for fraction in (0.02, 0.3, 0.9):
            yield f"{subtype}-{fraction}.{kind}", content[: int(len(content) * fraction)], EITHER
    yield "text.wav", b"This is no sound.\n" * 99, "not a sound file that can be decoded"
    yield "page.mp3", b"<!DOCTYPE html><html><body>404 not found</body></html>", "not a sound file that can be decoded"
    yield "zeros.wav", bytes(5_000), "not a sound file that can be decoded"
    yield "film.mp4", b"\0\0\0\x20ftypisom" + bytes(500), "decode"
    yield "record.webm", b"\x1aE\xdf\xa3" + bytes(500), "decode"
    yield "pointer.wav", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "git-LFS pointer"
    archive = io.BytesIO()
    with zipfile.ZipFile(archive, "w") as file:
        file.writestr("clip.wav", plain)
    yield "archive.wav", archive.getvalue(), "not a sound file that can be decoded"
    for name, value in (("nan", np.nan), ("inf", np.inf), ("minus-inf", -np.inf)):
        sound = voice.copy()
        sound[100] = value
        yield f"{name}.wav", encode(sound, subtype="FLOAT"), "not finite"
    yield "silence.wav", encode(np.zeros(RATE)), "silent: nothing in it is louder than -60 dBFS"
    yield "silence.flac", encode(np.zeros(RATE), kind="flac"), "silent"
    yield "noise-of-a-converter.wav", encode(np.random.default_rng(0).normal(0, 1e-5, RATE)), "silent"
    yield "constant.wav", encode(np.full(RATE, 0.5)), "silent"
    yield "no-samples.wav", encode(np.zeros(0)), "no samples"
    for samples in (1, 160, 1_599):
        yield f"{samples}-samples.wav", encode(voice[8_000 : 8_000 + samples]), "too short: the minimum is 0.1 s"
    for rate in (0, 1, 999, 1_000_001, 2**31 - 1, 2**32 - 1):
        yield f"claims-{rate}-hz.wav", plain[:24] + struct.pack("<I", rate) + plain[28:], "Hz|decoded"
    for count in (0, 1025, 65_535):
        yield f"claims-{count}-channels.wav", plain[:22] + struct.pack("<H", count) + plain[24:], "decode"
    random = np.random.default_rng(1)
    for index in range(60):
        kind, subtype = [("wav", "PCM_16"), *compressed][index % 4]
        content = bytearray(encode(voice, kind=kind, subtype=subtype))
        for position in random.integers(0, len(content) if index % 8 > 3 else 64, 12):
            content[position] = random.integers(256)
        yield f"bytes-changed-{index}.{kind}", bytes(content), EITHER


def devices(folder: Path) -> dict[str, str]:
    """Create entries that are not regular files, and return the expected error of each."""
    (folder / "folder.wav").mkdir()
    (folder / "folder.wav" / "inside.txt").touch()
    (folder / "folder.wav" / "up").symlink_to("..")
    os.mkfifo(folder / "pipe.wav")
    (folder / "device.wav").symlink_to("/dev/zero")
    (folder / "nowhere.wav").symlink_to("gone.wav")
    (folder / "itself.wav").symlink_to("itself.wav")
    unreadable, missing = "cannot be read", "no such file"
    reasons = {"device.wav": unreadable, "nowhere.wav": missing, "itself.wav": f"{missing}|{unreadable}"}
    if os.geteuid():
        (folder / "locked.wav").write_bytes(b"RIFF")
        (folder / "locked.wav").chmod(0)
        reasons["locked.wav"] = "cannot be read"
    return reasons


@pytest.fixture(scope="module")
def odd(voices: list[np.ndarray], tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, dict[str, str]]:
    """The folder, and the expected outcome for each file in it."""
    folder = tmp_path_factory.mktemp("odd")
    expected = {}
    for name, content, outcome in (*valid_files(voices[0]), *damaged_files(voices[0])):
        assert name not in expected
        with open(os.path.join(folder, name), "wb") as file:
            file.write(content)
        expected[name] = outcome
    return folder, expected | devices(folder)


def test_each_file_gets_a_prediction_or_a_one_line_error(
    odd: tuple[Path, dict[str, str]], tiny_run: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    folder, expected = odd
    code = main(["predict", str(folder), "--model", str(tiny_run), "--format", "jsonl"])
    out, err = capfd.readouterr()
    rows = {os.path.basename(row["path"]): row for row in map(json.loads, out.splitlines())}
    assert code == 1
    assert len(expected) >= 200
    assert set(rows) == set(expected)
    failures = {
        name: rows[name].get("error") for name, outcome in expected.items() if not _is_expected(rows[name], outcome)
    }
    assert failures == {}
    failed = sum("error" in row for row in rows.values())
    # One line for each and one with their number; nothing is printed by libraries.
    lines = [line for line in err.splitlines() if line.strip() and "file/s" not in line]
    warnings = [line for line in lines if line.startswith("ser-ft: warning: ")]
    assert len(warnings) == 1
    assert "over-full-scale.wav: samples far beyond full scale are clipped" in warnings[0]
    assert len(lines) == failed + 2
    assert all(line.startswith("ser-ft: ") and line.isprintable() and len(line) < 700 for line in lines)
    assert lines[-1] == f"ser-ft: {failed} of {len(rows)} files could not be recognized"


def _is_expected(row: dict[str, str], outcome: str) -> bool:
    if "error" not in row:
        return outcome in (ANSWER, EITHER) and np.isfinite(row["scores"]["happy"])  # type: ignore[index]
    return outcome == EITHER or any(part in row["error"] for part in outcome.split("|"))


@pytest.mark.parametrize("name", ["pipe.wav", "/dev/zero", "/dev/null"])
def test_pipes_and_devices_are_refused(
    odd: tuple[Path, dict[str, str]], tiny_run: Path, capfd: pytest.CaptureFixture[str], name: str
) -> None:
    assert main(["predict", str(odd[0] / name), "--model", str(tiny_run)]) == 1
    assert "cannot be read" in capfd.readouterr().err
