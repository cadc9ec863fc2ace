"""Figures: fonts, names, titles and axes."""

from xml.etree import ElementTree

import numpy as np
import pytest
import yaml

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations
from robustsmooth.report.build import _not_averaged
from robustsmooth.report.figures import draw_figures, write_figures
from robustsmooth.report.figures.drawing import DASHES, PALETTE, Drawing, grey_lines, line_style, percent_axes
from robustsmooth.report.levels import unfinished
from robustsmooth.report.tables import agreement_rows

from .conftest import (
    CERTIFY,
    certify_rows,
    write_at_radii,
    write_attack,
    write_certification,
    write_log,
    write_training,
)


def test_dollars_in_a_name_are_kept_and_pdfs_embed_true_type(runs, tmp_path):
    (runs / "0_gaussian").rename(runs / "price $5 or $6")
    drawings = draw_figures(read_evaluations(label_runs(find_runs(str(runs)))))
    write_figures(drawings[:1], tmp_path, ["pdf"])
    (path,) = tmp_path.glob("*.pdf")
    assert b"/Type3" not in path.read_bytes()
    assert b"/TrueType" in path.read_bytes() or b"/CIDFontType2" in path.read_bytes()


def test_data_sets_with_similar_names_have_files_of_their_own(tmp_path):
    for data in ("a b", "a-b", "A_b"):
        trained = write_training(tmp_path / data, data=data)
        write_certification(trained / "certify", trained)
    drawings = draw_figures(read_evaluations(label_runs(find_runs(str(tmp_path)))))
    titles = {
        drawing.name: drawing.title for drawing in drawings if "A" in drawing.name or "a_b" in drawing.name
    }
    assert len({name.lower() for name in titles}) == len(titles) == 6
    assert titles["certified_accuracy_a_b_3"].endswith(": a-b")


@pytest.mark.parametrize(("bound", "start"), [("0.51", 0.5), ("0.3", 0.0)])
def test_the_distribution_of_p_a_begins_at_one_half_if_no_correct_image_is_below(tmp_path, bound, start):
    trained = write_training(tmp_path / "gaussian")
    log = write_certification(trained / "certify", trained) / "certify.tsv"
    lines = log.read_text().splitlines()
    log.write_text("\n".join([*lines, f"900\t0\t0\t0.01\t1\t0.01\t{bound}\t1000"]) + "\n")
    drawings = draw_figures(read_evaluations(label_runs(find_runs(str(tmp_path)))))
    (drawing,) = (item for item in drawings if item.name == "lower_bounds")
    axes = drawing.figure().axes[0]
    assert axes.get_xlim() == (start, 1)
    assert axes.get_lines()[0].get_xdata()[0] == start
    assert ("none is certified" in drawing.note) == (start == 0)


def test_a_title_cannot_leave_its_attribute():
    text = Drawing("a", '"><img src=x onerror="alert(1)">', "", lambda axes: None).svg()
    (element,) = [item for item in ElementTree.fromstring(text).iter() if item.get("aria-label")]
    assert element.get("aria-label") == '"><img src=x onerror="alert(1)">'


def test_a_long_title_stays_within_the_figure():
    drawing = Drawing(
        "a",
        "Upper envelope per noise level: cifar10, n=100000, alpha=0.001, every 20th",
        "",
        lambda axes: None,
    )
    figure = drawing.figure()
    figure.draw_without_rendering()
    box = figure.axes[0]._left_title.get_window_extent()
    assert box.x0 >= 0
    assert box.x1 <= figure.bbox.x1


