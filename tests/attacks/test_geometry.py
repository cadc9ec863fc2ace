import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from robustsmooth.attacks import distance, project
from robustsmooth.attacks.geometry import displace, unit

shapes = st.lists(st.integers(1, 6), min_size=2, max_size=4).map(tuple)
dtypes = st.sampled_from([torch.float16, torch.bfloat16, torch.float32, torch.float64])
norms = st.sampled_from(["l2", "linf"])


@settings(max_examples=200, deadline=None)
@given(shapes, dtypes, norms, st.floats(1e-4, 10), st.floats(0, 5), st.integers(0, 10**6))
def test_a_projection_is_idempotent_and_inside_ball_and_box(shape, dtype, norm, epsilon, spread, seed):
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=source).to(dtype).clamp(0, 1)
    points = images + spread * torch.randn(shape, generator=source).to(dtype)
    once = project(points, images, epsilon, norm)
    assert once.dtype == dtype
    assert bool(((once >= 0) & (once <= 1)).all())
    assert bool((distance(once.double() - images.double(), norm) <= epsilon).all())
    assert torch.equal(project(once, images, epsilon, norm), once)


@settings(max_examples=50, deadline=None)
@given(shapes, norms, st.floats(1e-3, 2), st.integers(0, 10**6))
def test_a_projection_leaves_alone_what_is_inside(shape, norm, epsilon, seed):
    source = torch.Generator().manual_seed(seed)
    images = torch.rand(shape, generator=source)
    inside = 0.9 * epsilon * (2 * torch.rand(shape, generator=source) - 1) / math.sqrt(images[0].numel())
    points = (images + inside).clamp(0, 1)
    assert torch.equal(project(points, images, epsilon, norm), points)


def test_a_projection_equals_the_closed_form():
    images = torch.full((1, 2), 0.5)
    points = torch.tensor([[0.8, 0.9]])
    torch.testing.assert_close(project(points, images, 0.25, "l2"), torch.tensor([[0.65, 0.7]]))
    torch.testing.assert_close(project(points, images, 0.25, "linf"), torch.tensor([[0.75, 0.75]]))
    torch.testing.assert_close(project(2 * points, images, 9.0, "l2"), torch.ones(1, 2))  # only the box


def test_a_displacement_is_never_longer_than_requested():
    images = torch.rand(1000, 50)
    delta = 1e-3 * torch.randn(1000, 50)
    moved = displace(images, delta)
    assert bool(((moved.double() - images.double()).abs() <= delta.double().abs()).all())


@pytest.mark.parametrize("scale", [1e-40, 1e-30, 1e-10, 1.0, 1e30])
def test_a_unit_direction_at_any_scale(scale):
    gradient = scale * torch.tensor([[3.0, -4.0]])
    torch.testing.assert_close(unit(gradient), torch.tensor([[0.6, -0.8]]), rtol=1e-4, atol=0)


def test_a_zero_gradient_has_no_direction_and_no_nan():
    assert torch.equal(unit(torch.zeros(2, 3, 4)), torch.zeros(2, 3, 4))


def test_distances_by_hand():
    delta = torch.tensor([[[3.0, -4.0]], [[0.0, 1.0]]])
    assert distance(delta, "l2").tolist() == [5.0, 1.0]
    assert distance(delta, "linf").tolist() == [4.0, 1.0]
