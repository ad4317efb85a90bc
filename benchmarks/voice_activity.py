"""Voice activity detection in recordings, clean and with noise, and in sound without speech.

    python benchmarks/voice_activity.py --data data/ravdess

A frame of a recording is speech if the clean clip is within 25 dB of its loudest frame, and no speech if it is more
than 50 dB below; frames in between do not count. Printed are the share of the speech that is detected, and the share
of the rest that is detected as speech. Silence, noise, hum, clicks, tones and sustained notes contain no speech.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ser_ft import audio
from ser_ft.audio.vad import FRAME, speech_frames
from ser_ft.data.augmentation.transforms import TRANSFORMS
from ser_ft.data.prepare import open_prepared

SPEECH, NO_SPEECH = 25.0, 50.0
SECONDS = 20.0


def levels(sound: np.ndarray) -> np.ndarray:
    """Return the levels of frames relative to the loudest, in dB, shape (frames,)."""
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    return np.asarray(power - power.max())


def sounds_without_speech(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Return sounds without speech, shape (samples,)."""
    time = np.arange(int(SECONDS * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    white = generator.normal(size=len(time))
    spectrum = np.fft.rfft(white) / np.sqrt(np.maximum(1.0, np.arange(len(time) // 2 + 1)))
    pink = np.fft.irfft(spectrum, len(time))
    clicks = np.zeros(len(time))
    clicks[generator.integers(0, len(time), 60)] = 1.0
    keys = sum(np.sin(2 * np.pi * frequency * time) for frequency in (770, 1336)) * (time % 0.4 < 0.2)
    notes = sum(np.sin(2 * np.pi * 220 * harmonic * time) / harmonic for harmonic in range(1, 8))
    sounds = {
        "silence": np.zeros(len(time)),
        "white noise": white,
        "pink noise": pink,
        "mains hum": np.sign(np.sin(2 * np.pi * 50 * time)),
        "clicks": clicks,
        "telephone keys": keys,
        "sustained note": notes,
    }
    return {name: (0.1 * sound / max(np.abs(sound).max(), 1e-9)).astype(np.float32) for name, sound in sounds.items()}


def noise(snr: float) -> Callable[[np.ndarray, np.random.Generator], np.ndarray]:
    return lambda sound, generator: TRANSFORMS["noise"].apply(sound, generator, color="pink", snr_db=snr)


CONDITIONS: dict[str, Callable[[np.ndarray, np.random.Generator], np.ndarray]] = {
    "as recorded": lambda sound, _: sound,
    **{f"pink noise, SNR {snr} dB": noise(snr) for snr in (20, 10, 5)},
    "telephone, G.711": lambda sound, generator: TRANSFORMS["telephone"].apply(sound, generator),
    "40 dB softer": lambda sound, _: sound * np.float32(0.01),
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as that of RAVDESS")
    parser.add_argument("--clips", type=int, default=120, help="number of clips, evenly spaced")
    args = parser.parse_args()
    table = open_prepared(args.data)
    rows = np.linspace(0, len(table) - 1, min(args.clips, len(table))).astype(int)
    clips = [audio.from_wav(sound["bytes"]) for sound in table[rows.tolist()]["audio"]]
    for name, change in CONDITIONS.items():
        fractions: list[np.ndarray] = []
        for seed, clip in enumerate(clips):
            relative_levels = levels(clip)
            detected = speech_frames(change(clip, np.random.default_rng(seed)).astype(np.float32))[
                : len(relative_levels)
            ]
            relative_levels = relative_levels[: len(detected)]
            fractions.append(
                np.array(
                    [
                        detected[relative_levels > -SPEECH].mean(),
                        detected[relative_levels < -NO_SPEECH].mean() if (relative_levels < -NO_SPEECH).any() else 0,
                    ]
                )
            )
        speech, rest = np.mean(fractions, axis=0)
        print(f"{name}: {speech:.3f} of the speech, {rest:.3f} of the rest")
    for name, sound in sounds_without_speech(np.random.default_rng(0)).items():
        print(f"{name}: {speech_frames(sound).mean():.3f}")


if __name__ == "__main__":
    main()
