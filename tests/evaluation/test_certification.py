import copy
import io
import json
import math
import multiprocessing
import os
import random
import signal
import time

import pytest
import pytorch_lightning as pl
import torch
from pytorch_lightning.callbacks import ModelCheckpoint
from pytorch_lightning.loggers import CSVLogger
from rich.console import Console
from torch import nn

from robustsmooth import statistics
from robustsmooth.evaluation import (
    Certification,
    EvaluationModule,
    Prediction,
    ValidationCertification,
    data_settings,
    default_radii,
)
from robustsmooth.evaluation.records import RecordLog
from robustsmooth.report.logs import read_log
from robustsmooth.smoothing import (
    ABSTAIN,
    Anytime,
    Cohen,
    FixedRadius,
    GaussianNoise,
    GridGaussianNoise,
    LBound,
    NoNoise,
    Numerics,
    Predict,
    RadiusGrid,
    SmoothedClassifier,
    TopKCertificate,
    Tuning,
    address,
    fingerprint,
    largest_radius,
    typical_votes,
)
from robustsmooth.statistics import certified_accuracy, is_correct

FIELD = ["idx", "label", "predict", "radius", "correct", "time"]
NOISE = GaussianNoise(0.25)
CERTIFICATE = Cohen(n0=20, n=300, batch_size=64)


def certification(folder, certificate=CERTIFICATE, smoothing=NOISE, **kwargs):
    made = Certification(certificate, smoothing, folder, **kwargs)
    made.console = Console(file=io.StringIO(), width=200)
    return made


def rows_of(path):
    """The table without its timing column."""
    header, *body = [line.split("\t") for line in path.read_text().splitlines()]
    at = header.index("time")
    return [line[:at] + line[at + 1 :] for line in [header, *body]]


@pytest.fixture
def certify(make_trainer, network, tiny_data, tmp_path):
    """`certify("name", ...)` certifies the tiny data in a folder of that name and returns the table."""

    def run(name, certificate=CERTIFICATE, smoothing=NOISE, *, batch_size=4, network=network, **kwargs):
        callback = certification(tmp_path / name, certificate, smoothing, **kwargs)
        trainer = make_trainer(callback)
        trainer.test(EvaluationModule(network), tiny_data(batch_size=batch_size), verbose=False)
        return callback, tmp_path / name / "certify.tsv"

    return run


def test_rows_are_the_records_of_the_certificate(certify, network, tiny_data):
    _, path = certify("a", seed=5)
    data = tiny_data().images
    classifier = SmoothedClassifier(network, NOISE, seed=5)
    records = classifier.certify(data.images, CERTIFICATE, indices=data.indices, labels=data.labels)
    header, *rows = [line.split("\t") for line in path.read_text().splitlines()]
    assert header[:6] == FIELD
    assert [int(row[0]) for row in rows] == data.indices.tolist()
    for row, record, label in zip(rows, records, data.labels.tolist(), strict=True):
        cells = dict(zip(header, row, strict=True))
        assert int(cells["label"]) == label
        assert int(cells["predict"]) == record.prediction
        assert float(cells["radius"]) == record.radius  # unrounded
        assert int(cells["correct"]) == (record.prediction == label)
        assert float(cells["p_a_lower"]) == record.p_a_lower
        assert cells["counts"] == ",".join(f"{k}:{v}" for k, v in record.counts)
        assert cells["guarantee"] == "l2-certificate"
    assert any(record.prediction != ABSTAIN for record in records)


