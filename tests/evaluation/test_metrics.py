import pickle

import numpy as np
import pytest
import torch

from robustsmooth.evaluation import AbstentionRate, AverageCertifiedRadius, CertifiedAccuracy, SureShare

RADII = [0.0, 0.25, 0.5, 1.0]


def some_images(count=40, seed=0):
    generator = torch.Generator().manual_seed(seed)
    prediction = torch.randint(-1, 4, (count,), generator=generator)
    label = torch.randint(0, 4, (count,), generator=generator)
    radius = torch.rand(count, generator=generator, dtype=torch.float64)
    radius[::5] = 0.5  # exactly on a radius
    radius[1::3] = 0.95  # as a bound: a sure image
    radius[prediction == -1] = 0.0
    return prediction, radius, label


def naive(prediction, radius, label):
    """Image by image, in NumPy."""
    accuracies = []
    for wanted in RADII:
        hits = [p == y and p != -1 and r >= wanted for p, r, y in zip(prediction, radius, label, strict=True)]
        accuracies.append(np.mean(hits))
    acr = np.mean([r if p == y else 0.0 for p, r, y in zip(prediction, radius, label, strict=True)])
    sure = np.mean([p == y and r >= 0.9 for p, r, y in zip(prediction, radius, label, strict=True)])
    return accuracies, acr, np.mean([p == -1 for p in prediction]), sure


def metrics():
    return CertifiedAccuracy(RADII), AverageCertifiedRadius(), AbstentionRate(), SureShare()


def update(metric, prediction, radius, label):
    if isinstance(metric, AbstentionRate):
        metric.update(prediction)
    else:
        metric.update(prediction, radius, label)


def test_metrics_add_up_over_batches():
    images = some_images()
    expected = [torch.tensor(value).double() for value in naive(*(image.numpy() for image in images))]
    for metric, value in zip(metrics(), expected, strict=True):
        for part in (slice(0, 7), slice(7, 7), slice(7, 40)):  # one of them empty
            update(metric, *(image[part] for image in images))
        assert torch.allclose(metric.compute(), value)
        again = pickle.loads(pickle.dumps(metric))
        assert torch.equal(again.compute(), metric.compute())
        metric.reset()
        update(metric, *(image[:5] for image in images))
        assert not torch.allclose(metric.compute(), value)


def _on_a_rank(rank, port, queue):
    torch.distributed.init_process_group(
        "gloo", init_method=f"tcp://127.0.0.1:{port}", rank=rank, world_size=2
    )
    values = []
    for metric in metrics():
        update(metric, *(some_image[rank * 13 :: 2] for some_image in some_images()))  # unequal parts
        values.append(metric.compute().tolist())
    queue.put((rank, values))
    torch.distributed.destroy_process_group()


@pytest.mark.ddp
def test_metrics_add_up_over_two_processes():
    import socket

    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    context = torch.multiprocessing.get_context("fork")
    queue = context.SimpleQueue()
    children = [context.Process(target=_on_a_rank, args=(rank, port, queue)) for rank in range(2)]
    for child in children:
        child.start()
    answers = dict(queue.get() for _ in children)
    for child in children:
        child.join()
    parts = [torch.cat([some_image[0::2], some_image[13::2]]) for some_image in some_images()]
    accuracies, *others = naive(*(part.numpy() for part in parts))
    assert answers[0] == answers[1]
    assert answers[0][0] == pytest.approx(accuracies)
    assert answers[0][1:] == pytest.approx(others)


def test_unequal_lengths_are_refused():
    prediction, radius, label = some_images()
    with pytest.raises(ValueError, match=r"one entry per image, got shapes \(40,\) and \(39,\)"):
        CertifiedAccuracy(RADII).update(prediction, radius, label[:-1])
    with pytest.raises(ValueError, match=r"one entry per image, got shapes \(40,\) and \(39,\)"):
        AverageCertifiedRadius().update(prediction, radius[:-1], label)