@pytest.mark.parametrize(
    "names",
    [
        [f"{'x' * 30}{middle}{'y' * 30}" for middle in ("AAA", "BBB")],
        [f"{'x' * 10}{place}{'y' * 80}" for place in range(3)],
        [f"{'x' * 100}{place}" for place in range(3)],
        [f"{'x' * 60}{place}{'y' * 60}" for place in range(3)],  # no part can be left out
        ["_hidden", "_child", "short"],
    ],
)
def test_long_names_in_a_legend_stay_different_and_none_is_missing(names):
    def draw(axes):
        axes.axhline(0.5)
        for name in names:
            axes.plot([0, 1], [0, 1], label=name)

    (legend,) = Drawing("a", "A", "", draw).figure().legends
    texts = [text.get_text() for text in legend.get_texts()]
    assert len({*texts}) == len(names)
    assert {*map(len, texts)} <= {44} or texts == names or texts == [" _hidden", " _child", "short"]


@pytest.mark.parametrize("lines", [0, 1, 16])
@pytest.mark.parametrize("label", ["short", "a label that takes a whole row of it"])
def test_nothing_in_a_figure_is_cut_off_or_covers_another_thing(lines, label):
    def draw(axes):
        for number in range(lines):
            axes.plot([0, 1], [0, 100], label=f"{label} {number}")
        percent_axes(axes, "Radius", "Accuracy (% of all images)")

    figure = Drawing("a", "Upper envelope over all runs: cifar10, n=100000, alpha=0.001", "", draw).figure()
    figure.draw_without_rendering()
    (axes,), legends = figure.axes, [legend.get_window_extent() for legend in figure.legends]
    around = [axes.xaxis.label, axes.yaxis.label, axes._left_title]
    for box in (*(text.get_window_extent() for text in around), *legends):
        assert box.x0 >= 0
        assert box.y0 >= 0
        assert box.y1 <= figure.bbox.y1
    assert all(legend.y1 <= axes.xaxis.label.get_window_extent().y0 for legend in legends)


def test_as_many_lines_as_colours_times_dashes_are_different():
    styles = [tuple(line_style(position).values()) for position in range(len(PALETTE) * len(DASHES))]
    assert len({*styles}) == len(styles)


@pytest.mark.parametrize(
    ("drawn", "grey", "lowest", "highest"),
    [(60, 40, 60, 70), (60, 80, 80, 90), (100, 40, 100, 100), (0, 0, 10, 10)],
)
def test_percent_axes_end_a_little_above_the_highest_curve_and_never_above_100(drawn, grey, lowest, highest):
    """Curves in grey count too; without any accuracy there is still an axis."""

    def draw(axes):
        x = np.array([0.0, 1.0])
        grey_lines(axes, x, [np.array([grey, 0.0])])
        axes.plot(x, [drawn, 0.0])
        percent_axes(axes, "radius", "accuracy")

    bottom, top = Drawing("a", "A", "", draw).figure().axes[0].get_ylim()
    assert bottom == 0
    assert lowest <= top <= highest


def write_measurement(folder, trained, name, header, rows):
    (folder / ".hydra").mkdir(parents=True)
    config = {"checkpoint": str(trained), "seed": 0}
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config))
    write_log(folder / f"{name}.tsv", header, rows)


def looks(drawing):
    return {
        line.get_label(): (line.get_color(), line.get_linestyle())
        for line in drawing.figure().axes[0].get_lines()
    }


def test_the_smaller_measurements_have_the_line_of_their_run(tmp_path):
    """The order of the measurements is not that of the certificates."""
    for at, method in enumerate(("pni", "heat", "gaussian")):
        trained = write_training(tmp_path / method, method)
        write_certification(trained / "certify", trained, strength=1.0 + at, seed=at)
        rows = [[i, 0.25 * s, i % 10, (i + (i < s)) % 10, i % 10] for i in range(20) for s in range(3)]
        header = ["idx", "sigma", "label", "vote", "single"]
        write_measurement(trained / "agreement", trained, "agreement", header, rows)
        rows = [
            [i, voting, count, 0.1, int(i > 3)]
            for i in range(10)
            for voting in ("hard", "soft")
            for count in (1, 8)
        ]
        header = ["idx", "voting", "samples", "sigma", "correct"]
        write_measurement(trained / "inference", trained, "smoothed_inference", header, rows)
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    drawings = {drawing.name: drawing for drawing in draw_figures(evaluations)}
    certified = looks(drawings["certified_accuracy"])
    assert set(certified) == {"pni", "heat", "gaussian"}
    assert looks(drawings["agreement"]) == certified
    others = looks(drawings["agreement_others"])
    assert len(others) == 6
    for label, look in others.items():
        assert look == certified[label.removeprefix("pass of ").partition(",")[0]]
    votings = looks(drawings["inference_voting"])
    assert len(votings) == 6
    for label, look in votings.items():
        assert look == certified[label.partition(",")[0]]


