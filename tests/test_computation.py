"A price for computation: what a prediction computes, and what a search makes of its price."

import jax
import jax.numpy as jnp
import pytest
from flax.traverse_util import unflatten_dict

from toy import ARCH, ToyRun, info, toy_layer

from munet_nb.checks import InputError
from munet_nb.models.accounting import prediction_flops
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import (
    apply_chain,
    chain_flops,
    chain_kinds,
    layer_names,
    layer_shapes,
)
from munet_nb.network.kinds import Sizes, layer_kind
from munet_nb.runs.rundir import RunDir, example_run
from munet_nb.search.config import Config
from munet_nb.search.plans import TrainedChild
from munet_nb.search.records import check_records


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
        ('Ti1-prenorm-front5-map', [], Sizes(96, classes=10), 0.98),
        ('Ti1-front0-gap', [0], Sizes(96, classes=10), 0.98),
        ('Ti2-erf', [0], Sizes(32, adapter_dim=8), 0.95),  # a polynomial of the error function
    ],
)
def test_a_prediction_computes_what_xla_counts(name, adapters, sizes, products):
    "All but LayerNorm, softmax, GELU, biases and residual sums, which are not counted."
    arch = get_arch(name)
    names = layer_names(arch.depth, arch, adapter=adapters)
    share = chain_flops(arch, names, sizes) / counted_by_xla(arch, names, sizes)
    assert products < share < 0.998


def larger_is_better(plan, salt) -> TrainedChild:
    "A child whose accuracy tells its image size and its depth."
    layers = {}
    for layer in plan.layers:
        if layer.trainable or layer.resize:
            layers[layer.name] = toy_layer(plan.id, layer.name, salt)
    accuracy = 0.6 + 0.1 * plan.hparams.image_size / 64 + 0.03 * plan.hparams.num_layers
    return TrainedChild(plan, (accuracy,), layers)


def kept_after(compute_factor: float) -> list:
    "The models that a search over image sizes and depths keeps."
    config = Config(
        compute_factor=compute_factor,
        mutation_prob=0.3,
        children_per_task=40,
        search={'image_size': (16, 32, 48, 64), 'adapter_dim': (8, 32, 128)},
    )
    run = ToyRun(config, [info(n) for n in 'ab'], pretend_child=larger_is_better)
    run.finish()
    return run.state.others(None)


def test_a_search_that_pays_for_computation_ends_with_less_of_it():
    def computed(models):
        return sum(prediction_flops(m, ARCH, 2) for m in models)

    free, dear = kept_after(1.0), kept_after(0.3)
    assert all(m.hparams.image_size > 32 and m.hparams.num_layers == 3 for m in free)
    assert all(m.hparams.image_size == 16 and m.hparams.num_layers == 1 for m in dear)
    assert computed(dear) < 0.1 * computed(free)


def test_a_journal_in_which_the_price_is_none_is_refused():
    records = RunDir(example_run()).records()
    check_records([*records, {'kind': 'config_changed', 'values': {'compute_factor': 0.5}}])
    altered = [*records, {'kind': 'config_changed', 'values': {'compute_factor': 1.5}}]
    with pytest.raises(InputError, match=r'compute_factor = 1.5: must be a number in \(0, 1\]'):
        check_records(altered)
