"""Which results may be compared, and what one table contains about one classifier."""

import json
import shutil
from types import SimpleNamespace

import numpy as np
import pytest
import yaml
from scipy import stats

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations, write_report
from robustsmooth.report.build import _not_averaged
from robustsmooth.report.comparable import doubled_seeds, incomplete, repetitions, unlike_seeds
from robustsmooth.report.facts import _facts_of_images
from robustsmooth.report.figures import draw_figures
from robustsmooth.report.latex import _panels, as_latex
from robustsmooth.report.markup import as_markdown
from robustsmooth.report.table import plain_rows
from robustsmooth.report.tables import too_few_votes, unknown_methods
from robustsmooth.report.tables.attacked import titled
from robustsmooth.report.tables.common import asked_radii, over_seeds
from robustsmooth.report.terminal import columns_that_fit, show

from .conftest import (
    CERTIFY,
    certify_rows,
    write_at_radii,
    write_attack,
    write_certification,
    write_log,
    write_training,
)


def read(entries):
    return read_evaluations(label_runs(find_runs(entries)))


def tables_of(entries, **options):
    return {table.name: table for table in build_tables(read(entries), **options)}


def acr_of(folder):
    lines = [line.split("\t") for line in (folder / "certify.tsv").read_text().splitlines()[1:]]
    return sum(float(line[3]) * int(line[4]) for line in lines) / len(lines)


def foreign(path, data, images=60, shift=0, sigma=0.25, **drawn):
    """A log in the format of published code; `shift` gives it the labels of another data set."""
    rows = [[i, (y + shift) % 10, (p + shift) % 10 if p >= 0 else p, r, c, t]
            for i, y, p, r, c, t, *_ in certify_rows(images, sigma=sigma, **drawn)]  # fmt: skip
    write_log(path, CERTIFY[:6], rows)
    return {"path": str(path), "method": "cohen", "sigma": sigma, **({"data": data} if data else {})}


def write_bound(folder, trained, **drawn):
    """The folder of a bound without votes."""
    write_certification(folder, trained, guarantee="l2-lbound-assumed", **drawn)
    for file in (folder / ".hydra" / "config.yaml", folder / "certify.settings.json"):
        file.write_text(file.read_text().replace("n: 1000", "n: 0").replace('"n": 1000', '"n": 0'))
    return folder


@pytest.mark.parametrize("with_training", [True, False])
def test_each_certification_of_a_checkpoint_is_a_row_of_its_own(tmp_path, with_training):
    """Three noise levels with two numbers of votes: none replaces another."""
    trained = write_training(tmp_path / "a")
    folders = [
        write_certification(trained / name, trained, sigma=sigma, n=n, strength=strength, seed=at)
        for at, (name, sigma, n, strength) in enumerate(
            [("x", 0.25, 1000, 1.0), ("w", 0.5, 1000, 1.5), ("y", 0.12, 1000, 2.0), ("z", 0.25, 200, 1.0)]
        )
    ]
    write_attack(trained / "attack", trained, sigma=0.5)
    entries = str(tmp_path) if with_training else [str(trained / name / "certify.tsv") for name in "xwyz"]
    rows = tables_of(entries)["overview"].rows
    assert sorted(row["acr"] for row in rows) == pytest.approx(sorted(map(acr_of, folders)))
    labels = {row["acr"]: row["classifier"] for row in rows}
    for folder, words in zip(folders, (["σ=0.25", "n=1000"], ["σ=0.5"], ["σ=0.12"], ["n=200"]), strict=True):
        assert all(word in labels[acr_of(folder)] for word in words), labels
    if with_training:  # the attack is of the classifier at one level
        attacked = [row for row in rows if any("ε=0.5" in key and row[key] is not None for key in row)]
        assert ["σ=0.5" in row["classifier"] for row in attacked] == [True]


def test_certifications_with_other_votes_or_images_share_no_row_of_the_overview(tmp_path):
    """Each with its own n and number of images; a bound without votes is in all of them with its images."""
    trained = write_training(tmp_path / "a")
    write_certification(trained / "cohen", trained)
    for name, guarantee, settings in (
        ("radii", "l2-at-radii-certificate", {"n": 10_000}),
        ("radius", "l2-at-radius-certificate", {"n": 10_000}),
        ("top5", "l2-top5-certificate", {"alpha": 0.01}),
        ("votes", "l2-top5-votes-certificate", {"images": 20}),
    ):
        write_certification(trained / name, trained, guarantee=guarantee, **settings)
    write_bound(trained / "bound", trained)
    evaluations = read(str(tmp_path))
    assert evaluations.problems == []
    table = next(table for table in build_tables(evaluations) if table.name == "overview")
    assert [(row["n"], row["alpha"], row["images"]) for row in table.rows] == [
        (1000, 0.001, 60), (10_000, 0.001, 60), (1000, 0.01, 60), (1000, 0.001, 20),
    ]  # fmt: skip
    kinds = ("acr", "at-radii", "at-radius", "top5-certificate", "top5-votes", "lbound")
    found = [[kind for kind in kinds if any(kind in key for key in row)] for row in table.rows]
    assert found == [
        ["acr", "lbound"],
        ["acr", "at-radii", "at-radius", "lbound"],
        ["acr", "top5-certificate", "lbound"],
        ["acr", "top5-votes"],
    ]
    assert {"n", "alpha"} <= {column.key for column in table.used}


def test_a_second_certification_of_one_seed_takes_no_mean_from_a_bound_without_votes(tmp_path):
    bounds = []
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        bounds.append(acr_of(write_bound(trained / "bound", trained, seed=10 + seed)))
        if seed == 0:  # its folder comes first
            write_certification(trained / "again", trained, seed=seed, n=200)
    evaluations = read(str(tmp_path))
    rows = {row["n"]: row for row in build_tables(evaluations)[0].rows}
    assert (rows[1000]["seeds"], rows[200]["seeds"]) == (3, 1)
    key = "acr l2-lbound-assumed"
    assert (rows[1000][key], rows[200][key]) == pytest.approx((np.mean(bounds), bounds[0]))
    assert evaluations.problems == []


def test_attacks_that_differ_in_their_steps_have_columns_of_their_own(tmp_path):
    trained = write_training(tmp_path / "a")
    for name, steps, seed in (("few", 2, 0), ("many", 200, 1)):
        folder = write_attack(trained / name, trained, seed=seed)
        config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
        config["attack"]["steps"] = steps
        (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
        (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {attack: pgd_l2}}}")
    (row,) = tables_of(str(tmp_path))["overview"].rows
    shares = [value for key, value in row.items() if "ε=0.5" in key]
    assert len(shares) == 2
    assert any("steps=200" in key for key in row)


def test_runs_that_differ_only_in_their_seed_are_one_row_of_means(tmp_path):
    acrs = []
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / f"a{seed}", seed=seed)
        acrs.append(acr_of(write_certification(trained / "certify", trained, seed=seed)))
    table = tables_of(str(tmp_path))["overview"]
    (row,) = table.rows
    assert (row["classifier"], row["seeds"]) == ("gaussian", 3)
    assert (row["acr"], row["acr_std"]) == pytest.approx((np.mean(acrs), np.std(acrs, ddof=1)))
    assert next(column for column in table.columns if column.key == "acr").text(row) == (
        f"{np.mean(acrs):.3f} ± {np.std(acrs, ddof=1):.3f}"
    )


