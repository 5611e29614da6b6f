"""Softmax scores of noisy draws: their expectations are known, no bit depends on how they were computed, no kill loses one."""

from __future__ import annotations

import random
from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.special import expit
from scipy.stats import norm
from torch import nn

from robust_cli.certificates.neyman_pearson import NeymanPearson
from robust_cli.certificates.pixeldp import PixelDP
from robust_cli.certificates.renyi import Renyi
from robust_cli.messages import UserError
from robust_cli.smoothing.batching import Block, Task
from robust_cli.smoothing.noises import make_noise
from robust_cli.smoothing.plans.fixed import Fixed
from robust_cli.smoothing.plans.plan import CHUNK, Scores, Votes, boundaries
from robust_cli.smoothing.scores import ScoreLog, chunk_sums
from robust_cli.smoothing.tally import Row
from robust_cli.smoothing.votes import NoisyVotes

SHAPE = (1, 6, 6)
Found = dict[Block, tuple[list[int], list[float]]]


def logistic(margin: float, steepness: float) -> nn.Module:
    """Softmax of class 1: the logistic function of ``steepness`` times the distance from where class 0 begins, ``margin`` at an
    image of 0.5."""
    linear = nn.Linear(36, 2)
    with torch.no_grad():
        linear.weight.copy_(torch.stack([torch.zeros(36), torch.full((36,), steepness / 6)]))
        linear.bias.copy_(torch.tensor([0.0, steepness * (margin - 3.0)]))
    return nn.Sequential(nn.Flatten(), linear).eval()


def network() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Conv2d(1, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 5)).eval()


def counter(model: nn.Module, classes: int, workers: int | None = None, noise_std: float = 0.5,
            precision: str = "fp32") -> NoisyVotes:
    return NoisyVotes(model, classes, make_noise("gaussian", noise_std), 0, "cpu", precision, workers)


def split(index: int, draws: int, size: int) -> list[Block]:
    return [Block(index, "estimation", k, first, min(size, draws - first)) for k, first in enumerate(range(0, draws, size))]


def scored(of: NoisyVotes, images: torch.Tensor, draws: int, order: list[int], size: int = 5 * CHUNK) -> Found:
    """Votes and scores of all blocks."""
    sums: dict[Block, list[float]] = {}
    votes: dict[Block, list[int]] = {}
    of.serve(((images[i], block) for i in order for block in split(i, draws, size)), votes.__setitem__, sums.__setitem__)
    assert votes.keys() == sums.keys()
    return {block: (votes[block], sums[block]) for block in votes}


def moments(margin: float, steepness: float, noise_std: float) -> tuple[float, float]:
    """Expectation and variance of class 1's softmax under the noise, by quadrature."""
    z, step = np.linspace(-9.0, 9.0, 200_001, retstep=True)
    values, mass = expit(steepness * (margin + noise_std * z)), norm.pdf(z) * step
    mean = float((values * mass).sum())
    return mean, float((values**2 * mass).sum()) - mean**2


# ---- what they are ------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize(("margin", "steepness"), [(0.0, 2.0), (0.4, 1.0), (0.4, 8.0), (0.8, 3.0)])
@pytest.mark.parametrize("noise_std", [0.25, 0.5])
def test_the_mean_is_the_expected_softmax_and_the_certificates_stay_below_the_true_distance(
        margin: float, steepness: float, noise_std: float) -> None:
    """The expected softmax of class 1 is 1/2 exactly where the plain classifier changes, ``margin`` away."""
    draws, image = 20_000, torch.full((1, *SHAPE), 0.5)
    mean, variance = moments(margin, steepness, noise_std)
    found = scored(counter(logistic(margin, steepness), 2, noise_std=noise_std), image, draws, [0], draws)
    total, squares = np.split(np.array(found[Block(0, "estimation", 0, 0, draws)][1])[None], 2, axis=1)
    assert abs(total[0, 1] / draws - mean) < 4.5 * (variance / draws) ** 0.5
    sample = (squares[0, 1] - total[0, 1] ** 2 / draws) / (draws - 1)
    assert sample == pytest.approx(variance, rel=0.05)
    assert total.sum() == pytest.approx(draws, rel=1e-12)
    votes = Votes(np.zeros((1, 2), dtype=np.int64), scores=Scores(total, squares, total))
    for interval in ("hoeffding", "empirical_bernstein"):
        made = {kind.__name__: kind(scores="softmax", interval=interval, bounds="runner_up")
                for kind in (NeymanPearson, Renyi, PixelDP)}
        course = Fixed(draws, draws).course(made, noise_std, 0.001, 2)
        for name in made:
            bounds = course.bounds(name, votes)
            assert bounds.p1_lower[0] <= mean or margin == 0.0
            assert course.radius(name, bounds)[0] <= margin
        if margin > 0.0:
            assert bounds.predicted[0] == 1
            assert mean - bounds.p1_lower[0] < 0.03
            assert course.radius("PixelDP", bounds)[0] > 0.0
        else:
            assert bounds.predicted[0] == -1


