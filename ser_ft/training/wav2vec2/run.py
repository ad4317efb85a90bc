"""A continued pretraining: data, split, encoder, training, and a stock checkpoint that can be fine-tuned."""

from __future__ import annotations

import shutil
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from accelerate import PartialState
from transformers import (
    AutoConfig,
    AutoModelForPreTraining,
    PreTrainedConfig,
    PreTrainedModel,
    SequenceFeatureExtractor,
)

from ... import audio
from ...config.pretraining import PretrainConfig, PretrainRecipe
from ...data.prepare import is_synthetic
from ...data.splits import Split, make_split
from ...dataloading.batches import BatchSource, HiddenStateBatches, WaveformBatches, clip_lengths
from ...dataloading.encoder_hooks import EncoderHooks
from ...dataloading.hidden_states import compute_hidden_states
from ...evaluation.provenance import check_no_seen_speakers, speakers_seen_in_training
from ...evaluation.run_folder import RunFolder
from ...models import encoders
from ...models.encoders import EncoderParts, InputSpec
from ...utils.accelerator import create_accelerator, device_name
from ...utils.errors import InputError
from ...utils.files import replace_atomically
from ..finetuning import TrainableModel, fast_attention, parameter_groups
from ..run import load_data
from ..run_guard import can_resume, init_run_folder, resumes
from .trainer import Pretrainer

if TYPE_CHECKING:
    import datasets

FAMILIES = ("wav2vec2", "wav2vec2-conformer")
_QUANTIZER = ("quantizer.", "project_hid.", "project_q.")


def pretrain(recipe: PretrainRecipe, verbose: bool = True) -> RunFolder:
    """Carry a recipe out, from recordings to an encoder that can be fine-tuned.

    Args:
        recipe: what to do. verbose: show what is read, the split, and progress.

    Returns:
        The folder: `config.yaml`, `environment.json`, `split.json` (with all speakers `heard`, those of pretrainings
        before this one too), `history.jsonl`, `checkpoints/` and `model/`; one that is finished is left as it is.

    Raises:
        InputError: the recipe does not fit the data or the encoder, or its folder is taken; nothing is written then.
    """
    folder = RunFolder(recipe.out)
    if can_resume(recipe, folder, "pretraining") and folder.model.is_dir():
        if verbose and PartialState().is_main_process:
            print(f"{folder.path}: this pretraining is finished; nothing to do")
        return folder
    accelerator = create_accelerator(recipe.pretrain.mixed_precision, recipe.seed, pretrained=True)
    shown = verbose and accelerator.is_main_process
    with accelerator.local_main_process_first():
        encoder = load(recipe)
        table = load_data(recipe.data, shown)
    split = _split(recipe, table)
    if shown:
        print(split.describe())
    rows = _long_enough(
        split.row_indices(table)["train"], clip_lengths(table), encoder.parts.input_spec, recipe.pretrain, shown
    )
    setup = _set_up(encoder, table, recipe.pretrain, accelerator.device, shown)
    content = split.to_dict() | {
        "seen": sorted(speakers_seen_in_training(recipe.model.name) | set(split.speakers["train"]))
    }
    resume = resumes(recipe, folder, content, "pretraining")
    trainer = Pretrainer(accelerator, setup, encoder.parts.input_spec, rows, recipe.pretrain, folder, recipe.seed)
    accelerator.wait_for_everyone()
    if accelerator.is_main_process and not resume:
        init_run_folder(recipe, folder, content)
    accelerator.wait_for_everyone()
    trainer.fit(resume, shown)
    if accelerator.is_main_process:
        folder.write_environment(
            device=device_name(accelerator),
            processes=accelerator.num_processes,
            mixed_precision=accelerator.mixed_precision,
            seconds=round(trainer.state.seconds, 1),
            torch_threads=torch.get_num_threads(),
        )
        _save_model(setup, encoder, folder)
        if shown:
            print(f"\nrun: {folder.path}\nto be fine-tuned: --model.name {folder.model}")
    accelerator.wait_for_everyone()
    accelerator.end_training()
    return folder


@dataclass(frozen=True)
class Encoder:
    """An encoder with the quantizer it was pretrained with.

    Attributes:
        parts: of the model. extractor: its own. stock: its configuration as it is to be saved: as it came, with what
            the recipe changes of the network, and without what only this pretraining needs.
    """

    parts: EncoderParts
    extractor: SequenceFeatureExtractor
    stock: PreTrainedConfig


