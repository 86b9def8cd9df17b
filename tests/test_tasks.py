"""Tasks from every source.

From TensorFlow Datasets: a real data set in TFDS's own files, made here, and the paper's through
TFDS's mocks. From folders, arrays and Hugging Face. And the packaged benchmark.
"""

import io
import shutil
import threading
import zipfile
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
import tensorflow_datasets as tfds
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from munet_nb import InputError, load_benchmark, load_tfds
from munet_nb.checks import Notice
from munet_nb.tasks import hub
from munet_nb.tasks.sources import SOURCES, if_gone, load_source, load_task
from munet_nb.tasks.splits import ENOUGH, ArraySplit, fill_own_splits, fill_splits, five_percent
from munet_nb.tasks.splits import of_every_class
from munet_nb.tasks.tfds import tfds_ranges

SHAPES = [(9, 12, 3), (12, 9, 3), (10, 10, 3)]


class TinyShapes(tfds.core.GeneratorBasedBuilder):
    """A data set in the format that a user's prepared one has.

    PNG bytes, so that no TensorFlow is needed to write it.
    """

    VERSION = tfds.core.Version('1.0.0')

    def _info(self):
        features = {
            'image': tfds.features.Image(shape=(None, None, 3)),
            'label': tfds.features.ClassLabel(names=['tall', 'wide', 'square']),
        }
        return tfds.core.DatasetInfo(
            builder=self,
            features=tfds.features.FeaturesDict(features),
            supervised_keys=('image', 'label'),
        )

    def _split_generators(self, _):
        return {'train': self._generate_examples(60), 'test': self._generate_examples(12)}

    def _generate_examples(self, n):
        for i in range(n):
            f = io.BytesIO()
            Image.fromarray(np.full(SHAPES[i % 3], i, 'uint8')).save(f, 'PNG')
            f.seek(0)
            yield i, {'image': f, 'label': i % 3}


@pytest.fixture(scope='module')
def data_dir(tmp_path_factory):
    d = tmp_path_factory.mktemp('tfds')
    TinyShapes(data_dir=d, file_format='array_record').download_and_prepare()
    return d


@pytest.mark.core
def test_a_prepared_data_set_is_read_without_tensorflow_and_split_by_the_rule(data_dir):
    task = load_tfds('tiny_shapes', data_dir=data_dir)
    assert task.classes == ('tall', 'wide', 'square')
    assert (len(task.train), len(task.validation), len(task.test)) == (57, 3, 12), (
        '5% of train validates, test is its own'
    )
    for i in range(57):
        image, label = task.train[i]
        assert image.shape in SHAPES and image.dtype == np.uint8
    first_three = {int(task.validation[i][0].flat[0]) for i in range(3)}
    rest = {int(task.train[i][0].flat[0]) for i in range(57)}
    assert len(first_three) == 3 and not first_three & rest and len(rest) == 57
    assert task.fingerprint == load_tfds('tiny_shapes', data_dir=data_dir).fingerprint


class SecretShapes(TinyShapes):
    "Whose test split has no answers, as data sets have it that people compete on."

    def _split_generators(self, _):
        return {'train': self._generate_examples(60), 'test': self._secret(12)}

    def _secret(self, n):
        for i, example in self._generate_examples(n):
            yield i, {**example, 'label': -1}


def test_a_test_split_whose_answers_are_secret_counts_as_missing(tmp_path):
    SecretShapes(data_dir=tmp_path, file_format='array_record').download_and_prepare()
    with pytest.warns(Notice, match='test of secret_shapes has no labels and is left alone'):
        task = load_tfds('secret_shapes', data_dir=tmp_path)
    assert (len(task.train), len(task.validation), len(task.test)) == (54, 3, 3)
    assert {label for _, label in task.test} <= {0, 1, 2}


def test_a_number_out_of_range_is_no_example_of_another_split(data_dir):
    task = load_tfds('tiny_shapes', data_dir=data_dir)
    assert len(list(task.validation)) == 3, 'which lies in train, before other examples'
    last, (image, label) = task.validation[2], task.validation[-1]
    assert np.array_equal(image, last[0]) and label == last[1]
    for i in (3, -4):
        with pytest.raises(IndexError):
            task.validation[i]


def test_two_threads_that_load_do_not_open_the_door_for_each_other():
    from tensorflow_datasets.core.features import FeatureConnector

    from munet_nb.tasks.tfds import _with_its_own_features

    as_it_was = FeatureConnector.cls_from_name
    first_is_in, second_is_in, first_is_out = (threading.Event() for _ in range(3))

    def first():
        with _with_its_own_features():
            first_is_in.set()
            second_is_in.wait(0.3)  # in vain
        first_is_out.set()

    def second():
        first_is_in.wait(60)
        with _with_its_own_features():
            second_is_in.set()
            first_is_out.wait(60)
            with pytest.raises(InputError, match="one of TFDS's own"):
                FeatureConnector.cls_from_name('antigravity.Image')

    with ThreadPoolExecutor(2) as pool:
        for done in [pool.submit(first), pool.submit(second)]:
            done.result(60)
    assert FeatureConnector.cls_from_name == as_it_was