def test_agreement_under_several_seeds_is_one_line_of_means(tmp_path):
    for seed, wrong in ((0, 2), (1, 6)):
        trained = write_training(tmp_path / f"heat{seed}", "heat", seed=seed)
        rows = [[i, 0.25, i % 10, (i + (i < wrong)) % 10, i % 10] for i in range(20)]
        header = ["idx", "sigma", "label", "vote", "single"]
        write_measurement(trained / "agreement", trained, "agreement", header, rows)
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    drawings = {drawing.name: drawing for drawing in draw_figures(evaluations)}
    (line,) = drawings["agreement"].figure().axes[0].get_lines()
    assert line.get_ydata().tolist() == [80.0]  # 18 and 14 of 20


def test_only_levels_with_all_images_under_all_seeds_are_drawn(tmp_path):
    """Others have means over unlike images, or over fewer seeds."""
    for seed, wrong in ((0, 2), (1, 6)):
        trained = write_training(tmp_path / f"heat{seed}", "heat", seed=seed)
        images = {0.25: 20, 0.5: 10 if seed else 20} | ({0.75: 20} if seed else {})
        rows = [[i, s, i % 10, (i + (i < wrong)) % 10, i % 10] for s in images for i in range(images[s])]
        write_measurement(trained / "agreement", trained, "agreement", AGREEMENT, rows)
        rows = [[i, "hard", 4, s, int(i >= wrong)] for s in images for i in range(images[s])]
        header = ["idx", "voting", "samples", "sigma", "correct"]
        write_measurement(trained / "inference", trained, "smoothed_inference", header, rows)
    figures = drawn(tmp_path)
    for name in ("agreement", "inference_voting"):
        (line,) = figures[name].figure().axes[0].get_lines()
        assert (line.get_xdata().tolist(), line.get_ydata().tolist()) == ([0.25], [80.0])
    levels = [line.get_xdata().tolist() for name, figure in figures.items() if "inference_samples" in name
              for line in figure.figure().axes[0].get_lines()]  # fmt: skip
    assert levels == [[0.25, 0.5], [0.25, 0.75]]
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    assert [message.partition(" of votes")[0] for message in _not_averaged(evaluations)] == [
        f"{kind}: no mean over all seeds of heat at 1 of 3 settings"
        for kind in ("agreement", "smoothed inference")
    ]
    measurements = evaluations.measurements
    assert [row["sigma"] for row in agreement_rows(measurements) if row["own"]] == [0.25, 0.5, 0.25, 0.75]
    messages = unfinished(measurements)
    assert [text.partition(": ")[2].split(" at 1 of 3 ")[0] for text in messages] == [
        f"{kind} has not all images" for kind in ("agreement", "smoothed inference")
    ]


def test_a_network_that_was_measured_twice_is_no_other_network(tmp_path):
    """Its pass is compared with its own votes, and with those of other networks."""
    for seed in (0, 1):
        trained = write_training(tmp_path / f"net{seed}", seed=seed)
        for name in ("agreement", "copy") if seed == 0 else ("agreement",):
            rows = [[i, 0.25, i % 10, i % 10, i % 10] for i in range(20)]
            write_measurement(trained / name, trained, "agreement", AGREEMENT, rows)
    rows = list(agreement_rows(read_evaluations(label_runs(find_runs(str(tmp_path)))).measurements))
    others = [{row["single"], row["vote"]} for row in rows if not row["own"]]
    assert len(others) == 4
    assert all("gaussian seed=1" in names for names in others), others


