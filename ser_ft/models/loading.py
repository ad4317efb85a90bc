"""The one door for saved models: their files are checked before transformers reads them, and no code of theirs is run.

A model is a folder, or a repository on the Hub, whose files are downloaded to a folder first. Refused in one line are
code that is saved with a model, pickled weights (unless they are allowed), files outside of the folder, settings of
implausible size, and weights that are not finite.
"""

from __future__ import annotations

import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any, cast

import torch
from huggingface_hub.utils.tqdm import are_progress_bars_disabled, disable_progress_bars, enable_progress_bars
from safetensors import SafetensorError
from transformers import AutoConfig, AutoFeatureExtractor, PreTrainedConfig, PreTrainedModel, SequenceFeatureExtractor
from transformers.initialization import no_init_weights
from transformers.models.auto.modeling_auto import MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES
from transformers.utils import logging

from ..utils.errors import InputError, raise_machine_failure
from ..utils.files import check_path_or_hub_name
from ..utils.hub_offline import offline_if_unreachable
from ..utils.readers import read_json
from . import OWN_PREFIX, SPEECH_TYPE, resolve_model_path
from .outputs import MAX_CLASSES, NotFiniteError

_WEIGHTS, _PICKLED_WEIGHTS = "model.safetensors", "pytorch_model.bin"
_CONFIG, _ADAPTER = "config.json", "adapter_config.json"
_EXTRACTORS = ("preprocessor_config.json", "processor_config.json")
_INDEX = ".index.json"
_PICKLE_SUFFIXES = (".bin", ".pt", ".pth", ".ckpt", ".pkl", ".tar", ".npz")
_READ_SUFFIXES = (".json", ".safetensors", *_PICKLE_SUFFIXES)
# The weights of a new head, and those that are computed instead of loaded.
_MAX_NEW_PARAMETERS = 50_000_000
_MAX_LAYERS, _MAX_NUMBERS = 512, 4096
# Largest values of settings that memory grows with, although no weights need to fit them.
_MAX_SETTINGS = {
    **dict.fromkeys(("num_labels", "_num_labels"), MAX_CLASSES),
    **dict.fromkeys(("feature_size", "num_mel_bins", "n_mels", "n_mfcc"), 2048),
    **dict.fromkeys(("n_fft", "fft_length", "win_length", "hop_length", "stride"), 2**15),
    **{"chunk_length": 60, "max_length": 6000, "max_frames": 10**7, "sampling_rate": 10**6},
}
_EXTRACTOR_CLASSES = (
    *("ASTFeatureExtractor", "SeamlessM4TFeatureExtractor", "SpectralFeatureExtractor"),
    *("ClipLengthFeatureExtractor", "Wav2Vec2FeatureExtractor", "WhisperFeatureExtractor"),
)
# Settings that load code, weights or packages from elsewhere.
_FOREIGN = {
    "quantization_config": "its weights are quantized: load them with transformers and save them in float32",
    "attn_implementation": "its config.json names an implementation of attention: remove it",
    "_attn_implementation": "its config.json names an implementation of attention: remove it",
    "experts_implementation": "its config.json names an implementation of experts: remove it",
    "transformers_weights": "its config.json names a weights file: name the file model.safetensors instead",
}


