"""Predict with a smoothed network: ``python -m robustsmooth.predict checkpoint=<run folder>``."""

from typing import Any

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare
from robustsmooth.instantiation import instantiate


@command("predict")
def predict(cfg: DictConfig) -> dict[str, Any]:
    """Predict the test images; continue if the run folder holds finished ones."""
    from robustsmooth.evaluating import evaluate
    from robustsmooth.evaluation import Prediction, data_settings
    from robustsmooth.runs import open_run

    run = open_run(cfg)
    cfg = run.config
    folder = prepare(cfg, "predict", begin=False)
    prediction = Prediction(
        instantiate(cfg.prediction),
        instantiate(cfg.smoothing),
        folder,
        numerics=instantiate(cfg.numerics),
        seed=run.seed,
        settings={"data": data_settings(cfg.data)},
    )
    return evaluate(cfg, run, prediction)


if __name__ == "__main__":
    predict()
