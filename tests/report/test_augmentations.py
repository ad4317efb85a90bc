"""`ser-ft augment`: what is written, and what is refused."""

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
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to work in: a $voice.wav (48 kHz), silent.wav, long.wav, text.wav, and noises/."""
    samples, rate = synthesize_clip(miniature_clips(speakers=1)[0])
    soundfile.write(tmp_path / "a $voice.wav", samples, rate)
    (tmp_path / "silent.wav").write_bytes(audio.to_wav(np.zeros(16_000, np.float32)))
    (tmp_path / "long.wav").write_bytes(
        audio.to_wav(np.full(31 * 16_000, 0.1, np.float32) * np.resize([1, -1], 496_000))
    )
    (tmp_path / "text.wav").write_text("years of work")
    (tmp_path / "noises").mkdir()
    hiss = np.random.default_rng(0).standard_normal(16_000).astype(np.float32) * np.float32(0.1)
    (tmp_path / "noises" / "hiss.wav").write_bytes(audio.to_wav(hiss))
    monkeypatch.chdir(tmp_path)
    return tmp_path


def written(capsys: pytest.CaptureFixture[str], *words: str) -> list[Path]:
    assert main(["augment", *words]) == 0
    return [Path(line) for line in capsys.readouterr().out.splitlines()]


@pytest.mark.slow
def test_every_version_can_be_heard_and_seen(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    *sounds, figure = written(capsys, "a $voice.wav", "--out", "deep/out", "--noise-dir", "noises")
    assert [file.name for file in sounds] == [f"a $voice-{name}.wav" for name in ("original", *TRANSFORMS)]
    assert sorted((home / "deep/out").iterdir()) == sorted(home / file for file in (*sounds, figure))
    original = audio.decode(home / "a $voice.wav")
    for file, name in zip(sounds, ("original", *TRANSFORMS), strict=True):
        with soundfile.SoundFile(file) as heard:
            assert (heard.samplerate, heard.channels) == (16_000, 1)
        samples = audio.decode(file)
        assert not audio.is_silent(samples)
        same = len(samples) == len(original) and np.allclose(samples, original, atol=1e-4)
        assert same == (name == "original"), name
    tall, wide, _ = imread(figure).shape
    assert min(tall, wide) > 1500


def test_only_some_and_by_a_seed(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    given = ["a $voice.wav", "--out", "out", "--only", "noise, volume"]
    files = written(capsys, *given)
    assert [file.name for file in files] == [
        "a $voice-original.wav", "a $voice-noise.wav", "a $voice-volume.wav", "a $voice-augmentations.png"
    ]  # fmt: skip
    first = [file.read_bytes() for file in files]
    assert [file.read_bytes() for file in written(capsys, *given)] == first
    other = [file.read_bytes() for file in written(capsys, *given, "--seed", "1")]
    assert other[0] == first[0]
    assert all(a != b for a, b in zip(first[1:], other[1:], strict=True))
    version = Augment({"noise": {}}, seed=1).apply(audio.decode(home / "a $voice.wav"), "a $voice.wav", 1)
    assert audio.to_wav(version) == other[1]


def test_help_names_every_transform_and_its_settings(home: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as left:
        main(["augment", "--help"])
    assert left.value.code == 0
    said = capsys.readouterr().out
    for name, transform in TRANSFORMS.items():
        assert f"\n  {name} " in said
        assert all(f"{key}: " in said for key in transform.parameters)
    assert "snr_db: 5 to 25 dB (within -20 to 60)" in said


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("none.wav --out out", "none.wav: no such file"),
        ("text.wav --out out", "text.wav: not a sound file that can be decoded"),
        ("silent.wav --out out", "silent.wav: silent: name a recording with speech"),
        ("long.wav --out out", "long.wav: 31 s long: name a recording of 30 s or less"),
        ("VOICE --out out --only fog", "no augmentation 'fog'; there are pitch, stretch"),
        ("VOICE --out out --only noise,", "no augmentation ''; there are pitch, stretch"),
        ("VOICE --out out --only background", "background needs a folder of recordings: name one with --noise-dir"),
        ("VOICE --out out --noise-dir nowhere", "nowhere: no sound files found there"),
        ("VOICE --out text.wav", "text.wav: cannot be written"),
        ("VOICE --out text.wav/deep", "text.wav/deep: cannot be written"),
        ("VOICE --out out --seed -1", "seed must be a whole number from 0 to 4294967295, not -1"),
        ("VOICE --out out --seed one", "argument --seed: invalid int value: 'one' (see ser-ft augment --help)"),
        ("VOICE", "the following arguments are required: --out"),
    ],
)
def test_wrong_input_is_one_line_and_code_2(
    home: Path, capsys: pytest.CaptureFixture[str], words: str, says: str
) -> None:
    before = sorted(home.rglob("*"))
    assert main(["augment", *("a $voice.wav" if word == "VOICE" else word for word in words.split())]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("ser-ft: ")
    assert says in printed.err
    assert printed.err.count("\n") == 1
    assert sorted(home.rglob("*")) == before
