"""Every experiment does what its paper states, or says in docs/papers what differs and why."""

import functools
import importlib.util
import re
import tempfile
from pathlib import Path

import pytest
import torch
from hydra.core.hydra_config import HydraConfig
from hydra.utils import instantiate
from omegaconf import OmegaConf

from robustsmooth.commands import conf_dir
from robustsmooth.commands.settings import check_settings
from tests.papers import (
    PAPERS,
    applies,
    composed,
    differences,
    evaluations,
    expected_facts,
    experiments,
    folder,
    job_config,
    jobs,
    papers,
    recipes,
    representatives,
    row_facts,
    stage,
)
from tests.test_conf import binds, nodes

STATED = experiments()
FOLDER = conf_dir() / "experiment"
OURS = ("digits", "cifar10")
"""Folders of experiments that reproduce no paper."""
FILES = sorted(path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml"))


def test_every_experiment_of_a_paper_has_its_entry():
    files = {path.relative_to(FOLDER).with_suffix("").as_posix() for path in FOLDER.glob("*/*.yaml")}
    assert {name for name in files if not name.startswith(OURS)} == STATED.keys()
    assert sum(len(paper["experiments"]) for paper in papers().values()) == len(STATED)


@pytest.mark.parametrize("name", FILES)
def test_a_training_of_an_experiment_loses_at_most_500_steps(name):
    """Data sets that only some of its rows choose have recipes, which test_recipes.py tests."""
    assert 0 < composed("train", f"experiment={name}", "scale=full").save_every_steps <= 500


@pytest.mark.parametrize("name", STATED)
def test_full_scale_is_what_the_paper_states(name):
    """Row by row; what all rows share binds to its constructors."""
    stated, rows = STATED[name], jobs(name, "full")
    for path, node in nodes(composed("train", f"experiment={name}", "scale=full")):
        binds(path, node)
    assert stated["rows"].keys() == rows.keys()
    said = []
    for row, members in rows.items():
        wanted, problems = expected_facts(stated, row)
        said += [
            f"{row}: {item}" for item in problems + differences(wanted, row_facts(name, "full", members))
        ]
    assert not said, "\n".join(said)


def test_every_entry_of_the_recipes_is_of_a_row():
    rows = [expected_facts(stated, row)[0] for stated in STATED.values() for row in stated["rows"]]
    for entry in recipes():
        assert any(applies(entry, found) for found in rows), entry["when"]


def scales():
    """Every experiment at every scale that its header names; without one it is for full. Smoke is for all."""
    for name in FILES:
        header = (FOLDER / f"{name}.yaml").read_text(encoding="utf-8").partition("\ndefaults:")[0]
        named = re.search(r" scale=([a-z|]+)", header)
        for scale in sorted({"smoke", *(named[1].split("|") if named else ["full"])}):
            yield name, scale


@pytest.mark.slow
@pytest.mark.parametrize(("name", "scale"), list(scales()))
def test_every_row_binds_and_instantiates(name, scale):
    build(name, scale)


def test_noise_on_weights_and_on_outputs_can_be_built():
    """It failed in an earlier version. The slow test above builds all others."""
    build("nemcovsky2019/table1", "full")


@pytest.mark.parametrize("name", ["sodm/table4", "sodm/table5"])
def test_the_settings_of_an_experiment_are_accepted(name):
    """Table 4 has rows of settings, whose keys contain dots. The slow test above checks all others."""
    check_settings(job_config(name, "smoke", jobs(name, "smoke")["sodm"][0]), "train")


def test_the_scales_are_found():
    found = list(scales())
    assert {("digits/all_methods", "full"), ("cifar10/equal_steps", "short")} <= set(found)
    assert {("salman2019/table2", "cpu"), ("salman2019/table2", "full")} <= set(found)
    assert {name for name, scale in found if scale == "smoke"} == set(FILES)


def build(name, scale):
    """Build network, method, attack, callbacks and the parts of each evaluation, without the data."""
    first = composed("train", f"experiment={name}", f"scale={scale}").hydra.sweeper.get("first") or []
    finished = {}  # when the job of a folder runs
    for row, members in jobs(name, scale).items():
        groups = {}
        for job in representatives(members):  # values are of one kind: one job per set of choices
            groups.setdefault(
                tuple(
                    word for word in job if (FOLDER.parent / re.split("[@=]", word.lstrip("+"))[0]).is_dir()
                ),
                job,
            )
        for job in groups.values():
            cfg = job_config(name, scale, job)
            check_settings(cfg, "train")
            OmegaConf.update(cfg, "data.num_classes", cfg.data.num_classes or 10)
            now = (
                stage(first, row),
                len(finished) if row == "all" else 0,
            )  # jobs without rows do not run at once
            for start in started_from(cfg):
                assert finished[start] < now, f"{row} starts from {start}, which may not be finished"
            built(OmegaConf.to_yaml(cfg.method, resolve=True))
            for part in cfg.callbacks.values():
                instantiate(part)
            for path, node in nodes(cfg):
                binds(f"{row}{path}", node)
            for said in evaluations(cfg).values():
                parts(OmegaConf.to_yaml(OmegaConf.masked_copy(said, EVALUATED), resolve=False))
            finished[folder(cfg).partition("/")[0]] = now


def test_a_network_is_fine_tuned_from_that_of_its_own_budget_and_noise_level():
    rows, made = jobs("salman2019/table2", "cpu"), {}
    for job in rows["pretraining"]:
        cfg = job_config("salman2019/table2", "cpu", job)
        made[cfg.method.sigma, cfg.attack.epsilon] = folder(cfg)
    assert len(set(made.values())) == 4
    for row in ("smoothadv_pretrained", "smoothadv_both"):
        for job in rows[row]:
            cfg = job_config("salman2019/table2", "cpu", job)
            assert Path(cfg.model.checkpoint).name == made[cfg.method.sigma, cfg.attack.epsilon]
    for members in rows.values():
        OmegaConf.resolve(job_config("salman2019/table2", "cpu", members[0]))  # as every training does


def started_from(cfg):
    """The folders of other jobs of the sweep whose networks or votes a job needs."""
    sweep = re.escape(HydraConfig.get().sweep.dir)
    return set(re.findall(rf"{sweep}/([^/\s'\"]+)", OmegaConf.to_yaml(cfg.method, resolve=True)))


EVALUATED = [
    "certificate",
    "attack",
    "prediction",
    "measure",
    "smoothing",
    "seed",
    "run_dir",
    "trainer",
    "numerics",
]


@functools.cache
def built(method):
    """Build network and method of a training on the meta device, without its first checkpoints."""
    cfg = OmegaConf.create(method)
    for owner in ("network", "labeler", "voter"):
        for key in (f"{owner}.checkpoint", f"{owner}.denoiser_checkpoint"):
            if OmegaConf.select(cfg, key) is not None:
                OmegaConf.update(cfg, key, None)
    if "start" in cfg:
        cfg.start = "anywhere"
    with torch.device("meta"), tempfile.TemporaryDirectory() as votes:
        if cfg.get("targets") is not None:
            Path(votes, "predict.tsv").write_text("idx\tcounts\n0\t1:9\n", encoding="utf-8")
            cfg.targets = votes
        module = instantiate(cfg)
    assert module.configure_optimizers()


@functools.cache
def parts(text):
    """Build the parts of an evaluation."""
    cfg = OmegaConf.create(text)
    if cfg.smoothing.get("sigma") is None:  # the training's
        cfg.smoothing.sigma = 0.25
    for name in ("certificate", "attack", "prediction", "measure"):
        node = cfg.get(name)
        if node is None:
            continue
        if name == "measure":
            node.pop("source", None)  # another network
            instantiate(node, _partial_=True)(folder="nowhere")
        else:
            instantiate(node)
    instantiate(cfg.smoothing)


@pytest.mark.parametrize("name", [name for name in STATED if "columns" in STATED[name]])
def test_the_tables_columns_are_the_papers(name):
    cfg = composed("train", f"experiment={name}", "scale=full")
    shown = list(cfg.hydra.callbacks.report.radii)
    assert shown == STATED[name]["columns"]


def test_the_page_is_generated_from_the_data():
    """`python docs/papers/page.py` writes it."""
    path = PAPERS / "page.py"
    spec = importlib.util.spec_from_file_location("page", path)
    page = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(page)
    text = (PAPERS.parent / "paper-settings.md").read_text(encoding="utf-8")
    assert page.page() == text, f"out of date: run python {path}"
    for name, stated in STATED.items():
        assert f"### `{name}`: {stated['title']}\n" in text


def test_a_difference_is_found():
    stated = {
        "rows": {"all": {"states": {"epochs": 90, "certify": {"n": 10}}}},
        "deviations": [{"facts": {"epochs": 40}, "why": "time"}],
        "ours": [{"facts": {"batch": 64}, "why": "open"}],
    }
    wanted, problems = expected_facts(stated, "all")
    assert (wanted, problems) == ({"epochs": 40, "certify.n": 10, "batch": 64}, [])
    assert differences(wanted, {"epochs": 40, "certify.n": 10.0, "batch": 64}) == []
    assert len(differences(wanted, {"epochs": 90, "certify.n": 10})) == 2
    assert len(differences(wanted, {**wanted, "more": 1})) == 1


@pytest.mark.parametrize(
    ("entry", "problem"),
    [
        ({"deviations": [{"facts": {"epochs": 90}, "why": "time"}]}, "does not state another epochs"),
        ({"deviations": [{"facts": {"batch": 4}, "why": "time"}]}, "does not state another batch"),
        ({"ours": [{"facts": {"epochs": 90}, "why": "open"}]}, "the paper states epochs"),
        ({"ours": [{"facts": {"batch": 4}}]}, "without a reason"),
    ],
)
def test_a_careless_entry_is_found(entry, problem):
    stated = {"rows": {"all": {"states": {"epochs": 90}}}, **entry}
    assert any(problem in expected_fact for expected_fact in expected_facts(stated, "all")[1])
