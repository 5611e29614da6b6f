"""Every kind of noise is distributed as it says, and a chunk holds the same numbers wherever it is written."""

from __future__ import annotations

import threading

import numpy as np
import pytest
import torch
from scipy import stats

from robust_cli.messages import Wrong
from robust_cli.runs.streams import stream
from robust_cli.smoothing.noise import CHUNK, ImageDraws, keyed_generator, keyed_words, own_generator
from robust_cli.smoothing.noises import KINDS, Noise, make_noise

SHAPE = (3, 4, 5)
STD = 0.3
CHUNKS = 120
IDEAL = {"gaussian": stats.norm(scale=STD), "laplace": stats.laplace(scale=STD / 2**0.5),
         "uniform": stats.uniform(-STD * 3**0.5, 2 * STD * 3**0.5)}
KURTOSIS = {"gaussian": 3.0, "integer_grid": 3.0, "laplace": 6.0, "uniform": 1.8}


def grid_image(seed: int = 0) -> torch.Tensor:
    return torch.randint(0, 256, SHAPE, generator=torch.Generator().manual_seed(seed)).float() / 255


def chunk(noise: Noise, image: torch.Tensor, seed: int = 0, purpose: str = "test", index: int = 0,
          number: int = 0) -> torch.Tensor:
    out = torch.empty(CHUNK, *image.shape)
    noise.write(out, image, seed, purpose, index, number)
    return out


def sample(kind: str) -> torch.Tensor:
    """float64 [CHUNKS * CHUNK, *SHAPE] of noise as written."""
    noise, image = make_noise(kind, STD), grid_image()
    return torch.cat([chunk(noise, image, number=k).double() for k in range(CHUNKS)]) - image.double()


def as_it_says(drawn: torch.Tensor, kind: str) -> None:
    """Moments within 5 standard errors; for continuous kinds the whole distribution (Kolmogorov); nothing correlated with what
    stands beside it."""
    n, kurtosis = drawn.numel(), KURTOSIS[kind]
    assert abs(float(drawn.mean())) < 5 * STD / n**0.5
    variance = STD**2 + (1 / 255**2 / 12 if kind == "integer_grid" else 0)  # rounding adds that of its error
    assert abs(float(drawn.var()) / variance - 1) < 5 * ((kurtosis - 1) / n) ** 0.5
    for dim in range(drawn.ndim):
        aside = drawn * drawn.roll(1, dim)
        assert abs(float(aside.mean())) < 5 * STD**2 / n**0.5
    if kind in IDEAL:
        assert stats.kstest(drawn.flatten().numpy()[::3], IDEAL[kind].cdf).pvalue > 1e-4
    each = drawn.reshape(len(drawn), -1)
    assert float(each.mean(0).abs().max()) < 5.5 * STD / len(each) ** 0.5


@pytest.mark.parametrize("kind", KINDS)
def test_noise_is_distributed_as_it_says(kind: str) -> None:
    as_it_says(sample(kind), kind)


@pytest.mark.parametrize("mutant", [lambda z: z * 1.02, lambda z: z * 0.98, lambda z: z.abs(), lambda z: z + 0.005,
                                    lambda z: z[:1].expand_as(z), lambda z: (z + z.roll(1, 0)) / 2**0.5])
@pytest.mark.parametrize("kind", KINDS)
def test_mutants_are_caught(kind: str, mutant: object) -> None:
    assert callable(mutant)
    with pytest.raises(AssertionError):
        as_it_says(mutant(sample(kind)), kind)


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "uniform"])
def test_the_kolmogorov_test_tells_the_kinds_apart(kind: str) -> None:
    drawn = sample(kind).flatten().numpy()[::3]
    assert all(stats.kstest(drawn, IDEAL[other].cdf).pvalue < 1e-10 for other in IDEAL if other != kind)


