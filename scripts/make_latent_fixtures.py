#!/usr/bin/env python3
"""Makes tests/fixtures/latent/linear.safetensors: logistic regression by scikit-learn, SeFa and PCA by NumPy.

    pip install numpy scikit-learn safetensors
    scripts/make_latent_fixtures.py

Everything is computed in f64 from inputs that are exact in f32, and stored rounded to f32. The names are
`logistic/<case>/{x,y,l2,weights,bias}`, `sefa/{weight,gamma,variance,vectors,shares}` and
`pca/{maps,z,directions,shares}`; vectors are of length 1, of either sign.
"""

from __future__ import annotations

import sys
from pathlib import Path

try:
    import numpy as np
    from safetensors.numpy import save_file
    from sklearn.linear_model import LogisticRegression
except ImportError as error:
    sys.exit(f"error: {error}. This script needs: pip install numpy scikit-learn safetensors")

FILE = Path(__file__).resolve().parent.parent / "tests" / "fixtures" / "latent" / "linear.safetensors"
EPS = 1e-5  # of batch norm


def exact(values: np.ndarray) -> np.ndarray:
    """Rounded to f32, in f64."""
    return values.astype(np.float32).astype(np.float64)


def logistic(random: np.random.Generator) -> dict[str, np.ndarray]:
    tensors = {}
    # name, samples, features, penalty
    for name, n, dim, l2 in (("one", 37, 1, 1.0), ("seven", 101, 7, 0.1), ("hundred", 143, 100, 1.0),
                             ("soft", 61, 5, 0.5), ("separable", 53, 3, 0.01), ("scaled", 77, 4, 2.0)):
        x = exact(random.normal(size=(n, dim)))
        if name == "scaled":
            x = exact(x * np.array([1e-2, 1.0, 30.0, 3.0]) + np.array([0.0, 5.0, -40.0, 1.0]))
        truth = random.normal(size=dim) / x.std(0)
        logits = (x - x.mean(0)) @ truth + 0.5
        p = 1 / (1 + np.exp(-logits))
        if name == "separable":
            y = (logits > 0).astype(float)
        elif name == "soft":
            y = exact(p)
        else:
            y = (random.random(n) < p).astype(float)
        # A probability is a sample of each kind, weighted.
        both, labels = np.concatenate([x, x]), np.repeat([1.0, 0.0], n)
        weights = np.concatenate([y, 1 - y])
        kept = weights > 0
        model = LogisticRegression(C=1 / l2, solver="newton-cholesky", tol=1e-12, max_iter=10_000)
        model.fit(both[kept], labels[kept], weights[kept])
        tensors |= {f"logistic/{name}/{key}": value for key, value in {
            "x": x, "y": y, "l2": np.array(l2), "weights": model.coef_[0], "bias": model.intercept_[0],
        }.items()}
    return tensors


def sefa(random: np.random.Generator) -> dict[str, np.ndarray]:
    nz, c = 9, 8
    weight = exact(random.normal(size=(nz, c, 4, 4)) * random.uniform(0.5, 2, size=(nz, 1, 1, 1)) * 0.02)
    gamma = exact(random.uniform(0.5, 1.5, size=c))
    variance = exact(random.uniform(0.1, 2, size=c))
    scaled = weight * (gamma / np.sqrt(variance + EPS))[None, :, None, None]
    _, values, vectors = np.linalg.svd(scaled.reshape(nz, -1).T, full_matrices=False)
    return {"sefa/weight": weight, "sefa/gamma": gamma, "sefa/variance": variance, "sefa/vectors": vectors,
            "sefa/shares": values**2 / (values**2).sum()}


def pca(random: np.random.Generator) -> dict[str, np.ndarray]:
    n, nz, features = 301, 5, 24
    z = exact(random.normal(size=(n, nz)))
    maps = exact(np.maximum(z @ (random.normal(size=(nz, features)) * np.array([[4], [3], [2], [1.5], [1]])) + 1, 0))
    left, values, _ = np.linalg.svd(maps - maps.mean(0), full_matrices=False)
    coordinates = left[:, :4] * values[:4]
    directions = np.linalg.lstsq(coordinates, z, rcond=None)[0]
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    return {"pca/maps": maps, "pca/z": z, "pca/directions": directions,
            "pca/shares": (values**2 / (values**2).sum())[:4]}


def main() -> None:
    tensors = logistic(np.random.default_rng(1)) | sefa(np.random.default_rng(2)) | pca(np.random.default_rng(3))
    FILE.parent.mkdir(parents=True, exist_ok=True)
    save_file({name: np.ascontiguousarray(value, dtype=np.float32) for name, value in tensors.items()}, FILE)
    print(f"{FILE}: {len(tensors)} tensors, {FILE.stat().st_size} bytes")


if __name__ == "__main__":
    main()
