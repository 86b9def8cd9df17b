"""The paper's benchmarks: every number of their presets.

Their 21 data sets come through TFDS's mocks.
"""

import pytest
import tensorflow_datasets as tfds
from paper_data import DATA, ONE_GENERATION, VDD, mocked

from munet_nb import Config, Evolution, load_benchmark, load_root
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import reference_params
from munet_nb.tasks.benchmarks import BENCHMARKS
from munet_nb.tasks.sources import load_source

PAPER = ('characters', 'decathlon', 'vit')
ALL = [n for b in PAPER for n in BENCHMARKS[b]]

# Section 9 of the specification, column by column, and what the paper's authors use in all three.
COMMON = dict(
    lr=0.01,
    schedule='cosine',
    momentum=0.9,
    nesterov=False,
    adapter_dim=32,
    area_min=0.05,
    aspect=0.75,
    flip=True,
    brightness=0.0,
    contrast=0.0,
    saturation=0.0,
    hue=0.0,
    scale_factor=1.0,
    mutation_prob=0.1,
    cloning_prob=0.0,
    adapter_prob=0.0,
    seed_segments=0,
    auto_tune=True,
)
NUMBERS = {
    'characters': dict(
        image_size=32,
        batch_size=512,
        batches=100,
        segments=5,
        validation_batches=10,
        children_per_task=64,
        children_per_generation=8,
        task_iterations=2,
        tune_num_layers=True,
        warmup_ratio=0.1,
    ),
    'decathlon': dict(
        image_size=80,
        batch_size=256,
        batches=200,
        segments=30,
        validation_batches=10,
        children_per_task=64,
        children_per_generation=8,
        task_iterations=2,
        tune_num_layers=True,
        warmup_ratio=0.1,
    ),
    'vit': dict(
        image_size=384,
        batch_size=32,
        batches=4000,
        segments=2,
        validation_batches=312,
        children_per_task=16,
        children_per_generation=8,
        task_iterations=32,
        tune_num_layers=False,
        warmup_ratio=0.05,
    ),
}
SEARCH = dict(
    adapter_dim=(8, 16, 32, 64, 128),
    lr=(1e-4, 2e-4, 5e-4, 1e-3, 2e-3, 5e-3, 0.01, 0.02, 0.05, 0.1),
    schedule=('constant', 'cosine', 'restarts'),
    warmup_ratio=(0.01, 0.02, 0.05, 0.1, 0.2, 0.3, 0.4),
    nesterov=(False, True),
    image_size=tuple(range(16, 385, 16)),
    area_min=(0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0),
    aspect=(0.25, 0.5, 0.75, 1.0),
    flip=(False, True),
    **dict.fromkeys(
        ('brightness', 'contrast', 'saturation', 'hue'), (0.0, 0.01, 0.02, 0.05, 0.1, 0.2)
    ),
)
NO_MOMENTUM_IS_MOMENTUM_0 = (0.0, 0.2, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 0.95, 0.99)


@pytest.mark.parametrize('name', NUMBERS)
def test_a_preset_has_every_number_of_the_paper(name):
    config = Config.preset(name)
    parts = (config, config.training, config.defaults)

    def value(field):
        return next(getattr(part, field) for part in parts if hasattr(part, field))

    expected = COMMON | NUMBERS[name]
    assert {f: value(f) for f in expected} == expected
    assert config.search == SEARCH | {'momentum': NO_MOMENTUM_IS_MOMENTUM_0}


@pytest.mark.parametrize(
    'name, variant, p, layers',
    [
        ('characters', 'Ti3', 1_484_162, (1, 2, 3)),
        ('decathlon', 'B', 85_652_738, tuple(range(1, 13))),
        ('vit', 'L', 303_303_682, None),
    ],
)
def test_a_preset_on_the_papers_root(name, variant, p, layers):
    arch = get_arch(variant)
    assert reference_params(arch) == p
    assert Config.preset(name).space(arch).get('num_layers') == layers
    alone = {'num_layers': layers} if layers else {}
    untuned = Config.preset(name, auto_tune=False)
    assert untuned.space(arch) == alone, 'without auto-tuning only the number of layers is tuned'
    assert Config.preset(name, scale_factor=0.3, auto_tune=True).scale_factor == 0.3


