"""The negative binomial by the formulas that its bound assumes, in the precision of the arguments.

With b = k + 1, s = r + mu, x = r / s, q = mu / s: no reads by logarithms, small r and z = (b + r) x by the
alternating series of log F, everything else by the prefactor in deviance form over a continued fraction
(DiDonato and Morris 1992) for the tail away from the mode. The derivative in r runs along with the fraction.
"""

import numpy as np

from tests.direct.special import largest_score, log_root, phi, root, stirling_error

SERIES_TERMS = 48
LARGEST_Z = 4.5


def _quiet(function):
    def wrapped(*arguments):
        with np.errstate(all="ignore"):
            return function(*arguments)

    return wrapped


def _capped(r):
    """A finite dispersion: beyond it the Poisson limit is reached to far more digits than there are."""
    return np.minimum(r, r.dtype.type(2.0 ** (100 if r.dtype == np.float32 else 300)))


def _deviance(b, mu, r):
    s, gap = r + mu, mu - b
    first, quotient = (r + b) / s, mu / b
    apart = np.log(first) + (np.log(mu) - np.log(b))
    # a quotient that is subnormal has lost its digits, the logarithms of its parts have not
    whole = np.where(quotient < 2 * np.finfo(mu.dtype).tiny, apart, np.log(first * quotient))
    return r * phi(-gap / s, first) + b * phi((r / s) * (gap / b), None, whole)


def _prefactor(b, mu, r):
    """x^r q^b / B(r, b)."""
    c = r + b
    scale = np.sqrt(b / (b.dtype.type(2 * np.pi) * c)) * root(r)
    return scale * np.exp(stirling_error(c) - stirling_error(b) - _deviance(b, mu, r))


def _log_zero(mu, r):
    """r log1p(mu / r), also where the quotient overflows or is lost."""
    z = mu / r
    logarithm = np.where(np.isinf(z), np.log(mu) - np.log(r), np.log1p(z))
    return np.where(z < np.finfo(mu.dtype).eps / 16, mu, r * logarithm)


def _none(mu, r):
    """F, S, dF/dmu, dF/dr for k = 0."""
    s, exponent = r + mu, _log_zero(mu, r)
    F = np.exp(-exponent)
    return F, -np.expm1(-exponent), -F * (r / s), -F * phi(-mu / s, r / s)


def _series(k, mu, r):
    """F, S, dF/dr: F = P (1 + r A), log P = r log x + sum log(1 + r / j), A the alternating series."""
    kind = r.dtype.type
    s = r + mu
    x, q = r / s, mu / s
    term, series, slope = np.ones_like(r), np.zeros_like(r), np.zeros_like(r)
    for n in range(1, SERIES_TERMS):
        term = -term * ((k - (n - 1)) / n * x)
        share = term / (n + r)
        series = series + share
        slope = slope + share * (1 + n * q - r / (n + r))  # of r times the term
    logs, inverses = np.zeros_like(r), np.zeros_like(r)
    for i in range(r.size):
        j = np.arange(1, int(k[i]) + 1, dtype=r.dtype)
        logs[i], inverses[i] = np.log1p(r[i] / j).sum(dtype=kind), (1 / (j + r[i])).sum(dtype=kind)
    log_P = r * np.log(x) + logs
    log_F = log_P + np.log1p(r * series)
    F, S = np.exp(log_F), -np.expm1(log_F)
    derivative = F * (np.log(x) + q + inverses) + np.exp(log_P) * slope
    return np.where(F > 0.5, 1 - S, F), np.where(F > 0.5, S, 1 - F), derivative


def _coefficients(n, b, mu, r, upper):
    """alpha_n, beta_n of the fraction and their derivatives in r; `upper`: the tail is F = I_x(r, b)."""
    s, c = r + mu, r + b
    x, q = r / s, mu / s
    slope_x = q * (x / r)
    d, e = r + (2 * n - 1), b + (2 * n - 1)
    rising, ends = (r + (n - 1)) / d, (c + (n - 1)) / d
    alpha_F = n * (b - n) * x * x * rising * ends
    relative = 2 * q / r + n / ((r + (n - 1)) * d) + (n - b) / ((c + (n - 1)) * d)
    middle, level = n * (b - n) * (x / d), x * (mu - b) + 1 + n * (1 + q)
    factor = (r + n) / (r + (2 * n + 1))
    beta_F = n + middle + factor * level
    slope_F = middle * (q / r - 1 / d) + (n + 1) / (r + (2 * n + 1)) ** 2 * level
    slope_F = slope_F + factor * slope_x * (mu - b - n)
    A, B = (r - n) * q, (c + (n - 1)) * q
    slope_A, slope_B = (mu + n) * slope_x, (mu - b - (n - 1)) * slope_x
    weight, share = n * ((b + (n - 1)) / e) / e, (b + n) / (b + (2 * n + 1))
    beta_S = n + n * (A / e) + share * (x * (b - mu) + 1 + n * (1 + x))
    slope_S = n * (slope_A / e) + share * slope_x * (b - mu + n)
    return (
        np.where(upper, alpha_F, weight * A * B),
        np.where(upper, alpha_F * relative, weight * (slope_A * B + A * slope_B)),
        np.where(upper, beta_F, beta_S),
        np.where(upper, slope_F, slope_S),
    )


