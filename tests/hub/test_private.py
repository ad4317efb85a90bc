"""Content that is never published: audio, tokens, local paths, and names of people in the user's own data."""

from __future__ import annotations

import json
import shutil

import numpy as np
import pytest
import yaml
from safetensors.torch import load_file, save_file

from ser_ft import audio, push
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub.files import Pseudonymizer, model_upload
from ser_ft.utils.errors import InputError
from tests.helpers.hub_server import TOKEN


def refusal(run: RunFolder) -> str:
    with pytest.raises(InputError) as error:
        push(run.path, "someone/mine", dry_run=True)
    return str(error.value)


def test_audio_is_never_sent(run_copy: RunFolder) -> None:
    """Neither files next to the model, nor audio under the name of a figure."""
    recording = audio.to_wav(np.zeros(1600, dtype=np.int16))
    for name in ("clip.wav", "clip.safetensors.wav"):
        (run_copy.model / name).write_bytes(recording)
    (run_copy.path / "clip.wav").write_bytes(recording)
    (run_copy.figures / "clip.png").write_bytes(recording)
    sent = model_upload(run_copy, "someone/mine").files
    assert not any("clip" in path for path in sent)
    assert "report.html" not in sent, "it may embed recordings"
    (run_copy.figures / "curves.png").write_bytes(recording)
    assert refusal(run_copy) == "figures/curves.png: contains audio, which is never sent"


def test_a_file_outside_of_the_run_is_never_sent(run_copy: RunFolder) -> None:
    """Links in a run folder that somebody else packed."""
    (run_copy.path.parent / "secret.json").write_text('{"password": 1}')
    for link in (run_copy.model / "notes.json", run_copy.model / "code.py", run_copy.figures / "curves.png"):
        link.unlink(missing_ok=True)
        link.symlink_to(run_copy.path.parent / "secret.json")
        assert "links to a file outside of the run" in refusal(run_copy)
        link.unlink()


def test_a_model_that_answers_nan_is_never_sent(run_copy: RunFolder) -> None:
    weights = load_file(run_copy.model / "model.safetensors")
    weights["classifier.bias"][0] = np.nan
    save_file(weights, run_copy.model / "model.safetensors", metadata={"format": "pt"})
    assert "not finite" in refusal(run_copy)


def test_a_token_is_never_sent(run_copy: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    code = run_copy.model / "baselines.py"
    with code.open("a") as file:
        file.write(f'TOKEN = "{TOKEN}"\n')
    assert refusal(run_copy) == "baselines.py: contains what looks like a token of the Hub: remove it"
    shutil.copy(run_copy.model / "classifier.py", code)
    # A Hub other than huggingface.co may use tokens of another form.
    monkeypatch.setenv("HF_TOKEN", "secret-of-another-hub")
    with code.open("a") as file:
        file.write("# secret-of-another-hub\n")
    error = refusal(run_copy)
    assert error.startswith("baselines.py: contains your token")
    assert "secret" not in error


@pytest.mark.parametrize(
    "path",
    ["/home/someone/voices/a.wav", "/Users/someone/voices", r"C:\\Users\\someone\\voices", "file:///voices/a.wav"],
)
def test_a_local_path_in_a_text_is_refused(run_copy: RunFolder, path: str) -> None:
    metrics = json.dumps(run_copy.metrics | {"model": f"mfcc-cnn of {path}"})
    run_copy.write_text(run_copy.metrics_file, metrics.replace("\\\\\\\\", "\\\\"))
    assert "contains a local path" in refusal(run_copy)


def test_addresses_and_relative_paths_are_not_local_paths(run_copy: RunFolder) -> None:
    metrics = run_copy.metrics | {"model": "mfcc-cnn, see https://example.org/home/someone and a/home/b"}
    run_copy.write_json(run_copy.metrics_file, metrics)
    push(run_copy.path, "someone/mine", dry_run=True)


def test_the_home_folder_is_refused_in_any_file(run_copy: RunFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/far/away/someone")
    weights = run_copy.model / "model.safetensors"
    weights.write_bytes(weights.read_bytes() + b"\0/far/away/someone/checkpoint\0")
    assert "model.safetensors: contains a local path" in refusal(run_copy)


def test_published_settings_have_only_the_last_part_of_each_path(run_copy: RunFolder) -> None:
    config = run_copy.config
    config["data"] |= {"roots": {"mine": "~/clients/acme/calls", "tess": "/data/TESS.zip"}, "prepared": None}
    config["model"]["name"] = "../checkpoints/my-wavlm/model"
    config["split"]["file"] = "runs/acme/split.json"
    config["augment"]["transforms"] = {"background": {"p": 0.3, "sounds_path": "/srv/noises"}}
    config["out"] = "runs/acme"
    config |= {"push_to_hub": True, "hub": {"model_id": "someone/mine"}}
    run_copy.write_text(run_copy.config_file, yaml.safe_dump(config))
    upload = model_upload(run_copy, "someone/mine")
    upload.check()
    published = yaml.safe_load(bytes(upload.files["config.yaml"]))  # type: ignore[arg-type]
    assert published["data"]["roots"] == {"mine": "calls", "tess": "TESS.zip"}
    assert published["model"]["name"] == "my-wavlm"
    assert published["split"]["file"] == "split.json"
    assert published["augment"]["transforms"]["background"] == {"p": 0.3, "sounds_path": "noises"}
    assert "hub" not in published
    assert not any(b"acme" in content for content in upload.files.values() if isinstance(content, bytes))
    assert "command" not in json.loads(bytes(upload.files["environment.json"]))  # type: ignore[arg-type]


@pytest.mark.parametrize("corpus", ["acme", "savee-office", "tess-mine"])
def test_speakers_of_own_recordings_get_pseudonyms(run_copy: RunFolder, corpus: str) -> None:
    for file in (run_copy.metrics_file, run_copy.split_file):
        text = file.read_text().replace('"savee-', f'"{corpus}-jane-doe-').replace('"savee"', f'"{corpus}"')
        run_copy.write_text(file, text)
    original_parts = json.loads(run_copy.split_file.read_text())["parts"]
    assert any("jane" in name for part in original_parts.values() for name in part["speakers"])
    upload = model_upload(run_copy, "someone/mine")
    sent = {path: bytes(content) for path, content in upload.files.items() if isinstance(content, bytes)}
    assert not any(b"jane" in content for content in sent.values())
    split, metrics = json.loads(sent["split.json"]), json.loads(sent["metrics.json"])
    for part, content in split["parts"].items():
        assert len(content["clips"]) == len(original_parts[part]["clips"])
        pseudonyms = [name for name in content["speakers"] if name.startswith("own-speaker-")]
        assert len(pseudonyms) == sum("jane" in name for name in original_parts[part]["speakers"])
        assert set(content["speakers"]) == set(metrics["parts"][part]["by_speaker"])
    assert any(name.startswith("ravdess-") for part in split["parts"].values() for name in part["speakers"])
    assert "figures/speakers.png" not in upload.files, "it shows the names"
    original, published = (dict(content["parts"]["test"]) for content in (run_copy.metrics, metrics))
    assert original.pop("by_speaker") != published.pop("by_speaker")
    assert published == original


def test_seen_speakers_of_an_unknown_corpus_get_pseudonyms() -> None:
    """The run folder that names their corpus may be gone."""
    names = Pseudonymizer({"parts": {}, "seen": ["savee-office-jane", "savee-03", "acme-jane"]})
    assert set(names.speakers) == {"savee-office-jane", "acme-jane"}
