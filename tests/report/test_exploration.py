"""`ser-ft explore`: the page, its figures, and the input that it refuses."""

from __future__ import annotations

import base64
import re
import shutil
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest
from matplotlib.colors import to_hex

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.data.builder import SKIPPED_FILE
from ser_ft.data.prepare import CORPUS_INFO_FILE, open_prepared, prepare
from ser_ft.labels import COLORS, EMOTION_NAMES
from ser_ft.report.exploration import figures, map
from ser_ft.report.exploration.findings import find_notable
from ser_ft.report.exploration.measurements import MEASURES, MeasuredClips
from ser_ft.report.exploration.report import explore
from ser_ft.report.exploration.sources import Source
from ser_ft.utils.text import printable
from tests.helpers.corpus_files import write
from tests.helpers.html_page import Page

if TYPE_CHECKING:
    from datasets import Dataset

SECTIONS = ["emotions", "speakers", "durations", "levels", "rates", "examples", "pitch", "map", "skipped", "terms"]
INJECTION = '=1+1"><img src=x onerror=alert(1)> $\\frac$ \x1b[31m<script>alert(1)<'


def sound(seed: int, hertz: float = 150.0, seconds: float = 0.3) -> bytes:
    """Harmonics in a little noise, different for each seed, as WAV bytes."""
    random = np.random.default_rng(seed)
    times = np.arange(round(seconds * audio.SAMPLE_RATE)) / audio.SAMPLE_RATE
    tone = sum(np.sin(2 * np.pi * hertz * k * times + random.uniform(0, 6)) / k for k in range(1, 12))
    return audio.to_wav((0.1 * tone + random.normal(0, 0.003, len(times))).astype(np.float32))


def headings(page: Page) -> list[str | None]:
    return [attributes.get("id") for tag, attributes in page.elements if tag == "h2"]


@pytest.fixture(scope="module")
def report(miniature_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("explored") / "new" / "report"
    assert main(["explore", str(miniature_folder), "--embed-audio", "--out", str(out)]) == 0
    return out


@pytest.fixture(autouse=True)
def _small_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures at a low resolution, to save time; the module's report has the real one."""
    monkeypatch.setattr("ser_ft.report.shared.plotting._DPI", 30)


@pytest.fixture(scope="module")
def page(report: Path) -> Page:
    return Page(report / "report.html")


@pytest.mark.slow
def test_the_page_has_every_section_and_loads_nothing(report: Path, page: Page) -> None:
    assert headings(page) == ["glance", *SECTIONS, "method"]
    page.check_self_contained()
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} <= set(headings(page))
    pictures = {base64.b64decode(picture["src"].partition(",")[2]) for picture in page.all("img")}
    files = sorted((report / "figures").iterdir())
    assert [file.stem for file in files] == ["durations", "emotions", "examples", "levels", "map", "pitch", "speakers"]
    assert pictures == {file.read_bytes() for file in files}
    assert (report / "report.html").stat().st_size < 4e6
    assert "Synthetic voices (ser_ft miniature), not recordings: cremad, ravdess, savee, tess." in page.text


@pytest.mark.slow
def test_the_counts_on_the_page_are_those_of_the_table(page: Page, miniature_table: Dataset) -> None:
    frame = miniature_table.select_columns(["corpus", "emotion", "speaker", "sampling_rate"]).to_pandas()
    for corpus, part in frame.groupby("corpus"):
        counts = Counter(part["emotion"])
        rows = [row[1:] for row in page.rows if row[0] == corpus]
        assert [str(counts.get(index, 0)) for index in range(len(EMOTION_NAMES))] + [str(len(part))] in rows
        assert [str(corpus), "2"] in [row[:2] for row in page.rows if len(row) == 5]
        assert [f"{part['sampling_rate'].iloc[0]:,} Hz", str(len(part))] in rows
    assert page.row("all")[-1] == str(len(frame))
    assert f"{len(frame):,} clips, {sum(miniature_table['duration']) / 3600:.2f} hours" in page.text


