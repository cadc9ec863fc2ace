"""The table of smoothed inference: one row per network, rule, votes and noise, one column per attack."""

import itertools
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import yaml

from robustsmooth.report import find_runs, label_runs, read_evaluations
from robustsmooth.report.evaluations import Measurement
from robustsmooth.report.images import Data, ImageSet
from robustsmooth.report.levels import unfinished
from robustsmooth.report.runs import Run
from robustsmooth.report.tables.measured import inference_table

from .conftest import write_log, write_training

LOGGED = ["idx", "label", "sigma", "voting", "samples", "predict", "correct"]


def sweep(folder, attack, sigmas, samples, shares, classifier="cpni", images=100, at=1, **facts):
    """A measurement; `shares` are the right answers by level, `at` is the number of the image set."""
    rows = [
        {
            "idx": image,
            "voting": "hard",
            "samples": count,
            "sigma": sigma,
            "correct": int(image < shares[sigma]),
        }
        for sigma in sigmas
        for count in samples
        for image in range(images)
    ]
    facts = {"classifier": classifier, "attack": attack, **facts}
    image_set = ImageSet(Data("digits", 0), f"{images} {at}", at)
    run = Run(Path(folder), facts, label=classifier)
    return Measurement(run, "smoothed_inference", pd.DataFrame(rows), image_set)


def of_seeds(attack, seeds, shares):
    """Measurements of one method under several seeds."""
    return [
        sweep(f"{seed}/{attack}", attack, [0.0], [4], {0.0: share}, f"cpni seed={seed}",
              seed=seed, method="cpni", family="cpni")
        for seed, share in zip(seeds, shares, strict=True)
    ]  # fmt: skip


def test_seeds_have_a_row_of_means_with_those_that_have_the_same_measurement():
    """An attack under two of three seeds is no result of the three: the names of both rows have the seeds."""
    kinds = [("none", (0, 1, 2)), ("pgd", (1, 2)), ("epgd", (0, 1, 2))]
    groups = (of_seeds(attack, seeds, [50 + seed for seed in seeds]) for attack, seeds in kinds)
    table = inference_table(itertools.chain(*groups))
    rows = [(row["run"], row["seeds"], [key for key in row if "accuracy" in key]) for row in table.rows]
    assert rows == [
        ("cpni seed=0, 1, 2", 3, ["clean accuracy", "epgd accuracy"]),
        ("cpni seed=1, 2", 2, ["pgd accuracy"]),
    ]
    (row,) = inference_table(of_seeds("none", (0, 1), (50, 51))).rows
    assert (row["run"], row["seeds"]) == ("cpni", 2)
    assert table.rows[0]["clean accuracy"] == pytest.approx(0.51)


def test_a_small_grid_is_shown_whole_with_the_attacks_side_by_side():
    """CPNI Table 3: clean, PGD and EPGD at one noise, for several numbers of votes."""
    levels, counts = [0.0, 0.05, 0.06], [256, 512]
    table = inference_table(
        [
            sweep("a/clean", "none", levels, counts, {0.0: 90, 0.05: 85, 0.06: 80}),
            sweep("a/pgd", "pgd", levels, counts, {0.0: 50, 0.05: 60, 0.06: 55}),
            sweep("a/epgd", "epgd", levels, counts, {0.0: 40, 0.05: 45, 0.06: 47}),
        ]
    )
    assert [(row["samples"], row["sigma"]) for row in table.rows] == [(m, s) for m in counts for s in levels]
    told = [row for row in table.rows if row["samples"] == 256 and row["sigma"] == 0.05]
    assert [told[0][f"{name} accuracy"] for name in ("clean", "pgd", "epgd")] == [0.85, 0.6, 0.45]


def test_a_large_grid_is_shown_by_the_best_level_of_each_attack():
    levels = [round(0.01 * step, 2) for step in range(12)]
    rising = {level: round(100 * level) for level in levels}
    falling = {level: 90 - round(100 * level) for level in levels}
    counts = [1, 2, 4, 8, 16]
    table = inference_table(
        [sweep("a/clean", "none", levels, counts, falling), sweep("a/pgd", "pgd", levels, counts, rising)]
    )
    assert [(row["samples"], row["sigma"]) for row in table.rows] == [(16, 0.0), (16, 0.11)]


def test_attacks_have_the_same_name_on_every_network():
    """CPNI Table 4: PGD on the source, and PGD-s on the smoothed source; in folders with any name."""
    found = [("cpni", "a", 0, 50), ("cpni", "b", 0.02, 60), ("pni", "b", 0, 40), ("adv", "c", 0.02, 30)]
    rows = inference_table(
        [
            sweep(f"{network}/{folder}", "pgd", [0.0], [4], {0.0: share}, network, sigma=sigma)
            for network, folder, sigma, share in found
        ]
    ).rows
    shares = {(row["run"], key): row[key] for row in rows for key in row if key.endswith("accuracy")}
    assert shares == {
        (network, f"pgd sigma={sigma} accuracy"): share / 100 for network, _, sigma, share in found
    }


