"""The feature extractor: what goes in, what comes out padded, cropped and standardised, and what is saved."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

from ser_ft.models.descriptors import DESCRIPTORS
from ser_ft.models.features import SpectralFeatureExtractor

RATE = 16_000
STACK = ("zcr", "rms", "flux", "mfcc", "chroma", "mel")
ODD = {
    "descriptors": ["flux", "mfcc-delta", "log-mel"],
    "n_mfcc": 3,
    "n_mels": 24,
    "f_min": 50.0,
    "f_max": 7000.0,
    "mel_scale": "htk",
    "power": 1.0,
    "log_offset": 0.5,
    "win_length": 400,
    "hop_length": 160,
    "n_fft": 512,
    "normalize": "training",
    "mean": [0.1 * number for number in range(28)],
    "scale": [1.0 + number for number in range(28)],
    "max_frames": 50,
    "sampling_rate": 22_050,
    "padding_value": 1.0,
}


def speech(samples: int = 20_000, seed: int = 0) -> np.ndarray:
    """A gliding tone in noise, louder and softer."""
    time = np.arange(samples) / RATE
    noise = np.random.default_rng(seed).normal(size=samples)
    sound = np.sin(2 * np.pi * (150 + 40 * time) * time) + 0.1 * noise
    return (0.3 * sound * (0.6 + 0.4 * np.sin(9 * time))).astype(np.float32)


CLIPS = [speech(samples, seed) for seed, samples in enumerate((9000, 1, 300, 4096, 20_000))]


def real_frames(batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    pairs = zip(batch["input_features"], batch["attention_mask"], strict=True)
    return [frames[: mask.sum()] for frames, mask in pairs]


def test_every_number_of_a_frame_has_a_name() -> None:
    make = SpectralFeatureExtractor(["mfcc", "zcr", "chroma", "mfcc-delta2"], n_mfcc=2)
    assert make.columns[:4] == ["mfcc_1", "mfcc_2", "zcr", "chroma_C"]
    assert make.columns[13:] == ["chroma_A#", "chroma_B", "mfcc-delta2_1", "mfcc-delta2_2"]
    for name in DESCRIPTORS:
        make = SpectralFeatureExtractor([name])
        assert make(speech(500))["input_features"].shape[2] == len(make.columns) == make.feature_size
    assert SpectralFeatureExtractor("log-mel").columns[0] == "log-mel_1"


def test_arrays_lists_and_tensors_give_the_same() -> None:
    make, sound = SpectralFeatureExtractor(STACK), speech(3000)
    wanted = make(sound)["input_features"]
    read_only = sound.copy()
    read_only.flags.writeable = False
    tensor = torch.from_numpy(sound).requires_grad_()
    strided = np.stack((sound, sound), axis=1)[:, 0]
    for given in (sound.tolist(), [sound], (sound,), tensor, [tensor], [sound.tolist()], read_only, strided):
        np.testing.assert_allclose(make(given)["input_features"], wanted, atol=1e-5)
    np.testing.assert_allclose(make(sound.astype("f8"))["input_features"], wanted, atol=1e-5)
    np.testing.assert_allclose(make(sound[::-1][::-1])["input_features"], wanted, atol=1e-5)
    found = make([sound, sound[:500]], return_tensors="pt")
    assert isinstance(found["input_features"], torch.Tensor)
    assert found["attention_mask"].sum(dim=1).tolist() == [24, 4]


def test_a_clip_is_not_changed_by_being_heard() -> None:
    make, sound = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip"), speech(3000)
    make(sound)
    assert np.array_equal(sound, speech(3000))


def test_half_precision_and_gradients_around_it_change_nothing() -> None:
    make, waves = SpectralFeatureExtractor([*DESCRIPTORS]), torch.from_numpy(speech(3000)[None])
    wanted, _ = make.extract(waves, torch.tensor([3000]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found, _ = make.extract(waves.requires_grad_(), torch.tensor([3000]))
    assert torch.equal(found, wanted)
    assert not found.requires_grad


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
    ("settings", "says"),
    [
        ({"descriptors": ["plp"]}, "some of zcr, energy, rms, .*log-mel, not plp"),
        ({"descriptors": []}, "some of zcr, .*, not none"),
        ({"descriptors": ["zcr", "rms", "zcr"]}, "twice"),
        ({"normalize": "max"}, "one of none, clip-mean, clip, training, speaker, not 'max'"),
        ({"mel_scale": "bark"}, "one of slaney, htk, not 'bark'"),
        ({"n_mfcc": 41}, "41 of 40 mel bands"),
        ({"hop_length": 0}, "hop_length must be 1 or more, not 0"),
        ({"max_frames": 0}, "max_frames must be 1 or more, not 0"),
        ({"f_max": 9000.0}, "8000 Hz must hold, not 20 and 9000"),
        ({"f_min": 8000.0}, "not 8000 and 8000"),
        ({"win_length": 401}, "n_fft must be even"),
        ({"n_fft": 400}, r"at least win_length \(512\).*, not 400"),
        ({"power": 0.0}, "power must be above 0"),
        ({"log_offset": -0.1}, "log_offset"),
        ({"mean": [0.0] * 20}, "together"),
        ({"mean": [0.0] * 3, "scale": [1.0] * 3}, "20 numbers each"),
        ({"mean": [0.0] * 20, "scale": [0.0] * 20}, "scale must be above 0"),
    ],
)
def test_settings_that_cannot_work_are_refused_when_they_are_made(settings: dict[str, object], says: str) -> None:
    with pytest.raises(ValueError, match=says) as refused:
        SpectralFeatureExtractor(**settings)
    assert "\n" not in str(refused.value)


def test_bands_may_be_fewer_than_coefficients_that_nobody_asked_for() -> None:
    assert SpectralFeatureExtractor(["log-mel"], n_mels=13).feature_size == 13


def test_frames_are_padded_to_what_is_asked_and_masked() -> None:
    make = SpectralFeatureExtractor(STACK)
    longest = make(CLIPS)
    assert longest["input_features"].shape == (5, 157, make.feature_size)
    wider = make(CLIPS, padding="max_length", max_length=200)
    assert wider["input_features"].shape[1] == wider["attention_mask"].shape[1] == 200
    assert wider["attention_mask"].sum(axis=1).tolist() == [make.num_frames(len(clip)) for clip in CLIPS]
    assert not wider["input_features"][wider["attention_mask"] == 0].any()
    np.testing.assert_array_equal(wider["input_features"][:, :157], longest["input_features"])
    np.testing.assert_array_equal(make(CLIPS, padding=True)["input_features"], longest["input_features"])
    for given, says in (
        ({"padding": "longer"}, "longest or max_length"),
        ({"padding": "max_length"}, "needs max_length"),
        ({"padding": "max_length", "max_length": 100}, "157 frames, more than max_length=100"),
    ):
        with pytest.raises(ValueError, match=says):
            make(CLIPS, **given)


def test_the_middle_of_a_longer_clip_is_kept() -> None:
    whole, make = SpectralFeatureExtractor(STACK), SpectralFeatureExtractor(STACK, max_frames=40)
    batch = make(CLIPS)
    assert batch["input_features"].shape[1] == 40
    for clip, found in zip(CLIPS, real_frames(batch), strict=True):
        wanted = whole(clip)["input_features"][0]
        first = max(0, (len(wanted) - 40) // 2)
        assert len(found) == make.num_frames(len(clip)) == min(len(wanted), 40)
        np.testing.assert_allclose(found, wanted[first : first + 40], atol=1e-5, rtol=1e-5)
    assert make.num_frames(torch.tensor([9000, 1])).tolist() == [40, 1]
    assert make(CLIPS[1:3], padding="max_length")["attention_mask"].sum(axis=1).tolist() == [1, 3]
    assert make(CLIPS[1:3], padding="max_length")["input_features"].shape[1] == 40
    # The loudness of what is cropped off still counts in a clip's own mean.
    by_clip = SpectralFeatureExtractor(STACK, max_frames=40, normalize="clip")(CLIPS[0])["input_features"][0]
    wanted = whole(CLIPS[0])["input_features"][0]
    np.testing.assert_allclose(
        by_clip, ((wanted - wanted.mean(axis=0)) / wanted.std(axis=0))[15:55], atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("normalize", ["none", "clip-mean", "clip"])
def test_a_clip_is_standardised_the_same_alone_and_in_a_batch(normalize: str) -> None:
    make = SpectralFeatureExtractor([*DESCRIPTORS], normalize=normalize)
    for clip, found in zip(CLIPS, real_frames(make(CLIPS)), strict=True):
        np.testing.assert_allclose(found, make(clip)["input_features"][0], atol=2e-3, rtol=1e-4)


def test_standardised_clips_have_no_mean_and_unit_deviation() -> None:
    # Numbers as small as a quiet clip's energy, and as large as a frequency.
    make = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip")
    for level in (1.0, 0.01):
        frames = make(np.float32(level) * speech())["input_features"][0]
        np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-3)
    centred = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip-mean")(speech())["input_features"][0]
    raw = SpectralFeatureExtractor([*DESCRIPTORS])(speech())["input_features"][0]
    np.testing.assert_allclose(centred, raw - raw.mean(axis=0), atol=1e-3, rtol=1e-3)
    level = SpectralFeatureExtractor(normalize="clip-mean")
    np.testing.assert_allclose(level(speech())["input_features"], level(0.1 * speech())["input_features"], atol=1e-2)


@pytest.mark.parametrize("normalize", ["none", "clip-mean", "clip", "speaker"])
def test_what_does_not_vary_becomes_zero_and_not_noise(normalize: str) -> None:
    make = SpectralFeatureExtractor([*DESCRIPTORS], normalize=normalize)
    for sound in (np.zeros(5000, dtype=np.float32), speech(1)):
        frames = make(sound)["input_features"]
        assert np.isfinite(frames).all()
        assert normalize == "none" or np.abs(frames).max() < 1e-3


def test_a_speakers_clips_are_standardised_together() -> None:
    make = SpectralFeatureExtractor(STACK, normalize="speaker")
    clips = [0.1 * speech(3000), speech(9000, 1), 0.5 * speech(300, 2)]
    found = real_frames(make(clips))
    together = np.concatenate(found)
    np.testing.assert_allclose(together.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(together.std(axis=0), 1, atol=1e-3)
    # What sets a speaker's clips apart from each other stays.
    rms = make.columns.index("rms")
    assert found[0][:, rms].mean() < -0.5 < found[1][:, rms].mean()
    alone = SpectralFeatureExtractor(STACK, normalize="clip")(clips[1])["input_features"]
    np.testing.assert_allclose(make(clips[1])["input_features"], alone, atol=1e-3)


def test_what_was_fitted_on_training_speakers_is_applied_and_must_be_there() -> None:
    raw = SpectralFeatureExtractor(STACK)(CLIPS)["input_features"]
    make = SpectralFeatureExtractor(STACK, normalize="training")
    waves = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in CLIPS], batch_first=True)
    frames, mask = make.extract(waves, torch.tensor([len(clip) for clip in CLIPS]))
    np.testing.assert_allclose(frames, raw, atol=1e-5)
    with pytest.raises(ValueError, match="needs mean and scale: fit them"):
        make(CLIPS)
    make.mean, make.scale = [0.5] * make.feature_size, [2.0] * make.feature_size
    wanted = (raw - 0.5) / 2 * mask.numpy()[..., None]
    np.testing.assert_allclose(make(CLIPS)["input_features"], wanted, atol=1e-5)
    np.testing.assert_allclose(make.standardize(frames, mask), wanted, atol=1e-5)


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
    # Other descriptors than those that were saved: how many numbers there are follows.
    other = SpectralFeatureExtractor.from_pretrained(tmp_path, descriptors=["zcr"], mean=None, scale=None)
    assert other.feature_size == len(other.columns) == 1


@pytest.mark.slow
def test_it_is_loaded_with_its_code_where_the_package_is_not(tmp_path) -> None:
    make = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip")
    make.save_pretrained(tmp_path)
    np.save(tmp_path / "sound.npy", speech())
    np.save(tmp_path / "wanted.npy", make(speech())["input_features"])
    code = (
        "import sys; sys.modules['ser_ft'] = None\n"
        "import numpy as np, transformers\n"
        "make = transformers.AutoFeatureExtractor.from_pretrained('.', trust_remote_code=True)\n"
        "found = make(np.load('sound.npy'))['input_features']\n"
        "np.testing.assert_allclose(found, np.load('wanted.npy'), atol=1e-4)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
