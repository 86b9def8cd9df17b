"The engine: one result whatever the devices, memory as predicted, programs kept."

import gc
import json
import os
import subprocess
import sys
from collections import ChainMap
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from munet_nb import InputError, TrainingSettings
from munet_nb.bench import overheads
from munet_nb.bench.work import CASES, Case, make_work
from munet_nb.engine import generation, training
from munet_nb.engine.devices import batch_parts, chunk_batches, memory_plan, place
from munet_nb.engine.feeds import TaskFeed, eval_indices
from munet_nb.engine.generation import Engine
from munet_nb.engine.programs import Programs, shared_programs
from munet_nb.engine.steps import train_steps
from munet_nb.engine.training import Times, train_generation
from munet_nb.models.pool import make_layer
from munet_nb.network.products import narrow_product
from munet_nb.network.arch import get_arch
from munet_nb.runs import files
from munet_nb.search.plans import Race
from munet_nb.tasks.splits import part

CASE = Case('Ti2', 32, 512, 3)  # four parts; a full block, an adapter, a top block


def digests(trained):
    return [{name: layer.digest for name, layer in t.layers.items()} for t in trained]


def by_work(plans):
    "The plans with the most parameters to train first."

    def trained(plan):
        return sum(layer.n_params for layer in plan.layers if layer.trainable)

    return sorted(plans, key=lambda plan: -trained(plan))


def train(work, plans, settings=None, programs=None, traces=None, **kwargs):
    settings = settings or work.evo.config.training
    feed = TaskFeed(work.evo.tasks['task2'], settings)
    programs = shared_programs() if programs is None else programs
    engine = Engine(work.evo.arch, work.evo.pool, feed, settings, programs)
    if traces is not None:
        engine = replace(engine, pool=ChainMap(traces, work.evo.pool), inherit_momentum=True)
    rng = np.random.default_rng(0)
    return train_generation(engine, plans, rng, work.key, Times(), **kwargs)


def with_momentum(work, plans):
    "The same children with a momentum for each layer that they take and train; and all of these."
    traces = {}

    def inherit(layer):
        if not (layer.trainable and layer.digest):
            return layer
        params = work.evo.pool[layer.digest].params
        trace = make_layer(jax.tree.map(lambda a: np.asarray(a / 8, jnp.bfloat16), params))
        traces[trace.digest] = trace
        return replace(layer, momentum=trace.digest)

    plans = [replace(plan, layers=tuple(map(inherit, plan.layers))) for plan in plans]
    return plans, traces


def inherited(work):
    "What the largest and the smallest child make with momentum: digests of layers, and of theirs."
    plans, traces = with_momentum(work, [work.everything(), by_work(work.plans)[-1]])
    trained = train(work, plans, traces=traces)
    momentum = [{name: layer.digest for name, layer in t.momentum.items()} for t in trained]
    return [digests(trained), momentum]


def mixed(work):
    "What the largest and the smallest child make in mixed precision."
    settings = replace(work.evo.config.training, precision='bfloat16')
    return digests(train(work, [work.everything(), by_work(work.plans)[-1]], settings))


def raced(work):
    "How long children are trained that race, and what they make."
    plans = [work.everything(), *by_work(work.plans)[-2:]]
    trained = train(work, plans, race=Race(1, (1.0,) * 3))
    return [[len(t.evaluations) for t in trained], digests(trained)]


@pytest.fixture(scope='module')
def work():
    with make_work(CASE) as w:
        yield w


@pytest.fixture(scope='module')
def plans(work):
    """A child that trains everything, and three of those that evolution drew.

    One with the longest suffix, and two with the shortest, which share a trunk.
    """
    drawn = by_work(work.plans)
    return [work.everything(), drawn[0], *drawn[-2:]]


@pytest.fixture(scope='module')
def expected(work, plans):
    return digests(train(work, plans))


