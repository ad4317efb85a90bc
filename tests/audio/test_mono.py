"""Conversion to one channel at 16 kHz: the same for blocks of any size, without offset and rumble."""

from __future__ import annotations

import logging
from collections.abc import Callable

import numpy as np
import pytest
from scipy.signal import butter, sosfilt

from ser_ft.audio import SILENCE_PEAK, AudioError, HighPass, MonoConverter, decode, decode_blocks, is_silent, to_pcm16
from ser_ft.audio.filters import CUTOFF, Resampler
from tests.helpers.sound_files import encode

RATES = [8_000, 16_000, 22_050, 24_414, 44_100, 48_000, 96_000]


def noise(rate: int, seconds: float = 1.3, channels: int = 1) -> np.ndarray:
    samples = 0.1 * np.random.default_rng(rate).normal(size=(round(rate * seconds), channels))
    return samples.astype(np.float32)


def convert(samples: np.ndarray, rate: int = 16_000, channel: int | None = None) -> np.ndarray:
    return MonoConverter(rate, channel).feed(samples, last=True)


def sine(hertz: float, amplitude: float, samples: int) -> np.ndarray:
    return (amplitude * np.sin(2 * np.pi * hertz * np.arange(samples) / 16_000)).astype(np.float32)


def level(samples: np.ndarray) -> float:
    return 10 * float(np.log10(np.mean(np.square(samples, dtype=np.float64)) + 1e-20))


@pytest.mark.parametrize("rate", RATES)
@pytest.mark.parametrize("seconds", [0.01, 0.3, 60.0])
@pytest.mark.parametrize("channels", [1, 2])
def test_blocks_join_to_the_result_of_decode(rate: int, seconds: float, channels: int) -> None:
    file = encode(noise(rate, channels=channels) + 0.1, rate)
    assert np.array_equal(np.concatenate(list(decode_blocks(file, seconds))), decode(file))


@pytest.mark.parametrize("rate", [8_000, 16_000, 44_100])
@pytest.mark.parametrize("sign", [1, -1], ids=["channels add up", "channels cancel"])
def test_chunks_of_any_size_give_the_result_of_decode(rate: int, sign: int) -> None:
    left = noise(rate)
    stereo = to_pcm16(np.concatenate([left + 0.2, sign * left], axis=1))
    sizes = np.random.default_rng(3).integers(0, 2000, 500)
    converter, position, received = MonoConverter(rate), 0, []
    for size in sizes:
        received.append(converter.feed(stereo[position : position + size]))
        position += size
    assert position > len(stereo)
    assert np.array_equal(np.concatenate([*received, converter.finish()]), decode(encode(stereo, rate)))


@pytest.mark.parametrize("seed", range(8))
def test_the_high_pass_is_that_of_scipy_for_blocks_of_any_size(seed: int) -> None:
    generator = np.random.default_rng(seed)
    samples = noise(16_000, 0.5)[:, 0]
    cuts = np.sort(generator.integers(0, len(samples), 2 ** (seed + 1)))
    high_pass = HighPass()
    actual = np.concatenate([high_pass.feed(part.copy()) for part in np.split(samples, cuts)])
    assert np.array_equal(actual, HighPass().feed(samples.copy()))
    expected = sosfilt(butter(2, CUTOFF, "high", fs=16_000, output="sos"), samples.astype(np.float64))
    assert np.abs(actual - expected).max() < 1e-6


@pytest.mark.parametrize("offset", [0.003, -0.03, 0.3, 0.5])
@pytest.mark.parametrize("rate", [8_000, 16_000, 48_000])
def test_a_constant_offset_changes_nothing(offset: float, rate: int) -> None:
    """An inaudible offset changed a quarter of the answers of a model; neither end has a step."""
    samples = noise(rate)[:, 0]
    assert np.abs(convert(samples + np.float32(offset), rate) - convert(samples, rate)).max() < 1e-5
    assert is_silent(convert(np.full(rate, offset, np.float32), rate))


