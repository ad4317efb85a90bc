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

from ser_ft.evaluation.predict import metrics_per_part
from ser_ft.evaluation.run_folder import RunFolder
from ser_ft.labels import COLORS, EMOTION_NAMES
from ser_ft.report.run import calibration_figures, figures
from ser_ft.utils.errors import InputError

MakeRun = Callable[..., RunFolder]


def words(figure: Figure) -> list[str]:
    """All text in a figure, as it is drawn."""
    from matplotlib.text import Text

    return [text.get_text() for text in figure.findobj(Text) if isinstance(text, Text) and text.get_text()]


def check_picture(file: Path) -> None:
    pixels = imread(file)
    assert min(pixels.shape[:2]) > 300
    assert len(np.unique(pixels.sum(axis=2))) > 50
    assert (pixels[:4, :, :3] == 1).all(), "the margin is white"


def test_all_figures_are_drawn(run: RunFolder) -> None:
    files = figures.write_figures(run)
    names = ["curves", "confusion", "recall", "parts", "reliability", "groups", "speakers"]
    assert [file.stem for file in files] == names
    assert sorted(file.name for file in run.figures.iterdir()) == sorted(file.name for file in files)
    for file in files:
        check_picture(file)


def test_a_baseline_has_no_curves(run: RunFolder) -> None:
    names = [file.stem for file in figures.write_figures(run.baselines[0])]
    assert names == ["confusion", "recall", "parts", "reliability", "groups", "speakers"]


def test_the_best_validation_epoch_is_marked(run: RunFolder) -> None:
    best = figures.selected_evaluation(run.history)
    assert best is not None
    assert best["epoch"] == 8
    assert "chosen: epoch 8" in words(figures.training_curves(run.history, run.metrics))
    equal = [
        {"epoch": epoch, "validation_uar": 0.5, "validation_loss": loss}
        for epoch, loss in ((1, 2.0), (2, 1.0), (3, 1.0))
    ]
    assert figures.selected_evaluation(equal) == equal[1]


def test_without_validation_nothing_is_marked(make_run: MakeRun) -> None:
    bare = make_run(validation=False)
    assert figures.selected_evaluation(bare.history) is None
    said = words(figures.training_curves(bare.history, bare.metrics))
    assert "train" in said
    assert not any("chosen" in text or "validation" in text for text in said)
    assert "mfcc-cnn, validation" not in words(figures.part_scores(bare.metrics))


def test_recall_is_drawn_in_the_emotions_colours(run: RunFolder) -> None:
    metrics = run.metrics
    axes = figures.class_recalls(metrics).axes[0]
    scores = metrics["parts"]["test"]
    assert [to_hex(bar.get_facecolor()) for bar in axes.patches] == [COLORS[name] for name in EMOTION_NAMES]
    assert [bar.get_width() for bar in axes.patches] == [scores["recall"][name] for name in EMOTION_NAMES]


def test_a_class_that_is_missing_is_said_to_be(make_run: MakeRun) -> None:
    metrics = make_run(missing="calm", baselines=False).metrics
    assert metrics["parts"]["test"]["recall"]["calm"] is None
    for draw in (figures.class_recalls, figures.confusion_matrix):
        assert "none in test" in words(draw(metrics))


def test_parts_shows_every_figure(run: RunFolder) -> None:
    said = words(figures.part_scores(run.metrics, [baseline.metrics for baseline in run.baselines]))
    parts = run.metrics["parts"]
    interval = parts["test"]["uar_interval"]
    assert f"{parts['train']['uar']:.3f}" in said
    assert f"{parts['test']['uar']:.3f}   {interval['low']:.3f}-{interval['high']:.3f}" in said
    assert {"mfcc-cnn, test", "majority, test", "svm, test", "chance 0.125"} <= set(said)


