"""Which logs are about the same images."""

import itertools

import numpy as np
import pandas as pd
import pytest

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations
from robustsmooth.report.figures import draw_figures
from robustsmooth.report.images import KnownImages
from robustsmooth.report.logs import read_log

from .conftest import name_images, write_attack, write_certification, write_log, write_training

FACTS = {"data": "imagefolder"}


def rows(numbers, labels=None, image=None):
    columns = {"idx": numbers, "label": labels, "image": image}
    return pd.DataFrame({name: values for name, values in columns.items() if values is not None})


def read(folder):
    return read_evaluations(label_runs(find_runs(str(folder))))


def two_seeds(tmp_path, second, **facts):
    """Two networks of one method, certified and attacked; the images of the second have these pixels."""
    for seed, pixels in enumerate(("animals", second)):
        trained = write_training(tmp_path / f"gaussian{seed}", seed=seed, data="imagefolder", **facts)
        logs = [
            write_certification(trained / "certify", trained, seed=seed) / "certify.tsv",
            write_attack(trained / "attack", trained, seed=seed) / "attack.tsv",
        ]
        for log in logs if pixels else ():
            name_images(log, pixels)
    return {table.name: table for table in build_tables(read(tmp_path))}


@pytest.mark.parametrize("second", ["animals", ""])
def test_seeds_on_the_same_images_are_averaged(tmp_path, second):
    """Also if one of the logs was written before these named the images."""
    tables = two_seeds(tmp_path, second)
    assert [row["seeds"] for row in tables["overview"].rows] == [2]
    assert [row["seeds"] for row in tables["attack_seeds"].rows] == [2, 2]


def test_runs_on_data_sets_of_one_name_are_neither_averaged_nor_compared(tmp_path):
    """Two folders of images: the same numbers and labels, but other pixels."""
    tables = two_seeds(tmp_path, "birds")
    assert [row["seeds"] for row in tables["overview"].rows] == [1, 1]
    assert not {"seeds", "attack_seeds", "comparison", "seed_comparison"} & tables.keys()
    table = tables["certified_accuracy"]
    assert [row["data_set"] for row in table.rows] == ["imagefolder, images 1", "imagefolder, images 2"]
    acr = next(column for column in table.columns if column.key == "acr")
    assert not any(table.is_best(acr, row) for row in table.rows)  # nothing to compare with
    assert [row["images"] for row in tables["contradictions"].rows] == [60] * 4  # each with its own
    titles = [column.title for column in tables["overview"].columns if "ε=0.5" in column.title]
    assert [title.partition("image set")[2] for title in titles] == [" 1 (60) (%)", " 2 (60) (%)"]


def test_attacks_on_other_images_are_not_in_an_envelope(tmp_path):
    for seed, (pixels, sigma) in enumerate((("animals", 0.25), ("animals", 0.5), ("birds", 0.25))):
        trained = write_training(tmp_path / str(seed), sigma=sigma, data="imagefolder")
        log = write_certification(trained / "certify", trained, sigma=sigma) / "certify.tsv"
        name_images(log, pixels)
        name_images(write_attack(trained / "pgd", trained, sigma=sigma, seed=seed) / "attack.tsv", pixels)
    evaluations = read(tmp_path)
    (drawing,) = (item for item in draw_figures(evaluations) if item.name.startswith("envelope_imagefolder"))
    (marks,) = (line for line in drawing.figure().axes[0].get_lines() if line.get_linestyle() == ":")
    held = np.array([100 * float((~attack.won).mean()) for attack in evaluations.attacks]).reshape(3, 2)
    assert marks.get_ydata() == pytest.approx(held[:2].max(axis=0))
    assert (held[2] > held[:2]).any()


def joined(*logs):
    """Which data each log is of, whatever their order; None where it could be of several."""
    answers = set()
    for order in itertools.permutations(range(len(logs))):
        known = KnownImages()
        noted = {at: known.note(FACTS, logs[at]).data for at in order}
        found, undecided = known.joined()
        homes = [found[noted[at]] for at in range(len(logs))]
        doubtful = tuple(noted[at] in undecided for at in range(len(logs)))
        answers.add((tuple(map(homes.index, homes)), doubtful))
    (answer,) = answers
    return [None if unsure else at for at, unsure in zip(*answer, strict=True)]


