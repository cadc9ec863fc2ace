"""Tables, figures and the page of run folders."""

import json
import os
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import yaml

from robustsmooth.report import build_tables, find_runs, label_runs, read_evaluations, tables, write_report
from robustsmooth.report.build import TABLES
from robustsmooth.report.card import model_card
from robustsmooth.report.figures import PALETTE, draw_figures
from robustsmooth.report.latex import as_latex
from robustsmooth.report.markup import as_markdown
from robustsmooth.report.table import Column, Table
from robustsmooth.report.writing import write_tables

from .conftest import write_at_radii, write_attack, write_certification, write_log, write_training


def read(entries):
    return read_evaluations(label_runs(find_runs(str(entries))))


def tables_of(entries, **options):
    return {table.name: table for table in build_tables(read(entries), **options)}


def test_certified_accuracy_and_acr_equal_an_independent_calculation(runs):
    """Line by line in plain Python, to the last printed digit."""
    table = tables_of(runs, radii=[0.0, 0.1, 0.25, 0.5])["certified_accuracy"]
    for row, folder in zip(table.rows, sorted(runs.iterdir()), strict=True):
        lines = [
            line.split("\t") for line in (folder / "certify" / "certify.tsv").read_text().splitlines()[1:]
        ]
        for radius in (0.0, 0.1, 0.25, 0.5):
            share = sum(1 for line in lines if line[4] == "1" and float(line[3]) >= radius) / len(lines)
            column = next(column for column in table.columns if column.key == f"certified_acc@{radius:g}")
            assert column.text(row) == f"{100 * share:.1f}"
        acr = sum(float(line[3]) for line in lines if line[4] == "1") / len(lines)
        assert next(column for column in table.columns if column.key == "acr").text(row) == f"{acr:.3f}"


def test_the_overview_has_certificates_and_attacks_of_a_classifier_in_one_row(runs):
    table = tables_of(runs, radii=[0.0, 0.25])["overview"]
    assert [row["classifier"] for row in table.rows] == [
        "gaussian 0.25",
        "gaussian 0.5",
        "heat 0.25",
        "heat 0.5",
    ]
    kinds = {column.key: column.kind for column in table.used}
    assert kinds["acr"] == kinds["certified_acc@0.25"] == "certificate"
    attacked = [key for key in kinds if "ε" in key]
    assert [kinds[key] for key in attacked] == ["empirical", "empirical"]
    assert [column.head for column in table.used if "ε" in column.key] == 2 * ["attack on smoothed m=4"]
    lines = [
        line.split("\t") for line in (runs / "0_gaussian/attack/attack.tsv").read_text().splitlines()[1:]
    ]
    at = [line for line in lines if line[1] == "0.5"]
    assert table.rows[0][attacked[1]] == pytest.approx(sum(line[5] == line[3] for line in at) / len(at))


def test_the_overview_has_clean_accuracy_and_seconds_of_training(runs):
    training, certified = runs / "0_gaussian", runs / "0_gaussian" / "certify"
    (training / "summary.json").write_text(json.dumps({"seconds": 12.0, "epochs": 3}))
    (certified / "summary.json").write_text(json.dumps({"metrics": {"test/top1": 0.75}}))
    table = tables_of(runs)["overview"]
    assert (table.rows[0]["top1"], table.rows[0]["seconds"]) == (0.75, 12.0)
    keys = [column.key for column in table.used]
    assert (keys[1:3], keys[-1]) == (["images", "top1"], "seconds")


def test_trainings_at_other_noise_levels_are_not_compared_by_their_accuracy_under_noise(tmp_path):
    """A training without noise logs its clean accuracy there, which chooses its best checkpoint."""
    for method, sigma in (("natural", 0.0), ("gaussian", 0.25), ("heat", 0.5)):
        log = write_training(tmp_path / method, method, sigma) / "metrics.csv"
        log.write_text(f"epoch,val/top1,val/noisy_top1\n0,{1 - sigma},{1 - 2 * sigma}\n")
    table = tables_of(tmp_path)["training"]
    noisy = {row["method"]: row.get("val/noisy_top1") for row in table.rows}
    assert noisy == {"natural": None, "gaussian": 0.5, "heat": 0.0}
    bold = {column.key for column in table.columns for row in table.rows if table.is_best(column, row)}
    assert bold == {"val/top1"}
    assert "Bold: the best" in table.notes
    assert "certification" not in table.notes


