"""Measure a trained network: ``python -m robustsmooth.measure checkpoint=<run> measure=agreement``."""

from typing import Any

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare
from robustsmooth.instantiation import instantiate


@command("measure")
def measure(cfg: DictConfig) -> dict[str, Any]:
    """Run the chosen measurement on the test images; continue if the run folder holds finished ones."""
    from hydra.utils import get_class

    from robustsmooth.evaluating import evaluate
    from robustsmooth.evaluation import data_settings
    from robustsmooth.runs import open_run

    run = open_run(cfg, needs_sigma=False)
    cfg = run.config
    chosen: Any = get_class(cfg.measure._target_)
    folder = prepare(cfg, chosen.kind.name, begin=False)
    settings = {"data": data_settings(cfg.data)}
    callback = instantiate(cfg.measure, _partial_=True)(folder=str(folder), settings=settings)
    return evaluate(cfg, run, callback)


if __name__ == "__main__":
    measure()
