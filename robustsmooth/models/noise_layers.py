"""Layers with trainable noise, as drop-in replacements in any network.

A noisy layer is a `Conv2d` or `Linear` with a `ParametricNoise` on its weight, its input or its output;
`NoiseLayers` puts them into a network by name. The noise stays on in evaluation: the network *is* a
random function, and is smoothed and certified as one. See `is_random` for what this means when votes are
counted.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from fnmatch import fnmatchcase

import torch
from torch import Tensor, nn

from robustsmooth.models.classifier import Classifier, Normalize
from robustsmooth.models.parametric_noise import ParametricNoise

NoiseFactory = Callable[[Sequence[int]], "ParametricNoise"]


class _NoisyLayer(nn.Module):
    """The common part of noisy layers: up to three noises, which are modules or None."""

    weight_noise: ParametricNoise | None
    input_noise: ParametricNoise | None
    output_noise: ParametricNoise | None

    def _adopt(self, layer: nn.Conv2d | nn.Linear, noises: dict[str, ParametricNoise | None]) -> None:
        """Take over a plain layer's parameters (the same objects) and mode; install the noises."""
        self.training = layer.training
        for name in ("weight", "bias"):
            self.register_parameter(name, getattr(layer, name))
        for name in ("weight_noise", "input_noise", "output_noise"):
            self.add_module(name, noises.get(name))

    def _run(self, plain: Callable[[Tensor, Tensor], Tensor], inputs: Tensor, weight: Tensor) -> Tensor:
        if self.input_noise is not None:
            inputs = self.input_noise(inputs)
        if self.weight_noise is not None:
            weight = self.weight_noise(weight)  # one draw for the whole batch
        outputs = plain(inputs, weight)
        return outputs if self.output_noise is None else self.output_noise(outputs)


class NoisyConv2d(_NoisyLayer, nn.Conv2d):
    """A `Conv2d` with noise on its weight, its input or its output.

    Args:
        layer: The plain layer, whose parameters are taken over.
        **noises: `weight_noise`, `input_noise`, `output_noise`; each a `ParametricNoise` or None.
    """

    def __init__(self, layer: nn.Conv2d, **noises: ParametricNoise | None) -> None:
        nn.Conv2d.__init__(
            self,
            layer.in_channels,
            layer.out_channels,
            layer.kernel_size,  # type: ignore[arg-type]
            layer.stride,  # type: ignore[arg-type]
            layer.padding,  # type: ignore[arg-type]
            layer.dilation,  # type: ignore[arg-type]
            layer.groups,
            layer.bias is not None,
            layer.padding_mode,
            device="meta",  # no memory and no random numbers for weights that are replaced at once
        )
        self._adopt(layer, noises)

    def forward(self, inputs: Tensor) -> Tensor:
        """Convolve with one draw of the noises."""
        return self._run(lambda x, w: self._conv_forward(x, w, self.bias), inputs, self.weight)


class NoisyLinear(_NoisyLayer, nn.Linear):
    """A `Linear` with noise on its weight, its input or its output.

    Args:
        layer: The plain layer, whose parameters are taken over.
        **noises: `weight_noise`, `input_noise`, `output_noise`; each a `ParametricNoise` or None.
    """

    def __init__(self, layer: nn.Linear, **noises: ParametricNoise | None) -> None:
        nn.Linear.__init__(self, layer.in_features, layer.out_features, layer.bias is not None, device="meta")
        self._adopt(layer, noises)

    def forward(self, inputs: Tensor) -> Tensor:
        """Multiply with one draw of the noises."""
        return self._run(lambda x, w: nn.functional.linear(x, w, self.bias), inputs, self.weight)


class NoisyNormalize(Normalize):
    """A normalisation layer behind noise of trained strength on the images, in pixel units.

    Learned input noise (Nemcovsky et al., section 4.3). It is part of the network, so its level does not
    appear in a certificate. Its keys are those of `Normalize`, so that checkpoints fit both.

    Args:
        layer: The plain normalisation layer, whose statistics are taken over.
        image_noise: The noise on the images.
    """

    def __init__(self, layer: Normalize, image_noise: ParametricNoise) -> None:
        super().__init__(layer.mean.flatten().tolist(), layer.std.flatten().tolist())
        self.image_noise = image_noise

    def forward(self, images: Tensor) -> Tensor:
        """Normalise images plus noise, ``(B, C, H, W)``."""
        return super().forward(self.image_noise(images))


