import dataclasses
import io
import json
import multiprocessing
import os
import random
import signal
import time

import numpy as np
import pytest
import torch
from rich.console import Console
from safetensors.numpy import load_file
from torch import nn

from robustsmooth.attacks import DDN, PGD, Expectation, PlugIn
from robustsmooth.evaluation import (
    AttackEvaluation,
    Certification,
    EvaluationModule,
    SinglePass,
    SmoothedVote,
    read_certified,
)
from robustsmooth.evaluation.attack.images import ImageStore
from robustsmooth.processes import Stopped, stoppable
from robustsmooth.report.logs import read_log
from robustsmooth.smoothing import (
    ABSTAIN,
    Cohen,
    GaussianNoise,
    GridGaussianNoise,
    NoNoise,
    Numerics,
    Predict,
    Tuning,
    UniformNoise,
)

L2 = PGD(norm="l2", epsilon=0.4, steps=3)
SMOOTHADV = PGD(norm="l2", epsilon=0.8, steps=3, objective=PlugIn(), num_noise=4)
PREDICT = Predict(n=200, batch_size=64)
NOISE = GaussianNoise(0.1)


class TinyConvolution(nn.Module):
    """A network whose attacks depend on every pixel."""

    num_classes = 3

    def __init__(self, seed=0):
        super().__init__()
        torch.manual_seed(seed)
        self.layers = nn.Sequential(nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.Tanh(), nn.Flatten())
        self.mix = nn.Linear(128, 3)

    def forward(self, images):
        mean = images.mean(dim=(1, 2, 3))[:, None]
        shade = -8 * (mean - torch.tensor([0.2, 0.5, 0.8])).abs()
        return shade + self.mix(self.layers(images))


def evaluation(folder, attack=L2, target=None, **kwargs):
    kwargs = {"batch_size": 4, **kwargs}
    made = AttackEvaluation(attack, target or SinglePass(), folder, **kwargs)
    made.console = Console(file=io.StringIO(), width=200)
    return made


def vote(noise=NOISE, predict=PREDICT, seed=0):
    # Nothing is tuned by timing: otherwise two runs could differ in rounding.
    return SmoothedVote(noise, predict, Numerics(channels_last=False), seed)


def table(path):
    """The rows by column, without the time."""
    header, *body = [line.split("\t") for line in path.read_text().splitlines()]
    return [{name: cell for name, cell in zip(header, row, strict=True) if name != "time"} for row in body]


@pytest.fixture
def network():
    return TinyConvolution().eval()


@pytest.fixture
def attack(make_trainer, network, tiny_data, tmp_path):
    """`attack("name", ...)` attacks the tiny data in a folder of that name."""

    def run(name, *args, loader_batch=4, images=11, network=network, **kwargs):
        callback = evaluation(tmp_path / name, *args, **kwargs)
        data = tiny_data(images, batch_size=loader_batch)
        data.test_indices = data.images.indices.tolist()
        make_trainer(callback).test(EvaluationModule(network), data, verbose=False)
        return callback, tmp_path / name / "attack.tsv"

    return run


# ------------------------------------------------------------------------------------- the rows


def test_a_row_per_image_and_variant_measured_on_the_attacked_image(attack, network, tiny_data, tmp_path):
    _, path = attack("a", epsilons=[0.4, 0.8], save="npz")
    rows, data = table(path), tiny_data(11).images
    assert [(int(row["idx"]), float(row["epsilon"])) for row in rows] == [
        (int(index), epsilon) for index in data.indices for epsilon in (0.4, 0.8)
    ]
    with np.load(tmp_path / "a" / "attack.npz") as saved:
        adversarial, clean = torch.from_numpy(saved["adversarial"]), torch.from_numpy(saved["clean"])
        assert saved["idx"].tolist() == [int(row["idx"]) for row in rows]
        assert saved["predict"].tolist() == [int(row["adversarial"]) for row in rows]
    assert torch.equal(clean[::2], data.images)
    answers, before = network(adversarial).argmax(1), network(clean).argmax(1)
    for place, row in enumerate(rows):
        delta = adversarial[place].double() - clean[place].double()
        assert float(row["l2"]) == pytest.approx(float(delta.norm()), rel=1e-9)
        assert float(row["linf"]) == pytest.approx(float(delta.abs().max()), rel=1e-9)
        assert float(row["l2"]) <= float(row["epsilon"])
        assert int(row["adversarial"]) == int(answers[place])
        assert int(row["clean"]) == int(before[place])
        assert row["success"] == str(int(row["adversarial"] != row["label"]))
        assert (row["abstain"], row["votes"], row["num_noise"]) == ("0", "1", "1")
    assert any(row["success"] == "1" for row in rows)
    assert any(row["success"] == "0" for row in rows)


