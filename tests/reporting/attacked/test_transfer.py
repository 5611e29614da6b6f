"""The matrix of transfers by hand, and that images of another model never enter a worst case."""

from __future__ import annotations

import math

import numpy as np
import pandas as pd
import pytest

from robust_cli.reporting import results
from robust_cli.reporting.attacked import accuracy as attacked
from robust_cli.reporting.attacked import tables as attacked_tables
from robust_cli.reporting.attacked.closest import closest_table
from robust_cli.reporting.attacked.transfer import transfer_tables
from robust_cli.reporting.checked.crosscheck import check
from robust_cli.reporting.lines.of_runs import attacked_lines
from robust_cli.reporting.page.page import write_report
from robust_cli.reporting.page.pictures import of_runs
from robust_cli.reporting.reading.load import Runs, load

FROM_A, FROM_B, FROM_C = (f"pgd@{8 * name}" for name in "abc")
PRINTS = {"a": "a" * 64, "b": "b" * 64, "c": "c" * 64}


def rows(attack, budget, robust, first=0, norm="l2", distance=None):
    return [{"attack": attack, "norm": norm, "budget": budget, "index": first + i, "label": 0, "robust": r,
             "l2": budget if distance is None else distance} for i, r in enumerate(robust)]


def told(source, attack="pgd", regime="standard"):
    return {f"{attack}@{PRINTS[source][:8]}": {"source": f"gone/{source}", "attack": attack, "fingerprint": PRINTS[source],
                                               "title": f"cnn_small trained with {regime} on mnist, seed 0"}}


def run(build, name, outcomes, transfer=None, folder=None, **about):
    about = {"model_fingerprint": PRINTS[name], "classifier": "base", "noise_std": None, "transfer": transfer or {},
             "regime": {"a": "standard", "b": "stability", "c": "standard"}[name], **about}
    return load([build.attack(folder or name, [*rows("none", 0, [1, 1, 1, 1]), *outcomes], **about).path]).attacked[0]


@pytest.fixture
def two(build):
    """Two models, each attacked itself and shown the other's images, at two budgets."""
    of_a = {("pgd", 0.5): [1, 0, 0, 0], ("pgd", 1): [0, 0, 0, 0], (FROM_B, 0.5): [1, 1, 1, 0], (FROM_B, 1): [1, 1, 0, 0]}
    of_b = {("pgd", 0.5): [0, 0, 1, 1], ("pgd", 1): [0, 0, 0, 1], (FROM_A, 0.5): [1, 1, 1, 1], (FROM_A, 1): [1, 0, 0, 0]}
    return [run(build, "a", [row for key, robust in of_a.items() for row in rows(*key, robust)], told("b", regime="stability")),
            run(build, "b", [row for key, robust in of_b.items() for row in rows(*key, robust)], told("a"))]


def test_the_full_matrix_with_its_white_boxes_marked(two):
    half, one = transfer_tables(two)
    assert [(t.name, t.title) for t in (half, one)] == [("transfer_pgd_l2_0.5", "Transfer of pgd, at l2 0.5"),
                                                        ("transfer_pgd_l2_1", "Transfer of pgd, at l2 1")]
    assert half.columns == ["", "stability", "standard"]
    assert half.rows == [["stability", "50.0 ± 25.0 *", "100.0 ± 0.0"], ["standard", "75.0 ± 21.7", "25.0 ± 21.7 *"]]
    data = half.data.set_index(["answers", "made_on"])
    assert data["accuracy"].to_dict() == {("stability", "stability"): 0.5, ("stability", "standard"): 1.0,
                                          ("standard", "stability"): 0.75, ("standard", "standard"): 0.25}
    assert data["white_box"].to_dict() == {key: key[0] == key[1] for key in data.index}
    assert one.data.set_index(["answers", "made_on"])["accuracy"]["standard", "stability"] == 0.5
    assert "same 4 images" in half.notes[-1]


def test_of_one_run_the_row_it_has(two):
    (half, _) = transfer_tables(two[:1])
    assert half.columns == ["", "cnn_small trained with stability on mnist, seed 0", "standard"]
    assert half.rows == [["standard", "75.0 ± 21.7", "25.0 ± 21.7 *"]]


