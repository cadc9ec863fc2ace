"""The published results that are part of the package, beside ours."""

from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
from omegaconf import OmegaConf
from scipy.special import ndtr

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations, sweep, write_report
from robustsmooth.report.figures import draw_figures
from robustsmooth.report.latex import as_latex
from robustsmooth.report.markup import as_html
from robustsmooth.report.published import published_results

from .conftest import CERTIFY, certify_rows, write_at_radii, write_certification, write_log, write_training


def ours(tmp_path, data="cifar10", **facts):
    path = write_log(tmp_path / "ours.tsv", CERTIFY[:6], [row[:6] for row in certify_rows()])
    return {
        "path": str(path),
        "method": "gaussian",
        "data": data,
        "sigma": 0.25,
        "n": 1000,
        "alpha": 0.001,
        **facts,
    }


@pytest.mark.parametrize(("data", "rows", "incomplete"), [("cifar10", 44, 0), ("imagenet", 14, 4)])
def test_the_numbers_agree_with_each_other(data, rows, incomplete):
    """The ACR is the area under certified accuracy: between its lower and its upper sum."""
    results = published_results(data)
    assert len(results) == rows
    assert sum(not result.complete for result in results) == incomplete
    for result in results:
        steps = np.diff(result.radii)
        assert (steps * result.accuracy[1:]).sum() <= result.acr <= (steps * result.accuracy[:-1]).sum()
        assert np.all(np.diff(result.accuracy) <= 0)
        assert result.accuracy[0] + result.abstained <= 1
        assert "/" in result.log
    best = {(result.facts["method"], result.facts["sigma"]): result.acr for result in results}
    assert best["sun2025", 1.0] == {"cifar10": 0.8437, "imagenet": 1.0425}[data]


def test_published_rows_are_marked_and_incomplete_logs_flagged(tmp_path):
    evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path, "imagenet"))))
    table = next(
        build_table
        for build_table in build_tables(evaluations, published="imagenet")
        if build_table.name == "published"
    )
    mine = [row for row in table.rows if row["source"] == "here"]
    assert [(row["run"], row["images"]) for row in mine] == [("gaussian", 60)]
    flagged = [(row["run"], row["complete"]) for row in table.rows if row["run"].endswith(", incomplete")]
    names = ("smoothadv", "gaussian")  # at sigma 0.25
    assert flagged == [(f"published: {name} 0.25, incomplete", "427 of 500") for name in names]
    assert not any(table.is_best(column, row) for column in table.columns for row in table.rows)
    assert 0.4765 in {row["acr"] for row in table.rows}


@pytest.mark.parametrize(("sigma", "levels"), [(0.5, {0.5}), (0.12, {0.12, 0.25, 0.5, 1.0})])
def test_published_rows_are_those_at_our_noise_level_below_ours(tmp_path, sigma, levels):
    """Without a published result at our level there are all of them."""
    evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path, sigma=sigma))))
    tables = {table.name: table for table in build_tables(evaluations, published="cifar10")}
    first, *others = tables["published"].rows
    assert first["source"] == "here"
    assert "here" not in {row["source"] for row in others}
    assert {row["sigma"] for row in (first, *others)} == levels


def test_the_figure_flags_incomplete_logs_too(tmp_path):
    evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path, "imagenet"))))
    (drawing,) = (
        item for item in draw_figures(evaluations, published="imagenet") if item.name == "published"
    )
    labels = [str(line.get_label()) for line in drawing.figure().axes[0].get_lines()]
    assert any(label.startswith("published: ") and "427 of 500" in label for label in labels), labels
    assert any(label.startswith("published: ") and " of " not in label for label in labels), labels


def test_the_figure_says_that_the_numbers_of_votes_differ_and_finds_the_methods_by_our_names(tmp_path):
    """A picture is shown without its note: unequal n are in its title."""

    def drawn(**facts):
        evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path, **facts))))
        return [
            item for item in draw_figures(evaluations, published=facts["data"]) if item.name == "published"
        ]

    (drawing,) = drawn(data="imagenet", sigma=0.5, method="sun2025")
    axes = drawing.figure().axes[0]
    assert "n: ours 1,000; theirs 100,000" in " ".join(axes.get_title(loc="left").split())
    labels = {str(line.get_label()) for line in axes.get_lines()}
    assert {"published: sun2025 0.5", "published: smoothmix 0.5"} <= labels  # ours, and the best
    for method in ("gaussian", "cohen"):  # ours, and that of the published logs
        (drawing,) = drawn(data="cifar10", sigma=0.25, method=method)
        labels = {str(line.get_label()) for line in drawing.figure().axes[0].get_lines()}
        assert "published: gaussian 0.25" in labels, method
    (same,) = drawn(data="cifar10", n=100_000, method="stability")
    assert same.title == "Beside published results"
    assert drawn(data="cifar10", sigma=0.12) == []  # nothing to compare with


