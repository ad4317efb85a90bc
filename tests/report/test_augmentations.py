"""`ser-ft augment`: the files that it writes, and the input that it refuses."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import soundfile
from matplotlib.image import imread

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.data.augmentation.waveform import TRANSFORMS, Augment
from ser_ft.data.synthetic.corpora import miniature_clips, synthesize_clip


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder: a $voice.wav (48 kHz), silent.wav, long.wav, text.wav, and noises/."""
    samples, rate = synthesize_clip(miniature_clips(speakers=1)[0])
    soundfile.write(tmp_path / "a $voice.wav", samples, rate)
    (tmp_path / "silent.wav").write_bytes(audio.to_wav(np.zeros(16_000, np.float32)))
    (tmp_path / "long.wav").write_bytes(audio.to_wav(np.resize(np.float32([0.1, -0.1]), 31 * 16_000)))
    (tmp_path / "text.wav").write_text("years of work")
    (tmp_path / "noises").mkdir()
    noise = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * np.float32(0.1)
    (tmp_path / "noises" / "noise.wav").write_bytes(audio.to_wav(noise))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def augment(capsys: pytest.CaptureFixture[str], *arguments: str) -> list[Path]:
    assert main(["augment", *arguments]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_every_transform_writes_a_changed_version_and_a_figure(
    folder: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    *recordings, figure = augment(capsys, "a $voice.wav", "--out", "deep/out", "--noise-dir", "noises")
    names = ("original", *TRANSFORMS)
    assert [file.name for file in recordings] == [f"a $voice-{name}.wav" for name in names]
    assert sorted((folder / "deep/out").iterdir()) == sorted(folder / file for file in (*recordings, figure))
    original = audio.decode(folder / "a $voice.wav")
    for file, name in zip(recordings, names, strict=True):
        with soundfile.SoundFile(file) as recording:
            assert (recording.samplerate, recording.channels) == (16_000, 1)
        samples = audio.from_wav(file.read_bytes())
        assert not audio.is_silent(samples)
        unchanged = len(samples) == len(original) and np.allclose(samples, original, atol=1e-4)
        assert unchanged == (name == "original"), name
    height, width, _ = imread(figure).shape
    assert min(height, width) > 1500


def test_the_seed_determines_the_selected_versions(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["a $voice.wav", "--out", "out", "--only", "noise, volume"]
    files = augment(capsys, *arguments)
    assert [file.stem.removeprefix("a $voice-") for file in files] == ["original", "noise", "volume", "augmentations"]
    first = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in augment(capsys, *arguments)] == first
    other = [file.read_bytes() for file in augment(capsys, *arguments, "--seed", "1")]
    assert other[0] == first[0]
    assert all(a != b for a, b in zip(first[1:], other[1:], strict=True))
    version = Augment({"noise": {}}, seed=1).apply(audio.decode(folder / "a $voice.wav"), "a $voice.wav", 1)
    assert audio.to_wav(version) == other[1]


def test_help_lists_every_transform_and_its_settings(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["augment", "--help"]) == 0
    text = capsys.readouterr().out
    for name, transform in TRANSFORMS.items():
        assert f"\n  {name} " in text
        assert all(f"{key}: " in text for key in transform.parameters)
    assert "snr_db: 5 to 25 dB (within -20 to 60)" in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none.wav --out out", "none.wav: no such file"),
        ("text.wav --out out", "text.wav: not a sound file that can be decoded"),
        ("silent.wav --out out", "silent.wav: silent: name a recording with speech"),
        ("long.wav --out out", "long.wav: 31 s long: name a recording of 30 s or less"),
        ("VOICE --out out --only fog", "no augmentation 'fog'; there are pitch, stretch"),
        ("VOICE --out out --only noise,", "no augmentation ''; there are pitch, stretch"),
        ("VOICE --out out --only background", "background needs a folder of recordings: name one with --noise-dir"),
        ("VOICE --out out --noise-dir nowhere", "nowhere: no such folder"),
        ("VOICE --out text.wav", "text.wav: cannot be written"),
        ("VOICE --out text.wav/deep", "text.wav/deep: cannot be written"),
        ("VOICE --out out --seed -1", "seed must be a whole number from 0 to 4294967295, not -1"),
        ("VOICE --out out --seed one", "argument --seed: invalid int value: 'one' (see ser-ft augment --help)"),
        ("VOICE", "the following arguments are required: --out"),
    ],
)
def test_wrong_input_gives_one_line_and_code_2(
    folder: Path, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    before = sorted(folder.rglob("*"))
    assert main(["augment", *("a $voice.wav" if word == "VOICE" else word for word in arguments.split())]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("ser-ft: ")
    assert message in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(folder.rglob("*")) == before
