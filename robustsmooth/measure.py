"""Measure a trained network: ``python -m robustsmooth.measure checkpoint=<run> measure=agreement``."""

from typing import Any

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare
from robustsmooth.instantiation import instantiate

_LOGS = {
    "robustsmooth.evaluation.Agreement": "agreement",
    "robustsmooth.evaluation.InferenceSweep": "smoothed_inference",
    "robustsmooth.evaluation.InferenceTime": "timing",
}


@command("measure")
def measure(cfg: DictConfig) -> dict[str, Any]:
    """Run the chosen measurement over the test images; go on where it stopped."""
    from robustsmooth.evaluation import EvaluationModule, data_settings
    from robustsmooth.runs import open_run
    from robustsmooth.runtime import trainer_for

    run = open_run(cfg, needs_sigma=False)
    cfg = run.config
    folder = prepare(cfg, _LOGS.get(cfg.measure._target_, "measure"), begin=False)
    settings = {"data": data_settings(cfg.data)}
    callback = instantiate(cfg.measure, _partial_=True)(folder=str(folder), settings=settings)
    with trainer_for(cfg, folder, [callback]) as trainer:
        trainer.test(EvaluationModule(run.network), run.datamodule, verbose=False)
    return callback.summary


if __name__ == "__main__":
    measure()
