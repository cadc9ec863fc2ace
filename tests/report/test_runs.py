"""Finding runs, their facts and their labels."""

import json
import shutil

import pytest
import yaml

from robustsmooth.report import find_runs, label_runs, read_evaluations, tidy_rows, write_report
from robustsmooth.report.comparable import repetitions
from robustsmooth.report.networks import signature

from .conftest import CERTIFY, certify_rows, write_certification, write_log, write_training


def labels(entries):
    return [run.label for run in label_runs(find_runs(entries))]


def test_all_folders_of_a_sweep_are_searched(runs):
    found = find_runs(str(runs))
    assert len(found) == 12
    certified = [run for run in found if "certify" in run.logs]
    assert [run.facts["method"] for run in certified] == ["gaussian", "gaussian", "heat", "heat"]
    assert [run.facts["sigma"] for run in certified] == [0.25, 0.5, 0.25, 0.5]
    assert all(run.facts["data"] == "digits" and run.facts["n"] == 1000 for run in certified)
    assert [run.trained.name for run in certified] == ["0_gaussian", "1_gaussian", "2_heat", "3_heat"]


def test_labels_contain_only_what_differs(runs):
    assert sorted(set(labels(str(runs)))) == [
        "gaussian 0.25",
        "gaussian 0.5",
        "heat 0.25",
        "heat 0.5",
    ]
    assert set(labels([str(runs / "0_gaussian"), str(runs / "2_heat")])) == {"gaussian", "heat"}