AGREEMENT = ["idx", "sigma", "label", "vote", "single"]


def drawn(folder):
    evaluations = read_evaluations(label_runs(find_runs(str(folder))))
    return {drawing.name: drawing for drawing in draw_figures(evaluations)}


def different_looks(drawing):
    lines = drawing.figure().axes[0].get_lines()
    looks = [(line.get_color(), line.get_linestyle(), line.get_marker()) for line in lines]
    assert len(set(looks)) == len(looks)
    return [line.get_label() for line in lines]


def test_a_seed_on_other_images_has_a_line_of_its_own_in_the_colour_of_the_others(tmp_path):
    """The trainings of all seeds are one line, that of the mean over the certificates."""
    for method, seed in ((method, seed) for method in ("gaussian", "heat") for seed in (0, 1, 2)):
        trained = write_training(tmp_path / f"{method}-{seed}", method, seed=seed)
        images = 40 if (method, seed) == ("heat", 2) else 60
        write_certification(trained / "certify", trained, seed=seed, images=images)
        write_attack(trained / "attack", trained, seed=seed, images=images)
    figures = drawn(tmp_path)
    for name in ("certified_accuracy", "lower_bounds", "attack_curves"):
        assert {*different_looks(figures[name])} == {"gaussian", "heat", "heat seed=2"}
    certified = looks(figures["certified_accuracy"])
    assert looks(figures["attack_curves"]) == certified
    assert looks(figures["training"]) == {name: certified[name] for name in ("gaussian", "heat")}
    assert certified["heat seed=2"][0] == certified["heat"][0]


def test_certificates_at_given_radii_have_names_and_lines_of_their_own_beside_published_ones(tmp_path):
    for seed in (0, 1):
        trained = write_training(tmp_path / str(seed), seed=seed, data="cifar10")
        write_certification(trained / "all", trained, seed=seed)
        write_at_radii(trained / "some", trained, {"radii": [0.0, 0.25]}, seed=seed)
        write_at_radii(trained / "one", trained, {"radius": 0.125}, seed=seed)
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    figures = {drawing.name: drawing for drawing in draw_figures(evaluations, published="cifar10")}
    names = ["gaussian", "gaussian (at-radii)", "gaussian (at-radius)"]
    published = {name: look for name, look in looks(figures["published"]).items() if name in names}
    assert sorted(published) == names
    assert len({*published.values()}) == 3
    alone = {**looks(figures["certified_accuracy"])}
    alone |= looks(figures["certified_accuracy_l2_at_radii_certificate"])
    assert alone.items() <= published.items()
    assert looks(figures["training"])["gaussian"] == alone["gaussian"]


def test_votes_at_other_levels_and_passes_that_are_never_right_have_no_figure(tmp_path):
    """Nothing could be drawn in it."""
    for method, sigma in (("heat", 0.25), ("gaussian", 0.5)):
        trained = write_training(tmp_path / "levels" / method, method, sigma)
        rows = [[i, sigma, i % 10, i % 10, i % 10] for i in range(20)]
        write_measurement(trained / "agreement", trained, "agreement", AGREEMENT, rows)
        trained = write_training(tmp_path / "wrong" / method, method)
        rows = [[i, 0.25, 0, 1, 1] for i in range(20)]
        write_measurement(trained / "agreement", trained, "agreement", AGREEMENT, rows)
    assert "agreement" in drawn(tmp_path / "levels")
    assert "agreement_others" not in drawn(tmp_path / "levels")
    assert not {"agreement", "agreement_others"} & drawn(tmp_path / "wrong").keys()


