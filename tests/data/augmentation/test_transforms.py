"""What each transform does to the sound, measured on the sound."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from scipy.signal import welch

from ser_ft import audio
from ser_ft.audio import SAMPLE_RATE
from ser_ft.data.augmentation import transforms
from ser_ft.data.augmentation.transforms import CODECS, NOISE_COLORS, codec_delay, colored_noise, room_response
from ser_ft.data.augmentation.waveform import TRANSFORMS, Augment
from ser_ft.data.synthetic.corpora import miniature_clips, synthesize_clip
from ser_ft.utils.errors import InputError

# Settings at which the effect of each transform is large.
STRONG: dict[str, dict[str, Any]] = {
    "pitch": {"semitones": 4},
    "stretch": {"rate": 0.7},
    "speed": {"factor": 1.3},
    "shift": {"shift": 0.3},
    "silence": {"before": 0.5, "after": 1.0},
    "room": {"rt60": 1.0, "drr_db": -5},
    "background": {"snr_db": 0},
    "noise": {"snr_db": 0},
    "volume": {"gain_db": 20},
    "band": {"f_min": 300, "f_max": 2000},
    "clipping": {"fraction": 0.2},
    "telephone": {},
    "codec": {"compression_level": 0.95},
}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.resample(*synthesize_clip(miniature_clips(speakers=1)[0]))


@pytest.fixture(scope="module")
def noise_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording of noise, 2 s, in a subfolder."""
    folder = tmp_path_factory.mktemp("noises")
    (folder / "street").mkdir()
    noise = 0.2 * np.random.default_rng(5).standard_normal(2 * SAMPLE_RATE)
    (folder / "street" / "cars.wav").write_bytes(audio.to_wav(noise.astype(np.float32)))
    return folder


def augment(name: str, samples: np.ndarray, settings: dict[str, Any]) -> np.ndarray:
    return Augment({name: settings}).apply(samples, "clip", 1)


def strong(name: str, noise_dir: Path) -> dict[str, Any]:
    return STRONG[name] | ({"sounds_path": noise_dir} if name == "background" else {})


def tone(hertz: float, seconds: float = 2.0, level: float = 0.3) -> np.ndarray:
    time = np.arange(round(seconds * SAMPLE_RATE)) / SAMPLE_RATE
    return (level * np.sin(2 * np.pi * hertz * time)).astype(np.float32)