@pytest.mark.parametrize(
    "certificate",
    [
        CERTIFICATE,
        FixedRadius(radius=0.1, n0=20, n=2000, first_look=50, batch_size=64),
        Cohen(n0=0, n=300, candidate="clean", batch_size=64),
        Cohen(n0=20, n=300, randomized=True, batch_size=64),
    ],
)
def test_the_table_does_not_depend_on_the_loaders_batch(certify, certificate):
    tables = [rows_of(certify(str(size), certificate, batch_size=size)[1]) for size in (1, 7, 64)]
    assert len(tables[0]) == 12
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.ddp
def test_two_ranks_write_the_table_of_one(make_trainer, network, tiny_data, tmp_path):
    """Eleven images on two ranks: each exactly once."""
    for ranks in (1, 2):
        strategy = {"devices": 2, "strategy": "ddp_fork"} if ranks == 2 else {}
        callback = certification(tmp_path / str(ranks))
        trainer = make_trainer(callback, **strategy)
        trainer.test(EvaluationModule(network), tiny_data(11), verbose=False)
    one, two = (rows_of(tmp_path / str(ranks) / "certify.tsv") for ranks in (1, 2))
    assert len(one) == 12
    assert one == two
    assert not list(tmp_path.glob("2/*rank*"))
    summaries = [json.loads((tmp_path / str(ranks) / "summary.json").read_text()) for ranks in (1, 2)]
    assert summaries[0]["metrics"]["test/acr"] == summaries[1]["metrics"]["test/acr"]


class Slow(nn.Module):
    """A slow network, so that there is time to kill the run."""

    num_classes = 3

    def __init__(self, network, seconds):
        super().__init__()
        self.network, self.seconds = network, seconds

    def forward(self, images):
        time.sleep(self.seconds)
        return self.network(images)


def _certify_in_child(make_trainer, network, data, folder, certificate):
    os.setsid()
    callback = certification(folder, certificate, progress=False)
    make_trainer(callback).test(EvaluationModule(network), data, verbose=False)


@pytest.mark.parametrize("seed", [0, 1])
def test_killed_at_random_moments_and_started_again(make_trainer, network, tiny_data, tmp_path, seed):
    """After repeated kill -9, the table is that of an undisturbed run."""
    rng, context = random.Random(seed), multiprocessing.get_context("fork")
    certificate = FixedRadius(radius=0.1, n0=20, n=1000, first_look=50, batch_size=64)
    calm, wild, kills, progress = tmp_path / "calm", tmp_path / "wild", 0, set()
    make_trainer(certification(calm, certificate)).test(
        EvaluationModule(network), tiny_data(40), verbose=False
    )
    part = wild / "certify.rank0.tsv"

    def rows():
        return part.read_bytes().count(b"\n") if part.exists() else 0

    while not (wild / "certify.tsv").exists():
        child = context.Process(
            target=_certify_in_child,
            args=(make_trainer, Slow(network, 0.01), tiny_data(40, batch_size=7), wild, certificate),
        )
        child.start()
        before = rows()
        while kills % 2 and child.is_alive() and rows() == before:
            time.sleep(0.001)  # every other start finishes at least one image, also on a slow machine
        child.join(rng.uniform(0.01, 0.4) if kills < 12 else None)
        if child.is_alive():
            os.kill(child.pid, signal.SIGKILL)
            kills += 1
            child.join()
            progress.add(rows())
    assert kills >= 2
    assert len(progress) >= 2  # it was killed in the middle, not only before it began
    assert rows_of(wild / "certify.tsv") == rows_of(calm / "certify.tsv")


def test_a_finished_run_is_left_as_it_is(certify):
    _, path = certify("a")
    before = path.read_bytes()
    callback, _ = certify("a")
    assert path.read_bytes() == before
    assert callback._engine.votes == 0


def test_an_interrupted_run_computes_only_what_is_missing(certify, tmp_path):
    _, path = certify("a")
    whole = rows_of(path)
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "a" / "certify.rank0.tsv").write_text("".join(lines[:5]) + lines[5][:-7])  # incomplete
    path.unlink()
    callback, _ = certify("a")
    assert rows_of(path) == whole
    assert callback._engine.votes == 7 * 320


@pytest.mark.parametrize(
    ("changed", "named"),
    [
        ({"certificate": Cohen(n0=20, n=301, batch_size=64)}, "certificate.n=300 then, 301 now"),
        ({"smoothing": GaussianNoise(0.3)}, "smoothing.sigma=0.25 then, 0.3 now"),
        ({"smoothing": GridGaussianNoise(0.25)}, "smoothing.name"),
        ({"seed": 1}, "seed=0 then, 1 now"),
        ({"numerics": Numerics("bf16-mixed")}, "numerics.precision"),
        ({"certificate": Cohen(n0=20, n=300, batch_size=32)}, "certificate.batch_size=64 then, 32 now"),
        ({"settings": {"data": "other"}}, "data=None then"),
    ],
)
def test_changed_settings_are_refused_not_mixed_in(certify, changed, named):
    certify("a")
    with pytest.raises(ValueError, match=named):
        certify("a", **changed)


