"""What never leaves the machine: sound, tokens, local paths, the names of people in data of one's own."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from ser_ft import audio, push
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub.files import Pseudonymizer, model_upload
from ser_ft.utils.errors import InputError
from tests.helpers.hub_server import TOKEN

MakeRun = Callable[[str], RunFolder]


@pytest.fixture
def copy(make_run: MakeRun, tmp_path: Path) -> RunFolder:
    """A run that may be changed."""
    ignored = shutil.ignore_patterns("checkpoints")
    return RunFolder(shutil.copytree(make_run("mfcc-cnn").path, tmp_path / "copy", ignore=ignored))


def refused(run: RunFolder) -> str:
    with pytest.raises(InputError) as error:
        push(run.path, "someone/mine", dry_run=True)
    return str(error.value)


def test_sound_is_never_sent(copy: RunFolder) -> None:
    """Neither what lies beside the model nor what passes for a figure or a setting."""
    import numpy as np

    wave = audio.to_wav(np.zeros(1600, dtype=np.int16))
    for name in ("clip.wav", "clip.safetensors.wav"):
        (copy.model / name).write_bytes(wave)
    (copy.path / "clip.wav").write_bytes(wave)
    (copy.figures / "clip.png").write_bytes(wave)
    sent = model_upload(copy, "someone/mine").files
    assert not any("clip" in path for path in sent)
    assert "report.html" not in sent, "which may hold recordings to be played"
    (copy.figures / "curves.png").write_bytes(wave)
    assert refused(copy) == "figures/curves.png: holds sound, which is never sent"


def test_a_token_is_never_sent(copy: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    with (copy.model / "baselines.py").open("a") as file:
        file.write(f'TOKEN = "{TOKEN}"\n')
    assert refused(copy) == "baselines.py: holds what looks like a token of the Hub: take it out"
    shutil.copy(copy.model / "classifier.py", copy.model / "baselines.py")
    # One of another kind, as one's own Hub may give them.
    monkeypatch.setenv("HF_TOKEN", "secret-of-a-hub-of-ours")
    with (copy.model / "baselines.py").open("a") as file:
        file.write("# secret-of-a-hub-of-ours\n")
    told = refused(copy)
    assert told.startswith("baselines.py: holds your token")
    assert "secret" not in told


@pytest.mark.parametrize(
    "path",
    ["/home/someone/voices/a.wav", "/Users/someone/voices", r"C:\\Users\\someone\\voices", "file:///voices/a.wav"],
)
def test_a_local_path_in_a_note_is_found(copy: RunFolder, path: str) -> None:
    metrics = copy.metrics
    copy.write_text(
        copy.metrics_file, json.dumps(metrics | {"model": f"mfcc-cnn of {path}"}).replace("\\\\\\\\", "\\\\")
    )
    assert "holds a path of this machine" in refused(copy)


def test_addresses_and_modules_are_no_local_paths(copy: RunFolder) -> None:
    metrics = copy.metrics | {"model": "mfcc-cnn, see https://example.org/home/someone and a/home/b"}
    copy.write_json(copy.metrics_file, metrics)
    push(copy.path, "someone/mine", dry_run=True)


def test_the_home_folder_is_found_in_any_file(copy: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/far/away/someone")
    weights = copy.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0/far/away/someone/checkpoint\0")
    assert "model.safetensors: holds a path of this machine" in refused(copy)


def test_settings_keep_the_last_part_of_each_path(copy: RunFolder) -> None:
    config = copy.config
    config["data"] |= {"roots": {"mine": "~/clients/acme/calls", "tess": "/data/TESS.zip"}, "prepared": None}
    config["model"]["name"] = "../checkpoints/my-wavlm/model"
    config["split"]["file"] = "runs/acme/split.json"
    config["augment"]["transforms"] = {"background": {"p": 0.3, "sounds_path": "/srv/noises"}}
    config["out"] = "runs/acme"
    config |= {"push_to_hub": True, "hub": {"model_id": "someone/mine"}}
    copy.write_text(copy.config_file, yaml.safe_dump(config))
    upload = model_upload(copy, "someone/mine")
    upload.check()
    shown = yaml.safe_load(bytes(upload.files["config.yaml"]))  # type: ignore[arg-type]
    assert shown["data"]["roots"] == {"mine": "calls", "tess": "TESS.zip"}
    assert shown["model"]["name"] == "my-wavlm"
    assert shown["split"]["file"] == "split.json"
    assert shown["augment"]["transforms"]["background"] == {"p": 0.3, "sounds_path": "noises"}
    assert "hub" not in shown
    assert not any(b"acme" in content for content in upload.files.values() if isinstance(content, bytes))
    assert "command" not in json.loads(bytes(upload.files["environment.json"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("corpus", ["acme", "savee-office", "tess-mine"])
def test_people_in_ones_own_data_are_numbered(copy: RunFolder, corpus: str) -> None:
    """Folders of one's own recordings are called as their speakers are; those of the corpora are in papers."""

    def renamed(text: str) -> str:
        return text.replace('"savee-', f'"{corpus}-jane-doe-').replace('"savee"', f'"{corpus}"')

    for file in (copy.metrics_file, copy.split_file):
        copy.write_text(file, renamed(file.read_text()))
    speakers = json.loads(copy.split_file.read_text())["parts"]
    assert any("jane" in name for part in speakers.values() for name in part["speakers"])
    upload = model_upload(copy, "someone/mine")
    sent = {path: bytes(content) for path, content in upload.files.items() if isinstance(content, bytes)}
    assert not any(b"jane" in content for content in sent.values())
    split, metrics = json.loads(sent["split.json"]), json.loads(sent["metrics.json"])
    for part, content in split["parts"].items():
        assert len(content["clips"]) == len(speakers[part]["clips"])
        named = [name for name in content["speakers"] if name.startswith("own-speaker-")]
        assert len(named) == sum("jane" in name for name in speakers[part]["speakers"])
        assert set(content["speakers"]) == set(metrics["parts"][part]["by_speaker"])
    assert any(name.startswith("ravdess-") for part in split["parts"].values() for name in part["speakers"])
    assert "figures/speakers.png" not in upload.files, "which has their names in it"
    same = json.loads(copy.metrics_file.read_text())["parts"]["test"]
    assert {k: v for k, v in metrics["parts"]["test"].items() if k != "by_speaker"} == {
        k: v for k, v in same.items() if k != "by_speaker"
    }


def test_people_in_a_corpus_that_no_run_tells_of_are_numbered() -> None:
    """As where the run that a model began with has gone, and what is kept of it are the names."""
    names = Pseudonymizer({"parts": {}, "seen": ["savee-office-jane", "savee-03", "acme-jane"]})
    assert set(names.speakers) == {"savee-office-jane", "acme-jane"}
