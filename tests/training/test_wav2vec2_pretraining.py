"""Pretraining goes on: on training speakers alone, resumable to the bit, and what it gives can be fine-tuned."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
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
from ser_ft.training.wav2vec2.trainer import PretrainingTrainer
from ser_ft.utils.errors import InputError
from tests.helpers.tiny_encoders import write_tiny_backbone

ROOT = Path(__file__).parents[2]
SPLIT = ("--split.kind=kfold", "--split.folds=2")


@pytest.fixture(scope="module")
def backbone(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_tiny_backbone("wav2vec2", tmp_path_factory.mktemp("backbone") / "tiny")


def recipe(table: Path, backbone: Path, out: Path, *more: str) -> list[str]:
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


def start(table: Path, backbone: Path, out: Path, *more: str) -> RunFolder:
    return pretrain(parse_as(PretrainRecipe, recipe(table, backbone, out, *more), "test", ""), verbose=False)


def changed(table: Path, out: Path, sound: Callable[[dict[str, str], np.ndarray], np.ndarray]) -> Path:
    """Write a prepared table with other sound."""

    def change(row: dict) -> dict:
        samples = sound(row, audio.from_wav(row["audio"]["bytes"]))
        return {"audio": {"bytes": audio.to_wav(samples), "path": None}}

    open_prepared(table).map(change).save_to_disk(out)
    shutil.copy(table / CORPUS_INFO_FILE, out)
    return out


def parts(table: Path) -> dict[str, tuple[str, ...]]:
    return dict(make_split(open_prepared(table), "kfold", folds=2).speakers)


def assert_same(one: RunFolder, other: RunFolder) -> None:
    ours, theirs = (load_file(folder.model / "model.safetensors") for folder in (one, other))
    assert ours.keys() == theirs.keys()
    assert all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert one.history_file.read_bytes() == other.history_file.read_bytes()


@pytest.fixture(scope="module")
def finished(miniature_folder: Path, backbone: Path, tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return start(miniature_folder, backbone, tmp_path_factory.mktemp("run") / "tapt")


def test_the_loss_falls_and_the_true_frame_is_found(finished: RunFolder) -> None:
    first, *_, last = finished.history
    assert last["contrastive_loss"] < first["contrastive_loss"] - 0.1
    assert last["accuracy"] > max(2 * first["accuracy"], 10 * last["chance"])
    assert [line["epoch"] for line in finished.history] == [1, 2, 3]
    assert all(0 < line["diversity_loss"] < 1 < line["codevector_perplexity"] < 16 for line in finished.history)
    temperatures = [line["temperature"] for line in finished.history]
    assert temperatures == pytest.approx([2 * 0.999995 ** line["step"] for line in finished.history])


def test_the_folder_holds_what_later_steps_need(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    names = {path.name for path in finished.path.iterdir()}
    assert names == {"config.yaml", "environment.json", "split.json", "history.jsonl", "checkpoints", "model"}
    split = json.loads(finished.split_file.read_text())
    assert split["seen"] == split["parts"]["train"]["speakers"] == sorted(parts(miniature_folder)["train"])
    assert speakers_seen_in_training(finished.model) == set(split["seen"])
    before = (finished.model / "model.safetensors").stat().st_mtime_ns
    again = recipe(miniature_folder, Path(finished.config["model"]["name"]), finished.path, "--resume")
    assert main(again) == 0
    assert "finished; nothing to do" in capfd.readouterr().out
    assert (finished.model / "model.safetensors").stat().st_mtime_ns == before


def test_the_saved_model_is_a_stock_one_with_the_configuration_it_came_with(
    finished: RunFolder, backbone: Path
) -> None:
    """The masks of pretraining, half of all frames, would spoil fine-tuning, which reads the same settings."""
    ours, theirs = (json.loads((folder / "config.json").read_text()) for folder in (finished.model, backbone))
    assert ours == theirs
    from transformers import AutoFeatureExtractor, AutoModelForPreTraining

    _, report = AutoModelForPreTraining.from_pretrained(finished.model, output_loading_info=True)
    assert not any(report.values())
    assert AutoFeatureExtractor.from_pretrained(finished.model).do_normalize
    before, after = (load_file(folder / "model.safetensors") for folder in (backbone, finished.model))
    assert before.keys() == after.keys()
    still = {name for name in before if torch.equal(before[name], after[name])}
    assert still == {name for name in before if "feature_extractor" in name}


def test_fine_tuning_starts_from_it(finished: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    given = [f"--data.prepared={miniature_folder}", f"--model.name={finished.model}", f"--out={tmp_path / 'run'}"]
    rates = ("--train.epochs=1", "--train.learning_rate=0", "--tuning.learning_rate=0", "--baselines=[]")
    folder = fine_tune(parse([*given, *SPLIT, *rates], "test"), verbose=False)
    assert np.isfinite(folder.metrics["parts"]["test"]["uar"])
    ours, theirs = (load_file(each.model / "model.safetensors") for each in (folder, finished))
    inside = [name for name in theirs if name.startswith("wav2vec2.")]
    assert all(torch.equal(ours[name], theirs[name]) for name in inside), "rates of zero leave the encoder as it came"
    # Whom the encoder heard follows into what was made of it.
    assert speakers_seen_in_training(folder.model) == speakers_seen_in_training(finished.model, ("train", "validation"))


def test_only_training_speakers_are_heard(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    """With noise in place of all other speakers' sound, the weights are the same to the bit; else they are not."""
    random = np.random.default_rng(0)

    def noise(row: dict[str, str], samples: np.ndarray) -> np.ndarray:
        return random.uniform(-1, 1, len(samples)) if row["speaker"] in spoilt else samples

    speakers = parts(miniature_folder)
    spoilt = {*speakers["validation"], *speakers["test"]}
    other = changed(miniature_folder, tmp_path / "others", noise)
    assert_same(finished, start(other, backbone, tmp_path / "one"))
    spoilt = {speakers["train"][0]}
    other = changed(miniature_folder, tmp_path / "one_heard", noise)
    with pytest.raises(AssertionError):
        assert_same(finished, start(other, backbone, tmp_path / "two"))


