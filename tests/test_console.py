"""`robustsmooth <command> ...` is `python -m robustsmooth.<command> ...`; its help and its completion."""

import os
import shutil
import subprocess
import sys

import pytest
from hydra.core.global_hydra import GlobalHydra

from robustsmooth.__main__ import COMMANDS, main
from tests.test_conf import COMMANDS as CONFIGURED


def robustsmooth(*words, **environment):
    """The console command in its own process."""
    return subprocess.run(
        [sys.executable, "-m", "robustsmooth", *words],
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


@pytest.mark.filterwarnings("ignore:.*found in sys.modules")  # the command was imported by another test
def test_a_command_runs_under_its_own_name_with_classes_from_here(tmp_path, monkeypatch, capsys):
    (tmp_path / "mine.py").write_text("def network(): raise ValueError('mine was called')\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [*sys.path])
    words = ["++method.network={_target_: mine.network}", "data.val_images=20", "hydra.run.dir=a"]
    monkeypatch.setattr(sys, "argv", ["robustsmooth", "train", "--config-dir=.", *words])
    for variable in ("HYDRA_FULL_ERROR", "ROBUSTSMOOTH_FULL_ERROR"):
        monkeypatch.setenv(variable, "0")  # the command sets them; here they are taken back
    GlobalHydra.instance().clear()
    with pytest.raises(SystemExit) as ended:
        main()
    assert capsys.readouterr().err.strip().endswith("robustsmooth train: mine was called")
    assert ended.value.code == 1


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
def test_bash_completes_commands_choices_and_keys(tmp_path):
    program = tmp_path / "robustsmooth"
    program.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m robustsmooth "$@"\n')
    program.chmod(0o755)
    script = """
        eval "$(robustsmooth -sc install=bash)"
        complete -p robustsmooth
        for words in cer "train method=gau" "train method.sig"; do
            COMP_LINE="robustsmooth $words"
            COMP_POINT=${#COMP_LINE} COMP_WORDS=($COMP_LINE) COMP_CWORD=$((${#COMP_WORDS[@]} - 1))
            hydra_bash_completion
            echo "${COMPREPLY[@]}"
        done
    """
    path = f"{tmp_path}:{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-c", script], env={**os.environ, "PATH": path}, capture_output=True, text=True, timeout=240
    )
    installed, *completed = done.stdout.splitlines()
    assert installed.endswith(" -F hydra_bash_completion robustsmooth"), done.stderr
    assert completed == ["certify", "method=gaussian", "method.sigma="], done.stderr
