"""MFCC and log-mel: the numbers are librosa's, and a clip's are its own whatever it is batched with."""

import inspect

import numpy as np
import pytest
import torch

from ser_ft.models.features import SpectralFeatureExtractor

RATE = 16_000
# float32 against float64, in the logarithm of an energy (and in sums of 64 of them).
TOLERANCE = 2e-3
ODD = {
    "kind": "log-mel",
    "feature_size": 24,
    "mels": 24,
    "low": 50.0,
    "high": 7000.0,
    "window_length": 400,
    "hop_length": 160,
    "normalise": "mean-variance",
    "sampling_rate": 22_050,
    "padding_value": 1.0,
}


def speech(samples: int = 20_000, seed: int = 0) -> np.ndarray:
    """A gliding tone in noise, louder and softer."""
    time = np.arange(samples) / RATE
    noise = np.random.default_rng(seed).normal(size=samples)
    sound = np.sin(2 * np.pi * (150 + 40 * time) * time) + 0.1 * noise
    return (0.3 * sound * (0.6 + 0.4 * np.sin(9 * time))).astype(np.float32)


def slaney_mel(hertz: np.ndarray) -> np.ndarray:
    """Linear below 1000 Hz, then logarithmic: 27 steps for a factor of 6.4 (Slaney's Auditory Toolbox, 1998)."""
    return np.where(hertz < 1000, hertz * 3 / 200, 15 + np.log(np.maximum(hertz, 1000) / 1000) * 27 / np.log(6.4))


def reference(
    sound: np.ndarray, kind: str, size: int = 20, mels: int = 64, window: int = 512, hop: int = 256
) -> np.ndarray:
    padded = np.pad(sound.astype(np.float64), window // 2)
    starts = np.arange(1 + len(sound) // hop) * hop
    hann = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(window) / window)
    frames = np.stack([padded[start : start + window] for start in starts]) * hann
    power = np.abs(np.fft.rfft(frames)) ** 2
    grid = np.arange(20, 8000.01, 0.01)
    edges = np.interp(np.linspace(*slaney_mel(np.array([20.0, 8000.0])), mels + 2), slaney_mel(grid), grid)
    bins = np.fft.rfftfreq(window, 1 / RATE)
    bank = np.stack([np.interp(bins, edges[at : at + 3], (0, 1, 0)) for at in range(mels)])
    bank *= (2 / (edges[2:] - edges[:-2]))[:, None]
    energies = np.log(np.maximum(power @ bank.T, 1e-10))
    if kind == "log-mel":
        return energies
    cosines = np.cos(np.pi / mels * np.outer(np.arange(mels) + 0.5, np.arange(size))) * np.sqrt(2 / mels)
    cosines[:, 0] /= np.sqrt(2)
    return energies @ cosines


def extractor(kind: str, **settings: object) -> SpectralFeatureExtractor:
    return SpectralFeatureExtractor(kind=kind, **({"feature_size": 64} if kind == "log-mel" else {}), **settings)


@pytest.mark.parametrize("kind", ["mfcc", "log-mel"])
@pytest.mark.parametrize("samples", [1, 100, 255, 256, 20_000])
def test_numbers_are_those_of_the_definition(kind: str, samples: int) -> None:
    sound = speech(samples)
    found = extractor(kind)(sound, sampling_rate=RATE)["input_features"][0]
    np.testing.assert_allclose(found, reference(sound, kind), atol=TOLERANCE)


@pytest.mark.parametrize("kind", ["mfcc", "log-mel"])
def test_numbers_are_librosas(kind: str) -> None:
    librosa = pytest.importorskip("librosa")
    sound = speech()
    mel = librosa.feature.melspectrogram(
        y=sound, sr=RATE, n_fft=512, hop_length=256, n_mels=64, fmin=20, fmax=8000, pad_mode="constant"
    )
    wanted = np.log(np.maximum(mel, 1e-10))
    if kind == "mfcc":
        wanted = librosa.feature.mfcc(S=wanted, n_mfcc=20)
    found = extractor(kind)(sound)["input_features"][0]
    np.testing.assert_allclose(found, wanted.T, atol=TOLERANCE)


@pytest.mark.parametrize("normalise", ["none", "mean", "mean-variance"])
@pytest.mark.parametrize("kind", ["mfcc", "log-mel"])
def test_a_clip_has_the_same_frames_alone_and_in_a_batch(kind: str, normalise: str) -> None:
    make = extractor(kind, normalise=normalise)
    clips = [speech(samples, seed) for seed, samples in enumerate((1, 100, 4000, 4096, 9000))]
    batch = make(clips)
    for clip, frames, mask in zip(clips, batch["input_features"], batch["attention_mask"], strict=True):
        alone = make(clip)["input_features"][0]
        assert mask.sum() == len(alone) == make.frames(len(clip)) == 1 + len(clip) // 256
        assert mask[: len(alone)].all()
        np.testing.assert_allclose(frames[: len(alone)], alone, atol=1e-3)
        assert not frames[len(alone) :].any()


def test_normalised_frames_have_no_mean_and_unit_variance() -> None:
    frames = SpectralFeatureExtractor(normalise="mean-variance")(speech())["input_features"][0]
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-2)
    level = SpectralFeatureExtractor(normalise="mean")
    np.testing.assert_allclose(level(speech())["input_features"], level(0.1 * speech())["input_features"], atol=1e-2)


