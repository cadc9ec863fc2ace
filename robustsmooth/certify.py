"""Certify a trained network: ``python -m robustsmooth.certify checkpoint=<run folder>``."""

from typing import Any

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare
from robustsmooth.instantiation import instantiate


@command("certify")
def certify(cfg: DictConfig) -> dict[str, Any]:
    """Certify the test images; continue if the run folder holds finished ones."""
    from robustsmooth.evaluating import evaluate
    from robustsmooth.evaluation import Certification, data_settings
    from robustsmooth.runs import open_run

    run = open_run(cfg)
    cfg = run.config
    folder = prepare(cfg, "certify", begin=False)
    certification = Certification(
        instantiate(cfg.certificate),
        instantiate(cfg.smoothing),
        folder,
        numerics=instantiate(cfg.numerics),
        seed=run.seed,
        radii=None if cfg.radii is None else list(cfg.radii),
        settings={"data": data_settings(cfg.data)},
    )
    return evaluate(cfg, run, certification)


if __name__ == "__main__":
    certify()
