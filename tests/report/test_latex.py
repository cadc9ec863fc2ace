"""Tables in LaTeX: they compile, fit the page, and promise nothing that they do not print."""

import re
import shutil
import subprocess

import pytest

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations
from robustsmooth.report.latex import TEXT_WIDTH, _panels, _width, as_latex
from robustsmooth.report.table import Column, Table

from .conftest import wide_table


def test_latex_mentions_intervals_only_if_it_prints_them():
    text = as_latex(wide_table())
    assert "A note about $\\sigma$" in text
    assert "intervals" not in text


def test_wide_tables_are_split_into_panels_and_long_ones_over_pages():
    text = as_latex(wide_table())
    assert text.count(r"\begin{tabular}") > 1
    assert text.count(r"\begin{table}") == 1
    assert text.count(r"\multicolumn{1}{l}{Run}") == text.count(r"\begin{tabular}")
    long = as_latex(wide_table(rows=200))
    assert r"\begin{table}" not in long
    assert long.count(r"\caption") == 1
    assert long.count(r"\endhead") == long.count(r"\begin{longtable}") > 1


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="TeX is not installed")
@pytest.mark.parametrize("rows", [3, 200])
def test_every_table_compiles_and_fits_the_page(runs, tmp_path, rows):
    tables = [wide_table(rows), wide_table(rows, radii=2)]
    name = "certification_cifar_resnet110_noise_0.25_sigma_0.25"  # one long word
    tables.append(
        Table("long", "T", [Column("run", "Run"), Column("more", "Best")], [{"run": name, "more": name}])
    )
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


@pytest.mark.parametrize(
    ("first", "second", "digits", "repeated"),
    [
        (["heat"] * 3, ["macer", "sodm", "natural"], 3, ["First", "Second"]),
        (["macer", "sodm", "natural"], ["heat"] * 3, 3, ["First"]),  # one baseline: the first is enough
        (["h" * 26] * 3, ["m" * 40, "s" * 40, "n" * 40], 3, ["First", "Second"]),
        (["h" * 26] * 3, ["m" * 40, "s" * 40, "n" * 40], 30, ["#", "First"]),  # not both fit
        (["h" * 26] * 3, ["m" * 40, "s" * 40, "n" * 40], 50, ["#"]),  # not even one
        (["heat"] * 2, ["macer"] * 2, 3, ["#", "First"]),  # no name tells the rows apart
    ],
)
def test_every_panel_tells_the_rows_apart(first, second, digits, repeated):
    """By names if all values fit beside them, otherwise by numbers; results never count as names."""
    columns = [Column("first", "First"), Column("second", "Second")]
    columns += [Column(f"value{at}", f"Value {at}", "measurement", f".{digits}f") for at in range(12)]
    rows = [
        {"first": one, "second": other, **{f"value{at}": 0.1 * at + row for at in range(12)}}
        for row, (one, other) in enumerate(zip(first, second, strict=True))
    ]
    table = Table("comparison", "Pairs", columns, rows)
    panels = _panels(table)
    assert len(panels) > 1
    for panel in panels:
        assert _width(table, panel) <= TEXT_WIDTH
        titles = [column.title for column in panel if not column.key.startswith("value")]
        assert titles[: len(repeated)] == repeated
    assert titles == repeated
    for at in range(1, len(rows) + 1):
        numbered = re.findall(rf"^ *{at} & ", as_latex(table), re.MULTILINE)
        assert len(numbered) == ("#" in repeated) * len(panels)


def test_a_panel_is_never_wider_than_the_text():
    table = wide_table(radii=30)
    assert all(_width(table, panel) <= TEXT_WIDTH for panel in _panels(table))
    shown = [column.key for panel in _panels(table) for column in panel[1:]]
    assert shown == [column.key for column in table.used[1:]]  # every column once


def test_signs_that_the_standard_fonts_lack_are_written_by_their_names():
    names = ["<b>|x", "cmap_A", "p_A"]
    text = as_latex(Table("t", "T", [Column("run", "Run")], [{"run": name} for name in names]))
    for cell in (r"\textless{}b\textgreater{}\textbar{}x", r"cmap\_A", "$p_A$"):
        assert f"    {cell} " in text
