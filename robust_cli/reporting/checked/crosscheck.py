"""Certified accuracy checked against attacked: no stored adversarial image inside a certified radius may be of another class.

Certificates of a smoothed classifier are held against attacks on it, those of the network itself against attacks on that network,
never across. An image enters with its certificate (class A, radius R > 0; the label does not matter) and a stored attack on the
same classifier (weights; precision; of a smoothed one kind, size and place of the noise). The distance is recomputed in float64
from the stored images, in the norm of the certificate, whatever norm the attack had in mind. It breaks its certificate, at most
once over all attacks and budgets, when at a distance below R another class has more of the stored decision votes than A,
by a one-sided binomial test on the two counts. (A's share below 1/2 alone is no violation where the certificate bounds the
runner-up.) A certificate of the network itself needs no votes: it is broken when at a distance of R or below (its ball is closed)
the network answers another class than A, and none may be. The published count of a cascade is no certificate but a claim: images
that break it are counted, and speak against the claim, not against any bound.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd
from numpy.typing import NDArray
from scipy.stats import binom

from robust_cli.messages import UserError
from robust_cli.reporting.certified.exact import PAGE
from robust_cli.reporting.reading.about import claimed, deterministic, noise_layer, of_network, of_softmax
from robust_cli.reporting.reading.load import DERIVED, Attacked, Certified
from robust_cli.smoothing.plans.plan import false_certificates

LEVEL = 1e-6  # of the test, shared over the other classes
FEWEST_VOTES = 1000  # fewer cannot show a break
_SAME = {"model_fingerprint": None, "precision": None, "dataset": None}  # if not said
_SAME_NOISE = {"noise": "gaussian", "noise_std": None}
_BLOCK = 256


@dataclass(frozen=True)
class Check:
    """One certificate against all attacks on its classifier.

    compared, broken: images; allowed: 99.9 % quantile of the number of false certificates among the compared; beyond: images
    attacked at a distance of R or more, fooled_beyond: those of them where another class than A wins by the same test; few_votes:
    stored outcomes left out because they have fewer than 1000 votes. of_votes: False for a certificate of the expected softmax,
    whose classifier is another than the one that votes decide: nothing is compared. exact: of the network itself, decided by its
    answers; claimed: the published count of a cascade, for which breaking is no fault of a bound.
    """

    certificate: str
    compared: int
    allowed: int
    broken: tuple[int, ...]
    beyond: int
    fooled_beyond: int
    few_votes: int
    of_votes: bool = True
    exact: bool = False
    claimed: bool = False

    @property
    def holds(self) -> bool:
        """Whether no certificate is shown to be wrong; a claim is none."""
        return self.claimed or len(self.broken) <= self.allowed

    @property
    def proves(self) -> bool:
        """Whether the attack is strong enough to say anything: it succeeds where it may."""
        return not self.holds or (self.compared > 0 and (self.fooled_beyond > 0 or bool(self.claimed and self.broken)))

    @property
    def verdict(self) -> str:
        """The result in words."""
        if not self.of_votes:
            return ("Nothing could be compared: this certificate is of the class of the largest expected softmax, the attacks' "
                    "outcomes were decided by votes.")
        few = f" {self.few_votes} outcomes with fewer than {FEWEST_VOTES} votes were not compared." if self.few_votes else ""
        if not self.compared:
            enough, inside = " with enough votes" * (not self.exact), "claimed" if self.claimed else "certified"
            return f"Nothing could be compared: no adversarial image{enough} lies inside a {inside} radius.{few}"
        shown = ", ".join(map(str, self.broken[:10])) + (" ..." if len(self.broken) > 10 else "")
        if self.claimed:
            return self._of_a_claim(shown)
        chance = "none allowed: nothing is drawn" if self.exact else f"{self.allowed} allowed by chance"
        counts = f"{len(self.broken)} of {self.compared} compared images break their certificate, {chance}"
        if not self.holds:
            wrong = "The bounds or the answers" if self.exact else "The certificates or the votes"
            return f"BROKEN: {counts}. {wrong} are wrong (images {shown}).{few}"
        if not self.fooled_beyond:
            return (f"Proves nothing: {counts}, but no attack succeeded beyond a certified radius either, so it is too weak "
                    f"to test the certificates.{few}")
        return f"Holds: {counts}; beyond the radius the attacks succeeded on {self.fooled_beyond} of {self.beyond} images.{few}"

    def _of_a_claim(self, shown: str) -> str:
        """The result of a claim: what attacks break of it is counted, and is nobody's bug."""
        counts = f"{len(self.broken)} of {self.compared} compared images"
        if self.broken:
            return (f"Claims broken by an attack: {counts} (images {shown}). The published count of a cascade is no certificate "
                    f"of it, and no bound is wrong ({PAGE}).")
        weak = "" if self.fooled_beyond else ", but no attack succeeded beyond a claimed radius either"
        return f"No claim was broken: {counts}{weak}; that proves none of them ({PAGE})."


def same_classifier(certified: Certified, attacked: Attacked) -> bool:
    """Whether the attack was on the very classifier that was certified: the smoothed one, or the network itself."""
    a, b = certified.about, attacked.about
    kind = "base" if of_network(a) else "smoothed"
    if b.get("classifier") != kind or a.get("model_fingerprint") is None:
        return False
    same = {**_SAME, **_SAME_NOISE} if kind == "smoothed" else _SAME
    return all(a.get(key, usual) == b.get(key, usual) for key, usual in same.items()) and (
        kind == "base" or noise_layer(a) == noise_layer(b))


