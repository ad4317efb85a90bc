"""Prepared tables on the Hub: published where their terms let them be, their card alone where not."""

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
from ser_ft.data.prepare import CORPUS_INFO_FILE, open_prepared, prepare
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.utils.errors import InputError
from tests.helpers.hub_metadata import metadata_errors
from tests.helpers.hub_server import Hub

MakeRun = Callable[[str], RunFolder]


@pytest.fixture(scope="module")
def tables(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Return a prepared table of one corpus, as if its voices were the corpus's own: made from copies of them."""
    home = tmp_path_factory.mktemp("tables")

    def make(corpus: str) -> Path:
        import shutil

        voices = home / f"{corpus}-voices"
        if not voices.exists():
            for file in miniature_tree.rglob("*.wav"):
                if any(part.lower().startswith(corpus) for part in file.relative_to(miniature_tree).parts):
                    place = voices / file.relative_to(miniature_tree)
                    place.parent.mkdir(parents=True, exist_ok=True)
                    shutil.copy(file, place)
            prepare(voices, home / corpus, verbose=False)
        return home / corpus

    return make


def card(content: bytes) -> tuple[dict[str, object], str]:
    text = content.decode()
    assert metadata_errors(text) == []
    return yaml.safe_load(text.split("---")[1]), text


def test_cremad_is_published_with_its_notice(hub: Hub, tables: Callable[[str], Path]) -> None:
    folder = tables("crema")
    assert main(["push", str(folder), "someone/voices"]) == 0
    sent = hub.repositories["dataset", "someone/voices"].files
    head, text = card(sent.pop("README.md"))
    assert head["license"] == "odbl"
    assert "made available under the [Open Database License 1.0]" in text
    assert "It is derived from CREMA-D: decoded" in text
    (name,) = sent
    assert re.fullmatch(r"data/train-\d{5}-of-\d{5}\.parquet", name)
    found = pd.read_parquet(io.BytesIO(sent[name]))
    table = open_prepared(folder)
    assert list(found["id"]) == list(table["id"])
    assert found["audio"][0]["bytes"] == table[0]["audio"]["bytes"]
    assert "path" not in found.columns
    assert str(folder.parent).encode() not in sent[name]


@pytest.mark.parametrize(
    ("corpus", "why"),
    [("ravdess", "non-commercial; share alike"), ("tess", "no derivatives"), ("savee", "research only")],
)
def test_other_corpora_are_refused_with_the_reason(tables: Callable[[str], Path], corpus: str, why: str) -> None:
    for accepted in (False, True):
        with pytest.raises(InputError, match=f"{corpus}: its recordings cannot be published by ser_ft .*{why}"):
            push(tables(corpus), "someone/voices", dry_run=True, accept_terms=accepted)


@pytest.mark.parametrize("corpus", ["ravdess", "tess"])
def test_a_card_alone_is_always_published_and_holds_no_sound(
    hub: Hub, tables: Callable[[str], Path], corpus: str
) -> None:
    push(tables(corpus), "someone/voices", dataset_card=True, tell=lambda _: None)
    sent = hub.repositories["dataset", "someone/voices"].files
    assert list(sent) == ["README.md"]
    _, text = card(sent["README.md"])
    table = open_prepared(tables(corpus))
    row = next(line for line in text.splitlines() if line.startswith(f"| {corpus} ("))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[1:3] == [f"{len(table):,}", str(len(set(table["speaker"])))]
    counts = table.to_pandas()["emotion"].value_counts()
    assert [int(cell) for cell in cells[4:12]] == [counts.get(place, 0) for place in range(8)]
    assert f"--download {corpus}" in text


def test_recordings_of_ones_own_ask_and_keep_names_back(
    hub: Hub, tables: Callable[[str], Path], tmp_path: Path
) -> None:
    voices = tmp_path / "acme"
    for place, file in enumerate(sorted((tables("crema").parent / "crema-voices").rglob("*.wav"))[:8]):
        target = voices / ("angry" if place % 2 else "happy") / "jane-doe" / f"{place}.wav"
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(file.read_bytes())
    prepare({"acme": voices}, tmp_path / "table", verbose=False)
    with pytest.raises(InputError, match="acme: ser_ft does not know the terms of your own recordings"):
        push(tmp_path / "table", "someone/voices", dry_run=True)
    push(tmp_path / "table", "someone/voices", accept_terms=True, tell=lambda _: None)
    sent = hub.repositories["dataset", "someone/voices"].files
    assert not any(b"jane" in content for content in sent.values())
    found = pd.read_parquet(io.BytesIO(next(content for path, content in sent.items() if path != "README.md")))
    assert set(found["speaker"]) == {"own-speaker-1"}
    assert found["id"].is_unique


def test_beside_a_model_the_card_of_its_data(hub: Hub, make_run: MakeRun) -> None:
    run = make_run("mfcc-cnn")
    assert main(["push", str(run.path), "someone/mine", "--dataset-card"]) == 0
    sent = hub.repositories["dataset", "someone/mine"].files
    assert list(sent) == ["README.md"]
    _, text = card(sent["README.md"])
    split = json.loads(run.split_file.read_text())["parts"]
    for part in ("train", "validation", "test"):
        assert f"| {part} | {len(split[part]['clips'])} | {len(split[part]['speakers'])} |" in text
    assert f"{hub.url}" not in text
    assert hub.model("someone/mine").files["metrics.json"] == run.metrics_file.read_bytes()


def test_a_table_is_no_model(tables: Callable[[str], Path]) -> None:
    assert (tables("tess") / CORPUS_INFO_FILE).is_file()
    with pytest.raises(InputError, match="--space goes with a run"):
        push(tables("tess"), "someone/voices", dry_run=True, space=True)


@pytest.mark.slow
def test_stock_datasets_loads_what_was_published(hub: Hub, tables: Callable[[str], Path], tmp_path: Path) -> None:
    """By its name, in a process of its own, without ser_ft: the samples and the classes are the table's."""
    push(tables("crema"), "someone/voices", tell=lambda _: None)
    script = (
        "import datasets, hashlib; t = datasets.load_dataset('someone/voices', split='train')\n"
        "print(t.features['emotion'].names, hashlib.sha256(t[3]['audio']['bytes']).hexdigest(), t[3]['id'], len(t))"
    )
    known = {name: value for name, value in os.environ.items() if name != "HF_HUB_OFFLINE"}
    known |= {"HF_ENDPOINT": hub.url, "HF_HOME": str(tmp_path), "HF_DATASETS_CACHE": str(tmp_path / "data")}
    command = [sys.executable, "-I", "-c", script]
    done = subprocess.run(command, env=known, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    table = open_prepared(tables("crema"))
    digest = hashlib.sha256(table[3]["audio"]["bytes"]).hexdigest()
    assert done.stdout.strip() == f"{table.features['emotion'].names} {digest} {table[3]['id']} {len(table)}"
