"""Pictures of adversarial images: what is drawn, of whom, and which attack is chosen."""

from __future__ import annotations

import math

import numpy as np
import pytest

from robust_cli.reporting.attacked.gallery import galleries, gallery_figure
from robust_cli.reporting.reading.load import load

N = 12
CLASSES = 3


def outcomes(attack, budget, fooled, norm="l2", wrong=(), distance=0.3):
    """Labels go 0, 1, 2, 0, ...; ``fooled`` are answered as the next class; ``wrong``: those that are wrong when clean."""
    return [{"attack": attack, "norm": norm, "budget": budget, "index": 100 + i, "label": i % CLASSES,
             "l2": distance, "linf": distance, "robust": int(i not in fooled and i not in wrong),
             "predicted": (i + (i in fooled or i in wrong)) % CLASSES}
            for i in range(N)]


def made(build, groups, channels=1, images=None, bytes_=False, **about):
    rng = np.random.default_rng(0)
    originals = (rng.integers(0, 256, (N, channels, 5, 4), dtype=np.uint8) if bytes_
                 else rng.random((N, channels, 5, 4), dtype=np.float32))
    pixels = originals / np.float32(255) if bytes_ else originals
    stored = {(rows[0]["attack"], rows[0]["budget"]): np.clip(pixels + 0.1, 0, 1).astype(np.float32)
              for rows in groups if rows[0]["attack"] != "none"}
    folder = build.attack("a", [row for rows in groups for row in rows], originals=originals, classifier="base",
                          adversarial={**stored, **(images or {})}, **about)
    return load([folder.path]).attacked[0], originals, stored


def clean(wrong=()):
    return outcomes("none", 0, (), wrong=wrong)


def drawn(figure):
    """Images by row of the picture, titles and the words below the differences."""
    columns = len(figure.axes) // 3
    arrays = [[np.asarray(axes.images[0].get_array()) for axes in figure.axes[k * columns:(k + 1) * columns]] for k in range(3)]
    return (arrays, [axes.get_title() for axes in figure.axes[:columns]],
            [axes.get_xlabel() for axes in figure.axes[2 * columns:]])


@pytest.mark.parametrize("bytes_", [False, True])
def test_a_column_is_an_image_its_adversarial_and_the_difference_filling_the_range(build, bytes_):
    run, originals, _ = made(build, [clean(), outcomes("pgd", 0.5, (2, 5))], bytes_=bytes_)
    adversarial = run.adversarial("pgd", 0.5)
    change = adversarial[2, 0].astype(float) - originals[2, 0] / (255 if bytes_ else 1)
    (first, second, third), titles, factors = drawn(gallery_figure(run, "pgd", 0.5, count=2))
    assert titles == ["2 -> 0", "2 -> 0"]
    np.testing.assert_allclose(first[0], originals[2, 0] / (255 if bytes_ else 1))
    np.testing.assert_allclose(second[0], adversarial[2, 0])
    np.testing.assert_allclose(third[0], 0.5 + change * 0.5 / np.abs(change).max())
    assert max(third[0].max() - 0.5, 0.5 - third[0].min()) == pytest.approx(0.5)
    assert factors[0] == f"x {0.5 / np.abs(change).max():.3g}"


def test_images_are_found_by_their_index_whatever_the_order_of_the_rows(build):
    run, originals, _ = made(build, [clean(), outcomes("pgd", 0.5, (7,))[::-1]])
    (first, *_), titles, _ = drawn(gallery_figure(run, "pgd", 0.5, count=1))
    np.testing.assert_allclose(first[0], originals[7, 0])
    assert titles == ["1 -> 2"]


def test_colour_images_stay_coloured(build):
    run, originals, _ = made(build, [clean(), outcomes("pgd", 0.5, (2,))], channels=3)
    (first, _, third), _, _ = drawn(gallery_figure(run, "pgd", 0.5, count=1))
    np.testing.assert_allclose(first[0], originals[2].transpose(1, 2, 0))
    assert third[0].shape == (5, 4, 3)


def test_no_change_is_grey_and_said(build):
    groups = [clean(), outcomes("pgd", 0.5, (2,))]
    originals = np.random.default_rng(0).random((N, 1, 5, 4), dtype=np.float32)
    run, _, _ = made(build, groups, images={("pgd", 0.5): originals})
    (_, _, third), _, factors = drawn(gallery_figure(run, "pgd", 0.5, count=1))
    assert (third[0] == 0.5).all()
    assert factors == ["no change"]


