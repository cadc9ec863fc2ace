"""A report leaves out what it cannot read, and names it."""

import os
import shutil
from pathlib import Path

import pytest
import yaml

from robustsmooth.report import find_runs, label_runs, read_evaluations, write_report
from robustsmooth.report.logs import read_log

from .conftest import CERTIFY, certify_rows, write_certification, write_log, write_training

HEADER = "\t".join(CERTIFY[:6])


def written(tmp_path, body, end="\n"):
    path = tmp_path / "odd.tsv"
    path.write_bytes((f"{HEADER}\n{body}").replace("\n", end).encode())
    return path


def test_carriage_returns_alone_are_line_ends(tmp_path):
    log = read_log(written(tmp_path, "0\t3\t3\t0.5\t1\t1.5\n1\t3\t-1\t0.0\t0\t2.5\n", "\r"))
    assert (log.rows["idx"].tolist(), log.problems) == ([0, 1], ())


@pytest.mark.parametrize(
    ("row", "fault"),
    [
        ("1\t4\t3\t0.5\t1\t1.5", "say that they are correct although the prediction is not the label"),
        ("1\t4\t-1\t0.5\t1\t1.5", "say that they are correct although the prediction is not the label"),
        ("1\t4\t4\tinf\t1\t1.5", "have a radius that is negative or not finite"),
        ("1\t4\t4\t-0.5\t1\t1.5", "have a radius that is negative or not finite"),
    ],
)
def test_rows_that_contradict_themselves_count_as_wrong_and_are_named(tmp_path, row, fault):
    log = read_log(written(tmp_path, f"0\t3\t3\t0.5\t1\t1.5\n{row}\n"))
    assert (log.rows["radius"] * log.rows["correct"]).mean() == 0.25
    assert log.rows["correct"].tolist() == [1, 0]
    assert fault in log.problems[0]
    assert str(log.path) in log.problems[0]


def test_a_row_that_calls_a_right_answer_wrong_stays_wrong_and_is_named(tmp_path):
    log = read_log(written(tmp_path, "0\t3\t3\t0.5\t0\t1.5\n"))
    assert log.rows["correct"].tolist() == [0]
    assert "although the prediction is the label" in log.problems[0]


@pytest.mark.parametrize("formats", [["tables"], ["html"], ["png"], ["terminal"]])
def test_problems_are_shown_with_all_formats(tmp_path, capsys, formats):
    good = write_log(tmp_path / "good.tsv", CERTIFY[:6], [row[:6] for row in certify_rows()])
    bad = written(tmp_path, "0\t3\t4\t0.5\t1\t1.5\n")
    write_report([str(good), str(bad)], tmp_path / "out", formats=formats)
    assert "say that they are correct although" in " ".join(capsys.readouterr().out.split())


def odd_sigma(run):
    change(run / ".hydra" / "config.yaml", {"smoothing": {"sigma": "loud"}})
    (run / "certify.settings.json").unlink()


def odd_hydra(run):
    (run / ".hydra" / "hydra.yaml").write_text("hydra: 5\n")


def odd_config(run):
    (run / ".hydra" / "config.yaml").write_text("[1, 2]\n")


def odd_parts(run):
    change(run / ".hydra" / "config.yaml", {"data": 3, "attack": [1], "certificate": "x", "seed": {}})


def odd_summary(run):
    (run / "summary.json").write_text('{"metrics": 7}')


def odd_guarantee(run):
    text = (run / "certify.tsv").read_text().splitlines()
    lines = [
        f"{text[0]}\tguarantee",
        *(f"{line}\tl{at % 2 + 1}-certificate" for at, line in enumerate(text[1:])),
    ]
    (run / "certify.tsv").write_text("\n".join(lines) + "\n")


def odd_bytes(run):
    (run / "certify.tsv").write_bytes(bytes(range(256)) * 8)


def odd_name(run):
    run.rename(run.with_name("price $5 or $6"))


def odd_seed(run):
    change(run.parent / ".hydra" / "config.yaml", {"seed": [1, {"of": 2}]})


def odd_letters(run):
    run.rename(run.with_name(os.fsdecode(b"run\xe9")))


def change(path, changes):
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), **changes}))


ODD = [
    odd_sigma,
    odd_hydra,
    odd_config,
    odd_parts,
    odd_summary,
    odd_guarantee,
    odd_bytes,
    odd_name,
    odd_letters,
]


def report_beside(tmp_path, odd, formats):
    """The report contains the ordinary run `a`, although there are odd ones."""
    runs = tmp_path / "runs"
    for name in ("a", *(change.__name__ for change in odd)):
        trained = write_training(runs / name, method=name)
        write_certification(trained / "certify", trained)
    for change in odd:
        change(runs / change.__name__ / "certify")
    built = {table.name: table for table in write_report(str(runs), tmp_path / "out", formats=formats)}
    assert "a" in [row["run"] for row in built["certified_accuracy"].rows]


