"""Published networks: the registry, the download with its checks, the accuracy that is expected."""

import hashlib
import shutil

import pytest
import torch
import yaml

import robustsmooth
from robustsmooth.data import DigitsDataModule
from robustsmooth.models import NORMALIZATIONS, SmallCNN, build_classifier, sanity_check
from robustsmooth.models import published as module
from robustsmooth.models.published import fetch, published
from robustsmooth.runs import open_run


@pytest.fixture
def registry(tmp_path, monkeypatch):
    """Entries of our own: `registry(sha256=...)` adds one and returns its file's name."""
    network = build_classifier(SmallCNN(10), 10, NORMALIZATIONS["none"]).eval()
    source = tmp_path / "offered.pt"
    torch.save(network.network.state_dict(), source)
    monkeypatch.setenv("ROBUSTSMOOTH_CACHE", str(tmp_path / "cache"))
    entries = {}
    monkeypatch.setattr(module, "_registry", lambda: entries)

    def add(**changes):
        entries["net"] = {
            "source": source.as_uri(),
            "homepage": "https://example.org",
            "file": "a/checkpoint.pth.tar",
            "sha256": hashlib.sha256(source.read_bytes()).hexdigest(),
            "settings": ["data=digits", "model=small_cnn", "model.normalization=none"],
            "sigma": 0.5,
            "accuracy": None,
            "license": "mit",
            **changes,
        }
        return network

    return add


def test_every_entry_of_the_registry_can_be_composed(compose):
    names = module._registry()
    assert len(names) > 10
    for name in names:
        entry = published(f"published:{name}")
        assert f"{entry.sigma:.2f}" == name.rpartition("-")[2]
        assert entry.source.startswith("https://")
        assert entry.homepage.startswith("https://github.com/")
        assert entry.sha256 is None or len(entry.sha256) == 64
        cfg = compose("export", "checkpoint=a", *entry.settings)
        assert cfg.data.num_classes in (10, 1000)
        assert cfg.model.normalization in NORMALIZATIONS


def test_the_error_says_what_to_download_by_hand_and_where_to_put_it(tmp_path, monkeypatch):
    monkeypatch.setenv("ROBUSTSMOOTH_CACHE", str(tmp_path))
    with pytest.raises(
        ValueError, match=r"with a browser: open https://drive.google.com/.*put .*noise_0.25"
    ) as error:
        fetch(published("cohen2019-cifar10-0.25"))
    assert f"to `{tmp_path}/cohen2019-cifar10-0.25.pth.tar`" in str(error.value)


def test_a_network_is_fetched_once_and_opened_by_its_name(registry, tmp_path, compose):
    network = registry()
    found = robustsmooth.load("published:net")
    images = torch.rand(2, 1, 8, 8)
    assert torch.equal(found.network(images), network(images))
    assert found.sigma == 0.5
    assert found.checkpoint == "published:net"
    (tmp_path / "offered.pt").unlink()
    run = open_run(compose("certify", "checkpoint=published:net"))
    assert run.config.smoothing.sigma == 0.5
    assert [path.name for path in (tmp_path / "cache").iterdir()] == ["net.pth.tar"]


def test_an_unrecorded_hash_must_be_confirmed_by_the_user(registry):
    registry(sha256=None)
    with pytest.raises(ValueError, match=r"nothing verifies what file://.* add unverified=true"):
        robustsmooth.load("published:net")
    assert robustsmooth.load("published:net", unverified=True).sigma == 0.5


def test_another_file_than_the_recorded_one_is_refused(registry):
    registry(sha256="0" * 64)
    with pytest.raises(ValueError, match="is not the published net: its SHA-256 is"):
        robustsmooth.load("published:net", unverified=True)


def test_a_failed_download_is_one_sentence_and_leaves_no_file(registry, tmp_path):
    registry(source=(tmp_path / "gone.pt").as_uri())
    with pytest.raises(ValueError, match=r"could not download file://.*gone.pt .*by hand"):
        fetch(published("net"))
    assert not list((tmp_path / "cache").iterdir())


def test_two_jobs_may_download_a_network_at_once(registry, tmp_path, monkeypatch):
    registry()
    copy, of_the_other = shutil.copyfileobj, []

    def while_another_job_does_it_too(stream, file):
        if not of_the_other:
            of_the_other.append(tmp_path)
            of_the_other[:] = [fetch(published("net"))]
        copy(stream, file)

    monkeypatch.setattr(module.shutil, "copyfileobj", while_another_job_does_it_too)
    assert [fetch(published("net"))] == of_the_other
    assert list((tmp_path / "cache").iterdir()) == of_the_other


def test_an_unknown_name_lists_the_known_ones():
    with pytest.raises(ValueError, match=r"no published network 'nobody'; known are cohen2019-cifar10-0.25"):
        published("published:nobody")


def test_an_accuracy_far_from_the_expected_one_is_an_error(registry, compose):
    registry(accuracy=0.9)  # it is untrained
    with pytest.raises(ValueError, match=r"where 90.0 % is expected: the normalisation or the data differ"):
        open_run(compose("certify", "checkpoint=published:net"))


def test_an_accuracy_near_the_expected_one_is_no_error():
    datamodule = DigitsDataModule(channels=1)
    network = build_classifier(SmallCNN(10), 10)
    accuracy = sanity_check(network, datamodule)
    assert sanity_check(network, datamodule, expected=accuracy + 0.02) == accuracy


def test_the_registry_is_plain_text():
    text = (module.resources.files("robustsmooth.models") / "published.yaml").read_text(encoding="utf-8")
    assert set(yaml.safe_load(text)) == {"_families", "networks"}
