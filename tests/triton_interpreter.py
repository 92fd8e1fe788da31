"""Evaluate cases of the CUDA kernel in Triton's interpreter and store what came out.

`TRITON_INTERPRET=1 python tests/triton_interpreter.py IN.npz OUT.npz`. A process of its own, because Triton
decides for or against its interpreter when the kernel is defined.
"""

import json
import sys

import numpy as np
import torch

from torchimpl.kernels.negative_binomial_cuda import evaluate_cuda

REGIONS = ("zero_count", "series", "prefactor", "quadrature", "fraction")
# how the three rows of a case become arguments
FORMS = {
    "plain": lambda y, mu, r: (y, mu, r),
    "columns": lambda *rows: tuple(row.view(2, -1).t() for row in rows),
    "constants": lambda y, mu, r: (y, mu[0].expand(y.shape), r[0].expand(y.shape)),
    "scalars": lambda *rows: tuple(row[0] for row in rows),
    "empty": lambda *rows: tuple(row[:0] for row in rows),
}


def evaluated(points, device, form="plain", **options):
    """F, S, dF/dmu, dF/dr of a case in one array."""
    rows = (torch.from_numpy(row).to(device) for row in points)
    with np.errstate(all="ignore"):
        return torch.stack(evaluate_cuda(*FORMS[form](*rows), **options)).cpu().numpy()


def record(name, ran):
    """Replace a region by itself and a note that it ran."""
    from torchimpl.kernels import negative_binomial_cuda_kernel as module

    region = getattr(module, name)

    def noted(*arguments):
        ran.add(name)
        return region(*arguments)

    setattr(module, name, noted)


def main(source, target):
    ran = set()
    for name in REGIONS:
        record(name, ran)
    stored, found = np.load(source), {}
    for name, options in json.loads(str(stored["options"])).items():
        ran.clear()
        found[name] = evaluated(stored[name], "cpu", **options)
        found[f"{name} ran"] = np.array(sorted(ran))
    np.savez(target, **found)


if __name__ == "__main__":
    main(*sys.argv[1:])
