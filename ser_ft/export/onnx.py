"""Export of a trained classifier to one ONNX file, from samples to calibrated logits, verified against the model."""

from __future__ import annotations

import json
import logging
import time
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import nn

from .. import audio
from ..audio import SAMPLE_RATE
from ..audio.discovery import find_sound_files
from ..evaluation.run_folder import RunFolder, find_model_folder
from ..inference.backends.base import Backend, ModelInfo
from ..inference.backends.onnx import FORMAT, INPUT, KEY, OUTPUT, OnnxBackend
from ..inference.backends.torch import TorchBackend
from ..inference.inputs import AudioInput
from ..models.pretrained import PretrainedClassifier
from ..utils.atomic import write_atomically
from ..utils.errors import InputError
from ..utils.files import check_inputs, check_output, output_lock
from ..utils.progress import progress_bar
from .encoder_frontends import make_frontend

TOLERANCE, INT8_TOLERANCE = 1e-4, 0.1
"""Default of the largest accepted difference of a probability, in float32 and with 8-bit weights."""
NUM_CLIPS = 32
"""Number of clips on which the file is compared with the model."""
_OPSET = 17
_MAX_WEIGHT_BYTES = 2**31 - 2**26  # protobuf holds 2 GiB
_MAX_SECONDS = 20.0  # of a clip in the comparison
_REPEATS = 5


@dataclass(frozen=True)
class ExportResult:
    """An ONNX file, its size in bytes, and its comparison with the model on a number of clips.

    Attributes:
        source: Where the clips are from, in words.
        difference: The largest difference of a probability.
        agreement: Share of clips with the same most probable class.
        clip_seconds: Duration of the clip on which the times were measured.
        onnx_seconds: Time to predict this clip, the median of alternating measurements.
        torch_seconds: The same for the model in PyTorch.
    """

    path: Path
    bytes: int
    clips: int
    source: str
    difference: float
    agreement: float
    clip_seconds: float
    onnx_seconds: float
    torch_seconds: float