def load(recipe: PretrainRecipe) -> Encoder:
    """Load the encoder that a recipe names, quantizer and all.

    Raises:
        InputError: there is no such encoder, it is of another family, or was saved without its quantizer.
    """
    name, revision = recipe.model.name, recipe.model.revision
    found = encoders.find_encoder(name, ("one", "other"), recipe.model.config_overrides, revision=revision)
    config = found.config
    if config.model_type not in FAMILIES:
        raise InputError(f"{name}: is a {config.model_type}; pretraining goes on for {' and '.join(FAMILIES)} alone")
    with encoders.quiet_loading(), encoders.readable_errors(name):
        stock = AutoConfig.from_pretrained(name, revision=revision)
        # Where its masks were turned off for fine-tuning, the frame that stands for masked ones would not be there.
        config.apply_spec_augment, config.mask_time_prob = True, recipe.pretrain.mask_prob
        config.mask_feature_prob = 0.0
        model, report = AutoModelForPreTraining.from_pretrained(
            name, revision=revision, config=config, dtype=torch.float32, output_loading_info=True
        )
    missing = sorted(each for each in report["missing_keys"] if not each.endswith("masked_spec_embed"))
    if any(each.startswith(_QUANTIZER) for each in missing):
        raise InputError(
            f"{name}: was saved without the quantizer that it was pretrained with ({missing[0]}, ... are missing), as "
            "fine-tuned models are: start from one that was only pretrained, such as facebook/wav2vec2-base"
        )
    if missing:
        raise InputError(f"{name}: {len(missing)} weights of the encoder are missing ({missing[0]}, ...)")
    for key, value in recipe.model.config_overrides.items():
        setattr(stock, key, value)
    return Encoder(EncoderParts.of(model), found.extractor, stock)


def _split(recipe: PretrainRecipe, table: datasets.Dataset) -> Split:
    split = make_split(table, **asdict(recipe.split))
    if split.leaking:
        raise InputError(
            f"the split {split.name!r} puts speakers on both sides: those who are tested on would be heard beforehand; "
            "use one by speaker"
        )
    check_no_seen_speakers(recipe.model.name, split, is_synthetic(table))
    return split


def _long_enough(
    rows: np.ndarray, samples: np.ndarray, input_spec: InputSpec, settings: PretrainConfig, shown: bool
) -> np.ndarray:
    """Leave out clips that a masked span would cover whole."""
    kept: np.ndarray = rows[input_spec.num_frames(samples[rows]) > settings.mask_length]
    least = input_spec.num_samples(settings.mask_length + 1) / audio.SAMPLE_RATE
    if not len(kept):
        raise InputError(f"no training clip is longer than a masked span ({least:.2f} s): lower pretrain.mask_length")
    if shown and len(kept) < len(rows):
        print(f"  {len(rows) - len(kept)} training clips under {least:.2f} s are left out: a mask would cover them")
    return kept


def _set_up(
    encoder: Encoder, table: datasets.Dataset, settings: PretrainConfig, device: torch.device, shown: bool
) -> TrainableModel:
    """Make an encoder ready: all but its convolutions is trained, on what they give of each clip alone.

    They are asked for all clips of the table, of which the training part is then heard: fine-tuning finds them there.
    """
    parts, model = encoder.parts, cast(Any, encoder.parts.model)
    assert parts.feature_encoder is not None
    model.freeze_feature_encoder()
    feed: BatchSource
    if settings.cache:
        states = compute_hidden_states(table, parts, encoder.extractor, "feature_encoder", shown, device)
        feed, rig = (
            HiddenStateBatches(states, table, encoder.extractor, parts.input_spec),
            EncoderHooks(parts, skip_feature_encoder=True),
        )
    else:
        feed, rig = WaveformBatches(table, encoder.extractor, parts.input_spec), EncoderHooks(parts)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    groups = parameter_groups([(trained, settings.learning_rate)], settings.weight_decay)

    restore = fast_attention(model, feed, device)

    def finish() -> PreTrainedModel:
        rig.remove()
        restore()
        return parts.model

    return TrainableModel(model, feed, groups, finish, still=list(parts.feature_encoder.modules()))


def _save_model(setup: TrainableModel, encoder: Encoder, folder: RunFolder) -> None:
    """Write the stock checkpoint, whole or not at all."""
    model = setup.finish()
    model.config = encoder.stock
    partial_folder = folder.model.with_name(".model.partial")
    shutil.rmtree(partial_folder, ignore_errors=True)
    model.save_pretrained(partial_folder)
    encoder.extractor.save_pretrained(partial_folder)
    replace_atomically(partial_folder, folder.model)
