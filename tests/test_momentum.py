"""Inherited optimiser states: what a child begins with, what is kept, and for how long.

mu2Net, arXiv 2205.12755, section 3.
"""

import shutil
from dataclasses import replace
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from test_runs import CONFIG

from munet_nb import Config, Evolution, InputError, System, load_root, task_from_arrays
from munet_nb.bench.protocol import evolution_config
from munet_nb.cli import main
from munet_nb.engine import generation
from munet_nb.engine.feeds import TaskFeed
from munet_nb.engine.generation import Engine
from munet_nb.engine.programs import Programs, shared_programs
from munet_nb.engine.training import Times, train_generation
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef, Model, model_from_json
from munet_nb.models.pool import LayerPool, make_layer
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import count_params, init_chain, layer_names
from munet_nb.network.kinds import Sizes
from munet_nb.runs.files import save_layer
from munet_nb.runs.repair import check_run, describe
from munet_nb.runs.rundir import RunDir, write_run
from munet_nb.search.config import TrainingSettings, config_to_json
from munet_nb.search.journal import State
from munet_nb.search.plans import ChildPlan, LayerPlan

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16, 16), 'uint8')
FEW = CONFIG | dict(
    children_per_task=6, task_iterations=2, batch_size=16, batches=2, mutation_prob=0.5
)


def tasks():
    "Two tasks of noise."
    return [task_from_arrays(n, (IMAGES, np.arange(60) % k)) for n, k in (('two', 2), ('three', 3))]


def start(path, **changes):
    config = Config.preset('demo', **{**FEW, 'inherit_momentum': True, **changes})
    return Evolution.create(path, load_root('random:Ti1'), tasks(), config)


def contents(path):
    layers = {p.name: p.read_bytes() for p in sorted(Path(path, 'pool').iterdir())}
    return {**layers, 'journal': Path(path, 'journal.jsonl').read_bytes()}


def models_of(records) -> list[dict]:
    "All models of a journal but its root."
    return [c['model'] for r in records if r['kind'] == 'generation' for c in r['children']]


def refs(records) -> list[LayerRef]:
    "All references of these models."
    return [ref for m in models_of(records) for ref in model_from_json(m).chain]


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "A run to its end."
    path = tmp_path_factory.mktemp('runs') / 'whole'
    with start(path) as evo:
        while not evo.done:
            evo.step()
    return path


# A run


def test_resumed_after_every_generation_it_is_the_same_run(whole, tmp_path, monkeypatch):
    "Once it dies after a generation was saved, and before the end of its task iteration is."
    path = tmp_path / 'r'
    start(path).close()

    def die(*args):
        raise KeyboardInterrupt

    with Evolution.resume(path, tasks=tasks()) as evo, monkeypatch.context() as m:
        m.setattr('munet_nb.workers.worker.examine', die)
        with pytest.raises(KeyboardInterrupt):
            while True:
                evo.step()
    done = False
    while not done:
        with Evolution.resume(path, tasks=tasks()) as evo:
            if not evo.done:
                evo.step()
            done = evo.done
    assert contents(path) == contents(whole)


def test_a_state_is_kept_as_long_as_a_model_names_it(whole):
    condition = check_run(whole)
    state, files = condition.state, {p.stem for p in (whole / 'pool').iterdir()}
    assert condition.whole and files == state.alive
    kept = [state.models[i] for i in state.kept.values()]
    trained = [ref for m in kept for ref in m.chain if ref.trained_by]
    assert trained and all(ref.momentum for ref in trained)
    assert state.optimiser_states == {ref.momentum for ref in trained} < files
    told = {ref.momentum for ref in refs(RunDir(whole).records())} - {None}
    assert told > state.optimiser_states, 'those of models that are gone are gone'
    assert not any(ref.momentum for ref in state.root.chain)


def test_a_state_outlives_the_model_it_was_made_with_if_another_uses_the_layer():
    def model(task, *chain):
        return Model(f'{task}:0.0.0', task, 'root', chain, HParams(), (0.5,))

    block = LayerRef('block_0', 'block', 10, 'a', 'momentum of block')
    heads = [LayerRef('head', f'head of {t}', 2, t, f'momentum of head of {t}') for t in 'ab']
    a, b = model('a', block, heads[0]), model('b', block, heads[1])
    root = Model('root', None, None, (LayerRef('block_0', 'r', 10, None),), HParams())
    models = {m.id: m for m in (root, a, b)}
    both = State(root, {}, models, kept={'a': a.id, 'b': b.id})
    assert both.optimiser_states == {block.momentum, *(h.momentum for h in heads)}
    assert both.alive == {'r', 'block', 'head of a', 'head of b', *both.optimiser_states}
    one = replace(both, kept={'b': b.id})
    assert one.optimiser_states == {block.momentum, heads[1].momentum}
    assert replace(both, kept={}).alive == {'r'}


