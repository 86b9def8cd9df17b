"""`munet predict`, as a user meets it: folders and patterns in, lines, JSON and tables out.

Most of it asks a system that answers without a model; what it answers is not the matter here.
"""

import csv
import io
import json
import os
import shutil
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from munet_nb import System, load_benchmark
from munet_nb.checks import InputError
from munet_nb.cli import main
from munet_nb.tasks.images import to_image

GOLDEN = Path(__file__).parent / 'golden' / 'run_before_chapters.zip'
CLASSES = {'shade': ('dark', 'bright'), 'big, or "small"': ('tiny', 'small, but not tiny', 'огромный')}
COMMANDS = '\x1b[2J\u202e\x9b'


class Pretended(System):
    "Finds out how bright an image is; all else is the same for all images."

    def __init__(self):
        self.models = dict.fromkeys(CLASSES)
        self.classes = CLASSES

    def named(self, task):
        return task

    def predict_each(self, images, tasks=None, skip_broken=False):
        for i, image in enumerate(images):
            try:
                bright = to_image(image, f'image {i}').mean() / 255
            except InputError as e:
                yield e
            else:
                found = {'shade': [1 - bright, bright], 'big, or "small"': [0.25, 0.5, 0.25]}
                yield {task: np.float32(found[task]) for task in tasks}


@pytest.fixture
def pretended(monkeypatch):
    monkeypatch.setattr(System, 'open', lambda path: Pretended())


@pytest.fixture
def here(tmp_path, monkeypatch):
    "A folder to be in, with a folder of images."
    monkeypatch.chdir(tmp_path)
    for i, name in enumerate(('b/2', 'b/a/10', 'b/.hidden/3', 'a')):
        path = Path('photos', f'{name}.png')
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new('L', (4, 4), 60 * i).save(path)
    Path('photos/notes.txt').write_text('not an image')
    return tmp_path


FOUND = ['photos/a.png', 'photos/b/2.png', 'photos/b/a/10.png']


def predict(*args):
    return main(['predict', 'run', *map(str, args)])


def names_of(text):
    return [line.split(':')[0] for line in text.splitlines()]


def test_a_folder_is_answered_as_the_system_answers(here, capsys):
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall('run')
    test = load_benchmark('demo', ['digits'])[0].test
    for i in range(3):
        Image.fromarray(test[i][0][..., 0]).save(FOUND[i])
    assert predict('--task', 'digits', '--json', '--top', '99', 'photos') == 0
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [one['file'] for one in told] == FOUND
    expected = System.open('run').predict('digits', FOUND)
    for one, p in zip(told, expected, strict=True):
        best = one['tasks']['digits']
        assert [c['probability'] for c in best] == sorted(map(float, map(str, p)), reverse=True)
        assert {c['class']: np.float32(c['probability']) for c in best} == dict(zip('0123456789', p))
    assert predict('--all-tasks', FOUND[0]) == 0
    digit = told[0]['tasks']['digits'][0]
    expected = f"{FOUND[0]}: digits {digit['class']} {digit['probability']:.3f}\n"
    assert capsys.readouterr().out == expected


def test_folders_are_walked_and_patterns_expanded(here, pretended, capsys):
    shutil.copy(FOUND[0], 'scan')  # an image without a suffix, asked for by its name
    os.mkdir('loop')
    os.symlink('.', 'loop/self')
    shutil.copy(FOUND[0], 'loop/1.png')
    for args, names in (
        (['photos'], FOUND),
        (['scan', 'photos', 'photos/a.png'], ['scan', *FOUND]),
        (['photos/b/*'], FOUND[1:]),
        (['photos/**/*.png'], FOUND),
        (['photos/[ab].png', 'sca?'], [FOUND[0], 'scan']),
        (['loop/**/*.png'], ['loop/1.png']),
    ):
        assert predict('--task', 'shade', *args) == 0
        out, err = capsys.readouterr()
        assert names_of(out) == names
        assert ("'.txt': 1 ('notes.txt')" in err) == ('photos' in args)
        assert err.count('\n') == ('photos' in args), 'no bar where nobody looks'


def test_lines_are_aligned_and_name_the_tasks_if_there_are_more(here, pretended, capsys):
    assert predict('--task', 'shade', 'photos') == 0
    assert capsys.readouterr().out.splitlines() == [
        'photos/a.png:      bright 0.706, dark   0.294',
        'photos/b/2.png:    dark   1.000, bright 0.000',
        'photos/b/a/10.png: dark   0.765, bright 0.235',
    ]
    assert predict('--all-tasks', 'photos/a.png') == 0
    one = 'photos/a.png: shade bright 0.706; big, or "small" small, but not tiny 0.500\n'
    assert capsys.readouterr().out == one


def test_what_does_not_decode_is_told_skipped_and_counted(here, pretended, capsys):
    Path(FOUND[1]).write_text('broken')
    for form in ([], ['--json'], ['--csv']):
        assert predict('--task', 'shade', *form, 'photos') == 1
        out, err = capsys.readouterr()
        assert FOUND[1] not in out and FOUND[0] in out and FOUND[2] in out
        _, broken, counted = err.splitlines()
        assert broken.startswith(f'munet: {FOUND[1]}: is not an image that can be decoded (')
        assert counted.startswith('munet: 1 of 3 files skipped')


NAMES = ['猫 é.png', f'{COMMANDS}.png', 'two\nlines\t.png', 'a "b", c.png', b'caf\xe9.png']


def save_named(names):
    os.mkdir('named')
    for name in names:
        shutil.copy(FOUND[0], os.path.join(b'named', os.fsencode(name)))


