"""The model card: its figures are the run's, the Hub reads its metadata, and it claims nothing that it may not."""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable
from importlib import resources
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from huggingface_hub import ModelCard, constants

from ser_ft.data.corpora import CORPORA
from ser_ft.data.splits import Leaking
from ser_ft.evaluation.provenance import corpora_seen_in_training, speakers_seen_in_training, training_runs
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub import push
from ser_ft.models import SHIPPED_MODELS
from ser_ft.report.cards.model_card import estimate_energy, model_card
from ser_ft.utils.errors import InputError
from tests.helpers.hub_server import Blob, Hub, metadata_errors
from tests.helpers.runs import CLASSES, calibration, random_predictions, write_scores, write_split

MakeRun = Callable[[str], RunFolder]
REBUILT = "CREMA-D, rebuilt audio"
PARTS = {"train": range(1, 7), "validation": range(7, 9), "test": range(9, 17)}
WHOLE = tuple(PARTS)


def write_run(
    path: Path,
    template: RunFolder,
    corpora: dict[str, tuple[str, ...]],
    notes: dict[str, str] | None = None,
    leaking: Leaking = False,
    **settings: Any,
) -> RunFolder:
    """Write a run on the given corpora with random predictions and the model of another run."""
    run = RunFolder(path)
    tables = [
        random_predictions([f"{corpus}-{number:02d}" for number in PARTS[part]], 1.2, seed, CLASSES, 3, part, (None,))
        for seed, (corpus, parts) in enumerate(corpora.items())
        for part in parts
    ]
    table = pd.concat(tables, ignore_index=True)
    shutil.copytree(template.model, run.model)
    terms = {}
    for name in corpora:
        facts = {"title": name, "license": "other", "terms": "your own data: check its terms", "citation": ""}
        terms[name] = {key: getattr(CORPORA[name], key) for key in facts} if name in CORPORA else facts
    split = {"name": "kfold", "fold": 0, "seed": 0, "leaking": leaking}
    facts: dict[str, Any] = {"notes": notes or {}, "terms": terms, "calibration": calibration(PARTS)}
    facts |= {"parameters": 412345, "trained_parameters": 400000}
    write_scores(run, "mfcc-cnn", table, CLASSES, split, **facts)
    write_split(run, table, PARTS)
    config = {**template.config, "model": {**template.config["model"], **settings}}
    run.write_text(run.config_file, yaml.safe_dump(config))
    run.write_environment(device="NVIDIA A100-SXM4-40GB (CUDA 12.8)", processes=2, seconds=5400.0)
    run.append_history({"epoch": 3, "step": 9, "validation_uar": 0.5125, "validation_loss": 1.0})
    return run


@pytest.fixture
def template(make_run: MakeRun) -> RunFolder:
    return make_run("mfcc-cnn")


@pytest.fixture
def ravdess(template: RunFolder, tmp_path: Path) -> RunFolder:
    return write_run(tmp_path / "run", template, {"ravdess": WHOLE})


@pytest.fixture
def speech(template: RunFolder, tmp_path: Path) -> RunFolder:
    """A run of an encoder from a local folder, with the configuration of the fine-tuned model."""
    run = write_run(tmp_path / "speech", template, {"ravdess": WHOLE}, name=str(tmp_path / "backbone"))
    labels = {key: json.loads((run.model / "config.json").read_text())[key] for key in ("id2label", "label2id")}
    config = {"model_type": "wav2vec2", "architectures": ["Wav2Vec2ForSequenceClassification"], **labels}
    run.write_json(run.model / "config.json", config)
    return run


def tables(card: str) -> list[list[list[str]]]:
    """Return the tables of a Markdown page: rows of cells."""
    blocks = re.findall(r"(?:^\|.*\n)+", card, re.MULTILINE)
    return [
        [[cell.strip().strip("*") for cell in line.strip().strip("|").split("|")] for line in table.splitlines()]
        for table in blocks
    ]


def rows(card: str, first: str) -> list[list[str]]:
    return [row for table in tables(card) for row in table if row[0] == first]


