"""Draw a figure that needs no network: ``python -m robustsmooth.illustrate illustration=heat_line``."""

from omegaconf import DictConfig

from robustsmooth.commands import command, prepare
from robustsmooth.instantiation import instantiate


@command("illustrate")
def illustrate(cfg: DictConfig) -> None:
    """Draw the chosen figure as PNG and PDF."""
    from robustsmooth.report.figures import write_figures

    folder = prepare(cfg, "illustrate")
    drawing = instantiate(cfg.illustration).drawing()
    write_figures([drawing], folder / "figures")
    print(f"{drawing.title}. {drawing.note}\nThe figure is {folder / 'figures' / drawing.name}.png")


if __name__ == "__main__":
    illustrate()
