"""The transforms of `ser_ft.data.augmentation.waveform`, from the voice to the file.

A transform takes float32 samples at 16 kHz, shape (samples,), a random generator, and its sampled parameters. The
parameters are sampled here; audiomentations, soxr and libsndfile are given exact values.
"""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import scipy.fft
import scipy.signal
import soundfile
import soxr

from ... import audio
from ...audio import SAMPLE_RATE
from ...utils.errors import InputError
from .parameters import Choice, Parameter, Range, SoundFolder

# Exponent of the power spectrum over frequency (Timmer & König 1995).
NOISE_COLORS = {"white": 0.0, "pink": -1.0, "brown": -2.0, "blue": 1.0, "violet": 2.0}
# Hz. Without this limit, pink and brown noise would have nearly all of their power below the audible range.
MIN_NOISE_FREQ = 20.0
# Band (Hz) and sampling rate of the telephone (ITU-T G.712).
TELEPHONE_BAND, TELEPHONE_RATE = (300.0, 3400.0), 8000
# libsndfile's format and subtype, and the codec's sampling rate in Hz.
CODECS = {
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
    "vorbis": ("OGG", "VORBIS", SAMPLE_RATE),
    "gsm": ("WAV", "GSM610", 8000),
}
_MAX_CODEC_DELAY = 4000  # samples; mp3's is 1105 where the decoder does not remove it


@dataclass(frozen=True)
class Transform:
    """A transform."""

    description: str  # what it does, for help texts
    parameters: Mapping[str, Parameter]  # its parameters, in the order in which they are sampled
    apply: Callable[..., np.ndarray]


def colored_noise(num_samples: int, color: str, generator: np.random.Generator) -> np.ndarray:
    """Generate noise whose power follows a power law over frequency, from 20 Hz (Timmer & König 1995).

    Returns float32 samples, shape (num_samples,), at no particular level.
    """
    size = scipy.fft.next_fast_len(max(num_samples, 2), real=True)
    spectrum = scipy.fft.rfft(generator.standard_normal(size, dtype=np.float32))
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    audible = frequencies >= MIN_NOISE_FREQ
    envelope = np.zeros(len(frequencies), dtype=np.float32)
    envelope[audible] = (frequencies[audible] / 1000) ** (NOISE_COLORS[color] / 2)
    noise: np.ndarray = scipy.fft.irfft(spectrum * envelope, size)[:num_samples]
    return noise