def test_nobody_is_charged_for_it_and_the_disk_figures_tell_it(whole, capsys):
    assert main(['check', str(whole)]) == 0
    n = len(check_run(whole).state.optimiser_states)
    out = capsys.readouterr().out
    assert f'beside them {n} of {n} needed optimiser states are whole' in out
    system = System.open(whole)
    distinct = {ref.digest: ref.n_params for m in system.models.values() for ref in m.chain}
    assert system.params_per_task == sum(distinct.values()) / 2
    assert set(system._pool) == set(distinct), 'to predict, no optimiser state is read'


def test_a_layer_that_is_shared_keeps_its_state_and_the_journal_tells_only_where_it_is_on(
    whole, tmp_path
):
    records = RunDir(whole).records()
    found = {}
    for ref in refs(records):
        if ref.trained_by:
            found.setdefault(ref.digest, set()).add(ref.momentum)
    assert all(len(states) == 1 for states in found.values())
    with start(tmp_path / 'off', inherit_momentum=False) as evo:
        evo.step()
        assert not any('momentum' in ref for m in models_of(evo.records) for ref in m['chain'])
        assert 'inherit_momentum' not in evo.records[0]['config']
    assert records[0]['config']['inherit_momentum'] is True


# Files that are not what they should be


@pytest.fixture
def run(whole, tmp_path):
    return Path(shutil.copytree(whole, tmp_path / 'run'))