@pytest.mark.slow
def test_clips_csv_and_the_embedded_examples(report: Path, page: Page, miniature_table: Dataset) -> None:
    clips = pd.read_csv(report / "clips.csv")
    assert list(clips["id"]) == miniature_table["id"][:]
    assert set(MEASURES) <= set(clips.columns)
    assert clips["pitch"].between(60, 600).mean() > 0.9
    assert np.allclose(clips["duration"], miniature_table["duration"], rtol=1e-3)
    audio_tags = page.all("audio")
    assert [player["aria-label"].split(", ")[1] for player in audio_tags] == list(EMOTION_NAMES)
    examples = clips.set_index("id").loc[[player["aria-label"].split()[1].rstrip(",") for player in audio_tags]]
    assert examples["emotion"].tolist() == list(EMOTION_NAMES)
    assert examples["speaker"].nunique() == 1, "one speaker for all emotions"
    for player in audio_tags:
        samples = audio.decode(base64.b64decode(player["src"].partition(",")[2]))
        assert 0.2 < len(samples) / audio.SAMPLE_RATE <= map.MAX_EXAMPLE_SECONDS


@pytest.mark.slow
def test_an_older_table_gives_the_same_page_each_time(miniature_folder: Path, tmp_path: Path) -> None:
    """A table without sampling rates, genders and skipped.csv."""
    table = open_prepared(miniature_folder)
    few = table.remove_columns(["sampling_rate", "gender"]).select(range(6))
    few.add_column("gender", [None] * len(few)).save_to_disk(tmp_path / "old")
    shutil.copy(miniature_folder / CORPUS_INFO_FILE, tmp_path / "old")
    file = explore(tmp_path / "old", tmp_path / "out", verbose=False)
    page = Page(file)
    assert "unknown" in [row[1] for row in page.rows if len(row) == 3]
    assert "ser-ft prepare makes a new table" in page.text
    assert "the table has no skipped.csv" in page.text
    assert "female" not in page.text
    assert not page.all("audio"), "recordings are embedded only with --embed-audio"
    assert "played" not in page.source
    (file.parent / "figures" / "old.png").write_bytes(b"")
    assert explore(tmp_path / "old", tmp_path / "out", verbose=False).read_text(encoding="utf-8") == page.source
    assert not (file.parent / "figures" / "old.png").exists(), "an older report is replaced as a whole"


@pytest.mark.slow
def test_names_are_escaped_everywhere(tmp_path: Path) -> None:
    speakers = (f"s {INJECTION.replace('/', '')}", "plain")
    files = {
        f"{word}/{speakers[take % 2]}/{take}.wav": sound(take + 9 * (word == "sad"))
        for word in ("happy", "sad")
        for take in range(4)
    }
    files["sad/plain/<b>bad&.wav"] = b"no sound"
    labels = {"happy": INJECTION, "sad": "b<i>c"}
    prepare({"own": write(tmp_path / "in", files)}, tmp_path / "table", labels, verbose=False)
    path = INJECTION.replace('"', '""')
    (tmp_path / "table" / SKIPPED_FILE).open("a").write(f'"{path}",own,unknown reason,<u>\n')
    page = Page(explore(tmp_path / "table", tmp_path / "out", verbose=False))
    assert not page.all("script")
    assert len(page.all("img")) == 7
    assert all(picture["src"].startswith("data:") for picture in page.all("img"))
    assert not [tag for tag, _ in page.elements if tag in ("b", "i", "u")]
    assert printable(INJECTION) in page.text
    assert "<b>bad&.wav" in page.text
    assert "\x1b" not in page.source
    clips = pd.read_csv(tmp_path / "out" / "clips.csv")
    assert set(clips["emotion"]) == {f"'{printable(INJECTION)}", "b<i>c"}
    assert "\x1b" not in (tmp_path / "out" / "clips.csv").read_text()


@pytest.mark.slow
def test_a_folder_without_labels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    unreadable = '<script>&"x.wav'
    files = {f"{folder}/{take}.wav": sound(take, 120 + 80 * (folder == "b")) for folder in "ab" for take in range(6)}
    write(tmp_path / "calls", files | {f"a/{unreadable}": b"garbage", "b/silent.wav": audio.to_wav(np.zeros(5000))})
    assert main(["explore", "calls"]) == 0
    assert capsys.readouterr().out == "explore-calls/report.html\n"
    page = Page(Path("explore-calls/report.html"))
    assert set(headings(page)) == {"glance", *SECTIONS, "method"} - {"emotions", "speakers", "terms"}
    page.check_self_contained()
    assert [row[:4] for row in page.rows if row[1:2] == ["gender unknown"]] == [
        ["a", "gender unknown", "6", "120"],
        ["b", "gender unknown", "6", "200"],
    ]
    assert unreadable in page.text
    assert "2 files were skipped" in page.text
    assert [row[-1] for row in page.rows if row[:4] == ["folder", "2", "12", "0.500"]] == ["other clips"]
    assert ["a", "16,000 Hz", "6"] in page.rows
    assert "emotion" not in page.text.replace("speakers and emotions are unknown", "").replace("Of the emotions", "")


