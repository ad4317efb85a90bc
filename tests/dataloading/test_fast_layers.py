"""The convolution by Fourier transform has the same output and gradients as the direct one."""

import pytest
import torch

from ser_ft.dataloading.fast_layers import as_fft_convolution


def convolution(channels: int = 16, kernel: int = 64, groups: int = 4, **settings: object) -> torch.nn.Conv1d:
    torch.manual_seed(0)
    layer = torch.nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=groups, **settings)  # type: ignore[arg-type]
    return torch.nn.utils.parametrizations.weight_norm(layer, name="weight", dim=2)


@pytest.mark.parametrize("frames", [1, 2, 31, 32, 63, 64, 65, 200])
@pytest.mark.parametrize("kernel", [64, 128])
def test_output_and_gradients_equal_those_of_the_direct_convolution(frames: int, kernel: int) -> None:
    layer = convolution(kernel=kernel)
    fft_forward = as_fft_convolution(layer)
    assert fft_forward is not None
    results = []
    frames_in = torch.randn(3, 16, frames)
    gradient = torch.randn(3, 16, frames + 1)
    for forward in (layer, fft_forward):
        inputs = frames_in.clone().requires_grad_()
        layer.zero_grad()
        output = forward(inputs)
        output.backward(gradient)
        results.append([output, inputs.grad, *(parameter.grad.clone() for parameter in layer.parameters())])
    for direct, fourier in zip(*results, strict=True):
        torch.testing.assert_close(fourier, direct, rtol=1e-4, atol=1e-4 * float(direct.detach().abs().max()))


def test_the_direct_convolution_is_used_without_gradients_and_autocast_keeps_its_dtype() -> None:
    layer, frames_in = convolution(), torch.randn(2, 16, 50)
    fft_forward = as_fft_convolution(layer)
    assert fft_forward is not None
    with torch.no_grad():
        assert torch.equal(fft_forward(frames_in), layer(frames_in))
    with torch.autocast("cpu", torch.bfloat16):
        assert fft_forward(frames_in).dtype == layer(frames_in).dtype == torch.bfloat16


@pytest.mark.parametrize("settings", [{"stride": 2}, {"kernel": 19}, {"kernel": 32}])
def test_other_convolutions_are_not_replaced(settings: dict[str, int]) -> None:
    assert as_fft_convolution(convolution(**settings)) is None