def test_a_source_on_the_disk_gives_its_own_words(build, two):
    told_again = told("b", regime="stability")
    next(iter(told_again.values()))["source"] = str(two[1].folder.path)
    alone = run(build, "a", rows(FROM_B, 0.5, [1, 1, 1, 0]), told_again, folder="again")
    (table,) = transfer_tables([alone])
    assert table.columns == ["", "stability"]
    assert table.rows == [["standard", "75.0 ± 21.7"]]  # no attack of its own: no white box


def test_a_source_folder_that_holds_another_model_by_now_is_not_believed(build, two):
    elsewhere = told("c")
    next(iter(elsewhere.values()))["source"] = str(two[1].folder.path)
    (table,) = transfer_tables([run(build, "a", rows(FROM_C, 0.5, [1, 1, 1, 0]), elsewhere, folder="again")])
    assert table.columns == ["", "cnn_small trained with standard on mnist, seed 0"]


def test_a_model_that_takes_no_part_has_no_row(build, two):
    assert transfer_tables([*two, run(build, "c", rows("pgd", 0.5, [0, 0, 0, 0]))])[0].rows == transfer_tables(two)[0].rows


def test_a_source_that_took_no_images_has_its_white_box_and_dashes(build, two):
    third = run(build, "c", [*rows("pgd", 0.5, [1, 1, 0, 0])], train_seed=1)
    seen = run(build, "a", rows(FROM_C, 0.5, [1, 1, 1, 1]), told("c"), folder="seen")
    half = next(t for t in transfer_tables([*two, seen, third]) if t.name == "transfer_pgd_l2_0.5")
    assert half.columns == ["", "stability", "standard, seed 0", "standard, seed 1"]
    assert [row[0] for row in half.rows] == half.columns[1:]
    assert half.rows[2] == ["standard, seed 1", "–", "–", "50.0 ± 25.0 *"]  # noqa: RUF001
    assert half.rows[1][3] == "100.0 ± 0.0"


def test_models_that_only_their_fingerprint_tells_apart(build):
    third = run(build, "c", rows("pgd", 0.5, [1, 1, 0, 0]))
    seen = run(build, "a", rows(FROM_C, 0.5, [1, 1, 1, 1]), told("c"))
    (table,) = transfer_tables([third, seen])
    assert table.columns == ["", "standard (cccccccc)"]
    assert [row[0] for row in table.rows] == ["standard (cccccccc)", "standard (aaaaaaaa)"]


def test_only_images_that_all_cells_share_count(build):
    own = run(build, "b", rows("pgd", 0.5, [0, 0, 1, 1]))
    seen = run(build, "a", rows(FROM_B, 0.5, [1, 0], first=2), told("b"))
    (table,) = transfer_tables([own, seen])
    assert table.rows == [["stability", "100.0 ± 0.0 *"], ["standard", "50.0 ± 35.4"]]
    assert table.notes[-1] == "All cells are over the same 2 images, of up to 4 a cell."


def test_cells_without_a_common_image_say_how_many_they_have(build):
    own = run(build, "b", rows("pgd", 0.5, [0, 1]))
    seen = run(build, "a", rows(FROM_B, 0.5, [1, 0], first=2), told("b"))
    (table,) = transfer_tables([own, seen])
    assert table.rows == [["stability", "50.0 ± 35.4 * (2 images)"], ["standard", "50.0 ± 35.4 (2 images)"]]
    assert "no image in common" in table.notes[-1]


def test_a_smoothed_and_a_base_classifier_of_one_model_are_two_rows(build):
    base = run(build, "a", rows("pgd", 0.5, [0, 0, 0, 0]))
    about = {"classifier": "smoothed", "noise_std": 0.5}
    smoothed = run(build, "a", rows(FROM_A, 0.5, [1, 1, 1, 0]), told("a"), folder="s", **about)
    (table,) = transfer_tables([base, smoothed])
    assert table.rows == [["standard, smoothed 0.5", "75.0 ± 21.7"], ["standard, base", "0.0 ± 0.0 *"]]


