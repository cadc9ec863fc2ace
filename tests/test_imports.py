"""What an import loads, and how long it takes."""

import itertools
import subprocess
import sys

import robustsmooth
from robustsmooth.runs import load

OF_COMMANDS = {"pytorch_lightning", "hydra", "omegaconf", "torchmetrics"}
TORCH = {"torch", "torch._dynamo"}
HEAVY = OF_COMMANDS | {"torchvision", "matplotlib", "pandas"}


def printed(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


ABSENT_AFTER = {
    "robustsmooth": HEAVY | TORCH | {"numpy", "scipy"},
    "robustsmooth.statistics": HEAVY | TORCH,
    "robustsmooth.smoothing": HEAVY | {"torch._dynamo"},
    "robustsmooth.attacks": OF_COMMANDS | {"pandas"},
    "robustsmooth.losses": OF_COMMANDS | {"pandas"},
    "robustsmooth.evaluation.metrics": {"pytorch_lightning", "hydra", "omegaconf", "pandas"},
}
"""Modules that an import must not load; later ones may load more: one process can test them all."""

LOADED = """
import importlib, sys
for name, absent in {absent}.items():
    importlib.import_module(name)
    print(name, *sorted(absent & set(sys.modules)))
import torchvision
print("torchvision")
"""


def test_an_import_loads_only_what_it_needs_and_torchvision_imports_after_us():
    assert printed(LOADED.format(absent=ABSENT_AFTER)).splitlines() == [*ABSENT_AFTER, "torchvision"]


def test_every_import_may_load_what_the_earlier_ones_may():
    assert all(after <= before for before, after in itertools.pairwise(ABSENT_AFTER.values()))


def test_the_package_is_imported_in_a_tenth_of_a_second():
    """Processor time, the best of three processes."""
    code = "from time import process_time as now; start = now(); import robustsmooth; print(now() - start)"
    assert min(float(printed(code)) for _ in range(3)) < 0.1


def test_load_is_imported_when_it_is_used():
    """The test above shows that it is not imported before."""
    assert robustsmooth.load is load