def test_any_name_can_be_written_in_json(here, pretended, capsys):
    save_named(NAMES)
    assert predict('--all-tasks', '--json', '--top', 2, 'named') == 0
    out = capsys.readouterr().out
    assert not set(out) & set(COMMANDS) - set('[2J') and '猫 é.png' in out and 'огромный' not in out

    def refuse(text):
        raise ValueError(f'{text} is no JSON')

    told = [json.loads(line, parse_constant=refuse) for line in out.split('\n')[:-1]]
    assert {one['file'] for one in told} == {f'named/{n}' for n in NAMES[:-1]} | {r'named/caf\xe9.png'}
    assert [c['class'] for c in told[0]['tasks']['big, or "small"']] == ['small, but not tiny', 'tiny']


def test_any_name_can_be_written_in_a_table(here, pretended, capsys):
    save_named([n for n in NAMES if n != f'{COMMANDS}.png'])
    assert predict('--all-tasks', '--csv', '--top', 9, 'named') == 0
    table = list(csv.reader(io.StringIO(capsys.readouterr().out, newline=''), strict=True))
    head = 'file task class_1 probability_1 class_2 probability_2 class_3 probability_3'.split()
    assert table[0] == head and {len(row) for row in table} == {len(head)}
    expected = {'named/猫 é.png', 'named/two\nlines\t.png', 'named/a "b", c.png', r'named/caf\xe9.png'}
    assert {row[0] for row in table[1:]} == expected
    assert table[1][1:] == ['shade', 'bright', '0.7058824', 'dark', '0.29411766', '', '']
    assert [row[1] for row in table[1:]] == [*CLASSES] * 4


def test_no_name_commands_a_terminal_or_breaks_a_line(here, pretended, capsys):
    save_named(NAMES)
    shutil.copy('photos/notes.txt', f'named/{COMMANDS}\n.png')
    for form in ([], ['--csv']):
        assert predict('--task', 'shade', *form, 'named') == 1
        out, err = capsys.readouterr()
        assert not set(out + err) & (set(COMMANDS) - set('[2J'))
        assert err.count('\n') == 2 and (form or out.count('\n') == len(NAMES))


@pytest.mark.parametrize('args, message', [
    (['--top', '0', 'photos'], "--top: '0': must be a whole number from 1"),
    (['--top', 'many', 'photos'], "--top: 'many': must be a whole number from 1"),
    (['--json', '--csv', 'photos'], 'not allowed with'),
    (['--task', 'shade', 'photos'], 'not allowed with'),
    (['photos', 'nothing.png'], 'nothing.png: is not a file, nor a folder'),
    (['photos/*.gif'], 'photos/*.gif: is not a file, and no image file has a name of this pattern'),
    (['photos/b/.hidden/..', 'empty'], "'photos/b/.hidden/.., empty': there are no files that are"),
    ([''], 'it is empty'),
])
def test_a_mistake_is_told_before_anything_is_written(here, pretended, capsys, args, message):
    Path('empty').mkdir()
    if 'empty' in args:
        shutil.rmtree('photos/b/a')
        Path(FOUND[1]).unlink()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Pretended, 'predict_each', None)
        try:
            status = predict('--all-tasks', *args)
        except SystemExit as e:
            status = e.code
    out, err = capsys.readouterr()
    assert (status, out) == (2, '') and message in err


def test_no_task_at_all_is_told(here, pretended, capsys, monkeypatch):
    with pytest.raises(SystemExit):
        predict('photos')
    assert 'one of the arguments --task --all-tasks is required' in capsys.readouterr().err
    monkeypatch.setattr('test_predict_command.CLASSES', {})
    assert predict('--all-tasks', 'photos') == 2
    assert 'run: no task has a model yet' in capsys.readouterr().err


def test_every_answer_is_out_before_the_next_file_is_asked_for(here, pretended, monkeypatch):
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    out = os.fdopen(writing, 'w', encoding='utf-8')  # holds back what is not flushed
    monkeypatch.setattr(sys, 'stdout', out)
    came, answer = [], Pretended.predict_each

    def watched(self, images, tasks, skip_broken):
        for found in answer(self, images, tasks):
            yield found
            came.append(os.read(reading, 1000).decode())

    monkeypatch.setattr(Pretended, 'predict_each', watched)
    assert predict('--task', 'shade', 'photos') == 0
    assert [names_of(text) for text in came] == [[name] for name in FOUND]


def test_ctrl_c_leaves_whole_lines_and_no_traceback(here, pretended, monkeypatch, capsys):
    answer = Pretended.predict_each

    def stopped(self, images, tasks, skip_broken):
        yield from answer(self, images[:2], tasks)
        raise KeyboardInterrupt

    monkeypatch.setattr(Pretended, 'predict_each', stopped)
    assert predict('--task', 'shade', '--json', 'photos') == 130
    out, err = capsys.readouterr()
    assert [json.loads(line)['file'] for line in out.splitlines()] == FOUND[:2]
    assert err.splitlines()[1:] == ['munet: stopped; what was answered is written']


def test_a_reader_that_has_seen_enough_is_no_mistake(here, pretended, monkeypatch, capsys):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, 'w', encoding='utf-8') as out:
        monkeypatch.setattr(sys, 'stdout', out)
        assert predict('--task', 'shade', 'photos/a.png') == 0
    assert capsys.readouterr().err == ''


def test_an_output_without_the_letters_gets_json_all_the_same(here, pretended, monkeypatch):
    out = io.TextIOWrapper(io.BytesIO(), 'latin-1', write_through=True)
    shutil.copy(FOUND[0], '猫.png')
    monkeypatch.setattr(sys, 'stdout', out)
    assert predict('--task', 'shade', '--json', '猫.png') == 0
    assert json.loads(out.buffer.getvalue())['file'] == '猫.png'
