"""Evaluation of fine-tuned models on any data: same predictions as in training, shared classes, unseen speakers."""

import json
import shutil
import socket
import time
from collections.abc import Callable
from pathlib import Path

import datasets
import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoFeatureExtractor, AutoModelForAudioClassification

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.config.parser import parse
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.evaluation.class_mapping import ClassMapping
from ser_ft.evaluation.evaluate import evaluate
from ser_ft.evaluation.latency import real_time_factor
from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.models.pretrained import PretrainedClassifier
from ser_ft.pipeline import train
from ser_ft.report.shared.tables import run_notes
from ser_ft.utils.caches import cache_home
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import write_tiny_backbone

TINY = ["--model.config_overrides={channels: [8, 8]}", "--train.epochs=1"]
FOLDS = ["--split.kind=kfold", "--split.folds=2", "--baselines=[]"]
FULL_TUNING = ["--train.epochs=1", "--tuning.mode=full", "--tuning.cache=false"]
IMAGE_BACKBONE = ["--model.name=timm/test_resnet.r160_in1k", "--model.pretrained=false", "--train.epochs=1"]
FOREIGN_CLASSES = ("ang", "HAP", "Neutrality", "Sadness")
EIGHT = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")


def train_run(table: Path, out: Path, *settings: str) -> RunFolder:
    return train(parse([f"--data.prepared={table}", f"--out={out}", *FOLDS, *settings], "test"), verbose=False).folder