def test_the_figures_are_the_runs(ravdess: RunFolder) -> None:
    card = str(model_card(ravdess, "someone/mine"))
    metrics = ravdess.metrics
    test = metrics["parts"]["test"]
    interval = "{low:.3f} to {high:.3f}".format(**test["uar_interval"])
    assert f"(UAR, the mean of the emotions' recalls) is **{test['uar']:.3f}**" in card
    assert f"interval over speakers of {interval}" in card
    assert f"chance is {test['chance']:.3f}" in card
    corpus = test["by_corpus"]["ravdess"]
    texts = [f"{corpus[key]:.3f}" for key in ("uar", "accuracy", "macro_f1", "chance")]
    counts = [str(corpus[key]) for key in ("clips", "speakers")]
    assert ["ravdess", *counts, texts[0], interval, *texts[1:]] in rows(card, "ravdess")
    for index, label in enumerate(CLASSES):
        scores = [f"{test[kind][label]:.3f}" for kind in ("recall", "precision")]
        assert [label, *scores, str(test["support"][label])] in rows(card, label)
        assert [label, *map(str, test["confusion"][index])] in [row[: len(CLASSES) + 1] for row in rows(card, label)]
    split = json.loads(ravdess.split_file.read_text())
    for part, content in split["parts"].items():
        assert [part, str(len(content["clips"])), str(len(content["speakers"]))] in rows(card, part)
        ece = metrics["parts"][part]["ece"]
        assert [part, "0.234", f"{ece:.3f}", "25 %", "0.789"] in rows(card, part)
    assert "A temperature of 1.25, fitted on 64 validation clips" in card
    assert "under 0.42" in card
    assert "400,000 of 412,345 parameters were trained, for 3 epochs" in card
    assert "those of epoch 3, the best on validation speakers (UAR 0.512)" in card
    spread = test["speaker_uar"]
    assert f"ranges from {spread['min']:.3f} to {spread['max']:.3f}" in card
    assert "Training took 1.5 h on NVIDIA A100-SXM4-40GB (CUDA 12.8), 2 processes" in card
    # Two boards of 400 W for 1.5 hours, and 480 g per kilowatt hour.
    assert "it is about 1.2 kWh" in card
    assert "576 g. This is an estimate" in card


def test_the_power_of_a_device_needs_its_exact_name() -> None:
    watts: dict[str, int | None]
    watts = {"NVIDIA L4": 72, "NVIDIA L40": 300, "NVIDIA L40S": 350, "NVIDIA A100-SXM4-40GB": 400, "Tesla T4": 70}
    watts |= {"NVIDIA GeForce RTX 3090 Ti": 450, "NVIDIA RTX A1000": None, "Quadro T400": None}
    for device, expected in watts.items():
        energy = estimate_energy({"device": device, "seconds": 3600.0})
        assert (energy and energy.watts) == expected


def test_the_label_map_is_that_of_the_model(ravdess: RunFolder) -> None:
    id2label = json.loads((ravdess.model / "config.json").read_text())["id2label"]
    card = str(model_card(ravdess, "someone/mine"))
    assert rows(card, "number")[0][1:] == list(id2label)
    assert list(id2label.values()) in [row[1:] for row in rows(card, "emotion")]


def test_the_hub_reads_the_metadata(ravdess: RunFolder) -> None:
    text = str(model_card(ravdess, "someone/mine"))
    assert metadata_errors(text) == []
    data = ModelCard(text).data
    assert (data.license, data.pipeline_tag) == ("cc-by-nc-sa-4.0", "audio-classification")
    assert data.library_name == "transformers"
    assert data.model_name == "mine"
    test = ravdess.metrics["parts"]["test"]["by_corpus"]["ravdess"]
    evaluations = {result.metric_type: result for result in data.eval_results}
    expected = {"recall": test["uar"], "accuracy": test["accuracy"], "f1": test["macro_f1"]}
    assert {kind: result.metric_value for kind, result in evaluations.items()} == expected
    bounds = evaluations["recall"].metric_args["interval"]
    assert (bounds["low"], bounds["high"]) == (test["uar_interval"]["low"], test["uar_interval"]["high"])
    assert evaluations["recall"].dataset_type == "ravdess"
    assert data.co2_eq_emissions["emissions"] == 576, "as in the text of the card"
    assert data.base_model is None


