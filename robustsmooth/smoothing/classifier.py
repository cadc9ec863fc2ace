"""The smoothed classifier: a network, a noise distribution, and votes."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import replace
from numbers import Real
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from robustsmooth.smoothing.addressing import address, fingerprint, image_names
from robustsmooth.smoothing.certificates.base import Begun, Certificate, Certified, Counts, Procedure
from robustsmooth.smoothing.certificates.prediction import Predict, Predicted, Tally
from robustsmooth.smoothing.checks import check_images, check_module, check_noise
from robustsmooth.smoothing.engine import VoteEngine
from robustsmooth.smoothing.noise import Noise
from robustsmooth.smoothing.numerics import Numerics
from robustsmooth.smoothing.tuning import Tuning

_WORTH_A_SEARCH = 10
"""How many times more votes than before make a new search for the batch size worth its time."""


class SmoothedClassifier:
    """g(x) = the class that the network most probably returns for x plus noise (Cohen et al. 2019).

    Args:
        network: Maps images in [0, 1], ``(B, C, H, W)``, to logits ``(B, K)``. Evaluated in eval mode.
        noise: The smoothing noise.
        seed: Determines the noise, together with the indices of the images.
        numerics: Precision, memory format, compilation.
        random_inside: Whether the network itself is random; None to find out.

    Raises:
        TypeError: If `network` is no `torch.nn.Module`, or `noise` no `Noise`.
    """

    def __init__(
        self,
        network: nn.Module,
        noise: Noise,
        *,
        seed: int = 0,
        numerics: Numerics | None = None,
        random_inside: bool | None = None,
    ) -> None:
        check_module(network)
        check_noise(noise)
        self.network, self.noise, self.seed = network, noise, seed
        self.numerics, self.random_inside = numerics, random_inside
        self._tunings: dict[Any, tuple[Tuning, int]] = {}

    def run(
        self,
        procedure: Procedure,
        images: Tensor,
        indices: Tensor | Sequence[int] | None = None,
        labels: Tensor | None = None,
        begun: Mapping[int, Begun] | None = None,
    ) -> list[Any]:
        """Run a certificate or another procedure for each image.

        Args:
            procedure: What to run.
            images: ``(B, C, H, W)`` float in [0, 1], on the network's device.
            indices: ``(B,)`` integers that determine the noise of each image, such as its place in the data
                set. By default the image itself does: the same image has the same noise in every call, and
                two images never share theirs, also in a loop over batches.
            labels: ``(B,)`` int64, for procedures that ask about the label.
            begun: By index, the votes of an earlier run to continue from.

        Returns:
            The records, in the order of the images.

        Raises:
            TypeError: If the images are not a floating-point tensor.
            ValueError: If they are not finite and in [0, 1], or the network cannot be certified with
                them (`check_images`, `check_network`), or an index occurs twice.
        """
        check_images(images)
        names = _names(images) if indices is None else torch.as_tensor(indices)
        key = tuple(images.shape[1:]), images.device, procedure.batch_size
        votes = len(images) * procedure.max_votes
        known, searched = self._tunings.get(key, (None, 0))
        if votes > _WORTH_A_SEARCH * searched:  # a short search will not do for many more votes
            known, searched = None, votes
        engine = VoteEngine(
            self.network,
            self.noise,
            procedure,
            seed=self.seed,
            numerics=self.numerics,
            random_inside=self.random_inside,
            tuning=known,
            examined=key in self._tunings,
        )
        engine.submit(images, names, labels, begun=begun)
        origins = self._origins(procedure, images, names) if isinstance(procedure, Certificate) else None
        if engine.tuning is not None:
            self._tunings[key] = engine.tuning, searched
        self.random_inside = engine.random_inside
        found = {finished.index: finished.record for finished in engine.run(flush=True)}
        if len(found) != len(images):
            raise ValueError("`indices` must name each image once")
        records = [found[int(name)] for name in names.tolist()]
        if origins is None:
            return records
        return [replace(one, origin=origin) for one, origin in zip(records, origins, strict=True)]

    def votes(
        self,
        images: Tensor,
        n: int,
        *,
        indices: Tensor | Sequence[int] | None = None,
        purpose: str = "tally",
        batch_size: int | None = None,
    ) -> Counts:
        """Count the votes of n noisy copies of each image.

        Args:
            images: ``(B, C, H, W)`` float in [0, 1].
            n: Votes per image.
            indices: See `run`.
            purpose: Names the stream of noise: the same purpose draws the same noise again.
            batch_size: Device batch; chosen automatically if not given.

        Returns:
            ``(B, K)`` int64 counts; a row adds up to n, minus the copies for which the network returns NaN.

        Raises:
            ValueError: If there are no images, from which K would be known; see also `run`.
        """
        if len(images) == 0:
            raise ValueError("`images` must hold at least one image, got none")
        procedure = Tally(n=n, purpose=purpose, batch_size=batch_size or "auto")
        return np.stack(self.run(procedure, images, indices))

    def predict(
        self,
        images: Tensor,
        procedure: Predict | None = None,
        *,
        indices: Tensor | Sequence[int] | None = None,
    ) -> list[Predicted]:
        """PREDICT for each image; see `Predict` for the number of votes and alpha."""
        return self.run(procedure or Predict(), images, indices)

    def certify(
        self,
        images: Tensor,
        certificate: Certificate,
        *,
        indices: Tensor | Sequence[int] | None = None,
        labels: Tensor | None = None,
        previous: Sequence[Certified] | None = None,
    ) -> list[Certified]:
        """Certify each image.

        Args:
            images: ``(B, C, H, W)`` float in [0, 1].
            certificate: The certificate.
            indices: See `run`.
            labels: See `run`.
            previous: Records of an earlier call with the same network, seed and noise, for the same images
                and indices, and with the same certificate, of which `Anytime` may have a larger n. Those that
                it can extend are extended, the others returned.

        Returns:
            The records, in the order of the images.

        Raises:
            ValueError: If there is not one previous record for each image, or one is of another network,
                image, index, noise, seed or certificate, or the network has no parameters or buffers, by
                which it is recognised; see also `run`.
        """
        if previous is None:
            return self.run(certificate, images, indices, labels)
        if not self._tensors():
            raise ValueError(
                "`previous` needs a network with parameters or buffers, by which it is recognised, and this "
                "one has none; certify the images without it"
            )
        check_images(images)
        names = _names(images) if indices is None else torch.as_tensor(indices)
        origins = self._origins(certificate, images, names)
        if len(previous) != len(images):
            raise ValueError(f"`previous` must hold {len(images)} records, got {len(previous)}")
        records = list(previous)
        for at, (record, origin) in enumerate(zip(records, origins, strict=True)):
            if record.origin != origin:
                may = ", ".join(sorted(certificate.may_change))
                raise ValueError(
                    f"`previous[{at}]` is of another network, image, index, noise, seed or certificate, "
                    f"whose votes must not be added to these; of {type(certificate).__name__} only {may} "
                    "may change"
                )
        begun = [certificate.begun(record) for record in records]
        places = [at for at, votes in enumerate(begun) if certificate.goes_on(votes, self.noise)]
        if places:
            chosen = torch.tensor(places)
            extended = self.run(
                certificate,
                images[chosen.to(images.device)],
                names[chosen],
                None if labels is None else labels[chosen.to(labels.device)],
                {int(names[at]): begun[at] for at in places},
            )
            for at, record in zip(places, extended, strict=True):
                records[at] = record
        return records

    def _origins(self, certificate: Certificate, images: Tensor, names: Tensor) -> list[str]:
        """What the votes of each image depend on, as a hash."""
        settings = {
            key: value for key, value in vars(certificate).items() if key not in certificate.may_change
        }
        weights = fingerprint(self._tensors())
        common = f"{type(certificate).__qualname__} {_written(settings)} {_written(self.noise)} {weights}"
        return [
            f"{address(self.seed, f'{common} {image}', int(name)):x}"
            for image, name in zip(image_names(images), names.tolist(), strict=True)
        ]

    def _tensors(self) -> dict[str, Tensor]:
        """The network's parameters and buffers, without their names: a wrapper such as DataParallel adds one.

        Unlike those of a state dict, all buffers are there.
        """
        tensors = [*self.network.parameters(), *self.network.buffers()]
        return {f"{place} {tuple(tensor.shape)}": tensor for place, tensor in enumerate(tensors)}


def _written(value: Any) -> str:
    """A value as text: equal numbers alike, other objects by their type and all of their attributes."""
    if isinstance(value, bool | str | None):
        return repr(value)
    if isinstance(value, Real):
        return repr(float(value))
    if isinstance(value, Mapping):
        return str(sorted((str(key), _written(part)) for key, part in value.items()))
    if isinstance(value, list | tuple):
        return str([_written(part) for part in value])
    if isinstance(value, Tensor | np.ndarray):
        return f"{tuple(value.shape)} {_written(value.tolist())}"
    attributes = getattr(value, "__dict__", None)
    return f"{type(value).__qualname__} {repr(value) if attributes is None else _written(attributes)}"


def _names(images: Tensor) -> Tensor:
    """A number for each image that depends on its pixels only; another one where an image is repeated."""
    before: Counter[str] = Counter()
    numbers = []
    for name in image_names(images):
        numbers.append((int(name, 16) >> 1) - before[name])
        before[name] += 1
    return torch.tensor(numbers, dtype=torch.int64)
