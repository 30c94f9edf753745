"""Flows of zuko for several tests, made without switching torch's checks off."""

import importlib.util

import pytest
from torch import nn

from vaekit.distributions.flows import import_zuko

needs_zuko = pytest.mark.skipif(
    importlib.util.find_spec("zuko") is None, reason="zuko is not installed"
)


def maf(dim: int, context: int = 0, **options) -> nn.Module:
    """A smooth, float64 masked autoregressive flow that is far from the identity."""
    flow = import_zuko().flows.MAF(
        dim, context, transforms=2, hidden_features=(16,), activation=nn.Tanh, **options
    )
    for parameter in flow.parameters():
        nn.init.normal_(parameter, std=0.3)
    return flow.double()
