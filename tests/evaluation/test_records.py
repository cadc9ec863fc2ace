import errno
import math
import os
import resource
from contextlib import closing
from pathlib import Path

import pytest

from robustsmooth.evaluation.records import Extension, RecordLog

COLUMNS = ["idx", "value"]


@pytest.fixture
def open_log():
    logs = []

    def opened(folder: Path, rank: int = 0, **settings: object) -> RecordLog:
        logs.append(RecordLog(folder, "certify", COLUMNS, ["idx"], settings or {"n": 100}, rank))
        return logs[-1]

    yield opened
    for log in logs:
        log.close()


def test_rows_are_on_disk_as_soon_as_they_are_appended(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append({"idx": 3, "value": 0.1 + 0.2})
    text = (tmp_path / "certify.rank0.tsv").read_text()
    assert text == "idx\tvalue\n3\t0.30000000000000004\n"  # full precision
    assert 3 in log
    assert (3,) in log
    assert 4 not in log


def test_parts_are_merged_sorted_and_removed(open_log, tmp_path):
    logs = [open_log(tmp_path, rank) for rank in range(2)]
    for rank, idx in [(0, 10), (1, 9), (0, 2), (1, 100)]:
        logs[rank].append({"idx": idx, "value": rank})
    logs[1].close()
    path = logs[0].merge(expected=[2, 9, 10, 100])
    assert path == tmp_path / "certify.tsv"
    assert [row["idx"] for row in logs[0].rows()] == ["2", "9", "10", "100"]
    assert sorted(item.name for item in tmp_path.iterdir()) == ["certify.settings.json", "certify.tsv"]


@pytest.mark.parametrize("torn", ["4\t0.", "4", "4\t0.5", "\t"])
def test_an_incomplete_last_line_is_dropped(open_log, tmp_path, torn):
    log = open_log(tmp_path)
    log.append({"idx": 3, "value": 1.0})
    log.close()
    part = tmp_path / "certify.rank0.tsv"
    part.write_text(part.read_text() + torn)
    again = open_log(tmp_path)
    assert again.finished == {("3",)}
    again.append({"idx": 4, "value": 2.0})
    again.merge(expected=[3, 4])
    assert (tmp_path / "certify.tsv").read_text() == "idx\tvalue\n3\t1.0\n4\t2.0\n"


@pytest.mark.parametrize("header", ["", "idx", "idx\tval"])
def test_an_incomplete_header_is_written_again(open_log, tmp_path, header):
    (tmp_path / "certify.rank0.tsv").write_text(header)
    log = open_log(tmp_path)
    log.append({"idx": 1, "value": 1})
    log.merge([1])
    assert (tmp_path / "certify.tsv").read_text() == "idx\tvalue\n1\t1\n"


def test_rows_of_an_earlier_rank_are_kept_and_its_incomplete_line_is_dropped(open_log, tmp_path):
    other = open_log(tmp_path, rank=1)
    other.append({"idx": 1, "value": 1})
    other.close()
    part = tmp_path / "certify.rank1.tsv"
    part.write_text(part.read_text() + "2\t")
    log = open_log(tmp_path)  # now one rank only
    assert log.finished == {("1",)}
    log.append({"idx": 2, "value": 2})
    log.merge([1, 2])
    assert [row["value"] for row in log.rows()] == ["1", "2"]


def test_a_merged_log_is_continued_and_stays_as_it_is(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append({"idx": 1, "value": 1})
    before = log.merge([1]).read_bytes()
    again = open_log(tmp_path)
    assert 1 in again
    assert again.merge([1]).read_bytes() == before


def test_a_kill_between_merging_and_removing_the_parts_repeats_nothing(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append({"idx": 1, "value": 1})
    part = (tmp_path / "certify.rank0.tsv").read_text()
    log.merge([1])
    (tmp_path / "certify.rank0.tsv").write_text(part)
    again = open_log(tmp_path)
    again.merge([1])
    assert (tmp_path / "certify.tsv").read_text() == "idx\tvalue\n1\t1\n"


def test_changed_settings_are_refused_by_name(open_log, tmp_path):
    open_log(tmp_path, n=100, alpha=0.001).append({"idx": 1, "value": 1})
    with pytest.raises(ValueError, match=r"n=100 then, 200 now.*hydra\.run\.dir"):
        open_log(tmp_path, n=200, alpha=0.001)
    with pytest.raises(ValueError, match="sigma=None then"):
        open_log(tmp_path, n=100, alpha=0.001, sigma=0.5)
    with pytest.raises(ValueError, match=r"\(n=100 then, None now; n.deep=None then, 1 now\)"):
        open_log(tmp_path, n={"deep": 1}, alpha=0.001)
    open_log(tmp_path, alpha=0.001, n=100).close()  # the order does not matter
    assert RecordLog.written_settings(tmp_path, "certify") == {"n": 100, "alpha": 0.001}
    assert RecordLog.written_settings(tmp_path, "attack") == {}


def test_nothing_is_written_before_the_first_row(open_log, tmp_path):
    """After a start that is refused, the corrected command can use the same folder."""
    folder = tmp_path / "run"
    open_log(folder, n=100).close()
    assert not folder.exists()
    open_log(folder, n=200).append({"idx": 1, "value": 1})
    assert RecordLog.written_settings(folder, "certify") == {"n": 200}


def test_settings_without_rows_are_replaced(open_log, tmp_path):
    """Earlier versions left such files."""
    (tmp_path / "certify.settings.json").write_text('{"n": 100}')
    open_log(tmp_path, n=200).append({"idx": 1, "value": 1})
    assert RecordLog.written_settings(tmp_path, "certify") == {"n": 200}


def test_rows_without_their_settings_are_not_continued(open_log, tmp_path):
    open_log(tmp_path, n=100).append({"idx": 1, "value": 1})
    (tmp_path / "certify.settings.json").unlink()
    for settings in ({"n": 100}, {"n": 200}):
        with pytest.raises(ValueError, match=r"`certify\.settings\.json`.*is gone; put it back, or choose"):
            open_log(tmp_path, **settings)


@pytest.mark.parametrize("damage", [b"\xff\xfe", b"{", b"[1]", b""])
def test_damaged_settings_are_named(open_log, tmp_path, damage):
    open_log(tmp_path).append({"idx": 1, "value": 1})
    (tmp_path / "certify.settings.json").write_bytes(damage)
    with pytest.raises(ValueError, match=r"certify\.settings\.json`.*is damaged; put back a copy"):
        open_log(tmp_path)


def test_a_damaged_row_is_named_and_can_be_deleted(open_log, tmp_path):
    log = open_log(tmp_path)
    for idx in (1, 2, 3):
        log.append({"idx": idx, "value": 1})
    log.close()
    part = tmp_path / "certify.rank0.tsv"
    lines = part.read_bytes().splitlines(keepends=True)
    part.write_bytes(b"".join([*lines[:2], b"2\t\xff\n", lines[3]]))
    with pytest.raises(
        ValueError, match=r"line 3 of `.*certify\.rank0\.tsv` is damaged, it is not text; delete"
    ):
        open_log(tmp_path)
    part.write_bytes(b"".join([*lines[:2], lines[3]]))
    assert open_log(tmp_path).finished == {("1",), ("3",)}


def test_rows_of_earlier_versions_are_continued(tmp_path):
    """They have no column `image`, and their settings no answers."""
    columns, settings = ["idx", "label", "value", "image"], {"n": 1, "answers": {"logits": [1.0, 2.0]}}
    old = RecordLog(tmp_path, "certify", columns[:3], ["idx"], {"n": 1})
    old.append({"idx": 1, "label": 7, "value": 0.5})
    old.close()
    new = RecordLog(tmp_path, "certify", columns, ["idx"], settings)
    assert new.known == {"1": {"label": "7", "image": "-"}}
    new.append({"idx": 2, "label": 8, "value": 0.5, "image": "abc"})
    new.merge([1, 2])
    assert new.path.read_text() == "idx\tlabel\tvalue\timage\n1\t7\t0.5\t-\n2\t8\t0.5\tabc\n"


def test_answers_are_compared_up_to_rounding(tmp_path):
    def opened(*logits):
        return RecordLog(tmp_path, "certify", COLUMNS, ["idx"], {"answers": {"logits": logits}})

    with closing(opened(1.0, -2.0, math.nan, -math.inf)) as log:
        log.append({"idx": 1, "value": 1})
    opened(1.001, -2.001, math.nan, -math.inf)
    for other in ((-1.0, 2.0, math.nan, -math.inf), (1.0, -2.0, 0.0, -math.inf), (1.0, -2.0)):
        with pytest.raises(ValueError, match="same weights and gives other answers: its code has changed"):
            opened(*other)


def test_other_columns_are_refused(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append({"idx": 1, "value": 1})
    log.close()
    with pytest.raises(ValueError, match="has the columns"):
        RecordLog(tmp_path, "certify", ["idx", "radius"], ["idx"], {"n": 100})


def test_a_missing_row_is_an_error_that_says_how_to_continue(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append({"idx": 1, "value": 1})
    with pytest.raises(ValueError, match=r"2 rows are missing.*'idx': '2'.*start the same command again"):
        log.merge([1, 2, 3])
    assert 1 in open_log(tmp_path)  # nothing is lost


def test_values_with_tabs_are_refused(open_log, tmp_path):
    with pytest.raises(ValueError, match="must not hold tabs"):
        open_log(tmp_path).append({"idx": 1, "value": "a\tb"})


def test_nan_is_written_as_nan(open_log, tmp_path):
    log = open_log(tmp_path)
    log.append({"idx": 1, "value": math.nan})
    log.merge([1])
    assert log.rows() == [{"idx": "1", "value": "nan"}]


def test_a_full_disk_is_an_error_and_keeps_every_finished_row(open_log, tmp_path):
    log = open_log(tmp_path)
    failed = 0

    def fill():
        nonlocal failed
        for failed in range(1000):
            log.append({"idx": failed, "value": "x" * 17})

    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))  # bytes of a file
    try:
        with pytest.raises(OSError, match="File too large") as caught:
            fill()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert caught.value.errno == errno.EFBIG
    log.close()
    text = (tmp_path / "certify.rank0.tsv").read_text()
    assert text.endswith("\n")  # no incomplete line is left
    log = open_log(tmp_path)
    assert log.finished == {(str(idx),) for idx in range(failed)}
    assert failed > 0
    log.append({"idx": failed, "value": "y"})
    log.merge(range(failed + 1))


def test_a_folder_without_write_permission_is_an_error(open_log, tmp_path):
    if os.geteuid() == 0:
        blocked = tmp_path / "file"
        blocked.write_text("")
        with pytest.raises(OSError, match="file"):  # root may write everywhere, but not below a file
            open_log(blocked / "run").append({"idx": 1, "value": 1})
    else:
        tmp_path.chmod(0o500)
        with pytest.raises(PermissionError):
            open_log(tmp_path).append({"idx": 1, "value": 1})


def test_a_larger_n_is_written_though_no_finished_row_is_extended(tmp_path):
    """The images that follow may take as many votes: the log must not say that they took the old n."""
    for index, n in ((0, 100), (1, 300)):
        log = RecordLog(
            tmp_path,
            "certify",
            ["idx", "votes"],
            ["idx"],
            {"procedure": {"n": n}},
            may_change=["procedure.n"],
            extension=Extension("votes", lambda row: False),
        )
        log.append({"idx": index, "votes": n})
        log.close()
        assert RecordLog.written_settings(tmp_path, "certify")["procedure"]["n"] == n
    assert len(log.finished) == 2