def test_the_figure_prefers_published_results_of_our_network(tmp_path):
    """With ResNet-20 at sigma 0.5, in the best of two settings; at 0.25 only ResNet-110 is published."""

    def labels(**facts):
        facts = {"method": "smoothadv", "model": "cifar_resnet20"} | facts
        evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path, **facts))))
        (drawing,) = (
            item for item in draw_figures(evaluations, published="cifar10") if item.name == "published"
        )
        axes = drawing.figure().axes[0]
        marks = {str(line.get_label()): line for line in axes.get_lines()}
        return drawing.note, {
            name: line.get_ydata()[0] for name, line in marks.items() if name.startswith("published: ")
        }

    note, marks = labels(sigma=0.5)
    assert "published results with cifar_resnet20 (" in note
    assert marks == {"published: smoothadv 0.5": pytest.approx(63.0)}
    note, marks = labels(sigma=0.25)
    assert "published results with cifar_resnet110 (" in note
    assert set(marks) == {"published: smoothadv 0.25", "published: sun2025 0.25"}


def test_the_figure_names_the_networks_of_two_published_results_with_one_name(tmp_path):
    """Without a network of ours, those of both are shown; the one result at sigma 1.0 needs no network."""
    runs = [ours(tmp_path / f"{sigma}", sigma=sigma) for sigma in (0.5, 1.0)]
    evaluations = read_evaluations(label_runs(find_runs(runs)))
    drawings = {item.name: item for item in draw_figures(evaluations, published="cifar10")}
    labels = [str(line.get_label()) for line in drawings["published"].figure().axes[0].get_lines()]
    assert {f"published: gaussian 0.5, cifar_resnet{depth}" for depth in (20, 110)} <= {*labels}
    assert "published: gaussian 1" in labels
    assert len({*labels}) == len(labels)


def test_an_unfinished_run_is_flagged_beside_published_ones(tmp_path):
    trained = write_training(tmp_path / "a", data="cifar10")
    folder = write_certification(trained / "certify", trained)
    (folder / "certify.tsv").rename(folder / "certify.rank0.tsv")
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    tables = {table.name: table for table in build_tables(evaluations, published="cifar10")}
    (mine,) = (row for row in tables["published"].rows if row["source"] == "here")
    assert (mine["run"], mine["complete"]) == ("gaussian, unfinished", "60")


@pytest.mark.parametrize("data", ["cifar10", "imagenet"])
def test_every_panel_in_latex_marks_what_is_published_or_incomplete(tmp_path, data):
    """An ACR without these marks would seem to be ours, and comparable."""
    evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path, data, sigma=0.12))))
    tables = {table.name: table for table in build_tables(evaluations, published=data)}
    table = tables["published"]
    panels = as_latex(table).split(r"\begin{longtable}")[1:]
    assert len(panels) > 1
    with_acr = [panel for panel in panels if "{ACR}" in panel]
    for panel in panels:
        assert panel.count("published: ") == len(table.rows) - 1
        assert panel.count(", incomplete &") == sum(row["complete"].startswith("427") for row in table.rows)
        rows = [line for line in panel.splitlines() if " & " in line and line[0] != "\\"]
        assert len({*rows}) == len(rows) == len(table.rows)
    assert len(with_acr) == 1
    assert all(title in with_acr[0] for title in ("{Network}", "{n}", "{Images}"))


@pytest.mark.parametrize(
    ("facts", "ours_too"), [({"data": "digits"}, 0), ({"split": "validation"}, 0), ({"split": "test"}, 1)]
)
def test_only_our_runs_on_the_test_images_of_that_data_set_are_compared(tmp_path, facts, ours_too):
    evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path, **facts))))
    tables = {table.name: table for table in build_tables(evaluations, published="cifar10")}
    assert [row["source"] for row in tables["published"].rows].count("here") == ours_too


def test_the_command_puts_rows_and_curves_beside_ours(tmp_path):
    formats = ["tables", "png"]
    runs = ours(tmp_path, sigma=1.0)
    tables = write_report(runs, tmp_path / "out", formats=formats, published="cifar10")
    frame = pd.read_csv(tmp_path / "out" / "tables" / "published.csv")
    assert {"log", "source", "complete", "certificate/acr"} <= set(frame.columns)
    page = as_html(next(table for table in tables if table.name == "published"))
    for radius, shown in ((0.75, True), (1.25, False), (3, True), (3.75, False)):
        assert f"certificate/certified_acc@{radius:g}" in frame.columns
        assert (f"r={radius:g} (%)" in page) == shown, radius  # all of them would not fit 1366 pixels
    assert frame["log"].str.contains("eth-sri/acr-weakness").any()
    assert (tmp_path / "out" / "figures" / "published.png").exists()