@dataclass(frozen=True)
class SavedModel:
    """A saved model of which only the configuration and the feature extractor are loaded.

    `folder` holds its files; for a model on the Hub, it is in the cache, and named after the commit.
    """

    name: str
    folder: Path
    revision: str | None
    config: PreTrainedConfig
    extractor: SequenceFeatureExtractor

    def load_weights(
        self, auto_class: Any, config: PreTrainedConfig | None = None, allow_pickle: bool = False
    ) -> tuple[PreTrainedModel, dict[str, Any]]:
        """Load the weights in float32, and return the model and transformers' report on missing and other weights.

        Args:
            auto_class: the class of transformers that makes the model, such as AutoModelForAudioClassification.
            config: a changed configuration; None: that of the model.
            allow_pickle: also load pickled weights, with the restricted unpickler of PyTorch.

        Raises:
            InputError: the weights are missing, damaged, pickled, not finite, or far fewer than the configuration
                describes.
        """
        config = config or self.config
        with quiet_loading(), readable_errors(self.name):
            folder = fetch(self.name, self.revision, allow_pickle)
            files = find_weights(self.name, folder, allow_pickle)
            with torch.device("meta"), no_init_weights():
                check_parameters(self.name, auto_class._model_mapping[type(config)](config), files)
            model, report = auto_class.from_pretrained(
                folder,
                config=config,
                dtype=torch.float32,
                use_safetensors=files[0].suffix == ".safetensors",
                weights_only=True,
                trust_remote_code=False,
                ignore_mismatched_sizes=True,
                output_loading_info=True,
            )
        new = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
        _check_finite(self.name, {key: value for key, value in model.named_parameters() if key not in new})
        return cast(PreTrainedModel, model), report


def open_model(name: str, revision: str | None = None) -> SavedModel:
    """Read and check the configuration and the feature extractor of a saved model, but not its weights.

    Args:
        name: a folder, a name on the Hub, "shipped" or "small".
        revision: commit, branch or tag on the Hub; None: the default branch.

    Raises:
        InputError: there is no such model, it brings code that it needs, or a setting is implausible.
    """
    with quiet_loading(), readable_errors(name):
        folder = fetch(resolve_model_path(name), revision)
        check_folder(name, folder)
        config = AutoConfig.from_pretrained(folder, trust_remote_code=False)
        if not config.model_type.startswith(OWN_PREFIX):
            _check_family(name, config.model_type)
        extractor = AutoFeatureExtractor.from_pretrained(folder, trust_remote_code=False)
        if extractor.sampling_rate * getattr(extractor, "chunk_length", 1) > 60 * 48_000:
            raise InputError(f"{name}: its feature extractor pads clips to {extractor.chunk_length} s")
    return SavedModel(resolve_model_path(name), folder, revision, config, extractor)


def fetch(name: str, revision: str | None, allow_pickle: bool | None = None) -> Path:
    """Return the folder of a model; if it is on the Hub, its files are downloaded: settings only, or weights too.

    `allow_pickle` is whether its pickled weights are downloaded; None: no weights at all.
    """
    if Path(name).is_dir():
        return Path(name)
    from huggingface_hub import snapshot_download

    settings = [_CONFIG, _ADAPTER, *_EXTRACTORS]
    files = [] if allow_pickle is None else list(map(Path, _weights_names(allow_pickle)))
    # A pickle is downloaded only if there is no file in safetensors.
    for weights in [[file.name, f"{file}{_INDEX}", f"{file.stem}-*-of-*{file.suffix}"] for file in files] or [[]]:
        folder = Path(snapshot_download(name, revision=revision, allow_patterns=[*settings, *weights]))
        if any(file for pattern in weights for file in folder.glob(pattern)):
            break
    return folder


def check_folder(name: str, folder: Path) -> dict[str, Any]:
    """Check the files and settings of a saved model without transformers, and return the content of its config.json.

    Raises:
        InputError: a file is not a regular file in the folder, the model brings code, or a setting is implausible.
    """
    for file in sorted(folder.iterdir()):
        if file.suffix in _READ_SUFFIXES:
            _check_file(name, file, folder)
    if (folder / _ADAPTER).exists():
        raise InputError(
            f"{name}: holds an adapter ({_ADAPTER}) for another model: merge it into that model with peft "
            "(merge_and_unload), and save the result"
        )
    config = _read_json(name, folder / _CONFIG)
    is_own = str(config.get("model_type", "")).startswith(OWN_PREFIX)
    for file_name in (_CONFIG, *_EXTRACTORS):
        if (folder / file_name).exists():
            _check_settings(name, file_name, _read_json(name, folder / file_name), is_own)
    if config.get("model_type") == SPEECH_TYPE:
        encoder = config.get("encoder")
        if not isinstance(encoder, dict):
            raise InputError(f"{name}: {_CONFIG} does not describe an encoder")
        _check_settings(name, _CONFIG, encoder, is_own=False)
        _check_family(name, str(encoder.get("model_type")))
    return config


