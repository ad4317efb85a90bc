"""The model card: each number is the run's, its head is what the Hub reads, and nothing is claimed that may not be."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard, constants

from ser_ft.data.corpora import CORPORA
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.provenance import corpora_seen_in_training, speakers_seen_in_training, training_runs
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import push
from ser_ft.report.cards.energy import energy
from ser_ft.report.cards.model_card import model_card
from ser_ft.utils.errors import InputError
from tests.helpers.hub_metadata import metadata_errors
from tests.helpers.hub_server import Blob, Hub

MakeRun = Callable[[str], RunFolder]
CLASSES = ("neutral", "happy", "sad", "angry")
REBUILT = "CREMA-D, rebuilt audio"
PARTS = {"train": range(1, 7), "validation": range(7, 9), "test": range(9, 17)}


def answers(corpora: dict[str, tuple[str, ...]]) -> pd.DataFrame:
    """Make up answers: corpus -> the parts that it is in; a clip of each class and take from each speaker."""
    random = np.random.default_rng(0)
    rows = []
    for corpus, parts in corpora.items():
        for part in parts:
            for number in PARTS[part]:
                for place, label in enumerate(CLASSES):
                    for take in range(3):
                        logits = random.normal(size=len(CLASSES)) + 1.2 * (np.arange(len(CLASSES)) == place)
                        shares = np.exp(logits) / np.exp(logits).sum()
                        speaker = f"{corpus}-{number:02d}"
                        row = {"id": f"{speaker}-{place}-{take}", "path": f"/voices/{speaker}.wav", "corpus": corpus}
                        row |= {"speaker": speaker, "gender": "male" if number % 2 else "female", "duration": 2.5}
                        row |= {"intensity": None, "part": part, "label": label, "fold": 0, "seed": 0}
                        rows.append(row | dict(zip(CLASSES, shares, strict=True)))
    return pd.DataFrame(rows)


def write_run(
    path: Path,
    like: RunFolder,
    corpora: dict[str, tuple[str, ...]],
    notes: dict[str, str] | None = None,
    leaking: bool = False,
    **settings: Any,
) -> RunFolder:
    """Write a run on corpora as they are, with made-up answers; its model is that of another run."""
    run = RunFolder(path)
    table = answers(corpora)
    shutil.copytree(like.model, run.model)
    run.write_predictions(table)
    terms = {}
    for name in corpora:
        known = CORPORA.get(name)
        said = {
            "title": name,
            "license": "other",
            "terms": "your own data: its terms are yours to know",
            "citation": "",
        }
        terms[name] = {key: getattr(known, key) for key in said} if known else said
    split = {"name": "kfold", "fold": 0, "seed": 0, "leaking": leaking}
    told = {"ece_before": 0.2345, "nll_before": 2.3, "uncertain": 0.25, "certain_accuracy": 0.789}
    run.write_json(
        run.metrics_file,
        {
            "seed": 0,
            "classes": list(CLASSES),
            "split": split,
            "notes": notes or {},
            "terms": terms,
            "model": "mfcc-cnn",
            "parameters": 412345,
            "trained_parameters": 400000,
            "calibration": {
                "temperature": 1.25,
                "threshold": 0.42,
                "clips": 24,
                "parts": dict.fromkeys(PARTS, told),
            },
            "parts": metrics_per_part(table, CLASSES),
        },
    )
    people = {
        part: {
            "speakers": sorted(set(table["speaker"][table["part"] == part])),
            "clips": list(table["id"][table["part"] == part]),
        }
        for part in PARTS
    }
    run.write_json(run.split_file, {**split, "parts": people} | settings.pop("split", {}))
    config = {**like.config, "model": {**like.config["model"], **settings}}
    run.write_text(run.config_file, yaml.safe_dump(config))
    run.write_environment(device="NVIDIA A100-SXM4-40GB (CUDA 12.8)", processes=2, seconds=5400.0)
    run.append_history({"epoch": 3, "step": 9, "validation_uar": 0.5125, "validation_loss": 1.0})
    return run


@pytest.fixture
def like(make_run: MakeRun) -> RunFolder:
    return make_run("mfcc-cnn")


@pytest.fixture
def ravdess(like: RunFolder, tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "run", like, {"ravdess": ("train", "validation", "test")})


def tables(card: str) -> list[list[list[str]]]:
    """Return the tables of a Markdown page: their rows of cells, less the rule under the heading."""
    found = re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE)
    return [
        [[cell.strip().strip("*") for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
        for table in found
    ]


def rows(card: str, first: str) -> list[list[str]]:
    return [row for table in tables(card) for row in table if row[0] == first]


def test_each_number_is_the_runs(ravdess: RunFolder) -> None:
    card = str(model_card(ravdess, "someone/mine"))
    metrics = ravdess.metrics
    test = metrics["parts"]["test"]
    interval = test["uar_interval"]
    within = f"{interval['low']:.3f} to {interval['high']:.3f}"
    assert f"a share of **{test['uar']:.3f}** on average" in card
    assert f"interval over speakers of {within}" in card
    assert f"guessing would reach {test['chance']:.3f}" in card
    own = test["by_corpus"]["ravdess"]
    shown = [own[key] for key in ("uar", "accuracy", "macro_f1", "chance")]
    told = [f"{value:.3f}" for value in shown]
    assert ["ravdess", str(own["clips"]), str(own["speakers"]), told[0], within, *told[1:]] in rows(card, "ravdess")
    for place, label in enumerate(CLASSES):
        scores = [f"{test[kind][label]:.3f}" for kind in ("recall", "precision")]
        assert [label, *scores, str(test["support"][label])] in rows(card, label)
        assert [label, *map(str, test["confusion"][place])] in [row[: len(CLASSES) + 1] for row in rows(card, label)]
    split = json.loads(ravdess.split_file.read_text())
    for part in PARTS:
        content = split["parts"][part]
        assert [part, str(len(content["clips"])), str(len(content["speakers"]))] in rows(card, part)
        ece = metrics["parts"][part]["ece"]
        assert [part, "0.234", f"{ece:.3f}", "25 %", "0.789"] in rows(card, part)
    assert "A temperature of 1.25, fitted on 24 validation clips" in card
    assert "under 0.42" in card
    assert "400,000 of 412,345 parameters were trained, for 3 epochs" in card
    assert "those of epoch 3, the best on validation speakers (UAR 0.512)" in card
    spread = test["speaker_uar"]
    assert f"ranges from {spread['min']:.3f} to {spread['max']:.3f}" in card
    assert "Training took 1.5 h on NVIDIA A100-SXM4-40GB (CUDA 12.8), 2 processes" in card
    # Two boards of 400 W for 1.5 hours, and 480 g a kilowatt hour.
    assert "that is 1.2 kWh" in card
    assert "576 g. It is an estimate" in card


@pytest.mark.parametrize(
    ("device", "watts"),
    [
        ("NVIDIA L4", 72),
        ("NVIDIA L40", 300),
        ("NVIDIA L40S", 350),
        ("NVIDIA A100-SXM4-40GB", 400),
        ("NVIDIA RTX A1000", None),
        ("Tesla T4", 70),
        ("Quadro T400", None),
        ("NVIDIA GeForce RTX 3090 Ti", 450),
    ],
)
def test_a_board_is_known_by_its_whole_name(device: str, watts: int | None) -> None:
    found = energy({"device": device, "seconds": 3600.0})
    assert (found and found.watts) == watts


def test_the_label_map_is_the_models(ravdess: RunFolder) -> None:
    said = json.loads((ravdess.model / "config.json").read_text())["id2label"]
    card = str(model_card(ravdess, "someone/mine"))
    assert rows(card, "number")[0][1:] == list(said)
    assert list(said.values()) in [row[1:] for row in rows(card, "emotion")]


def test_the_head_is_what_the_hub_reads(ravdess: RunFolder) -> None:
    """By huggingface_hub's own parser: the results come back as they lie in metrics.json."""
    text = str(model_card(ravdess, "someone/mine"))
    assert metadata_errors(text) == []
    card = ModelCard(text)
    data = card.data
    assert (data.license, data.pipeline_tag, data.library_name) == (
        "cc-by-nc-sa-4.0",
        "audio-classification",
        "transformers",
    )
    assert data.model_name == "mine"
    test = ravdess.metrics["parts"]["test"]["by_corpus"]["ravdess"]
    found = {result.metric_type: result for result in data.eval_results}
    assert {kind: result.metric_value for kind, result in found.items()} == {
        "recall": test["uar"],
        "accuracy": test["accuracy"],
        "f1": test["macro_f1"],
    }
    told = found["recall"].metric_args["interval"]
    assert (told["low"], told["high"]) == (test["uar_interval"]["low"], test["uar_interval"]["high"])
    assert found["recall"].dataset_type == "ravdess"
    assert data.co2_eq_emissions["emissions"] == 576, "as the card's text has it"
    assert data.base_model is None


