"""Offline W&B runs of a sweep, read back from their files."""

import json
import struct
from collections import defaultdict

import pytest

from robustsmooth.report import find_runs, label_runs, read_evaluations, write_report
from robustsmooth.report.publish import publish

from .conftest import write_certification, write_training

wandb = pytest.importorskip("wandb")


def records(path):
    """The records of a .wandb file: LevelDB's log format, 32 kB blocks, after a header of seven bytes."""
    from wandb.proto import wandb_internal_pb2

    data, position, whole = path.read_bytes(), 7, b""
    while position + 7 <= len(data):
        left = 32768 - position % 32768
        if left < 7:
            position += left
            continue
        _, length, kind = struct.unpack("<IHB", data[position : position + 7])
        if kind == 0:
            break
        whole += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            record = wandb_internal_pb2.Record()
            record.ParseFromString(whole)
            yield record
            whole = b""


def read_back(folder):
    """Per run id: the run's record, its history and its summary."""
    runs = {}
    for path in sorted((folder / "wandb").glob("offline-run-*/*.wandb")):
        about, history, summary = None, defaultdict(list), {}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                about = record.run
            elif kind == "history":
                for item in record.history.item:
                    key = item.key or ".".join(item.nested_key)
                    history[key].append(json.loads(item.value_json))
            elif kind == "summary":
                for item in record.summary.update:
                    summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        runs[about.run_id] = (about, history, summary, path.parent / "files" / "media")
    return runs


@pytest.mark.slow
def test_a_sweep_of_two_jobs_becomes_two_runs(runs, tmp_path, monkeypatch):
    monkeypatch.setenv("WANDB_MODE", "offline")
    evaluations = read_evaluations(label_runs(find_runs([str(runs / "0_gaussian"), str(runs / "3_heat")])))
    ids = publish(evaluations, tmp_path, project="p", tags=["mine"])
    back = read_back(tmp_path)
    assert list(back) == ids
    assert len(set(ids)) == 2
    for (about, history, summary, media), method, sigma, job in zip(
        back.values(), ("gaussian", "heat"), (0.25, 0.5), ("0_gaussian", "3_heat"), strict=True
    ):
        config = {item.key: json.loads(item.value_json) for item in about.config.update}
        assert config["method"] == {"_target_": f"robustsmooth.methods.{method}", "sigma": sigma}
        assert (about.project, about.run_group) == ("p", runs.name)
        assert list(about.tags) == [method, "digits", "mine"]
        assert history["val/top1"] == [0.5, 0.6, 0.7]
        curve = history["certificate/certify/accuracy"]
        assert len(curve) == 101
        assert curve == sorted(curve, reverse=True)
        lines = [
            line.split("\t") for line in (runs / job / "certify/certify.tsv").read_text().splitlines()[1:]
        ]
        acr = sum(float(line[3]) * int(line[4]) for line in lines) / len(lines)
        assert summary["certificate/certify/acr"] == pytest.approx(acr)
        tables = [
            json.loads(path.read_text()) for path in (media / "table/certificate/certify").glob("*.json")
        ]
        assert [row[0] for row in tables[0]["data"]] == list(range(60))
        assert {key for key in summary if key.startswith("empirical") and key.endswith("accuracy")} == {
            "empirical/attack@0.25,4/accuracy",
            "empirical/attack@0.5,4/accuracy",
        }


def test_publishing_says_what_is_wrong(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "certify", trained)
    with pytest.raises(ValueError, match=r"`wandb.mode` must be online or offline"):
        write_report(str(tmp_path), tmp_path / "out", formats=[], wandb={"mode": "sideways"})
