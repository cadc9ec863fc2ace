"""What every attack must guarantee."""

import dataclasses
import math
from datetime import timedelta

import pytest
import torch
from torch import nn

from robustsmooth.attacks import (
    DDN,
    FGSM,
    PGD,
    Attack,
    AutoAttack,
    CarliniWagner,
    Expectation,
    Plain,
    PlugIn,
    Stein,
    distance,
)
from robustsmooth.attacks.base import levelled
from robustsmooth.smoothing.addressing import BatchRandomness, ImageRandomness

NOISE = {"sigma": 0.1, "num_noise": 3, "copies_per_pass": 2}
ATTACKS = {
    "fgsm": FGSM(norm="linf", epsilon=0.1),
    "pgd_l2": PGD(norm="l2", epsilon=0.5, steps=4),
    "pgd_linf": PGD(norm="linf", epsilon=0.1, steps=4, random_start=True),
    "restarts": PGD(norm="l2", epsilon=0.5, steps=3, restarts=2, keep="closest"),
    "ddn": DDN(steps=6),
    "ddn_budget": DDN(epsilon=0.3, steps=6),
    "smoothadv_pgd": PGD(norm="l2", epsilon=0.5, steps=3, objective=PlugIn(), **NOISE),
    "smoothadv_ddn": DDN(epsilon=0.4, steps=4, objective=PlugIn(), **NOISE),
    "epgd": PGD(norm="linf", epsilon=0.1, steps=3, objective=Expectation(), fixed_noise=False, **NOISE),
    "stein": PGD(norm="l2", epsilon=0.5, steps=3, objective=Stein(), **NOISE),
    "carlini_wagner": CarliniWagner(steps=10, search_steps=2),
    "carlini_wagner_smoothed": CarliniWagner(steps=5, search_steps=2, objective=PlugIn(), **NOISE),
    "autoattack": AutoAttack(norm="l2", epsilon=0.5, one_by_one=False),
}
QUICK = [name for name in ATTACKS if name != "autoattack"]


@pytest.fixture(scope="module")
def network() -> nn.Module:
    torch.manual_seed(1)
    return nn.Sequential(
        nn.Conv2d(1, 8, 3, padding=1),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Flatten(),
        nn.Dropout(0.5),
        nn.Linear(288, 4),
    ).train()


@pytest.fixture(scope="module")
def batch(network):
    source = torch.Generator().manual_seed(2)
    images = torch.rand(6, 1, 6, 6, generator=source)
    return images, network.eval()(images).argmax(1).detach()


@pytest.fixture(params=ATTACKS)
def attack(request) -> Attack:
    return ATTACKS[request.param]


@pytest.fixture(params=QUICK)
def quick(request) -> Attack:
    return ATTACKS[request.param]


def images_randomness(count=6):
    return ImageRandomness(0, "attack", torch.arange(count))


def test_it_stays_in_box_and_ball_and_changes_nothing_else(attack, network, batch):
    images, labels = batch
    network.train()
    network[1].eval()  # some layers are in training mode: this must not change
    for parameter in network.parameters():
        parameter.grad = torch.full_like(parameter, 7.0)
    state = {key: value.clone() for key, value in network.state_dict().items()}
    modes = [module.training for module in network.modules()]
    clean, random_state = images.clone(), torch.get_rng_state()

    points = attack(network, images, labels, randomness=images_randomness())

    assert points.shape == images.shape
    assert points.dtype == images.dtype
    assert not points.requires_grad
    assert bool(torch.isfinite(points).all())
    assert bool(((points >= 0) & (points <= 1)).all())
    if attack.epsilon is not None:
        assert bool((distance(points.double() - images.double(), attack.norm) <= attack.epsilon).all())
    assert not torch.equal(points, images)
    assert torch.equal(images, clean)
    assert torch.equal(torch.get_rng_state(), random_state)
    assert [module.training for module in network.modules()] == modes
    for key, value in network.state_dict().items():
        assert torch.equal(value, state[key]), key
    for parameter in network.parameters():
        assert parameter.requires_grad
        assert bool((parameter.grad == 7.0).all())
        parameter.grad = None


