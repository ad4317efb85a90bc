"""The positional convolution by Fourier transform is the direct one: its answer, and its gradients."""

import pytest
import torch

from ser_ft.dataloading.fft_convolution import as_fft_convolution


def convolution(channels: int = 16, kernel: int = 64, groups: int = 4, **more: object) -> torch.nn.Conv1d:
    torch.manual_seed(0)
    made = torch.nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups, **more)  # type: ignore[arg-type]
    return torch.nn.utils.parametrizations.weight_norm(made, name="weight", dim=2)


@pytest.mark.parametrize("frames", [1, 2, 31, 32, 63, 64, 65, 200])
@pytest.mark.parametrize("kernel", [64, 128])
def test_answer_and_gradients_are_those_of_the_direct_way(frames: int, kernel: int) -> None:
    layer = convolution(kernel=kernel)
    faster = as_fft_convolution(layer)
    assert faster is not None
    found = []
    given = torch.randn(3, 16, frames)
    wanted = torch.randn(3, 16, frames + 1)
    for way in (layer, faster):
        sound = given.clone().requires_grad_()
        layer.zero_grad()
        answer = way(sound)
        answer.backward(wanted)
        found.append([answer, sound.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for direct, fourier in zip(*found, strict=True):
        torch.testing.assert_close(fourier, direct, rtol=1e-4, atol=1e-4 * float(direct.detach().abs().max()))


def test_what_is_not_trained_goes_the_direct_way_to_the_bit() -> None:
    layer = convolution()
    faster = as_fft_convolution(layer)
    given = torch.randn(2, 16, 50)
    with torch.no_grad():
        assert faster is not None
        assert torch.equal(faster(given), layer(given))


def test_autocast_gets_the_kind_that_it_would_get() -> None:
    layer = convolution()
    faster = as_fft_convolution(layer)
    assert faster is not None
    with torch.autocast("cpu", torch.bfloat16):
        assert faster(torch.randn(2, 16, 50)).dtype == layer(torch.randn(2, 16, 50)).dtype == torch.bfloat16


@pytest.mark.parametrize("more", [{"stride": 2}, {"kernel": 19}, {"kernel": 32}])
def test_other_convolutions_are_left_alone(more: dict[str, int]) -> None:
    assert as_fft_convolution(convolution(**more)) is None
