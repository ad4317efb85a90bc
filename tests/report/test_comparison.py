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
from ser_ft.report.comparison.pairs import SystemComparison, conclusion, holm, paired_difference
from ser_ft.report.comparison.published import human_performance, published_results
from ser_ft.report.comparison.report import compare, comparison_text, system_rows, transfer_lines, write_comparison
from ser_ft.utils.errors import InputError
from ser_ft.utils.text import count_text, size_text, time_text
from tests.helpers.html_page import Page
from tests.helpers.runs import CLASSES, write_folds, write_run

WAV2VEC2 = "facebook/wav2vec2-base (full)"
WAVLM = "microsoft/wavlm-large (lora)"
REBUILT = "CREMA-D, rebuilt audio"
CORPORA = ("cremad", "ravdess")
SPEAKERS = {name: [f"{name}-{number:02d}" for number in range(6)] for name in CORPORA}


@pytest.fixture(autouse=True)
def blank_figures(monkeypatch: pytest.MonkeyPatch) -> None:
    """Draw figures only for the pages that several tests read."""
    blank = io.BytesIO()
    Image.new("RGB", (8, 8)).save(blank, "png")
    monkeypatch.setattr(contents, "figure_png", lambda figure: blank.getvalue())


def speed(factor: float) -> dict[str, object]:
    return {"speed": {"real_time_factor": factor, "clips": 10, "threads": 1}}


def read(*paths: object) -> list[SystemComparison]:
    return compare(list(map(str, paths)), show_progress=False)


def write_page(comparisons: list[SystemComparison], file: Path) -> Page:
    return Page(write_comparison(comparisons, file, show_progress=False))