def test_another_network_is_refused(certify, network):
    certify("a")
    with torch.no_grad():
        network.scale += 1
    with pytest.raises(ValueError, match="network="):
        certify("a")


def test_after_a_refused_radius_another_one_can_be_chosen(certify, tmp_path):
    with pytest.raises(ValueError, match="radius"):
        certify("a", FixedRadius(radius=99.0, n0=20, n=500, batch_size=64))
    assert not (tmp_path / "a").exists()
    certify("a", FixedRadius(radius=0.1, n0=20, n=500, batch_size=64))


def test_a_damaged_value_is_named(certify):
    _, path = certify("a")
    header, first, *rest = path.read_text().splitlines(keepends=True)
    cells = first.split("\t")
    cells[3] = "0.2q"
    path.write_text("".join([header, "\t".join(cells), *rest]))
    with pytest.raises(ValueError, match=r"a/certify.tsv` holds a damaged row \(.*0.2q.*\); delete its line"):
        certify("a")


def test_the_batch_size_that_was_found_is_kept(certify):
    first, path = certify("a", Cohen(n0=20, n=300))
    path.unlink()
    again, _ = certify("a", Cohen(n0=20, n=300))
    assert again._engine.batch_size == first._engine.batch_size


def test_metrics_are_logged_and_summed_up(make_trainer, network, tiny_data, tmp_path):
    callback = certification(tmp_path, radii=[0.0, 0.1, 0.25])
    logger = CSVLogger(tmp_path, name="", version="")
    trainer = make_trainer(callback, logger=logger)
    trainer.test(EvaluationModule(network), tiny_data(), verbose=False)
    rows = read_log(tmp_path / "certify.tsv").rows
    prediction, radius, label = (rows[name].to_numpy() for name in ("predict", "radius", "label"))
    correct = is_correct(prediction, label)
    accuracies = certified_accuracy(correct, radius, [0.0, 0.1, 0.25]).tolist()
    acr = statistics.acr(correct, radius)
    logged = {key: float(value) for key, value in trainer.callback_metrics.items()}
    assert logged["test/acr"] == pytest.approx(acr)
    assert [logged[f"test/certified_acc@{r}"] for r in ("0.00", "0.10", "0.25")] == pytest.approx(accuracies)
    assert logged["test/abstention"] == pytest.approx((prediction == -1).mean())
    bounds = read_log(tmp_path / "certify.tsv").rows["p_a_lower"].to_numpy()
    assert logged["test/p_a@0.90"] == pytest.approx((correct & (bounds >= 0.9)).mean())
    said = " ".join(part for part in callback.report(callback.summary) if isinstance(part, str))
    assert f"(ACR) {acr:.4f}, correct with p_A of at least 0.9 {logged['test/p_a@0.90']:.1%}" in said
    header = (tmp_path / "metrics.csv").read_text().splitlines()[0]
    for key in ("test/acr", "test/votes_per_image", "test/seconds_per_image", "test/largest_radius"):
        assert key in header.split(",")
    summary = json.loads((tmp_path / "summary.json").read_text())
    assert summary["metrics"]["test/acr"] == acr  # in full precision
    assert summary["metrics"]["test/top1"] == logged["test/top1"]
    assert summary["images"] == 11
    assert summary["votes_per_image"] == 320
    assert summary["seconds_per_image"] > 0
    assert (summary["n"], summary["alpha"], summary["sigma"]) == (300, 0.001, 0.25)
    assert summary["largest_radius"] == pytest.approx(0.25 * 2.0, abs=0.02)
    assert [point["radius"] for point in summary["certified_accuracy"]] == [0.0, 0.1, 0.25]
    assert all(point["low"] <= point["accuracy"] <= point["high"] for point in summary["certified_accuracy"])
    assert summary["settings"]["numerics"]["precision"] == "32-true"
    said = callback.console.file.getvalue()
    for words in (
        "certifying 11 images with at most 320 votes each",
        "ACR",
        "95 % confidence",
        "abstention",
    ):
        assert words in said


