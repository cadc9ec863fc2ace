"""Figures: fonts, names, titles and axes."""

from xml.etree import ElementTree

import numpy as np
import pytest

from robustsmooth.report import find_runs, label_runs, read_evaluations
from robustsmooth.report.figures import draw_figures, write_figures
from robustsmooth.report.figures.drawing import DASHES, PALETTE, Drawing, grey_lines, line_style, percent_axes

from .conftest import write_certification, write_training


def test_dollars_in_a_name_are_kept_and_pdfs_embed_true_type(runs, tmp_path):
    (runs / "0_gaussian").rename(runs / "price $5 or $6")
    drawings = draw_figures(read_evaluations(label_runs(find_runs(str(runs)))))
    write_figures(drawings[:1], tmp_path, ["pdf"])
    (path,) = tmp_path.glob("*.pdf")
    assert b"/Type3" not in path.read_bytes()
    assert b"/TrueType" in path.read_bytes() or b"/CIDFontType2" in path.read_bytes()


def test_data_sets_with_similar_names_have_files_of_their_own(tmp_path):
    for data in ("a b", "a-b", "A_b"):
        trained = write_training(tmp_path / data, data=data)
        write_certification(trained / "certify", trained)
    drawings = draw_figures(read_evaluations(label_runs(find_runs(str(tmp_path)))))
    titles = {
        drawing.name: drawing.title for drawing in drawings if "A" in drawing.name or "a_b" in drawing.name
    }
    assert len({name.lower() for name in titles}) == len(titles) == 6
    assert titles["certified_accuracy_a_b_3"].endswith(": a-b")


def test_a_title_cannot_leave_its_attribute():
    text = Drawing("a", '"><img src=x onerror="alert(1)">', "", lambda axes: None).svg()
    (element,) = [item for item in ElementTree.fromstring(text).iter() if item.get("aria-label")]
    assert element.get("aria-label") == '"><img src=x onerror="alert(1)">'


def test_a_long_title_stays_within_the_figure():
    drawing = Drawing(
        "a",
        "Upper envelope per noise level: cifar10, n=100000, alpha=0.001, every 20th",
        "",
        lambda axes: None,
    )
    figure = drawing.figure()
    figure.draw_without_rendering()
    box = figure.axes[0]._left_title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


def test_as_many_lines_as_colours_times_dashes_are_different():
    styles = [tuple(line_style(position).values()) for position in range(len(PALETTE) * len(DASHES))]
    assert len({*styles}) == len(styles)


@pytest.mark.parametrize(
    ("drawn", "grey", "lowest", "highest"),
    [(60, 40, 60, 70), (60, 80, 80, 90), (100, 40, 100, 100), (0, 0, 10, 10)],
)
def test_percent_axes_end_a_little_above_the_highest_curve_and_never_above_100(drawn, grey, lowest, highest):
    """Curves in grey count too; without any accuracy there is still an axis."""

    def draw(axes):
        x = np.array([0.0, 1.0])
        grey_lines(axes, x, [np.array([grey, 0.0])])
        axes.plot(x, [drawn, 0.0])
        percent_axes(axes, "radius", "accuracy")

    bottom, top = Drawing("a", "A", "", draw).figure().axes[0].get_ylim()
    assert bottom == 0
    assert lowest <= top <= highest
