"""Tables of results, computed again from the logs that are published beside them."""

import json
import re
import tarfile
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from scipy import stats

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


def test_the_digits_table_is_what_its_logs_say():
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


@pytest.mark.parametrize(
    ("name", "title", "radii"),
    [
        ("sun2025", "Sun et al., trained again", (0, 0.25, 0.5, 0.75)),
        ("sun2025_050", "Sun et al. at sigma .5", (0, 0.25, 0.5, 0.75, 1, 1.25, 1.5)),
    ],
)
def test_the_tables_of_sun_et_al_on_cifar10_are_what_their_logs_say(name, title, radii):
    certified, once = {}, {}
    with tarfile.open(RESULTS / "cifar10" / f"{name}.tar.xz") as archive:
        for method in ("gaussian", "sun2025"):
            folder = f"{method}/n10000"
            certified[method] = pd.read_csv(archive.extractfile(f"{folder}/certify.tsv"), sep="\t")
            once[method] = json.load(archive.extractfile(f"{folder}/summary.json"))["metrics"]["test/top1"]
    section = (RESULTS / "cifar10.md").read_text("utf-8").split(f"## {title}\n")[1].split("\n## ")[0]
    rows = {
        line.split(" | ")[0].strip("| "): line.split(" | ")[1:]
        for line in section.splitlines()
        if " | " in line
    }
    acr = {}
    for method, log in certified.items():
        assert len(log) == 500
        counted = log.radius.where(log.correct == 1, -1)
        acr[method] = counted.clip(lower=0)
        bound = ((log.p_a_lower >= 0.9) & (log.correct == 1)).mean()
        shares = [once[method], *((counted >= radius).mean() for radius in radii), (log.predict == -1).mean()]
        told = [float(cell.strip("| ")) for cell in rows[method][: len(shares) + 2]]
        *accuracies, mean, sure = told
        assert [*accuracies, sure] == pytest.approx([100 * share for share in (*shares, bound)], abs=0.06), (
            method
        )
        assert mean == pytest.approx(acr[method].mean(), abs=0.0006)
    told = [float(number) for number in re.findall(r"[+-]\.\d+", rows["sun2025"][len(radii) + 4])]
    difference = acr["sun2025"] - acr["gaussian"]
    width = stats.t.ppf(0.975, 499) * difference.std(ddof=1) / 500**0.5
    mean = difference.mean()
    assert told == pytest.approx([mean, mean - width, mean + width], abs=0.0011)
