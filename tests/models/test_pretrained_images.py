"""Pretrained weights of image backbones: conversion to one channel, and errors of downloads."""

import hashlib
import io
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import timm
import torch
from transformers import AutoModelForAudioClassification

from ser_ft.models import model_kind
from ser_ft.models.registry import build_model
from ser_ft.models.spectrogram import ALEXNET, feature_map
from ser_ft.utils.errors import InputError

CLASSES = ("neutral", "happy", "sad", "angry")
RESNET = "timm/test_resnet.r160_in1k"


@pytest.fixture(scope="module")
def timm_folder(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, torch.nn.Module]]:
    """Returns a timm network for color images and the folder where timm saved it."""
    root, cached = tmp_path_factory.mktemp("timm"), {}

    def get(name: str) -> tuple[Path, torch.nn.Module]:
        if name not in cached:
            torch.manual_seed(2)
            cached[name] = timm.create_model(name)
            timm.models.save_for_hf(cached[name], str(root / name), safe_serialization=True)
        return root / name, cached[name]

    return get


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "resnetblur18"])
def test_weights_saved_by_timm_are_loaded(
    name: str, timm_folder: Callable[[str], tuple[Path, torch.nn.Module]]
) -> None:
    """A gray image gives the same feature map as three equal color channels in the original network."""
    folder, whole = timm_folder(name)
    assert model_kind(str(folder)) == "image"
    _, model = build_model(str(folder), CLASSES, {}, {})
    image = torch.randn(2, 1, 64, 96)
    with torch.inference_mode():
        gray_map = feature_map(model.backbone.eval(), image)
        color_map = whole.eval().forward_intermediates(image.expand(-1, 3, -1, -1), intermediates_only=True)[-1]
    torch.testing.assert_close(gray_map, color_map, atol=1e-4, rtol=1e-4)
    weights, original = model.backbone.state_dict(), whole.state_dict()
    first = next(iter(model.backbone.state_dict()))
    if name == "test_resnet":
        torch.testing.assert_close(weights.pop(first), original[first].sum(dim=1, keepdim=True))
        assert all(torch.equal(value, original[key]) for key, value in weights.items())
    _, random = build_model(str(folder), CLASSES, {}, {}, pretrained=False)
    assert not torch.equal(random.backbone.state_dict()[first], model.backbone.state_dict()[first])


def test_a_saved_network_does_not_refer_to_the_folder_of_its_weights(
    timm_folder: Callable[[str], tuple[Path, torch.nn.Module]], tmp_path: Path
) -> None:
    folder, _ = timm_folder("test_resnet")
    _, model = build_model(str(folder), CLASSES, {}, {})
    model.save_pretrained(tmp_path)
    assert str(folder) not in (tmp_path / "config.json").read_text()
    loaded = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert all(torch.equal(value, loaded.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("offline", [True, False], ids=["offline mode", "unreachable"])
def test_unavailable_weights_are_refused_within_seconds(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"not on this machine and cannot be downloaded .*; use --model.pretrained false"
    ) as error:
        build_model(RESNET, CLASSES, {}, {})
    assert "\n" not in str(error.value)
    assert time.monotonic() - start < 10


def test_a_folder_with_damaged_weights_is_refused_in_one_line(
    timm_folder: Callable[[str], tuple[Path, torch.nn.Module]], tmp_path: Path
) -> None:
    folder, _ = timm_folder("test_resnet")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match=r"--model.pretrained false") as error:
        build_model(str(tmp_path), CLASSES, {}, {})
    assert "\n" not in str(error.value)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes, str], None]]:
    """Serves a file as AlexNet's weights from a local server."""
    from torchvision.models import AlexNet_Weights

    content = b""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def serve(data: bytes, name: str) -> None:
        nonlocal content
        content = data
        url = f"http://127.0.0.1:{server.server_port}/{name}"
        monkeypatch.setattr(AlexNet_Weights.IMAGENET1K_V1.value, "url", url)

    yield serve
    server.shutdown()
    server.server_close()


def whole_alexnet() -> torch.nn.Module:
    """AlexNet as torchvision has it, but its dense layers of next to nothing: they are left out."""
    from torchvision.models import alexnet

    torch.manual_seed(3)
    with torch.device("meta"):
        network = alexnet()
    network.features = network.features.to_empty(device="cpu")
    for parameter in network.features.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    network.classifier = torch.nn.Linear(2, 3)
    return network


def test_alexnet_weights_are_downloaded(served: Callable[[bytes, str], None]) -> None:
    """The first convolution gets the sum over the colours, the others what they were."""
    network, file = whole_alexnet(), io.BytesIO()
    torch.save(network.state_dict(), file)
    served(file.getvalue(), f"alexnet-owt-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth")
    _, model = build_model(ALEXNET, CLASSES, {}, {})
    weights, original = model.backbone.state_dict(), network.features.state_dict()
    torch.testing.assert_close(weights["0.weight"], original["0.weight"].sum(dim=1, keepdim=True))
    assert weights.keys() == original.keys()
    assert all(torch.equal(weights[key], original[key]) for key in weights.keys() - {"0.weight"})


def test_a_wrong_file_for_alexnet_is_refused_in_one_line(served: Callable[[bytes, str], None]) -> None:
    served(b"<html>sign in to this network</html>", "alexnet-owt-7be5be79.pth")
    with pytest.raises(
        InputError, match=r"the weights cannot be downloaded from http://127.*--model.pretrained false"
    ) as e:
        build_model(ALEXNET, CLASSES, {}, {})
    assert "\n" not in str(e.value)


def test_alexnet_without_network_access_is_refused_in_one_line(
    served: Callable[[bytes, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import AlexNet_Weights

    url = "http://127.0.0.1:9/alexnet-owt-7be5be79.pth"
    monkeypatch.setattr(AlexNet_Weights.IMAGENET1K_V1.value, "url", url)
    with pytest.raises(
        InputError, match=r"cannot be downloaded from http://127.0.0.1:9.*--model.pretrained false"
    ) as error:
        build_model(ALEXNET, CLASSES, {}, {})
    assert "\n" not in str(error.value)