def test_another_norm_data_set_or_budget_is_no_white_box(build):
    seen = run(build, "a", rows(FROM_B, 0.5, [1, 1, 1, 0]), told("b"))
    others = [run(build, "b", rows("pgd", 0.5, [0, 0, 0, 0], norm="linf"), folder="n"),
              run(build, "b", rows("pgd", 1, [0, 0, 0, 0]), folder="l"),
              run(build, "b", rows("pgd", 0.5, [0, 0, 0, 0]), folder="d", dataset="cifar10")]
    (table,) = transfer_tables([seen, *others])
    assert [len(table.rows), len(table.columns)] == [1, 2]
    assert not table.data["white_box"].any()


def test_closest_examples_and_runs_without_transfers(build):
    seen = run(build, "a", rows(f"ddn@{'b' * 8}", math.inf, [1, 0, 0, 0], distance=0.2), told("b", "ddn"))
    own = run(build, "b", rows("ddn", math.inf, [0, 0, 0, 0], distance=0.2), budgets={"l2": [0.5]})
    (table,) = transfer_tables([own, seen])
    assert (table.name, table.title) == ("transfer_ddn_l2_closest", "Transfer of ddn, the closest in l2")
    assert table.rows == [["stability", "0.0 ± 0.0 *"], ["standard", "25.0 ± 21.7"]]
    assert transfer_tables([own]) == []


def test_of_many_models_the_columns_are_letters_that_the_rows_explain(build):
    prints = {f"r{k}": f"{k}" * 64 for k in range(9)}
    runs = []
    for k, (regime, own) in enumerate(prints.items()):
        others = {f"pgd@{f[:8]}": {"source": "gone", "attack": "pgd", "fingerprint": f, "title": r}
                  for r, f in prints.items() if r != regime}
        outcomes = [*rows("none", 0, [1] * 4), *rows("pgd", 0.5, [0, 0, 0, 1])]
        outcomes += [row for name in others for row in rows(name, 0.5, [1, 1, 1, 0])]
        if k:  # the first answers nothing: a column without a row
            folder = build.attack(regime, outcomes, model_fingerprint=own, classifier="base", noise_std=None, transfer=others,
                                  regime=regime)
            runs += load([folder.path]).attacked
    (table,) = transfer_tables(runs)
    assert all(len(column) == 1 for column in table.columns[1:])
    explained = {row[0].split(": ")[0]: row[0].split(": ")[1] for row in table.rows}
    assert len(explained) == 8
    for row in table.rows:  # the white box stands under the letter of the row
        white = [table.columns[k] for k, cell in enumerate(row) if cell.endswith("*")]
        assert white == [row[0].split(": ")[0]]
    (letter,) = set(table.columns[1:]) - set(explained)
    assert f"Columns without a row: {letter}: r0." in table.notes
    assert set(table.data["made_on"]) == {f"r{k}" for k in range(9)}


# The lines of a run that has such rows.


@pytest.fixture
def mixed(build):
    names = {"pgd": [1, 1, 0, 1], "fgm": [1, 0, 1, 1], FROM_B: [0, 0, 0, 0], "pgd@8bit": [0, 0, 0, 1]}
    return run(build, "a", [row for name, robust in names.items() for row in rows(name, 0.5, robust)], told("b"))


def test_the_worst_case_is_over_the_runs_own_attacks(mixed):
    (worst,) = [line for line in attacked_lines([mixed], []) if line.is_worst_case]
    assert worst.title == "worst of fgm, pgd"
    assert attacked.accuracy(worst.tables, 0.5).value == 0.5


def test_no_worst_case_of_one_attack_with_its_rounded_images(build):
    alone = run(build, "a", [*rows("pgd", 0.5, [1] * 4), *rows("pgd@8bit", 0.5, [0] * 4)])
    assert [line.is_worst_case for line in attacked_lines([alone], [])] == [False, False]


def test_the_tables_name_them_and_say_what_they_are(mixed):
    table = attacked_tables.brief(mixed)
    assert [row[0] for row in table.rows] == ["pgd", "fgm", "pgd@bbbbbbbb", "pgd@8bit", "worst of fgm, pgd"]
    assert any("NAME@FINGERPRINT" in note for note in table.notes)


