"""The time of one training step of each method, in forward passes, beside what its algorithm needs.

    python benchmarks/train_step.py                      # every method, recipes for CIFAR-10, ResNet-20
    python benchmarks/train_step.py --methods heat macer --batch 32 --device cuda
    python benchmarks/train_step.py --part published --batch 128    # beside the published loops

`--part published`: images per second of the published loop's step, of ours, of ours in bf16, and of that
compiled, step by step in turns; then ratios, medians over the turns with their range. The first row is the
bare network with cross-entropy and SGD: what compilation can win. *compiling* is the processor time of the
first steps, for all shapes of a method.

`--part cost` (the default). Columns, medians over the repeats:

* *needed*: passes over the batch that the algorithm needs; a forward pass counts 1, a backward pass to the
  weights 2, one to the images only 1;
* *measured*: seconds of a step (loss, backward pass, optimiser) over seconds of a forward pass of the batch
  in train mode, in the same run; on a CPU seconds of processor time, so that a busy machine disturbs it less;
* *bare*: the same for the network passes of the step alone, at the same batch shapes;
* *overhead*: measured / bare - 1, what the method adds to the network's own time; the aim is at most 15 %.

Writes Markdown.
"""

import argparse
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import hydra
import torch
from omegaconf import DictConfig
from torch import Tensor, nn

from robustsmooth.commands import conf_dir, register_resolvers
from robustsmooth.data import Batch
from robustsmooth.instantiation import instantiate
from robustsmooth.methods.compiling import compile_network
from robustsmooth.models import Ensemble


@dataclass(frozen=True)
class Passes:
    """Passes of one step, each over a number of copies of the batch, or over a share of it.

    Attributes:
        forward: Copies of passes without a graph.
        images: Copies of forward passes with a backward pass to the images.
        weights: Copies of forward passes with a backward pass to the weights.
        probes: Backward passes to the images of the batch that share one forward pass.
    """

    forward: tuple[int, ...] = ()
    images: tuple[float, ...] = ()
    weights: tuple[int, ...] = (1,)
    probes: int = 0

    @property
    def needed(self) -> float:
        """Forward-pass equivalents."""
        return sum(self.forward) + 2 * sum(self.images) + 3 * sum(self.weights) + self.probes


def _sodm(cfg: DictConfig) -> Passes:
    # Every mapping_interval-th step uses mapping_copies noisy copies, in passes of the size of a step.
    share = cfg.method.mapping_copies // cfg.method.mapping_interval
    return Passes(forward=(share,), weights=(cfg.method.copies,))


def _attacked(cfg: DictConfig) -> Passes:
    copies = cfg.method.get("copies", 1)
    return Passes(images=(copies,) * cfg.attack.steps, weights=(copies,))


def _smoothmix(cfg: DictConfig) -> Passes:
    return Passes(images=(cfg.method.copies,) * cfg.attack.steps, weights=(cfg.method.copies,) * 2)


def _cpni(cfg: DictConfig) -> Passes:
    # Every draw of the network's noise is a separate pass, also in EPGD.
    attacks = cfg.attack.steps * (cfg.attack.num_noise or 1)
    if cfg.method.mixture == "either":
        return Passes(images=(cfg.method.adversarial_weight,) * attacks)
    labels = (1,) if cfg.method.labels == "predicted" else ()
    return Passes(forward=labels, images=(1,) * attacks, weights=(1, 1))


