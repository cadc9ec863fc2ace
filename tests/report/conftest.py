"""Run folders as the commands write them, with random numbers in place of a network's results."""

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy import special

from robustsmooth.report.table import Column, Table

CERTIFY = ["idx", "label", "predict", "radius", "correct", "time", "p_a_lower", "votes"]


def certify_rows(images=60, sigma=0.25, n=1000, alpha=0.001, strength=1.0, seed=0):
    """Rows of a certification of a classifier whose top class gets Phi(margin) of the votes."""
    random = np.random.default_rng(seed)
    rows = []
    for idx in range(images):
        share = special.ndtr(random.normal(strength, 1.0))
        count = int(random.binomial(n, share))
        bound = special.betaincinv(count, n - count + 1, alpha) if count else 0.0
        label = idx % 10  # as in `write_attack`: an image has the same label in certification and attack
        right = random.random() < 0.9
        if bound <= 0.5:
            rows.append([idx, label, -1, 0.0, 0, 0.01, bound, n])
        else:
            predict = label if right else (label + 1) % 10
            rows.append(
                [idx, label, predict, float(sigma * special.ndtri(bound)), int(right), 0.01, bound, n]
            )
    return rows


def write_log(path, header, rows, end="\n"):
    lines = ["\t".join(header), *("\t".join(str(cell) for cell in row) for row in rows)]
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes((end.join(lines) + end).encode())
    return path


def name_images(log, pixels):
    """Add the column ``image`` to a log; images of other `pixels` have other hashes."""
    header, *rows = log.read_text().splitlines()
    names = [hashlib.sha256(f"{pixels}{row.partition(chr(9))[0]}".encode()).hexdigest()[:16] for row in rows]
    rows = [f"{row}\t{name}" for row, name in zip(rows, names, strict=True)]
    log.write_text("\n".join([f"{header}\timage", *rows]) + "\n")


def write_training(folder, method="gaussian", sigma=0.25, seed=0, data="digits", epochs=3, **config):
    """The folder of a training."""
    config = {
        "seed": seed,
        "run_dir": str(folder),
        "method": {"_target_": f"robustsmooth.methods.{method}", "sigma": sigma},
        **config,
    }
    hydra = {
        "hydra": {
            "runtime": {
                "cwd": str(folder.parent),
                "choices": {"method": method, "data": data, "model": "small_cnn"},
            }
        }
    }
    (folder / ".hydra").mkdir(parents=True)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    lines = ["step,epoch,train/loss,val/top1,val/noisy_top1"]
    lines += [
        f"{10 * epoch},{epoch},{1 / (epoch + 1)},{0.5 + 0.1 * epoch},{0.4 + 0.1 * epoch}"
        for epoch in range(epochs)
    ]
    (folder / "metrics.csv").write_text("\n".join(lines) + "\n")
    (folder / "summary.json").write_text(json.dumps({"epochs": epochs}))
    return folder


def write_certification(
    folder, trained, sigma=0.25, n=1000, alpha=0.001, guarantee="l2-certificate", **drawn
):
    """The folder of a certification inside that of a training."""
    (folder / ".hydra").mkdir(parents=True)
    config = {
        "run_dir": str(folder),
        "checkpoint": str(trained),
        "seed": 0,
        "certificate": {"n": n, "n0": 100, "alpha": alpha},
        "smoothing": {"sigma": sigma},
    }
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    settings = {
        "sigma": sigma,
        "n": n,
        "n0": 100,
        "alpha": alpha,
        "certificate": "cohen",
        "guarantee": guarantee,
    }
    (folder / "certify.settings.json").write_text(json.dumps(settings))
    write_log(folder / "certify.tsv", CERTIFY, certify_rows(sigma=sigma, n=n, alpha=alpha, **drawn))
    return folder


