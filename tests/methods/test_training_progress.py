"""The messages of a training whose output is not a terminal."""

import io
import logging
from types import SimpleNamespace

from rich.console import Console

from robustsmooth.methods import TrainingProgress, training_progress


def test_every_minute_a_line_with_the_time_left(monkeypatch, tmp_path):
    clock = SimpleNamespace(now=0.0)
    monkeypatch.setattr(training_progress.time, "perf_counter", lambda: clock.now)
    steps = SimpleNamespace(current=SimpleNamespace(ready=0))
    trainer = SimpleNamespace(
        is_global_zero=True,
        current_epoch=1,
        global_step=100,
        max_epochs=3,
        num_training_batches=100,
        world_size=1,
        strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")),
        fit_loop=SimpleNamespace(epoch_loop=SimpleNamespace(batch_progress=steps)),
        callback_metrics={"train/loss": 0.5},
    )
    handler = logging.FileHandler(tmp_path / "train.log")
    logging.getLogger().addHandler(handler)
    shown = TrainingProgress(["train/loss"])
    shown.console = Console(file=io.StringIO(), width=200)
    try:
        shown.on_train_start(trainer, SimpleNamespace(parameters=lambda: []))
        for clock.now in range(4, 84, 2):  # a step in two seconds
            steps.current.ready += 1
            shown.on_train_batch_end(trainer)
        shown.on_train_epoch_end(trainer, None)
        shown.teardown(trainer, None, "fit")
    finally:
        logging.getLogger().removeHandler(handler)
        handler.close()
    said = shown.console.file.getvalue().splitlines()
    assert said[1:] == [
        "epoch 2/3, step 102/300, 0.5 steps/s, 6:36 min left",
        "epoch 2/3, step 133/300, 0.5 steps/s, 5:34 min left",
        "epoch   2/3  train/loss 0.5  82 s",
    ]
    assert said[0].endswith("0 trained parameters, 100 steps per epoch, 1 x cpu, continued after step 100")
    assert (tmp_path / "train.log").read_text().splitlines() == said
