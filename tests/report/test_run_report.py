from __future__ import annotations

import base64
import re
from collections.abc import Callable
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd
import pytest

from ser_ft import audio
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.report.run import report
from ser_ft.report.run.report import write_report
from ser_ft.report.shared.samples import _spread_over_classes
from ser_ft.utils.errors import InputError
from tests.helpers.html_page import Page

if TYPE_CHECKING:
    from datasets import Dataset

MakeRun = Callable[..., RunFolder]
SYNTHETIC = "synthetic voices (ser_ft miniature), not recordings"


@pytest.fixture(autouse=True)
def no_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures only for the pages that several tests read."""
    monkeypatch.setattr(report, "write_figures", lambda run: [])


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return Page(write_report(run))


@pytest.fixture(scope="module")
def odd(odd_run: RunFolder) -> Page:
    return Page(write_report(odd_run))


def prepared_table(run: RunFolder, seconds: float = 0.4) -> tuple[Dataset, dict[str, np.ndarray]]:
    """Return a prepared table with other samples for each clip of the run, and the samples by id."""
    from datasets import Dataset

    random = np.random.default_rng(0)
    ids = list(run.predictions["id"])
    samples = {name: random.integers(-9000, 9000, int(seconds * audio.SAMPLE_RATE), dtype=np.int16) for name in ids}
    column = [{"bytes": audio.to_wav(samples[name]), "path": None} for name in ids]
    return Dataset.from_dict({"id": ids, "audio": column}), samples


def test_the_page_shows_the_runs_figures(run: RunFolder, page: Page) -> None:
    parts = run.metrics["parts"]
    test, interval = parts["test"], parts["test"]["uar_interval"]
    assert f"unweighted average recall (UAR) is {test['uar']:.3f} :" in page.text
    assert f"{interval['low']:.3f} to {interval['high']:.3f} (a Student t interval around" in page.text
    assert "Measured on test: 96 clips of 6 unseen speakers. Split: speaker fold 0." in page.text
    for name, scores in parts.items():
        cells = [f"{scores[key]:.3f}" for key in ("uar", "accuracy", "macro_f1", "ece", "nll", "chance")]
        row = page.row(name)
        assert row[1:3] == [str(scores["clips"]), str(scores["speakers"])]
        assert [row[3], *row[5:]] == cells
    for name in run.metrics["classes"]:
        cells = [f"{test['recall'][name]:.3f}", f"{test['precision'][name]:.3f}", "12"]
        assert cells in [row[1:] for row in page.rows if row[0] == name]
    classes = run.metrics["classes"]
    rows = [row for row in page.rows if len(row) == len(classes) + 1 and row[0] in classes]
    assert [[int(cell) for cell in row[1:]] for row in rows] == test["confusion"]
    assert page.row("svm")[2] == f"{run.baselines[1].metrics['parts']['test']['uar']:.3f}"
    assert page.row("ravdess")[1:4] == ["96", "6", f"{test['uar']:.3f}"]
    assert "saved weights are those of epoch 8" in page.text
    assert "recognizes expression, not feeling" in page.text
    assert "Regulation (EU) 2024/1689, Article 5(1)(f)" in page.text


def test_calibration_before_and_after(run: RunFolder, page: Page, odd: Page) -> None:
    parts = run.metrics["parts"]
    assert "divided by a temperature of 1.25, fitted on 64 validation clips (over 1:" in page.text
    for name, scores in parts.items():
        before_and_after = ["0.234", f"{scores['ece']:.3f}", "2.346", f"{scores['nll']:.3f}"]
        assert [name, *before_and_after, "25 %", "0.789"] in page.rows
    assert "A prediction with a confidence under 0.42 is marked as uncertain" in page.text
    for bin in parts["test"]["reliability"]:
        edges = f"{bin['low']:.2f} to {bin['high']:.2f}"
        cells = [f"{bin[key]:.3f}" for key in ("confidence", "accuracy")]
        assert [edges, str(bin["clips"]), *cells] in page.rows
    assert "No temperature was fitted" in odd.text


def test_the_accuracy_of_the_most_confident_predictions(make_run: MakeRun) -> None:
    run = make_run(baselines=False)
    metrics = run.metrics
    metrics["parts"]["test"]["reliability"][-1] |= {"low": 14 / 15, "clips": 10, "accuracy": 0.9}
    run.write_json(run.metrics_file, metrics)
    expected = "Of the 10 clips of the test part with the highest confidence (over 0.93), 90 % are predicted correctly."
    assert expected in Page(write_report(run, num_examples=0)).text
    metrics["parts"]["test"]["reliability"][-1]["clips"] = 9
    run.write_json(run.metrics_file, metrics)
    assert "highest confidence" not in Page(write_report(run, num_examples=0)).text, "too few for a statement"


def test_groups_and_speakers_are_shown(run: RunFolder, page: Page) -> None:
    test = run.metrics["parts"]["test"]
    for trait in ("gender", "intensity"):
        for group, scores in test[f"by_{trait}"].items():
            interval = scores["uar_interval"]
            expected = f"{interval['low']:.3f} to {interval['high']:.3f}" if interval else "-"
            figures = [f"{scores[key]:.3f}" for key in ("accuracy", "chance")]
            assert page.row(group)[1:] == ["48", str(scores["speakers"]), f"{scores['uar']:.3f}", expected, *figures]
    assert not [row for row in page.rows if row[:1] == ["under 2 s"]], "a single group is not shown"
    for speaker, scores in test["by_speaker"].items():
        assert page.row(speaker)[1:3] == ["16", f"{scores['uar']:.3f}"]
    spread = test["speaker_uar"]
    assert f"ranges from {spread['min']:.3f} to {spread['max']:.3f}, with a standard deviation" in page.text
    assert "for a new speaker, expect any value in that range" in page.text


def test_excluded_clips_are_counted(make_run: MakeRun, page: Page) -> None:
    assert "Not evaluated" not in page.text
    run = make_run(baselines=False)
    metrics = run.metrics
    metrics["parts"]["test"]["excluded"] = {"calm": 12, "surprise": 1}
    run.write_json(run.metrics_file, metrics)
    text = Page(write_report(run, num_examples=0)).text
    assert "Not evaluated: 12 clips of calm, 1 clip of surprise: the model was not trained on these classes." in text


def test_pictures_are_embedded_and_described(run: RunFolder, page: Page) -> None:
    page.check_self_contained()
    pictures = page.all("img")
    assert len(pictures) == 7
    embedded = {base64.b64decode(picture["src"].partition(",")[2]) for picture in pictures}
    assert embedded == {file.read_bytes() for file in run.figures.iterdir()}
    assert all(len(picture["alt"]) > 40 and int(picture["width"]) > 300 for picture in pictures)
    headings = [tag for tag, _ in page.elements if re.fullmatch(r"h\d", tag)]
    assert headings.count("h1") == 1
    assert set(headings) == {"h1", "h2", "h3"}
    ids = {attributes["id"] for _, attributes in page.elements if "id" in attributes}
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} <= ids


def test_banners_appear_only_where_they_belong(page: Page, odd: Page) -> None:
    assert "Leaking" not in page.text
    assert "leaking" not in page.text
    assert "ynthetic" not in page.text
    assert "No speaker is in more than one part." in page.text
    text = odd.text
    assert "Leaking split. 9 of the 9 speakers of the test part are also in the training part." in text
    assert "unseen speakers. Split" not in text
    assert "for a new speaker" not in text
    assert "9 speakers of 9 are in more than one part." in text
    assert f"{SYNTHETIC[0].upper()}{SYNTHETIC[1:]}: ravdess, savee." in text
    assert odd.row("test")[-1] == odd.row("svm")[-1] == odd.row("savee")[-1] == "leaking split; synthetic voices"


def test_an_unverified_split_is_marked_as_a_leaking_one_is(make_run: MakeRun) -> None:
    page = Page(write_report(make_run("unverified", leaking="unknown"), num_examples=0))
    assert "Unverified split. The speakers are not known" in page.text
    assert "(unverified split)" in page.text
    assert "Leaking" not in page.text
    assert "unseen speakers. Split" not in page.text
    assert "for a new speaker" not in page.text
    assert page.row("test")[-1] == page.row("svm")[-1] == "unverified split"


def test_missing_parts_and_classes(odd: Page) -> None:
    odd.check_self_contained()
    assert not [row for row in odd.rows if row[0] == "validation"]
    assert "no validation part to select an epoch by" in odd.text
    assert [row[1:] for row in odd.rows if row[0] == "calm"][-1][::2] == ["-", "0"]


def test_a_better_baseline_is_reported(make_run: MakeRun) -> None:
    run = make_run()
    better = run.baselines[1]
    metrics = better.metrics
    metrics["parts"]["test"]["uar"] = run.metrics["parts"]["test"]["uar"] + 0.01
    better.write_json(better.metrics_file, metrics)
    text = Page(write_report(run, num_examples=0)).text
    assert "svm reaches the same UAR or a higher one than this model." in text
    assert "this model. The UAR of svm lies inside this model's interval" in text
    assert "Example predictions" not in text


def test_names_are_escaped(make_run: MakeRun) -> None:
    evil = "<script>alert(1)</script>"
    classes = (evil, '"><img src=x onerror=alert(1)>', "plain")
    run = make_run(classes=classes, model=evil, notes={"ravdess": evil}, baselines=False)
    run.write_text(run.config_file, f"path: {evil}\n")
    metrics = run.metrics
    metrics["terms"]["ravdess"]["citation"] = f"{evil} javascript:alert(1) https://example.org/?a=<b>"
    run.write_json(run.metrics_file, metrics)
    page = Page(write_report(run))
    assert not page.all("script")
    assert not page.all("img")
    assert evil in page.text
    assert [a["href"] for a in page.all("a") if not a["href"].startswith("#")] == ["https://example.org/?a=<b>"]


def test_examples_are_balanced_and_match_the_predictions(run: RunFolder, page: Page) -> None:
    table = run.predictions.set_index("id")
    pattern = r'<li>.*?class="tag (correct|wrong)".*?<p class="faint">(.*?)<br>.*?</li>'
    cards = re.findall(pattern, page.source, re.DOTALL)
    assert [kind for kind, _ in cards].count("correct") == [kind for kind, _ in cards].count("wrong") == 6
    assert len({name for _, name in cards}) == 12
    classes = run.metrics["classes"]
    for kind, name in cards:
        row = table.loc[name]
        assert row["part"] == "test"
        assert (row[classes].astype(float).idxmax() == row["label"]) is (kind == "correct")
    assert {table.loc[name, "label"] for _, name in cards} == set(classes)
    again = re.findall(pattern, write_report(run).read_text(encoding="utf-8"), re.DOTALL)
    assert again == cards, "the same run gives the same examples"


def test_examples_can_be_played(make_run: MakeRun) -> None:
    run = make_run(notes={"ravdess": SYNTHETIC}, baselines=False)
    data, samples = prepared_table(run)
    page = Page(write_report(run, data, num_examples=5))
    elements = page.all("audio")
    assert len(elements) == 5
    assert f"Voices: ravdess: {SYNTHETIC}." in page.text
    for element in elements:
        wav = base64.b64decode(element["src"].removeprefix("data:audio/wav;base64,"))
        name = element["aria-label"].split()[1].rstrip(",")
        assert np.array_equal(audio.to_pcm16(audio.from_wav(wav)), samples[name])


def test_long_clips_are_shortened_and_unreadable_ones_cannot_be_played(make_run: MakeRun) -> None:
    run = make_run(baselines=False)
    data, _ = prepared_table(run, 0.1)
    source = write_report(run, num_examples=3).read_text(encoding="utf-8")
    long, missing, broken = re.findall(r'<p class="faint">(ravdess-.*?)<br>', source)
    stored = {long: audio.to_wav(np.ones(13 * 16000, np.int16)), broken: b"x"}
    ids = [name for name in data["id"] if name != missing]
    column = [{"bytes": stored.get(name), "path": "nowhere.wav"} for name in ids]
    other = type(data).from_dict({"id": ids, "audio": column})
    page = Page(write_report(run, other, num_examples=3))
    assert len(page.all("audio")) == 1
    assert "the first 12 of 13 seconds" in page.text
    assert "Ryerson Audio-Visual Database" in page.text.partition("Voices:")[2].partition("below")[0]


def test_the_table_of_other_clips_is_refused(make_run: MakeRun) -> None:
    # Synthetic clips have the names of real ones: their durations differ.
    run = make_run(baselines=False)
    data, _ = prepared_table(run)
    durations = run.predictions["duration"].to_numpy()
    write_report(run, data.add_column("duration", durations))
    before = run.report_file.read_bytes()
    foreign = data.remove_columns("id").add_column("id", [f"own-{row}" for row in range(len(data))])
    for other in (data.add_column("duration", durations + 0.5), foreign):
        with pytest.raises(InputError, match="is not what the runs were made from"):
            write_report(run, other)
    assert run.report_file.read_bytes() == before


def test_a_bare_run_is_enough(make_run: MakeRun) -> None:
    run = make_run(baselines=False)
    for file in (run.predictions_file, run.split_file, run.config_file, run.environment_file):
        file.unlink()
    metrics = run.metrics
    metrics["parts"]["test"]["uar_interval"] = None
    del metrics["terms"], metrics["notes"]
    run.write_json(run.metrics_file, metrics)
    text = Page(write_report(run)).text
    assert "has no split.json" in text
    assert "The terms of the recordings are unknown" in text
    assert "No baseline was trained" in text
    assert "There is no interval for this figure: 6 speakers are too few" in text


def test_an_empty_half_of_the_examples_is_no_error() -> None:
    none = pd.DataFrame({"label": pd.Series([], dtype="str"), "_hash": pd.Series([], dtype="float64")})
    assert _spread_over_classes(none, {"angry": 2}).empty
