"""A training that is interrupted at any file operation ends with the files of an uninterrupted one."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
import torch

import robustsmooth.files
from robustsmooth.models import CheckpointFiles
from tests.conftest import started

WORDS = ["trainer=cpu", "trainer.max_epochs=2", "trainer.limit_train_batches=3"]


class Operations:
    """Counts flushes to the disk, two for each file (itself and its folder), and fails at a chosen one."""

    def __init__(self, monkeypatch):
        self.count, self.fails, self.error = 0, None, None
        self._fsync = os.fsync
        monkeypatch.setattr(robustsmooth.files.os, "fsync", self.flush)

    def flush(self, handle):
        self.count += 1
        if self.count == self.fails:
            raise self.error
        self._fsync(handle)


@pytest.fixture
def operations(monkeypatch):
    return Operations(monkeypatch)


def left_behind(folder: Path):
    """The results of a training without its times."""
    summary = json.loads((folder / "summary.json").read_text())
    weights = torch.load(folder / "checkpoints" / "last.ckpt", weights_only=True)["state_dict"]
    timeless = {key: value for key, value in summary.items() if not key.startswith("seconds")}
    assert len(summary["seconds_per_epoch"]) == summary["epochs"] == 2
    return (folder / "metrics.csv").read_bytes(), timeless, {k: v.tolist() for k, v in weights.items()}


@pytest.fixture
def interrupted(call, operations, tmp_path):
    """`interrupted(3, words)`: fill the disk at every third moment, start again, compare with a whole run."""

    def compare(share, words):
        call("train", *WORDS, *words, f"hydra.run.dir={tmp_path / 'whole'}")
        whole, total = left_behind(tmp_path / "whole"), operations.count
        assert total > 20
        for moment in range(1, total + 1, share):
            folder = tmp_path / str(moment)
            operations.count, operations.fails = 0, moment
            operations.error = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            said = call("train", *WORDS, *words, f"hydra.run.dir={folder}", status=1)
            assert f"the disk is full at `{folder}" in said
            assert not list(folder.rglob("*.tmp"))
            operations.fails = None
            call("train", *WORDS, *words, f"hydra.run.dir={folder}")
            assert left_behind(folder) == whole, moment

    return compare


@pytest.mark.slow
@pytest.mark.parametrize("words", [[], ["save_every_steps=1"]], ids=["epochs", "within-epochs"])
def test_a_disk_that_fills_up_at_any_moment(interrupted, words):
    interrupted(1, words)


def test_a_disk_that_fills_up_at_some_moments(interrupted):
    interrupted(17, ["save_every_steps=1"])


def test_a_damaged_last_checkpoint_falls_back_to_the_one_before(call, tmp_path):
    words = [*WORDS, f"hydra.run.dir={tmp_path}"]
    call("train", *words)
    whole, last = left_behind(tmp_path), tmp_path / "checkpoints" / "last.ckpt"
    damaged = bytearray(last.read_bytes())
    damaged[len(damaged) // 2] ^= 1
    last.write_bytes(damaged)
    (last.parent / "best.ckpt.tmp").touch()  # left by a kill
    said = call("train", *words)
    assert f"`{last}` is damaged; continuing from `previous.ckpt`" in said
    assert left_behind(tmp_path) == whole
    assert not list(tmp_path.rglob("*.tmp"))
    for path in (tmp_path / "checkpoints").iterdir():
        path.write_bytes(path.read_bytes()[:1000])
    said = call("train", *words, status=1)
    assert str(last) in said
    assert "delete `" in said


DAMAGES = {
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff\xfe\x00\xc8" * 50),
    "deleted": lambda path: path.unlink(),
    "folder": lambda path: (path.unlink(), path.mkdir()),
}


def damage_and_go_on(call, whole, folder, name, damage):
    """Either the run ends with the same results, or a sentence names the file."""
    shutil.copytree(whole, folder)
    DAMAGES[damage](folder / name)
    words = [*WORDS, f"hydra.run.dir={folder}"]
    if damage == "folder":
        assert f"`{folder / name}` is a folder" in call("train", *words, status=1)
        (folder / name).rmdir()
    call("train", *words)
    assert left_behind(folder) == left_behind(whole), (name, damage)


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    folder = tmp_path_factory.mktemp("finished")
    assert started("train", *WORDS, f"hydra.run.dir={folder}") == 0
    return folder


@pytest.mark.parametrize(
    ("name", "damage"),
    [
        ("metrics.csv", "truncated"),
        ("metrics.csv", "garbage"),
        ("summary.json", "empty"),
        (".hydra/config.yaml", "garbage"),
        ("checkpoints/last.ckpt", "folder"),
    ],
)
def test_a_damaged_file_of_a_finished_run(call, finished, tmp_path, name, damage):
    damage_and_go_on(call, finished, tmp_path / "damaged", name, damage)


@pytest.mark.slow
@pytest.mark.parametrize("summary", [True, False], ids=["finished", "unfinished"])
def test_every_file_of_a_run_damaged_in_every_way(call, finished, tmp_path, summary):
    names = [str(path.relative_to(finished)) for path in finished.rglob("*.*") if path.suffix != ".log"]
    names = [name for name in names if (finished / name).is_file() and (summary or name != "summary.json")]
    unfinished = tmp_path / "unfinished"
    shutil.copytree(finished, unfinished)
    if not summary:  # killed before it was written
        (unfinished / "summary.json").unlink()
    for name in names:
        for damage in set(DAMAGES) - {"folder"}:
            folder = tmp_path / f"{name.replace('/', '_')}-{damage}"
            shutil.copytree(unfinished, folder)
            DAMAGES[damage](folder / name)
            call("train", *WORDS, f"hydra.run.dir={folder}")
            assert left_behind(folder) == left_behind(finished), (name, damage)
            shutil.rmtree(folder)


@pytest.mark.ddp
def test_two_ranks_that_end_within_an_epoch(call, monkeypatch, tmp_path):
    words = [
        *WORDS,
        "trainer=ddp_cpu",
        "trainer.strategy=ddp_fork",
        "trainer.max_epochs=1",
        "save_every_steps=1",
    ]
    call("train", *words, f"hydra.run.dir={tmp_path / 'whole'}")
    save = CheckpointFiles.save_checkpoint

    def killed(self, checkpoint, path, storage_options=None):
        save(self, checkpoint, path, storage_options)
        if checkpoint["global_step"] == 2:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFiles, "save_checkpoint", killed)
        call("train", *words, f"hydra.run.dir={tmp_path / 'killed'}", status=1)
    call("train", *words, f"hydra.run.dir={tmp_path / 'killed'}")
    whole, again = ((tmp_path / item / "metrics.csv").read_bytes() for item in ("whole", "killed"))
    assert again == whole
    summaries = [json.loads((tmp_path / item / "summary.json").read_text()) for item in ("whole", "killed")]
    assert summaries[0]["metrics"] == summaries[1]["metrics"]
    assert [summary["epochs"] for summary in summaries] == [1, 1]
    assert all(len(summary["seconds_per_epoch"]) == 1 for summary in summaries)
