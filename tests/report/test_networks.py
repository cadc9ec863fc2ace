"""Which network an evaluation is of: ensembles, denoisers, and files from elsewhere."""

import pytest
import yaml

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations
from robustsmooth.report.comparable import doubled_seeds, group_name, repetitions

from .conftest import write_attack, write_certification, write_training

MODEL = {"network": "small", "normalization": "half", "denoiser": None}


def read(top):
    return read_evaluations(label_runs(find_runs(str(top))))


def tables_of(top, **options):
    return {table.name: table for table in build_tables(read(top), **options)}


def evaluated(folder, checkpoint, model=None, write=write_certification, cwd=None, **config):
    """An evaluation, whose command was started in `cwd` and changed the `model`."""
    path = write(folder, checkpoint) / ".hydra" / "config.yaml"
    path.write_text(yaml.safe_dump({**yaml.safe_load(path.read_text()), "model": model, **config}))
    if cwd is not None:
        path.with_name("hydra.yaml").write_text(yaml.safe_dump({"hydra": {"runtime": {"cwd": str(cwd)}}}))
    return folder


def ensemble(*members, **more):
    return {"_target_": "robustsmooth.runs.open_ensemble", "members": [str(one) for one in members], **more}


def certify_and_attack(folder, members):
    """A certification and an attack of several networks; the attack's command names the others otherwise."""
    first, *others = members
    trusting = ensemble(*others, trust=["my.Network"])  # as an evaluation of `evaluate` has it
    evaluated(folder / "certify", first, trusting)
    named = ensemble(*(other.name for other in others), trust=[])
    evaluated(folder / "attack", first, named, write_attack, cwd=folder.parent)


@pytest.fixture
def networks(tmp_path):
    """Four trainings with different seeds."""
    return [write_training(tmp_path / f"net{seed}", seed=seed, model=MODEL) for seed in range(4)]


def test_an_ensemble_is_another_classifier_than_its_first_network(tmp_path, networks):
    """An attack on one network says nothing about the certificates of several, nor the other way round."""
    write_certification(networks[0] / "certify", networks[0])
    write_attack(networks[0] / "attack", networks[0])
    certify_and_attack(tmp_path / "two", networks[:2])
    certify_and_attack(tmp_path / "three", networks[:3])
    tables = tables_of(tmp_path)
    assert len(tables["contradictions"].rows) == 2 * 3  # each with its own attack, at two budgets
    names = {row["classifier"] for row in tables["overview"].rows}
    assert names == {"gaussian seed=0", "gaussian ensemble of 2", "gaussian ensemble of 3"}
    assert "envelope" not in tables  # no method has several runs


def test_ensembles_of_the_best_and_the_last_networks_are_two_classifiers(tmp_path, networks):
    for name in ("best", "last"):
        evaluated(tmp_path / name, networks[0], ensemble(networks[1] / "checkpoints" / f"{name}.ckpt"))
    assert len({run.facts["classifier"] for run in read(tmp_path).runs if run.logs}) == 2


@pytest.mark.parametrize(
    ("second", "seeds"), [((2, 3), [2]), ((3, 2), [2]), ((1, 2), [1, 1]), ((0, 2), [1, 1]), ((1, 0), [1, 1])]
)
def test_ensembles_with_other_members_are_repetitions(tmp_path, networks, second, seeds):
    """Not if they have a member in common; two orders of the same members are one network."""
    for name, (first, other) in (("a", (0, 1)), ("b", second)):
        evaluated(tmp_path / name, networks[first], ensemble(networks[other]))
    certified = read(tmp_path).certifications
    assert [len(group) for group in repetitions(certified)] == seeds
    same = second == (1, 0)
    assert len({one.run.facts["classifier"] for one in certified}) == (1 if same else 2)
    said = doubled_seeds(certified)
    assert [("some networks are parts" in one) for one in said] == ([] if seeds == [2] or same else [True])
    if seeds == [2]:  # the mean has the path of no seed
        assert [group_name(group) for group in repetitions(certified)] == ["gaussian ensemble of 2"]


