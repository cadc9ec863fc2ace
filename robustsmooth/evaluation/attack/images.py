"""Adversarial images on disk: written batch by batch, merged at the end, shown in a picture."""

import hashlib
import io
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from robustsmooth.files import write_whole

Format = Literal["safetensors", "npz"]
Key = tuple[int, float, int]
"""Index, epsilon, number of noises: the key of a row in the attack's log."""

Entry = dict[str, NDArray[Any]]


class ImageStore:
    """Saves the adversarial images of an evaluation, beside its log.

    Parts are written before the rows that belong to them, so that an evaluation that was killed and continued
    has the image of every row. The merged file is ``attack.safetensors`` or ``attack.npz``, with the arrays
    ``adversarial`` ``(N, C, H, W)`` float32, ``clean`` likewise, ``idx``, ``epsilon``, ``num_noise``,
    ``label`` and ``predict`` (the answer to the adversarial image), sorted like the log.

    Args:
        folder: The run folder.
        save: The format; None to save only the images of the picture, until it is drawn.

    Attributes:
        pictured: Indices of the images that the picture shows.
    """

    def __init__(self, folder: Path | str, save: Format | None = None) -> None:
        if save not in (None, "safetensors", "npz"):
            raise ValueError(f"`save` must be safetensors, npz or null, got {save!r}")
        self.folder, self.save = Path(folder), save
        self.pictured: frozenset[int] = frozenset()
        self._parts = self.folder / "attack.images"
        self._done = self.folder / "attack.images.merged"

    def wants(self, index: int) -> bool:
        """Whether the image of this index is saved."""
        return self.save is not None or index in self.pictured

    def add(
        self,
        keys: Sequence[Key],
        clean: Tensor,
        adversarial: Tensor,
        labels: Sequence[int],
        predict: Sequence[int],
    ) -> None:
        """Write a part: those of these images that are saved.

        Args:
            keys: The key of each image.
            clean: ``(B, C, H, W)``.
            adversarial: Likewise.
            labels: One per image.
            predict: The answer to each adversarial image.
        """
        chosen = [place for place, key in enumerate(keys) if self.wants(key[0])]
        if not chosen:
            return
        part = io.BytesIO()
        np.savez(
            part,
            clean=clean[chosen].cpu().numpy(),
            adversarial=adversarial[chosen].cpu().numpy(),
            idx=np.array([keys[place][0] for place in chosen], dtype=np.int64),
            epsilon=np.array([keys[place][1] for place in chosen], dtype=np.float64),
            num_noise=np.array([keys[place][2] for place in chosen], dtype=np.int64),
            label=np.array([labels[place] for place in chosen], dtype=np.int64),
            predict=np.array([predict[place] for place in chosen], dtype=np.int64),
        )
        # Named by all of its images: another start may put them together in other ways.
        name = hashlib.blake2b(repr([keys[place] for place in chosen]).encode(), digest_size=8).hexdigest()
        write_whole(self._parts / f"{name}.npz", part.getvalue())

    def merge(self) -> dict[str, NDArray[Any]] | None:
        """Merge all parts (call on rank 0, after a barrier); call `clean_up` afterwards.

        Returns:
            The arrays of all saved images; None if there are none.
        """
        # The later of two parts with an image counts: the other start was killed before it wrote the row.
        parts = sorted(self._parts.glob("*.npz"), key=lambda path: path.stat().st_mtime_ns)
        entries: dict[Key, Entry] = {}
        for path in [*self._merged(), *parts]:
            arrays = _read(path)
            for place, key in enumerate(keys_of(arrays)):
                entries[key] = {name: values[place] for name, values in arrays.items()}
        if not entries:
            return None
        ordered = [entries[key] for key in sorted(entries)]
        merged = {name: np.stack([entry[name] for entry in ordered]) for name in ordered[0]}
        if self.save is not None and parts:
            _write(self.folder / f"attack.{self.save}", merged)
        return merged

    def clean_up(self) -> None:
        """Remove the parts, once the merged file and the picture exist."""
        shutil.rmtree(self._done, ignore_errors=True)
        if self._parts.exists():
            self._parts.rename(self._done)  # in one step: half of the parts would give half a picture
            shutil.rmtree(self._done, ignore_errors=True)
        for draft in self.folder.glob("attack*.tmp"):  # left by a killed process
            draft.unlink()

    def _merged(self) -> list[Path]:
        path = self.folder / f"attack.{self.save}"
        return [path] if self.save is not None and path.exists() else []


def keys_of(images: Entry) -> list[Key]:
    """The keys of the rows that images belong to, in the order of the images."""
    return list(zip(*(images[name].tolist() for name in ("idx", "epsilon", "num_noise")), strict=True))


def _read(path: Path) -> Entry:
    if path.suffix == ".safetensors":
        from safetensors.numpy import load_file

        return load_file(path)
    with np.load(path) as file:
        return dict(file)


def _write(path: Path, arrays: Entry) -> None:
    if path.suffix == ".safetensors":
        from safetensors.numpy import save

        write_whole(path, save({name: np.ascontiguousarray(values) for name, values in arrays.items()}))
    else:
        file = io.BytesIO()
        np.savez_compressed(file, **arrays)  # type: ignore[arg-type]
        write_whole(path, file.getvalue())


def draw_grid(
    path: Path, images: dict[str, NDArray[Any]], title: str, class_names: Sequence[str] = ()
) -> None:
    """A picture with one column per image: clean image, perturbation, adversarial image.

    The perturbation is shown around grey, scaled so that the largest one fills the range; the factor is the
    row's label.

    Args:
        path: A PNG file to write.
        images: Arrays as `ImageStore.merge` returns them, one column per image.
        title: The title of the picture.
        class_names: Names of the classes, for the captions; numbers if empty.
    """
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    clean, adversarial = images["clean"], images["adversarial"]
    delta = adversarial - clean
    largest = float(np.abs(delta).max()) or 1.0
    rows = [clean, 0.5 + delta / (2 * largest), adversarial]
    columns = len(clean)
    figure = Figure(figsize=(1.25 * columns + 1.0, 4.6), layout="constrained")
    FigureCanvasAgg(figure)
    grid = figure.subplots(3, columns, squeeze=False)
    for axes_row, row in zip(grid, rows, strict=True):
        for axes, image in zip(axes_row, row, strict=True):
            shown = np.clip(image.transpose(1, 2, 0), 0, 1)
            axes.imshow(
                shown[..., 0] if shown.shape[-1] == 1 else shown,
                cmap="gray",
                vmin=0,
                vmax=1,
                interpolation="nearest",
            )
            axes.set_xticks([])
            axes.set_yticks([])
            for spine in axes.spines.values():
                spine.set_visible(False)

    def name(number: int) -> str:
        if number < 0:
            return "abstains"
        return class_names[number] if number < len(class_names) else str(number)

    lengths = np.sqrt((delta.reshape(columns, -1) ** 2).sum(1))
    for column in range(columns):
        grid[0, column].set_title(
            f"{images['idx'][column]}: {name(int(images['label'][column]))}", fontsize=8
        )
        grid[1, column].set_xlabel(f"l2 {lengths[column]:.2f}", fontsize=8)
        grid[2, column].set_xlabel(name(int(images["predict"][column])), fontsize=8)
    for axes, label in zip(
        grid[:, 0], ("clean", f"perturbation x {0.5 / largest:.3g}", "adversarial"), strict=True
    ):
        axes.set_ylabel(label, fontsize=8)
    figure.suptitle(title, fontsize=9)
    picture = io.BytesIO()
    figure.savefig(picture, format="png", dpi=150)
    write_whole(path, picture.getvalue())
