"""Noise after the first layer: whether a run's radii were divided by enough, from the layer's stored weights.

No code is shared with what made the bound: the convolution is written out tap by tap, its largest singular value found by Lanczos
iteration, which comes from below. So a norm that is too small is refused, one that is needlessly large is not.
"""

from __future__ import annotations

import numpy as np
from scipy.sparse.linalg import ArpackError, LinearOperator, eigsh
from verify_bounds import Bad

BELOW = 1e-9
DENSE = 4096  # pixels up to which the whole matrix is made where the iteration does not converge


def stretch(weight, said, shape):
    """The largest singular value of image -> first layer's output, in pixel units."""
    std = np.asarray(said["std"], dtype=float)
    if len(std) not in (1, shape[0]) or not np.all(std > 0) or not np.all(np.isfinite(weight)):
        raise Bad("about.json or first_layer.npy: the first layer's numbers are not those of these images")
    std = np.broadcast_to(std, shape[0])[:, None, None]
    if said.get("convolution") is None:
        return float(np.linalg.norm(weight / np.broadcast_to(std, shape).reshape(1, -1), 2))
    forward, back = convolution(weight, said["convolution"], shape)
    pixels = int(np.prod(shape))

    def gram(flat):
        return (back(forward(flat.reshape(shape) / std)) / std).ravel()
    if pixels < 3:
        return dense(gram, pixels)
    operator = LinearOperator((pixels, pixels), matvec=gram, dtype=float)
    start = np.random.default_rng(0).standard_normal(pixels)
    try:
        found = eigsh(operator, 1, which="LA", v0=start, return_eigenvectors=False, tol=1e-11)[0]
    except ArpackError as error:
        if pixels > DENSE:
            raise Bad(f"first_layer.npy: its largest singular value cannot be verified ({error})") from error
        return dense(gram, pixels)
    return float(max(found, 0.0) ** 0.5)


def dense(gram, pixels):
    """The same of the whole matrix."""
    return float(np.linalg.norm(np.stack([gram(e) for e in np.eye(pixels)]), 2) ** 0.5)


def convolution(weight, how, shape):
    """Cross-correlation of an image with zeros around it, and its transpose."""
    (down, across), (by, beside), (groups,) = how["stride"], how["dilation"], how["groups"]
    left, right, top, bottom = how["padding"]
    channels, height, width = shape
    outputs, each, rows, columns = weight.shape
    if each * groups != channels or outputs % groups:
        raise Bad("first_layer.npy: not the weights of a convolution of these images")
    high = (height + top + bottom - by * (rows - 1) - 1) // down + 1
    wide = (width + left + right - beside * (columns - 1) - 1) // across + 1
    kernel = weight.reshape(groups, outputs // groups, each, rows, columns)
    below, aside = down * (high - 1) + 1, across * (wide - 1) + 1
    places = [(i, j, slice(i * by, i * by + below, down), slice(j * beside, j * beside + aside, across))
              for i in range(rows) for j in range(columns)]

    def forward(image):
        padded = np.pad(image, ((0, 0), (top, bottom), (left, right))).reshape(groups, each, height + top + bottom, -1)
        return sum(np.einsum("goc,gcyx->goyx", kernel[..., i, j], padded[:, :, y, x], optimize=True) for i, j, y, x in places)

    def back(values):
        padded = np.zeros((groups, each, height + top + bottom, width + left + right))
        for i, j, y, x in places:
            padded[:, :, y, x] += np.einsum("goc,goyx->gcyx", kernel[..., i, j], values, optimize=True)
        return padded[:, :, top:top + height, left:left + width].reshape(shape)
    return forward, back


def stretched_by(about):
    """The operator norm that a run says its radii were divided by; older runs say nothing, whose noise was on the image."""
    found = float((about.get("smoothing") or {}).get("operator_norm", 1.0))
    if not 0 < found < np.inf:
        raise Bad(f"about.json: an operator norm of {found}")
    return found


def layer_faults(path, about):
    """What speaks against the operator norm that a run's radii were divided by."""
    said, file = about.get("smoothing") or {}, path / "first_layer.npy"
    layer, norm = said.get("layer", "input"), stretched_by(about)
    if layer == "input":
        if norm != 1:
            yield f"about.json: noise on the image, but an operator norm of {norm}"
        if file.exists():
            yield "about.json: noise on the image, but there is a first_layer.npy"
        return
    if layer != "first" or about.get("noise", "gaussian") != "gaussian":
        yield f"about.json: {about.get('noise')} noise at {layer}: no radii follow from an operator norm in l2"
        return
    try:
        weight = np.load(file, allow_pickle=False).astype(float)
    except (OSError, ValueError) as error:
        raise Bad(f"first_layer.npy: not readable ({error}): radii of noise after the first layer cannot be derived") from error
    if not about.get("shape"):
        raise Bad("about.json has no shape, on which the operator norm depends")
    found = stretch(weight, said, tuple(about["shape"]))
    if not norm >= found * (1 - BELOW):
        yield f"about.json: operator norm {norm}, but the first layer stretches some change of an image {found:.9g} times"
