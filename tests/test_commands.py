"""Bad input ends a command with one sentence that says what to do; the parts of the entry points."""

import errno
import os
import pickle
import shutil
from contextlib import suppress

import pytest
from hydra.core.hydra_config import HydraConfig
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import InstantiationException, MissingConfigException, OverrideParseException
from hydra.types import RunMode
from omegaconf import OmegaConf
from torch.multiprocessing import ProcessRaisedException

from robustsmooth.commands import conf_dir, environment, explain, prepare, register_resolvers
from robustsmooth.commands.explaining import job_error
from robustsmooth.commands.running import _quoted
from robustsmooth.commands.settings import check_settings
from robustsmooth.loggers import CsvLogger
from robustsmooth.runs import checkpoint_file
from robustsmooth.runtime import loggers_for
from tests.conftest import started


@pytest.fixture(autouse=True)
def outside_of_hydra(monkeypatch):
    """Tests that compose experiments leave a part of Hydra's own config behind in this process."""
    monkeypatch.setattr(HydraConfig.instance(), "cfg", None)


def only_sentence(text: str) -> str:
    lines = text.strip().splitlines()
    assert len(lines) == 1, text
    assert "Traceback" not in text
    return lines[0]


@pytest.mark.parametrize(
    ("words", "status", "fragments"),
    [
        (["method=foo"], 2, ["no method=foo", "gaussian", "natural"]),
        (["data=foo"], 2, ["no data=foo", "digits"]),
        (["method.sgima=1"], 2, ["`method.sgima`", "did you mean method.sigma?"]),
        (["foo=1"], 2, ["no setting `foo`", "method"]),
        (["sigma=0.5"], 2, ["no setting `sigma`", "did you mean method.sigma?"]),
        (["evaluate={certify: certify}"], 2, ["`evaluate` takes new names with a plus", "+evaluate.NAME="]),
        (["method.sigma=true"], 1, ["`method.sigma` must be a finite number, got true"]),
        (["seed=1.5"], 1, ["`seed` must be an integer of at least 0", "got 1.5"]),
        (["trainer.max_time=00:00:00:00"], 1, ["`trainer.max_time` must be", "days:hours:minutes:seconds"]),
        (["model={}"], 1, ["`model={}` changes nothing"]),
        (["data.batch_size=0"], 1, ["batch_size", "at least 1", "0"]),
        (["method.sigma=-1"], 1, ["sigma", "-1"]),
        (["method.sigma=abc"], 1, ["`method.sigma` must be a finite number, got 'abc'"]),
        (["method.sigma=0"], 1, ["sigma", "positive", "method=natural"]),
        (["trainer.max_epochs=many"], 1, ["trainer.max_epochs", "many"]),
        (["model.checkpoint=nowhere"], 1, ["nowhere"]),
        (["+evaluate.a=certifie"], 1, ["`evaluate` runs certify", "'certifie'"]),
        (["method=natural,heat"], 2, ["`method=natural,heat` has several values; add -m for one run each"]),
        (["method.sigma=0.1,0.2"], 2, ["add -m", "or write method.sigma=[0.1,0.2] if a list is meant"]),
        (["method=natural,heat", "data=foo"], 2, ["no data=foo"]),
        (["experiment=digits/quickstart", "row=natural,heat", "data.foo=1"], 2, ["no setting `data.foo`"]),
        (["+callbacks.certify.images=9"], 1, ["`callbacks.certify`", "callbacks=...", "'images': 9"]),
        (["+logger.wandb.project=a"], 1, ["`logger.wandb`", "logger=..."]),
        (['+evaluate.a="certify certificate.nn=9"'], 2, ["no setting `certificate.nn`"]),
    ],
    ids=lambda value: "".join(value) if isinstance(value, list) else str(value),
)
def test_bad_input_is_one_sentence(call, tmp_path, words, status, fragments):
    sentence = only_sentence(call("train", f"hydra.run.dir={tmp_path}/run", *words, status=status))
    for fragment in fragments:
        assert fragment in sentence
    assert not (tmp_path / "run" / "checkpoints").exists(), "before any work"


def test_a_key_that_only_some_methods_of_a_sweep_have_is_explained(call):
    words = ["-m", "experiment=cifar10/equal_steps", "method=macer,sodm", "method.mapping_copies=8"]
    assert "write ++method.mapping_copies=..." in only_sentence(call("train", *words, status=2))
    words = ["experiment=digits/search", "row=macer", "loss.inverse_temperature=4"]
    assert "chosen row of this sweep has it, write ++loss.inverse" in only_sentence(
        call("train", *words, status=2)
    )


