from __future__ import annotations

import base64
import csv
import io
import json
from pathlib import Path

import numpy as np
import pytest
from datasets import Dataset
from PIL import Image

from ser_ft import audio
from ser_ft.cli import main
from ser_ft.report.comparison import contents
from ser_ft.report.comparison.pairs import Compared, difference, holm, verdict
from ser_ft.report.comparison.published import people, published
from ser_ft.report.comparison.report import compare, rows, text, write_comparison
from ser_ft.utils.errors import InputError
from ser_ft.utils.text import size_text, time_text
from tests.helpers.html_page import Page
from tests.helpers.runs import CLASSES, write_folds, write_run

WAV2VEC2 = "facebook/wav2vec2-base (full)"
WAVLM = "microsoft/wavlm-large (lora)"
REBUILT = "CREMA-D, rebuilt audio"


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave the figures blank, where a test is about the words."""
    blank = io.BytesIO()
    Image.new("RGB", (8, 8)).save(blank, "png")
    monkeypatch.setattr(contents, "_png", lambda figure: blank.getvalue())


def speed(factor: float) -> dict[str, object]:
    return {"speed": {"real_time_factor": factor, "clips": 10, "threads": 1}}


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pretrained models, one of them no better than the MFCC-CNN, and a classic network; a leaking run."""
    folder = tmp_path_factory.mktemp("sweep")
    write_folds(folder / "mfcc", baselines=("svm",), cost=speed(0.01), skill=0.8)
    write_folds(folder / "plain", model="plain-cnn", cost=speed(0.02), skill=1.2)
    write_folds(folder / "wav2vec2", model=WAV2VEC2, seeds=(0, 1), cost=speed(0.2), skill=3.0)
    write_folds(folder / "wavlm", model=WAVLM, cost={"device": "NVIDIA H200"}, skill=0.8)
    write_folds(folder / "leak", model="lstm", split="random", leaking=True, skill=6.0)
    return folder


@pytest.fixture(scope="module")
def compared(sweep: Path) -> list[Compared]:
    return compare([str(sweep)], shown=False)


