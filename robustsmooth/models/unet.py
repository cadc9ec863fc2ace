"""The UNet of diffusion models, with the layer names of improved-diffusion and guided-diffusion."""

import math
from collections.abc import Sequence
from typing import Literal, get_args

import torch
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention

Resampling = Literal["convolution", "block"]
_GROUPS = 32  # of every normalisation


class UNet(nn.Module):
    """Predicts the noise in an image at a timestep (Nichol & Dhariwal 2021; Dhariwal & Nichol 2021).

    Residual blocks and self-attention at falling, then at rising resolution. Every result on the way down is
    concatenated to the input of a block on the way up. The timestep scales and shifts the features in every
    block. The layers have the names of openai/improved-diffusion and openai/guided-diffusion, whose networks
    without class labels load.

    Args:
        channels: Colour channels of the images.
        width: Channels at full resolution, a multiple of 32.
        multipliers: Channels at each resolution, as multiples of `width`. Each resolution is half of the one
            before.
        blocks: Residual blocks at each resolution on the way down; one more on the way up.
        attention: At which reductions of the resolution (1, 2, 4...) the blocks are followed by
            self-attention. The middle has it always.
        heads: Attention heads; None with `head_channels`.
        head_channels: Channels of a head; None with `heads`.
        resampling: How the resolution changes: by a ``convolution`` (improved-diffusion), or in a residual
            ``block`` (guided-diffusion).
        dropout: Share of features that training drops.
        outputs: Output channels; None for ``2 * channels``, of which the second half predicts the variance.

    Raises:
        ValueError: If a value is out of its range.
    """

    def __init__(
        self,
        channels: int = 3,
        width: int = 128,
        multipliers: Sequence[int] = (1, 2, 2, 2),
        blocks: int = 3,
        attention: Sequence[int] = (2, 4),
        heads: int | None = 4,
        head_channels: int | None = None,
        resampling: Resampling = "convolution",
        dropout: float = 0.0,
        outputs: int | None = None,
    ) -> None:
        super().__init__()
        if width < 1 or width % _GROUPS:
            raise ValueError(f"`width` of a UNet must be a multiple of {_GROUPS}, got {width}")
        if not multipliers or min(multipliers) < 1 or blocks < 1:
            raise ValueError("a UNet needs `multipliers` and `blocks` of at least 1")
        share = head_channels if heads is None else heads
        if (heads is None) == (head_channels is None) or share is None or share < 1:
            raise ValueError(
                "give a UNet either `heads` or `head_channels`, at least 1, and null for the other"
            )
        if resampling not in get_args(Resampling):
            raise ValueError(f"`resampling` of a UNet must be convolution or block, got {resampling!r}")
        self.width = width
        embedded = 4 * width

        def block(incoming: int, outgoing: int, resample: nn.Module | None = None) -> "_ResidualBlock":
            return _ResidualBlock(incoming, outgoing, embedded, dropout, resample)

        def attending(size: int) -> "_Attention":
            if size % share:
                raise ValueError(f"the heads of a UNet must divide its {size} channels, got {share}")
            return _Attention(size, size // share if heads is None else heads)

        def stage(incoming: int, outgoing: int, level: int) -> list[nn.Module]:
            layers: list[nn.Module] = [block(incoming, outgoing)]
            return [*layers, attending(outgoing)] if 2**level in attention else layers

        def down(size: int) -> nn.Module:
            return block(size, size, nn.AvgPool2d(2)) if resampling == "block" else _Down(size)

        def up(size: int) -> nn.Module:
            return block(size, size, nn.Upsample(scale_factor=2)) if resampling == "block" else _Up(size)

        self.time_embed = nn.Sequential(nn.Linear(width, embedded), nn.SiLU(), nn.Linear(embedded, embedded))
        size = multipliers[0] * width
        self.input_blocks = nn.ModuleList([_Stage([nn.Conv2d(channels, size, 3, padding=1)])])
        kept = [size]
        for level, multiplier in enumerate(multipliers):
            for _ in range(blocks):
                self.input_blocks.append(_Stage(stage(size, multiplier * width, level)))
                size = multiplier * width
                kept.append(size)
            if level + 1 < len(multipliers):
                self.input_blocks.append(_Stage([down(size)]))
                kept.append(size)
        self.middle_block = _Stage([block(size, size), attending(size), block(size, size)])
        self.output_blocks = nn.ModuleList()
        for level, multiplier in reversed(list(enumerate(multipliers))):
            for place in range(blocks + 1):
                layers = stage(size + kept.pop(), multiplier * width, level)
                size = multiplier * width
                if level > 0 and place == blocks:
                    layers.append(up(size))
                self.output_blocks.append(_Stage(layers))
        last = nn.Conv2d(size, 2 * channels if outputs is None else outputs, 3, padding=1)
        self.out = nn.Sequential(nn.GroupNorm(_GROUPS, size), nn.SiLU(), last)

    def forward(self, images: Tensor, times: Tensor) -> Tensor:
        """The predicted noise, and the predicted variance behind it.

        Args:
            images: ``(B, channels, H, W)`` in [-1, 1] and noise; H and W divisible by the largest reduction.
            times: Timesteps ``(B,)``, which may be fractions.

        Returns:
            ``(B, outputs, H, W)``.
        """
        embedding = self.time_embed(timestep_features(times, self.width).to(images.dtype))
        kept = [images]
        for stage in self.input_blocks:
            kept.append(stage(kept[-1], embedding))
        features = self.middle_block(kept[-1], embedding)
        for stage in self.output_blocks:
            features = stage(torch.cat([features, kept.pop()], dim=1), embedding)
        return self.out(features)


def timestep_features(times: Tensor, size: int) -> Tensor:
    """Cosines, then sines, of the timesteps at frequencies from 1 down to nearly 1e-4, ``(B, size)``."""
    half = size // 2
    places = torch.arange(half, dtype=torch.float32, device=times.device)
    angles = times.float().unsqueeze(1) * torch.exp(-math.log(10_000) * places / half)
    return torch.cat([angles.cos(), angles.sin()], dim=1)


class _Stage(nn.ModuleList):
    """Layers in a row; residual blocks see the embedded timestep too."""

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        for layer in self:
            given = (features, embedding) if isinstance(layer, _ResidualBlock) else (features,)
            features = layer(*given)
        return features


class _ResidualBlock(nn.Module):
    """Two convolutions beside a shortcut; the timestep scales and shifts the features between them."""

    def __init__(
        self, incoming: int, outgoing: int, embedded: int, dropout: float, resample: nn.Module | None
    ) -> None:
        super().__init__()
        self.in_layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, incoming), nn.SiLU(), nn.Conv2d(incoming, outgoing, 3, padding=1)
        )
        self.emb_layers = nn.Sequential(nn.SiLU(), nn.Linear(embedded, 2 * outgoing))
        self.out_layers = nn.Sequential(
            nn.GroupNorm(_GROUPS, outgoing),
            nn.SiLU(),
            nn.Dropout(dropout),
            nn.Conv2d(outgoing, outgoing, 3, padding=1),
        )
        same = incoming == outgoing
        self.skip_connection = nn.Identity() if same else nn.Conv2d(incoming, outgoing, 1)
        self.resample = nn.Identity() if resample is None else resample

    def forward(self, features: Tensor, embedding: Tensor) -> Tensor:
        hidden = self.in_layers[2](self.resample(self.in_layers[:2](features)))
        scale, shift = self.emb_layers(embedding)[:, :, None, None].chunk(2, dim=1)
        hidden = self.out_layers[1:](self.out_layers[0](hidden) * (1 + scale) + shift)
        return self.skip_connection(self.resample(features)) + hidden


class _Attention(nn.Module):
    """Self-attention between all places of a feature map, beside a shortcut."""

    def __init__(self, size: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm = nn.GroupNorm(_GROUPS, size)
        self.qkv = nn.Conv1d(size, 3 * size, 1)
        self.proj_out = nn.Conv1d(size, size, 1)

    def forward(self, features: Tensor) -> Tensor:
        flat = features.flatten(2)
        # A head's queries, keys and values lie side by side: (B, heads, 3, channels, places).
        parts = self.qkv(self.norm(flat)).unflatten(1, (self.heads, 3, -1))
        queries, keys, values = (part.transpose(-1, -2) for part in parts.unbind(dim=2))
        seen = scaled_dot_product_attention(queries, keys, values).transpose(-1, -2).flatten(1, 2)
        return (flat + self.proj_out(seen)).view_as(features)


class _Down(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.op = nn.Conv2d(size, size, 3, stride=2, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.op(features)


class _Up(nn.Module):
    def __init__(self, size: int) -> None:
        super().__init__()
        self.upsample = nn.Upsample(scale_factor=2)
        self.conv = nn.Conv2d(size, size, 3, padding=1)

    def forward(self, features: Tensor) -> Tensor:
        return self.conv(self.upsample(features))
