"""What the documentation site adds to the pages of this folder (mkdocs.yml names this file).

* README.md is the front page; CONTRIBUTING.md and its like are pages too, with links relative to the site.
* One page of API reference for each package, from the docstrings of the names in its ``__all__``.
* A public name without a docstring is a warning, and so are two pages with the same address: MkDocs would
  write one over the other. `make docs` fails on warnings.
"""

import logging
import posixpath
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import griffe
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from mkdocs.structure.nav import Navigation
from mkdocs.structure.pages import Page

ROOT = Path(__file__).resolve().parents[1]
TOP_LEVEL = {name: name for name in ("CONTRIBUTING.md", "CHANGELOG.md", "SECURITY.md")} | {
    "README.md": "index.md"
}
_LINK = re.compile(r"(?P<image>!?)\[(?P<text>[^\]]*)\]\((?P<target>[^)#\s]+)(?P<anchor>#[^)\s]*)?\)")
_log = logging.getLogger("mkdocs.hooks.robustsmooth")


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Replace the words ``api`` and ``methods`` in the navigation by their pages."""
    cards = sorted(
        path.relative_to(ROOT / "docs").as_posix() for path in (ROOT / "docs/methods").glob("*.md")
    )
    listed = {"api": [f"api/{name}.md" for name in packages()], "methods": cards}
    config.nav = [
        {title: listed.get(entry, entry) if isinstance(entry, str) else entry}
        for item in config.nav or []
        for title, entry in item.items()
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the pages that do not stand in docs/."""
    for source, place in TOP_LEVEL.items():
        if (ROOT / source).exists():
            text = moved((ROOT / source).read_text(encoding="utf-8"))
            files.append(File.generated(config, place, content=text))
    for name, package in packages().items():
        files.append(File.generated(config, f"api/{name}.md", content=reference(package)))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Links from docs/ to the files beside it: pages where they are pages, plain text otherwise."""
    if page.file.src_uri in TOP_LEVEL.values():
        return markdown
    return _LINK.sub(lambda link: _outside(link, page.file.src_uri), markdown)


def on_nav(nav: Navigation, config: MkDocsConfig, files: Files) -> Navigation:
    """Every page must be found from the navigation, at its own address."""
    one_page_per_address(files)
    for page in files.documentation_pages():
        if page.page is not None and page.page.parent is None and page.page not in nav.items:
            _log.warning("%s is not in the navigation of mkdocs.yml", page.src_uri)
    return nav


def one_page_per_address(files: Files) -> None:
    """Warn about pages that the site would have at the same address, such as a.md and a/README.md."""
    sources: dict[str, str] = {}
    for page in files.documentation_pages():
        first = sources.setdefault(page.dest_uri.lower(), page.src_uri)
        if first != page.src_uri:
            _log.warning("%s and %s have the same address, /%s", first, page.src_uri, page.url)


def moved(text: str) -> str:
    """A top-level page's text with its links as seen from the site's root."""

    def link(found: re.Match[str]) -> str:
        target, anchor = found["target"], found["anchor"] or ""
        if re.match(r"[a-z]+:", target):
            return found[0]
        if target in TOP_LEVEL:
            target = TOP_LEVEL[target]
        elif target.startswith("docs/"):
            target = target.removeprefix("docs/")
            target = f"{target}/{_first_page(target)}" if (ROOT / "docs" / target).is_dir() else target
        else:  # a file of the repository that is no page
            return found["text"]
        return f"{found['image']}[{found['text']}]({target}{anchor})"

    return _LINK.sub(link, text)


def _first_page(folder: str) -> str:
    return sorted(path.name for path in (ROOT / "docs" / folder).glob("*.md"))[0]


def _outside(found: re.Match[str], page: str) -> str:
    """A link of a page in docs/, if it leaves docs/."""
    target = posixpath.normpath(posixpath.join(posixpath.dirname(page), found["target"]))
    if re.match(r"[a-z]+:", found["target"]) or not target.startswith("../"):
        return found[0]
    name = target.removeprefix("../")
    if name in TOP_LEVEL:
        up = posixpath.relpath(TOP_LEVEL[name], posixpath.dirname(page) or ".")
        return f"[{found['text']}]({up}{found['anchor'] or ''})"
    return found["text"]


def packages() -> dict[str, griffe.Module]:
    """The packages with public names, as ``{"smoothing": ..., }``, read without importing them."""
    root = griffe.load("robustsmooth", search_paths=[str(ROOT)], resolve_aliases=True)
    assert isinstance(root, griffe.Module)
    public = {name: module for name, module in sorted(root.modules.items()) if module.exports}
    return {name: module for name, module in public.items() if module.is_init_module}


def reference(package: griffe.Module) -> str:
    """The API page of a package: what it is, then every public name."""
    lines = [f"# {package.path}", "", package.docstring.value if package.docstring else "", ""]
    for name, found in sorted(_public(package), key=lambda pair: pair[0].lower()):
        if not found.has_docstring and not found.is_attribute:
            _log.warning("%s.%s is public and has no docstring", package.path, name)
        lines += [f"::: {package.path}.{name}", ""]
    return "\n".join(lines)


def _public(package: griffe.Module) -> Iterator[tuple[str, Any]]:
    for export in package.exports or []:
        name = str(export)
        member = package.members.get(name)
        if member is None:
            _log.warning("%s.__all__ names %s, which is not there", package.path, name)
            continue
        yield name, member.final_target if member.is_alias else member