@pytest.mark.parametrize("relative", [True, False])
def test_the_start_of_each_seed_does_not_count_as_a_setting(tmp_path, relative):
    """A fine-tuning starts from the network of its own seed.

    A relative path is resolved from the directory in which the training was started.
    """
    for seed in (0, 1):
        first = write_training(tmp_path / f"natural-{seed}", seed=seed)
        start = first.name if relative else str(first)
        method = {"start": start, "targets": start}
        trained = write_training(tmp_path / f"tuned-{seed}", seed=seed)
        config = yaml.safe_load((trained / ".hydra" / "config.yaml").read_text())
        config |= {"start": {"tuned": start}, "method": {**config["method"], **method}}
        config["model"] = {**(config.get("model") or {}), "denoiser_checkpoint": start}
        hydra = {"hydra": {"runtime": {"cwd": str(tmp_path)}}}
        (trained / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
        (trained / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
        write_certification(trained / "certify", trained, seed=seed)
    (row,) = tables_of(str(tmp_path))["overview"].rows
    assert row["seeds"] == 2


def test_runs_that_differ_in_a_setting_without_a_name_are_no_repetitions(tmp_path):
    """Another seed *and* another weight: the facts are the same, the configs are not."""
    for seed, weight in ((0, 1.0), (1, 4.0)):
        trained = write_training(tmp_path / str(seed), seed=seed, loss={"robust_weight": weight})
        write_certification(trained / "certify", trained, seed=seed)
    tables = tables_of(str(tmp_path))
    assert "seeds" not in tables
    assert len(tables["overview"].rows) == 2


def test_several_certifications_of_one_network_are_no_seeds(tmp_path):
    """Their spread is that of the votes' noise: an interval over seeds would be far too short."""
    for method in ("gaussian", "heat"):
        trained = write_training(tmp_path / method, method)
        for seed in (0, 1, 2):
            folder = write_certification(trained / f"certify{seed}", trained, seed=seed)
            config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
            (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config | {"seed": seed}))
    tables = tables_of(str(tmp_path))
    assert "seeds" not in tables
    assert "seed_comparison" not in tables
    assert [row["seeds"] for row in tables["overview"].rows] == [1] * 6


def test_a_seed_that_is_there_twice_is_named(tmp_path):
    for name, seed in (("a", 0), ("b", 1), ("c", 1)):
        trained = write_training(tmp_path / name, seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
    certified = read(str(tmp_path)).certifications
    (message,) = doubled_seeds(certified)
    assert "no mean over the seeds of gaussian: seed 1 is there more than once" in message
    assert doubled_seeds(certified[:2]) == doubled_seeds(certified[1:]) == []


def test_a_seed_whose_certification_is_not_finished_is_left_out_of_the_mean(tmp_path):
    acrs = []
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / f"a{seed}", seed=seed)
        folder = write_certification(trained / "certify", trained, seed=seed, images=60 if seed < 2 else 25)
        acrs.append(acr_of(folder))
        if seed == 2:
            (folder / "certify.tsv").rename(folder / "certify.rank0.tsv")
    rows = {row.get("seeds", 1): row for row in tables_of(str(tmp_path))["overview"].rows}
    assert {seeds: row["images"] for seeds, row in rows.items()} == {2: 60, 1: 25}
    assert rows[2]["acr"] == pytest.approx(np.mean(acrs[:2]))
    assert "seed=2" in rows[1]["classifier"]


def test_the_envelope_keeps_data_sets_and_splits_apart(tmp_path):
    """Accuracies on CIFAR-10 must not appear under ImageNet, nor those on training images elsewhere."""
    entries = [
        foreign(tmp_path / "cifar_a", "cifar10", strength=2.0, seed=1),
        foreign(tmp_path / "cifar_b", "cifar10", strength=1.5, seed=2, sigma=0.5),
        foreign(tmp_path / "imagenet_a", "imagenet", shift=3, strength=0.5, seed=3),
        foreign(tmp_path / "imagenet_b", "imagenet", shift=3, strength=0.2, seed=4, sigma=0.5),
        foreign(tmp_path / "train_a", "cifar10", shift=5, strength=3.0, seed=5),
        {**foreign(tmp_path / "val", "cifar10", strength=3.0, seed=6), "split": "validation"},
    ]
    rows = tables_of(entries, radii=[0.0])["envelope"].rows
    assert {(row["data_set"], row["runs"]) for row in rows} == {
        ("cifar10, images 1", 2), ("cifar10, images 2", 1), ("cifar10 (validation)", 1), ("imagenet", 2),
    }  # fmt: skip
    names = [drawing.name for drawing in draw_figures(read(entries)) if drawing.name.startswith("envelope")]
    assert len(names) == len(set(names)) == 4  # two kinds for each data set with two noise levels
    best = tables_of(entries, radii=[0.0])["certified_accuracy"]
    marked = [row["data_set"] for row in best.rows if best.is_best(best.columns[-1], row)]
    assert sorted(set(marked)) == ["cifar10, images 1", "imagenet"]


@pytest.mark.parametrize(
    ("first", "second", "shift", "pairs"),
    [
        ("cifar10", "cifar10", 0, 1),
        ("cifar10", "imagenet", 3, 0),
        ("cifar10", "cifar10", 3, 0),
        (None, None, 0, 0),
    ],
)
def test_only_the_same_images_are_paired(tmp_path, first, second, shift, pairs):
    entries = [foreign(tmp_path / "a", first, seed=1), foreign(tmp_path / "b", second, shift=shift, seed=2)]
    tables = tables_of(entries)
    assert len(tables["comparison"].rows if "comparison" in tables else []) == pairs


def test_the_reason_is_given_if_logs_are_not_paired(tmp_path, capsys):
    write_report(
        [foreign(tmp_path / name, None, seed=1) for name in "ab"], tmp_path / "out", formats=["terminal"]
    )
    assert "their data set is not known; give it beside the path" in " ".join(capsys.readouterr().out.split())


def test_a_test_of_one_radius_has_no_acr_and_no_curve(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "certify", trained)
    write_at_radii(trained / "fixed", trained, {"radius": 0.25})
    tables = tables_of(str(tmp_path))
    (row,) = tables["overview"].rows
    fixed = {key: value for key, value in row.items() if "at-radius" in key}
    assert list(fixed) == ["certified_acc@0.25 l2-at-radius-certificate"]
    at = tables["certified_accuracy_l2_at_radius_certificate"].used
    assert [column.key for column in at if "acc@" in column.key] == ["certified_acc@0.25"]
    assert "acr" not in {column.key for column in tables["radii_l2_at_radius_certificate"].used}
    assert [item.name for item in draw_figures(read(str(tmp_path))) if "radius" in item.name] == []


def test_the_best_of_the_overview_is_one_of_comparable_runs(tmp_path):
    """Neither other votes nor another data set make a classifier the best."""
    for name, data, n, strength in (
        ("a", "digits", 1000, 1.0),
        ("b", "digits", 1000, 0.6),
        ("c", "digits", 5000, 2.0),
        ("d", "mnist", 1000, 3.0),
    ):
        trained = write_training(tmp_path / name, name, data=data)
        write_certification(trained / "certify", trained, n=n, strength=strength)
    table = tables_of(str(tmp_path))["overview"]
    acr = next(column for column in table.columns if column.key == "acr")
    assert [row["classifier"].split()[0] for row in table.rows if table.is_best(acr, row)] == ["a"]


def test_each_column_of_the_overview_marks_the_best_of_what_is_compared_in_it(tmp_path):
    """Other radii are never compared, nor are attacks: the better number may be of the weaker attack."""
    for name, radii, strength, steps in (
        ("a", [0.1, 0.3], 0.5, 20),
        ("b", [0.1, 0.3], 1.0, 20),
        ("c", [0.1, 0.4], 2.0, 2),
    ):
        trained = write_training(tmp_path / name, name)
        change(write_attack(trained / "pgd", trained, seed=int(strength)), "attack", steps=steps)
        write_certification(trained / "certify", trained)
        write_at_radii(trained / "radii", trained, {"radii": radii}, strength=strength)
    table = tables_of(str(tmp_path))["overview"]
    at_radius = "certified_acc@0.1 l2-at-radii-certificate"
    best = {
        column.key: [row["classifier"] for row in table.rows if table.is_best(column, row)]
        for column in table.columns
    }
    assert best[at_radius] == ["b"]
    assert max(table.rows, key=lambda row: row[at_radius])["classifier"] == "c"
    assert not [names for key, names in best.items() if key.startswith("pgd") and names]


def partial(top):
    """Two finished runs, and one of the best four images of a third: it will not stay that good."""
    for method, strength, images in (("gaussian", 1.0, 60), ("heat", 1.6, 60), ("macer", 9.0, 4)):
        trained = write_training(top / method, method)
        folder = write_certification(trained / "certify", trained, strength=strength, images=images)
    (folder / "certify.tsv").rename(folder / "certify.rank0.tsv")
    return str(top)


def test_a_run_on_a_few_images_is_not_the_best_of_those_on_all(tmp_path):
    """Neither in bold, nor as the first of every pair, nor in the envelope."""
    tables = tables_of(partial(tmp_path), radii=[0.0, 0.2])
    for name in ("overview", "certified_accuracy", "radii"):
        table = tables[name]
        acr = next(column for column in table.columns if column.key == "acr")
        best = [row for row in table.rows if table.is_best(acr, row)]
        assert [row["images"] for row in best] == [60], name
        assert max(row["acr"] for row in table.rows) > best[0]["acr"]
    assert "best" not in tables  # two on the same images, and one on others: nothing to choose from
    pairs = tables["comparison"].rows
    assert [(row["first"], row["second"], row["images"]) for row in pairs] == [
        ("heat", "gaussian", 60), ("heat", "macer", 4),
    ]  # fmt: skip
    for name in ("heat", "macer"):
        trained = write_training(tmp_path / f"{name}-wide", name, sigma=0.5)
        images = 60 if name == "heat" else 4
        write_certification(trained / "certify", trained, sigma=0.5, strength=1.0, images=images)
    evaluations = read(str(tmp_path))
    rows = {table.name: table for table in build_tables(evaluations)}["envelope"].rows
    assert {(row["method"], row["images"], row["runs"]) for row in rows} == {
        ("gaussian", 60, 1), ("heat", 60, 2), ("macer", 4, 2),
    }  # fmt: skip
    (drawing,) = (item for item in draw_figures(evaluations) if item.name == "envelope")
    labels = {line.get_label() for line in drawing.figure().axes[0].get_lines()}
    assert labels == {"gaussian (1 run)", "heat (2 runs)"}
    assert "on other images: macer 0.5, macer 0.25." in drawing.note


def test_images_in_another_order_are_the_same_images(tmp_path):
    for name, strength in (("a", 1.0), ("b", 1.5)):
        trained = write_training(tmp_path / name, name)
        log = write_certification(trained / "certify", trained, strength=strength) / "certify.tsv"
    header, *lines = log.read_text().splitlines()
    log.write_text("\n".join([header, *reversed(lines)]) + "\n")
    first, second = read(str(tmp_path)).certifications
    assert first.image_set == second.image_set
    entries = [foreign(tmp_path / f"log{shift}", "digits", shift=shift) for shift in (0, 1)]
    entries.append(foreign(tmp_path / "again", "digits"))
    again, same, other = (item.image_set for item in read(entries).certifications)
    assert again == same != other  # the labels are those of another data set


def test_an_acr_is_not_shown_without_p_a(tmp_path):
    """Not even if p_A is not known, and not where few columns fit."""
    (tmp_path / "a").mkdir()
    entry = {**foreign(tmp_path / "a" / "log", "digits"), "sigma": None}
    tables = tables_of(entry)
    for name in ("certified_accuracy", "radii"):
        keys = [column.key for column in tables[name].used]
        assert keys[keys.index("acr") + 1] == "sure", name
        assert {row["sure"] for row in tables[name].rows} == {None}
    assert "certificate/sure" in tables["radii"].frame()
    many = tables_of(partial(tmp_path / "b"))
    for table in (*tables.values(), *many.values()):
        for width in range(20, 200, 5):
            shown = {column.key for column in columns_that_fit(table, width)}
            for value, beside in (("acr", "sure"), ("acr_difference", "sure_difference")):
                assert (value in shown) == (beside in shown), (table.name, width)
        for panel in _panels(table):
            keys = {column.key for column in panel}
            assert ("acr" in keys) == ("sure" in keys), table.name
    assert "acr" in {column.key for column in columns_that_fit(many["overview"], 80)}


def test_it_is_said_when_p_a_is_not_known_and_when_nothing_can_be_restated(tmp_path, capsys):
    entry = {**foreign(tmp_path / "log", "digits"), "sigma": None}
    write_report(entry, tmp_path / "out", formats=["terminal"], restate=500)
    said = " ".join(capsys.readouterr().out.split())
    assert "p_A of cohen is not known, without which an ACR says little" in said
    assert "nothing is restated at 500 votes" in said


def test_a_difference_has_its_interval_wherever_it_is_printed(tmp_path, capsys):
    for method, strength in (("heat", 1.6), ("gaussian", 1.0)):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained, strength=strength)
    write_report(str(tmp_path), tmp_path / "out", formats=["terminal", "tables"])
    (row,) = tables_of(str(tmp_path))["comparison"].rows
    counted = [item.counted for item in read(str(tmp_path)).certifications]
    expected = stats.ttest_rel(counted[1], counted[0]).confidence_interval()
    assert (row["acr_low"], row["acr_high"]) == pytest.approx(tuple(expected))
    text = f"{row['acr_low']:+.3f} to {row['acr_high']:+.3f}"
    assert text in capsys.readouterr().out
    for suffix in ("md", "tex"):
        assert text in (tmp_path / "out" / "tables" / f"comparison.{suffix}").read_text(), suffix
    sure = [np.nan_to_num(item.p_a_counted) >= 0.9 for item in read(str(tmp_path)).certifications]
    assert row["sure_difference"] == pytest.approx(np.mean(sure[1]) - np.mean(sure[0]))


def test_a_radius_that_was_not_tested_has_no_accuracy(tmp_path):
    """A test of r = 0.25 says nothing about 0.5: 0 % would be a result, and a wrong one."""
    asked = {"a": {"radius": 0.25}, "b": {"radius": 0.5}, "c": {"radii": [0.25, 0.75]}, "d": {"radii": None}}
    for name, of in asked.items():
        trained = write_training(tmp_path / name, name)
        write_at_radii(trained / "certify", trained, of, strength=2.5)
    tables = tables_of(str(tmp_path))
    keys = ("certified_acc@0.25", "certified_acc@0.5")
    one, some = (tables[f"certified_accuracy_l2_at_{kind}_certificate"] for kind in ("radius", "radii"))
    assert [[row.get(key) is not None for key in keys] for row in one.rows] == [[True, False], [False, True]]
    assert [row.get(keys[0]) is not None for row in some.rows] == [True, True]
    assert "sure" not in {column.key for table in (one, some) for column in table.used}


def test_a_radius_that_no_image_reached_has_an_accuracy_of_zero(tmp_path):
    """In the overview too, with a mean over seeds; at radii that another run asked for it is not known."""
    for name, radii, strengths in (
        ("a", [0.0, 0.25, 0.55], (-1.0, -9.0)),
        ("b", [0.0, 0.25, 0.55], (1.0, 2.0)),
        ("c", [0.0, 0.3], (2.0, 2.0)),
    ):
        for seed, strength in enumerate(strengths):
            trained = write_training(tmp_path / f"{name}{seed}", name, seed=seed)
            write_at_radii(trained / "certify", trained, {"radii": radii}, strength=strength)
    evaluations = read(str(tmp_path))
    tables = {table.name: table for table in build_tables(evaluations)}
    keys = [f"certified_acc@{radius:g} l2-at-radii-certificate" for radius in (0, 0.25, 0.55)]
    shares = [[row.get(key) for key in keys] for row in tables["overview"].rows]
    assert [row["seeds"] for row in tables["overview"].rows] == [2, 2, 2]
    assert shares[0][2] == 0 < shares[1][2]
    assert None not in shares[0] + shares[1]
    assert [share is None for share in shares[2]] == [False, True, True]
    assert evaluations.problems == []


def test_certificates_at_the_same_radii_are_compared_with_each_other_alone(tmp_path):
    """At the middle one of their radii, without an ACR; not with other radii, n or certificates."""
    for at, (name, radii) in enumerate(
        (("a", [0, 0.25, 0.5]), ("b", [0.0, 0.25, 0.5]), ("c", [0, 0.25, 0.5]), ("other", [0.25, 0.5]))
    ):
        trained, drawn = write_training(tmp_path / name, name), {"seed": at, "strength": 2 - 0.5 * at}
        write_at_radii(trained / "radii", trained, {"radii": radii}, **drawn)
        write_certification(trained / "certify", trained, **drawn)
        if name in "ab":
            write_at_radii(trained / "more", trained, {"radii": radii}, n=2000, **drawn)
            write_at_radii(trained / "one", trained, {"radius": 0.125}, **drawn)
    rows = [row for row in tables_of(str(tmp_path))["comparison"].rows if "acr_difference" not in row]
    pairs = {(*sorted([row["first"][0], row["second"][0]]), row["n"], row["radius"]): row for row in rows}
    assert set(pairs) == {("a", "b", 1000, 0.25), ("a", "c", 1000, 0.25), ("a", "b", 2000, 0.25),
                          ("a", "b", 1000, 0.125)}  # fmt: skip
    assert len(rows) == len(pairs)
    assert not any("sure_difference" in row for row in rows)

    def certified(name):
        lines = (tmp_path / name / "radii" / "certify.tsv").read_text().splitlines()[1:]
        return [line.split("\t")[4] == "1" and float(line.split("\t")[3]) >= 0.25 for line in lines]

    pair = pairs["a", "c", 1000, 0.25]
    both = zip(certified(pair["first"][0]), certified(pair["second"][0]), strict=True)
    assert pair["only_first"] == sum(first and not second for first, second in both)


def test_no_pair_is_compared_at_a_radius_that_nobody_tested(tmp_path):
    """If no image is certified; logs without a config do not say then at which radii they were tested."""
    entries = []
    for name in ("gaussian", "heat"):
        trained = write_training(tmp_path / name, name)
        folder = write_at_radii(trained / "certify", trained, {"radii": [0.25, 0.5]}, strength=-9)
        log = shutil.copy(folder / "certify.tsv", tmp_path / f"{name}.tsv")
        entries.append({"path": str(log), "data": "digits", "guarantee": "l2-at-radii-certificate"})
    (row,) = tables_of(str(tmp_path / "*" / "certify"))["comparison"].rows
    assert (row["radius"], row["p_value"]) == (0.5, 1)
    assert "comparison" not in tables_of(entries)


def test_certificates_at_given_radii_are_no_repetitions_of_others(tmp_path):
    """Of logs without a config, the rows alone say which is which."""
    entries = [{**foreign(tmp_path / f"{seed}", "digits"), "seed": seed} for seed in (0, 1)]
    log = tmp_path / "1"
    header, *lines = log.read_text().splitlines()
    rows = [f"{line}\tl2-at-radii-certificate" for line in lines]
    log.write_text("\n".join([f"{header}\tguarantee", *rows]) + "\n")
    assert [len(group) for group in repetitions(read(entries).certifications)] == [1, 1]


def test_certificates_at_given_radii_have_means_over_seeds_without_an_acr(tmp_path):
    """And are among the best at the radii that they tested, and no others."""
    for name, strength in (("a", 2.0), ("b", 1.5), ("c", 1.0)):
        for seed in (0, 1):
            trained = write_training(tmp_path / f"{name}{seed}", name, seed=seed)
            drawn = {"strength": strength, "seed": seed}
            write_at_radii(trained / "radii", trained, {"radii": [0, 0.25, 0.5]}, **drawn)
            if name == "a":
                write_certification(trained / "certify", trained, **drawn)
    evaluations = read(str(tmp_path))
    tables = {table.name: table for table in build_tables(evaluations)}
    ours = [row for row in tables["seeds"].rows if "0.5" in row["procedure"]]
    assert [row["seeds"] for row in ours] == [2, 2, 2]
    assert {key for key in ours[0] if "acc@" in key and not key.endswith("_std")} == {
        f"certified_acc@{radius:g}" for radius in (0, 0.25, 0.5)
    }
    members = [item for item in evaluations.certifications if item.run.path.parent.name in ("b0", "b1")]
    assert ours[1]["certified_acc@0.25"] == pytest.approx(
        np.mean([item.correct & (item.radius >= 0.25) for item in members])
    )
    usual = next(row for row in tables["seeds"].rows if row not in ours)
    assert all("acr" not in row for row in ours)
    assert usual["acr"] > 0
    assert usual["certified_acc@0.25"] > 0
    differences = [row for row in tables["seed_comparison"].rows if "0.5" in row["procedure"]]
    assert [row["radius"] for row in differences] == [0.25, 0.25]
    assert not any("acr_difference" in row for row in differences)
    assert differences[0]["at_difference"] == pytest.approx(
        ours[0]["certified_acc@0.25"] - ours[1]["certified_acc@0.25"]
    )
    assert {row["radius"] for row in tables["best"].rows if "0.5" in row["procedure"]} <= {0, 0.25, 0.5}
    assert "have no ACR" in tables["seeds"].notes
    (drawing,) = (item for item in draw_figures(evaluations) if "at_radii" in item.name)
    for line in drawing.figure().axes[0].get_lines():
        assert [*line.get_xdata()] == [0, 0.25, 0.5]


