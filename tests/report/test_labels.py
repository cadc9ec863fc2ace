"""Labels and groups of many foreign logs."""

from benchmarks.report import PATTERN, write_logs
from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations

from .conftest import CERTIFY, certify_rows, write_log


def test_many_foreign_logs_make_one_page_with_short_labels_the_best_first(tmp_path):
    def tables_of(entries):
        return {table.name: table for table in build_tables(read_evaluations(label_runs(find_runs(entries))))}

    sizes = [
        ("cifar10", 100, 1, 16),
        ("cifar10", 40, 20, 32),
        ("imagenet", 40, 20, 16),
        ("mnist", 40, 20, 16),
    ]
    write_logs(tmp_path / "logs", sizes)
    table = tables_of(str(tmp_path / "logs"))["certified_accuracy"]
    assert max(len(row["run"]) for row in table.rows) <= 40
    assert len({row["run"] for row in table.rows}) == 80
    entry = {"path": f"{tmp_path}/logs/**/sigma_*", "pattern": PATTERN, "n": 100_000, "alpha": 0.001}
    built = tables_of(entry)
    rows = built["certified_accuracy"].rows
    groups = [row["data_set"] for row in rows]
    assert sorted(set(groups)) == ["cifar10", "imagenet", "mnist"]
    ranked = [row["acr"] for row in rows if row["data_set"] == "cifar10"]
    assert len(ranked) > 40
    assert ranked == sorted(ranked, reverse=True)
    best = {
        (row["data_set"], row["images"]): row["accuracy"]
        for row in built["best"].rows
        if row["radius"] == 0.5
    }
    assert {images for data, images in best if data == "cifar10"} == {100, 40}  # complete logs and others
    for (data, images), accuracy in best.items():
        column = "certified_acc@0.5"
        assert accuracy == max(
            row[column] for row in rows if (row["data_set"], row["images"]) == (data, images)
        )


def test_logs_with_one_name_are_of_several_classifiers_if_their_facts_say_so(tmp_path):
    for at, place in enumerate(("cohen/sigma_0.25", "cohen/sigma_0.5", "macer/sigma_0.25")):
        path = tmp_path / place
        path.parent.mkdir(exist_ok=True)
        write_log(path, CERTIFY[:6], [row[:6] for row in certify_rows(seed=at)])
    pattern = r"(?P<method>[a-z]+)/sigma_(?P<sigma>[0-9.]+)$"
    entry = {"path": f"{tmp_path}/**/sigma_*", "pattern": pattern, "name": "resnet"}
    first, second, other = label_runs(find_runs(entry))
    assert first.facts["classifier"] == second.facts["classifier"] != other.facts["classifier"]
    assert len({run.label for run in (first, second, other)}) == 3
