"""The commands certify and predict, as a user runs them."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from robustsmooth.models import SmallCNN
from robustsmooth.report.logs import read_log
from robustsmooth.report.networks import signature
from robustsmooth.smoothing.addressing import address
from tests.conftest import forked

SMALL = ["trainer=cpu", "data.subset.max=6", "certificate.batch_size=32"]


def description(folder):
    """What the folder records about its run."""
    return {path.name: path.read_bytes() for path in (folder / ".hydra").iterdir()}


def test_certify_continue_and_refuse(call, gaussian, tmp_path):
    words = [f"checkpoint={gaussian}", "certificate.n=200", *SMALL, f"hydra.run.dir={tmp_path}/c"]
    first = call("certify", *words)
    assert "certifying 6 images with at most 300 votes each" in first
    assert "certified accuracy" in first
    table = tmp_path / "c" / "certify.tsv"
    log = read_log(table)
    assert len(log.rows) == 6
    summary = json.loads((tmp_path / "c" / "summary.json").read_text())
    assert summary["sigma"] == 0.25  # the level that it was trained with
    before, described = table.read_bytes(), description(tmp_path / "c")
    assert sorted(described) == ["config.yaml", "environment.json", "hydra.yaml", "overrides.yaml"]
    call("certify", *words)  # nothing is left to do
    assert table.read_bytes() == before
    refused = call("certify", *words, "certificate.n=300", status=1)
    assert description(tmp_path / "c") == described
    assert "certificate.n=200 then, 300 now" in refused
    assert "Traceback" not in refused
    assert table.read_bytes() == before


def test_a_finished_certification_may_be_opened_on_another_machine(call, gaussian, tmp_path):
    """As when an evaluation is added to a sweep: its command opens the finished ones too."""
    words = [f"checkpoint={gaussian}", "certificate.n=200", *SMALL, f"hydra.run.dir={tmp_path}"]
    call("certify", *words)
    written, table = tmp_path / "certify.settings.json", tmp_path / "certify.tsv"
    settings = json.loads(written.read_text())
    settings["numerics"] |= {"torch": "1.0", "device": "cuda", "tf32": [False, True]}
    written.write_text(json.dumps(settings))
    call("certify", *words)
    assert json.loads(written.read_text()) == settings
    assert json.loads((tmp_path / "summary.json").read_text())["settings"] == settings
    table.write_text("".join(table.read_text().splitlines(keepends=True)[:-1]))
    assert "numerics.torch='1.0' then, " in call("certify", *words, status=1)


def test_an_extended_certification_is_described_as_one_with_its_votes(call, gaussian, tmp_path):
    words = [f"checkpoint={gaussian}", "certificate=anytime", *SMALL]
    for name, votes in (("extended", 200), ("extended", 400), ("direct", 400)):
        call("certify", *words, f"certificate.n={votes}", f"hydra.run.dir={tmp_path / name}")
    assert signature(tmp_path / "extended") == signature(tmp_path / "direct")
    assert description(tmp_path / "extended")["overrides.yaml"].count(b"certificate.n=400") == 1


def test_sigterm_ends_it_between_two_passes_and_keeps_the_rows(call, gaussian, tmp_path):
    """``kill`` and schedulers send it. Images that are already loaded are not finished first."""
    folder = tmp_path / "c"
    words = [f"checkpoint={gaussian}", "certificate.n=20000", *SMALL, f"hydra.run.dir={folder}"]
    child, rows = forked("certify", *words, said=tmp_path / "said"), folder / "certify.rank0.tsv"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and not (rows.exists() and rows.read_text().count("\n") > 1):
        time.sleep(0.005)
    os.kill(child, signal.SIGTERM)
    _, status = os.waitpid(child, 0)
    said = (tmp_path / "said").read_text()
    assert os.waitstatus_to_exitcode(status) == 143, said
    assert "stopped by SIGTERM; what is finished is kept" in said
    assert 1 <= rows.read_text().count("\n") - 1 < 6
    call("certify", *words)
    assert len(read_log(folder / "certify.tsv").rows) == 6


def test_validation_images_have_noise_of_their_own(call, gaussian, tmp_path):
    words = [f"checkpoint={gaussian}", "certificate.n=200", *SMALL]
    for split in ("test", "val"):
        call("certify", *words, f"data.subset.split={split}", f"hydra.run.dir={tmp_path}/{split}")
    settings = [
        json.loads((tmp_path / split / "certify.settings.json").read_text()) for split in ("test", "val")
    ]
    assert settings[0]["seed"] == 0
    assert settings[1]["seed"] == address(0, "validation")
    assert settings[1]["data"]["subset"]["split"] == "val"


@pytest.mark.slow
def test_every_certificate_and_smoothing(call, gaussian, tmp_path):
    choices = [
        ["certificate=given_class", "certificate.n=100"],
        ["certificate=two_sided", "certificate.n=100"],
        ["certificate=topk", "certificate.n=100"],
        ["certificate=top5_votes", "certificate.n=100"],
        ["certificate=fixed_radius", "certificate.radius=0.1", "certificate.n=500"],
        ["certificate=two_stage", "certificate.n=500"],
        ["certificate=l_bound"],
        ["certificate=l_bound", "certificate.scores=monte_carlo", "certificate.n=100"],
        ["smoothing=grid_gaussian", "certificate.n=100"],
        ["smoothing=uniform", "certificate.n=100"],
        ["smoothing=none", "certificate.n=20"],
    ]
    guarantees = []
    for number, words in enumerate(choices):
        folder = tmp_path / str(number)
        call("certify", f"checkpoint={gaussian}", *SMALL, *words, f"hydra.run.dir={folder}")
        log = read_log(folder / "certify.tsv")
        assert len(log.rows) == 6
        guarantees += log.rows["guarantee"].unique().tolist()
    assert len(guarantees) == len(choices)
    assert set(guarantees) == {
        "l2-certificate", "l2-top5-certificate", "l2-top5-votes-certificate", "l2-at-radius-certificate",
        "l2-lbound-assumed", "l2-lbound-certificate", "l1-certificate", "none-certificate",
    }  # fmt: skip


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_and_low_precision(run, gaussian, tmp_path):
    words = [f"checkpoint={gaussian}", "certificate.n=200", *SMALL[1:]]
    for name, trainer in (("one", "cpu"), ("two", "ddp_cpu")):
        run("certify", *words, f"trainer={trainer}", f"hydra.run.dir={tmp_path}/{name}")
    one, two = (
        read_log(tmp_path / name / "certify.tsv").rows.drop(columns="time") for name in ("one", "two")
    )
    assert one.equals(two)
    low = ["trainer.precision=bf16-mixed", "numerics.channels_last=true"]
    run("certify", *words, "trainer=cpu", *low, f"hydra.run.dir={tmp_path}/low")
    settings = json.loads((tmp_path / "low" / "certify.settings.json").read_text())
    assert settings["numerics"]["precision"] == "bf16-mixed"


@pytest.mark.slow
@pytest.mark.ddp
def test_two_ranks_killed_again_and_again_write_the_rows_of_one(run, gaussian, tmp_path):
    words = [f"checkpoint={gaussian}", "certificate.n=5000", *SMALL[1:]]
    run("certify", *words, "trainer=cpu", f"hydra.run.dir={tmp_path}/one")
    folder = tmp_path / "two"
    words += ["trainer=ddp_cpu", f"hydra.run.dir={folder}"]
    kills = 0
    for wanted in (1, 2, 4):
        child = subprocess.Popen(
            [sys.executable, "-m", "robustsmooth.certify", *words],
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        while child.poll() is None:
            written = sum(path.read_text().count("\n") - 1 for path in folder.glob("certify.rank*.tsv"))
            if written >= wanted:
                os.killpg(child.pid, signal.SIGKILL)
                kills += 1
                break
            time.sleep(0.002)
        child.wait()
    assert kills >= 2
    run("certify", *words)
    one, two = (
        read_log(tmp_path / name / "certify.tsv").rows.drop(columns="time") for name in ("one", "two")
    )
    assert one.equals(two)
    assert not list(folder.glob("certify.rank*.tsv"))


def test_predict_warns_of_too_few_votes(call, gaussian, tmp_path):
    words = ["trainer=cpu", "data.subset.max=6", "prediction.n=10", f"hydra.run.dir={tmp_path}"]
    said = call("predict", f"checkpoint={gaussian}", *words)
    assert "not even unanimous votes decide" in said
    assert read_log(tmp_path / "predict.tsv").kind == "predict"


@pytest.mark.parametrize(
    ("words", "status", "message"),
    [
        (["certificate.n=0"], 1, "`certificate.n` must be a whole number of at least 1, got 0"),
        (["certificate=fixed_radius"], 2, "certificate.radius"),
        (["smoothing.sigma=-1"], 1, "`smoothing.sigma` must be a"),
        (["certificate.alpha=2"], 1, "`certificate.alpha` must be in (0, 1), got 2"),
    ],
)
def test_mistakes_are_one_sentence(call, gaussian, tmp_path, words, status, message):
    place = [f"checkpoint={gaussian}", f"hydra.run.dir={tmp_path}"]
    said = call("certify", *place, *SMALL, *words, status=status)
    assert message in said
    assert "Traceback" not in said
    assert len(said.strip().splitlines()) == 1


def test_a_network_of_others_needs_its_data(call, tmp_path):
    torch.save(SmallCNN(10).state_dict(), tmp_path / "foreign.pt")
    words = [f"checkpoint={tmp_path}/foreign.pt", "model=small_cnn", "smoothing.sigma=0.25"]
    said = call("certify", *words, f"hydra.run.dir={tmp_path}/c", status=1)
    assert "does not say which data it was trained with; give data=..., such as data=cifar10" in said
