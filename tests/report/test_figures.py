from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure
from matplotlib.image import imread
from matplotlib.text import Text

from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.labels import COLORS, EMOTION_NAMES
from ser_ft.report.run import figures
from ser_ft.utils.errors import InputError

MakeRun = Callable[..., RunFolder]
NAMES = ["confusion", "recall", "parts", "reliability", "groups", "speakers"]


def texts(figure: Figure) -> list[str]:
    """Return all text in a figure."""
    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def check_png(file: Path) -> None:
    pixels = imread(file)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.sum(axis=2))) > 50
    assert (pixels[:4, :, :3] == 1).all(), "the margin is white"


def test_all_figures_are_written(run: RunFolder) -> None:
    files = figures.write_figures(run)
    assert [file.stem for file in files] == ["curves", *NAMES]
    assert sorted(file.name for file in run.figures.iterdir()) == sorted(file.name for file in files)
    for file in files:
        check_png(file)


def test_the_selected_epoch_is_marked(run: RunFolder) -> None:
    best = figures.selected_evaluation(run.history)
    assert best is not None
    assert best["epoch"] == 8
    assert "selected: epoch 8" in texts(figures.training_curves(run.history, run.metrics))
    losses = {1: 2.0, 2: 1.0, 3: 1.0}
    equal = [{"epoch": epoch, "validation_uar": 0.5, "validation_loss": loss} for epoch, loss in losses.items()]
    assert figures.selected_evaluation(equal) == equal[1]


def test_without_validation_no_epoch_is_marked(make_run: MakeRun) -> None:
    bare = make_run(validation=False)
    assert figures.selected_evaluation(bare.history) is None
    words = texts(figures.training_curves(bare.history, bare.metrics))
    assert "train" in words
    assert not any("selected" in text or "validation" in text for text in words)
    assert "mfcc-cnn, validation" not in texts(figures.part_scores(bare.metrics))


def test_bars_of_recall_have_the_colors_of_the_emotions(run: RunFolder) -> None:
    bars, recall = figures.class_recalls(run.metrics).axes[0].patches, run.metrics["parts"]["test"]["recall"]
    assert [to_hex(bar.get_facecolor()) for bar in bars] == [COLORS[name] for name in EMOTION_NAMES]
    assert [bar.get_width() for bar in bars] == [recall[name] for name in EMOTION_NAMES]


def test_a_class_without_clips_is_marked(make_run: MakeRun) -> None:
    metrics = make_run(missing="calm", baselines=False).metrics
    assert metrics["parts"]["test"]["recall"]["calm"] is None
    for draw in (figures.class_recalls, figures.confusion_matrix):
        assert "none in test" in texts(draw(metrics))


def test_the_figure_of_parts_shows_every_score(run: RunFolder) -> None:
    words = texts(figures.part_scores(run.metrics, [baseline.metrics for baseline in run.baselines]))
    parts = run.metrics["parts"]
    interval = parts["test"]["uar_interval"]
    assert f"{parts['train']['uar']:.3f}" in words
    assert f"{parts['test']['uar']:.3f}   {interval['low']:.3f} to {interval['high']:.3f}" in words
    assert {"mfcc-cnn, test", "majority, test", "svm, test", "chance 0.125"} <= set(words)


@pytest.mark.parametrize("leaking", [True, False])
def test_each_figure_carries_the_notes(make_run: MakeRun, leaking: bool) -> None:
    run = make_run(leaking=leaking, notes={"ravdess": "CREMA-D, rebuilt audio"}, baselines=False)
    metrics = run.metrics
    history = [{"epoch": 1, "step": 3, "train_loss": 1.0, "train_uar": 0.5}]
    functions = (figures.confusion_matrix, figures.class_recalls, figures.part_scores)
    functions += (figures.reliability_diagram, figures.group_figure, figures.speaker_figure)
    plots = [figures.training_curves(history, metrics), *(draw(metrics) for draw in functions)]
    for figure in plots:
        text = "\n".join(texts(figure))
        assert "CREMA-D, rebuilt audio: ravdess" in text
        assert ("Leaking split" in text) is leaking
        if figure is not plots[0]:
            assert ("unseen speakers" in text) is not leaking


def test_names_of_users_are_shown_literally(make_run: MakeRun) -> None:
    classes = ("$x$", "a\nb", "<b>", "much too long a name for an axis")
    own = make_run(classes=classes, model="$\\frac$", baselines=False)
    assert [file.stem for file in figures.write_figures(own)] == NAMES, "no curves without a history"
    assert "much too long a name …" in texts(figures.class_recalls(own.metrics))


def test_reliability_bars_have_the_height_of_the_accuracy(run: RunFolder) -> None:
    metrics = run.metrics
    scores = metrics["parts"]["test"]
    upper, lower = figures.reliability_diagram(metrics).axes
    bins = scores["reliability"]
    for bin, bar, gap in zip(bins, upper.patches[::2], upper.patches[1::2], strict=True):
        assert (bar.get_x(), bar.get_height()) == pytest.approx((bin["low"], bin["accuracy"]))
        ends = sorted((gap.get_y(), gap.get_y() + gap.get_height()))
        assert ends == pytest.approx(sorted((bin["accuracy"], bin["confidence"])))
    assert [bar.get_height() for bar in lower.patches] == [bin["clips"] for bin in bins]
    assert sum(bin["clips"] for bin in bins) == scores["clips"]