def test_ensembles_of_other_checkpoints_of_the_same_trainings_are_no_repetitions(tmp_path, networks):
    first, second = networks[:2]
    evaluated(tmp_path / "a", first, ensemble(second / "checkpoints" / "best.ckpt"))
    evaluated(tmp_path / "b", second, ensemble(first / "checkpoints" / "best.ckpt"))
    assert [len(group) for group in repetitions(read(tmp_path).certifications)] == [1, 1]


def test_the_order_of_members_counts_only_for_those_that_decide_alone(tmp_path, networks):
    for name, order in (("a", (0, 1, 2)), ("b", (1, 0, 2)), ("c", (0, 2, 1))):
        first, *others = (networks[at] for at in order)
        evaluated(tmp_path / name, first, ensemble(*others, consensus=2))
    found = {run.path.name: run.network.identity for run in read(tmp_path).runs if run.logs}
    assert found["a"] == found["b"] != found["c"]


def test_an_ensemble_of_unlike_networks_has_the_facts_that_they_share(tmp_path):
    first = write_training(tmp_path / "one", "gaussian", 0.25, model=MODEL)
    second = write_training(tmp_path / "two", "heat", 0.5, seed=1, model=MODEL)
    evaluated(tmp_path / "both", first, ensemble(second))
    (run,) = (run for run in read(tmp_path).runs if run.logs)
    assert run.facts["method"] == "gaussian+heat ensemble of 2"
    assert "train_sigma" not in run.facts
    assert (run.facts["data"], run.training_seed) == ("digits", "0+1")


def test_an_ensemble_with_a_network_without_noise_has_no_level(tmp_path):
    first = write_training(tmp_path / "one", "gaussian", 0.25, model=MODEL)
    second = write_training(tmp_path / "two", "natural", None, model=MODEL)
    evaluated(tmp_path / "both", first, ensemble(second))
    (run,) = (run for run in read(tmp_path).runs if run.logs)
    assert "train_sigma" not in run.facts


def test_ensembles_with_unlike_files_from_elsewhere_are_no_repetitions(tmp_path, networks):
    """Nor are those with the same file: they have it in common."""
    for at, name in enumerate(("one", "two", "two")):
        evaluated(tmp_path / f"{at}", networks[at], ensemble(tmp_path / f"{name}.pth"))
    certified = read(tmp_path).certifications
    assert [len(group) for group in repetitions(certified)] == [1, 1, 1]
    assert len({one.run.facts["family"] for one in certified}) == 2
    assert {one.run.facts["method"] for one in certified} == {
        "gaussian+one.pth ensemble of 2",
        "gaussian+two.pth ensemble of 2",
    }


@pytest.mark.parametrize("kind", ["file", "run", "runs", "two"])
def test_seeds_behind_one_denoiser_or_each_behind_its_own_are_repetitions(tmp_path, networks, kind):
    """One in front of all is a setting of theirs; some may not share one."""
    denoisers = [write_training(tmp_path / f"d{at}", "denoiser", seed=5 + at) for at in range(3)]
    places = {
        "file": 3 * [tmp_path / "dncnn.pth"],
        "run": 3 * denoisers[:1],
        "runs": denoisers,
        "two": [denoisers[0], *denoisers[:2]],
    }
    for at, place in enumerate(places[kind]):
        model = {**MODEL, "denoiser": {"depth": 17}, "denoiser_checkpoint": str(place)}
        evaluated(tmp_path / f"e{at}", networks[at], model)
    evaluations = read(tmp_path)
    groups = [len(group) for group in repetitions(evaluations.certifications)]
    said = doubled_seeds(evaluations.certifications)
    assert (groups, len(said)) == (([3], 0) if kind != "two" else ([1, 1, 1], 1))


def test_denoisers_that_bring_their_own_weights_are_told_apart_by_them(tmp_path, networks):
    for seed in (0, 1):
        model = {**MODEL, "denoiser": {"_target_": "my.Denoiser", "seed": seed}}
        evaluated(tmp_path / f"{seed}", networks[0], model)
    assert len({run.network.identity for run in read(tmp_path).runs if run.logs}) == 2