def test_the_report_reads_the_log(attack):
    _, path = attack("a", SMOOTHADV, vote(), epsilons=[0.2, 0.8], num_noises=[1, 4])
    log = read_log(path)
    assert log.kind == "attack"
    assert log.problems == ()
    assert len(log.rows) == 44


def test_the_summary_says_what_the_rows_say(attack, tmp_path):
    callback, path = attack("a", epsilons=[0.2, 0.4])
    summary = json.loads((tmp_path / "a" / "summary.json").read_text())
    assert summary == json.loads(json.dumps(callback.summary))
    rows = table(path)
    for said, epsilon in zip(summary["variants"], ("0.2", "0.4"), strict=True):
        mine = [row for row in rows if row["epsilon"] == epsilon]
        accuracy = sum(row["success"] == "0" and row["clean_correct"] == "1" for row in mine) / 11
        assert said["accuracy"] == pytest.approx(accuracy)
        assert summary["metrics"][f"test/attack_acc@{float(epsilon):.2f}"] == said["accuracy"]
        assert said["low"] <= accuracy <= said["high"]
        curve = said["curve"]
        assert curve["attacked"][-1] == pytest.approx(said["distance"]["success"])
        assert all(a <= b for a, b in zip(curve["attacked"], curve["attacked"][1:], strict=False))
    assert "robust" in callback.console.file.getvalue()


def test_a_larger_budget_never_helps_the_network(attack):
    _, path = attack("a", epsilons=[0.1, 0.2, 0.4, 0.8])
    accuracy = [
        sum(row["success"] == "0" for row in table(path) if row["epsilon"] == epsilon)
        for epsilon in ("0.1", "0.2", "0.4", "0.8")
    ]
    assert accuracy == sorted(accuracy, reverse=True)
    assert accuracy[0] > accuracy[-1]


# ------------------------------------------------------------------------------------- exactness


@pytest.mark.parametrize(
    ("chosen", "target"), [(L2, SinglePass), (SMOOTHADV, vote), (DDN(steps=4, objective=PlugIn()), vote)]
)
def test_rows_do_not_depend_on_the_loaders_batch(attack, chosen, target):
    mode = {"mode": "minimum"} if isinstance(chosen, DDN) else {}
    tables = [table(attack(str(size), chosen, target(), loader_batch=size, **mode)[1]) for size in (1, 4, 11)]
    assert tables[0] == tables[1] == tables[2]


def test_images_are_attacked_and_padding_is_not(attack):
    sizes = []

    class Spy(TinyConvolution):
        def forward(self, images):
            if torch.is_grad_enabled():
                sizes.append(len(images))
            return super().forward(images)

    attack("a", network=Spy().eval())
    assert sizes == [4, 4, 4, 4, 4, 4, 3, 3, 3]  # eleven images, three steps each


def test_an_attack_that_works_image_by_image_writes_image_by_image(attack, tmp_path):
    class OneByOne(PGD):
        one_by_one = True

    part, written = tmp_path / "a" / "attack.rank0.tsv", []

    class Spy(TinyConvolution):
        def forward(self, images):
            if torch.is_grad_enabled():
                assert len(images) == 1
                written.append(part.read_text().count("\n") - 1 if part.exists() else 0)
            return super().forward(images)

    attack("a", OneByOne(norm="l2", epsilon=0.4, steps=2), network=Spy().eval(), images=5)
    assert written == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4]


def test_sigterm_acts_within_a_batch_of_an_attack(make_trainer, tiny_data, tmp_path):
    """A batch may take longer than the half minute that schedulers wait before they kill."""
    passes = []

    class Spy(TinyConvolution):
        def forward(self, images):
            if torch.is_grad_enabled():
                passes.append(len(images))
                if len(passes) == 5:  # in the second batch
                    os.kill(os.getpid(), signal.SIGTERM)
            return super().forward(images)

    trainer = make_trainer(evaluation(tmp_path))
    with stoppable(), pytest.raises(Stopped):
        trainer.test(EvaluationModule(Spy().eval()), tiny_data(11), verbose=False)
    assert passes == [4] * 5  # the sixth is not started
    assert (tmp_path / "attack.rank0.tsv").read_text().count("\n") == 5


def test_the_seed_matters_only_for_random_attacks(attack):
    start = PGD(norm="l2", epsilon=0.4, steps=2, random_start=True)
    assert table(attack("a", start)[1]) != table(attack("b", start, seed=1)[1])
    assert table(attack("a2", start)[1]) == table(attack("a", start)[1])