def test_guarantees_never_share_a_column(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "cohen", trained)
    write_certification(trained / "bound", trained, guarantee="l2-lbound-assumed", seed=1)
    write_certification(trained / "topk", trained, guarantee="l2-top5-certificate", seed=2)
    tables = tables_of(tmp_path)
    for name in (
        "certified_accuracy",
        "certified_accuracy_l2_lbound_assumed",
        "certified_accuracy_l2_top5_certificate",
    ):
        assert len(tables[name].rows) == 1
    assumed = {column.kind for column in tables["radii_l2_lbound_assumed"].columns if "radius" in column.key}
    assert assumed == {"assumption", "fact"}
    overview = tables["overview"]
    acrs = {column.title: column.kind for column in overview.columns if column.title.startswith("ACR")}
    assert acrs == {
        "ACR": "certificate",
        "ACR l2-lbound-assumed": "assumption",
        "ACR l2-top5-certificate": "certificate",
    }
    names = [drawing.name for drawing in draw_figures(read(tmp_path))]
    assert len([name for name in names if name.startswith("certified_accuracy")]) == 3


def test_the_largest_radius_found_is_not_called_the_largest_possible(runs):
    titles = {column.key: column.title for column in tables_of(runs)["radii"].columns}
    assert titles["max_radius"] == "Largest radius"
    assert titles["reachable_radius"] == "Largest possible with n"


def test_the_attack_table_counts_failures_as_failures(tmp_path):
    trained = write_training(tmp_path / "a")
    header = ["idx", "label", "clean", "adversarial", "l2", "linf", "success"]
    rows = [
        [0, 1, 1, 2, 0.5, 0.1, 1],
        [1, 1, 1, 1, 4.0, 1.0, 0],
        [2, 1, 0, 0, 0.3, 0.0, 1],
        [3, 1, 1, -1, 1.5, 0.2, 1],
    ]
    (trained / "pgd" / ".hydra").mkdir(parents=True)
    (trained / "pgd" / ".hydra" / "config.yaml").write_text(f"checkpoint: {trained}\nattack: {{norm: l2}}\n")
    write_log(trained / "pgd" / "attack.tsv", header, rows)
    row = tables_of(tmp_path)["attacks"].rows[0]
    assert (row["clean_accuracy"], row["accuracy"], row["success"], row["abstained"]) == (
        0.75,
        0.25,
        0.75,
        0.25,
    )
    assert row["median_distance"] == 1.0  # of 0, 0.5, 1.5, beyond
    assert row["mean_distance"] == pytest.approx(2 / 3)
    assert row["attack"] == "pgd"


def test_an_abstention_is_wrong_even_if_the_log_says_otherwise(tmp_path):
    header = ["idx", "label", "predict", "radius", "correct", "time"]
    path = write_log(tmp_path / "log", header, [[0, 1, 1, 0.5, 1, 1.0], [1, 1, -1, 0.0, 1, 1.0]])
    row = tables_of(path, radii=[0.0])["certified_accuracy"].rows[0]
    assert row["certified_acc@0"] == 0.5


def test_broken_certificates_are_counted(runs):
    rows = tables_of(runs)["contradictions"].rows
    assert len(rows) == 8
    evaluations = read(runs)
    certified = evaluations.certifications[0]
    attacked = evaluations.attacks[0].rows.set_index("idx")
    broken = 0
    for index, correct, radius in zip(certified.indices, certified.correct, certified.radius, strict=True):
        image = attacked.loc[index]
        broken += bool(correct and radius >= image["l2"] and image["adversarial"] not in (image["label"], -1))
    assert rows[0]["broken"] == broken > 0
    assert rows[0]["probability"] < 1e-6


def test_broken_certificates_at_given_radii_are_counted(tmp_path):
    """The attack has budgets 0.25 and 0.5; nothing is known of the certified accuracy at the second one."""
    trained = write_training(tmp_path / "a")
    write_at_radii(trained / "radii", trained, {"radii": [0.25, 0.4]}, strength=2.0)
    write_attack(trained / "attack", trained)
    first, second = tables_of(tmp_path)["contradictions"].rows
    (item,) = read(tmp_path).certifications
    assert (first["certified_accuracy"], second["certified_accuracy"]) == (item.accuracy(0.25), None)
    assert first["broken"] > 0
    assert second["broken"] > 0


