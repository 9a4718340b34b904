"""Linear algebra: products, a system of equations, a factor, eigenvalues. Usage: linear_algebra.py [N]."""

import hashlib
import sys

import numpy as np

n = int(sys.argv[1]) if len(sys.argv) > 1 else 256
random = np.random.default_rng(1)
a = random.standard_normal((n, n))
spd = a @ a.T + n * np.eye(n)
x = np.linalg.solve(spd, a)
lower = np.linalg.cholesky(spd)
values = np.linalg.eigvalsh(spd[: n // 2, : n // 2])
print(f"{n} x {n}: residual below 1e-9: {bool(np.abs(spd @ x - a).max() < 1e-9)}")
for name, result in {"solution": x, "factor": lower, "eigenvalues": values}.items():
    print(f"{name:<12} {hashlib.sha256(np.ascontiguousarray(result)).hexdigest()[:16]}")
