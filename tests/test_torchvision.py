"""torchvision can be imported beside a CPU-only torch; nothing changes for other installations.

``test_imports.py`` imports it after our package in another process.
"""

import sys
from types import SimpleNamespace

import pytest
import torch

from robustsmooth import _torchvision


def finders():
    return [finder for finder in sys.meta_path if isinstance(finder, _torchvision._Announcer)]


@pytest.mark.parametrize(
    ("torch_version", "torchvision_version", "waits"),
    [
        ("2.13.0+cpu", "0.28.0", 1),
        ("2.13.0+cpu", "0.28.0+cpu", 0),
        ("2.13.0", "0.28.0", 0),
        ("2.13.0+cu130", "0.28.0+cu130", 0),
    ],
)
def test_only_installations_that_would_fail_are_watched(
    monkeypatch, torch_version, torchvision_version, waits
):
    versions = {"torch": torch_version, "torchvision": torchvision_version}
    monkeypatch.setattr(_torchvision, "version", versions.__getitem__)
    monkeypatch.setattr(sys, "meta_path", [])
    monkeypatch.delitem(sys.modules, "torchvision", raising=False)
    _torchvision.install()
    _torchvision.install()
    assert len(finders()) == waits


def test_the_finder_removes_itself_at_the_first_import(monkeypatch):
    declared = []
    monkeypatch.setattr(_torchvision, "_declare_missing", declared.append)
    monkeypatch.setattr(sys, "meta_path", [_torchvision._Announcer()])
    (finder,) = finders()
    assert finder.find_spec("torchvision.ops", None) is None
    assert finders() == [finder]
    assert finder.find_spec("torchvision", None) is None
    assert finders() == []
    assert [folder.name for folder in declared] == ["torchvision"]


@pytest.mark.parametrize("compiled", ["loads", "does not load", "is missing"])
def test_operators_are_declared_where_the_compiled_ones_do_not_load(monkeypatch, tmp_path, compiled):
    defined = []

    def load(path):
        if compiled == "does not load":
            raise OSError("libcudart.so is missing")

    def library(*_):
        return SimpleNamespace(define=defined.append)

    if compiled != "is missing":
        (tmp_path / "_C.so").touch()
    monkeypatch.setattr(torch.ops, "load_library", load)
    monkeypatch.setattr(torch.library, "Library", library)
    monkeypatch.setattr(_torchvision, "_library", None)
    _torchvision._declare_missing(tmp_path)
    assert len(defined) == (0 if compiled == "loads" else 2)
