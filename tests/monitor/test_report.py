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
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.labels import COLORS
from ser_ft.monitor.analysis import monitor
from ser_ft.monitor.conversation import MonitorSettings
from ser_ft.monitor.timeline import ticks, timeline
from tests.helpers.calls import CLASSES, LOUD, SOFT, LoudIsAngry, make_call
from tests.helpers.html_page import Page

EVIL = '"><img src=x onerror=alert(1)> $a$ <script>alert(1)<'
SECTIONS = ["glance", "timeline", "moments", "shares", "dissatisfaction", "segments", "method"]


@pytest.fixture(autouse=True)
def _engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ser_ft.inference.backends.open_backend", lambda model=None: LoudIsAngry())


@pytest.fixture(scope="module")
def sounds(miniature_tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A complaint, a quiet call in a folder below, a mono call and a file that is no sound. Never changed."""
    home = tmp_path_factory.mktemp("calls")
    (home / "more").mkdir()
    make_call(miniature_tree, home / "complaint.wav", rate=8000, subtype="ULAW")
    make_call(miniature_tree, home / "more" / "complaint.wav", [(0, SOFT), (1, SOFT)])
    make_call(miniature_tree, home / "mono.wav", [(0, LOUD), (1, SOFT)], channels=1)
    (home / "text.wav").write_text("no sound at all")
    return home


def monitored(*words: str | Path) -> int:
    return main(["monitor", *map(str, words)])


@pytest.fixture
def page(sounds: Path, tmp_path: Path) -> Page:
    chosen = ["--channels", "agent,customer", "--model", "loud.onnx", "--out", tmp_path / "out"]
    assert monitored(sounds / "complaint.wav", *chosen) == 0
    return Page(tmp_path / "out" / "report.html")


def test_the_page_holds_every_section_and_loads_nothing(page: Page) -> None:
    headings = [attributes.get("id") for tag, attributes in page.elements if tag == "h2"]
    assert headings == SECTIONS
    page.check_self_contained()
    ids = {attributes["id"] for _, attributes in page.elements if attributes.get("id")}
    assert {link["href"][1:] for link in page.all("a")} <= ids
    assert len(page.source) < 4e6


def test_the_page_says_what_it_is_and_what_is_prohibited(page: Page) -> None:
    assert "This is how voices sounded to a model, not how people felt." in page.text
    assert "Regulation (EU) 2024/1689, Article 5(1)(f)" in page.text
    assert (
        "A run of dissatisfaction is a stretch of 5 seconds or more in which a voice sounds sad or angry" in page.text
    )
    assert "Telephone sound: recorded at 8 kHz" in page.text
    assert "How often it is right is not known here" in page.text


def test_the_page_shows_the_numbers_of_its_record(page: Page, tmp_path: Path) -> None:
    record = json.loads((tmp_path / "out" / "monitor.json").read_text())
    (run,) = record["voices"][1]["runs"]
    row = page.row("customer")
    assert row[1:3] == [f"0:{round(run['start']):02d}", f"0:{round(run['end']):02d}"]
    assert f"{record['dissatisfied'] * 100:.0f} %" in page.text
    for line in record["feedback"]:
        assert line in page.text
    segments = sum(len(voice["segments"]) for voice in record["voices"])
    assert sum(element.get("height") in ("20", "10") for element in page.all("rect")) == segments


def test_moments_can_be_played_and_are_what_was_said(page: Page, sounds: Path, tmp_path: Path) -> None:
    record = json.loads((tmp_path / "out" / "monitor.json").read_text())
    players = page.all("audio")
    assert len(players) == len(record["moments"]) > 0
    for player, moment in zip(players, record["moments"], strict=True):
        kind, _, content = player["src"].partition(",")
        assert kind == "data:audio/flac;base64"
        samples, rate = soundfile.read(io.BytesIO(base64.b64decode(content)))
        assert rate == 16_000
        assert samples.ndim == 1
        assert len(samples) / rate == pytest.approx(moment["end"] - moment["start"], abs=0.01)
        assert np.abs(samples).max() > 0.01


def test_without_audio_no_voice_is_in_the_page(sounds: Path, tmp_path: Path) -> None:
    assert monitored(sounds / "complaint.wav", "--no-audio", "--out", tmp_path / "out") == 0
    page = Page(tmp_path / "out" / "report.html")
    assert page.all("audio") == []
    assert "data:audio" not in page.source
    assert "This page holds voices" not in page.text
    assert any(attributes.get("id") == "moment-1" for attributes in page.all("li"))


def test_several_calls_are_a_row_each_and_a_bad_one_stops_nothing(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "new" / "out"
    assert monitored(sounds, "--channels", "agent,customer", "--out", out, "--format", "json") == 1
    said = capsys.readouterr()
    rows = json.loads(said.out)
    assert [line for line in said.err.splitlines() if "text.wav" in line] == [f"ser-ft: {rows[2]['error']}"]
    assert [row["call"] for row in rows] == ["complaint.wav", "mono.wav", "text.wav", "complaint.wav"]
    assert rows[0]["customer emotion"] == "neutral"
    assert rows[0]["dissatisfied"] > 0 == rows[3]["dissatisfied"]
    assert (rows[1]["the voices emotion"], rows[1]["runs"]) == ("neutral", 1)
    table = list(csv.DictReader((out / "calls.csv").open(encoding="utf-8")))
    assert [row["path"] for row in table] == [row["path"] for row in rows]
    assert [row["report"] for row in table] == [row.get("report") or "" for row in rows]
    assert {file.name for file in out.iterdir()} == {"index.html", "calls.csv", "complaint", "mono", "complaint-2"}
    page = Page(out / "index.html")
    links = [link["href"] for link in page.all("a") if not link["href"].startswith("#")]
    assert links == ["mono/report.html", "complaint/report.html", "complaint-2/report.html"]
    assert all((out / link).is_file() for link in links)
    assert "1 call could not be judged" in page.text
    assert rows[2]["error"] in page.text
    assert "script" not in {tag for tag, _ in page.elements}


def test_a_report_takes_the_place_of_an_older_one_and_of_nothing_else(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert monitored(sounds, "--out", out) == 1
    assert monitored(sounds / "mono.wav", "--out", out, "--overwrite") == 0
    assert {file.name for file in out.iterdir()} == {"report.html", "monitor.json"}
    before = (out / "report.html").read_bytes()
    capsys.readouterr()
    for calls in ([sounds / "text.wav"], [sounds / "text.wav"] * 2):
        assert monitored(*calls, "--out", out, "--overwrite") == 1
        assert "report: " not in capsys.readouterr().out, "it wrote none: what is there is of another call"
        assert {file.name for file in out.iterdir()} == {"report.html", "monitor.json"}
        assert (out / "report.html").read_bytes() == before


def test_a_report_goes_away_only_where_that_is_asked_for(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Else `monitor one.wav` would delete the folder of `monitor calls/`, and Ctrl-C cost what was done before it."""
    monkeypatch.chdir(tmp_path)
    whole = monitor

    def interrupted(engine: Any, path: str, *more: Any) -> Any:
        if path.endswith("mono.wav"):
            raise KeyboardInterrupt
        return whole(engine, path, *more)

    monkeypatch.setattr("ser_ft.monitor.report.monitor", interrupted)
    assert monitored(sounds) == 130
    before = {file: file.read_bytes() for file in sorted((tmp_path / "monitor").rglob("*.*"))}
    assert {file.name for file in before} == {"index.html", "calls.csv", "report.html", "monitor.json"}
    capsys.readouterr()
    for calls in (sounds, sounds / "complaint.wav"):
        assert monitored(calls) == 2
        said = capsys.readouterr().err
        assert said == "ser-ft: monitor: a report already exists; pass --overwrite, or choose another --out\n"
    assert {file: file.read_bytes() for file in sorted((tmp_path / "monitor").rglob("*.*"))} == before


def test_what_fails_in_one_call_stops_no_other(
    sounds: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Broken(LoudIsAngry):
        def probabilities(self, waveforms: np.ndarray) -> np.ndarray:
            if np.abs(waveforms).max() > 0.25:
                raise RuntimeError("out of\nmemory")
            return super().probabilities(waveforms)

    monkeypatch.setattr("ser_ft.inference.backends.open_backend", lambda model=None: Broken())
    assert monitored(sounds, "--out", tmp_path / "out", "--format", "json") == 1
    said = capsys.readouterr()
    first, _, _, quiet = json.loads(said.out)
    assert quiet["error"] is None
    assert first["error"] == f"{first['path']}: failed: RuntimeError: out of memory (--debug shows where)"
    assert f"ser-ft: {first['error']}" in said.err.splitlines()


@pytest.mark.skipif(sys.platform != "linux", reason="names that are no text are Linux's")
@pytest.mark.parametrize("form", ["table", "json"])
def test_a_name_that_is_no_text_can_be_written(
    sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    name = os.fsdecode(b"caf\xe9.wav")
    (tmp_path / "in").mkdir()
    shutil.copy(sounds / "mono.wav", tmp_path / "in" / name)
    (tmp_path / "in" / os.fsdecode(b"no\xe9.wav")).write_text("no sound at all")
    assert monitored(tmp_path / "in", "--out", tmp_path / "out", "--format", form) == 1
    said = capsys.readouterr().out
    assert said.encode().decode() == said
    assert {file.name for file in (tmp_path / "out").iterdir()} == {"index.html", "calls.csv", "caf_"}
    page = Page(tmp_path / "out" / "index.html")
    assert r"caf\udce9.wav" in page.text
    assert "caf_/report.html" in {link["href"] for link in page.all("a")}
    record = json.loads((tmp_path / "out" / "caf_" / "monitor.json").read_text("utf-8"))
    assert record["path"].endswith(r"caf\udce9.wav")
    assert r"caf\udce9.wav: how it sounded" in Page(tmp_path / "out" / "caf_" / "report.html").text


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("mono.wav --out thesis", "thesis: contains thesis.txt, which is not part of a report; choose another --out"),
        ("mono.wav --out kept", "kept: contains notes, which is not part of a report"),
        ("mono.wav --out mono.wav", "mono.wav: cannot be written"),
        ("thesis --out new", "thesis: no sound files found there"),
        ("mono.wav --channels a,a", "--channels takes different names, such as a,b, not 'a,a'"),
        ("mono.wav --channels a,", "--channels takes different names"),
        ("mono.wav --negative angry,bored", "--negative: the model knows no bored: name some of neutral, happy, sad"),
        ("mono.wav --baseline 0", "a baseline is some seconds of speech, such as 60, not 0.0"),
        ("mono.wav --window 0.01", "window must be 0.1 seconds or more, not 0.01"),
        ("mono.wav --hop 4", "a hop of 4 s skips sound"),
        ("--out new", "the following arguments are required: CALL"),
    ],
)
def test_wrong_use_is_one_line_and_changes_nothing(
    sounds: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    words: str,
    says: str,
) -> None:
    shutil.copy(sounds / "mono.wav", tmp_path)
    for name in ("thesis/thesis.txt", "kept/notes/report.txt"):
        (tmp_path / name).parent.mkdir(parents=True)
        (tmp_path / name).write_text("years of work")
    monkeypatch.chdir(tmp_path)
    before = sorted(tmp_path.rglob("*"))
    assert monitored(*words.split()) == 2
    said = capsys.readouterr()
    assert said.out == ""
    assert said.err.startswith(f"ser-ft: {says}")
    assert said.err.count("\n") == 1
    assert sorted(tmp_path.rglob("*")) == before


def test_the_table_for_people(sounds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert monitored(sounds / "complaint.wav", sounds / "text.wav", "--out", tmp_path / "out") == 1
    said = capsys.readouterr().out
    lines = said.splitlines()
    assert lines[0].split() == ["call", "length", "voice", "speaks", "mostly", "dissatisfaction", "uncertain"]
    assert lines[2].startswith("complaint.wav    1:04  channel 1")
    assert lines[3].split()[:2] == ["channel", "2"]
    assert lines[4].startswith("text.wav            -  not judged")
    assert "note: telephone sound: recorded at 8 kHz" in said
    assert lines[-1] == f"report: {tmp_path / 'out' / 'index.html'}"


def test_names_cannot_break_the_pages(sounds: Path, tmp_path: Path) -> None:
    evil = EVIL.replace("/", "")
    shutil.copy(sounds / "complaint.wav", tmp_path / f"{evil}.wav")
    assert (
        monitored(tmp_path / f"{evil}.wav", sounds / "mono.wav", "--channels", f"{evil},b", "--out", tmp_path / "out")
        == 0
    )
    for file in (tmp_path / "out").rglob("*.html"):
        page = Page(file)
        assert not {tag for tag, _ in page.elements} & {"img", "script"}
    index = Page(tmp_path / "out" / "index.html")
    assert evil in index.text
    assert evil in Page(tmp_path / "out" / evil / "report.html").text


def test_a_model_from_a_run_folder_is_said_to_be_as_good_as_it_was(
    sounds: Path, tmp_path: Path, run: RunFolder
) -> None:
    assert monitored(sounds / "mono.wav", "--model", run.path, "--out", tmp_path / "out") == 0
    uar = run.metrics["parts"]["test"]["uar"]
    text = Page(tmp_path / "out" / "report.html").text
    assert f"UAR {uar:.3f} on test: 96 clips of 6 unseen speakers" in text
    assert "where guessing gives 0.125" in text


def test_the_page_says_how_good_the_model_is_that_ships(sounds: Path, tmp_path: Path) -> None:
    assert monitored(sounds / "mono.wav", "--out", tmp_path / "out") == 0
    text = Page(tmp_path / "out" / "report.html").text
    assert re.search(r"UAR 0\.\d{3} on test: [\d,]+ clips", text)
    assert "How often it is right is not known here" not in text


@pytest.mark.parametrize("content", ['{"accuracy": 0.9}', "[0.9]", "no JSON"])
def test_a_strangers_metrics_beside_a_model_say_nothing(sounds: Path, tmp_path: Path, content: str) -> None:
    (tmp_path / "model").mkdir()
    (tmp_path / "metrics.json").write_text(content)
    assert monitored(sounds / "mono.wav", "--model", tmp_path / "model", "--out", tmp_path / "out") == 0
    assert "How often it is right is not known here" in Page(tmp_path / "out" / "report.html").text


def test_a_baseline_is_explained_and_its_numbers_shown(sounds: Path, tmp_path: Path) -> None:
    words = ("--baseline", "5", "--out", tmp_path / "out")
    assert monitored(sounds / "complaint.wav", *words) == 0
    text = Page(tmp_path / "out" / "report.html").text
    assert "The first 5 s of each voice's speech are taken for its ordinary way of talking" in text
    assert "Taken off here, in log-odds: channel 1: " in text


def test_the_timeline_draws_what_was_judged(sounds: Path) -> None:
    call = monitor(LoudIsAngry(), sounds / "complaint.wav", MonitorSettings())
    drawn = str(timeline(call, 1))
    for name in CLASSES:
        assert f'fill="{COLORS[name]}"' in drawn
    assert drawn.count('class="run"') == 1
    marks = re.findall(r'href="#moment-(\d+)"', drawn)
    assert marks == [str(moment.number) for moment in call.moments if moment.voice == 1]
    numbers = [float(number) for number in re.findall(r"[-\d.]+", " ".join(re.findall(r' d="([^"]*)"', drawn)))]
    assert min(numbers) >= -1000
    assert max(numbers) <= 1000


def test_a_word_is_drawn_however_long_the_call(sounds: Path) -> None:
    """Two of them, of 0.2 s each, in 90 minutes: both ends of each lie in one half of a pixel."""
    call = monitor(LoudIsAngry(), sounds / "mono.wav", MonitorSettings())
    talk = [(1000.0, 1000.2), (3000.0, 3000.2)]
    long = replace(call, duration=5400.0, moments=[], voices=[replace(call.voices[0], talk=talk)])
    (steps,) = re.findall(r'<path class="speech" d="([^"]*)"', str(timeline(long, 0)))
    widths = [float(width) for width in re.findall(r"h([\d.]+)v", steps)]
    assert len(widths) == 2
    assert min(widths) >= 0.5


@pytest.mark.parametrize("duration", [0.4, 9, 64, 600, 3599, 10_800, 90_000])
def test_the_axis_has_few_times_and_begins_at_none(duration: float) -> None:
    shown = ticks(duration)
    assert shown[0] == 0
    assert shown[-1] <= duration
    assert 1 <= len(shown) <= 14