def test_accuracies_at_given_radii_stand_beside_published_ones_at_their_noise_level(tmp_path):
    trained = write_training(tmp_path / "a", data="cifar10", sigma=0.5)
    write_at_radii(trained / "radii", trained, {"radii": [0.25, 0.75]}, sigma=0.5, strength=2.0)
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    tables = {table.name: table for table in build_tables(evaluations, published="cifar10")}
    mine, *others = tables["published"].rows
    assert (mine["run"], mine["source"]) == ("gaussian", "here")
    assert {row["sigma"] for row in others} == {0.5}
    assert not {"acr", "sure"} & set(mine)
    (item,) = evaluations.certifications
    known = {key: share for key, share in mine.items() if "acc@" in key}
    shares = [np.mean(item.correct & (item.radius >= radius)) for radius in (0.25, 0.75)]
    assert known == {"certified_acc@0.25": shares[0], "certified_acc@0.75": shares[1]}
    assert "have no ACR" in tables["published"].notes
    (drawing,) = (item for item in draw_figures(evaluations, published="cifar10") if item.name == "published")
    (line,) = (
        line for line in drawing.figure().axes[0].get_lines() if line.get_label() == "gaussian (at-radii)"
    )
    assert [*line.get_xdata()] == [0.25, 0.75]
    assert [*line.get_ydata()] == pytest.approx([100 * share for share in shares])


@pytest.mark.parametrize(("reached", "shared"), [(0.25, {"certified_acc@0.25"}), (0.0, set())])
def test_radii_that_only_some_seeds_reached_have_no_accuracy_beside_published_ones(
    tmp_path, capsys, reached, shared
):
    """Without a config nothing says that a log tested a radius that none of its images reached."""
    given = []
    for seed, largest in ((0, 0.5), (1, reached)):
        radii = [min(largest, 0.25), largest] * 10
        rows = [[i, i, i if r else -1, r, int(r > 0), 0.1] for i, r in enumerate(radii)]
        log = [[*row, "l2-at-radii-certificate"] for row in rows]
        path = write_log(tmp_path / f"{seed}.tsv", [*CERTIFY[:6], "guarantee"], log)
        facts = {"method": "gaussian", "data": "cifar10", "sigma": 0.25, "n": 1000, "alpha": 0.001}
        given.append({"path": str(path), "seed": seed, **facts})
    evaluations = read_evaluations(label_runs(find_runs(given)))
    tables = {table.name: table for table in build_tables(evaluations, published="cifar10")}
    mine = [row for row in tables["published"].rows if row["source"] == "here"]
    seeds = tables["seeds"].rows if "seeds" in tables else []
    for row in (*mine, *seeds):
        assert {key for key in row if "acc@" in key and "_std" not in key} == shared
    assert len(mine) == len(seeds) == len(shared)
    write_report(given, tmp_path / "out", formats=["terminal"], show=[])
    assert ("gaussian seed=1 certifies no image" in capsys.readouterr().out) == (not reached)


def test_a_data_set_without_published_results_is_reported(tmp_path):
    with pytest.raises(ValueError, match="known of cifar10, imagenet, got 'digits'"):
        write_report(ours(tmp_path), tmp_path / "out", published="digits")


def test_a_sweep_puts_published_results_beside_its_own(tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr(sweep, "write_report", lambda *runs, **options: given.update(options) or [])
    callback = sweep.ReportSweep(published="cifar10", restate=1000)
    callback.on_multirun_end(
        OmegaConf.create({"hydra": {"sweep": {"dir": str(tmp_path)}, "runtime": {"choices": {}}}})
    )
    assert (given["published"], given["restate"]) == ("cifar10", 1000)


def test_p_a_of_a_published_log_lies_between_two_certified_accuracies(tmp_path):
    """Counted from a log: its radii with 90 % of the probability lie between those at the known radii."""
    gaussian = published_results("cifar10")[0]  # sigma 0.25: the radii around 0.32 are 0.25 and 0.5
    assert gaussian.sure == pytest.approx((0.422, 0.612))
    random = np.random.default_rng(0)
    for sigma in (0.25, 0.5, 1.0):
        radius, correct = sigma * np.abs(random.normal(size=400)), random.random(400) < 0.8
        radii = np.arange(0, 4.25, 0.25)
        log = replace(gaussian, facts=gaussian.facts | {"sigma": sigma}, radii=radii,
                      accuracy=np.array([(correct & (radius >= r)).mean() for r in radii]))  # fmt: skip
        low, high = log.sure
        assert low <= (correct & (ndtr(radius / sigma) >= 0.9)).mean() <= high
        assert low < high

    evaluations = read_evaluations(label_runs(find_runs(ours(tmp_path))))
    table = {item.name: item for item in build_tables(evaluations, published="cifar10")}["published"]
    column = next(column for column in table.columns if column.key == "sure")
    theirs = next(row for row in table.rows if row.get("sure_low") == pytest.approx(0.422))
    assert (column.text(theirs), column.interval(theirs)) == ("42.2–61.2", "")
    for text in (as_html(table), as_latex(table)):
        assert "42.2–61.2" in text.replace("--", "–")
    assert table.frame()["certificate/sure_high"].max() < 0.8
    assert "do not read the ACR alone" not in table.notes