def test_only_a_backbone_from_the_hub_is_the_base_model(template: RunFolder, speech: RunFolder, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", template, {"ravdess": WHOLE}, name="facebook/wav2vec2-base")
    metrics = run.metrics | {"model": "facebook/wav2vec2-base (full)"}
    run.write_json(run.metrics_file, metrics)
    card = ModelCard(str(model_card(run, "someone/mine")))
    assert card.data.base_model == "facebook/wav2vec2-base"
    assert "Baevski A, Zhou H" not in card.content, "the model_type differs here"
    folder = ModelCard(str(model_card(speech, "someone/mine")))
    assert folder.data.base_model is None
    assert "Baevski A, Zhou H" in folder.content
    # A folder that no longer exists is not a name on the Hub.
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
    template: RunFolder, tmp_path: Path, corpora: tuple[str, ...], license: str, name: str | None
) -> None:
    run = write_run(tmp_path / "run", template, dict.fromkeys(corpora, WHOLE))
    text = str(model_card(run, "someone/mine"))
    assert metadata_errors(text) == []
    data = ModelCard(text).data
    assert (data.license, data.get("license_name")) == (license, name)
    for corpus in corpora:
        if corpus in CORPORA:
            assert CORPORA[corpus].citation[:20] in text


def test_a_corpus_used_only_for_testing_does_not_change_the_license(template: RunFolder, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", template, {"ravdess": WHOLE, "tess": ("test",)})
    text = str(model_card(run, "someone/mine"))
    assert ModelCard(text).data.license == "cc-by-nc-sa-4.0"
    assert [row[1] for row in rows(text, f"tess ({CORPORA['tess'].title})")] == ["tested on"]
    push(run.path, "someone/mine", dry_run=True)


@pytest.mark.parametrize("corpus", ["tess", "savee"])
def test_tess_and_savee_require_accepted_terms(template: RunFolder, tmp_path: Path, corpus: str) -> None:
    run = write_run(tmp_path / "run", template, {"ravdess": ("train", "test"), corpus: ("train", "validation")})
    with pytest.raises(InputError, match=rf"trained on {corpus}, .*--accept-terms"):
        push(run.path, "someone/mine", dry_run=True)
    push(run.path, "someone/mine", dry_run=True, accept_terms=True)


def test_corpora_are_inherited_from_the_run_that_a_model_started_from(template: RunFolder, tmp_path: Path) -> None:
    first = write_run(tmp_path / "first", template, {"tess": WHOLE})
    run = write_run(tmp_path / "run", template, {"ravdess": WHOLE}, name=str(first.model))
    with pytest.raises(InputError, match="trained on tess"):
        push(run.path, "someone/mine", dry_run=True)
    # Without the first run, the names of its speakers in split.json are left.
    shutil.rmtree(first.path)
    split = json.loads(run.split_file.read_text())
    run.write_json(run.split_file, split | {"seen": ["tess-03", "ravdess-01"]})
    with pytest.raises(InputError, match="trained on tess"):
        push(run.path, "someone/mine", dry_run=True)


def test_corpora_are_inherited_from_a_published_model(
    hub: Hub, template: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    first = write_run(tmp_path / "first", template, {"tess": WHOLE})
    second = write_run(tmp_path / "second", template, {"savee": WHOLE}, name=str(first.model))
    second.write_json(second.split_file, json.loads(second.split_file.read_text()) | {"seen": ["tess-03"]})
    push(second.path, "someone/first", accept_terms=True)
    push(second.path, "someone/first", accept_terms=True, out=tmp_path / "download")
    for base in ("someone/first", str(tmp_path / "download")):
        run = write_run(tmp_path / f"of-{Path(base).name}", template, {"ravdess": ("train", "test")}, name=base)
        assert set(corpora_seen_in_training(run.model)) == {"ravdess", "tess", "savee"}
        assert {"tess-03", *second.metrics["parts"]["train"]["by_speaker"]} <= speakers_seen_in_training(run.model)
        with pytest.raises(InputError, match="trained on savee and tess"):
            push(run.path, "someone/mine", dry_run=True)
    run = write_run(tmp_path / "run", template, {"ravdess": ("train", "test")}, name="someone/absent")
    assert set(corpora_seen_in_training(run.model)) == {"ravdess"}
    hub.create("model", "someone/strange").commit(
        "theirs", {"split.json": Blob(b"[1]", False), "config.yaml": Blob(b"a: b", False)}
    )
    assert list(training_runs("someone/strange")) == []
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    assert list(training_runs("someone/other")) == []


def test_the_corpora_of_the_shipped_model_are_listed(template: RunFolder, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run", template, {"mine": WHOLE}, name="shipped")
    text = str(model_card(run, "someone/mine"))
    assert "cc-by-nc-sa-4.0" in ModelCard(text).data.license_name
    assert REBUILT in text
    assert ModelCard(text).data.eval_results is None


def test_rebuilt_audio_is_marked_in_every_row_and_never_indexed(template: RunFolder, tmp_path: Path) -> None:
    run = write_run(tmp_path / "seen", template, dict.fromkeys(("ravdess", "cremad"), WHOLE), {"cremad": REBUILT})
    text = str(model_card(run, "someone/mine"))
    assert "model-index" not in text.split("---")[1]
    results = next(table for table in tables(text) if table[0][0] == "test")
    assert all(REBUILT in row[-1] for row in results[2:]), results
    # Only tested on it: the results on the other corpus may be indexed.
    run = write_run(tmp_path / "tested", template, {"ravdess": WHOLE, "cremad": ("test",)}, {"cremad": REBUILT})
    data = ModelCard(str(model_card(run, "someone/mine"))).data
    assert {result.dataset_type for result in data.eval_results} == {"ravdess"}


@pytest.mark.parametrize(("leaking", "mark"), [(True, "leaking split"), ("unknown", "unverified split")])
def test_a_leaking_or_unverified_split_is_stated_first_and_never_indexed(
    template: RunFolder, tmp_path: Path, leaking: Leaking, mark: str
) -> None:
    run = write_run(tmp_path / "run", template, {"ravdess": WHOLE}, leaking=leaking)
    text = str(model_card(run, "someone/mine"))
    assert text.index(f"**{mark.capitalize()}.**") < text.index("## How to use it")
    assert ModelCard(text).data.eval_results is None
    assert all(row[-1] == mark for row in rows(text, "ravdess"))
    assert ("No speaker is in more than one part" in text) == (leaking is True)


def test_synthetic_voices_are_stated(template: RunFolder) -> None:
    text = str(model_card(template, "someone/mine"))
    assert "The training voices are synthetic: the scores say nothing about people." in text
    data = ModelCard(text).data
    assert (data.eval_results, data.license) == (None, "apache-2.0")


def test_the_terms_of_use_are_the_same_in_all_cards(ravdess: RunFolder) -> None:
    package = resources.files("ser_ft")
    use = package.joinpath("report", "cards", "responsible_use.md.j2").read_text(encoding="utf-8").strip()
    assert "Regulation (EU) 2024/1689, Article 5(1)(f)" in use
    assert "with the consent of everyone who speaks" in use
    assert use in str(model_card(ravdess, "someone/mine"))
    for name in SHIPPED_MODELS:
        assert use in package.joinpath("assets", name, "model", "README.md").read_text(encoding="utf-8")


def test_text_from_data_is_escaped(template: RunFolder, tmp_path: Path) -> None:
    evil = "a | b <script>alert(1)</script> [x](http://y)\n## new"
    run = write_run(tmp_path / "run", template, {"mine": WHOLE}, {"mine": evil})
    text = str(model_card(run, "someone/mine"))
    assert "<script>" not in text
    assert "\n## new" not in text
    assert "](http://y)" not in text.replace(r"\](http://y)", "")
    widths = {len(re.split(r"(?<!\\)\|", line)) for line in text.splitlines() if line.startswith("| mine (")}
    assert len(widths) == 1


def test_the_code_examples_and_the_citation_fit_the_model(
    ravdess: RunFolder, speech: RunFolder, make_run: MakeRun
) -> None:
    """The head of a fine-tuned Whisper is no part of transformers."""
    assert "Robust Speech Recognition" in str(model_card(make_run("whisper"), "someone/mine"))
    for run, custom_code in ((ravdess, True), (speech, False), (make_run("whisper"), True)):
        text = str(model_card(run, "someone/mine"))
        blocks = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
        assert len(blocks) == 2
        for block in blocks:
            compile(block, "card", "exec")
            assert "someone/mine" in block
        assert ("trust_remote_code=True" in blocks[0]) == custom_code