def test_close_radii_are_told_apart(certify):
    callback, _ = certify("a", radii=[0.001, 0.004, 0.25])
    shares = {key for key in callback.summary["metrics"] if "certified_acc" in key}
    assert shares == {f"test/certified_acc@{radius}" for radius in ("0.001", "0.004", "0.25")}
    assert "0.004" in callback.console.file.getvalue()


def test_our_log_is_read_by_the_reports_reader(certify):
    _, path = certify("a")
    log = read_log(path)
    assert log.problems == ()
    assert log.kind == "certify"
    assert len(log.rows) == 11
    assert (log.rows["votes"] == 320).all()
    assert (log.rows["time"] > 0).all()


def test_a_setting_that_cannot_certify_is_reported_at_the_start(certify):
    callback, _ = certify("a", Cohen(n0=5, n=9, batch_size=64))
    assert "not even unanimous votes certify anything" in callback.console.file.getvalue()
    callback, _ = certify("b", smoothing=NoNoise())
    assert "every image will abstain" in callback.console.file.getvalue()
    callback, _ = certify("c")
    assert "Warning" not in callback.console.file.getvalue()


def test_a_certificate_at_one_radius_has_no_acr(certify):
    callback, _ = certify("a", FixedRadius(radius=0.1, n0=20, n=500, batch_size=64))
    assert "test/acr" not in callback.summary["metrics"]
    assert "test/certified_acc@0.10" in callback.summary["metrics"]


def test_the_l_bound_is_not_called_a_certificate(certify):
    callback, path = certify("a", LBound(batch_size=64))
    assert {row[-2] for row in rows_of(path)[1:]} == {"l2-lbound-assumed"}
    assert callback.summary["n"] == 0
    said = " ".join(callback.console.file.getvalue().split())  # beside the numbers
    assert "images bounded under an assumption" in said
    assert "No certificate: holds only if the network is a Gaussian average" in said
    assert "certified accuracy" not in said


def test_after_a_full_disk_finished_rows_are_kept(certify, monkeypatch, tmp_path):
    append, rows = RecordLog.append, []

    def until_full(self, row):
        if len(rows) == 4:
            raise OSError(28, "No space left on device")
        rows.append(row)
        append(self, row)

    monkeypatch.setattr(RecordLog, "append", until_full)
    with pytest.raises(OSError, match="No space left"):
        certify("a")
    monkeypatch.setattr(RecordLog, "append", append)
    callback, path = certify("a")
    assert callback._engine.votes == 7 * 320
    assert rows_of(path) == rows_of(certify("b")[1])


def test_networks_that_are_random_inside_are_certified_image_by_image(certify, network):
    class Noisy(nn.Module):
        num_classes = 3

        def __init__(self):
            super().__init__()
            self.network = network

        def forward(self, images):
            return self.network(images) + 0.3 * torch.randn(3)

    tables = [rows_of(certify(str(size), network=Noisy(), batch_size=size)[1]) for size in (1, 7, 64)]
    assert tables[0] == tables[1] == tables[2]


@pytest.mark.parametrize("progress", [False, True])
def test_the_number_of_classes_is_that_of_the_network(certify, progress):
    """On every rank, with and without progress display: a top-k bound divides alpha by this number."""
    certificate = TopKCertificate(k=2, n0=20, n=300, batch_size=64)
    callback, _ = certify("a", certificate, progress=progress)
    assert callback.summary["largest_radius"] == largest_radius(certificate, NOISE, num_classes=3)


def test_a_loader_without_data_module_works(make_trainer, network, tiny_data, tmp_path):
    callback = certification(tmp_path)
    loader = tiny_data().test_dataloader()
    make_trainer(callback).test(EvaluationModule(network), loader, verbose=False)
    assert len(rows_of(tmp_path / "certify.tsv")) == 12


