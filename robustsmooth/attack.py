"""Attack a trained network: ``python -m robustsmooth.attack checkpoint=<run folder>``."""

from typing import Any

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare
from robustsmooth.instantiation import instantiate


@command("attack")
def attack(cfg: DictConfig) -> dict[str, Any]:
    """Attack the test images; continue if the run folder holds finished ones."""
    from robustsmooth.evaluating import evaluate
    from robustsmooth.evaluation import AttackEvaluation, data_settings, read_certified
    from robustsmooth.runs import open_run

    run = open_run(cfg, needs_sigma=cfg.target != "network")
    cfg = run.config
    source = _source(cfg)
    folder = prepare(cfg, "attack", begin=False)
    evaluation = AttackEvaluation(
        instantiate(cfg.attack),
        _target(cfg, run.seed),
        folder,
        mode=cfg.mode,
        epsilons=None if cfg.epsilons is None else list(cfg.epsilons),
        num_noises=None if cfg.num_noises is None else list(cfg.num_noises),
        batch_size=cfg.batch_size,
        source=None if source is None else source.network,
        source_noise=None if source is None else source.noise,
        precision=cfg.numerics.precision,
        certified=None if cfg.certified is None else read_certified(cfg.certified),
        save=cfg.save,
        pictures=cfg.pictures,
        seed=run.seed,
        settings={"data": data_settings(cfg.data)},
    )
    return evaluate(cfg, run, evaluation)


def _target(cfg: DictConfig, seed: int) -> Any:
    """What decides: the network itself or the smoothed classifier."""
    from robustsmooth.evaluation import SinglePass, SmoothedVote

    if cfg.target == "network":
        return SinglePass(seed)
    prediction, numerics = instantiate(cfg.prediction), instantiate(cfg.numerics)
    return SmoothedVote(instantiate(cfg.smoothing), prediction, numerics, seed)


def _source(cfg: DictConfig) -> Any:
    """The trained network that is attacked in place of the tested one; None if there is none."""
    from robustsmooth.runs import open_trained

    if cfg.source.checkpoint is None:
        return None
    source = open_trained(cfg.source.checkpoint, cfg.source.model, cfg.data, cfg.trust)
    cfg.source.checkpoint = source.checkpoint
    return source


if __name__ == "__main__":
    attack()
