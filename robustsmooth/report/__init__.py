"""Reports: every table and figure over any set of runs, from their files alone."""

from robustsmooth.report.build import build_tables, write_report
from robustsmooth.report.evaluations import Evaluations, read_evaluations, tidy_rows
from robustsmooth.report.labels import label_runs
from robustsmooth.report.logs import Log, read_log
from robustsmooth.report.runs import Run, find_runs
from robustsmooth.report.table import Column, Table

__all__ = [
    "write_report", "find_runs", "label_runs", "read_evaluations", "build_tables", "read_log", "tidy_rows",
    "Run", "Log", "Evaluations", "Table", "Column",
]  # fmt: skip