@pytest.mark.parametrize("leaking", [True, False])
def test_each_figure_carries_the_notes(make_run: MakeRun, leaking: bool) -> None:
    made = make_run(leaking=leaking, notes={"ravdess": "CREMA-D, rebuilt audio"}, baselines=False)
    metrics = made.metrics
    history = [{"epoch": 1, "step": 3, "train_loss": 1.0, "train_uar": 0.5}]
    drawn = [
        figures.training_curves(history, metrics),
        *(d(metrics) for d in (figures.confusion_matrix, figures.class_recalls, figures.part_scores)),
        *(
            d(metrics)
            for d in (
                calibration_figures.reliability_diagram,
                calibration_figures.group_figure,
                calibration_figures.speaker_figure,
            )
        ),
    ]
    for figure in drawn:
        text = "\n".join(words(figure))
        assert "CREMA-D, rebuilt audio: ravdess" in text
        assert ("Leaking split" in text) is leaking
        if figure is not drawn[0]:
            assert ("unseen speakers" in text) is not leaking


def test_own_names_are_drawn_as_they_are(make_run: MakeRun) -> None:
    own = make_run(
        classes=("$x$", "a\nb", "<b>", "much too long a name for an axis"), model="$\\frac$", baselines=False
    )
    assert len(figures.write_figures(own)) == 6
    assert "much too long a name …" in words(figures.class_recalls(own.metrics))


def test_reliability_bars_are_the_shares_that_are_right(run: RunFolder) -> None:
    metrics = run.metrics
    scores = metrics["parts"]["test"]
    upper, lower = calibration_figures.reliability_diagram(metrics).axes
    bins = scores["reliability"]
    for place, bar, gap in zip(bins, upper.patches[::2], upper.patches[1::2], strict=True):
        assert (bar.get_x(), bar.get_height()) == pytest.approx((place["low"], place["accuracy"]))
        ends = sorted((gap.get_y(), gap.get_y() + gap.get_height()))
        assert ends == pytest.approx(sorted((place["accuracy"], place["confidence"])))
    assert [bar.get_height() for bar in lower.patches] == [place["clips"] for place in bins]
    assert sum(place["clips"] for place in bins) == scores["clips"]


def test_the_calibration_error_stands_beside_that_before(run: RunFolder, make_run: MakeRun) -> None:
    ece = run.metrics["parts"]["test"]["ece"]
    said = "\n".join(words(calibration_figures.reliability_diagram(run.metrics)))
    assert f"ECE) {ece:.3f}; 0.234 before the temperature of 1.25" in said
    bare = make_run(validation=False, baselines=False).metrics
    assert "no temperature was fitted" in "\n".join(words(calibration_figures.reliability_diagram(bare)))


def test_groups_are_drawn_where_there_are_two(run: RunFolder) -> None:
    metrics = run.metrics
    scores = metrics["parts"]["test"]
    assert list(calibration_figures.group_scores(scores)) == ["gender", "intensity"], "all clips are under 2 s"
    said = words(calibration_figures.group_figure(metrics))
    strong = scores["by_intensity"]["strong"]
    interval = strong["uar_interval"]
    assert {"female", "male", "normal", "strong"} <= set(said)
    assert f"{strong['uar']:.3f}   {interval['low']:.3f}-{interval['high']:.3f}" in said
    assert f"{scores['by_gender']['male']['uar']:.3f}" in said, "three speakers: no interval"


def test_each_speaker_is_a_dot(run: RunFolder) -> None:
    metrics = run.metrics
    scores = metrics["parts"]["test"]
    figure = calibration_figures.speaker_figure(metrics)
    uars = sorted(found["uar"] for found in scores["by_speaker"].values())
    (dots,) = figure.axes[0].collections
    assert [place for place, _ in dots.get_offsets()] == uars
    lowest = min(scores["by_speaker"], key=lambda name: scores["by_speaker"][name]["uar"])
    assert f"from {uars[0]:.3f} ({lowest}) to {uars[-1]:.3f}" in "\n".join(words(figure))