def test_a_sweep_on_fewer_images_has_a_row_of_its_own():
    """Nor is the best accuracy chosen among both."""
    clean = sweep("a/clean", "none", [0.0, 0.1], [4], {0.0: 45, 0.1: 30}, images=60)
    table = inference_table([clean, sweep("a/pgd", "pgd", [0.0], [4], {0.0: 3}, images=6),
                             sweep("b/clean", "none", [0.0], [4], {0.0: 6}, "pni", images=6)])  # fmt: skip
    told = [(row["images"], row.get("clean accuracy"), row.get("pgd accuracy")) for row in table.rows]
    assert told == [(60, 0.75, None), (60, 0.5, None), (6, None, 0.5), (6, 1.0, None)]
    column = next(column for column in table.columns if column.key == "clean accuracy")
    assert [table.is_best(column, row) for row in table.rows][:2] == [True, False]


def test_no_measurement_replaces_another_with_its_name_and_its_folders_name():
    """Two sweeps have a job 0 each: they are named by the settings in which they differ, or numbered."""
    shares = {0.0: 90}, {0.0: 30}, {0.0: 20}
    steps = [sweep(f"{name}/0", "pgd", [0.0], [4], share, steps=count)
             for name, share, count in zip("abc", shares, (3, 100, 100), strict=True)]  # fmt: skip
    (row,) = inference_table(steps).rows
    found = {key.removesuffix(" accuracy"): row[key] for key in row if key.endswith("accuracy")}
    assert found == {"pgd steps=3": 0.9, "pgd steps=100 (1)": 0.3, "pgd steps=100 (2)": 0.2}


def test_no_column_compares_attacks_with_other_settings_on_two_networks():
    runs = [sweep(f"{name}/pgd", "pgd", [0.0], [4], {0.0: 50}, name, steps=steps)
            for name, steps in (("cpni", 3), ("pni", 50))]  # fmt: skip
    found = [[key for key in row if key.endswith("accuracy")] for row in inference_table(runs).rows]
    assert found == [["pgd steps=3 accuracy"], ["pgd steps=50 accuracy"]]


def test_a_transfer_is_named_by_its_source_on_every_network(tmp_path):
    """Which has another place in the config of a measurement than in that of an attack."""
    sources = {name: write_training(tmp_path / "from" / name, name) for name in ("a", "b", "c")}
    for method, used in (("gaussian", "ab"), ("heat", "bc"), ("cons", "b")):
        trained = write_training(tmp_path / method, method)
        for source in used:
            measure = {"attack": {"steps": 3}, "source": {"checkpoint": str(sources[source])}}
            config = {"checkpoint": str(trained), "seed": 0, "measure": measure}
            folder = trained / f"from_{source}"
            (folder / ".hydra").mkdir(parents=True)
            (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
            hydra = {"hydra": {"runtime": {"choices": {"attack@measure.attack": "pgd"}}}}
            (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
            rows = [[image, image % 10, 0.0, "hard", 4, 0, image % 2] for image in range(10)]
            write_log(folder / "smoothed_inference.tsv", LOGGED, rows)
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    assert {one.run.facts["source"] for one in evaluations.measurements} == {"a", "b", "c"}
    table = inference_table(evaluations.measurements)
    found = {row["run"]: {key for key in row if key.endswith("accuracy")} for row in table.rows}
    assert found == {
        method: {f"pgd source={source} accuracy" for source in used}
        for method, used in (("gaussian", "ab"), ("heat", "bc"), ("cons", "b"))
    }


def test_a_network_on_other_images_renames_no_column_and_its_rows_say_which_images():
    """As many images each."""
    table = inference_table(
        [
            sweep("a/clean", "none", [0.0], [4], {0.0: 90}),
            sweep("a/validation", "none", [0.0], [4], {0.0: 50}, at=2),
            sweep("b/sweep", "none", [0.0], [4], {0.0: 95}, "pni"),
        ]
    )
    assert [row["clean accuracy"] for row in table.rows] == [0.9, 0.5, 0.95]
    data = next(column for column in table.used if column.key == "data_set")
    assert [data.text(row) for row in table.rows] == [f"digits, image set {at}" for at in (1, 2, 1)]


def test_measurements_on_other_images_keep_their_own_rows_and_numbers():
    whole = sweep("a/0", "none", [0.0], [4], {0.0: 54}, images=60)
    table = inference_table([whole, sweep("b/0", "none", [0.0], [4], {0.0: 6}, images=20)])
    assert [(row["images"], row["clean accuracy"]) for row in table.rows] == [(60, 0.9), (20, 0.3)]


def test_a_level_that_lacks_images_is_left_out_and_named():
    """Its accuracy is one over other images than that of the other seeds."""
    whole, part = (sweep(folder, "none", [0.0, 0.5], [4], {0.0: 90, 0.5: 50}) for folder in "ab")
    part = replace(part, rows=part.rows[(part.rows["sigma"] == 0) | (part.rows["idx"] < 50)])
    assert [row["sigma"] for row in inference_table([whole]).rows] == [0.0, 0.5]
    assert [row["sigma"] for row in inference_table([part]).rows] == [0.0]
    (message,) = unfinished([whole, part])
    assert "b: smoothed inference has not all images at 1 of 2 settings" in message