def test_no_row_has_dashes_alone(tmp_path):
    """If none of the radii of a table is one that was tested; the best run is named at those that were."""
    for name in ("a", "b", "c"):
        for seed in (0, 1):
            trained = write_training(tmp_path / f"{name}{seed}", name, seed=seed, data="cifar10")
            write_at_radii(trained / "one", trained, {"radius": 0.3}, seed=seed)
            write_certification(trained / "certify", trained, seed=seed)
    other = write_training(tmp_path / "wide", "a", sigma=0.5, data="cifar10")
    write_at_radii(other / "one", other, {"radius": 0.3}, sigma=0.5)
    write_certification(other / "certify", other, sigma=0.5)
    tables = tables_of(str(tmp_path), radii=[0.0, 0.25], published="cifar10")
    for name in ("seeds", "envelope"):
        assert {row["procedure"] for row in tables[name].rows} == {"Cohen"}, name
    ours = [row for row in tables["published"].rows if row["source"] == "here"]
    assert [row["run"] for row in ours] == ["a 0.25", "b 0.25", "c 0.25", "a 0.5"]
    assert {row["radius"] for row in tables["best"].rows} == {0, 0.25, 0.3}


def test_an_assumed_bound_is_marked_beside_its_numbers(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "bound", trained, guarantee="l2-lbound-assumed")
    for table in tables_of(str(tmp_path)).values():
        if table.name.endswith("assumed"):
            assert "assumption" in table.title
            assert "ertified" not in table.title
            assert "Gaussian average" in table.note
    (drawing,) = (item for item in draw_figures(read(str(tmp_path))) if item.name.startswith("certified"))
    assert "assumption" in drawing.title
    assert "assumption" in drawing.figure().axes[0].get_ylabel()


def test_a_run_has_the_same_name_colour_and_line_in_all_figures(runs):
    evaluations = read(str(runs))
    names = {}
    for run in evaluations.runs:
        names.setdefault(run.trained, set()).add(run.label)
    assert all(len(labels) == 1 for labels in names.values())
    looks, figures, envelopes = {}, {}, {}
    for drawing in draw_figures(evaluations):
        for line in drawing.figure().axes[0].get_lines():
            label = line.get_label().replace("σ=", "").removesuffix(" (1 run)")
            if label in {label for labels in names.values() for label in labels}:
                looks.setdefault(label, set()).add((line.get_color(), line.get_linestyle()))
                figures.setdefault(label, []).append(drawing.name)
            elif drawing.name == "envelope" and "under" not in label:
                envelopes[label] = (line.get_color(), line.get_linestyle())
    assert len(looks) == 4
    assert all(len(look) == 1 for look in looks.values()), looks
    assert len({next(iter(look))[0] for look in looks.values()}) == 4
    assert all({"certified_accuracy", "envelope_per_sigma"} <= {*drawn} for drawn in figures.values())
    best = {f"{method} (2 runs)": looks[f"{method} 0.5"] for method in ("gaussian", "heat")}
    assert {label: {look} for label, look in envelopes.items()} == best


def test_a_method_whose_runs_have_no_colour_gets_an_unused_one_in_the_envelopes(tmp_path):
    for at in range(9):
        method, sigma = ("weak", 0.25) if at == 8 else ("strong", 0.25 + 0.25 * (at % 2))
        trained = write_training(tmp_path / f"{at}", method, sigma, row=method, loss={"at": at})
        write_certification(trained / "certify", trained, sigma, strength=2.0 - 0.2 * at, seed=at)
    drawings = {drawing.name: drawing for drawing in draw_figures(read(str(tmp_path)))}
    for name, lines in (("envelope", 2), ("envelope_per_sigma", 3)):
        drawn = drawings[name].figure().axes[0].get_lines()
        assert len({(line.get_color(), line.get_linestyle()) for line in drawn}) == lines
        assert len({line.get_color() for line in drawn}) == lines


def test_a_line_belongs_to_one_classifier_where_one_is_certified_twice(tmp_path):
    for at in range(8):
        sigma = (0.25, 0.5)[at % 2]
        trained = write_training(tmp_path / f"{at}", f"method{at // 2}", sigma)
        write_attack(trained / "attack", trained, sigma=sigma, seed=at)
        for n in (1000, 10_000) if at == 1 else (1000,):
            write_certification(trained / f"n_{n}", trained, sigma, n=n, strength=2.0 - 0.1 * at, seed=at)
    figures = {
        drawing.name: {
            str(line.get_label()): (line.get_color(), line.get_linestyle())
            for line in drawing.figure().axes[0].get_lines()
        }
        for drawing in draw_figures(read(str(tmp_path)))
    }
    certified = figures["certified_accuracy"]
    (per_sigma,) = (
        lines for name, lines in figures.items() if name.startswith("envelope_per_sigma") and len(lines) == 8
    )
    (grey,) = {*per_sigma.values()} - {*certified.values()}
    assert [*per_sigma.values()].count(grey) == 1
    for name in ("attack_curves", "training"):
        assert len(figures[name]) == 7
        assert all(look == certified[f"{label} n=1000"] for label, look in figures[name].items()), name


def test_a_training_without_noise_has_the_line_of_its_certification(tmp_path):
    """Its label has no sigma, that of its certification has one."""
    for method, sigma in (("natural", 0.0), ("gaussian", 0.25)):
        trained = write_training(tmp_path / method, method, sigma=sigma)
        write_certification(trained / "certify", trained)
    drawings = {drawing.name: drawing for drawing in draw_figures(read(str(tmp_path)))}
    lines = {
        line.get_label(): (line.get_color(), line.get_linestyle())
        for name in ("certified_accuracy", "training")
        for line in drawings[name].figure().axes[0].get_lines()
    }
    assert lines["natural"] == lines["natural σ=0.25"] != lines["gaussian"]


def test_a_figure_says_what_it_leaves_out(tmp_path):
    for at in range(9):
        trained = write_training(tmp_path / f"{at}_m", method=f"method{at}")
        write_certification(trained / "certify", trained, strength=2.0 - 0.2 * at, seed=at)
    drawings = {drawing.name: drawing for drawing in draw_figures(read(str(tmp_path)))}
    for name in ("certified_accuracy", "lower_bounds", "training"):
        assert "method7, method8" in drawings[name].note, name
        labels = {line.get_label() for line in drawings[name].figure().axes[0].get_lines()}
        assert {f"method{at}" for at in range(7)} <= labels, name
        assert not {"method7", "method8"} & labels


def test_every_table_with_an_acr_has_the_distribution_of_p_a_beside_it(runs, tmp_path):
    trained = write_training(tmp_path / "again", seed=1)
    write_certification(trained / "certify", trained, seed=1)
    entries = [str(runs), str(tmp_path / "again"), foreign(tmp_path / "log", "digits")]
    assert "seeds" in tables_of(entries)
    for table in tables_of(entries).values():
        keys = {column.key for column in table.used}
        if keys & {"acr", "acr_mean", "acr mean±std"}:
            assert "sure" in keys, table.name
    assert "lower_bounds" in {drawing.name for drawing in draw_figures(read(entries))}


def test_methods_under_several_seeds_are_compared_over_images_and_seeds(tmp_path):
    for method, strength in (("heat", 1.6), ("gaussian", 1.0)):
        for seed in (0, 1, 2):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            drawn = seed + 10 * (method == "heat")
            images = 62 if method == "heat" else 60
            write_certification(trained / "certify", trained, strength=strength, seed=drawn, images=images)
    tables = tables_of(str(tmp_path), radii=[0.0, 0.25, 0.5])
    (row,) = tables["seed_comparison"].rows
    assert (row["first"], row["second"], row["seeds"]) == ("heat", "gaussian", "3 and 3")
    assert (row["images"], row["over"]) == (60, "images and seeds")
    values = {}
    for certification in read(str(tmp_path)).certifications:
        values.setdefault(certification.run.facts["method"], []).append(certification.counted[:60])
    expected = np.mean(values["heat"]) - np.mean(values["gaussian"])
    assert row["acr_difference"] == pytest.approx(expected)
    assert row["acr_difference_low"] < expected < row["acr_difference_high"]
    assert len(tables["seeds"].rows) == 2
    assert "comparison" not in tables  # pairs of single seeds would say the same again, many times


@pytest.mark.parametrize("of_ours", [True, False])
def test_two_variants_of_a_method_under_several_seeds_have_two_names(tmp_path, of_ours):
    entries = []
    for weight in (1, 4):
        for seed in (weight, weight + 1):
            folder = tmp_path / f"{weight}-{seed}"
            if of_ours:
                write_training(folder, seed=seed, loss={"robust_weight": weight})
                hydra = yaml.safe_load((folder / ".hydra" / "hydra.yaml").read_text())
                hydra["hydra"]["overrides"] = {"task": [f"loss.robust_weight={weight}", f"seed={seed}"]}
                (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
                write_certification(folder / "certify", folder, seed=seed)
                entries.append(str(folder))
            else:
                entries.append(foreign(folder / "log", "digits", seed=seed) | {"beta": weight, "seed": seed})
    tables = tables_of(entries)
    first, second = [
        f"gaussian (loss.robust_weight={weight})" if of_ours else f"cohen beta={weight}" for weight in (1, 4)
    ]
    assert [row["group"] for row in tables["seeds"].rows] == [first, second]
    assert [row["run"] for row in tables["certified_accuracy"].rows] == [
        f"{first} seed=1", f"{first} seed=2", f"{second} seed=4", f"{second} seed=5"
    ]  # fmt: skip
    (row,) = tables_of(entries, baseline=first)["seed_comparison"].rows
    assert (row["first"], row["second"]) == (second, first)
    drawings = draw_figures(read(entries))
    assert {line.get_label() for line in drawings[0].figure().axes[0].get_lines()} == {first, second}


def test_the_mean_over_named_logs_of_several_seeds_has_no_seed_in_its_name(tmp_path):
    entries = [
        {**foreign(tmp_path / f"{name}{seed}", "digits", seed=seed), "name": name, "seed": seed}
        for name in ("heat", "gaussian")
        for seed in (0, 1)
    ]
    (row,) = tables_of(entries)["seed_comparison"].rows
    assert {row["first"], row["second"]} == {"heat", "gaussian"}


def test_seeds_certified_at_two_noise_levels_have_two_names(tmp_path):
    for seed in (0, 1):
        trained = write_training(tmp_path / str(seed), seed=seed)
        for sigma in (0.25, 0.5):
            write_certification(trained / str(sigma), trained, sigma, seed=seed)
    groups = [row["group"] for row in tables_of(str(tmp_path))["seeds"].rows]
    assert groups == ["gaussian σ=0.25", "gaussian σ=0.5"]


def test_runs_under_several_seeds_are_one_line_of_every_figure(tmp_path):
    for method, strength in (("heat", 1.6), ("gaussian", 1.0)):
        for seed in (0, 1, 2):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, strength=strength, seed=seed)
            write_attack(trained / "pgd", trained, seed=seed)
    trained = write_training(tmp_path / "macer", "macer")
    write_certification(trained / "certify", trained)
    evaluations = read(str(tmp_path))
    drawings = {drawing.name: drawing for drawing in draw_figures(evaluations)}
    lines = {}
    for name in ("certified_accuracy", "lower_bounds", "empirical_certified", "training"):
        drawn = drawings[name].figure().axes[0].get_lines()
        lines[name] = {line.get_label(): line for line in drawn if line.get_label()[0] not in "_u"}
        single = ["macer"] if name != "empirical_certified" else []
        assert sorted(lines[name]) == ["gaussian", "heat", *single], name
    assert len({(line["heat"].get_color(), line["heat"].get_linestyle()) for line in lines.values()}) == 1
    grid, means = lines["certified_accuracy"]["heat"].get_data()
    ours = [item for item in evaluations.certifications if item.run.facts["method"] == "heat"]
    shares = [[np.mean(item.correct & (item.radius >= radius)) for radius in grid] for item in ours]
    assert means == pytest.approx(100 * np.mean(shares, axis=0))
    assert "one standard deviation" in drawings["certified_accuracy"].note


def test_the_luckiest_seed_is_not_the_best_run(tmp_path):
    """Seeds are no settings to choose among: at each radius the means are compared."""
    for method, strengths in (("gaussian", (1.0, 1.1)), ("heat", (4.0, 0.2)), ("macer", (1.4, 1.5))):
        for seed, strength in enumerate(strengths):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, strength=strength, seed=seed)
    single = {
        item.run.facts["classifier"]: item.accuracy([0.1])[0] for item in read(str(tmp_path)).certifications
    }
    assert max(single, key=single.get) == "heat seed=0"
    tables = tables_of(str(tmp_path), radii=[0.1])
    (row,) = tables["best"].rows
    assert (row["run"], row["runs"]) == ("macer", 3)
    assert row["accuracy"] == pytest.approx((single["macer seed=0"] + single["macer seed=1"]) / 2)
    assert "envelope" not in tables  # one setting of each method


def test_of_equal_runs_the_best_is_that_with_the_largest_acr_and_the_others_are_counted(tmp_path):
    entries = []
    for at, method in enumerate("abcd"):
        rows = [[i, i, i, (0.2, 0.3, 0.4, 0.1)[at], int(i < 9 - (at == 0)), 0.1] for i in range(10)]
        write_log(tmp_path / method, CERTIFY[:6], rows)
        entries.append({"path": str(tmp_path / method), "method": method, "data": "digits", "sigma": 0.25})
    rows = tables_of(entries, radii=[0.0, 0.25, 0.35])["best"].rows
    assert [row["run"] for row in rows] == ["c and 2 more", "c and 1 more", "c"]
    assert [row["acr"] for row in rows] == pytest.approx([0.36] * 3)


