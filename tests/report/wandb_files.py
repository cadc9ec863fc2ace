"""Reading the files of offline W&B runs back."""

import json
import struct
from collections import defaultdict


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
    """The record, history and summary of each run, by its id."""
    runs = {}
    for path in sorted(folder.glob("**/wandb/offline-run-*/*.wandb")):
        about, history, summary = None, defaultdict(list), {}
        for record in records(path):
            kind = record.WhichOneof("record_type")
            if kind == "run":
                about = record.run
            elif kind == "config":  # what was added after the start
                about.config.update.extend(record.config.update)
            elif kind == "history":
                for item in record.history.item:
                    key = item.key or ".".join(item.nested_key)
                    history[key].append(json.loads(item.value_json))
            elif kind == "summary":
                for item in record.summary.update:
                    summary[item.key or ".".join(item.nested_key)] = json.loads(item.value_json)
        runs[about.run_id] = (about, history, summary, path.parent / "files" / "media")
    return runs