@pytest.mark.parametrize("kind", KINDS)
def test_a_chunk_holds_the_same_numbers_in_every_format_and_in_part(kind: str) -> None:
    noise, image = make_noise(kind, STD), grid_image()
    whole = chunk(noise, image)
    batch = torch.zeros(3 * CHUNK, *SHAPE).to(memory_format=torch.channels_last)
    noise.write(batch[CHUNK : 2 * CHUNK], image, 0, "test", 0, 0)
    assert torch.equal(batch[CHUNK : 2 * CHUNK], whole)
    assert not batch[:CHUNK].any()
    assert not batch[2 * CHUNK :].any()
    for rows in (1, 2, 17, 63):
        for part in (torch.zeros(rows, *SHAPE), torch.zeros(rows, *SHAPE).to(memory_format=torch.channels_last)):
            noise.write(part, image, 0, "test", 0, 0)
            assert torch.equal(part, whole[:rows])
    with pytest.raises(AssertionError):
        noise.write(torch.zeros(CHUNK + 1, *SHAPE), image, 0, "test", 0, 0)


@pytest.mark.parametrize("kind", KINDS)
def test_inference_mode_leaves_nothing_behind(kind: str) -> None:
    """In a thread that has drawn nothing before, so that all it reuses is made in inference mode."""
    noise, image, found = make_noise(kind, STD), grid_image(), []

    def work() -> None:
        part = torch.empty(3, *SHAPE)
        with torch.inference_mode():
            noise.write(part, image, 0, "test", 0, 0)
        found.append(part.clone())
        noise.write(part, image, 0, "test", 0, 0)
        found.append(part)

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert len(found) == 2
    assert torch.equal(found[0], found[1])


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_noise_falls_on_every_image(kind: str) -> None:
    """And is added, once: to a black image it is the noise itself."""
    noise, image = make_noise(kind, STD), grid_image()
    alone = chunk(noise, torch.zeros(SHAPE))
    torch.testing.assert_close(chunk(noise, image), alone + image, rtol=0, atol=3e-7)


@pytest.mark.parametrize("kind", KINDS)
def test_every_part_of_the_key_counts(kind: str) -> None:
    noise, image = make_noise(kind, STD), grid_image()
    keys = [(seed, purpose, index, number) for seed in (0, 1, 2**32) for purpose in ("selection", "estimation")
            for index in (0, 1, 2**32) for number in (0, 1, 2**32)]
    found = {tuple(chunk(noise, image, *key)[0].flatten().tolist()) for key in keys}
    assert len(found) == len(keys)


