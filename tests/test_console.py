"""`robustsmooth <command> ...` is `python -m robustsmooth.<command> ...`; its help and its completion."""

import os
import subprocess
import sys

import pytest

from robustsmooth.__main__ import COMMANDS, main
from tests.test_conf import COMMANDS as CONFIGURED


def robustsmooth(*words, cwd=None, **environment):
    """The console command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "robustsmooth", *words],
        cwd=cwd,
        env={**os.environ, **environment},
        capture_output=True,
        text=True,
        timeout=240,
    )


def test_the_help_lists_every_command(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["robustsmooth", "--help"])
    main()
    text = capsys.readouterr().out
    assert sorted(COMMANDS) == CONFIGURED
    for name in CONFIGURED:
        assert f"\n  {name} " in text


def test_an_unknown_command_is_guessed(monkeypatch, capsys):
    monkeypatch.setattr(sys, "argv", ["robustsmooth", "certiffy"])
    with pytest.raises(SystemExit, match="2"):
        main()
    sentence = "robustsmooth: there is no command `certiffy`; did you mean certify? (known are train, "
    assert capsys.readouterr().err.startswith(sentence)


def test_a_command_runs_under_its_own_name_with_classes_from_here(tmp_path):
    (tmp_path / "mine.py").write_text("def network(): raise ValueError('mine was called')\n")
    words = ["method.network={_target_: mine.network}", "data.val_images=20", "hydra.run.dir=a"]
    done = robustsmooth(
        "train", "--config-dir=.", *[f"++{word}" for word in words[:1]], *words[1:], cwd=tmp_path
    )
    assert done.stderr.strip().endswith("robustsmooth train: mine was called")
    assert done.returncode == 1


@pytest.mark.parametrize(
    ("line", "answer"),
    [("robustsmooth cer", "certify"), ("robustsmooth train method=gau", "method=gaussian")],
)
def test_the_shell_completes_commands_groups_and_choices(line, answer):
    done = robustsmooth("-sc", "query=bash", COMP_LINE=line, COMP_POINT=str(len(line)))
    assert done.stdout.split() == [answer], done.stderr


def test_the_completion_is_installed_for_the_console_command():
    done = robustsmooth("-sc", "install=bash")
    assert done.stdout.strip().endswith(" robustsmooth")
