"What people have already: tables, data sets of other libraries, arrays of any kind, scikit-learn's way."

import copy
import csv
import gc
import pickle
import shutil
import warnings
from dataclasses import replace
from pathlib import Path

import datasets
import grain
import numpy as np
import pandas as pd
import pytest
import torch
from PIL import Image
from sklearn.base import clone

import munet_nb as mu
from munet_nb.checks import InputError, Notice
from munet_nb.cli import make_parser
from munet_nb.options import read_moved, read_tasks
from munet_nb.search.config import with_fields
from munet_nb.tasks.labels import read_labels
from munet_nb.tasks.sources import load_source, load_task, shown_source


def dark_and_bright(n=40):
    "Images, and words for them."
    rng = np.random.default_rng(0)
    bright = np.arange(n) % 2
    images = rng.integers(0, 100, (n, 12, 10), 'uint8') + 150 * bright[:, None, None].astype('uint8')
    return images, np.where(bright, 'bright', 'dark')


@pytest.fixture
def table(tmp_path):
    "A table as Kaggle gives it, and its images in a folder of its own."
    images, words = dark_and_bright()
    folder = tmp_path / 'pets' / 'images'
    folder.mkdir(parents=True)
    for i, image in enumerate(images):
        Image.fromarray(image).save(folder / f'{i}.png')
    path = tmp_path / 'pets' / 'train.csv'
    write(path, [('image_id', 'label'), *((f'{i}', word) for i, word in enumerate(words))])
    return path


def write(path, rows):
    with open(path, 'w', newline='') as f:
        csv.writer(f).writerows(rows)


def rows_of(path):
    with open(path, newline='') as f:
        return list(csv.reader(f))


def quiet(function, *args, **values):
    "What it returns, and the notices."
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        result = function(*args, **values)
    return result, ' '.join(str(w.message) for w in told if issubclass(w.category, Notice))


def typed(line, read):
    "The one task of a line."
    (task,) = read(make_parser().parse_args(line.split()))
    return task


def test_a_table_is_given_in_the_shell_and_found_again(table, tmp_path):
    run, place = tmp_path / 'run', f'{table}@{table.parent}/images'
    task = typed(f'evolve --run x --table pets={place}', read_tasks)
    assert (task.name, task.source) == ('pets', f'table:{place}')
    mu.Evolution.create(run, mu.load_root('random:Ti1'), [task]).close()
    with pytest.raises(InputError, match=f"'pets' from 'table:{place}'.*Nothing was read"):
        mu.Evolution.resume(run)
    mu.Evolution.resume(run, trust_sources=True).close()
    moved = tmp_path / 'moved'
    table.parent.rename(moved)
    with pytest.raises(InputError, match=r"--moved 'pets=FILE\[@DIR\]'"):
        mu.Evolution.resume(run, trust_sources=True)
    again = typed(f'resume {run} --moved pets={moved}/train.csv@{moved}/images', read_moved)
    mu.Evolution.resume(run, [again]).close()
    named = tmp_path / 'named'
    mu.Evolution.create(named, mu.load_root('random:Ti1'), [replace(again, name='a=b')]).close()
    strange = typed(f'resume {named} --moved a=b={moved}/train.csv@{moved}/images', read_moved)
    assert (strange.name, strange.source) == ('a=b', again.source)
    with pytest.raises(InputError, match="--moved 'pets': must be NAME=PLACE"):
        typed(f'resume {run} --moved pets', read_moved)


def test_rows_of_no_use_are_told_at_once_and_left_out_by_name(table):
    images = table.parent / 'images'
    head, *rows = rows_of(table)
    (images / 'twice.jpg').write_bytes((images / '1.png').read_bytes())
    (images / 'twice.png').write_bytes((images / '1.png').read_bytes())
    useless = [('0.png', 'dark'), ('99', 'dark'), ('1', ''), ('twice', 'dark'), ('', 'dark')]
    write(table, [head, *rows, *useless, ('2.png', '-1')])
    with pytest.raises(InputError) as e:
        mu.load_table(table, root=images)
    for told in (
        '9 of 46 rows',
        "named by several rows: 6 ('0' in line 2, '1' in line 3, '2' in line 4, '0.png' in line 42",
        "not there: 1 ('99' in line 43)",
        "several files that differ by their suffix: 1 ('twice' in line 45)",
        'no path: 1',
        '--skip-broken',
    ):
        assert told in str(e.value)
    task, told = quiet(mu.load_table, table, 'pets', images, skip_broken=True)
    assert 'They are left out' in told
    assert len(task.train) + len(task.validation) + len(task.test) == 37
    assert "but for 8 of its rows" in shown_source(task.source)
    again, _ = quiet(load_source, task.source, 'pets')
    assert again.fingerprint == task.fingerprint