def test_a_prepared_data_set_is_found_again_from_another_folder_and_the_advice_fits_it(
    data_dir, tmp_path, monkeypatch
):
    from munet_nb import Config, Evolution, load_root

    shutil.copytree(data_dir, tmp_path / 'here/data')
    (tmp_path / 'there').mkdir()
    monkeypatch.chdir(tmp_path / 'here')
    task = load_tfds('tiny_shapes:1.0.0', data_dir='data')
    assert task.name == 'tiny_shapes', 'a version is pinned, and is no part of the name'
    assert task.source == f"tfds:tiny_shapes:1.0.0@{tmp_path / 'here/data'}"
    assert load_task(task.source).fingerprint == task.fingerprint
    mine = load_tfds('tiny_shapes', 'mine', data_dir='data')
    root, config = load_root('random:Ti1'), Config.preset('demo')
    Evolution.create(tmp_path / 'run', root, [task, mine], config).close()
    monkeypatch.chdir(tmp_path / 'there')
    with Evolution.resume(tmp_path / 'run', trust_sources=True) as evo:
        assert {n: t.fingerprint for n, t in evo.tasks.items()} == {
            'tiny_shapes': task.fingerprint,
            'mine': mine.fingerprint,
        }
    (tmp_path / 'here/data').rename(tmp_path / 'there/data')
    monkeypatch.setattr(
        'tensorflow_datasets.core.DatasetBuilder.download_and_prepare', lambda *a, **k: 1 / 0
    )
    again = (
        r"Evolution.resume\(..., "
        r"tasks=\[load_tfds\('tiny_shapes:1.0.0', 'tiny_shapes', data_dir=DIR\)\]\)"
    )
    told = rf'if it was moved, give its new place \({again}\), or put a link'
    with pytest.raises(InputError, match=told):
        Evolution.resume(tmp_path / 'run', trust_sources=True)
    moved = [
        load_tfds('tiny_shapes:1.0.0', data_dir='data'),
        load_tfds('tiny_shapes', 'mine', data_dir='data'),
    ]
    with Evolution.resume(tmp_path / 'run', moved) as evo:
        assert evo.tasks['mine'].source.endswith('there/data')


@pytest.mark.parametrize(
    'source, advice',
    [
        ('table:/x.csv', "--moved 'my cats=FILE[@DIR]', Evolution.resume(..., tasks=[...])"),
        ('folder:/x', "--moved 'my cats=DIR', Evolution.resume(..., tasks=[...])"),
        ('folder-without:["a"]@/x', "--moved 'my cats=DIR', Evolution.resume(..., tasks=[...])"),
        ('idx:/x', "--moved 'my cats=DIR', Evolution.resume(..., tasks=[...])"),
        ('hf:/x', "--moved 'my cats=DIR', Evolution.resume(..., tasks=[...])"),
        (
            'tfds:mnist',
            'TFDS_DATA_DIR=DIR munet resume --trust-sources, '
            "Evolution.resume(..., tasks=[load_tfds('mnist', 'my cats', data_dir=DIR)])",
        ),
    ],
)
def test_the_advice_on_a_task_whose_data_is_gone_fits_its_source(source, advice):
    told = f'; if it was moved, give its new place ({advice}), or put a link to it where it was'
    assert if_gone('my cats', source) == told


@pytest.mark.parametrize('source', ['benchmark:demo', '', 'nothing:x'])
def test_there_is_no_advice_on_data_that_has_no_place(source):
    assert if_gone('my cats', source) == ''


