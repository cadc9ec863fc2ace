"""Labels and groups of many foreign logs."""

from benchmarks.report import PATTERN, write_logs
from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations


def test_many_foreign_logs_make_one_page_with_short_labels_the_best_first(tmp_path):
    def tables_of(entries):
        return {table.name: table for table in build_tables(read_evaluations(label_runs(find_runs(entries))))}

    write_logs(tmp_path / "logs", 80, whole=100, part=40)
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
