"""What an import loads, and how long it takes."""

import subprocess
import sys

import pytest

OF_COMMANDS = {"pytorch_lightning", "hydra", "omegaconf", "torchmetrics"}
HEAVY = OF_COMMANDS | {"torchvision", "matplotlib", "pandas"}


def printed(code):
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=240
    ).stdout.strip()


@pytest.mark.parametrize(
    ("imported", "absent"),
    [
        ("robustsmooth", HEAVY | {"torch", "numpy", "scipy"}),
        ("robustsmooth.statistics", HEAVY | {"torch"}),
        ("robustsmooth.smoothing", HEAVY | {"torch._dynamo"}),
        ("robustsmooth.attacks", OF_COMMANDS),
        ("robustsmooth.losses", OF_COMMANDS),
        ("robustsmooth.evaluation.metrics", {"pytorch_lightning", "hydra", "omegaconf", "pandas"}),
    ],
)
def test_an_import_loads_only_what_it_needs(imported, absent):
    assert printed(f"import sys, {imported}; print({absent} & set(sys.modules))") == "set()"


def test_the_package_is_imported_in_a_tenth_of_a_second():
    """Processor time, the best of three processes."""
    code = "from time import process_time as now; start = now(); import robustsmooth; print(now() - start)"
    assert min(float(printed(code)) for _ in range(3)) < 0.1


def test_load_is_imported_when_it_is_used():
    assert printed("import robustsmooth; print(callable(robustsmooth.load))") == "True"