METHODS: dict[str, tuple[tuple[str, ...], str, Callable[[DictConfig], Passes]]] = {
    "natural": (("method=natural",), "3", lambda cfg: Passes()),
    "gaussian": (("method=gaussian",), "3", lambda cfg: Passes()),
    "adversarial": (("method=adversarial",), "2T + 3", _attacked),
    "vanilla_smoothed": (("method=vanilla_smoothed",), "2T + 3", _attacked),
    "smoothadv": (("method=smoothadv", "method.copies=2", "attack.steps=4"), "m(2T + 3)", _attacked),
    "stability": (("method=stability",), "3m + 3", lambda cfg: Passes(weights=(1, cfg.method.copies))),
    "consistency": (("method=consistency",), "3m", lambda cfg: Passes(weights=(cfg.method.copies,))),
    "consistency, smoothadv": (
        ("method=smoothadv", "loss=consistency", "method.copies=2", "attack.steps=4"),
        "m(2T + 3)",
        _attacked,
    ),
    "smoothmix": (("method=smoothmix",), "m(2T + 6)", _smoothmix),
    "smoothmix, one step": (("method=smoothmix", "method.one_step=true"), "m(2T + 6)", _smoothmix),
    "cat_rs": (("method=cat_rs",), "m(2T + 6)", _smoothmix),
    "sun2025": (("method=sun2025", "method.warmup_epochs=0"), "m(2T + 3)", _attacked),
    "denoiser, mse": (
        ("method=denoiser", "method.objective=mse", "method.start=benchmark"),
        "3",  # of the denoiser
        lambda cfg: Passes(),
    ),
    "denoiser, stability": (
        ("method=denoiser", "method.start=benchmark"),
        "3",  # of the denoiser, and of the classifier behind it: to its input alone, and once for the target
        lambda cfg: Passes(),
    ),
    "macer": (("method=macer",), "3k", lambda cfg: Passes(weights=(cfg.method.copies,))),
    "sodm": (
        ("method=sodm", "method/mapping=softmax"),
        "3n",
        lambda cfg: Passes(weights=(cfg.method.copies,)),
    ),
    "sodm, dynamic": (("method=sodm", "method.mapping_copies=80"), "3n + n'/5", _sodm),
    "heat": (
        ("method=heat", "method.start=benchmark"),
        "4 kappa + 4",
        lambda cfg: Passes(forward=(1,), weights=(1, cfg.loss.num_probes), probes=cfg.loss.num_probes),
    ),
    "pni": (("method=pni",), "2T + 7", _cpni),
    "cpni": (("method=cpni",), "2T + 6", _cpni),
    "cpni, gauss": (("method=cpni_gauss",), "2Tq + 3", _cpni),
    "cpni, epgd": (("method=cpni_epgd",), "2Tm + 6", _cpni),
}


ENSEMBLE = 5
"""Networks of the row *ensemble*, which is a pass of an evaluation, not a training step."""


def votes_on(indices: Iterable[int]) -> str:
    """A folder of votes on some training images, as `robustsmooth.predict` writes them."""
    folder = Path(tempfile.mkdtemp(prefix="votes"))
    rows = [f"{index}\t{index % 10}:9,{(index + 1) % 10}:1" for index in indices]
    (folder / "predict.tsv").write_text("\n".join(["idx\tcounts", *rows]) + "\n")
    return str(folder)


def bare(network: nn.Module, images: Tensor, passes: Passes) -> None:
    """Only the network passes of a step."""
    for copies in passes.forward:
        with torch.no_grad():
            for chunk in images.repeat(copies, 1, 1, 1).split(16 * len(images)):
                network(chunk)
    for parameter in network.parameters():
        parameter.requires_grad_(False)
    for copies in passes.images:
        share = images[: round(copies * len(images))] if copies < 1 else images.repeat(int(copies), 1, 1, 1)
        leaf = share.clone().requires_grad_()
        torch.autograd.grad(network(leaf).sum(), leaf)
    if passes.probes:  # its forward pass is the first of `weights`
        leaf = images.clone().requires_grad_()
        logits = network(leaf)
        for _ in range(passes.probes):
            torch.autograd.grad(logits.sum(), leaf, retain_graph=True)
    for parameter in network.parameters():
        parameter.requires_grad_(True)
    for copies in passes.weights:
        network(images.repeat(copies, 1, 1, 1)).sum().backward()


def bare_stability(network: Any, images: Tensor) -> None:
    """The passes of a denoiser's stability step."""
    with torch.no_grad():
        network.classify(images)
    network.classify(network.denoiser(images)).sum().backward()


