"""Runs that start or learn from other runs."""

import errno
import os
from pathlib import Path

import pytest

from robustsmooth.models import CheckpointFiles
from robustsmooth.places import named_places, places_now, require_finished

QUICK = [
    "trainer=cpu",
    "trainer.limit_train_batches=2",
    "trainer.limit_val_batches=1",
    "model.network.width=4",
]


def test_places_are_named_at_any_level():
    network = {"checkpoint": "a", "denoiser_checkpoint": None, "width": 8}
    config = {"network": network, "start": "a", "targets": "b", "voter": {"checkpoint": "c"}}
    assert list(named_places(config)) == ["a", "a", "b", "c"]


@pytest.mark.parametrize(
    ("recorded", "now", "places"),
    [
        ("s/natural", "/home/s/heat", ["/home/s/natural"] * 2),
        ("../home/s/natural", "/home/s/heat", ["/home/s/natural"] * 2),
        ("s/natural", "/copy/s/heat", ["/copy/s/natural", "/home/s/natural"]),
        ("/home/s/natural", "/copy/t/heat", ["/copy/t/natural", "/home/s/natural"]),
        ("/other/natural", "/copy/t/heat", ["/other/natural"]),
    ],
)
def test_places_move_with_a_run(recorded, now, places):
    assert places_now(recorded, "/home", "/home/s/heat", Path(now)) == [Path(place) for place in places]


def test_a_training_that_has_not_ended_is_refused(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "last.ckpt").touch()
    with pytest.raises(ValueError, match="has not ended; finish it first: start its command again"):
        require_finished(tmp_path)
    require_finished(tmp_path / "checkpoints" / "last.ckpt")
    (tmp_path / "summary.json").touch()
    require_finished(tmp_path)
    (tmp_path / "exported" / "checkpoints").mkdir(parents=True)
    for other in (tmp_path / "exported", "nowhere", "torchvision:IMAGENET1K_V2"):  # no training
        require_finished(other)


def test_no_training_starts_from_an_unfinished_one(call, monkeypatch, tmp_path):
    natural = ["method=natural", *QUICK, f"hydra.run.dir={tmp_path}/natural"]
    heat = ["method=heat", *QUICK, "trainer.max_epochs=1", f"hydra.run.dir={tmp_path}/heat"]
    save = CheckpointFiles.save_checkpoint

    def full(self, checkpoint, path, storage_options=None):
        if checkpoint["epoch"] == 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        save(self, checkpoint, path, storage_options)

    call("train", *natural, "trainer.max_epochs=1")
    with monkeypatch.context() as patch:
        patch.setattr(CheckpointFiles, "save_checkpoint", full)
        call("train", *natural, "trainer.max_epochs=2", status=1)  # its second epoch is lost
    said = call("train", *heat, f"model.checkpoint={tmp_path}/natural", status=1)
    assert f"the training in `{tmp_path}/natural` has not ended; finish it first" in said
    assert not (tmp_path / "heat" / ".hydra").exists()
    call("train", *natural, "trainer.max_epochs=2")
    call("train", *heat, f"model.checkpoint={tmp_path}/natural")


def test_a_start_is_compared_by_its_place(call, tmp_path):
    def heat(sweep, status=0, start="natural", cwd=None):
        words = [f"model.checkpoint={sweep}/{start}", f"hydra.run.dir={sweep}/heat"]
        return call("train", "method=heat", *QUICK, "trainer.max_epochs=1", *words, cwd=cwd, status=status)

    for name in ("natural", "other"):
        words = ["method=natural", "trainer.max_epochs=1", f"hydra.run.dir=sweep/{name}"]
        call("train", *QUICK, *words, cwd=tmp_path)
    heat("sweep")
    heat(tmp_path / "sweep")
    (tmp_path / "link").symlink_to(tmp_path)
    heat(tmp_path / "link" / "sweep")
    moved = tmp_path / "else" / "where"
    moved.parent.mkdir()
    (tmp_path / "sweep").rename(moved)
    heat(moved)
    heat("where", cwd=moved.parent)
    assert "holds a run with other settings (method.start=sweep/natural" in heat("where", 1, "other")