def test_the_network_is_frozen_and_in_eval_mode_during_the_attack(quick, network, batch):
    images, labels = batch
    modes = set()
    frozen = next(network.parameters()).requires_grad_(False)  # stays as it is
    before = [parameter.requires_grad for parameter in network.parameters()]

    class Spy(nn.Module):
        def __init__(self):
            super().__init__()
            self.inner = network

        def forward(self, points):
            trained = any(parameter.requires_grad for parameter in self.inner.parameters())
            modes.add((self.training, self.inner[4].training, trained))
            return self.inner(points)

    quick(Spy().train(), images, labels, randomness=images_randomness())
    assert modes == {(False, False, False)}
    assert [parameter.requires_grad for parameter in network.parameters()] == before
    frozen.requires_grad_(True)


def test_a_zero_gradient_makes_no_nan(quick, batch):
    images, _ = batch
    labels = torch.zeros(6, dtype=torch.long)

    def constant(points):
        return points.flatten(1)[:, :4] * 0 + torch.tensor([1.0, 0, 0, 0])

    points = quick(constant, images, labels, randomness=images_randomness())
    assert bool(torch.isfinite(points).all())
    if quick.epsilon is not None:
        assert bool((distance(points - images, quick.norm) <= quick.epsilon + 1e-6).all())


def test_a_saturated_softmax_makes_no_nan(quick, batch):
    """Logits so far apart that the softmax is exactly one-hot."""
    images, _ = batch
    labels = torch.zeros(6, dtype=torch.long)

    def certain(points):
        return 1e4 * (points.flatten(1)[:, :4] * 0.01 + torch.tensor([1.0, 0, 0, 0]))

    assert bool(torch.isfinite(quick(certain, images, labels, randomness=images_randomness())).all())


@pytest.mark.parametrize("caller", [torch.inference_mode, torch.no_grad])
def test_it_works_for_callers_without_gradients(quick, network, batch, caller):
    expected = quick(network, *batch, randomness=images_randomness())
    with caller():
        images, labels = batch[0] * 1.0, batch[1] * 1  # made in inference mode
        noises = None
        points = quick(network, images, labels, randomness=images_randomness(), noises=noises)
    torch.testing.assert_close(points, expected)


def test_the_callers_noises_may_come_from_inference_mode(network, batch):
    with torch.inference_mode():
        noises = 0.1 * images_randomness().normal(batch[0], copies=2)
        points = ATTACKS["smoothadv_pgd"](network, *batch, randomness=images_randomness(), noises=noises)
    assert not torch.equal(points, batch[0])


def test_it_works_under_autocast_and_leaves_the_training_step_its_gradients(quick, network, batch):
    images, labels = batch
    plain = quick(network, images, labels, randomness=images_randomness())
    with torch.autocast("cpu", dtype=torch.bfloat16):
        points = quick(network, images, labels, randomness=images_randomness())
        assert torch.is_autocast_cache_enabled()
        loss = nn.functional.cross_entropy(network.eval()(points), labels)
    assert points.dtype == images.dtype
    if quick.epsilon is not None:
        assert bool((distance(points - images, quick.norm) <= quick.epsilon).all())
    elif not isinstance(quick, CarliniWagner):  # lower precision, nearly the same attack
        assert float((points - plain).norm()) < 0.5 * float((plain - images).norm()) + 0.1
    gradients = torch.autograd.grad(loss, list(network.parameters()))
    assert all(float(gradient.abs().sum()) > 0 for gradient in gradients[-2:])


def test_it_works_after_a_pass_in_inference_mode_under_autocast(quick, network, batch):
    """Autocast caches weights there that cannot take part in a graph of gradients."""
    with torch.inference_mode(), torch.autocast("cpu", dtype=torch.bfloat16):
        network.eval()(batch[0])
        points = quick(network, *batch, randomness=images_randomness())
    assert bool(torch.isfinite(points).all())


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", ["pgd_l2", "pgd_linf", "ddn_budget"])
def test_other_dtypes_stay_in_the_ball_too(name, dtype, network, batch):
    images, labels = batch[0].to(dtype), batch[1]
    attack = ATTACKS[name]
    points = attack(lambda x: network(x.float()), images, labels, randomness=images_randomness())
    assert points.dtype == dtype
    assert bool((distance(points.double() - images.double(), attack.norm) <= attack.epsilon).all())


