"""Hand a trained network on: ``python -m robustsmooth.export checkpoint=<run folder> format=onnx``."""

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare


@command("export")
def export(cfg: DictConfig) -> str:
    """Write the network of a run, its normalisation included, and print where."""
    from pathlib import Path

    from omegaconf import OmegaConf

    from robustsmooth.models import save_onnx, save_safetensors
    from robustsmooth.runs import open_run

    if cfg.format not in ("safetensors", "onnx"):
        raise ValueError(f"`format` must be safetensors or onnx, got {cfg.format!r}")
    run = open_run(cfg, needs_sigma=False)
    cfg = run.config
    folder = prepare(cfg, "export")
    path = Path(cfg.file) if cfg.file is not None else folder / f"model.{cfg.format}"
    if cfg.format == "onnx":
        save_onnx(run.network, run.datamodule.image_shape, path)
    else:
        resolved = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(resolved, dict)
        config = run.training or {"data": resolved["data"], "model": resolved["model"]}
        save_safetensors(run.network, path, config)
    print(path)
    return str(path)


if __name__ == "__main__":
    export()
