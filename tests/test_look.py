"What is wrong with a user's images is found, told at once, left out if he says so, and shown."

import io
import re
import shutil
from dataclasses import replace

import numpy as np
import pytest
from PIL import Image

import munet_nb as mu
from munet_nb import Config, Evolution, InputError, load_folder, load_root
from munet_nb.checks import Notice
from munet_nb.cli import main, make_parser
from munet_nb.options import read_moved, read_tasks
from munet_nb.tasks import condition, folders
from munet_nb.tasks.condition import survey_of
from munet_nb.tasks.sources import load_source


def noise(side: int, seed: int) -> Image.Image:
    "A picture unlike any other: squares of random colors."
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 256, (8, 8, 3), 'uint8'))
    return small.resize((side, side), Image.Resampling.BICUBIC)


def pets_in(path, n=20):
    "An image folder of two classes, n photographs each."
    for k, name in enumerate(('cat', 'dog')):
        (path / name).mkdir(parents=True)
        for i in range(n):
            noise(96, 1000 * k + i).save(path / name / f'{i}.jpg')
    return path


def breaks(path):
    "Four files as they come off a bad disk; returns their names."
    whole = (path / 'cat/1.jpg').read_bytes()
    (path / 'cat/1.jpg').write_bytes(whole[: len(whole) // 2])
    (path / 'cat/2.jpg').write_bytes(b'')
    (path / 'dog/3.jpg').write_text('<html>404 Not Found</html>')
    bad = io.BytesIO()
    noise(96, 7).save(bad, 'PNG')
    bad = bytearray(bad.getvalue())
    bad[len(bad) // 2] ^= 255
    (path / 'dog/4.png').write_bytes(bad)
    return ['cat/1.jpg', 'cat/2.jpg', 'dog/3.jpg', 'dog/4.png']


@pytest.fixture
def pets(tmp_path):
    return pets_in(tmp_path / 'pets')


def start(path, task):
    config = Config.preset('demo', batch_size=8, batches=1, segments=1, common_trunks=False)
    return Evolution.create(path, load_root('random:Ti1'), [task], config)


def test_a_look_says_that_large_photographs_are_read_smaller(pets):
    told = 'as they are read: JPEGs from 2,048 pixels on at a half or a quarter'
    assert told not in repr(mu.look(pets))
    noise(2100, 1).save(pets / 'cat' / 'large.jpg')
    seen = repr(mu.look(pets))
    assert '96 x 96 to 1050 x 1050 pixels' in seen and told in seen
    array = np.zeros((40, 1100, 1100), np.uint8)
    assert told not in repr(mu.look(mu.task_from_arrays('t', (array, [0, 1] * 20))))


def test_all_broken_files_are_told_at_once(pets, monkeypatch):
    broken = breaks(pets)
    with pytest.raises(InputError, match='4 of 41 images are broken') as told:
        load_folder(pets)
    assert all(f'{name}: is not an image' in str(told.value) for name in broken)
    assert '(it is empty)' in str(told.value) and '--skip-broken' in str(told.value)
    monkeypatch.setattr(folders, 'DECODE_PIXELS', 0)  # read one by one: header and end are seen
    with pytest.raises(InputError, match='3 of 41 images are broken'):
        load_folder(pets)
    with pytest.warns(Notice, match='4 of 41 images are broken'):  # none is to end a training
        load_folder(pets, skip_broken=True)


def test_of_a_thousand_broken_files_the_first_are_told(pets):
    for i in range(1000):
        (pets / f'cat/x{i}.jpg').touch()
    with pytest.raises(InputError, match=r'and 992 more \(munet look tells all\)') as told:
        load_folder(pets)
    assert len(str(told.value)) < 1500


def test_broken_files_are_left_out_and_a_run_remembers_which(pets, tmp_path):
    broken = breaks(pets)
    with pytest.warns(Notice, match='4 of 41 images are broken.* They are left out'):
        task = load_folder(pets, skip_broken=True)
    assert sum(map(len, (task.train, task.validation, task.test))) == 37
    start(tmp_path / 'run', task).close()

    def resumed():
        with pytest.warns(Notice, match='broken when the run began: '):
            with Evolution.resume(tmp_path / 'run', trust_sources=True) as evo:
                return evo.tasks['pets'].fingerprint

    assert resumed() == task.fingerprint
    noise(96, 99).save(pets / broken[0])  # mended: it stays out
    assert resumed() == task.fingerprint
    (pets / broken[1]).unlink()
    assert resumed() == task.fingerprint
    whole = (pets / 'dog/5.jpg').read_bytes()
    (pets / 'dog/5.jpg').write_bytes(whole[:99])  # broke since
    with pytest.raises(InputError, match='1 of 37 images is broken: dog/5.jpg.*has begun goes on'):
        Evolution.resume(tmp_path / 'run', trust_sources=True)
    (pets / 'dog/5.jpg').unlink()
    with pytest.raises(InputError, match='not those that the run'):
        Evolution.resume(tmp_path / 'run', trust_sources=True)


def test_a_folder_with_broken_files_may_move(pets, tmp_path):
    breaks(pets)
    typed = ['evolve', '--run', 'x', '--folder', str(pets), '--skip-broken']
    (task,) = read_tasks(make_parser().parse_args(typed))
    start(tmp_path / 'run', task).close()
    moved = shutil.move(pets, tmp_path / 'moved')
    with pytest.raises(InputError, match='--moved pets=DIR'):
        Evolution.resume(tmp_path / 'run', trust_sources=True)
    typed = ['resume', str(tmp_path / 'run'), '--moved', f'pets={moved}']
    given = read_moved(make_parser().parse_args(typed))
    Evolution.resume(tmp_path / 'run', given).close()


def test_a_class_all_of_whose_files_are_broken_is_refused(pets):
    for path in (pets / 'cat').iterdir():
        path.write_bytes(b'')
    with pytest.raises(InputError, match="20 of 40.*Without them: .* there are no images in 'cat'"):
        load_folder(pets, skip_broken=True)


def test_a_class_all_of_whose_files_are_broken_is_told_by_a_look(pets):
    for path in (pets / 'cat').iterdir():
        path.write_bytes(b'')
    seen = mu.look(pets)
    told = str(seen)
    for line in ('! 20 files are broken', "train has no image of 'cat'", 'broken: cat/19.jpg (it is'):
        assert line in told, told
    assert '>cat/19.jpg<' in seen._repr_html_()
    for path in (pets / 'dog').iterdir():
        path.write_bytes(b'')
    with pytest.raises(InputError, match='nothing is left of a split: 40 of 40') as refused:
        mu.look(pets)
    assert str(refused.value).count('.jpg') == 40


def test_what_a_stranger_writes_of_left_out_files_reads_nothing_else(pets, tmp_path):
    breaks(pets)
    task = load_folder(pets, skip_broken=True)
    start(tmp_path / 'run', task).close()
    with pytest.raises(InputError, match="from 'folder:.*pets \\(but for 4 of its files\\)'"):
        Evolution.resume(tmp_path / 'run')
    strange = f'folder-without:["/etc/passwd", "../../x", "cat/1.jpg", "\\u001b[2J"]@{pets}'
    with pytest.raises(InputError, match='3 of 40 images are broken') as told:
        load_source(strange, 'pets')
    assert 'passwd' not in str(told.value)
    for text in ('', '[', '[' * 10**5, '["a"]', '[1]@/tmp', '{"a": 1}@/tmp', '9' * 10**5, '[]@'):
        with pytest.raises(InputError):
            load_source(f'folder-without:{text}', 'pets')


# The look


@pytest.fixture(scope='module')
def messy(tmp_path_factory):
    "Everything that can be wrong, in splits of its own, with names made to fool a page."
    top = tmp_path_factory.mktemp('images')
    path = top / 'messy'
    pets_in(path / 'train')
    for split, first in (('val', 5000), ('test', 6000)):
        for k, name in enumerate(('cat', 'dog')):
            (path / split / name).mkdir(parents=True)
            for i in range(6):
                noise(96, first + 100 * k + i).save(path / split / name / f'{i}.jpg')
    cat = path / 'train/cat'
    shutil.copy(cat / '0.jpg', path / 'test/cat/<b>same.jpg')
    with Image.open(cat / '5.jpg') as im:
        im.resize((48, 48), Image.Resampling.LANCZOS).save(path / 'val/cat/smaller.png')
    with Image.open(cat / '6.jpg') as im:
        im.save(path / 'val/cat/worse.jpg', quality=40)
    shutil.copy(cat / '7.jpg', path / 'train/dog/7 again.jpg')
    noise(96, 9000).convert('L').save(path / 'train/dog/gray.png')
    noise(8, 9001).save(path / 'train/dog/tiny.png')
    Image.new('RGB', (40, 40), 'red').save(path / 'train/dog/red.png')
    breaks(path / 'train')
    (path / 'train/dog/\x1b[2J.jpg').write_text('no image')
    (path / 'train/dog/x.heic').touch()
    for folder in (path / 'train', path / 'val', path / 'test'):
        (folder / 'dog').rename(folder / '<i>dog')
    return path


@pytest.fixture(scope='module')
def seen(messy):
    return mu.look(messy)


def test_the_summary_tells_what_to_look_at(seen):
    told = str(seen)
    for line in (
        'messy: 2 classes, 41 train + 14 validation + 13 test images',
        '! 2 of 14 images of validation (14.3%) are in train too (0 to the pixel, 2 changed)',
        '! 1 of 13 images of test (7.7%) is in train too (1 to the pixel, 0 changed)',
        '! 1 image has a copy in another class, as train/',
        '! 5 files are broken',
        'broken: train/cat/2.jpg (it is empty)',
        'broken: train/<i>dog/3.jpg (it is no picture of a known kind)',
        r'broken: train/<i>dog/\x1b[2J.jpg',
        "left out: photographs as '.heic', to be saved as JPEG first: 1",
        '! validation is small (14 images)',
        '! 1 of 68 images is gray among colored ones',
        '! 1 of 68 images is less than 16 pixels wide or high',
        '! 1 of 68 images is of one color',
    ):
        assert line in told, (line, told)
    assert repr(seen) == told and '\x1b' not in told


def test_the_page_needs_nothing_else_and_obeys_no_name(seen, tmp_path):
    page = seen.save(tmp_path / 'look.html').read_text()
    assert '<b>same' not in page and '&lt;b&gt;same.jpg' in page
    assert '<i>dog' not in page and '&lt;i&gt;dog' in page and '\x1b' not in page
    assert 'src="data:image/' in page and len(page) < 3_000_000
    assert not re.search(r'(src|href)="(?!data:|#)', page)
    assert all(f'>{name}<' in page for name in ('train/cat/1.jpg', 'train/cat/2.jpg'))
    inside = seen._repr_html_()
    assert 'What training sees' in inside and '<i>dog' not in inside


def test_files_of_a_large_folder_that_only_decoding_finds_are_broken_too(messy, seen, monkeypatch):
    monkeypatch.setattr(folders, 'DECODE_PIXELS', 0)
    again = survey_of(messy)
    assert again.broken.keys() == seen.surveys[0].broken.keys()


def test_a_look_at_many_tasks_shows_a_row_of_each():
    task = mu.task_from_arrays('t', (np.zeros((40, 8, 8), np.uint8), [0, 1] * 20))
    page = ''.join(part.body for part in mu.look(*[replace(task, name=f't{i}') for i in range(70)]).sections)
    assert '0 of 2 classes' not in page and page.count('1 of 2 classes') == 70


def test_a_task_of_arrays_is_looked_at_and_many_images_are_sampled(monkeypatch):
    monkeypatch.setattr(condition, 'MOST_IMAGES', 50)
    images = np.stack([np.asarray(noise(16, i)) for i in range(100)])
    task = mu.task_from_arrays('drawn', (images, [0, 1] * 50))
    told = str(mu.look(task))
    assert 'drawn: 2 classes, 60 train' in told and 'looked at 50 images, evenly chosen' in told
    for wrong in (None, 7, [task], 'nowhere'):
        with pytest.raises(InputError):
            mu.look(wrong)
    with pytest.raises(InputError, match='config'):
        mu.look(task, config='demo')


def test_the_command_writes_a_page_and_replaces_no_other(pets, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    assert main(['look', str(pets)]) == 0
    assert 'pets: 2 classes' in capsys.readouterr().out
    assert '<title>munet look: pets' in (tmp_path / 'look.html').read_text()
    (tmp_path / 'mine.html').write_text('mine')
    for args, message in (
        (['--out', 'mine.html'], 'is no page of munet look'),
        (['--out', 'no/look.html'], 'its folder does not exist'),
        (['--out', '.'], 'is no page of munet look'),
        (['--preset', 'nothing'], "'nothing'"),
        (['nowhere'], 'nowhere: does not exist'),
    ):
        assert main(['look', str(pets), *args]) == 2, args
        assert message in capsys.readouterr().err
    assert (tmp_path / 'mine.html').read_text() == 'mine'