def hertz_of(samples: np.ndarray) -> float:
    middle = samples[len(samples) // 8 : -len(samples) // 8]
    power = np.abs(np.fft.rfft(middle * np.hanning(len(middle)), 1 << 20))
    return float(np.argmax(power) * SAMPLE_RATE / (1 << 20))


def decibels(samples: np.ndarray) -> float:
    return float(10 * np.log10(np.mean(np.square(samples, dtype=np.float64))))


def band_decibels(samples: np.ndarray, low: float, high: float) -> float:
    frequencies, power = welch(samples, SAMPLE_RATE, nperseg=4096)
    return float(10 * np.log10(power[(frequencies >= low) & (frequencies < high)].mean()))


def lag(before: np.ndarray, after: np.ndarray) -> int:
    size = 1 << 18
    correlation = np.fft.irfft(np.fft.rfft(after, size) * np.fft.rfft(before, size).conj(), size)
    peak = int(np.argmax(correlation))
    return peak if peak < size // 2 else peak - size


def test_every_transform_is_tested_here() -> None:
    assert set(STRONG) == set(TRANSFORMS)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_the_output_is_valid_sound_and_the_input_is_not_changed(name: str, speech: np.ndarray, noise_dir: Path) -> None:
    loud = speech / np.abs(speech).max()
    for clip in (speech, loud, np.sign(loud).astype(np.float32)):
        before = clip.copy()
        clip.setflags(write=False)
        version = augment(name, clip, strong(name, noise_dir))
        clip.setflags(write=True)
        assert (version.dtype, version.ndim) == (np.float32, 1)
        assert np.isfinite(version).all()
        assert np.abs(version).max() <= 1
        assert not audio.is_silent(version)
        assert len(version) == len(clip) or name in ("stretch", "speed", "silence")
        assert not np.array_equal(version, clip) or (clip is not speech and name in ("volume", "clipping"))
        assert np.array_equal(clip, before)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("length", [1, 2, 7, 500])
def test_short_and_silent_clips_are_supported(name: str, length: int, speech: np.ndarray, noise_dir: Path) -> None:
    for clip in (speech[8000 : 8000 + length], np.zeros(length, np.float32), np.ones(length, np.float32)):
        version = augment(name, clip, strong(name, noise_dir))
        assert len(version)
        assert np.isfinite(version).all()
        assert np.abs(version).max() <= 1


@pytest.mark.parametrize("color", NOISE_COLORS)
@pytest.mark.parametrize("snr_db", [-5.0, 20.0])
def test_noise_has_its_signal_to_noise_ratio(color: str, snr_db: float, speech: np.ndarray) -> None:
    soft = speech * np.float32(0.1)
    noise = augment("noise", soft, {"color": color, "snr_db": snr_db}) - soft
    assert decibels(soft) - decibels(noise) == pytest.approx(snr_db, abs=0.01)


@pytest.mark.parametrize(("color", "slope"), [("white", 0), ("pink", -3), ("brown", -6), ("blue", 3), ("violet", 6)])
def test_noise_has_the_spectral_slope_of_its_color(color: str, slope: float) -> None:
    noise = colored_noise(30 * SAMPLE_RATE, color, np.random.default_rng(0))
    octaves = [band_decibels(noise, low * 0.9, low * 1.1) for low in (100, 200, 400, 800, 1600, 3200, 6400)]
    assert np.polyfit(range(7), octaves, 1)[0] == pytest.approx(slope, abs=0.3)
    amplitudes = np.abs(np.fft.rfft(noise))
    assert amplitudes[: 19 * 30].max() < 1e-3 * amplitudes[21 * 30 :].mean()


def test_background_is_a_part_of_the_recording_at_its_ratio(speech: np.ndarray, noise_dir: Path) -> None:
    recording = audio.decode(noise_dir / "street" / "cars.wav")
    soft = speech[:16000] * np.float32(0.1)
    noise = augment("background", soft, {"sounds_path": noise_dir, "snr_db": 7}) - soft
    assert decibels(soft) - decibels(noise) == pytest.approx(7, abs=0.01)
    start = lag(noise, recording)
    part = np.take(recording, np.arange(start, start + len(noise)), mode="wrap")
    assert np.corrcoef(part, noise)[0, 1] > 0.999

    clip = tone(200, seconds=5, level=0.1)
    noise = augment("background", clip, {"sounds_path": noise_dir, "snr_db": 0}) - clip
    assert all(abs(decibels(second) - decibels(noise)) < 0.5 for second in np.split(noise, 5)), "it is repeated"


def test_background_uses_the_sound_in_a_mostly_silent_recording_and_refuses_a_silent_one(tmp_path: Path) -> None:
    recording = np.zeros(60 * SAMPLE_RATE, np.float32)
    recording[-100:] = 0.5
    (tmp_path / "door.wav").write_bytes(audio.to_wav(recording))
    clip = tone(200, seconds=1, level=0.02)
    noise = augment("background", clip, {"sounds_path": tmp_path, "snr_db": 10}) - clip
    assert decibels(clip) - decibels(noise) == pytest.approx(10, abs=0.01)
    (tmp_path / "door.wav").rename(tmp_path / "door.txt")
    (tmp_path / "nothing.wav").write_bytes(audio.to_wav(np.zeros(SAMPLE_RATE, np.float32)))
    with pytest.raises(InputError, match=r"nothing\.wav: silent: remove it from the folder"):
        augment("background", clip, {"sounds_path": tmp_path})


@pytest.mark.parametrize(("settings", "places"), [
    ({"shift": 0.25}, 8000), ({"shift": -0.25}, -8000), ({"shift": 0.5, "shift_unit": "seconds"}, 8000),
    ({"shift": 3.0, "shift_unit": "seconds"}, 16000), ({"shift": 1.0}, 0),
])  # fmt: skip
def test_shift_rotates_the_samples(settings: dict[str, Any], places: int) -> None:
    clip = np.random.default_rng(0).standard_normal(32000).astype(np.float32) * np.float32(0.1)
    shifted, expected = augment("shift", clip, settings), np.roll(clip, places)
    # Faded over 5 ms on either side of the seam.
    assert np.mean(shifted == expected) >= 1 - 2 * 80 / 32000


def test_silence_is_added_on_both_sides(speech: np.ndarray) -> None:
    padded = augment("silence", speech, {"before": 0.25, "after": [0.5, 0.5]})
    assert np.array_equal(padded[4000:-8000], speech)
    assert not padded[:4000].any()
    assert not padded[-8000:].any()


@pytest.mark.parametrize("semitones", [-7, -2, 0.5, 3, 12])
def test_pitch_shifts_by_its_semitones_and_keeps_the_length(semitones: float) -> None:
    version = augment("pitch", tone(220), {"semitones": semitones})
    assert len(version) == 32000
    # Signalsmith Stretch is off by up to 17 cents on a pure tone.
    assert 12 * np.log2(hertz_of(version) / 220) == pytest.approx(semitones, abs=0.2)


def test_pitch_keeps_the_words_at_their_times(speech: np.ndarray) -> None:
    def loudness(samples: np.ndarray) -> np.ndarray:
        return np.convolve(np.abs(samples), np.ones(320) / 320, "same")

    before, after = loudness(speech), loudness(augment("pitch", speech, {"semitones": 3}))
    assert abs(lag(before - before.mean(), after - after.mean())) < 0.005 * SAMPLE_RATE


@pytest.mark.parametrize("factor", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize(("name", "setting"), [("stretch", "rate"), ("speed", "factor")])
def test_stretch_keeps_the_pitch_and_speed_changes_it(name: str, setting: str, factor: float) -> None:
    version = augment(name, tone(440), {setting: factor})
    assert len(version) == pytest.approx(32000 / factor, abs=1)
    assert hertz_of(version) == pytest.approx(440 if name == "stretch" else 440 * factor, rel=0.005)


@pytest.mark.parametrize("rate", [0.5, 0.9, 2.0])
def test_stretch_is_deterministic(rate: float, speech: np.ndarray) -> None:
    assert np.array_equal(augment("stretch", speech, {"rate": rate}), augment("stretch", speech, {"rate": rate}))


def test_volume_is_exact_below_full_scale_and_never_clips() -> None:
    soft = tone(300, level=0.1)
    assert decibels(augment("volume", soft, {"gain_db": 12.5})) - decibels(soft) == pytest.approx(12.5, abs=1e-3)
    assert np.allclose(augment("volume", soft, {"gain_db": 40}), soft * 10, atol=1e-3)


@pytest.mark.parametrize("rt60", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("drr_db", [-5.0, 0.0, 10.0])
def test_a_room_decays_by_60_db_in_its_reverberation_time(rt60: float, drr_db: float) -> None:
    response = room_response(rt60, drr_db, np.random.default_rng(1))
    tail = response[1:].astype(np.float64) ** 2
    assert -10 * np.log10(tail.sum()) == pytest.approx(drr_db, abs=1e-3)
    # The remaining energy (Schroeder 1965), fitted from -5 to -25 dB as ISO 3382 does for T20.
    decay = 10 * np.log10(np.cumsum(tail[::-1])[::-1] / tail.sum())
    fitted = (decay < -5) & (decay > -25)
    slope = np.polyfit(np.flatnonzero(fitted) / SAMPLE_RATE, decay[fitted], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.05)


def test_echoes_follow_the_sound_and_the_loudness_stays() -> None:
    clip = np.zeros(32000, np.float32)
    clip[8000:8400] = tone(500, seconds=0.025)
    version = augment("room", clip, {"rt60": 0.8, "drr_db": 0})
    assert decibels(version) == pytest.approx(decibels(clip), abs=0.01)
    assert not version[:7000].round(6).any()
    assert decibels(version[10000:12000]) > decibels(version[16000:18000]) + 15 > -90


def test_band_falls_by_24_db_per_octave_outside() -> None:
    hiss = colored_noise(20 * SAMPLE_RATE, "white", np.random.default_rng(0)) * np.float32(0.1)
    version = augment("band", hiss, {"f_min": 400, "f_max": 3000})

    def change(low: float, high: float) -> float:
        return band_decibels(version, low, high) - band_decibels(hiss, low, high)

    assert change(900, 1500) == pytest.approx(0, abs=0.5)
    assert change(390, 410) == pytest.approx(-3, abs=1)
    assert -30 < change(190, 210) < -22
    assert change(5900, 6100) < -24


def test_telephone_has_the_band_and_the_noise_of_a_telephone() -> None:
    hiss = colored_noise(10 * SAMPLE_RATE, "white", np.random.default_rng(0)) * np.float32(0.05)
    version = augment("telephone", hiss, {})
    assert band_decibels(version, 600, 3000) == pytest.approx(band_decibels(hiss, 600, 3000), abs=0.5)
    assert band_decibels(version, 4200, 8000) < band_decibels(hiss, 4200, 8000) - 60
    assert band_decibels(version, 0, 150) < band_decibels(hiss, 0, 150) - 25
    received = augment("telephone", tone(1000), {})[4000:-4000]
    waves = np.exp(2j * np.pi * np.arange(len(received)) / 16)
    residual = received - 2 * np.real(np.vdot(waves, received) / len(received) * waves)
    # Eight bits of mu-law leave about 38 dB; 16 linear bits would leave 90.
    assert 33 < decibels(received) - decibels(residual) < 43


@pytest.mark.parametrize("fraction", [0.01, 0.1, 0.5])
def test_clipping_clips_its_fraction_of_the_samples(fraction: float, speech: np.ndarray) -> None:
    padded = np.concatenate([np.zeros(60000, np.float32), speech])
    version = augment("clipping", padded, {"fraction": fraction})
    ceiling = np.abs(version).max()
    assert np.mean(np.abs(version[padded != 0]) >= ceiling) == pytest.approx(fraction, abs=0.005)
    below = np.abs(padded) < ceiling
    assert np.array_equal(version[below], padded[below])


@pytest.mark.parametrize(("codec", "min_snr"), [("mp3", 10), ("opus", 10), ("vorbis", 10), ("gsm", 4)])
def test_a_codec_is_lossy_and_adds_no_delay(codec: str, min_snr: float, speech: np.ndarray) -> None:
    version = augment("codec", speech, {"format": codec, "compression_level": 0.85})
    assert len(version) == len(speech)
    assert lag(speech, version) == 0
    assert min_snr < decibels(speech) - decibels(version - speech) < 40

    if codec != "gsm":
        low, high = (augment("codec", speech, {"format": codec, "compression_level": c}) - speech for c in (0.3, 0.99))
        assert decibels(high) > decibels(low) + 3, "more compression loses more"


@pytest.fixture
def no_known_delays() -> Iterator[None]:
    codec_delay.cache_clear()
    yield
    codec_delay.cache_clear()


@pytest.mark.usefixtures("no_known_delays")
def test_a_codecs_delay_is_removed_if_libsndfile_does_not(speech: np.ndarray, monkeypatch: pytest.MonkeyPatch) -> None:
    decode = transforms._decode
    monkeypatch.setattr(transforms, "_decode", lambda content: np.pad(decode(content), (1105, 47)))
    assert codec_delay("mp3") == 1105
    version = augment("codec", speech, {"format": "mp3", "compression_level": 0.8})
    assert (len(version), lag(speech, version)) == (len(speech), 0)


@pytest.mark.usefixtures("no_known_delays")
def test_a_codec_that_libsndfile_lacks_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "mp3", ("MP3", "OPUS", SAMPLE_RATE))
    with pytest.raises(InputError, match=r"cannot write mp3: remove it from codec\.format"):
        Augment({"codec": {}})
    Augment({"codec": {"format": ["vorbis", "gsm"]}})