def measure_ensemble(options: argparse.Namespace) -> str:
    """The row of an ensemble's pass."""
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", ["data=cifar10", f"model={options.model}", "run_dir=."])
    networks = [instantiate(cfg.model).to(options.device).eval() for _ in range(ENSEMBLE)]
    together = Ensemble(networks).eval()
    images = torch.rand(options.batch, 3, 32, 32, device=options.device)
    runs = [
        lambda: together(images),
        lambda: [network(images) for network in networks],
        lambda: networks[0](images),
    ]
    with (
        torch.no_grad(),
        torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16-mixed"),
    ):
        return row("ensemble, a pass", "k", ENSEMBLE, runs, options)


def row(
    name: str,
    formula: str,
    needed: float,
    runs: list[Callable[[], Any]],
    options: argparse.Namespace,
    interval: int = 1,
) -> str:
    """Measure a step (`interval` of them), its bare passes and one pass, and write the row."""
    for run in runs:
        run()
    times = [[seconds(run, options.device) for run in runs] for _ in range(options.repeats)]
    forward = statistics.median(time[2] for time in times)
    measured = statistics.median(time[0] for time in times) / interval / forward
    floor = statistics.median(time[1] for time in times) / forward
    overhead = statistics.median(time[0] / interval / time[1] for time in times) - 1
    numbers = f"{needed:.0f} | {measured:.1f} | {floor:.1f} | {100 * overhead:+.0f} %"
    return f"| {name} | {formula} | {numbers} | {1000 * forward:.1f} |"


def seconds(function: Callable[[], Any], device: str) -> float:
    """Processor time of a call; on a GPU wall-clock time."""
    clock = time.perf_counter if device == "cuda" else time.process_time
    if device == "cuda":
        torch.cuda.synchronize()
    start = clock()
    function()
    if device == "cuda":
        torch.cuda.synchronize()
    return clock() - start


def measure(name: str, options: argparse.Namespace) -> str:
    """One row of the table."""
    if name == "ensemble":
        return measure_ensemble(options)
    words, formula, passes_of = METHODS[name]
    common = ["data=cifar10", f"model={options.model}", "run_dir=."]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", [*common, *words])
    passes = passes_of(cfg)
    if "targets" in cfg.method:
        cfg.method.targets = votes_on(range(options.batch))
    torch.manual_seed(0)
    module = instantiate(cfg.method).to(options.device).train()
    optimizer = instantiate(cfg.method.optimizer)(module.parameter_groups())
    torch.manual_seed(0)
    plain = instantiate(cfg.model).to(options.device).train()
    plain = plain.denoiser if name == "denoiser, mse" else plain
    images = torch.rand(options.batch, 3, 32, 32, device=options.device)
    labels = torch.randint(10, (options.batch,), device=options.device)
    batch = Batch(images, labels, torch.arange(options.batch))
    # Steps that differ are measured as a mean: every fifth trains the mapping; random images are attacked.
    interval = {"sodm, dynamic": cfg.method.get("mapping_interval"), "cpni, gauss": 10}.get(name, 1)
    count = 0

    def step() -> None:
        nonlocal count
        for _ in range(interval):
            module.on_train_batch_start(batch, count)
            result = module.training_loss(batch)
            optimizer.zero_grad()
            (result["loss"] if isinstance(result, dict) else result).backward()
            optimizer.step()
            count += 1

    def passes_alone() -> None:
        if name == "denoiser, stability":
            bare_stability(plain, images)
        else:
            bare(plain, images, passes)

    if name == "denoiser, stability":
        plain.requires_grad_(False).eval()
        plain.denoiser.requires_grad_(True).train()
    runs = [step, passes_alone, lambda: plain(images)]
    with torch.autocast(options.device, torch.bfloat16, enabled=options.precision == "bf16-mixed"):
        return row(name, formula, passes.needed, runs, options, interval)