def test_a_part_that_an_evaluation_takes_away_makes_another_network(tmp_path):
    model = {**MODEL, "_target_": "my.build", "noise_layers": {"sigma": 0.1}}
    trained = write_training(tmp_path / "net", model=model)
    for name, layers in (("with", model["noise_layers"]), ("without", None)):
        evaluated(tmp_path / name, trained, {**model, "noise_layers": layers})
    evaluated(tmp_path / "open", trained, {"normalization": None, "noise_layers": None})  # as trained
    methods = {run.path.name: run.facts["method"] for run in read(tmp_path).runs if run.logs}
    assert methods == {"with": "gaussian", "without": "gaussian without noise_layers", "open": "gaussian"}


def test_best_networks_by_unlike_metrics_are_no_repetitions(tmp_path):
    for seed, monitor in enumerate(("val/top1", "val/loss", "val/loss")):
        trained = write_training(tmp_path / f"{seed}", seed=seed, monitor=monitor)
        write_certification(tmp_path / f"best{seed}", trained / "checkpoints" / "best.ckpt")
        write_certification(tmp_path / f"last{seed}", trained / "checkpoints" / "last.ckpt")
    groups = repetitions(read(tmp_path).certifications)
    assert sorted(len(group) for group in groups) == [1, 2, 3]


def test_an_attack_of_a_network_on_itself_is_no_repetition_of_transfers(tmp_path, networks):
    source = {"checkpoint": str(networks[0])}
    for at, network in enumerate(networks[:3]):
        evaluated(tmp_path / f"{at}" / "pgd", network, None, write_attack, source=source)
    groups = repetitions(attack for attack in read(tmp_path).attacks if attack.epsilon == 0.5)
    assert sorted(len(group) for group in groups) == [1, 2]


def exported(folder, checkpoint):
    (folder / ".hydra").mkdir(parents=True)
    config = yaml.safe_dump({"seed": 7, "checkpoint": str(checkpoint)})
    (folder / ".hydra" / "config.yaml").write_text(config)
    return folder


def test_a_network_is_not_compared_with_its_export(tmp_path, networks):
    best = networks[0] / "checkpoints" / "best.ckpt"
    file = exported(tmp_path / "exported", best) / "model.safetensors"
    for name, place in (("a", best), ("b", file)):
        write_certification(tmp_path / name, place)
    assert [run.facts["checkpoint"] for run in read(tmp_path).runs if run.logs] == ["best", "best"]
    assert "comparison" not in tables_of(tmp_path, baseline="all")


def test_two_files_in_one_folder_of_exports_are_two_networks(tmp_path, networks):
    folder = exported(tmp_path / "exported", networks[0])
    files = ("a.safetensors", "b.safetensors", "a/model.pth", "b/model.pth", "checkpoints/last.ckpt")
    for at, file in enumerate(files):
        write_certification(tmp_path / f"{at}", folder / file)
    assert len({run.network.identity for run in read(tmp_path).runs if run.logs}) == len(files)


def test_an_export_whose_training_is_gone_has_no_seed(tmp_path):
    file = exported(tmp_path / "exported", tmp_path / "gone") / "model.safetensors"
    write_certification(tmp_path / "a", file)
    (run,) = (run for run in read(tmp_path).runs if run.logs)
    assert run.training_seed is None


def test_a_denoiser_is_known_by_its_folder_however_a_command_named_it(tmp_path, networks):
    denoiser, other = (write_training(tmp_path / name, "denoiser", seed=5) for name in ("d", "e"))
    (tmp_path / "link").symlink_to(denoiser, target_is_directory=True)
    for name, place in (("a", "d"), ("b", str(denoiser)), ("c", str(tmp_path / "link")), ("o", str(other))):
        model = {**MODEL, "denoiser": {"depth": 17}, "denoiser_checkpoint": place}
        evaluated(tmp_path / name, networks[0], model, cwd=tmp_path)
    write_certification(tmp_path / "plain", networks[0])
    found = {run.path.name: run.facts for run in read(tmp_path).runs if run.logs}
    assert found["a"]["classifier"] == found["b"]["classifier"] == found["c"]["classifier"]
    assert len({found[name]["classifier"] for name in ("a", "o", "plain")}) == 3
    assert {found[name]["method"] for name in "abco"} == {"gaussian denoised"}
    assert found["plain"]["method"] == "gaussian"
    assert found["a"]["train_seed"] == "0+5"