@pytest.mark.parametrize("odd", ODD)
def test_one_odd_run_does_not_end_the_report(tmp_path, odd):
    report_beside(tmp_path, [odd], ["tables"])


def test_many_odd_runs_do_not_end_the_report_in_any_format(tmp_path):
    report_beside(tmp_path, ODD, ["html", "png", "tables"])


def test_an_odd_run_is_named(tmp_path):
    trained = write_training(tmp_path / "a")
    odd_sigma(write_certification(trained / "certify", trained))
    (problem,) = read_evaluations(label_runs(find_runs(str(tmp_path)))).problems
    assert problem == f"{trained / 'certify'}: sigma must be at least 0, got 'loud'; it is left out"


def test_a_name_that_is_not_utf_8_is_reported(tmp_path):
    trained = write_training(tmp_path / "a")
    odd_letters(write_certification(trained / "certify", trained))
    (problem,) = read_evaluations(label_runs(find_runs(str(tmp_path)))).problems
    name = os.fsencode(trained / "certify").replace(b"certify", b"run\xe9")
    assert problem == f"{name!r} is left out, because its name is not UTF-8; rename it"
    with pytest.raises(ValueError, match="its name is not UTF-8; rename it"):
        find_runs(str(trained / "run?"))


def test_a_file_that_cannot_be_opened_is_named_without_an_error_number(tmp_path, monkeypatch):
    path = write_log(tmp_path / "log", CERTIFY[:6], [row[:6] for row in certify_rows()])

    def denied(path):
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", denied)
    (problem,) = read_evaluations(label_runs(find_runs(str(path)))).problems
    assert problem == f"{path} is not readable: Permission denied"


@pytest.mark.parametrize("largest", [250.0, 2.5e301])
def test_large_radii_give_at_most_ten_columns(tmp_path, largest):
    rows = [[idx, 1, 1, largest / 100 * idx, 1, 1.0] for idx in range(100)]
    path = write_log(tmp_path / "log", CERTIFY[:6], rows)
    built = {table.name: table for table in write_report(str(path), tmp_path / "out", formats=[])}
    assert (
        5
        <= sum(column.key.startswith("certified_acc") for column in built["certified_accuracy"].columns)
        <= 10
    )


def test_a_folder_of_foreign_logs_is_searched_to_the_bottom(tmp_path):
    for sigma in ("0.25", "0.50"):
        path = tmp_path / "logs" / f"noise_{sigma}" / "test" / f"sigma_{sigma}"
        write_log(path, CERTIFY[:6], [row[:6] for row in certify_rows()])
    (tmp_path / "logs" / "README.md").write_text("idx\tpredict\tradius\tcorrect\n")
    (tmp_path / "logs" / "noise_0.25" / "notes").write_text("words\n")
    found = label_runs(find_runs(str(tmp_path / "logs")))
    assert [run.label for run in found] == ["sigma_0.25", "sigma_0.50"]


def test_reports_and_exports_are_not_listed_and_jobs_are_sorted_by_number(tmp_path):
    for job in (0, 1, 2, 10, 11):
        trained = write_training(tmp_path / f"{job}_gaussian", seed=job)
        write_certification(trained / "certify", trained, seed=job)
    report = tmp_path / "report"
    shutil.copytree(tmp_path / "0_gaussian" / ".hydra", report / ".hydra")
    change(
        report / ".hydra" / "config.yaml", {"method": None, "runs": "x", "report": {"formats": ["terminal"]}}
    )
    found = find_runs(str(tmp_path))
    assert [run.path.name for run in found if run.trained == run.path] == [
        f"{job}_gaussian" for job in (0, 1, 2, 10, 11)
    ]
    assert len(found) == 10


def test_a_pattern_that_matches_nothing_is_an_error(tmp_path):
    path = write_log(tmp_path / "log", CERTIFY[:6], [row[:6] for row in certify_rows()])
    with pytest.raises(ValueError, match="matches no path, such as"):
        find_runs({"path": str(path), "pattern": "noise_(?P<sigma>.*)"})


def test_a_training_that_was_killed_before_its_first_metrics_is_named(tmp_path):
    trained = write_training(tmp_path / "a")
    for name in ("metrics.csv", "summary.json"):
        (trained / name).unlink()
    (problem,) = read_evaluations(label_runs(find_runs(str(tmp_path)))).problems
    assert problem == f"{trained}: the training has not ended; start its command again to finish it"


def test_an_evaluation_that_was_killed_before_its_first_row_is_named(tmp_path):
    trained = write_training(tmp_path / "a")
    folder = write_certification(trained / "certify", trained)
    (folder / "certify.tsv").rename(folder / "foreign.tsv")
    found = label_runs(find_runs(str(tmp_path)))
    assert [run.path for run in found if run.logs] == [folder / "foreign.tsv"]
    (problem,) = read_evaluations(found).problems
    assert problem == f"{folder}: certify has no rows yet; start its command again to finish it"