def test_the_luckiest_seed_is_not_the_envelope(tmp_path):
    """Neither certified nor under attack."""
    for sigma in (0.25, 0.5):
        for seed, strength in enumerate((2.0, 0.5)):
            trained = write_training(tmp_path / f"{sigma}-{seed}", sigma=sigma, seed=seed)
            write_certification(trained / "certify", trained, sigma=sigma, strength=strength, seed=seed)
            write_attack(trained / "pgd", trained, sigma=sigma, seed=seed)
    evaluations = read(str(tmp_path))
    (drawing,) = (item for item in draw_figures(evaluations) if item.name == "envelope")
    lines = {line.get_label(): line.get_data() for line in drawing.figure().axes[0].get_lines()}
    grid, drawn = lines["gaussian (2 runs)"]
    shares = {item.run.facts["sigma"]: [] for item in evaluations.certifications}
    for item in evaluations.certifications:
        shares[item.run.facts["sigma"]].append([np.mean(item.correct & (item.radius >= r)) for r in grid])
    assert drawn == pytest.approx(100 * np.max([np.mean(pair, axis=0) for pair in shares.values()], axis=0))
    held = {(item.run.facts["sigma"], item.epsilon): [] for item in evaluations.attacks}
    for item in evaluations.attacks:
        held[item.run.facts["sigma"], item.epsilon].append(100 * np.mean(~item.won))
    ((budgets, marks),) = (data for label, data in lines.items() if "under" in label)
    assert list(marks) == pytest.approx([max(np.mean(held[s, e]) for s in (0.25, 0.5)) for e in budgets])


def test_a_baseline_is_compared_with_every_other_classifier(tmp_path):
    for method, strength in (("heat", 1.6), ("gaussian", 1.0), ("macer", 1.3)):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained, strength=strength)
        for seed in (1, 2):
            trained = write_training(tmp_path / "more" / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, strength=strength, seed=seed)
    best = {row["second"]: row for row in tables_of(str(tmp_path / "*"))["seed_comparison"].rows}
    rows = tables_of(str(tmp_path / "*"), baseline="gaussian")["seed_comparison"].rows
    assert [(row["first"], row["second"]) for row in rows] == [("heat", "gaussian"), ("macer", "gaussian")]
    assert rows[0]["acr_difference"] == best["gaussian"]["acr_difference"]
    single = [str(tmp_path / method) for method in ("heat", "gaussian", "macer")]
    rows = tables_of(single, baseline="gaussian")["comparison"].rows
    assert [(row["first"], row["second"]) for row in rows] == [("heat", "gaussian"), ("macer", "gaussian")]
    wide = write_training(tmp_path / "wide", "sodm", sigma=0.5)
    write_certification(wide / "certify", wide, strength=0.5)
    rows = tables_of([*single, str(wide)], baseline="gaussian")["comparison"].rows
    assert {row["second"].split()[0] for row in rows} == {"gaussian"}  # the labels have levels now
    evaluations = read(single)
    tables = {table.name: table for table in build_tables(evaluations, baseline="cohen")}
    assert {row["first"] for row in tables["comparison"].rows} == {"heat"}
    (problem,) = evaluations.problems
    assert "no certified run is called 'cohen'" in problem
    assert "known are gaussian, heat, macer" in problem
    evaluations = read([str(write_training(tmp_path / "training"))])
    build_tables(evaluations, baseline="cohen")
    assert evaluations.problems == []  # nothing is certified, so nothing is compared


@pytest.mark.parametrize(
    ("record", "group", "setting", "named"),
    [
        ("certify.settings.json", "numerics", {"device": "cuda"}, ""),
        (".hydra/config.yaml", "certificate", {"batch_size": 512}, ""),
        (".hydra/config.yaml", "data", {"batch_size": 512, "subset": {"indices": "0:60"}}, ""),
        (".hydra/config.yaml", "numerics", {"precision": "bf16-mixed"}, "numerics.precision"),
        (".hydra/config.yaml", "certificate", {"n0": 50}, "certificate.n0"),
    ],
)
def test_seeds_may_be_certified_on_other_machines_but_not_with_other_settings(
    tmp_path, record, group, setting, named
):
    """What makes them no repetitions is named; other images are not, since the images are compared."""
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        folder = write_certification(trained / "certify", trained, seed=seed)
        file = folder / record
        content = {"data": {}, "numerics": {}, **yaml.safe_load(file.read_text())}
        content[group] |= setting if seed == 2 else {}
        file.write_text(json.dumps(content))  # also YAML
    certified = read(str(tmp_path)).certifications
    assert [len(group) for group in repetitions(certified)] == ([2, 1] if named else [3])
    said = f"gaussian seed=2 evaluated with other settings than gaussian seed=0 ({named})"
    assert unlike_seeds(certified) == ([f"no mean over all seeds of gaussian: {said}"] if named else [])


def test_variants_that_each_seed_has_are_no_odd_seeds(tmp_path):
    for seed in (0, 1):
        trained = write_training(tmp_path / str(seed), seed=seed)
        for n in (1000, 500):
            write_certification(trained / str(n), trained, n=n, seed=seed)
    assert unlike_seeds(read(str(tmp_path)).certifications) == []


def with_an_odd_seed(top):
    """Two methods under three seeds, of which one is certified on fewer images than the others."""
    for method, strength in (("gaussian", 1.6), ("heat", 1.0)):
        for seed in (0, 1, 2):
            trained = write_training(top / f"{method}{seed}", method, seed=seed)
            images = 40 if (method, seed) == ("gaussian", 2) else 60
            write_certification(trained / "certify", trained, strength=strength, seed=seed, images=images)
    return str(top)


@pytest.mark.parametrize(
    ("baseline", "pairs"),
    [
        (None, [("gaussian", "heat")]),
        ("gaussian", [("heat", "gaussian")]),
        ("gaussian seed=2", [("heat", "gaussian seed=2")]),
        ("heat", [("gaussian", "heat"), ("gaussian seed=2", "heat")]),
        ("all", [("gaussian", "heat"), ("heat", "gaussian seed=2")]),
    ],
)
def test_a_mean_over_seeds_and_an_odd_seed_are_two_baselines_and_no_pair(tmp_path, baseline, pairs):
    evaluations = read(with_an_odd_seed(tmp_path))
    tables = {table.name: table for table in build_tables(evaluations, baseline=baseline)}
    assert [(row["first"], row["second"]) for row in tables["seed_comparison"].rows] == pairs
    assert evaluations.problems == []


def test_a_network_certified_twice_is_compared_with_itself_only_if_its_settings_differ(tmp_path):
    """Other settings may be those of an ensemble of several networks, or of a denoiser before it."""
    trained = write_training(tmp_path / "heat", "heat", model={"network": "small"})
    for name, model, seed in (("first", "small", 0), ("again", "small", 1), ("ensemble", "three", 2)):
        folder = write_certification(trained / name, trained, seed=seed)
        change_config(folder, model={"network": model})
    bound = write_certification(trained / "bound", trained, guarantee="l2-lbound-assumed")
    change_config(bound, model={"network": "small"})
    tables = tables_of(str(tmp_path), baseline="all")
    rows = tables["comparison"].rows
    assert len(rows) == 2
    assert all("heat with another network" in f"{row['first']} {row['second']}" for row in rows)
    bounds = {row["classifier"]: "acr l2-lbound-assumed" in row for row in tables["overview"].rows}
    assert bounds == {"heat (first)": False, "heat (again)": True, "heat with another network": False}


def change_config(folder, **changes):
    path = folder / ".hydra" / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


def test_a_foreign_network_is_not_compared_with_itself_on_other_images(tmp_path):
    known = {"n": 1000, "alpha": 0.001}
    entries = [
        {**foreign(tmp_path / name, "cifar10", seed=1, images=images), "name": name.split("_")[0], **known}
        for name, images in (("resnet_all", 60), ("resnet_some", 30), ("vit_all", 60))
    ]
    rows = tables_of(entries, baseline="all")["comparison"].rows
    assert len(rows) == 2
    assert all("vit" in f"{row['first']} {row['second']}" for row in rows)
    assert "comparison" not in tables_of(entries[:2])


def test_a_baseline_that_all_runs_may_be_is_asked_for(tmp_path):
    for weight in (1, 2):
        trained = write_training(tmp_path / f"{weight}", "macer", loss={"robust_weight": weight})
        write_certification(trained / "certify", trained, seed=weight)
    evaluations = read(str(tmp_path))
    assert "comparison" not in {table.name for table in build_tables(evaluations, baseline="macer")}
    (problem,) = evaluations.problems
    assert "macer (1), macer (2); it may be any of them: give a label" in problem
    (row,) = tables_of(str(tmp_path), baseline="macer (2)")["comparison"].rows
    assert (row["first"], row["second"]) == ("macer (1)", "macer (2)")


def test_the_baseline_has_a_colour_in_the_figures_even_if_it_is_not_among_the_best(tmp_path):
    for position in range(9):
        trained = write_training(
            tmp_path / str(position), "smoothadv" if position else "gaussian", lr=position
        )
        write_certification(trained / "certify", trained, strength=1.0 + 0.2 * position)
    evaluations = read(str(tmp_path))
    drawn = {
        baseline: [
            line.get_label()
            for line in draw_figures(evaluations, baseline=baseline)[0].figure().axes[0].get_lines()
        ]
        for baseline in (None, "gaussian")
    }
    assert len(drawn[None]) == len(drawn["gaussian"]) == 7
    assert not any(label.startswith("gaussian") for label in drawn[None])
    assert drawn["gaussian"][-1].startswith("gaussian")  # in the order of the ACR, as the others


@pytest.mark.parametrize("images", [(10, 10), (10, 4)])
def test_the_luckiest_seed_and_an_unfinished_run_take_no_colour_from_better_ones(tmp_path, images):
    """Two runs of each of eight methods: that with the largest single ACR has the smallest mean."""
    entries = []
    for at, method in enumerate("abcdefgh"):
        for seed, radius in enumerate((0.1, 0.5) if method == "a" else (0.31 + 0.01 * at,) * 2):
            rows = [[i, i, i, radius, 1, 0.1] for i in range(images[seed] if method == "a" else 10)]
            write_log(tmp_path / f"{method}{seed}", CERTIFY[:6], rows)
            facts = {"method": method, "seed": seed, "data": "digits", "sigma": 0.25}
            entries.append({"path": str(tmp_path / f"{method}{seed}"), **facts})
    drawing = draw_figures(read(entries))[0]
    assert {line.get_label() for line in drawing.figure().axes[0].get_lines()} == {*"bcdefgh"}
    assert "In grey: a" in drawing.note


def test_of_several_baselines_the_one_at_the_same_noise_level_is_taken(tmp_path):
    """Not the one with the largest ACR, which would be another run than the reader thinks of."""
    strengths = {"gaussian": (1.0, 2.0), "heat": (1.6, 1.2), "macer": (1.3, None)}
    for method, (first, second) in strengths.items():
        for sigma, strength in ((0.25, first), (0.5 if method != "macer" else 1.0, second or 0.9)):
            trained = write_training(tmp_path / f"{method}{sigma}", method, sigma)
            write_certification(trained / "certify", trained, sigma, strength=strength)
    evaluations = read(str(tmp_path))
    rows = {table.name: table for table in build_tables(evaluations, baseline="gaussian")}["comparison"].rows
    assert {(row["first"], row["second"]) for row in rows} == {
        ("heat 0.25", "gaussian 0.25"), ("heat 0.5", "gaussian 0.5"), ("macer 0.25", "gaussian 0.25"),
    }  # fmt: skip
    (problem,) = evaluations.problems
    assert "macer 1; it may be gaussian 0.25, gaussian 0.5: give a label" in problem
    named = tables_of(str(tmp_path), baseline="gaussian 0.25")["comparison"].rows
    assert {row["second"] for row in named} == {"gaussian 0.25"}
    assert len(named) == 5
    write_certification(tmp_path / "heat0.5" / "more", tmp_path / "heat0.5", 0.5, n=500)
    evaluations = read(str(tmp_path))
    build_tables(evaluations, baseline="gaussian 0.25")
    assert "n=500" in evaluations.problems[0]
    assert "it is not among them" in evaluations.problems[0]


def test_certifications_with_unequal_votes_are_restated_before_they_are_compared(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "many", trained, n=1000)
    write_certification(trained / "few", trained, n=200)
    tables = tables_of(str(tmp_path), radii=[0.0, 0.1])
    assert "comparison" not in tables
    rows = {row["n"]: row for row in tables["restated"].rows}
    assert {n: (row["restated"], row["counts"]) for n, row in rows.items()} == {
        1000: (200, "exact"),
        200: (200, "as certified"),
    }
    acrs = {row["n"]: row["acr"] for row in tables["radii"].rows}
    assert rows[1000]["acr"] < acrs[1000]  # fewer votes certify less
    assert rows[1000]["acr"] == pytest.approx(rows[200]["acr"], abs=0.03)  # the same classifier
    at_100 = tables_of(str(tmp_path), radii=[0.0], restate=100)["restated"].rows
    assert {row["restated"] for row in at_100} == {100}
    few = tables_of(str(tmp_path), radii=[0.0], restate=500)["restated"]
    assert [row["n"] for row in few.rows] == [1000]
    wide = tables_of(str(tmp_path), radii=[0.1 * step for step in range(10)])["restated"]
    assert [column.title for column in wide.used if "r=" in column.title] == [
        "r=0 (%)", "r=0.3 (%)", "r=0.6 (%)", "r=0.9 (%)"
    ]  # fmt: skip
    assert sum("certified_acc@" in name for name in wide.frame()) == 10
    assert "Not restated, for lack of votes or counts: gaussian n=200." in few.note  # the votes once


def test_a_trial_on_a_few_images_does_not_decide_the_number_of_votes(tmp_path):
    for method in ("gaussian", "heat"):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained)
    write_certification(trained / "trial", trained, n=20, images=5)
    assert not [name for name in tables_of(str(tmp_path)) if "restated" in name]
    trained = write_training(tmp_path / "macer", "macer")
    write_certification(trained / "certify", trained, n=2000, images=40)
    table = tables_of(str(tmp_path))["restated"]
    assert {row["restated"] for row in table.rows} == {1000}
    assert {row["run"].split()[0]: row["counts"] for row in table.rows} == {
        "gaussian": "as certified", "heat": "as certified", "macer": "exact",
    }  # fmt: skip
    assert "Not restated, for lack of votes or counts: heat n=20." in table.note


