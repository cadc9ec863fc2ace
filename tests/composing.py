"""The real configs, composed as the commands compose them; each file of conf/ is read once."""

import copy
import functools

import hydra
from hydra._internal.core_plugins.file_config_source import FileConfigSource
from hydra.core.global_hydra import GlobalHydra
from omegaconf import DictConfig

from robustsmooth.commands import conf_dir, register_resolvers

_load_config = FileConfigSource.load_config


@functools.cache
def _read(source: str, path: str):
    return _load_config(FileConfigSource("file", source), path)


def _copied(self: FileConfigSource, config_path: str):
    found = copy.copy(_read(self.path, config_path))
    found.config, found.provider = copy.deepcopy(found.config), self.provider
    return found


def composed(command: str, *overrides: str, whole: bool = False) -> DictConfig:
    """`composed("train", "method=heat")`: a command's config; Hydra's own part only of a whole one."""
    register_resolvers()
    GlobalHydra.instance().clear()
    named = any(word.startswith("run_dir=") for word in overrides)
    given = [*overrides] if named else ["run_dir=run", *overrides]
    FileConfigSource.load_config = _copied  # type: ignore[method-assign]
    try:
        with hydra.initialize_config_dir(str(conf_dir()), version_base="1.3"):
            return hydra.compose(command, given, return_hydra_config=whole)
    finally:
        FileConfigSource.load_config = _load_config  # type: ignore[method-assign]
