"""`ser-ft monitor`: its pages, its tables, and what it refuses."""

from __future__ import annotations

import base64
import csv
import io
import json
import os
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from ser_ft.cli import main
from ser_ft.labels import COLORS
from ser_ft.monitor.analysis import analyze_conversation
from ser_ft.monitor.conversation import MonitorSettings
from ser_ft.monitor.report import write_reports
from ser_ft.monitor.timeline import ticks, timeline
from tests.helpers.conversations import CLASSES, LOUD, SOFT, LoudIsAngry, write_conversation
from tests.helpers.html_page import Page
from tests.helpers.runs import write_run

SECTIONS = ["summary", "timeline", "highlights", "shares", "negative-segments", "segments", "method"]
UNKNOWN = "It is not known how often the model is right"


@pytest.fixture(autouse=True)
def _backend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.inference.backends.open_backend", lambda model=None, **options: LoudIsAngry())


@pytest.fixture(scope="module")
def recordings(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An angry conversation, a quiet one in a subfolder, a mono file, and a file without sound. Read only."""
    folder = tmp_path_factory.mktemp("recordings")
    (folder / "more").mkdir()
    write_conversation(miniature_tree, folder / "angry.wav", rate=8000, subtype="ULAW")
    write_conversation(miniature_tree, folder / "more" / "angry.wav", [(0, SOFT), (1, SOFT)])
    write_conversation(miniature_tree, folder / "mono.wav", [(0, LOUD), (1, SOFT)], channels=1)
    (folder / "text.wav").write_text("no sound at all")
    return folder


@pytest.fixture(scope="module")
def report(recordings: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report of angry.wav, from a model of unknown quality. Read only."""
    folder = tmp_path_factory.mktemp("report")
    settings = MonitorSettings(channel_names=("left", "right"))
    write_reports(LoudIsAngry(), [recordings / "angry.wav"], folder, settings, "loud.onnx")
    return folder


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report / "report.html")


@pytest.fixture(scope="module")
def numbers(report: Path) -> dict[str, Any]:
    return dict(json.loads((report / "monitor.json").read_text()))


def run_monitor(*arguments: str | Path) -> int:
    return main(["monitor", *map(str, arguments)])


def test_the_page_holds_every_section_and_loads_nothing(page: Page) -> None:
    headings = [attributes.get("id") for tag, attributes in page.elements if tag == "h2"]
    assert headings == SECTIONS
    page.check_self_contained()
    ids = {attributes["id"] for _, attributes in page.elements if attributes.get("id")}
    assert {link["href"][1:] for link in page.all("a")} <= ids
    assert len(page.source) < 4e6


def test_the_page_states_its_limits_and_what_is_prohibited(page: Page) -> None:
    assert "This page shows how voices sounded to a model, not how people felt." in page.text
    assert "Regulation (EU) 2024/1689, Article 5(1)(f)" in page.text
    assert "A negative segment is a stretch of 5 seconds or more in which a speaker sounds sad or angry" in page.text
    assert "Telephone sound: a sampling rate of 8 kHz" in page.text
    assert UNKNOWN in page.text


def test_the_page_shows_the_numbers_of_its_json(page: Page, numbers: dict[str, Any]) -> None:
    (segment,) = numbers["speakers"][1]["negative_segments"]
    assert page.row("right")[1:3] == [f"0:{round(segment['start']):02d}", f"0:{round(segment['end']):02d}"]
    assert f"{numbers['negative_share'] * 100:.0f} %" in page.text
    for line in numbers["summary"]:
        assert line in page.text
    num_segments = sum(len(speaker["segments"]) for speaker in numbers["speakers"])
    assert sum(element.get("height") in ("20", "10") for element in page.all("rect")) == num_segments


def test_highlights_can_be_played(page: Page, numbers: dict[str, Any]) -> None:
    elements = page.all("audio")
    assert len(elements) == len(numbers["highlights"]) > 0
    for element, highlight in zip(elements, numbers["highlights"], strict=True):
        kind, _, content = element["src"].partition(",")
        assert kind == "data:audio/flac;base64"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        assert rate == 16_000
        assert samples.ndim == 1
        assert len(samples) / rate == pytest.approx(highlight["end"] - highlight["start"], abs=0.01)
        assert np.abs(samples).max() > 0.01


def test_options_leave_out_all_voices_and_apply_a_speaker_baseline(recordings: Path, tmp_path: Path) -> None:
    options = "--no-audio", "--speaker-baseline", "5", "--out", tmp_path / "out"
    assert run_monitor(recordings / "angry.wav", *options) == 0
    page = Page(tmp_path / "out" / "report.html")
    assert page.all("audio") == []
    assert "data:audio" not in page.source
    assert "This page contains recorded voices" not in page.text
    assert any(attributes.get("id") == "highlight-1" for attributes in page.all("li"))
    assert "The first 5 s of each speaker's speech are taken as ordinary speech" in page.text
    assert "Subtracted from the log-odds: channel 1: " in page.text
    # The model that ships with ser_ft lies in its run folder.
    assert re.search(r"UAR 0\.\d{3} on test: [\d,]+ clips", page.text)
    assert UNKNOWN not in page.text