def test_a_steep_classifier_scores_as_it_votes() -> None:
    image = torch.full((1, *SHAPE), 0.5)
    votes, sums = scored(counter(logistic(0.3, 1e6), 2), image, 5000, [0], 5000)[Block(0, "estimation", 0, 0, 5000)]
    assert sums[:2] == pytest.approx(votes, abs=0.01)
    assert sums[2:] == pytest.approx(votes, abs=0.01)


def test_sums_of_a_block_are_those_of_its_draws_by_hand() -> None:
    """The last chunk is padded: what fills it, and lanes that stand idle, are not looked at."""
    model, images = network(), torch.rand(2, *SHAPE, generator=torch.Generator().manual_seed(1))
    noise, draws = make_noise("gaussian", 0.5), 2 * CHUNK + 5
    rows = []
    for chunk in range(3):
        noisy = torch.empty(CHUNK, *SHAPE)
        noise.write(noisy, images[1], 0, "estimation", 1, chunk)
        with torch.inference_mode():
            rows.append(torch.softmax(model(noisy).double(), 1))
    whole = torch.cat(rows)[:draws].numpy()
    found = scored(counter(model, 5, workers=1), images, draws, [1], draws)[Block(1, "estimation", 0, 0, draws)][1]
    assert found == pytest.approx(np.concatenate([whole.sum(0), (whole**2).sum(0)]).tolist(), rel=1e-6)
    assert sum(found[:5]) == pytest.approx(draws, rel=1e-12)


def test_rows_that_do_not_count_may_hold_anything() -> None:
    logits, counted = torch.randn(2 * CHUNK, 3), torch.zeros(2, CHUNK, dtype=torch.int64)
    counted[0, :10] = 1
    expected = chunk_sums(logits, counted)
    logits[10:] = torch.nan
    assert torch.equal(chunk_sums(logits, counted), expected)
    assert expected[1].abs().sum() == 0
    assert expected[0, :3].sum() == pytest.approx(10.0)
    logits[3, 1] = torch.inf
    assert chunk_sums(logits, counted)[0].isnan().all()


# ---- what they do not depend on -----------------------------------------------------------------------------------------------
def test_scores_do_not_depend_on_workers_order_neighbours_or_restarts() -> None:
    model, images = network(), torch.rand(6, *SHAPE, generator=torch.Generator().manual_seed(1))
    reference = scored(counter(model, 5, workers=1), images, 1500, list(range(6)))
    for workers, seed in ((2, 1), (3, 2), (1, 3)):
        order = random.Random(seed).sample(range(6), 6)
        parts = [scored(counter(model, 5, workers=workers), images, 1500, part) for part in (order[:2], order[2:])]
        assert parts[0] | parts[1] == reference
    alone = scored(counter(model, 5, workers=2), images, 1500, [4])
    assert alone.items() <= reference.items()


