"""Our attacks beside those of well-kept libraries: same network, same images, same steps, one run.

python benchmarks/attacks.py                                  # a small CNN on the digits
python benchmarks/attacks.py --cifar10 data/cifar10           # a ResNet-20 on real CIFAR-10 images

Trains the network first, briefly, on clean or noisy images. Success and distance are
measured here on the attacked images, for all libraries in the same way: wrong answer, in [0, 1], within the
budget. Peers: foolbox and the adversarial-robustness-toolbox (`pip install robustsmooth[dev]`), and
torchattacks if it can be imported (`pip install --no-deps torchattacks`). Writes Markdown.
"""

import argparse
import importlib
import statistics
import time
import warnings
from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from robustsmooth.attacks import DDN, PGD, Attack, CarliniWagner, Expectation, PlugIn, distance
from robustsmooth.data import CIFAR10DataModule, CropAndFlip, DigitsDataModule
from robustsmooth.models import CifarResNet, Classifier, Normalize, SmallCNN
from robustsmooth.smoothing import ImageRandomness

warnings.filterwarnings("ignore")
STEPS, REPEATS = 20, 3
Run = Callable[[nn.Module, Tensor, Tensor], Tensor]


def optional(name: str):
    """A module, or None where it is not installed."""
    try:
        return importlib.import_module(name)
    except ImportError:
        return None


