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
from ser_ft.report.run.report import write_report
from ser_ft.report.shared.samples import _spread_over_classes
from ser_ft.utils.errors import InputError
from tests.helpers.html_page import Page

if TYPE_CHECKING:
    from datasets import Dataset

MakeRun = Callable[..., RunFolder]
SYNTHETIC = "synthetic voices (ser_ft miniature), not recordings"


@pytest.fixture(scope="module")
def page(run: RunFolder) -> Page:
    return Page(write_report(run))


@pytest.fixture(scope="module")
def odd(odd_run: RunFolder) -> Page:
    return Page(write_report(odd_run))


def sounds(run: RunFolder, seconds: float = 0.4) -> tuple[Dataset, dict[str, np.ndarray]]:
    """A prepared table with a tone of its own for each clip of the run, and the samples by id."""
    from datasets import Dataset

    random = np.random.default_rng(0)
    ids = list(run.predictions["id"])
    samples = {name: random.integers(-9000, 9000, int(seconds * audio.SAMPLE_RATE), dtype=np.int16) for name in ids}
    column = [{"bytes": audio.to_wav(samples[name]), "path": None} for name in ids]
    return Dataset.from_dict({"id": ids, "audio": column}), samples


def test_the_page_shows_the_runs_figures(run: RunFolder, page: Page) -> None:
    parts = run.metrics["parts"]
    test, interval = parts["test"], parts["test"]["uar_interval"]
    assert f"share of {test['uar']:.3f} on average" in page.text
    assert f"{interval['low']:.3f} to {interval['high']:.3f} (a t interval about" in page.text
    assert "Measured on test: 96 clips of 6 unseen speakers. Split: speaker fold 0." in page.text
    for name, scores in parts.items():
        shown = [f"{scores[key]:.3f}" for key in ("uar", "accuracy", "macro_f1", "ece", "nll", "chance")]
        row = page.row(name)
        assert row[1:3] == [str(scores["clips"]), str(scores["speakers"])]
        assert [row[3], *row[5:]] == shown
    for name in run.metrics["classes"]:
        shown = [f"{test['recall'][name]:.3f}", f"{test['precision'][name]:.3f}", "12"]
        assert shown in [row[1:] for row in page.rows if row[0] == name]
    assert page.row("svm")[1] == f"{run.baselines[1].metrics['parts']['test']['uar']:.3f}"
    assert page.row("ravdess")[1:4] == ["96", "6", f"{test['uar']:.3f}"]
    assert "weights kept are those of epoch 8" in page.text


def test_the_confusion_counts_are_there_as_a_table(run: RunFolder, page: Page) -> None:
    classes, counts = run.metrics["classes"], run.metrics["parts"]["test"]["confusion"]
    rows = [row for row in page.rows if len(row) == len(classes) + 1 and row[0] in classes]
    assert [[int(cell) for cell in row[1:]] for row in rows] == counts


def test_calibration_before_and_after(run: RunFolder, page: Page, odd: Page) -> None:
    parts = run.metrics["parts"]
    assert "divided by a temperature of 1.25, fitted on 64 validation clips (over 1:" in page.text
    for name, scores in parts.items():
        before_and_after = ["0.234", f"{scores['ece']:.3f}", "2.346", f"{scores['nll']:.3f}"]
        assert [name, *before_and_after, "25 %", "0.789"] in page.rows
    assert "An answer whose confidence is under 0.42 is called uncertain" in page.text
    for place in parts["test"]["reliability"]:
        edges = f"{place['low']:.2f} to {place['high']:.2f}"
        shares = [f"{place[key]:.3f}" for key in ("confidence", "accuracy")]
        assert [edges, str(place["clips"]), *shares] in page.rows
    assert "No temperature was fitted here" in odd.text


def test_what_the_surest_answers_are_worth(make_run: MakeRun) -> None:
    made = make_run(baselines=False)
    metrics = made.metrics
    metrics["parts"]["test"]["reliability"][-1] |= {"low": 14 / 15, "clips": 10, "accuracy": 0.9}
    made.write_json(made.metrics_file, metrics)
    told = "Of the 10 clips of the test part that it is surest of (a confidence over 0.93), 90 % are recognised."
    assert told in Page(write_report(made, num_examples=0)).text
    metrics["parts"]["test"]["reliability"][-1]["clips"] = 9
    made.write_json(made.metrics_file, metrics)
    assert "surest of" not in Page(write_report(made, num_examples=0)).text, "too few to say so"


