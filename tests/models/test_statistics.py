"""Statistics over time: each is the plain formula's, of a clip's real frames only."""

import numpy as np
import pytest
import torch

from ser_ft.models.classical import FUNCTIONALS, frame_statistics

LENGTHS = (60, 1, 2, 3, 17)
# From the flux of a quiet clip to a frequency.
UNITS = np.array([1.0, 1e-6, 3000.0, 1.0], dtype=np.float32)


def clips() -> tuple[torch.Tensor, torch.Tensor]:
    """Clips of several lengths, columns of several sizes; what is not real is large."""
    drawn = np.random.default_rng(0).gamma(2.0, size=(len(LENGTHS), 60, 4)).astype(np.float32)
    drawn *= UNITS
    drawn[..., 3] -= 7
    mask = np.arange(60) < np.array(LENGTHS)[:, None]
    drawn[~mask] = 1e6
    return torch.from_numpy(drawn), torch.from_numpy(mask).long()


def reference(values: np.ndarray, name: str) -> np.ndarray:
    """Sum up the frames of one clip, shape (frames, size), in float64."""
    values = values.astype(np.float64)
    if name.startswith("change-"):
        if len(values) == 1:
            return np.zeros(values.shape[1])
        return reference(np.diff(values, axis=0), name.removeprefix("change-"))
    quantiles = {"minimum": 0, "quartile-25": 25, "median": 50, "quartile-75": 75, "maximum": 100}
    if name in quantiles:
        return np.percentile(values, quantiles[name], axis=0)
    mean, deviation = values.mean(axis=0), values.std(axis=0)
    if name in ("mean", "deviation"):
        return mean if name == "mean" else deviation
    apart = (values - mean) / np.where(deviation > 0, deviation, np.inf)
    return (apart**3).mean(axis=0) if name == "skewness" else ((apart**4).mean(axis=0) - 3) * (deviation > 0)


@pytest.mark.parametrize("name", FUNCTIONALS)
def test_a_statistic_is_that_of_the_definition(name: str) -> None:
    features, mask = clips()
    found = frame_statistics(features, mask, [name])
    for row, count in enumerate(LENGTHS):
        wanted = reference(features[row, :count].numpy(), name)
        units = 1 if name.endswith(("skewness", "kurtosis")) else UNITS
        np.testing.assert_allclose(found[row] / units, wanted / units, rtol=1e-4, atol=1e-4)


def test_statistics_stand_side_by_side_in_the_order_given() -> None:
    features, mask = clips()
    names = ["change-mean", "maximum", "mean"]
    found = frame_statistics(features, mask, names)
    assert torch.equal(found, torch.cat([frame_statistics(features, mask, [name]) for name in names], dim=1))
    assert frame_statistics(features, mask).shape == (len(LENGTHS), 4 * len(FUNCTIONALS))


def test_a_clip_has_the_same_statistics_alone_and_in_a_batch() -> None:
    features, mask = clips()
    found = frame_statistics(features, mask)
    for row, count in enumerate(LENGTHS):
        alone = frame_statistics(features[row : row + 1, :count], mask[row : row + 1, :count])
        torch.testing.assert_close(found[row : row + 1], alone, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("value", [0.0, -23.025852, 4321.1])
def test_what_does_not_vary_has_no_shape(value: float) -> None:
    found = frame_statistics(torch.full((1, 400, 1), value), torch.ones(1, 400))[0]
    for name, number in zip(FUNCTIONALS, found.tolist(), strict=True):
        is_level = name in ("mean", "minimum", "maximum", "median", "quartile-25", "quartile-75")
        assert number == pytest.approx(value if is_level else 0, rel=1e-5, abs=1e-3), name


def test_unknown_names_and_empty_clips_are_refused() -> None:
    features, mask = clips()
    with pytest.raises(ValueError, match=r"some of mean, deviation, .*change-kurtosis, not mode"):
        frame_statistics(features, mask, ["mean", "mode"])
    with pytest.raises(ValueError, match="not none"):
        frame_statistics(features, mask, [])
    with pytest.raises(ValueError, match="no real frame"):
        frame_statistics(features, mask * torch.tensor([1, 1, 0, 1, 1])[:, None])