def test_each_certificate_of_a_network_has_its_name_beside_an_attack(tmp_path):
    trained = write_training(tmp_path / "a")
    write_certification(trained / "certify", trained)
    write_at_radii(trained / "radii", trained, {"radii": [0.25, 0.5]})
    write_attack(trained / "attack", trained)
    named = {row["certified_by"] for row in tables_of(tmp_path)["contradictions"].rows}
    assert {name.removeprefix("gaussian") for name in named} == {"", " (at-radii)"}


def test_an_attack_on_other_images_says_nothing_about_certificates(runs):
    for path in runs.glob("*/attack/attack.tsv"):
        header, *rows = path.read_text().splitlines(keepends=True)
        path.write_text(header + "".join(f"9{row}" for row in rows if int(row.split("\t")[0]) > 9))
    tables = tables_of(runs)
    assert tables["attacks"].rows
    assert "contradictions" not in tables


@pytest.mark.parametrize("noise", [None, "GaussianNoise", "UniformNoise", "GridGaussianNoise"])
def test_an_attack_under_another_noise_says_nothing_about_certificates(tmp_path, noise):
    """The certificate's log does not state its noise: Gaussian. Rows and labels tell the two apart."""
    trained = write_training(tmp_path / "heat", "heat")
    write_certification(trained / "certify", trained)
    write_attack(trained / "attack", trained, noise=noise)
    tables = tables_of(tmp_path)
    same = noise in (None, "GaussianNoise")
    assert ("contradictions" in tables) == same
    assert len(tables["overview"].rows) == (1 if same else 2)
    words = {"UniformNoise": " uniform noise", "GridGaussianNoise": " grid_gaussian noise"}.get(noise, "")
    assert {row["run"] for row in tables["attacks"].rows} == {f"heat{words}"}
    assert {row["run"] for row in tables["radii"].rows} == {"heat"}


def test_the_p_value_of_broken_certificates_uses_the_alpha_of_the_prediction(runs):
    """An answer of a plurality vote may be wrong for any image, so it indicates no bug."""
    before = tables_of(runs)["contradictions"].rows[0]
    folder = runs / "0_gaussian" / "attack"
    config = yaml.safe_load((folder / ".hydra" / "config.yaml").read_text())
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config | {"prediction": {"alpha": None}}))
    row = tables_of(runs)["contradictions"].rows[0]
    assert (row["broken"], row["probability"]) == (before["broken"], 1.0)
    (folder / ".hydra" / "config.yaml").write_text(yaml.safe_dump(config | {"prediction": {"alpha": 0.1}}))
    settings = json.loads((folder / "attack.settings.json").read_text())
    (folder / "attack.settings.json").write_text(json.dumps(settings | {"alpha": 0.1}))
    row = tables_of(runs)["contradictions"].rows[0]
    assert before["probability"] < row["probability"] < 1


