"""The page on adding a method: its files and commands work as written."""

import re
from pathlib import Path

import pytest

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


@pytest.fixture
def mine(tmp_path):
    """The page's files, in a folder that is not the working directory."""
    text = PAGE.read_text(encoding="utf-8")
    for name, _, content in re.findall(r"`([\w/.]+)`\n\n```(python|yaml)\n(.*?)```", text, re.S):
        path = tmp_path / "mine" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert {path.name for path in tmp_path.rglob("*.*")} == {
        "my_methods.py",
        "noisy_mixup.yaml",
        "spread.yaml",
    }
    return tmp_path


def test_the_page_works(call, mine, monkeypatch):
    commands = "".join(re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.S)).strip()
    assert len(commands.splitlines()) == 4
    monkeypatch.syspath_prepend(str(mine / "mine"))
    for line in commands.splitlines():
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


OWN_NETWORK = """
_target_: robustsmooth.models.build_classifier
network:
  _target_: torch.nn.Sequential
  _args_: [{_target_: torch.nn.Flatten}, {_target_: torch.nn.Linear, in_features: 64, out_features: 10}]
num_classes: ${data.num_classes}
normalization: ${data.normalization}
checkpoint: null
"""


def test_a_network_of_ones_own_is_trusted_within_its_run_and_named_after_it(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "conf" / "model").mkdir(parents=True)
    (tmp_path / "conf" / "model" / "own.yaml").write_text(OWN_NETWORK, encoding="utf-8")
    quick = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", "hydra.run.dir=a"]
    certify = "certify certificate.n0=2 certificate.n=10 data.subset.max=1"
    call("train", "--config-dir=conf", "model=own", *quick, f'+evaluate.certify="{certify}"')
    assert (tmp_path / "a" / "certify" / "certify.tsv").exists()
    words = ["checkpoint=a", "certificate.n=10", "data.subset.max=1", "hydra.run.dir=b"]
    addition = re.search(r"add '(trust=.*)' to the command line", call("certify", *words, status=1))[1]
    assert addition == "trust=[torch.nn.Flatten,torch.nn.Linear,torch.nn.Sequential]"
    call("certify", *words, addition)
