"""The report as one self-contained HTML page."""

import base64
import os
from collections.abc import Mapping, Sequence
from importlib import resources
from pathlib import Path
from typing import Any
from urllib.parse import quote

import yaml

from robustsmooth.files import write_whole
from robustsmooth.report.figures import Drawing
from robustsmooth.report.markup import as_html
from robustsmooth.report.runs import Run
from robustsmooth.report.table import Table

PICTURES = ("attack*.png", "pictures/*.png", "*grid*.png")
"""The names of an attack's picture grids in a run folder."""
MOST_PICTURES = 12
MOST_RUNS = 200
"""With more runs the page leaves out configs, which are in the run folders."""


def write_page(
    path: Path,
    title: str,
    subtitle: str,
    runs: Sequence[Run],
    tables: Sequence[Table],
    figures: Sequence[Drawing],
    problems: Sequence[str] = (),
    footer: str = "",
) -> None:
    """Write the page: tables, figures as SVG, sample pictures, the runs with their configs and links.

    Args:
        path: The HTML file.
        title: Its heading.
        subtitle: A line below it.
        runs: The runs that the numbers come from.
        tables: Shown in this order; the first one comes before the figures.
        figures: Drawn into the page.
        problems: Messages about files that could not be read completely.
        footer: The last line.
    """
    from jinja2 import Environment, StrictUndefined

    home = resources.files("robustsmooth.report")
    template = home.joinpath("page.html.j2").read_text(encoding="utf-8")
    environment = Environment(
        autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True
    )
    page = environment.from_string(template).render(
        title=title,
        subtitle=subtitle,
        html=as_html,
        script=home.joinpath("page.js").read_text(encoding="utf-8"),
        lead=tables[0] if tables else None,
        tables=list(tables),
        figures=list(figures),
        pictures=_pictures(runs),
        problems=list(problems),
        runs=[_described(run, path.parent) for run in runs[:MOST_RUNS]],
        runs_left_out=max(len(runs) - MOST_RUNS, 0),
        footer=footer,
    )
    write_whole(path, page)


def _described(run: Run, home: Path) -> dict[str, Any]:
    files = [log for logs in run.logs.values() for log in logs]
    files += [file for name in ("summary.json", "metrics.csv") if (file := run.folder / name).exists()]
    links = [("folder", run.folder), *((file.name, file) for file in files)]
    return {
        "label": run.label,
        "links": [(name, quote(Path(os.path.relpath(target, home)).as_posix())) for name, target in links],
        "facts": ", ".join(f"{name} {fact}" for name, fact in run.facts.items() if fact is not None),
        "config": _dump(run.config) if run.config else "",
    }


def _dump(config: Mapping[str, Any]) -> str:
    return yaml.safe_dump(dict(config), sort_keys=False, allow_unicode=True)


def pictures_of(run: Run) -> list[Path]:
    """The picture grids in a run folder."""
    return sorted({file for pattern in PICTURES for file in run.folder.glob(pattern)})


def _pictures(runs: Sequence[Run]) -> list[dict[str, str]]:
    """The picture grids that attack runs saved (clean, perturbation, adversarial)."""
    pictures = []
    for run in runs:
        if "attack" not in run.logs:
            continue
        for file in pictures_of(run):
            data = base64.b64encode(file.read_bytes()).decode()
            source = f"data:image/png;base64,{data}"
            pictures.append({"caption": f"{run.label}: {file.stem}", "source": source})
    return pictures[:MOST_PICTURES]
