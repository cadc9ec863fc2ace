"""Report on runs: ``python -m robustsmooth.report runs=multirun/2026-11-20``."""

from typing import Any

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare


@command("report")
def report(cfg: DictConfig) -> None:
    """Write tables, figures and a page about the runs in the config."""
    from omegaconf import OmegaConf

    from robustsmooth.report.build import write_report

    folder = prepare(cfg, "report")
    plain: Any = OmegaConf.to_container(cfg, resolve=True)
    write_report(plain["runs"], folder, **plain["report"])
    if "html" in cfg.report.formats:
        print(f"The report is {folder / 'report.html'}")


if __name__ == "__main__":
    report()