def test_measurements_and_attacks_of_networks_that_have_no_line_have_no_figure(tmp_path):
    """Seven others are better."""
    for at in range(9):
        trained = write_training(tmp_path / f"m{at}", f"m{at}")
        (trained / "metrics.csv").unlink()
        if at < 7:
            write_certification(trained / "certify", trained, images=20, seed=at)
            continue
        write_certification(trained / "certify", trained, images=20, strength=-1.0)
        write_attack(trained / "attack", trained)
        (trained / "metrics.csv").write_text("epoch,val/top1\n0,0.5\n")
        rows = [[i, 0.25, 0, 0, 0] for i in range(20)]
        write_measurement(trained / "agreement", trained, "agreement", AGREEMENT, rows)
        header, rows = (
            ["idx", "voting", "samples", "sigma", "correct"],
            [[i, "hard", 1, 0.1, 1] for i in range(9)],
        )
        write_measurement(trained / "inference", trained, "smoothed_inference", header, rows)
    figures = drawn(tmp_path)
    assert "certified_accuracy" in figures
    empty = {"training", "agreement", "agreement_others", "inference_voting", "attack_curves"}
    assert not (empty | {"empirical_certified"}) & figures.keys()


def test_passes_and_votes_on_other_images_are_no_pair(tmp_path):
    """Test and validation images have the same numbers, but other labels."""
    for shift, method in enumerate(("heat", "gaussian", "macer")):
        trained = write_training(tmp_path / method, method)
        labels = [(i + (shift == 2)) % 10 for i in range(20)]
        rows = [[i, 0.25, label, label, label] for i, label in enumerate(labels)]
        write_measurement(trained / "agreement", trained, "agreement", AGREEMENT, rows)
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    pairs = {(row["single"], row["vote"]) for row in agreement_rows(evaluations.measurements)}
    own = {(method, method) for method in ("heat", "gaussian", "macer")}
    assert pairs == own | {("heat", "gaussian"), ("gaussian", "heat")}
    assert len(looks(drawn(tmp_path)["agreement_others"])) == 2


def test_no_two_lines_of_agreement_look_the_same(tmp_path):
    """Several seeds are one line of means; more votes than markers are left out, which the note says."""
    for seed in range(2):
        for method, wrong in (("heat", 2 + 4 * seed), ("gaussian", 0)):
            trained = write_training(tmp_path / "seeds" / f"{method}{seed}", method, seed=seed)
            rows = [[i, 0.25, i % 10, (i + (i < wrong)) % 10, i % 10] for i in range(20)]
            write_measurement(trained / "agreement", trained, "agreement", AGREEMENT, rows)
    for at in range(9):
        trained = write_training(tmp_path / "many" / f"m{at}", f"m{at}")
        write_measurement(trained / "agreement", trained, "agreement", AGREEMENT, rows)
    seeds, many = (drawn(tmp_path / name)["agreement_others"] for name in ("seeds", "many"))
    labels = [
        f"pass of {one}, vote of {other}" for one in ("gaussian", "heat") for other in ("gaussian", "heat")
    ]
    assert different_looks(seeds) == labels
    shares = [line.get_ydata().tolist() for line in seeds.figure().axes[0].get_lines()]
    assert shares == [[100.0], [80.0], [100.0], [80.0]]  # 18 and 14 of 20
    assert "the mean" in seeds.note
    labels = different_looks(many)
    assert "pass of m0, vote of m7" in labels
    assert "pass of m0, vote of m8" not in labels
    assert "pass of m0, vote of m8" in many.note
    assert "Of 72 pairs of networks the first 12." in many.note
    assert "pairs" not in seeds.note


def test_only_attacks_on_a_certified_smoothed_classifier_are_beside_its_curve(tmp_path):
    """Neither those under another noise, nor those on the network itself, nor those without a budget."""
    trained = write_training(tmp_path / "heat", "heat")
    write_certification(trained / "certify", trained)
    write_attack(trained / "pgd", trained)
    write_attack(trained / "wide", trained, sigma=1.0)
    write_attack(trained / "uniform", trained, noise="UniformNoise")
    write_attack(trained / "bare", trained, target="network")
    log = write_attack(trained / "minimum", trained) / "attack.tsv"
    log.write_text(log.read_text().replace("\t0.25\t4\t", "\tinf\t4\t").replace("\t0.5\t4\t", "\tinf\t8\t"))
    drawing = drawn(tmp_path)["empirical_certified"]
    curve, marks, legend = drawing.figure().axes[0].get_lines()
    assert (curve.get_label(), list(marks.get_xdata())) == ("heat", [0.25, 0.5])
    assert legend.get_label() == "under attack: pgd on smoothed m=4"
    for name in ("σ=1", "uniform noise", "network"):
        assert name in drawing.note


