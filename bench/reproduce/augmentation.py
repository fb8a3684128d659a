"""Learned augmentation: transforms of 100 labelled MNIST images, learned on 500 others.

Lorraine, Vicol and Duvenaud (2020) learn a network that transforms training images (6,659
hyperparameters, CIFAR-10) and gain about 2.5 points of test accuracy. Here softmax regression on ten
images of each class, the means of 2 × 2 pixels, and g its loss on 500 images that are not transformed;
each kind is tuned together with one log strength of the ℓ2 penalty, which is also tuned by itself: that
is the baseline.

- Noise, of one strength and of one for each pixel, drawn once for each of five copies of an image.
- Affine: every pixel scaled and shifted (392 λ).
- A network: x ↦ x + Σ_k ξ_k tanh(κ_k ∗ x), κ_k one of four 5 × 5 kernels (100 λ), ξ_k standard normal,
  drawn once for each of five copies; given as a value and its VJP (Transform). To first order,
  kernels that differentiate move the image, others blur or thicken it.

    python bench/reproduce/augmentation.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse
from typing import Any

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

import _protocol
import implicitgrad as ig
from _protocol import QUIET, Images

COPIES, KERNELS, WIDTH = 5, 4, 5
TRAIN, VAL, STEPS = 100, 500, 20


def network(rows: int, side: int, rng: np.random.Generator) -> ig.Transform:
    """The transform of that many images, each of which has draws ξ of its own."""
    xi = rng.standard_normal((KERNELS, rows, 1, 1))
    edge = WIDTH // 2

    def windows(X: np.ndarray) -> np.ndarray:  # shape (rows, side, side, WIDTH, WIDTH)
        framed = np.pad(X.reshape(rows, side, side), ((0, 0), (edge, edge), (edge, edge)))
        return sliding_window_view(framed, (WIDTH, WIDTH), axis=(1, 2))

    def activations(around: np.ndarray, lam: np.ndarray) -> np.ndarray:
        kernels = lam.reshape(KERNELS, WIDTH, WIDTH)
        return np.tanh(np.tensordot(kernels, around, axes=([1, 2], [3, 4])))

    def value(X: np.ndarray, lam: np.ndarray) -> np.ndarray:
        return X + np.sum(xi * activations(windows(X), lam), axis=0).reshape(X.shape)

    def vjp(X: np.ndarray, lam: np.ndarray, M: np.ndarray) -> np.ndarray:
        around = windows(X)
        slope = xi * (1 - activations(around, lam) ** 2) * M.reshape(rows, side, side)
        return np.tensordot(slope, around, axes=([1, 2, 3], [0, 1, 2])).ravel()

    return ig.Transform(value, vjp, KERNELS * WIDTH**2)


def tune(
    name: str, sets: tuple[Images, ...], inputs: Any, block: np.ndarray, steps: int
) -> tuple[float, float]:
    """Validation loss and test accuracy, `block` being the start of the transform's λ."""
    train, val, test = sets
    f = ig.Softmax(*train, penalty=ig.L2("all"), inputs=inputs, n_classes=10)
    clock = _protocol.Clock()
    res = ig.minimize(
        *(f, ig.Softmax(*val), np.concatenate([[-4.0], block])),
        bounds=[(-12, 4)] + [(-8, 8)] * block.size,
        options={**QUIET, "maxiter": steps},
    )
    seconds = clock.stop()
    right = [_protocol.accuracy(f, res.theta, rows) for rows in (val, test)]
    print(
        f"{name:<24} {f.n_lam:5d} λ  g {res.fun:.4f}  val {right[0]:.4f}  test {right[1]:.4f}  "
        f"{res.nit:3d} steps {seconds:5.1f} s  {_protocol.certificate(res.hypergradient)}",
        flush=True,
    )
    return float(res.fun), right[1]


def pooled(images: Images) -> Images:
    """The means of 2 × 2 pixels."""
    half = round(images.X.shape[1] ** 0.5) // 2
    means = images.X.reshape(-1, half, 2, half, 2).mean(axis=(2, 4))
    return Images(means.reshape(len(means), -1), images.y)


def main(args: argparse.Namespace) -> None:
    steps = 3 if args.quick else STEPS
    pool, val, test = map(pooled, _protocol.images(args, 20 * TRAIN, VAL))
    per_class = 3 if args.quick else TRAIN // 10
    chosen = np.concatenate([np.flatnonzero(pool.y == c)[:per_class] for c in range(10)])
    train = Images(pool.X[chosen], pool.y[chosen])
    copies = Images(np.tile(train.X, (COPIES, 1)), np.tile(train.y, COPIES))
    p, rng = train.X.shape[1], np.random.default_rng(0)
    net = network(len(copies.y), round(p**0.5), rng)
    small = 0.01 * rng.standard_normal(net.n_lam)
    kinds = {
        "none": (train, None, np.zeros(0)),
        "noise": (copies, ig.Noise("all"), np.full(1, -3.0)),
        "noise by pixel": (copies, ig.Noise("feature"), np.full(p, -3.0)),
        "affine by pixel": (train, ig.Affine(), np.zeros(2 * p)),
        "network": (copies, net, small),
    }
    print(f"{len(train.y)} images to train on, {len(val.y)} to tune on")
    found = {
        name: tune(name, (rows, val, test), inputs, block, steps)
        for name, (rows, inputs, block) in kinds.items()
    }
    print()
    table = _protocol.Published(args)
    base = found.pop("none")[1]
    for name, (_, right) in found.items():
        published = "+2.5 (other data)" if name == "network" else ""
        gain = f"{100 * (right - base):+.2f}"
        table.row(f"{name}: points of accuracy gained", published, gain)


if __name__ == "__main__":
    _protocol.run(main, __doc__)