@pytest.mark.slow
def test_two_clips_of_one_speaker_have_no_map(tmp_path: Path) -> None:
    files = {f"{word}/ann/1.wav": sound(seed) for seed, word in enumerate(("happy", "sad"))}
    prepare({"own": write(tmp_path / "in", files)}, tmp_path / "table", verbose=False)
    page = Page(explore(tmp_path / "table", tmp_path / "out", verbose=False))
    assert "In own, all clips are from one speaker" in page.text
    assert "map" not in headings(page)
    assert len(page.all("img")) == 6


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ("none", "none: no such folder or archive"),
        ("empty", "empty: neither a prepared table nor a folder that holds sound files"),
        (
            "text",
            "text: neither a prepared table nor a folder that holds sound files; name recordings, or make a table",
        ),
        ("text/notes.txt", "text/notes.txt: not a folder"),
        ("damaged", "damaged: damaged prepared table"),
        ("bad", "bad: none of its 1 recordings can be read"),
        ("voices --out text", "text: contains notes.txt, which is not part of an exploration report"),
        ("voices --out text/notes.txt", "text/notes.txt: cannot be written"),
        ("voices --out run", "run: contains something that is not an exploration report"),
        ("", "the following arguments are required: SOURCE (see ser-ft explore --help)"),
        ("voices --loud", "unrecognized arguments: --loud"),
    ],
)
def test_wrong_input_gives_one_line_and_code_2(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], arguments: str, message: str
) -> None:
    monkeypatch.chdir(write(tmp_path, {"text/notes.txt": b"text", "voices/1.wav": sound(1), "bad/1.wav": b"x"}))
    write(tmp_path, {f"damaged/{CORPUS_INFO_FILE}": b"{}", "run/report.html": b"a run's"})
    (tmp_path / "empty").mkdir()
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    assert main(["explore", *arguments.split()]) == 2
    printed = capsys.readouterr()
    assert printed.out == ""
    lines = [line for line in printed.err.splitlines() if line and not line.startswith("measuring")]
    assert len(lines) == 1, printed.err
    assert lines[0].startswith("ser-ft: ")
    assert message in lines[0]
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def measured_clips(rows: list[dict[str, object]]) -> MeasuredClips:
    """Clips with made-up measurements: `rows` change the defaults."""
    defaults = {"corpus": "own", "emotion": "sad", "speaker": "own-a", "gender": None, "age": None, "intensity": None}
    defaults |= {"statement": None, "duration": 2.0, "sampling_rate": 16_000.0, "peak": -6.0, "level": -26.0}
    defaults |= {"background": -60.0, "speech": 0.8, "pitch": 200.0, "pitch_range": 5.0, "voiced": 0.6}
    clips = pd.DataFrame([{"id": f"{index:03d}", **defaults, **row} for index, row in enumerate(rows)])
    corpora = {name: {"note": "", "classes": EMOTION_NAMES} for name in set(clips["corpus"])}
    source = Source(
        Path("own"), clips, EMOTION_NAMES, corpora, [], np.zeros(len(clips)), lambda row: (np.zeros(1), None)
    )
    return MeasuredClips(source, clips, np.zeros((len(clips), 2)), np.arange(len(clips)), [], 0)


def plot_data(rows: list[dict[str, object]]) -> figures.PlotData:
    return figures.make_plot_data(measured_clips(rows))


def test_bars_are_as_long_as_their_counts() -> None:
    rows: list[dict[str, object]] = [{"emotion": "happy", "gender": "female"}] * 3
    rows += [{"emotion": "happy", "gender": "male"}] * 2
    rows += [{"emotion": "fear", "gender": "male"}] * 4 + [{"corpus": "other", "emotion": "fear"}] * 7
    data = plot_data(rows)
    assert data.corpora == ("own", "other")
    first, second = figures.plot_emotions(data).axes
    bars = [(to_hex(bar.get_facecolor()), bar.get_x(), bar.get_width()) for bar in first.patches if bar.get_width()]
    assert bars[0] == (COLORS["happy"], 0, 3)
    assert sorted(bar[1:] for bar in bars) == [(0, 3), (0, 4), (3, 2)]
    assert [text.get_text() for text in first.texts] == ["5", "4", "9 clips, 1 speaker"]
    assert [bar.get_width() for bar in second.patches if bar.get_width()] == [7]


