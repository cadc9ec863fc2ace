"""Checkpoint files are complete after a kill and refused if damaged; the previous one is kept."""

import io
import os
import random
import signal
import time

import pytest
import torch

from robustsmooth.models import CheckpointFiles, load_file

FILES = CheckpointFiles()


def content(value, size=1000):
    return {"state_dict": {"weight": torch.full((size,), float(value))}, "epoch": value}


def value_of(path):
    found = load_file(path)
    assert bool((found["state_dict"]["weight"] == found["epoch"]).all())
    return found["epoch"]


def test_a_damaged_file_is_refused_or_loads_the_same(tmp_path):
    written = io.BytesIO()
    good = {"weight": torch.randn(3000), "bias": torch.arange(50), "config": {"seed": 0}}
    torch.save(good, written)
    path, chance, refused = tmp_path / "a.ckpt", random.Random(0), 0
    for trial in range(150):
        damaged = bytearray(written.getvalue())
        for _ in range(chance.choice([1, 1, 8])):
            damaged[chance.randrange(len(damaged))] ^= 1 << chance.randrange(8)
        path.write_bytes(damaged[: chance.randrange(len(damaged))] if trial % 5 == 0 else damaged)
        try:
            found = load_file(path)
        except ValueError:
            refused += 1
        else:
            assert torch.equal(found["weight"], good["weight"])
            assert torch.equal(found["bias"], good["bias"])
            assert found["config"] == good["config"]
    assert refused > 100


def test_the_last_but_one_is_kept_under_another_name(tmp_path):
    last, previous = tmp_path / "last.ckpt", tmp_path / "previous.ckpt"
    for value in range(3):
        FILES.save_checkpoint(content(value), last)
        assert value_of(last) == value
    assert value_of(previous) == 1
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt", "previous.ckpt"]


def test_a_disk_without_links_keeps_no_second_name(tmp_path, monkeypatch):
    def no_links(*args):
        raise PermissionError

    monkeypatch.setattr("pathlib.Path.hardlink_to", no_links)
    for value in range(2):
        FILES.save_checkpoint(content(value), tmp_path / "last.ckpt")
    assert [path.name for path in tmp_path.iterdir()] == ["last.ckpt"]


def test_nothing_is_written_to_the_folder_for_temporary_files(tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path / "another disk that is not there"))
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "another disk that is not there"))
    FILES.save_checkpoint(content(1), tmp_path / "last.ckpt")
    assert value_of(tmp_path / "last.ckpt") == 1


@pytest.mark.parametrize("trial", range(8))
def test_a_kill_at_any_moment_leaves_a_whole_checkpoint(tmp_path, trial):
    last = tmp_path / "last.ckpt"
    FILES.save_checkpoint(content(0, 500_000), last)
    child = os.fork()
    if child == 0:
        for value in range(1, 10_000):
            FILES.save_checkpoint(content(value, 500_000), last)
        os._exit(0)
    time.sleep(0.02 + 0.013 * trial)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    value_of(last)
    FILES.save_checkpoint(content(7, 500_000), last)  # in place of what the kill may have left
    assert value_of(last) == 7
    assert {path.name for path in tmp_path.iterdir()} <= {"last.ckpt", "previous.ckpt", "last.ckpt.tmp"}
