"""The reader of logs, against files written by hand."""

import numpy as np
import pandas as pd
import pytest

from robustsmooth.report import logs
from robustsmooth.report.logs import kind_of, read_log, seconds

HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"
BODY = "0\t3\t3\t0.512\t1\t0:00:15.25\n20\t8\t-1\t0.0\t0\t0:01:05.000001\n40\t1\t2\t0.33\t0\t1:00:00\n"


def write(tmp_path, text, name="log.tsv"):
    path = tmp_path / name
    path.write_bytes(text.encode())
    return path


def test_a_log_of_published_code_is_read(tmp_path):
    log = read_log(write(tmp_path, f"{HEADER}\n{BODY}"))
    assert log.kind == "certify"
    assert log.problems == ()
    assert log.rows["idx"].tolist() == [0, 20, 40]
    assert log.rows["predict"].tolist() == [3, -1, 2]
    assert log.rows["radius"].tolist() == [0.512, 0.0, 0.33]
    assert log.rows["time"].tolist() == pytest.approx([15.25, 65.000001, 3600.0])


def test_windows_line_ends_change_nothing(tmp_path):
    unix = read_log(write(tmp_path, f"{HEADER}\n{BODY}"))
    windows = read_log(write(tmp_path, f"{HEADER}\n{BODY}".replace("\n", "\r\n"), "crlf.tsv"))
    assert windows.rows.equals(unix.rows)
    assert windows.problems == ()


def test_times_in_seconds_and_clock_times_may_mix(tmp_path):
    log = read_log(write(tmp_path, f"{HEADER}\n0\t1\t1\t0.1\t1\t2.5\n1\t1\t1\t0.1\t1\t0:00:03\n"))
    assert log.rows["time"].tolist() == [2.5, 3.0]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("0:00:01", 1),
        ("1 day, 1:00:00.5", 90000.5),
        ("2 days, 0:00:00", 172800),
        ("3", 3),
        ("nonsense", np.nan),
    ],
)
def test_seconds(text, expected):
    assert seconds(text) == pytest.approx(expected, nan_ok=True)


@pytest.mark.parametrize("text", ["", "\n", "\r\n"])
def test_an_empty_file_is_reported(tmp_path, text):
    log = read_log(write(tmp_path, text))
    assert log.rows.empty
    assert "empty" in log.problems[0]


def test_a_header_alone_is_reported(tmp_path):
    for text in (HEADER, HEADER + "\n"):
        log = read_log(write(tmp_path, text))
        assert log.rows.empty
        assert "no rows" in log.problems[0]


@pytest.mark.parametrize("cut", range(1, len("40\t1\t2\t0.33\t0\t1:00:00.5")))
def test_a_half_written_last_line_is_left_out_wherever_it_stops(tmp_path, cut):
    last = "40\t1\t2\t0.33\t0\t1:00:00.5"
    whole = BODY.rsplit("40\t", 1)[0]
    log = read_log(write(tmp_path, f"{HEADER}\n{whole}{last[:cut]}"))
    kept = last[:cut].count("\t") == 5 and "." in last[:cut].rsplit("\t", 1)[1]
    assert log.rows["idx"].tolist() == [0, 20, *([40] if kept else [])]
    assert bool(log.problems) != kept


def test_a_last_line_without_line_end_counts_only_in_logs_of_published_code(tmp_path):
    foreign = read_log(write(tmp_path, f"{HEADER}\n0\t1\t1\t0.1\t1\t0:00:02.5"))
    assert len(foreign.rows) == 1
    ours = read_log(write(tmp_path, f"{HEADER}\tvotes\n0\t1\t1\t0.1\t1\t2.5\t1100\n1\t1\t1\t0.1\t1\t2.5\t11"))
    assert ours.rows["idx"].tolist() == [0]
    assert "half written" in ours.problems[0]


def test_unreadable_rows_are_reported_and_left_out(tmp_path):
    log = read_log(write(tmp_path, f"{HEADER}\n{BODY}{HEADER}\nx\t\t\t\t\t\n60\t1\t1\t0.5\t1\t1.0\n"))
    assert log.rows["idx"].tolist() == [0, 20, 40, 60]
    assert log.rows["correct"].dtype == np.int64
    assert "2 rows" in log.problems[0]


