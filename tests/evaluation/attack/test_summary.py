import json

import pytest
from scipy.stats import binom

from robustsmooth.evaluation import beneath_certified, read_certified
from robustsmooth.evaluation.attack.summary import CertifiedLog, summarize_variant


def rows(*columns):
    """(idx, success, abstain), and whether it is right without an attack"""
    return [
        {"idx": str(i), "success": str(s), "abstain": str(a), "clean_correct": str(*clean or (1,))}
        for i, s, a, *clean in columns
    ]


def log(radii, alpha=0.001):
    return CertifiedLog("certify.tsv", dict(enumerate(radii)), alpha)


def test_successful_attacks_on_certified_images_are_compared_with_the_binomial():
    some = rows((0, 1, 0), (1, 0, 0), (2, 1, 1), (3, 1, 0), (9, 1, 0))  # image 9 was not certified
    said = beneath_certified(some, 0.5, log([0.6, 0.6, 0.5, 0.4]), alpha=0.01)
    assert (said.images, said.empirical, said.certified) == (4, 0.25, 0.75)
    assert (said.answered, said.abstained) == (1, 1)
    assert said.probability == pytest.approx(1 - (1 - 0.011) ** 3)
    assert "this can be chance" in said.warning(0.5)


def test_many_broken_certificates_are_a_bug():
    said = beneath_certified(rows(*[(i, 1, 0) for i in range(20)]), 0.5, log([0.6] * 20), alpha=0.001)
    assert said.probability == pytest.approx(float(binom.sf(19, 20, 0.002)))
    assert "this is a bug" in said.warning(0.5)


def test_a_broken_certificate_is_named_even_if_the_accuracies_agree():
    some = rows(*[(i, 1 if i < 4 else 0, 0) for i in range(20)])
    said = beneath_certified(some, 0.5, log([0.6] * 10 + [0.0] * 10), alpha=0.0)
    assert said.empirical >= said.certified
    assert "this is a bug" in said.warning(0.5)


def test_abstentions_ask_for_more_votes():
    said = beneath_certified(rows((0, 1, 1), (1, 0, 0)), 0.5, log([0.6, 0.6]), alpha=0.001)
    assert said.probability == 1.0
    assert "raise prediction.n" in said.warning(0.5)


def test_an_image_that_is_wrong_without_an_attack_is_not_robust():
    """Even if the attacked image is classified correctly. The report counts in the same way."""
    some = rows((0, 0, 0, 1), (1, 0, 0, 0), (2, 1, 0, 1), (3, 1, 0, 0))
    said = summarize_variant([row | {"l2": "0.5", "time": "1.0"} for row in some], "l2")
    assert (said["clean_accuracy"], said["accuracy"]) == (0.5, 0.25)
    assert said["low"] <= 0.25 <= said["high"]
    assert said["distance"]["success"] == 0.75
    assert beneath_certified(some, 0.5, log([0.0] * 4), alpha=0.0).empirical == 0.25


def test_an_infinite_median_is_null_in_the_summary():
    """JSON has no infinity. The mean over no successes is null, too."""
    some = [row | {"l2": "0.5", "time": "1.0"} for row in rows((0, 0, 0), (1, 0, 0))]
    said = summarize_variant(some, "l2")["distance"]
    assert said == {"median": None, "mean_of_successes": None, "success": 0.0}


def test_consistent_results_give_no_message():
    said = beneath_certified(rows((0, 0, 0), (1, 1, 0)), 0.5, log([0.6, 0.0]), alpha=0.001)
    assert said.warning(0.5) is None


def write(folder, text, settings=None):
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "certify.tsv").write_text(text)
    if settings:
        (folder / "certify.settings.json").write_text(json.dumps(settings))


HEADER = "idx\tlabel\tpredict\tradius\tcorrect\ttime"


def test_a_certification_is_read_with_its_alpha(tmp_path):
    write(
        tmp_path / "certify",
        f"{HEADER}\n0\t1\t1\t0.5\t1\t0.1\n3\t1\t2\t0.7\t0\t0.1\n",
        {"procedure": {"alpha": 0.01}},
    )
    for place in (tmp_path, tmp_path / "certify", tmp_path / "certify" / "certify.tsv"):
        certified = read_certified(place)
        assert certified.radius == {0: 0.5, 3: 0.0}
        assert certified.alpha == 0.01


def test_logs_that_cannot_be_compared(tmp_path):
    with pytest.raises(ValueError, match="no certification log at"):
        read_certified(tmp_path)
    write(tmp_path, "idx\tlabel\n0\t1\n")
    with pytest.raises(ValueError, match="not a certification log"):
        read_certified(tmp_path)
    write(tmp_path, f"{HEADER}\tguarantee\n0\t1\t1\t0.5\t1\t0.1\tl1-certificate\n")
    with pytest.raises(ValueError, match="holds l1-certificate"):
        read_certified(tmp_path)
