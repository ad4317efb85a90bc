"""Voice activity detection in recordings, clean and with other sounds, and in sound without speech, against Silero VAD.

    python benchmarks/voice_activity.py --data data/ravdess
    pip download silero-vad==6.2.3 --no-deps && unzip silero_vad-*.whl
    python benchmarks/voice_activity.py --data data/ravdess --silero silero_vad/data/silero_vad_16k_sequence.onnx

A frame of 10 ms is speech if the clean clip, as prepared, is within 25 dB of its loudest frame. It is no speech if no
frame within 0.25 s is within 40 dB of the loudest frame; 0.25 s is the collar of NIST's evaluations of diarization
(Fiscus et al. 2006). Other frames do not count. The levels depend on neither detector. They assume quiet recordings
with pauses, such as those of RAVDESS.

Sounds are added at signal-to-noise ratios between the mean power of the speech frames and that of the sound. Babble is
the sum of eight other speakers. Music and singing are generated: chords, bass, melody and drums; and vowels with
formants (Peterson & Barney 1952) and vibrato (Sundberg 1994). Babble and singing are voices, so a detector may well
call them speech.

Printed are the share of the speech that is found, the share of the rest that is called speech, and the balanced
accuracy, the mean of the first share and of 1 less the second; then the share of other sounds that is called speech,
and the CPU time of one thread per second of sound. Both detectors have their default settings. Those of Silero VAD are
the ones of its `get_speech_timestamps`: thresholds of 0.5 and 0.35, pauses of at least 0.1 s, speech of more than
0.25 s, and margins of 0.03 s. Its file is read by ONNX Runtime, all blocks of a clip in one call.
"""

import argparse
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import numpy as np
import onnxruntime
import scipy.signal

from ser_ft import audio
from ser_ft.audio import SAMPLE_RATE
from ser_ft.audio.vad import FRAME, speech_frames
from ser_ft.data.augmentation.transforms import TRANSFORMS, colored_noise, room_response
from ser_ft.data.prepare import open_prepared
from ser_ft.data.synthetic.synthesizer import PHONES

SPEECH_DB, PAUSE_DB, COLLAR = 25.0, 40.0, 25  # dB below the loudest frame; frames
RATIOS = (20, 10, 5, 0)  # dB
SECONDS = 60  # of each sound without speech
TALKERS = 8
SCALE = np.array([0, 2, 4, 5, 7, 9, 11, 12])  # semitones


