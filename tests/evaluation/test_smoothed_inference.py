"""The measurement of smoothed inference: its rows, what they do not depend on, restarts."""

import csv
import dataclasses
import json
from functools import partial
from pathlib import Path

import pytest
import pytorch_lightning as pl
import torch

from robustsmooth.attacks import PGD, Expectation, NoisePGD, Stein
from robustsmooth.data import DigitsDataModule, Subset
from robustsmooth.evaluation.module import EvaluationModule
from robustsmooth.evaluation.smoothed_inference import InferenceSweep, inference_accuracy
from robustsmooth.instantiation import instantiate
from robustsmooth.models import Classifier, NoiseLayers, ParametricNoise, SmallCNN
from robustsmooth.smoothing import HardVote, ImageRandomness, RunnerUpVote, SoftVote, running_votes

BALLOTS = {"hard": HardVote(), "soft": SoftVote()}
EPGD = PGD(norm="linf", epsilon=0.1, steps=2, objective=Expectation(), num_noise=2)


@pytest.fixture(autouse=True)
def _no_pass_to_tell_networks_apart(monkeypatch):
    """The tests count passes."""
    monkeypatch.setattr("robustsmooth.evaluation.base.answers_of", lambda *_: {})


def network(random: bool = True) -> Classifier:
    torch.manual_seed(3)
    classifier = Classifier(SmallCNN(10, width=4), num_classes=10).eval()
    return NoiseLayers(partial(ParametricNoise, scale=1.0))(classifier) if random else classifier


def digits(batch_size: int = 4) -> DigitsDataModule:
    return DigitsDataModule(
        num_classes=10, channels=1, batch_size=batch_size, val_images=10, subset=Subset(max=10)
    )


def sweep(
    folder: Path, classifier: Classifier | None = None, batch_size: int = 4, devices: int = 1, **changes
):
    settings = {"sigmas": [0.0, 0.2], "samples": [1, 2, 5], "ballots": BALLOTS, **changes}
    trainer = pl.Trainer(
        accelerator="cpu",
        devices=devices,
        strategy="ddp_fork" if devices > 1 else "auto",
        callbacks=[InferenceSweep(folder, **settings)],
        logger=False,
        enable_progress_bar=False,
        enable_checkpointing=False,
        use_distributed_sampler=False,
    )
    trainer.test(EvaluationModule(classifier or network()), digits(batch_size), verbose=False)
    return (folder / "smoothed_inference.tsv").read_bytes()


def rows(folder: Path) -> list[dict[str, str]]:
    with (folder / "smoothed_inference.tsv").open() as file:
        return list(csv.DictReader(file, delimiter="\t"))


def test_rows_hold_the_votes(tmp_path):
    sweep(tmp_path)
    data = digits()
    data.setup("test")
    batch = data.sample(10)
    assert batch.indices.tolist() == data.test_indices
    expected = {}
    for sigma in (0.0, 0.2):
        votes = running_votes(
            network(),
            batch.images,
            sigma=sigma,
            samples=[1, 2, 5],
            ballots=BALLOTS,
            randomness=ImageRandomness(0, "inference/noise", batch.indices),
            seed=0,
        )
        for name, series in votes.items():
            for place, count in enumerate((1, 2, 5)):
                for index, answer in zip(data.test_indices, series[place].argmax(1).tolist(), strict=True):
                    expected[str(index), str(sigma), name, str(count)] = answer
    found = rows(tmp_path)
    assert len(found) == len(expected) == 10 * 2 * 2 * 3
    assert {row["correct"] for row in found} == {"0", "1"}
    labels = dict(zip(batch.indices.tolist(), batch.labels.tolist(), strict=True))
    for row in found:
        answer = expected[row["idx"], row["sigma"], row["voting"], row["samples"]]
        assert int(row["predict"]) == answer
        assert int(row["label"]) == labels[int(row["idx"])]
        assert int(row["correct"]) == (answer == labels[int(row["idx"])])


@pytest.mark.parametrize("random", [False, True])
def test_nothing_depends_on_the_batch(tmp_path, random):
    logs = {sweep(tmp_path / str(size), network(random), batch_size=size) for size in (1, 4, 7)}
    assert len(logs) == 1


@pytest.mark.ddp
def test_nothing_depends_on_the_number_of_ranks(tmp_path):
    assert sweep(tmp_path / "one") == sweep(tmp_path / "two", devices=2)


def test_a_restart_keeps_finished_rows(tmp_path):
    whole = sweep(tmp_path / "whole")
    header, *lines = whole.decode().splitlines(keepends=True)
    first = [line for line in lines if int(line.split("\t")[0]) in digits().test_indices[:4]]
    first.sort(key=lambda line: float(line.split("\t")[2]))  # in the order of writing: level by level
    killed = tmp_path / "killed"
    killed.mkdir()
    settings = (tmp_path / "whole" / "smoothed_inference.settings.json").read_bytes()
    (killed / "smoothed_inference.settings.json").write_bytes(settings)
    torn = header + "".join(first[:26]) + first[26][:7]
    (killed / "smoothed_inference.rank0.tsv").write_text(torn)
    passes = []
    classifier = network()
    classifier.register_forward_hook(lambda *_: passes.append(1))
    assert sweep(killed, classifier) == whole
    assert len(passes) == 2 * 5 * 3 + 3 - 5, "the first batch is complete at one level"
    passes.clear()
    assert sweep(killed, classifier) == whole
    assert len(passes) == 3, "only the clean passes of the evaluation itself"


