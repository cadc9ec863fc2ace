"""Tables and problems in a terminal."""

import io
from itertools import pairwise

import pytest
from rich.console import Console

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations
from robustsmooth.report.table import Column, Table
from robustsmooth.report.terminal import MOST_ROWS, _rich, columns_that_fit, show

from .conftest import wide_table, write_attack, write_certification, write_training


@pytest.mark.parametrize("width", [40, 80, 120, 200])
def test_a_terminal_shows_whole_words_and_numbers_in_fewer_columns(width):
    table = wide_table()
    used = columns_that_fit(table, width)
    assert used[0].key == "run"
    assert len(columns_that_fit(table, 1000)) == len(table.used)
    console = Console(width=width, record=True, file=io.StringIO())
    console.print(_rich(table, used, width))
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


def wide_tables(tmp_path):
    """Tables of runs with long names, several seeds and several numbers of votes, and of published ones."""
    for n in (1000, 2000):
        for seed in (0, 1):
            name = f"a_method_with_a_long_name_{n}"
            trained = write_training(tmp_path / f"{name}_{seed}", name, data="cifar10", seed=seed)
            write_certification(trained / "certify", trained, n=n, seed=seed)
    return build_tables(read_evaluations(label_runs(find_runs(str(tmp_path)))), published="cifar10")


def test_facts_give_way_to_results_in_an_80_column_terminal(tmp_path):
    kept = {
        table.name: {column.key for column in columns_that_fit(table, 80)} for table in wide_tables(tmp_path)
    }
    for name in ("overview", "certified_accuracy", "radii", "published", "seeds", "restated"):
        assert {"acr", "sure"} <= kept[name], name


@pytest.mark.parametrize("rows_differ", [False, True])
def test_results_stay_longer_than_facts_and_names_longer_than_results(rows_differ):
    columns = [
        Column("radius", "Radius", style="g"),
        Column("procedure", "Certified by"),
        Column("epsilon", "ε", style="g"),
        Column("run", "Best run"),
        Column("accuracy", "Accuracy (%)", "certificate", "percent"),
        Column("broken", "Broken", "measurement", "d"),
        Column("more", "More", "measurement", "d"),
        Column("seeds", "Seeds", style="d"),
    ]
    facts = {"radius": 0.25, "procedure": "a certificate at r=0.25", "epsilon": 0.5, "seeds": 3, "more": 1}
    results = {"run": "a_name_" * 9, "accuracy": 0.5, "broken": 2}
    rows = [
        {**facts, **results},
        {**facts, **results, "procedure": "Cohen" if rows_differ else facts["procedure"]},
    ]
    table = Table("best", "The best", columns, rows)
    orders = [[column.key for column in columns_that_fit(table, width)] for width in range(200, 8, -1)]
    gone = [key for before, after in pairwise(orders) for key in before if key not in after]
    facts_gone = ["epsilon", "procedure"] if rows_differ else ["procedure", "epsilon"]
    assert gone == ["seeds", "more", *facts_gone, "broken", "accuracy", "run"]
    assert "accuracy" in {column.key for column in columns_that_fit(table, 60)}


@pytest.mark.parametrize("name", ["attacks", "attack_seeds", "contradictions"])
def test_an_80_column_terminal_keeps_the_accuracy_under_attack(tmp_path, name):
    for seed in (0, 1):
        trained = write_training(tmp_path / f"{seed}", "a_method_with_a_very_long_name", seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        write_attack(trained / "attack", trained, seed=seed)
    tables = build_tables(read_evaluations(label_runs(find_runs(str(tmp_path)))))
    (table,) = (table for table in tables if table.name == name)
    assert "accuracy" in {column.key for column in columns_that_fit(table, 80)}


def test_no_terminal_is_so_narrow_that_an_acr_stands_without_p_a(tmp_path):
    tables = wide_tables(tmp_path)
    assert sum(any(column.beside for column in table.columns) for table in tables) >= 6
    for width in range(20, 240, 5):
        for table in tables:
            kept = {column.key for column in columns_that_fit(table, width)}
            for column in (column for column in table.columns if column.beside):
                assert (column.key in kept) == (column.beside in kept), (table.name, width)


def test_the_terminal_prints_a_few_rows_and_problems_and_says_where_the_rest_is(capsys):
    show([wide_table(rows=1500)], [f"problem {at}" for at in range(300)], "out/report.html")
    lines = capsys.readouterr().out.splitlines()
    assert len(lines) < 5 * MOST_ROWS
    assert any(f"{1500 - MOST_ROWS} more rows" in line and "out/report.html" in line for line in lines)
    assert any("290 problems more" in line for line in lines)


@pytest.mark.parametrize(
    ("words", "results", "shown"), [(250, 2, ["all"]), (1, 2, ["all", "few"]), (1, 0, ["all", "few"])]
)
def test_a_row_without_a_result_in_the_columns_that_fit_is_only_counted(capsys, words, results, shown):
    """Such as one at given radii beside others with an ACR; a table of facts alone has all rows."""
    certified = [
        Column("acr", "ACR", "certificate", ".3f"),
        Column("at", "r" * words, "certificate", "percent"),
    ]
    rows = [{"run": "all", "acr": 0.5, "at": 0.5}, {"run": "few", "at": 0.5}]
    show([Table("t", "title", [Column("run", "Run"), *certified[:results]], rows)], [], "out")
    text = capsys.readouterr().out
    assert [name for name in ("all", "few") if name in text] == shown
    assert ("1 more rows and 1 more columns in out" in text) == (len(shown) == 1)


def test_brackets_in_names_are_printed(capsys):
    name = "[red]run[/b]"
    show([Table("t", name, [Column("run", name)], [{"run": name}], name)], [name], "x")
    assert capsys.readouterr().out.count(name) == 5