def test_violins_cover_the_values_women_above_and_men_below() -> None:
    rows = [{"emotion": "happy", "gender": "female", "pitch": pitch} for pitch in np.linspace(200, 300, 21)]
    rows += [{"emotion": "happy", "gender": "male", "pitch": pitch} for pitch in (100.0, 110.0, np.nan)]
    axes = figures.plot_pitch(plot_data(rows)).axes[0]
    (violin,) = axes.collections
    assert to_hex(violin.get_facecolor()[0]) == COLORS["happy"]
    corners = violin.get_paths()[0].get_extents()
    assert (corners.x0, corners.x1) == pytest.approx((200, 300))
    assert corners.y1 == pytest.approx(0, abs=1e-6)
    assert corners.y0 < 0
    dots, median = sorted((line.get_xdata().tolist(), line.get_ydata().tolist()) for line in axes.lines)
    assert dots[0] == [100.0, 110.0]
    assert min(dots[1]) > 0
    assert median[0] == pytest.approx([250])


def test_each_known_speaker_has_a_column() -> None:
    rows: list[dict[str, object]] = [{"speaker": "own-a"}] * 2 + [{"speaker": "own-b"}] * 5
    figure = figures.plot_speakers(plot_data([*rows, *[{"speaker": "own-unknown"}] * 9]))
    (axes,) = figure.axes
    corners = axes.collections[0].get_paths()[0].vertices
    assert corners[:, 1].max() == 5
    assert {(x, y) for x, y in corners if y} >= {(0, 5), (1, 5), (1, 2), (2, 2)}
    assert "a column for each of 2 speakers" in figure.texts[1].get_text()


def test_examples_are_of_one_speaker_who_says_the_same_words() -> None:
    rows: list[dict[str, object]] = [
        {"speaker": f"own-{speaker}", "emotion": emotion, "statement": statement}
        for speaker in "ab"
        for emotion in ("happy", "sad", "fear")
        for statement in ("dogs", "kids")
        if (speaker, emotion) != ("a", "fear")
    ]
    data = plot_data(rows)
    examples = data.clips.loc[list(map.choose_examples(data).values())]
    assert examples["emotion"].tolist() == ["happy", "sad", "fear"]
    assert set(examples["speaker"]) == {"own-b"}
    assert examples["statement"].nunique() == 1


def test_silence_around_the_speech_is_trimmed() -> None:
    tone = audio.from_wav(sound(0, seconds=1.0))
    clip = np.concatenate([np.zeros(20_000, np.float32), tone, np.zeros(30_000, np.float32)])
    assert abs(len(map.trim_silence(clip)) / audio.SAMPLE_RATE - 1.3) < 0.05
    assert len(map.trim_silence(np.tile(tone, 9))) == 6 * audio.SAMPLE_RATE


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        (
            [{"emotion": "sad"}] * 10 + [{"emotion": "calm"}] * 4,
            r"2\.5 times as many clips of sad as of calm \(10 and 4\)",
        ),
        ([{"emotion": "sad"}, {"corpus": "b"}, {"emotion": "calm", "corpus": "b"}], "Only b has calm"),
        ([{"level": -20.0}, {"corpus": "b", "level": -32.0}], "speech of own is 12 dB louder than that of b"),
        ([{"background": -90.0}, {"corpus": "b"}], "own is 30 dB quieter than that of b: pauses reveal the corpora"),
        ([{"duration": 9.0}, {"corpus": "b"}], "clips of own are 4.5 times as long as those of b"),
        ([{"duration": 0.3}, {}], "1 clip is shorter than half a second"),
        ([{"peak": 0.0}, {}], "1 clip reaches full scale"),
        ([{"sampling_rate": 8000.0}, {}], r"rates: (8,000 Hz \(1\), 16,000 Hz \(1\)|16,000 Hz \(1\), 8,000 Hz \(1\))"),
        ([{"sampling_rate": 8000.0}, {}], "1 clip has a sampling rate below 16 kHz"),
        ([{"speaker": "own-unknown"}, {}], "In own, the speakers of 1 clip are unknown"),
    ],
)
def test_notable_properties_are_reported(rows: list[dict[str, object]], message: str) -> None:
    measured = measured_clips(rows)
    lines = find_notable(measured, figures.make_plot_data(measured), [])
    assert [line for line in lines if re.search(message, line)], lines


def test_a_balanced_data_set_has_nothing_notable() -> None:
    measured = measured_clips(
        [
            {"speaker": f"{corpus}-{speaker}", "corpus": corpus, "emotion": emotion}
            for corpus in "xy"
            for speaker in "abcd"
            for emotion in ("happy", "sad")
        ]
    )
    assert find_notable(measured, figures.make_plot_data(measured), []) == []
