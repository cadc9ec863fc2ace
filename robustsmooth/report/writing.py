"""Tables as files: rounded for papers, unrounded for programs; and the files of an earlier report."""

import json
from collections.abc import Sequence
from pathlib import Path

from robustsmooth.files import write_whole
from robustsmooth.report.latex import as_latex
from robustsmooth.report.markup import as_markdown
from robustsmooth.report.table import Table, plain_rows

SUFFIXES = ("csv", "json", "md", "tex")


def replace_files(folder: Path, names: Sequence[str]) -> None:
    """Prepare a folder for a report's files: remove those of the last report that the new one does not have.

    Their names are kept in the file ``.written``, so that no file of anyone else is removed.
    """
    folder.mkdir(parents=True, exist_ok=True)
    record = folder / ".written"
    before = record.read_text(encoding="utf-8").splitlines() if record.exists() else []
    for name in {*before} - {*names}:
        (folder / Path(name).name).unlink(missing_ok=True)
    record.write_text("".join(f"{name}\n" for name in names), encoding="utf-8")


def write_tables(tables: Sequence[Table], folder: Path) -> None:
    """Write each table as Markdown, LaTeX, CSV and JSON, unrounded in the last two."""
    for table in tables:
        content = {"title": table.title, "note": table.notes, "rows": plain_rows(table)}
        texts = {
            "csv": table.frame().to_csv(index=False),
            "json": json.dumps(content, indent=2) + "\n",
            "md": as_markdown(table),
            "tex": as_latex(table),
        }
        for suffix, text in texts.items():
            write_whole(folder / f"{table.name}.{suffix}", text)