def _fraction(b, mu, r, upper):
    """The continued fraction from its end to its front, and its derivative in r."""
    kind = r.dtype.type
    smaller = float(np.max(np.minimum(b, np.where(upper, r, np.maximum(r, 1)))))
    terms = int(30 + 4 * np.sqrt(smaller)) if kind is np.float32 else int(60 + 8 * np.sqrt(smaller))
    n = np.arange(terms + 1, dtype=kind)
    columns = (part[:, None] for part in (b, mu, r, upper))
    alpha, slope_alpha, beta, slope_beta = _coefficients(n, *columns)
    ended = upper[:, None] & (n >= b[:, None])  # F's fraction ends at n = b
    alpha, slope_alpha = np.where(ended, 0, alpha), np.where(ended, 0, slope_alpha)
    beta, slope_beta = np.where(ended & (n > b[:, None]), 1, beta), np.where(ended, 0, slope_beta)
    R, slope = beta[:, terms], slope_beta[:, terms]
    for i in range(terms - 1, -1, -1):
        ratio = alpha[:, i + 1] / R
        slope = slope_beta[:, i] + slope_alpha[:, i + 1] / R - ratio * (slope / R)
        R = beta[:, i] + ratio
    return R, slope


@_quiet
def distribution(k, mu, r):
    """F, S, dF/dmu, dF/dr of flat arrays of one dtype, k floored."""
    k, kind = np.floor(k), mu.dtype.type
    F, S, slope_mu, slope_r = (np.zeros_like(mu) for _ in range(4))
    none = (k >= 0) & (mu == 0)
    F[none], slope_mu[none & (k == 0)] = 1, -1
    S[k < 0] = 1
    poisson, r = np.isinf(r), _capped(r)
    first = (k == 0) & (mu > 0)
    F[first], S[first], slope_mu[first], slope_r[first] = _none(mu[first], r[first])
    rest = np.flatnonzero((k > 0) & (mu > 0))
    if rest.size:
        K, m, a = k[rest], mu[rest], r[rest]
        b, s = K + 1, a + m
        prefactor = _prefactor(b, m, a)
        slope_mu[rest] = -prefactor / m
        series = (a < 2) & (a < m) & ((b + a) * (a / s) <= LARGEST_Z)
        at = rest[series]
        F[at], S[at], slope_r[at] = _series(K[series], m[series], a[series])
        if not series.all():
            at, K, m, a, b, prefactor = (part[~series] for part in (rest, K, m, a, b, prefactor))
            upper = b <= m
            R, slope = _fraction(b, m, a, upper)
            tail = prefactor / R
            s = a + m
            score = largest_score(b, a) - phi((b - m) / s, (b + a) / s)
            slope = tail * score - tail * (slope / R)
            F[at], S[at] = np.where(upper, tail, 1 - tail), np.where(upper, 1 - tail, tail)
            slope_r[at] = np.where(upper, slope, -slope)
    slope_r[poisson] = kind(0)
    return F, S, slope_mu, slope_r


@_quiet
def log_mass(k, mu, r):
    """log p, its derivative in mu as (number, exponent) and the one in r; -inf where there is no mass.

    Below mu = 1 the number is a sixteenth of the derivative, which may overflow where its mean does not.
    """
    k, kind = np.floor(k), mu.dtype.type
    poisson, r = np.isinf(r), _capped(r)
    s, first, b = r + mu, k == 0, np.maximum(k, 1)
    c = r + b
    value = log_root(r, kind(2 * np.pi) * b * c)
    value = value + (stirling_error(c) - stirling_error(b)) - _deviance(b, mu, r)
    value = np.where(first, -_log_zero(mu, r), np.where(mu == 0, -np.inf, value))
    exponent = np.where(mu < 1, 4, 0)
    part = np.where(mu < 1, kind(0.0625), kind(1))
    slope_mu = np.where(first, -r / s * part, (r / s) * ((k - mu) * part / mu))
    score = np.where(first, 0, largest_score(b, r))
    slope_r = score - phi((k - mu) / s, (k + r) / s)
    slope_r = np.where((mu == 0) & first | poisson, 0, slope_r)
    return np.where(first & (mu == 0), 0, value), slope_mu, exponent, slope_r
