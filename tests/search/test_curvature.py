from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from small_search import SETTING, search_run, small_search
from torch import Tensor
from torch.nn import functional

from thrifty.losses import dice_ce
from thrifty.nets.recalibrate import batch_statistics
from thrifty.search.curvature import dominant_eigenvalue, flat


def test_on_a_quadratic_it_is_the_largest_eigenvalue() -> None:
    generator = torch.Generator().manual_seed(0)
    half = torch.randn(12, 12, generator=generator, dtype=torch.float64)
    hessian, slope = half @ half.T, torch.randn(12, generator=generator, dtype=torch.float64)
    found = dominant_eigenvalue(lambda x: hessian @ x + slope, torch.ones(12, dtype=torch.float64), iterations=200)
    values, vectors = np.linalg.eigh(hessian.numpy())
    assert found.eigenvalue == pytest.approx(values[-1], rel=1e-6)
    assert abs(found.direction.numpy() @ vectors[:, -1]) == pytest.approx(1, rel=1e-6)


def test_a_flat_loss_has_no_curvature() -> None:
    found = dominant_eigenvalue(torch.ones_like, torch.ones(3), iterations=3)
    assert found.eigenvalue == 0
    assert torch.isfinite(found.direction).all()


def test_on_a_supernet_it_agrees_with_the_whole_hessian(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against torch's own second derivatives, column by column, of the same loss with respect to the same logits.

    In a smooth supernet: torch's second derivatives take no notice of kinks, finite differences do.
    """
    monkeypatch.setattr(torch, "relu", functional.silu)
    monkeypatch.setattr(functional, "max_pool2d", functional.avg_pool2d)
    study, _, prepared = search_run(
        tmp_path, search={"epochs": 3, "steps": 2, "warmup": 1, "batch": 2, "temperature": 0.5, "guard": {"curvature": 0}}
    )
    search = small_search(study, prepared, SETTING.__class__(3000, 4, 3, 3))
    for index in range(3):
        search.epoch(index)
    temperature, running = search.architecture.temperature, search.supernet.stem.norm.running_mean.clone()
    before = [p.detach().clone() for p in search.architecture.parameters()]
    found = search.curvature(iterations=40)
    assert all(torch.equal(p, old) for p, old in zip(search.architecture.parameters(), before, strict=True))
    assert torch.equal(search.supernet.stem.norm.running_mean, running)

    images, masks = search._plain(0)
    parameters: list[Tensor] = list(search.architecture.parameters())
    with batch_statistics(search.supernet):
        loss = dice_ce(search._logits(images, search.architecture.relaxed()), masks)
        first = flat(list(torch.autograd.grad(loss, parameters, create_graph=True)))
        rows = [flat(list(torch.autograd.grad(g, parameters, retain_graph=True))) for g in first]
    values = np.linalg.eigvalsh((torch.stack(rows) * temperature**2).double().numpy())
    assert found.eigenvalue == pytest.approx(values[np.abs(values).argmax()], rel=0.05)
