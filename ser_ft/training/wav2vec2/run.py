"""Continued pretraining on unlabeled speech before fine-tuning: data, split, encoder, training loop, checkpoint.

TAPT, task-adaptive pretraining: Chen & Rudnicky 2021, "Exploring wav2vec 2.0 fine-tuning for improved speech emotion
recognition" (arXiv:2110.06309), with the task of Baevski et al. 2020, "wav2vec 2.0" (arXiv:2006.11477).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, cast

import numpy as np
import torch
from transformers import AutoModelForPreTraining, PreTrainedConfig, PreTrainedModel, SequenceFeatureExtractor

from ... import audio
from ...config.pretraining import PretrainConfig, PretrainRecipe
from ...config.schema import ModelConfig, SplitConfig
from ...data.prepare import is_synthetic
from ...data.splits import Split, make_split
from ...dataloading.batches import BatchSource, HiddenStateBatches, WaveformBatches, clip_lengths
from ...dataloading.encoder_hooks import EncoderHooks
from ...dataloading.hidden_states import compute_hidden_states
from ...evaluation.provenance import check_no_seen_speakers, speakers_seen_in_training
from ...evaluation.run_folder import RunFolder
from ...models import encoder_spec
from ...models.encoders import EncoderParts, InputSpec
from ...utils.accelerator import create_accelerator, device_name, is_main_process
from ...utils.atomic import recover
from ...utils.errors import InputError
from ...utils.files import output_lock
from ...utils.text import print_text
from ..data import check_sources, load_data
from ..finetuning import use_fast_attention
from ..model import write_model
from ..run_guard import can_resume, create_run_folder, resumes
from ..trainer import TrainableModel, create_optimizer
from .trainer import ADAM_BETAS, ADAM_EPSILON, PretrainingJob, PretrainingTrainer

if TYPE_CHECKING:
    import datasets

FAMILIES = ("wav2vec2", "wav2vec2-conformer")
_QUANTIZER_PREFIXES = ("quantizer.", "project_hid.", "project_q.")


def pretrain(recipe: PretrainRecipe, verbose: bool = True) -> RunFolder:
    """Continue the pretraining of an encoder as a recipe describes.

    Args:
        verbose: show the data, the split and progress.

    Returns:
        The run folder: `config.yaml`, `environment.json`, `split.json` (with all speakers `seen` in this and earlier
        pretrainings), `history.jsonl`, `checkpoints/` and `model/`. A finished run is left unchanged.

    Raises:
        InputError: the recipe does not fit the data or the encoder, or its run folder cannot be used; nothing is
            written then.
    """
    folder = RunFolder(recipe.out)
    with output_lock(recipe.out):
        if can_resume(recipe, folder, "pretraining") and folder.model.is_dir():
            if verbose and is_main_process():
                print_text(f"{folder.path}: this pretraining is finished; nothing to do")
            return folder
        check_sources(recipe.data, recipe.split)
        accelerator = create_accelerator(recipe.pretrain.mixed_precision, recipe.seed, pretrained=True)
        show_progress = verbose and accelerator.is_main_process
        if accelerator.is_main_process:
            recover(folder.path)
        with accelerator.local_main_process_first():
            encoder = load_encoder(recipe.model, recipe.pretrain.mask_prob)
            table = load_data(recipe.data, show_progress)
        split = _split(table, recipe.split, recipe.model.name)
        if show_progress:
            print_text(split.describe())
        input_spec = encoder.parts.input_spec
        train_rows = _long_enough(
            split.row_indices(table)["train"],
            clip_lengths(table),
            input_spec,
            recipe.pretrain.mask_length,
            show_progress,
        )
        trainable = _prepare_encoder(encoder, table, recipe.pretrain, accelerator.device, show_progress)
        optimizer = create_optimizer(
            trainable.learning_rates,
            recipe.pretrain.weight_decay,
            accelerator.device,
            betas=ADAM_BETAS,
            eps=ADAM_EPSILON,
        )
        seen = speakers_seen_in_training(recipe.model.name) | set(split.speakers["train"])
        content = split.to_dict() | {"seen": sorted(seen)}
        resume = resumes(recipe, folder, content, "pretraining")
        job = PretrainingJob(trainable, optimizer, train_rows, input_spec)
        trainer = PretrainingTrainer(accelerator, job, recipe.pretrain, folder, recipe.seed)
        if not resume:
            create_run_folder(recipe, folder, content, accelerator)
        trainer.fit(resume, show_progress)
        if accelerator.is_main_process:
            folder.write_environment(
                device=device_name(accelerator),
                processes=accelerator.num_processes,
                mixed_precision=accelerator.mixed_precision,
                seconds=round(trainer.state.seconds, 1),
                cpu_seconds=round(trainer.state.cpu_seconds, 1),
                torch_threads=torch.get_num_threads(),
            )
            model = trainable.finish()
            model.config = encoder.saved_config
            write_model(model, encoder.extractor, folder)
            if show_progress:
                print_text(f"\nrun: {folder.path}\nto fine-tune it: --model.name {folder.model}")
        accelerator.wait_for_everyone()
        accelerator.end_training()
        return folder


@dataclass(frozen=True)
class PretrainingEncoder:
    """An encoder with its quantizer.

    Attributes:
        saved_config: the configuration that is saved: that of the checkpoint with the recipe's overrides, without what
            only this pretraining needs.
    """

    parts: EncoderParts
    extractor: SequenceFeatureExtractor
    saved_config: PreTrainedConfig


def load_encoder(model: ModelConfig, mask_prob: float) -> PretrainingEncoder:
    """Load the encoder that a recipe names, with its quantizer.

    Args:
        mask_prob: fraction of the frames that the masked spans would cover without overlap.

    Raises:
        InputError: there is no such encoder, it is of another family, or it was saved without its quantizer.
    """
    name = model.name
    spec = encoder_spec.find_encoder(
        name,
        ("one", "other"),
        model.config_overrides,
        head="stock",
        num_layers=model.num_layers,
        revision=model.revision,
        allow_pickle=model.allow_pickle,
    )
    config = spec.config
    if config.model_type not in FAMILIES:
        raise InputError(f"{name}: is a {config.model_type}; only {' and '.join(FAMILIES)} can be pretrained")
    saved_config = spec.saved.config
    # If the checkpoint turns masking off, the model would have no embedding for masked frames.
    config.apply_spec_augment, config.mask_time_prob = True, mask_prob
    config.mask_feature_prob = 0.0
    network, report = spec.saved.load_weights(AutoModelForPreTraining, config, model.allow_pickle)
    names = {*report["missing_keys"], *(key for key, *_ in report["mismatched_keys"])}
    missing = sorted(key for key in names if not key.endswith("masked_spec_embed"))
    if any(key.startswith(_QUANTIZER_PREFIXES) for key in missing):
        raise InputError(
            f"{name}: was saved without the quantizer that it was pretrained with ({missing[0]}, ... are missing), as "
            "fine-tuned models are: start from one that was only pretrained, such as facebook/wav2vec2-base"
        )
    if missing:
        raise InputError(f"{name}: {len(missing)} weights of the encoder are missing ({missing[0]}, ...)")
    for key, value in model.config_overrides.items():
        setattr(saved_config, key, value)
    return PretrainingEncoder(EncoderParts.of(network), spec.extractor, saved_config)


def _split(table: datasets.Dataset, config: SplitConfig, model: str) -> Split:
    split = make_split(table, **asdict(config))
    if split.leaking:
        raise InputError(
            f"the split {split.name!r} has, or may have, test speakers in the training part, so the encoder would see "
            "them before it is tested; use a split by speaker"
        )
    check_no_seen_speakers(model, split, is_synthetic(table))
    return split


def _long_enough(
    rows: np.ndarray, samples: np.ndarray, input_spec: InputSpec, mask_length: int, show_progress: bool
) -> np.ndarray:
    """Return the rows of the clips that are longer than a masked span."""
    long_rows: np.ndarray = rows[input_spec.num_frames(samples[rows]) > mask_length]
    seconds = input_spec.num_samples(mask_length + 1) / audio.SAMPLE_RATE
    if not len(long_rows):
        raise InputError(f"no training clip is longer than a masked span ({seconds:.2f} s): lower pretrain.mask_length")
    if show_progress and len(long_rows) < len(rows):
        count = len(rows) - len(long_rows)
        print_text(f"  {count} training clips under {seconds:.2f} s are left out: a masked span would cover them")
    return long_rows


def _prepare_encoder(
    encoder: PretrainingEncoder,
    table: datasets.Dataset,
    config: PretrainConfig,
    device: torch.device,
    show_progress: bool,
) -> TrainableModel:
    """Prepare an encoder for training: everything but its convolutional feature encoder is trained.

    The output of the feature encoder is cached for all clips of the table, so that fine-tuning finds it there.
    """
    parts, model = encoder.parts, cast(Any, encoder.parts.model)
    assert parts.feature_encoder is not None
    model.freeze_feature_encoder()
    batch_source: BatchSource
    if config.cache:
        states = compute_hidden_states(table, parts, encoder.extractor, "feature_encoder", show_progress, device)
        batch_source = HiddenStateBatches(states, table, encoder.extractor, parts.input_spec)
        hooks = EncoderHooks(parts, skip_feature_encoder=True)
    else:
        batch_source = WaveformBatches(table, encoder.extractor, parts.input_spec)
        hooks = EncoderHooks(parts)
    trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
    restore_attention = use_fast_attention(model, batch_source, device)

    def finish() -> PreTrainedModel:
        hooks.remove()
        restore_attention()
        return parts.model

    frozen_modules = list(parts.feature_encoder.modules())
    return TrainableModel(model, batch_source, [(trained, config.learning_rate)], finish, frozen_modules=frozen_modules)