def write_at_radii(folder, trained, asked, **drawn):
    """The folder of a certification at given radii: `asked` has its ``radius``, or its ``radii``."""
    kind = "l2-at-radius-certificate" if "radius" in asked else "l2-at-radii-certificate"
    log = write_certification(folder, trained, guarantee=kind, **drawn) / "certify.tsv"
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    config["certificate"] |= asked
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    grid = [asked["radius"]] if "radius" in asked else asked["radii"] or np.arange(0, 4, 0.25).tolist()
    header, *lines = (line.split("\t") for line in log.read_text().splitlines())
    for line in lines:
        passed = [radius for radius in grid if float(line[3]) >= radius and line[2] != "-1"]
        line[2:5] = [line[2], max(passed), line[4]] if passed else [-1, 0.0, 0]
    write_log(log, header, lines)
    return folder


def write_attack(folder, trained, images=60, target="smoothed", sigma=0.25, seed=0, noise=None):
    """The folder of an attack with two budgets."""
    (folder / ".hydra").mkdir(parents=True)
    config = {
        "run_dir": str(folder),
        "checkpoint": str(trained),
        "seed": 0,
        "attack": {"norm": "l2", "steps": 20},
        "smoothing": {"sigma": sigma} | ({"_target_": f"robustsmooth.smoothing.{noise}"} if noise else {}),
    }
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "attack.settings.json").write_text(
        json.dumps({"target": target, "sigma": sigma, "norm": "l2", "attack": "pgd_l2"})
    )
    random = np.random.default_rng(seed)
    header = [
        "idx",
        "epsilon",
        "num_noise",
        "label",
        "clean",
        "adversarial",
        "l2",
        "linf",
        "success",
        "abstain",
        "votes",
        "time",
    ]
    rows = []
    for idx in range(images):
        label, reach, wrong = idx % 10, random.exponential(0.5), random.random() < 0.05
        for epsilon in (0.25, 0.5):
            clean = (label + 1) % 10 if wrong else label
            won = wrong or reach < epsilon
            adversarial = (label + 1) % 10 if won else label
            if won and idx % 5 == 0:
                adversarial = -1
            rows.append(
                [idx, epsilon, 4, label, clean, adversarial, min(reach, epsilon), 0.1, int(won), 0, 100, 0.02]
            )
    write_log(folder / "attack.tsv", header, rows)
    return folder


def wide_table(rows=3, radii=12):
    """A table as wide as any report has, with rows of every length."""
    columns = [
        Column("run", "Run"),
        Column("n", "n", style="d"),
        Column("acr", "ACR (pixel units)", "certificate", ".3f", best="max"),
        *(
            Column(f"r{at}", f"r={at / 4:g} (%)", "certificate", "percent", f"l{at}", f"h{at}")
            for at in range(radii)
        ),
        Column("attack", "smoothadv_pgd on smoothed ε=0.5 m=128 (%)", "empirical", "percent"),
        Column("seconds", "Seconds per image", "measurement", ".3g"),
    ]
    values = {f"{kind}{at}": 0.5 for kind in "rlh" for at in range(radii)}
    return Table(
        "wide_table", "A wide table", columns,
        [{"run": f"a_method with $5, 50 % & a long name {at}", "n": 100_000, "acr": 0.1 * at, "attack": 0.25,
          "seconds": 12.5, **values} for at in range(rows)],
        "A note about σ, α and p_A ≥ 0.9.", "Small print: 95 % intervals.",
    )  # fmt: skip


@pytest.fixture
def runs(tmp_path) -> Path:
    """Two methods at two noise levels, trained, certified and attacked."""
    top = tmp_path / "runs"
    for job, (method, sigma) in enumerate([(m, s) for m in ("gaussian", "heat") for s in (0.25, 0.5)]):
        trained = write_training(top / f"{job}_{method}", method, sigma)
        write_certification(trained / "certify", trained, sigma, strength=1.0 + 0.3 * job, seed=job)
        write_attack(trained / "attack", trained, sigma=sigma, seed=job)
    return top
