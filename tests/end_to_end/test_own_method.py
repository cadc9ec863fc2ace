"""Your own methods and networks: the files and commands of their pages work as written."""

import re
from pathlib import Path

import pytest

DOCS = Path(__file__).parents[2] / "docs"
METHODS, MODELS = DOCS / "adding-a-method.md", DOCS / "models.md"


def _written(page, folder):
    """Write a page's files into a folder; return its commands."""
    text = page.read_text(encoding="utf-8")
    for name, _, content in re.findall(r"`(?:mine/)?([\w/.]+)`\n\n```(python|yaml)\n(.*?)```", text, re.S):
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return "".join(re.findall(r"```bash\n(.*?)```", text, re.S)).strip().splitlines()


@pytest.fixture
def mine(tmp_path):
    """The page's files, in a folder that is not the working directory."""
    _written(METHODS, tmp_path / "mine")
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "my_methods.py",
        "noisy_mixup.yaml",
        "spread.yaml",
    }
    return tmp_path


def test_the_page_works(call, mine, monkeypatch):
    commands = _written(METHODS, mine / "mine")
    assert len(commands) == 4
    monkeypatch.syspath_prepend(str(mine / "mine"))
    for line in commands:
        _, _, module, *words = line.split()
        quick = ["trainer.max_epochs=2", "trainer.limit_train_batches=2"]
        quick = quick if module.endswith("train") else ["data.subset.max=4"]
        call(module.removeprefix("robustsmooth."), *words, *quick, cwd=mine)
    assert "train/spread" in (mine / "runs" / "both" / "metrics.csv").read_text()
    assert len((mine / "runs" / "noisy_mixup" / "metrics.csv").read_text().splitlines()) == 3


@pytest.mark.parametrize(
    ("word", "sentence"),
    [
        ("method.sigma=0", "`method.sigma` must be positive, got 0"),
        ("method.copies=0", "`method.copies` must be at least 1, got 0"),
    ],
)
def test_a_wrong_setting_of_an_own_method_is_one_sentence(call, mine, monkeypatch, word, sentence):
    monkeypatch.chdir(mine)
    monkeypatch.syspath_prepend(str(mine / "mine"))
    words = ["--config-dir=mine/conf", "method=noisy_mixup", "trainer.max_epochs=1", "hydra.run.dir=a", word]
    assert sentence in call("train", *words, status=1)


def test_a_network_of_ones_own_is_trusted_within_its_run_and_named_after_it(call, tmp_path, monkeypatch):
    commands = _written(MODELS, tmp_path / "mine")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    train, certify = [line.replace("'", "").split()[2:] for line in commands]
    quick = ["certificate.n0=2", "certificate.n=10", "data.subset.max=1"]
    call(
        *["train", *train[1:], "trainer.max_epochs=1", "trainer.limit_train_batches=1"],
        f'+evaluate.certify="certify {" ".join(quick)}"',
    )
    assert (tmp_path / "runs" / "mine" / "certify" / "certify.tsv").exists()
    words = [word for word in certify[1:] if not word.startswith("trust")] + [*quick, "hydra.run.dir=b"]
    addition = re.search(r"add '(trust=.*)' to the command line", call("certify", *words, status=1))[1]
    assert addition in certify
    call("certify", *words, addition)


def test_a_network_without_its_normalisation_is_refused_before_any_work(
    call, tmp_path, monkeypatch, gaussian
):
    _written(MODELS, tmp_path / "mine")
    plain = "{_target_: my_networks.MyNetwork, pixels: 64, num_classes: '${data.num_classes}'}"
    (tmp_path / "mine" / "conf" / "model" / "plain.yaml").write_text(plain)
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path / "mine"))
    words = ["--config-dir=mine/conf", "model=plain", "data=digits", "hydra.run.dir=a"]
    sentence = "`model._target_` names my_networks.MyNetwork, which takes no `checkpoint`; wrap a network in"
    assert sentence in call("train", *words, status=1)
    assert sentence in call("certify", *words, f"checkpoint={gaussian}", status=1)
    assert not (tmp_path / "a" / "checkpoints").exists()