def test_default_radii_end_at_the_largest_possible_radius():
    assert default_radii(Cohen(n=100_000), GaussianNoise(0.25)) == [0.0, 0.25, 0.5, 0.75]
    assert default_radii(Cohen(n=9), GaussianNoise(0.25)) == [0.0]
    assert default_radii(FixedRadius(radius=0.3), GaussianNoise(0.25)) == [0.3]


def test_a_fingerprint_depends_on_the_weights_only(network):
    before = fingerprint(network)
    assert fingerprint(network.train()) == before
    assert fingerprint(network.to(memory_format=torch.channels_last)) == before
    assert fingerprint(copy.deepcopy(network).double()) == before  # evaluated in single precision
    with torch.no_grad():
        network.scale += 1e-6
    assert fingerprint(network) != before


def test_every_buffer_has_a_fingerprint():
    numbers = torch.complex(torch.ones(2), torch.ones(2))
    assert fingerprint({"mask": torch.eye(3).to_sparse()}) == fingerprint({"mask": torch.eye(3)})
    assert fingerprint({"phase": numbers.conj()}) == fingerprint({"phase": numbers.conj().resolve_conj()})
    assert fingerprint({"phase": numbers.conj()}) != fingerprint({"phase": numbers})


def test_settings_of_the_data_contain_only_what_matters():
    config = {"_target_": "X", "root": "/a", "batch_size": 3, "subset": {"every": 20, "indices": [1, 2]}}
    assert data_settings(config) == {"_target_": "X", "subset": {"every": 20, "indices": [1, 2]}}


@pytest.mark.parametrize(("split", "known"), [("test", set()), ("val", {"val_images"})])
def test_the_choice_of_validation_images_matters_where_they_are_evaluated(split, known):
    config = {"val_images": 1000, "seed": 3, "subset": {"split": split}}
    assert data_settings(config).keys() == {"subset"} | known
    assert data_settings({"subset": None, "val_images": 1000}) == {"subset": None}


def test_negative_radii_are_refused(tmp_path):
    with pytest.raises(ValueError, match="`radii` must not be negative"):
        Certification(CERTIFICATE, NOISE, tmp_path, radii=[-0.1])


# ---------------------------------------------------------------------- PREDICT


def test_prediction_writes_what_predict_says(make_trainer, network, tiny_data, tmp_path):
    callback = Prediction(Predict(n=60, batch_size=32), NOISE, tmp_path, seed=2)
    callback.console = Console(file=io.StringIO(), width=200)
    trainer = make_trainer(callback)
    trainer.test(EvaluationModule(network), tiny_data(), verbose=False)
    data = tiny_data().images
    expected = SmoothedClassifier(network, NOISE, seed=2).predict(
        data.images, Predict(n=60), indices=data.indices
    )
    log = read_log(tmp_path / "predict.tsv")
    assert log.kind == "predict"
    assert log.rows["predict"].tolist() == [record.prediction for record in expected]
    assert log.rows["p_value"].tolist() == [record.p_value for record in expected]
    accuracy = (log.rows["predict"] == log.rows["label"]).mean()
    assert callback.summary["metrics"]["test/smoothed_top1"] == pytest.approx(accuracy)
    assert "smoothed accuracy" in callback.console.file.getvalue()


def test_too_few_votes_give_a_warning(make_trainer, network, tiny_data, tmp_path):
    callback = Prediction(Predict(n=10, batch_size=32), NOISE, tmp_path)
    callback.console = Console(file=io.StringIO(), width=200)
    make_trainer(callback).test(EvaluationModule(network), tiny_data(), verbose=False)
    assert "not even unanimous votes decide" in callback.console.file.getvalue()
    assert callback.summary["metrics"]["test/abstention"] == 1.0


def test_a_plurality_vote_is_reported(make_trainer, network, tiny_data, tmp_path):
    callback = Prediction(Predict(n=10, alpha=None, batch_size=32), NOISE, tmp_path)
    callback.console = Console(file=io.StringIO(), width=200)
    make_trainer(callback).test(EvaluationModule(network), tiny_data(), verbose=False)
    assert "n 10, plurality vote" in callback.console.file.getvalue()
    assert callback.summary["metrics"]["test/abstention"] == 0.0