@pytest.mark.ddp
def test_two_ranks_write_the_table_of_one(make_trainer, network, tiny_data, tmp_path):
    for ranks in (1, 2):
        strategy = {"devices": 2, "strategy": "ddp_fork"} if ranks == 2 else {}
        callback = evaluation(tmp_path / str(ranks), SMOOTHADV, vote(), save="safetensors")
        make_trainer(callback, **strategy).test(EvaluationModule(network), tiny_data(11), verbose=False)
    one, two = (table(tmp_path / str(ranks) / "attack.tsv") for ranks in (1, 2))
    assert len(one) == 11
    assert one == two
    saved = [load_file(tmp_path / str(ranks) / "attack.safetensors") for ranks in (1, 2)]
    assert all(np.array_equal(saved[0][name], saved[1][name]) for name in saved[0])
    summaries = [json.loads((tmp_path / str(ranks) / "summary.json").read_text()) for ranks in (1, 2)]
    assert summaries[0]["metrics"] == summaries[1]["metrics"]
    assert not list(tmp_path.glob("2/*rank*"))


class Slow(nn.Module):
    num_classes = 3

    def __init__(self, network):
        super().__init__()
        self.network = network

    def forward(self, images):
        time.sleep(0.004)
        return self.network(images)


def _attack_in_child(make_trainer, network, data, folder):
    callback = evaluation(folder, SMOOTHADV, vote(), epsilons=[0.4, 0.8], save="safetensors")
    make_trainer(callback).test(EvaluationModule(network), data, verbose=False)


def test_killed_at_random_moments_and_started_again(make_trainer, network, tiny_data, tmp_path):
    """After repeated kill -9, rows and images are those of an undisturbed run."""
    rng, context = random.Random(0), multiprocessing.get_context("fork")
    calm, wild, kills, progress = tmp_path / "calm", tmp_path / "wild", 0, set()
    _attack_in_child(make_trainer, network, tiny_data(15), calm)

    def rows() -> int:
        part = wild / "attack.rank0.tsv"
        return part.read_bytes().count(b"\n") if part.exists() else 0

    while not (wild / "attack.tsv").exists():
        arguments = (make_trainer, Slow(network), tiny_data(15, batch_size=5), wild)
        child, before = context.Process(target=_attack_in_child, args=arguments), rows()
        child.start()
        while kills < 3 and child.is_alive() and rows() == before:  # each start finishes at least one row
            time.sleep(0.002)
        child.join(rng.uniform(0, 0.05) if kills < 3 else None)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
            child.join()
            progress.add(rows())
    assert kills >= 2
    assert len(progress) >= 2
    settings = json.loads((wild / "attack.settings.json").read_text())
    assert settings["target"] == json.loads((calm / "attack.settings.json").read_text())["target"]
    assert table(wild / "attack.tsv") == table(calm / "attack.tsv")
    saved = [load_file(folder / "attack.safetensors") for folder in (wild, calm)]
    assert all(np.array_equal(saved[0][name], saved[1][name]) for name in saved[1])
    assert not (wild / "attack.images").exists()


def test_a_later_start_adds_budgets(attack, tmp_path):
    attack("a", epsilons=[0.2], save="npz")
    calls = []

    class Spy(TinyConvolution):
        def forward(self, images):
            calls.append(len(images))
            return super().forward(images)

    spy = Spy().eval()
    _, path = attack("a", epsilons=[0.2, 0.4], network=spy, save="npz")
    some = len(calls)
    assert [row["epsilon"] for row in table(path)] == ["0.2", "0.4"] * 11
    whole = table(attack("b", epsilons=[0.2, 0.4])[1])
    assert table(path) == whole
    with np.load(tmp_path / "a" / "attack.npz") as saved:
        assert len(saved["idx"]) == 22
    calls.clear()
    attack("a", epsilons=[0.2, 0.4], network=spy)
    assert len(calls) < some / 2  # nothing is left to do: only the clean pass of the test itself


def test_rows_without_a_saved_image_are_counted(attack, tmp_path):
    attack("a", epsilons=[0.2])
    again, _ = attack("a", epsilons=[0.2], save="npz")
    assert "11 of 11 rows have no image in attack.npz" in again.summary["warnings"][0]
    more, _ = attack("a", epsilons=[0.2, 0.4], save="npz")
    assert "11 of 22 rows have no image" in more.summary["warnings"][0]
    shown = " ".join(more.console.file.getvalue().split())
    assert "the same command in a new folder (hydra.run.dir=...) saves all images" in shown
    for _ in range(2):
        assert attack("b", epsilons=[0.2, 0.4], save="npz")[0].summary["warnings"] == []


