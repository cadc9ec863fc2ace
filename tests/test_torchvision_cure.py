"""torchvision imports beside a CPU-only torch, and only that failure is cured."""

import subprocess
import sys

import pytest

from robustsmooth import _torchvision


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=120)


def test_torchvision_imports_after_us():
    done = python("import robustsmooth, torchvision, torchvision.transforms.v2, torchmetrics; print('fine')")
    assert done.stdout == "fine\n", done.stderr


def test_importing_us_is_light():
    code = (
        "import robustsmooth, sys; print([m for m in ('torch', 'torchvision', 'hydra') if m in sys.modules])"
    )
    assert python(code).stdout == "[]\n"


def test_finder_is_installed_once():
    before = sum(isinstance(finder, _torchvision._Finder) for finder in sys.meta_path)
    _torchvision.install()
    assert before == sum(isinstance(finder, _torchvision._Finder) for finder in sys.meta_path) == 1


class _Failing:
    """Stands in for torchvision's loader: fails with a message, so many times."""

    def __init__(self, message: str, times: int) -> None:
        self.message, self.times, self.calls = message, times, 0

    def exec_module(self, module):
        self.calls += 1
        if self.calls <= self.times:
            raise RuntimeError(self.message)


def test_a_healthy_import_runs_once():
    inner = _Failing("", 0)
    _torchvision._Loader(inner).exec_module(None)
    assert inner.calls == 1


def test_other_failures_are_passed_on():
    inner = _Failing("libjpeg is missing", 1)
    with pytest.raises(RuntimeError, match="libjpeg is missing"):
        _torchvision._Loader(inner).exec_module(None)
    assert inner.calls == 1


def test_the_known_failure_is_cured(monkeypatch):
    declared = []
    monkeypatch.setattr(_torchvision, "_declare_schemas", lambda: declared.append(True))
    inner = _Failing("operator torchvision::nms does not exist", 1)
    _torchvision._Loader(inner).exec_module(None)
    assert inner.calls == 2
    assert declared == [True]
