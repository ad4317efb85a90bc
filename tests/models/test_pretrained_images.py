"""Weights that were pretrained on images: taken over to one channel, and one line where they cannot be had."""

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
def of_timm(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], tuple[Path, torch.nn.Module]]:
    """A whole network of timm for images in colour, and the folder where timm itself has saved it."""
    home, known = tmp_path_factory.mktemp("timm"), {}

    def get(name: str) -> tuple[Path, torch.nn.Module]:
        if name not in known:
            torch.manual_seed(2)
            known[name] = timm.create_model(name)
            timm.models.save_for_hf(known[name], str(home / name), safe_serialization=True)
        return home / name, known[name]

    return get


@pytest.mark.parametrize("name", ["test_resnet", "test_efficientnet", "test_convnext", "resnetblur18"])
def test_weights_that_timm_saved_are_taken_over(
    name: str, of_timm: Callable[[str], tuple[Path, torch.nn.Module]]
) -> None:
    """A grey image gives what the network for colours gives where all three are that image: colours are summed up."""
    folder, whole = of_timm(name)
    assert model_kind(str(folder)) == "image"
    _, model = build_model(str(folder), CLASSES, {}, {})
    image = torch.randn(2, 1, 64, 96)
    with torch.inference_mode():
        found = feature_map(model.backbone.eval(), image)
        colours = whole.eval().forward_intermediates(image.expand(-1, 3, -1, -1), intermediates_only=True)[-1]
    torch.testing.assert_close(found, colours, atol=1e-4, rtol=1e-4)
    ours, theirs = model.backbone.state_dict(), whole.state_dict()
    first = next(iter(model.backbone.state_dict()))
    if name == "test_resnet":
        torch.testing.assert_close(ours.pop(first), theirs[first].sum(dim=1, keepdim=True))
        assert all(torch.equal(value, theirs[key]) for key, value in ours.items())
    _, random = build_model(str(folder), CLASSES, {}, {}, pretrained=False)
    assert not torch.equal(random.backbone.state_dict()[first], model.backbone.state_dict()[first])


def test_what_timm_saved_is_saved_by_us_without_its_folder(
    of_timm: Callable[[str], tuple[Path, torch.nn.Module]], tmp_path: Path
) -> None:
    folder, _ = of_timm("test_resnet")
    _, model = build_model(str(folder), CLASSES, {}, {})
    model.save_pretrained(tmp_path)
    assert str(folder) not in (tmp_path / "config.json").read_text()
    read = AutoModelForAudioClassification.from_pretrained(tmp_path)
    assert all(torch.equal(value, read.state_dict()[key]) for key, value in model.state_dict().items())


@pytest.mark.parametrize("offline", [True, False], ids=["told to be offline", "out of reach"])
def test_weights_that_cannot_be_had_are_one_line_within_seconds(offline: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("huggingface_hub.constants", "datasets.config"):
        monkeypatch.setattr(f"{module}.HF_HUB_OFFLINE", offline)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(
        InputError, match=r"not on this machine and cannot be downloaded .*; use --model.pretrained false"
    ) as refused:
        build_model(RESNET, CLASSES, {}, {})
    assert "\n" not in str(refused.value)
    assert time.monotonic() - start < 10


def test_a_folder_with_broken_weights_is_one_line(
    of_timm: Callable[[str], tuple[Path, torch.nn.Module]], tmp_path: Path
) -> None:
    folder, _ = of_timm("test_resnet")
    (tmp_path / "config.json").write_bytes((folder / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    with pytest.raises(InputError, match=r"--model.pretrained false") as refused:
        build_model(str(tmp_path), CLASSES, {}, {})
    assert "\n" not in str(refused.value)


@pytest.fixture
def served(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[bytes, str], None]]:
    """Puts a file in the place of AlexNet's weights, on a server of this machine."""
    from torchvision.models import AlexNet_Weights

    content = b""

    class Place(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Place)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setenv("TORCH_HOME", str(tmp_path / "torch"))

    def serve(found: bytes, name: str) -> None:
        nonlocal content
        content = found
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
    for each in network.features.parameters():
        torch.nn.init.normal_(each, std=0.05)
    network.classifier = torch.nn.Linear(2, 3)
    return network


def test_alexnets_weights_come_from_their_place(served: Callable[[bytes, str], None]) -> None:
    """The first convolution gets the sum over the colours, the others what they were."""
    network, file = whole_alexnet(), io.BytesIO()
    torch.save(network.state_dict(), file)
    served(file.getvalue(), f"alexnet-owt-{hashlib.sha256(file.getvalue()).hexdigest()[:8]}.pth")
    _, model = build_model(ALEXNET, CLASSES, {}, {})
    ours, theirs = model.backbone.state_dict(), network.features.state_dict()
    torch.testing.assert_close(ours["0.weight"], theirs["0.weight"].sum(dim=1, keepdim=True))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[key], theirs[key]) for key in ours.keys() - {"0.weight"})


def test_a_file_that_is_not_alexnets_is_one_line(served: Callable[[bytes, str], None]) -> None:
    served(b"<html>sign in to this network</html>", "alexnet-owt-7be5be79.pth")
    with pytest.raises(
        InputError, match=r"the weights cannot be downloaded from http://127.*--model.pretrained false"
    ) as e:
        build_model(ALEXNET, CLASSES, {}, {})
    assert "\n" not in str(e.value)


def test_alexnet_without_a_network_is_one_line(
    served: Callable[[bytes, str], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    from torchvision.models import AlexNet_Weights

    url = "http://127.0.0.1:9/alexnet-owt-7be5be79.pth"
    monkeypatch.setattr(AlexNet_Weights.IMAGENET1K_V1.value, "url", url)
    with pytest.raises(
        InputError, match=r"cannot be downloaded from http://127.0.0.1:9.*--model.pretrained false"
    ) as refused:
        build_model(ALEXNET, CLASSES, {}, {})
    assert "\n" not in str(refused.value)
