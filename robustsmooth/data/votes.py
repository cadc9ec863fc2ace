"""Votes on training images from a log of ``predict``, as soft targets."""

from pathlib import Path

import numpy as np
import torch
from scipy.sparse import csr_array
from torch import Tensor


class VoteTable:
    """Shares of votes per class for the images of a split, by index.

    Stored sparsely: of ImageNet's thousand classes, an image has votes for a few.

    Args:
        votes: By image index, ``(class, number)`` pairs.
        num_classes: Number of classes.

    Raises:
        ValueError: If an image has no votes, or votes for a class that does not exist.
    """

    def __init__(self, votes: dict[int, list[tuple[int, int]]], num_classes: int) -> None:
        indices = np.array(sorted(votes), dtype=np.int64)
        lengths = [len(votes[index]) for index in indices.tolist()]
        pairs = np.array([pair for index in indices.tolist() for pair in votes[index]], dtype=np.int64)
        pairs = pairs.reshape(-1, 2)
        if len(pairs) and (pairs[:, 0].min() < 0 or pairs[:, 0].max() >= num_classes):
            raise ValueError(
                f"the votes name class {pairs[:, 0].max()}, but there are {num_classes} classes: they are of "
                "another data set"
            )
        self._rows = torch.full((int(indices.max(initial=-1)) + 1,), -1, dtype=torch.int64)
        self._rows[torch.from_numpy(indices)] = torch.arange(len(indices))
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        shape = (len(indices), num_classes)
        self._counts = csr_array((pairs[:, 1].astype(np.float32), pairs[:, 0], starts), shape)

    @classmethod
    def read(cls, folder: Path | str, num_classes: int) -> "VoteTable":
        """The votes that ``robustsmooth.predict data.subset.split=train`` wrote.

        Args:
            folder: Its run folder.
            num_classes: Number of classes.

        Raises:
            ValueError: If there is no finished ``predict.tsv``, or it is not about training images.
        """
        path = Path(folder).expanduser() / "predict.tsv"
        if not path.is_file():
            raise ValueError(
                f"there are no votes in {path}: write them with `python -m robustsmooth.predict "
                f"checkpoint=<run folder> data.subset.split=train hydra.run.dir={folder}`"
            )
        header, *rows = (line.split("\t") for line in path.read_text(encoding="utf-8").splitlines())
        index, counts = header.index("idx"), header.index("counts")
        votes = {}
        for row in rows:
            cells = (pair.split(":") for pair in row[counts].split(","))
            votes[int(row[index])] = [(int(label), int(number)) for label, number in cells]
        return cls(votes, num_classes)

    def missing(self, indices: Tensor) -> Tensor:
        """The indices for which the table has no votes."""
        known = indices < len(self._rows)
        rows = self._rows[indices.clamp(max=len(self._rows) - 1)] if len(self._rows) else indices * 0 - 1
        return indices[~known | (rows < 0)]

    def shares(self, indices: Tensor) -> Tensor:
        """The shares of votes of the images, ``(B, K)`` float32, on the device of `indices`.

        Raises:
            ValueError: If an image has none.
        """
        here = indices.cpu()
        absent = self.missing(here)
        if len(absent):
            raise ValueError(
                f"`method.targets` has no votes for {len(absent)} of the training images, such as number "
                f"{int(absent[0])}: finish predict, with data.subset.split=train and this data.val_images"
            )
        dense = torch.from_numpy(self._counts[self._rows[here].numpy()].toarray())
        return (dense / dense.sum(dim=1, keepdim=True)).to(indices.device)