def test_a_normalization_and_a_memory_format_make_no_other_network(tmp_path, networks):
    """That of the checkpoint is used."""
    write_certification(tmp_path / "a", networks[0])
    evaluated(tmp_path / "b", networks[0], {**MODEL, "normalization": "cifar10", "channels_last": True})
    assert {run.label for run in read(tmp_path).runs if run.logs} == {
        "gaussian seed=0 (a)",
        "gaussian seed=0 (b)",
    }


def test_a_network_that_was_trained_behind_a_denoiser_keeps_it(tmp_path):
    """Its checkpoint has the denoiser's weights."""
    trained = write_training(tmp_path / "net", model={**MODEL, "denoiser": {"depth": 17}})
    denoiser = write_training(tmp_path / "d", "denoiser")
    model = {**MODEL, "denoiser": {"depth": 17}, "denoiser_checkpoint": str(denoiser)}
    evaluated(tmp_path / "a", trained, model)
    (run,) = (run for run in read(tmp_path).runs if run.logs)
    assert run.label == "gaussian"


def test_of_a_training_that_does_not_name_its_model_only_added_parts_count(tmp_path):
    trained = write_training(tmp_path / "net")
    write_certification(tmp_path / "a", trained)
    evaluated(tmp_path / "b", trained, {"network": "small"})
    evaluated(tmp_path / "c", trained, {"network": "small", "denoiser": {"depth": 17}})
    runs = {run.path.name: run.facts["classifier"] for run in read(tmp_path).runs if run.logs}
    assert runs["a"] == runs["b"] != runs["c"]


def test_transfers_from_an_ensemble_are_not_those_from_its_first_network(tmp_path, networks):
    target = write_training(tmp_path / "target", "heat")
    write_certification(tmp_path / "certify", target)
    for name, model in (("one", None), ("two", ensemble(networks[1]))):
        source = {"checkpoint": str(networks[0]), "model": model}
        evaluated(tmp_path / name / "pgd", target, None, write_attack, source=source)
    tables = tables_of(tmp_path)
    heads = {column.head for column in tables["overview"].used}
    assert {row["source"] for row in tables["attacks"].rows} == {"net0", "net0+net1"}
    assert {f"pgd on smoothed m=4 source=gaussian{more}" for more in ("", " ensemble of 2")} <= heads


def test_a_foreign_file_behind_denoisers_of_several_seeds_has_one_mean(tmp_path):
    for seed in (5, 6):
        denoiser = write_training(tmp_path / f"d{seed}", "denoiser", seed=seed)
        model = {**MODEL, "denoiser": {"depth": 17}, "denoiser_checkpoint": str(denoiser)}
        evaluated(tmp_path / f"e{seed}", "published:net-0.25", model)
    (group,) = repetitions(read(tmp_path).certifications)
    assert (len(group), group_name(group)) == (2, "net-0.25 denoised")


def test_a_foreign_file_has_its_own_name_and_one_family_with_no_denoised_one(tmp_path):
    for name, model in (("a", MODEL), ("b", {**MODEL, "denoiser": {"depth": 17}})):
        evaluated(tmp_path / name, "resnet.pth", model, cwd=tmp_path)
    evaluated(tmp_path / "c", "published:net-0.25", MODEL)
    runs = {run.path.name: run.facts for run in read(tmp_path).runs}
    assert runs["a"]["classifier"].startswith("resnet.pth")
    assert runs["c"]["classifier"] == "net-0.25"
    assert runs["a"]["family"] != runs["b"]["family"]
