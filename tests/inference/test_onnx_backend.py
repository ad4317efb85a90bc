"""The ONNX backend: the same probabilities as the model, and one-line errors for other files."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from ser_ft.inference.backends import open_backend
from ser_ft.inference.backends.onnx import KEY, OnnxBackend
from ser_ft.inference.backends.torch import TorchBackend
from ser_ft.inference.recognizer import EmotionRecognizer
from ser_ft.utils.errors import InputError


@pytest.fixture(scope="module")
def backend(tiny_onnx: Path) -> OnnxBackend:
    return OnnxBackend(tiny_onnx)


@pytest.fixture
def write_changed(tiny_onnx: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the file again with other metadata."""

    def write(replacement: str | None = None, **info: Any) -> Path:
        proto = onnx.load(tiny_onnx)
        metadata = json.loads({item.key: item.value for item in proto.metadata_props}[KEY])
        onnx.helper.set_model_props(proto, {KEY: json.dumps(metadata | info) if replacement is None else replacement})
        onnx.save(proto, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    return write


def test_probabilities_equal_those_of_the_model(backend: OnnxBackend, tiny_run: Path, voices: list[np.ndarray]) -> None:
    reference = TorchBackend(str(tiny_run), "cpu")
    assert backend.info == reference.info
    assert (backend.info.name, backend.info.threshold) == ("tiny", 0.3)
    actual = np.concatenate([backend.probabilities(voice[None]) for voice in voices])
    expected = np.concatenate([reference.probabilities(voice[None]) for voice in voices])
    assert np.abs(actual - expected).max() < 1e-5
    assert actual.dtype == np.float64
    np.testing.assert_allclose(actual.sum(axis=1), 1.0, atol=1e-12)
    assert actual.std(axis=0).max() > 0.1, "all clips get the same probabilities: nothing is tested"


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 3.21, 20.0])
def test_a_clip_gets_the_same_probabilities_alone_and_in_a_batch(
    seconds: float, backend: OnnxBackend, tiny_run: Path, voices: list[np.ndarray]
) -> None:
    """Also at lengths other than in the export, and below the shortest."""
    clips = np.stack([np.resize(voice, int(16_000 * seconds)) for voice in voices[:7]])
    batch = backend.probabilities(clips)
    single = np.concatenate([backend.probabilities(clip[None]) for clip in clips])
    assert np.abs(batch - single).max() < 1e-5
    assert np.abs(batch - TorchBackend(str(tiny_run), "cpu").probabilities(clips)).max() < 1e-5


def test_several_threads_can_use_one_backend(backend: OnnxBackend, voices: list[np.ndarray]) -> None:
    with ThreadPoolExecutor(4) as pool:
        actual = list(pool.map(lambda voice: backend.probabilities(voice[None]), voices * 3))
    for probabilities, voice in zip(actual, voices * 3, strict=True):
        assert np.array_equal(probabilities, backend.probabilities(voice[None]))


def test_the_number_of_threads_changes_nothing(tiny_onnx: Path, voices: list[np.ndarray]) -> None:
    single, double = (open_backend(tiny_onnx, threads=threads).probabilities(voices[0][None]) for threads in (1, 2))
    assert np.abs(single - double).max() < 1e-6


def test_a_recognizer_runs_the_file(tiny_onnx: Path, tiny_run: Path, tree: Path) -> None:
    actual, expected = EmotionRecognizer(tiny_onnx)(tree), EmotionRecognizer(tiny_run)(tree)
    assert len(actual) == 6
    for exported, reference in zip(actual, expected, strict=True):
        scores = pytest.approx(reference["scores"], abs=1e-5)
        assert exported == {**reference, "scores": scores}


def test_neither_torch_nor_transformers_are_needed(tiny_onnx: Path) -> None:
    """Importing them takes seconds."""
    script = f"""
import sys
for name in ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib", "onnx"):
    sys.modules[name] = None  # whatever imports it fails
import numpy as np
from ser_ft.inference.backends import open_backend
print(open_backend({str(tiny_onnx)!r}).probabilities(np.zeros((2, 16000), np.float32)).shape)
"""
    process = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert process.stdout == "(2, 4)\n", process.stderr