def test_more_levels_extend_a_log(tmp_path):
    sweep(tmp_path, sigmas=[0.2])
    assert sweep(tmp_path, sigmas=[0.0, 0.2]) == sweep(tmp_path / "at_once", sigmas=[0.0, 0.2])


def test_another_seed_is_refused(tmp_path):
    sweep(tmp_path)
    with pytest.raises(ValueError, match="seed=0 then, 1 now"):
        sweep(tmp_path, seed=1)


def test_another_network_is_refused(tmp_path):
    sweep(tmp_path)
    other = network()
    other.network.head.bias.data += 1
    with pytest.raises(ValueError, match="network="):
        sweep(tmp_path, other)


def test_the_attack_uses_the_noise_level_and_draws_for_every_copy(tmp_path):
    seen = []
    classifier = network()
    classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    sweep(tmp_path, classifier, batch_size=10, sigmas=[0.2], samples=[3], attack=EPGD)
    assert [len(item) for item in seen] == [10] * (1 + 2 * 2 + 3), "clean, 2 steps of 2 copies, 3 votes"
    data = digits()
    data.setup("test")
    images, labels, indices = data.sample(10)
    attack = dataclasses.replace(EPGD, sigma=0.2, copies_per_pass=1)
    randomness = ImageRandomness(0, "inference/attack", indices)
    adversarial = attack(network(), images, labels, randomness=randomness)
    noise = 0.2 * ImageRandomness(0, "inference/noise", indices).normal(images, 8)
    for look in range(3):
        assert torch.equal(seen[5 + look], adversarial + noise[look])


def test_attacks_transfer_from_a_source(tmp_path):
    source = network(random=False)
    source.network.head.bias.data.fill_(0.0)
    seen = []
    classifier = network()
    classifier.register_forward_hook(lambda module, inputs, output: seen.append(inputs[0].detach().clone()))
    sweep(tmp_path, classifier, batch_size=10, sigmas=[0.0], samples=[1], attack=EPGD, source=source)
    assert len(seen) == 1 + 1, "the tested network is not attacked"
    data = digits()
    data.setup("test")
    images, labels, indices = data.sample(10)
    randomness = ImageRandomness(0, "inference/attack", indices)
    attack = dataclasses.replace(EPGD, sigma=0.0)
    assert torch.equal(seen[1], attack(source, images, labels, randomness=randomness))
    with pytest.raises(ValueError, match=r"source=.* then, None now"):
        sweep(tmp_path, sigmas=[0.0], samples=[1], attack=EPGD)


def test_the_config_names_the_papers_rules(tmp_path, compose):
    words = ["checkpoint=none", "measure=smoothed_inference", "attack@measure.attack=epgd"]
    callback = instantiate(compose("measure", *words).measure, folder=str(tmp_path))
    assert list(callback.ballots) == ["hard", "soft", "rank", "runner_up"]
    assert callback.ballots["runner_up"] == RunnerUpVote(0.5)
    assert isinstance(callback.attack.objective, Expectation)


def test_without_noise_one_vote_is_enough(tmp_path):
    passes = []
    classifier = network(random=False)
    classifier.register_forward_hook(lambda *_: passes.append(1))
    sweep(tmp_path, classifier, batch_size=10, sigmas=[0.0], samples=[1, 1024])
    assert len(passes) == 2
    answers = {(row["idx"], row["predict"]) for row in rows(tmp_path)}
    assert len(answers) == 10


def test_summary_is_the_mean(tmp_path, capsys):
    sweep(tmp_path)
    summary = json.loads((tmp_path / "summary.json").read_text())["smoothed_inference"]
    assert len(summary) == 2 * 2 * 3
    for item in summary:
        cells = [
            int(row["correct"])
            for row in rows(tmp_path)
            if (float(row["sigma"]), row["voting"], int(row["samples"]))
            == (item["sigma"], item["voting"], item["samples"])
        ]
        assert item["images"] == len(cells) == 10
        assert item["accuracy"] == sum(cells) / 10
    assert inference_accuracy(rows(tmp_path))[0].sigma == 0.0
    assert "hard, top-1" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"sigmas": []}, "`sigmas` must be"),
        ({"sigmas": [-0.1]}, "`sigmas` must be"),
        ({"samples": [4, 2]}, "`samples` must be"),
        ({"samples": [0]}, "`samples` must be"),
        ({"ballots": {}}, "`ballots` must be"),
        ({"ballots": {"hard": "hard"}}, "`ballots` must be"),
        ({"source": torch.nn.Identity()}, "there is no attack"),
        ({"attack": dataclasses.replace(EPGD, targeted=True)}, "`attack.targeted` must be false"),
        ({"attack": NoisePGD(epsilon=1.0)}, "NoisePGD perturbs the noise in training and not the image"),
    ],
)
def test_bad_input_is_one_sentence(tmp_path, changes, message):
    with pytest.raises(ValueError, match=message):
        sweep(tmp_path, **changes)


def test_a_level_that_the_attack_cannot_use_is_refused_before_the_first_row(tmp_path):
    attack = PGD(norm="l2", epsilon=0.5, steps=1, objective=Stein(), num_noise=2)
    with pytest.raises(ValueError, match="`sigma` must be > 0 for Stein"):
        sweep(tmp_path, sigmas=[0.1, 0.0], attack=attack)
    assert not list(tmp_path.glob("smoothed_inference*"))