# ---------------------------------------------------------------------- during training


class Training(pl.LightningModule):
    """It learns nothing useful, but its scale grows."""

    def __init__(self, network):
        super().__init__()
        self.network = network

    def training_step(self, batch, batch_idx):
        return -self.network.scale

    def validation_step(self, batch, batch_idx):
        pass

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def validation(**kwargs):
    return ValidationCertification(Cohen(n0=10, n=100, batch_size=64), NOISE, **kwargs)


def test_checkpoints_can_be_chosen_by_acr(make_trainer, network, tiny_data, tmp_path):
    best = ModelCheckpoint(dirpath=tmp_path, monitor="val/acr", mode="max")
    trainer = make_trainer(
        validation(images=6, every=2, radii=[0.1]), best, max_epochs=3, enable_checkpointing=True
    )
    trainer.fit(Training(network), tiny_data())
    data = tiny_data().images
    records = SmoothedClassifier(network, NOISE, seed=address(0, "validation in training")).certify(
        data.images[:6], Cohen(n0=10, n=100, batch_size=64), indices=data.indices[:6]
    )
    expected = sum(
        record.radius
        for record, label in zip(records, data.labels, strict=False)
        if record.prediction == label
    )
    logged = trainer.callback_metrics
    assert float(logged["val/acr"]) == pytest.approx(expected / 6)
    sure = [record.prediction == label and record.p_a_lower >= 0.9
            for record, label in zip(records, data.labels, strict=False)]  # fmt: skip
    assert float(logged["val/p_a@0.90"]) == pytest.approx(sum(sure) / 6)
    assert {"val/acr", "val/certified_acc@0.10", "val/abstention"} <= set(logged)
    assert best.best_model_score is not None
    assert math.isfinite(float(best.best_model_score))
    assert network.training  # unchanged


def test_between_certifications_the_last_values_are_kept(make_trainer, network, tiny_data):
    seen = []

    class Look(pl.Callback):
        def on_train_epoch_end(self, trainer, pl_module):
            seen.append(float(trainer.callback_metrics["val/acr"]))

    make_trainer(validation(every=2), Look(), max_epochs=5).fit(Training(network), tiny_data())
    assert len(seen) == 5
    assert seen[0] == seen[1]
    assert seen[2] == seen[3]


def test_the_last_network_of_a_training_is_certified(make_trainer, network, tiny_data):
    epochs = []

    class Watched(ValidationCertification):
        def _certify(self, pl_module):
            epochs.append(pl_module.current_epoch)
            return super()._certify(pl_module)

    watched = Watched(Cohen(n0=10, n=100, batch_size=64), NOISE, every=2)
    make_trainer(watched, max_epochs=4).fit(Training(network), tiny_data())
    assert epochs == [0, 2, 3]


@pytest.mark.ddp
def test_two_ranks_certify_the_same_validation_images(make_trainer, network, tiny_data, tmp_path):
    values = []
    for strategy in ({}, {"devices": 2, "strategy": "ddp_fork"}):
        trainer = make_trainer(validation(images=7), max_epochs=1, **strategy)
        trainer.validate(Training(network), tiny_data(), verbose=False)
        values.append({key: float(value) for key, value in trainer.callback_metrics.items()})
    assert values[0].keys() == values[1].keys()
    assert values[0] == pytest.approx(values[1])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"images": 0}, "`images` must be at least 1"),
        ({"every": 0}, "`every` must be at least 1"),
        ({"numerics": Numerics(compile=True)}, "it would freeze the weights"),
    ],
)
def test_bad_settings_of_validation(arguments, message):
    with pytest.raises(ValueError, match=message):
        validation(**arguments)


# ---------------------------------------------------------------------- extended and adaptive


def anytime(n, **kwargs):
    return Anytime(n0=20, n=n, batch_size=64, **kwargs)