def test_a_backbone_of_the_hub_is_named_and_one_of_a_folder_is_not(
    like: RunFolder, make_run: MakeRun, tmp_path: Path
) -> None:
    run = write_run(tmp_path / "run", like, {"ravdess": ("train", "validation", "test")}, name="facebook/wav2vec2-base")
    metrics = run.metrics | {"model": "facebook/wav2vec2-base (full)"}
    run.write_json(run.metrics_file, metrics)
    card = ModelCard(str(model_card(run, "someone/mine")))
    assert card.data.base_model == "facebook/wav2vec2-base"
    assert "Baevski A, Zhou H" not in card.content, "its model_type is another here"
    assert make_run("speech").config["model"]["name"].startswith("/")
    folder = ModelCard(str(model_card(make_run("speech"), "someone/mine")))
    assert folder.data.base_model is None
    assert "Baevski A, Zhou H" in folder.content
    # A folder that is no longer there must not pass for a name on the Hub.
    run.write_text(run.config_file, run.config_file.read_text().replace("facebook/wav2vec2-base", "checkpoints/mine"))
    run.write_json(run.metrics_file, metrics | {"model": "mine (full)"})
    assert ModelCard(str(model_card(run, "someone/mine"))).data.base_model is None


@pytest.mark.parametrize(
    ("corpora", "license", "name"),
    [
        (("ravdess",), "cc-by-nc-sa-4.0", None),
        (("cremad",), "odbl", None),
        (("ravdess", "cremad"), "other", "cc-by-nc-sa-4.0-and-odbl-1.0"),
        (("ravdess", "tess"), "other", "cc-by-nc-sa-4.0-and-terms-of-tess"),
        (("savee",), "other", "terms-of-savee"),
        (("mine",), "other", "terms-of-its-data"),
    ],
)
def test_the_license_follows_from_the_corpora(
    like: RunFolder, tmp_path: Path, corpora: tuple[str, ...], license: str, name: str | None
) -> None:
    run = write_run(tmp_path / "run", like, dict.fromkeys(corpora, ("train", "validation", "test")))
    text = str(model_card(run, "someone/mine"))
    assert metadata_errors(text) == []
    data = ModelCard(text).data
    assert (data.license, data.get("license_name")) == (license, name)
    for corpus in corpora:
        if corpus in CORPORA:
            assert CORPORA[corpus].citation[:20] in text