def test_rumble_is_removed_and_the_lowest_voices_are_kept() -> None:
    levels = [
        level(convert(sine(hertz, 0.1, 32_000))[8_000:]) - level(sine(hertz, 0.1, 32_000)) for hertz in (5, 10, 80)
    ]
    assert levels[0] < -34
    assert levels[1] < -23
    assert -0.3 < levels[2] < 0
    assert is_silent(convert(sine(10, 0.005, 32_000)))


@pytest.mark.parametrize("offset", [np.zeros(0), np.zeros(1), np.full(100, 0.3)])
def test_very_short_audio_is_converted(offset: np.ndarray) -> None:
    assert np.abs(convert(offset)).max(initial=0.0) < 1e-7
    assert len(convert(offset)) == len(offset)


@pytest.mark.parametrize(
    "samples",
    [
        pytest.param(np.zeros((2, 2, 2), np.float32), id="three dimensions"),
        pytest.param(np.zeros(9, np.int64), id="64 bits"),
        pytest.param(np.zeros(9, bool), id="booleans"),
        pytest.param(np.array([np.nan, 0]), id="not a number"),
        pytest.param(np.array([0, -np.inf]), id="infinite"),
        pytest.param(np.zeros((3, 0)), id="no channels"),
        pytest.param(sine(400, 20_000, 16_000), id="full scale of 16 bits"),
    ],
)
def test_what_is_not_audio_is_refused(samples: np.ndarray) -> None:
    with pytest.raises(AudioError, match="the stream"):
        convert(samples)


@pytest.mark.parametrize("dtype", [np.int8, np.int16, np.int32, np.float16, np.float64])
def test_full_scale_follows_from_the_type_of_the_samples(dtype: type) -> None:
    scale = 1 if np.issubdtype(dtype, np.floating) else -float(np.iinfo(dtype).min)
    samples = sine(400, 0.5, 16_000)
    assert np.abs(convert((samples * scale).astype(dtype)) - convert(samples)).max() < 0.01
    assert np.abs(convert((samples * 128 + 128).astype(np.uint8)) - convert(samples)).max() < 0.02


@pytest.mark.parametrize("gain", [1.5, 3.0, 60.0])
def test_values_beyond_full_scale_are_clipped_for_predictions_as_for_tables(
    gain: float, caplog: pytest.LogCaptureFixture
) -> None:
    samples = sine(400, gain, 16_000)
    whole = decode(encode(samples, subtype="FLOAT"), name="clip.wav")
    assert np.abs(whole).max() == 1.0
    assert np.array_equal(whole, np.concatenate(list(decode_blocks(encode(samples, subtype="FLOAT"), 0.1))))
    assert np.array_equal(whole, convert(samples))
    assert ("clip.wav: samples far beyond full scale are clipped" in caplog.text) == (gain > 2)


@pytest.mark.parametrize("number", [300.0, 1e25, -1e25])
def test_samples_far_beyond_full_scale_are_refused(number: float) -> None:
    """Their squares would turn every prediction into NaN."""
    stereo = noise(16_000, channels=2)
    stereo[9_000, 1] = number
    for read in (decode, lambda file, name: list(decode_blocks(file, name=name))):
        with pytest.raises(AudioError, match=r"clip: its samples reach .*, but full scale of floats is 1.0"):
            read(encode(stereo, subtype="DOUBLE"), name="clip")


def one_channel(voice: np.ndarray) -> np.ndarray:
    return convert(voice)


def hiss(samples: np.ndarray, amplitude: float = 3e-3) -> np.ndarray:
    return np.random.default_rng(1).normal(scale=amplitude, size=samples.shape).astype(np.float32)