def test_an_extended_run_equals_the_run_with_more_votes(certify):
    _, path = certify("a", anytime(100))
    first = rows_of(path)
    _, path = certify("a", anytime(300))
    _, once = certify("b", anytime(300))
    assert rows_of(path) == rows_of(once) != first
    settings = json.loads((path.parent / "certify.settings.json").read_text())
    assert settings["procedure"]["n"] == 300
    before = [file.read_bytes() for file in (path, path.parent / "summary.json")]
    with pytest.raises(ValueError, match=r"can only be raised: .* rows with up to 300 votes, got 200"):
        certify("a", anytime(200))  # the summary would call these radii those of n = 200
    assert [file.read_bytes() for file in (path, path.parent / "summary.json")] == before
    with pytest.raises(ValueError, match=r"certificate\.alpha=0\.001 then, 0\.01 now"):
        certify("a", anytime(400, alpha=0.01))


def test_an_extension_that_is_killed_is_continued(certify, monkeypatch):
    certify("a", anytime(100))
    append, written = RecordLog.append, []

    def dies(log, row):
        if len(written) == 4:
            raise KeyboardInterrupt
        written.append(row)
        append(log, row)

    monkeypatch.setattr(RecordLog, "append", dies)
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        certify("a", anytime(300))
    monkeypatch.undo()
    callback, path = certify("a", anytime(300))
    assert rows_of(path) == rows_of(certify("b", anytime(300))[1])
    assert {row["votes"] for row in callback._log.rows()} == {"320"}
    assert not list(path.parent.glob("*.rank*"))


def test_only_images_that_are_not_decided_are_extended(certify):
    certify("a", anytime(100))
    _, path = certify("a", anytime(3000, radius=0.05, first_look=50))
    votes = {int(row["votes"]) for row in read_log(path).rows.to_dict("records")}
    assert 120 in votes  # already decided in the first run
    assert max(votes) <= 3020


def test_other_certificates_are_not_extended(certify):
    certify("a", Cohen(n0=20, n=100, batch_size=64))
    with pytest.raises(ValueError, match=r"certificate\.n=100 then, 200 now"):
        certify("a", Cohen(n0=20, n=200, batch_size=64))


def test_a_grid_of_radii_has_no_acr_and_names_its_radii(certify):
    callback, path = certify("a", RadiusGrid(n0=20, n=2000, radii=[0.0, 0.1, 0.3], batch_size=64))
    assert "test/acr" not in callback.summary["metrics"]
    assert [point["radius"] for point in callback.summary["certified_accuracy"]] == [0.0, 0.1, 0.3]
    fixed, _ = certify("b", Cohen(n0=20, n=2000, batch_size=64), radii=[0.0, 0.1, 0.3])
    for one, other in zip(*(item.summary["certified_accuracy"] for item in (callback, fixed)), strict=True):
        assert one["accuracy"] == pytest.approx(other["accuracy"], abs=0.1)
    assert callback.summary["votes_per_image"] < fixed.summary["votes_per_image"]
    log = read_log(path)
    assert set(log.rows["radius"]) <= {0.0, 0.1, 0.3}


@pytest.mark.parametrize(
    ("certificate", "said"),
    [
        (Cohen(n=100_000), "certificate=radii takes about"),
        (RadiusGrid(n=100_000), "votes per image on average, if the images are like"),
        (Cohen(n=1000), None),
        (Cohen(n=100_000, randomized=True), "certificate=radii takes about"),
        (LBound(), None),
    ],
)
def test_the_number_of_votes_is_printed_at_the_start(tmp_path, certificate, said):
    callback = certification(tmp_path, certificate)
    callback._tuning = Tuning(64, Numerics(channels_last=False), 1.0)
    lines = " ".join(callback.opening(10, 0))
    assert "certifying 10 images with at most" in lines
    assert (said or "nothing of the kind") in lines or (said is None and "radii takes" not in lines)


def test_typical_votes_are_those_that_published_networks_need():
    assert typical_votes(Cohen(n=100_000), NOISE) == 100_100
    assert 5000 < typical_votes(RadiusGrid(n=100_000), NOISE) < 100_100 / 5