def test_other_settings_are_not_mixed_in(attack):
    attack("a")
    with pytest.raises(ValueError, match=r"attack\.steps=3 then, 4 now"):
        attack("a", PGD(norm="l2", epsilon=0.4, steps=4))
    with pytest.raises(ValueError, match=r"\(batch_size=4 then, 3 now\)"):
        attack("a", batch_size=3)
    with pytest.raises(ValueError, match="rows of other settings"):
        attack("a", network=TinyConvolution(seed=1).eval())


@pytest.mark.parametrize(
    ("target", "named"),
    [
        (SinglePass(), "target='smoothed' then, 'network' now"),
        (vote(GaussianNoise(0.2)), r"\(smoothing.sigma=0.1 then, 0.2 now\)"),
        (vote(predict=Predict(n=100, batch_size=64)), r"\(prediction.n=200 then, 100 now\)"),
        (vote(predict=Predict(n=200, batch_size=32)), r"\(prediction.batch_size=64 then, 32 now\)"),
    ],
)
def test_other_settings_of_the_target_are_named_as_they_are_typed(attack, target, named):
    attack("a", target=vote())
    with pytest.raises(ValueError, match=named):
        attack("a", target=target)


def test_step_sizes_without_a_limit_are_not_mixed(attack):
    """They do not follow the budget, as others do."""

    def start(name, epsilon, step_size, epsilons):
        made = PGD(norm="l2", epsilon=epsilon, steps=3, step_size=step_size)
        return table(attack(name, made, epsilons=epsilons)[1])

    unlimited = start("a", np.inf, 0.2, None)
    assert start("a", np.inf, 0.2, [np.inf, 0.4])[1::2] == unlimited
    assert start("b", 0.4, 0.2, [0.4, np.inf])[1::2] == unlimited
    for epsilon, step_size in ((0.4, 0.1), (0.8, 0.2), (0.8, 0.4)):
        with pytest.raises(ValueError, match=f"0.2 at epsilon 0.4' then, '{step_size} at epsilon {epsilon}"):
            start("b", epsilon, step_size, [0.4, np.inf])
    start("c", 0.4, 0.1, [0.4])
    start("c", 0.8, 0.2, [0.4, 0.8])


# ------------------------------------------------------------------------------------- target


def test_the_smoothed_classifier_decides_with_noise_that_the_attack_has_not_seen(
    attack, tiny_data, monkeypatch
):
    tuned = Tuning(64, Numerics(channels_last=False), 1.0)  # without extra passes
    monkeypatch.setattr("robustsmooth.evaluation.context.tune", lambda *_, **__: tuned)
    attacked, decided = [], []

    class Spy(TinyConvolution):
        def forward(self, images):
            (attacked if torch.is_grad_enabled() else decided).append(images.detach().clone())
            return super().forward(images)

    still = PGD(norm="l2", epsilon=1e-3, steps=1, objective=PlugIn(), num_noise=32, copies_per_pass=None)
    attack("a", still, vote(), images=1, network=Spy().eval(), batch_size=1)
    clean = tiny_data(1).images.images
    decided = [batch for batch in decided if len(batch) == 64]  # without the pass of the network itself
    noise, others = ((torch.cat(batches) - clean).flatten(1) for batches in (attacked, decided))
    empty = (torch.cat(decided) == 0).flatten(1).all(1)
    others = others[(others.abs().amax(1) > 0.02) & ~empty]  # leaves out passes on the image itself
    assert len(noise) == 32
    assert len(others) >= 400  # for the clean and for the attacked image
    assert float(noise.std()) == pytest.approx(0.1, rel=0.1)
    assert float(others.std()) == pytest.approx(0.1, rel=0.1)
    likeness = torch.corrcoef(torch.cat([noise, others]))[:32, 32:]
    assert float(likeness.abs().max()) < 0.98  # 16 pixels: chance reaches about 0.9, equality 1


def test_abstentions_count_as_wrong_and_are_marked(attack):
    callback, path = attack("a", SMOOTHADV, vote(predict=Predict(n=5, batch_size=8)))  # always abstains
    for row in table(path):
        assert (row["adversarial"], row["success"], row["abstain"]) == (str(ABSTAIN), "1", "1")
    assert callback.summary["metrics"]["test/attack_abstention@0.80"] == 1.0