def test_a_corpus_that_was_only_tested_on_does_not_bind_the_model(like: RunFolder, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", like, {"ravdess": ("train", "validation", "test"), "tess": ("test",)})
    text = str(model_card(run, "someone/mine"))
    assert ModelCard(text).data.license == "cc-by-nc-sa-4.0"
    assert [row[1] for row in rows(text, f"tess ({CORPORA['tess'].title})")] == ["tested on"]
    push(run.path, "someone/mine", dry_run=True)


@pytest.mark.parametrize("corpus", ["tess", "savee"])
def test_tess_and_savee_ask_for_their_terms(like: RunFolder, tmp_path: Path, corpus: str) -> None:
    run = write_run(tmp_path / "run", like, {"ravdess": ("train", "test"), corpus: ("train", "validation")})
    with pytest.raises(InputError, match=rf"heard {corpus} .*--accept-terms"):
        push(run.path, "someone/mine", dry_run=True)
    push(run.path, "someone/mine", dry_run=True, accept_terms=True)


def test_a_model_begun_from_one_that_heard_tess_heard_tess(like: RunFolder, tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", like, {"tess": ("train", "validation", "test")})
    run = write_run(tmp_path / "run", like, {"ravdess": ("train", "validation", "test")}, name=str(first.model))
    with pytest.raises(InputError, match="heard tess"):
        push(run.path, "someone/mine", dry_run=True)
    # Where that run has gone, what is kept of it are the names of its speakers.
    shutil.rmtree(first.path)
    split = json.loads(run.split_file.read_text())
    run.write_json(run.split_file, split | {"seen": ["tess-03", "ravdess-01"]})
    with pytest.raises(InputError, match="heard tess"):
        push(run.path, "someone/mine", dry_run=True)


def test_a_model_begun_from_a_published_one_heard_what_that_did(
    hub: Hub, like: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Named on the Hub, or by the folder that it was downloaded to."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    first = write_run(tmp_path / "first", like, {"tess": ("train", "validation", "test")})
    second = write_run(tmp_path / "second", like, {"savee": ("train", "validation", "test")}, name=str(first.model))
    second.write_json(second.split_file, json.loads(second.split_file.read_text()) | {"seen": ["tess-03"]})
    push(second.path, "someone/first", accept_terms=True, tell=lambda _: None)
    push(second.path, "someone/first", accept_terms=True, out=tmp_path / "download", tell=lambda _: None)
    for base in ("someone/first", str(tmp_path / "download")):
        run = write_run(tmp_path / f"of-{Path(base).name}", like, {"ravdess": ("train", "test")}, name=base)
        assert set(corpora_seen_in_training(run.model)) == {"ravdess", "tess", "savee"}
        assert {"tess-03", *second.metrics["parts"]["train"]["by_speaker"]} <= speakers_seen_in_training(run.model)
        with pytest.raises(InputError, match="seen"):
            push(run.path, "someone/mine", dry_run=True)
    run = write_run(tmp_path / "run", like, {"ravdess": ("train", "test")}, name="someone/absent")
    assert set(corpora_seen_in_training(run.model)) == {"ravdess"}
    hub.make("model", "someone/strange").commit(
        "theirs", {"split.json": Blob(b"[1]", False), "config.yaml": Blob(b"a: b", False)}
    )
    assert list(training_runs("someone/strange")) == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert list(training_runs("someone/other")) == []


def test_the_shipped_model_brings_its_corpora(like: RunFolder, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", like, {"mine": ("train", "validation", "test")}, name="shipped")
    text = str(model_card(run, "someone/mine"))
    name = ModelCard(text).data.license_name
    assert "cc-by-nc-sa-4.0" in name
    assert REBUILT in text
    assert ModelCard(text).data.eval_results is None


def test_rebuilt_audio_is_said_on_every_row_and_indexed_nowhere(like: RunFolder, tmp_path: Path) -> None:
    whole = ("train", "validation", "test")
    run = write_run(tmp_path / "seen", like, {"ravdess": whole, "cremad": whole}, {"cremad": REBUILT})
    text = str(model_card(run, "someone/mine"))
    assert "model-index" not in text.split("---")[1]
    results = next(table for table in tables(text) if table[0][0] == "test")
    assert all(REBUILT in row[-1] for row in results[2:]), results
    # Judged on it, and made from other sound: what is of the other sound may be indexed.
    run = write_run(tmp_path / "judged", like, {"ravdess": whole, "cremad": ("test",)}, {"cremad": REBUILT})
    data = ModelCard(str(model_card(run, "someone/mine"))).data
    assert {result.dataset_type for result in data.eval_results} == {"ravdess"}


def test_a_leaking_split_is_said_first_and_indexed_nowhere(like: RunFolder, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", like, {"ravdess": ("train", "validation", "test")}, leaking=True)
    text = str(model_card(run, "someone/mine"))
    assert text.index("**Leaking split.**") < text.index("## How to use it")
    assert ModelCard(text).data.eval_results is None
    assert all(row[-1] == "leaking split" for row in rows(text, "ravdess"))


def test_synthetic_voices_say_nothing_of_people(like: RunFolder) -> None:
    text = str(model_card(like, "someone/mine"))
    assert "Its voices are synthetic: its scores say nothing about people." in text
    assert ModelCard(text).data.eval_results is None
    assert ModelCard(text).data.license == "apache-2.0"


def test_what_may_not_be_done_with_it_is_said(ravdess: RunFolder) -> None:
    text = str(model_card(ravdess, "someone/mine"))
    assert "Regulation (EU) 2024/1689, Article 5(1)(f)" in text
    assert "expression, not feeling" in text


def test_words_from_data_are_words(like: RunFolder, tmp_path: Path) -> None:
    """A note or a title is the user's, or a stranger's: it breaks no table, and is no HTML and no link."""
    evil = "a | b <script>alert(1)</script> [x](http://y)\n## new"
    run = write_run(tmp_path / "run", like, {"mine": ("train", "validation", "test")}, {"mine": evil})
    text = str(model_card(run, "someone/mine"))
    assert "<script>" not in text
    assert "\n## new" not in text
    assert "](http://y)" not in text.replace(r"\](http://y)", "")
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| mine (")}
    assert len(widths) == 1


def test_how_to_use_it_fits_the_model(ravdess: RunFolder, make_run: MakeRun) -> None:
    """Each block of Python in the card compiles; code of our own is asked for only where it is needed."""
    for run, own in ((ravdess, True), (make_run("speech"), False)):
        text = str(model_card(run, "someone/mine"))
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert len(blocks) == 2
        for block in blocks:
            compile(block, "card", "exec")
            assert "someone/mine" in block
        assert ("trust_remote_code=True" in blocks[0]) == own
