"""The feature extractor: inputs, padding, cropping, normalization and saving."""

import inspect
import subprocess
import sys

import numpy as np
import pytest
import torch

from ser_ft.models.descriptors import DESCRIPTORS
from ser_ft.models.features import SpectralFeatureExtractor
from tests.helpers.sound_files import glide

RATE = 16_000
STACK = ("zcr", "rms", "flux", "mfcc", "chroma", "mel")
NON_DEFAULT = {
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


CLIPS = [glide(samples, seed) for seed, samples in enumerate((9000, 1, 300, 4096, 20_000))]


def real_frames(batch: dict[str, np.ndarray]) -> list[np.ndarray]:
    pairs = zip(batch["input_features"], batch["attention_mask"], strict=True)
    return [frames[: mask.sum()] for frames, mask in pairs]


def test_every_value_of_a_frame_has_a_name() -> None:
    extractor = SpectralFeatureExtractor(["mfcc", "zcr", "chroma", "mfcc-delta2"], n_mfcc=2)
    assert extractor.columns[:4] == ["mfcc_1", "mfcc_2", "zcr", "chroma_C"]
    assert extractor.columns[13:] == ["chroma_A#", "chroma_B", "mfcc-delta2_1", "mfcc-delta2_2"]
    for name in DESCRIPTORS:
        extractor = SpectralFeatureExtractor([name])
        assert extractor(glide(500))["input_features"].shape[2] == len(extractor.columns) == extractor.feature_size
    assert SpectralFeatureExtractor("log-mel").columns[0] == "log-mel_1"


def test_arrays_lists_and_tensors_give_the_same() -> None:
    extractor, sound = SpectralFeatureExtractor(STACK), glide(3000)
    expected = extractor(sound)["input_features"]
    read_only = sound.copy()
    read_only.flags.writeable = False
    tensor = torch.from_numpy(sound).requires_grad_()
    strided = np.stack((sound, sound), axis=1)[:, 0]
    for clips in (sound.tolist(), [sound], (sound,), tensor, [tensor], [sound.tolist()], read_only, strided):
        np.testing.assert_allclose(extractor(clips)["input_features"], expected, atol=1e-5)
    np.testing.assert_allclose(extractor(sound.astype("f8"))["input_features"], expected, atol=1e-5)
    np.testing.assert_allclose(extractor(sound[::-1][::-1])["input_features"], expected, atol=1e-5)
    actual = extractor([sound, sound[:500]], return_tensors="pt")
    assert isinstance(actual["input_features"], torch.Tensor)
    assert actual["attention_mask"].sum(dim=1).tolist() == [24, 4]


def test_the_input_is_not_modified() -> None:
    extractor, sound = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip"), glide(3000)
    extractor(sound)
    assert np.array_equal(sound, glide(3000))


def test_autocast_and_gradients_have_no_effect() -> None:
    extractor, waves = SpectralFeatureExtractor([*DESCRIPTORS]), torch.from_numpy(glide(3000)[None])
    expected, _ = extractor.extract(waves, torch.tensor([3000]))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        actual, _ = extractor.extract(waves.requires_grad_(), torch.tensor([3000]))
    assert torch.equal(actual, expected)
    assert not actual.requires_grad


@pytest.mark.parametrize(
    ("sound", "rate", "message"),
    [
        (glide(100), 44_100, "44100 Hz"),
        (np.zeros(0, dtype=np.float32), RATE, "at least one"),
        ([], RATE, "no clip"),
        ([glide(100), glide(0)], RATE, "at least one"),
        (np.zeros((2, 100), dtype=np.float32), RATE, "one-dimensional"),
        ([np.zeros((100, 2), dtype=np.float32)], RATE, "one-dimensional"),
        ((glide(100) * 32767).astype(np.int16), RATE, "int16"),
    ],
)
def test_wrong_inputs_are_refused_in_one_line(sound: object, rate: int, message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        SpectralFeatureExtractor()(sound, sampling_rate=rate)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("settings", "message"),
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
def test_wrong_settings_are_refused_in_one_line(settings: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=message) as error:
        SpectralFeatureExtractor(**settings)
    assert "\n" not in str(error.value)


def test_n_mfcc_is_checked_for_mfcc_only() -> None:
    assert SpectralFeatureExtractor(["log-mel"], n_mels=13).feature_size == 13


def test_frames_are_padded_and_masked() -> None:
    extractor = SpectralFeatureExtractor(STACK)
    longest = extractor(CLIPS)
    assert longest["input_features"].shape == (5, 157, extractor.feature_size)
    wider = extractor(CLIPS, padding="max_length", max_length=200)
    assert wider["input_features"].shape[1] == wider["attention_mask"].shape[1] == 200
    assert wider["attention_mask"].sum(axis=1).tolist() == [extractor.num_frames(len(clip)) for clip in CLIPS]
    assert not wider["input_features"][wider["attention_mask"] == 0].any()
    np.testing.assert_array_equal(wider["input_features"][:, :157], longest["input_features"])
    np.testing.assert_array_equal(extractor(CLIPS, padding=True)["input_features"], longest["input_features"])
    for settings, message in (
        ({"padding": "longer"}, "longest or max_length"),
        ({"padding": "max_length"}, "needs max_length"),
        ({"padding": "max_length", "max_length": 100}, "157 frames, more than max_length=100"),
    ):
        with pytest.raises(ValueError, match=message):
            extractor(CLIPS, **settings)


def test_longer_clips_are_cropped_to_their_middle() -> None:
    whole, extractor = SpectralFeatureExtractor(STACK), SpectralFeatureExtractor(STACK, max_frames=40)
    batch = extractor(CLIPS)
    assert batch["input_features"].shape[1] == 40
    for clip, actual in zip(CLIPS, real_frames(batch), strict=True):
        expected = whole(clip)["input_features"][0]
        first = max(0, (len(expected) - 40) // 2)
        assert len(actual) == extractor.num_frames(len(clip)) == min(len(expected), 40)
        np.testing.assert_allclose(actual, expected[first : first + 40], atol=1e-5, rtol=1e-5)
    assert extractor.num_frames(torch.tensor([9000, 1])).tolist() == [40, 1]
    assert extractor(CLIPS[1:3], padding="max_length")["attention_mask"].sum(axis=1).tolist() == [1, 3]
    assert extractor(CLIPS[1:3], padding="max_length")["input_features"].shape[1] == 40
    # Cropped frames are part of the clip's statistics.
    normalized = SpectralFeatureExtractor(STACK, max_frames=40, normalize="clip")(CLIPS[0])["input_features"][0]
    expected = whole(CLIPS[0])["input_features"][0]
    np.testing.assert_allclose(
        normalized, ((expected - expected.mean(axis=0)) / expected.std(axis=0))[15:55], atol=1e-3, rtol=1e-3
    )


@pytest.mark.parametrize("normalize", ["none", "clip-mean", "clip"])
def test_a_clip_is_normalized_the_same_alone_and_in_a_batch(normalize: str) -> None:
    extractor = SpectralFeatureExtractor([*DESCRIPTORS], normalize=normalize)
    for clip, actual in zip(CLIPS, real_frames(extractor(CLIPS)), strict=True):
        np.testing.assert_allclose(actual, extractor(clip)["input_features"][0], atol=2e-3, rtol=1e-4)


def test_normalized_clips_have_mean_0_and_deviation_1() -> None:
    # Values from the energy of a quiet clip to a frequency.
    extractor = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip")
    for level in (1.0, 0.01):
        frames = extractor(np.float32(level) * glide())["input_features"][0]
        np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-3)
        np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-3)
    centered = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip-mean")(glide())["input_features"][0]
    unnormalized = SpectralFeatureExtractor([*DESCRIPTORS])(glide())["input_features"][0]
    np.testing.assert_allclose(centered, unnormalized - unnormalized.mean(axis=0), atol=1e-3, rtol=1e-3)
    level = SpectralFeatureExtractor(normalize="clip-mean")
    np.testing.assert_allclose(level(glide())["input_features"], level(0.1 * glide())["input_features"], atol=1e-2)


@pytest.mark.parametrize("normalize", ["none", "clip-mean", "clip", "speaker"])
def test_constant_values_become_zero_and_not_noise(normalize: str) -> None:
    extractor = SpectralFeatureExtractor([*DESCRIPTORS], normalize=normalize)
    for sound in (np.zeros(5000, dtype=np.float32), glide(1)):
        frames = extractor(sound)["input_features"]
        assert np.isfinite(frames).all()
        assert normalize == "none" or np.abs(frames).max() < 1e-3


def test_clips_of_a_speaker_are_normalized_together() -> None:
    extractor = SpectralFeatureExtractor(STACK, normalize="speaker")
    clips = [0.1 * glide(3000), glide(9000, 1), 0.5 * glide(300, 2)]
    actual = real_frames(extractor(clips))
    frames = np.concatenate(actual)
    np.testing.assert_allclose(frames.mean(axis=0), 0, atol=1e-3)
    np.testing.assert_allclose(frames.std(axis=0), 1, atol=1e-3)
    # Differences between a speaker's clips remain.
    rms = extractor.columns.index("rms")
    assert actual[0][:, rms].mean() < -0.5 < actual[1][:, rms].mean()
    single = SpectralFeatureExtractor(STACK, normalize="clip")(clips[1])["input_features"]
    np.testing.assert_allclose(extractor(clips[1])["input_features"], single, atol=1e-3)


def test_fitted_statistics_are_required_and_applied() -> None:
    unnormalized = SpectralFeatureExtractor(STACK)(CLIPS)["input_features"]
    extractor = SpectralFeatureExtractor(STACK, normalize="training")
    waves = torch.nn.utils.rnn.pad_sequence([torch.from_numpy(clip) for clip in CLIPS], batch_first=True)
    frames, mask = extractor.extract(waves, torch.tensor([len(clip) for clip in CLIPS]))
    np.testing.assert_allclose(frames, unnormalized, atol=1e-5)
    with pytest.raises(ValueError, match="needs mean and scale: fit them"):
        extractor(CLIPS)
    extractor.mean, extractor.scale = [0.5] * extractor.feature_size, [2.0] * extractor.feature_size
    expected = (unnormalized - 0.5) / 2 * mask.numpy()[..., None]
    np.testing.assert_allclose(extractor(CLIPS)["input_features"], expected, atol=1e-5)
    np.testing.assert_allclose(extractor.standardize(frames, mask), expected, atol=1e-5)


def test_every_setting_survives_saving(tmp_path) -> None:
    parameters = inspect.signature(SpectralFeatureExtractor).parameters
    names = [name for name, parameter in parameters.items() if parameter.kind is not parameter.VAR_KEYWORD]
    default = SpectralFeatureExtractor()
    assert set(names) == set(NON_DEFAULT), "add a value for the new setting"
    assert all(getattr(default, name) != value for name, value in NON_DEFAULT.items())
    SpectralFeatureExtractor(**NON_DEFAULT).save_pretrained(tmp_path)
    loaded = SpectralFeatureExtractor.from_pretrained(tmp_path)
    assert {name: getattr(loaded, name) for name in names} == NON_DEFAULT
    sound = glide()
    assert np.array_equal(
        loaded(sound)["input_features"], SpectralFeatureExtractor(**NON_DEFAULT)(sound)["input_features"]
    )
    # The feature size follows from the descriptors, not from the saved value.
    other = SpectralFeatureExtractor.from_pretrained(tmp_path, descriptors=["zcr"], mean=None, scale=None)
    assert other.feature_size == len(other.columns) == 1
    file = tmp_path / "preprocessor_config.json"
    file.write_text(file.read_text().replace('"n_mels"', '"mels"'))
    with pytest.raises(ValueError, match=r"n_mels missing in .*: another version of ser_ft saved it"):
        SpectralFeatureExtractor.from_pretrained(tmp_path)


@pytest.mark.slow
def test_a_saved_extractor_works_without_ser_ft(tmp_path) -> None:
    extractor = SpectralFeatureExtractor([*DESCRIPTORS], normalize="clip")
    extractor.save_pretrained(tmp_path)
    np.save(tmp_path / "sound.npy", glide())
    np.save(tmp_path / "expected.npy", extractor(glide())["input_features"])
    code = (
        "import sys; sys.modules['ser_ft'] = None\n"
        "import numpy as np, transformers\n"
        "make = transformers.AutoFeatureExtractor.from_pretrained('.', trust_remote_code=True)\n"
        "actual = make(np.load('sound.npy'))['input_features']\n"
        "np.testing.assert_allclose(actual, np.load('expected.npy'), atol=1e-4)\n"
    )
    subprocess.run([sys.executable, "-c", code], cwd=tmp_path, check=True, timeout=300)