def test_votes_and_noise_level_come_from_the_target(attack):
    callback, path = attack("a", SMOOTHADV, vote(GaussianNoise(0.2)))
    assert callback.plan.attack.sigma == 0.2
    assert {row["votes"] for row in table(path)} == {"200"}


def test_grid_noise_judges_images_on_the_grid(attack, tmp_path):
    _, path = attack("a", SMOOTHADV, vote(GridGaussianNoise(0.1)), save="safetensors")
    saved = load_file(tmp_path / "a" / "attack.safetensors")["adversarial"].astype(np.float64) * 255
    assert np.abs(saved - saved.round()).max() < 1e-3
    assert all(float(row["l2"]) <= 0.8 for row in table(path))


class RandomInside(TinyConvolution):
    """Adds its own noise, one draw per pass."""

    def forward(self, images):
        return super().forward(images) + torch.randn(1, 3)


def test_networks_that_are_random_inside_get_a_pass_per_copy(attack, monkeypatch):
    for module in ("evaluation", "target"):
        monkeypatch.setattr(f"robustsmooth.evaluation.attack.{module}.is_random", lambda network: True)
    epgd = PGD(norm="linf", epsilon=0.1, steps=2, objective=Expectation(), num_noise=4)
    callback, path = attack("a", epgd, SinglePass(), network=RandomInside().eval())
    assert callback.plan.attack.copies_per_pass == 1
    assert callback.plan.attack.sigma == 0.0  # the network's own noise makes the copies differ
    assert len(table(path)) == 11
    callback, path = attack("b", epgd, vote(NoNoise()), network=RandomInside().eval())
    assert {row["votes"] for row in table(path)} == {"200"}


def test_an_interruption_changes_nothing_for_a_network_that_is_random_inside(attack, monkeypatch):
    network = RandomInside().eval()
    straight = table(attack("a", network=network)[1])
    write = AttackEvaluation._write

    def stop_after_a_batch(self, *args):
        write(self, *args)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(AttackEvaluation, "_write", stop_after_a_batch)
        with pytest.raises((KeyboardInterrupt, SystemExit)):
            attack("b", network=network)
    assert table(attack("b", network=network)[1]) == straight
    assert table(attack("c", target=SinglePass(seed=1), network=network)[1]) != straight


def test_without_noise_there_is_nothing_to_vote_on(attack):
    with pytest.raises(ValueError, match="choose target=network"):
        attack("a", L2, vote(NoNoise()))


# ------------------------------------------------------------------------------------- modes


def test_minimum_keeps_the_closest_and_counts_failures_as_failures(attack):
    callback, path = attack("a", PGD(norm="l2", epsilon=0.6, steps=6), mode="minimum")
    rows = table(path)
    assert callback.plan.attack.keep == "closest"
    lengths = sorted(
        0.0 if row["clean_correct"] == "0" else float(row["l2"]) if row["success"] == "1" else float("inf")
        for row in rows
    )
    found = [length for length in lengths if length < float("inf")]
    assert 0 < len(found) < 11
    said = callback.summary["variants"][0]["distance"]
    assert said["success"] == pytest.approx(len(found) / 11)
    assert said["mean_of_successes"] == pytest.approx(sum(found) / len(found))
    assert said["median"] == (None if lengths[5] == float("inf") else pytest.approx(lengths[5]))
    assert callback.summary["metrics"]["test/attack_success"] == pytest.approx(len(found) / 11)


def test_top_k_leaves_the_best_k(attack, network, tmp_path):
    _, one = attack("a", DDN(steps=30), mode="minimum")
    made, two = attack("b", DDN(steps=30, topk=2), mode="minimum", save="npz")
    assert "clean top-2" in made.console.file.getvalue()
    with np.load(tmp_path / "b" / "attack.npz") as saved:
        best = network(torch.from_numpy(saved["adversarial"])).topk(2).indices
        inside = (best == torch.from_numpy(saved["label"])[:, None]).any(1)
    assert [row["success"] == "0" for row in table(two)] == inside.tolist()
    both = [
        (float(a["l2"]), float(b["l2"]))
        for a, b in zip(table(one), table(two), strict=True)
        if a["success"] == b["success"] == "1"
    ]
    assert both
    assert all(near <= far for near, far in both)


def test_a_vote_for_top_k_ranks_by_votes(attack):
    _, path = attack(
        "a", DDN(steps=10, epsilon=2.0, topk=2, objective=PlugIn(), num_noise=8), vote(), mode="minimum"
    )
    rows = table(path)
    assert len(rows) == 11
    assert any(row["success"] == "0" or row["adversarial"] != row["label"] for row in rows)


