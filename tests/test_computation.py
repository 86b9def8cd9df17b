"A price for computation: what a prediction computes, and what a search makes of its price."

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from munet_nb.network.arch import get_arch
from munet_nb.network.chain import (
    apply_chain,
    chain_flops,
    chain_kinds,
    layer_names,
    layer_shapes,
)
from munet_nb.network.kinds import Sizes, layer_kind


def counted_by_xla(arch, names, sizes) -> float:
    "Floating-point operations of the compiled program for one image."

    def shaped(name):
        shapes = layer_shapes(arch, layer_kind(name), sizes)
        leaves = {path: jax.ShapeDtypeStruct(s, jnp.float32) for path, s in shapes.items()}
        return unflatten_dict(leaves, sep='/')

    size = sizes.image_size
    image = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    program = jax.jit(lambda params, x: apply_chain(arch, chain_kinds(names), params, x))
    return program.lower(list(map(shaped, names)), image).compile().cost_analysis()['flops']


@pytest.mark.parametrize(
    ('name', 'adapters', 'sizes', 'products'),  # the least share of XLA's count
    [
        ('Ti3', [0, 1, 2], Sizes(32, classes=47, adapter_dim=8), 0.98),
        ('Ti3', [1], Sizes(96, classes=10, adapter_dim=128), 0.98),
        ('Ti1/8', [], Sizes(16), 0.98),
        ('S2/32', [1], Sizes(224, classes=1000, adapter_dim=16), 0.98),
        ('B1', [0], Sizes(384, classes=2), 0.98),
        ('Ti2-erf', [0], Sizes(32, adapter_dim=8), 0.95),  # a polynomial of the error function
    ],
)
def test_a_prediction_computes_what_xla_counts(name, adapters, sizes, products):
    "All but LayerNorm, softmax, GELU, biases and residual sums, which are not counted."
    arch = get_arch(name)
    names = layer_names(arch.depth, adapter=adapters)
    share = chain_flops(arch, names, sizes) / counted_by_xla(arch, names, sizes)
    assert products < share < 0.998