def test_a_certificate_keeps_its_line_beside_many_attacks_and_all_of_them_are_marked(tmp_path):
    trained = write_training(tmp_path / "heat", "heat")
    write_certification(trained / "z_certify", trained)
    names = ("apgd", "cw", "ddn", "fgsm", "pgd")
    for name in names:
        settings = write_attack(trained / name, trained) / "attack.settings.json"
        settings.write_text(settings.read_text().replace("pgd_l2", name))
        choices = {"hydra": {"runtime": {"choices": {"attack": name}}}}
        (trained / name / ".hydra" / "hydra.yaml").write_text(yaml.safe_dump(choices))
    figures = drawn(tmp_path)
    assert set(looks(figures["certified_accuracy"])) == {"heat"}
    labels = looks(figures["empirical_certified"])
    assert "heat" in labels
    assert all(any(f"under attack: {name}" in label for label in labels) for name in names)


def write_steps(folder, steps):
    """Another number of steps in the config of an attack."""
    path = folder / ".hydra" / "config.yaml"
    path.write_text(yaml.safe_dump(yaml.safe_load(path.read_text()) | {"attack": {"steps": steps}}))
    return folder


def marks(drawing):
    """The marks of each attack in a figure: its marker with the accuracies at the budgets."""
    lines = [line for line in drawing.figure().axes[0].get_lines() if line.get_marker() != "None"]
    points = [(line.get_marker(), list(zip(*line.get_data(), strict=True))) for line in lines]
    return [(marker, dict(known)) for marker, known in points if known and len({*known}) == len(dict(known))]


def held(folder):
    """The accuracy in percent at each budget, from the rows of a log."""
    rows = [line.split("\t") for line in (folder / "attack.tsv").read_text().splitlines()[1:]]
    shares = {e: 100 * np.mean([row[5] == row[3] for row in rows if float(row[1]) == e]) for e in (0.25, 0.5)}
    return {budget: pytest.approx(share) for budget, share in shares.items()}


def attack_names(drawing):
    labels = [str(line.get_label()) for line in drawing.figure().axes[0].get_lines()]
    return [label.removeprefix("under attack: ") for label in labels if "under attack: " in label]


def test_two_attacks_of_one_network_are_two_lines_and_the_stronger_one_is_in_the_envelope(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "certify", trained)
    write_certification(trained / "loud", trained, sigma=0.5)  # so there is an envelope
    folders = [
        write_steps(write_attack(trained / f"{steps}" / "attack", trained, seed=steps), steps)
        for steps in (20, 200)
    ]
    figures, (few, many) = drawn(tmp_path), map(held, folders)
    names = ["attack on smoothed m=4 steps=20", "attack on smoothed m=4 steps=200"]
    assert attack_names(figures["empirical_certified"]) == names
    assert marks(figures["empirical_certified"]) == [("o", few), ("s", many)]
    least = {budget: pytest.approx(min(few[budget].expected, many[budget].expected)) for budget in few}
    assert marks(figures["envelope"]) == [("o", least)]


