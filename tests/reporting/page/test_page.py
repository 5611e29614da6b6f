"""The whole report: files, a page that parses and needs no network, nothing executed or left unescaped."""

from __future__ import annotations

import re
from html.parser import HTMLParser
from xml.etree import ElementTree

import matplotlib.image
import numpy as np
import pandas as pd
import pytest

from robust_cli.messages import UserError
from robust_cli.reporting import figures
from robust_cli.reporting.certified.figures import certified_figure
from robust_cli.reporting.lines.of_runs import certified_lines
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.page.pictures import _between
from robust_cli.reporting.reading.load import load

VOID = {"meta", "br", "hr", "img", "link", "input"}


class Page(HTMLParser):
    """Checks that every element is closed, and collects ids, references and text."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.references: list[str] = []
        self.tags: list[str] = []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.ids += [v for k, v in attrs if k == "id"]
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href", "srcset", "action", "data")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.ids += [v for k, v in attrs if k == "id"]
        self.references += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture(scope="module")
def report(builder, tmp_path_factory):
    build, output = builder(tmp_path_factory.mktemp("runs")), tmp_path_factory.mktemp("report")
    rng = np.random.default_rng(0)
    originals = rng.random((30, 1, 4, 4), dtype=np.float32)
    for k, regime in enumerate(("standard", "stability", "stability")):
        build.train(f"t{k}", seed=k, regime=regime, fingerprint=f"f{k}")
        model = {"regime": regime, "model_fingerprint": f"f{k}", "train_seed": k, "images": 30}
        rows = [(i, i % 3, -1 if rng.random() < 0.1 else i % 3, float(rng.uniform(0, 1.5))) for i in range(30)]
        build.certify(f"c{k}", {"renyi": rows, "neyman_pearson": [(i, y, p, 1.05 * r) for i, y, p, r in rows]}, **model)
        outcomes, images = [], {}
        for attack, budget in (
            ("none", 0),
            ("pgd_l2", 0.5),
            ("pgd_l2", 1.0),
            ("second_order", 0.5),
            ("second_order", 1.0),
        ):
            images[attack, budget] = originals + np.float32(budget / 4)
            outcomes += [
                {
                    "attack": attack,
                    "budget": budget,
                    "index": i,
                    "label": i % 3,
                    "robust": int(rng.random() > budget / 2),
                    "l2": budget,
                    "votes": np.roll([980, 10, 10], i % 3).tolist(),
                }
                for i in range(30)
            ]
        build.attack(f"a{k}", outcomes, originals=originals, adversarial=images, **model)
    build.certify("unfinished", {"renyi": [(1, 0, 0, 0.1)]}, state="running")
    return write_report([build.root], output)


def test_every_file_is_written(report):
    assert {
        "certified_accuracy",
        "robust_accuracy",
        "paired_differences",
        "provable_radii",
        "attacks",
        "crosscheck",
        "published",
        "training",
    } == set(report.tables)
    for path in report.tables.values():
        assert len(pd.read_csv(path)) > 0
    assert set(report.figures) == {
        "certified_mnist",
        "robust_mnist_l2",
        "combined_mnist_1",
        "combined_mnist_2",
        "training",
        "training_loss",
        "run_1_adversarial_pgd_l2_0.5",
        "run_2_adversarial_second_order_0.5",
        "run_3_adversarial_second_order_0.5",
    }
    for png in report.figures.values():
        picture = matplotlib.image.imread(png)
        assert min(picture.shape[:2]) > 400
        assert picture[..., :3].std() > 0.05
        assert ElementTree.parse(png.with_suffix(".svg")).getroot().tag.endswith("svg")


def test_the_page_is_well_formed_and_needs_no_network(report):
    text = report.page.read_text()
    page = Page()
    page.feed(text)
    page.close()
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    inside = [reference for reference in page.references if not reference.startswith("data:image/png;base64,")]
    assert all(reference.startswith("#") and reference[1:] in page.ids for reference in inside)
    assert len(inside) < len(page.references)
    assert not re.search(r"@import|url\((?!#)|<script|<link", text)
    assert text.count('role="img" aria-label="') == len(report.figures)
    assert page.tags.index("table") < page.tags.index("svg")  # it begins with the summary


def test_what_the_page_says(report):
    text = report.page.read_text()
    for words in (
        "stability",
        "(2 seeds)",
        "worst of pgd_l2, second_order",
        "unfinished is left out",
        "neyman_pearson, two-class",
        "abc123",
        "robust certify &#39;a=b c&#39;",
        "not attainable",
        "too weak",
        "largest provable radius",
        "d0",
    ):
        assert words in text, words
    assert "neyman_pearson holds &lt;with&gt; probability" in text
    assert len(report.verdicts) == 6  # two certificates of three runs, the seeds one by one
    assert not report.broken
    assert "![" in report.markdown.read_text()


def test_words_from_a_run_folder_cannot_become_markup(build, tmp_path):
    folder = build.certify("c", {"renyi": [(1, 0, 0, 0.1)]}, regime="<script>alert(1)</script>", model='"><b>x')
    report = write_report([folder.path], tmp_path)
    text = report.page.read_text()
    assert "<script" not in text
    assert "<b>" not in text


def test_a_report_of_one_training_run_alone(build, tmp_path):
    report = write_report([build.train("t").path], tmp_path)
    assert set(report.tables) == {"training"}
    assert report.verdicts == []


def test_no_run_leaves_nothing_behind(tmp_path):
    with pytest.raises(UserError):
        write_report([tmp_path / "none"], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_same_runs_give_the_same_bytes(build, tmp_path):
    lines = certified_lines(load([build.certify("c", {"renyi": [(1, 0, 0, 0.1)]}).path]).certified, [])
    for k in "ab":
        figures.save(certified_figure(lines, [0.5]), tmp_path / f"{k}.png", tmp_path / "x.svg")
        (tmp_path / "x.svg").rename(tmp_path / f"{k}.svg")
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()
    assert (tmp_path / "a.svg").read_bytes() == (tmp_path / "b.svg").read_bytes()


def test_the_drawn_curve_is_never_above_the_true_one(build):
    folder = build.certify("c", {"renyi": [(k, 0, 0, 0.01 + 0.037 * k) for k in range(30)]})
    lines = certified_lines(load([folder.path]).certified, [])
    drawn = certified_figure(lines, [1.5]).axes[0].lines[0]
    radii = lines[0].tables[0]["radius"].to_numpy()
    x, y = (np.asarray(v) for v in drawn.get_data())
    middle = (x[:-1] + x[1:]) / 2
    assert drawn.get_drawstyle() == "steps-pre"
    assert all(y[k + 1] <= 100 * np.mean(radii >= m) + 1e-9 for k, m in enumerate(middle))


@pytest.mark.parametrize(("second", "words"), [((0, 1), "The true robust accuracy lies"), ((0, 2), "Not all lines are of the")])
def test_the_combined_picture_says_when_its_lines_are_of_other_images(build, second, words):
    runs = [build.certify(f"c{k}", {"renyi": [(i, 0, 0, 0.1) for i in images]}, model_fingerprint=f"f{k}")
            for k, images in enumerate(((0, 1), second))]
    lines = certified_lines(load([run.path for run in runs]).certified, [])
    assert words in _between(lines)
