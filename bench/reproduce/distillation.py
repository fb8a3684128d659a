"""Distillation: ten images, one for each class, learned so that a model trained on them knows MNIST.

Lorraine, Vicol and Duvenaud (2020) learn one MNIST image a class: 7,840 hyperparameters; they show the
images and give no accuracy. Here the model is softmax regression with 0.01 ‖θ‖²/2, trained on the ten
images to its minimum, g its mean loss on 5,000 MNIST images, and λ the pixels, from small random
numbers, unbounded, by two methods of `minimize`. Beside it the same model trained on ten images as they
are, on the means of the classes, and on the 5,000 images themselves, with a few strengths.

    python bench/reproduce/distillation.py [--quick] [--data FOLDER]
"""

from __future__ import annotations

import argparse

import numpy as np

import _protocol
import implicitgrad as ig
from _protocol import QUIET

DECAY, STEPS = 0.01, 100


def main(args: argparse.Namespace) -> None:
    _, val, test = _protocol.images(args, 0, 5000)
    p = val.X.shape[1]
    g = ig.Softmax(*val)
    decay = ig.L2("none", fixed=DECAY)
    f = ig.Softmax(np.zeros((10, p)), np.arange(10), penalty=decay, inputs=ig.Inputs())

    def show(name: str, theta: np.ndarray) -> float:
        right = [_protocol.accuracy(f, theta, rows) for rows in (val, test)]
        print(f"  {name:<32} g {g.fun(theta):.4f}, accuracy {right[0]:.4f}, test {right[1]:.4f}")
        return right[1]

    first = np.array([np.argmax(val.y == c) for c in range(10)])
    means = np.array([val.X[val.y == c].mean(axis=0) for c in range(10)])
    one = show("an image of each class", ig.train(f, val.X[first].ravel()).x)
    show("the mean of each class", ig.train(f, means.ravel()).x)
    for strength in (1e-1, 1e-2, 1e-3):
        whole = ig.Softmax(*val, penalty=ig.L2("none", fixed=strength))
        show(f"all {len(val.y)} images, strength {strength:g}", ig.train(whole).x)
    distilled = {}
    for method in ("L-BFGS-B", "inexact"):
        clock = _protocol.Clock()
        res = ig.minimize(
            *(f, g, 0.01 * np.random.default_rng(0).standard_normal(f.n_lam)),
            method=method,
            options={**QUIET, "maxiter": 10 if args.quick else STEPS},
        )
        seconds = clock.stop()
        distilled[method] = show(f"ten learned images, {method}", res.theta)
        print(
            f"    {res.nit} steps, {res.nhev} products, {seconds:.1f} s; {res.message}\n"
            f"    {_protocol.certificate(res.hypergradient)}"
        )
    table = _protocol.Published(args)
    table.row("hyperparameters", "7840", str(f.n_lam), f.n_lam == 7840)
    table.row("test accuracy of ten images as they are", "", f"{one:.4f}")
    for method, right in distilled.items():
        table.row(f"  of ten learned images, {method}", "(pictures only)", f"{right:.4f}")


if __name__ == "__main__":
    _protocol.run(main, __doc__)