def test_the_envelope_has_the_strongest_attack_also_if_only_some_seeds_have_it(tmp_path):
    strong = []
    for seed, sigma in ((0, 0.25), (1, 0.25), (2, 0.25), (0, 0.5)):
        trained = write_training(tmp_path / f"{seed}_{sigma}", seed=seed, sigma=sigma)
        write_certification(trained / "certify", trained, sigma=sigma)
        write_attack(trained / "weak" / "attack", trained, seed=1, sigma=sigma)
        if seed < 2:
            folder = write_attack(trained / "strong" / "attack", trained, seed=seed, sigma=sigma)
            log = write_steps(folder, 200) / "attack.tsv"
            rows = [line.split("\t") for line in log.read_text().splitlines()[1:]]
            rows = [[*row[:5], (int(row[3]) + 1) % 10, *row[6:8], 1, *row[9:]] if int(row[0]) % 3 else row
                    for row in rows]  # fmt: skip
            write_log(log, log.read_text().splitlines()[0].split("\t"), rows)
            strong.append(held(folder))
    ((_, points),) = marks(drawn(tmp_path)["envelope"])
    means = {b: [np.mean([one[b].expected for one in strong[:2]]), strong[2][b].expected] for b in points}
    assert points == {budget: pytest.approx(max(shares)) for budget, shares in means.items()}


def test_smoothed_inference_without_a_whole_level_is_not_drawn(tmp_path):
    trained = write_training(tmp_path / "a")
    rows = [[i, "hard", 4, s, 1] for s, images in ((0.25, range(5)), (0.5, range(5, 9))) for i in images]
    header = ["idx", "voting", "samples", "sigma", "correct"]
    write_measurement(trained / "inference", trained, "smoothed_inference", header, rows)
    assert [name for name in drawn(tmp_path) if "inference" in name] == []


def test_the_envelope_is_the_best_of_several_networks_without_known_seeds(tmp_path):
    attacked = ["idx", "label", "epsilon", "num_noise", "clean", "adversarial", "l2", "success"]
    known = {"method": "cohen", "data": "digits", "sigma": 0.25, "target": "smoothed", "attack": "pgd"}
    entries = []
    for sigma in (0.25, 0.5):
        log = write_log(tmp_path / f"{sigma}.tsv", CERTIFY, certify_rows(sigma=sigma))
        facts = {"method": "cohen", "data": "digits", "sigma": sigma, "n": 1000, "alpha": 0.001}
        entries.append({"path": str(log), **facts})
    for name, held_by in (("x", 48), ("y", 18)):
        rows = [
            [i, i % 10, 0.5, 4, i % 10, (i + (i >= held_by)) % 10, 0.5, int(i >= held_by)] for i in range(60)
        ]
        entries.append({"path": str(write_log(tmp_path / f"{name}.tsv", attacked, rows)), **known})
    figures = {one.name: one for one in draw_figures(read_evaluations(label_runs(find_runs(entries))))}
    assert marks(figures["envelope"]) == [("o", {0.5: pytest.approx(80)})]


@pytest.mark.parametrize(
    ("odd", "names"),
    [
        ({"steps": 200}, [" steps=20", " steps=200"]),
        ({"images": 30}, [" on image set 1 (60)", " on image set 2 (30)"]),
        ({}, [""]),
    ],
)
def test_only_seeds_that_differ_in_nothing_else_share_a_line(tmp_path, odd, names):
    shares = []
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        own = {"images": 60, "steps": 20} | (odd if seed == 2 else {})
        attack = write_attack(trained / "attack", trained, images=own["images"], seed=seed)
        shares.append(held(write_steps(attack, own["steps"])))
    figure = drawn(tmp_path)["empirical_certified"]
    assert attack_names(figure) == [f"attack on smoothed m=4{name}" for name in names]
    groups = [shares[:2], shares[2:]] if odd else [shares]
    means = [
        {budget: pytest.approx(np.mean([one[budget].expected for one in group])) for budget in (0.25, 0.5)}
        for group in groups
    ]
    assert [points for _, points in marks(figure)] == means


