"""The processes of a command: threads, ranks, signals, and what becomes of those that it has started."""

import pytest
import torch
from omegaconf import OmegaConf

from robustsmooth import runtime


def trainer(**settings):
    return OmegaConf.create({"trainer": settings})


def test_more_devices_than_cores_are_refused_at_once(call, tmp_path, capsys):
    said = call("train", "trainer=ddp_cpu", "trainer.devices=99", f"hydra.run.dir={tmp_path}", status=1)
    assert "`trainer.devices` must be at most" in said
    assert len(said.splitlines()) == 1


@pytest.mark.parametrize("devices", [1, 2, "auto", None])
def test_two_devices_can_be_tried_on_one_core(monkeypatch, devices):
    monkeypatch.setattr(runtime, "cores", lambda: 1)
    runtime._check_devices(trainer(accelerator="cpu", devices=devices, strategy="ddp_spawn"))
    with pytest.raises(ValueError, match="must be at most 2 here"):
        runtime._check_devices(trainer(accelerator="cpu", devices=3))


def test_a_fork_of_several_threads_is_refused(monkeypatch):
    forking = trainer(accelerator="cpu", devices=2, strategy="ddp_fork")
    monkeypatch.setattr(torch, "get_num_threads", lambda: 1)
    runtime._check_devices(forking)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    with pytest.raises(ValueError, match=r"trainer.strategy=ddp_fork hangs .* use .*ddp_spawn"):
        runtime._check_devices(forking)
