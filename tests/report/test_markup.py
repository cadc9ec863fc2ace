"""Tables in the page."""

import json
import re
import shutil
import subprocess
from importlib import resources

import pytest

from robustsmooth.report.latex import as_latex
from robustsmooth.report.markup import FIRST_ROWS, as_html, as_markdown
from robustsmooth.report.table import BOLD_CERTIFIED, Column, Table

from .conftest import wide_table


def test_the_page_has_all_rows_of_a_long_table():
    text = as_html(wide_table(rows=1500))
    assert text.count("<tr><td>") == FIRST_ROWS
    assert text.count("\\u003ctr>") == 1500 - FIRST_ROWS
    assert "</script" not in text.split("application/json", 1)[1].removesuffix("</script>")


def test_the_page_spends_no_width_on_deviations_and_on_titles_that_columns_share():
    """An overview with eight attacks under several seeds fits a screen."""
    attacks = [
        Column(f"{budget:g}", f"pgd_l2 ε={budget:g} (%)", "empirical", "percent", spread="std", head="pgd_l2")
        for budget in (0.25, 0.5)
    ]
    text = as_html(Table("t", "T", attacks, [{"0.25": 0.5, "0.5": 0.4, "std": 0.01}]))
    assert '<td class="number">50.0<small>± 1.0</small></td>' in text
    assert '<th colspan="2" class="head">pgd_<wbr>l2</th>' in text
    assert re.findall(r">([^<>]+)<span>empirical", text) == ["ε=0.25 (%)", "ε=0.5 (%)"]


@pytest.mark.skipif(shutil.which("node") is None, reason="Node.js is not installed")
def test_the_filter_finds_rows_by_what_names_them_and_not_by_their_results():
    """Rows of a label, a data set, a noise level (a fact in numbers) and a result."""
    rows = [
        ["salman 0.25", "cifar10", "0.25", "40.1"],
        ["salman 0.5 (run_1)", "cifar10", "0.5", "0.25"],
        ["cohen 1", "imagenet", "1", "10.25"],
        ["cohen logs/noise_0.25", "imagenet", "0.125", "1.0"],
    ]
    found = {
        "salman 0.25": [0],
        "0.25": [0, 3],
        "0.5": [1],
        "1.0": [2],
        "Cohen": [2, 3],
        "salman run_1": [1],
        "(run_1)": [1],
        "logs/noise": [3],
        "imagenet 0.250": [],
        "40.1": [],
        " ": [0, 1, 2, 3],
    }
    script = resources.files("robustsmooth.report").joinpath("page.js").read_text(encoding="utf-8")
    program = f"""
        const document = {{ querySelectorAll: () => [] }};
        {script}
        const heads = ["fact", "fact", "fact", "certificate"]
          .map((kind) => ({{ classList: {{ contains: (name) => name === kind }} }}));
        const rows = {json.dumps(rows)}
          .map((cells) => ({{ cells: cells.map((text) => ({{ textContent: text }})) }}));
        const at = (query) => rows.flatMap((row, at) => (matches(query, factsOf(heads, row)) ? [at] : []));
        console.log(JSON.stringify({json.dumps(list(found))}.map(at)));
    """
    done = subprocess.run(["node", "-e", program], capture_output=True, text=True, check=True)
    assert dict(zip(found, json.loads(done.stdout), strict=True)) == found


@pytest.mark.parametrize("write", [as_markdown, as_latex])
def test_a_table_with_bold_values_says_what_they_mean(write):
    """Two of one column, each the best of its data set; none if all are equal."""

    def table(values):
        columns = [Column("run", "Run"), Column("acr", "ACR", "certificate", ".3f", best="max")]
        rows = [{"run": at, "acr": value, "data_set": at // 2} for at, value in enumerate(values)]
        return Table("t", "T", columns, rows, "A note.")

    several, none = table([0.1, 0.2, 0.3, 0.4]), table([0.1, 0.1, 0.3, 0.3])
    assert as_html(several).count("<b>") == 2
    assert several.notes == f"A note. {BOLD_CERTIFIED}"
    assert "Bold: the best of comparable rows" in write(several)
    assert "Bold" not in write(none)


def test_headings_say_which_columns_are_facts():
    assert '<th scope="col" class="fact" tabindex="0">Run' in as_html(wide_table())
    assert '<th scope="col" class="certificate number" tabindex="0">ACR' in as_html(wide_table())


@pytest.mark.parametrize("write", [as_html, as_markdown])
def test_no_name_becomes_an_element_of_the_page(write):
    name = '<img src=x onerror="alert(1)">'
    columns = [Column("run", name), Column("data", "Data", head=name)]
    table = Table("t", f"T {name}", columns, [{"run": name, "data": name}], f"A note about {name}.")
    text = write(table)
    assert "<img" not in text
    assert text.count("&lt;img") >= 3