def room_response(rt60: float, drr_db: float, generator: np.random.Generator) -> np.ndarray:
    """Simulate a room's impulse response: the direct sound and exponentially decaying noise (Polack 1988).

    `rt60` is the time in seconds in which the reverberation falls by 60 dB, `drr_db` the direct-to-reverberant energy
    ratio. The response is float32, shape (1 + rt60 * 16000,); the direct sound is its first sample, 1.0.
    """
    seconds = np.arange(1, 1 + max(1, round(rt60 * SAMPLE_RATE))) / SAMPLE_RATE
    tail = generator.standard_normal(len(seconds)) * 10 ** (-3 * seconds / rt60)
    tail *= 10 ** (-drr_db / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def full_scale(samples: np.ndarray) -> np.ndarray:
    """Scale samples of any shape to a peak of 1.0 where they exceed it, without clipping."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / np.float32(peak) if peak > 1 else samples


@lru_cache
def codec_delay(codec: str) -> int:
    """Measure a codec's delay in samples; 0 where libsndfile removes it. InputError if it does not have the codec."""
    sent = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    sent = scipy.signal.sosfilt(scipy.signal.butter(4, 3000, fs=SAMPLE_RATE, output="sos"), sent) * np.float32(0.1)
    try:
        received = _decode(_encode(sent, codec, 0.5))
    except (soundfile.LibsndfileError, ValueError) as error:
        version = soundfile.__libsndfile_version__
        raise InputError(
            f"augmentation codec: libsndfile {version} cannot write {codec}: remove it from codec.format, or upgrade "
            "soundfile"
        ) from error
    size = scipy.fft.next_fast_len(len(sent) + len(received), real=True)
    correlation = scipy.fft.irfft(scipy.fft.rfft(received, size) * scipy.fft.rfft(sent, size).conj(), size)
    return int(np.argmax(correlation[:_MAX_CODEC_DELAY]))


def _encode(samples: np.ndarray, codec: str, compression_level: float) -> bytes:
    file_format, subtype, rate = CODECS[codec]
    options: dict[str, Any] = {} if codec == "gsm" else {"compression_level": compression_level}
    if codec == "mp3":
        # At a constant low rate, no header tells the decoder the encoder's delay.
        options["bitrate_mode"] = "VARIABLE"
    file = io.BytesIO()
    resampled = full_scale(audio.resample(samples, SAMPLE_RATE, rate))
    soundfile.write(file, resampled, rate, format=file_format, subtype=subtype, **options)
    return file.getvalue()


def _decode(content: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    return audio.resample(samples, rate)


def _noise(samples: np.ndarray, generator: np.random.Generator, color: str, snr_db: float) -> np.ndarray:
    return _add_noise(samples, colored_noise(len(samples), color, generator), snr_db)


def _background(samples: np.ndarray, generator: np.random.Generator, sounds_path: str, snr_db: float) -> np.ndarray:
    recording = _read_background(sounds_path)
    excess = len(recording) - len(samples)
    start = int(generator.integers(excess + 1 if excess > 0 else len(recording)))
    part = np.take(recording, np.arange(start, start + len(samples)), mode="wrap")
    if not part.any():
        start = int(np.argmax(np.abs(recording))) - len(samples) // 2
        part = np.take(recording, np.arange(start, start + len(samples)), mode="wrap")
    return _add_noise(samples, part, snr_db)


@lru_cache(maxsize=8)
def _read_background(file: str) -> np.ndarray:
    try:
        samples = audio.decode(file)
    except audio.AudioError as error:
        raise InputError(f"augmentation background: {error}: remove it from the folder") from error
    if not samples.any():
        raise InputError(f"augmentation background: {file}: silent: remove it from the folder")
    return samples


def _add_noise(samples: np.ndarray, noise: np.ndarray, snr_db: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio between the mean powers of the clip and of the noise."""
    level = _rms(noise)
    if level == 0:
        return samples
    noisy: np.ndarray = samples + noise * np.float32(_rms(samples) / level * 10 ** (-snr_db / 20))
    return noisy


def _rms(samples: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))


def _shift(samples: np.ndarray, _: np.random.Generator, shift: float, shift_unit: str) -> np.ndarray:
    distance = shift * (len(samples) if shift_unit == "fraction" else SAMPLE_RATE)
    places = round(math.fmod(distance, len(samples)))
    return _audiomentations("Shift", samples, places, places, shift_unit="samples")


def _silence(samples: np.ndarray, _: np.random.Generator, before: float, after: float) -> np.ndarray:
    return np.pad(samples, [round(seconds * SAMPLE_RATE) for seconds in (before, after)])


def _pitch(samples: np.ndarray, _: np.random.Generator, semitones: float) -> np.ndarray:
    return _audiomentations("PitchShift", samples, semitones, semitones)


def _stretch(samples: np.ndarray, _: np.random.Generator, rate: float) -> np.ndarray:
    return _audiomentations("TimeStretch", samples, rate, rate, leave_length_unchanged=False)


def _speed(samples: np.ndarray, _: np.random.Generator, factor: float) -> np.ndarray:
    resampled: np.ndarray = soxr.resample(samples, SAMPLE_RATE * factor, SAMPLE_RATE, quality="HQ")
    return resampled


def _volume(samples: np.ndarray, _: np.random.Generator, gain_db: float) -> np.ndarray:
    return _audiomentations("Gain", samples, gain_db, gain_db)


def _room(samples: np.ndarray, generator: np.random.Generator, rt60: float, drr_db: float) -> np.ndarray:
    reverberant = scipy.signal.oaconvolve(samples, room_response(rt60, drr_db, generator))[: len(samples)]
    level = _rms(reverberant)
    # The loudness stays, or a model could recognize rooms by it.
    scaled: np.ndarray = reverberant * np.float32(_rms(samples) / level if level else 1.0)
    return scaled


def _band(samples: np.ndarray, _: np.random.Generator, f_min: float, f_max: float) -> np.ndarray:
    return _band_pass(samples, f_min, f_max, rolloff=24)


def _band_pass(samples: np.ndarray, f_min: float, f_max: float, rolloff: int) -> np.ndarray:
    """Apply a Butterworth filter, 3 dB down at f_min and f_max (Hz) and falling by `rolloff` dB per octave beyond."""
    center = (f_min + f_max) / 2
    bandwidth_fraction = (f_max - f_min) / center
    limits = center, center, bandwidth_fraction, bandwidth_fraction, rolloff, rolloff
    return _audiomentations("BandPassFilter", samples, *limits)


def _audiomentations(transform: str, samples: np.ndarray, *args: Any, **options: Any) -> np.ndarray:
    import audiomentations

    transformed: np.ndarray = getattr(audiomentations, transform)(*args, **options, p=1.0)(samples, SAMPLE_RATE)
    return transformed


def _clipping(samples: np.ndarray, _: np.random.Generator, fraction: float) -> np.ndarray:
    # Digital silence is not counted: in a clip with much of it, everything else would be clipped.
    magnitudes = np.abs(samples[samples != 0])
    if not len(magnitudes):
        return samples
    ceiling = np.quantile(magnitudes, 1 - fraction)
    clipped: np.ndarray = np.clip(samples, -ceiling, ceiling)
    return clipped


def _telephone(samples: np.ndarray, _: np.random.Generator) -> np.ndarray:
    limited = _band_pass(samples, *TELEPHONE_BAND, rolloff=48)
    narrowband = full_scale(audio.resample(limited, SAMPLE_RATE, TELEPHONE_RATE))
    file = io.BytesIO()
    soundfile.write(file, narrowband, TELEPHONE_RATE, format="WAV", subtype="ULAW")
    return _fit_length(_decode(file.getvalue()), len(samples))


def _codec(samples: np.ndarray, _: np.random.Generator, format: str, compression_level: float) -> np.ndarray:
    received = _decode(_encode(samples, format, compression_level))
    return _fit_length(received[codec_delay(format) :], len(samples))


def _fit_length(samples: np.ndarray, length: int) -> np.ndarray:
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


_SNR_DB = Range((5, 25), -20, 60, "dB")

# In the order in which they are applied: voice, room, microphone, line, file.
TRANSFORMS: dict[str, Transform] = {
    "pitch": Transform(
        "shifts the pitch and keeps the length (Signalsmith Stretch)",
        {"semitones": Range((-2, 2), -12, 12, "")},
        _pitch,
    ),
    "stretch": Transform(
        "changes the tempo (faster with a rate above 1) and keeps the pitch (Signalsmith Stretch)",
        # Below 0.5 Signalsmith Stretch uses random phases that cannot be seeded.
        {"rate": Range((0.85, 1.15), 0.5, 2, "")},
        _stretch,
    ),
    "speed": Transform(
        "changes the speed (faster with a factor above 1): pitch, formants and tempo together (Ko et al. 2015)",
        {"factor": Range((0.9, 1.1), 0.5, 2, "")},
        _speed,
    ),
    "shift": Transform(
        "shifts the sound in time; what leaves at one end enters at the other, faded over 5 ms",
        {"shift": Range((-0.1, 0.1), -60, 60, ""), "shift_unit": Choice(("fraction",), ("fraction", "seconds"))},
        _shift,
    ),
    "silence": Transform(
        "adds digital silence at the beginning and the end",
        {"before": Range((0, 1), 0, 60, "s"), "after": Range((0, 1), 0, 60, "s")},
        _silence,
    ),
    "room": Transform(
        "simulates a room with exponentially decaying noise (Polack 1988) and keeps the loudness",
        {"rt60": Range((0.2, 0.8), 0.05, 5, "s"), "drr_db": Range((0, 10), -20, 40, "dB")},
        _room,
    ),
    "background": Transform(
        "adds noise from a folder of recordings", {"sounds_path": SoundFolder(), "snr_db": _SNR_DB}, _background
    ),
    "noise": Transform(
        "adds colored noise",
        {"color": Choice(("white", "pink", "brown"), tuple(NOISE_COLORS)), "snr_db": _SNR_DB},
        _noise,
    ),
    "volume": Transform("changes the level, up to full scale", {"gain_db": Range((-10, 10), -60, 60, "dB")}, _volume),
    "band": Transform(
        "limits the band as a poor microphone does: 24 dB per octave outside",
        {"f_min": Range((50, 400), 10, 1200, "Hz"), "f_max": Range((2500, 7000), 1500, 7900, "Hz")},
        _band,
    ),
    "clipping": Transform(
        "clips this fraction of the samples, as an overdriven input does",
        {"fraction": Range((0.01, 0.1), 0, 0.5, "")},
        _clipping,
    ),
    "telephone": Transform("simulates a telephone: 300 to 3400 Hz, 8 kHz, mu-law (ITU-T G.711)", {}, _telephone),
    "codec": Transform(
        "encodes with a lossy codec and decodes; compression_level is libsndfile's, from 0 (least) to 1 (most)",
        {
            "format": Choice(("mp3", "opus", "vorbis", "gsm"), tuple(CODECS), codec_delay),
            "compression_level": Range((0.8, 0.95), 0, 0.99, ""),
        },
        _codec,
    ),
}


def describe_transforms() -> str:
    """Return a text with each transform, its description, and its parameters with their defaults."""
    lines = []
    for name, transform in TRANSFORMS.items():
        lines.append(f"  {name:<12}{transform.description}")
        lines += [f"{'':14}{key}: {parameter.usage()}" for key, parameter in transform.parameters.items()]
    return "\n".join(lines)