def test_digital_silence_gives_numbers() -> None:
    for normalise in ("none", "mean-variance"):
        frames = SpectralFeatureExtractor(normalise=normalise)(np.zeros(5000, dtype=np.float32))["input_features"]
        assert np.isfinite(frames).all()


def test_arrays_lists_and_tensors_give_the_same() -> None:
    make, sound = SpectralFeatureExtractor(), speech(3000)
    wanted = make(sound)["input_features"]
    read_only = sound.copy()
    read_only.flags.writeable = False
    tensor = torch.from_numpy(sound).requires_grad_()
    for given in (sound.tolist(), [sound], (sound,), tensor, [tensor], [sound.tolist()], read_only, sound.astype("f8")):
        np.testing.assert_allclose(make(given)["input_features"], wanted, atol=1e-5)
    found = make([sound, sound[:500]], return_tensors="pt")
    assert isinstance(found["input_features"], torch.Tensor)
    assert found["attention_mask"].sum(dim=1).tolist() == [12, 2]


@pytest.mark.parametrize(
    ("sound", "rate", "says"),
    [
        (speech(100), 44_100, "44100 Hz"),
        (np.zeros(0, dtype=np.float32), RATE, "at least one"),
        ([], RATE, "no clip"),
        ([speech(100), speech(0)], RATE, "at least one"),
        (np.zeros((2, 100), dtype=np.float32), RATE, "one-dimensional"),
        ([np.zeros((100, 2), dtype=np.float32)], RATE, "one-dimensional"),
        ((speech(100) * 32767).astype(np.int16), RATE, "int16"),
    ],
)
def test_what_is_no_clip_is_refused_in_one_line(sound: object, rate: int, says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        SpectralFeatureExtractor()(sound, sampling_rate=rate)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    "settings",
    [
        {"kind": "plp"},
        {"normalise": "max"},
        {"feature_size": 65},
        {"kind": "log-mel", "feature_size": 40},
        {"hop_length": 0},
        {"high": 9000.0},
        {"low": 8000.0},
    ],
)
def test_settings_that_cannot_work_are_refused_when_they_are_made(settings: dict[str, object]) -> None:
    with pytest.raises(ValueError, match=r"must|mel bands"):
        SpectralFeatureExtractor(**settings)


def test_every_setting_survives_saving(tmp_path) -> None:
    names = [name for name, kind in inspect.signature(SpectralFeatureExtractor).parameters.items() if kind.kind != 4]
    default = SpectralFeatureExtractor()
    assert set(names) == set(ODD), "a new setting: give it a value here"
    assert all(getattr(default, name) != value for name, value in ODD.items())
    SpectralFeatureExtractor(**ODD).save_pretrained(tmp_path)
    read = SpectralFeatureExtractor.from_pretrained(tmp_path)
    assert {name: getattr(read, name) for name in names} == ODD
    sound = speech()
    assert np.array_equal(read(sound)["input_features"], SpectralFeatureExtractor(**ODD)(sound)["input_features"])