@pytest.mark.parametrize(
    'text, told',
    [
        (b'path;label\n1.png;dark\n', "header 'path;label' are separated by semicolons"),
        (b'path\tlabel\n1.png\tdark\n', 'are separated by tabs: must be by commas'),
        (b'path,label\n1.png,d\xe9j\xe0\n', r'\(.utf-8. codec .*\); save it as UTF-8'),
        (
            b'path,label,split\nimages/1.png,dark,holdout\n',
            "in split 'holdout', which is none of train, training, validation, .* test, testing: 1",
        ),
    ],
)
def test_how_a_table_is_written_is_told_where_it_is_wrong(table, text, told):
    table.write_bytes(text)
    with pytest.raises(InputError, match=told):
        mu.load_table(table)


@pytest.mark.parametrize('strange', ['/etc/hostname', '../secret.png', 'link.png', 'a\0b', '~/x.png'])
def test_no_path_of_a_table_leads_out_of_its_folder(table, strange):
    secret = table.parents[1] / 'secret.png'
    Image.new('L', (8, 8)).save(secret)
    (table.parent / 'link.png').symlink_to(secret)
    write(table, [('path', 'label'), (strange, 'dark'), ('images/1.png', 'bright')])
    with pytest.raises(InputError, match='1 of 2 rows are of no use|cannot be read'):
        mu.load_table(table)


def test_a_table_and_its_folder_may_have_an_at_sign_in_their_paths(table):
    home = table.parent.rename(table.parents[1] / 'me@work')
    table = (home / 'train.csv').rename(home / 'a@b.csv')
    images = (home / 'images').rename(home / 'im@ges')
    task = mu.load_table(table, 'pets', images)
    assert task.source == f'table:{table}@{images}'
    assert load_source(task.source, 'pets').fingerprint == task.fingerprint
    with pytest.raises(InputError, match='nowhere.csv@im@ges: does not exist'):
        load_task('table:nowhere.csv@im@ges')


def test_a_split_of_a_table_in_which_no_row_has_a_label_is_left_alone(table):
    rows = [(f'images/{i}.png', 'dark' if i % 2 else 'bright', 'train') for i in range(30)]
    rows += [(f'images/{i}.png', -1, 'test') for i in range(30, 40)]
    write(table, [('path', 'label', 'split'), *rows])
    task, told = quiet(mu.load_table, table)
    assert '10 of 10 images of test have no label' in told
    assert task.classes == ('bright', 'dark') and len(task.test) > 0


def test_a_class_that_broken_images_take_from_training_is_told(table):
    names = {0: ('owl', 'train'), 1: ('owl', 'test'), 2: ('dark', 'test')}
    rows = [(f'images/{i}.png', *names.get(i, ('dark', 'train'))) for i in range(20)]
    write(table, [('path', 'label', 'split'), *rows])
    (table.parent / 'images' / '0.png').write_text('no image')
    with pytest.raises(InputError, match='there are no images of owl to train on'):
        mu.load_table(table, skip_broken=True)


def test_a_class_of_a_table_of_which_nothing_is_left_to_train_on_is_told(table):
    write(table, [('path', 'label'), *((f'images/{i}.png', ('owl', 'dark')[i % 2]) for i in range(3))])
    _, told = quiet(mu.load_table, table)
    assert f"table {table}: nothing is left to train on in '" in told
    assert 'three or more into each class' in told


def test_labels_of_a_table_may_be_numbers_words_or_unknown(table):
    images = table.parent / 'images'
    rows = [(f'{i}.png', i % 2 + 9 if i % 5 else -1, 'valid' if i > 29 else 'TRAIN') for i in range(40)]
    write(table, [('File Name', 'Class', 'Set'), *rows])
    task, told = quiet(mu.load_table, table, root=images)
    assert (task.name, task.classes) == ('pets', ('9', '10'))
    assert '6 of 30 images of train, 2 of 10 images of validation have no label' in told
    assert len(task.validation) == 8 and set(task.validation.labels) == {0, 1}


