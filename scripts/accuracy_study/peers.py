"""Other implementations of the same function, each in a process of its own.

    python -m scripts.accuracy_study.peers NAME IN.npz OUT.npz

`IN` holds k, mu, r as float64; `OUT` gets what the peer offers, and "version", or "missing" with the reason.
Nothing but NumPy and the peer is imported, so that any interpreter that has the peer can run this file.
"""

from __future__ import annotations

import sys
import warnings
from collections.abc import Callable
from importlib.metadata import version
from typing import Any

import numpy as np

Results = dict[str, Any]
# a table up to the count; beyond, nobody would write it
TABLE_LIMIT = 5000


def scipy_special(k: Any, mu: Any, r: Any) -> Results:
    """The incomplete beta function and its complement."""
    from scipy import special  # noqa: PLC0415 - each peer only where it is asked for

    x = r / (r + mu)
    return {
        "cdf": special.betainc(r, k + 1, x),
        "sf": special.betaincc(r, k + 1, x),
        "version": version("scipy"),
    }


def scipy_stats(k: Any, mu: Any, r: Any) -> Results:
    """The distribution object."""
    from scipy import stats  # noqa: PLC0415

    p = r / (r + mu)
    return {"cdf": stats.nbinom.cdf(k, r, p), "sf": stats.nbinom.sf(k, r, p), "version": version("scipy")}


def jax_special(k: Any, mu: Any, r: Any) -> Results:
    """JAX's incomplete beta function; its derivative in r raises, the one in mu goes through x."""
    import jax  # noqa: PLC0415

    jax.config.update("jax_enable_x64", val=True)
    betainc = jax.scipy.special.betainc

    def cdf(mean: Any) -> Any:
        return betainc(r, k + 1, r / (r + mean))

    slope = jax.vmap(jax.grad(lambda mean, size, b: betainc(size, b, size / (size + mean))))
    return {
        "cdf": cdf(mu),
        "sf": betainc(k + 1, r, mu / (r + mu)),
        "d_mu": slope(mu, r, k + 1),
        "version": version("jax"),
    }


def tfp(k: Any, mu: Any, r: Any) -> Results:
    """TensorFlow Probability on JAX."""
    import jax  # noqa: PLC0415

    jax.config.update("jax_enable_x64", val=True)
    from tensorflow_probability.substrates import jax as library  # noqa: PLC0415

    def law(mean: Any, size: Any) -> Any:
        return library.distributions.NegativeBinomial(total_count=size, logits=jax.numpy.log(mean / size))

    @jax.jit
    def run(mean: Any, size: Any) -> Any:
        value, back = jax.vjp(lambda m, s: law(m, s).cdf(k), mean, size)
        return value, law(mean, size).survival_function(k), *back(jax.numpy.ones_like(value))

    cdf, sf, d_mu, d_r = run(jax.numpy.asarray(mu), jax.numpy.asarray(r))
    name = "tfp-nightly" if "dev" in library.__version__ else "tensorflow-probability"
    return {"cdf": cdf, "sf": sf, "d_mu": d_mu, "d_r": d_r, "version": version(name)}


def torch_betainc(k: Any, mu: Any, r: Any) -> Results:
    """The package torch-betainc."""
    import torch  # noqa: PLC0415
    from torch_betainc import betainc  # noqa: PLC0415

    mean, size = (torch.tensor(value, requires_grad=True) for value in (mu, r))
    cdf = betainc(size, torch.tensor(k) + 1, size / (size + mean))
    d_mu, d_r = torch.autograd.grad(cdf.sum(), (mean, size))
    return {
        "cdf": cdf.detach().numpy(),
        "d_mu": d_mu.numpy(),
        "d_r": d_r.numpy(),
        "version": version("torch-betainc"),
    }


def table(k: Any, mu: Any, r: Any) -> Results:
    """What is written by hand: exp of torch's log_prob up to the count, and its cumulative sum."""
    import torch  # noqa: PLC0415

    found = {name: np.full_like(mu, np.nan) for name in ("cdf", "sf", "d_mu", "d_r")}
    mean, size = (torch.tensor(value, requires_grad=True) for value in (mu, r))
    for i in np.flatnonzero(k <= TABLE_LIMIT):
        law = torch.distributions.NegativeBinomial(
            total_count=size[i], logits=(mean[i] / size[i]).log(), validate_args=False
        )
        counts = torch.arange(int(k[i]) + 1, dtype=size.dtype)
        cdf = law.log_prob(counts).exp().cumsum(0)[-1]
        g_mean, g_size = torch.autograd.grad(cdf, (mean, size))
        found["cdf"][i], found["d_mu"][i], found["d_r"][i] = cdf.item(), g_mean[i], g_size[i]
        found["sf"][i] = (1 - cdf).item()
    return {**found, "asked": (k <= TABLE_LIMIT).astype(float), "version": version("torch")}


PEERS: dict[str, tuple[str, Callable[[Any, Any, Any], Results]]] = {
    "scipy.special": ("`scipy.special.betainc`, `betaincc`", scipy_special),
    "scipy.stats": ("`scipy.stats.nbinom.cdf`, `sf`", scipy_stats),
    "jax": ("`jax.scipy.special.betainc`", jax_special),
    "tfp": ("TFP on JAX, `NegativeBinomial.cdf`", tfp),
    "torch-betainc": ("`torch_betainc.betainc`", torch_betainc),
    "table": (f"cumsum of `exp(log_prob)`, counts to {TABLE_LIMIT:,}", table),
}


def main(name: str, source: str, target: str) -> None:
    """Run one peer on one file."""
    with np.load(source) as given:
        k, mu, r = (given[column] for column in ("k", "mu", "r"))
    try:
        # what a peer warns of is its own affair
        with warnings.catch_warnings(), np.errstate(all="ignore"):
            warnings.simplefilter("ignore")
            found = PEERS[name][1](k, mu, r)
    except Exception as error:  # noqa: BLE001 - why a peer is missing goes into the table
        found = {"missing": f"{type(error).__name__}: {error}".splitlines()[0][:100]}
    np.savez(target, **{key: np.asarray(value) for key, value in found.items()})


if __name__ == "__main__":
    main(*sys.argv[1:])
