"""Tables in the page."""

from robustsmooth.report.markup import FIRST_ROWS, as_html

from .conftest import wide_table


def test_the_page_has_all_rows_of_a_long_table():
    text = as_html(wide_table(rows=1500))
    assert text.count("<tr><td>") == FIRST_ROWS
    assert text.count("\\u003ctr>") == 1500 - FIRST_ROWS
    assert "</script" not in text.split("application/json", 1)[1].removesuffix("</script>")