def ours(attack: Attack) -> Run:
    """One of our attacks as a contestant."""

    def run(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        return attack(
            network, images, labels, randomness=ImageRandomness(0, "bench", torch.arange(len(images)))
        )

    return run


def foolbox_run(make: Callable, epsilon: float | None) -> Run:
    """One of foolbox's attacks as a contestant."""
    import foolbox

    def run(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        model = foolbox.PyTorchModel(network, bounds=(0, 1), device="cpu")
        return make(foolbox)(model, images, labels, epsilons=epsilon)[1]

    return run


def art_pgd(norm: float, epsilon: float, classes: int = 10) -> Run:
    """PGD of the adversarial-robustness-toolbox."""
    from art.attacks.evasion import ProjectedGradientDescentPyTorch
    from art.estimators.classification import PyTorchClassifier

    def run(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        estimator = PyTorchClassifier(
            network,
            nn.CrossEntropyLoss(),
            tuple(images.shape[1:]),
            classes,
            clip_values=(0, 1),
            device_type="cpu",
        )
        attack = ProjectedGradientDescentPyTorch(
            estimator,
            norm=norm,
            eps=epsilon,
            eps_step=2 * epsilon / STEPS,
            max_iter=STEPS,
            batch_size=len(images),
            verbose=False,
        )
        return torch.from_numpy(attack.generate(images.numpy(), labels.numpy()))

    return run


def torchattacks_pgd(name: str, epsilon: float) -> Run:
    """PGD of torchattacks."""
    library = optional("torchattacks")

    def run(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        attack = getattr(library, name)(
            network, eps=epsilon, alpha=2 * epsilon / STEPS, steps=STEPS, random_start=False
        )
        return attack(images, labels)

    return run


def budget_contestants(norm: str, epsilon: float) -> dict[str, Run]:
    """PGD of each library, from the image, with the same steps and step size."""
    name, order = {"l2": ("L2PGD", 2), "linf": ("LinfPGD", float("inf"))}[norm]
    attack = PGD(norm=norm, epsilon=epsilon, steps=STEPS)
    contestants = {
        "robustsmooth PGD": ours(attack),
        "robustsmooth PGD, strongest of 3 starts": ours(replace(attack, restarts=3, keep="strongest")),
        f"foolbox {name}": foolbox_run(
            lambda fb: getattr(fb.attacks, name)(
                abs_stepsize=2 * epsilon / STEPS, steps=STEPS, random_start=False
            ),
            epsilon,
        ),
        "ART PGD": art_pgd(order, epsilon),
    }
    if optional("torchattacks"):
        contestants["torchattacks PGD"] = torchattacks_pgd({"l2": "PGDL2", "linf": "PGD"}[norm], epsilon)
    return contestants


def minimum_contestants(more_steps: int, carlini_wagner: bool) -> dict[str, Run]:
    """Attacks that search for the closest adversarial point."""
    result = {}
    for steps in (STEPS, more_steps):
        result |= {
            f"robustsmooth DDN, {steps} steps": ours(DDN(steps=steps, levels=None)),
            f"robustsmooth DDN, {steps} steps, 8 bits": ours(DDN(steps=steps, levels=256)),
            f"foolbox DDN, {steps} steps": foolbox_run(
                lambda fb, steps=steps: fb.attacks.DDNAttack(steps=steps), None
            ),
        }
    if carlini_wagner:
        result["Carlini-Wagner (foolbox's, behind our interface), 9 x 100 steps"] = ours(CarliniWagner())
    return result


class NoisyLogits(nn.Module):
    """The stochastic classifier that libraries can attack through foolbox's expectation wrapper."""

    def __init__(self, network: nn.Module, sigma: float) -> None:
        super().__init__()
        self.network, self.sigma = network, sigma
        self.eval()

    def forward(self, images: Tensor) -> Tensor:
        """Logits under one draw of noise."""
        return self.network(images + self.sigma * torch.randn_like(images))


def smoothed_contestants(epsilon: float, sigma: float, m: int) -> dict[str, Run]:
    """Attacks on the smoothed classifier, all within one budget."""
    attack = PGD(norm="l2", epsilon=epsilon, steps=STEPS, sigma=sigma, num_noise=m, objective=PlugIn())

    def expectation(network: nn.Module, images: Tensor, labels: Tensor) -> Tensor:
        import foolbox
        from foolbox.models import ExpectationOverTransformationWrapper

        torch.manual_seed(0)
        model = foolbox.PyTorchModel(NoisyLogits(network, sigma), bounds=(0, 1), device="cpu")
        pgd = foolbox.attacks.L2PGD(abs_stepsize=2 * epsilon / STEPS, steps=STEPS, random_start=False)
        return pgd(ExpectationOverTransformationWrapper(model, m), images, labels, epsilons=epsilon)[1]

    return {
        f"robustsmooth SmoothAdv_PGD, m = {m}": ours(attack),
        f"robustsmooth SmoothAdv_PGD, m = {m}, fresh noise": ours(replace(attack, fixed_noise=False)),
        f"robustsmooth SmoothAdv_PGD, m = {4 * m}": ours(replace(attack, num_noise=4 * m)),
        f"robustsmooth EPGD, m = {m}": ours(replace(attack, objective=Expectation())),
        "robustsmooth PGD on the base classifier": ours(PGD(norm="l2", epsilon=epsilon, steps=STEPS)),
        f"foolbox L2PGD, mean logits of {m} fresh noises": expectation,
    }


def single_pass(network: nn.Module) -> Callable[[Tensor], Tensor]:
    """The answer of one pass without noise."""
    return lambda images: network(images).argmax(1)


def vote(network: nn.Module, sigma: float, votes: int = 400) -> Callable[[Tensor], Tensor]:
    """The smoothed classifier's majority vote, with noise that no attack has used."""

    def answer(images: Tensor) -> Tensor:
        source = torch.Generator().manual_seed(12345)
        counts = torch.zeros(len(images), 10)
        for _ in range(votes):
            noisy = images + sigma * torch.randn(images.shape, generator=source)
            counts[torch.arange(len(images)), network(noisy).argmax(1)] += 1
        return counts.argmax(1)

    return answer


def compare(
    title: str,
    contestants: dict[str, Run],
    network: nn.Module,
    images: Tensor,
    labels: Tensor,
    answer: Callable[[Tensor], Tensor],
    norm: str,
    epsilon: float | None,
    repeats: int,
) -> None:
    """Run all contestants on the correctly classified images, measure them, and print a table."""
    with torch.no_grad():
        right = answer(images) == labels
    images, labels = images[right], labels[right]
    seconds: dict[str, list[float]] = {name: [] for name in contestants}
    points: dict[str, Tensor] = {}
    for _ in range(repeats):  # alternating, so that other load on the machine affects all of them
        for name, run in contestants.items():
            start = time.process_time()
            points[name] = run(network, images.clone(), labels.clone()).detach()
            seconds[name].append(time.process_time() - start)
    print(f"\n### {title}\n\n{len(images)} images that are right without an attack.\n")
    print(f"| attack | success | median {norm} | within budget | CPU seconds | relative |")
    print("| --- | ---: | ---: | ---: | ---: | ---: |")
    first = statistics.median(next(iter(seconds.values())))
    for name in contestants:
        lengths = distance(points[name].double() - images.double(), norm)
        inside = lengths <= (epsilon or float("inf")) * (1 + 1e-5)
        inside &= ((points[name] >= 0) & (points[name] <= 1)).flatten(1).all(1)
        with torch.no_grad():
            success = (answer(points[name]) != labels) & inside
        reached = torch.where(success, lengths, torch.inf).median()
        time_taken = statistics.median(seconds[name])
        print(
            f"| {name} | {100 * success.double().mean():.1f} % | {reached:.4f} | "
            f"{100 * inside.double().mean():.0f} % | {time_taken:.2f} | {time_taken / first:.2f} |"
        )


def train(network: nn.Module, images: Tensor, labels: Tensor, epochs: int, sigma: float, augment) -> None:
    """Train briefly, on clean or on noisy images."""
    torch.manual_seed(0)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1, momentum=0.9, nesterov=True, weight_decay=5e-4)
    batches = len(images) // 128
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 0.2, total_steps=epochs * batches)
    network.train()
    for epoch in range(epochs):
        order = torch.randperm(len(images))
        for batch in order[: batches * 128].split(128):
            chosen = images[batch]
            if augment is not None:
                chosen = augment(chosen, batch, epoch)
            noisy = chosen + sigma * torch.randn_like(chosen) if sigma else chosen
            loss = nn.functional.cross_entropy(network(noisy), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            schedule.step()
    network.eval()
    for parameter in network.parameters():
        parameter.requires_grad_(False)


def split(part) -> tuple[Tensor, Tensor]:
    """All images of a split in [0, 1], and the labels."""
    batch = part.__getitems__(list(range(len(part))))
    return batch.images.float() / 255, batch.labels


def bench(
    name: str, build: Callable[[], nn.Module], data, epochs: int, augment, args, budgets, sigmas
) -> None:
    """Train a network on clean and on noisy images and attack both."""
    (images, labels), (test_images, test_labels) = data
    chosen = torch.linspace(0, len(test_images) - 1, min(args.images, len(test_images))).long()
    test_images, test_labels = test_images[chosen], test_labels[chosen]
    for sigma in sigmas:
        network = build()
        train(network, images, labels, epochs, sigma, augment)
        kind = f"{name}, trained on {f'images with noise {sigma}' if sigma else 'clean images'}"
        with torch.no_grad():
            accuracy = float((network(test_images).argmax(1) == test_labels).double().mean())
        print(f"\n## {kind}\n\nClean accuracy {100 * accuracy:.1f} % on {len(test_images)} test images.")
        for norm, epsilon in budgets:
            compare(
                f"PGD, {norm}, epsilon {epsilon:.4g}, {STEPS} steps",
                budget_contestants(norm, epsilon),
                network,
                test_images,
                test_labels,
                single_pass(network),
                norm,
                epsilon,
                args.repeats,
            )
        compare(
            "Smallest l2 perturbation",
            minimum_contestants(args.more_steps, carlini_wagner=augment is None),
            network,
            test_images,
            test_labels,
            single_pass(network),
            "l2",
            None,
            1,
        )
        if sigma and args.smoothed_images:
            few = slice(0, args.smoothed_images)
            compare(
                f"The smoothed classifier, sigma {sigma}, l2, epsilon {args.epsilon} (majority of 400 votes)",
                smoothed_contestants(args.epsilon, sigma, 8),
                network,
                test_images[few],
                test_labels[few],
                vote(network, sigma),
                "l2",
                args.epsilon,
                1,
            )


def main() -> None:
    """Read the command line and run."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--cifar10", help="folder of CIFAR-10: official files or class folders")
    parser.add_argument("--images", type=int, default=200, help="test images under attack")
    parser.add_argument("--smoothed-images", type=int, default=100)
    parser.add_argument("--more-steps", type=int, default=100, help="of the longer minimum-norm attacks")
    parser.add_argument("--train-images", type=int, default=5000, help="CIFAR-10 images to train on")
    parser.add_argument("--epochs", type=int, default=12, help="epochs on CIFAR-10")
    parser.add_argument("--sigma", type=float, default=0.25)
    parser.add_argument("--epsilon", type=float, default=0.5, help="budget against the smoothed classifier")
    parser.add_argument("--repeats", type=int, default=REPEATS)
    parser.add_argument("--threads", type=int, default=1, help="CPU seconds compare best on one")
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    print(
        f"torch {torch.__version__}, {torch.get_num_threads()} threads, {args.repeats} timings each, medians"
    )

    if args.cifar10 is None:
        bench_digits(args)
    else:
        bench_cifar10(args)


def bench_digits(args) -> None:
    """The small CNN on the digits, trained on clean and on noisy images."""
    digits = DigitsDataModule(channels=1)
    data = split(digits.load("train")), split(digits.load("test"))
    bench(
        "Digits, SmallCNN",
        lambda: Classifier(SmallCNN(10), Normalize([0.305], [0.376]), num_classes=10),
        data,
        30,
        None,
        args,
        [("l2", 0.5), ("l2", 1.0), ("linf", 0.1)],
        [0.0, args.sigma],
    )


def bench_cifar10(args) -> None:
    """ResNet-20 on real CIFAR-10 images, trained on clean ones (torchattacks needs contiguous gradients)."""
    module = CIFAR10DataModule(args.cifar10)
    images, labels = split(module.load("train"))
    spread = torch.linspace(0, len(images) - 1, args.train_images).long()
    augment = CropAndFlip(padding=4, flip=True)
    bench(
        f"CIFAR-10 ({args.train_images} training images), ResNet-20",
        lambda: Classifier(
            CifarResNet(20, 10),
            Normalize([0.4914, 0.4822, 0.4465], [0.2023, 0.1994, 0.2010]),
            num_classes=10,
        ),
        ((images[spread], labels[spread]), split(module.load("test"))),
        args.epochs,
        lambda batch, indices, epoch: augment(batch, indices, epoch),
        args,
        [("l2", 0.25), ("linf", 2 / 255)],
        [0.0],
    )


if __name__ == "__main__":
    main()