def test_the_attack_uses_the_noise_of_the_smoothed_classifier(attack, network):
    """The images equal those of an attack with uniform noise; with Gaussian noise they differ."""
    by_hand = dataclasses.replace(SMOOTHADV, sigma=0.1, noise=UniformNoise(3.0))
    found = []
    for name, tested, noise in (
        ("a", SMOOTHADV, UniformNoise(0.1)),
        ("b", by_hand, NOISE),
        ("c", SMOOTHADV, NOISE),
    ):
        callback, _ = attack(name, tested, vote(noise), save="npz")
        with np.load(callback.folder / "attack.npz") as images:
            found.append(images["adversarial"])
        named = callback.summary["settings"]["attack"].get("noise")
        assert named == (None if name == "c" else "UniformNoise")  # rows of Gaussian noise are continued
    np.testing.assert_array_equal(found[0], found[1])
    assert not np.array_equal(found[0], found[2])


# ------------------------------------------------------------------------------------- transfer


def test_transferred_images_are_made_on_the_source(attack, network, tmp_path):
    source = TinyConvolution(seed=7).eval()
    _, path = attack("a", source=source, save="npz")
    attack("b", network=TinyConvolution(seed=7).eval(), save="npz")
    with np.load(tmp_path / "a" / "attack.npz") as here, np.load(tmp_path / "b" / "attack.npz") as there:
        np.testing.assert_array_equal(here["adversarial"], there["adversarial"])
        answers = network(torch.from_numpy(here["adversarial"])).argmax(1)
    assert [int(row["adversarial"]) for row in table(path)] == answers.tolist()


def test_a_smoothed_source_has_its_own_noise(attack):
    source, noise = TinyConvolution(seed=7).eval(), UniformNoise(0.5)
    callback, _ = attack("a", SMOOTHADV, source=source, source_noise=noise)
    assert (callback.plan.attack.sigma, callback.plan.attack.noise) == (0.5, noise)


def test_source_and_target_need_the_same_classes(attack):
    source = TinyConvolution()
    source.num_classes = 5
    with pytest.raises(ValueError, match="the source has 5 classes and the target 3"):
        attack("a", source=source)


# ------------------------------------------------------------------------------------- against certificates


def certified_log(folder, radius, correct=1):
    folder.mkdir()
    rows = [f"{3 * i}\t{i % 3}\t{i % 3}\t{radius}\t{correct}\t0.1" for i in range(11)]
    (folder / "certify.tsv").write_text(
        "\n".join(["idx\tlabel\tpredict\tradius\tcorrect\ttime", *rows]) + "\n"
    )
    return read_certified(folder)


def test_an_empirical_accuracy_below_the_certified_one_is_called_a_bug(attack, tmp_path):
    certified = certified_log(tmp_path / "c", radius=5.0)
    callback, _ = attack("a", L2, target=vote(), epsilons=[0.8], certified=certified)
    said = callback.summary["variants"][0]
    assert said["certified"]["certified"] == 1.0
    assert said["certified"]["empirical"] == said["accuracy"] < 1.0
    assert "this is a bug" in callback.summary["warnings"][0]
    assert "this is a bug" in callback.console.file.getvalue()


@pytest.fixture
def certify(make_trainer, network, tiny_data, tmp_path):
    """Certify the tiny data; returns the log as an attack reads it."""

    def run(network=network, noise=NOISE, images=11, data=None):
        settings = {"data": data} if data else {}
        callback = Certification(Cohen(n0=10, n=50, batch_size=32), noise, tmp_path / "c", settings=settings)
        callback.console = Console(file=io.StringIO())
        make_trainer(callback).test(EvaluationModule(network), tiny_data(images), verbose=False)
        return read_certified(tmp_path / "c")

    return run


def test_the_certificate_of_this_classifier_is_taken(attack, certify):
    callback, _ = attack("a", target=vote(), certified=certify())
    assert callback.summary["variants"][0]["certified"]["images"] == 11


class Negated(TinyConvolution):
    """The same weights with other code."""

    def forward(self, images):
        return -super().forward(images)


@pytest.mark.parametrize(
    ("other", "named"),
    [
        ({"network": TinyConvolution(seed=3).eval()}, r"\(network"),
        ({"network": Negated().eval()}, r"\(the network's code\)"),
        ({"noise": GaussianNoise(0.2)}, r"\(noise\)"),
        ({"noise": GridGaussianNoise(0.1)}, r"\(noise\)"),
    ],
)
def test_the_certificate_of_another_classifier_is_refused(attack, certify, tmp_path, other, named):
    with pytest.raises(ValueError, match=r"certifies another classifier or other images.*" + named):
        attack("a", target=vote(), certified=certify(**other))
    assert not (tmp_path / "a").exists()