def test_an_image_is_attacked_the_same_alone_and_in_a_batch(quick, network, batch):
    images, labels = batch
    together = quick(network, images, labels, randomness=images_randomness())
    for index in (0, 5):
        one = slice(index, index + 1)
        alone = quick(
            network, images[one], labels[one], randomness=ImageRandomness(0, "attack", torch.tensor([index]))
        )
        torch.testing.assert_close(alone, together[one], rtol=0, atol=2e-3)


def test_it_is_reproducible_and_depends_on_the_randomness(network, batch):
    attack = ATTACKS["pgd_linf"]
    first = attack(network, *batch, randomness=images_randomness())
    assert torch.equal(first, attack(network, *batch, randomness=images_randomness()))
    assert not torch.equal(first, attack(network, *batch, randomness=BatchRandomness(0, "attack", 3)))
    assert not torch.equal(
        first, attack(network, *batch, randomness=ImageRandomness(1, "attack", torch.arange(6)))
    )


def test_attacks_on_random_networks_are_reproducible(batch):
    """Their noise layers use the global generator; its state is restored afterwards."""

    class Noisy(nn.Module):
        def forward(self, points):
            return points.flatten(1)[:, :4] * (1 + torch.randn(1, 4))

    attack = PGD(
        norm="l2", epsilon=0.5, steps=4, objective=Expectation(), sigma=0.0, num_noise=4, copies_per_pass=1
    )
    torch.manual_seed(1)
    first = attack(Noisy(), *batch, randomness=images_randomness())
    torch.manual_seed(2)
    state = torch.get_rng_state()
    assert torch.equal(first, attack(Noisy(), *batch, randomness=images_randomness()))
    assert torch.equal(torch.get_rng_state(), state)


def test_one_pass_per_copy_where_asked(batch):
    sizes = []

    def network(points):
        sizes.append(len(points))
        return points.flatten(1)[:, :4]

    for copies, expected in ((1, [6] * 5), (2, [12, 12, 6]), (None, [30])):
        sizes.clear()
        attack = PGD(
            norm="l2",
            epsilon=0.5,
            steps=1,
            objective=PlugIn(),
            sigma=0.1,
            num_noise=5,
            copies_per_pass=copies,
        )
        attack(network, *batch, randomness=images_randomness())
        assert sizes == expected


@pytest.mark.parametrize(("steps", "passes"), [(1, 1), (7, 7)])
def test_the_cost_is_one_pass_per_step(steps, passes, network, batch):
    calls = []

    def counted(points):
        calls.append(torch.is_grad_enabled())
        return network(points)

    PGD(norm="l2", epsilon=0.5, steps=steps)(counted, *batch, randomness=images_randomness())
    assert len(calls) == passes
    calls.clear()
    DDN(steps=steps)(counted, *batch, randomness=images_randomness())
    assert calls == [True] * passes + [False]


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: (x * 2, y), r"`images` must be in \[0, 1\].*normalisation"),
        (lambda x, y: (x - 1, y), r"`images` must be in \[0, 1\]"),
        (lambda x, y: (x * math.nan, y), r"`images` must be in \[0, 1\]"),
        (lambda x, y: (x, y + 4), r"`labels` must be in \[0, 3\]"),
        (lambda x, y: (x, y - 9), r"`labels` must be in \[0, 3\]"),
        (lambda x, y: (x, y[:3]), r"`labels` \(B,\)"),
        (lambda x, y: (x[:0], y[:0]), "B >= 1"),
    ],
)
def test_bad_batches(attack, network, batch, change, message):
    images, labels = change(*batch)
    with pytest.raises(ValueError, match=message):
        attack(network, images, labels, randomness=images_randomness(len(images)))


def test_images_of_bytes_are_refused(network, batch):
    with pytest.raises(TypeError, match="divide bytes by 255"):
        ATTACKS["ddn"](network, (batch[0] * 255).byte(), batch[1], randomness=images_randomness())