def test_an_altered_or_missing_state_is_refused_by_name_and_the_system_still_predicts(run):
    digest = min(check_run(run).state.optimiser_states)
    path = run / 'pool' / f'{digest}.safetensors'
    good = path.read_bytes()
    for i in range(0, len(good), max(1, len(good) // 12)):
        path.write_bytes(good[:i] + bytes([good[i] ^ 1 << i % 8]) + good[i + 1 :])
        assert digest in check_run(run).damaged, i
    for data, told in ((good[:-1], 'truncated'), (good[:-1] + b'\x55', 'altered'), (None, 'missing')):
        path.write_bytes(data) if data else path.unlink()
        with pytest.raises(InputError, match=told) as e:
            Evolution.resume(run, tasks=tasks())
        assert digest in str(e.value)
    condition = check_run(run)
    assert f'{digest[:12]}...: is missing' in describe(condition)
    assert 'models that lack' not in describe(condition)
    System.open(run).predict('two', IMAGES[:2])


WRONG = {  # in place of a head's state, and what is told
    'another layer': 'has 384 parameters, not 386',
    'parameters': 'is of type float32: must be bfloat16',
    'another shape': 'its shape must be',
}


@pytest.mark.parametrize('what', WRONG)
def test_a_state_that_does_not_fit_its_layer_is_refused(run, tmp_path, what):
    state = check_run(run).state
    model = state.models[state.kept['two']]
    head = model.layers['head']
    turned = {'kernel': np.ones((2, 192), jnp.bfloat16), 'bias': np.ones(2, jnp.bfloat16)}
    turned = make_layer({'dense': turned})
    save_layer(run / 'pool', turned)
    norm = make_layer({name: np.ones(192, jnp.bfloat16) for name in ('scale', 'bias')})
    save_layer(run / 'pool', norm)
    wrong = {
        'another layer': norm.digest,
        'parameters': head.digest,
        'another shape': turned.digest,
    }[what]
    records = RunDir(run).records()
    told = [ref for m in models_of(records) for ref in m['chain']]
    for ref in told:
        if ref.get('momentum') == head.momentum:
            ref['momentum'] = wrong
    (tmp_path / 'altered').mkdir()
    write_run(tmp_path / 'altered', records)
    shutil.copytree(run / 'pool', tmp_path / 'altered/pool')
    told = f'optimiser state of layer head, {wrong}: .*{WRONG[what]}'
    with pytest.raises(InputError, match=told):
        Evolution.resume(tmp_path / 'altered', tasks=tasks())


# What a child begins with

ARCH, SIZES = get_arch('Ti1'), Sizes(16, 3, 16)
NAMES = layer_names(1, adapter=(0,))
TRAINED = ('adapter_0', 'norm', 'head')
RATE, MOMENTUM = 0.05, 0.9


@pytest.fixture(scope='module')
def parts():
    "Layers, and a momentum for each that is trained."
    params = init_chain(jax.random.key(0), ARCH, NAMES, SIZES)
    rng = np.random.default_rng(1)

    def trace(a):
        return rng.normal(size=a.shape).astype(jnp.bfloat16)

    layers = {n: make_layer(p) for n, p in params.items()}
    return layers, {n: make_layer(jax.tree.map(trace, params[n])) for n in TRAINED}


def train(parts, inherits=True, segments=1, given=TRAINED, programs=None, **hparams):
    "A child that trains an adapter, the norm and the head, and the momentum it hands over."
    layers, traces = parts
    plans = tuple(
        LayerPlan(
            n, count_params(ARCH, n, SIZES), n in TRAINED, layers[n].digest,
            trained_by='other', momentum=traces[n].digest if n in given else None,
        )
        for n in NAMES
    )
    schedule = dict(schedule='constant', lr=2 * RATE, momentum=MOMENTUM, adapter_dim=16)
    hparams = HParams(**{**schedule, 'num_layers': 1, 'image_size': 16, **hparams})
    plan = ChildPlan('c', 'three', 'root', hparams, plans)
    settings = TrainingSettings(16, 1, segments, 10)
    pool = LayerPool([*layers.values(), *traces.values()])
    feed = TaskFeed(tasks()[1], settings)
    programs = shared_programs() if programs is None else programs
    engine = Engine(ARCH, pool, feed, settings, programs, inherit_momentum=inherits)
    rng = np.random.default_rng(0)
    return train_generation(engine, [plan], rng, jax.random.key(0), Times())[0]


def digests(layers):
    return {name: layer.digest for name, layer in layers.items()}


def flat(layers):
    "All numbers of layers, float32."
    found = {f'{n}/{p}': a for n, layer in layers.items() for p, a in layer.flat.items()}
    return {name: np.asarray(a, np.float32) for name, a in found.items()}


@pytest.mark.parametrize('nesterov', [False, True])
def test_the_first_update_is_what_one_computes_by_hand(parts, nesterov):
    """After one step with rate r and momentum m a trace t has moved a parameter by r m t more.

    With Nesterov's rule by r m m t. What is handed over is the gradient plus m t.
    """
    plain, child = (train(parts, given=given, nesterov=nesterov) for given in ((), TRAINED))
    traces = flat(parts[1])
    assert set(child.layers) == set(child.momentum) == set(TRAINED)
    factor = RATE * MOMENTUM * (MOMENTUM if nesterov else 1)
    for name, p in flat(plain.layers).items():
        more = p - flat(child.layers)[name]
        np.testing.assert_allclose(more, factor * traces[name], rtol=1e-3, atol=1e-6)
    for name, m in flat(plain.momentum).items():
        expected = m + np.float32(MOMENTUM) * traces[name]
        np.testing.assert_allclose(flat(child.momentum)[name], expected, rtol=1e-2, atol=1e-3)
    assert {a.dtype for layer in child.momentum.values() for a in layer.flat.values()} == {
        np.dtype(jnp.bfloat16)
    }


def test_without_the_switch_nothing_is_read_or_handed_over_and_programs_are_the_same(parts):
    programs = Programs()
    off = train(parts, inherits=False, programs=programs)
    before = programs.compilations['train_steps']
    zeros = train(parts, given=(), programs=programs)
    train(parts, programs=programs)
    assert programs.compilations['train_steps'] == before == 1
    assert off.momentum == {} and zeros.momentum
    assert digests(off.layers) == digests(zeros.layers)


def test_padded_layers_train_as_those_in_their_own_sizes(parts, monkeypatch):
    "An adapter of 16 units in one of 128, a head of three classes in one of 64."
    children = []
    for masked in (False, True):
        monkeypatch.setattr(generation, 'use_masks', lambda *_, masked=masked: masked)
        children.append(train(parts, segments=4))
    own, padded = children
    for name in TRAINED:
        shapes = [{p: a.shape for p, a in c.momentum[name].flat.items()} for c in children]
        assert shapes[0] == shapes[1]
    for a, b in ((own.layers, padded.layers), (own.momentum, padded.momentum)):
        b = flat(b)
        for name, x in flat(a).items():
            np.testing.assert_allclose(b[name], x, rtol=2e-2, atol=2e-3, err_msg=name)


def test_the_state_is_of_the_evaluation_whose_parameters_are_kept(parts):
    "A child that is best at first hands over what one hands over that stops there."
    long = train(parts, segments=4, lr=0.02)
    best = int(np.argmax(long.evaluations)) + 1
    short = train(parts, segments=best, lr=0.02)
    for a, b in ((long.layers, short.layers), (long.momentum, short.momentum)):
        assert digests(a) == digests(b)


# The ablation


def test_the_ablation_is_a_method_of_the_comparison():
    config = Config.preset('characters8')
    changed = evolution_config('munet_1+inherit_momentum=True', config)
    assert changed == replace(config, scale_factor=1.0, inherit_momentum=True)
    assert 'inherit_momentum' not in config_to_json(config)
    with pytest.raises(InputError, match='inherit_momentum must be True or False'):
        evolution_config('munet_1+inherit_momentum=1', config)
    with pytest.raises(InputError, match='inherit_momentum'):
        Config(inherit_momentum=1)
