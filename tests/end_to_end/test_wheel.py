"""The wheel, installed without the source tree, works from an empty directory."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]


@pytest.mark.slow
def test_the_wheel_trains_and_certifies_from_an_empty_directory(tmp_path):
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "-w", tmp_path / "dist", ROOT], check=True)
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    configs = [str(path.relative_to(ROOT)) for path in (ROOT / "conf").rglob("*.yaml")]
    assert {f"robustsmooth/{name}" for name in configs} <= set(names)
    assert "hydra_plugins/robustsmooth_rows/rows.py" in names
    site, empty = tmp_path / "site", tmp_path / "empty"
    subprocess.run([*pip, "install", "--no-deps", "--target", site, wheel], check=True)
    empty.mkdir()

    def run(code_or_command: list[str]) -> str:
        done = subprocess.run(
            [sys.executable, *code_or_command],
            cwd=empty,
            env={**os.environ, "PYTHONPATH": str(site)},
            capture_output=True,
            text=True,
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    assert run(["-c", "import robustsmooth; print(robustsmooth.__file__)"]).startswith(str(site))
    run(["-m", "robustsmooth.train", "trainer.max_epochs=1", "hydra.run.dir=run"])
    run(
        [
            "-m",
            "robustsmooth.certify",
            "checkpoint=run",
            "certificate.n=200",
            "data.subset.max=5",
            "hydra.run.dir=c",
        ]
    )
    assert len((empty / "c" / "certify.tsv").read_text().splitlines()) == 6