def test_a_training_whose_attack_differs_has_the_label_of_its_certification(tmp_path):
    for method, attack in (("cat_rs", "noise_cat_rs"), ("smoothadv", "smoothadv_pgd")):
        trained = write_training(tmp_path / method, method, attack={"steps": 4})
        hydra = yaml.safe_load((trained / ".hydra" / "hydra.yaml").read_text())
        hydra["hydra"]["runtime"]["choices"]["attack"] = attack
        (trained / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
        write_certification(trained / "certify", trained)
    assert labels(str(tmp_path)) == ["cat_rs", "cat_rs", "smoothadv", "smoothadv"]


def test_runs_that_differ_in_nothing_are_told_apart_by_their_folders(tmp_path):
    for name in ("a", "b"):
        trained = write_training(tmp_path / name)
        write_certification(trained / "certify", trained)
    assert labels(str(tmp_path)) == ["gaussian (a)", "gaussian (a)", "gaussian (b)", "gaussian (b)"]


def test_runs_that_differ_in_a_setting_are_told_apart_by_their_command_lines(tmp_path):
    for weight in (1, 4):
        trained = write_training(tmp_path / str(weight))
        hydra = yaml.safe_load((trained / ".hydra" / "hydra.yaml").read_text())
        hydra["hydra"]["overrides"] = {"task": ["method=gaussian", f"loss.robust_weight={weight}"]}
        (trained / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
        write_certification(trained / "certify", trained)
    assert sorted(labels(str(tmp_path))) == [
        f"gaussian (loss.robust_weight={weight})" for weight in (1, 1, 4, 4)
    ]


def test_a_network_trained_without_noise_has_no_level_in_its_label(tmp_path):
    for method, sigma in (("natural", 0.0), ("gaussian", 0.25)):
        run = tmp_path / method
        write_training(run, method, sigma=sigma)
        write_certification(run / "certify", run, sigma=0.25)
    assert sorted(set(labels(str(tmp_path)))) == ["gaussian", "natural", "natural σ=0.25"]


def test_a_row_of_an_experiment_is_named_in_place_of_its_method(tmp_path):
    for row in ("macer_90", "macer_270"):
        trained = write_training(tmp_path / row, method="macer", row=row)
        write_certification(trained / "certify", trained)
    assert sorted(set(labels(str(tmp_path)))) == ["macer_270", "macer_90"]


def test_an_evaluation_says_which_checkpoint_it_is_of_if_not_the_last(tmp_path):
    trained = write_training(tmp_path / "a-0.25")
    write_certification(trained / "folder", trained)
    for name in ("last", "best"):
        file = trained / "checkpoints" / f"{name}.ckpt"
        file.parent.mkdir(exist_ok=True)
        file.touch()
        write_certification(trained / name, file)
    found = label_runs(find_runs(str(tmp_path)))
    classifiers = ["gaussian", "gaussian best", "gaussian", "gaussian"]
    assert [run.facts["classifier"] for run in found] == classifiers
    assert [run.trained for run in found] == 4 * [trained]


def test_a_certification_at_another_noise_level_names_both_levels(tmp_path):
    trained = write_training(tmp_path / "a", sigma=0.25)
    write_certification(trained / "one", trained, sigma=0.25)
    write_certification(trained / "two", trained, sigma=0.5)
    expected = [
        "gaussian",
        "gaussian σ=0.25",
        "gaussian σ=0.5",
    ]
    assert labels(str(tmp_path)) == expected


def test_a_run_with_several_paths_is_listed_once(runs):
    entries = [str(runs), str(runs / "*"), str(runs / "0_gaussian" / "certify" / "certify.tsv")]
    assert len(find_runs(entries)) == 12


def test_a_run_with_a_second_name_is_listed_once(runs, tmp_path):
    (tmp_path / "link").symlink_to(runs, target_is_directory=True)
    assert len(find_runs([str(runs), str(tmp_path / "link")])) == 12
    assert {run.path.parent for run in find_runs(f"{tmp_path}/link/0_*")} <= {
        tmp_path / "link",
        tmp_path / "link" / "0_gaussian",
    }


def test_a_link_inside_a_folder_is_followed_once(tmp_path):
    """A run on another disk belongs to the sweep, as do evaluations that know only its path there."""
    disk, sweep = tmp_path / "disk", tmp_path / "sweep"
    write_training(disk / "gaussian")
    write_certification(disk / "gaussian" / "certify", disk / "gaussian")
    write_certification(sweep / "certify", disk / "gaussian", n=100)
    (sweep / "training").symlink_to(disk / "gaussian", target_is_directory=True)
    (sweep / "again").symlink_to(sweep / "certify", target_is_directory=True)
    (disk / "gaussian" / "back").symlink_to(sweep, target_is_directory=True)
    found = label_runs(find_runs(str(sweep)))
    assert [run.path.relative_to(sweep).as_posix() for run in found] == [
        "certify",
        "training",
        "training/certify",
    ]
    (sweep / "up").symlink_to(tmp_path, target_is_directory=True)
    write_certification(tmp_path / "other", disk / "gaussian")
    assert len(find_runs(str(sweep))) == 3  # not the runs of the folder that it is in
    assert {run.trained for run in found} == {sweep / "training"}
    assert len({run.network.identity for run in found}) == 1
    assert [run.label for run in found] == ["gaussian n=100", "gaussian", "gaussian n=1000"]


@pytest.mark.parametrize(
    ("ended", "file", "reported"),
    [("a", "last", False), ("b", "last", True), ("b", "best", False), (None, "last", False)],
)
def test_rows_of_another_network_than_the_training_ended_with_are_reported(tmp_path, ended, file, reported):
    trained = write_training(tmp_path / "run")
    (trained / "summary.json").write_text(json.dumps({"epochs": 3} | ({"network": ended} if ended else {})))
    folder = write_certification(trained / "certify", trained / "checkpoints" / f"{file}.ckpt")
    settings = folder / "certify.settings.json"
    settings.write_text(json.dumps({**json.loads(settings.read_text()), "network": "a"}))
    problems = read_evaluations(find_runs(str(trained))).problems
    sentence = f"{folder}: certify is not of the network at the end of the training in {trained}, but of an"
    assert [sentence in problem for problem in problems] == ([True] if reported else [])


def test_a_report_among_loose_logs_hides_none_of_them(tmp_path):
    for name in ("a.tsv", "b.tsv"):
        write_log(tmp_path / name, CERTIFY[:6], [row[:6] for row in certify_rows()])
    before = labels(str(tmp_path))
    (tmp_path / ".hydra").mkdir()
    (tmp_path / ".hydra" / "config.yaml").write_text(yaml.safe_dump({"runs": str(tmp_path), "report": {}}))
    write_report(str(tmp_path), tmp_path, formats=["html", "tables"])
    assert labels(str(tmp_path)) == labels(f"{tmp_path}/*.tsv") == before == ["a", "b"]
    assert labels(str(tmp_path / "a.tsv")) == ["a"]


def test_a_report_in_the_folder_of_a_training_does_not_hide_it(runs):
    write_report(str(runs), runs / "0_gaussian", formats=["html"])
    assert len(find_runs(str(runs))) == 12


@pytest.mark.parametrize("old", ["/cluster/sweep", "outputs/sweep"])  # as recorded: absolute, or relative
@pytest.mark.parametrize("new", ["copy", "other/sweep"])
def test_a_sweep_that_was_moved_has_the_facts_of_its_trainings(tmp_path, old, new):
    """Copied from a cluster, without its checkpoints: seeds are averaged, starts are found."""
    folder = tmp_path / "written"
    for seed in (0, 1):
        write_training(folder / f"natural-{seed}", "natural", seed=seed)
        started = {"checkpoint": f"{folder}/natural-{seed}/checkpoints/last.ckpt"}
        trained = write_training(folder / f"heat-{seed}", "heat", seed=seed, model=started)
        write_certification(trained / "certify", trained / "checkpoints" / "last.ckpt", seed=seed)
    for file in folder.rglob(".hydra/config.yaml"):
        file.write_text(file.read_text().replace(str(folder), old))
    (tmp_path / new).parent.mkdir(exist_ok=True)
    moved = folder.rename(tmp_path / new)
    certified = [run for run in label_runs(find_runs(str(moved))) if "certify" in run.logs]
    assert [run.trained for run in certified] == [moved / "heat-0", moved / "heat-1"]
    assert [(run.facts["method"], run.facts["data"]) for run in certified] == [("heat", "digits")] * 2
    (group,) = repetitions(read_evaluations(certified).certifications)
    assert len(group) == 2


def test_a_dot_in_the_name_of_a_training_folder_is_no_file_ending(tmp_path):
    for seed in (0, 1):
        trained = write_training(tmp_path / f"seed{seed}_sigma0.25", seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
    (group,) = repetitions(read_evaluations(label_runs(find_runs(str(tmp_path)))).certifications)
    assert len(group) == 2


def test_trainings_from_unlike_files_are_no_repetitions(tmp_path):
    start = write_training(tmp_path / "start", "natural")
    for seed, name in enumerate(("epoch_5.pt", "epoch_10.pt")):
        (start / name).touch()
        trained = write_training(tmp_path / str(seed), seed=seed, model={"checkpoint": str(start / name)})
        write_certification(trained / "certify", trained, seed=seed)
    groups = repetitions(read_evaluations(label_runs(find_runs(str(tmp_path)))).certifications)
    assert [len(group) for group in groups] == [1, 1]


def test_an_exported_network_has_the_seed_of_its_training(tmp_path):
    for seed in range(2):
        trained, exported = write_training(tmp_path / f"{seed}", seed=seed), tmp_path / f"exported{seed}"
        (exported / ".hydra").mkdir(parents=True)
        config = yaml.safe_dump({"seed": 7, "checkpoint": str(trained)})
        (exported / ".hydra" / "config.yaml").write_text(config)
        write_certification(exported / "certify", exported / "model.safetensors")
    certified = [run for run in label_runs(find_runs(str(tmp_path))) if run.logs]
    assert [run.training_seed for run in certified] == [0, 1]
    (both,) = repetitions(read_evaluations(certified).certifications)
    assert len(both) == 2


def test_a_foreign_file_is_one_classifier_however_a_command_named_it(tmp_path):
    file = str(tmp_path / "one" / "net.pth")
    named = {
        "relative": ("one", "net.pth"),
        "absolute": ("two", file),
        "other": ("two", "net.pth"),
        "published": ("one", "published:net"),
        "again": ("two", "published:net"),
    }
    for name, (started_in, checkpoint) in named.items():
        folder = write_certification(tmp_path / "runs" / name, checkpoint)
        hydra = {"hydra": {"runtime": {"cwd": str(tmp_path / started_in)}}}
        (folder / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(hydra))
    found = {run.path.name: run.network.identity for run in find_runs(str(tmp_path))}
    assert found["relative"] == found["absolute"] != found["other"]
    assert found["published"] == found["again"]


def test_a_copy_beside_the_original_is_not_mixed_with_it(tmp_path):
    trained = write_training(tmp_path / "original")
    write_certification(trained / "certify", trained / "checkpoints" / "last.ckpt")
    shutil.copytree(trained, tmp_path / "copy")
    (certified,) = (run for run in find_runs(str(tmp_path / "copy")) if "certify" in run.logs)
    assert certified.trained == tmp_path / "copy"


def test_a_run_that_has_changed_is_read_again(tmp_path):
    """As in a notebook that watches a sweep."""
    path = str(write_training(tmp_path / "run"))
    (before,) = find_runs(path)
    known = signature(before.path)
    shutil.rmtree(path)
    write_training(tmp_path / "run", sigma=0.5, method="macer")
    (after,) = find_runs(path)
    assert (before.facts["train_sigma"], before.facts["method"]) == (0.25, "gaussian")
    assert (after.facts["train_sigma"], after.facts["method"]) == (0.5, "macer")
    assert signature(after.path) != known


def test_foreign_logs_get_their_facts_from_the_command_line_and_their_path(tmp_path):
    for sigma in ("0.25", "0.50"):
        write_log(
            tmp_path / f"noise_{sigma}" / "test" / f"sigma_{sigma}",
            CERTIFY[:6],
            [row[:6] for row in certify_rows()],
        )
    (tmp_path / "noise_0.25" / "test" / "stdout.txt").write_text("some words\n")
    entry = {
        "path": f"{tmp_path}/**/sigma_*",
        "pattern": r"noise_(?P<train_sigma>[0-9.]+)/test/sigma_(?P<sigma>[0-9.]+)",
        "method": "cohen",
        "n": 100000,
    }
    found = label_runs(find_runs(entry))
    assert [run.label for run in found] == ["cohen 0.25", "cohen 0.5"]
    assert all(run.facts["n"] == 100000 for run in found)
    everything = read_evaluations(label_runs(find_runs({"path": f"{tmp_path}/**/*.*", "method": "cohen"})))
    assert len(everything.certifications) == 2
    assert "is no robustness log" in everything.problems[0]


def test_radii_that_are_impossible_for_the_given_facts_are_reported(tmp_path):
    path = write_log(tmp_path / "log", CERTIFY[:6], [[0, 1, 1, 0.978, 1, 1.0]])
    facts = {"path": str(path), "sigma": 0.25, "n": 100_000}
    assert (
        "one of these facts" in read_evaluations(label_runs(find_runs({**facts, "alpha": 0.001}))).problems[0]
    )
    assert read_evaluations(label_runs(find_runs({**facts, "alpha": 0.01}))).problems == []


def test_the_finished_rows_of_an_unfinished_evaluation_count(tmp_path):
    trained = write_training(tmp_path / "a")
    folder = write_certification(trained / "certify", trained)
    lines = (folder / "certify.tsv").read_text().splitlines(keepends=True)
    (folder / "certify.tsv").unlink()
    (folder / "certify.rank0.tsv").write_text("".join([lines[0], *lines[1:21:2]]))
    (folder / "certify.rank1.tsv").write_text("".join([lines[0], *lines[2:21:2]]) + "22\t1")
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    assert evaluations.certifications[0].indices.tolist() == list(range(20))
    assert any("not finished" in problem for problem in evaluations.problems)
    assert any("half written" in problem for problem in evaluations.problems)


def test_the_rows_of_an_extension_that_is_not_finished_replace_shorter_ones(tmp_path):
    """The settings already name the larger n: without these rows the report would say n of the wrong ones."""
    trained = write_training(tmp_path / "a")
    folder = write_certification(trained / "certify", trained, n=1000)
    longer = write_certification(tmp_path / "longer", trained, n=5000)
    (folder / "certify.settings.json").write_text((longer / "certify.settings.json").read_text())
    lines = (longer / "certify.tsv").read_text().splitlines(keepends=True)
    (folder / "certify.rank0.tsv").write_text("".join(lines[:21]))
    evaluations = read_evaluations(label_runs(find_runs(str(trained))))
    (certification,) = evaluations.certifications
    radius = [float(line.split("\t")[3]) for line in lines[1:21]]
    assert certification.images == 60
    assert certification.radius[:20].tolist() == radius
    assert certification.votes == (20 * 5000 + 40 * 1000) / 60
    (problem,) = evaluations.problems
    assert "certify is not finished" in problem


def test_damaged_files_beside_the_logs_are_reported(runs):
    (runs / "0_gaussian" / "summary.json").write_text("{")
    (runs / "1_gaussian" / "metrics.csv").write_text("")
    evaluations = read_evaluations(label_runs(find_runs(str(runs))))
    assert len(evaluations.problems) == 2
    assert len(evaluations.certifications) == 4


def test_the_tidy_table_has_facts_as_columns(runs):
    rows = tidy_rows(label_runs(find_runs(str(runs))), "certify")
    assert len(rows) == 240
    assert rows.groupby(["method", "sigma"])["idx"].nunique().tolist() == [60] * 4


@pytest.mark.parametrize(
    ("entries", "message"),
    [
        ("nowhere", "holds no run and no log"),
        ([{"method": "x"}], "needs a path"),
        ({"path": ".", "pattern": "("}, "not a regular expression"),
        ({"path": "a", "alpha": 2}, r"`runs`: a: alpha must be in \(0, 1\), got 2"),
        ({"path": "a", "n": 0}, "n must be at least 1, got 0"),
        ({"path": "a", "n": float("nan"), "sigma": -1}, "got -1; n must be at least 1, got nan"),
        ({"path": "a", "n": "many"}, "n must be at least 1, got 'many'"),
    ],
)
def test_an_entry_without_runs_or_with_wrong_numbers_is_an_error(entries, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ValueError, match=message):
        find_runs(entries)


def test_logs_that_a_pattern_does_not_match_are_named(tmp_path):
    for name in ("noise_0.25", "noise_0.5", "other", "another"):
        write_log(tmp_path / name, CERTIFY, certify_rows())
    runs = find_runs({"path": str(tmp_path / "*"), "pattern": "noise_(?P<sigma>[0-9.]+)", "setting": 3})
    assert [run.facts.get("sigma") for run in runs] == [None, 0.25, 0.5, None]
    assert {run.facts["setting"] for run in runs} == {3}
    (problem,) = (problem for run in runs for problem in run.problems)
    assert problem.endswith(
        "does not match " + str(tmp_path / "another") + " nor 1 others, which lack its facts"
    )


def test_facts_that_seem_to_be_misspelt_are_named(tmp_path):
    path = str(write_log(tmp_path / "log", CERTIFY, certify_rows()))
    (run,) = find_runs(
        {"path": path, "sgima": 0.25, "Data": "digits", "width": 3, "pattern": "(?P<methodx>log)"}
    )
    assert [problem.split()[-1] for problem in run.problems] == ["sigma?", "data?", "method?"]
    assert run.facts["width"] == 3
