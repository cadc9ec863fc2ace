"""`python -m robustsmooth.attack`, as a user runs it."""

import json

import pytest

from robustsmooth.report.logs import read_log

SMALL = ["trainer=cpu", "data.subset.max=6", "batch_size=6", "prediction.n=50", "prediction.batch_size=32"]
QUICK = ["attack.steps=2"]


def test_attack_continue_and_add_budgets(call, gaussian, tmp_path):
    place = [f"checkpoint={gaussian}", f"hydra.run.dir={tmp_path}/a"]
    words = [*place, *SMALL, *QUICK, "attack.num_noise=4", "save=safetensors"]
    first = call("attack", *words, "epsilons=[0.5]")
    title = "6 images attacked by PGD (l2, plug-in gradient), judged by the smoothed classifier"
    assert title in " ".join(first.split())
    folder = tmp_path / "a"
    assert len(read_log(folder / "attack.tsv").rows) == 6
    summary = json.loads((folder / "summary.json").read_text())
    assert "test/attack_acc@0.50" in summary["metrics"]
    assert summary["settings"]["attack"]["sigma"] == 0.25  # the level that it was trained with
    assert (folder / "attack_grid.png").is_file()
    assert (folder / "attack.safetensors").is_file()
    before = (folder / "attack.tsv").read_bytes()
    call("attack", *words, "epsilons=[0.5,1.0]")
    after = (folder / "attack.tsv").read_bytes()
    assert set(before.splitlines()) < set(after.splitlines())
    refused = call("attack", *words, "attack.steps=3", status=1)
    assert "attack.steps=2 then, 3 now" in refused
    assert "Traceback" not in refused


@pytest.mark.slow
def test_transfer_certified_and_minimum(call, gaussian, natural, tmp_path):
    call("certify", f"checkpoint={gaussian}", f"hydra.run.dir={tmp_path}/c", "certificate.n=100", *SMALL[:2])
    place = [f"checkpoint={gaussian}", *SMALL, *QUICK]
    call("attack", *place, f"hydra.run.dir={tmp_path}/t", f"source.checkpoint={natural}", "attack=pgd_l2")
    settings = json.loads((tmp_path / "t" / "attack.settings.json").read_text())
    assert settings["source"] not in (None, settings["network"])
    call("attack", *place, f"hydra.run.dir={tmp_path}/b", f"certified={tmp_path}/c")
    assert "certified" in json.loads((tmp_path / "b" / "summary.json").read_text())["variants"][0]
    minimum = ["mode=minimum", "target=network", "attack=ddn", "attack.epsilon=4", "attack.topk=5"]
    call("attack", *place, f"hydra.run.dir={tmp_path}/m", *minimum)
    assert "test/attack_median_l2" in (tmp_path / "m" / "summary.json").read_text()


@pytest.mark.slow
@pytest.mark.parametrize(
    "words",
    [
        ["attack=fgsm"],
        ["attack=pgd_linf", "target=network"],
        ["attack=smoothadv_ddn", "attack.epsilon=0.5", "attack.steps=3"],
        ["attack=epgd", "attack.steps=2"],
        ["attack=stein", "attack.steps=2", "attack.num_noise=8"],
        ["attack=carlini_wagner", "attack.steps=3", "attack.search_steps=2", "mode=minimum"],
        ["attack=autoattack", "attack.one_by_one=false", "target=network", "data.subset.max=2"],
        ["attack=pgd_l2", "attack.steps=2", "smoothing=grid_gaussian"],
    ],
)
def test_every_attack(call, gaussian, tmp_path, words):
    call("attack", f"checkpoint={gaussian}", *SMALL, *words, f"hydra.run.dir={tmp_path}")
    assert len(read_log(tmp_path / "attack.tsv").rows) >= 2


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["attack.epsilon=0"], "`attack.epsilon` must be > 0, got 0"),
        (["attack.steps=0"], "`attack.steps` must be > 0, got 0"),
        (["target=both"], "`target` must be smoothed, network"),
        (["mode=fast"], "`mode` must be budget, minimum"),
        (["certified=nowhere"], "there is no certification log at"),
        (["source.checkpoint=nowhere"], "there is no checkpoint at `nowhere`"),
    ],
)
def test_bad_input_is_one_sentence(call, gaussian, tmp_path, words, sentence):
    said = call("attack", f"checkpoint={gaussian}", *SMALL, *words, f"hydra.run.dir={tmp_path}", status=1)
    assert sentence in said
    assert "Traceback" not in said


def test_a_network_without_a_noise_level_says_what_to_choose(call, natural, tmp_path):
    said = call("attack", f"checkpoint={natural}", *SMALL, f"hydra.run.dir={tmp_path}", status=1)
    assert "smoothing.sigma" in said