DEVICES = '''
import json, sys
sys.path.insert(0, {tests!r})
import jax, test_training as t
from munet_nb.engine import generation, training
used, original = [], generation.place
def place(*args):
    used[:] = original(*args)
    return used
generation.place = place
with t.make_work(t.CASE) as work:
    got = t.digests(t.train(work, [work.everything(), t.by_work(work.plans)[-1]]))
    widths = sorted(len(on) for on in used)
    told = [len(jax.devices()), widths, len({{d for on in used for d in on}}), got]
    print(json.dumps([*told, t.inherited(work), t.raced(work), t.mixed(work)]))
'''


@pytest.mark.long
def test_eight_devices_train_the_same_layers_as_one(work, expected):
    """Children are spread, and every new layer has the same bytes; so has an inherited momentum.

    The largest is split over several devices, one above a frozen trunk is not.
    """
    flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
    env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    code = DEVICES.format(tests=str(Path(__file__).parent))
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    told = json.loads(out.stdout.strip().splitlines()[-1])
    devices, widths, used, got, with_states, after_a_race, in_mixed_precision = told
    assert devices == 8
    assert widths[0] == 1 and widths[-1] >= 2 and used >= 4, (widths, used)
    assert got == [expected[0], expected[-1]]
    assert with_states == inherited(work)
    assert after_a_race == raced(work)
    assert in_mixed_precision == mixed(work)
    layers, momentum = with_states
    assert [m.keys() for m in momentum] == [m.keys() for m in layers]
    assert layers != got, 'momentum that was inherited moves the parameters'


def test_a_small_budget_changes_memory_and_time_but_not_the_result(work, plans, expected):
    "Nothing resident, chunks of one batch, validation outputs computed again each time."
    roomy = work.evo.config.training
    settings = replace(roomy, device_budget=0.5)
    feed, whole = (TaskFeed(work.evo.tasks['task2'], s).train for s in (settings, roomy))
    chunks = [
        chunk_batches(work.evo.arch, s, CASE.image_size, f, len(plans) + 2)
        for s, f in ((settings, feed), (roomy, whole))
    ]
    assert feed.resident is None and whole.resident is not None
    assert chunks == [1, CASE.batches]
    assert digests(train(work, [plans[0], plans[-1]], settings)) == [expected[0], expected[-1]]


def test_small_tasks_are_loaded_by_the_same_programs_however_many_images_they_have(work):
    settings, task = work.evo.config.training, work.evo.tasks['task2']
    smaller = replace(task, name='smaller', train=part(task.train, range(100)))
    programs = Programs()
    for one in (task, smaller):
        feed = TaskFeed(one, settings)
        engine = Engine(work.evo.arch, work.evo.pool, feed, settings, programs)
        rng = np.random.default_rng(0)
        train_generation(engine, by_work(work.plans)[-1:], rng, work.key, Times())
    assert programs.compilations['load_train'] == programs.compilations['load_eval'] == 1


def test_children_alone_are_the_same_as_in_a_generation(work, plans, expected):
    assert digests(train(work, plans[-1:])) == expected[-1:]


def test_the_winners_of_a_race_are_the_same_as_without_one(work, plans):
    "Who goes on is not told apart from who was alone."
    whole = train(work, plans)
    segments = work.evo.config.training.segments
    raced = train(work, plans, race=Race(1, (1.0,) * len(plans)))
    lengths = [len(t.evaluations) for t in raced]
    assert sorted(lengths) == [1, 1, segments, segments]
    for one, other, length in zip(raced, whole, lengths):
        assert one.evaluations == other.evaluations[:length]
        if length == segments:
            assert digests([one]) == digests([other])
    best = max(other.evaluations[0] for other in whole)
    assert any(one.evaluations[0] == best for one in raced if len(one.evaluations) == segments)


