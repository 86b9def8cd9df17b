"What surrounds a search: devices, encodings, file systems, settings from elsewhere."

import errno
import io
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import filelock
import numpy as np
import pytest
from PIL import Image

from munet_nb import Config, Evolution, HParams, TrainingSettings, load_folder, load_root
from munet_nb import task_from_arrays
from munet_nb.checks import InputError
from munet_nb.cli import main
from munet_nb.runs.rundir import RunDir
from munet_nb.search.config import config_to_json

GOLDEN = Path(__file__).parent / 'golden' / 'run_before_chapters.zip'
TINY = dict(
    children_per_task=2, batches=1, segments=1, batch_size=8, common_trunks=False, image_size=16
)


@pytest.fixture(scope='module')
def task():
    images = np.random.default_rng(0).integers(0, 256, (40, 16, 16), np.uint8)
    return task_from_arrays('t', (images, np.arange(40) % 2))


def save_noise(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    noise = np.random.default_rng(len(path.name)).integers(0, 256, (16, 16), np.uint8)
    Image.fromarray(noise).save(path)


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    top = tmp_path_factory.mktemp('images') / 'kaggle'
    for i in range(22):
        save_noise(top / 'train' / 'día' / f'{i}.png')
        save_noise(top / 'train' / '漢字' / f'{i}.png')
    save_noise(top / 'test' / 'é.png')
    return top


def test_without_a_device_nothing_is_written(folder, tmp_path):
    "In a process of its own, since JAX looks for devices once."
    code = 'import sys; from munet_nb.cli import main; sys.exit(main())'
    images = ['--folder', str(folder / 'train')]
    done = subprocess.run(
        [sys.executable, '-c', code, 'evolve', '--run', 'run', *images],
        env=os.environ | {'JAX_PLATFORMS': 'abacus'},
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    few, error = done.stderr.splitlines()
    assert done.returncode == 2 and few.startswith("munet: task 'train': 28 images to train")
    assert error.startswith("munet: JAX_PLATFORMS = 'abacus': there is no device")
    assert not (tmp_path / 'run').exists()


def test_a_run_in_which_nothing_happened_may_be_begun_again(task, tmp_path):
    path = tmp_path / 'run'
    Evolution.create(path, load_root('random:Ti1', image_size=16), [task], Config()).close()
    root = load_root('random:Ti1#1', image_size=16)
    with Evolution.create(path, root, [task], Config.preset('demo', **TINY)) as evo:
        assert [r['root_name'] for r in RunDir(path).records()] == ['random:Ti1#1']
        names = {p.stem for p in (path / 'pool').iterdir()}
        assert names == {layer.digest for layer in root.layers.values()}
        with pytest.raises(InputError, match='in use'):
            Evolution.create(path, root, [task])
        evo.change(scale_factor=np.float32(0.5))
        records = RunDir(path).records()
    assert records[1]['values'] == {'scale_factor': 0.5}
    with pytest.raises(InputError, match='holds a run already'):
        Evolution.create(path, root, [task])
    assert RunDir(path).records() == records


@pytest.mark.parametrize('failure', [
    OSError(errno.ENOLCK, 'No locks available'),
    OSError(errno.EOPNOTSUPP, 'Operation not supported'),
    NotImplementedError('FileSystem does not appear to support flock'),
])
def test_a_file_system_without_locks_is_told_from_one_that_is_read_only(
    failure, task, tmp_path, monkeypatch
):
    def acquire(self, **how):
        raise failure

    monkeypatch.setattr(filelock.FileLock, 'acquire', acquire)
    with pytest.raises(InputError, match='without file locks'):
        Evolution.create(tmp_path / 'run', load_root('random:Ti1'), [task])


def test_an_encoding_without_the_names_is_no_obstacle(tmp_path, monkeypatch):
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(tmp_path / 'run')
    save_noise(tmp_path / 'é漢.png')
    out = io.TextIOWrapper(io.BytesIO(), 'ascii', write_through=True)
    monkeypatch.setattr(sys, 'stdout', out)
    run, image = str(tmp_path / 'run'), str(tmp_path / 'é漢.png')
    assert main(['predict', run, '--task', 'digits', image]) == 0
    assert b'\\xe9\\u6f22.png: ' in out.buffer.getvalue()


def test_what_a_command_line_may_not_say_is_refused_before_anything_is_written(
    folder, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    evolve = ['evolve', '--folder', str(folder / 'train'), '--root', 'random:Ti1']
    for args, message in (
        ([*evolve, '--run', ''], "run directory '': is no path that can be used (it is empty)"),
        ([*evolve, '--run', 'a', '--layers', '0'], 'layers = 0: must be a whole number from 1'),
        ([*evolve, '--run', 'a', '--image-size', '256000000'], 'image_size = 256000000'),
        ([*evolve, '--run', '~no such user/a'], 'no path that can be used'),
        (['bench', 'quality', '--quick', '--method', 'nothing'], "method 'nothing'"),
        (['bench', 'quality', '--quick', '--out', ''], "--out '': is no path"),
        (['bench', 'speed', '--json', ''], "--json '': is no path"),
        (['bench', 'scale', '--seed', '-1'], 'seed = -1: must be a whole number'),
        (['bench', 'growth', '--seed', '-1'], 'seed = -1: must be a whole number'),
        (['bench', 'serve', '--run', 'nowhere'], 'nowhere'),
        (['bench', 'serve', '--repeats', '0'], 'repeats = 0: must be a positive whole number'),
    ):
        assert main(args) == 2, args
        assert message in capsys.readouterr().err
        assert not list(tmp_path.iterdir()), args


def test_a_folder_of_kaggle_is_told_what_is_wrong_with_it(folder):
    with pytest.raises(InputError, match='test has no class folders.* move it away'):
        load_folder(folder)


def test_scalars_of_numpy_are_settings():
    config = Config(
        seed=np.int64(3),
        scale_factor=np.float64(0.5),
        auto_tune=np.True_,
        training=TrainingSettings(batch_size=np.int32(8), precision=np.str_('bfloat16')),
        defaults=HParams(lr=np.float64(0.1), flip=np.False_),
        search={'lr': list(np.array([0.1, 0.2]))},
    )
    same = Config(
        seed=3,
        scale_factor=0.5,
        training=TrainingSettings(batch_size=8, precision='bfloat16'),
        defaults=HParams(lr=0.1, flip=False),
        search={'lr': (0.1, 0.2)},
    )
    assert repr(config) == repr(same)
    assert config_to_json(config) == config_to_json(same)
    assert load_root('random:Ti3', layers=np.int64(1), image_size=np.int64(16)).arch.depth == 1


def test_a_root_of_another_image_size_is_refused_where_it_is_used_as_it_is(task, tmp_path):
    config = Config.preset('demo', **TINY | {'common_trunks': True})
    with pytest.raises(InputError, match='load_root.*image_size=16'):
        Evolution.create(tmp_path / 'run', load_root('random:Ti1'), [task], config)
    assert not (tmp_path / 'run').exists()