@pytest.mark.core
def test_a_task_is_loaded_from_one_line_and_its_source_is_such_a_line(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    folder_of(tmp_path / 'pets', 'cat', 'dog', n=10)
    plain = load_task('pets')
    named = load_task(tmp_path / 'pets', 'mine', private=True)
    assert (plain.name, plain.private, plain.source) == ('pets', False, f'folder:{tmp_path}/pets')
    assert (named.name, named.private, named.source) == ('mine', True, plain.source)
    assert load_task(plain.source).fingerprint == plain.fingerprint
    assert load_task('benchmark:demo/parity').source == 'benchmark:demo'


def test_what_can_be_no_task_is_answered_with_all_that_can(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for text in ('', 'nowhere', 'tdfs:mnist'):
        with pytest.raises(InputError) as e:
            load_task(text)
        for row in SOURCES.values():
            assert row.form in str(e.value)


def test_the_rules_and_the_errors_know_a_data_set_by_its_name_without_a_version(tmp_path):
    with tfds.testing.mock_data(num_examples=40, data_dir=str(tmp_path)):
        with pytest.raises(InputError, match="'emnist/letters:9.9.9' cannot be opened"):
            load_tfds('emnist/letters:9.9.9', data_dir=tmp_path)
    from paper_data import mocked

    with mocked(tmp_path / 'mocks', at_most=40):
        task = load_tfds('cifar100:3.0.2', data_dir=tmp_path / 'mocks')
    assert task.name == 'cifar100'
    sizes = (len(task.train), len(task.validation), len(task.test))
    assert sizes == (39, 1, 40), "the last 2% of cifar100's train validate"


def test_unknown_and_unprepared_data_sets_are_refused_with_what_to_do(tmp_path, monkeypatch):
    # TFDS tries again for minutes
    monkeypatch.setattr('urllib3.util.retry.Retry.sleep', lambda *a, **k: None)
    leters = "configuration of TFDS data set 'emnist' 'leters', did you mean 'letters'"
    by_hand = f'by hand into {tmp_path}/downloads/manual.*ILSVRC2012_img_train.tar.*'
    for dataset, message in (
        ('no_such_thing', 'no data set .no_such_thing.'),
        ('mnist', 'tfds build mnist --file_format=array_record --data_dir='),
        ('mnst', "did you mean 'mnist'"),
        ('emnist/leters', leters),
        ('imagenet2012', by_hand + '`tfds build imagenet2012 .*` prepares it'),
    ):
        with pytest.raises(InputError, match=message):
            load_tfds(dataset, data_dir=tmp_path)
    no_image = (
        r'not image classification: it has no image, its features are .*label \(ClassLabel\)'
    )
    with tfds.testing.mock_data(data_dir=str(tmp_path)):
        with pytest.raises(InputError, match=no_image):
            load_tfds('ag_news_subset')


def test_a_format_without_random_access_is_refused_with_the_command_that_adds_one(
    data_dir, tmp_path
):
    shutil.copytree(data_dir, tmp_path / 'd')
    info = tmp_path / 'd/tiny_shapes/1.0.0/dataset_info.json'
    info.write_text(info.read_text().replace('array_record', 'tfrecord'))
    command = (
        f'tfds convert_format --dataset_version_dir={info.parent} --out_file_format=array_record'
    )
    with pytest.raises(InputError, match=f'prepared as tfrecord.*{command}'):
        load_tfds('tiny_shapes', data_dir=tmp_path / 'd')


@pytest.mark.core
def test_the_exceptions_to_the_five_percent_rule():
    r = tfds_ranges('imagenet2012', dict(train=1000, validation=50))
    assert r['train'] == ('imagenet2012', 'train', range(1000))
    assert r['validation'][:2] == ('imagenet_v2', 'test')
    assert r['test'] == ('imagenet2012', 'validation', range(50))
    r = tfds_ranges('cifar10', dict(train=100, test=20))
    assert r['validation'][:2] == ('cifar10_1', 'test')
    r = tfds_ranges('cifar100', dict(train=50_000, test=10_000))
    assert r['train'][2] == range(49_000)
    assert r['validation'][2] == range(49_000, 50_000)
    assert r['test'] == ('cifar100', 'test', range(10_000))
    svhn = 'visual_domain_decathlon/svhn'
    r = tfds_ranges(svhn, dict(train=10, validation=7, test=99))
    assert r['validation'][2] == range(3)
    hidden = "the decathlon's own test labels are hidden"
    assert r['test'] == (svhn, 'validation', range(3, 7)), hidden
    r = tfds_ranges('omniglot', dict(train=10, test=9, small1=4, small2=5))
    assert (r['validation'][1], r['test'][1]) == ('small1', 'small2')
    with pytest.raises(InputError, match='small1'):
        tfds_ranges('omniglot', dict(train=10))


@pytest.mark.core
def test_the_five_percent_rule_on_other_data_sets():
    r = tfds_ranges('emnist/letters', dict(train=100, test=20))
    assert r['validation'][2] == range(5)
    assert r['train'][2] == range(5, 100)
    assert r['test'] == ('emnist/letters', 'test', range(20))
    r = tfds_ranges('x', dict(train=200))
    ranges = (r['test'][2], r['validation'][2], r['train'][2])
    assert ranges == (range(10), range(10, 20), range(20, 200)), 'in the order test, validation'


@pytest.mark.parametrize('n', [1, 2, 3, 19, 20, 1000])
def test_five_percent_covers_every_example_once(n):
    for v in (True, False):
        for t in (True, False):
            assert sorted(i for r in five_percent(n, v, t).values() for i in r) == list(range(n))


@pytest.mark.core
@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(1, 120), min_size=2, max_size=12), st.booleans(), st.booleans())
def test_few_images_of_ones_own_are_held_out_class_by_class(counts, v, t):
    labels = np.random.default_rng(0).permutation(np.repeat(np.arange(len(counts)), counts))
    cut = of_every_class(labels, v, t)
    missing = {'validation': v, 'test': t}
    assert set(cut) == {'train', *(name for name, has in missing.items() if not has)}
    assert sorted(np.concatenate(list(cut.values()))) == list(range(len(labels)))
    for name, numbers in cut.items():
        own = np.bincount(labels[numbers], minlength=len(counts))
        for n, count in zip(own, counts):
            if name == 'train':
                assert n >= 1, 'every class is trained on'
            else:
                assert n == 0 if count < 3 else 1 <= n <= max(1, count // 5)
        if name != 'train':
            assert len(numbers) <= ENOUGH + len(counts)
            of_fifths = sum(c // 5 for c in counts)
            assert len(numbers) >= min(ENOUGH - len(counts), of_fifths), 'enough, if there are'


@pytest.mark.parametrize('n', [1990, 5000])
def test_enough_images_of_ones_own_are_cut_as_ever(n):
    split = {'train': ArraySplit(np.arange(4 * n).astype('uint8').reshape(n, 2, 2), np.arange(n) % 2)}
    own, paper = fill_own_splits(split), fill_splits(split)
    for name in ('train', 'validation', 'test'):
        assert own[name][0][0].tolist() == paper[name][0][0].tolist()
        assert len(own[name]) == len(paper[name])


def test_a_folder_of_sixty_photographs_holds_out_some_of_every_class_and_says_what_they_show(tmp_path):
    from munet_nb import load_folder
    from munet_nb.checks import Notice

    folder = folder_of(tmp_path / 'pets', 'cats', 'dogs', 'hares', n=20)
    with pytest.warns(Notice, match='36 images to train, 12 to validate, 12 to test.*less than 24 points'):
        task = load_folder(folder)
    for split in (task.validation, task.test):
        assert np.bincount(split.labels).tolist() == [4, 4, 4]
    assert task.fingerprint == load_folder(folder).fingerprint


@pytest.mark.core
def test_files_of_16_bits_and_turned_photographs_are_read_as_they_look(tmp_path):
    from munet_nb.tasks.images import open_image

    Image.fromarray(np.full((4, 4), 30000, np.uint16)).save(tmp_path / 'deep.png')
    assert set(open_image(tmp_path / 'deep.png').ravel()) == {30000 >> 8}
    turned = Image.new('RGB', (6, 4))
    exif = turned.getexif()
    exif[0x0112] = 6
    turned.save(tmp_path / 'turned.jpg', exif=exif)
    assert open_image(tmp_path / 'turned.jpg').shape == (6, 4, 3)


def test_labels_that_a_lazy_split_gives_are_checked_when_they_are_read():
    from munet_nb.engine.feeds import TaskFeed
    from munet_nb.search.config import TrainingSettings
    from munet_nb.tasks.splits import LazySplit
    from munet_nb.tasks.task import Task

    split = LazySplit(10, lambda i: (np.zeros((8, 8), 'uint8'), 7), 'train of task x')
    with pytest.raises(InputError, match='labels from 7 to 7'):
        TaskFeed(Task('x', ('a', 'b'), split, split, split), TrainingSettings())


def folder_of(path, *names, n=4):
    for name in names:
        (path / name).mkdir(parents=True)
        for i in range(n):
            Image.new('L', (8, 8), i).save(path / name / f'{i}.png')
    return path


def test_hidden_files_are_not_images_of_a_task(tmp_path):
    from munet_nb import load_folder

    f = folder_of(tmp_path / 'f', 'a', 'b', 'a/.ipynb_checkpoints', n=10)
    (f / 'b' / '._1.png').write_bytes(b'resource fork')
    t = load_folder(f)
    assert len(t.train) + len(t.validation) + len(t.test) == 20


@pytest.mark.core
def test_split_folders_go_by_their_usual_names_and_nothing_is_left_out_in_silence(tmp_path):
    from munet_nb import load_folder

    usual = [f'{split}/{c}' for split in ('Train', 'valid', 'testing') for c in 'ab']
    t = load_folder(folder_of(tmp_path / 'usual', *usual))
    assert t.classes == ('a', 'b')
    assert (len(t.train), len(t.validation), len(t.test)) == (8, 8, 8)
    wrong = dict(no_train=('validation/a', 'test/a'), extra=('train/a', 'train/b', 'holdout/a'))
    for name, dirs in wrong.items():
        with pytest.raises(InputError, match='nothing else'):
            load_folder(folder_of(tmp_path / name, *dirs))
    partly = load_folder(folder_of(tmp_path / 'partly', 'train/a', 'train/b', 'test/b', n=40))
    assert len(partly.test) == 40
    assert set(partly.test.labels) == {1}, 'a split need not have every class'
    vehicles = load_folder(folder_of(tmp_path / 'vehicles', 'train', 'plane', n=40))
    assert vehicles.classes == ('plane', 'train'), 'a class may be called train'
    flat = tmp_path / 'flat'
    flat.mkdir()
    Image.new('L', (8, 8)).save(flat / '1.png')
    with pytest.raises(InputError, match='no class folders'):
        load_folder(flat)


@pytest.mark.parametrize(
    'path, why',
    [
        ('~nobody-of-this-name/x', 'home directory'),
        ('x' * 300, 'too long'),
        ('a\0b', 'null'),
        ('', 'empty'),
        (None, 'NoneType'),
    ],
)
def test_what_can_be_no_path_is_refused_by_every_loader(path, why):
    from munet_nb import load_folder, load_hf, load_idx
    from munet_nb.tasks.folders import read_idx

    for load in (load_folder, load_idx, read_idx, load_hf):
        if load is load_hf and path is None:
            continue  # the text 'None' may name a data set
        with pytest.raises(InputError, match=f'is no path that can be used.*{why}'):
            load(path)


def test_an_idx_file_that_promises_more_than_there_can_be_is_refused(tmp_path):
    from munet_nb.tasks.folders import read_idx

    header = b'\x00\x00\x08\x03' + b''.join(n.to_bytes(4, 'big') for n in (2**31, 2**31, 4))
    (tmp_path / 'x').write_bytes(header)  # 2^64 bytes, which 64 bits count as none
    with pytest.raises(InputError, match='impossible shape'):
        read_idx(tmp_path / 'x')


def test_names_of_splits_are_texts():
    from munet_nb import task_from_dataset

    with pytest.raises(InputError, match="has the splits 0: 'train' is missing"):
        task_from_dataset('t', {0: [1, 2]})


@pytest.mark.parametrize('closed', ['f', 'f/a', 'f/a/deep'])
def test_a_folder_that_may_not_be_read_is_named_and_not_skipped(closed, tmp_path, monkeypatch):
    import os

    from munet_nb import load_folder, load_idx

    folder, scandir = folder_of(tmp_path / 'f', 'a', 'b', 'a/deep', n=10), os.scandir

    def guarded(path):
        if str(path) == str(tmp_path / closed):
            raise PermissionError(13, 'Permission denied', str(path))
        return scandir(path)

    assert len(load_folder(folder).train) == 18
    monkeypatch.setattr(os, 'scandir', guarded)  # permissions do not bind root
    with pytest.raises(InputError, match=f'{tmp_path / closed}: cannot be read .Permission denied'):
        load_idx(tmp_path / closed)
    with pytest.raises(InputError, match=f'{tmp_path / closed}: cannot be read .Permission denied'):
        load_folder(folder)


@pytest.mark.core
def test_one_image_is_not_taken_for_many_and_palettes_are_looked_up():
    from munet_nb.tasks.images import to_images

    gray, color = np.zeros((28, 28, 1), 'uint8'), np.zeros((28, 28, 3), 'uint8')
    for one in (gray, color, Image.new('RGB', (4, 4))):
        with pytest.raises(InputError, match='give'):
            to_images(one)
    red = Image.new('RGB', (4, 4), (255, 0, 0)).quantize(2)
    assert to_images([red])[0].reshape(-1, 3).tolist() == [[255, 0, 0]] * 16


@pytest.mark.parametrize(
    'classes, message',
    [
        (['a', 'a'], 'different names'),
        ('ab', 'list'),
        ({0: 'a', 1: 'b'}, 'list'),
        (['a', ''], 'printable'),
        (['a', 'caf\udce9'], 'printable'),
    ],
)
def test_class_names_are_checked(classes, message):
    from munet_nb import task_from_arrays

    with pytest.raises(InputError, match=message):
        task_from_arrays('t', (np.zeros((40, 8, 8), 'uint8'), [0, 1] * 20), classes=classes)


def test_negative_labels_are_named_as_such():
    from munet_nb import task_from_arrays

    with pytest.raises(InputError, match='labels from -2'):
        task_from_arrays('t', (np.zeros((40, 8, 8), 'uint8'), [0, -2] * 20))


def test_characters8_has_no_image_in_two_splits_and_every_class_in_each():
    for t in load_benchmark('characters8'):
        splits = [t.train, t.validation, t.test]
        train, validation, test = (
            {s[i][0].tobytes() for i in range(len(s))} for s in splits
        )
        assert not train & validation and not train & test and not validation & test, t.name
        for s in splits:
            assert {s[i][1] for i in range(len(s))} == set(range(len(t.classes))), t.name


@pytest.mark.core
def test_a_packaged_benchmark_is_loaded_again_from_its_source():
    task = load_source('benchmark:characters8', 'telugu')
    assert (task.name, len(task.classes)) == ('telugu', 40)
    assert task.fingerprint == load_benchmark('characters8')[5].fingerprint


# Hugging Face


def hf_rows(n, names=('even', 'odd'), labels=None, size=8):
    import datasets

    images = [Image.new('L', (size + i % 3, size), i % 256) for i in range(n)]
    rows = {'image': images, 'label': labels or [i % 2 for i in range(n)]}
    label = datasets.ClassLabel(names=list(names))
    features = datasets.Features(image=datasets.Image(), label=label)
    return datasets.Dataset.from_dict(rows, features=features)


def test_a_hugging_face_directory_is_a_task_is_read_lazily_and_comes_back_on_resume(
    tmp_path, monkeypatch
):
    import datasets

    from munet_nb import Config, Evolution, load_hf, load_root

    datasets.DatasetDict(train=hf_rows(200), val=hf_rows(20), test=hf_rows(30)).save_to_disk(
        tmp_path / 'shades'
    )
    decoded = []
    decode = hub.read_bytes

    def counted(*args):
        decoded.append(1)
        return decode(*args)

    monkeypatch.setattr(hub, 'read_bytes', counted)
    t = load_hf(tmp_path / 'shades')
    assert (t.name, t.classes) == ('shades', ('even', 'odd'))
    assert (len(t.train), len(t.validation), len(t.test)) == (200, 20, 30)
    assert not decoded, 'labels are read at the start, images are not'
    examples = [t.train[i] for i in range(200)]
    assert len(decoded) == 200
    shades = [int(image.flat[0]) for image, _ in examples]
    assert sorted(shades) == list(range(200))
    assert [shade % 2 for shade in shades] == [label for _, label in examples]
    assert set(shades[:10]) != set(range(10)), 'in a mixed order'
    config = Config.preset(
        'demo',
        batch_size=8,
        batches=1,
        segments=1,
        children_per_task=3,
        children_per_generation=1,
        task_iterations=1,
    )
    with Evolution.create(tmp_path / 'run', load_root('random:Ti1'), [t], config) as evo:
        evo.step()
    with Evolution.resume(tmp_path / 'run', trust_sources=True) as evo:
        assert evo.step().record['task'] == 'shades' and evo.done


def test_hugging_face_directories_of_parquet_and_single_splits(tmp_path, monkeypatch):
    import datasets

    from munet_nb import load_hf

    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    (tmp_path / 'cloned/data').mkdir(parents=True)
    for split, n in (('train', 60), ('test', 10)):
        hf_rows(n).to_parquet(tmp_path / f'cloned/data/{split}-00000-of-00001.parquet')
    t = load_hf(tmp_path / 'cloned', 'mine')
    assert (t.name, len(t.train), len(t.validation), len(t.test)) == ('mine', 48, 12, 10)
    hf_rows(40).save_to_disk(tmp_path / 'one')
    one = load_hf(tmp_path / 'one')
    assert (len(one.train), len(one.validation), len(one.test)) == (24, 8, 8)
    assert one.fingerprint == load_source(one.source, 'one').fingerprint


def test_hugging_face_rows_without_a_label_are_left_alone(monkeypatch):
    import datasets

    from munet_nb import load_hf

    rows = datasets.DatasetDict(train=hf_rows(40, labels=[0, 1] * 18 + [None, -1] * 2))
    monkeypatch.setattr(datasets, 'load_dataset', lambda *args: rows)
    with pytest.warns(Notice, match='4 of 40 images of train have no label'):
        task = load_hf('owner/shades')
    assert len(task.train) + len(task.validation) + len(task.test) == 36


def test_a_name_on_the_hub_and_its_configuration(monkeypatch):
    import datasets

    from munet_nb import load_hf

    asked = []

    def load_dataset(*args):
        asked.append(args)
        return datasets.DatasetDict(train=hf_rows(40))

    monkeypatch.setattr(datasets, 'load_dataset', load_dataset)
    assert load_hf('owner/shades#small').name == 'owner/shades#small'
    assert load_task('hf:owner/shades').source == 'hf:owner/shades'
    assert asked == [('owner/shades', 'small'), ('owner/shades', None)]


def test_hugging_face_data_that_cannot_be_a_task_is_refused_by_name(tmp_path, monkeypatch):
    import datasets

    from munet_nb import load_hf

    def refused(message, **splits):
        datasets.DatasetDict(**splits).save_to_disk(tmp_path / message)
        with pytest.raises(InputError, match=message):
            load_hf(tmp_path / message)

    refused("has the splits test: 'train' is missing", test=hf_rows(4))
    other = "split 'test' .* does not have the image"
    two = hf_rows(4, ('a', 'b'))
    refused(f'{other} and the classes that train has', train=hf_rows(40), test=two)
    text = hf_rows(4).remove_columns('image').add_column('image', ['x'] * 4)
    refused(other, train=hf_rows(40), test=text)
    refused('none of its 40 images has a label', train=hf_rows(40, labels=[-1] * 40))
    splits = dict(train=hf_rows(40), val=hf_rows(4), valid=hf_rows(5))
    refused('has the splits train, val, valid; ', **splits)
    refused(
        'has the splits train, val, valid, holdout; .* nothing else', **splits, holdout=hf_rows(6)
    )
    refused(
        'has the splits train, test, extra; ',
        train=hf_rows(40),
        test=hf_rows(4),
        extra=hf_rows(5),
    )
    plain = hf_rows(40).cast_column('label', datasets.Value('int64'))
    features = r'image \(Image\), label \(Value\)'
    refused(f'no label with named classes, its features are {features}', train=plain)


def test_hugging_face_data_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    import datasets

    from munet_nb import load_hf

    broken = (
        hf_rows(40)
        .cast_column('image', datasets.Image(decode=False))
        .map(lambda r: {'image': {'bytes': b'no image', 'path': None}})
        .cast_column('image', datasets.Image())
    )
    broken.save_to_disk(tmp_path / 'broken')
    not_decoded = 'image .* of train of task .broken.: is not an image that can be decoded'
    with pytest.raises(InputError, match=not_decoded):
        load_hf(tmp_path / 'broken').train[0]
    (tmp_path / 'empty').mkdir()
    with pytest.raises(InputError, match='cannot be loaded .*save_to_disk'):
        load_hf(tmp_path / 'empty')
    with pytest.raises(InputError, match='does not exist'):
        load_hf(tmp_path / 'nothing')
    monkeypatch.setattr(datasets.config, 'HF_HUB_OFFLINE', True)
    not_loaded = 'owner/nothing.*cannot be loaded .*With a network connection'
    with pytest.raises(InputError, match=not_loaded):
        load_hf('owner/nothing')


def test_hugging_face_images_that_were_saved_undecoded_or_in_another_format_are_read(tmp_path):
    import datasets

    from munet_nb import load_hf

    data = {
        'plain': hf_rows(40),
        'undecoded': hf_rows(40).cast_column('image', datasets.Image(decode=False)),
        'numpy': hf_rows(40).with_format('numpy'),
        'color': hf_rows(40).cast_column('image', datasets.Image(mode='RGB')),
    }
    tasks = {}
    for name, rows in data.items():
        rows.save_to_disk(tmp_path / name)
        tasks[name] = load_hf(tmp_path / name)

    def values(t):
        return sorted(int(t.train[i][0].flat[0]) for i in range(24))

    assert len(set(values(tasks['plain']))) == 24
    for task in tasks.values():
        assert values(task) == values(tasks['plain'])
    assert tasks['undecoded'].train[0][0].shape[-1] == 1
    kept = 'the mode that a data set asks for is kept'
    assert tasks['color'].train[0][0].shape[-1] == 3, kept


def test_a_hugging_face_file_opens_no_image_outside_of_its_data_set(tmp_path, monkeypatch):
    import datasets
    import fsspec
    import pyarrow
    import pyarrow.parquet

    from munet_nb import load_hf

    monkeypatch.setattr(datasets.config, 'HF_DATASETS_CACHE', tmp_path / 'cache')
    opened = []
    fsspec_open = fsspec.open

    def recorded(path, *args, **kwargs):
        opened.append(path)
        return fsspec_open(path, *args, **kwargs)

    monkeypatch.setattr(fsspec, 'open', recorded)
    label = datasets.ClassLabel(names=['a', 'b'])
    features = datasets.Features(image=datasets.Image(), label=label)

    def task(folder, path):
        rows = {
            'image': [{'bytes': None, 'path': str(path)}] * 20,
            'label': [i % 2 for i in range(20)],
        }
        table = pyarrow.table(rows, schema=features.arrow_schema)
        pyarrow.parquet.write_table(table, folder / 'train.parquet')
        return load_hf(folder)

    for name in ('good', 'bad'):
        (tmp_path / name).mkdir()
    Image.new('L', (8, 8), 7).save(tmp_path / 'secret.png')
    Image.new('L', (8, 8), 5).save(tmp_path / 'good/own.png')
    t = task(tmp_path / 'good', tmp_path / 'good/own.png')
    assert {int(t.train[i][0].flat[0]) for i in range(len(t.train))} == {5}
    opened.clear()
    with zipfile.ZipFile(tmp_path / 'good/own.zip', 'w') as z:
        z.write(tmp_path / 'good/own.png', 'own.png')
    shutil.copy(tmp_path / 'good/own.zip', tmp_path / 'secret.zip')
    zipped = task(tmp_path / 'good', f"zip://own.png::{tmp_path / 'good/own.zip'}")
    assert int(zipped.train[0][0].flat[0]) == 5
    rightly = [*opened]
    (tmp_path / 'bad/link.png').symlink_to(tmp_path / 'secret.png')
    monkeypatch.chdir(tmp_path / 'bad')
    for path in (
        tmp_path / 'secret.png',
        '../secret.png',
        tmp_path / 'bad/../secret.png',
        tmp_path / 'bad/link.png',
        f"zip://own.png::{tmp_path / 'secret.zip'}",
        'https://example.org/x.png',
        'zip://x.png::https://example.org/x.zip',
        f"file://{tmp_path / 'secret.png'}::{tmp_path / 'bad/train.parquet'}",
    ):
        outside = "names the file .*, which does not lie in the data set's directory"
        with pytest.raises(InputError, match=outside):
            task(tmp_path / 'bad', path).train[0]
    assert opened == rightly, 'nothing else is asked for'


def test_a_hugging_face_image_is_read_by_the_rules_of_every_other_file(tmp_path):
    import datasets

    from munet_nb import load_hf
    from munet_nb.tasks.images import LARGEST_IMAGE

    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n'
    huge = io.BytesIO()
    Image.new('1', (LARGEST_IMAGE // 4096 + 1, 4096)).save(huge, 'PNG')
    stored = [{'bytes': data, 'path': None} for data in (eps, huge.getvalue())] + [None]
    rows = (
        hf_rows(40)
        .cast_column('image', datasets.Image(decode=False))
        .map(lambda r, i: {'image': stored[i % 3]}, True)
        .cast_column('image', datasets.Image())
    )
    rows.save_to_disk(tmp_path / 'odd')
    task = load_hf(tmp_path / 'odd')
    told = set()
    for i in range(len(task.train)):
        with pytest.raises(InputError) as e:
            task.train[i]
        told.add(str(e.value).partition(': ')[2])
    assert told == {
        'is not an image that can be decoded (it is no picture of a known kind)',
        'has 16,385 x 4,096 = 67,112,960 pixels: must have at most 67,108,864; make it smaller',
        'has no image',
    }, 'a stranger\'s program is not run, and nothing is decoded that is too large'


def test_a_label_is_not_guessed_among_several(tmp_path):
    import datasets

    from munet_nb import load_hf, task_from_dataset

    kinds = {name: datasets.ClassLabel(names=['a', 'b']) for name in ('camera', 'kind', 'category')}
    rows = {'image': [Image.new('L', (8, 8), i) for i in range(40)], 'camera': [0] * 40}
    rows |= {'kind': [i % 2 for i in range(40)], 'category': [i % 2 for i in range(40)]}
    features = datasets.Features(image=datasets.Image(), **kinds)
    data = datasets.Dataset.from_dict(rows, features=features)
    data.save_to_disk(tmp_path / 'usual')
    assert {label for _, label in load_hf(tmp_path / 'usual').train} == {0, 1}, 'category, a usual name'
    unusual = data.remove_columns('category')
    unusual.save_to_disk(tmp_path / 'unusual')
    with pytest.raises(InputError, match="'camera', 'kind', and each could be the label"):
        load_hf(tmp_path / 'unusual')
    assert len(task_from_dataset('t', unusual, label='kind').train) == 24


def test_without_the_extra_the_error_says_how_to_get_it(monkeypatch):
    import sys

    from munet_nb import load_hf

    monkeypatch.setitem(sys.modules, 'datasets', None)
    with pytest.raises(InputError, match=r'pip install "munet_nb\[hf\]"'):
        load_hf('owner/name')


def test_tensorflow_is_kept_from_the_accelerators_when_it_prepares_a_data_set(monkeypatch):
    import sys
    from types import SimpleNamespace

    from munet_nb.tasks.tfds import prepared

    asked = []

    def hide(devices, kind):
        asked.append((devices, kind))

    tensorflow = SimpleNamespace(config=SimpleNamespace(set_visible_devices=hide))
    monkeypatch.setitem(sys.modules, 'tensorflow', tensorflow)
    info = SimpleNamespace(splits={}, available_file_formats=set)

    def download_and_prepare(file_format):
        asked.append(file_format)

    builder = SimpleNamespace(info=info, download_and_prepare=download_and_prepare)
    prepared(builder, 'x', None)
    assert asked == [([], 'GPU'), ([], 'TPU'), 'array_record']
