"""Loading a checkpoint into a classifier, with the key names of other projects too."""

import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor, nn

from robustsmooth.models.classifier import Classifier, Normalize
from robustsmooth.models.diffusion import OneStepDiffusion
from robustsmooth.models.parametric_noise import ParametricNoise
from robustsmooth.models.state import Checkpoint, read_checkpoint

_log = logging.getLogger(__name__)

# Names of the same layers elsewhere (CIFAR model zoos, the robustness library), and in torchvision.
_DIALECTS: tuple[tuple[tuple[str, str], ...], ...] = (
    (),
    (("linear.", "fc."),),
    (("linear.", "fc."), (".shortcut.", ".downsample.")),
)
# Names of the statistics of a normalisation layer, after any prefix.
_MEANS = ("normalize.mean", "normalizer.new_mean", "normalizer.mean", "0.mean", "0.means", "mean", "mu")
_STDS = ("normalize.std", "normalizer.new_std", "normalizer.std", "0.std", "0.sds", "std", "sigma")
# What some files contain besides the network: an attacker with a second copy of it (robustness library), a
# block that is never used (TRADES).
_IGNORED = ("attacker.", "sub_block1.")


def load_checkpoint(classifier: Classifier, place: str | Checkpoint, new_head: bool = False) -> None:
    """Load a network's weights, and its normalisation if the checkpoint has one, in place.

    The keys may have prefixes (``module.``, ``1.``, ``1.module.``, ``module.model.``...), and the layers may
    have the names of common model zoos; both are found by comparison with the network. A plain checkpoint
    fits a network with noise layers, whose strengths keep their initial values. If the checkpoint contains a
    normalisation, it replaces `classifier.normalize`, and a difference is reported.

    Args:
        classifier: The classifier to load into.
        place: A checkpoint that was read, or a place for `robustsmooth.models.read_checkpoint`.
        new_head: Leave out the last linear layer, to train a new one for other classes.

    Raises:
        ValueError: If the checkpoint cannot be read, does not fit, or holds several networks that fit.
    """
    checkpoint = place if isinstance(place, Checkpoint) else read_checkpoint(place, classifier.network)
    target = classifier.network.state_dict()
    match = _match(checkpoint.tensors, target, checkpoint.place)
    if new_head:
        head = _head(classifier.network)
        if head is None:
            raise ValueError("`model.new_head` needs a network that ends with a linear layer")
        target, match.found = (
            {key: value for key, value in tensors.items() if not key.startswith(head)}
            for tensors in (target, match.found)
        )
    _check(match.found, target, classifier.network, checkpoint.place)
    classifier.network.load_state_dict(match.found, strict=False)
    _load_normalization(classifier, checkpoint, match.rest)
    _load_own_denoiser(classifier, checkpoint, match.rest)


def load_denoiser(denoiser: nn.Module, place: str) -> None:
    """Load a denoiser's weights in place, whatever the prefix of their names.

    Args:
        denoiser: Such as `DnCNN`; of a `OneStepDiffusion`, its network is loaded.
        place: See `robustsmooth.models.read_checkpoint`: a run folder of ours, or a file such as those of
            microsoft/denoised-smoothing and openai/improved-diffusion.

    Raises:
        ValueError: If the checkpoint cannot be read or does not fit.
    """
    network = denoiser.network if isinstance(denoiser, OneStepDiffusion) else denoiser
    _fill_denoiser(network, read_checkpoint(place).tensors, place)


def _fill_denoiser(denoiser: nn.Module, tensors: Mapping[str, Tensor], place: str) -> None:
    target = denoiser.state_dict()
    found = _match(tensors, target, place).found
    own = {key: value for key, value in found.items() if key in target}  # a run contains a classifier too
    _check(own, target, denoiser, place)
    denoiser.load_state_dict(own, strict=False)


def _load_own_denoiser(classifier: Classifier, checkpoint: Checkpoint, rest: Mapping[str, Tensor]) -> None:
    """Load the denoiser in the checkpoint; it is part of the trained network."""
    theirs = {key: value for key, value in rest.items() if ".denoiser." in f".{key}"}
    if theirs and classifier.denoiser is None:
        raise ValueError(
            f"the checkpoint `{checkpoint.place}` is of a classifier behind a denoiser: set model.denoiser "
            "as in its training"
        )
    if theirs and classifier.denoiser is not None:
        _fill_denoiser(classifier.denoiser, theirs, checkpoint.place)


