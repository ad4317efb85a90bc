"""A run whose labels, speakers, corpora, models and files have hostile names, through every output."""

from __future__ import annotations

import csv
import io
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import yaml

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.config.schema import SplitConfig
from ser_ft.data import builder
from ser_ft.data.catalog import Skipped
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.hub.files import public_environment
from ser_ft.labels import LabelScheme
from ser_ft.monitor.conversation import MonitorSettings
from ser_ft.monitor.report import write_reports
from ser_ft.report.cards.data_card import data_card
from ser_ft.report.cards.model_card import model_card
from ser_ft.report.comparison.report import compare, system_rows
from ser_ft.report.run.report import write_report
from ser_ft.report.shared.tables import Format, format_rows
from ser_ft.training.sweep import _splits
from ser_ft.utils.progress import progress_bar
from ser_ft.utils.text import csv_line, file_name, print_text, printable, restore_csv_cell
from tests.helpers.conversations import LoudIsAngry
from tests.helpers.html_page import Page
from tests.helpers.runs import calibration, random_predictions, write_scores, write_split

HTML = '"><img src=x onerror=alert(1)></title></style><script>alert(1)</script>'
MARKDOWN = "[a](javascript:b) ![c](http://d) `e` **f** &lt;g&gt; | h |\n# i\n```\n<j>"
HOSTILE = f"=1+1 {HTML} {MARKDOWN} $\\frac$ \x1b[31m\x1b]0;k\x07\x9b2J \u202egnp\u2066 {{{{ 7*7 }}}} ../../l"
FORMULAS = ("=1+1", "+1", "-1", "@sum(a)", "\t=1", "\r=1", "'=1", "''-1", "＝1")
CLASSES = (HOSTILE, "-2+3", "@sum", "_angry")
CONTROL = re.compile(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069]")
INLINE = ("text", "softbreak", "text_special")
PLAIN = {HOSTILE: "a", "-2+3": "b", "@sum": "c", "_angry": "d"}


def write_run(path: Path, corpus: str, classes: Sequence[str]) -> RunFolder:
    run, parts = RunFolder(path), ("train", "validation", "test")
    speakers = [f"{corpus}-{number:02d}" for number in range(1, 13)]
    table = pd.concat(
        random_predictions(speakers[4 * n : 4 * n + 4], 1.0, n, classes, part=part) for n, part in enumerate(parts)
    )
    split = {"name": corpus, "fold": 0, "seed": 0, "leaking": False}
    terms = {corpus: {"title": corpus, "license": corpus, "terms": corpus, "citation": corpus}}
    facts: dict[str, Any] = {"notes": {corpus: corpus}, "terms": terms, "calibration": calibration(parts)}
    write_scores(run, corpus, table, classes, split, parameters=1000, trained_parameters=1000, **facts)
    write_split(run, table, parts)
    config = {"model": {"name": f"{corpus}/x", "settings": corpus}, "seed": 0, "data": {"prepared": corpus}}
    run.write_text(run.config_file, yaml.safe_dump(config, allow_unicode=True))
    run.append_history({"epoch": 3, "step": 9, "validation_uar": 0.5, "validation_loss": 1.0})
    run.write_environment(device=corpus, processes=1, seconds=1.0)
    labels = {str(index): name for index, name in enumerate(classes)}
    run.write_json(run.model / "config.json", {"model_type": "x", "id2label": labels})
    return run


@pytest.fixture(scope="module")
def hostile(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("hostile") / "run", HOSTILE.replace("-", ""), CLASSES)


@pytest.fixture(scope="module")
def plain(tmp_path_factory: pytest.TempPathFactory) -> RunFolder:
    return write_run(tmp_path_factory.mktemp("plain") / "run", "own", tuple(PLAIN.values()))


def read_csv(text: str) -> list[list[str]]:
    """Read CSV, and check that no cell starts a formula or holds control characters."""
    rows = list(csv.reader(io.StringIO(text, newline="")))
    for cell in (cell for row in rows for cell in row):
        assert not CONTROL.search(cell)
        assert not cell.startswith(tuple("=+@"))
        assert not cell.startswith("-") or float(cell) < 0
    return rows


def check_terminal(output: Any) -> None:
    """Check that only progress bars move the cursor."""
    assert not CONTROL.search(output.out)
    assert not CONTROL.search(re.sub(r"\r|\x1b\[A", "", output.err))


def structure(page: Page) -> list[tuple[str, list[str]]]:
    return [(tag, sorted(attributes)) for tag, attributes in page.elements]