class NoiseLayers:
    """Replaces layers of a network, chosen by name, by noisy ones (PNI and CPNI by configuration).

    Each noise is a function of the shape that it perturbs, such as ``partial(ParametricNoise,
    granularity="channel")``, or None for no noise there. The papers' names for the places are: weight (W),
    input (A-a), output (A-b).

    Args:
        weight: Noise on the weight; one draw per forward pass, for the whole batch.
        input: Noise on the layer's input; one draw per image.
        output: Noise on the layer's output, before the batch normalisation or activation that follows; one
            draw per image.
        images: Noise on the images themselves, before the normalisation, in pixel units: the learned
            input noise of section 4.3 is ``partial(ParametricNoise, scaling="absolute")``.
        layers: Which convolutions and linear layers, by patterns of their names such as ``["layer1.*",
            "fc"]``.
        skip: Patterns of names that are not replaced.
        image_shape: ``(C, H, W)`` of the images; needed only if `input`, `output` or `images` have a strength
            per element or a rank, since the number of strengths depends on it.

    Raises:
        ValueError: If no noise is given.

    Examples:
        >>> network = nn.Sequential(nn.Conv2d(3, 4, 3), nn.Flatten(), nn.Linear(4, 2))
        >>> noisy = NoiseLayers(weight=ParametricNoise, layers=["0"])(network)
        >>> [type(layer).__name__ for layer in noisy]
        ['NoisyConv2d', 'Flatten', 'Linear']
    """

    def __init__(
        self,
        weight: NoiseFactory | None = None,
        input: NoiseFactory | None = None,
        output: NoiseFactory | None = None,
        images: NoiseFactory | None = None,
        layers: Sequence[str] = ("*",),
        skip: Sequence[str] = (),
        image_shape: Sequence[int] | None = None,
    ) -> None:
        if weight is None and input is None and output is None and images is None:
            raise ValueError("`weight`, `input`, `output` and `images` are all null: give at least one noise")
        self.weight, self.input, self.output, self.images = weight, input, output, images
        self.layers, self.skip = tuple(layers), tuple(skip)
        self.image_shape = None if image_shape is None else tuple(image_shape)

    def __call__(self, network: nn.Module) -> nn.Module:
        """Replace the layers inside `network` (which is changed and returned).

        Args:
            network: A `Classifier`, whose layers are named as in the network inside it, or any other module.

        Raises:
            ValueError: If a pattern matches no layer, a layer is of a kind that cannot be replaced, or
                noise on the images is asked for where there is no normalisation layer.
        """
        inner = network.network if isinstance(network, Classifier) else network
        chosen = self._choose(inner) if self.weight or self.input or self.output else {}
        shapes = self._activation_shapes(network, chosen)
        replaced: dict[int, nn.Module] = {}  # a layer with two names is replaced once
        for name, layer in chosen.items():
            if id(layer) not in replaced:
                replaced[id(layer)] = self._noisy(layer, *shapes[name])
            parent, _, child = name.rpartition(".")
            inner.get_submodule(parent).register_module(child, replaced[id(layer)])
        if self.images is not None:
            self._put_noise_on_images(network)
        return network

    def _put_noise_on_images(self, network: nn.Module) -> None:
        normalize = getattr(network, "normalize", None)
        if self.images is None or not isinstance(normalize, Normalize):
            raise ValueError("noise on `images` needs a Classifier whose first layer is a Normalize")
        shape = (len(normalize.mean), 0, 0) if self.image_shape is None else self.image_shape
        network.normalize = NoisyNormalize(normalize, self._build(self.images, shape))

    def _choose(self, network: nn.Module) -> dict[str, nn.Conv2d | nn.Linear]:
        candidates = {
            name: module
            for name, module in network.named_modules(remove_duplicate=False)
            if isinstance(module, nn.Conv2d | nn.Linear) and name
        }
        for pattern in (*self.layers, *self.skip):
            if not any(fnmatchcase(name, pattern) for name in candidates):
                known = ", ".join(candidates) or "none"
                raise ValueError(f"no layer is called {pattern!r}; the layers are: {known}")
        chosen = {
            name: layer
            for name, layer in candidates.items()
            if any(fnmatchcase(name, pattern) for pattern in self.layers)
            and not any(fnmatchcase(name, pattern) for pattern in self.skip)
        }
        for name, layer in chosen.items():
            if type(layer) not in (nn.Conv2d, nn.Linear):
                raise ValueError(
                    f"layer {name!r} is a {type(layer).__name__}; only plain Conv2d and Linear layers can "
                    "be made noisy, name it in `skip`"
                )
        return chosen

    def _activation_shapes(
        self, network: nn.Module, chosen: dict[str, nn.Conv2d | nn.Linear]
    ) -> dict[str, tuple[Sequence[int], Sequence[int]]]:
        """Shapes of one sample of each layer's input and output, measured if `image_shape` is given."""
        if self.image_shape is None:
            return {name: _flexible_shapes(layer) for name, layer in chosen.items()}
        shapes: dict[str, tuple[Sequence[int], Sequence[int]]] = {}

        def remember(name: str) -> Callable[[nn.Module, tuple[Tensor, ...], Tensor], None]:
            def hook(module: nn.Module, inputs: tuple[Tensor, ...], outputs: Tensor) -> None:
                shapes[name] = (inputs[0].shape[1:], outputs.shape[1:])

            return hook

        hooks = [layer.register_forward_hook(remember(name)) for name, layer in chosen.items()]
        modes = [(module, module.training) for module in network.modules()]
        parameter = next(network.parameters())
        try:
            with torch.no_grad(), torch.random.fork_rng(devices=[]):  # networks are built on the CPU
                images = torch.zeros((1, *self.image_shape), dtype=parameter.dtype, device=parameter.device)
                network.eval()(images)
        finally:
            for module, mode in modes:
                module.training = mode
            for hook in hooks:
                hook.remove()
        unused = [name for name in chosen if name not in shapes]
        if unused:
            raise ValueError(f"no image passes through {', '.join(unused)}; name them in `skip`")
        return shapes

    def _noisy(
        self, layer: nn.Conv2d | nn.Linear, inputs: Sequence[int], outputs: Sequence[int]
    ) -> nn.Module:
        noises = {
            name: None if factory is None else self._build(factory, shape).to(layer.weight)
            for name, factory, shape in (
                ("weight_noise", self.weight, layer.weight.shape),
                ("input_noise", self.input, inputs),
                ("output_noise", self.output, outputs),
            )
        }
        if isinstance(layer, nn.Conv2d):
            return NoisyConv2d(layer, **noises)
        return NoisyLinear(layer, **noises)

    def _build(self, factory: NoiseFactory, shape: Sequence[int]) -> ParametricNoise:
        noise = factory(shape)
        depends_on_size = noise.granularity == "element" or noise.rank > 0
        if depends_on_size and math.prod(shape) == 0:
            raise ValueError(
                "noise per element or of a rank on activations needs the size of the images: "
                "give `image_shape` as (C, H, W)"
            )
        return noise


