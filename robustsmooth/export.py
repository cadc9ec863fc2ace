"""Export a trained network: ``python -m robustsmooth.export checkpoint=<run folder> format=onnx``."""

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare


@command("export")
def export(cfg: DictConfig) -> str:
    """Write the network of a run, with its normalisation, and print where."""
    import json
    from pathlib import Path

    from omegaconf import OmegaConf

    from robustsmooth.files import write_whole
    from robustsmooth.hub import push
    from robustsmooth.models import save_onnx, save_safetensors
    from robustsmooth.report.card import model_card
    from robustsmooth.runs import open_run

    if cfg.push is not None and (cfg.format != "safetensors" or cfg.file is not None):
        raise ValueError("`push` uploads the folder that format=safetensors writes; leave `file` out")
    run = open_run(cfg, needs_sigma=False, needs_data=False)
    cfg = run.config
    folder = prepare(cfg, "export")
    path = Path(cfg.file) if cfg.file is not None else folder / f"model.{cfg.format}"
    if cfg.format == "onnx":
        save_onnx(run.network, run.datamodule.image_shape, path)
    else:
        resolved = OmegaConf.to_container(cfg, resolve=True)
        assert isinstance(resolved, dict)
        config = {**run.training, "data": resolved["data"], "model": resolved["model"]}
        save_safetensors(run.network, path, config)
        if cfg.file is None:
            name = cfg.push or folder.resolve().name
            write_whole(folder / "config.json", json.dumps(config, indent=2) + "\n")
            card = model_card(config, name, cfg.license, Path(run.checkpoint), folder)
            write_whole(folder / "README.md", card)
    print(path)
    if cfg.push is not None:
        print(f"The model is {push(folder, cfg.push)}")
    return str(path)


if __name__ == "__main__":
    export()
