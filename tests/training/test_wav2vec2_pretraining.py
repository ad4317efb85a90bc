"""Continued pretraining: on training speakers only, resumable to the bit, and its result can be fine-tuned."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file

from ser_ft import audio
from ser_ft.cli import train
from ser_ft.cli.training import pretrain as main
from ser_ft.config.parser import parse, parse_as
from ser_ft.config.pretraining import PretrainRecipe
from ser_ft.data.prepare import CORPUS_INFO_FILE, open_prepared
from ser_ft.data.splits import make_split
from ser_ft.evaluation.provenance import check_no_seen_speakers, speakers_seen_in_training
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.pipeline import run as fine_tune
from ser_ft.training.wav2vec2.run import pretrain
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import write_tiny_backbone
from tests.helpers.training import (
    assert_same_run,
    changed_weights,
    finish,
    interrupted_at,
    kill_after_checkpoint,
    saved_weights,
    start,
)

SPLIT = ("--split.kind=kfold", "--split.folds=2")


@pytest.fixture(scope="module")
def backbone(tiny_encoder: Callable[[str], Path]) -> Path:
    return tiny_encoder("wav2vec2")


def arguments(table: Path, backbone: Path, out: Path, *more: str) -> list[str]:
    return [
        f"--data.prepared={table}",
        f"--model.name={backbone}",
        f"--out={out}",
        *SPLIT,
        "--pretrain.epochs=3",
        "--pretrain.batch_size=4",
        "--pretrain.learning_rate=0.0005",
        "--pretrain.save_steps=4",
        *more,
    ]


def run(table: Path, backbone: Path, out: Path, *more: str) -> RunFolder:
    return pretrain(parse_as(PretrainRecipe, arguments(table, backbone, out, *more), "test", ""), verbose=False)


def with_other_audio(
    table: Path, out: Path, change: Callable[[dict[str, str], np.ndarray], np.ndarray], clips: int | None = None
) -> Path:
    """Write a copy of a prepared table whose waveforms are changed."""

    def change_row(row: dict) -> dict:
        waveform = change(row, audio.from_wav(row["audio"]["bytes"]))
        return {"audio": {"bytes": audio.to_wav(waveform), "path": None}}

    clips_table = open_prepared(table)
    clips_table.select(range(clips or len(clips_table))).map(change_row).save_to_disk(out)
    shutil.copy(table / CORPUS_INFO_FILE, out)
    return out


def speakers_by_part(table: Path) -> dict[str, tuple[str, ...]]:
    return dict(make_split(open_prepared(table), "kfold", folds=2).speakers)


@pytest.fixture(scope="module")
def finished(miniature_folder: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    """A finished pretraining. Read-only."""
    return run(miniature_folder, backbone, tmp_path_factory.mktemp("run") / "tapt")


def test_the_loss_falls_and_the_masked_frame_is_chosen(finished: RunFolder) -> None:
    first, *_, last = finished.history
    assert last["contrastive_loss"] < first["contrastive_loss"] - 0.1
    assert last["accuracy"] > max(2 * first["accuracy"], 10 * last["chance"])
    assert [line["epoch"] for line in finished.history] == [1, 2, 3]
    assert all(0 < line["diversity_loss"] < 1 < line["codevector_perplexity"] < 16 for line in finished.history)
    temperatures = [line["temperature"] for line in finished.history]
    assert temperatures == pytest.approx([2 * 0.999995 ** line["step"] for line in finished.history])


def test_the_run_folder_holds_what_later_steps_need(
    finished: RunFolder, miniature_folder: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names == {"config.yaml", "environment.json", "split.json", "history.jsonl", "checkpoints", "model"}
    split = json.loads(finished.split_file.read_text())
    assert split["seen"] == split["parts"]["train"]["speakers"] == sorted(speakers_by_part(miniature_folder)["train"])
    assert speakers_seen_in_training(finished.model) == set(split["seen"])
    before = (finished.model / "model.safetensors").stat().st_mtime_ns
    again = arguments(miniature_folder, Path(finished.config["model"]["name"]), finished.path, "--resume")
    assert main(again) == 0
    assert "finished; nothing to do" in capfd.readouterr().out
    assert (finished.model / "model.safetensors").stat().st_mtime_ns == before


def test_the_saved_model_is_a_stock_model_with_its_original_configuration(finished: RunFolder, backbone: Path) -> None:
    """The masks of the pretraining, half of all frames, would spoil fine-tuning, which reads the same settings."""
    from transformers import AutoFeatureExtractor, AutoModelForPreTraining

    config, original = (json.loads((folder / "config.json").read_text()) for folder in (finished.model, backbone))
    assert config == original
    _, report = AutoModelForPreTraining.from_pretrained(finished.model, output_loading_info=True)
    assert not any(report.values())
    assert AutoFeatureExtractor.from_pretrained(finished.model).do_normalize
    before, after = load_file(backbone / "model.safetensors"), saved_weights(finished)
    assert before.keys() == after.keys()
    assert changed_weights(before, after) == {name for name in before if "feature_extractor" not in name}


def test_fine_tuning_starts_from_the_pretrained_weights(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    settings = [f"--data.prepared={miniature_folder}", f"--model.name={finished.model}", f"--out={tmp_path / 'run'}"]
    rates = ("--train.max_steps=1", "--train.learning_rate=0", "--tuning.learning_rate=0", "--baselines=[]")
    folder = fine_tune(parse([*settings, *SPLIT, *rates], "test"), verbose=False)
    assert np.isfinite(folder.metrics["parts"]["test"]["uar"])
    pretrained = {name: value for name, value in saved_weights(finished).items() if name.startswith("wav2vec2.")}
    assert not changed_weights(pretrained, saved_weights(folder)), "with learning rates of zero nothing changes"
    seen = speakers_seen_in_training(finished.model, ("train", "validation"))
    assert speakers_seen_in_training(folder.model) == seen, "the fine-tuned model has seen the same speakers"


def test_only_training_speakers_are_used(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    """With noise instead of the speech of all other speakers, the weights are the same to the bit."""
    random = np.random.default_rng(0)

    def noise(row: dict[str, str], waveform: np.ndarray) -> np.ndarray:
        return random.uniform(-1, 1, len(waveform)) if row["speaker"] in replaced else waveform

    speakers = speakers_by_part(miniature_folder)
    replaced = {*speakers["validation"], *speakers["test"]}
    others = with_other_audio(miniature_folder, tmp_path / "others", noise)
    assert_same_run(finished, run(others, backbone, tmp_path / "same"))
    replaced = {speakers["train"][0]}
    one = with_other_audio(miniature_folder, tmp_path / "one", noise)
    different = run(one, backbone, tmp_path / "different", "--pretrain.epochs=1")
    assert different.history[0]["contrastive_loss"] != finished.history[0]["contrastive_loss"]


def test_testing_on_seen_speakers_is_refused(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """By a second pretraining and by fine-tuning: the test speakers of the other fold were trained on."""
    table = open_prepared(miniature_folder)
    check_no_seen_speakers(finished.model, make_split(table, "kfold", folds=2))
    other = make_split(table, "kfold", folds=2, fold=1)
    with pytest.raises(InputError, match="trained on clips of 3 of this split"):
        check_no_seen_speakers(finished.model, other)
    with pytest.raises(InputError, match="trained on clips of"):
        run(miniature_folder, finished.model, tmp_path / "second", "--split.fold=1")
    settings = [f"--data.prepared={miniature_folder}", f"--model.name={finished.model}", f"--out={tmp_path / 'run'}"]
    assert train([*settings, *SPLIT, "--split.fold=1"]) == 2
    assert "trained on clips of 3 of this split" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())
    check_no_seen_speakers("facebook/wav2vec2-base", other)
    check_no_seen_speakers(shutil.copytree(finished.model, tmp_path / "moved"), other)


def test_speakers_of_an_earlier_pretraining_are_remembered(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    first = shutil.copytree(finished.path, tmp_path / "first")
    split = json.loads((first / "split.json").read_text())
    split["seen"].append("elsewhere-01")
    (first / "split.json").write_text(json.dumps(split))
    second = run(miniature_folder, first / "model", tmp_path / "second", "--pretrain.max_steps=1")
    shutil.rmtree(first)
    assert speakers_seen_in_training(second.model) == {*speakers_by_part(miniature_folder)["train"], "elsewhere-01"}


def without_quantizer(backbone: Path, folder: Path) -> Path:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    AutoModelForAudioClassification.from_pretrained(backbone).save_pretrained(folder)
    AutoFeatureExtractor.from_pretrained(backbone).save_pretrained(folder)
    return folder


def test_wrong_input_is_one_line_and_nothing_is_written(
    miniature_folder: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "never"
    wrong = {
        f"--model.name={without_quantizer(backbone, tmp_path / 'tuned')}": "without the quantizer",
        f"--model.name={write_tiny_backbone('hubert', tmp_path / 'hubert')}": "is a hubert",
        f"--model.name={write_tiny_backbone('whisper', tmp_path / 'whisper')}": "is a whisper",
        "--model.name=mfcc-cnn": "is not a speech encoder",
        "--model.name=resnet": "unknown model",
        "--model.config_overrides={layers: 3}": "no setting 'layers'",
        "--model.num_layers=9": "must be from 1 to 4",
        "--model.head=statistics": "no effect on pretraining",
        "--data.prepared=/nowhere": "no prepared table",
        "--split.kind=random": "use a split by speaker",
        "--split.fold=7": "split.fold is 7",
        "--pretrain.mask_length=2000": "no training clip is longer",
        "--train.epochs=3": "train.epochs",
        "--seed=-1": "seed must be a whole number",
    }
    for setting, message in wrong.items():
        assert main(arguments(miniature_folder, backbone, out, setting)) == 2, setting
        error = capsys.readouterr().err.strip()
        assert message in error.splitlines()[-1], setting
        assert "Traceback" not in error
        assert not out.exists(), setting


def test_a_folder_with_other_content_is_refused_and_kept(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="a pretraining already exists"):
        run(miniature_folder, backbone, finished.path)
    with pytest.raises(InputError, match="another recipe"):
        run(miniature_folder, backbone, finished.path, "--resume", "--seed=1")
    started = RunFolder(shutil.copytree(finished.path, tmp_path / "started"))
    shutil.rmtree(started.model)
    split = json.loads(started.split_file.read_text())
    split["parts"]["test"]["clips"].pop()
    started.split_file.write_text(json.dumps(split))
    with pytest.raises(InputError, match="the data, and so its split, changed"):
        run(miniature_folder, backbone, started.path, "--resume")
    fine_tuning = tmp_path / "fine_tuning"
    fine_tuning.mkdir()
    (fine_tuning / "config.yaml").write_text(parse(["--model.name=mfcc-cnn"], "test").text())
    for flag in ("--overwrite", "--resume"):
        with pytest.raises(InputError, match="not a pretraining"):
            run(miniature_folder, backbone, fine_tuning, flag)
    assert [file.name for file in fine_tuning.iterdir()] == ["config.yaml"]


@pytest.mark.slow
def test_a_killed_pretraining_ends_the_same(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    out = tmp_path / "killed"
    command = arguments(miniature_folder, backbone, out)
    kill_after_checkpoint(start("pretrain", command), out, 8)
    assert (out / "checkpoints").is_dir()
    assert not (out / "model").exists(), "it ended before it was killed"
    assert main([*command, "--resume"]) == 0
    assert_same_run(finished, RunFolder(out))


@pytest.mark.parametrize("position", ["first epoch", "start of an epoch", "last epoch"])
def test_an_interrupted_pretraining_ends_the_same(
    position: str, finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    """With dropout."""
    first, second, last = (line["step"] for line in finished.history)
    with interrupted_at({"first epoch": first - 1, "start of an epoch": second, "last epoch": last - 1}[position]):
        run(miniature_folder, backbone, tmp_path / "run")
    assert_same_run(finished, run(miniature_folder, backbone, tmp_path / "run", "--resume"))


def test_short_clips_are_left_out(
    miniature_folder: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clips of 0.01 to 0.25 s among longer ones: a span of ten frames has 0.2 s."""
    lengths = iter(range(160, 10_000))

    def shorten(row: dict[str, str], waveform: np.ndarray) -> np.ndarray:
        return waveform if row["emotion"] in (1, 2) else waveform[5000 : 5000 + 16 * next(lengths)][:4000]

    table = with_other_audio(miniature_folder, tmp_path / "short", shorten)
    for cache in ("true", "false"):
        out = tmp_path / cache
        more = ("--pretrain.epochs=1", f"--pretrain.cache={cache}", "--pretrain.max_batch_seconds=8")
        assert main(arguments(table, backbone, out, *more)) == 0
        assert "training clips under 0.23 s are left out" in capsys.readouterr().out
        assert np.isfinite(RunFolder(out).history[0]["contrastive_loss"])