class Silero:
    """Silero VAD, version 6, with the settings of its `get_speech_timestamps`."""

    BLOCK, CONTEXT = 512, 64
    START, END = 0.5, 0.35
    MIN_PAUSE, MIN_SPEECH, MARGIN = 1600, 4000, 480

    def __init__(self, file: Path) -> None:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        self._session = onnxruntime.InferenceSession(str(file), options, providers=["CPUExecutionProvider"])

    def probabilities(self, samples: np.ndarray) -> np.ndarray:
        """Return the probability of speech in each block of 32 ms of samples at 16 kHz, shape (blocks,)."""
        padded = np.pad(samples, (self.CONTEXT, -len(samples) % self.BLOCK))
        blocks = np.lib.stride_tricks.sliding_window_view(padded, self.CONTEXT + self.BLOCK)[:: self.BLOCK]
        state = np.zeros((1, 1, 128), np.float32)
        inputs = {"input": np.ascontiguousarray(blocks), "h": state, "c": state}
        return np.asarray(self._session.run(["speech_probs"], inputs)[0])

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        """Return which complete frames of 10 ms are speech, shape (frames,)."""
        segments, start, pause = [], None, None
        for block, probability in enumerate(self.probabilities(samples)):
            position = block * self.BLOCK
            if probability >= self.START:
                start, pause = position if start is None else start, None
            elif start is not None and (pause is not None or probability < self.END):
                pause = position if pause is None else pause
                if probability < self.END and position - pause >= self.MIN_PAUSE:
                    segments.append((start, pause))
                    start = pause = None
        if start is not None:
            segments.append((start, len(samples)))
        speech = np.zeros(len(samples), bool)
        for start, end in segments:
            if end - start > self.MIN_SPEECH:
                speech[max(0, start - self.MARGIN) : end + self.MARGIN] = True
        return speech[FRAME // 2 :: FRAME][: len(samples) // FRAME]


class Timed:
    """A detector and the time it takes."""

    def __init__(self, detect: Callable[[np.ndarray], np.ndarray]) -> None:
        self._detect = detect
        self._seconds = self._sound = 0.0

    def __call__(self, samples: np.ndarray) -> np.ndarray:
        start = time.process_time()
        decisions = self._detect(samples.astype(np.float32))
        self._seconds += time.process_time() - start
        self._sound += len(samples) / SAMPLE_RATE
        return decisions

    def time_per_second(self) -> float:
        """Return the seconds of CPU time per second of sound."""
        return self._seconds / self._sound


def truth(clip: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return which frames of a clean clip are speech and which are not, both of shape (frames,)."""
    frames = clip[: len(clip) // FRAME * FRAME].reshape(-1, FRAME).astype(np.float64)
    levels = 10 * np.log10((frames**2).mean(axis=1) + 1e-12)
    levels -= levels.max()
    near = np.lib.stride_tricks.sliding_window_view(np.pad(levels, COLLAR, mode="edge"), 2 * COLLAR + 1).max(axis=1)
    return levels > -SPEECH_DB, near < -PAUSE_DB


def speech_only(clip: np.ndarray) -> np.ndarray:
    """Return a clip without its pauses and with a mean power of 1, shape (samples,)."""
    pauses = np.repeat(truth(clip)[1], FRAME)
    speech = clip[: len(pauses)][~pauses]
    return np.asarray(speech / np.sqrt(np.mean(speech**2)))


def babble(size: int, voices: Sequence[np.ndarray], generator: np.random.Generator) -> np.ndarray:
    """Return the sum of eight of the voices, each from a random position on, shape (size,)."""
    talkers = [voices[number] for number in generator.choice(len(voices), TALKERS, replace=False)]
    parts = [np.resize(np.roll(voice, -generator.integers(len(voice))), size) for voice in talkers]
    return np.asarray(np.sum(parts, axis=0))


def tone(pitch: float, seconds: np.ndarray, decay: float) -> np.ndarray:
    """Return a note with eight harmonics that decays, at a pitch in semitones above 220 Hz, shape (samples,)."""
    phase = 2 * np.pi * 220 * 2 ** (pitch / 12) * seconds
    attack = np.minimum(1, seconds / 0.01)
    return attack * np.exp(-decay * seconds) * sum(np.sin(k * phase) / k for k in range(1, 9))


def music(size: int, generator: np.random.Generator) -> np.ndarray:
    """Return chords, bass, melody and drums at 110 beats a minute, shape (size,)."""
    beat = round(SAMPLE_RATE * 60 / 110)
    seconds = np.arange(beat) / SAMPLE_RATE
    half = seconds[: beat // 2]
    beats = []
    for number in range(-(-size // beat)):
        root = (0, 9, 5, 7)[number // 4 % 4]
        third = 3 if root == 9 else 4
        sound = sum(0.3 * tone(root + note, seconds, 2.0) for note in (0, third, 7))
        sound += 0.6 * tone(root - 24, seconds, 3.0)
        for start in (0, beat // 2):
            sound[start : start + len(half)] += 0.5 * tone(float(generator.choice(SCALE)), half, 3.0)
            sound[start : start + len(half)] += 0.4 * generator.normal(size=len(half)) * np.exp(-60 * half)
        sound += np.sin(2 * np.pi * (50 * seconds - 4 * np.exp(-30 * seconds))) * np.exp(-12 * seconds)
        beats.append(sound)
    return np.concatenate(beats)[:size]


def singing(size: int, generator: np.random.Generator) -> np.ndarray:
    """Return sung vowels with a vibrato of 5.5 Hz and half a semitone, shape (size,)."""
    notes: list[np.ndarray] = []
    base = generator.uniform(-12, 5)
    while sum(map(len, notes)) < size:
        seconds = np.arange(round(SAMPLE_RATE * generator.uniform(0.3, 1.2))) / SAMPLE_RATE
        semitones = base + generator.choice(SCALE) - 1.5 * np.exp(-seconds / 0.03)
        semitones += 0.5 * np.minimum(1, seconds / 0.3) * np.sin(2 * np.pi * 5.5 * seconds)
        f0 = 220 * 2 ** (semitones / 12)
        phase = 2 * np.pi * np.cumsum(f0) / SAMPLE_RATE
        vowel = PHONES[str(generator.choice(["aa", "eh", "iy", "ao", "uw"]))][0]
        harmonics = np.arange(1, int(5000 / f0.max()) + 1)
        frequencies = harmonics * f0.mean()
        gains = 1 / harmonics
        for formant, width in ((vowel.f1, 70), (vowel.f2, 95), (vowel.f3, 140), (3500, 210)):
            gains = gains / np.abs(1 - (frequencies / formant) ** 2 + 1j * frequencies * width / formant**2)
        note = sum(gain * np.sin(k * phase) for k, gain in zip(harmonics, gains, strict=True))
        edges = np.minimum(1, np.minimum(seconds, seconds[::-1]) / 0.04)
        notes += [note * edges / np.sqrt(np.mean(note**2)), np.zeros(int(generator.choice([0, 0, 3200])))]
    return np.concatenate(notes)[:size]


def sounds_without_speech(
    voices: Sequence[np.ndarray], generator: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and sounds without speech in the foreground, shape (samples,)."""
    size = SECONDS * SAMPLE_RATE
    seconds = np.arange(size) / SAMPLE_RATE
    clicks = np.zeros(size)
    clicks[generator.integers(0, size, 3 * SECONDS)] = 1.0
    far = scipy.signal.oaconvolve(babble(size, voices, generator), room_response(0.8, -10, generator))[:size]
    sounds = {
        "silence": np.zeros(size),
        "white noise": colored_noise(size, "white", generator),
        "pink noise": colored_noise(size, "pink", generator),
        "mains hum": np.sign(np.sin(2 * np.pi * 50 * seconds)),
        "clicks": clicks,
        "telephone keys": sum(np.sin(2 * np.pi * f * seconds) for f in (770, 1336)) * (seconds % 0.4 < 0.2),
        "sustained note": tone(0, seconds, 0.0),
        "slow melody": np.concatenate([tone(generator.choice(SCALE), seconds[:8000], 3.0) for _ in range(2 * SECONDS)]),
        "music": music(size, generator),
        "singing, a voice without words": singing(size, generator),
        "babble, eight voices in a room": far,
    }
    for name, sound in sounds.items():
        yield name, 0.1 * sound / max(np.abs(sound).max(), 1e-9) + 1e-5 * generator.normal(size=size)


def conditions(
    clip: np.ndarray, speech: np.ndarray, voices: Sequence[np.ndarray], generator: np.random.Generator
) -> Iterator[tuple[str, np.ndarray]]:
    """Yield names and variants of a clip, shape (samples,)."""
    yield "as recorded", clip
    yield "40 dB softer", clip * np.float32(0.01)
    yield "telephone, G.711", TRANSFORMS["telephone"].apply(clip, generator)
    power = np.mean(clip[: len(speech) * FRAME].reshape(-1, FRAME)[speech] ** 2)
    sounds = {
        "white noise": colored_noise(len(clip), "white", generator),
        "pink noise": colored_noise(len(clip), "pink", generator),
        "music": music(len(clip), generator),
        "babble": babble(len(clip), voices, generator),
        "singing": singing(len(clip), generator),
    }
    for name, sound in sounds.items():
        scaled = sound * np.sqrt(power / np.mean(sound**2))
        for ratio in RATIOS:
            yield f"{name}, {ratio} dB", clip + scaled * 10 ** (-ratio / 20)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="a prepared table, such as that of RAVDESS")
    parser.add_argument("--clips", type=int, default=40, help="number of clips, evenly spaced (default 40)")
    parser.add_argument(
        "--tuning", action="store_true", help="use the first half of the speakers, to choose settings on"
    )
    parser.add_argument("--silero", type=Path, metavar="FILE", help="silero_vad_16k_sequence.onnx of silero-vad 6.2")
    args = parser.parse_args()
    table = open_prepared(args.data)
    speakers = sorted(set(table["speaker"]))
    half = set(speakers[: len(speakers) // 2] if args.tuning else speakers[len(speakers) // 2 :])
    rows = np.flatnonzero([speaker in half for speaker in table["speaker"]])
    table = table.select(rows[np.linspace(0, len(rows) - 1, min(args.clips, len(rows))).astype(int)])
    clips = [audio.from_wav(sound["bytes"]) for sound in table["audio"]]
    voices = {
        speaker: np.concatenate(
            [speech_only(clip) for clip, of in zip(clips, table["speaker"], strict=True) if of == speaker]
        )
        for speaker in sorted(half)
    }
    detectors = {"ser_ft": Timed(speech_frames)}
    if args.silero:
        detectors["Silero VAD"] = Timed(Silero(args.silero))

    shares: dict[str, list[list[tuple[float, float]]]] = {}
    for seed, (clip, speaker) in enumerate(zip(clips, table["speaker"], strict=True)):
        speech, rest = truth(clip)
        others = [voice for name, voice in voices.items() if name != speaker]
        for name, sound in conditions(clip, speech, others, np.random.default_rng(seed)):
            decisions = [detect(sound)[: len(speech)] for detect in detectors.values()]
            shares.setdefault(name, []).append(
                [(found[speech].mean(), found[rest].mean() if rest.any() else np.nan) for found in decisions]
            )
    print(f"{len(clips)} clips; of each detector: speech found, rest called speech, balanced accuracy")
    print(f"{'':32}" + "".join(f"{name:>24}" for name in detectors))
    for name, values in shares.items():
        means = np.nanmean(values, axis=0)
        cells = (f"{found:10.3f}{called:7.3f}{(found + 1 - called) / 2:7.3f}" for found, called in means)
        print(f"{name:32}" + "".join(cells))
    print("share called speech")
    for name, sound in sounds_without_speech(list(voices.values()), np.random.default_rng(0)):
        print(f"{name:32}" + "".join(f"{detect(sound).mean():24.3f}" for detect in detectors.values()))
    times = (f"{1000 * detect.time_per_second():21.2f} ms" for detect in detectors.values())
    print(f"{'CPU time per second of sound':32}" + "".join(times))


if __name__ == "__main__":
    main()