def test_rounded_images_follow_the_settings_of_their_attack(build):
    """Two runs of other steps are no repeats of one another, and no seeds."""
    both = [run(build, "a", [*rows("pgd", 0.5, [1] * 4), *rows("pgd@8bit", 0.5, [1] * 4)], folder=f"s{steps}",
                attacks={"pgd": {"norm": "l2", "settings": {"steps": steps}}}) for steps in (10, 20)]
    warnings: list[str] = []
    titles = [line.title for line in attacked_lines(both, warnings) if not line.is_worst_case]
    assert titles == ["pgd, steps 10", "pgd@8bit, steps 10", "pgd, steps 20", "pgd@8bit, steps 20"]
    assert warnings == []


def test_images_of_two_sources_are_two_lines(build):
    both = []
    for source in ("one", "two"):
        transfer = told("b")
        next(iter(transfer.values()))["source"] = f"outputs/{source}"
        both.append(run(build, "a", rows(FROM_B, 0.5, [1] * 4), transfer, folder=source))
    warnings: list[str] = []
    assert [line.title for line in attacked_lines(both, warnings)] == ["images of one", "images of two"]
    assert warnings == []


def test_closest_examples_of_another_model_in_a_norm_without_budgets(build):
    of_b = rows(f"ddn@{'b' * 8}", math.inf, [1, 0, 0, 0], distance=0.2)
    seen = run(build, "a", [*rows("pgd", 0.1, [1, 0, 1, 1], norm="linf"), *of_b],
               told("b", "ddn"), budgets={"linf": [0.1]})
    lines = attacked_lines([seen], [])
    assert closest_table(lines) is None
    assert attacked_tables.brief(seen).rows[1][-1] == "–"  # noqa: RUF001


def test_figures_draw_the_runs_own_attacks(mixed):
    runs = Runs(attacked=[mixed])
    (picture,) = of_runs(runs, [], attacked_lines(runs.attacked, []))
    assert picture.figure.axes[0].get_legend_handles_labels()[1] == ["pgd", "fgm", "worst of fgm, pgd"]


def test_what_an_attack_run_leaves(mixed, capsys):
    results.attacked(mixed.folder)
    said = capsys.readouterr().out.splitlines()
    assert "  @bbbbbbbb: images made on cnn_small trained with standard on mnist, seed 0" in said
    assert "pgd@8bit" in pd.read_csv(mixed.folder.table("attacks"))["line"].tolist()
    transfer = pd.read_csv(mixed.folder.table("transfer"))
    assert transfer[["white_box", "accuracy"]].to_numpy().tolist() == [[False, 0.0], [True, 0.75]]


def test_the_end_of_a_run_warns(build, capsys):
    weak = run(build, "a", [*rows("pgd_l2", 0.5, [1, 1, 1, 1]), *rows("fgm", 0.5, [0, 0, 0, 0])])
    results.attacked(weak.folder)
    assert capsys.readouterr().out.splitlines()[-1].startswith("warning: pgd_l2 leaves 100.0 % more of the 4 images than fgm")


def test_a_report_of_them(two, tmp_path):
    report = write_report([run.folder.path for run in two], tmp_path)
    assert {"transfer_pgd_l2_0.5", "transfer_pgd_l2_1"} <= set(report.tables)
    assert "white box" in report.page.read_text()


@pytest.mark.parametrize(("kept", "broken"), [(True, (0, 1)), (False, ())])
def test_the_cross_check_takes_images_of_another_model_where_they_are_kept(build, kept, broken):
    """The run's own images break no certificate, those of the other model would."""
    originals = np.zeros((2, 1, 2, 2), np.float32)
    inside = originals + np.float32(0.05)
    votes = {("none", 0): [5000, 0, 0], ("pgd", 0.5): [5000, 0, 0], (FROM_B, 0.5): [0, 5000, 0]}
    outcomes = [{"attack": attack, "budget": budget, "index": i, "label": 0, "robust": 0, "votes": counts}
                for i in (0, 1) for (attack, budget), counts in votes.items()]
    images = {("pgd", 0.5): inside, **({(FROM_B, 0.5): inside} if kept else {})}
    against = build.attack("x", outcomes, originals=originals, transfer=told("b"), adversarial=images)
    certified = load([build.certify("c", {"renyi": [(0, 0, 0, 0.4), (1, 0, 0, 0.4)]}).path]).certified[0]
    assert check(certified, "renyi", load([against.path]).attacked).broken == broken