def test_groups_and_speakers_are_told_apart(run: RunFolder, page: Page) -> None:
    test = run.metrics["parts"]["test"]
    for trait in ("gender", "intensity"):
        for group, scores in test[f"by_{trait}"].items():
            interval = scores["uar_interval"]
            told = f"{interval['low']:.3f}-{interval['high']:.3f}" if interval else "-"
            figures = [f"{scores[key]:.3f}" for key in ("accuracy", "chance")]
            assert page.row(group)[1:] == ["48", str(scores["speakers"]), f"{scores['uar']:.3f}", told, *figures]
    assert not [row for row in page.rows if row[:1] == ["under 2 s"]], "one group tells nothing apart"
    for speaker, scores in test["by_speaker"].items():
        assert page.row(speaker)[1:3] == ["16", f"{scores['uar']:.3f}"]
    spread = test["speaker_uar"]
    assert f"ranges from {spread['min']:.3f} to {spread['max']:.3f}, with a standard deviation" in page.text
    assert "for a new voice, expect anything in that range" in page.text


def test_what_was_not_judged_is_said(make_run: MakeRun, page: Page) -> None:
    assert "Not judged" not in page.text
    made = make_run(baselines=False)
    metrics = made.metrics
    metrics["parts"]["test"]["excluded"] = {"calm": 12, "surprise": 1}
    made.write_json(made.metrics_file, metrics)
    text = Page(write_report(made, num_examples=0)).text
    assert "Not judged: 12 clips of calm, 1 clip of surprise: the model never learned these classes." in text


def test_nothing_is_loaded_from_elsewhere(page: Page, odd: Page) -> None:
    for shown in (page, odd):
        shown.check_self_contained()


def test_pictures_are_embedded_and_described(run: RunFolder, page: Page) -> None:
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
    assert "Leaking split. 9 of the 9 speakers of the test part were heard in training too." in text
    assert "unseen speakers. Split" not in text
    assert "for a new voice" not in text
    assert "9 speakers of 9 are in more than one part." in text
    assert f"{SYNTHETIC[0].upper()}{SYNTHETIC[1:]}: ravdess, savee." in text
    assert odd.row("test")[-1] == odd.row("svm")[-1] == odd.row("savee")[-1] == "leaking split; synthetic voices"


def test_missing_parts_and_classes(odd: Page) -> None:
    assert not [row for row in odd.rows if row[0] == "validation"]
    assert "no validation part to choose an epoch by" in odd.text
    assert [row[1:] for row in odd.rows if row[0] == "calm"][-1][::2] == ["-", "0"]


def test_a_better_baseline_is_admitted(make_run: MakeRun) -> None:
    made = make_run()
    better = made.baselines[1]
    metrics = better.metrics
    metrics["parts"]["test"]["uar"] = made.metrics["parts"]["test"]["uar"] + 0.01
    better.write_json(better.metrics_file, metrics)
    text = Page(write_report(made, num_examples=0)).text
    assert "svm reaches the same UAR or a higher one than this model." in text
    assert "this model. The UAR of svm lies inside this model's interval" in text
    assert "Sample predictions" not in text


def test_names_are_escaped(make_run: MakeRun) -> None:
    evil = "<script>alert(1)</script>"
    classes = (evil, '"><img src=x onerror=alert(1)>', "plain")
    made = make_run(classes=classes, model=evil, notes={"ravdess": evil}, baselines=False)
    made.write_text(made.config_file, f"path: {evil}\n")
    metrics = made.metrics
    metrics["terms"]["ravdess"]["citation"] = f"{evil} javascript:alert(1) https://example.org/?a=<b>"
    made.write_json(made.metrics_file, metrics)
    page = Page(write_report(made))
    assert not page.all("script")
    assert len(page.all("img")) == 6
    assert evil in page.text
    assert [a["href"] for a in page.all("a") if not a["href"].startswith("#")] == ["https://example.org/?a=<b>"]


