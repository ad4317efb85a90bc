"""A linear head on a frozen encoder: a logistic regression instead of epochs of gradient steps."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch

from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared
from ser_ft.dataloading.hidden_states import compute_hidden_states
from ser_ft.evaluation.probe import fit_logistic_regression
from ser_ft.models.encoders import EncoderParts
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.pipeline import train
from ser_ft.utils.errors import InputError


@pytest.mark.parametrize("family", ["whisper", "wav2vec2"])
def test_the_saved_head_is_the_optimum_of_the_logistic_regression(
    family: str, tiny_encoder: Callable[[str], Path], ravdess_table: Path, tmp_path: Path
) -> None:
    options = [f"--data.prepared={ravdess_table}", "--split.kind=kfold", "--split.folds=2", "--split.validation=0"]
    options += [f"--model.name={tiny_encoder(family)}", "--model.head=linear", "--tuning.mode=probe"]
    folder = train(parse([*options, "--baselines=[]", f"--out={tmp_path / 'run'}"], "test"), verbose=False).folder
    assert len((tmp_path / "run" / "history.jsonl").read_text().splitlines()) == 1
    saved = PretrainedClassifier.load(str(folder.model))
    model, clips = saved.model, open_prepared(ravdess_table)
    pooled = compute_hidden_states(clips, EncoderParts.of(model), saved.extractor, "mean+std", show_progress=False)
    states = np.stack([pooled[row] for row in range(len(clips))])
    values = np.delete(states, -2, axis=1).reshape(len(clips), -1)
    train_ids = set(folder.predictions.query("part == 'train'")["id"])
    rows = np.array([row for row, name in enumerate(clips["id"]) if name in train_ids])
    mean, scale = values[rows].mean(axis=0), np.sqrt(values[rows].var(axis=0) + 1e-5)
    classes = folder.metrics["classes"]
    labels = np.array([classes.index(clips.features["emotion"].int2str(clips[int(row)]["emotion"])) for row in rows])
    allowed = np.ones((len(rows), len(classes)), dtype=bool)
    weights = fit_logistic_regression((values[rows] - mean) / scale, labels, allowed)
    with torch.no_grad():
        logits = model.classify_pooled(torch.from_numpy(values)).numpy()
    expected = (values - mean) / scale @ weights[:-1] + weights[-1]
    assert np.abs(logits - expected).max() < 0.02 * np.abs(expected).max()
    predictions = folder.predictions.set_index("id").loc[clips["id"], classes].to_numpy(dtype=float)
    assert (predictions.argmax(axis=1) == expected.argmax(axis=1)).mean() > 0.95


def test_settings_that_a_logistic_regression_ignores_are_refused(tiny_encoder: Callable[[str], Path]) -> None:
    options = [f"--model.name={tiny_encoder('whisper')}", "--model.head=linear", "--tuning.mode=probe"]
    with pytest.raises(InputError, match=r"train.class_weights has no effect on a logistic regression"):
        parse([*options, "--train.class_weights=true"], "test")