@pytest.mark.parametrize(
    'rows, message',
    [
        ([('path', 'label')], 'no rows below a header'),
        ([('path', 'label'), ('a.png',)], 'line 2 has 1 cells, the header 2'),
        ([('path', 'size', 'age'), ('a.png', '1', '2')], 'name that of the label'),
        ([('a', 'b', 'label'), ('a.png', '1', '2')], "name that of the image's path"),
        ([('path', 'label', 'label'), ('a', 'b', 'c')], 'two columns have the same name'),
        ([('images/1.png', 'dark'), ('images/2.png', 'dark')], 'must be a header'),
        (
            [('path', 'label', 'split'), ('images/1.png', 'dark', 'dev')],
            "in split 'dev', which is none of train, training",
        ),
        ([('path', 'label', 'split'), ('images/1.png', 'dark', 'val')], "no row of the split 'train'"),
    ],
)
def test_what_is_no_table_is_refused_by_name(table, rows, message):
    write(table, rows)
    with pytest.raises(InputError, match=message):
        mu.load_table(table)
    table.write_bytes(b'\xff\xfe')
    with pytest.raises(InputError, match='cannot be read as comma-separated values'):
        load_task(f'table:{table}')
    with pytest.raises(InputError, match='does not exist'):
        load_task('table:nowhere.csv')
    with pytest.raises(InputError, match='nowhere does not exist|nowhere of the table'):
        mu.load_table(table, root='nowhere')


class Pairs:
    "A map-style data set, as PyTorch describes it."

    def __init__(self, images, words):
        self.images, self.words = images, words

    def __len__(self):
        return len(self.words)

    def __getitem__(self, i):
        return torch.tensor(self.images[i])[None], str(self.words[i])


def test_a_data_set_is_read_lazily_and_is_recognized_when_a_run_goes_on(tmp_path):
    images, words = dark_and_bright()
    decoded = []

    class Counted(Pairs):
        def __getitem__(self, i):
            decoded.append(i)
            return super().__getitem__(i)

    pillow = [Image.fromarray(image) for image in images]
    rows = datasets.Dataset.from_dict({'image': pillow, 'label': words.tolist()})
    rows = rows.cast_column('image', datasets.Image())
    task = mu.task_from_dataset('pets', rows)
    mu.Evolution.create(tmp_path / 'run', mu.load_root('random:Ti1'), [task]).close()
    with pytest.raises(InputError, match='or from a data set: only Evolution.resume'):
        mu.Evolution.resume(tmp_path / 'run')
    other = mu.task_from_dataset('pets', Pairs(255 - images, words))
    with pytest.raises(InputError, match='not those that the run'):
        mu.Evolution.resume(tmp_path / 'run', [other])
    again = mu.task_from_dataset('pets', Counted(images, words))
    assert len(decoded) == 46, 'labels by one pass, and three images twice'
    mu.Evolution.resume(tmp_path / 'run', [again]).close()


def test_a_column_of_labels_spares_the_images():
    images, words = dark_and_bright()
    seen = []

    class Targets(Pairs):
        targets = [int(word == 'dark') for word in words]
        classes = ['bright', 'dark']

        def __getitem__(self, i):
            seen.append(i)
            return self.images[i], self.targets[i]

    task = mu.task_from_dataset('pets', Targets(images, words))
    assert sorted(set(seen)) == [0, 1, 20, 39] and task.classes == ('bright', 'dark')
    Targets.__getitem__ = lambda self, i: (self.images[i], 1 - self.targets[i])
    turned = mu.task_from_dataset('pets', Targets(images, words))
    assert turned.train.labels.tolist() == [1 - label for label in task.train.labels]


@pytest.mark.parametrize('declared', [True, False])
def test_labels_that_are_changed_on_the_way_are_those_of_the_examples(declared):
    images, _ = dark_and_bright()
    kinds = [i % 8 for i in range(40)]

    class Merged(Pairs):
        "As torchvision's with a target_transform, that puts the kinds 3 and 5 together."

        targets = kinds
        if declared:
            target_transform = int

        def __getitem__(self, i):
            return self.images[i], 5 if self.targets[i] == 3 else self.targets[i]

    merged = [5 if kind == 3 else kind for kind in kinds]
    task = mu.task_from_dataset('pets', Merged(images, kinds))
    expected = mu.task_from_arrays('pets', (images, merged))
    assert task.train.labels.tolist() == expected.train.labels.tolist()


