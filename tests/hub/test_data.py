"""Prepared tables on the Hub: published if their terms allow it, otherwise only their card."""

from __future__ import annotations

import hashlib
import io
import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pandas as pd
import pytest
import yaml

from ser_ft import push
from ser_ft.cli import main
from ser_ft.data.prepare import open_prepared, prepare
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.utils.errors import InputError
from tests.helpers.corpus_files import write
from tests.helpers.hub_server import Hub, metadata_errors


@pytest.fixture(scope="module")
def make_table(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return the prepared table of one corpus, from copied files without the note that they are synthetic."""
    folder = tmp_path_factory.mktemp("tables")

    def make(corpus: str) -> Path:
        recordings = folder / f"{corpus}-recordings"
        if not recordings.exists():
            paths = [file.relative_to(miniature_tree) for file in miniature_tree.rglob("*.wav")]
            paths = [path for path in paths if any(part.lower().startswith(corpus) for part in path.parts)]
            write(recordings, {str(path): (miniature_tree / path).read_bytes() for path in paths})
            prepare(recordings, folder / corpus, verbose=False)
        return folder / corpus

    return make


def read_card(content: bytes) -> tuple[dict[str, object], str]:
    text = content.decode()
    assert metadata_errors(text) == []
    return yaml.safe_load(text.split("---")[1]), text


def test_cremad_is_published_with_its_notice(hub: Hub, make_table: Callable[[str], Path]) -> None:
    folder = make_table("crema")
    assert main(["push", str(folder), "someone/voices"]) == 0
    sent = hub.repositories["dataset", "someone/voices"].files
    metadata, text = read_card(sent.pop("README.md"))
    assert metadata["license"] == "odbl"
    assert "made available under the [Open Database License 1.0]" in text
    assert "It is derived from CREMA-D: decoded" in text
    (name,) = sent
    assert re.fullmatch(r"data/train-\d{5}-of-\d{5}\.parquet", name)
    published = pd.read_parquet(io.BytesIO(sent[name]))
    table = open_prepared(folder)
    assert list(published["id"]) == list(table["id"])
    assert published["audio"][0]["bytes"] == table[0]["audio"]["bytes"]
    assert "path" not in published.columns
    assert str(folder.parent).encode() not in sent[name]


@pytest.mark.parametrize(
    ("corpus", "reason"),
    [("ravdess", "non-commercial; share alike"), ("tess", "no derivatives"), ("savee", "research only")],
)
def test_recordings_of_other_corpora_are_never_published(
    make_table: Callable[[str], Path], corpus: str, reason: str
) -> None:
    for accepted in (False, True):
        with pytest.raises(InputError, match=f"{corpus}: its recordings cannot be published by ser_ft .*{reason}"):
            push(make_table(corpus), "someone/voices", dry_run=True, accept_terms=accepted)
    with pytest.raises(InputError, match="--space needs a run"):
        push(make_table(corpus), "someone/voices", dry_run=True, space=True)


@pytest.mark.parametrize("corpus", ["ravdess", "tess"])
def test_a_card_without_recordings_may_always_be_published(
    hub: Hub, make_table: Callable[[str], Path], corpus: str
) -> None:
    push(make_table(corpus), "someone/voices", dataset_card=True)
    sent = hub.repositories["dataset", "someone/voices"].files
    assert list(sent) == ["README.md"]
    _, text = read_card(sent["README.md"])
    table = open_prepared(make_table(corpus))
    row = next(line for line in text.splitlines() if line.startswith(f"| {corpus} ("))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == [f"{len(table):,}", str(len(set(table["speaker"])))]
    counts = table.to_pandas()["emotion"].value_counts()
    assert [int(cell) for cell in cells[4:12]] == [counts.get(index, 0) for index in range(8)]
    assert f"--download {corpus}" in text


def test_own_recordings_need_accepted_terms_and_get_pseudonyms(
    hub: Hub, make_table: Callable[[str], Path], tmp_path: Path
) -> None:
    files = sorted((make_table("crema").parent / "crema-recordings").rglob("*.wav"))[:8]
    recordings = {f"{('angry', 'happy')[n % 2]}/jane-doe/{n}.wav": file.read_bytes() for n, file in enumerate(files)}
    prepare({"acme": write(tmp_path / "acme", recordings)}, tmp_path / "table", verbose=False)
    with pytest.raises(InputError, match=r"acme: .*terms of your own recordings"):
        push(tmp_path / "table", "someone/voices", dry_run=True)
    push(tmp_path / "table", "someone/voices", accept_terms=True)
    sent = hub.repositories["dataset", "someone/voices"].files
    assert not any(b"jane" in content for content in sent.values())
    published = pd.read_parquet(io.BytesIO(next(content for path, content in sent.items() if path != "README.md")))
    assert set(published["speaker"]) == {"own-speaker-1"}
    assert published["id"].is_unique


def test_a_model_is_published_with_the_card_of_its_data(hub: Hub, finished_run: RunFolder) -> None:
    assert main(["push", str(finished_run.path), "someone/mine", "--dataset-card"]) == 0
    sent = hub.repositories["dataset", "someone/mine"].files
    assert list(sent) == ["README.md"]
    _, text = read_card(sent["README.md"])
    split = json.loads(finished_run.split_file.read_text())["parts"]
    for part in ("train", "validation", "test"):
        assert f"| {part} | {len(split[part]['clips'])} | {len(split[part]['speakers'])} |" in text
    assert hub.url not in text
    assert hub.model("someone/mine").files["metrics.json"] == finished_run.metrics_file.read_bytes()


@pytest.mark.slow
def test_stock_datasets_loads_a_published_table(hub: Hub, make_table: Callable[[str], Path], tmp_path: Path) -> None:
    """In a new process without ser_ft; samples and classes equal those of the table."""
    push(make_table("crema"), "someone/voices")
    script = (
        "import datasets, hashlib; t = datasets.load_dataset('someone/voices', split='train')\n"
        "print(t.features['emotion'].names, hashlib.sha256(t[3]['audio']['bytes']).hexdigest(), t[3]['id'], len(t))"
    )
    environment = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    environment |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path / "data")}
    command = [sys.executable, "-I", "-c", script]
    result = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=200, check=False)
    assert result.returncode == 0, result.stderr[-2000:]
    table = open_prepared(make_table("crema"))
    digest = hashlib.sha256(table[3]["audio"]["bytes"]).hexdigest()
    assert result.stdout.strip() == f"{table.features['emotion'].names} {digest} {table[3]['id']} {len(table)}"
