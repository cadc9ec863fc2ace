"""The digits' table of five seeds, computed again from the logs that are published beside it."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

RESULTS = Path(__file__).parents[1] / "docs" / "results"


def read_logs():
    """Every certification and attack, for each method, seed and evaluation; accuracies in one pass."""
    logs, once = {}, {}
    with tarfile.open(RESULTS / "digits" / "all_methods.tar.xz") as archive:
        for member in archive:
            path = Path(member.name)
            if path.suffix == ".tsv" or path.match("certify/summary.json"):
                (method, _, seed), evaluation = path.parts[-3].rpartition("-"), path.parts[-2]
                if path.suffix == ".tsv":
                    logs[method, int(seed), evaluation] = pd.read_csv(archive.extractfile(member), sep="\t")
                else:
                    summary = json.load(archive.extractfile(member))
                    once[method, int(seed)] = summary["metrics"]["test/top1"]
    return logs, once


def shares(logs, once, method, seed):
    """The columns of the table but the difference, in percent; the ACR in pixel units."""
    certified, network, smoothed = (logs[method, seed, name] for name in ("certify", "pgd", "epgd"))
    counted = certified.radius.where(certified.correct == 1, -1)
    yield 100 * once[method, seed]
    yield from (100 * (counted >= radius).mean() for radius in (0, 0.25, 0.4, 0.5))
    yield counted.clip(lower=0).mean()
    yield 100 * ((certified.p_a_lower >= 0.9) & (certified.correct == 1)).mean()
    yield from (100 * ((log.success == 0) & (log.clean == log.label)).mean() for log in (network, smoothed))


def test_the_table_is_what_its_logs_say():
    logs, once = read_logs()
    rows = [line.split(" | ") for line in (RESULTS / "digits.md").read_text("utf-8").splitlines()]
    rows = [[cell.strip("| ") for cell in row] for row in rows if len(row) == 12 and row[1] == "5"]
    assert len(rows) == 21
    seeds = sorted({seed for _, seed, _ in logs})
    assert seeds == [0, 1, 2, 3, 4]
    for method, _, *cells in rows:
        values = np.array([list(shares(logs, once, method, seed)) for seed in seeds])
        told = [cell for cell in cells if "±" in cell]
        for cell, column in zip(told, values.T, strict=True):
            mean, spread = (float(number) for number in cell.split(" ± "))
            rounding = 0.0006 if cell.startswith(".") else 0.06  # .400 is an ACR, 0.4 are percent
            assert (mean, spread) == pytest.approx((column.mean(), column.std(ddof=1)), abs=rounding), method