@dataclass
class _Match:
    """A state dict under the network's own names.

    Attributes:
        prefix: The prefix in the file.
        found: Tensors under the network's names, including those that it does not have.
        rest: Tensors outside of the network, under their names in the file.
    """

    prefix: str
    found: dict[str, Tensor] = field(default_factory=dict)
    rest: dict[str, Tensor] = field(default_factory=dict)

    def fit(self, target: Mapping[str, Tensor]) -> tuple[int, int]:
        """The numbers of the network's keys that are found, and that have the same shape."""
        common = self.found.keys() & target.keys()
        return len(common), sum(self.found[key].shape == target[key].shape for key in common)


def _match(tensors: Mapping[str, Tensor], target: Mapping[str, Tensor], place: str) -> _Match:
    """The prefix and the naming scheme that match most keys of the network; the shortest prefix if tied.

    Raises:
        ValueError: If tied prefixes have other tensors, such as a network and its running average.
    """
    candidates = [
        _translate(tensors, prefix, dialect, target)
        for dialect in _DIALECTS
        for prefix in _prefixes(tensors, target, dialect)
    ]
    best = max(candidates, key=lambda match: match.fit(target))  # the first of the best ones
    others = {
        match.prefix
        for match in candidates
        if match.prefix != best.prefix
        and match.fit(target) == best.fit(target)
        and any(
            not torch.equal(best.found[key], match.found[key])
            for key in best.found.keys() & match.found.keys() & target.keys()
        )
    }
    if others:
        names = [f"`{prefix}`" if prefix else "no prefix" for prefix in (best.prefix, *sorted(others))]
        raise ValueError(
            f"the checkpoint `{place}` holds different networks that fit equally well: the keys with "
            f"{' and with '.join(names)}; save a file with one of them only"
        )
    return best


def _prefixes(
    tensors: Iterable[str], target: Mapping[str, Tensor], dialect: Sequence[tuple[str, str]]
) -> list[str]:
    """All prefixes of the network's keys in the file, shortest first."""
    roots = {key.split(".")[0] for key in target}
    found = {""}
    for key in tensors:
        parts = _rename(key, dialect).split(".")
        for place, part in enumerate(parts):
            if part in roots and ".".join(parts[place:]) in target:
                found.add("".join(f"{item}." for item in parts[:place]))
    return sorted(found, key=lambda prefix: (len(prefix), prefix))


def _rename(key: str, dialect: Sequence[tuple[str, str]]) -> str:
    for theirs, ours in dialect:
        key = key.replace(theirs, ours)
    return key


def _translate(
    tensors: Mapping[str, Tensor],
    prefix: str,
    dialect: Sequence[tuple[str, str]],
    target: Mapping[str, Tensor],
) -> _Match:
    match = _Match(prefix)
    for key, value in tensors.items():
        if any(f".{part}" in f".{key}" for part in _IGNORED):
            continue
        if _rename(key, dialect).startswith(prefix):
            match.found[_rename(key, dialect).removeprefix(prefix)] = value
        else:
            match.rest[key] = value
    if not prefix:  # statistics of a normalisation layer may be beside the network's keys
        for key in [key for key in match.found if key in (*_MEANS, *_STDS) and key not in target]:
            match.rest[key] = match.found.pop(key)
    return match


def _optional(network: nn.Module) -> set[str]:
    """Keys that a checkpoint may lack: counters of BatchNorm (old files), strengths of noise layers."""
    noises = tuple(name for name, module in network.named_modules() if isinstance(module, ParametricNoise))
    return {
        key
        for key in network.state_dict()
        if key.endswith("num_batches_tracked") or key.startswith(tuple(f"{name}." for name in noises))
    }