@pytest.fixture(scope="module")
def sweep(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two pretrained models, one of them no better than the MFCC-CNN, a network from scratch, and a leaking run."""
    folder = tmp_path_factory.mktemp("sweep")
    write_folds(folder / "mfcc", baselines=("svm",), cost=speed(0.01), skill=0.8)
    write_folds(folder / "plain", model="plain-cnn", cost=speed(0.02), skill=1.2)
    write_folds(folder / "wav2vec2", model=WAV2VEC2, seeds=(0, 1), cost=speed(0.2), skill=3.0)
    write_folds(folder / "wavlm", model=WAVLM, cost={"device": "NVIDIA H200"}, skill=0.8)
    write_folds(folder / "leak", model="lstm", split="random", leaking=True, skill=6.0)
    return folder


@pytest.fixture(scope="module")
def comparisons(sweep: Path) -> list[SystemComparison]:
    return read(sweep)


@pytest.fixture(scope="module")
def page(comparisons: list[SystemComparison], tmp_path_factory: pytest.TempPathFactory) -> Page:
    return write_page(comparisons, tmp_path_factory.mktemp("page") / "comparison.html")


def prepared_table(comparisons: list[SystemComparison], seconds: float = 0.5) -> Dataset:
    ids = list(comparisons[0].tested.best.clips["id"])
    samples = np.random.default_rng(0).integers(-9000, 9000, int(seconds * audio.SAMPLE_RATE), dtype=np.int16)
    column = [{"bytes": audio.to_wav(samples), "path": None}] * len(ids)
    return Dataset.from_dict({"id": ids, "audio": column, "duration": [seconds] * len(ids)})


def test_the_page_answers_whether_transfer_learning_helps(page: Page, comparisons: list[SystemComparison]) -> None:
    pair = comparisons[0].versus_baseline[WAV2VEC2]
    assert pair.p_value < 0.05
    assert f"{WAV2VEC2} has a higher UAR than mfcc-cnn" in page.text
    assert f"{pair.difference:+.3f} ({pair.low:+.3f} to {pair.high:+.3f}), p" in page.text
    assert f"8 speakers show no significant difference between {WAVLM} and mfcc-cnn" in page.text
    assert "corrected for 2 comparisons" in page.text


def test_the_last_lines_of_a_run_say_whether_transfer_learning_helped(comparisons: list[SystemComparison]) -> None:
    first, second = transfer_lines(comparisons)
    pair = comparisons[0].versus_baseline[WAV2VEC2]
    assert first.startswith(
        f"{WAV2VEC2} has a higher UAR than mfcc-cnn: difference of UAR {pair.difference:+.3f} (95 %"
    )
    assert second.startswith("8 speakers show no significant difference")


def test_the_table_has_the_pooled_scores_of_every_model(page: Page, comparisons: list[SystemComparison]) -> None:
    assert comparisons[0].tested.best.kind == "transfer"
    for system in comparisons[0].tested.systems:
        row = next(row for row in page.rows if row and row[0].startswith(system.name) and len(row) > 8)
        low, high = system.scores["low"], system.scores["high"]
        assert row[2] == f"{system.scores['uar']:.3f}" + ("" if low is None else f"{low:.3f} to {high:.3f}")
        assert row[-3:] == [f"{system.scores[key]:.3f}" for key in ("accuracy", "macro_f1", "ece")]
        assert row[1] == ("2 x 2" if system.name == WAV2VEC2 else "2")


def test_the_sections_are_in_order_and_linked_and_nothing_is_loaded(page: Page) -> None:
    ids = [attributes["id"] for _, attributes in page.elements if "id" in attributes]
    sections = ["transfer", "models", "cost", "confusions", "groups", "pairs", "missed"]
    sections = [*(f"set0-{name}" for name in sections), "published", "runs", "terms"]
    assert [name for name in ids if name in sections] == sections
    assert {link["href"][1:] for link in page.all("a") if link["href"].startswith("#")} <= set(ids)
    assert len(page.all("img")) == 7
    page.check_self_contained()


def test_costs_name_the_machines_if_they_differ(page: Page) -> None:
    assert "These runs come from 2 machines" in page.text
    row = next(row for row in page.rows if row[:1] == [WAV2VEC2] and "0.2" in row)
    assert row[2:6] == ["0.1 M", "90 k", "1.51 min", "0.2"]


def test_a_leaking_split_is_last_and_compared_with_nothing(comparisons: list[SystemComparison], page: Page) -> None:
    assert [comparison.leaking for comparison in comparisons] == [False, True]
    assert comparisons[1].versus_baseline == {}
    assert comparisons[1].pairs == {}
    assert "Leaking split. The speakers of this test part are also in the training part." in page.text
    assert "lstm" not in page.text[: page.text.index("Leaking split: ravdess")]
    lines = comparison_text(comparisons).split("\n")
    leaking = next(number for number, line in enumerate(lines) if line.startswith("LEAKING split, do not compare"))
    assert all("lstm" not in line for line in lines[:leaking])
    assert "difference" not in lines[leaking + 2]


def test_pairs_are_corrected_for_their_number(comparisons: list[SystemComparison], page: Page) -> None:
    first = comparisons[0]
    assert len(first.pairs) == 6
    assert all(first.corrected[names] >= pair.p_value for names, pair in first.pairs.items())
    names = [system.name for system in first.tested.models]
    row = next(row for row in page.rows if row[0] == f"1 {names[0]}")
    pair, p_value = first.pairs[names[0], names[3]], first.corrected[names[0], names[3]]
    assert row[3] == f"{pair.difference:+.3f}p {p_value:.3f}"
    assert "p is corrected for 6 comparisons" in page.text


def test_holm_correction() -> None:
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.6, 0.9]) == [1.0, 1.0]
    assert holm([]) == []


def test_too_few_speakers_are_reported(tmp_path: Path) -> None:
    write_folds(tmp_path / "mfcc", num_speakers=4, skill=0.0)
    write_folds(tmp_path / "wav2vec2", num_speakers=4, model=WAV2VEC2, skill=9.0)
    (comparison,) = read(tmp_path)
    pair = comparison.versus_baseline[WAV2VEC2]
    assert pair.smallest_p_value == 0.125
    text = conclusion(WAV2VEC2, "mfcc-cnn", pair, pair.p_value)
    assert text.startswith("4 speakers are too few to distinguish facebook/wav2vec2-base (full) from mfcc-cnn")


def test_clips_missed_by_all_models_can_be_played(sweep: Path, tmp_path: Path) -> None:
    comparisons = read(sweep / "mfcc", sweep / "plain")
    tested = comparisons[0].tested
    missed = np.ones(len(tested.best.labels), dtype=bool)
    for system in tested.models:
        missed &= (system.predictions != system.labels).all(axis=0)
    table = prepared_table(comparisons)
    page = Page(write_comparison(comparisons, tmp_path / "page.html", table, num_examples=2, show_progress=False))
    assert missed.any()
    assert f"{count_text(int(missed.sum()), 'clip')} of 64" in page.text
    assert len(page.all("audio")) == 2
    samples = audio.from_wav(base64.b64decode(page.all("audio")[0]["src"].partition(",")[2]))
    assert len(samples) == audio.SAMPLE_RATE // 2
    assert "ravdess: A corpus (CC-BY-NC-SA-4.0: non-commercial). Their terms, below" in page.text
    page.check_self_contained()


def test_the_table_of_other_clips_is_refused(comparisons: list[SystemComparison], tmp_path: Path) -> None:
    with pytest.raises(InputError, match="has another duration in it"):
        write_comparison(comparisons, tmp_path / "page.html", prepared_table(comparisons, 0.7))
    other = Dataset.from_dict({"id": ["x"], "duration": [1.0]})
    with pytest.raises(InputError, match="holds none of their clips"):
        write_comparison(comparisons, tmp_path / "page.html", other)
    assert not list(tmp_path.iterdir())


def test_the_text_and_the_rows_have_the_same_figures(comparisons: list[SystemComparison]) -> None:
    row, second = system_rows(comparisons)[:2]
    assert [row["model"], second["model"]] == [WAV2VEC2, "plain-cnn"]
    line = next(line for line in comparison_text(comparisons).split("\n") if line.startswith(WAV2VEC2))
    assert f"{row['uar']:.3f}  {row['low']:.3f} to {row['high']:.3f}" in line
    assert f"{row['difference']:+.3f}" in line
    assert "0.1 M" in line
    assert row["runs"] == 4
    assert row["baseline"] == "mfcc-cnn"
    assert row["std_seeds"] > 0
    assert [name for name in row["folders"] if "seed1" in name]


def test_a_baseline_can_be_named(sweep: Path) -> None:
    first, _ = compare([str(sweep)], "plain-cnn", show_progress=False)
    assert first.baseline is not None
    assert first.baseline.name == "plain-cnn"
    other = next(system for system in first.tested.systems if system.name == "mfcc-cnn")
    assert first.versus_baseline["mfcc-cnn"] == paired_difference(other, first.baseline)
    with pytest.raises(InputError, match=r"--baseline vgg: no such model here; there are facebook/wav2vec2-base"):
        compare([str(sweep)], "vgg", show_progress=False)


def test_without_an_mfcc_cnn_the_best_network_from_scratch_is_the_baseline(sweep: Path, tmp_path: Path) -> None:
    comparisons = read(sweep / "plain", sweep / "wav2vec2")
    assert comparisons[0].baseline is not None
    assert comparisons[0].baseline.name == "plain-cnn"
    assert "trained from scratch: there is no MFCC-CNN" in write_page(comparisons, tmp_path / "page.html").text


def test_without_a_pretrained_model_the_page_says_how_to_make_one(sweep: Path, tmp_path: Path) -> None:
    page = write_page(read(sweep / "mfcc"), tmp_path / "page.html")
    assert "No pretrained model was tested on these clips. Fine-tune one with the same data and split;" in page.text
    assert "There is only one model on these clips." in page.text
    comparisons = read(sweep / "wav2vec2")
    assert comparisons[0].baseline is None
    page = write_page(comparisons, tmp_path / "page.html")
    assert "There is no MFCC-CNN and no other network trained from scratch here" in page.text


def test_names_of_users_are_escaped(sweep: Path, tmp_path: Path) -> None:
    comparisons = read(f"<b>ours</b> $x$={sweep / 'mfcc'}")
    assert comparisons[0].tested.models[0].name == "<b>ours</b> $x$"
    page = write_page(comparisons, tmp_path / "page.html")
    assert "<b>ours</b> $x$" in page.text
    assert not page.all("b")


def test_the_cross_corpus_matrix(tmp_path: Path) -> None:
    for name, other in (CORPORA, CORPORA[::-1]):
        options = {"fold": None, "notes": {"cremad": REBUILT}}
        cross, left_out = tmp_path / "cross" / f"{name}-seed0", tmp_path / "left" / f"{name}-seed0"
        write_run(cross, split=f"cross-corpus-{name}", speakers=[*SPEAKERS[name][:2], *SPEAKERS[other]], **options)
        write_run(left_out, split=f"corpus-{name}", speakers=SPEAKERS[name], **options)
    comparisons = read(tmp_path)
    page = write_page(comparisons, tmp_path / "page.html")
    cells = {item.tested.best.split: item.tested.best.scores_by("corpus") for item in comparisons}
    for trained_on in CORPORA:
        row = next(row for row in page.rows if row[0] == trained_on and len(row) == 3)
        scores = cells[f"cross-corpus-{trained_on}"]
        assert [cell[:5] for cell in row[1:]] == [f"{scores[name]['uar']:.3f}" for name in CORPORA]
        assert ["unseen speakers" in cell for cell in row[1:]] == [name == trained_on for name in CORPORA]
    row = page.row("all others")
    assert [cell[:5] for cell in row[1:]] == [f"{cells['corpus'][name]['uar']:.3f}" for name in CORPORA]
    assert f"{REBUILT}: cremad." in page.text
    assert f"note: {REBUILT}: cremad" in comparison_text(comparisons)
    assert "From one corpus to another" in write_page(read(tmp_path / "cross"), tmp_path / "only.html").text


def test_left_out_corpora_with_other_classes_are_in_the_row_of_all_others(tmp_path: Path) -> None:
    write_run(tmp_path / "cross", split="cross-corpus-ravdess", fold=None, speakers=SPEAKERS["cremad"])
    for name, classes in (("cremad", CLASSES), ("ravdess", CLASSES[:3])):
        folder = tmp_path / "left" / f"{name}-seed0"
        write_run(folder, split=f"corpus-{name}", fold=None, speakers=SPEAKERS[name], classes=classes)
    row = write_page(read(tmp_path), tmp_path / "page.html").row("all others")
    assert all(cell != "-" for cell in row[1:])


def test_published_results_are_marked_as_leaking_or_not(page: Page) -> None:
    results = {(item.system, item.corpora, item.trained_on): item for item in published_results()}
    assert len(results) == len(published_results())
    emobox = results["WavLM-large", ("ravdess",), None]
    assert (emobox.uar, emobox.accuracy, emobox.leaking) == (pytest.approx(0.72), pytest.approx(0.7222), False)
    assert results["WavLM-large", ("cremad",), None].leaking
    for item in results.values():
        assert item.leaking or (item.system != "older notebook" and item.corpora != ("tess",))
        assert item.source
        assert item.protocol
        assert item.uar or item.accuracy
    row = next(row for row in page.rows if row[:2] == ["WavLM-large", "ravdess8 classes"])
    assert row[2:6] == ["72.0", "72.2", "71.4", "unseen"]
    row = next(row for row in page.rows if row[:2] == ["WavLM-large", "tess"])
    assert row[5] == "leaking"


def test_the_unclear_direction_of_emobox_is_stated_with_its_figures(page: Page) -> None:
    unclear = [item for item in published_results() if item.is_direction_unclear]
    assert {item.corpora for item in unclear} == {("ravdess",), ("savee",)}
    assert len(unclear) == 8
    row = next(row for row in page.rows if row[0] == "Whisper-large-v3" and "66.9" in row)
    assert row[1] == "ravdess or saveedirection unclear"
    assert "by EmoBox's own site the other way round" in row[-1]
    assert "The direction of EmoBox's cross-corpus results is unclear." in page.text


def test_human_performance_is_shown_for_its_own_corpus_only(page: Page) -> None:
    people = human_performance(["ravdess"])
    assert people is not None
    assert people.score == pytest.approx(0.67)
    assert human_performance(["ravdess", "cremad"]) is None
    assert human_performance(["tess"]) is None
    assert "People: 0.670 (accuracy, voice alone" in page.text


def test_the_command_writes_the_page_and_prints_the_table(
    sweep: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    arguments = ["compare", str(sweep / "mfcc"), f"ours={sweep / 'plain'}"]
    assert main(arguments) == 0
    output = capsys.readouterr().out
    assert output.endswith("report: comparison.html\n")
    assert output.index("ours") < output.index("mfcc-cnn  ")
    assert (tmp_path / "comparison.html").is_file()
    assert main([*arguments, "--format", "json", "--out", "pages/two.html"]) == 0
    assert [row["model"] for row in json.loads(capsys.readouterr().out)] == ["ours", "mfcc-cnn", "svm"]
    assert (tmp_path / "pages" / "two.html").is_file()
    assert main([*arguments, "--format", "csv"]) == 0
    assert len(list(csv.DictReader(io.StringIO(capsys.readouterr().out)))) == 3


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere"], "nowhere: no such folder"),
        (["."], ".: no evaluated run in it"),
        ([".", "--out", "page.txt"], "page.txt: the name of a comparison must end in .html"),
    ],
)
def test_wrong_input_is_one_line(
    arguments: list[str],
    message: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["compare", *arguments]) == 2
    assert message in capsys.readouterr().err


def test_sizes_and_times_have_readable_units() -> None:
    sizes = {98_000: "98 k", 309_000: "0.309 M", 94_600_000: "94.6 M", 1_550_000_000: "1.55 G"}
    assert list(map(size_text, sizes)) == list(sizes.values())
    assert [time_text(seconds) for seconds in (42.0, 90.0, 7380.0)] == ["42 s", "1.5 min", "2.05 h"]


def test_with_unknown_speakers_nothing_is_compared(tmp_path: Path) -> None:
    speakers = [*(f"own-0{number}" for number in range(6)), "own-unknown"]
    skills = {"mfcc-cnn": 0.5, "plain-cnn": 2.0}
    runs = [write_run(tmp_path / name, name, speakers=speakers[:6], skill=skill) for name, skill in skills.items()]
    (known,) = read(tmp_path)
    assert known.versus_baseline
    for run in runs:
        run.write_predictions(run.predictions.replace({"speaker": {"own-05": "own-unknown"}}))
    (unknown,) = read(tmp_path)
    assert not unknown.versus_baseline
    assert all(system.scores["low"] is None for system in unknown.tested.systems)
    write_page([unknown], tmp_path / "page.html")


def test_one_name_for_two_models_is_refused(sweep: Path) -> None:
    with pytest.raises(InputError, match=r"a=\.\.\.: names runs of different models"):
        read(f"a={sweep / 'mfcc'}", f"a={sweep / 'wav2vec2'}")