def test_a_log_of_other_images_is_refused(attack, certify, tmp_path):
    certify()
    log = tmp_path / "c" / "certify.tsv"
    lines = log.read_text().splitlines()
    name = lines[1].split("\t")[-1]
    log.write_text("\n".join([lines[0], lines[1].replace(name, "0" * 16), *lines[2:]]) + "\n")
    with pytest.raises(ValueError, match="certifies another image 0 than the one that is attacked"):
        attack("a", target=vote(), certified=read_certified(tmp_path / "c"))


def test_without_hashes_of_images_the_settings_of_the_data_are_compared(attack, certify, tmp_path):
    """As in logs of earlier versions."""
    test = {"_target_": "Digits", "subset": {"split": "test", "max": 5}}
    certify(data=test)
    log = tmp_path / "c" / "certify.tsv"
    lines = [line.rpartition("\t")[0] for line in log.read_text().splitlines()]
    log.write_text("\n".join(lines) + "\n")
    fewer = {"data": {**test, "subset": {"split": "test", "max": 3}}}
    attack("a", target=vote(), certified=read_certified(log), settings=fewer)
    for other in ({"_target_": "Cifar"}, {"subset": {"split": "val"}}):
        with pytest.raises(ValueError, match=r"certifies another classifier or other images.*\(data\)"):
            attack("b", target=vote(), certified=read_certified(log), settings={"data": {**test, **other}})


def test_a_network_with_the_same_weights_and_other_code_cannot_continue(attack):
    attack("a")
    with pytest.raises(ValueError, match="same weights and gives other answers: its code has changed"):
        attack("a", network=Negated().eval())


def test_a_certified_accuracy_that_holds_gives_no_message(attack, tmp_path):
    callback, _ = attack("a", L2, target=vote(), certified=certified_log(tmp_path / "c", radius=0.0))
    assert callback.summary["variants"][0]["certified"]["certified"] == 0.0
    assert callback.summary["warnings"] == []


# ------------------------------------------------------------------------------------- pictures


@pytest.mark.parametrize("images", [1, 3])
def test_a_picture_of_the_first_images(attack, tmp_path, images):
    attack("a", SMOOTHADV, vote(), epsilons=[0.4, 0.8], pictures=images)
    picture = (tmp_path / "a" / "attack_grid.png").read_bytes()
    assert picture.startswith(b"\x89PNG")
    assert not list((tmp_path / "a").glob("*.safetensors"))
    assert not (tmp_path / "a" / "attack.images").exists()


def test_files_left_by_a_kill_are_removed_at_the_next_start(attack, tmp_path, monkeypatch):
    """The picture is drawn from all parts, if necessary again; no temporary file is left."""
    folder = tmp_path / "a"

    def killed(*args, **kwargs):
        raise KeyboardInterrupt

    for place in ("evaluation.draw_grid", "images.shutil.rmtree"):
        with monkeypatch.context() as patch:
            patch.setattr(f"robustsmooth.evaluation.attack.{place}", killed)
            with pytest.raises((KeyboardInterrupt, SystemExit)):
                attack("a", pictures=2, save="npz")
        (folder / "attack_grid.png.tmp").write_text("half a pic")
    assert list(folder.glob("attack.images*"))
    attack("a", pictures=2, save="npz")
    attack("calm", pictures=2, save="npz")
    assert {path.name for path in folder.iterdir()} == {path.name for path in (tmp_path / "calm").iterdir()}
    assert (folder / "attack_grid.png").read_bytes() == (tmp_path / "calm" / "attack_grid.png").read_bytes()


def test_images_put_together_in_another_way_are_all_saved(tmp_path):
    """A start on fewer ranks puts an unfinished image into a batch with a finished one."""
    store = ImageStore(tmp_path, "npz")
    images = torch.rand(4, 1, 2, 2)
    for batch in ([0, 3], [0, 1]):
        keys = [(index, 0.3, 1) for index in batch]
        store.add(keys, images[batch], images[batch] / 2, [0, 1], [1, 1])
    merged = store.merge()
    assert merged["idx"].tolist() == [0, 1, 3]
    np.testing.assert_array_equal(merged["clean"], images[[0, 1, 3]].numpy())