def find_weights(name: str, folder: Path, allow_pickle: bool) -> list[Path]:
    """Return the weights files of a model: those in safetensors if there are any, otherwise pickled ones if allowed.

    Raises:
        InputError: there are none, or the index of several files names one elsewhere.
    """
    for file_name in _weights_names(allow_pickle):
        if (folder / file_name).is_file():
            return [folder / file_name]
        index = folder / f"{file_name}{_INDEX}"
        if index.is_file():
            return _indexed_weights(name, index)
    pickled = [file.name for file in sorted(folder.iterdir()) if file.suffix in _PICKLE_SUFFIXES]
    option = "--allow-pickle loads them; in a recipe: model.allow_pickle: true"
    if pickled and not allow_pickle:
        raise InputError(f"{name}: has only pickled weights ({pickled[0]}), which can hold code: {option}")
    if not Path(name).is_dir():
        raise InputError(
            f"{name}: there is no {_WEIGHTS} on this machine, and the Hub has none or cannot be reached. If it "
            f"has pickled weights, which can hold code, {option}"
        )
    raise InputError(f"{name}: there are no weights ({_WEIGHTS}) in this folder")


@contextmanager
def quiet_loading() -> Iterator[None]:
    """Hide transformers' loading report and progress bar, but not the progress bars of downloads."""
    verbosity, has_bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    shows_downloads = not are_progress_bars_disabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    if shows_downloads:
        enable_progress_bars()
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        if has_bar:
            logging.enable_progress_bar()
        (enable_progress_bars if shows_downloads else disable_progress_bars)()


@contextmanager
def readable_errors(name: str) -> Iterator[None]:
    """Raise an `InputError` of one line if a model cannot be loaded; an unreachable Hub is noticed within seconds."""
    folder = Path(name)
    check_path_or_hub_name(name)
    try:
        with offline_if_unreachable(local=folder.is_dir()):
            yield
    except InputError:
        raise
    except Exception as error:
        raise_machine_failure(error)
        pointers = [file.name for file in folder.glob("*") if _is_lfs_pointer(file)] if folder.is_dir() else []
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if pointers:
            reason = f"{pointers[0]} is a git-lfs pointer: run `git lfs pull` in the folder"
        elif isinstance(error, SafetensorError | UnpicklingError | EOFError):
            reason = "its weights file is damaged or incomplete: download it again"
        if folder.is_dir():
            raise InputError(f"{name}: transformers cannot load a speech model from this folder ({reason})") from error
        raise InputError(
            f"{name}: not a folder, and no such model is on this machine or can be downloaded from the Hub ({reason})"
        ) from error


def check_parameters(name: str, model: torch.nn.Module, files: list[Path]) -> None:
    """Refuse a model with far more parameters than its weights files hold, before memory is allocated for them.

    `model` is on the meta device.
    """
    count = sum(value.numel() for values in (model.parameters(), model.buffers()) for value in values)
    available = sum(file.stat().st_size for file in files)
    if count > available + _MAX_NEW_PARAMETERS:
        raise InputError(
            f"{name}: config.json describes {count:.3g} weights, but its weights files have only {available:.3g} bytes"
        )


def _weights_names(allow_pickle: bool) -> tuple[str, ...]:
    return (_WEIGHTS, _PICKLED_WEIGHTS) if allow_pickle else (_WEIGHTS,)


def _check_file(name: str, file: Path, folder: Path) -> None:
    root, target = folder.resolve(), file.resolve()
    # The cache of the Hub holds links to ../../blobs.
    roots = (root, root.parents[1] / "blobs") if root.parent.name == "snapshots" else (root,)
    if not any(target.is_relative_to(folder) for folder in roots):
        raise InputError(f"{name}: {file.name} is a link to a file outside of the folder: copy the file there")
    try:
        is_regular = stat.S_ISREG(target.stat().st_mode)
    except OSError as error:
        raise InputError(f"{name}: {file.name} cannot be read ({error.strerror})") from error
    if not is_regular:
        raise InputError(f"{name}: {file.name} is not a file")