def test_samples_are_balanced_and_true_to_the_predictions(run: RunFolder, page: Page) -> None:
    table = run.predictions.set_index("id")
    cards = re.findall(r'<li>.*?class="tag (right|wrong)".*?<p class="faint">(.*?)<br>.*?</li>', page.source, re.DOTALL)
    assert [kind for kind, _ in cards].count("right") == [kind for kind, _ in cards].count("wrong") == 6
    assert len({name for _, name in cards}) == 12
    classes = run.metrics["classes"]
    for kind, name in cards:
        row = table.loc[name]
        assert row["part"] == "test"
        assert (row[classes].astype(float).idxmax() == row["label"]) is (kind == "right")
    assert {table.loc[name, "label"] for _, name in cards} == set(classes)
    assert page.source == write_report(run).read_text(encoding="utf-8"), "the same run gives the same page"


def test_players_play_the_clips(make_run: MakeRun) -> None:
    made = make_run(notes={"ravdess": SYNTHETIC}, baselines=False)
    data, samples = sounds(made)
    page = Page(write_report(made, data, num_examples=5))
    players = page.all("audio")
    assert len(players) == 5
    assert f"The voices you hear: ravdess: {SYNTHETIC}." in page.text
    for player in players:
        wav = base64.b64decode(player["src"].removeprefix("data:audio/wav;base64,"))
        name = player["aria-label"].split()[1].rstrip(",")
        assert np.array_equal(audio.to_pcm16(audio.decode(wav)), samples[name])


def test_long_clips_are_cut_and_unknown_ones_are_silent(make_run: MakeRun) -> None:
    made = make_run(baselines=False)
    data, _ = sounds(made, 0.1)
    shown = re.findall(
        r'<p class="faint">(ravdess-.*?)<br>', write_report(made, num_examples=3).read_text(encoding="utf-8")
    )
    long, gone, broken = shown
    stored = {long: audio.to_wav(np.ones(13 * 16000, np.int16)), broken: b"x"}
    kept = [name for name in data["id"] if name != gone]
    column = [{"bytes": stored.get(name), "path": "nowhere.wav"} for name in kept]
    other = type(data).from_dict({"id": kept, "audio": column})
    page = Page(write_report(made, other, num_examples=3))
    assert len(page.all("audio")) == 1
    assert "the first 12 of 13 seconds" in page.text
    assert "Ryerson Audio-Visual Database" in page.text.partition("The voices you hear")[2].partition("below")[0]


def test_another_datas_voices_do_not_stand_for_the_runs(make_run: MakeRun) -> None:
    """The synthetic voices have the names of real clips: their lengths tell them apart."""
    made = make_run(baselines=False)
    data, _ = sounds(made)
    durations = made.predictions["duration"].to_numpy()
    write_report(made, data.add_column("duration", durations))
    before = made.report_file.read_bytes()
    foreign = data.remove_columns("id").add_column("id", [f"own-{row}" for row in range(len(data))])
    for other in (data.add_column("duration", durations + 0.5), foreign):
        with pytest.raises(InputError, match="was not what the runs were made from"):
            write_report(made, other)
    assert made.report_file.read_bytes() == before


def test_a_bare_run_is_enough(make_run: MakeRun) -> None:
    made = make_run(baselines=False)
    for file in (made.predictions_file, made.split_file, made.config_file, made.environment_file):
        file.unlink()
    metrics = made.metrics
    metrics["parts"]["test"]["uar_interval"] = None
    del metrics["terms"], metrics["notes"]
    made.write_json(made.metrics_file, metrics)
    text = Page(write_report(made)).text
    assert "no record of its split" in text
    assert "No terms are known" in text
    assert "No baseline was trained" in text
    assert "There is no interval for this figure: 6 speakers are too few" in text


def test_the_limits_are_said(page: Page) -> None:
    assert "reads expression, not feeling" in page.text
    assert "Regulation (EU) 2024/1689, Article 5(1)(f)" in page.text


def test_no_clip_to_choose_from_is_no_failure() -> None:
    """A model that is right about no clip at all, or about every one, leaves one kind of sample empty."""
    none = pd.DataFrame({"label": pd.Series([], dtype="str"), "_hash": pd.Series([], dtype="float64")})
    assert _spread_over_classes(none, {"angry": 2}).empty