def test_the_calibration_error_is_shown_before_and_after_the_temperature(run: RunFolder, make_run: MakeRun) -> None:
    ece = run.metrics["parts"]["test"]["ece"]
    text = "\n".join(texts(figures.reliability_diagram(run.metrics)))
    assert f"ECE) {ece:.3f}; 0.234 before the temperature of 1.25" in text
    bare = make_run(validation=False, baselines=False).metrics
    assert "no temperature was fitted" in "\n".join(texts(figures.reliability_diagram(bare)))


def test_traits_with_two_groups_are_shown(run: RunFolder) -> None:
    metrics = run.metrics
    scores = metrics["parts"]["test"]
    assert list(figures.group_scores(scores)) == ["gender", "intensity"], "all clips are shorter than 2 s"
    words = texts(figures.group_figure(metrics))
    strong = scores["by_intensity"]["strong"]
    interval = strong["uar_interval"]
    assert {"female", "male", "normal", "strong"} <= set(words)
    assert f"{strong['uar']:.3f}   {interval['low']:.3f} to {interval['high']:.3f}" in words
    assert f"{scores['by_gender']['male']['uar']:.3f}" in words, "three speakers: no interval"


def test_each_speaker_is_a_dot_that_covers_no_other(run: RunFolder) -> None:
    metrics = run.metrics
    scores = metrics["parts"]["test"]
    figure = figures.speaker_figure(metrics)
    uars = sorted(speaker["uar"] for speaker in scores["by_speaker"].values())
    (dots,) = figure.axes[0].collections
    assert [x for x, _ in dots.get_offsets()] == uars
    lowest = min(scores["by_speaker"], key=lambda name: scores["by_speaker"][name]["uar"])
    assert f"from {uars[0]:.3f} ({lowest}) to {uars[-1]:.3f}" in "\n".join(texts(figure))
    for speaker in scores["by_speaker"].values():
        speaker["uar"] = 0.5
    (dots,) = figures.speaker_figure(metrics).axes[0].collections
    assert np.asarray(dots.get_offsets()).tolist() == [[0.5, height] for height in range(len(uars))]


def test_without_groups_and_with_one_speaker_both_figures_are_missing(make_run: MakeRun) -> None:
    run = make_run(baselines=False)
    table = run.predictions
    table = table[table["speaker"].isin(["ravdess-01", "ravdess-13", "ravdess-17"])]
    table[["gender", "intensity"]] = None
    run.write_json(run.metrics_file, run.metrics | {"parts": metrics_per_part(table, run.metrics["classes"])})
    assert [file.stem for file in figures.write_figures(run)] == NAMES[:4]


def probe_result(*backbones: str, head: bool = False) -> dict[str, Any]:
    """Return the probe of encoders with three layers, of which the second is best."""
    rows = [
        {"backbone": name, "layer": layer, "state": state, "uar": uar, "std": 0.05, "best": layer == 2}
        for name in backbones
        for layer, (state, uar) in enumerate((("input", 0.2), ("output", 0.3), ("output", 0.6), ("output", 0.5)))
    ]
    if head:
        rows.append(rows[-1] | {"state": "head", "uar": 0.4, "std": 0.1})
    for row in rows:
        row["folds"] = [row["uar"]] * 5
    split = {"name": None, "fold": None, "leaking": False}
    facts = {"clips": 1199, "speakers": 20, "chance": 0.125, "pooling": "mean", "notes": {"tess": "rebuilt audio"}}
    return facts | {"split": split, "layers": rows}


def test_layers_are_placed_by_their_depth(tmp_path: Path) -> None:
    probe = probe_result("some/base", "/far/away/" + "deep/" * 20 + "$base", head=True)
    figure = figures.layer_curves(probe)
    lines = [line for line in figure.axes[0].lines if str(line.get_label()).endswith("best layer 2 of 3, 0.600")]
    assert [line.get_xydata().tolist() for line in lines] == [[[0, 0.2], [1 / 3, 0.3], [2 / 3, 0.6], [1, 0.5]]] * 2
    words = texts(figure)
    assert {"head", "chance 0.125", "Rebuilt audio: tess"} <= set(words)
    assert any("1,199 clips of 20 speakers: all of the data" in text for text in words)
    assert "head" not in texts(figures.layer_curves(probe_result("some/base")))
    part = probe | {"split": {"name": "kfold", "fold": 1, "leaking": False}}
    assert any("the training part of split kfold fold 1" in text for text in texts(figures.layer_curves(part)))
    check_png(figures.write_layers(probe, tmp_path / "new" / "layers.png"))


def test_an_unwritable_figure_is_refused(tmp_path: Path) -> None:
    assert figures.check_figure_file(tmp_path / "new" / "layers.PNG") == tmp_path / "new" / "layers.PNG"
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    wrong = {"layers.jpg": "must end in .png", "file/layers.png": "is not a folder that", "folder.png": "is a folder"}
    for name, message in wrong.items():
        with pytest.raises(InputError, match=message):
            figures.check_figure_file(tmp_path / name)


def test_importing_the_report_loads_no_heavy_packages() -> None:
    code = "import sys, ser_ft.report.run.report; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "jinja2", "pandas", "datasets", "torch"} & set(loaded)