def test_the_tasks_of_the_benchmarks_in_their_order():
    assert BENCHMARKS['characters'] == (
        'emnist/digits',
        'emnist/letters',
        'kmnist',
        'mnist',
        'omniglot',
        'cmaterdb/bangla',
        'cmaterdb/devanagari',
        'cmaterdb/telugu',
    )
    assert BENCHMARKS['decathlon'] == tuple(
        VDD + n
        for n in (
            'imagenet12',
            'svhn',
            'cifar100',
            'gtsrb',
            'daimlerpedcls',
            'omniglot',
            'ucf101',
            'aircraft',
            'dtd',
            'vgg-flowers',
        )
    )
    assert BENCHMARKS['vit'] == ('imagenet2012', 'cifar100', 'cifar10')


def expected_sizes(name) -> tuple[int, int, int]:
    "Training, validation and test examples by the rules of section 8, from the catalogue's sizes."
    s = DATA[name][1]
    if name == 'imagenet2012':
        return s['train'], 10_000, s['validation']
    if name == 'cifar10':
        return s['train'], 2_021, s['test']
    if name == 'cifar100':
        return 49_000, 1_000, 10_000
    if name == 'omniglot':
        return 19_280, 2_720, 3_120
    if name.startswith(VDD):
        return s['train'], s['validation'] // 2, s['validation'] - s['validation'] // 2
    assert s.keys() == {'train', 'test'}
    return s['train'] * 95 // 100, s['train'] * 5 // 100, s['test']


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


@pytest.fixture(scope='module')
def benchmarks(data):
    with mocked(data):
        return {name: load_benchmark(name) for name in PAPER}


def test_classes_and_splits_of_all_21_data_sets(benchmarks):
    tasks = [t for tasks in benchmarks.values() for t in tasks]
    assert [t.name for t in tasks] == ALL and len(ALL) == 21
    for t in tasks:
        assert len(t.classes) == DATA[t.name][0], t.name
        assert (len(t.train), len(t.validation), len(t.test)) == expected_sizes(t.name), t.name


def test_images_of_all_21_data_sets_are_read_with_their_true_shapes(benchmarks, data):
    fixed = {
        'mnist': (28, 28, 1),
        'kmnist': (28, 28, 1),
        'emnist': (28, 28, 1),
        'omniglot': (105, 105, 3),
        'cmaterdb': (32, 32, 3),
        'cifar100': (32, 32, 3),
        'cifar10': (32, 32, 3),
    }
    for t in (t for tasks in benchmarks.values() for t in tasks):
        stated = tfds.builder(t.name, data_dir=data).info.features['image'].shape
        assert stated == fixed.get(t.name.split('/')[0], (None, None, 3)), (
            f'{t.name}: the decathlon and ImageNet have images of any height and width'
        )
        for split in (t.train, t.validation, t.test):
            shape = split[0][0].shape
            as_stated = all(n == s or s is None for n, s in zip(shape, stated, strict=True))
            assert as_stated, (t.name, shape)


def test_a_fingerprint_reads_a_few_images_of_a_million(benchmarks, data):
    imagenet = benchmarks['vit'][0]
    read, seen = imagenet.train.read, []

    def watched(i):
        seen.append(i)
        return read(i)

    imagenet.train.read = watched
    try:
        fingerprint = imagenet.fingerprint
    finally:
        imagenet.train.read = read
    assert len(seen) == 16 and max(seen) == 1_281_166
    with mocked(data):
        assert load_source(imagenet.source, imagenet.name).fingerprint == fingerprint


@pytest.mark.long
def test_a_generation_of_evolution_on_each_of_the_21_data_sets(tmp_path):
    "Their names, features and classes in one run; images are few and the root is small."
    root = load_root('random:Ti1')
    with mocked(tmp_path / 'data', at_most=40):
        tasks = {t.name: t for b in PAPER for t in load_benchmark(b)}
        with Evolution.create(tmp_path / 'run', root, list(tasks.values()), ONE_GENERATION) as evo:
            for name in ALL:
                record = evo.step().record
                assert record['task'] == name and len(record['children']) == 2
                chain = record['children'][0]['model']['chain']
                assert chain[-1]['name'] == 'head'
                assert chain[-1]['n_params'] == 193 * DATA[name][0]
            assert evo.done and set(evo.system.models) == set(ALL)
        with Evolution.resume(tmp_path / 'run', trust_sources=True) as evo:
            assert evo.done, 'every data set was loaded again from its source'