def _read_json(name: str, file: Path) -> dict[str, Any]:
    content = read_json(file)
    if not isinstance(content, dict):
        raise InputError(f"{name}: {file.name} holds no settings")
    return content


def _check_family(name: str, family: str) -> None:
    if family not in MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES:
        families = ", ".join(sorted(MODEL_FOR_AUDIO_CLASSIFICATION_MAPPING_NAMES))
        raise InputError(f"{name}: {family[:60]} is not a speech classifier; use one of {families}")


def _check_settings(name: str, file_name: str, settings: dict[str, Any], is_own: bool) -> None:
    """Check the settings of a file; our own models carry their code for others, and ser_ft has it already."""
    nested = settings.get("feature_extractor")
    extractor = nested if isinstance(nested, dict) else settings
    if not is_own and any("auto_map" in part for part in (settings, extractor)):
        raise InputError(
            f"{name}: {file_name} names code that comes with the model (auto_map), and ser_ft does not run such code: "
            "use a model whose architecture is part of transformers"
        )
    for key, reason in _FOREIGN.items():
        if settings.get(key) is not None:
            raise InputError(f"{name}: {reason}")
    labels = settings.get("id2label") or {}
    if not isinstance(labels, dict) or len(labels) > MAX_CLASSES:
        raise InputError(f"{name}: id2label in {file_name} is not a list of up to {MAX_CLASSES} classes")
    if sorted(map(str, labels)) != sorted(map(str, range(len(labels)))):
        raise InputError(f"{name}: the classes in {file_name} are not numbered from 0 to {len(labels) - 1}")
    extractor_class = extractor.get("feature_extractor_type")
    if extractor_class is not None and extractor_class not in _EXTRACTOR_CLASSES:
        raise InputError(f"{name}: the feature extractor {str(extractor_class)[:60]} is not one for speech classifiers")
    todo: list[tuple[str, Any]] = [item for item in settings.items() if item[0] != "label2id"]
    while todo:
        key, value = todo.pop()
        if isinstance(value, dict):
            todo += value.items()
        elif isinstance(value, list):
            if len(value) > _MAX_NUMBERS and isinstance(value[0], int | float):
                raise InputError(f"{name}: {key} in {file_name} holds {len(value)} numbers")
            todo += ((key, item) for item in value)
        elif isinstance(value, int | float):
            largest = _MAX_LAYERS if "layers" in key or "blocks" in key else _MAX_SETTINGS.get(key, 2**31)
            if not abs(value) <= largest:  # true for NaN as well
                raise InputError(
                    f"{name}: {key} in {file_name} is {str(value)[:20]}, but at most {largest} is plausible"
                )


def _indexed_weights(name: str, index: Path) -> list[Path]:
    entries = _read_json(name, index).get("weight_map")
    files = sorted(set(map(str, entries.values()))) if isinstance(entries, dict) else []
    suffix = Path(index.name.removesuffix(_INDEX)).suffix
    if not files or any(Path(file).name != file or Path(file).suffix != suffix for file in files):
        raise InputError(f"{name}: {index.name} does not name {suffix} files in its folder")
    missing = [file for file in files if not (index.parent / file).is_file()]
    if missing:
        raise InputError(f"{name}: {missing[0]} is missing: download the model again")
    return [index.parent / file for file in files]


def _check_finite(name: str, weights: dict[str, torch.Tensor]) -> None:
    for key, values in weights.items():
        if not values.isfinite().all():
            raise NotFiniteError(
                f"{name}: the weights {key} are not finite numbers: they are damaged, or their training diverged; "
                "download the model again, or train it with a lower learning rate"
            )


def _is_lfs_pointer(file: Path) -> bool:
    is_small = file.is_file() and file.stat().st_size <= 1024
    return is_small and file.read_bytes().startswith(b"version https://git-lfs")
