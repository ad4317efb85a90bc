"""What can be done to a recording, from the voice to the file: the transforms of `ser_ft.data.augmentation.waveform`.

Each takes float32 samples at 16 kHz, shape (samples,), a random generator, and its settings as they were drawn. The
values are drawn here; audiomentations, soxr and libsndfile are handed exact ones.
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
from .parameters import Choice, Folder, Range, Setting

# Exponents of the power spectrum: power goes with frequency to the power of these (Timmer & König 1995).
COLOURS = {"white": 0.0, "pink": -1.0, "brown": -2.0, "blue": 1.0, "violet": 2.0}
# Pink and brown noise would put nearly all of their power where nothing is heard.
LOWEST_NOISE = 20.0
# The band of the telephone (ITU-T G.712), and its rate.
TELEPHONE_BAND, TELEPHONE_RATE = (300.0, 3400.0), 8000
# libsndfile's format and subtype, and the rate in Hz at which the codec is run.
CODECS = {
    "mp3": ("MP3", "MPEG_LAYER_III", SAMPLE_RATE),
    "opus": ("OGG", "OPUS", SAMPLE_RATE),
    "vorbis": ("OGG", "VORBIS", SAMPLE_RATE),
    "gsm": ("WAV", "GSM610", 8000),
}
_LONGEST_DELAY = 4000  # samples; mp3 is late by 1105 where nobody takes it off


@dataclass(frozen=True)
class Transform:
    """What a transform does, its settings, and the function that does it."""

    about: str
    settings: Mapping[str, Setting]
    apply: Callable[..., np.ndarray]


def coloured_noise(length: int, colour: str, generator: np.random.Generator) -> np.ndarray:
    """Make noise whose power goes with a power of frequency, from 20 Hz up (Timmer & König 1995).

    Args:
        length: in samples. colour: one of `COLOURS`.

    Returns:
        float32 samples, shape (length,), of any level.
    """
    size = scipy.fft.next_fast_len(max(length, 2), real=True)
    spectrum = scipy.fft.rfft(generator.standard_normal(size, dtype=np.float32))
    frequencies = np.fft.rfftfreq(size, 1 / SAMPLE_RATE)
    heard = frequencies >= LOWEST_NOISE
    shape = np.zeros(len(frequencies), dtype=np.float32)
    shape[heard] = (frequencies[heard] / 1000) ** (COLOURS[colour] / 2)
    made: np.ndarray = scipy.fft.irfft(spectrum * shape, size)[:length]
    return made


def room_response(rt60: float, direct: float, generator: np.random.Generator) -> np.ndarray:
    """Simulate a room's response: the direct sound, and noise that decays exponentially after it (Polack 1988).

    Args:
        rt60: seconds in which the reverberation falls by 60 dB.
        direct: energy of the direct sound over that of the reverberation, in dB.

    Returns:
        float32 response, shape (1 + rt60 * 16000,); the direct sound is its first sample, 1.0.
    """
    seconds = np.arange(1, 1 + max(1, round(rt60 * SAMPLE_RATE))) / SAMPLE_RATE
    tail = generator.standard_normal(len(seconds)) * 10 ** (-3 * seconds / rt60)
    tail *= 10 ** (-direct / 20) / np.sqrt(np.sum(tail**2))
    return np.concatenate([[1.0], tail]).astype(np.float32)


def full_scale(samples: np.ndarray) -> np.ndarray:
    """Scale samples of any shape down to a peak of 1.0 where they are above it: nothing is clipped."""
    peak = float(np.abs(samples).max(initial=0.0))
    return samples / np.float32(peak) if peak > 1 else samples


@lru_cache
def codec_delay(name: str) -> int:
    """Measure by how many samples what comes back from a codec is late: 0 where libsndfile takes the delay off.

    Raises:
        InputError: this libsndfile does not have the codec.
    """
    sent = np.random.default_rng(0).standard_normal(SAMPLE_RATE).astype(np.float32)
    sent = scipy.signal.sosfilt(scipy.signal.butter(4, 3000, fs=SAMPLE_RATE, output="sos"), sent) * np.float32(0.1)
    try:
        back = _decoded(_encoded(sent, name, 0.5))
    except (soundfile.LibsndfileError, ValueError) as error:
        version = soundfile.__libsndfile_version__
        raise InputError(
            f"augmentation codec: libsndfile {version} cannot write {name}: leave it out of codec.formats, or upgrade "
            "soundfile"
        ) from error
    size = scipy.fft.next_fast_len(len(sent) + len(back), real=True)
    alike = scipy.fft.irfft(scipy.fft.rfft(back, size) * scipy.fft.rfft(sent, size).conj(), size)
    return int(np.argmax(alike[:_LONGEST_DELAY]))


def _encoded(samples: np.ndarray, name: str, compression: float) -> bytes:
    kind, subtype, rate = CODECS[name]
    options: dict[str, Any] = {} if name == "gsm" else {"compression_level": compression}
    if name == "mp3":
        # At a constant low rate no header tells the decoder of the encoder's delay.
        options["bitrate_mode"] = "VARIABLE"
    file = io.BytesIO()
    sent = full_scale(audio.resample(samples, SAMPLE_RATE, rate))
    soundfile.write(file, sent, rate, format=kind, subtype=subtype, **options)
    return file.getvalue()


def _decoded(content: bytes) -> np.ndarray:
    samples, rate = soundfile.read(io.BytesIO(content), dtype="float32")
    return audio.resample(samples, rate)


def _noise(samples: np.ndarray, generator: np.random.Generator, colour: str, snr: float) -> np.ndarray:
    return _mixed(samples, coloured_noise(len(samples), colour, generator), snr)


def _background(samples: np.ndarray, generator: np.random.Generator, folder: str, snr: float) -> np.ndarray:
    sound = _recording(folder)
    room = len(sound) - len(samples)
    start = int(generator.integers(room + 1 if room > 0 else len(sound)))
    part = np.take(sound, np.arange(start, start + len(samples)), mode="wrap")
    if not part.any():
        start = int(np.argmax(np.abs(sound))) - len(samples) // 2
        part = np.take(sound, np.arange(start, start + len(samples)), mode="wrap")
    return _mixed(samples, part, snr)


@lru_cache(maxsize=8)
def _recording(file: str) -> np.ndarray:
    try:
        sound = audio.decode(file)
    except audio.AudioError as error:
        raise InputError(f"augmentation background: {error}: take it out of the folder") from error
    if not sound.any():
        raise InputError(f"augmentation background: {file}: silent: take it out of the folder")
    return sound


def _mixed(samples: np.ndarray, noise: np.ndarray, snr: float) -> np.ndarray:
    """Add noise at a signal-to-noise ratio (dB) of the clip's whole power to the noise's."""
    level = _rms(noise)
    if level == 0:
        return samples
    mixed: np.ndarray = samples + noise * np.float32(_rms(samples) / level * 10 ** (-snr / 20))
    return mixed


def _rms(samples: np.ndarray) -> float:
    return math.sqrt(float(np.mean(np.square(samples, dtype=np.float64))))


def _shift(samples: np.ndarray, _: np.random.Generator, by: float, unit: str) -> np.ndarray:
    import audiomentations

    whole = by * (len(samples) if unit == "share" else SAMPLE_RATE)
    places = round(math.fmod(whole, len(samples)))
    return _done(audiomentations.Shift(places, places, shift_unit="samples", p=1.0), samples)


def _pitch(samples: np.ndarray, _: np.random.Generator, semitones: float) -> np.ndarray:
    import audiomentations

    return _done(audiomentations.PitchShift(semitones, semitones, p=1.0), samples)


def _stretch(samples: np.ndarray, _: np.random.Generator, rate: float) -> np.ndarray:
    import audiomentations

    return _done(audiomentations.TimeStretch(rate, rate, leave_length_unchanged=False, p=1.0), samples)


def _speed(samples: np.ndarray, _: np.random.Generator, rate: float) -> np.ndarray:
    resampled: np.ndarray = soxr.resample(samples, SAMPLE_RATE * rate, SAMPLE_RATE, quality="HQ")
    return resampled


def _volume(samples: np.ndarray, _: np.random.Generator, gain: float) -> np.ndarray:
    import audiomentations

    return _done(audiomentations.Gain(gain, gain, p=1.0), samples)


def _room(samples: np.ndarray, generator: np.random.Generator, rt60: float, direct: float) -> np.ndarray:
    wet = scipy.signal.oaconvolve(samples, room_response(rt60, direct, generator))[: len(samples)]
    level = _rms(wet)
    # As loud as before: else a model could tell rooms by their loudness.
    louder: np.ndarray = wet * np.float32(_rms(samples) / level if level else 1.0)
    return louder


def _band(samples: np.ndarray, _: np.random.Generator, low: float, high: float) -> np.ndarray:
    return _within(samples, low, high, slope=24)


def _within(samples: np.ndarray, low: float, high: float, slope: int) -> np.ndarray:
    """Keep a band (Hz) with a Butterworth filter, 3 dB down at its ends and falling by `slope` dB an octave beyond."""
    import audiomentations

    centre = (low + high) / 2
    width = (high - low) / centre
    return _done(audiomentations.BandPassFilter(centre, centre, width, width, slope, slope, p=1.0), samples)


def _clipping(samples: np.ndarray, _: np.random.Generator, share: float) -> np.ndarray:
    # Digital silence counts for nothing: in a clip with much of it, all else would be clipped away.
    loud = np.abs(samples[samples != 0])
    if not len(loud):
        return samples
    ceiling = np.quantile(loud, 1 - share)
    clipped: np.ndarray = np.clip(samples, -ceiling, ceiling)
    return clipped


def _telephone(samples: np.ndarray, _: np.random.Generator) -> np.ndarray:
    spoken = full_scale(audio.resample(_within(samples, *TELEPHONE_BAND, slope=48), SAMPLE_RATE, TELEPHONE_RATE))
    file = io.BytesIO()
    soundfile.write(file, spoken, TELEPHONE_RATE, format="WAV", subtype="ULAW")
    return _as_long(_decoded(file.getvalue()), len(samples))


def _codec(samples: np.ndarray, _: np.random.Generator, formats: str, compression: float) -> np.ndarray:
    back = _decoded(_encoded(samples, formats, compression))
    return _as_long(back[codec_delay(formats) :], len(samples))


def _as_long(samples: np.ndarray, length: int) -> np.ndarray:
    return np.pad(samples[:length], (0, max(0, length - len(samples))))


def _done(transform: Callable[[np.ndarray, int], np.ndarray], samples: np.ndarray) -> np.ndarray:
    return transform(samples, SAMPLE_RATE)


_SNR = Range((5, 25), -20, 60, "dB")

# In the order in which they are applied: the voice, the room, the microphone, the line, the file.
TRANSFORMS: dict[str, Transform] = {
    "pitch": Transform(
        "moves the pitch; the length stays (Signalsmith Stretch)", {"semitones": Range((-2, 2), -12, 12, "")}, _pitch
    ),
    "stretch": Transform(
        "speaks faster (rate above 1) or slower; the pitch stays (Signalsmith Stretch)",
        # Below 0.5 Signalsmith Stretch draws random phases that no seed reaches.
        {"rate": Range((0.85, 1.15), 0.5, 2, "")},
        _stretch,
    ),
    "speed": Transform(
        "plays faster (rate above 1) or slower: pitch, formants and tempo together (Ko et al. 2015)",
        {"rate": Range((0.9, 1.1), 0.5, 2, "")},
        _speed,
    ),
    "shift": Transform(
        "moves the sound in time; what leaves at one end comes in at the other, faded over 5 ms",
        {"by": Range((-0.1, 0.1), -60, 60, ""), "unit": Choice(("share",), ("share", "seconds"))},
        _shift,
    ),
    "room": Transform(
        "speaks in a room, simulated: exponentially decaying noise (Polack 1988); the loudness stays",
        {"rt60": Range((0.2, 0.8), 0.05, 5, "s"), "direct": Range((0, 10), -20, 40, "dB")},
        _room,
    ),
    "background": Transform("adds noise from a folder of recordings", {"folder": Folder(), "snr": _SNR}, _background),
    "noise": Transform(
        "adds noise of a colour",
        {"colour": Choice(("white", "pink", "brown"), tuple(COLOURS)), "snr": _SNR},
        _noise,
    ),
    "volume": Transform(
        "makes it louder, up to full scale, or softer", {"gain": Range((-10, 10), -60, 60, "dB")}, _volume
    ),
    "band": Transform(
        "keeps a band alone, as a poor microphone does: 24 dB an octave beyond its ends",
        {"low": Range((50, 400), 10, 1200, "Hz"), "high": Range((2500, 7000), 1500, 7900, "Hz")},
        _band,
    ),
    "clipping": Transform(
        "cuts off the loudest samples, as an overdriven input does",
        {"share": Range((0.01, 0.1), 0, 0.5, "")},
        _clipping,
    ),
    "telephone": Transform("sends it through a telephone: 300 to 3400 Hz, 8 kHz, mu-law (ITU-T G.711)", {}, _telephone),
    "codec": Transform(
        "writes it with a codec that loses something, and reads it back; compression is libsndfile's: 0 least, 1 most",
        {
            "formats": Choice(("mp3", "opus", "vorbis", "gsm"), tuple(CODECS), codec_delay),
            "compression": Range((0.8, 0.95), 0, 0.99, ""),
        },
        _codec,
    ),
}


def listing() -> str:
    """Return a text for a person: each transform, what it does, and its settings with their defaults."""
    lines = []
    for name, transform in TRANSFORMS.items():
        lines.append(f"  {name:<12}{transform.about}")
        lines += [f"{'':14}{key}: {setting.usage()}" for key, setting in transform.settings.items()]
    return "\n".join(lines)