def sides(name: str, options: argparse.Namespace) -> dict[str, Callable[[], None]]:
    """One step of the published loop, and of ours in two precisions, compiled or not."""
    from published_steps import PUBLISHED

    words = METHODS[name if name in METHODS else "gaussian"][0]
    common = ["data=cifar10", f"model={options.model}", "run_dir=."]
    with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
        cfg = hydra.compose("train", [*common, *words])
    images = torch.rand(options.batch, 3, 32, 32, device=options.device)
    labels = torch.randint(10, (options.batch,), device=options.device)
    batch = Batch(images, labels, torch.arange(options.batch))

    def published() -> Callable[[], None]:
        torch.manual_seed(0)
        network = instantiate(cfg.model, channels_last=False).to(options.device).train()
        optimizer = instantiate(cfg.method.optimizer)(network.parameters())
        one = PUBLISHED[name](network, optimizer, cfg)
        return lambda: one(images, labels)

    def ours(precision: str, compiled: bool) -> Callable[[], None]:
        torch.manual_seed(0)
        module = instantiate(cfg.method).to(options.device).train()
        optimizer = instantiate(cfg.method.optimizer)(module.parameter_groups())
        if compiled:
            compile_network(module.network)

        def step() -> None:
            with torch.autocast(options.device, torch.bfloat16, enabled=precision == "bf16"):
                if name == "bare":
                    loss = nn.functional.cross_entropy(module.network(images), labels)
                else:
                    module.on_train_batch_start(batch, 1)
                    loss = module.training_loss(batch)["loss"]
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()

        return step

    own = {"fp32": ours("fp32", False), "bf16": ours("bf16", False), "bf16 compiled": ours("bf16", True)}
    return own if name == "bare" else {"published": published(), **own}


def beside_published(name: str, options: argparse.Namespace) -> str:
    """One row: speeds and ratios."""
    steps = sides(name, options)
    for step in steps.values():  # the last one is compiled
        before = os.times()
        step()
        step()
        first = sum(os.times()[:4]) - sum(before[:4])  # with the C++ compiler's
    times: dict[str, list[float]] = {side: [] for side in steps}
    for turn in range(options.repeats):
        for side in sorted(steps, reverse=turn % 2 == 1):
            times[side].append(seconds(steps[side], options.device))
    speeds = [
        f"{options.batch / statistics.median(times[side]):.0f}" if side in times else "" for side in SIDES
    ]

    def ratio(slow: str, quick: str) -> str:
        if slow not in times:
            return ""
        each = [one / other for one, other in zip(times[slow], times[quick], strict=True)]
        return f"{statistics.median(each):.2f} ({min(each):.2f} to {max(each):.2f})"

    ratios = [ratio(*pair) for pair in RATIOS]
    compiling = first - 2 * statistics.median(times["bf16 compiled"])
    torch.compiler.reset()
    return f"| {name} | {' | '.join(speeds)} | {' | '.join(ratios)} | {compiling:.0f} s |"


SIDES = ("published", "fp32", "bf16", "bf16 compiled")
RATIOS = (("published", "fp32"), ("published", "bf16 compiled"), ("bf16", "bf16 compiled"))


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--part", choices=["cost", "published"], default="cost")
    parser.add_argument("--methods", nargs="+", choices=["bare", *METHODS, "ensemble"])
    parser.add_argument("--model", default="cifar_resnet20")
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--precision", choices=["32-true", "bf16-mixed"], default="32-true")
    options = parser.parse_args()
    os.environ.setdefault("TORCHINDUCTOR_COMPILE_THREADS", "1")  # no processes that are not measured
    register_resolvers()
    where = (
        torch.cuda.get_device_name() if options.device == "cuda" else f"{torch.get_num_threads()} CPU threads"
    )
    print(f"{options.model}, batch {options.batch}, {where}, torch {torch.__version__}\n")
    if options.part == "published":
        from published_steps import PUBLISHED

        heads = ["method", *SIDES, *(f"{quick} / {slow}" for slow, quick in RATIOS), "compiling"]
        print(f"| {' | '.join(heads)} |\n| --- |{' ---: |' * (len(heads) - 1)}")
        for name in options.methods or ["bare", *PUBLISHED]:
            print(beside_published(name, options), flush=True)
        return
    print("| method | passes | needed | measured | bare | overhead | forward, ms |")
    print("| --- | --- | ---: | ---: | ---: | ---: | ---: |")
    for name in options.methods or [*METHODS, "ensemble"]:
        print(measure(name, options), flush=True)


if __name__ == "__main__":
    main()