def test_logs_agree_where_both_know_the_image():
    one, two = "0123456789abcdef", "f123456789abcdef"
    logs = [
        rows([3, 5], [0, 1], [one, two]),
        rows([5, 3, 3], [1, 0, 0], [two, one, one]),
        rows([3, 5], [0, 1]),
        rows([3, 5], [0, 1], ["-", np.nan]),
        rows([3, 5]),
    ]
    assert joined(*logs) == [0] * 5
    assert joined(logs[0], rows([3], [0], [one])) == [0, 0]
    for other in (rows([3, 5], [0, 2]), rows([3, 5], [0, 1], [one, one])):
        assert joined(logs[0], other) == [0, 1]


def test_the_same_images_are_those_with_the_same_numbers_of_the_same_data():
    known = KnownImages()
    first, again, fewer = (known.note(FACTS, rows(numbers)) for numbers in ([3, 5], [5, 3, 3], [3]))
    assert first == again
    assert (known.joined()[0][first.data], first.numbers) != (fewer.data, fewer.numbers)
    assert known.joined()[0][fewer.data] == known.joined()[0][first.data]
    assert known.note(FACTS | {"split": "validation"}, rows([3])).data.name != first.data.name


def test_a_log_without_hashes_joins_the_only_data_that_it_can_be_of():
    hashes = ["0" * 16, "8" * 16, "f" * 16]
    named, other = rows([0, 1, 2], [0, 0, 0], hashes), rows([0, 1, 2], [0, 0, 1], hashes[::-1])
    assert joined(named, other, rows([0, 2], [0, 0])) == [0, 1, 0]
    assert joined(named, rows([7, 8, 9], [0, 0, 0], hashes), rows([0, 2], [0, 0])) == [0, 0, 0]


def test_logs_that_could_be_of_several_data_are_compared_with_each_other_only():
    """Two folders of images with the same labels, and logs without hashes of the pixels."""
    hashes = ["0" * 16, "8" * 16, "f" * 16]
    named, other = rows([0, 1, 2], [0, 0, 0], hashes), rows([0, 1, 2], [0, 0, 0], hashes[::-1])
    assert joined(named, other, rows([0, 2], [0, 0]), rows([0, 1, 2], [0, 0, 0])) == [0, 1, None, None]
    known = KnownImages()
    noted = [known.note(FACTS, log).data for log in (named, rows([0, 2], [0, 0]), rows([0]), other)]
    homes = [known.joined()[0][data].part for data in noted]
    assert homes == [0, 1, 1, 2]


def test_the_log_that_says_most_comes_first():
    """Disjoint images contradict nothing, but a log with all of them may tell two folders apart."""
    hashes = [f"{at:016x}" for at in range(0, 100, 2)]
    left, right = rows([0, 1], [0, 0], hashes[:2]), rows([2, 3], [0, 0], hashes[10:12])
    assert joined(left, right, rows([0, 1, 2, 3], [0] * 4, hashes[:4])) == [0, 1, 0]


def test_the_report_says_which_logs_could_be_of_several_folders(tmp_path):
    for seed, pixels in enumerate(("animals", "birds", "", "")):
        trained = write_training(tmp_path / f"gaussian{seed}", seed=seed, data="imagefolder")
        log = write_certification(trained / "certify", trained, seed=seed) / "certify.tsv"
        if pixels:
            name_images(log, pixels)
    evaluations = read(tmp_path)
    (problem,) = [problem for problem in evaluations.problems if "could be those of several" in problem]
    assert "gaussian2" in problem
    assert "and 1 other log:" in problem
    assert [item.image_set.data.part for item in evaluations.certifications] == [0, 1, 2, 2]


def test_the_hash_of_an_image_is_never_read_as_a_number(tmp_path):
    """Of one image it may happen to have digits only."""
    header = ["idx", "label", "predict", "radius", "correct", "time", "image"]
    path = write_log(tmp_path / "log", header, [[0, 1, 1, 0.5, 1, 1.0, "0000000012345678"]])
    assert read_log(path).rows["image"].tolist() == ["0000000012345678"]
