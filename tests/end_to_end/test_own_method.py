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