def check(certified: Certified, certificate: str, attacks: Sequence[Attacked]) -> Check:
    """Hold one certificate of a run against attack runs on the same classifier, all of which `same_classifier` has to admit."""
    assert all(same_classifier(certified, attacked) for attacked in attacks), "an attack on another classifier says nothing"
    if of_softmax(certified.about, certificate):
        return Check(certificate, 0, 0, (), 0, 0, 0, of_votes=False)
    rows = certified.of(certificate)
    rows = rows[(rows["predicted"] >= 0) & (rows["radius"] > 0)].set_index("index")
    exact = deterministic(certified.about, certificate)
    tested = [_test(rows, attacked, certified.norm(certificate), exact) for attacked in attacks]
    found = pd.concat(tested) if tested else _empty()
    enough = found[found["enough"]]
    inside, beyond = enough[enough["inside"]], enough[~enough["inside"]]
    compared = inside["index"].nunique()
    _, allowed = false_certificates(compared, 0.0 if exact else float(certified.about["failure_probability"]))
    broken = sorted(int(i) for i in inside.loc[inside["beaten"], "index"].unique())
    return Check(certificate, compared, int(allowed), tuple(broken), beyond["index"].nunique(),
                 beyond.loc[beyond["beaten"], "index"].nunique(), int((~found["enough"]).sum()), exact=exact,
                 claimed=claimed(certified.about, certificate))


def _empty() -> pd.DataFrame:
    return pd.DataFrame({"index": np.zeros(0, np.int64), **{c: np.zeros(0, bool) for c in ("inside", "beaten", "enough")}})


def _test(rows: pd.DataFrame, attacked: Attacked, norm: str, exact: bool = False) -> pd.DataFrame:
    """Columns index, inside, beaten, enough, a row per stored outcome of an image with a certificate. exact: by the network's
    answers on the closed ball, else by votes inside it."""
    parts = [_empty()]
    for attack in attacked.names:
        outcomes = attacked.of(attack)
        outcomes = outcomes[outcomes["index"].isin(rows.index)]
        for budget in outcomes["budget"].unique().tolist():
            if DERIVED in attack and not attacked.folder.adversarial(attack, budget).exists():
                continue  # images of another run, or rounded ones, of which this run keeps outcomes alone
            group = outcomes[outcomes["budget"] == budget]
            certificates = rows.loc[group["index"]]
            if (certificates["label"].to_numpy() != group["label"].to_numpy()).any():
                raise UserError(f"{attacked.folder}: expected the labels of the certified run, found others; "
                                "certify and attack the same data")
            classes, radii = certificates["predicted"].to_numpy(), certificates["radius"].to_numpy()
            away = distances(attacked, attack, budget, group["index"].to_numpy(), norm)
            if exact:
                decided = {"inside": away <= radii, "beaten": group["predicted"].to_numpy() != classes, "enough": True}
            else:
                votes = group[attacked.vote_columns].fillna(0).to_numpy(dtype=np.int64)
                decided = {"inside": away < radii, "beaten": beaten(votes, classes),
                           "enough": votes.sum(axis=1) >= FEWEST_VOTES}
            parts.append(pd.DataFrame({"index": group["index"].to_numpy(), **decided}))
    return pd.concat(parts, ignore_index=True)


def beaten(votes: NDArray[np.int64], certified_class: NDArray[np.int64]) -> NDArray[np.bool_]:
    """Where another class has more votes than the certified one by the one-sided test at 1e-6 / (classes - 1).

    votes [N, K]; certified_class [N]. Of two classes' counts a and b the test asks whether b of a + b fair coins is too many.
    """
    rows, classes = np.arange(len(votes)), votes.shape[1]
    own = votes[rows, certified_class]
    others = votes.copy()
    others[rows, certified_class] = -1
    best = others.max(axis=1)
    return binom.sf(best - 1, own + best, 0.5) <= LEVEL / (classes - 1)


def distances(attacked: Attacked, attack: str, budget: float, indices: NDArray[np.int64],
              norm: str = "l2") -> NDArray[np.float64]:
    """Distance in float64, pixel units, between the stored adversarial images and the originals. indices [N] -> [N].

    ``norm``: l2, linf or l1.
    """
    at = attacked.positions(indices)
    originals, adversarial = attacked.originals(), attacked.adversarial(attack, budget)
    if originals.shape != adversarial.shape:
        raise UserError(f"{attacked.folder}: expected adversarial images of shape {originals.shape}, {attack} at {budget:g} has "
                        f"{adversarial.shape}; make this attack run again")
    return np.concatenate([np.zeros(0), *(_length(adversarial[block], _unit(originals[block]), norm)
                                            for block in _blocks(at))])


def _blocks(at: NDArray[np.int64]) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(at), _BLOCK):
        yield at[start:start + _BLOCK]


def _unit(pixels: NDArray[np.generic]) -> NDArray[np.float32]:
    """The image that the classifier saw: bytes are divided by 255 in float32, as the data sets do."""
    return pixels.astype(np.float32) / np.float32(255) if pixels.dtype == np.uint8 else pixels.astype(np.float32)


def _length(a: NDArray[np.generic], b: NDArray[np.generic], norm: str) -> NDArray[np.float64]:
    difference = np.abs(a.astype(np.float64) - b.astype(np.float64)).reshape(len(a), -1)
    if norm == "l2":
        return np.sqrt((difference ** 2).sum(axis=1))
    assert norm in ("l1", "linf"), norm
    return difference.sum(axis=1) if norm == "l1" else difference.max(axis=1)
