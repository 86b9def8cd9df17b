"What is wrong with a user's images is found, told at once, left out if he says so, and shown."

import io
import shutil

import numpy as np
import pytest
from PIL import Image

from munet_nb import Config, Evolution, InputError, load_folder, load_root
from munet_nb.checks import Notice
from munet_nb.cli import make_parser
from munet_nb.options import read_moved, read_tasks
from munet_nb.tasks import folders
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
            noise(48, 1000 * k + i).save(path / name / f'{i}.jpg')
    return path


def breaks(path):
    "Four files as they come off a bad disk; returns their names."
    whole = (path / 'cat/1.jpg').read_bytes()
    (path / 'cat/1.jpg').write_bytes(whole[: len(whole) // 2])
    (path / 'cat/2.jpg').write_bytes(b'')
    (path / 'dog/3.jpg').write_text('<html>404 Not Found</html>')
    bad = io.BytesIO()
    noise(48, 7).save(bad, 'PNG')
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


def test_all_broken_files_are_told_at_once(pets, monkeypatch):
    broken = breaks(pets)
    with pytest.raises(InputError, match='4 of 41 images are broken') as told:
        load_folder(pets)
    assert all(f'{name}: is not an image' in str(told.value) for name in broken)
    assert '(it is empty)' in str(told.value) and '--skip-broken' in str(told.value)
    monkeypatch.setattr(folders, 'DECODE_PIXELS', 0)  # read one by one: header and end are seen
    with pytest.raises(InputError, match='3 of 41 images are broken'):
        load_folder(pets)


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
    noise(48, 99).save(pets / broken[0])  # mended: it stays out
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
    with pytest.raises(InputError, match='munet resume --folder pets=DIR --skip-broken'):
        Evolution.resume(tmp_path / 'run', trust_sources=True)
    typed = ['resume', 'x', '--folder', f'pets={moved}', '--skip-broken']
    given = read_moved(make_parser().parse_args(typed))
    Evolution.resume(tmp_path / 'run', given).close()


def test_a_class_all_of_whose_files_are_broken_is_refused(pets):
    for path in (pets / 'cat').iterdir():
        path.write_bytes(b'')
    with pytest.raises(InputError, match="there are no images in 'cat'"):
        load_folder(pets, skip_broken=True)


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