def test_a_pretraining_that_diverges_stops_in_one_line(
    miniature_folder: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    more = ("--pretrain.learning_rate=1e30", "--pretrain.max_grad_norm=1e30", "--pretrain.max_steps=4")
    assert main(arguments(miniature_folder, backbone, tmp_path / "run", *more)) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert "pretraining diverged: after step" in error
    assert "lower pretrain.learning_rate" in error


def test_cached_features_change_almost_nothing(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    """The half precision of the cache changes the codes of a few frames."""
    steps = finished.history[0]["step"]
    more = ("--pretrain.cache=false", "--pretrain.epochs=3", "--pretrain.warmup_ratio=0.08")
    with interrupted_at(steps + 1):
        run(miniature_folder, backbone, tmp_path / "run", *more)
    line = RunFolder(tmp_path / "run").history[0]
    for name in ("contrastive_loss", "diversity_loss", "codevector_perplexity"):
        assert line[name] == pytest.approx(finished.history[0][name], rel=2e-3), name


@pytest.mark.parametrize(
    "settings",
    [
        ("--pretrain.mixed_precision=bf16",),
        ("--pretrain.dataloader_num_workers=1", "--pretrain.gradient_accumulation_steps=3"),
        ("--model.config_overrides={mask_time_prob: 0.0, apply_spec_augment: false, mask_feature_prob: 0.5}",),
    ],
)
def test_options_work(miniature_folder: Path, backbone: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    folder = run(miniature_folder, backbone, tmp_path / "run", "--pretrain.max_steps=2", *settings)
    assert np.isfinite(folder.history[0]["contrastive_loss"])
    assert folder.history[-1]["step"] == 2


@pytest.mark.parametrize("family", ["wav2vec2-large", "wav2vec2-conformer", "wav2vec2-conformer-rope"])
def test_other_families_with_a_quantizer_can_be_pretrained(family: str, miniature_folder: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForAudioClassification

    other = write_tiny_backbone(family, tmp_path / "backbone", layerdrop=0.1)
    folder = run(miniature_folder, other, tmp_path / "run", "--pretrain.max_steps=2")
    assert np.isfinite(folder.history[0]["contrastive_loss"])
    assert json.loads((folder.model / "config.json").read_text())["layerdrop"] == 0.1
    _, report = AutoModelForAudioClassification.from_pretrained(folder.model, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"projector", "classifier"}


@pytest.mark.slow
def test_an_encoder_learns_to_predict_frames_from_their_context(miniature_folder: Path, tmp_path: Path) -> None:
    """Each clip is a sequence of five tones of half a second: a masked frame follows from its neighbors."""
    random = np.random.default_rng(0)
    seconds = np.arange(8000) / audio.SAMPLE_RATE

    def tones(row: dict[str, str], waveform: np.ndarray) -> np.ndarray:
        # Whole periods in each frame of 20 ms: all frames of a tone are equal.
        pitches = random.choice([200, 450, 800, 1250, 2000, 2950, 4100, 5600], 5)
        sequence = np.concatenate([0.3 * np.sin(2 * np.pi * pitch * seconds) for pitch in pitches])
        return sequence + random.normal(scale=0.001, size=len(sequence))

    table = with_other_audio(miniature_folder, tmp_path / "tones", tones)
    no_dropout = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), 0.0)
    backbone = write_tiny_backbone("wav2vec2", tmp_path / "backbone", num_codevectors_per_group=64, **no_dropout)
    settings = ("--pretrain.epochs=12", "--pretrain.learning_rate=0.003", "--pretrain.diversity=0.01")
    masks = ("--pretrain.temperature=0.5", "--pretrain.mask_prob=0.3", "--pretrain.mask_length=4")
    history = run(table, backbone, tmp_path / "run", *settings, *masks).history
    assert history[-1]["contrastive_loss"] < history[0]["contrastive_loss"] - 1
    assert history[-1]["accuracy"] > 0.4 > 20 * history[-1]["chance"]


@pytest.mark.slow
def test_two_processes_share_the_clips_and_can_be_resumed(
    miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    def both(out: Path, *more: str) -> RunFolder:
        command = arguments(miniature_folder, backbone, out, "--pretrain.epochs=2", *more)
        assert finish(start("pretrain", command, processes=2)).count("to fine-tune it") == 1
        return RunFolder(out)

    whole = both(tmp_path / "whole")
    assert whole.environment["processes"] == 2
    assert whole.history[-1]["step"] == 18
    assert whole.history[-1]["contrastive_loss"] < whole.history[0]["contrastive_loss"]
    # As after an interruption in the second epoch: the last checkpoint and the model do not exist.
    started = RunFolder(shutil.copytree(whole.path, tmp_path / "started"))
    shutil.rmtree(started.model)
    shutil.rmtree(started.checkpoints / "step-0000018")
    assert_same_run(whole, both(started.path, "--resume"))