def check_refused(message: str, path: Path) -> None:
    with pytest.raises(InputError, match=message) as caught:
        OnnxBackend(path)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 600


def test_a_missing_file_and_other_content_are_refused(tmp_path: Path) -> None:
    check_refused("gone.onnx: no such file; `ser-ft export RUN --out gone.onnx` makes one", tmp_path / "gone.onnx")
    for content in (b"", b"RIFF" + bytes(1000), b"not a model at all " * 100):
        (tmp_path / "odd.onnx").write_bytes(content)
        check_refused("odd.onnx: ", tmp_path / "odd.onnx")


@pytest.mark.parametrize("fraction", [0.001, 0.3, 0.7, 0.9, 0.9999])
def test_a_truncated_file_is_refused(fraction: float, tiny_onnx: Path, tmp_path: Path) -> None:
    content = tiny_onnx.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(fraction * len(content))])
    check_refused("cut.onnx: .* again", tmp_path / "cut.onnx")


def test_an_onnx_file_without_our_metadata_is_refused(tmp_path: Path) -> None:
    x, y = (onnx.helper.make_tensor_value_info(name, onnx.TensorProto.FLOAT, ["n"]) for name in "xy")
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [x], [y])
    proto = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(proto, tmp_path / "other.onnx")
    check_refused("other.onnx: not written by ser_ft", tmp_path / "other.onnx")


def test_unusable_metadata_is_refused(write_changed: Callable[..., Path]) -> None:
    check_refused("format 2", write_changed(format=2))
    check_refused("expects audio at 8000 Hz", write_changed(sampling_rate=8000))
    check_refused("cannot be read", write_changed(replacement="{}"))
    check_refused("cannot be read", write_changed(replacement="[1, 2"))
    check_refused("cannot be read", write_changed(min_samples="long"))
    assert OnnxBackend(write_changed(threshold=None)).info.threshold is None
    assert OnnxBackend(write_changed(max_seconds=4.5)).info.max_seconds == 4.5


def test_classes_that_do_not_fit_the_graph_are_refused(write_changed: Callable[..., Path]) -> None:
    check_refused("does not fit its class names", write_changed(classes=["happy", "sad", "angry"]))
    check_refused("two of its classes are named 'sad'", write_changed(classes=["happy", "sad", "angry", "sad"]))
    check_refused("two of its classes", write_changed(classes=["happy", "sad", "angry", "Happy"]))
    check_refused("not the name of a class", write_changed(classes=["happy", "sad", "angry", None]))


def test_implausible_metadata_are_refused(write_changed: Callable[..., Path]) -> None:
    check_refused("min_samples", write_changed(min_samples=10**9))
    check_refused("min_samples", write_changed(min_samples=-1))
    check_refused("threshold", write_changed(threshold=float("nan")))
    check_refused("max_seconds", write_changed(max_seconds=1e-9))


@pytest.mark.parametrize("location", ["../secret.bin", "/etc/hostname", "beside.bin"])
def test_weights_in_other_files_are_not_read(location: str, tiny_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(tiny_onnx)
    tensor = max(proto.graph.initializer, key=lambda item: len(item.raw_data))
    for file in (tmp_path / "secret.bin", tmp_path / "model" / "beside.bin"):
        file.parent.mkdir(exist_ok=True)
        file.write_bytes(tensor.raw_data)
    onnx.external_data_helper.set_external_data(tensor, location, 0, len(tensor.raw_data))
    tensor.ClearField("raw_data")
    (tmp_path / "model" / "model.onnx").write_bytes(proto.SerializeToString())
    check_refused("its weights are in other files", tmp_path / "model" / "model.onnx")


def test_answers_that_are_not_numbers_are_refused(tiny_onnx: Path, tmp_path: Path) -> None:
    proto = onnx.load(tiny_onnx)
    for tensor in proto.graph.initializer:
        if tensor.data_type == onnx.TensorProto.FLOAT and list(tensor.dims) == [4]:
            tensor.raw_data = np.full(4, np.nan, np.float32).tobytes()
    onnx.save(proto, tmp_path / "nan.onnx")
    check_refused("output is not a finite number", tmp_path / "nan.onnx")


def test_a_missing_onnxruntime_is_reported(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    check_refused("needs onnxruntime .*pip install onnxruntime", tiny_onnx)
