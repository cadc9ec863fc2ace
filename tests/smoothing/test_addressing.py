"""Addresses: the same address gives the same numbers, other addresses give other numbers."""

import hashlib

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from robustsmooth.smoothing.addressing import BatchRandomness, ImageRandomness, address, generator


def test_the_address_is_the_documented_hash():
    digest = hashlib.blake2b(b"3\x1fcertify\x1f7\x1f1", digest_size=8).digest()
    assert address(3, "certify", 7, 1) == int.from_bytes(digest, "big") >> 1


@given(st.integers(0, 2**63), st.text(max_size=8), st.lists(st.integers(0, 2**40), max_size=3))
def test_an_address_is_a_valid_seed(seed, purpose, counters):
    assert 0 <= address(seed, purpose, *counters) < 2**63


def test_addresses_do_not_collide():
    seen = {address(s, p, i, b) for s in range(3) for p in ("a", "b") for i in range(200) for b in range(20)}
    assert len(seen) == 3 * 2 * 200 * 20
    assert address(0, "p", 1, 23) != address(0, "p", 12, 3)


def test_generators_of_one_address_agree():
    first, again = (torch.rand(5, generator=generator(1, "x", 2)) for _ in range(2))
    assert torch.equal(first, again)


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_an_images_numbers_do_not_depend_on_its_batch(kind):
    images = torch.zeros(6, 1, 4, 4)
    indices = torch.tensor([4, 0, 9, 2, 7, 5])
    together = getattr(ImageRandomness(0, "p", indices), kind)(images, copies=3, draw=2)
    for at in range(6):
        alone = getattr(ImageRandomness(0, "p", indices[at : at + 1]), kind)(images[:1], copies=3, draw=2)
        assert torch.equal(together[:, at], alone[:, 0])


@pytest.mark.parametrize("kind", ["normal", "uniform"])
def test_draws_purposes_and_seeds_differ(kind):
    images, indices = torch.zeros(2, 8), torch.tensor([0, 1])
    base = getattr(ImageRandomness(0, "p", indices), kind)(images)
    others = [
        getattr(ImageRandomness(0, "p", indices), kind)(images, draw=1),
        getattr(ImageRandomness(0, "q", indices), kind)(images),
        getattr(ImageRandomness(1, "p", indices), kind)(images),
        getattr(BatchRandomness(0, "p", 0), kind)(images),
    ]
    assert base.shape == (1, 2, 8)
    assert not any(torch.equal(base, other) for other in others)
    assert not torch.equal(base[:, 0], base[:, 1])


def test_the_global_generator_is_not_changed():
    state = torch.get_rng_state()
    BatchRandomness(0, "p").normal(torch.zeros(4, 4))
    ImageRandomness(0, "p", torch.arange(4)).uniform(torch.zeros(4, 4))
    assert torch.equal(state, torch.get_rng_state())


def test_normal_numbers_are_standard_normal():
    sample = BatchRandomness(0, "p").normal(torch.zeros(1000), copies=100).double()
    assert abs(sample.mean()) < 4 / sample.numel() ** 0.5
    assert abs(sample.var() - 1) < 4 * (2 / sample.numel()) ** 0.5


def test_the_wrong_number_of_images_is_an_error():
    with pytest.raises(ValueError, match="2 images, got 3"):
        ImageRandomness(0, "p", torch.arange(2)).normal(torch.zeros(3, 1))
