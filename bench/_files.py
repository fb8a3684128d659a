"""Data sets in files, in the formats of their publishers: MNIST (IDX) and LIBSVM's text."""

from __future__ import annotations

import gzip
import os
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse


def data_folder(given: str | None) -> Path:
    """Where the files are: what is given, $IMPLICITGRAD_DATA, or ../shared/data."""
    default = Path(__file__).resolve().parents[2] / "shared" / "data"
    return Path(given or os.environ.get("IMPLICITGRAD_DATA") or default)


def _there(path: Path) -> Path:
    if not path.is_file():
        raise SystemExit(
            f"{path} is missing: --data names the folder that holds {path.parent.name}/"
        )
    return path


def mnist(folder: Path, name: str, rows: int) -> tuple[np.ndarray, np.ndarray]:
    """The first rows of "train" or "t10k": pixels in [0, 1], shape (rows, 784), and labels."""
    with gzip.open(_there(folder / f"mnist/{name}-images-idx3-ubyte.gz")) as file:
        pixels = np.frombuffer(file.read(16 + 784 * rows), np.uint8, offset=16)
    with gzip.open(_there(folder / f"mnist/{name}-labels-idx1-ubyte.gz")) as file:
        labels = np.frombuffer(file.read(8 + rows), np.uint8, offset=8)
    return pixels.reshape(rows, 784) / 255.0, labels.astype(np.int64)


def svm(path: Path, n_features: int | None = None) -> tuple[Any, np.ndarray]:
    """Two classes in LIBSVM's format: CSR and targets ±1."""
    from sklearn.datasets import load_svmlight_file

    X, y = load_svmlight_file(str(_there(path)), n_features=n_features)
    return scipy.sparse.csr_array(X), np.where(y == y.max(), 1.0, -1.0)