def test_dots_do_not_cover_each_other(run: RunFolder) -> None:
    metrics = run.metrics
    speakers = metrics["parts"]["test"]["by_speaker"]
    for found in speakers.values():
        found["uar"] = 0.5
    (dots,) = calibration_figures.speaker_figure(metrics).axes[0].collections
    assert np.asarray(dots.get_offsets()).tolist() == [[0.5, place] for place in range(len(speakers))]


def test_nothing_known_of_the_clips_and_one_speaker(make_run: MakeRun) -> None:
    made = make_run(baselines=False)
    table = made.predictions
    table = table[table["speaker"].isin(["ravdess-01", "ravdess-13", "ravdess-17"])]
    table[["gender", "intensity"]] = None
    made.write_json(made.metrics_file, made.metrics | {"parts": metrics_per_part(table, made.metrics["classes"])})
    drawn = [file.stem for file in figures.write_figures(made)]
    assert drawn == ["confusion", "recall", "parts", "reliability"]


def probed(*backbones: str, head: bool = False) -> dict[str, Any]:
    """What a probe of encoders of three layers found: the second is best."""
    rows = [
        {"backbone": name, "layer": layer, "state": state, "uar": uar, "std": 0.05, "best": layer == 2}
        for name in backbones
        for layer, (state, uar) in enumerate((("input", 0.2), ("output", 0.3), ("output", 0.6), ("output", 0.5)))
    ]
    if head:
        rows.append({"backbone": backbones[-1], "layer": 3, "state": "head", "uar": 0.4, "std": 0.1})
        rows[-1]["best"] = False
    for row in rows:
        row["folds"] = [row["uar"]] * 5
    split = {"name": None, "fold": None, "leaking": False}
    facts = {"clips": 1199, "speakers": 20, "chance": 0.125, "pooling": "mean", "notes": {"tess": "rebuilt audio"}}
    return facts | {"split": split, "layers": rows}


def test_layers_are_drawn_by_their_depth(tmp_path: Path) -> None:
    probe = probed("some/base", "/far/away/" + "deep/" * 20 + "$base", head=True)
    figure = figures.layer_curves(probe)
    lines = [line for line in figure.axes[0].lines if str(line.get_label()).endswith("best layer 2 of 3, 0.600")]
    assert [line.get_xydata().tolist() for line in lines] == [[[0, 0.2], [1 / 3, 0.3], [2 / 3, 0.6], [1, 0.5]]] * 2
    said = words(figure)
    assert {"head", "chance 0.125", "Rebuilt audio: tess"} <= set(said)
    assert any("1,199 clips of 20 speakers: all of the data" in text for text in said)
    assert "head" not in words(figures.layer_curves(probed("some/base")))
    part = probe | {"split": {"name": "kfold", "fold": 1, "leaking": False}}
    assert any("the training part of split kfold fold 1" in text for text in words(figures.layer_curves(part)))
    check_picture(figures.write_layers(probe, tmp_path / "new" / "layers.png"))


def test_where_a_figure_cannot_be_written_is_said_before(tmp_path: Path) -> None:
    assert figures.check_figure_file(tmp_path / "new" / "layers.PNG") == tmp_path / "new" / "layers.PNG"
    (tmp_path / "file").touch()
    (tmp_path / "folder.png").mkdir()
    wrong = {"layers.jpg": "must end in .png", "file/layers.png": "is not a folder that", "folder.png": "is a folder"}
    for name, said in wrong.items():
        with pytest.raises(InputError, match=said):
            figures.check_figure_file(tmp_path / name)


def test_importing_is_cheap() -> None:
    code = "import sys, ser_ft.report.run.figures, ser_ft.report.shared.tables, ser_ft.report.run.report as h; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert not {"matplotlib", "jinja2", "pandas", "datasets", "torch"} & set(loaded)
