"""The tests' quick way of composing gives the configs that Hydra composes."""

from unittest import mock

import hydra
import pytest
from hydra._internal import defaults_list
from hydra._internal.config_repository import ConfigRepository
from hydra.core.global_hydra import GlobalHydra
from omegaconf import OmegaConf

from tests import composing


@pytest.mark.parametrize(
    "words",
    [
        ("certify", "certificate=topk"),
        ("train", "experiment=cifar10/equal_steps", "scale=short", "method=macer"),  # interpolated defaults
    ],
)
def test_it_is_the_same_config(words):
    quick = composing.composed(*words, whole=True)
    with (
        mock.patch.object(ConfigRepository, "load_config", composing._load_config),
        mock.patch.object(defaults_list, "_create_interpolation_map", composing._interpolation_map),
    ):
        plain = composing.composed(*words, whole=True)
    assert OmegaConf.to_yaml(quick) == OmegaConf.to_yaml(plain)


def test_a_changed_file_is_read_again(tmp_path):
    for value in (1, 2):
        (tmp_path / "mine.yaml").write_text(f"value: {value}\n", encoding="utf-8")
        GlobalHydra.instance().clear()
        with hydra.initialize_config_dir(str(tmp_path), version_base="1.3"):
            assert hydra.compose("mine").value == value