def test_lines_of_different_lengths_do_not_end_the_report(tmp_path):
    log = read_log(write(tmp_path, f"{HEADER}\n0\t1\t1\t0.5\t1\t1.0\textra\n1\t1\n2\t1\t1\t0.5\t1\t1.0\n"))
    assert log.rows["idx"].tolist() == [2]
    assert "2 rows" in log.problems[0]


def test_a_log_that_was_appended_to_twice_counts_each_image_once(tmp_path):
    log = read_log(write(tmp_path, f"{HEADER}\n{BODY}{BODY}"))
    assert len(log.rows) == 3
    assert "repeat" in log.problems[0]


def test_truth_values_become_numbers_and_words_stay_words(tmp_path):
    header = "idx\tlabel\tclean\tadversarial\tl2\tsuccess\tnorm"
    log = read_log(write(tmp_path, f"{header}\n0\t1\t1\t2\t0.5\tTrue\tl2\n1\t1\t1\t1\t0.5\tFalse\tl2\n"))
    assert log.kind == "attack"
    assert log.rows["success"].tolist() == [1, 0]
    assert log.rows["norm"].tolist() == ["l2", "l2"]


def test_a_file_that_is_not_a_log_is_an_error(tmp_path):
    with pytest.raises(ValueError, match="is no robustness log: its first line must name columns"):
        read_log(write(tmp_path, "Epoch 1: loss 0.5\n"))
    with pytest.raises(ValueError, match="is no attack log"):
        read_log(write(tmp_path, f"{HEADER}\n{BODY}"), "attack")
    assert kind_of(["a", "b"]) is None


def test_a_line_that_is_not_text_does_not_end_the_report(tmp_path):
    path = tmp_path / "bad.tsv"
    path.write_bytes(f"{HEADER}\n{BODY}".encode() + b"\xff\xfe\t1\t1\t0.1\t1\t1.0\n")
    log = read_log(path)
    assert log.rows["idx"].tolist() == [0, 20, 40]
    assert log.problems


@pytest.mark.parametrize(
    "line",
    [
        "1\t2\t2\t0.5\t1\t0:00:01.5",
        "1\t2\t2\t5e-1\t1\t0:00:01.5\r",
        "1\t2\t2\tnan\t1\t0:00:01.5",
        "1\t2\t2\tinf\t1\t0:00:01.5",
        "1\t2\t2\t0.5\t1\t0.5:00:01.5",
        "1\t2.5\t2\t0.5\t1\t0:00:01.5",
        "1\t\t2 2\t0.5\t1\t0:00:01.5",
        "1\t2\t2\t0.5\t1\t1 day, 0:00:01.5",
        "1\t2\t2\t0.5\t1\t1:5",
        "1\t2\t2\t0.5",
    ],
)
def test_the_fast_reader_agrees_with_the_slow_one(tmp_path, monkeypatch, line):
    path = write(tmp_path, f"{HEADER}\n0\t1\t1\t0.25\t1\t0:00:01.25\n{line}\n")
    quick = read_log(path)
    monkeypatch.setattr(logs, "_parse_clocks", lambda content, header: None)
    slow = read_log(path)
    pd.testing.assert_frame_equal(quick.rows, slow.rows)
    assert quick.problems == slow.problems


def test_a_line_that_is_too_short_is_left_out_of_a_log_of_ours(tmp_path):
    """Its missing guarantee does not count as another guarantee."""
    row = "\t{radius}\t1\t0.1\tcertified\tl2-certificate\n"
    text = f"{HEADER}\toutcome\tguarantee\n0\t1\t1{row}1\t1\t1\t0.5\t1\t0.1\n2\t1\t1{row}".format(radius=0.5)
    log = read_log(write(tmp_path, text))
    assert log.rows["idx"].tolist() == [0, 2]
    assert log.rows["guarantee"].unique().tolist() == ["l2-certificate"]
    assert "1 rows" in log.problems[0]


def test_radii_that_cannot_be_count_as_wrong_without_labels_too(tmp_path):
    text = "idx\tpredict\tradius\tcorrect\ttime\n0\t1\tinf\t1\t0.1\n1\t1\t-5\t1\t0.1\n2\t1\t0.5\t1\t0.1\n"
    log = read_log(write(tmp_path, text))
    assert log.rows["correct"].tolist() == [0, 0, 1]
    assert log.rows["radius"].tolist() == [0.0, 0.0, 0.5]
    assert "negative or not finite" in log.problems[0]