def test_seeds_are_averaged_only_over_runs_that_differ_in_nothing_else(tmp_path):
    for seed in (0, 1, 2):
        trained = write_training(tmp_path / f"a{seed}", seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
    trained = write_training(tmp_path / "other", method="heat")
    write_certification(trained / "certify", trained)
    tables = tables_of(tmp_path, radii=[0.25])
    (row,) = tables["seeds"].rows
    acrs = [row["acr"] for row in tables["certified_accuracy"].rows[:3]]
    assert (row["seeds"], row["acr"]) == (3, pytest.approx(np.mean(acrs)))
    assert row["acr_std"] == pytest.approx(np.std(acrs, ddof=1))


def test_runs_with_the_same_seed_are_not_averaged(tmp_path):
    """They differ in a setting that has no column, or in one of the attack in training."""
    for name in "ab":
        trained = write_training(tmp_path / name, seed=0)
        write_certification(trained / "certify", trained)
    for seed, epsilon in ((1, 0.25), (2, 0.5)):
        trained = write_training(tmp_path / str(seed), "smoothadv", seed=seed, attack={"epsilon": epsilon})
        write_certification(trained / "certify", trained)
    assert "seeds" not in tables_of(tmp_path)


def test_the_envelope_is_the_best_of_a_methods_runs_at_each_radius(tmp_path):
    shares = {}
    for name, row, strength in [("a", "ours", 0.2), ("b", "ours", 1.5), ("c", "cohen", 1.0)]:
        trained = write_training(tmp_path / name, row=row)
        write_certification(trained / "certify", trained, strength=strength)
        lines = [line.split("\t") for line in (trained / "certify/certify.tsv").read_text().splitlines()[1:]]
        for radius in (0.0, 0.25):
            share = sum(float(line[3]) >= radius and line[4] == "1" for line in lines) / len(lines)
            shares.setdefault((row, radius), []).append(share)
    rows = {row["method"]: row for row in tables_of(tmp_path, radii=[0.0, 0.25])["envelope"].rows}
    assert {name: row["runs"] for name, row in rows.items()} == {"ours": 2, "cohen": 1}
    for (name, radius), known in shares.items():
        assert rows[name][f"certified_acc@{radius:g}"] == pytest.approx(max(known))


def test_the_envelope_figure_marks_the_best_accuracy_under_attack(tmp_path):
    left = {}
    for name, sigma in (("a", 0.25), ("b", 0.5)):
        trained = write_training(tmp_path / name, sigma=sigma)
        write_certification(trained / "certify", trained, sigma=sigma)
        write_attack(trained / "attack", trained, sigma=sigma, seed=int(sigma * 4))
        for line in (trained / "attack" / "attack.tsv").read_text().splitlines()[1:]:
            row = line.split("\t")
            left.setdefault((float(row[1]), name), []).append(row[5] == row[3])
    best = {e: 100 * max(np.mean(left[e, name]) for name in "ab") for e, _ in left}
    (drawing,) = (item for item in draw_figures(read(tmp_path)) if item.name == "envelope")
    axes = drawing.figure().axes[0]
    (line,) = (line for line in axes.get_lines() if "under" in str(line.get_label()))
    assert dict(zip(line.get_xdata(), line.get_ydata(), strict=True)) == pytest.approx(best)


def test_every_figure_has_a_title_named_axes_with_units_and_safe_colours(runs):
    drawings = draw_figures(read(runs))
    assert {drawing.name for drawing in drawings} >= {
        "certified_accuracy",
        "envelope",
        "lower_bounds",
        "attack_curves",
    }
    for drawing in drawings:
        axes = drawing.figure().axes[0]
        assert axes.get_title(loc="left") == drawing.title
        for label in (axes.get_xlabel(), axes.get_ylabel()):
            assert re.search(r"%|pixel units|[Ee]poch|probability", label), label
        colours = {line.get_color() for line in axes.get_lines()}
        assert {colour for colour in colours if colour.startswith("#")} <= set(PALETTE)


def test_the_same_runs_give_the_same_svg(runs):
    first, second = (draw_figures(read(runs))[0].svg() for _ in range(2))
    assert first == second


class _Page(HTMLParser):
    def __init__(self):
        super().__init__()
        self.ids, self.links, self.tags = [], [], []

    def handle_starttag(self, tag, attrs):
        values = dict(attrs)
        self.tags.append(tag)
        self.ids += [values["id"]] if "id" in values else []
        self.links += [values[name] for name in ("src", "href", "xlink:href") if values.get(name)]


def test_the_whole_report(runs, tmp_path, capsys):
    out = tmp_path / "report"
    picture = b"\x89PNG\r\n\x1a\n"
    (runs / "0_gaussian" / "attack" / "attack_grid.png").write_bytes(picture)
    tables = write_report(str(runs), out, title="A <title>")
    shown = capsys.readouterr().out
    assert all(table.title in shown for table in tables)
    for table in tables:
        assert {file.suffix for file in (out / "tables").glob(f"{table.name}.*")} == {
            ".csv",
            ".json",
            ".md",
            ".tex",
        }
    assert (out / "figures" / "certified_accuracy.png").stat().st_size > 1000
    assert (out / "figures" / "certified_accuracy.pdf").read_bytes().startswith(b"%PDF")

    text = (out / "report.html").read_text()
    page = _Page()
    page.feed(text)
    assert "A &lt;title&gt;" in text
    assert page.tags.count("script") == 1
    assert not re.search(r"<script[^>]* src=", text)
    assert len(page.ids) == len(set(page.ids))
    remote = [link for link in page.links if re.match(r"https?:|//", link)]
    assert remote == []
    assert not re.search(r"@import|url\((?!#)", text)
    anchors = [link[1:] for link in page.links if link.startswith("#")]
    assert set(anchors) <= set(page.ids)
    files = [link for link in page.links if link.startswith("..")]
    assert files
    assert all((out / link).exists() for link in files)
    assert text.count("data:image/png;base64,") == 1
    assert text.count("<svg") == len(list((out / "figures").glob("*.png")))


def test_a_report_removes_what_an_earlier_one_wrote_there_and_nothing_else(tmp_path):
    for seed in (0, 1):
        trained = write_training(tmp_path / f"runs/{seed}", seed=seed)
        write_certification(trained / "certify", trained, seed=seed)
        write_attack(trained / "attack", trained, seed=seed)
    out = tmp_path / "report"
    write_report(str(tmp_path / "runs"), out, formats=["tables", "png", "pdf"])
    mine = [out / "tables" / "seeds_mine.csv", out / "figures" / "attack_curves_mine.png"]
    for file in mine:
        file.write_text("")
    entry = str(tmp_path / "runs" / "0" / "certify")
    for folder in (out, tmp_path / "fresh"):
        write_report(entry, folder, formats=["tables", "png"])
    files = [
        {path.relative_to(folder) for path in folder.rglob("*.*")} for folder in (out, tmp_path / "fresh")
    ]
    assert files[0] == files[1] | {file.relative_to(out) for file in mine}


def test_machine_readable_tables_are_unrounded_and_name_the_guarantee(runs, tmp_path):
    write_report(str(runs), tmp_path, formats=["tables"], radii=[0.25])
    frame = pd.read_csv(tmp_path / "tables" / "radii.csv")
    rows = json.loads((tmp_path / "tables" / "radii.json").read_text())["rows"]
    lines = [
        line.split("\t") for line in (runs / "0_gaussian/certify/certify.tsv").read_text().splitlines()[1:]
    ]
    acr = np.mean([float(line[3]) * int(line[4]) for line in lines])
    assert frame["certificate/acr"][0] == pytest.approx(acr, abs=1e-15)
    assert rows[0]["certificate/acr"] == pytest.approx(acr, abs=1e-14)


def test_markdown_and_latex_escape_and_mark_the_best():
    columns = [Column("name", "Name_%"), Column("value", "Value", "certificate", "percent", best="max")]
    table = Table(
        "t", "A title", columns, [{"name": "a|b_c", "value": 0.5}, {"name": "d", "value": 0.25}], "A note."
    )
    assert "| a\\|b_c | **50.0** |" in as_markdown(table)
    assert r"a\textbar{}b\_c & \textbf{50.0} \\" in as_latex(table)
    assert r"\multicolumn{1}{l}{Name\_\%} & \multicolumn{1}{r}{Value} \\" in as_latex(table)
    assert r" & \multicolumn{1}{c}{certified} \\" in as_latex(table)
    assert r"\toprule" in as_latex(table)


def test_among_equal_values_none_is_the_best():
    column = Column("value", "Value", "certificate", "percent", best="max")
    for values in ([0.0, 0.0], [0.0, 0.0004], [0.5, None]):
        table = Table("t", "T", [column], [{"value": value} for value in values])
        assert not any(table.is_best(column, row) for row in table.rows), values


def test_a_standard_deviation_of_zero_is_printed():
    column = Column("value", "Value", "certificate", "percent", spread="std")
    texts = [column.text({"value": 0.5, "std": std}) for std in (0.0, 0.01, None, float("nan"))]
    assert texts == ["50.0 ± 0.0", "50.0 ± 1.0", "50.0", "50.0"]


def test_infinite_distances_survive_every_format(tmp_path):
    table = Table("t", "T", [Column("d", "D", "empirical", ".3f")], [{"d": float("inf")}])
    assert "∞" in as_markdown(table)
    assert "$\\infty$" in as_latex(table)
    write_tables([table], tmp_path)
    assert json.loads((tmp_path / "t.json").read_text())["rows"] == [{"empirical/d": "inf"}]
    assert pd.read_csv(tmp_path / "t.csv")["empirical/d"][0] == float("inf")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"formats": ["word"]}, "`formats` may hold"),
        ({"level": 2.0}, "`level` must be in"),
        ({"radii": [-1.0]}, "`radii` must ascend from at least 0"),
        ({"radii": [0.5, 0.5, 0.0]}, "`radii` must ascend from at least 0"),
        ({"radii": [0.5, float("nan")]}, "`radii` must ascend from at least 0"),
        ({"interval": "bayes"}, "clopper_pearson or wilson"),
    ],
)
def test_bad_options_are_one_sentence(runs, tmp_path, options, message):
    with pytest.raises(ValueError, match=message):
        write_report(str(runs), tmp_path / "out", **options)


