"""The 69 tasks of mu2Net: their order, and features, classes and splits by TFDS's mocks.

A generation on some of them; `python tests/test_vtab.py` trains one on each of the 69.
"""

import sys
import tempfile
from pathlib import Path

import numpy as np
import pytest
from paper_data import ONE_GENERATION, VDD, VTAB_DATA, mocked

from munet_nb import Evolution, InputError, load_benchmark, load_root, load_task
from munet_nb.tasks.benchmarks import BENCHMARKS
from munet_nb.tasks.sources import load_source
from munet_nb.tasks.vtab import VTAB, load_vtab

ALL = BENCHMARKS['mu2net69']

# Section 8 of the specification of mu2Net, in its words
NATURAL = 'dtd oxford_flowers102 oxford_iiit_pet sun397 svhn_cropped'
SPECIALIZED = 'patch_camelyon eurosat resisc45 diabetic_retinopathy_detection/btgraham-300'
STRUCTURED = (
    'clevr/count_cylinders clevr/count_all clevr/closest_object_distance dmlab '
    'dsprites/label_x_position dsprites/label_orientation kitti/closest_object_distance '
    'kitti/count_vehicles kitti/closest_vehicle_distance smallnorb/label_category '
    'smallnorb/label_lighting smallnorb/label_azimuth smallnorb/label_elevation'
)
LATER = f'{NATURAL} {SPECIALIZED} {STRUCTURED}'.split()

# Classes, and how many images train, validate and test of the data set's own
CASES = {
    'caltech101': (102, 2_754, 306, 6_741),
    'cifar100': (100, 45_000, 5_000, 10_000),
    'cifar10': (10, 45_000, 5_000, 10_000),
    'dtd': (47, 1_880, 1_880, 1_880),
    'oxford_flowers102': (102, 1_020, 1_020, 6_149),
    'oxford_iiit_pet': (37, 2_944, 736, 3_669),
    'sun397': (397, 76_128, 10_875, 21_750),
    'svhn_cropped': (10, 65_931, 7_326, 26_032),
    'patch_camelyon': (2, 262_144, 32_768, 32_768),
    'eurosat': (10, 16_200, 5_400, 5_400),
    'resisc45': (45, 18_900, 6_300, 6_300),
    'diabetic_retinopathy_detection/btgraham-300': (5, 35_126, 10_906, 42_670),
    'clevr/count_cylinders': (11, 63_000, 7_000, 15_000),
    'clevr/count_all': (8, 63_000, 7_000, 15_000),
    'clevr/closest_object_distance': (6, 63_000, 7_000, 15_000),
    'dmlab': (6, 65_550, 22_628, 22_735),
    'dsprites/label_x_position': (32, 589_824, 73_728, 73_728),
    'dsprites/label_orientation': (40, 589_824, 73_728, 73_728),
    'kitti/closest_object_distance': (5, 6_347, 423, 711),
    'kitti/count_vehicles': (4, 6_347, 423, 711),
    'kitti/closest_vehicle_distance': (4, 6_347, 423, 711),
    'smallnorb/label_category': (5, 24_300, 12_150, 12_150),
    'smallnorb/label_lighting': (6, 24_300, 12_150, 12_150),
    'smallnorb/label_azimuth': (18, 24_300, 12_150, 12_150),
    'smallnorb/label_elevation': (9, 24_300, 12_150, 12_150),
}


def test_the_69_tasks_are_in_the_order_of_the_authors():
    vit, decathlon, characters = (BENCHMARKS[b] for b in ('vit', 'decathlon', 'characters'))
    full = ['caltech101', *LATER]
    few = ['caltech101', 'cifar100', 'cifar10', *LATER]
    assert ALL == (
        *vit, *(f'vtab/{n}' for n in full), *decathlon, *characters, *(f'vtab1k/{n}' for n in few)
    )
    assert (len(full), len(few), len(ALL), len(set(ALL))) == (23, 25, 69, 69)
    assert list(VTAB) == few == list(CASES)


@pytest.fixture(scope='module')
def data(tmp_path_factory):
    return tmp_path_factory.mktemp('data')


def test_classes_and_splits_of_each_task_of_vtab(data):
    with mocked(data):
        tasks = {t.name: t for t in load_benchmark('mu2net69')}
        again = [load_source(t.source, t.name) for t in (tasks['vtab/dtd'], tasks['vtab1k/dtd'])]
    assert list(tasks) == list(ALL)
    for name, (classes, train, validation, test) in CASES.items():
        few = tasks[f'vtab1k/{name}']
        sizes = {few: (800, min(validation, 200), test)}
        if f'vtab/{name}' in tasks:
            sizes[tasks[f'vtab/{name}']] = (train, validation, test)
        for task, expected in sizes.items():
            assert len(task.classes) == classes, task.name
            assert (len(task.train), len(task.validation), len(task.test)) == expected, task.name
    dtd, twin, other = tasks['vtab/dtd'], tasks['vtab1k/dtd'], tasks[VDD + 'dtd']
    assert len({dtd.fingerprint, twin.fingerprint, other.fingerprint}) == 3
    assert [t.fingerprint for t in again] == [dtd.fingerprint, twin.fingerprint]


