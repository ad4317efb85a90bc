"""A fine-tuned model judged on any data: with its own run's answers, of the classes both know, and no heard speaker."""

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
from ser_ft.report.shared.tables import run_notes
from ser_ft.training.run import train
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import write_tiny_backbone

SMALL = ["--model.config_overrides={channels: [8, 8]}", "--train.epochs=1"]
FOLDS = ["--split.kind=kfold", "--split.folds=2", "--baselines=[]"]
SPEECH = ["--train.epochs=1", "--tuning.mode=full", "--tuning.cache=false"]
EMOTIONS = ("ang", "HAP", "Neutrality", "Sadness")
EIGHT = ("neutral", "calm", "happy", "sad", "angry", "fear", "disgust", "surprise")


def made(table: Path, out: Path, *settings: str) -> RunFolder:
    given = [f"--data.prepared={table}", f"--out={out}", *FOLDS, *settings]
    return train(parse(given, "test"), verbose=False).folder


def judged(model: Path, table: Path, out: Path, **options: object) -> RunFolder:
    return evaluate(model, table, out, verbose=False, **options)  # type: ignore[arg-type]


@pytest.fixture(scope="module")
def run(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A network of ours, trained on half of the miniature's eight speakers."""
    return made(miniature_folder, tmp_path_factory.mktemp("runs") / "mfcc", *SMALL)


@pytest.fixture(scope="module")
def four(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The miniature under four classes: neutral, happy, sad, angry."""
    folder = tmp_path_factory.mktemp("prepared") / "four"
    prepare(miniature_tree, folder, "four", verbose=False)
    return folder


@pytest.fixture(scope="module")
def voices(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """RAVDESS's two synthetic speakers alone: 60 clips."""
    folder = tmp_path_factory.mktemp("prepared") / "voices"
    prepare(miniature_tree / "RAVDESS", folder, verbose=False)
    return folder


@pytest.fixture(scope="module")
def stock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wav2vec 2.0 that someone else fine-tuned, for classes under their own names."""
    folder = tmp_path_factory.mktemp("hub") / "their-emotions"
    backbone = write_tiny_backbone("wav2vec2-large", folder)
    config = AutoConfig.from_pretrained(backbone, id2label=dict(enumerate(EMOTIONS)))
    torch.manual_seed(0)
    AutoModelForAudioClassification.from_pretrained(backbone, config=config).save_pretrained(folder)
    return folder


def own(*settings: str) -> Callable[[Path], list[str]]:
    return lambda _: [*SMALL, *settings]


def image(_: Path) -> list[str]:
    return ["--model.name=timm/test_resnet.r160_in1k", "--model.pretrained=false", "--train.epochs=1"]


def speech(family: str) -> Callable[[Path], list[str]]:
    return lambda folder: [f"--model.name={write_tiny_backbone(family, folder)}", *SPEECH]


@pytest.mark.parametrize(
    "settings",
    [
        own(),
        own("--model.feature_extractor={normalize: speaker}"),
        image,
        # Padding would change its convolutions; a spectrum of one length; padding changes it further up.
        speech("wav2vec2"),
        speech("whisper"),
        pytest.param(speech("sew"), marks=pytest.mark.slow),
        pytest.param(speech("wav2vec2-bert"), marks=pytest.mark.slow),
    ],
    ids=["training", "speaker", "image", "wav2vec2", "whisper", "sew", "wav2vec2-bert"],
)
def test_a_run_judged_anew_on_its_own_data_gives_its_own_answers(
    settings: Callable[[Path], list[str]], voices: Path, tmp_path: Path
) -> None:
    """The speakers that it did not hear are just its test speakers."""
    before = made(voices, tmp_path / "before", *settings(tmp_path / "backbone"))
    assert_same_answers(before, judged(before.path, voices, tmp_path / "again"))


def test_calibration_is_in_the_weights(run: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    assert run.metrics["calibration"]["temperature"] != 1.0
    assert_same_answers(run, judged(run.path, miniature_folder, tmp_path / "again"))


def assert_same_answers(before: RunFolder, again: RunFolder) -> None:
    theirs = before.predictions.query("part == 'test'").set_index("id")
    ours = again.predictions.set_index("id")
    classes = before.metrics["classes"]
    assert again.metrics["classes"] == classes
    assert set(ours.index) == set(theirs.index)
    assert np.abs(ours[classes] - theirs.loc[ours.index, classes]).to_numpy().max() < 1e-5
    assert ours["label"].equals(theirs.loc[ours.index, "label"])
    assert again.metrics["parts"]["test"]["uar"] == pytest.approx(before.metrics["parts"]["test"]["uar"])


def test_it_writes_a_run_folder_that_says_what_was_judged_on_what(
    run: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    again = judged(run.path, miniature_folder, tmp_path / "again")
    names = {path.name for path in again.path.iterdir()}
    assert names == {"config.yaml", "environment.json", "split.json", "predictions.parquet", "metrics.json"}
    metrics = again.metrics
    assert metrics["model"] == run.metrics["model"]
    assert metrics["parameters"] == run.metrics["parameters"]
    assert metrics["split"] == {"name": "evaluated-on-miniature", "fold": None, "seed": 0, "leaking": False}
    assert metrics["parts"] == metrics_per_part(again.predictions, metrics["classes"])
    assert metrics["terms"].keys() == set(again.predictions["corpus"])
    assert again.config["evaluate"]["model"] == str(run.path)
    assert again.config["model"] == run.config["model"]
    speed = again.environment["speed"]
    assert speed["real_time_factor"] > 0
    assert speed["clips"] == 10
    assert speed["threads"] == torch.get_num_threads()
    split = json.loads(again.split_file.read_text())["parts"]
    assert not set(split["train"]["speakers"]) & set(split["test"]["speakers"])
    assert split["test"]["clips"] == list(again.predictions["id"])


def test_frames_of_training_are_used_again(run: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    """Another key for the same frames would have an archive's computed a second time."""
    from ser_ft.data.prepare import cache_home

    kept = set((cache_home() / "features").iterdir())
    judged(run.path, miniature_folder, tmp_path / "again")
    assert set((cache_home() / "features").iterdir()) == kept


def test_heard_speakers_are_left_out_unless_asked_for(
    run: RunFolder, miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = open_prepared(miniature_folder)
    split = json.loads(run.split_file.read_text())["parts"]
    heard = {*split["train"]["speakers"], *split["validation"]["speakers"]}
    without = evaluate(run.model, miniature_folder, tmp_path / "without")
    said = capsys.readouterr().out
    clips = sum(speaker in heard for speaker in table["speaker"])
    assert f"{clips} clips of {len(heard)} speakers" in said
    assert "--include-seen-speakers" in said
    assert set(without.predictions["speaker"]) == set(split["test"]["speakers"])
    assert without.metrics["seen"] == {"clips": clips, "speakers": len(heard), "evaluated": False}
    whole = judged(run.model, miniature_folder, tmp_path / "with", include_seen_speakers=True)
    assert sorted(whole.predictions["id"]) == sorted(table["id"])
    assert whole.metrics["split"]["leaking"] is True
    assert "leaking" in run_notes(whole.metrics)[0]


def test_a_download_of_a_published_run_is_that_run(run: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    """Its files lie beside the model's; whose names are stood in for there cannot be told from those who are judged."""
    download = Path(shutil.copytree(run.model, tmp_path / "download"))
    for file in (run.split_file, run.config_file, run.metrics_file):
        shutil.copy(file, download)
    test = json.loads(run.split_file.read_text())["parts"]["test"]["speakers"]
    found = judged(download, miniature_folder, tmp_path / "known")
    assert set(found.predictions["speaker"]) == set(test)
    assert not any("unknown" in note for note in found.metrics["notes"].values())
    split = json.loads((download / "split.json").read_text())
    (download / "split.json").write_text(json.dumps(split | {"seen": ["own-speaker-1"]}))
    notes_of = judged(download, miniature_folder, tmp_path / "numbered").metrics["notes"]
    assert any("speakers unknown" in note for note in notes_of.values())


def test_where_all_were_heard_one_line_says_so(run: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    known = Path(shutil.copytree(run.path, tmp_path / "known"))
    split = json.loads((known / "split.json").read_text())
    split["leaking"] = True
    split["parts"]["train"]["speakers"] += split["parts"]["test"]["speakers"]
    (known / "split.json").write_text(json.dumps(split))
    with pytest.raises(InputError, match="no clip is left to evaluate it on; --include-seen-speakers"):
        judged(known, miniature_folder, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_a_model_that_anyone_fine_tuned(stock: Path, miniature_folder: Path, tmp_path: Path) -> None:
    """Its names are understood, what it does not know is counted, and what it may have heard is said to be unknown."""
    result = judged(stock, miniature_folder, tmp_path / "result")
    table, metrics = open_prepared(miniature_folder), result.metrics
    assert metrics["classes"] == ["neutral", "happy", "sad", "angry"]
    names = np.array(table.features["emotion"].names)[table["emotion"]]
    others = {name: int((names == name).sum()) for name in EIGHT if name not in metrics["classes"]}
    assert metrics["parts"]["test"]["excluded"] == others
    assert len(result.predictions) == len(table) - sum(others.values())
    assert metrics["seen"] is None
    assert any("training unknown" in note for note in run_notes(metrics))
    assert metrics["model"] == "their-emotions"
    model = AutoModelForAudioClassification.from_pretrained(stock).eval()
    extractor = AutoFeatureExtractor.from_pretrained(stock)
    by_id = dict(zip(table["id"], table["audio"], strict=True))
    for _, row in result.predictions.iloc[::40].iterrows():
        wave = audio.from_wav(by_id[row["id"]]["bytes"])
        inputs = extractor(wave, sampling_rate=16_000, return_tensors="pt")
        angry, happy, neutral, sad = model(**inputs).logits.softmax(dim=1)[0].tolist()
        told = [row[name] for name in metrics["classes"]]
        assert told == pytest.approx([neutral, happy, sad, angry], abs=1e-4)


def test_classes_that_the_data_lacks_are_not_answered(run: RunFolder, four: Path, tmp_path: Path) -> None:
    result = judged(run.path, four, tmp_path / "result")
    classes = result.metrics["classes"]
    assert classes == ["neutral", "happy", "sad", "angry"]
    assert np.allclose(result.predictions[classes].sum(axis=1), 1.0)
    assert {name for name, ours in result.metrics["class_mapping"].items() if ours is None} == set(EIGHT) - set(classes)
    own = run.predictions.set_index("id").loc[result.predictions["id"], classes]
    share = own.to_numpy() / own.to_numpy().sum(axis=1, keepdims=True)
    assert np.allclose(result.predictions[classes], share, atol=1e-4)


def test_probabilities_of_classes_that_are_one_are_added(run: RunFolder, four: Path, tmp_path: Path) -> None:
    result = judged(run.path, four, tmp_path / "result", mapping={"calm": "neutral"})
    # In the run itself only RAVDESS was asked for calm.
    answers = result.predictions.query("corpus == 'ravdess'")
    own = run.predictions.set_index("id").loc[answers["id"]]
    own = own.assign(neutral=own["neutral"] + own["calm"])[result.metrics["classes"]].to_numpy()
    share = own / own.sum(axis=1, keepdims=True)
    assert len(share) > 10
    assert np.allclose(answers[result.metrics["classes"]], share, atol=1e-4)
    assert result.metrics["class_mapping"]["calm"] == "neutral"
    assert result.config["evaluate"]["map"] == {"calm": "neutral"}


def test_a_corpus_is_only_asked_what_it_can_hold(run: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    answers = judged(run.path, miniature_folder, tmp_path / "result", include_seen_speakers=True).predictions
    cremad = answers[answers["corpus"] == "cremad"]
    assert (cremad[["calm", "surprise"]] == 0).all(axis=None)
    assert (answers[answers["corpus"] == "ravdess"]["calm"] > 0).all()


def test_names_are_put_to_names() -> None:
    found = ClassMapping.match(("joy", "LABEL_1", "Anger", "bored"), ("angry", "happy", "own"), {"label_1": "own"})
    assert found.classes == ("angry", "happy", "own")
    assert found.indices.tolist() == [1, 2, 0, -1]
    # A user's own two classes for what ser_ft takes for one word keep their own.
    found = ClassMapping.match(("happy", "joy"), ("joy", "happy"), {})
    assert found.indices.tolist() == [1, 0]
    for given, said in (
        ({}, "the model's classes are yes, no, and the data's are happy, sad"),
        ({"maybe": "happy"}, "the model has no class maybe; the classes are yes, no"),
        ({"yes": "angry"}, "the data have no class angry; the classes are happy, sad"),
        ({"yes": "happy", "no": "happy"}, "at least two must be shared"),
    ):
        with pytest.raises(InputError, match=said):
            ClassMapping.match(("yes", "no"), ("happy", "sad"), given)


def test_models_that_are_no_classifier_are_refused(miniature_folder: Path, stock: Path, tmp_path: Path) -> None:
    backbone = write_tiny_backbone("hubert", tmp_path / "backbone")
    with pytest.raises(InputError, match="not fine-tuned yet"):
        judged(backbone, miniature_folder, tmp_path / "never")
    # A head of another make: transformers would put random weights in its place, with a warning alone.
    other = Path(shutil.copytree(stock, tmp_path / "other"))
    from safetensors.torch import load_file, save_file

    weights = load_file(other / "model.safetensors")
    weights = {name.replace("classifier.", "classifier.dense."): value for name, value in weights.items()}
    save_file(weights, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(
        InputError, match=r"2 weights of the classifier are missing .*its head is not transformers' own"
    ):
        judged(other, miniature_folder, tmp_path / "never")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="is a bert, which classifies no sound"):
        judged(tmp_path / "bert", miniature_folder, tmp_path / "never")
    (tmp_path / "small").mkdir()
    (tmp_path / "small" / "metrics.json").write_text("{}")
    with pytest.raises(InputError, match="no model in this run"):
        judged(tmp_path / "small", miniature_folder, tmp_path / "never")
    assert not (tmp_path / "never").exists()


def test_the_command(
    stock: Path, voices: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    command = ["evaluate", str(stock), "--data", str(voices), "--map", "Neutrality=neutral"]
    assert main(command) == 0
    said = capsys.readouterr().out
    out = tmp_path / "evaluations" / "their-emotions-on-voices"
    assert "UAR" in said
    assert "report: evaluations/their-emotions-on-voices/report.html" in said
    assert "training unknown" in said
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


def test_a_hub_out_of_reach_is_said_in_seconds(
    four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def unreachable(*_: object, **__: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setattr(socket, "create_connection", unreachable)
    start = time.monotonic()
    assert main(["evaluate", "someone/emotions", "--data", str(four), "--out", str(tmp_path / "never")]) == 2
    assert time.monotonic() - start < 10
    error = capsys.readouterr().err.strip().splitlines()
    assert len(error) == 1
    assert "someone/emotions" in error[0]


def test_speed_is_measured_and_the_model_left_as_it_was(stock: Path, miniature_table: datasets.Dataset) -> None:
    saved = PretrainedClassifier.load(str(stock))
    before = {name: value.clone() for name, value in saved.model.state_dict().items()}
    saved.model.train()
    found = real_time_factor(saved.model, saved.extractor, miniature_table.select(range(3)), torch.device("cpu"))
    assert found.keys() == {"real_time_factor", "clips", "threads"}
    assert found["clips"] == 3
    assert 0 < found["real_time_factor"] < 10
    assert saved.model.training
    assert all(torch.equal(value, before[name]) for name, value in saved.model.state_dict().items())