def test_runs_without_any_evaluation_are_an_error(tmp_path):
    path = tmp_path / "empty.tsv"
    path.write_text("")
    with pytest.raises(ValueError, match=r"nothing to report: .* is empty"):
        write_report(str(path), tmp_path / "out")


def test_a_table_that_no_report_has_is_refused(tmp_path):
    write_certification(tmp_path / "a", write_training(tmp_path / "run"))
    with pytest.raises(ValueError, match=r"`show` may name the tables overview, .* got nope"):
        write_report(str(tmp_path), tmp_path / "report", formats=["terminal"], show=["overview", "nope"])


def test_every_table_has_its_name_in_the_list():
    folder = Path(tables.__file__).parent
    named = [re.findall(r'(?:Table|_name)\(\s*"(\w+)"', path.read_text()) for path in folder.glob("*.py")]
    assert {name for names in named for name in names} == set(TABLES)


def test_a_full_disk_leaves_the_old_page_and_tables(runs, tmp_path, monkeypatch):
    folder = tmp_path / "report"
    write_report(str(runs), folder, formats=["html", "tables"])
    before = {path: path.read_bytes() for path in folder.rglob("[a-z]*.*")}
    monkeypatch.setattr("os.fsync", lambda descriptor: os.close(-1))  # fails as a full disk does
    with pytest.raises(OSError, match=re.escape(str(folder))):
        write_report(str(runs / "0_gaussian"), folder, formats=["html", "tables"])
    after = {path: path.read_bytes() for path in folder.rglob("[a-z]*.*")}
    assert all(before[path] == content for path, content in after.items())
    assert folder / "report.html" in after
    assert not list(folder.rglob("*.tmp"))


