"""The text of pages, configs, sources and tests: short lines, and no phrases that are hard to understand."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
TEXTS = [
    *PAGES,
    *sorted((ROOT / "docs/notebooks").glob("*.ipynb")),
    *sorted((ROOT / "docs/papers").glob("*.yaml")),
    *sorted((ROOT / "conf").rglob("*.yaml")),
    *(
        text
        for folder in ("robustsmooth", "hydra_plugins", "benchmarks", "tests")
        for text in sorted((ROOT / folder).rglob("*.py"))
        if text != Path(__file__).resolve()
    ),
]
LONGEST = 110
PHRASES = {
    "by lot": "at random",
    "whoever": "name the person or the program",
    "go on with": "continue with",
    "goes on with": "continues with",
    "going on from": "continuing from",
    "anew": "again",
    "left standing": "the accuracy under attack",
    "without a word": "silently",
    "in a sentence": "with a message",
    "so many": "this many",
    "the field's": "published, usual",
    "left alone": "not changed",
    "leaves alone": "does not change",
    "look by look": "vote by vote",
    "says so": "reports it",
    "handed on": "passed",
    "stands alone": "separate",
    "each its": "every ... has its own",
    "as it were": "leave it out",
    "pays for it": "loses accuracy, takes longer",
    "the one who": "name the person or the program",
    "for ever": "forever",
    "given away": "lost, or revealed",
    "slow twin": "slow reference",
    "of one's own": "the user's",
    "or thereabouts": "about",
    "once and for all": "once",
}
"""Phrases that are not used, with what to write instead."""


def prose(page):
    """The lines of a page outside of code, with their numbers."""
    fenced = False
    for number, line in enumerate(page.read_text(encoding="utf-8").splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.startswith("    "):
            yield number, line


def test_lines_of_pages_are_short():
    """Except in code, tables, headings, and lines with links or a single long word."""
    long = [
        f"{page.relative_to(ROOT)}:{number}"
        for page in PAGES
        for number, line in prose(page)
        if len(line) > LONGEST
        and not line.lstrip().startswith(("|", "#"))
        and "](" not in line
        and " " in line.strip()
    ]
    assert not long


@pytest.mark.parametrize("phrase", PHRASES)
def test_phrases_that_are_hard_to_read_are_not_used(phrase):
    pattern = re.compile(rf"\b{phrase}\b".replace(" ", r"\s+(?:# )?"))
    found = [text.relative_to(ROOT) for text in TEXTS if pattern.search(text.read_text(encoding="utf-8"))]
    assert not found, f"write {PHRASES[phrase]!r}"