def test_of_an_image_that_was_saved_twice_the_later_one_counts(tmp_path):
    """The start that saved it first was killed before it wrote the row."""
    store, later = ImageStore(tmp_path, "npz"), torch.rand(8, 1, 2, 2)
    for index in range(8):
        keys = [(index, 0.3, 1), (index + 8, 0.3, 1)]
        store.add(keys, torch.zeros(2, 1, 2, 2), torch.zeros(2, 1, 2, 2), [0, 0], [1, 1])
    for index in range(8):
        store.add([(index, 0.3, 1)], later[[index]], later[[index]], [0], [2])
    merged = store.merge()
    np.testing.assert_array_equal(merged["adversarial"][:8], later.numpy())
    assert merged["predict"].tolist() == [2] * 8 + [1] * 8


@pytest.mark.parametrize("stop", [2, 6, 13])
def test_after_an_interruption_saved_images_are_those_of_the_rows(attack, monkeypatch, tmp_path, stop):
    """A random network answers differently to images that are attacked again in another batch."""
    network, written = RandomInside().eval(), []

    def write(self, row, write=AttackEvaluation.write):
        if len(written) == stop:
            raise RuntimeError("stopped")
        written.append(row)
        write(self, row)

    with monkeypatch.context() as patch:
        patch.setattr(AttackEvaluation, "write", write)
        with pytest.raises(RuntimeError, match="stopped"):
            attack("a", network=network, epsilons=[0.4, 0.8], save="npz")
    _, path = attack("a", network=network, epsilons=[0.4, 0.8], save="npz")
    rows = table(path)
    with np.load(tmp_path / "a" / "attack.npz") as saved:
        assert saved["predict"].tolist() == [int(row["adversarial"]) for row in rows]
        moved = (saved["adversarial"].astype(float) - saved["clean"]).reshape(len(rows), -1)
    assert np.linalg.norm(moved, axis=1) == pytest.approx([float(row["l2"]) for row in rows], rel=1e-12)


# ------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"mode": "fast"}, "`mode` must be budget or minimum"),
        ({"attack": DDN()}, "mode=budget needs a budget"),
        ({"attack": PGD(norm="l2", epsilon=1.0, targeted=True)}, "`attack.targeted` must be false"),
        ({"epsilons": [0.5, 0.0]}, "`epsilon` must be > 0"),
        ({"epsilons": []}, "`epsilons` must be different values"),
        ({"epsilons": [0.5, 0.5]}, "`epsilons` must be different values"),
        ({"num_noises": [0], "attack": SMOOTHADV}, "`num_noise` must be > 0"),
        ({"num_noises": [8]}, "Plain looks at the image without noise"),
        ({"batch_size": 0}, "`batch_size` must be at least 1"),
        ({"pictures": -1}, "`pictures` must be at least 0"),
        ({"save": "png"}, "`save` must be safetensors, npz or null"),
    ],
)
def test_bad_settings(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        evaluation(tmp_path, **changes)


def test_certified_radii_are_in_l2(tmp_path):
    certified = certified_log(tmp_path / "c", radius=0.0)
    with pytest.raises(ValueError, match="compare them with an l2 attack"):
        evaluation(tmp_path, PGD(norm="linf", epsilon=0.1), vote(), certified=certified)


def test_certificates_do_not_hold_for_a_single_pass(tmp_path):
    certified = certified_log(tmp_path / "c", radius=0.0)
    with pytest.raises(ValueError, match="say nothing about one pass"):
        evaluation(tmp_path, L2, SinglePass(), certified=certified)


def test_certificates_of_other_images_are_refused(attack, tmp_path):
    certified = certified_log(tmp_path / "c", radius=0.0)
    certified = type(certified)(certified.path, {1: 0.5}, 0.001)
    with pytest.raises(ValueError, match="certifies none of the images"):
        attack("a", target=vote(), certified=certified)


def test_an_attack_that_leaves_its_budget_is_stopped(attack):
    class Greedy(PGD):
        def _search(self, oracle):
            return (oracle.images + 0.3).clamp(0, 1)

    with pytest.raises(ValueError, match="Greedy left its budget"):
        attack("a", Greedy(norm="l2", epsilon=0.1))


def test_a_noise_level_is_required(attack):
    with pytest.raises(ValueError, match="`sigma` of PGD is not set"):
        attack("a", SMOOTHADV, SinglePass())


@pytest.mark.parametrize("topk", [1, 2])
def test_a_network_that_answers_nan_is_never_robust(topk):
    target = SinglePass()
    target.network = lambda images: torch.full((len(images), 3), float("nan"))
    decision = target.decide(torch.zeros(2, 1, 2, 2), torch.arange(2), torch.arange(2), topk)
    assert decision.predictions == [-1, -1]
    assert decision.wrong == [True, True]
