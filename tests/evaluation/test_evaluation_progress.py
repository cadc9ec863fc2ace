"""The messages about a running evaluation contain only measured times."""

import io

import pytest
from rich.console import Console

from robustsmooth.evaluation.evaluation_progress import EvaluationProgress
from robustsmooth.terminal import duration


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr("robustsmooth.evaluation.evaluation_progress.time.perf_counter", lambda: now[0])
    return now


def progress(most_passes, unit="votes"):
    console = Console(file=io.StringIO(), width=200)
    return EvaluationProgress("certifying", 10, most_passes, unit, console), console.file


def test_without_a_terminal_a_line_is_printed_soon_and_then_every_minute(clock):
    bar, said = progress(1000)
    bar.advance(100)  # the time is measured from here
    clock[0] += 4.0
    bar.advance(80)
    assert said.getvalue() == ""
    clock[0] += 1.5
    bar.advance(30)
    assert said.getvalue() == "certifying 0/10 images, 20 votes/s, at most 8:10 min left\n"
    clock[0] += 59.0
    bar.advance(690)
    assert said.getvalue().count("\n") == 1
    clock[0] += 5.5
    bar.advance(600, 1, 1000)
    # 10 images of 1000 votes at 20 votes a second; 1500 of them are cast.
    assert (
        said.getvalue().splitlines()[1]
        == "certifying 1/10 images, 0.0143 images/s, 20 votes/s, 7:05 min left"
    )


def test_no_time_is_shown_before_it_can_be_estimated(clock):
    """An earlier version showed "1 s left" before the first image of an attack was finished."""
    bar, said = progress(None, "passes")
    for _ in range(8):
        clock[0] += 1.0
        bar.advance(50)
    assert said.getvalue() == "certifying 0/10 images, 50 passes/s\n"
    bar.advance(0, 4)  # 400 passes for four images: six more take 600
    assert bar.said(clock[0]).endswith(", 12 s left")


def test_the_first_pass_does_not_count(clock):
    """It also chooses kernels and allocates; with it the time left would be nine times as long."""
    bar, _ = progress(10)
    clock[0] += 80.0
    bar.advance(1)
    clock[0] += 10.0
    bar.advance(9)
    assert bar.said(clock[0]) == ", 0.9 votes/s, at most 1:40 min left"


def test_durations():
    assert [duration(seconds) for seconds in (0, 59.4, 60, 3599, 3600, 90061)] == [
        *("1 s", "59 s", "1:00 min", "59:59 min", "1:00 h", "1 day, 1:01 h"),
    ]