def test_fewer_votes_are_no_reason_where_restating_gives_no_pair(tmp_path):
    for seed, n, images in ((0, 1000, 60), (1, 1000, 60), (2, 200, 30)):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_certification(trained / "certify", trained, n=n, images=images, seed=seed)
    assert too_few_votes(read(str(tmp_path)).certifications) == []


def test_a_method_with_too_few_votes_to_be_compared_is_named(tmp_path, capsys):
    """One with a trial of a few votes and a certification like the others is compared."""
    for method, n, images in (("gaussian", 1000, 60), ("heat", 1000, 60), ("macer", 200, 30)):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained, n=n, images=images)
        write_certification(trained / "trial", trained, n=20, images=5) if method == "heat" else None
    (message,) = too_few_votes(read(str(tmp_path)).certifications)
    assert message.startswith("macer n=200 is compared with nothing")
    assert "restate" not in " ".join(tables_of(str(tmp_path)))
    rows = tables_of(str(tmp_path), restate=200)["restated_comparison"].rows
    assert any("macer" in row["first"] + row["second"] for row in rows)
    for votes in (None, 200):
        write_report(str(tmp_path), tmp_path / "out", formats=["terminal"], show=[], restate=votes)
        assert (" ".join(message.split()) in " ".join(capsys.readouterr().out.split())) == (votes is None)


def test_certificates_at_given_radii_that_are_not_restated_are_called_so(tmp_path):
    for method, n in (("gaussian", 1000), ("heat", 200)):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "all", trained, n=n)
        write_at_radii(trained / "some", trained, {"radii": [0.0, 0.25]}, n=n)
    note = tables_of(str(tmp_path))["restated"].note
    names = "gaussian n=1000 (at-radii), heat n=200 (at-radii)"
    assert note.endswith(f"Not restated, for lack of votes or counts: {names}.")


def test_a_randomised_bound_is_not_restated(tmp_path):
    trained = write_training(tmp_path / "a")
    folder = write_certification(trained / "many", trained, n=1000)
    write_certification(trained / "few", trained, n=200)
    settings = folder / "certify.settings.json"
    settings.write_text(settings.read_text().replace("{", '{"randomized": true, ', 1))
    assert [row["n"] for row in tables_of(str(tmp_path), restate=200)["restated"].rows] == [200]
    assert "restated" not in tables_of(str(tmp_path))  # all votes that can be restated are equal


def test_an_adaptive_certificate_is_neither_restated_nor_compared_with_another(tmp_path):
    """With the same n and alpha a network gets other radii from another procedure."""
    for method, certificate in (("gaussian", "TwoStage"), ("heat", "Cohen"), ("macer", "Cohen")):
        trained = write_training(tmp_path / method, method)
        folder = write_certification(trained / "certify", trained, n=1000 if method != "macer" else 2000)
        settings = folder / "certify.settings.json"
        known = json.loads(settings.read_text())
        settings.write_text(json.dumps(known | {"procedure": {"name": certificate}}))
    tables = tables_of(str(tmp_path))
    assert {row["n"]: row["restated"] for row in tables["restated"].rows} == {1000: 1000, 2000: 1000}
    assert "gaussian" in tables["restated"].note.partition("Not restated")[2], tables["restated"].note
    assert "comparison" not in tables
    best = tables["certified_accuracy"]
    acr = next(column for column in best.columns if column.key == "acr")
    assert not any(best.is_best(acr, row) for row in best.rows)  # each is the only one of its kind
    (folder / "certify.settings.json").unlink()
    write_certification(tmp_path / "macer" / "again", tmp_path / "macer", n=1000)
    (row,) = tables_of(str(tmp_path))["comparison"].rows
    assert {row["first"].split()[0], row["second"].split()[0]} == {"heat", "macer"}


def test_the_largest_radius_possible_is_that_of_the_runs_own_bound(tmp_path):
    """A confidence sequence certifies less at equal n, a randomised bound more."""
    trained = write_training(tmp_path / "a")
    for name, said in (("cohen", None), ("unknown", None), ("stated", 0.55)):
        folder = write_certification(trained / name, trained, n=1000)
        known = json.loads((folder / "certify.settings.json").read_text())
        procedure = {"name": "Cohen" if name == "cohen" else "Anytime"}
        (folder / "certify.settings.json").write_text(json.dumps(known | {"procedure": procedure}))
        if said is not None:
            (folder / "summary.json").write_text(json.dumps({"largest_radius": said}))
    found = np.sort([row["reachable_radius"] for row in tables_of(str(tmp_path))["radii"].rows])
    assert found == pytest.approx([0.55, 0.25 * 2.463, np.nan], abs=1e-3, nan_ok=True)  # NaN comes last


def test_predict_on_attacked_images_is_a_point_under_attack(tmp_path):
    """SmoothAdv's Figure 3: empirical accuracy over the budget, above the certified curve."""
    entries = [{**foreign(tmp_path / "certified", "cifar10"), "name": "net"}]
    held = {}
    for epsilon in (0.25, 0.5):
        rows = [
            [i, i % 10, i % 10 if i % 5 > 4 * epsilon else -1, int(i % 5 > 4 * epsilon), 0.1]
            for i in range(60)
        ]
        path = write_log(tmp_path / f"eps_{epsilon}", ["idx", "label", "predict", "correct", "time"], rows)
        held[epsilon] = 100 * np.mean([row[3] for row in rows])
        facts = {"method": "cohen", "data": "cifar10", "sigma": 0.25, "attack": "pgd", "epsilon": epsilon}
        entries.append({"path": str(path), "name": "net", **facts})
    table = tables_of(entries)["predictions"]
    assert [(row["epsilon"], 100 * row["attacked"]) for row in table.rows] == list(held.items())
    assert {column.key: column.kind for column in table.used}["attacked"] == "empirical"
    assert "accuracy" not in {column.key for column in table.used}
    assert "Without attack" not in table.note
    drawings = {drawing.name: drawing for drawing in draw_figures(read(entries))}
    for name in ("envelope", "empirical_certified"):
        marked = [dict(zip(line.get_xdata(), line.get_ydata(), strict=True))
                  for line in drawings[name].figure().axes[0].get_lines()]  # fmt: skip
        assert held in marked, name
    alone = {drawing.name: drawing for drawing in draw_figures(read(entries[1:]))}
    assert "attack" in alone["envelope"].title


def test_radius_zero_is_a_column_if_it_was_requested():
    def log(radius, correct):
        run = SimpleNamespace(config={})
        return SimpleNamespace(run=run, radius=np.array(radius), correct=np.array(correct))

    assert asked_radii([log([0.0, 0.25, 0.0], [True, True, False])]) == [0.0, 0.25]
    assert asked_radii([log([0.0, 0.5, 0.0], [False, True, False])]) == [0.5]


def test_foreign_logs_with_two_names_are_no_seeds_of_one_classifier(tmp_path):
    entries = [
        {**foreign(tmp_path / name, "digits", seed=seed), "name": name, "seed": seed}
        for seed, name in enumerate(("heat", "gaussian"))
    ]
    tables = tables_of(entries)
    assert "seeds" not in tables
    assert len(tables["comparison"].rows) == 1


@pytest.mark.parametrize(
    ("files", "seeds", "groups"),
    [
        (["resnet", "vit"], [0, 0], [1, 1]),
        (["resnet", "vit"], [0, 1], [1, 1]),
        (["a_0", "a_1", "b_0", "b_1"], [0, 1, 0, 1], [1, 1, 1, 1]),
        (["resnet/log", "vit/log"], [0, 1], [1, 1]),
    ],
)
def test_foreign_logs_under_seeds_without_a_method_are_told_apart_by_their_files(
    tmp_path, capsys, files, seeds, groups
):
    entries = [
        {**foreign(tmp_path / file, "digits", seed=at), "seed": seed}
        for at, (file, seed) in enumerate(zip(files, seeds, strict=True))
    ]
    for entry in entries:
        del entry["method"]
    certified = read(entries).certifications
    assert [len(group) for group in repetitions(certified)] == groups
    comparison = tables_of(entries).get("comparison")
    assert len(comparison.rows if comparison else []) == len(groups) - 1
    nameless = read([{**entry, "name": None} for entry in entries]).certifications
    assert [len(group) for group in repetitions(nameless)] == groups
    (message,) = unknown_methods(certified)
    assert f" and {len(files) - 1} others have a seed, but neither a name nor a method" in message
    write_report(entries, tmp_path / "out", formats=["terminal"], show=[])
    assert " ".join(message.split()) in " ".join(capsys.readouterr().out.split())
    assert unknown_methods(read([{**entry, "method": "cohen"} for entry in entries]).certifications) == []


def test_a_foreign_log_without_a_seed_is_no_repetition(tmp_path):
    seeds = {"a": {"seed": 0, "n": 1000}, "b": {"seed": 1, "n": 1000.0}, "c": {"n": 1000}}
    entries = [
        {**foreign(tmp_path / name, "digits", seed=at), **facts}
        for at, (name, facts) in enumerate(seeds.items())
    ]
    (row,) = tables_of(entries)["seeds"].rows
    assert row["seeds"] == 2  # 1000 and 1000.0 votes are the same setting
    assert "seeds" not in tables_of(entries[1:])


def test_the_noise_level_of_several_seeds_is_exact():
    """The mean of three times 0.1 is not 0.1, and rows are ordered by it; infinity has no computed spread."""
    facts = {"sigma": 0.1, "train_epsilon": np.inf, "n": 1000, "method": "heat"}
    rows = [{**facts, "acr": acr} for acr in (0.2, 0.3, 0.4)]
    assert np.mean([0.1, 0.1, 0.1]) != 0.1
    merged = over_seeds(rows)
    assert facts.items() <= merged.items()
    assert merged["train_epsilon_std"] == 0
    assert (merged["acr"], merged["acr_std"]) == pytest.approx((0.3, 0.1))


def test_attacks_with_two_noise_levels_are_two_points(tmp_path):
    trained = write_training(tmp_path / "a")
    for sigma, seed in ((0.25, 0), (1.0, 1)):
        write_certification(trained / str(sigma) / "certify", trained, sigma=sigma)
        write_attack(trained / str(sigma) / "pgd", trained, sigma=sigma, seed=seed)
    evaluations = read(str(tmp_path))
    (drawing,) = (item for item in draw_figures(evaluations) if item.name == "empirical_certified")
    lines = [line.get_data() for line in drawing.figure().axes[0].get_lines() if line.get_marker() != "None"]
    drawn = sorted(accuracy for _, y in lines for accuracy in y)
    assert drawn == pytest.approx(sorted(100 * np.mean(~attack.won) for attack in evaluations.attacks))


def test_each_row_of_the_attacks_under_several_seeds_names_its_attack(tmp_path):
    settings = {"few": {}, "many": {}, "level": {"sigma": 0.5}, "network": {"target": "network"}}
    for seed in (0, 1):
        trained = write_training(tmp_path / str(seed), seed=seed)
        for name, said in settings.items():
            folder = write_attack(trained / name, trained, seed=seed, **said)
            log, noises = folder / "attack.tsv", "8" if name == "many" else "4"
            log.write_text(log.read_text().replace("\t4\t", f"\t{noises}\t"))
            choices = {"hydra": {"runtime": {"choices": {"attack": "pgd_l2"}}}}
            (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(choices))
    table = tables_of(str(tmp_path))["attack_seeds"]
    facts = [column for column in table.used if column.kind == "fact"]
    assert len(table.rows) == len({tuple(column.text(row) for column in facts) for row in table.rows}) == 8
    assert {"sigma", "target", "num_noise"} < {column.key for column in facts}
    for row in plain_rows(table):
        assert {"empirical/accuracy", "empirical/accuracy_std", "empirical/clean_accuracy_std"} < row.keys()
        assert isinstance(row["empirical/accuracy"], float)


@pytest.mark.parametrize("lacking", [0, 2])
def test_it_is_said_which_results_only_some_of_the_seeds_have(tmp_path, lacking):
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        if seed != lacking:
            write_attack(trained / "pgd", trained, seed=seed)
    other = write_training(tmp_path / "heat", "heat")
    write_certification(other / "certify", other)
    write_attack(other / "pgd", other)
    evaluations = read(str(tmp_path))
    several, one = build_tables(evaluations)[0].rows
    assert (several["seeds"], one["seeds"]) == (3, 1)
    assert several.get("pgd on smoothed ε=0.25 m=4") is None is not one["pgd on smoothed ε=0.25 m=4"]
    assert evaluations.problems == [
        "no mean over the seeds of gaussian in the overview, since some lack it or have other settings: "
        "pgd on smoothed ε=0.25 m=4 (2 of 3 seeds), pgd on smoothed ε=0.5 m=4 (2 of 3 seeds)"
    ]


def test_networks_that_were_only_attacked_have_means_of_the_attack_under_most_seeds(tmp_path):
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_attack(trained / "b_fgsm", trained, seed=seed)
        if seed < 2:
            write_attack(trained / "a_pgd", trained, seed=seed)
    evaluations = read(str(tmp_path))
    tables = {table.name: table for table in build_tables(evaluations)}
    (row,) = tables["overview"].rows
    means = {each["epsilon"]: each for each in tables["attack_seeds"].rows if each["seeds"] == 3}
    for epsilon in (0.25, 0.5):
        assert row[f"b_fgsm on smoothed ε={epsilon} m=4"] == pytest.approx(means[epsilon]["accuracy"])
    (problem,) = evaluations.problems
    assert "some lack it or have other settings: a_pgd on smoothed ε=0.25 m=4 (2 of 3 seeds)" in problem


@pytest.mark.parametrize("uncertified", [None, 2])
def test_it_is_said_which_seeds_have_rows_of_their_own_in_the_overview(tmp_path, uncertified):
    """Since one was not certified: the attack is on all of them, but no row is."""
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_attack(trained / "pgd", trained, seed=seed)
        if seed != uncertified:
            write_certification(trained / "certify", trained, seed=seed)
        if seed == 0:  # the attack is in this row too, and in the one with all seeds
            write_certification(trained / "votes", trained, n=500)
    evaluations = read(str(tmp_path))
    rows = build_tables(evaluations)[0].rows
    assert sorted(row["seeds"] for row in rows) == ([1, 1, 2] if uncertified else [1, 3])
    assert evaluations.problems == [
        "no mean over all seeds of gaussian in the overview, where they are several rows: "
        "pgd on smoothed ε=0.25 m=4 (2 of 3 seeds), pgd on smoothed ε=0.5 m=4 (2 of 3 seeds)"
    ] * (uncertified is not None)


