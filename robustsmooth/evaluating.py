"""What the commands that evaluate a network share, once it is open."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from robustsmooth.evaluation import Evaluation, EvaluationModule
from robustsmooth.loggers import log_evaluation
from robustsmooth.runs import Run
from robustsmooth.runtime import loggers_for, trainer_for

__all__ = ["evaluate"]


def evaluate(cfg: DictConfig, run: Run, evaluation: Evaluation) -> dict[str, Any]:
    """Run an evaluation over the test images, and show what it found to the loggers.

    Args:
        cfg: The command's config.
        run: The network and its data.
        evaluation: What is done; it writes into its own folder.

    Returns:
        What ``summary.json`` holds.
    """
    folder = evaluation.folder
    file = Path(run.checkpoint)
    training = file.parent.parent if run.training and file.parent.name == "checkpoints" else None
    with loggers_for(cfg, folder) as loggers:
        with trainer_for(cfg, folder, [evaluation], loggers) as trainer:
            trainer.test(EvaluationModule(run.network), run.datamodule, verbose=False)
        log_evaluation(loggers, folder, evaluation.name, training)
    return evaluation.summary