def _head(network: nn.Module) -> str | None:
    """The prefix of the last linear layer's parameters; None if there is no such layer."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    return f"{linear[-1]}." if linear else None


def _check(found: Mapping[str, Tensor], target: Mapping[str, Tensor], network: nn.Module, place: str) -> None:
    """Refuse a checkpoint that does not fit, with the reason in one sentence."""
    missing = sorted(target.keys() - found.keys() - _optional(network))
    unexpected = sorted(found.keys() - target.keys())
    shapes = [
        f"{key} is {_size(found[key])} in the file and {_size(target[key])} here"
        for key in target
        if key in found and found[key].shape != target[key].shape
    ]
    if missing or unexpected or shapes:
        parts = [
            _listing("keys missing in the file", missing),
            _listing("keys that the network does not have", unexpected),
            _listing("of another shape", shapes),
        ]
        listed = "; ".join(part for part in parts if part)
        hint = _hint(missing, unexpected, shapes, _head(network))
        raise ValueError(f"the checkpoint `{place}` does not fit the network: {listed}. {hint}")


def _size(tensor: Tensor) -> str:
    return "x".join(str(side) for side in tensor.shape) or "a scalar"


def _listing(title: str, keys: Sequence[str], limit: int = 4) -> str:
    if not keys:
        return ""
    more = f", and {len(keys) - limit} more" if len(keys) > limit else ""
    return f"{len(keys)} {title} ({', '.join(keys[:limit])}{more})"


def _hint(missing: Sequence[str], unexpected: Sequence[str], shapes: Sequence[str], head: str | None) -> str:
    if unexpected and not missing and all("downsample" in key for key in unexpected):
        return "Its shortcuts are projections: set model.network.shortcut=projection"
    if missing and not unexpected and all("downsample" in key for key in missing):
        return "Its shortcuts have no parameters: set model.network.shortcut=identity"
    if unexpected and not missing and all("_noise." in key for key in unexpected):
        return "It has noise layers: set model.noise_layers as in its training"
    in_head = head is not None and all(shape.startswith(head) for shape in shapes)
    if shapes and in_head and not missing and not unexpected:
        return "It was trained for other classes: set model.new_head=true to train a new last layer"
    return "Is it for another depth, width or network? Choose with model=..."


def _load_normalization(classifier: Classifier, checkpoint: Checkpoint, rest: Mapping[str, Tensor]) -> None:
    """Use the normalisation in the checkpoint; it is part of the trained network."""
    trained = _trained_normalization(checkpoint, rest)
    if trained is None:
        return
    mean, std = trained
    configured = classifier.normalize
    if not isinstance(configured, Normalize):
        if mean.any() or (std != 1).any():
            classifier.normalize = Normalize(mean.tolist(), std.tolist())
            _report(checkpoint.place, mean, std)
        return
    if len(mean) == 1:
        mean, std = mean.expand(len(configured.mean)), std.expand(len(configured.mean))
    if len(mean) != len(configured.mean):
        raise ValueError(
            f"the checkpoint `{checkpoint.place}` is for images of {len(mean)} channels, not of "
            f"{len(configured.mean)}; choose other data or another checkpoint"
        )
    ours = (configured.mean.flatten(), configured.std.flatten())
    if not all(torch.allclose(a, b, atol=1e-4) for a, b in zip(ours, (mean, std), strict=True)):
        _report(checkpoint.place, mean, std)
    state = {"mean": mean.view(-1, 1, 1), "std": std.view(-1, 1, 1)}
    for key in configured.state_dict().keys() - state.keys():  # a normalisation layer with image noise
        theirs = _statistic(rest, [f"normalize.{key}"])
        if theirs is not None:
            state[key] = theirs
    configured.load_state_dict(state, strict=False)


def _report(place: str, mean: Tensor, std: Tensor) -> None:
    _log.warning(
        "`%s` was trained with the normalisation mean %s, std %s; that is used, not model.normalization",
        place,
        [round(value, 4) for value in mean.tolist()],
        [round(value, 4) for value in std.tolist()],
    )


def _trained_normalization(
    checkpoint: Checkpoint, rest: Mapping[str, Tensor]
) -> tuple[Tensor, Tensor] | None:
    """Mean and standard deviation ``(C,)``, if the checkpoint states them; they may be none."""
    if checkpoint.normalization is not None:
        statistics = checkpoint.normalization
        return torch.tensor(statistics["mean"]), torch.tensor(statistics["std"])
    mean, std = _statistic(rest, _MEANS), _statistic(rest, _STDS)
    if mean is not None:
        mean = mean.flatten().float()
        return mean, torch.ones_like(mean) if std is None else std.flatten().float()
    if checkpoint.config:  # a checkpoint of ours, which would contain a normalisation layer
        return torch.zeros(1), torch.ones(1)
    return None


def _statistic(rest: Mapping[str, Tensor], names: Sequence[str]) -> Tensor | None:
    for name in names:
        for key in sorted(rest, key=len):
            if f".{key}".endswith(f".{name}"):
                return rest[key]
    return None