def change(folder, group, **settings):
    """Change settings in the config of a run."""
    path = folder / ".hydra" / "config.yaml"
    config = yaml.safe_load(path.read_text())
    config[group] |= settings
    path.write_text(yaml.safe_dump(config))


def test_the_overview_has_no_mean_over_evaluations_with_other_settings(tmp_path):
    """Of an attack, of a certificate at given radii, of one in another norm; the usual one has a mean."""
    for seed in (0, 1, 2):
        steps, radii, n0 = (200, [0.1, 0.5], 100) if seed else (20, [0.1, 0.3], 10)
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        change(write_attack(trained / "pgd", trained, seed=seed), "attack", steps=steps)
        write_at_radii(trained / "radii", trained, {"radii": radii}, seed=seed)
        other = write_certification(trained / "l1", trained, seed=seed, guarantee="l1-certificate")
        change(other, "certificate", n0=n0)
    evaluations = read(str(tmp_path))
    (row,) = build_tables(evaluations)[0].rows
    assert (row["seeds"], row["acr_std"] > 0) == (3, True)
    assert not [key for key in row if "pgd" in key or "l1" in key or "at-radii" in key]
    (problem,) = evaluations.problems
    assert "some lack it or have other settings: ACR l1-certificate (2 of 3 seeds), p_A" in problem


def test_networks_that_were_only_attacked_are_one_row_of_means(tmp_path):
    """It has the name of the network, not that of one of its attacks; an attack on it needs no noise."""
    for method in ("gaussian", "heat"):
        for seed in (0, 1):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_attack(trained / "a", trained, seed=seed, target="network", sigma=0.5)
            for sigma in (0.25, 0.5) if method == "heat" else ():
                write_attack(trained / f"b{sigma}", trained, seed=seed, sigma=sigma)
    rows = tables_of(str(tmp_path))["overview"].rows
    seen = {
        row["classifier"]: sorted({key[0] for key in row if "on smoothed" in key or "on network" in key})
        for row in rows
    }
    assert seen == {"gaussian": ["a"], "heat": ["a", "b"], "heat σ=0.5": ["a", "b"]}
    assert [row["seeds"] for row in rows] == [2, 2, 2]
    for row in rows:
        assert row["a on network ε=0.25 m=4_std"] > 0


def test_each_attack_for_the_smallest_distance_has_columns_of_its_own(tmp_path):
    """On the network and on smoothed classifiers with two noise levels; without a budget none is named."""
    trained = write_training(tmp_path / "gaussian")
    for seed, (target, sigma) in enumerate((("network", 0.25), ("smoothed", 0.25), ("smoothed", 0.5))):
        folder = write_attack(trained / f"{seed}", trained, target=target, sigma=sigma, seed=seed)
        for name, old, new in (("settings.json", '"target"', '"mode": "minimum", "target"'),
                               ("tsv", "\t0.5\t4\t", "\tinf\t4\t")):  # fmt: skip
            file = folder / f"attack.{name}"
            file.write_text(file.read_text().replace(old, new))
        (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {attack: ddn}}}")
    evaluations = read(str(tmp_path))
    (row,) = {table.name: table for table in build_tables(evaluations)}["distances"].rows
    kinds = ("on network", "on smoothed", "on smoothed")
    successes = {key: share for key, share in row.items() if key.endswith("success")}
    assert sorted(successes.values()) == sorted(float(attack.won.mean()) for attack in evaluations.attacks)
    for kind, sigma in zip(kinds, ("", "sigma=0.25 ", "sigma=0.5 "), strict=True):
        assert {f"ddn {kind} m=4 {sigma}success", f"ddn {kind} ε=0.25 m=4 {sigma}success"} <= {*successes}


def pgd(folder, trained, seed=0, **settings):
    """An attack with these settings."""
    change(write_attack(folder, trained, seed=seed), "attack", **settings)
    (folder / ".hydra" / "hydra.yaml").write_text("hydra: {runtime: {choices: {attack: pgd_l2}}}")
    return folder


def test_attacks_are_named_by_the_settings_in_which_those_of_a_network_differ(tmp_path):
    """Also by one that no fact states; the number of a sweep's job says nothing."""
    shares = {1: [], 5: [], 10: []}
    for seed in (0, 1):
        trained = write_training(tmp_path / f"net{seed}", seed=seed)
        for at, restarts in enumerate(shares):
            more = {"restarts": restarts, "epsilon": 0.1 * at}  # the log has other budgets
            pgd(tmp_path / "sweep" / str(3 * seed + at), trained, 10 * seed + at, **more)
    evaluations = read(str(tmp_path))
    for attack in evaluations.attacks:
        if attack.epsilon == 0.5:
            shares[attack.run.config["attack"]["restarts"]].append(np.mean(~attack.won))
    (row,) = build_tables(evaluations)[0].rows
    found = {key: value for key, value in row.items() if "ε=0.5" in key and not key.endswith("_std")}
    means = {f"pgd_l2 on smoothed ε=0.5 m=4 attack.restarts={n}": np.mean(each) for n, each in shares.items()}
    assert found == pytest.approx(means)
    assert evaluations.problems == []


@pytest.mark.parametrize(
    ("different", "words"),
    [
        (lambda top, seed, job: {"source": {"checkpoint": str(top / f"from{job}_{seed}")}},
         ["source=from0", "source=from1"]),
        (lambda top, seed, job: {"source": {"checkpoint": str(top / f"from0_{seed}") if job else None}},
         ["", "source=from0"]),
        (lambda top, seed, job: {"epsilons": [0.25, 0.5, 0.75][job:]},
         ["epsilons=[0.25, 0.5, 0.75]", "epsilons=[0.5, 0.75]"]),
    ],
)  # fmt: skip
def test_an_attack_has_one_title_and_a_mean_over_all_seeds(tmp_path, different, words):
    """Transferred from another network for each seed, or told apart by a list; in any order."""
    shares = {0: [], 1: []}
    for seed in (0, 1):
        for job in (0, 1):
            write_training(tmp_path / f"from{job}_{seed}", f"from{job}", seed=seed)
        trained = write_training(tmp_path / f"net{seed}", seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        for job in (0, 1):
            folder = pgd(tmp_path / "sweep" / f"{abs(seed - job)}{seed}", trained, 10 * seed + job)
            path = folder / ".hydra" / "config.yaml"
            more = different(tmp_path, seed, job)
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | more))
            rows = [line.split("\t") for line in (folder / "attack.tsv").read_text().splitlines()[1:]]
            shares[job].append(np.mean([row[3] == row[5] for row in rows if row[1] == "0.5"]))
    evaluations = read(str(tmp_path))
    row = next(row for row in build_tables(evaluations)[0].rows if "acr" in row)
    found = {key: value for key, value in row.items() if "ε=0.5" in key and not key.endswith("_std")}
    titles = [f"pgd_l2 on smoothed ε=0.5 m=4 {more}".strip() for more in words]
    assert found == pytest.approx({title: np.mean(shares[job]) for job, title in enumerate(titles)})
    assert evaluations.problems == []


def at_one_budget(top):
    """The attacks at ε=0.5 in each row of the overview, by the words after their number of noises."""
    rows = tables_of(str(top))["overview"].rows
    titles = [{key for key in row if "ε=0.5 m=4" in key and not key.endswith("_std")} for row in rows]
    return {
        row["classifier"]: {title.partition("ε=0.5 m=4")[2].strip() for title in found}
        for row, found in zip(rows, titles, strict=True)
    }


def transfer(folder, trained, source, **settings):
    """An attack on a source, whose images are shown to a network; white-box without a source."""
    pgd(folder, trained, **settings)
    path = folder / ".hydra" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"source": {"checkpoint": source}}))


@pytest.mark.parametrize("beside", [True, False])
def test_no_column_has_a_transfer_and_a_white_box_attack(tmp_path, beside):
    """On one network or on two; the name of the source is short, whatever its folder is called."""
    source = write_training(tmp_path / f"method=consistency,{'model=cifar_resnet110,' * 3}", "consistency")
    networks = [write_training(tmp_path / name, name) for name in ("gaussian", "heat")]
    for network, (first, second) in zip(networks, (("a", "b"), ("b", "a")), strict=True):
        if beside or network == networks[0]:
            transfer(network / first, network, None)
        if beside or network == networks[1]:
            transfer(network / second, network, str(source))
    both = {"", "source=consistency"}
    assert at_one_budget(tmp_path) == {
        "gaussian": both if beside else {""},
        "heat": both if beside else {"source=consistency"},
    }


def test_sources_of_one_method_are_told_apart_by_their_noise_or_by_their_folders(tmp_path):
    """The same for all seeds."""
    for seed in (0, 1):
        trained = write_training(tmp_path / f"net{seed}", "heat", seed=seed)
        for sigma in (0.25, 0.5):
            source = write_training(tmp_path / "from" / f"{sigma} {seed}", "gaussian", sigma, seed=seed)
            transfer(trained / f"{sigma}", trained, str(source))
    assert at_one_budget(tmp_path) == {"heat 0.25": {"source=gaussian 0.25", "source=gaussian 0.5"}}
    sources = {row["source"] for row in tables_of(str(tmp_path))["attack_seeds"].rows}
    assert sources == {"0.25 0, 0.25 1", "0.5 0, 0.5 1"}
    for seed in (0, 1):
        source = write_training(tmp_path / "from" / f"long {seed}", "gaussian", 0.5, seed=seed)
        change(source, "method", epochs=9)
        transfer(tmp_path / f"net{seed}" / "more", tmp_path / f"net{seed}", str(source))
    names = {f"source={name} 0, {name} 1" for name in ("0.25", "0.5", "long")}
    assert at_one_budget(tmp_path) == {"heat 0.25": names}


@pytest.mark.parametrize("setting", ["source", "attack.levels"])
def test_what_is_too_long_for_a_title_has_the_same_number_on_every_network(tmp_path, setting):
    """A source whose folder is gone, or a list."""
    words = {"A": "a" * 70, "B": "b" * 70, "C": "c" * 70}
    for name, used in (("cons", "B"), ("gaussian", "AB"), ("heat", "CB")):
        trained = write_training(tmp_path / name, name)
        for at, one in enumerate(used):
            if setting == "source":
                transfer(trained / f"{at}", trained, f"/gone/{words[one]}")
            else:
                pgd(trained / f"{at}", trained, levels=[words[one]])
    assert at_one_budget(tmp_path) == {
        "cons": {f"{setting} #2"},
        "gaussian": {f"{setting} #1", f"{setting} #2"},
        "heat": {f"{setting} #2", f"{setting} #3"},
    }


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ([{"copies_per_pass": 8}, {"copies_per_pass": 1}], ["", ""]),
        ([{}, {"margin": 0.0}], ["", ""]),
        ([{"step_size": None}, {"step_size": 0.1}], ["", "attack.step_size=0.1"]),
    ],
)
def test_what_is_not_known_or_only_about_memory_makes_no_second_column(tmp_path, settings, words):
    for name, own in zip(("gaussian", "heat"), settings, strict=True):
        trained = write_training(tmp_path / name, name)
        pgd(trained / "attack", trained, **own)
    assert at_one_budget(tmp_path) == {"gaussian": {words[0]}, "heat": {words[1]}}


def test_seeds_attacked_with_more_copies_in_a_pass_are_repetitions(tmp_path):
    for seed, copies in enumerate((8, 1)):
        trained = write_training(tmp_path / f"{seed}", seed=seed)
        pgd(trained / "attack", trained, copies_per_pass=copies)
    assert {len(group) for group in repetitions(read(str(tmp_path)).attacks)} == {2}


def test_a_setting_of_the_network_makes_no_second_column_of_an_attack(tmp_path):
    """Such as the norm of its layers, which is not that of the attack."""
    for name, norm in (("gaussian", "batch"), ("heat", "group")):
        trained = write_training(tmp_path / name, name, model={"norm": norm})
        path = pgd(trained / "attack", trained) / ".hydra" / "config.yaml"
        path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"model": {"norm": norm}}))
    assert at_one_budget(tmp_path) == {"gaussian": {""}, "heat": {""}}


def test_attacks_with_equal_settings_are_numbered_and_none_replaces_another(tmp_path):
    for seed in (0, 1):
        trained = write_training(tmp_path / f"net{seed}", seed=seed)
        for at in range(3 if seed else 1):
            pgd(tmp_path / f"copy{at}" / f"attack{seed}", trained, 10 * seed + at)
    evaluations = read(str(tmp_path))
    titles = [title for _, title in titled(evaluations.attacks, lambda attack: attack.run.trained)]
    assert sorted(title.partition("ε=0.5 m=4")[2] for title in titles if "ε=0.5" in title) == [
        "", " (1)", " (2)", " (3)",
    ]  # fmt: skip
    said = {title for _, title in titled(evaluations.attacks, lambda attack: 0)}
    assert len(said) == len(evaluations.attacks) == 8


def test_a_seed_that_was_attacked_twice_is_named(tmp_path):
    """No table has a mean over the seeds then."""
    for seed in (0, 1):
        trained = write_training(tmp_path / f"net{seed}", seed=seed)
        for at in range(2 if seed else 1):
            pgd(tmp_path / f"copy{at}" / f"attack{seed}", trained, 10 * seed + at)
    evaluations = read(str(tmp_path))
    (message,) = _not_averaged(evaluations)
    assert "no mean over the seeds of gaussian: seed 1 is there more than once" in message
    tables = {table.name: table for table in build_tables(evaluations)}
    assert "attack_seeds" not in tables
    assert not [key for row in tables["overview"].rows for key in row if "pgd" in key and row["seeds"] > 1]


