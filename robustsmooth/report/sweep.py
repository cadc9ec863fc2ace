"""The report at the end of a sweep, as a Hydra callback: ``hydra/callbacks=report``."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from hydra.experimental.callback import Callback
from omegaconf import DictConfig

from robustsmooth.report.build import FORMATS, write_report
from robustsmooth.report.results import record_results
from robustsmooth.statistics import Method


class ReportSweep(Callback):
    """When a sweep ends, report on all its jobs, including those of an earlier start.

    Args:
        folder: Name of the report's folder inside the sweep's.
        record: Also save the shown tables in this folder, by experiment and scale (``docs/results``).
        title: Heading of the page; the experiment's or the sweep's name if None.
        formats: See `write_report`.
        show: See `write_report`.
        radii: See `write_report`.
        level: See `write_report`.
        interval: See `write_report`.
        restate: See `write_report`.
        published: See `write_report`.
        baseline: See `write_report`.
    """

    def __init__(
        self,
        folder: str = "report",
        record: str | None = None,
        title: str | None = None,
        formats: Sequence[str] = FORMATS,
        show: Sequence[str] | None = None,
        radii: Sequence[float] | None = None,
        level: float = 0.95,
        interval: Method = "clopper_pearson",
        restate: int | None = None,
        published: str | None = None,
        baseline: str | None = None,
    ) -> None:
        self.folder, self.title, self.formats, self.record = folder, title, list(formats), record
        self.show, self.radii = None if show is None else list(show), None if radii is None else list(radii)
        self.level, self.interval, self.restate, self.published = level, interval, restate, published
        self.baseline = baseline

    def on_multirun_end(self, config: DictConfig, **kwargs: Any) -> None:
        """Report on the sweep's folder."""
        sweep, choices = Path(config.hydra.sweep.dir).absolute(), config.hydra.runtime.choices
        experiment = choices.get("experiment")
        known = f"{experiment}, scale={choices.scale}" if experiment else sweep.name
        tables = write_report(
            str(sweep),
            sweep / self.folder,
            title=self.title or known,
            formats=self.formats,
            show=self.show,
            radii=self.radii,
            level=self.level,
            interval=self.interval,
            restate=self.restate,
            published=self.published,
            baseline=self.baseline,
        )
        if self.record is not None and experiment:
            shown = [table for table in tables if self.show is None or table.name in self.show]
            record_results(Path(self.record), experiment, choices.scale, sweep, shown)
        print(f"The report is {sweep / self.folder / 'report.html'}")
