"""The page on adding a method, followed to the letter."""

import re
from pathlib import Path

PAGE = Path(__file__).parents[2] / "docs" / "adding-a-method.md"


def test_the_page_works(run, tmp_path):
    text = PAGE.read_text(encoding="utf-8")
    for name, _, content in re.findall(r"`([\w/.]+)`\n\n```(python|yaml)\n(.*?)```", text, re.S):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    assert {path.name for path in tmp_path.rglob("*.*")} == {"my_methods.py", "consistency.yaml"}
    commands = re.search(r"```bash\n(.*?)```", text, re.S)[1].strip().splitlines()
    assert len(commands) == 2
    for line in commands:
        _, _, module, *words = line.split()
        quick = ["trainer.max_epochs=2"] if module.endswith("train") else ["data.subset.max=4"]
        run(module.removeprefix("robustsmooth."), *words, *quick, cwd=tmp_path)
    assert len((tmp_path / "runs" / "consistency" / "metrics.csv").read_text().splitlines()) == 3


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
