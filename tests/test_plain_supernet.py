"""The plain supernet of the benchmarks against the fast one, where the mathematics is the same: outputs and all gradients.

A family of separable ops mixes its kernels before one norm, which is another function than the sum of normed branches; with one
op chosen on every edge it is the same one. Spaces without such ops agree under any weights.
"""

from __future__ import annotations

import pytest
import torch
from architectures import random_parameters
from torch import Tensor

from benchmarks.plain_supernet import PlainSupernet, copy_weights
from thrifty.losses import dice_ce
from thrifty.nets.layers import Norm
from thrifty.nets.supernet import Relaxed, Supernet
from thrifty.space.cost import Costs
from thrifty.space.genotype import CELL_TYPES
from thrifty.space.schema import Space, load_space

LEVELS = 3


def without_families() -> Space:
    """The ops of the default space, but for the separable ones that are mixed in weight space."""
    values = load_space("thrifty").model_dump(by_alias=True)
    values["ops"] = {
        "down": ["avg_pool", "max_pool", "squeeze", "dep_sep_conv_3"],
        "up": ["up_sample", "squeeze", "dep_sep_conv_3", "conv_3"],
        "normal": ["identity", "squeeze", "dep_sep_conv_3"],
    }
    return Space.model_validate(values)


def leaves(space: Space, one_hot: bool) -> Relaxed:
    """Weights of the branches, each one a leaf: of a random relaxation, with one op alone on every edge if `one_hot`."""
    soft = random_parameters(Costs(space, 4, LEVELS, 2, 3), seed=3).relaxed()
    alpha = {t: [a.detach().clone() for a in soft.alpha[t]] for t in CELL_TYPES}
    if one_hot:
        alpha = {t: [torch.eye(len(a), dtype=torch.float64)[n % len(a)] for n, a in enumerate(alpha[t])] for t in CELL_TYPES}
    edges = {t: [e.detach().clone() for e in soft.edges[t]] for t in CELL_TYPES}
    gates = {node: gate.detach().clone() for node, gate in soft.gates.items()}
    relaxed = Relaxed(alpha, edges, gates)
    for leaf in [*alpha["down"], *alpha["up"], *edges["down"], *edges["up"], *gates.values()]:
        leaf.requires_grad_()
    return relaxed


def gradients(network: torch.nn.Module, images: Tensor, masks: Tensor, relaxed: Relaxed) -> tuple[Tensor, list[Tensor]]:
    """The logits, and the gradients of the loss with respect to images, edges, gates and alpha, in this order."""
    inputs = [images, *relaxed.edges["down"], *relaxed.edges["up"], *relaxed.gates.values(), *relaxed.alpha["down"]]
    inputs += relaxed.alpha["up"]
    logits = network(images, relaxed)
    loss = dice_ce(logits, masks)
    network.zero_grad()
    loss.backward(retain_graph=True)
    return logits, list(torch.autograd.grad(loss, inputs))


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("one_hot", [True, False])
def test_the_plain_supernet_is_the_fast_one(one_hot: bool, training: bool) -> None:
    torch.manual_seed(0)
    space = load_space("thrifty") if one_hot else without_families()
    fast = Supernet(space, 4, LEVELS, 2, 3).double().train(training)
    for norm in fast.modules():
        if isinstance(norm, Norm):
            norm.weight.data.uniform_(0.5, 1.5)
            norm.bias.data.uniform_(-1, 1)
            norm.running_mean.uniform_(-1, 1)
            norm.running_var.uniform_(0.5, 2)
    plain = PlainSupernet(space, 4, LEVELS, 2, 3).double().train(training)
    copy_weights(fast, plain)
    images, masks = torch.randn(2, 2, 32, 32, dtype=torch.float64, requires_grad=True), torch.randint(3, (2, 32, 32))
    relaxed = leaves(space, one_hot)
    expected, expected_gradients = gradients(plain, images, masks, relaxed)
    logits, found = gradients(fast, images, masks, relaxed)
    assert expected.std() > 1e-3
    torch.testing.assert_close(logits, expected, rtol=0, atol=1e-9)
    # A member of a family that is not chosen gets its own gradient of alpha from the mixture in weight space.
    kept = len(found) if not one_hot else len(found) - len(relaxed.alpha["down"]) - len(relaxed.alpha["up"])
    for value, wanted in zip(found[:kept], expected_gradients[:kept], strict=True):
        torch.testing.assert_close(value, wanted, rtol=0, atol=1e-9)
    assert max(float(g.abs().max()) for g in found[:kept]) > 1e-3
    assert_equal_weight_gradients(fast, plain, one_hot)


def assert_equal_weight_gradients(fast: Supernet, plain: PlainSupernet, one_hot: bool) -> None:
    """Through `copy_weights` itself: the gradients of the fast supernet, laid out as weights of the plain one."""
    own = {name: parameter.grad for name, parameter in plain.named_parameters()}
    carried = type(fast)(fast.space, 4, LEVELS, 2, 3).double()
    carried.load_state_dict(grads_of(fast), strict=False)
    received = PlainSupernet(fast.space, 4, LEVELS, 2, 3).double()
    copy_weights(carried, received)
    compared = 0
    for name, value in received.named_parameters():
        gradient = own[name]
        assert gradient is not None
        if one_hot and float(gradient.abs().max()) == 0:
            continue  # of a branch of weight 0: the point-wise part that it shares in the fast supernet belongs to another
        torch.testing.assert_close(value.detach(), gradient, rtol=0, atol=1e-9)
        compared += 1
    assert compared > 100


def grads_of(network: torch.nn.Module) -> dict[str, Tensor]:
    return {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in network.named_parameters()}