def test_fooled_images_come_first_then_standing_then_wrong_ones_and_labels_take_turns(build):
    run, _, _ = made(build, [clean(wrong=(0, 1)), outcomes("pgd", 0.5, (3, 6, 5), wrong=(0, 1))])
    _, titles, _ = drawn(gallery_figure(run, "pgd", 0.5, count=N))
    assert titles[:3] == ["0 -> 1", "2 -> 0", "0 -> 1"]  # images 3, 5 and 6; then 2, 4, 9, 7, 8, 10, 11
    assert titles[3:10] == ["2 -> 2", "1 -> 1", "0 -> 0", "1 -> 1", "2 -> 2", "1 -> 1", "2 -> 2"]
    assert titles[10:] == ["0 -> 1", "1 -> 2"]


def test_names_of_classes_and_answers_that_are_none(build):
    groups = [clean(), outcomes("pgd", 0.5, (0, 1))]
    groups[1][1]["predicted"] = -1
    run, _, _ = made(build, groups, class_names=["airplane", "cat", "dog"])
    assert drawn(gallery_figure(run, "pgd", 0.5, count=2))[1] == ["airplane\n-> cat", "cat -> none"]


# Which attacks are shown.


def names(run):
    return [picture.name for picture in galleries(run)]


def test_the_strongest_attack_at_the_smallest_budget_that_fools_enough(build):
    groups = [clean(), outcomes("weak", 0.5, range(7)), outcomes("strong", 0.5, range(7)), outcomes("weak", 1.0, range(8)),
              outcomes("strong", 1.0, range(9)), outcomes("strong", 2.0, range(12)), outcomes("fgsm", 0.1, range(3), "linf"),
              outcomes("pgd", 0.1, range(2), "linf")]
    run, _, _ = made(build, groups)
    assert names(run) == ["adversarial_strong_1", "adversarial_fgsm_0.1"]
    assert "strong, at l2 1 (stability, cnn_small)" in galleries(run)[0].caption


def test_images_wrong_when_clean_are_nobodys_success(build):
    wrong = range(8)
    groups = [clean(wrong), outcomes("pgd", 0.5, (), wrong=wrong), outcomes("pgd", 1.0, (9,), wrong=wrong)]
    assert names(made(build, groups)[0]) == ["adversarial_pgd_1"]


def test_an_attack_that_fools_nobody_transfers_and_rounded_images_are_not_shown(build):
    groups = [clean(), outcomes("pgd", 0.5, ()), outcomes("pgd@1a2b3c4d", 0.5, range(12)), outcomes("pgd@8bit", 0.5, range(12))]
    assert names(made(build, groups)[0]) == []


def test_of_closest_examples_the_nearest_of_those_that_succeed(build):
    groups = [clean(), *(outcomes(name, math.inf, range(n), norm, distance=far) for name, n, norm, far in (
        ("fmn_linf", 12, "linf", 0.01), ("deepfool", 12, "l2", 0.3), ("ddn", 12, "l2", 0.2), ("lucky", 3, "l2", 0.1)))]
    run, _, _ = made(build, groups)
    assert names(run) == ["adversarial_ddn_closest"]
    assert "ddn, the closest found in l2" in galleries(run)[0].caption


def test_three_pictures_a_run_one_of_them_for_closest_examples(build):
    groups = [clean(), *(outcomes(f"a_{norm}", 0.5, range(9), norm) for norm in ("l2", "linf", "l1")),
              outcomes("ddn", math.inf, range(12))]
    assert names(made(build, groups)[0]) == ["adversarial_a_l2_0.5", "adversarial_a_linf_0.5", "adversarial_ddn_closest"]


def test_images_that_were_not_kept_are_passed_over(build):
    run, _, _ = made(build, [clean(), outcomes("pgd", 0.5, range(9)), outcomes("fgm", 0.5, range(8))])
    run.folder.adversarial("pgd", 0.5).unlink()
    assert names(run) == ["adversarial_fgm_0.5"]
    run.folder.originals.unlink()
    assert names(run) == []
