"""The common part of the commands that evaluate a network."""

from pathlib import Path
from typing import Any

from omegaconf import DictConfig

from robustsmooth.evaluation import Evaluation, EvaluationModule
from robustsmooth.loggers import log_evaluation
from robustsmooth.runs import OpenedRun
from robustsmooth.runtime import loggers_for, trainer_for


def evaluate(cfg: DictConfig, run: OpenedRun, evaluation: Evaluation) -> dict[str, Any]:
    """Run an evaluation on the test images, and log its results.

    Args:
        cfg: The command's config.
        run: The network and its data.
        evaluation: The evaluation; it writes into its own folder.

    Returns:
        The content of ``summary.json``.
    """
    folder = evaluation.folder
    file = Path(run.checkpoint)
    training = file.parent.parent if run.training and file.parent.name == "checkpoints" else None
    with loggers_for(cfg, folder) as loggers:
        with trainer_for(cfg, folder, [evaluation], loggers) as trainer:
            trainer.test(EvaluationModule(run.network), run.datamodule, verbose=False)
        log_evaluation(loggers, folder, evaluation.kind.name, training)
    return evaluation.summary
