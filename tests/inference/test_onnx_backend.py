"""An .onnx file alone recognises as the model that it was made of does; any other file is refused in one line."""

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
def engine(tiny_onnx: Path) -> OnnxBackend:
    return OnnxBackend(tiny_onnx)


@pytest.fixture
def changed(tiny_onnx: Path, tmp_path: Path) -> Callable[..., Path]:
    """Return a function that writes the file again with other metadata."""

    def write(about: str | None = None, **facts: Any) -> Path:
        made = onnx.load(tiny_onnx)
        said = json.loads({one.key: one.value for one in made.metadata_props}[KEY])
        onnx.helper.set_model_props(made, {KEY: json.dumps(said | facts) if about is None else about})
        onnx.save(made, tmp_path / "changed.onnx")
        return tmp_path / "changed.onnx"

    return write


def test_the_answers_are_the_model_s(engine: OnnxBackend, tiny_run: Path, voices: list[np.ndarray]) -> None:
    theirs = TorchBackend(str(tiny_run), "cpu")
    answers = np.concatenate([engine.probabilities(voice[None]) for voice in voices])
    wanted = np.concatenate([theirs.probabilities(voice[None]) for voice in voices])
    assert np.abs(answers - wanted).max() < 1e-5
    assert answers.dtype == np.float64
    np.testing.assert_allclose(answers.sum(axis=1), 1.0, atol=1e-12)
    assert answers.std(axis=0).max() > 0.1, "the clips cannot be told apart: nothing is tested"


def test_the_file_says_all_that_the_model_says(engine: OnnxBackend, tiny_run: Path) -> None:
    assert engine.info == TorchBackend(str(tiny_run), "cpu").info
    assert engine.info.threshold == 0.3


@pytest.mark.parametrize("seconds", [0.1, 0.5, 1.0, 3.21, 20.0])
def test_a_clip_has_the_same_answer_alone_and_in_a_batch(
    seconds: float, engine: OnnxBackend, tiny_run: Path, voices: list[np.ndarray]
) -> None:
    """At any length, which the file must not have been made for; shorter than the shortest, too."""
    clips = np.stack([np.resize(voice, int(16_000 * seconds)) for voice in voices[:7]])
    together = engine.probabilities(clips)
    alone = np.concatenate([engine.probabilities(clip[None]) for clip in clips])
    assert np.abs(together - alone).max() < 1e-5
    assert np.abs(together - TorchBackend(str(tiny_run), "cpu").probabilities(clips)).max() < 1e-5


def test_several_threads_may_ask_at_once(engine: OnnxBackend, voices: list[np.ndarray]) -> None:
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(lambda voice: engine.probabilities(voice[None]), voices * 3))
    for answer, voice in zip(found, voices * 3, strict=True):
        assert np.array_equal(answer, engine.probabilities(voice[None]))


def test_the_number_of_threads_changes_no_answer(tiny_onnx: Path, voices: list[np.ndarray]) -> None:
    one, two = (open_backend(tiny_onnx, threads=threads).probabilities(voices[0][None]) for threads in (1, 2))
    assert np.abs(one - two).max() < 1e-6


def test_a_recogniser_takes_the_file_alone(tiny_onnx: Path, tiny_run: Path, tree: Path) -> None:
    found, wanted = EmotionRecognizer(tiny_onnx)(tree), EmotionRecognizer(tiny_run)(tree)
    assert len(found) == 6
    for ours, theirs in zip(found, wanted, strict=True):
        assert (ours["path"], ours["emotion"], ours["uncertain"]) == (
            theirs["path"],
            theirs["emotion"],
            theirs["uncertain"],
        )
        assert ours["scores"] == pytest.approx(theirs["scores"], abs=1e-5)


def test_neither_torch_nor_transformers_are_needed(tiny_onnx: Path) -> None:
    """They take seconds to import: a file's answer would wait for them."""
    asked = f"""
import sys
for name in ("torch", "transformers", "datasets", "pandas", "sklearn", "scipy", "matplotlib", "onnx"):
    sys.modules[name] = None  # whatever imports it fails
import numpy as np
from ser_ft.inference.backends import open_backend
print(open_backend({str(tiny_onnx)!r}).probabilities(np.zeros((2, 16000), np.float32)).shape)
"""
    done = subprocess.run([sys.executable, "-c", asked], capture_output=True, text=True, check=False)
    assert done.stdout == "(2, 4)\n", done.stderr


# ---- what does not come in


def refused(said: str, path: Path) -> None:
    with pytest.raises(InputError, match=said) as e:
        OnnxBackend(path)
    assert "\n" not in str(e.value)
    assert len(str(e.value)) < 600


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    refused("gone.onnx: no such file; `ser-ft export RUN --out gone.onnx` makes one", tmp_path / "gone.onnx")


@pytest.mark.parametrize("content", [b"", b"RIFF" + bytes(1000), b"not a model at all " * 100])
def test_a_file_of_something_else(content: bytes, tmp_path: Path) -> None:
    (tmp_path / "odd.onnx").write_bytes(content)
    refused("odd.onnx: ", tmp_path / "odd.onnx")


@pytest.mark.parametrize("share", [0.001, 0.3, 0.7, 0.9, 0.9999])
def test_a_file_that_was_cut_short(share: float, tiny_onnx: Path, tmp_path: Path) -> None:
    content = tiny_onnx.read_bytes()
    (tmp_path / "cut.onnx").write_bytes(content[: int(share * len(content))])
    refused("cut.onnx: .* again", tmp_path / "cut.onnx")


def test_a_model_of_another_make(tmp_path: Path) -> None:
    value = onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, ["n"])
    out = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, ["n"])
    graph = onnx.helper.make_graph([onnx.helper.make_node("Identity", ["x"], ["y"])], "g", [value], [out])
    made = onnx.helper.make_model(graph, opset_imports=[onnx.helper.make_opsetid("", 17)], ir_version=8)
    onnx.save(made, tmp_path / "other.onnx")
    refused("other.onnx: not written by ser_ft", tmp_path / "other.onnx")


def test_what_the_file_says_of_itself_must_fit(changed: Callable[..., Path]) -> None:
    refused("format 2", changed(format=2))
    refused("expects audio at 8000 Hz", changed(sampling_rate=8000))
    refused("cannot be read", changed(about="{}"))
    refused("cannot be read", changed(about="[1, 2"))
    refused("cannot be read", changed(min_samples="long"))
    assert OnnxBackend(changed(threshold=None)).info.threshold is None
    assert OnnxBackend(changed(max_seconds=4.5)).info.max_seconds == 4.5


def test_onnxruntime_that_is_not_installed(tiny_onnx: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    refused("needs onnxruntime .*pip install onnxruntime", tiny_onnx)
