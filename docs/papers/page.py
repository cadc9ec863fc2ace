"""Write docs/paper-settings.md from the data files beside this one.

python docs/papers/page.py
"""

import json
import textwrap
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import yaml

HERE = Path(__file__).parent
RECIPES = HERE / "recipes.yaml"
PAGE = HERE.parent / "paper-settings.md"
RESULTS = HERE.parent / "results"
HEAD = """# Settings of the papers' experiments

<!-- Generated from docs/papers/*.yaml by `python docs/papers/page.py`: change those. -->

Every [experiment](experiments.md) that reproduces a table or figure of a paper, at `scale=full`: its rows,
what to expect, the paper's numbers, and where our settings are not the paper's:

- **differs**: the paper states another value;
- **open**: the paper states none, this one is our choice;
- **not run**: a row of the paper that is not trained here.

All other settings are as the paper states them, or those of the recipes in the table below, which are the
same in all experiments; a test composes every row and compares. Two things differ from published code in
every training. 1000 training images of CIFAR-10 and Mini-ImageNet50, and 10 000 of ImageNet, are held out as
validation images: 49 000 of CIFAR-10's 50 000 train. And images that do not fill a batch are left out of an
epoch, where published code takes a smaller last batch.

A remark that was made for an earlier experiment of the same paper is not repeated: "as in ...". The settings
of an evaluation have its name in front, as in `certify.n`. `tests/papers.py` says from which config key each
setting is read.
"""


def page() -> str:
    """The page, as Markdown."""
    files = [path for path in sorted(HERE.glob("*.yaml")) if path != RECIPES]
    papers = [yaml.safe_load(path.read_text(encoding="utf-8")) for path in files]
    return "\n".join([HEAD, *_recipes(), *(_wrapped(line) for paper in papers for line in _paper(paper))])


def _recipes() -> Iterator[str]:
    yield "## Settings of the recipes\n"
    yield "| rows with | settings | where from |"
    yield "|---|---|---|"
    for entry in yaml.safe_load(RECIPES.read_text(encoding="utf-8")):
        about = ", ".join(f"{key} {_value(value, ' or ')}" for key, value in entry["when"].items())
        yield f"| {about} | {_settings(entry['facts'])} | {_sentence(entry['why'])} |"
    yield ""


def _wrapped(line: str) -> str:
    """At most 110 characters to a line, headings and tables aside."""
    if line.startswith(("#", "|")):
        return line
    indent = "  " if line.startswith("- ") else ""
    return textwrap.fill(
        line, 110, subsequent_indent=indent, break_long_words=False, break_on_hyphens=False
    ) + "\n" * line.endswith("\n")


def _paper(paper: Mapping[str, Any]) -> Iterator[str]:
    yield f"## {paper['paper']}\n"
    others = paper.get("not_experiments")
    if others:
        yield "Not experiments: " + "; ".join(f"{name} ({what})" for name, what in others.items()) + ".\n"
    if "reading" in paper:
        yield f"{_line(paper['reading'])}\n"
    told: dict[str, str] = {}
    for name, stated in paper["experiments"].items():
        yield from _experiment(name, stated, told)


def _experiment(name: str, stated: Mapping[str, Any], told: dict[str, str]) -> Iterator[str]:
    """One experiment; ``told`` has what was said about earlier ones, with the experiment's name."""
    yield f"### `{name}`: {stated['title']}\n"
    yield (
        f"{_sentence(stated['source'])} Rows: "
        f"{_sentence(', '.join(_row(row, item) for row, item in stated['rows'].items()))}\n"
    )
    yield f"**Expected.** {_sentence(stated['expected'])}\n"
    yield from _numbers(name)
    again: dict[str, list[str]] = {}
    for remark in _remarks(stated):
        if remark.key in told:
            again.setdefault(told[remark.key], []).append(remark.short)
        else:
            told[remark.key] = name
            yield f"- {remark.text}"
    yield from (f"- as in `{earlier}`: {'; '.join(shorts)}." for earlier, shorts in again.items())
    yield ""


class _Remark(NamedTuple):
    text: str
    short: str  # where an earlier experiment has the same remark
    key: str  # equal for equal remarks, whichever of their rows an experiment has


def _remarks(stated: Mapping[str, Any]) -> Iterator[_Remark]:
    for kind, items in (("differs", stated.get("deviations")), ("open", stated.get("ours"))):
        for item in items or []:
            values, why = _settings(item["facts"]), _sentence(item["why"])
            about = [row for row in item.get("rows", []) if row in stated["rows"] and row != "all"]
            rows = f"{', '.join(f'`{row}`' for row in about)}: " if about else ""
            text = f"**{kind}**: {rows}{values}. {why}"
            yield _Remark(text, rows + _summary(item["facts"]), f"{item.get('rows')} {values} {why}")
    for row, why in (stated.get("not_run") or {}).items():
        text = f"**not run**: {_sentence(row)} {_sentence(why)}"
        yield _Remark(text, row, text)
    if "notes" in stated:
        yield _Remark(_line(stated["notes"]), "the last remark", _line(stated["notes"]))


def _summary(facts: Mapping[str, Any]) -> str:
    """`pgd, ddn`; `sigma`; `training` for more than two settings of it."""
    training = [key for key, value in facts.items() if not isinstance(value, Mapping)]
    evaluations = [key for key in facts if key not in training]
    return ", ".join([*(["training"] if len(training) > 2 else training), *evaluations])


def _numbers(name: str) -> Iterator[str]:
    """The paper's numbers, which stand in the experiment's file of results."""
    path = RESULTS / f"{name}.json"
    rows = json.loads(path.read_text(encoding="utf-8"))["paper"].get("rows", []) if path.exists() else []
    columns = list(dict.fromkeys(column for row in rows for column in row))
    if rows:
        yield f"| {' | '.join(columns)} |"
        yield f"|{'---|' * len(columns)}"
        for row in rows:
            cells = ["" if row.get(column) is None else str(row[column]) for column in columns]
            yield f"| {' | '.join(cells)} |"
        yield ""


def _row(row: str, item: Mapping[str, Any]) -> str:
    return f"{item['name']} (`{row}`)" if row != "all" else str(item["name"])


def _flat(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return found


def _settings(facts: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {_value(value)}" for key, value in _flat(facts).items())


def _value(value: Any, between: str = " ") -> str:
    return between.join(map(str, value)) if isinstance(value, list) else str(value)


def _line(text: str) -> str:
    return " ".join(str(text).split())


def _sentence(text: str) -> str:
    line = _line(text).removesuffix(".")
    return f"{line[0].upper()}{line[1:]}."


if __name__ == "__main__":
    PAGE.write_text(page(), encoding="utf-8")
