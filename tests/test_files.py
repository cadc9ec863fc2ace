"""A file is written completely or not at all."""

import errno
import os
import resource

import pytest

import robustsmooth.files
from robustsmooth.files import write_whole


def test_a_file_is_written_and_replaced_with_the_usual_permissions(tmp_path):
    path = tmp_path / "new" / "a.txt"
    write_whole(path, "first")
    write_whole(path, b"second")
    assert path.read_text() == "second"
    assert [item.name for item in path.parent.iterdir()] == ["a.txt"]
    (tmp_path / "usual").touch()
    assert path.stat().st_mode == (tmp_path / "usual").stat().st_mode


@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_an_error_names_the_file_and_keeps_the_old_one(tmp_path, monkeypatch, failing):
    path = tmp_path / "a.txt"
    write_whole(path, "old")

    def fail(*args):
        raise OSError(errno.ENOSPC, "No space left on device")

    where = robustsmooth.files.os if failing == "fsync" else robustsmooth.files.Path
    monkeypatch.setattr(where, failing, fail)
    with pytest.raises(OSError, match="No space left") as error:
        write_whole(path, "new")
    assert error.value.filename == str(path)
    assert path.read_text() == "old"
    assert [item.name for item in tmp_path.iterdir()] == ["a.txt"]


def test_a_limit_on_the_size_of_files(tmp_path):
    path = tmp_path / "a.txt"
    write_whole(path, "old")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(OSError, match="File too large"):
            write_whole(path, "new" * 1000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]  # noqa: PTH208