def test_a_failed_job_of_a_sweep_is_named(call, tmp_path):
    """Its error is one that joblib can send to the process of the sweep."""
    words = ["-m", "seed=3,4", "+evaluate.c='certify a=[b'", f"hydra.sweep.dir={tmp_path}"]
    said = call("train", *words, "trainer=cpu", "hydra/launcher=basic", status=2).splitlines()
    assert said[-1].startswith("robustsmooth train: job 0 failed: cannot read `a=[b`: a value with")
    error = job_error(OverrideParseException("a=[b", "mismatched input"), 1)
    assert explain(pickle.loads(pickle.dumps(error))) == (str(error), 2)


def test_a_folder_without_permission_is_one_sentence(call):
    assert only_sentence(call("train", "hydra.run.dir=/proc/robustsmooth", status=1))


def test_a_missing_checkpoint_is_one_sentence(call, tmp_path):
    sentence = only_sentence(call("certify", f"hydra.run.dir={tmp_path}/c", status=2))
    assert sentence.endswith("`checkpoint` must be given: add checkpoint=... to the command line")


def test_the_traceback_is_shown_on_request(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HYDRA_FULL_ERROR", "1")
    done = run(
        "train", f"hydra.run.dir={tmp_path}/run", "seed=1.5", status=1
    )  # refused before torch is imported
    assert "Traceback" in done.stderr
    assert done.stderr.strip().splitlines()[-1].startswith("ValueError: `seed` must be an integer")


def test_help_shows_groups_choices_and_examples(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert started("train", "--help") == 0
    text = capsys.readouterr().out
    for word in (
        "method= ",
        "gaussian",
        "natural",
        "data= ",
        "digits/quickstart",
        "Examples",
        "method=heat data=",
    ):
        assert word in text
    assert "certificate" not in text, "only the groups that the command takes"


def test_the_message_about_a_full_disk_says_that_work_is_kept():
    sentence, status = explain(OSError(errno.ENOSPC, "No space left on device", "a/b"))
    assert status == 1
    assert "disk is full at `a/b`" in sentence
    assert "kept" in sentence


def test_a_missing_permission_to_read_is_named(tmp_path, monkeypatch):
    error = PermissionError(errno.EACCES, "Permission denied", str(tmp_path))
    assert "no permission to write" in explain(error)[0]
    handler = ValueError("Unable to configure handler 'file'")
    handler.__cause__ = error
    assert explain(handler) == explain(error)
    monkeypatch.setattr(os, "access", lambda path, mode: mode != os.R_OK)
    assert explain(error) == (
        f"no permission to read at `{tmp_path}`; change it, or name another file or folder",
        1,
    )


def test_causes_are_unwrapped_and_unexpected_errors_are_called_unexpected():
    wrapped = InstantiationException("Error in call to target")
    wrapped.__cause__ = ValueError("`x` must be\n positive")
    told = "-- Process 1 terminated\nTraceback:\n  f()\nValueError: it is\nlost"
    spawned = ProcessRaisedException(told, 1, 2)
    assert explain(spawned) == ("it is lost", 1)
    assert explain(wrapped) == ("`x` must be positive", 1)
    assert "choose trainer=default" in explain(RuntimeError("No supported gpu backend found!"))[0]
    sentence, status = explain(KeyError("odd"))
    assert status == 1
    assert sentence.startswith("unexpected error: KeyError: 'odd'")
    assert "HYDRA_FULL_ERROR=1" in sentence


@pytest.mark.parametrize(
    ("error", "extra"),
    [
        (ModuleNotFoundError("Neither `tensorboard` nor `tensorboardX` is available."), "tensorboard"),
        (ModuleNotFoundError("No module named 'onnx'"), "onnx"),
        (MissingConfigException("", missing_cfg_file="hydra/launcher/joblib", options=["basic"]), "sweeps"),
        (MissingConfigException("", missing_cfg_file="hydra/sweeper/optuna", options=["basic"]), "search"),
    ],
)
def test_a_missing_extra_is_named(error, extra):
    assert explain(error)[0].endswith(f"install it with: pip install 'robustsmooth[{extra}]'")


def test_keys_of_own_configs_are_known(call, tmp_path):
    own = tmp_path / "conf" / "method" / "mine.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("defaults: [gaussian, _self_]\nstrength: 1.0\n", encoding="utf-8")
    words = [f"--config-dir={tmp_path}/conf", "method=mine", "method.strengths=2"]
    assert "did you mean method.strength?" in only_sentence(call("train", *words, status=2))


@pytest.mark.parametrize(
    ("option", "name"),
    [
        (["--config-dir=mine/conf"], "method/gaussian"),
        (["--config-dir", "mine/conf"], "recipe/gaussian-cifar10"),
        (["-cd", "mine/conf"], "loss/term/stability"),
    ],
)
def test_an_own_file_with_the_name_of_one_of_ours_is_refused(call, tmp_path, option, name):
    own = tmp_path / "mine" / "conf" / f"{name}.yaml"
    own.parent.mkdir(parents=True)
    own.write_text("lr: 0.5\n", encoding="utf-8")
    sentence = only_sentence(call("train", *option, "method=foo", cwd=tmp_path, status=1))
    assert f"`{own}` has the name of one of ours and would be ignored; rename it" in sentence


def test_a_copy_of_one_of_our_files_may_stay_beside_own_ones(call, tmp_path):
    shutil.copytree(conf_dir() / "method", tmp_path / "conf" / "method")
    said = call("train", f"--config-dir={tmp_path}/conf", "method=foo", status=2)
    assert "there is no method=foo" in only_sentence(said)


def test_fractions_are_written_as_fractions():
    register_resolvers()
    cfg = OmegaConf.create({"epsilon": "${fraction:8/255}", "steps": "${multiply:2,30}"})
    assert cfg.epsilon == 8 / 255
    assert cfg.steps == 60


@pytest.mark.parametrize(("minutes", "epochs"), [(0.01, 1), (1, 6), (2.5, 15), (100, 90)])
def test_a_recipe_is_shortened_to_the_given_minutes(minutes, epochs):
    register_resolvers()
    cfg = OmegaConf.create(
        {
            "epochs": f"${{epochs_within:90,{minutes},5000,49000}}",
        }
    )
    assert cfg.epochs == epochs


def test_prepare_writes_the_resolved_config_and_the_environment(tmp_path):
    cfg = OmegaConf.create({"run_dir": str(tmp_path / "run"), "seed": 3, "same": "${seed}"})
    folder = prepare(cfg, "train")
    assert OmegaConf.load(folder / ".hydra" / "config.yaml") == {"run_dir": cfg.run_dir, "seed": 3, "same": 3}
    assert (folder / ".hydra" / "environment.json").exists()
    assert environment()["packages"]["torch"]


@pytest.mark.parametrize("mode", list(RunMode))
@pytest.mark.parametrize("started", [["train.py", "-m", "seed=1,2"], ["_submit.py", "/cluster/jobs/4"]])
def test_the_recorded_command_is_that_of_the_job_under_every_launcher(monkeypatch, started, mode):
    monkeypatch.setattr("sys.argv", started)
    job = {"task": ["method=gaussian", "seed=1", "model.width=${size}", "experiment=null"]}
    job["hydra"] = ["hydra.run.dir=a b"]
    own = [{"provider": "main", "path": "conf"}, {"provider": "command-line", "path": "/mine/conf"}]
    hydras = OmegaConf.create(
        {
            "help": {"app_name": "robustsmooth.train"},
            "overrides": job,
            "runtime": {"config_sources": own},
            "mode": mode,
        }
    )
    monkeypatch.setattr(HydraConfig, "initialized", lambda: True)
    monkeypatch.setattr(HydraConfig, "get", lambda: hydras)
    words = "--config-dir=/mine/conf method=gaussian seed=1 'model.width=${size}' experiment=null"
    folder = " 'hydra.run.dir=a b'" if mode is RunMode.RUN else ""
    assert environment()["command"] == f"python -m robustsmooth.train {words}{folder}"


@pytest.mark.parametrize("variable", ["RANK", "LOCAL_RANK", "SLURM_PROCID"])
def test_one_process_of_several_writes_the_config(tmp_path, monkeypatch, variable):
    monkeypatch.setenv(variable, "1")
    folder = prepare(OmegaConf.create({"run_dir": str(tmp_path / "run")}), "report")
    assert list(folder.iterdir()) == []


def test_processes_of_a_launcher_need_a_given_folder(call, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SLURM_STEP_NUM_TASKS", "2")
    assert "give hydra.run.dir=..." in only_sentence(call("train", "trainer=slurm", status=1))
    assert "would do all of the work; add trainer=slurm" in only_sentence(call("train", status=1))
    monkeypatch.delenv("SLURM_STEP_NUM_TASKS")
    assert "trainer=slurm is for the tasks of srun" in only_sentence(call("train", "trainer=slurm", status=1))


@pytest.mark.parametrize("text", ["runs/a", "it's here/a, b=c", "[x] ${y}", "'"])
def test_any_folder_can_be_named_to_a_nested_command(text):
    assert OverridesParser.create().parse_override(f"checkpoint={_quoted(text)}").value() == text


def test_a_home_folder_is_found(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    (tmp_path / "a.ckpt").touch()
    assert checkpoint_file("~/a.ckpt") == tmp_path / "a.ckpt"


@pytest.mark.parametrize(("failure", "status"), [(None, "success"), (ValueError("no"), "failed")])
def test_loggers_are_told_how_the_command_ended(tmp_path, monkeypatch, failure, status):
    ended = []
    monkeypatch.setattr(CsvLogger, "finalize", lambda self, status: ended.append(status))
    cfg = OmegaConf.create({"logger": {"csv": {"_target_": "robustsmooth.loggers.CsvLogger"}}})
    with suppress(ValueError), loggers_for(cfg, tmp_path):
        if failure is not None:
            raise failure
    assert ended == [status]


def test_a_part_that_is_set_to_null_is_left_out(tmp_path):
    cfg = OmegaConf.create({"logger": {"csv": None}})
    with loggers_for(cfg, tmp_path) as loggers:
        assert loggers == []


def test_a_missing_value_is_named(tmp_path):
    cfg = OmegaConf.create({"run_dir": str(tmp_path), "checkpoint": "???"})
    with pytest.raises(Exception, match="checkpoint") as caught:
        check_settings(cfg, "certify")
    assert explain(caught.value) == ("`checkpoint` must be given: add checkpoint=... to the command line", 2)


def test_a_line_that_cannot_be_parsed_is_quoted():
    with pytest.raises(OverrideParseException) as caught:
        OverridesParser.create().parse_overrides(["hydra.run.dir=runs/lr=0.1"])
    sentence, status = explain(caught.value)
    assert "`hydra.run.dir=runs/lr=0.1`" in sentence
    assert "quotes" in sentence
    assert status == 2


@pytest.mark.parametrize(
    ("record", "owner"),
    [
        ("checkpoints/last.ckpt", "train"),
        ("certify.settings.json", "certify"),
        ("certify.rank0.tsv", "certify"),
        ("predict.tsv", "predict"),
        ("attack.tsv", "attack"),
        ("timing.tsv", "timing"),
        ("model.onnx", "export"),
        ("report.html", "report"),
    ],
)
def test_a_run_folder_belongs_to_one_command(tmp_path, record, owner):
    (tmp_path / record).parent.mkdir(exist_ok=True)
    (tmp_path / record).touch()
    cfg = OmegaConf.create({"run_dir": str(tmp_path)})
    assert prepare(cfg, owner) == tmp_path
    before = sorted(tmp_path.rglob("*"))
    for other in {"train", "certify", "predict", "attack", "agreement", "export", "report", "illustrate"} - {
        owner
    }:
        with pytest.raises(ValueError, match=f"run of {owner} .*hydra.run.dir={tmp_path / other}"):
            prepare(cfg, other)
    assert sorted(tmp_path.rglob("*")) == before


def test_no_other_command_writes_into_the_folder_of_a_training(call, tmp_path):
    words = ["trainer.max_epochs=1", "trainer.limit_train_batches=1", f"hydra.run.dir={tmp_path}"]
    call("train", *words)
    before = {
        path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file() and path.suffix != ".log"
    }
    here = f"hydra.run.dir={tmp_path}"
    for name in ("certify", "export"):
        said = call(name, f"checkpoint={tmp_path}", here, status=1)
        assert "belongs to a run of train" in only_sentence(said)
    assert "belongs to a run of train" in only_sentence(call("illustrate", here, status=1))
    assert {path: path.read_bytes() for path in before} == before
    call("train", *words)


def test_a_line_break_inside_a_list_is_named(call):
    said = call("certify", "checkpoint=[a,\nb]", status=2)
    assert "a value must stand on one line, without line breaks" in said
    assert "checkpoint=[a, b]" in said