def test_the_kind_of_the_evaluations_that_have_no_mean_is_named(tmp_path):
    for seed in (0, 1):
        trained = write_training(tmp_path / f"net{seed}", seed=seed)
        for copy in range(1 + seed):
            write_certification(tmp_path / f"{copy}" / f"certify{seed}", trained, seed=seed)
            pgd(tmp_path / f"{copy}" / f"attack{seed}", trained, seed)
    messages = _not_averaged(read(str(tmp_path)))
    assert [message.partition(": no mean over the seeds")[0] for message in messages] == [
        "certifications", "attacks"
    ]  # fmt: skip


def test_an_attack_with_other_settings_than_those_of_the_other_seeds_is_named(tmp_path):
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        pgd(trained / "attack", trained, seed, steps=200 if seed == 2 else 20)
    (message,) = _not_averaged(read(str(tmp_path)))  # one, for both budgets
    assert message.endswith("gaussian seed=2 evaluated with other settings than gaussian seed=0 (steps)")


def test_an_attack_on_other_images_than_those_of_the_other_seeds_is_named(tmp_path):
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_attack(trained / "attack", trained, images=30 if seed == 2 else 60, seed=seed)
    (message,) = _not_averaged(read(str(tmp_path)))
    assert message.endswith("gaussian seed=2 evaluated with other settings than gaussian seed=0 (images)")


def test_foreign_logs_of_attacks_under_seeds_without_a_method_are_named(tmp_path, capsys):
    entries = []
    for seed in (0, 1):
        log = write_attack(tmp_path / str(seed), "gone", seed=seed) / "attack.tsv"
        entries.append({"path": str(log.rename(tmp_path / f"{seed}.tsv")), "data": "digits", "seed": seed})
    for method in ({}, {"method": "cohen"}):
        write_report([{**entry, **method} for entry in entries], tmp_path, formats=["terminal"], show=[])
        said = "0 and 1 others have a seed, but neither a name nor a method"
        assert (said in " ".join(capsys.readouterr().out.split())) == (not method)


def test_l_bounds_of_a_network_at_other_levels_or_on_other_images_have_columns_of_their_own(tmp_path):
    """Nor is the best chosen among bounds on other images, of other data, or with other votes."""
    for name, data, n, bounds in (
        ("a", "digits", 1000, [(60, 0.25), (20, 0.5), (10, 0.5)]),
        ("b", "cifar10", 1000, [(60, 0.25)]),
        ("c", "digits", 100, [(60, 0.25)]),
    ):
        trained = write_training(tmp_path / name, name, data=data)
        for at, (images, sigma) in enumerate(bounds):
            drawn = {"images": images, "seed": at, "strength": 1 + at, "n": n}
            write_certification(
                trained / f"bound{at}", trained, sigma, guarantee="l2-lbound-assumed", **drawn
            )
        settings = write_attack(trained / "attack", trained) / "attack.settings.json"
        settings.write_text(settings.read_text().replace('"target"', '"mode": "minimum", "target"'))
    evaluations = read(str(tmp_path))
    table = {table.name: table for table in build_tables(evaluations)}["distances"]
    columns = [column for column in table.columns if "lbound" in column.key and "mean" in column.key]
    found = [row[column.key] for row in table.rows for column in columns if column.key in row]
    assert sorted(found) == pytest.approx(sorted(item.radius.mean() for item in evaluations.certifications))
    assert not any(table.is_best(column, row) for row in table.rows for column in columns)


def test_attacks_on_other_images_have_columns_of_their_own(tmp_path):
    for method, images in (("gaussian", 20), ("heat", 60), ("macer", 60)):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained)
        write_attack(trained / "pgd", trained, images=images)
    table = tables_of(str(tmp_path))["overview"]
    titles = [column.title for column in table.columns if "ε=0.5" in column.title]
    assert sorted(title.partition("image set")[2] for title in titles) == [" 1 (60) (%)", " 2 (20) (%)"]
    for row in table.rows:
        assert sum(row.get(title.removesuffix(" (%)")) is not None for title in titles) == 1


def test_an_image_set_has_the_same_number_for_each_attack(tmp_path):
    """In whatever order the attacks are read."""
    for method, images in (("gaussian", {"ddn": 20, "pgd": 30}), ("heat", {"ddn": 30, "pgd": 20})):
        trained = write_training(tmp_path / method, method)
        for name, count in images.items():
            write_attack(trained / name, trained, images=count)
    table = tables_of(str(tmp_path))["overview"]
    titles = [column.title for column in table.columns if "ε=0.5" in column.title]
    assert sorted(f"{title.split()[0]}{title.partition('image set')[2]}" for title in titles) == [
        "ddn 1 (20) (%)", "ddn 2 (30) (%)", "pgd 1 (20) (%)", "pgd 2 (30) (%)",
    ]  # fmt: skip


def test_bounds_that_are_missing_are_not_restated(tmp_path):
    trained = write_training(tmp_path / "a")
    log = write_certification(trained / "certify", trained) / "certify.tsv"
    assert tables_of(str(tmp_path), restate=100)["restated"].rows
    lines = [line.split("\t") for line in log.read_text().splitlines()]
    certified = next(line for line in lines[1:] if line[4] == "1")
    certified[6] = "nan"
    log.write_text("".join("\t".join(line) + "\n" for line in lines))
    assert "restated" not in tables_of(str(tmp_path), restate=100)


DASH = "; do not read the ACR alone."


def test_p_a_of_an_answer_with_a_radius_that_was_rounded_to_zero_is_one_half(tmp_path):
    rows = [[0, 1, 1, "0.000", 1, 0.1], [1, 1, -1, 0.0, 0, 0.1], [2, 1, 1, 0.25, 1, 0.1]]
    write_log(tmp_path / "log", CERTIFY[:6], rows)
    (item,) = read({"path": str(tmp_path / "log"), "sigma": 0.25}).certifications
    assert item.p_a_lower == pytest.approx([0.5, 0.0, stats.norm.cdf(1)])


def test_a_table_says_why_p_a_is_a_dash_beside_an_acr(tmp_path):
    """Of foreign logs without sigma, and only of those; in each file that has notes."""
    entries = [foreign(tmp_path / name, "cifar10", seed=at) for at, name in enumerate("abc")]
    known = tables_of([{**entry, "n": 1000} for entry in entries], published="cifar10")
    assert not any(DASH in table.notes for table in known.values())
    for entry in entries:
        entry.pop("sigma")
    tables = tables_of(entries, published="cifar10")
    names = {name for name, table in tables.items() if DASH in table.notes}
    assert names == {"certified_accuracy", "radii", "published", "best", "comparison"}
    table = tables["radii"]
    assert f"–: p_A is not known, since the log has neither bounds nor l2 radii with a known σ{DASH}" in (
        table.notes
    )
    assert DASH in as_markdown(table)
    assert DASH in as_latex(table)
    write_report(entries, tmp_path / "out", formats=["html", "tables", "terminal"])
    assert (tmp_path / "out" / "report.html").read_text().count(DASH) == 4
    assert DASH in json.loads((tmp_path / "out" / "tables" / "radii.json").read_text())["note"]


def test_trainings_that_differ_only_in_their_seed_are_one_row_of_means(tmp_path):
    for seed, seconds in ((0, 10.0), (1, 14.0)):
        trained = write_training(tmp_path / str(seed), seed=seed, epochs=3 + seed)
        (trained / "summary.json").write_text(json.dumps({"seconds": seconds}))
    write_training(tmp_path / "heat", "heat")
    table = tables_of(str(tmp_path))["training"]
    texts = {row["run"]: [column.text(row) for column in table.used] for row in table.rows}
    assert [column.key for column in table.used][:5] == ["run", "seeds", "epochs", "epoch_seconds", "seconds"]
    assert texts["gaussian"][1:6] == ["2", "3.5", "3.42 ± 0.118", "12 ± 2.828", "75.0 ± 7.1"]
    assert texts["heat"][1:6] == ["1", "3", "–", "–", "70.0"]


def test_a_training_that_is_not_complete_is_in_no_mean(tmp_path):
    """Neither in the table, nor in the figure: it has not ended, or a time limit has stopped it."""
    for seed, epochs in enumerate((4, 4, 3, 3)):
        trained = write_training(tmp_path / str(seed), seed=seed, epochs=epochs)
    (tmp_path / "2" / "summary.json").unlink()
    (trained / "summary.json").write_text(json.dumps({"epochs": 3, "stopped": "stopped in epoch 3 of 4"}))
    evaluations = read(str(tmp_path))
    (table,) = (table for table in build_tables(evaluations) if table.name == "training")
    rows = [(row["run"], row["seeds"], row["epochs"], row["val/top1"]) for row in table.rows]
    assert rows == [
        ("gaussian", 2, 4, 0.8), ("gaussian seed=2", 1, 3, 0.7), ("gaussian seed=3", 1, 3, 0.7),
    ]  # fmt: skip
    (drawing,) = draw_figures(evaluations)
    assert [len(line.get_xdata()) for line in drawing.figure().axes[0].get_lines()] == [4, 3, 3]
    assert evaluations.problems == [
        f"{tmp_path / '2'}: the training has not ended; start its command again to finish it",
        f"{trained}: the training was stopped in epoch 3 of 4",
    ]


def test_the_table_of_trainings_says_why_p_a_is_a_dash_beside_an_acr(tmp_path):
    for name, columns, values in (("a", "val/acr,val/p_a@0.90", "0.3,0.5"), ("b", "val/acr", "0.4")):
        trained = write_training(tmp_path / name)
        (trained / "metrics.csv").write_text(f"epoch,{columns}\n0,{values}\n")
    table = tables_of(str(tmp_path))["training"]
    assert table.notes.endswith(f" –: p_A is not known, since the training did not log it{DASH}")
    assert DASH not in tables_of(str(tmp_path / "a"))["training"].notes


def test_lost_rows_are_named(tmp_path):
    trained = write_training(tmp_path / "a")
    folder = write_certification(trained / "certify", trained)
    (folder / "summary.json").write_text(json.dumps({"images": 60}))
    assert not read(str(tmp_path)).problems
    log = folder / "certify.tsv"
    log.write_text("".join(f"{line}\n" for line in log.read_text().splitlines()[:51]))
    evaluations = read(str(tmp_path))
    assert [problem.partition("has ")[2] for problem in evaluations.problems] == [
        "50 of 60 images; certify the others again"
    ]
    assert not evaluations.certifications[0].finished


def test_a_log_that_lacks_images_of_comparable_ones_is_named(tmp_path):
    """The first 43 of 50 images, as after a crash; but not with other votes, data or images in part."""

    def lacking(**facts):
        entries = [foreign(tmp_path / name, "cifar10", 50, seed=at) | {"n": 1000, "name": name}
                   for at, name in enumerate("ab")]  # fmt: skip
        part = foreign(tmp_path / "part", "cifar10", 43, seed=2) | {"n": 1000, "name": "part"} | facts
        evaluations = read([*entries, part])
        tables = {table.name: table for table in build_tables(evaluations, published="cifar10")}
        rows = [row for row in tables["published"].rows if row["source"] == "here"]
        return incomplete(evaluations.certifications), {row["run"]: row["complete"] for row in rows}

    (message,), rows = lacking()
    assert message.startswith("part: incomplete, with 43 of the 50 images of a; if fewer were asked for")
    assert rows == {"a": "50", "b": "50", "part, incomplete": "43 of 50"}
    for facts in ({"n": 100}, {"alpha": 0.01}, {"images": "at most 43"}):
        messages, rows = lacking(**facts)
        assert messages == []
        assert sorted(rows.values()) == ["43", "50", "50"], facts


@pytest.mark.parametrize("hydra", [True, False])
def test_a_run_that_was_asked_for_fewer_images_is_not_incomplete(tmp_path, hydra):
    """The settings beside the log say so, also where the config is gone."""

    def write(name, images, **subset):
        trained = write_training(tmp_path / name, name, data="cifar10")
        folder = write_certification(trained / "certify", trained, images=images, seed=len(name))
        if hydra:
            path = folder / ".hydra" / "config.yaml"
            path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"data": {"subset": subset}}))
        else:
            shutil.rmtree(folder / ".hydra")
            path = folder / "certify.settings.json"
            path.write_text(json.dumps(json.loads(path.read_text()) | {"data": {"subset": subset}}))
        return str(folder)

    folders = [write("heat", 50, every=20), write("macer", 43, indices=list(range(43)))]
    assert incomplete(read(folders).certifications) == []
    folders.append(write("sodm", 43, every=20))
    (message,) = incomplete(read(folders).certifications)
    assert message.startswith("sodm: incomplete" if hydra else "certify")
    folders.append(write("natural", 40, indices=list(range(40))))  # others than macer's
    assert len(incomplete(read(folders).certifications)) == 1


def test_the_report_lists_incomplete_logs_under_problems(tmp_path, capsys):
    entries = [foreign(tmp_path / f"{images}", "digits", images) for images in (60, 40)]
    write_report(entries, tmp_path / "out", formats=["terminal"])
    assert "cohen (40): incomplete, with 40 of the 60 images of cohen (60)" in " ".join(
        capsys.readouterr().out.split()
    )


def test_it_is_said_that_the_number_of_votes_is_not_known(tmp_path, capsys):
    entries = [foreign(tmp_path / name, "digits", seed=1) for name in "ab"]
    said = "the number of votes n of"
    write_report(entries, tmp_path / "out", formats=["terminal"])
    assert said in " ".join(capsys.readouterr().out.split())
    write_report([{**entry, "n": 1000} for entry in entries], tmp_path / "out2", formats=["terminal"])
    assert said not in " ".join(capsys.readouterr().out.split())


@pytest.mark.parametrize("seeds", [1, 2])
def test_the_level_is_that_of_differences_too(tmp_path, seeds):
    for method, strength in (("heat", 1.6), ("gaussian", 1.0)):
        for seed in range(seeds):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, strength=strength, seed=seed)
    widths = []
    for level in (0.95, 0.5):
        table = tables_of(str(tmp_path), level=level)["comparison" if seeds == 1 else "seed_comparison"]
        low, high = ("acr_low", "acr_high") if seeds == 1 else ("acr_difference_low", "acr_difference_high")
        widths.append(table.rows[0][high] - table.rows[0][low])
        assert f"{100 * level:g} %" in table.note + table.intervals
    assert widths[1] < widths[0] / 2