def test_a_blocks_sums_are_the_same_in_whatever_order_its_chunks_come() -> None:
    block = Block(0, "estimation", 0, 0, 5 * CHUNK)
    chunks = [[float(v) for v in np.random.default_rng(k).random(4) * 10.0 ** (4 * k)] for k in range(5)]
    found = set()
    for seed in range(30):
        task = Task(torch.zeros(1), block, [0, 0])
        done = [task.add([1, 2], chunk) for chunk in random.Random(seed).sample(chunks, 5)]
        assert done == [False] * 4 + [True]
        found.add(tuple(task.scores))
    assert len(found) == 1


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_votes_are_the_same_bit_for_bit_where_scores_are_asked_for(precision: str) -> None:
    model, images = network(), torch.rand(4, *SHAPE, generator=torch.Generator().manual_seed(1))
    plain: dict[Block, list[int]] = {}
    of = counter(model, 5, precision=precision)
    of.serve(((images[i], block) for i in range(4) for block in split(i, 1500, 5 * CHUNK)), plain.__setitem__)
    assert {block: votes for block, (votes, _) in scored(of, images, 1500, [2, 0, 3, 1]).items()} == plain


def test_a_blocks_scores_are_handed_on_before_its_votes() -> None:
    """So that a kill between the two never leaves votes without scores."""
    said: list[tuple[str, Block]] = []
    counter(network(), 5, workers=2).serve(
        ((torch.rand(SHAPE), block) for i in range(4) for block in split(i, 700, 2 * CHUNK)),
        lambda block, counts: said.append(("votes", block)), lambda block, sums: said.append(("scores", block)))
    assert [what for what, _ in said] == ["scores", "votes"] * (len(said) // 2)
    assert all(first == second for (_, first), (_, second) in zip(said[::2], said[1::2], strict=True))


def test_nothing_is_scored_where_nobody_asks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("robust_cli.smoothing.votes.chunk_sums", None)
    counter(network(), 5).decide(torch.rand(1, *SHAPE), [0], "estimation", 100)


@pytest.mark.parametrize(("value", "said"), [(torch.nan, "nan"), (torch.inf, "infinity")])
def test_an_answer_without_softmax_is_refused(value: float, said: str) -> None:
    class Fragile(nn.Module):
        def forward(self, images: torch.Tensor) -> torch.Tensor:
            logits = images.flatten(1)[:, :3].clone()
            logits[CHUNK - 1 :: CHUNK, 1] = value  # the last row of each chunk
            return logits

    of, images = counter(Fragile().eval(), 3), torch.zeros(1, *SHAPE)
    with pytest.raises(UserError, match=rf"found {said} on image 0 under noise of 0\.5 \(estimation\)"):
        scored(of, images, CHUNK, [0])
    assert scored(of, images, CHUNK - 1, [0])  # that row is padding there
    if said == "infinity":  # which an argmax can do with
        assert of.decide(images, [0], "estimation", CHUNK).sum() == CHUNK


# ---- on the disk --------------------------------------------------------------------------------------------------------------
INDICES, DRAWS = [9, 4, 30], 700
PLACES = [(index, purpose, block, draws) for index in INDICES for purpose, ends in
          (("selection", (100,)), ("estimation", boundaries(DRAWS)))
          for block, draws in enumerate(np.diff([0, *ends]).tolist())]


def sums_of(index: int, purpose: str, block: int, draws: int) -> list[float]:
    """Sums of some draws' softmax over two classes, different for each block."""
    values = np.random.default_rng([index, len(purpose), block]).random(draws)
    return [float(v) for v in (values.sum(), (1 - values).sum(), (values**2).sum(), ((1 - values) ** 2).sum())]


def block_of(index: int, purpose: str, block: int, draws: int) -> Block:
    return Block(index, purpose, block, 0, draws)


def filled(path: Path, places: list[tuple[int, str, int, int]]) -> ScoreLog:
    log = ScoreLog(path, 2)
    for place in places:
        log.add(block_of(*place), sums_of(*place))
    return log


def course(selection: int = 100):  # type: ignore[no-untyped-def]
    return Fixed(DRAWS, selection).course({}, 0.5, 0.05, 2)


def test_rows_are_read_as_they_were_written_to_the_last_bit(tmp_path: Path) -> None:
    rows = list(filled(tmp_path / "scores.csv", PLACES).rows())
    assert rows == [(*place, sums_of(*place)) for place in PLACES]
    assert (tmp_path / "scores.csv").read_text().splitlines()[0] == "index,purpose,block,draws,sum_0,sum_1,square_0,square_1"


def test_a_run_reads_the_sums_over_all_its_blocks(tmp_path: Path) -> None:
    found = filled(tmp_path / "scores.csv", PLACES).read(course(), INDICES)
    for row, index in enumerate(INDICES):
        whole = np.sum([sums_of(*place) for place in PLACES if place[0] == index and place[1] == "estimation"], axis=0)
        assert [*found.total[row], *found.squares[row]] == pytest.approx(whole.tolist(), rel=1e-13)
        assert found.selection is not None
        assert found.selection[row].tolist() == sums_of(index, "selection", 0, 100)[:2]
    estimation = [place for place in PLACES if place[1] == "estimation"]
    assert filled(tmp_path / "single.csv", estimation).read(course(0), INDICES).selection is None


def test_a_file_cut_anywhere_is_completed_to_the_same_bytes(tmp_path: Path) -> None:
    """However a kill leaves it against the votes: the blocks after those that have votes are written once more."""
    filled(tmp_path / "whole.csv", PLACES)
    content = (tmp_path / "whole.csv").read_bytes()
    for size in range(0, len(content) + 1, 61):
        path = tmp_path / f"cut{size}.csv"
        path.write_bytes(content[:size])
        there = len(list(ScoreLog(path, 2).rows()))
        filled(path, PLACES[max(0, there - size % 3) :]).put_in_order(INDICES)
        assert path.read_bytes() == content


def test_of_two_rows_of_a_block_the_later_one_holds(tmp_path: Path) -> None:
    filled(tmp_path / "whole.csv", PLACES)
    log = ScoreLog(tmp_path / "scores.csv", 2)
    other = [2.0, 62.0, 1.0, 61.0]  # as another machine may have computed it
    log.add(block_of(4, "estimation", 1, 64), other)
    filled(log.path, random.Random(0).sample(PLACES, len(PLACES)))
    log.put_in_order(INDICES)
    assert log.path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    log.add(block_of(4, "estimation", 1, 64), other)
    log.put_in_order(INDICES)
    assert (4, "estimation", 1, 64, other) in list(log.rows())
    assert len(list(log.rows())) == len(PLACES)


def test_votes_without_scores_are_found_before_anything_is_drawn(tmp_path: Path) -> None:
    votes: list[Row] = [(*place[:3], [place[3] - 3, 3]) for place in PLACES]
    log = filled(tmp_path / "scores.csv", PLACES[:-1])
    log.check(votes[:-1])
    log.check(votes[:5])  # scores without votes are counted again
    with pytest.raises(UserError, match=r"found none of image 30, estimation block \d+; the file is damaged"):
        log.check(votes)


def test_a_run_that_lacks_scores_is_refused(tmp_path: Path) -> None:
    log = filled(tmp_path / "scores.csv", PLACES[:-1])
    with pytest.raises(UserError, match="expected scores of 700 estimation draws of image 30"):
        log.read(course(), INDICES)
    with pytest.raises(UserError, match="expected scores of 50 selection draws of image 9"):
        filled(tmp_path / "other.csv", PLACES).read(course(50), INDICES)


@pytest.mark.parametrize("row", [
    "4,selection,0,100,99.0,0.0,1.0,0.0", "4,selection,0,100,99.0,1.0,99.5,0.1", "4,selection,0,100,99.0,1.0,98.0,-0.1",
    "4,selection,0,100,nan,1.0,98.0,0.1", "4,selection,0,100,99.0,1.0,98.0,x", "4,selection,0,100,99.0,1.0,98.0",
    "4,chosen,0,100,99.0,1.0,98.5,0.1", "4,selection,-1,100,99.0,1.0,98.5,0.1", "4,selection,0,0,0.0,0.0,0.0,0.0",
    "4,selection,0,100,99.0,1.0,90.0,0.1"])
def test_rows_that_are_no_sums_of_softmax_are_refused(tmp_path: Path, row: str) -> None:
    path = tmp_path / "scores.csv"
    ScoreLog(path, 2)
    path.write_text(path.read_text() + row + "\n")
    with pytest.raises(UserError, match="the file is damaged"):
        list(ScoreLog(path, 2).rows())


def test_scores_of_another_number_of_classes_are_refused(tmp_path: Path) -> None:
    filled(tmp_path / "scores.csv", PLACES)
    with pytest.raises(UserError, match="expected the columns"):
        ScoreLog(tmp_path / "scores.csv", 3)