@pytest.mark.parametrize(
    ("kind", "arguments", "message"),
    [
        (PGD, {"norm": "l2", "epsilon": 0}, "`epsilon` must be > 0, got 0"),
        (PGD, {"norm": "l2", "epsilon": -1.0}, "`epsilon` must be > 0"),
        (PGD, {"norm": "l2", "epsilon": math.nan}, "`epsilon` must be > 0"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "steps": 0}, "`steps` must be > 0, got 0"),
        (PGD, {"norm": "l1", "epsilon": 1.0}, "`norm` must be one of l2, linf, got l1"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "restarts": 0}, "`restarts` must be > 0"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "step_size": 0.0}, "`step_size` must be > 0"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "keep": "best"}, "`keep` must be one of last"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "direction": "raw"}, "`direction` must be one of .* null"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "num_noise": 4}, "Plain looks at the image without noise"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "sigma": -0.1}, "`sigma` must be >= 0"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "topk": 0}, "`topk` must be > 0"),
        (PGD, {"norm": "l2", "epsilon": 1.0, "topk": 2, "targeted": True}, "targeted"),
        (
            PGD,
            {"norm": "l2", "epsilon": 1.0, "objective": Stein(), "sigma": 0.0},
            "`sigma` must be > 0 for Stein",
        ),
        (
            PGD,
            {"norm": "l2", "epsilon": 1.0, "objective": PlugIn(), "num_noise": 0},
            "`num_noise` must be > 0",
        ),
        (FGSM, {"norm": "l2", "epsilon": 0}, "`epsilon` must be > 0"),
        (DDN, {"epsilon": 0}, "`epsilon` must be > 0"),
        (DDN, {"steps": 0}, "`steps` must be > 0"),
        (DDN, {"levels": 1}, "`levels` must be at least 2"),
        (DDN, {"norm_decay": 1.0}, r"`norm_decay` must be in \(0, 1\)"),
        (DDN, {"init_norm": 0.0}, "`init_norm` must be > 0"),
        (DDN, {"on_failure": "best"}, "`on_failure` must be one of"),
        (CarliniWagner, {"steps": 0}, "`steps` must be > 0"),
        (CarliniWagner, {"confidence": -1}, "`confidence` must be >= 0"),
        (CarliniWagner, {"objective": Stein()}, "choose attack/objective"),
        (CarliniWagner, {"topk": 5}, "`topk` must be 1"),
        (CarliniWagner, {"fixed_noise": False}, "`fixed_noise` must be true"),
        (AutoAttack, {"norm": "l2", "epsilon": 0}, "`epsilon` must be > 0"),
        (AutoAttack, {"norm": "l2", "epsilon": 1.0, "version": "fast"}, "`version` must be one of"),
        (AutoAttack, {"norm": "l2", "epsilon": 1.0, "targeted": True}, "`targeted` must be false"),
    ],
)
def test_bad_settings(kind, arguments, message):
    with pytest.raises(ValueError, match=message):
        kind(**arguments)


def test_an_objective_must_be_an_object():
    with pytest.raises(TypeError, match="`objective` must be one of"):
        PGD(norm="l2", epsilon=1.0, objective="plug_in")


def test_noise_needs_a_level_or_noises(network, batch):
    attack = PGD(norm="l2", epsilon=0.5, steps=1, objective=PlugIn(), num_noise=2)
    with pytest.raises(ValueError, match="`sigma` of PGD is not set"):
        attack(network, *batch, randomness=images_randomness())
    wrong = torch.zeros(2, 6, 1, 5, 5)
    with pytest.raises(ValueError, match=r"`noises` must be \(m, 6, 1, 6, 6\)"):
        attack(network, *batch, randomness=images_randomness(), noises=wrong)


def test_networks_must_return_logits(batch):
    with pytest.raises(ValueError, match=r"must map 6 images to \(6, classes\)"):
        ATTACKS["ddn"](lambda x: x, *batch, randomness=images_randomness())


def test_topk_must_leave_a_class(network, batch):
    with pytest.raises(ValueError, match="`topk` must be smaller than the network's 4 classes"):
        DDN(topk=4)(network, *batch, randomness=images_randomness())


