"""What the voice gate takes for speech: in recordings, clean and in noise, and in sound that nobody speaks in.

    python benchmarks/voice_gate.py --data data/ravdess

Frames of the recordings count as speech where the clean clip is within 25 dB of its loudest frame, and as none where it
is more than 50 dB below it; what lies between counts as neither. Told are the share of the speech that is found, and
the share of the rest that is taken for speech. Silence, noise, hum, clicks, tones and held notes hold no speech.
"""

import argparse
from collections.abc import Callable
from pathlib import Path

import numpy as np

from ser_ft import audio
from ser_ft.audio.vad import FRAME, speech_frames
from ser_ft.data.augmentation.transforms import TRANSFORMS
from ser_ft.data.prepare import open_prepared

SPEECH, REST = 25.0, 50.0
SECONDS = 20.0


def levels(sound: np.ndarray) -> np.ndarray:
    """Levels of frames below the loudest, in dB, shape (frames,)."""
    frames = sound[: len(sound) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    power = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    return np.asarray(power - power.max())


def nobody(generator: np.random.Generator) -> dict[str, np.ndarray]:
    """Sounds without a voice, shape (samples,)."""
    at = np.arange(int(SECONDS * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    white = generator.normal(size=len(at))
    spectrum = np.fft.rfft(white) / np.sqrt(np.maximum(1.0, np.arange(len(at) // 2 + 1)))
    pink = np.fft.irfft(spectrum, len(at))
    clicks = np.zeros(len(at))
    clicks[generator.integers(0, len(at), 60)] = 1.0
    keys = sum(np.sin(2 * np.pi * each * at) for each in (770, 1336)) * (at % 0.4 < 0.2)
    notes = sum(np.sin(2 * np.pi * 220 * each * at) / each for each in range(1, 8))
    found = {
        "silence": np.zeros(len(at)),
        "white noise": white,
        "pink noise": pink,
        "hum of the mains": np.sign(np.sin(2 * np.pi * 50 * at)),
        "clicks": clicks,
        "telephone keys": keys,
        "a held note": notes,
    }
    return {name: (0.1 * sound / max(np.abs(sound).max(), 1e-9)).astype(np.float32) for name, sound in found.items()}


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
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as RAVDESS's")
    parser.add_argument("--clips", type=int, default=120, help="of the table, spread over it")
    chosen = parser.parse_args()
    table = open_prepared(chosen.data)
    rows = np.linspace(0, len(table) - 1, min(chosen.clips, len(table))).astype(int)
    clips = [audio.from_wav(sound["bytes"]) for sound in table[rows.tolist()]["audio"]]
    for name, change in CONDITIONS.items():
        found: list[np.ndarray] = []
        for place, clip in enumerate(clips):
            below = levels(clip)
            said = speech_frames(change(clip, np.random.default_rng(place)).astype(np.float32))[: len(below)]
            below = below[: len(said)]
            found.append(
                np.array([said[below > -SPEECH].mean(), said[below < -REST].mean() if (below < -REST).any() else 0])
            )
        speech, rest = np.mean(found, axis=0)
        print(f"{name}: {speech:.3f} of the speech, {rest:.3f} of the rest")
    for name, sound in nobody(np.random.default_rng(0)).items():
        print(f"{name}: {speech_frames(sound).mean():.3f}")


if __name__ == "__main__":
    main()