def check_page(file: Path, plain: Path) -> None:
    """Check that a page has the elements of one with plain names, the hostile name as text, and nothing invisible."""
    page = Page(file)
    assert structure(page) == structure(Page(plain))
    assert not CONTROL.search(page.source)
    assert " ".join(printable(HTML).split()) in page.text


def test_pages_and_figures_show_names_as_text(
    hostile: RunFolder,
    plain: RunFolder,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pages = []
    for run in (hostile, plain):
        pages.append((write_report(run), tmp_path / f"{run.path.parent.name}.html"))
        assert main(["compare", str(run.path), "--out", str(pages[-1][1])]) == 0
        # Figures with plain names need not be drawn.
        png = (hostile.figures / "confusion.png").read_bytes()
        monkeypatch.setattr("matplotlib.figure.Figure.savefig", lambda _, file, png=png, **__: file.write(png))
    for page, other in zip(*pages, strict=True):
        check_page(page, other)
    check_terminal(capsys.readouterr())


def test_tables_for_programs_hold_names_without_control_characters(
    hostile: RunFolder, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = system_rows(compare([hostile.path], show_progress=False))
    formats: tuple[Format, ...] = ("csv", "json", "jsonl")
    for format in formats:
        print_text(format_rows(rows, format))
        text = capsys.readouterr().out
        assert not CONTROL.search(text)
        if format == "csv":
            assert len(read_csv(text)) == 2
            continue
        values = json.loads(text) if format == "json" else list(map(json.loads, text.splitlines()))
        assert values[0]["model"] == hostile.metrics["model"], "JSON holds the name itself"


def test_cards_show_names_as_text(hostile: RunFolder, plain: RunFolder) -> None:
    markdown = pytest.importorskip("markdown_it").MarkdownIt("commonmark", {"html": True}).enable("table")
    cards = [str(model_card(run, "some/name")) for run in (hostile, plain)]
    for run in (hostile, plain):
        corpus = next(iter(run.metrics["terms"]))
        table = run.predictions.assign(emotion=run.predictions["label"])
        info = {corpus: {**run.metrics["terms"][corpus], "note": corpus}}
        cards.append(data_card("some/name", table, run.metrics["classes"], info, sound=True, skipped=()))
    for card, other in (cards[:2], cards[2:]):
        assert not CONTROL.search(card)
        tokens = []
        for text in (card, other):
            blocks = markdown.parse(text.split("---\n", 2)[2])
            tokens.append([token for block in blocks for token in (block, *(block.children or []))])
        kinds = [[token.type for token in page if token.type not in INLINE] for page in tokens]
        assert kinds[0] == kinds[1]
        text = "".join(token.content for token in tokens[0] if token.type in INLINE)
        assert "&lt;g&gt;" in text
        assert "<script>alert(1)</script>" in text
        assert yaml.safe_load(card.split("---\n")[1]).keys() == yaml.safe_load(other.split("---\n")[1]).keys()


def test_monitor_shows_names_as_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    name = HOSTILE.replace("/", "")[:200]
    sound = np.tile(np.sin(np.arange(16_000) * 0.05) * (np.arange(16_000) % 4000 < 2500), 8).astype(np.float32)
    outs = []
    for case, speaker, file, classes in (("hostile", HOSTILE, name, CLASSES), ("plain", "x", "f", PLAIN.values())):
        folder = tmp_path / case
        folder.mkdir()
        for number in range(2):
            (folder / f"{file}{number}.wav").write_bytes(audio.to_wav(0.5 * sound))
        (folder / f"{file}.wav").write_bytes(b"no sound")
        outs.append(tmp_path / f"{case}-out")
        errors: list[str] = []
        backend = LoudIsAngry(tuple(classes))
        settings = MonitorSettings(channel_names=(speaker,))
        monkeypatch.chdir(tmp_path)
        result = write_reports(backend, [case], outs[-1], settings, on_error=errors.append)
        assert len(errors) == 1
        monkeypatch.setattr("ser_ft.inference.backends.open_backend", lambda model=None, backend=backend: backend)
        words = ["--out", str(outs[-1]), "--overwrite", "--channels", speaker.replace(",", "")]
        assert main(["monitor", case, *words]) == 1
        check_terminal(capsys.readouterr())
        assert len(result.rows) == 3
    pages = [sorted(out.rglob("*.html"), key=lambda page: (len(page.parts), page)) for out in outs]
    assert [len(group) for group in pages] == [3, 3]
    for page, other in zip(*pages, strict=True):
        assert structure(Page(page)) == structure(Page(other))
        assert not CONTROL.search(Page(page).source)
        assert page.parent in (outs[0], *outs[0].iterdir())
    assert len(read_csv((outs[0] / "conversations.csv").read_text(encoding="utf-8"))) == 4


def test_predictions_of_hostile_files_are_safe_and_resumed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    files = [HOSTILE.replace("/", "")[:200], "=1+1", "-1.wav", "@a", "'=b", "+\x9b.wav", "plain.wav"]
    for number, name in enumerate(files):
        sound = np.sin(np.arange(8000) * 0.05 * (number + 1)).astype(np.float32)
        Path(name).write_bytes(b"no sound" if name == "@a" else audio.to_wav(0.5 * sound))
    paths = ["--", *(name for name in files)]
    for format in ("csv", "jsonl"):
        out = ["--out", f"out.{format}", "--resume"]
        assert main(["predict", *out, *paths]) == 1
        check_terminal(capsys.readouterr())
        before = Path(out[1]).read_bytes()
        assert main(["predict", *out, *paths]) == 1
        assert Path(out[1]).read_bytes().count(b"\n") == before.count(b"\n"), "only the failed file is tried again"
        assert not CONTROL.search(before.decode())
    rows = read_csv(Path("out.csv").read_text(encoding="utf-8"))
    assert {row[0] for row in rows} >= {"'=1+1", "'-1.wav", "'@a", "''=b", "plain.wav"}
    assert {printable(name) for name in files} == {restore_csv_cell(row[0]) for row in rows[1:]}
    assert main(["predict", *paths]) == 1
    check_terminal(capsys.readouterr())


@pytest.mark.parametrize("cell", [*FORMULAS, "a", "", "'", "it's", "a=1", "0.5"])
def test_cells_are_restored_exactly_and_ordinary_ones_unchanged(cell: str) -> None:
    ((written,),) = read_csv(csv_line([cell]))
    assert restore_csv_cell(written) == printable(cell)
    if cell not in FORMULAS:
        assert written == cell


def test_numbers_stay_numbers() -> None:
    assert csv_line([-0.5, -3, 1e-9, None, True, "-0.5"]) == "-0.5,-3,1e-09,,True,'-0.5\n"


def test_the_list_of_skipped_files_is_read_back(tmp_path: Path) -> None:
    skipped = [Skipped(cell, cell, cell, cell) for cell in (*FORMULAS, HOSTILE)]
    builder.write_skipped(skipped, tmp_path / "skipped.csv")
    read_csv((tmp_path / "skipped.csv").read_text(encoding="utf-8"))
    assert builder.read_skipped(tmp_path / "skipped.csv") == [
        Skipped(*[printable(cell)] * 4) for cell in (*FORMULAS, HOSTILE)
    ]


def test_names_of_files_made_from_names_stay_in_their_folder(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (HOSTILE, "../../x", "..\\x", "/etc/passwd", "C:\\x", "a\x00b"):
        assert Path("folder", f"{file_name(name)}-seed0").parent == Path("folder")
        assert not set(file_name(name)) & set('/\\:*?"<>|\x00\x1b')
    assert file_name("ravdess") == "ravdess"
    monkeypatch.setattr("ser_ft.training.sweep.make_split", lambda table, **settings: None)
    table = {"corpus": ["../../x", "tess"]}
    prefixes = [prefix for prefix, *_ in _splits(SplitConfig(kind="corpus"), table, None)]  # type: ignore[arg-type]
    assert prefixes == [".._.._x-", "tess-"]


def test_ordinary_names_are_printed_byte_for_byte(capsys: pytest.CaptureFixture[str]) -> None:
    names = "ümläut 日本語 الصوت 👩\u200d🔬 a\u202fb.wav"
    progress_bar([], desc="\x1b[31ma\u202e").close()
    check_terminal(output := capsys.readouterr())
    assert r"\u001b[31ma\u202e" in output.err
    print_text(f"{names}\n{names}\x1b[31m\udcff\u202e")
    assert capsys.readouterr().out == f"{names}\n{names}\\u001b[31m\\udcff\\u202e\n"
    assert LabelScheme("own", (names,), {}).classes == (printable(names),)


def test_the_published_environment_names_neither_the_kernel_nor_the_command(hostile: RunFolder) -> None:
    environment = hostile.environment | {"platform": "Linux-6.8.0-1021-someone-x86_64-with-glibc2.39"}
    public = public_environment(environment)
    assert public["platform"] == "Linux"
    assert public.keys() == environment.keys() - {"command"}
    assert public_environment(hostile.environment)["versions"] == hostile.environment["versions"]
