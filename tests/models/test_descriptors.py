"""Descriptors equal librosa's or their definition, and do not depend on the other clips of a batch."""

import numpy as np
import pytest
import torch

from ser_ft.models import descriptors
from ser_ft.models.descriptors import DESCRIPTORS
from ser_ft.models.features import SpectralFeatureExtractor
from tests.helpers.sound_files import glide

RATE = 16_000
SHORT = (1, 100, 255, 256, 1023, 1024, 1100)
# Largest absolute and relative difference from the formulas in float64.
TOLERANCES = {
    "zcr": (1e-6, 0),
    "energy": (1e-9, 1e-5),
    "rms": (1e-7, 1e-5),
    "energy-entropy": (1e-4, 0),
    "centroid": (0.05, 0),
    "spread": (0.05, 0),
    "spectral-entropy": (1e-4, 0),
    "flux": (1e-7, 1e-4),
    "rolloff": (0, 0),
    "mfcc": (2e-3, 0),
    "mfcc-delta": (2e-3, 0),
    "mfcc-delta2": (2e-3, 0),
    "chroma": (1e-5, 0),
    "chroma-deviation": (1e-5, 0),
    "mel": (1e-7, 1e-4),
    "log-mel": (2e-3, 0),
}


def frames(sound: np.ndarray, *names: str, **settings: object) -> np.ndarray:
    actual = SpectralFeatureExtractor(descriptors=names, **settings)(sound)["input_features"][0]
    return actual[:, 0] if actual.shape[1] == 1 else actual


