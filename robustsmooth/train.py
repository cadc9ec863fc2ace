"""Train a classifier: ``python -m robustsmooth.train method=gaussian data=digits``."""

from omegaconf import DictConfig

from robustsmooth.commands import command, nested, prepare


@command("train")
def train(cfg: DictConfig) -> float | None:
    """Train what the config says, in its run folder; continue if the folder holds a checkpoint.

    Returns:
        The last value of ``cfg.monitor``, which a hyperparameter search maximises.
    """
    from contextlib import ExitStack
    from typing import Any

    from omegaconf import OmegaConf
    from pytorch_lightning import seed_everything

    from robustsmooth.instantiation import instantiate
    from robustsmooth.loggers import log_inside, not_logged, will_log_inside
    from robustsmooth.methods.callbacks import (
        EpochTimer,
        KeepMetrics,
        SaveConfig,
        StopAtDivergence,
        checkpoints,
    )
    from robustsmooth.methods.compiling import CompiledTraining
    from robustsmooth.models import CheckpointFiles, sanity_check
    from robustsmooth.places import named_places, require_finished
    from robustsmooth.resuming import check_evaluations, is_finished, resume_from
    from robustsmooth.runtime import loggers_for, named_parts, trainer_for
    from robustsmooth.training_records import TrainingRecord, summary_metric, trained_epochs
    from robustsmooth.trust import targets

    datamodule = instantiate(cfg.data)
    if cfg.data.num_classes is None:  # for a folder of images it is found from the data
        cfg.data.num_classes = datamodule.num_classes
    folder = prepare(cfg, "train", begin=False)
    checkpoint, kept = resume_from(folder, cfg)
    unfinished = not is_finished(folder, cfg, checkpoint, kept)
    if unfinished:
        for place in named_places(cfg.method):
            require_finished(place)
        check_evaluations(folder, checkpoint, cfg)
    else:
        print(f"already trained to epoch {trained_epochs(folder)}")
    # An experiment sets to null what it does not take over from the one that it is based on.
    lines = {name: line for name, line in (cfg.evaluate or {}).items() if line is not None}
    own = sorted({*targets(cfg.data), *targets(cfg.model), *targets(cfg.smoothing)})
    evaluations = {name: nested(line, folder, folder / name, trust=own) for name, line in lines.items()}
    new = not_logged(folder, lines)
    with ExitStack() as stack:
        loggers = stack.enter_context(loggers_for(cfg, folder)) if unfinished or new else []
        if unfinished:
            seed_everything(cfg.seed, workers=True, verbose=False)  # the network's first weights
            module = instantiate(cfg.method)
            starts = cfg.model.get("checkpoint") is not None and not cfg.model.get("new_head")
            if starts and checkpoint is None:
                sanity_check(module.network, datamodule, split="val")
            timer = EpochTimer()
            plain: Any = OmegaConf.to_container(cfg, resolve=True)
            callbacks = [
                timer,
                *named_parts(cfg, "callbacks"),
                CompiledTraining(cfg.compile),
                StopAtDivergence(),
                SaveConfig(plain),
                KeepMetrics(),
                TrainingRecord(folder, timer),
                *checkpoints(folder, cfg.monitor, cfg.save_every_steps),
            ]
            with trainer_for(cfg, folder, callbacks, loggers, plugins=[CheckpointFiles()]) as trainer:
                trainer.fit(module, datamodule, ckpt_path=checkpoint, weights_only=True)
        for name, evaluate in evaluations.items():
            if name in new:
                will_log_inside(loggers, folder, name)
            evaluate()
            if name in new:
                log_inside(loggers, folder, name)
    return summary_metric(folder, cfg.monitor)


if __name__ == "__main__":
    train()
