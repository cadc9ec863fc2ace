"""The documentation site builds without a warning; its hooks notice what is missing."""

import importlib.util
import logging
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

griffe = pytest.importorskip(
    "griffe", reason="needs the documentation tools: pip install 'robustsmooth[docs]'"
)
mkdocs = pytest.importorskip(
    "mkdocs.structure.files", reason="needs the documentation tools: pip install 'robustsmooth[docs]'"
)

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def hooks():
    spec = importlib.util.spec_from_file_location("docs_hooks", ROOT / "docs/hooks.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.slow  # `make docs` does the same
def test_the_site_builds_strictly(tmp_path):
    build = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path / "site")],
        cwd=ROOT, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert build.returncode == 0, build.stderr
    page = (tmp_path / "site/api/smoothing/index.html").read_text()
    assert "clopper_pearson_lower" in page
    assert "certified" in (tmp_path / "site/index.html").read_text()


def test_links_of_the_readme_lead_to_pages(hooks):
    text = "[guide](docs/guide.md#1-train) [cards](docs/methods) [recipe](conf/recipe) [c](CONTRIBUTING.md) [h](https://hydra.cc)"
    moved = hooks.moved(text)
    assert "[guide](guide.md#1-train)" in moved
    assert "[cards](methods/README.md)" in moved
    assert "[c](CONTRIBUTING.md)" in moved
    assert "[h](https://hydra.cc)" in moved
    assert "recipe" in moved
    assert "conf/" not in moved


def test_a_public_name_without_a_docstring_is_a_warning(hooks, tmp_path, caplog):
    package = tmp_path / "robustsmooth_like"
    package.mkdir()
    (package / "__init__.py").write_text('"""A package."""\n\n__all__ = ["f", "g"]\n\n\ndef f():\n    pass\n')
    module = griffe.load("robustsmooth_like", search_paths=[str(tmp_path)])
    with caplog.at_level(logging.WARNING):
        hooks.reference(module)
    assert "robustsmooth_like.f is public and has no docstring" in caplog.text
    assert "__all__ names g, which is not there" in caplog.text


@pytest.fixture
def site(hooks):
    """The site's files, as MkDocs finds them; the API reference, which takes seconds, is left out."""
    from mkdocs.config.defaults import MkDocsConfig

    config = MkDocsConfig()
    config.load_dict({
        "site_name": "site", "docs_dir": str(ROOT / "docs"), "site_dir": str(ROOT / "site"),
        "exclude_docs": yaml.load((ROOT / "mkdocs.yml").read_text(), yaml.BaseLoader)["exclude_docs"],
    })  # fmt: skip
    errors, _ = config.validate()
    assert not errors
    files = mkdocs.get_files(config)
    mkdocs.set_exclusions(files, config)
    for place in hooks.TOP_LEVEL.values():
        files.append(mkdocs.File(place, None, config.site_dir, config.use_directory_urls))
    return files


def test_no_two_pages_have_the_same_address(hooks, site, caplog):
    hooks.one_page_per_address(site)
    assert len(site.documentation_pages()) >= 30
    assert not caplog.text


@pytest.mark.parametrize("page", ["results/README.md", "results/index.md", "Guide.md", "README.md"])
def test_pages_with_the_same_address_are_a_warning(hooks, site, caplog, page):
    site.append(mkdocs.File(page, None, str(ROOT / "site"), use_directory_urls=True))
    hooks.one_page_per_address(site)
    assert f"and {page} have the same address" in caplog.text


def test_every_page_is_in_the_navigation_and_every_entry_is_a_page(hooks):
    """`make docs` warns about it too, after a minute."""
    nav = re.findall(r": ([\w./-]+)$", (ROOT / "mkdocs.yml").read_text().partition("\nnav:\n")[2], re.M)
    cards = {f"methods/{card.name}" for card in (ROOT / "docs/methods").glob("*.md")}
    named = {entry for entry in nav if entry not in ("api", "methods")} | cards
    pages = {
        str(page.relative_to(ROOT / "docs"))
        for page in (ROOT / "docs").rglob("*.*")
        if page.suffix in (".md", ".ipynb") and page.parent.name not in ("papers", ".ipynb_checkpoints")
    }
    assert named == pages | set(hooks.TOP_LEVEL.values())


def test_the_page_of_experiments_has_all_of_them():
    """Our own ones by name, those of papers by their folder: paper-settings.md has each of these."""
    page = (ROOT / "docs/experiments.md").read_text()
    for folder in sorted((ROOT / "conf/experiment").iterdir()):
        ours = folder.name in ("digits", "cifar10")
        names = (
            [f"{folder.name}/{file.stem}" for file in folder.glob("*.yaml")] if ours else [f"{folder.name}/"]
        )
        for name in names:
            assert f"| `{name}`" in page or f", `{name}`" in page, name


def test_the_overview_has_every_method():
    overview = (ROOT / "docs/methods/README.md").read_text()
    for method in (ROOT / "conf/method").glob("*.yaml"):
        assert f"`{method.stem}`" in overview, method.stem
    for card in (ROOT / "docs/methods").glob("[!R]*.md"):
        assert f"({card.name})" in overview, card.name
