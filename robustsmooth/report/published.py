"""Published results to compare with ours, recomputed from the logs that their authors made public.

``published.tsv`` has one row per log, certified with n = 100 000 and alpha = 0.001; certified accuracy is in
percent of the log's rows. Some logs are incomplete: they have fewer rows than images were selected.
"""

from dataclasses import dataclass
from importlib import resources
from io import StringIO
from typing import Any

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.special import ndtri

from robustsmooth.statistics import SURE

IMAGES = {"cifar10": 10_000, "imagenet": 50_000}
"""Of the test (ImageNet: validation) split."""


@dataclass(frozen=True, eq=False)
class Published:
    """One published certification.

    Attributes:
        facts: Method, data, model, sigma, n, alpha; by the names of our config groups.
        images: Rows of the log.
        expected: Rows of a complete log.
        acr: Average certified radius.
        abstained: Share of abstentions.
        radii: ``(R,)`` where certified accuracy is known.
        accuracy: ``(R,)`` shares.
        source: Who published it, and whose log it is.
        log: Repository, commit and path of the log.
    """

    facts: dict[str, Any]
    images: int
    expected: int
    acr: float
    abstained: float
    radii: NDArray[np.float64]
    accuracy: NDArray[np.float64]
    source: str
    log: str

    @property
    def complete(self) -> bool:
        """Whether the log has all its images."""
        return self.images >= self.expected

    @property
    def sure(self) -> tuple[float, float]:
        """Bounds of the share of images that are correct with a lower bound of p_A of at least `SURE`.

        Such a bound is a radius of at least sigma Phi^-1(SURE) (Cohen et al. 2019, Theorem 1): the share lies
        between certified accuracy at the known radii above and below.
        """
        radius = self.facts["sigma"] * ndtri(SURE)
        return float(self.accuracy[self.radii >= radius][0]), float(self.accuracy[self.radii <= radius][-1])

    @property
    def methods(self) -> set[str]:
        """What its method is called: our name, and that of its paper's first author, such as ``cohen``."""
        return {self.facts["method"], self.source.split()[0].lower()}

    @property
    def name(self) -> str:
        """Its name among our runs: method and noise level, marked as published."""
        return f"published: {self.facts['method']} {self.facts['sigma']:g}"

    @property
    def label(self) -> str:
        """Method, noise level, network and source."""
        return f"{self.facts['method']} {self.facts['sigma']:g}, {self.facts['model']} ({self.source})"


def published_results(data: str) -> list[Published]:
    """The published results on a data set.

    Raises:
        ValueError: If none are known.
    """
    home = resources.files("robustsmooth.report")
    table = pd.read_csv(StringIO(home.joinpath("published.tsv").read_text(encoding="utf-8")), sep="\t")
    known = sorted(table["data"].unique())
    if data not in known:
        raise ValueError(f"`published` results are known of {', '.join(known)}, got {data!r}")
    columns = [name for name in table if name.startswith("ca@")]
    radii = np.array([float(name.removeprefix("ca@")) for name in columns])
    return [
        Published(
            facts={name: row[name] for name in ("method", "data", "model", "sigma", "n", "alpha")},
            images=int(row["images"]),
            expected=IMAGES[data] // int(row["stride"]),
            acr=float(row["acr"]),
            abstained=float(row["abstained"]) / 100,
            radii=radii,
            accuracy=np.array([row[name] for name in columns], float) / 100,
            source=str(row["source"]),
            log=f"{row['repository']}@{row['commit']}: {row['path']}",
        )
        for row in table[table["data"] == data].to_dict(orient="records")
    ]