def test_a_column_of_labels_is_not_believed_where_rows_are_transformed():
    images, words = dark_and_bright()
    pillow = [Image.fromarray(image) for image in images]
    rows = datasets.Dataset.from_dict({'image': pillow, 'label': [0] * 39 + [1]})
    rows = rows.cast_column('image', datasets.Image())

    def look(batch):
        label = [int(np.asarray(image).max() > 120) for image in batch['image']]
        return {'image': batch['image'], 'label': label}

    task = mu.task_from_dataset('pets', rows.with_transform(look))
    assert task.fingerprint == mu.task_from_arrays('pets', (images, words == 'bright')).fingerprint


def test_a_wrapped_data_set_tells_its_own_classes():
    images, words = dark_and_bright()

    class Merged(Pairs):
        classes = ['bright', 'dark']
        dataset = type('Whole', (), {'classes': ['plane', 'car', 'bird', 'cat', 'dog']})()

        def __getitem__(self, i):
            image, word = super().__getitem__(i)
            return image, int(word == 'dark')

    merged = Merged(images, words)
    assert mu.task_from_dataset('t', merged).classes == ('bright', 'dark')
    part = torch.utils.data.Subset(merged, range(30))
    assert mu.task_from_dataset('t', part).classes == ('bright', 'dark'), 'a Subset has none of its own'


def test_an_example_that_is_none_has_no_label_whatever_is_offered():
    images, words = dark_and_bright()

    class WithGaps(Pairs):
        targets = [int(word == 'dark') for word in words]

        def __getitem__(self, i):
            image, _ = super().__getitem__(i)
            return (image, self.targets[i]) if i % 7 else None

    task, told = quiet(mu.task_from_dataset, 't', WithGaps(images, words))
    assert '6 of 40 images of train have no label' in told
    assert sum(map(len, (task.train, task.validation, task.test))) == 34


def test_labels_in_bytes_that_are_no_unicode_stay_apart():
    labels = np.array([b'caf\xe9', b'caf\xe8', b'caf\xc3\xa9'] * 10)
    task = mu.task_from_arrays('t', (dark_and_bright(30)[0], labels))
    assert task.classes == ('caf\\xe8', 'caf\\xe9', 'café')


def test_a_split_of_a_task_is_a_data_set_too():
    images, words = dark_and_bright()
    first = mu.task_from_dataset('pets', Pairs(images, words))
    again = mu.task_from_dataset('pets', first.train, first.validation, first.test)
    assert again.train.labels.tolist().count(1) == first.train.labels.tolist().count(1)


def test_a_task_of_a_data_set_can_be_sent_to_another_process():
    images, words = dark_and_bright()
    task = mu.task_from_dataset('pets', Pairs(images, words))
    assert pickle.loads(pickle.dumps(task)).fingerprint == task.fingerprint


def test_what_grain_filters_out_is_left_alone():
    images, words = dark_and_bright()
    source = grain.MapDataset.source(list(zip(images, words.tolist())))
    task, told = quiet(mu.task_from_dataset, 'pets', source.filter(lambda pair: pair[0][0, 0] != 7))
    dropped = int((images[:, 0, 0] == 7).sum())
    assert (f'{dropped} of 40 images' in told) == (dropped > 0)
    few, told = quiet(mu.task_from_dataset, 'pets', source.filter(lambda pair: pair[0][0, 0] > 20))
    assert 'have no label and are left alone' in told and len(few.classes) == 2


def test_labels_of_any_form_make_the_same_task():
    images, words = dark_and_bright()
    numbers = (words == 'dark').astype(int)
    rows = np.eye(2, dtype=int)[numbers]
    first = mu.task_from_arrays('t', (images, numbers))
    for labels in (numbers[:, None], rows, torch.tensor(rows), pd.Series(numbers), numbers.astype(float)):
        assert mu.task_from_arrays('t', (images, labels)).fingerprint == first.fingerprint
    named = mu.task_from_arrays('t', (images, words))
    assert named.classes == ('bright', 'dark')
    assert named.train.labels.tolist() == first.train.labels.tolist()
    for column in (pd.Series(words), pd.Categorical(words), words.tolist(), words[:, None]):
        assert mu.task_from_arrays('t', (images, column)).fingerprint == named.fingerprint


