"""Results of experiments and of their papers: one JSON file per experiment in ``docs/results``."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from robustsmooth.files import write_whole
from robustsmooth.report.table import Table, plain_rows


def record_results(folder: Path, experiment: str, scale: str, sweep: Path, tables: Sequence[Table]) -> Path:
    """Write the results of a sweep into its experiment's file; the paper's values and other scales are kept.

    Args:
        folder: ``docs/results``.
        experiment: Such as ``salman2019/table2``.
        scale: Such as ``smoke``.
        sweep: The sweep's folder; its jobs have commit, versions and seeds.
        tables: The tables that are the experiment's result.

    Returns:
        The file.
    """
    path = folder / f"{experiment}.json"
    content = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"paper": {}, "ours": {}}
    content["ours"][scale] = {
        "command": f"python -m robustsmooth.train experiment={experiment} scale={scale}",
        "config": f"conf/experiment/{experiment}.yaml",
        **_environment(sweep),
        "tables": {table.name: plain_rows(table) for table in tables},
    }
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def _environment(sweep: Path) -> dict[str, Any]:
    """Commits and versions of the jobs; one commit if they agree."""
    found = [json.loads(path.read_text()) for path in sorted(sweep.glob("*/.hydra/environment.json"))]
    commits = sorted({str(item.get("git_commit")) for item in found})
    packages = found[-1]["packages"] if found else {}
    return {"commit": commits[0] if len(commits) == 1 else commits, "packages": packages}