def test_each_recording_is_a_row_and_a_bad_one_does_not_stop_the_others(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert run_monitor(recordings, "--channels", "left,right", "--out", out, "--format", "json") == 1
    printed = capsys.readouterr()
    rows = json.loads(printed.out)
    assert [line for line in printed.err.splitlines() if "text.wav" in line] == [f"ser-ft: {rows[2]['error']}"]
    assert [row["file"] for row in rows] == ["angry.wav", "mono.wav", "text.wav", "angry.wav"]
    assert rows[0]["right main_emotion"] == "neutral"
    assert rows[0]["negative_share"] > 0 == rows[3]["negative_share"]
    assert (rows[1]["all speakers main_emotion"], rows[1]["num_negative_segments"]) == ("neutral", 1)
    table = list(csv.DictReader((out / "conversations.csv").open(encoding="utf-8")))
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    assert [row["report"] for row in table] == [row.get("report") or "" for row in rows]
    assert {file.name for file in out.iterdir()} == {"index.html", "conversations.csv", "angry", "mono", "angry-2"}
    page = Page(out / "index.html")
    links = [link["href"] for link in page.all("a") if not link["href"].startswith("#")]
    assert links == ["mono/report.html", "angry/report.html", "angry-2/report.html"]
    assert all((out / link).is_file() for link in links)
    assert "1 recording could not be analyzed" in page.text
    assert rows[2]["error"] in page.text
    page.elements = [(tag, values) for tag, values in page.elements if values.get("href", "#")[0] == "#"]
    page.check_self_contained()


def test_overwrite_replaces_a_report_only_once_there_is_a_new_one(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert run_monitor(recordings, "--out", out) == 1
    assert run_monitor(recordings / "mono.wav", "--out", out, "--overwrite") == 0
    before = {file.name: file.read_bytes() for file in out.iterdir()}
    assert set(before) == {"report.html", "monitor.json"}
    capsys.readouterr()
    for files in ([recordings / "text.wav"], [recordings / "text.wav"] * 2):
        assert run_monitor(*files, "--out", out, "--overwrite") == 1
        assert "report: " not in capsys.readouterr().out, "the report in the folder belongs to another recording"
        assert {file.name: file.read_bytes() for file in out.iterdir()} == before


def test_an_interrupted_report_is_kept_and_not_replaced_without_overwrite(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)

    def interrupted(backend: Any, path: str, *others: Any) -> Any:
        if path.endswith("mono.wav"):
            raise KeyboardInterrupt
        return analyze_conversation(backend, path, *others)

    monkeypatch.setattr("ser_ft.monitor.report.analyze_conversation", interrupted)
    assert run_monitor(recordings) == 130
    before = {file: file.read_bytes() for file in sorted((tmp_path / "monitor").rglob("*.*"))}
    assert {file.name for file in before} == {"index.html", "conversations.csv", "report.html", "monitor.json"}
    capsys.readouterr()
    for path in (recordings, recordings / "angry.wav"):
        assert run_monitor(path) == 2
        error = capsys.readouterr().err
        assert error == "ser-ft: monitor: a report already exists; pass --overwrite, or choose another --out\n"
    assert {file: file.read_bytes() for file in sorted((tmp_path / "monitor").rglob("*.*"))} == before


def test_a_failing_model_is_reported_in_one_line(
    recordings: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(LoudIsAngry):
        def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
            if np.abs(waveforms).max() > 0.25:
                raise RuntimeError("out of\nmemory")
            return super().probabilities(waveforms)

    monkeypatch.setattr("ser_ft.inference.backends.open_backend", lambda model=None, **options: Broken())
    assert run_monitor(recordings, "--out", tmp_path / "out", "--format", "json") == 1
    printed = capsys.readouterr()
    first, _, _, quiet = json.loads(printed.out)
    assert quiet["error"] is None
    assert first["error"] == f"{first['path']}: failed: RuntimeError: out of memory (--debug shows where)"
    assert f"ser-ft: {first['error']}" in printed.err.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has file names that are not valid text")
def test_a_file_name_that_is_not_valid_text_can_be_written(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "in").mkdir()
    shutil.copy(recordings / "mono.wav", tmp_path / "in" / os.fsdecode(b"caf\xe9.wav"))
    (tmp_path / "in" / os.fsdecode(b"no\xe9.wav")).write_text("no sound at all")
    out = tmp_path / "out"
    assert run_monitor(tmp_path / "in", "--out", out) == 1
    printed = capsys.readouterr().out
    assert printed.encode().decode() == printed
    assert {file.name for file in out.iterdir()} == {"index.html", "conversations.csv", "caf_"}
    page = Page(out / "index.html")
    assert r"caf\udce9.wav" in page.text
    assert "caf_/report.html" in {link["href"] for link in page.all("a")}
    assert json.loads((out / "caf_" / "monitor.json").read_text("utf-8"))["path"].endswith(r"caf\udce9.wav")
    assert r"caf\udce9.wav: how it sounded" in Page(out / "caf_" / "report.html").text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("mono.wav --out thesis", "thesis: contains thesis.txt, which is not part of a report; choose another --out"),
        ("mono.wav --out notes", "notes: contains drafts, which is not part of a report"),
        ("mono.wav --out mono.wav", "mono.wav: cannot be written"),
        ("thesis --out new", "thesis: no sound files found there"),
        ("mono.wav --channels J\u00f6rg,Jo\u0308rg", "--channels must be different names separated by commas"),
        ("mono.wav --channels a,a", "--channels must be different names separated by commas, such as a,b, not 'a,a'"),
        ("mono.wav --channels a,", "--channels must be different names"),
        ("mono.wav --negative angry,bored", "--negative: the model does not have the class bored: choose from neutral"),
        ("mono.wav --speaker-baseline 0", "--speaker-baseline must be a number of seconds of speech, such as 60"),
        ("mono.wav --hop 4", "a hop of 4 s skips audio"),
        ("--out new", "the following arguments are required: RECORDING"),
    ],
)
def test_wrong_input_is_one_line_and_changes_nothing(
    recordings: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: str,
    message: str,
) -> None:
    shutil.copy(recordings / "mono.wav", tmp_path)
    for name in ("thesis/thesis.txt", "notes/drafts/report.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("years of work")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert run_monitor(*arguments.split()) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith(f"ser-ft: {message}")
    assert printed.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_printed_table_has_a_line_per_speaker(
    recordings: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_monitor(recordings / "angry.wav", recordings / "text.wav", "--out", tmp_path / "out") == 1
    printed = capsys.readouterr().out
    lines = printed.splitlines()
    assert lines[0].split() == ["file", "length", "speaker", "speech", "emotion", "negative", "uncertain"]
    assert lines[2].startswith("angry.wav    1:04  channel 1")
    assert lines[3].split()[:2] == ["channel", "2"]
    assert lines[4].startswith("text.wav        -  not analyzed")
    assert "note: telephone sound: a sampling rate of 8 kHz" in printed
    assert lines[-1] == f"report: {tmp_path / 'out' / 'index.html'}"


def test_the_evaluation_in_a_run_folder_is_reported(recordings: Path, tmp_path: Path) -> None:
    run = write_run(tmp_path / "run")
    assert run_monitor(recordings / "mono.wav", "--model", run.path, "--out", tmp_path / "out") == 0
    scores = run.metrics["parts"]["test"]
    text = Page(tmp_path / "out" / "report.html").text
    assert f"UAR {scores['uar']:.3f} on test: {scores['clips']} clips of 2 " in text
    assert "where guessing gives 0.250" in text


@pytest.mark.parametrize("content", ['{"accuracy": 0.9}', "[0.9]", "no JSON"])
def test_a_metrics_file_of_other_software_is_ignored(recordings: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "metrics.json").write_text(content)
    assert run_monitor(recordings / "mono.wav", "--model", tmp_path / "model", "--out", tmp_path / "out") == 0
    assert UNKNOWN in Page(tmp_path / "out" / "report.html").text


def test_the_timeline_shows_all_classes_negative_segments_and_highlights(recordings: Path) -> None:
    conversation = analyze_conversation(LoudIsAngry(), recordings / "angry.wav", MonitorSettings())
    svg = str(timeline(conversation, 1))
    for name in CLASSES:
        assert f'fill="{COLORS[name]}"' in svg
    assert svg.count('class="negative"') == 1
    links = re.findall(r'href="#highlight-(\d+)"', svg)
    assert links == [str(highlight.number) for highlight in conversation.highlights if highlight.speaker == 1]
    coordinates = re.findall(r"[-\d.]+", " ".join(re.findall(r' d="([^"]*)"', svg)))
    assert max(abs(float(coordinate)) for coordinate in coordinates) <= 1000


def test_a_single_word_is_visible_in_a_long_timeline(recordings: Path) -> None:
    """Two words of 0.2 s in 90 minutes: both ends of each lie within half a pixel."""
    conversation = analyze_conversation(LoudIsAngry(), recordings / "mono.wav", MonitorSettings())
    speaker = replace(conversation.speakers[0], speech=[(1000.0, 1000.2), (3000.0, 3000.2)])
    svg = str(timeline(replace(conversation, duration=5400.0, highlights=[], speakers=[speaker]), 0))
    (path,) = re.findall(r'<path class="speech" d="([^"]*)"', svg)
    widths = [float(width) for width in re.findall(r"h([\d.]+)v", path)]
    assert len(widths) == 2
    assert min(widths) >= 0.5


@pytest.mark.parametrize("duration", [0.4, 9, 64, 600, 3599, 10_800, 90_000])
def test_the_time_axis_starts_at_zero_and_has_few_labels(duration: float) -> None:
    times = ticks(duration)
    assert times[0] == 0
    assert times[-1] <= duration
    assert 1 <= len(times) <= 14