def evaluate_quietly(model: Path, table: Path, out: Path, **options: object) -> RunFolder:
    return evaluate(model, table, out, verbose=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A network that was trained on half of the miniature's eight speakers."""
    return train_run(miniature_folder, tmp_path_factory.mktemp("runs") / "mfcc", *TINY)


@pytest.fixture(scope="module")
def evaluated(run: RunFolder, miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """The run, evaluated on its own data."""
    return evaluate_quietly(run.path, miniature_folder, tmp_path_factory.mktemp("evaluated") / "run")


@pytest.fixture(scope="module")
def four_classes(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature with four classes: neutral, happy, sad, angry."""
    folder = tmp_path_factory.mktemp("prepared") / "four"
    prepare(miniature_tree, folder, "four", verbose=False)
    return folder


@pytest.fixture(scope="module")
def two_speakers(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """60 clips of RAVDESS's two synthetic speakers."""
    folder = tmp_path_factory.mktemp("prepared") / "voices"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder


@pytest.fixture(scope="module")
def foreign_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec 2.0 that was not fine-tuned by ser_ft, with other names of the classes."""
    folder = tmp_path_factory.mktemp("hub") / "their-emotions"
    backbone = write_tiny_backbone("wav2vec2-large", folder)
    config = AutoConfig.from_pretrained(backbone, id2label=dict(enumerate(FOREIGN_CLASSES)))
    torch.manual_seed(0)
    AutoModelForAudioClassification.from_pretrained(backbone, config=config).save_pretrained(folder)
    return folder


def encoder(family: str) -> Callable[[Path], list[str]]:
    return lambda folder: [f"--model.name={write_tiny_backbone(family, folder)}", *FULL_TUNING]


@pytest.mark.parametrize(
    "settings",
    [
        pytest.param(lambda _: [*TINY, "--model.feature_extractor={normalize: speaker}"], id="normalized-by-speaker"),
        pytest.param(lambda _: IMAGE_BACKBONE, id="image"),
        # Padding changes the convolutions of the first, the second is computed at the clip's own length, and padding
        # changes later layers.
        pytest.param(encoder("wav2vec2"), id="wav2vec2"),
        pytest.param(encoder("whisper"), id="whisper"),
        pytest.param(encoder("sew"), marks=pytest.mark.slow, id="sew"),
        pytest.param(encoder("wav2vec2-bert"), marks=pytest.mark.slow, id="wav2vec2-bert"),
    ],
)
def test_a_run_has_the_same_predictions_when_it_is_evaluated_on_its_own_data(
    settings: Callable[[Path], list[str]], two_speakers: Path, tmp_path: Path
) -> None:
    run = train_run(two_speakers, tmp_path / "run", *settings(tmp_path / "backbone"))
    assert_same_test_predictions(run, evaluate_quietly(run.path, two_speakers, tmp_path / "evaluated"))


def test_calibration_is_part_of_the_saved_weights(run: RunFolder, evaluated: RunFolder) -> None:
    assert run.metrics["calibration"]["temperature"] != 1.0
    assert_same_test_predictions(run, evaluated)


def assert_same_test_predictions(run: RunFolder, evaluated: RunFolder) -> None:
    """The evaluated speakers are the run's test speakers, because it has not seen them."""
    expected = run.predictions.query("part == 'test'").set_index("id")
    predictions = evaluated.predictions.set_index("id")
    classes = run.metrics["classes"]
    assert evaluated.metrics["classes"] == classes
    assert set(predictions.index) == set(expected.index)
    assert np.abs(predictions[classes] - expected.loc[predictions.index, classes]).to_numpy().max() < 1e-5
    assert predictions["label"].equals(expected.loc[predictions.index, "label"])
    assert evaluated.metrics["parts"]["test"]["uar"] == pytest.approx(run.metrics["parts"]["test"]["uar"])


def test_the_output_is_a_run_folder(run: RunFolder, evaluated: RunFolder, miniature_folder: Path) -> None:
    files, name = {path.name for path in evaluated.path.iterdir()}, f"evaluated-on-{miniature_folder.name}"
    assert files == {"config.yaml", "environment.json", "split.json", "predictions.parquet", "metrics.json"}
    metrics = evaluated.metrics
    assert metrics["model"] == run.metrics["model"]
    assert metrics["parameters"] == run.metrics["parameters"]
    assert metrics["split"] == {"name": name, "fold": None, "seed": 0, "leaking": False}
    assert metrics["parts"] == metrics_per_part(evaluated.predictions, metrics["classes"])
    assert metrics["terms"].keys() == set(evaluated.predictions["corpus"])
    assert evaluated.config["evaluate"]["model"] == str(run.path)
    assert evaluated.config["model"] == run.config["model"]
    speed = evaluated.environment["speed"]
    assert speed["real_time_factor"] > 0
    assert (speed["clips"], speed["threads"]) == (2, torch.get_num_threads())
    split = json.loads(evaluated.split_file.read_text())["parts"]
    assert not set(split["train"]["speakers"]) & set(split["test"]["speakers"])
    assert split["test"]["clips"] == list(evaluated.predictions["id"])


def test_seen_speakers_are_excluded_unless_they_are_included_on_request(
    run: RunFolder, miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = open_prepared(miniature_folder)
    split = json.loads(run.split_file.read_text())["parts"]
    seen = {*split["train"]["speakers"], *split["validation"]["speakers"]}
    clips = sum(speaker in seen for speaker in table["speaker"])
    cached_frames = set((cache_home() / "features").iterdir())
    unseen = evaluate(run.model, miniature_folder, tmp_path / "unseen")
    printed = capsys.readouterr().out
    assert set((cache_home() / "features").iterdir()) == cached_frames, "the frames of training are used again"
    assert f"{clips} clips of {len(seen)} speakers" in printed
    assert "--include-seen-speakers" in printed
    assert set(unseen.predictions["speaker"]) == set(split["test"]["speakers"])
    assert unseen.metrics["seen"] == {"clips": clips, "speakers": len(seen), "evaluated": False}
    whole = evaluate_quietly(run.model, miniature_folder, tmp_path / "whole", include_seen_speakers=True)
    assert sorted(whole.predictions["id"]) == sorted(table["id"])
    assert whole.metrics["split"]["leaking"] is True
    assert "leaking" in run_notes(whole.metrics)[0]
    # CREMA-D contains neither calm nor surprise.
    cremad = whole.predictions[whole.predictions["corpus"] == "cremad"]
    assert (cremad[["calm", "surprise"]] == 0).all(axis=None)
    assert (whole.predictions[whole.predictions["corpus"] == "ravdess"]["calm"] > 0).all()


def test_the_run_of_a_downloaded_model_is_found(run: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    """A published model has the files of its run next to it. Pseudonyms cannot be compared with the data's speakers."""
    download = Path(shutil.copytree(run.model, tmp_path / "download"))
    for file in (run.split_file, run.config_file, run.metrics_file):
        shutil.copy(file, download)
    test_speakers = json.loads(run.split_file.read_text())["parts"]["test"]["speakers"]
    result = evaluate_quietly(download, miniature_folder, tmp_path / "known")
    assert set(result.predictions["speaker"]) == set(test_speakers)
    assert not any("unknown" in note for note in result.metrics["notes"].values())
    split = json.loads((download / "split.json").read_text())
    (download / "split.json").write_text(json.dumps(split | {"seen": ["own-speaker-1"]}))
    notes = evaluate_quietly(download, miniature_folder, tmp_path / "pseudonyms").metrics["notes"]
    assert any("speakers unknown" in note for note in notes.values())


def test_data_without_unseen_speakers_are_refused(run: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    copy = Path(shutil.copytree(run.path, tmp_path / "copy"))
    split = json.loads((copy / "split.json").read_text())
    split["leaking"] = True
    split["parts"]["train"]["speakers"] += split["parts"]["test"]["speakers"]
    (copy / "split.json").write_text(json.dumps(split))
    with pytest.raises(InputError, match="no clip is left to evaluate it on; --include-seen-speakers"):
        evaluate_quietly(copy, miniature_folder, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_model_that_was_not_trained_by_ser_ft(foreign_model: Path, miniature_folder: Path, tmp_path: Path) -> None:
    """Its class names are matched, clips of other classes are counted, and its training data are unknown."""
    result = evaluate_quietly(foreign_model, miniature_folder, tmp_path / "result")
    table, metrics = open_prepared(miniature_folder), result.metrics
    assert metrics["classes"] == ["neutral", "happy", "sad", "angry"]
    names = np.array(table.features["emotion"].names)[table["emotion"]]
    excluded = {name: int((names == name).sum()) for name in EIGHT if name not in metrics["classes"]}
    assert metrics["parts"]["test"]["excluded"] == excluded
    assert len(result.predictions) == len(table) - sum(excluded.values())
    assert metrics["seen"] is None
    assert any("training unknown" in note for note in run_notes(metrics))
    assert metrics["model"] == "their-emotions"
    model = AutoModelForAudioClassification.from_pretrained(foreign_model).eval()
    extractor = AutoFeatureExtractor.from_pretrained(foreign_model)
    recordings = dict(zip(table["id"], table["audio"], strict=True))
    for _, row in result.predictions.iloc[::40].iterrows():
        waveform = audio.from_wav(recordings[row["id"]]["bytes"])
        inputs = extractor(waveform, sampling_rate=16_000, return_tensors="pt")
        angry, happy, neutral, sad = model(**inputs).logits.softmax(dim=1)[0].tolist()
        probabilities = [row[name] for name in metrics["classes"]]
        assert probabilities == pytest.approx([neutral, happy, sad, angry], abs=1e-4)


def normalized(probabilities: np.ndarray) -> np.ndarray:
    return probabilities / probabilities.sum(axis=1, keepdims=True)


def test_classes_that_the_data_lack_are_never_predicted(run: RunFolder, four_classes: Path, tmp_path: Path) -> None:
    result = evaluate_quietly(run.path, four_classes, tmp_path / "result")
    classes = result.metrics["classes"]
    assert classes == ["neutral", "happy", "sad", "angry"]
    unmatched = {name for name, match in result.metrics["class_mapping"].items() if match is None}
    assert unmatched == set(EIGHT) - set(classes)
    probabilities = run.predictions.set_index("id").loc[result.predictions["id"], classes].to_numpy()
    assert np.allclose(result.predictions[classes], normalized(probabilities), atol=1e-4)


def test_probabilities_of_classes_that_match_one_class_are_added(
    run: RunFolder, four_classes: Path, tmp_path: Path
) -> None:
    result = evaluate_quietly(run.path, four_classes, tmp_path / "result", mapping={"calm": "neutral"})
    # Of the corpora, only RAVDESS contains calm.
    predictions = result.predictions.query("corpus == 'ravdess'")
    probabilities = run.predictions.set_index("id").loc[predictions["id"]]
    added = probabilities.assign(neutral=probabilities["neutral"] + probabilities["calm"])
    expected = normalized(added[result.metrics["classes"]].to_numpy())
    assert len(expected) > 10
    assert np.allclose(predictions[result.metrics["classes"]], expected, atol=1e-4)
    assert result.metrics["class_mapping"]["calm"] == "neutral"
    assert result.config["evaluate"]["map"] == {"calm": "neutral"}


def test_class_names_are_matched() -> None:
    overrides = {"label_1": "own"}
    mapping = ClassMapping.match(("joy", "LABEL_1", "Anger", "bored"), ("angry", "happy", "own"), overrides)
    assert mapping.classes == ("angry", "happy", "own")
    assert mapping.indices.tolist() == [1, 2, 0, -1]
    # Equal names have priority over synonyms.
    assert ClassMapping.match(("happy", "joy"), ("joy", "happy"), {}).indices.tolist() == [1, 0]
    # Class names of macOS, and of another language.
    assert ClassMapping.match(("ge\u0301ne\u0301", "Freude"), ("g\u00e9n\u00e9", "happy"), {}).indices.tolist() == [
        0,
        1,
    ]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ({}, "the model's classes are yes, no, and the data's are happy, sad"),
        ({"maybe": "happy"}, "the model has no class maybe; the classes are yes, no"),
        ({"yes": "angry"}, "the data have no class angry; the classes are happy, sad"),
        ({"yes": "happy", "no": "happy"}, "at least two must be shared"),
    ],
)
def test_classes_that_cannot_be_matched_are_refused(overrides: dict[str, str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        ClassMapping.match(("yes", "no"), ("happy", "sad"), overrides)


def test_models_that_are_not_classifiers_are_refused(
    miniature_folder: Path, foreign_model: Path, tmp_path: Path
) -> None:
    from safetensors.torch import load_file, save_file

    backbone = write_tiny_backbone("hubert", tmp_path / "backbone")
    # For a head with other names of its weights, transformers only warns, and initializes it randomly.
    other_head = Path(shutil.copytree(foreign_model, tmp_path / "other"))
    weights = load_file(other_head / "model.safetensors")
    weights = {name.replace("classifier.", "classifier.dense."): value for name, value in weights.items()}
    save_file(weights, other_head / "model.safetensors", {"format": "pt"})
    bert, unfinished = tmp_path / "bert", tmp_path / "unfinished"
    bert.mkdir()
    (bert / "config.json").write_text('{"model_type": "bert"}')
    unfinished.mkdir()
    (unfinished / "metrics.json").write_text("{}")
    messages = {backbone: "not fine-tuned yet", other_head: "2 weights of the classifier are missing"}
    for model, message in (messages | {bert: "bert", unfinished: "no model in this run"}).items():
        with pytest.raises(InputError, match=message):
            evaluate_quietly(model, miniature_folder, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_the_command(
    foreign_model: Path,
    two_speakers: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", str(foreign_model), "--data", str(two_speakers), "--map", "Neutrality=neutral"]
    assert main(command) == 0
    printed = capsys.readouterr().out
    out = tmp_path / "evaluations" / "their-emotions-on-voices"
    assert "UAR" in printed
    assert "report: evaluations/their-emotions-on-voices/report.html" in printed
    assert "training unknown" in printed
    assert "training unknown" in (out / "report.html").read_text()
    assert main(command) == 2
    assert "pass --overwrite" in capsys.readouterr().err
    (out / "mark").write_text("old")
    assert main([*command, "--overwrite"]) == 0
    assert not (out / "mark").exists()
    thesis = tmp_path / "thesis"
    thesis.mkdir()
    (thesis / "config.yaml").write_text("- dear")
    assert main([*command, "--out", str(thesis), "--overwrite"]) == 2
    assert (thesis / "config.yaml").read_text() == "- dear"


def test_an_unreachable_hub_is_reported_within_seconds(
    four_classes: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    start = time.monotonic()
    assert main(["evaluate", "someone/emotions", "--data", str(four_classes), "--out", str(tmp_path / "never")]) == 2
    assert time.monotonic() - start < 10
    (error,) = capsys.readouterr().err.strip().splitlines()
    assert "someone/emotions" in error


def test_measuring_the_speed_does_not_change_the_model(foreign_model: Path, miniature_table: datasets.Dataset) -> None:
    classifier = PretrainedClassifier.load(str(foreign_model))
    weights = {name: value.clone() for name, value in classifier.model.state_dict().items()}
    classifier.model.train()
    clips = miniature_table.select(range(1))
    speed = real_time_factor(classifier.model, classifier.extractor, clips, torch.device("cpu"))
    assert speed.keys() == {"real_time_factor", "clips", "threads"}
    assert speed["clips"] == 1
    assert 0 < speed["real_time_factor"] < 10
    assert classifier.model.training
    assert all(torch.equal(value, weights[name]) for name, value in classifier.model.state_dict().items())