def slaney_mel(hertz: np.ndarray) -> np.ndarray:
    """Linear below 1000 Hz, then logarithmic: 27 steps for a factor of 6.4 (Slaney's Auditory Toolbox, 1998)."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4))


def slaney_bank(n_mels: int, fft: int) -> np.ndarray:
    grid = np.arange(20, 8000.01, 0.01)
    edges = np.interp(np.linspace(*slaney_mel(np.array([20.0, 8000.0])), n_mels + 2), slaney_mel(grid), grid)
    bins = np.fft.rfftfreq(fft, 1 / RATE)
    bank = np.stack([np.interp(bins, edges[index : index + 3], (0, 1, 0)) for index in range(n_mels)])
    return bank * (2 / (edges[2:] - edges[:-2]))[:, None]


def pitch_bank(fft: int) -> np.ndarray:
    """Ellis 2007, as librosa has it: each bin goes to the pitch classes around its own, less below and above A4."""
    semitones = 12 * np.log2(np.fft.rfftfreq(fft, 1 / RATE)[1:] / 440 * 16)
    semitones = np.concatenate(([semitones[0] - 18], semitones))
    width = np.append(np.maximum(np.diff(semitones), 1), np.maximum(12 * np.log2(1 + 2 / fft), 1))
    distance = (semitones - np.arange(12)[:, None] + 126) % 12 - 6
    bank = np.exp(-0.5 * (2 * distance / width) ** 2)
    bank /= np.sqrt((bank**2).sum(axis=0))
    bank *= np.exp(-0.5 * ((semitones / 12 - 5) / 2) ** 2)
    return np.roll(bank, -3, axis=0)


def entropy(energies: np.ndarray) -> np.ndarray:
    normalized = energies / np.maximum(energies.sum(axis=1, keepdims=True), 1e-20)
    return -(normalized * np.log2(np.maximum(normalized, 1e-300))).sum(axis=1)


def slopes(values: np.ndarray, order: int) -> np.ndarray:
    """The derivative of a polynomial through nine frames (at the ends: the first, the last; of few: all)."""
    count = len(values)
    width = min(9, count)
    if width <= order:
        return np.zeros_like(values)
    actual = []
    for index in range(count):
        first = min(max(index - width // 2, 0), count - width)
        actual.append(np.polyfit(np.arange(width), values[first : first + width], order)[0] * order)
    return np.array(actual)


def reference(sound: np.ndarray, name: str, window: int = 512, hop: int = 128, n_mels: int = 40, size: int = 20):
    """Compute a descriptor window by window in float64."""
    padded = np.pad(sound.astype(np.float64), window // 2)
    starts = np.arange(1 + len(sound) // hop) * hop
    waves = np.stack([padded[start : start + window] for start in starts])
    if name == "zcr":
        negative = np.pad(sound < 0, window // 2, mode="edge")
        cut = np.stack([negative[start : start + window] for start in starts])
        return (cut[:, 1:] != cut[:, :-1]).sum(axis=1) / window
    if name in ("energy", "rms"):
        return (waves**2).mean(axis=1) ** (1 if name == "energy" else 0.5)
    if name == "energy-entropy":
        edges = [part * window // 10 for part in range(10)]
        return entropy(np.add.reduceat(waves**2, edges, axis=1))
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    magnitude = np.abs(np.fft.rfft(waves * hann))
    power, hertz = magnitude**2, np.fft.rfftfreq(window, 1 / RATE)
    normalized = magnitude / magnitude.sum(axis=1, keepdims=True)
    if name == "centroid":
        return normalized @ hertz
    if name == "spread":
        return np.sqrt((normalized * (hertz - (normalized @ hertz)[:, None]) ** 2).sum(axis=1))
    if name == "flux":
        return np.concatenate(([0], (np.diff(normalized, axis=0) ** 2).sum(axis=1)))
    if name == "spectral-entropy":
        bands = np.arange(len(hertz)) * 10 // len(hertz)
        return entropy(np.add.reduceat(power, np.searchsorted(bands, np.arange(10)), axis=1))
    if name == "rolloff":
        running = power.cumsum(axis=1)
        return hertz[(running < 0.9 * running[:, -1:]).sum(axis=1)]
    if name.startswith("chroma"):
        chroma = power @ pitch_bank(window).T
        chroma /= chroma.max(axis=1, keepdims=True)
        return chroma if name == "chroma" else chroma.std(axis=1)
    mel = power @ slaney_bank(n_mels, window).T
    log = np.log(np.maximum(mel, 1e-10))
    if not name.startswith("mfcc"):
        return mel if name == "mel" else log
    cosines = np.cos(np.pi / n_mels * np.outer(np.arange(n_mels) + 0.5, np.arange(size))) * np.sqrt(2 / n_mels)
    cosines[:, 0] /= np.sqrt(2)
    return {"mfcc": lambda x: x, "mfcc-delta": lambda x: slopes(x, 1), "mfcc-delta2": lambda x: slopes(x, 2)}[name](
        log @ cosines
    )


@pytest.mark.parametrize("name", DESCRIPTORS)
@pytest.mark.parametrize("samples", [*SHORT, 20_000])
def test_descriptors_follow_their_definition(name: str, samples: int) -> None:
    sound = glide(samples)
    absolute, relative = TOLERANCES[name]
    np.testing.assert_allclose(frames(sound, name), reference(sound, name), atol=absolute, rtol=relative)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_descriptors_of_long_windows_follow_their_definition(name: str) -> None:
    absolute, relative = TOLERANCES[name]
    actual = frames(glide(), name, win_length=1000, hop_length=300, n_mels=32, n_mfcc=13)
    expected = reference(glide(), name, 1000, 300, 32, 13)
    np.testing.assert_allclose(actual, expected, atol=4 * absolute, rtol=4 * relative)


LIBROSA = {
    "zcr": lambda f, y, s: f.zero_crossing_rate(y=y, frame_length=512, hop_length=128),
    "rms": lambda f, y, s: f.rms(y=y, frame_length=512, hop_length=128),
    "centroid": lambda f, y, s: f.spectral_centroid(S=s, sr=RATE),
    "spread": lambda f, y, s: f.spectral_bandwidth(S=s, sr=RATE),
    "rolloff": lambda f, y, s: f.spectral_rolloff(S=s**2, sr=RATE, roll_percent=0.9),
    "chroma": lambda f, y, s: f.chroma_stft(S=s**2, sr=RATE, tuning=0.0),
    "mel": lambda f, y, s: f.melspectrogram(S=s**2, sr=RATE, n_mels=40, fmin=20, fmax=8000),
    "log-mel": lambda f, y, s: np.log(np.maximum(LIBROSA["mel"](f, y, s), 1e-10)),
    "mfcc": lambda f, y, s: f.mfcc(S=LIBROSA["log-mel"](f, y, s), n_mfcc=20),
    "mfcc-delta": lambda f, y, s: f.delta(LIBROSA["mfcc"](f, y, s)),
    "mfcc-delta2": lambda f, y, s: f.delta(LIBROSA["mfcc"](f, y, s), order=2),
}


@pytest.mark.parametrize("name", LIBROSA)
def test_descriptors_equal_those_of_librosa(name: str) -> None:
    librosa = pytest.importorskip("librosa")
    sound = glide()
    magnitude = np.abs(librosa.stft(sound, n_fft=512, hop_length=128, pad_mode="constant"))
    expected = LIBROSA[name](librosa.feature, sound, magnitude).T
    absolute, relative = TOLERANCES[name]
    actual = frames(sound, name).reshape(expected.shape)
    np.testing.assert_allclose(actual, expected, atol=4 * absolute, rtol=4 * relative)


def test_combined_descriptors_equal_single_ones() -> None:
    names = [*DESCRIPTORS][::-1]
    combined = frames(glide(), *names)
    single = np.concatenate([frames(glide(), name).reshape(len(combined), -1) for name in names], axis=1)
    np.testing.assert_allclose(combined, single, atol=1e-5, rtol=1e-6)


@pytest.mark.parametrize("name", DESCRIPTORS)
def test_a_clip_has_the_same_frames_alone_and_in_a_batch(name: str) -> None:
    extractor = SpectralFeatureExtractor(descriptors=[name])
    clips = [glide(samples, seed) for seed, samples in enumerate((9000, *SHORT, 4096))]
    batch = extractor(clips)
    for clip, actual, mask in zip(clips, batch["input_features"], batch["attention_mask"], strict=True):
        single = extractor(clip)["input_features"][0]
        assert mask.sum() == len(single) == extractor.num_frames(len(clip)) == 1 + len(clip) // 128
        assert mask[: len(single)].all()
        np.testing.assert_allclose(actual[: len(single)], single, atol=1e-5, rtol=1e-5)
        assert not actual[len(single) :].any()


def test_samples_after_the_end_of_a_clip_have_no_effect() -> None:
    extractor = SpectralFeatureExtractor(descriptors=[*DESCRIPTORS])
    waves = torch.from_numpy(np.stack([glide(5000), glide(5000, seed=1)]))
    actual, mask = extractor.extract(waves, torch.tensor([5000, 1500]))
    expected = extractor(glide(5000, seed=1)[:1500])["input_features"][0]
    assert mask.sum(dim=1).tolist() == [40, 12]
    np.testing.assert_allclose(actual[1, :12], expected, atol=1e-5, rtol=1e-5)


def test_a_long_recording_in_chunks_gives_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    extractor, clips = SpectralFeatureExtractor(descriptors=[*DESCRIPTORS]), [glide(9000), glide(700, seed=1)]
    whole = extractor(clips)["input_features"]
    monkeypatch.setattr(descriptors, "_CHUNK_SAMPLES_CPU", 7 * 512)
    np.testing.assert_allclose(extractor(clips)["input_features"], whole, atol=1e-5, rtol=1e-5)


def test_silence_has_finite_descriptors_and_no_energy() -> None:
    extractor = SpectralFeatureExtractor(descriptors=[*DESCRIPTORS])
    silence = extractor(np.zeros(5000, dtype=np.float32))["input_features"][0]
    actual = dict(zip(extractor.columns, silence.T, strict=True))
    for name, values in actual.items():
        level = np.log(1e-10) if name.startswith("log-mel") else 0.0
        if name == "mfcc_1":
            level = np.log(1e-10) * np.sqrt(40)
        np.testing.assert_allclose(values, level, atol=2e-4, err_msg=name)
    for level in (1e-30, 1e-8, 1.0, 1e4):
        assert np.isfinite(extractor(np.float32(level) * glide(3000))["input_features"]).all(), level


def test_descriptors_of_a_tone_noise_and_a_click() -> None:
    time = np.arange(RATE) / RATE
    tone = np.sin(2 * np.pi * 1000 * time).astype(np.float32)
    noise = np.random.default_rng(0).normal(size=RATE).astype(np.float32)
    inner = slice(4, -4)
    assert frames(tone, "zcr")[inner] == pytest.approx(2 * 1000 / RATE, abs=1 / 256)
    assert frames(tone, "rms")[inner] == pytest.approx(0.5**0.5, abs=1e-3)
    assert frames(tone, "centroid")[inner] == pytest.approx(1000, abs=1)
    assert frames(tone, "rolloff")[inner] == pytest.approx(1000, abs=RATE / 512)
    assert frames(tone, "flux")[inner] == pytest.approx(0, abs=1e-6)
    assert frames(tone, "spectral-entropy")[inner] == pytest.approx(0, abs=1e-3)
    assert frames(noise, "spectral-entropy")[inner].mean() == pytest.approx(np.log2(10), abs=0.1)
    assert frames(tone, "energy-entropy")[inner].mean() == pytest.approx(np.log2(10), abs=0.1)
    click = np.zeros(5000, dtype=np.float32)
    click[2500] = 1
    assert frames(click, "energy-entropy") == pytest.approx(0, abs=1e-6)
    a440 = np.sin(2 * np.pi * 440 * time).astype(np.float32)
    extractor = SpectralFeatureExtractor(descriptors=["chroma"], win_length=4096, hop_length=1024)
    chroma = extractor(a440)["input_features"][0, 4]
    assert extractor.columns[chroma.argmax()] == "chroma_A"


def test_settings_can_reproduce_vggish() -> None:
    """The front end of Hershey et al. (2017): its bank is flat triangles over the mel of HTK."""
    extractor = SpectralFeatureExtractor(
        descriptors=["log-mel"],
        n_mels=64,
        f_min=125,
        f_max=7500,
        mel_scale="htk",
        power=1.0,
        log_offset=0.01,
        win_length=400,
        hop_length=160,
        n_fft=512,
    )
    sound = glide()
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    starts = np.arange(5, 100) * 160
    magnitude = np.abs(np.fft.rfft([sound[start : start + 400] * hann for start in starts], 512))
    mel = 1127 * np.log1p(np.fft.rfftfreq(512, 1 / RATE) / 700)
    edges = np.linspace(*1127 * np.log1p(np.array([125, 7500]) / 700), 66)
    bank = np.stack([np.interp(mel, edges[index : index + 3], (0, 1, 0)) for index in range(64)])
    expected = np.log(magnitude @ bank.T + 0.01)
    # Frames are positioned by their center here, and by their start in VGGish.
    actual = extractor(np.concatenate((np.zeros(120, np.float32), sound)))["input_features"][0, 7:102]
    np.testing.assert_allclose(actual, expected, atol=1e-4)


def test_spectra_are_computed_only_if_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a spectrum was computed")

    monkeypatch.setattr(torch.fft, "rfft", refuse)
    assert frames(glide(), "zcr", "rms").shape == (157, 2)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="no GPU")
def test_a_gpu_gives_the_same_numbers() -> None:
    extractor = SpectralFeatureExtractor(descriptors=[*DESCRIPTORS])
    waves, lengths = torch.from_numpy(np.stack([glide(), glide(seed=1)])), torch.tensor([20_000, 700])
    actual, mask = extractor.extract(waves.cuda(), lengths.cuda())
    expected, _ = extractor.extract(waves, lengths)
    assert actual.is_cuda
    assert mask.is_cuda
    torch.testing.assert_close(actual.cpu(), expected, atol=2e-3, rtol=1e-4)