@pytest.mark.core
def test_mixed_precision_trains_float32_parameters_near_those_of_float32():
    "And takes no more memory than is predicted."
    with make_work(Case('Ti1', 32, 64, 2)) as work:
        plan, roomy, programs = work.everything(), work.evo.config.training, Programs()
        mixed = replace(roomy, precision='bfloat16')
        (near,), (exact,) = train(work, [plan], mixed, programs), train(work, [plan])
    off = []
    for name, layer in exact.layers.items():
        for path, numbers in layer.flat.items():
            assert near.layers[name].flat[path].dtype == np.float32
            off.append(np.abs(near.layers[name].flat[path] - numbers).max())
    assert 0 < max(off) < 0.01, off
    params = sum(layer.n_params for layer in plan.layers)
    told = memory_plan(get_arch('Ti1'), mixed, 32, 1, params)
    running = sum(v for k, v in told.items() if 'step' in k)
    assert temporary_bytes(programs) <= running <= 4 * temporary_bytes(programs), told


@pytest.mark.parametrize('precision', ['float32', 'bfloat16'])
def test_what_only_accelerators_take_computes_nearly_the_same(precision, monkeypatch):
    "Elsewhere than on a CPU some code takes another way. It is run here as well, on a CPU."
    with make_work(Case('Ti1', 32, 64, 2)) as work:
        settings = replace(work.evo.config.training, precision=precision)
        plans = [work.everything(), by_work(work.plans)[-1]]
        usual = train(work, plans, settings, Programs())
        monkeypatch.setattr(jax, 'default_backend', lambda: 'gpu')
        elsewhere = train(work, plans, settings, Programs())
    for one, other in zip(usual, elsewhere):
        assert one.evaluations == pytest.approx(other.evaluations, abs=0.05)
        for name, layer in one.layers.items():
            for path, numbers in layer.flat.items():
                found = other.layers[name].flat[path]
                np.testing.assert_allclose(found, numbers, atol=1e-4 if precision == 'float32' else 0.01)


def live_bytes():
    return sum(a.nbytes for a in jax.live_arrays())


def temporary_bytes(programs):
    "What the largest program that trains takes while it runs."
    made = programs.made(train_steps)
    return max(program.memory_analysis().temp_size_in_bytes for program in made)


def test_memory_is_as_predicted(work, plans):
    settings, arch = replace(work.evo.config.training, device_budget=64.0), work.evo.arch
    programs = Programs()
    params = sum(layer.n_params for layer in plans[0].layers)
    for children, traces in ((plans, None), with_momentum(work, plans)):
        gc.collect()
        before, peak = live_bytes(), []

        def watch(*_, before=before, peak=peak):
            peak.append(live_bytes() - before)

        train(work, children, settings, programs, traces, progress=watch)
        inherits, size = traces is not None, CASE.image_size
        plan = memory_plan(arch, settings, size, len(plans), params, inherit_momentum=inherits)
        held = sum(v for k, v in plan.items() if 'step' not in k)
        assert held / 3 < max(peak) <= held, (max(peak), plan)
    temporary = temporary_bytes(programs)
    running = sum(v for k, v in plan.items() if 'step' in k)
    assert temporary <= running <= 4 * temporary, (temporary, plan)


def test_a_generation_reads_each_layer_once(work, plans, monkeypatch):
    read, load = [], files.load_layer

    def counted(folder, digest):
        read.append(digest)
        return load(folder, digest)

    monkeypatch.setattr(files, 'load_layer', counted)
    gc.collect()
    train(work, plans[1:])
    needed = {layer.digest for plan in plans[1:] for layer in plan.layers if layer.digest}
    assert sorted(read) == sorted(needed)


def test_held_validation_outputs_are_counted_by_trunk(work):
    "Trunks that end in the same kind of layer have outputs of the same shape; each takes its room."
    settings = replace(work.evo.config.training, validation_batches=2)
    feed, evo = TaskFeed(work.evo.tasks['task2'], settings), work.evo
    engine = Engine(evo.arch, evo.pool, feed, settings, Programs())
    g = generation.begin_generation(engine, work.plans, 1, work.key)
    index = eval_indices(len(feed.validation.split), settings.batch_size)
    counted = training._held_bytes(g, len(index))
    training._evaluate(g, index)
    g.close()
    held = {id(x): x for _, _, found in g.held for _, x in found}
    assert counted == sum(a.nbytes for a in held.values())