@pytest.mark.parametrize("wrong", ["rows of other weights", "a part of the images"])
def test_a_model_card_leaves_out_certifications_of_other_weights_or_unfinished(tmp_path, wrong):
    trained = write_training(tmp_path / "gaussian")
    checkpoint = trained / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    folder = write_certification(trained / "certify", checkpoint)
    exported = tmp_path / "export"
    (exported / ".hydra").mkdir(parents=True)
    (exported / ".hydra" / "config.yaml").write_text(f"checkpoint: {checkpoint}\n")
    assert "| gaussian |" in model_card({}, "a network", None, checkpoint, exported)
    if wrong == "rows of other weights":
        settings = folder / "certify.settings.json"
        settings.write_text(json.dumps({**json.loads(settings.read_text()), "network": "then"}))
        (trained / "summary.json").write_text(json.dumps({"network": "now"}))
    else:
        (folder / "certify.tsv").rename(folder / "certify.rank0.tsv")
    assert "None was found" in model_card({}, "a network", None, checkpoint, exported)


def test_a_model_card_has_every_radius_that_was_tested(tmp_path):
    """Those of a certificate at given radii, and round ones of a certificate of all radii."""
    trained = write_training(tmp_path / "gaussian")
    checkpoint = trained / "checkpoints" / "last.ckpt"
    checkpoint.parent.mkdir()
    checkpoint.touch()
    write_certification(trained / "certify", checkpoint)
    write_at_radii(trained / "radii", checkpoint, {"radii": [0.0, 0.23, 0.45]}, strength=1.5)
    exported = tmp_path / "export"
    (exported / ".hydra").mkdir(parents=True)
    (exported / ".hydra" / "config.yaml").write_text(f"checkpoint: {checkpoint}\n")
    lines = model_card({}, "a network", None, checkpoint, exported).splitlines()
    heads = [re.findall(r"r=([0-9.]+)", line) for line in lines if "r=0 " in line]
    assert heads == [["0", "0.1", "0.2", "0.3", "0.4", "0.5"], ["0", "0.23", "0.45"]]
