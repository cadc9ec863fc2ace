"""The documentation site builds without a warning; its hooks notice what is missing."""

import importlib.util
import logging
import subprocess
import sys
from pathlib import Path

import pytest

griffe = pytest.importorskip(
    "griffe", reason="needs the documentation tools: pip install 'robustsmooth[docs]'"
)
pytest.importorskip("mkdocs", reason="needs the documentation tools: pip install 'robustsmooth[docs]'")

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
    assert "[cards](methods/adversarial.md)" in moved
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