def test_the_small_tasks_take_the_first_images_of_the_large_ones(data):
    with mocked(data):
        for name in ('svhn_cropped', 'smallnorb/label_azimuth', 'clevr/count_all'):
            large, small = load_vtab(name), load_vtab(name, few=True)
            for split in ('train', 'validation', 'test'):
                for i in (0, 150):
                    a, b = getattr(large, split)[i], getattr(small, split)[i]
                    assert np.array_equal(a[0], b[0]) and a[1] == b[1], (name, split, i)


def test_labels_are_classes_and_pixels_are_bytes(data):
    with mocked(data, at_most=40):
        for name, row in VTAB.items():
            task = load_vtab(name, few=True)
            for i in range(10):
                image, label = task.train[i]
                assert image.dtype == np.uint8 and 0 <= label < len(task.classes), name
            if row.pixels > 1:
                assert set(np.unique(image)) <= {0, 255}, name


def scene(**objects):
    "An example whose image shows objects."
    return {'image': np.zeros((2, 2, 3), np.uint8), 'objects': objects}


def label(name, example):
    task = VTAB[name]
    return task.classes[task.rule(example['objects'])]


def test_counts_and_distances_are_those_of_task_adaptation():
    """Beside its thresholds: a distance is of the last class whose threshold lies below it."""
    for name, key, thresholds in (
        ('clevr/closest_object_distance', 'pixel_coords', (0.0, 8.0, 8.5, 9.0, 9.5, 10.0, 100.0)),
        ('kitti/closest_object_distance', 'location', (-100, 5.6, 8.4, 13.4, 23.4)),
        ('kitti/closest_vehicle_distance', 'location', (-100.0, 8.0, 20.0, 999.0)),
    ):
        task = VTAB[name]
        for z in (0.5, 5.6, 5.7, 8.0, 8.1, 8.4, 8.5, 9.3, 10.0, 13.5, 20.0, 23.5, 60.0):
            places = np.array([[0, 0, z + 3], [9, 9, z]])
            objects = {key: places, 'type': np.array([2, 0])}
            expected = max(i for i, t in enumerate(thresholds) if t - z < 0)
            assert task.rule(objects) == expected, (name, z)
    walkers = scene(type=np.array([3, 5]), location=np.array([[0, 0, 4.0], [0, 0, 6.0]]))
    assert label('kitti/closest_vehicle_distance', walkers) == 'no vehicle'
    assert label('kitti/count_vehicles', walkers) == '0'
    traffic = scene(type=np.array([0, 1, 2, 0, 6]))
    assert label('kitti/count_vehicles', traffic) == '3 or more'
    shapes = scene(shape=np.array([2, 0, 2, 1]), size=np.array([0, 1, 1, 0]))
    assert label('clevr/count_cylinders', shapes) == '2'
    assert label('clevr/count_all', shapes) == '4'


def test_the_features_that_rules_read_are_those_of_tfds(data):
    import tensorflow_datasets as tfds

    with mocked(data):
        for dataset in {row.dataset for row in VTAB.values()} & VTAB_DATA.keys():
            assert set(tfds.builder(dataset, data_dir=data).info.splits) == set(VTAB_DATA[dataset])
        clevr = tfds.builder('clevr', data_dir=data).info.features['objects'].feature
        kitti = tfds.builder('kitti', data_dir=data).info.features['objects'].feature
    assert clevr['shape'].names[2] == 'cylinder'
    assert kitti['type'].names[:3] == ['Car', 'Van', 'Truck']
    assert {'size', 'pixel_coords'} <= set(clevr) and 'location' in kitti


def test_a_wrong_name_is_refused_with_the_nearest(data):
    with pytest.raises(InputError, match="did you mean 'clevr/count_all'"):
        load_task('vtab:clevr/count_al')
    with pytest.raises(InputError, match='unknown task of VTAB'):
        load_vtab(3)


def train_a_generation_on_each(names, folder: Path):
    "With a small root and few images, one run for all; then its data is loaded again."
    with mocked(folder / 'data', at_most=40):
        tasks = load_benchmark('mu2net69', names)
        root = load_root('random:Ti1')
        with Evolution.create(folder / 'run', root, tasks, ONE_GENERATION) as evo:
            for task in tasks:
                record = evo.step().record
                assert record['task'] == task.name and len(record['children']) == 2
                print(f'{task.name}: {len(task.classes)} classes', flush=True)
            assert evo.done and set(evo.system.models) == {t.name for t in tasks}
        with Evolution.resume(folder / 'run', trust_sources=True) as evo:
            assert evo.done, 'every data set was loaded again from its source'


def test_a_generation_on_a_label_of_its_own_and_on_a_computed_one(tmp_path):
    names = ('vtab1k/dsprites/label_orientation', 'vtab/kitti/closest_vehicle_distance')
    train_a_generation_on_each(names, tmp_path)


if __name__ == '__main__':
    with tempfile.TemporaryDirectory() as folder:
        train_a_generation_on_each((), Path(folder))
    sys.exit(0)
