"""What each transform does to sound, measured on the sound."""

from __future__ import annotations

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

# Settings at which each transform does much.
STRONG: dict[str, dict[str, Any]] = {
    "pitch": {"semitones": 4},
    "stretch": {"rate": 0.7},
    "speed": {"rate": 1.3},
    "shift": {"by": 0.3},
    "room": {"rt60": 1.0, "direct": -5},
    "background": {"snr": 0},
    "noise": {"snr": 0},
    "volume": {"gain": 20},
    "band": {"low": 300, "high": 2000},
    "clipping": {"share": 0.2},
    "telephone": {},
    "codec": {"compression": 0.95},
}


@pytest.fixture(scope="module")
def speech() -> np.ndarray:
    return audio.resample(*synthesize_clip(miniature_clips(speakers=1)[0]))


@pytest.fixture(scope="module")
def noises(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one recording of noise, 2 s, in a folder of its own."""
    folder = tmp_path_factory.mktemp("noises")
    (folder / "street").mkdir()
    sound = 0.2 * np.random.default_rng(5).standard_normal(2 * SAMPLE_RATE)
    (folder / "street" / "cars.wav").write_bytes(audio.to_wav(sound.astype(np.float32)))
    return folder


def made(name: str, samples: np.ndarray, settings: dict[str, Any], seed: int = 0) -> np.ndarray:
    return Augment({name: settings}, seed=seed).wave(samples, "clip", 1)


def strong(name: str, noises: Path) -> dict[str, Any]:
    return STRONG[name] | ({"folder": noises} if name == "background" else {})


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
    alike = np.fft.irfft(np.fft.rfft(after, size) * np.fft.rfft(before, size).conj(), size)
    place = int(np.argmax(alike))
    return place if place < size // 2 else place - size


def test_every_transform_is_tried_here() -> None:
    assert set(STRONG) == set(TRANSFORMS)


@pytest.mark.parametrize("name", TRANSFORMS)
def test_what_comes_out_is_sound_that_can_be_trained_on(name: str, speech: np.ndarray, noises: Path) -> None:
    loud = speech / np.abs(speech).max()
    for given in (speech, loud, np.sign(loud).astype(np.float32)):
        before = given.copy()
        version = made(name, given, strong(name, noises))
        assert version.dtype == np.float32
        assert version.ndim == 1
        assert np.isfinite(version).all()
        assert np.abs(version).max() <= 1
        assert not audio.is_silent(version)
        assert len(version) == len(given) or name in ("stretch", "speed")
        assert not np.array_equal(version, given) or name in ("volume", "clipping")
        assert np.array_equal(given, before), "the clip itself was changed"
    assert not np.array_equal(made(name, speech, strong(name, noises)), speech)


@pytest.mark.parametrize("name", TRANSFORMS)
@pytest.mark.parametrize("length", [1, 2, 7, 500])
def test_short_and_silent_clips_come_through(name: str, length: int, speech: np.ndarray, noises: Path) -> None:
    for given in (speech[8000 : 8000 + length], np.zeros(length, np.float32), np.ones(length, np.float32)):
        version = made(name, given, strong(name, noises))
        assert len(version)
        assert np.isfinite(version).all()
        assert np.abs(version).max() <= 1


@pytest.mark.parametrize("name", TRANSFORMS)
def test_a_clip_that_may_not_be_written_to_is_taken(name: str, speech: np.ndarray, noises: Path) -> None:
    locked = speech.copy()
    locked.setflags(write=False)
    assert len(made(name, locked, strong(name, noises)))


@pytest.mark.parametrize("colour", NOISE_COLORS)
@pytest.mark.parametrize("snr", [-5.0, 0.0, 20.0])
def test_noise_has_the_ratio_that_was_asked_for(colour: str, snr: float, speech: np.ndarray) -> None:
    quiet = speech * np.float32(0.1)
    noise = made("noise", quiet, {"colour": colour, "snr": snr}) - quiet
    assert decibels(quiet) - decibels(noise) == pytest.approx(snr, abs=0.01)


@pytest.mark.parametrize(("colour", "slope"), [("white", 0), ("pink", -3), ("brown", -6), ("blue", 3), ("violet", 6)])
def test_noise_has_the_slope_of_its_colour(colour: str, slope: float) -> None:
    noise = colored_noise(30 * SAMPLE_RATE, colour, np.random.default_rng(0))
    octaves = [band_decibels(noise, low * 0.9, low * 1.1) for low in (100, 200, 400, 800, 1600, 3200, 6400)]
    assert np.polyfit(range(7), octaves, 1)[0] == pytest.approx(slope, abs=0.3)
    amplitudes = np.abs(np.fft.rfft(noise))
    assert amplitudes[: 19 * 30].max() < 1e-3 * amplitudes[21 * 30 :].mean()


def test_background_is_the_recording_at_the_ratio_asked_for(speech: np.ndarray, noises: Path) -> None:
    recording = audio.decode(noises / "street" / "cars.wav")
    quiet = speech[:16000] * np.float32(0.1)
    added = made("background", quiet, {"folder": noises, "snr": 7}) - quiet
    assert decibels(quiet) - decibels(added) == pytest.approx(7, abs=0.01)
    place = lag(added, recording)
    part = np.take(recording, np.arange(place, place + len(added)), mode="wrap")
    assert np.corrcoef(part, added)[0, 1] > 0.999


def test_background_that_is_shorter_than_the_clip_goes_on_to_its_end(noises: Path) -> None:
    clip = tone(200, seconds=5, level=0.1)
    added = made("background", clip, {"folder": noises, "snr": 0}) - clip
    assert all(abs(decibels(second) - decibels(added)) < 0.5 for second in np.split(added, 5))


def test_background_finds_the_sound_in_a_recording_that_is_mostly_silent(tmp_path: Path) -> None:
    sound = np.zeros(60 * SAMPLE_RATE, np.float32)
    sound[-100:] = 0.5
    (tmp_path / "door.wav").write_bytes(audio.to_wav(sound))
    clip = tone(200, seconds=1, level=0.02)
    added = made("background", clip, {"folder": tmp_path, "snr": 10}) - clip
    assert decibels(clip) - decibels(added) == pytest.approx(10, abs=0.01)


def test_a_silent_recording_among_the_noises_is_named(tmp_path: Path) -> None:
    (tmp_path / "nothing.wav").write_bytes(audio.to_wav(np.zeros(SAMPLE_RATE, np.float32)))
    with pytest.raises(InputError, match=r"nothing\.wav: silent: take it out of the folder"):
        made("background", tone(200), {"folder": tmp_path})


@pytest.mark.parametrize(("settings", "places"), [
    ({"by": 0.25}, 8000), ({"by": -0.25}, -8000), ({"by": 0.5, "unit": "seconds"}, 8000),
    ({"by": 3.0, "unit": "seconds"}, 16000), ({"by": 1.0}, 0),
])  # fmt: skip
def test_shift_moves_by_so_much_and_loses_nothing(settings: dict[str, Any], places: int) -> None:
    clip = np.random.default_rng(0).standard_normal(32000).astype(np.float32) * np.float32(0.1)
    moved, expected = made("shift", clip, settings), np.roll(clip, places)
    # Faded over 5 ms on either side of the seam.
    assert np.mean(moved == expected) >= 1 - 2 * 80 / 32000


@pytest.mark.parametrize("semitones", [-7, -2, 0.5, 3, 12])
def test_pitch_moves_by_so_many_semitones_and_the_length_stays(semitones: float) -> None:
    version = made("pitch", tone(220), {"semitones": semitones})
    assert len(version) == 32000
    # Signalsmith Stretch is off by up to 17 cents on a pure tone.
    assert 12 * np.log2(hertz_of(version) / 220) == pytest.approx(semitones, abs=0.2)


def test_pitch_leaves_the_words_where_they_were(speech: np.ndarray) -> None:
    def loudness(samples: np.ndarray) -> np.ndarray:
        return np.convolve(np.abs(samples), np.ones(320) / 320, "same")

    before, after = loudness(speech), loudness(made("pitch", speech, {"semitones": 3}))
    assert abs(lag(before - before.mean(), after - after.mean())) < 0.005 * SAMPLE_RATE


@pytest.mark.parametrize("rate", [0.5, 0.8, 1.25, 2.0])
@pytest.mark.parametrize("name", ["stretch", "speed"])
def test_stretch_keeps_the_pitch_and_speed_moves_it_along(name: str, rate: float) -> None:
    version = made(name, tone(440), {"rate": rate})
    assert len(version) == pytest.approx(32000 / rate, abs=1)
    assert hertz_of(version) == pytest.approx(440 if name == "stretch" else 440 * rate, rel=0.005)


@pytest.mark.parametrize("rate", [0.5, 0.9, 2.0])
def test_stretch_gives_the_same_each_time(rate: float, speech: np.ndarray) -> None:
    assert np.array_equal(made("stretch", speech, {"rate": rate}), made("stretch", speech, {"rate": rate}))


def test_volume_is_exact_below_full_scale_and_never_clips_above_it() -> None:
    quiet = tone(300, level=0.1)
    assert decibels(made("volume", quiet, {"gain": 12.5})) - decibels(quiet) == pytest.approx(12.5, abs=1e-3)
    assert np.allclose(made("volume", quiet, {"gain": 40}), quiet * 10, atol=1e-3)


@pytest.mark.parametrize("rt60", [0.2, 0.5, 1.5])
@pytest.mark.parametrize("direct", [-5.0, 0.0, 10.0])
def test_a_room_decays_by_60_db_in_its_time(rt60: float, direct: float) -> None:
    response = room_response(rt60, direct, np.random.default_rng(1))
    tail = response[1:].astype(np.float64) ** 2
    assert -10 * np.log10(tail.sum()) == pytest.approx(direct, abs=1e-3)
    # The energy still to come (Schroeder 1965), fitted from -5 to -25 dB as ISO 3382 does for T20.
    decay = 10 * np.log10(np.cumsum(tail[::-1])[::-1] / tail.sum())
    fitted = (decay < -5) & (decay > -25)
    slope = np.polyfit(np.flatnonzero(fitted) / SAMPLE_RATE, decay[fitted], 1)[0]
    assert -60 / slope == pytest.approx(rt60, rel=0.05)


def test_a_room_is_heard_after_the_sound_and_keeps_its_loudness() -> None:
    clip = np.zeros(32000, np.float32)
    clip[8000:8400] = tone(500, seconds=0.025)
    version = made("room", clip, {"rt60": 0.8, "direct": 0})
    assert decibels(version) == pytest.approx(decibels(clip), abs=0.01)
    assert not version[:7000].round(6).any()
    assert decibels(version[10000:12000]) > decibels(version[16000:18000]) + 15 > -90


def test_band_keeps_what_is_inside_and_falls_by_24_db_an_octave() -> None:
    hiss = colored_noise(20 * SAMPLE_RATE, "white", np.random.default_rng(0)) * np.float32(0.1)
    version = made("band", hiss, {"low": 400, "high": 3000})
    before, after = (lambda low, high: band_decibels(hiss, low, high)), (lambda *ends: band_decibels(version, *ends))
    assert after(900, 1500) == pytest.approx(before(900, 1500), abs=0.5)
    assert after(390, 410) == pytest.approx(before(390, 410) - 3, abs=1)
    assert before(190, 210) - 30 < after(190, 210) < before(190, 210) - 22
    assert after(5900, 6100) < before(5900, 6100) - 24


def test_telephone_leaves_the_telephones_band_alone_and_its_eight_bits() -> None:
    hiss = colored_noise(10 * SAMPLE_RATE, "white", np.random.default_rng(0)) * np.float32(0.05)
    version = made("telephone", hiss, {})
    assert band_decibels(version, 600, 3000) == pytest.approx(band_decibels(hiss, 600, 3000), abs=0.5)
    assert band_decibels(version, 4200, 8000) < band_decibels(hiss, 4200, 8000) - 60
    assert band_decibels(version, 0, 150) < band_decibels(hiss, 0, 150) - 25
    heard = made("telephone", tone(1000), {})[4000:-4000]
    waves = np.exp(2j * np.pi * np.arange(len(heard)) / 16)
    back = heard - 2 * np.real(np.vdot(waves, heard) / len(heard) * waves)
    # Eight bits of mu-law leave about 38 dB; 16 linear ones left 90.
    assert 33 < decibels(heard) - decibels(back) < 43


@pytest.mark.parametrize("share", [0.01, 0.1, 0.5])
def test_clipping_cuts_off_the_share_of_samples_asked_for(share: float, speech: np.ndarray) -> None:
    padded = np.concatenate([np.zeros(60000, np.float32), speech])
    version = made("clipping", padded, {"share": share})
    ceiling = np.abs(version).max()
    assert np.mean(np.abs(version[padded != 0]) >= ceiling) == pytest.approx(share, abs=0.005)
    below = np.abs(padded) < ceiling
    assert np.array_equal(version[below], padded[below])


@pytest.mark.parametrize(("codec", "least"), [("mp3", 10), ("opus", 10), ("vorbis", 10), ("gsm", 4)])
def test_a_codec_loses_something_and_stays_in_place(codec: str, least: float, speech: np.ndarray) -> None:
    version = made("codec", speech, {"formats": codec, "compression": 0.85})
    assert len(version) == len(speech)
    assert lag(speech, version) == 0
    assert least < decibels(speech) - decibels(version - speech) < 40


def test_a_codec_is_squeezed_harder_the_more_compression(speech: np.ndarray) -> None:
    for codec in ("mp3", "opus", "vorbis"):
        little, much = (made("codec", speech, {"formats": codec, "compression": c}) for c in (0.3, 0.99))
        assert decibels(much - speech) > decibels(little - speech) + 3, codec


def test_a_codecs_delay_is_taken_off_where_the_library_leaves_it(
    speech: np.ndarray, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoded = transforms._decoded
    monkeypatch.setattr(transforms, "_decoded", lambda content: np.pad(decoded(content), (1105, 47)))
    codec_delay.cache_clear()
    try:
        assert codec_delay("mp3") == 1105
        version = made("codec", speech, {"formats": "mp3", "compression": 0.8})
        assert len(version) == len(speech)
        assert lag(speech, version) == 0
    finally:
        codec_delay.cache_clear()


def test_a_codec_that_the_library_lacks_is_one_line(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(CODECS, "mp3", ("MP3", "OPUS", SAMPLE_RATE))
    codec_delay.cache_clear()
    try:
        with pytest.raises(InputError, match=r"cannot write mp3: leave it out of codec\.formats"):
            Augment({"codec": {}})
        Augment({"codec": {"formats": ["vorbis", "gsm"]}})
    finally:
        codec_delay.cache_clear()