@pytest.mark.parametrize('nothing', [-1, None, float('nan'), pd.NA])
def test_images_without_a_label_are_counted_and_left_alone(nothing):
    images, words = dark_and_bright()
    no_word = '' if type(nothing) is int else nothing
    for labels in ([0, 1] * 18 + [nothing] * 4, [*words[:36], *[no_word] * 4]):
        task, told = quiet(mu.task_from_arrays, 't', (images, labels))
        assert "task 't': 4 of 40 images of train have no label and are left alone" in told
        assert len(task.train) + len(task.validation) + len(task.test) == 36


@pytest.mark.parametrize(
    'labels', [[float('inf')], [0, 'a'], [[0, 2]], [[1, 1]], [[[1]]], [object()], 'ab', {}, 3]
)
def test_what_are_no_labels_is_refused(labels):
    with pytest.raises(InputError, match='labels of t'):
        read_labels(labels, 't')


@pytest.fixture(scope='module')
def fitted():
    images, words = dark_and_bright()
    config = mu.Config.preset('demo', batch_size=8, batches=4, segments=2, children_per_task=2)
    config = with_fields(config, common_trunks=False)
    tasks = {'shade': (images, words), 'half': Pairs(images, np.arange(40) < 20)}
    return mu.MultitaskClassifier('random:Ti1', config=config).fit(tasks)


def test_the_classifier_has_scikit_learns_manner(fitted):
    images, words = dark_and_bright()
    assert fitted.predict_proba('shade', images).shape == (40, 2)
    assert set(fitted.predict('shade', images)) <= {'bright', 'dark'}
    right = (fitted.predict('shade', images) == words).mean()
    assert fitted.score('shade', images, words) == right
    half = [*words[:20], *[None] * 20]
    assert fitted.score('shade', images, half) == fitted.score('shade', images[:20], words[:20])
    assert fitted.classes_['half'].tolist() == ['False', 'True']
    copy = clone(fitted)
    assert copy.get_params() == fitted.get_params() and repr(copy) == repr(fitted)
    with pytest.raises(InputError, match='not fitted yet'):
        copy.predict('shade', images)
    wrong = {'40 images but 3': words[:3], 'of its classes': [7] * 40, 'none of 40': [None] * 40}
    for message, labels in wrong.items():
        with pytest.raises(InputError, match=message):
            fitted.score('shade', images, labels)


def test_the_classifier_gives_back_the_kind_of_labels_that_it_was_given():
    images, words = dark_and_bright()
    numbers = (words == 'dark').astype(int)
    config = mu.Config.preset('demo', batch_size=8, batches=4, segments=2, children_per_task=2)
    config = with_fields(config, common_trunks=False)
    tasks = {'texts': (images, numbers.astype(str)), 'numbers': (images, numbers)}
    fitted = mu.MultitaskClassifier('random:Ti1', config=config).fit(tasks)
    assert fitted.classes_['texts'].tolist() == ['0', '1']
    assert fitted.classes_['numbers'].tolist() == [0, 1]
    for task, (_, labels) in tasks.items():
        share = (fitted.predict(task, images) == labels).mean()
        assert share == fitted.score(task, images, labels)


def test_a_fitted_classifier_is_copied_after_its_first_prediction_too(fitted):
    images, _ = dark_and_bright()
    found = fitted.predict_proba('shade', images)
    again = pickle.loads(pickle.dumps(fitted.system_))
    assert np.allclose(again.predict('shade', images), found, atol=1e-5)


def test_the_classifier_keeps_its_run_where_it_is_told(tmp_path):
    images, words = dark_and_bright()
    with pytest.raises(InputError, match='tasks'):
        mu.MultitaskClassifier(path=tmp_path / 'run').fit({})
    with pytest.raises(InputError, match='config = .*must be a Config'):
        mu.MultitaskClassifier(config='demo').fit({'t': (images, words)})
    with pytest.raises(InputError, match='positive number'):
        mu.MultitaskClassifier(minutes=0).fit({'t': (images, words)})
    (tmp_path / 'taken').write_text('a file')
    config = mu.Config.preset('demo', common_trunks=False)
    taken = mu.MultitaskClassifier('random:Ti1', config=config, path=tmp_path / 'taken')
    with pytest.raises(InputError, match='is a file'):
        taken.fit({'t': (images, words)})