def test_budgets_cannot_be_given_to_attacks_that_have_none():
    assert DDN().with_epsilon(0.5).epsilon == 0.5

    @dataclasses.dataclass(frozen=True, kw_only=True)
    class Still(Attack):
        def _search(self, oracle):
            return oracle.images

    with pytest.raises(ValueError, match="Still has no `epsilon`"):
        Still().with_epsilon(1.0)


def test_attacks_with_equal_settings_are_equal():
    assert PGD(norm="l2", epsilon=1.0) == PGD(norm="l2", epsilon=1.0)
    assert PGD(norm="l2", epsilon=1.0) != PGD(norm="l2", epsilon=1.0, objective=Expectation())
    assert Plain() != Expectation()
    with pytest.raises(dataclasses.FrozenInstanceError):
        PGD(norm="l2", epsilon=1.0).epsilon = 2.0


# ------------------------------------------------------------------------------------- two ranks


def _attack_in_training(rank: int, port: int, results: list) -> None:
    import os

    import torch.distributed as dist
    from torch.nn.parallel import DistributedDataParallel

    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    dist.init_process_group("gloo", rank=rank, world_size=2, timeout=timedelta(seconds=20))
    torch.manual_seed(0)
    layers = nn.Flatten(), nn.Linear(16, 4), nn.BatchNorm1d(4)  # its buffers are synchronised in every pass
    network = DistributedDataParallel(nn.Sequential(*layers))
    images, labels = torch.rand(3, 1, 4, 4) * (0.5 + 0.5 * rank), torch.tensor([0, 1, 2])
    for step in range(2):
        for again in range(1 + rank):  # one rank attacks more often than the other
            randomness = BatchRandomness(0, "attack", step, rank, again)
            points = ATTACKS["smoothadv_pgd"](network, images, labels, randomness=randomness)
        nn.functional.cross_entropy(network(points), labels).backward()
    gradient = network.module[1].weight.grad
    both = [torch.empty_like(gradient) for _ in range(2)]
    dist.all_gather(both, gradient)
    assert torch.equal(both[0], both[1])  # averaged over the ranks, without gradients of the attack
    assert float(gradient.abs().sum()) > 0
    dist.barrier()
    os._exit(0)  # gloo's threads may abort a process that ends with sys.exit


@pytest.mark.ddp
def test_it_works_between_the_steps_of_distributed_training():
    import socket

    import torch.multiprocessing as mp

    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    mp.start_processes(_attack_in_training, args=(port, []), nprocs=2, start_method="fork")


@pytest.fixture
def confident(network, batch):
    """The network with all logits times a factor: 1 - p of one image is below what float16 can hold."""
    logits = network.eval()(batch[0]).detach().topk(2).values
    factor = 19.0 / float((logits[:, 0] - logits[:, 1]).max())
    return lambda points: factor * network(points)


@pytest.mark.parametrize("name", ["pgd_l2", "ddn", "ddn_budget", "smoothadv_pgd"])
def test_float16_does_not_weaken_the_attack_on_a_confident_network(name, confident, batch):
    images, labels = batch
    exact = ATTACKS[name](confident, images, labels, randomness=images_randomness()) - images
    with torch.autocast("cpu", dtype=torch.float16):
        rounded = ATTACKS[name](confident, images, labels, randomness=images_randomness()) - images
    assert (torch.cosine_similarity(exact.flatten(1), rounded.flatten(1)) > 0.99).all()


def test_the_scale_of_a_gradient_is_restored(confident, batch):
    images, labels = batch

    def gradient(network):
        leaf = images.clone().requires_grad_(True)
        loss = network(leaf).log_softmax(1).gather(1, labels[:, None]).sum()
        return torch.autograd.grad(loss, leaf)[0]

    assert torch.equal(gradient(levelled(confident)), gradient(confident))
    assert gradient(levelled(lambda points: 0 * confident(points))).count_nonzero() == 0


def test_gradients_of_one_point_add_up(confident, batch):
    leaf = batch[0].clone().requires_grad_(True)
    once, twice = (
        torch.autograd.grad(sum(levelled(confident)(leaf).sum() for _ in range(times)), leaf)[0]
        for times in (1, 2)
    )
    torch.testing.assert_close(twice, 2 * once)