def test_unlike_attacks_on_other_networks_have_other_names_and_markers_which_tables_share(tmp_path):
    """Other steps, or other images; a fourth network, which was not certified, is in the tables alone."""
    for method, images, steps in (("a", 60, 20), ("b", 60, 2), ("c", 30, 20), ("d", 60, 200)):
        trained = write_training(tmp_path / method, method)
        if method != "d":
            write_certification(trained / "certify", trained)
        write_steps(write_attack(trained / "attack", trained, images=images), steps)
    evaluations = read_evaluations(label_runs(find_runs(str(tmp_path))))
    figure = next(item for item in draw_figures(evaluations) if item.name == "empirical_certified")
    words = ["steps=2", "steps=20 on image set 1 (60)", "steps=20 on image set 2 (30)"]
    assert attack_names(figure) == [f"attack on smoothed m=4 {more}" for more in words]
    assert len({marker for marker, _ in marks(figure)}) == 3
    titles = [column.title for column in build_tables(evaluations)[0].columns if "ε=0.5" in column.title]
    assert sorted(titles) == [
        f"attack on smoothed ε=0.5 m=4 {more} (%)" for more in (words[0], *words[1:], "steps=200")
    ]


def test_a_setting_that_follows_the_budget_leaves_one_line(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "certify", trained)
    for epsilon in (0.25, 0.5):
        folder = write_attack(trained / f"{epsilon}" / "attack", trained)
        header, *rows = (folder / "attack.tsv").read_text().splitlines()
        rows = [row for row in rows if float(row.split("\t")[1]) == epsilon]
        (folder / "attack.tsv").write_text("\n".join([header, *rows]) + "\n")
        write_steps(folder, 100 * epsilon)
    figure = drawn(tmp_path)["empirical_certified"]
    assert attack_names(figure) == ["attack on smoothed m=4"]
    ((_, points),) = marks(figure)
    assert [*points] == [0.25, 0.5]


def test_seeds_without_a_mean_have_one_name_and_lines_of_their_own(tmp_path):
    """Since one of them was attacked twice, of which the names say so."""
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        for name in ("first", "copy")[: 1 + seed % 2]:
            write_attack(trained / name / "attack", trained, seed=seed)
    figure = drawn(tmp_path)["empirical_certified"]
    assert attack_names(figure) == [f"attack on smoothed m=4{end}" for end in ("", " (1)", " (2)")]
    assert sorted(marker for marker, _ in marks(figure)) == ["^", "o", "o", "s"]


def test_a_seed_beside_the_mean_of_all_has_a_name_of_its_own(tmp_path):
    """One budget has no mean, since one of the seeds was attacked twice."""
    for seed in (0, 1):
        trained = write_training(tmp_path / str(seed), seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        for name in ("first", "copy")[: 1 + seed]:
            folder = write_attack(trained / name / "attack", trained, seed=seed)
            if name == "copy":
                log = folder / "attack.tsv"
                header, *rows = log.read_text().splitlines()
                rows = [row for row in rows if row.split("\t")[1] == "0.5"]
                log.write_text("\n".join([header, *rows]) + "\n")
    figure = drawn(tmp_path)["empirical_certified"]
    name = "attack on smoothed m=4"
    assert attack_names(figure) == [name, f"{name} (1)", f"{name} (2)", f"{name} of gaussian seed=0"]
    assert sorted(marker for marker, _ in marks(figure)) == ["D", "^", "o", "s"]


def test_an_attack_that_is_there_twice_is_two_lines(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "certify", trained)
    for name in ("first", "copy"):
        folder = write_attack(trained / name / "attack", trained)
    figure = drawn(tmp_path)["empirical_certified"]
    assert attack_names(figure) == ["attack on smoothed m=4 (1)", "attack on smoothed m=4 (2)"]
    assert sorted(marks(figure)) == [("o", held(folder)), ("s", held(folder))]


@pytest.mark.parametrize("epochs", [4, 10])
def test_a_mean_over_trainings_of_unequal_length_says_where_it_ends(tmp_path, epochs):
    for seed, count in ((0, 4), (1, epochs)):
        write_training(tmp_path / str(seed), seed=seed, epochs=count)
    figure = drawn(tmp_path)["training"]
    (line,) = figure.figure().axes[0].get_lines()
    assert len(line.get_xdata()) == 4
    assert ("ends with the shortest" in figure.note) == (epochs == 10)