@pytest.mark.parametrize('stopped', [False, True])
def test_a_temporary_run_stays_while_it_is_held_or_where_it_was_stopped(stopped, monkeypatch):
    if stopped:  # as by Ctrl-C, after a generation
        monkeypatch.setattr(mu.Evolution, 'run', lambda evo: evo.step())
    config = mu.Config.preset('demo', batch_size=8, batches=2, segments=1, children_per_task=1)
    config = with_fields(config, common_trunks=False, task_iterations=2)
    fitted = mu.MultitaskClassifier('random:Ti1', config=config).fit({'t': dark_and_bright()})
    assert not fitted.choice_.longer, 'the configuration is as given'
    run, again, system = fitted._temporary.path, copy.deepcopy(fitted), fitted.system_
    del fitted
    gc.collect()
    assert mu.System.open(run).tasks == again.system_.tasks
    del again
    gc.collect()
    assert Path(run).exists() == stopped
    if not stopped:
        with pytest.raises(InputError, match='was deleted or moved'):
            system.route(dark_and_bright()[0])
        return
    monkeypatch.undo()
    with mu.Evolution.resume(run, [mu.task_from_arrays('t', dark_and_bright())]) as evo:
        evo.run()
    shutil.rmtree(run)


def test_labels_are_the_same_however_they_come():
    images, words = dark_and_bright()
    numbers = (words == 'dark').astype(int)
    config = mu.Config.preset('demo', batch_size=8, batches=1, segments=1, children_per_task=1)
    config = with_fields(config, common_trunks=False)
    tasks = {
        'list': [images, numbers.astype(str)],
        'iterator': (images, map(str, numbers)),
        'splits': {'train': (images, numbers.astype(str)), 'test': (images, numbers.astype(str))},
    }
    tasks['ages'] = (images, np.where(numbers, 30, 9))
    fitted = mu.MultitaskClassifier('random:Ti1', config=config).fit(tasks)
    assert fitted.classes_['ages'].tolist() == [9, 30]
    right = fitted.predict('ages', images) == tasks['ages'][1]
    assert fitted.score('ages', *tasks.pop('ages')) == right.mean()
    for task in tasks:
        assert fitted.classes_[task].tolist() == ['0', '1']
    wrong = {'train': (images, words), 'val': (images, words), 'valid': (images, words)}
    with pytest.raises(InputError, match="has the splits train, val"):
        mu.MultitaskClassifier().fit({'t': wrong})


def test_nothing_is_measured_for_a_run_that_may_not_begin(tmp_path, monkeypatch):
    (tmp_path / 'mine.txt').write_text('x')

    def measured(*_):
        raise AssertionError

    monkeypatch.setattr('munet_nb.choices.measure_speed', measured)
    with pytest.raises(InputError, match='mine.txt'):
        mu.MultitaskClassifier(minutes=1, path=tmp_path).fit({'t': dark_and_bright()})


def test_a_model_takes_images_of_any_library_and_paths(fitted, tmp_path):
    images, _ = dark_and_bright(4)
    color = np.stack([images] * 3, -1)
    paths = [tmp_path / f'{i}.png' for i in range(4)]
    for path, image in zip(paths, color):
        Image.fromarray(image).save(path)
    system = fitted.system_
    expected = system.predict('shade', color)
    first = torch.tensor(color).permute(0, 3, 1, 2)
    floats = (first / 255).requires_grad_()
    for given in (first, list(first), floats, first.numpy(), paths, map(str, paths)):
        assert np.allclose(system.predict('shade', given), expected, atol=1e-5)
    assert np.allclose(system.predict_all(first)['shade'], expected, atol=1e-5)
    assert np.allclose(system.route(first), system.route(color))
    assert np.allclose(system.attention('shade', first), system.attention('shade', color))
    (one,) = system.predict_mixed([('shade', first[0])])
    assert np.allclose(one, expected[0], atol=1e-5)
    with pytest.raises(InputError, match=r'give x\[None\]'):
        system.predict('shade', first[0])