@pytest.mark.parametrize(
    ("stereo", "channel"),
    [
        pytest.param(lambda voice: (voice, -voice), 0, id="inverted"),
        pytest.param(lambda voice: (voice, -voice + hiss(voice)), 0, id="hiss in the inverted channel"),
        pytest.param(lambda voice: (voice + hiss(voice), -voice), 1, id="hiss in the other channel"),
        pytest.param(lambda voice: (voice + 0.2, -voice + 0.2), 0, id="inverted with an offset"),
        pytest.param(
            lambda voice: (voice + sine(50, 0.05, len(voice)), sine(50, 0.05, len(voice)) - voice),
            None,
            id="with the same hum",
        ),
        pytest.param(lambda voice: (voice, -np.roll(voice, 1)), None, id="inverted and later by a sample"),
        pytest.param(lambda voice: (voice, -voice, voice, -voice), 0, id="four channels"),
    ],
)
def test_of_channels_that_cancel_the_better_one_is_used(
    voices: list[np.ndarray], stereo: Callable[..., tuple[np.ndarray, ...]], channel: int | None,
    caplog: pytest.LogCaptureFixture,
) -> None:  # fmt: skip
    for voice in voices[:3]:
        channels = np.stack(stereo(np.concatenate([np.zeros(6_000, np.float32), voice])), axis=1).astype(np.float32)
        caplog.clear()
        actual = decode(encode(channels, subtype="FLOAT"), name="call.wav")
        assert "call.wav: the channels cancel each other" in caplog.text
        possible = range(channels.shape[1]) if channel is None else [channel]
        differences = [np.abs(actual - convert(channels, channel=index))[10_000:].max() for index in possible]
        assert min(differences) < SILENCE_PEAK


@pytest.mark.parametrize(
    "stereo",
    [
        pytest.param(lambda voice, other: (voice, voice), id="mono saved as stereo"),
        pytest.param(lambda voice, other: (voice, other), id="two talkers"),
        pytest.param(lambda voice, other: (voice, 0 * voice), id="one silent channel"),
        pytest.param(lambda voice, other: (voice, 0.3 * np.roll(voice, 7)), id="two microphones"),
        pytest.param(lambda voice, other: (voice + 0.05, voice - 0.05), id="opposite offsets"),
        pytest.param(lambda voice, other: (voice + hiss(voice, 1e-4), voice - sine(50, 0.02, len(voice))), id="hum"),
        pytest.param(lambda voice, other: (voice, voice, other), id="three channels"),
    ],
)
def test_other_channels_are_averaged(
    voices: list[np.ndarray], stereo: Callable[..., tuple[np.ndarray, ...]], caplog: pytest.LogCaptureFixture
) -> None:
    for voice, other in zip(voices[:3], voices[3:6], strict=True):
        size = min(len(voice), len(other))
        channels = np.stack(stereo(voice[:size], other[:size]), axis=1).astype(np.float32)
        assert np.abs(convert(channels) - convert(channels.mean(axis=1))).max() < 1e-5
    assert not caplog.records


def test_one_channel_can_be_selected(caplog: pytest.LogCaptureFixture) -> None:
    left = noise(16_000)
    stereo = np.concatenate([left, -left], axis=1)
    assert np.array_equal(convert(stereo, channel=1), convert(-left))
    assert not caplog.records
    with pytest.raises(AudioError, match="there is no channel 2: the audio has 2 channels"):
        convert(stereo, channel=2)


def test_the_number_of_channels_must_not_change() -> None:
    converter = MonoConverter(16_000)
    converter.feed(noise(16_000, channels=2))
    converter.feed(np.zeros(0, np.int16))
    with pytest.raises(AudioError, match="the number of channels must not change: there were 2, and now there are 1"):
        converter.feed(noise(16_000))


@pytest.mark.parametrize("rate", [8_000, 11_025, 24_414, 48_000])
def test_resampling_lags_by_less_than_an_eighth_of_a_second(rate: int) -> None:
    resampler, fed, ready = Resampler(rate), 0, 0
    for _ in range(100):
        fed += rate // 50
        ready += len(resampler.feed(noise(rate, 0.02)[:, 0]))
        assert fed / rate - ready / 16_000 < 0.12


def test_conversion_lags_only_at_the_start_and_by_a_quarter_of_a_second() -> None:
    for channels in (1, 2):
        converter, ready = MonoConverter(16_000), 0
        for count in range(1, 100):
            ready += len(converter.feed(noise(16_000, 0.02, channels)))
            late = 0.02 * count - ready / 16_000
            assert late < (0.26 if channels == 2 or count < 13 else 1e-6)
    assert logging.getLogger("ser_ft.audio").level == logging.NOTSET
