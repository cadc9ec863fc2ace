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
    from robustsmooth.evaluating import evaluate
    from robustsmooth.evaluation import data_settings
    from robustsmooth.runs import open_run

    run = open_run(cfg, needs_sigma=False)
    cfg = run.config
    folder = prepare(cfg, _LOGS.get(cfg.measure._target_, "measure"), begin=False)
    settings = {"data": data_settings(cfg.data)}
    callback = instantiate(cfg.measure, _partial_=True)(folder=str(folder), settings=settings)
    return evaluate(cfg, run, callback)


if __name__ == "__main__":
    measure()