def export_onnx(
    model: str | Path,
    out: str | Path | None = None,
    *,
    int8: bool = False,
    data: str | Path | None = None,
    tolerance: float | None = None,
    allow_pickle: bool = False,
    overwrite: bool = False,
    verbose: bool = True,
) -> ExportResult:
    """Export a trained classifier to an ONNX file, which `EmotionRecognizer` runs without further files.

    The input `waveform` is float32 at 16 kHz, shape (clips, samples), the output `logits` has shape (clips, classes).
    The features are part of the graph. The file is kept only if its probabilities agree with those of the model.

    Args:
        model: A run folder, a folder with a saved classifier, or a name on the Hub.
        out: The file. None: NAME.onnx, or NAME-int8.onnx, in the current folder.
        int8: Whether to store the weights of matrix products as 8-bit integers and multiply in them, which is smaller,
            faster and less exact.
        data: Clips for the comparison: a table that `ser-ft prepare` wrote, or a folder of sound files. None: the table
            that the model was trained on if it still exists, else synthetic voices.
        tolerance: Largest accepted difference of a probability. None: 1e-4, or 0.1 with `int8`.
        allow_pickle: Also load pickled weights.

    Raises:
        InputError: The model cannot be loaded or exported, the file exists or cannot be written, there are no clips, or
            a probability differs too much; no file is left behind then.
    """
    _check_packages()
    check_inputs([] if data is None else [Path(data).expanduser()])
    folder = find_model_folder(Path(model).expanduser())
    saved = PretrainedClassifier.load(str(folder or model), allow_pickle)
    name = out or f"{Path(saved.display_name).name}{'-int8' if int8 else ''}.onnx"
    with output_lock(name):
        target = _check_target(saved, name, overwrite)
        source, clips = _load_clips(folder, data, verbose)
        reference = TorchBackend(str(model), "cpu", allow_pickle=allow_pickle)
        info = reference.info
        # The first clip is also compared at the shortest length, one sample more, and a long one.
        lengths = (info.min_samples, info.min_samples + 1, int(_MAX_SECONDS * SAMPLE_RATE) + 1)
        compared = [*clips, *(np.resize(clips[0], length) for length in lengths)]
        expected = _predict(reference, compared, "probabilities of the model", verbose)
        with write_atomically(target) as partial:
            write_onnx(saved, partial, info, int8)
            backend = OnnxBackend(partial)
            actual = _predict(backend, compared, "probabilities of the file", verbose)
            difference = float(np.abs(actual - expected).max())
            accepted = tolerance if tolerance is not None else INT8_TOLERANCE if int8 else TOLERANCE
            if not difference <= accepted:
                raise InputError(
                    f"{target}: not written: a probability differs by {difference:.2g} from that of the model, and "
                    f"--tolerance is {accepted:g}"
                )
            clip = sorted(clips, key=len)[len(clips) // 2]
            onnx_seconds, torch_seconds = _measure_times((backend, reference), clip[None])
        size, clip_seconds = target.stat().st_size, len(clip) / SAMPLE_RATE
        agreement = float((actual.argmax(axis=1) == expected.argmax(axis=1))[: len(clips)].mean())
        times = clip_seconds, onnx_seconds, torch_seconds
        return ExportResult(target, size, len(clips), source, difference, agreement, *times)


class WaveformClassifier(nn.Module):
    """A classifier with its features: waveforms of one length in, logits out.

    The weights of the saved classifier are shared, and its weight normalization is removed.
    """

    def __init__(self, saved: PretrainedClassifier) -> None:
        super().__init__()
        self.frontend = make_frontend(saved.extractor, saved.clip_length)
        self.network = cast(nn.Module, saved.model)
        for module in self.network.modules():
            if nn.utils.parametrize.is_parametrized(module, "weight"):
                nn.utils.parametrize.remove_parametrizations(module, "weight")

    def forward(self, waveforms: torch.Tensor) -> torch.Tensor:
        """Return the logits, shape (clips, classes), of waveforms of shape (clips, samples)."""
        logits: torch.Tensor = self.network(self.frontend(waveforms)).logits
        return logits


def write_onnx(saved: PretrainedClassifier, path: Path, info: ModelInfo, int8: bool = False) -> None:
    """Write a classifier to an ONNX file, with `info` as metadata, without verifying it."""
    import onnx

    # The number of SEW's frames is odd for this length, so that the padding of odd numbers is traced.
    example = torch.randn(2, max(16_000, info.min_samples), generator=torch.Generator().manual_seed(0)) * 0.1
    with _quiet(), torch.no_grad():
        graph = WaveformClassifier(saved).eval()
        # The graph is traced. The newer exporter of torch 2.11 (dynamo=True) has to prove its shapes for every length.
        # For SEW's pairs of frames, the steps of an LSTM and the maximum over pairs of an odd number of frames it gives
        # up, or writes a file for clips of one length.
        torch.onnx.export(
            graph,
            (example,),
            path,
            dynamo=False,
            opset_version=_OPSET,
            input_names=[INPUT],
            output_names=[OUTPUT],
            dynamic_axes={INPUT: {0: "clips", 1: "samples"}, OUTPUT: {0: "clips"}},
        )
        if int8:
            _quantize(path, saved.is_own_network)
    proto = onnx.load(path)
    metadata = {"format": FORMAT, "sampling_rate": SAMPLE_RATE, **asdict(info)} | ({"int8": True} if int8 else {})
    onnx.helper.set_model_props(proto, {KEY: json.dumps(metadata)})
    onnx.save(proto, path)


def _quantize(path: Path, is_own_network: bool) -> None:
    """Convert the weights of the network, but not those of the features, to 8-bit integers.

    In our own networks all weights are converted, unsigned: with signed ones the convolutions of onnxruntime are slower
    than in float32. In speech encoders only those of matrix products are converted (convolutions would add 20 times the
    error and gain no speed), signed, and with 7 bits, so that no processor's products overflow.
    """
    import onnx
    from onnxruntime.quantization import QuantType, quantize_dynamic

    nodes = onnx.load(path).graph.node
    quantize_dynamic(
        path,
        path,
        op_types_to_quantize=["MatMul", "Gemm", "Conv", "LSTM"] if is_own_network else ["MatMul", "Gemm"],
        per_channel=True,
        reduce_range=not is_own_network,
        weight_type=QuantType.QUInt8 if is_own_network else QuantType.QInt8,
        nodes_to_exclude=[node.name for node in nodes if node.name.startswith("/frontend/")],
    )


def _check_packages() -> None:
    try:
        import onnx  # noqa: F401
        import onnxruntime  # noqa: F401
    except ImportError as error:
        raise InputError(f"the export needs a package that is not installed ({error}): pip install onnx") from error


def _check_target(saved: PretrainedClassifier, target: str | Path, overwrite: bool) -> Path:
    size = 4 * sum(parameter.numel() for parameter in cast(nn.Module, saved.model).parameters())
    if size > _MAX_WEIGHT_BYTES:
        raise InputError(f"{saved.name}: its weights take {size / 2**30:.1f} GiB; an .onnx file holds less than 2")
    return check_output(target, kind="file", what="an ONNX file", suffixes=(".onnx",), overwrite=overwrite)


def _load_clips(folder: Path | None, data: str | Path | None, verbose: bool) -> tuple[str, list[np.ndarray]]:
    from ..data.prepare import CORPUS_INFO_FILE

    if data is not None:
        path = Path(data).expanduser()
        return str(data), _from_table(path) if (path / CORPUS_INFO_FILE).is_file() else _from_files(path)
    run = RunFolder(folder.parent) if folder is not None and folder.name == "model" else None
    if run is not None and run.config_file.is_file():
        prepared = (run.config.get("data") or {}).get("prepared")
        if prepared and (Path(prepared).expanduser() / CORPUS_INFO_FILE).is_file():
            return str(prepared), _from_table(Path(prepared).expanduser())
    return "synthetic voices (to compare on recordings, use --data)", _synthetic_voices(verbose)


def _from_table(path: Path) -> list[np.ndarray]:
    from ..data.prepare import open_prepared

    table = open_prepared(path)
    return [audio.from_wav(table[row]["audio"]["bytes"]) for row in _spread(range(len(table)))]


def _from_files(path: Path) -> list[np.ndarray]:
    files = [file.path for file in find_sound_files([path]) if file.error is None]
    if not files:
        raise InputError(f"{path}: neither a prepared table nor a folder with sound files")
    return [_read_beginning(file) for file in _spread(files)]


def _read_beginning(file: str) -> np.ndarray:
    limit, blocks = round(_MAX_SECONDS * SAMPLE_RATE), [np.zeros(0, np.float32)]
    for block in AudioInput(file, file, Path(file)).blocks():
        blocks.append(block)
        if sum(map(len, blocks)) >= limit:
            break
    return np.concatenate(blocks)[:limit]


def _synthetic_voices(verbose: bool) -> list[np.ndarray]:
    from ..data.synthetic import corpora

    clips = progress_bar(_spread(corpora.miniature_clips()), desc="synthetic voices", show_progress=verbose, delay=2)
    return [audio.resample(*corpora.synthesize_clip(clip)) for clip in clips]


def _spread(items: Sequence[Any]) -> list[Any]:
    positions = np.linspace(0, len(items) - 1, min(NUM_CLIPS, len(items)))
    return [items[position] for position in np.unique(positions.astype(int))]


def _predict(backend: Backend, clips: Sequence[np.ndarray], what: str, verbose: bool) -> np.ndarray:
    progress = progress_bar(clips, desc=what, show_progress=verbose, delay=2)
    return np.concatenate([backend.probabilities(clip[None]) for clip in progress])


def _measure_times(backends: Sequence[Backend], waveforms: np.ndarray) -> list[float]:
    durations = []
    for _ in range(_REPEATS):
        times = [time.perf_counter()]
        for backend in backends:
            backend.probabilities(waveforms)
            times.append(time.perf_counter())
        durations.append(np.diff(times))
    return [float(seconds) for seconds in np.median(durations, axis=0)]


@contextmanager
def _quiet() -> Iterator[None]:
    # Tracing warns that it follows one path and that a mel band may be empty; quantization gives hints.
    level = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(level)
