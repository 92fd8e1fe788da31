"""A short real training run: every registered loss and a composite go down, all gradients finite."""

import pytest
import torch
from torch import nn

import torchimpl as losses
from refimpl.conformance import data

CONFIGS = [
    *sorted(losses.LOSS_REGISTRY),
    {"losses": sorted(losses.LOSS_REGISTRY), "weights": [0.01, 1.0, 1.0, 1.0, 0.1]},
]


class Replicates(nn.Module):
    """Mean and dispersion of the read counts of two replicates, from covariates."""

    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(3, 16), nn.Tanh())
        self.heads = nn.ModuleDict({n: nn.Linear(16, 2) for n in ("r1", "r2")})

    def forward(self, covariates):
        hidden = self.body(covariates)
        out = {}
        for name, head in self.heads.items():
            mu, r = torch.nn.functional.softplus(head(hidden)).split(1, dim=1)
            out[name] = {"mu": mu + 1e-3, "r": r + 1e-2}
        return out


def real_batch():
    y1, y2 = (torch.from_numpy(y[:256]).float() for y in data.counts())
    torch.manual_seed(3)
    noisy = torch.stack([torch.log1p(y1 + y2), torch.randn(256), torch.ones(256)], dim=1)
    return noisy, {"r1": {"reads": y1}, "r2": {"reads": y2}, "metadata": {"sd_ratio": torch.ones(256)}}


@pytest.mark.parametrize("config", CONFIGS, ids=lambda c: c if isinstance(c, str) else "composite")
def test_training_goes_down_with_finite_gradients_everywhere(config):
    covariates, batch = real_batch()
    torch.manual_seed(0)
    model, loss = Replicates(), losses.create_composite_loss(config)
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    needs_r = config not in ("concordance_loss_nce", "negative_pearson_loss", "replicate_concordance_mse")
    history = []
    for _ in range(60):
        optimizer.zero_grad()
        value = loss(model(covariates), batch)
        value.backward()
        for name, p in model.named_parameters():
            assert p.grad is not None, name
            assert torch.isfinite(p.grad).all(), name
        assert model.heads["r1"].weight.grad[0].any()
        assert bool(model.heads["r1"].weight.grad[1].any()) == needs_r
        optimizer.step()
        history.append(value.item())
    assert history[-1] < history[0]
    assert min(history[-10:]) < min(history[:10])