def test_an_awkward_number_of_rows_costs_no_memory():
    """Four images of 577 tokens, as L/16 has them at 384 pixels.

    The gradient of an adapter's product is not kept in hundreds of pieces.
    """
    x, k, g = jnp.ones((4 * 577, 1024)), jnp.ones((1024, 32)), jnp.ones((4 * 577, 32))

    def product(x, k):
        return narrow_product(x, k, jnp.float32)

    def gradient(x, k, g):
        return jax.vjp(product, x, k)[1](g)[1]

    f = jax.jit(gradient).lower(x, k, g).compile()
    np.testing.assert_array_equal(f(x, k, g), np.full((1024, 32), 4 * 577.0))
    assert f.memory_analysis().temp_size_in_bytes < 2 * x.nbytes + g.nbytes


def test_placing_spreads_the_load(work):
    devices = list('abcdefgh')
    assert set(place(work.plans, 1, ['a'])) == {('a',)}
    on = place(work.plans, 8, devices)
    assert len({d for group in on for d in group}) > 4
    assert all(len(group) in (1, 2, 4, 8) for group in on)
    four = [replace(work.plans[0], id=str(i)) for i in range(4)]
    assert sorted(place(four, 1, ['a', 'b'])) == [('a',)] * 2 + [('b',)] * 2


def test_parts_depend_on_the_configuration_alone(work):
    sizes = (64, 100, 256, 512, 4096)
    parts = [batch_parts(work.evo.arch, TrainingSettings(b), 32) for b in sizes]
    assert parts == [1, 1, 2, 4, 8]


def test_a_generation_is_timed_in_a_system_of_any_size(monkeypatch):
    monkeypatch.setitem(CASES, 'Ti3', Case('Ti1', 16, 8, 1))
    monkeypatch.setattr(overheads, 'get_arch', lambda name: get_arch('Ti1'))
    done = []
    taken = overheads.many_tasks((1,), 1, done.append)
    assert taken[1] > 0
    assert done == ['1 tasks'] * 3


def test_a_pool_of_many_tasks_holds_only_what_is_in_use(work):
    gc.collect()
    pool = work.evo.pool
    assert len(pool) > 8 and len(pool._held) == 0
    layer = pool[next(iter(pool))]
    assert len(pool._held) == 1
    del layer
    gc.collect()
    assert len(pool._held) == 0


CACHED = '''
import jax, numpy as np
from munet_nb.engine.programs import Programs
def twice(x):
    return jax.numpy.sort(jax.numpy.sin(x)) @ jax.numpy.cos(x)
Programs()(twice, (), np.arange(8.0, dtype=np.float32))
'''


@pytest.mark.parametrize('switch', [True, False])
def test_compiled_programs_are_kept_in_the_users_cache_directory_unless_switched_off(
    tmp_path, switch
):
    told = ('JAX_COMPILATION_CACHE_DIR', 'JAX_ENABLE_COMPILATION_CACHE')
    env = {k: v for k, v in os.environ.items() if k not in told}
    env |= {'XDG_CACHE_HOME': str(tmp_path), 'HOME': str(tmp_path)}
    env |= {'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0'}
    if not switch:
        env |= {'JAX_ENABLE_COMPILATION_CACHE': 'false'}
    for _ in range(2):
        run = [sys.executable, '-c', CACHED]
        out = subprocess.run(run, env=env, capture_output=True, text=True)
        assert out.returncode == 0, out.stderr
    kept = list((tmp_path / 'munet_nb').glob('*twice*cache'))
    assert len(kept) == (1 if switch else 0), 'compiled by the first process, read by the second'


def test_bad_settings_are_named():
    with pytest.raises(InputError, match='precision'):
        TrainingSettings(precision='float16')
    with pytest.raises(InputError, match='device_budget'):
        TrainingSettings(device_budget=-1.0)