def _flexible_shapes(layer: nn.Conv2d | nn.Linear) -> tuple[Sequence[int], Sequence[int]]:
    """Sample shapes with 0 for unknown sizes, enough for one strength per layer or channel."""
    if isinstance(layer, nn.Conv2d):
        return (layer.in_channels, 0, 0), (layer.out_channels, 0, 0)
    return (layer.in_features,), (layer.out_features,)


def noises(network: nn.Module) -> Iterator[ParametricNoise]:
    """All noises in the network."""
    return (module for module in network.modules() if isinstance(module, ParametricNoise))


def is_random(network: nn.Module) -> bool:
    """Whether the network itself is random: whether it draws noise in a forward pass.

    One forward pass draws the noise on a weight *once*, for all images in the batch. Votes on one image are
    then independent only if each comes from its own pass: put different images in the batch, not
    copies of one image (the Clopper-Pearson bound is void otherwise).
    """
    return any(noise.active for noise in noises(network))


def noise_parameters(network: nn.Module) -> list[nn.Parameter]:
    """The trainable strengths of all noises in the network."""
    return [parameter for noise in noises(network) for parameter in noise.parameters()]


@contextmanager
def silenced(network: nn.Module) -> Iterator[None]:
    """Switch the network's own noise off inside a ``with`` block."""
    before = [(noise, noise.active) for noise in noises(network)]
    try:
        for noise, _ in before:
            noise.active = False
        yield
    finally:
        for noise, active in before:
            noise.active = active