@pytest.fixture(scope="module")
def page(compared: list[Compared], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return Page(write_comparison(compared, tmp_path_factory.mktemp("page") / "comparison.html", shown=False))


def sounds(compared: list[Compared], seconds: float = 0.5) -> Dataset:
    ids = list(compared[0].tested.best.clips["id"])
    wave = np.random.default_rng(0).integers(-9000, 9000, int(seconds * audio.SAMPLE_RATE), dtype=np.int16)
    sound = [{"bytes": audio.to_wav(wave), "path": None}] * len(ids)
    return Dataset.from_dict({"id": ids, "audio": sound, "duration": [seconds] * len(ids)})


def test_the_page_answers_whether_transfer_learning_helps(page: Page, compared: list[Compared]) -> None:
    found = compared[0].beside[WAV2VEC2]
    assert found.p_value < 0.05
    assert f"{WAV2VEC2} recognises more than mfcc-cnn" in page.text
    assert (
        f"{found.difference:+.3f} beside the baseline (95 % interval {found.low:+.3f} to {found.high:+.3f})"
        in page.text
    )
    assert f"No difference between {WAVLM} and mfcc-cnn can be told from 8 speakers" in page.text
    assert "corrected for 2 comparisons" in page.text


def test_every_model_stands_in_the_table_with_its_pooled_scores(page: Page, compared: list[Compared]) -> None:
    assert compared[0].tested.best.kind == "transfer"
    for system in compared[0].tested.systems:
        row = next(row for row in page.rows if row and row[0].startswith(system.name) and len(row) > 8)
        low, high = system.scores["low"], system.scores["high"]
        assert row[2] == f"{system.scores['uar']:.3f}" + ("" if low is None else f"{low:.3f}-{high:.3f}")
        assert row[-3:] == [f"{system.scores[key]:.3f}" for key in ("accuracy", "macro_f1", "ece")]
        assert row[1] == ("2 x 2" if system.name == WAV2VEC2 else "2")


def test_the_sections_stand_in_order_and_are_linked(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    wanted = ["transfer", "models", "cost", "confusions", "groups", "pairs", "hard"]
    wanted = [*(f"set0-{name}" for name in wanted), "published", "made", "terms"]
    assert [name for name in ids if name in wanted] == wanted
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} <= set(ids)
    assert len(page.all("img")) == 7
    page.check_alone()


def test_cost_names_the_machines_where_they_differ(page: Page) -> None:
    assert "These runs come from 2 machines" in page.text
    row = next(row for row in page.rows if row[:1] == [WAV2VEC2] and "0.2" in row)
    assert row[2:6] == ["0.1 M", "90 k", "1.51 min", "0.2"]


def test_a_leaking_split_stands_last_and_beside_nothing(compared: list[Compared], page: Page) -> None:
    assert [one.leaking for one in compared] == [False, True]
    assert compared[1].beside == {}
    assert compared[1].pairs == {}
    assert "Leaking split. The speakers of this test part were heard in training too." in page.text
    assert "lstm" not in page.text[: page.text.index("Leaking split: ravdess")]
    lines = text(compared).split("\n")
    leak = next(place for place, line in enumerate(lines) if line.startswith("LEAKING split, not to be compared"))
    assert all("lstm" not in line for line in lines[:leak])
    assert "difference" not in lines[leak + 2]


def test_pairs_are_corrected_for_their_number(compared: list[Compared], page: Page) -> None:
    one = compared[0]
    assert len(one.pairs) == 6
    assert all(one.corrected[names] >= pair.p_value for names, pair in one.pairs.items())
    names = [system.name for system in one.tested.models]
    row = next(row for row in page.rows if row[0] == f"1 {names[0]}")
    found = one.pairs[names[0], names[3]]
    p = one.corrected[names[0], names[3]]
    assert row[3] == f"{found.difference:+.3f}p {p:.3f}"
    assert "Of 6 comparisons some would look large by chance alone" in page.text


def test_holm() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_few_speakers_are_said_to_be_too_few(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc", people=4, skill=0.0)
    write_folds(tmp_path / "wav2vec2", people=4, model=WAV2VEC2, skill=9.0)
    (one,) = compare([str(tmp_path)], shown=False)
    found = one.beside[WAV2VEC2]
    assert found.smallest_p_value == 0.125
    words = verdict(WAV2VEC2, "mfcc-cnn", found, found.p_value)
    assert words.startswith("4 speakers cannot tell facebook/wav2vec2-base (full) from mfcc-cnn")


@pytest.mark.usefixtures("undrawn")
def test_clips_missed_by_all_models_can_be_heard(sweep: Path, tmp_path: Path) -> None:
    compared = compare([str(sweep / "mfcc"), str(sweep / "plain")], shown=False)
    one = compared[0]
    missed = np.ones(len(one.tested.best.labels), dtype=bool)
    for system in one.tested.models:
        missed &= (system.predictions != system.labels).all(axis=0)
    heard = Page(write_comparison(compared, tmp_path / "heard.html", sounds(compared), num_examples=2, shown=False))
    count = int(missed.sum())
    assert count > 0
    assert f"{count} clip{'' if count == 1 else 's'} of 64" in heard.text
    assert len(heard.all("audio")) == 2
    sound = audio.from_wav(base64.b64decode(heard.all("audio")[0]["src"].partition(",")[2]))
    assert len(sound) == audio.SAMPLE_RATE // 2
    assert "ravdess: A corpus (CC-BY-NC-SA-4.0: non-commercial). Their terms, below" in heard.text
    heard.check_alone()


def test_other_data_is_refused(compared: list[Compared], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="another length there"):
        write_comparison(compared, tmp_path / "page.html", sounds(compared, 0.7))
    other = Dataset.from_dict({"id": ["x"], "duration": [1.0]})
    with pytest.raises(InputError, match="holds none of their clips"):
        write_comparison(compared, tmp_path / "page.html", other)
    assert not list(tmp_path.iterdir())


def test_the_table_and_the_rows_say_the_same(compared: list[Compared]) -> None:
    shown = text(compared)
    found = rows(compared)
    assert [row["model"] for row in found][:2] == [WAV2VEC2, "plain-cnn"]
    line = next(line for line in shown.split("\n") if line.startswith(WAV2VEC2))
    row = found[0]
    assert f"{row['uar']:.3f}  {row['low']:.3f}-{row['high']:.3f}" in line
    assert f"{row['difference']:+.3f}" in line
    assert "0.1 M" in line
    assert row["runs"] == 4
    assert row["baseline"] == "mfcc-cnn"
    assert row["std_seeds"] > 0
    assert [name for name in row["folders"] if "seed1" in name]


def test_a_baseline_can_be_named(sweep: Path) -> None:
    (first, _) = compare([str(sweep)], "plain-cnn", shown=False)
    assert first.baseline is not None
    assert first.baseline.name == "plain-cnn"
    other = next(one for one in first.tested.systems if one.name == "mfcc-cnn")
    assert first.beside["mfcc-cnn"] == difference(other, first.baseline)
    with pytest.raises(InputError, match=r"--baseline vgg: no such model here; there are facebook/wav2vec2-base"):
        compare([str(sweep)], "vgg", shown=False)


@pytest.mark.usefixtures("undrawn")
def test_without_an_mfcc_cnn_the_best_classic_network_is_the_baseline(sweep: Path, tmp_path: Path) -> None:
    paths = [str(sweep / "plain"), str(sweep / "wav2vec2")]
    found = compare(paths, shown=False)
    assert found[0].baseline is not None
    assert found[0].baseline.name == "plain-cnn"
    shown = Page(write_comparison(found, tmp_path / "page.html", shown=False))
    assert "trained from nothing: there is no MFCC-CNN" in shown.text


@pytest.mark.usefixtures("undrawn")
def test_without_a_pretrained_model_the_page_says_how_to_make_one(sweep: Path, tmp_path: Path) -> None:
    shown = Page(write_comparison(compare([str(sweep / "mfcc")], shown=False), tmp_path / "page.html", shown=False))
    assert "No pretrained model was tested on these clips. Fine-tune one with the same data and split;" in shown.text
    assert "There is one model alone on these clips." in shown.text
    alone = compare([str(sweep / "wav2vec2")], shown=False)
    assert alone[0].baseline is None
    shown = Page(write_comparison(alone, tmp_path / "page.html", shown=False))
    assert "There is no MFCC-CNN and no other classic network here" in shown.text


@pytest.mark.usefixtures("undrawn")
def test_names_are_the_users_and_do_no_harm(sweep: Path, tmp_path: Path) -> None:
    found = compare([f"<b>ours</b> $x$={sweep / 'mfcc'}"], shown=False)
    assert found[0].tested.models[0].name == "<b>ours</b> $x$"
    shown = Page(write_comparison(found, tmp_path / "page.html", shown=False))
    assert "<b>ours</b> $x$" in shown.text
    assert not shown.all("b")


@pytest.mark.usefixtures("undrawn")
def test_the_cross_corpus_matrix(tmp_path: Path) -> None:
    corpora = {name: [f"{name}-{number:02d}" for number in range(6)] for name in ("cremad", "ravdess")}
    for name, own in corpora.items():
        others = [one for other, voices in corpora.items() if other != name for one in voices]
        options = {"fold": None, "notes": {"cremad": REBUILT}}
        cross, left = tmp_path / "cross" / f"{name}-seed0", tmp_path / "left" / f"{name}-seed0"
        write_run(cross, split=f"cross-corpus-{name}", speakers=[*own[:2], *others], **options)
        write_run(left, split=f"corpus-{name}", speakers=own, **options)
    found = compare([str(tmp_path)], shown=False)
    shown = Page(write_comparison(found, tmp_path / "page.html", shown=False))
    cells = {one.tested.best.split: one.tested.best.scores_by("corpus") for one in found}
    for trained in corpora:
        row = next(row for row in shown.rows if row[0] == trained and len(row) == 3)
        known = cells[f"cross-corpus-{trained}"]
        assert [cell[:5] for cell in row[1:]] == [f"{known[name]['uar']:.3f}" for name in corpora]
        assert ["unseen speakers" in cell for cell in row[1:]] == [name == trained for name in corpora]
    row = shown.row("all others")
    assert [cell[:5] for cell in row[1:]] == [f"{cells['corpus'][name]['uar']:.3f}" for name in corpora]
    assert f"{REBUILT}: cremad." in shown.text
    assert f"note: {REBUILT}: cremad" in text(found)
    only = compare([str(tmp_path / "cross")], shown=False)
    assert "From one corpus to another" in Page(write_comparison(only, tmp_path / "only.html", shown=False)).text


def test_published_figures_are_marked(page: Page) -> None:
    figures = {(one.system, one.corpora, one.trained_on): one for one in published()}
    assert len(figures) == len(published())
    emobox = figures["WavLM-large", ("ravdess",), None]
    assert (emobox.uar, emobox.accuracy, emobox.leaking) == (pytest.approx(0.72), pytest.approx(0.7222), False)
    assert figures["WavLM-large", ("cremad",), None].leaking
    assert all(one.leaking for one in published() if one.system == "older notebook" or one.corpora == ("tess",))
    assert all(one.source and one.protocol and (one.uar or one.accuracy) for one in published())
    row = next(row for row in page.rows if row[:2] == ["WavLM-large", "ravdess8 classes"])
    assert row[2:6] == ["72.0", "72.2", "71.4", "unseen"]
    row = next(row for row in page.rows if row[:2] == ["WavLM-large", "tess"])
    assert row[5] == "leaking"


def test_people_are_shown_beside_their_own_corpus_alone(page: Page) -> None:
    known = people(["ravdess"])
    assert known is not None
    assert known.share == pytest.approx(0.67)
    assert people(["ravdess", "cremad"]) is None
    assert people(["tess"]) is None
    assert "People: 0.670 (share of right answers, voice alone" in page.text


@pytest.mark.usefixtures("undrawn")
def test_the_command(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    given = ["compare", str(sweep / "mfcc"), f"ours={sweep / 'plain'}"]
    assert main(given) == 0
    out = capsys.readouterr().out
    assert out.endswith("report: comparison.html\n")
    assert out.index("ours") < out.index("mfcc-cnn  ")
    assert (tmp_path / "comparison.html").is_file()
    assert main([*given, "--format", "json", "--out", "pages/two.html"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["ours", "mfcc-cnn", "svm"]
    assert (tmp_path / "pages" / "two.html").is_file()
    assert main([*given, "--format", "csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 3


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], ".: no evaluated run in it"),
        ([".", "--out", "page.txt"], "page.txt: the name of a comparison must end in .html"),
    ],
)
def test_wrong_input_is_one_line(
    given: list[str], said: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *given]) == 2
    assert said in capsys.readouterr().err


def test_sizes_and_times() -> None:
    assert [size_text(number) for number in (98_000, 309_000, 94_600_000, 1_550_000_000)] == [
        *("98 k", "0.309 M", "94.6 M", "1.55 G")
    ]
    assert [time_text(seconds) for seconds in (42.0, 90.0, 7380.0)] == ["42 s", "1.5 min", "2.05 h"]


@pytest.mark.usefixtures("undrawn")
def test_a_corpus_whose_leaving_out_leaves_other_classes_stands_in_the_row_of_all_others(tmp_path: Path) -> None:
    voices = {name: [f"{name}-{number:02d}" for number in range(6)] for name in ("cremad", "ravdess")}
    write_run(tmp_path / "cross", split="cross-corpus-ravdess", fold=None, speakers=voices["cremad"])
    for name, classes in (("cremad", CLASSES), ("ravdess", CLASSES[:3])):
        left = tmp_path / "left" / f"{name}-seed0"
        write_run(left, split=f"corpus-{name}", fold=None, speakers=voices[name], classes=classes)
    found = compare([str(tmp_path)], shown=False)
    row = Page(write_comparison(found, tmp_path / "page.html", shown=False)).row("all others")
    assert all(cell != "-" for cell in row[1:])


@pytest.mark.usefixtures("undrawn")
def test_where_speakers_are_not_known_nothing_is_said_over_speakers(tmp_path: Path) -> None:
    people = [*(f"own-0{number}" for number in range(6)), "own-unknown"]
    answered = {
        name: write_run(tmp_path / name, model=name, speakers=people[:6], skill=skill)
        for name, skill in (("mfcc-cnn", 0.5), ("plain-cnn", 2.0))
    }
    (known,) = compare([str(tmp_path)], shown=False)
    assert known.beside
    for run in answered.values():
        run.write_predictions(run.predictions.replace({"speaker": {"own-05": "own-unknown"}}))
    (one,) = compare([str(tmp_path)], shown=False)
    assert not one.beside
    assert all(system.scores["low"] is None for system in one.tested.systems)
    write_comparison([one], tmp_path / "page.html", shown=False)


def test_one_name_for_two_models_is_refused(sweep: Path) -> None:
    with pytest.raises(InputError, match=r"a=\.\.\.: stands for runs of different models"):
        compare([f"a={sweep / 'mfcc'}", f"a={sweep / 'wav2vec2'}"], shown=False)