@pytest.mark.parametrize("kind", KINDS)
def test_threads_do_not_disturb_each_other(kind: str) -> None:
    noise, image, found = make_noise(kind, STD), grid_image(), {}

    def work(start: int) -> None:
        for number in range(start, 40, 4):
            found[number] = chunk(noise, image, number=number)

    threads = [threading.Thread(target=work, args=(start,)) for start in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(torch.equal(found[number], chunk(noise, image, number=number)) for number in range(40))


def test_words_are_those_of_the_keys_stream() -> None:
    for key in ((0, "a", 0, 0), (2**40, "b", 3, 2**33), (0, "a", 2**33, 3)):
        assert np.array_equal(keyed_words(*key).random_raw(9), stream(*key).bit_generator.random_raw(9))


def test_a_threads_own_generator_gives_the_numbers_of_a_new_one() -> None:
    for key in ((0, "a", 0, 0), (2**40, "b", 3, 2**33)):
        own = torch.empty(50).normal_(generator=own_generator(torch.device("cpu"), *key))
        assert torch.equal(own, torch.empty(50).normal_(generator=keyed_generator("cpu", *key)))


@pytest.mark.parametrize("std", [0.1, 0.12, 0.25, 0.3, 0.5, 0.7, 1.0, 1e-3])
def test_radii_use_no_more_noise_than_is_drawn(std: float) -> None:
    for kind in KINDS:
        noise = make_noise(kind, std)
        assert std * (1 - 2e-7) < noise.drawn_std <= std
        assert noise.noise_std == std
    scale, width = float(np.float32(std / 2**0.5)), float(np.float32(std * 3**0.5))  # what torch multiplies with
    assert make_noise("gaussian", std).drawn_std <= float(np.float32(std))
    assert make_noise("laplace", std).drawn_std / 2**0.5 <= scale
    assert make_noise("uniform", std).drawn_std * 3**0.5 <= width
    assert make_noise("integer_grid", std).drawn_std == std


def test_what_torch_multiplies_with_is_the_float32_of_the_setting() -> None:
    """The premise of ``drawn_std``."""
    ones = keyed_generator("cpu", 0, "test")
    unit = torch.empty(1000).normal_(generator=ones)
    torch.testing.assert_close(torch.add(torch.zeros(1000), unit, alpha=0.1), unit * torch.tensor(0.1), rtol=0, atol=0)
    assert float(torch.empty(10_000).uniform_(-0.1, 0.1, generator=ones).abs().max()) <= float(np.float32(0.1))


@pytest.mark.parametrize("kind", ["gaussian", "laplace", "uniform"])
def test_ordinary_kinds_claim_no_distance_to_their_ideal(kind: str) -> None:
    noise = make_noise(kind, STD)
    assert noise.residual(784, 100_000) == 0
    noise.admit(torch.rand(2, *SHAPE))
    assert noise.anywhere() is noise


@pytest.mark.parametrize("kind", KINDS)
def test_noise_for_attacks_has_the_same_distribution_and_the_images_own_streams(kind: str) -> None:
    noise, images, copies = make_noise(kind, STD).anywhere(), torch.stack([grid_image(k) for k in range(3)]), 2000
    around = noise.around(images, ImageDraws("cpu", 0, "attack", [4, 5, 6]), copies)
    assert around.shape == (3, copies, *SHAPE)
    for drawn in (around - images[:, None]).double():
        as_it_says(drawn, kind)
    alone = noise.around(images[2:], ImageDraws("cpu", 0, "attack", [6]), copies)
    assert torch.equal(alone[0], around[2])
    same = noise.perturbations(ImageDraws("cpu", 0, "attack", [4, 5, 6]), copies, SHAPE)
    assert torch.equal(noise.at(images, same), around)


def test_no_uniform_number_makes_laplace_noise_infinite() -> None:
    """One in 2^24 uniform numbers is 0, and one is as near to 1."""
    class Ends(ImageDraws):
        given = iter((0.0, 0.0, 1 - 2**-24, 0.0, 0.0, 1 - 2**-24))

        def uniform(self, *shape: int) -> torch.Tensor:
            return torch.full((len(self), *shape), next(self.given))

    draws, noise = Ends("cpu", 0, "attack", [0]), make_noise("laplace", 2**0.5)
    found = [float(noise.perturbations(draws, 1, (1, 1, 1))) for _ in range(3)]
    assert found == pytest.approx([0.0, -24 * np.log(2), 24 * np.log(2)])


@pytest.mark.parametrize("kind", KINDS)
def test_a_gradient_passes_through_the_noise(kind: str) -> None:
    images = torch.rand(2, *SHAPE, requires_grad=True)
    weights = torch.randn(2, 5, *SHAPE)
    (make_noise(kind, STD).anywhere().around(images, ImageDraws("cpu", 0, "attack", [0, 1]), 5) * weights).sum().backward()
    torch.testing.assert_close(images.grad, weights.sum(1))


@pytest.mark.parametrize(("kind", "std", "name"), [("pepper", 0.1, "noise"), ("gaussian", 0.0, "noise_std"),
                                                   ("laplace", float("nan"), "noise_std"), ("uniform", -1.0, "noise_std"),
                                                   ("integer_grid", float("inf"), "noise_std"),
                                                   ("integer_grid", 9.0, "noise_std")])
def test_wrong_settings_are_named(kind: str, std: float, name: str) -> None:
    with pytest.raises(Wrong, match=name):
        make_noise(kind, std)
