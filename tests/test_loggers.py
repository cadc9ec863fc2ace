"""metrics.csv: one row per step, continued by a resumed run."""

import pandas as pd
import pytest

from robustsmooth.loggers import CsvLogger, wandb_logger


def test_metrics_of_one_step_share_a_row(tmp_path):
    logger = CsvLogger(str(tmp_path))
    logger.log_metrics({"epoch": 0, "train/loss": 2.0}, step=4)
    logger.log_metrics({"epoch": 0, "val/top1": 0.5}, step=4)
    logger.log_metrics({"epoch": 1, "train/loss": 1.0}, step=9)
    table = pd.read_csv(tmp_path / "metrics.csv")
    assert list(table.columns) == ["step", "epoch", "train/loss", "val/top1"]
    assert list(table["step"]) == [4, 9]
    assert table["val/top1"][0] == 0.5
    assert pd.isna(table["val/top1"][1])


def test_a_resumed_run_replaces_what_came_after_its_checkpoint(tmp_path):
    killed = CsvLogger(str(tmp_path))
    for step in (1, 2, 3):
        killed.log_metrics({"train/loss": float(step)}, step=step)
    resumed = CsvLogger(str(tmp_path))
    resumed.log_metrics({"train/loss": 20.0}, step=2)
    assert list(pd.read_csv(tmp_path / "metrics.csv")["train/loss"]) == [1.0, 20.0]


def test_wandb_without_a_key_goes_on_offline(tmp_path, monkeypatch, capsys):
    pytest.importorskip("wandb")
    monkeypatch.delenv("WANDB_API_KEY", raising=False)
    monkeypatch.setenv("WANDB_BASE_URL", "http://127.0.0.1:9")
    monkeypatch.setattr("wandb.api._api_key", None, raising=False)
    logger = wandb_logger(str(tmp_path), mode="online")
    assert "offline" in capsys.readouterr().err
    assert logger._wandb_init["mode"] == "offline"