def test_seeds_are_one_row_where_votes_are_restated_and_beside_published_results(tmp_path):
    for method, n in (("gaussian", 1000), ("heat", 200)):
        for seed in (0, 1):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed, data="cifar10")
            write_certification(trained / "certify", trained, n=n, seed=seed)
    tables = tables_of(str(tmp_path), radii=[0.0, 0.1], published="cifar10")
    single = {method: [] for method in ("gaussian", "heat")}
    for item in read(str(tmp_path)).certifications:
        single[item.run.facts["method"]].append(item.acr)
    published = {row["run"]: row for row in tables["published"].rows if row["source"] == "here"}
    restated = {row["run"]: row for row in tables["restated"].rows}
    for rows in (published, restated):
        assert {row["seeds"] for row in rows.values()} == {2}
        heat = next(row for name, row in rows.items() if name.startswith("heat"))
        assert (heat["acr"], heat["acr_std"]) == pytest.approx(
            (np.mean(single["heat"]), np.std(single["heat"], ddof=1))
        )
    gaussian = next(row for name, row in restated.items() if name.startswith("gaussian"))
    assert gaussian["acr"] < np.mean(single["gaussian"])  # with a fifth of the votes
    for table in (tables["published"], tables["restated"]):
        acr = next(column for column in table.columns if column.key == "acr")
        assert all("±" in acr.text(row) for row in table.rows if row.get("seeds") == 2)


def expected_radius(item, votes, alpha=0.001, sigma=0.25):
    """The mean radius of each image over all subsets of its votes, by SciPy's distributions."""
    n, subset = item.run.facts["n"], np.arange(votes + 1)
    bounds = stats.beta.ppf(alpha, np.maximum(subset, 1), votes - subset + 1) * (subset > 0)
    radius = np.where(bounds > 0.5, sigma * stats.norm.ppf(np.maximum(bounds, 1e-300)), 0)
    every = stats.beta.ppf(alpha, np.maximum(np.arange(n + 1), 1), n - np.arange(n + 1) + 1)
    counts = [int(np.abs(every - bound).argmin()) for bound in item.p_a_lower]
    means = [stats.hypergeom.pmf(subset, n, count, votes) @ radius for count in counts]
    return np.where(item.correct, means, 0)


@pytest.mark.parametrize("seeds", [1, 3])
def test_methods_with_unequal_votes_are_compared_at_the_same_number(tmp_path, seeds):
    for method, strength, n in (("heat", 1.6, 1000), ("gaussian", 1.0, 200)):
        for seed in range(seeds):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, strength=strength, n=n, seed=seed + 10 * n)
    tables = tables_of(str(tmp_path), radii=[0.0, 0.1, 0.2])
    (row,) = tables["restated_comparison"].rows
    assert (row["first"].split()[0], row["second"].split()[0]) == ("heat", "gaussian")
    assert (row["restated"], row["images"], row["seeds"]) == (200, 60, f"{seeds} and {seeds}")
    assert row["over"] == ("images alone" if seeds == 1 else "images and seeds")
    radii = {"heat": [], "gaussian": []}
    for item in read(str(tmp_path)).certifications:
        radii[item.run.facts["method"]].append(expected_radius(item, 200))
    differences = np.mean(radii["heat"], axis=0) - np.mean(radii["gaussian"], axis=0)
    assert row["acr_difference"] == pytest.approx(differences.mean())
    if seeds == 1:
        ends = stats.t.interval(0.95, len(differences) - 1, differences.mean(), stats.sem(differences))
        assert (row["acr_difference_low"], row["acr_difference_high"]) == pytest.approx(ends)
    acrs = {each["run"].split()[0]: each for each in tables["restated"].rows}
    for key, column in (("acr", "acr"), ("sure", "sure"), ("at", "certified_acc@0.1")):
        expected = acrs["heat"][column] - acrs["gaussian"][column]
        assert row[f"{key}_difference"] == pytest.approx(expected)
    (turned,) = tables_of(str(tmp_path), radii=[0.0, 0.1, 0.2], baseline="heat")["restated_comparison"].rows
    assert turned["acr_difference"] == pytest.approx(-row["acr_difference"])


def test_a_network_is_not_compared_with_itself_at_another_number_of_votes(tmp_path):
    for method in ("heat", "gaussian"):
        trained = write_training(tmp_path / method, method)
        for n in (200, 1000) if method == "gaussian" else (1000,):
            write_certification(trained / f"n{n}", trained, n=n)
    tables = tables_of(str(tmp_path), radii=[0.0, 0.1], baseline="gaussian")
    assert len(tables["restated"].rows) == 3
    (row,) = tables["restated_comparison"].rows
    assert (row["first"].split()[0], row["second"].split()[0]) == ("heat", "gaussian")
    assert "1000" in row["second"], row


def test_of_a_network_with_several_certifications_the_baseline_is_restated(tmp_path):
    for method, seed, votes in (("gaussian", 0, (200, 1000)), ("gaussian", 1, (200,)), ("heat", 0, (1000,))):
        trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
        for n in votes:
            write_certification(trained / str(n), trained, seed=seed, n=n)
    single = "gaussian seed=0 n=1000"
    for baseline, name in ((single, single), ("gaussian", "gaussian n=200")):
        (row,) = tables_of(str(tmp_path), baseline=baseline)["restated_comparison"].rows
        assert (row["first"].split()[0], row["second"]) == ("heat", name)


def test_a_network_certified_again_is_compared_once(tmp_path):
    """For one seed only, or not to the end: the others are compared with it, and it never with itself."""
    for method in ("heat", "gaussian"):
        for seed in range(3):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "few", trained, n=200, seed=seed)
            if seed == 0:
                write_certification(trained / "many", trained, n=1000, seed=seed)
            if seed == 1:
                write_certification(trained / "unfinished", trained, n=1000, images=30, seed=seed)
    for baseline in (None, "gaussian"):
        (row,) = tables_of(str(tmp_path), baseline=baseline)["restated_comparison"].rows
        assert {row["first"].split()[0], row["second"].split()[0]} == {"heat", "gaussian"}
        assert (row["seeds"], row["images"]) == ("3 and 3", 60)


@pytest.mark.parametrize("baseline", [None, "gaussian", "gaussian n=1000"])
def test_seeds_certified_with_other_votes_are_one_method_where_votes_are_restated(tmp_path, baseline):
    for method, strength in (("gaussian", 1.0), ("heat", 1.5)):
        for seed, n in ((0, 1000), (1, 1000), (2, 200)):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, seed=seed, strength=strength, n=n)
    tables = tables_of(str(tmp_path), baseline=baseline)
    (row,) = tables["restated_comparison"].rows
    assert (row["first"], row["second"], row["seeds"]) == ("heat", "gaussian", "3 and 3")
    rows = {row["run"]: row for row in tables["restated"].rows}
    assert rows.keys() == {"gaussian", "heat"}
    for name, each in rows.items():
        assert (each["seeds"], each["n"], each["counts"]) == (3, "1000, 200", "exact, as certified")
        found = (item for item in read(str(tmp_path)).certifications if item.run.facts["method"] == name)
        radii = [expected_radius(item, 200) if item.run.facts["n"] > 200 else item.counted for item in found]
        assert each["acr"] == pytest.approx(np.mean(radii))
    assert row["acr_difference"] == pytest.approx(rows["heat"]["acr"] - rows["gaussian"]["acr"])


def test_no_mean_over_unequal_votes_has_a_seed_that_is_there_twice(tmp_path):
    for name, seed, n in (("a", 0, 1000), ("b", 1, 1000), ("c", 1, 1000), ("d", 2, 200)):
        trained = write_training(tmp_path / name, seed=seed)
        write_certification(trained / "certify", trained, seed=seed, n=n)
    for seed, votes in ((0, (1000, 400)), (1, (500, 200))):
        trained = write_training(tmp_path / f"heat{seed}", "heat", seed=seed)
        for n in votes:
            write_certification(trained / f"certify{n}", trained, seed=seed, n=n)
    rows = tables_of(str(tmp_path))["restated"].rows
    assert [row["seeds"] for row in rows] == [1] * 8
    assert len({row["run"] for row in rows}) == 8


def test_a_method_is_not_compared_with_a_second_network_of_one_seed_at_other_votes(tmp_path):
    for name, method, seed, n in (("a", "heat", 0, 1000), ("b", "heat", 0, 200), ("c", "gaussian", 0, 200)):
        trained = write_training(tmp_path / name, method, seed=seed)
        write_certification(trained / "certify", trained, n=n, strength=1.0 + (method == "heat"))
    tables = tables_of(str(tmp_path), baseline="all")
    assert len(tables["restated"].rows) == 3
    pairs = [
        {row["first"].split()[0], row["second"].split()[0]} for row in tables["restated_comparison"].rows
    ]
    assert pairs == [{"heat", "gaussian"}] * 2


def test_it_is_said_which_restated_results_have_several_baselines(tmp_path):
    for method, weight, n in (("heat", 0, 200), ("heat", 1, 1000), ("gaussian", 0, 1000)):
        trained = write_training(tmp_path / f"{method}{weight}", method, loss={"robust_weight": weight})
        write_certification(trained / "certify", trained, n=n)
    tables = tables_of(str(tmp_path), baseline="heat")
    assert "restated_comparison" not in tables
    assert "Not compared with 'heat' on digits at α=0.001: gaussian" in tables["restated"].note
    assert "give a label" in tables["restated"].note


def test_differences_with_the_same_number_of_votes_fit_into_a_terminal(tmp_path, capsys, monkeypatch):
    """With the difference of the ACR there is that at p_A; long names are folded for them."""
    for method, n in (("gaussian_augmentation", 200), ("heat", 1000)):
        for seed in range(2):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, n=n, seed=seed)
    table = tables_of(str(tmp_path), baseline="heat")["restated_comparison"]
    for width in range(20, 200, 5):
        shown = {column.key for column in columns_that_fit(table, width)}
        assert ("acr_difference" in shown) == ("sure_difference" in shown) == (width >= 80), width
    monkeypatch.setattr("rich.console.Console.is_terminal", True)
    monkeypatch.setattr("rich.console.Console.width", 80)
    show([table], [], "out")
    (line,) = (line for line in capsys.readouterr().out.splitlines() if "│ gaussian" in line)
    assert len(line) == 80
    (row,) = table.rows
    for column in table.columns:
        if column.key in ("acr_difference", "sure_difference"):
            assert f" {column.line(row)} │" in line


@pytest.mark.parametrize("baseline", [None, "gaussian"])
def test_notes_have_single_spaces(tmp_path, baseline):
    for method, n in (("heat", 1000), ("gaussian", 1000), ("macer", 200)):
        for seed in range(2 if n == 1000 else 1):
            trained = write_training(tmp_path / f"{method}{seed}", method, seed=seed)
            write_certification(trained / "certify", trained, n=n, seed=seed)
    trained = write_training(tmp_path / "cifar10", "heat", data="cifar10")
    write_certification(trained / "certify", trained)
    trained = write_training(tmp_path / "other", "gaussian", data="cifar10")
    write_certification(trained / "certify", trained)
    tables = tables_of(str(tmp_path), baseline=baseline)
    assert {"comparison", "seed_comparison", "restated_comparison"} <= tables.keys()
    for table in tables.values():
        assert table.note == " ".join(table.note.split()), table.name


def test_every_pair_is_compared_with_p_values_corrected_for_their_number(tmp_path):
    for method, strength in (("gaussian", 1.0), ("heat", 1.3), ("macer", 1.6)):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained, strength=strength)
    rows = tables_of(str(tmp_path), baseline="all")["comparison"].rows
    named = [{row["first"].split()[0], row["second"].split()[0]} for row in rows]
    assert sorted(map(sorted, named)) == [["gaussian", "heat"], ["gaussian", "macer"], ["heat", "macer"]]
    assert all(row["acr_difference"] >= 0 for row in rows)  # the better one first
    for key in ("acr_p", "p_value"):
        raw, said = ([row[name] for row in rows] for name in (key, f"{key}_holm"))
        smallest = min(range(3), key=raw.__getitem__)
        assert said[smallest] == pytest.approx(min(1, 3 * raw[smallest]))
        assert all(one >= other for one, other in zip(said, raw, strict=True))
        assert len({*raw}) == 3
        assert max(said) <= 1
    certified = {item.run.facts["method"]: item.counted for item in read(str(tmp_path)).certifications}
    names = [(row["first"].split()[0], row["second"].split()[0]) for row in rows]
    for row, (first, second) in zip(rows, names, strict=True):
        assert row["acr_p"] == pytest.approx(stats.ttest_rel(certified[first], certified[second]).pvalue)


def test_too_many_pairs_are_refused_and_the_best_is_compared(tmp_path, monkeypatch):
    for method in ("gaussian", "heat", "macer"):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained)
    monkeypatch.setattr("robustsmooth.report.build.MOST", 2)
    evaluations = read(str(tmp_path))
    tables = {table.name: table for table in build_tables(evaluations, baseline="all")}
    assert len(tables["comparison"].rows) == 2
    assert "all pairs of 3 classifiers would be too many rows" in evaluations.problems[-1]


def test_a_limit_of_images_is_named_as_one():
    """They are spread evenly: not the first ones."""
    subset = {"every": 20, "max": 43}
    assert _facts_of_images({"data": {"subset": subset}})["images"] == "every 20 at most 43"


def test_a_log_that_names_the_test_split_is_compared_with_one_that_does_not(tmp_path):
    entries = [foreign(tmp_path / name, "digits", seed=seed) for seed, name in enumerate("abc")]
    given = [{**entry, "split": split} for entry, split in zip(entries[1:], ("test", "train"), strict=True)]
    (row,) = tables_of([entries[0], *given])["comparison"].rows
    assert {row["first"], row["second"]} == {"cohen (a)", "cohen (b)"}


@pytest.mark.parametrize(("split", "fact"), [("test", None), ("val", "validation"), ("train", "train")])
def test_a_run_of_ours_is_of_the_split_in_its_config(tmp_path, split, fact):
    trained = write_training(tmp_path / "a")
    folder = write_certification(trained / "certify", trained)
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    (folder / ".hydra" / "config.yaml").write_text(
        yaml.safe_dump(config | {"data": {"subset": {"split": split}}})
    )
    (item,) = read(str(tmp_path)).certifications
    assert item.run.facts.get("split") == fact
