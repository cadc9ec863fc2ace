"""Tables in LaTeX, in a terminal and in the page; fonts of figures."""

import io
import re
import shutil
import subprocess

import pytest
from rich.console import Console

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations
from robustsmooth.report.figures import draw_figures, write_figures
from robustsmooth.report.figures.drawing import Drawing
from robustsmooth.report.latex import TEXT_WIDTH, as_latex
from robustsmooth.report.markup import FIRST_ROWS, as_html
from robustsmooth.report.table import Column, Table
from robustsmooth.report.terminal import MOST_ROWS, columns_that_fit, show


def wide(rows=3, radii=12):
    """A table as wide as any report has, with rows of every length."""
    columns = [
        Column("run", "Run"),
        Column("n", "n", style="d"),
        Column("acr", "ACR (pixel units)", "certificate", ".3f", best="max"),
        *(
            Column(f"r{at}", f"r={at / 4:g} (%)", "certificate", "percent", f"l{at}", f"h{at}")
            for at in range(radii)
        ),
        Column("attack", "smoothadv_pgd on smoothed ε=0.5 m=128 (%)", "empirical", "percent"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    values = {f"{kind}{at}": 0.5 for kind in "rlh" for at in range(radii)}
    return Table(
        "wide_table", "A wide table", columns,
        [{"run": f"a_method with $5, 50 % & a long name {at}", "n": 100_000, "acr": 0.1 * at, "attack": 0.25,
          "seconds": 12.5, **values} for at in range(rows)],
        "A note about σ, α and p_A ≥ 0.9.", "Small print: 95 % intervals.",
    )  # fmt: skip


def test_latex_mentions_intervals_only_if_it_prints_them():
    text = as_latex(wide())
    assert "A note about $\\sigma$" in text
    assert "intervals" not in text


def test_wide_tables_are_split_into_panels_and_long_ones_over_pages():
    text = as_latex(wide())
    assert text.count(r"\begin{tabular}") > 1
    assert text.count(r"\begin{table}") == 1
    assert text.count(r"\multicolumn{1}{l}{Run}") == text.count(r"\begin{tabular}")
    long = as_latex(wide(rows=200))
    assert r"\begin{table}" not in long
    assert long.count(r"\caption") == 1
    assert long.count(r"\endhead") == long.count(r"\begin{longtable}") > 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="TeX is not installed")
@pytest.mark.parametrize("rows", [3, 200])
def test_every_table_compiles_and_fits_the_page(runs, tmp_path, rows):
    tables = [wide(rows), wide(rows, radii=2)]
    if rows == 3:
        tables += build_tables(read_evaluations(label_runs(find_runs(str(runs)))))
    packages = r"\usepackage[utf8]{inputenc}\usepackage{booktabs,array,longtable}"
    body = "\n\\clearpage\n".join(as_latex(table) for table in tables)
    (tmp_path / "paper.tex").write_text(
        rf"\documentclass{{article}}{packages}\begin{{document}}{body}\end{{document}}", encoding="utf-8"
    )
    done = subprocess.run(
        ["pdflatex", "-interaction=nonstopmode", "-halt-on-error", "paper.tex"],
        cwd=tmp_path, capture_output=True, check=False, timeout=120,
    )  # fmt: skip
    log = (tmp_path / "paper.log").read_text(encoding="utf-8", errors="replace")
    assert done.returncode == 0, log[-2000:]
    assert "Float too large" not in log
    assert [float(item) for item in re.findall(r"Overfull \\hbox \(([\d.]+)pt", log) if float(item) > 1] == []


def test_a_panel_is_never_wider_than_the_text():
    from robustsmooth.report.latex import _panels, _width

    table = wide(radii=30)
    assert all(_width(table, panel) <= TEXT_WIDTH for panel in _panels(table))
    shown = [column.key for panel in _panels(table) for column in panel[1:]]
    assert shown == [column.key for column in table.used[1:]]  # every column once


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_terminal_shows_whole_words_and_numbers_in_fewer_columns(width):
    table = wide()
    used = columns_that_fit(table, width)
    assert used[0].key == "run"
    assert len(columns_that_fit(table, 1000)) == len(table.used)
    from robustsmooth.report.terminal import _rich

    console = Console(width=width, record=True, file=io.StringIO())
    console.print(_rich(table, used))
    text = console.export_text()
    assert "…" not in text
    assert "..." not in text
    assert text.count("100000") == len(table.rows) if "n" in {column.key for column in used} else True
    assert all(f"{0.1 * at:.3f}" in text for at in range(3)) or width < 80


def test_an_80_column_terminal_keeps_the_numbers_that_matter(runs, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "80")
    tables = build_tables(read_evaluations(label_runs(find_runs(str(runs)))))
    overview = next(table for table in tables if table.name == "overview")
    kept = {column.key for column in columns_that_fit(overview, 80)}
    assert {"classifier", "acr"} <= kept
    assert "seconds" not in kept


def test_the_terminal_prints_a_few_rows_and_problems_and_says_where_the_rest_is(capsys):
    show([wide(rows=1500)], [f"problem {at}" for at in range(300)], "out/report.html")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 5 * MOST_ROWS
    assert any(f"{1500 - MOST_ROWS} more rows" in line and "out/report.html" in line for line in lines)
    assert any("290 problems more" in line for line in lines)


def test_the_page_has_all_rows_of_a_long_table():
    text = as_html(wide(rows=1500))
    assert text.count("<tr><td>") == FIRST_ROWS
    assert text.count("\\u003ctr>") == 1500 - FIRST_ROWS
    assert "</script" not in text.split("application/json", 1)[1].removesuffix("</script>")


def test_dollars_in_a_name_are_kept_and_pdfs_embed_true_type(runs, tmp_path):
    (runs / "0_gaussian").rename(runs / "price $5 or $6")
    drawings = draw_figures(read_evaluations(label_runs(find_runs(str(runs)))))
    write_figures(drawings[:1], tmp_path, ["pdf"])
    (path,) = tmp_path.glob("*.pdf")
    assert b"/Type3" not in path.read_bytes()
    assert b"/TrueType" in path.read_bytes() or b"/CIDFontType2" in path.read_bytes()


def test_many_foreign_logs_make_one_page_with_short_labels_the_best_first(tmp_path):
    from benchmarks.report import PATTERN, write_logs

    def tables_of(entries):
        return {table.name: table for table in build_tables(read_evaluations(label_runs(find_runs(entries))))}

    write_logs(tmp_path / "logs", 80, whole=100, part=40)
    table = tables_of(str(tmp_path / "logs"))["certified_accuracy"]
    assert max(len(row["run"]) for row in table.rows) <= 40
    assert len({row["run"] for row in table.rows}) == 80
    entry = {"path": f"{tmp_path}/logs/**/sigma_*", "pattern": PATTERN, "n": 100_000, "alpha": 0.001}
    built = tables_of(entry)
    rows = built["certified_accuracy"].rows
    groups = [row["data_set"] for row in rows]
    assert sorted(set(groups)) == ["cifar10", "imagenet", "mnist"]
    ranked = [row["acr"] for row in rows if row["data_set"] == "cifar10"]
    assert len(ranked) > 40
    assert ranked == sorted(ranked, reverse=True)
    best = {(row["data_set"], row["radius"]): row["accuracy"] for row in built["best"].rows}
    column = "certified_acc@0.5"
    assert best["cifar10", 0.5] == max(row[column] for row in rows if row["data_set"] == "cifar10")


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