def test_a_test_speaker_who_was_heard_is_refused(finished: RunFolder, miniature_folder: Path, tmp_path: Path) -> None:
    table = open_prepared(miniature_folder)
    check_no_seen_speakers(finished.model, make_split(table, "kfold", folds=2))
    other = make_split(table, "kfold", folds=2, fold=1)
    with pytest.raises(InputError, match="trained on clips of 3 of this split"):
        check_no_seen_speakers(finished.model, other)
    with pytest.raises(InputError, match="trained on clips of"):
        start(miniature_folder, finished.model, tmp_path / "second", "--split.fold=1")
    assert not (tmp_path / "second").exists()
    check_no_seen_speakers("facebook/wav2vec2-base", other)
    check_no_seen_speakers(shutil.copytree(finished.model, tmp_path / "moved"), other)


def test_fine_tuning_does_not_test_on_who_was_heard(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The other fold's test speakers are those whom the pretraining heard."""
    given = [f"--data.prepared={miniature_folder}", f"--model.name={finished.model}", f"--out={tmp_path / 'run'}"]
    assert train([*given, *SPLIT, "--split.fold=1"]) == 2
    assert "whom this split tests on" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_second_pretraining_says_whom_the_first_heard(
    finished: RunFolder, miniature_folder: Path, tmp_path: Path
) -> None:
    first = shutil.copytree(finished.path, tmp_path / "first")
    split = json.loads((first / "split.json").read_text())
    split["seen"].append("elsewhere-01")
    (first / "split.json").write_text(json.dumps(split))
    second = start(miniature_folder, first / "model", tmp_path / "second", "--pretrain.epochs=1")
    shutil.rmtree(first)
    assert speakers_seen_in_training(second.model) == {*parts(miniature_folder)["train"], "elsewhere-01"}


def fine_tuned(folder: Path, backbone: Path) -> Path:
    from transformers import AutoFeatureExtractor, AutoModelForAudioClassification

    AutoModelForAudioClassification.from_pretrained(backbone).save_pretrained(folder)
    AutoFeatureExtractor.from_pretrained(backbone).save_pretrained(folder)
    return folder


def test_wrong_input_is_one_line_code_2_and_nothing_written(
    miniature_folder: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "never"
    wrong = {
        f"--model.name={fine_tuned(tmp_path / 'tuned', backbone)}": "without the quantizer",
        f"--model.name={write_tiny_backbone('hubert', tmp_path / 'hubert')}": "is a hubert",
        f"--model.name={write_tiny_backbone('whisper', tmp_path / 'whisper')}": "is a whisper",
        "--model.name=mfcc-cnn": "only the pretraining of one can go on",
        "--model.name=resnet": "unknown model",
        "--model.config_overrides={layers: 3}": "no setting 'layers'",
        "--model.config_overrides={num_hidden_layers: 9}": "from 1 to 4, the checkpoint's layers",
        "--data.prepared=/nowhere": "no prepared table",
        "--split.kind=random": "heard beforehand",
        "--split.fold=7": "split.fold is 7",
        "--pretrain.mask_length=2000": "no training clip is longer",
        "--train.epochs=3": "train.epochs",
        "--seed=-1": "seed must be a whole number",
    }
    for setting, said in wrong.items():
        assert main(recipe(miniature_folder, backbone, out, setting)) == 2, setting
        error = capsys.readouterr().err.strip()
        assert said in error.splitlines()[-1], setting
        assert "Traceback" not in error
        assert not out.exists(), setting


@pytest.mark.slow
def test_the_command_refuses_in_one_line(miniature_folder: Path, tmp_path: Path) -> None:
    hubert = write_tiny_backbone("hubert", tmp_path / "hubert")
    command = [sys.executable, str(ROOT / "recipes" / "pretrain.py"), *recipe(miniature_folder, hubert, tmp_path / "x")]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.splitlines()[-1].startswith("ser-ft: ")


def test_a_taken_folder_is_refused_and_kept(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    with pytest.raises(InputError, match="a pretraining already exists"):
        start(miniature_folder, backbone, finished.path)
    with pytest.raises(InputError, match="another recipe"):
        start(miniature_folder, backbone, finished.path, "--resume", "--seed=1")
    begun = RunFolder(shutil.copytree(finished.path, tmp_path / "begun"))
    shutil.rmtree(begun.model)
    split = json.loads(begun.split_file.read_text())
    split["parts"]["test"]["clips"].pop()
    begun.split_file.write_text(json.dumps(split))
    with pytest.raises(InputError, match="the data, and so its split, changed"):
        start(miniature_folder, backbone, begun.path, "--resume")
    tuned = tmp_path / "tuned"
    tuned.mkdir()
    (tuned / "config.yaml").write_text(parse(["--model.name=mfcc-cnn"], "test").text())
    for choice in ("overwrite", "resume"):
        with pytest.raises(InputError, match="not a pretraining"):
            start(miniature_folder, backbone, tuned, f"--{choice}")
    assert [file.name for file in tuned.iterdir()] == ["config.yaml"]


@pytest.mark.slow
@pytest.mark.parametrize("after", [1, 8, 27])
def test_killed_and_resumed_is_as_never_killed(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path, after: int
) -> None:
    """SIGKILL in the middle of an epoch, once a checkpoint of so many steps is there (1: any); then go on."""
    out = tmp_path / "killed"
    command = [sys.executable, str(ROOT / "recipes" / "pretrain.py"), *recipe(miniature_folder, backbone, out)]
    environment = os.environ | {"OMP_NUM_THREADS": str(torch.get_num_threads())}
    process = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < deadline:
        if any(int(folder.name.split("-")[1]) >= after for folder in (out / "checkpoints").glob("step-*")):
            break
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert (out / "checkpoints").is_dir()
    assert not (out / "model").exists(), "it ended before it was killed: nothing was tested"
    assert main([*recipe(miniature_folder, backbone, out), "--resume"]) == 0
    assert_same(finished, RunFolder(out))


@pytest.mark.parametrize("after", [4, 18, 48])
def test_stopped_and_resumed_is_as_in_one_go(
    finished: RunFolder,
    miniature_folder: Path,
    backbone: Path,
    tmp_path: Path,
    after: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Stopped a step after a checkpoint: in the first epoch, after its end, and in the last; dropout is on."""
    take = PretrainingTrainer._step

    def stop(self: PretrainingTrainer, group: list[dict[str, torch.Tensor]]) -> None:
        if self.state.step == after + 1:
            raise KeyboardInterrupt
        take(self, group)

    monkeypatch.setattr(PretrainingTrainer, "_step", stop)
    with pytest.raises(KeyboardInterrupt):
        start(miniature_folder, backbone, tmp_path / "run")
    monkeypatch.undo()
    assert max((tmp_path / "run" / "checkpoints").glob("step-*")).name == f"step-{after:07d}"
    assert_same(finished, start(miniature_folder, backbone, tmp_path / "run", "--resume"))


def test_short_clips_are_left_out_and_never_a_crash(
    miniature_folder: Path, backbone: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Clips of 0.01 to 0.25 s beside whole ones: a span of ten frames lasts 0.2 s."""
    lengths = iter(range(160, 10_000))

    def cut(row: dict[str, str], samples: np.ndarray) -> np.ndarray:
        return samples if row["emotion"] in (1, 2) else samples[5000 : 5000 + 16 * next(lengths)][:4000]

    table = changed(miniature_folder, tmp_path / "short", cut)
    for cache in ("true", "false"):
        out = tmp_path / cache
        given = ("--pretrain.epochs=1", f"--pretrain.cache={cache}", "--pretrain.max_batch_seconds=8")
        assert main(recipe(table, backbone, out, *given)) == 0
        said = capsys.readouterr().out
        assert "training clips under 0.23 s are left out" in said
        assert np.isfinite(RunFolder(out).history[0]["contrastive_loss"])


def test_cached_convolutions_change_nothing(
    finished: RunFolder, miniature_folder: Path, backbone: Path, tmp_path: Path
) -> None:
    """Half precision in the cache moves a few frames to other codes."""
    line = start(miniature_folder, backbone, tmp_path / "run", "--pretrain.cache=false").history[0]
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
def test_options_run(miniature_folder: Path, backbone: Path, tmp_path: Path, settings: tuple[str, ...]) -> None:
    folder = start(miniature_folder, backbone, tmp_path / "run", "--pretrain.epochs=1", *settings)
    assert np.isfinite(folder.history[0]["contrastive_loss"])


@pytest.mark.parametrize("family", ["wav2vec2-large", "wav2vec2-conformer", "wav2vec2-conformer-rope"])
def test_other_families_with_a_quantizer(family: str, miniature_folder: Path, tmp_path: Path) -> None:
    other = write_tiny_backbone(family, tmp_path / "backbone", layerdrop=0.1)
    folder = start(miniature_folder, other, tmp_path / "run", "--pretrain.epochs=1", "--pretrain.batch_size=16")
    assert np.isfinite(folder.history[0]["contrastive_loss"])
    assert json.loads((folder.model / "config.json").read_text())["layerdrop"] == 0.1
    from transformers import AutoModelForAudioClassification

    _, report = AutoModelForAudioClassification.from_pretrained(folder.model, output_loading_info=True)
    assert {name.split(".")[0] for name in report["missing_keys"]} == {"projector", "classifier"}


@pytest.mark.slow
def test_it_learns_to_hear_a_frame_from_those_around_it(miniature_folder: Path, tmp_path: Path) -> None:
    """Five tones of half a second in a row: what is masked follows from what is not, and from nothing else."""
    random = np.random.default_rng(0)
    seconds = np.arange(8000) / audio.SAMPLE_RATE

    def tones(row: dict[str, str], samples: np.ndarray) -> np.ndarray:
        # Whole periods in each frame of 20 ms: all frames of a tone are alike.
        pitches = random.choice([200, 450, 800, 1250, 2000, 2950, 4100, 5600], 5)
        made = np.concatenate([0.3 * np.sin(2 * np.pi * pitch * seconds) for pitch in pitches])
        return made + random.normal(scale=0.001, size=len(made))

    table = changed(miniature_folder, tmp_path / "tones", tones)
    still = dict.fromkeys(("hidden_dropout", "attention_dropout", "activation_dropout"), 0.0)
    backbone = write_tiny_backbone("wav2vec2", tmp_path / "backbone", num_codevectors_per_group=64, **still)
    given = ("--pretrain.epochs=12", "--pretrain.learning_rate=0.003", "--pretrain.diversity=0.01")
    masks = ("--pretrain.temperature=0.5", "--pretrain.mask_prob=0.3", "--pretrain.mask_length=4")
    history = start(table, backbone, tmp_path / "run", *given, *masks).history
    assert history[-1]["contrastive_loss"] < history[0]["contrastive_loss"] - 1
    assert history[-1]["accuracy"] > 0.4 > 20 * history[-1]["chance"]


@pytest.mark.slow
def test_two_processes(miniature_folder: Path, backbone: Path, tmp_path: Path) -> None:
    """Each hears its half, and both end with the same weights; killed, they go on as if they had not been."""
    script = str(ROOT / "recipes" / "pretrain.py")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2", script]
    environment = os.environ | {"ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1"}

    def both(out: Path, *more: str) -> RunFolder:
        given = [*command, *recipe(miniature_folder, backbone, out, *more)]
        done = subprocess.run(given, env=environment, capture_output=True, text=True, timeout=300)
        assert done.returncode == 0, done.stderr[-2000:]
        assert done.stdout.count("to be fine-tuned") == 1
        return RunFolder(out)

    whole = both(tmp_path / "whole")
    assert whole.environment["processes"] == 2
    assert whole.history[-1]["step"] == 27
    assert whole.history[-1]["contrastive_loss"] < whole.history[0]["contrastive_loss"]
    # As if killed after the second epoch: the last checkpoint, and all that came after it, is gone.
    begun = RunFolder(shutil.copytree(whole.path, tmp_path / "begun"))
    shutil.rmtree(begun.model)
    shutil.rmtree(begun.checkpoints / "step-0000027")
    assert_same(whole, both(begun.path, "--resume"))
