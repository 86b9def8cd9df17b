"Which task an image is for: kept with a run, found again, and never in the way of a search."

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from munet_nb.checks import InputError, Notice
from munet_nb.roots.load import load_root
from munet_nb.runs import rundir
from munet_nb.runs.evolution import Evolution
from munet_nb.runs.system import System
from munet_nb.search.config import Config
from munet_nb.tasks.benchmarks import load_benchmark
from munet_nb.tasks.splits import part

CONFIG = Config.preset(
    'demo',
    children_per_task=1,
    children_per_generation=1,
    batch_size=32,
    batches=2,
    segments=1,
    common_trunks=False,
    probed_seeds=0,
    spread_rates=False,
)


def few(task):
    return replace(
        task,
        train=part(task.train, range(400)),
        validation=part(task.validation, range(100)),
        test=part(task.test, range(40)),
    )


@pytest.fixture(scope='module')
def tasks():
    return [few(task) for task in load_benchmark('demo', ['mnist', 'digits'])]


@pytest.fixture(scope='module')
def run(tmp_path_factory, tasks):
    "A finished run, as it was left."
    path = tmp_path_factory.mktemp('routing') / 'run'
    with Evolution.create(path, load_root('Ti3-glyphs'), tasks, CONFIG) as evo:
        while not evo.done:
            evo.step()
    return path


@pytest.fixture(scope='module')
def images(tasks):
    return [task.test[i][0] for task in tasks for i in range(40)]


def files_of(path):
    return {p.relative_to(path): p.read_bytes() for p in path.rglob('*') if p.is_file()}


def kept_by(path):
    return sorted(path.glob('routing/*/*'))


def test_each_image_finds_its_task_in_any_company_and_order(run, images, tasks):
    before = files_of(run)
    system = System.open(run)
    found = system.route(images)
    assert list(found) == ['mnist', 'digits', 'none']
    assert np.allclose(found.sum(axis=1), 1)
    right = found.to_numpy().argmax(1) == np.repeat([0, 1], 40)
    assert right.mean() > 0.8
    order = np.random.default_rng(0).permutation(len(images))
    again = system.route([images[i] for i in order]).to_numpy()
    assert np.allclose(again, found.to_numpy()[order], atol=1e-6)
    assert np.allclose(system.route(images[:1]), found[:1], atol=1e-6)
    assert system.route([]).shape == (0, 3)
    assert files_of(run) == before
    sizes = [p.stat().st_size for p in kept_by(run)]
    assert len(sizes) == 2 and max(sizes) < 10_000


def test_what_no_task_has_seen_is_told_apart(run):
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 256, (20, 40, 40, 3), dtype=np.uint8)
    assert (System.open(run).route(noise)['none'] > 0.5).mean() > 0.9


def test_an_image_that_is_none_is_refused(run):
    with pytest.raises(InputError, match='there is no such file'):
        System.open(run).route(['no/such/file.png'])


def test_image_by_image_it_is_the_same_and_what_is_none_has_its_place(run, images, tmp_path):
    broken = tmp_path / 'broken.png'
    broken.write_bytes(b'no image')
    system, given = System.open(run), [images[0], broken, images[1]]
    found = list(system.route_each(given, skip_broken=True))
    assert np.allclose([found[0], found[2]], system.route(images[:2]), atol=1e-6)
    assert isinstance(found[1], InputError) and 'broken.png' in str(found[1])
    with pytest.raises(InputError, match='broken.png'):
        list(system.route_each(given))


def test_what_is_altered_or_gone_is_refused_by_name_and_made_again(run, images, tasks):
    before = System.open(run).route(images)
    first, second = kept_by(run)
    good = first.read_bytes()
    first.write_bytes(good[:-1] + bytes([good[-1] ^ 1]))
    second.unlink()
    system = System.open(run)
    system.predict('mnist', images[:1])  # for which nothing is lacking
    with pytest.raises(InputError, match=f'{first.name}: .*altered.*munet resume'):
        system.route(images)
    first.unlink()
    with pytest.raises(InputError, match="'mnist', 'digits' lie; munet resume"):
        System.open(run).route(images)
    journal = (run / 'journal.jsonl').read_bytes()
    first.write_bytes(good[:-1])
    half_written = first.with_name(f'.{first.name}.0123456789abcdef')
    half_written.write_bytes(good[:9])
    Evolution.resume(run, tasks).close()
    assert not half_written.exists() and len(kept_by(run)) == 2
    assert (run / 'journal.jsonl').read_bytes() == journal
    assert np.array_equal(System.open(run).route(images), before)


def test_a_full_disk_stops_no_search(run, tmp_path, images, tasks, monkeypatch):
    def full(folder, layer):
        raise OSError(errno.ENOSPC, 'No space left on device')

    here = tmp_path / 'run'
    shutil.copytree(run, here)
    shutil.rmtree(here / 'routing')
    monkeypatch.setattr(rundir, 'save_layer', full)
    with pytest.warns(Notice) as told:
        evo = Evolution.resume(here, tasks)
    assert ["'mnist' lie is not kept" in str(w.message) for w in told] == [True, False]
    with evo:
        assert evo.done
        with pytest.raises(InputError, match='munet resume'):
            evo.system.route(images)
    assert files_of(here)[Path('journal.jsonl')] == files_of(run)[Path('journal.jsonl')]


def test_a_link_in_the_place_of_a_folder_is_not_followed(run, tmp_path, images):
    routing = run / 'routing'
    moved = routing.rename(tmp_path / 'elsewhere')
    try:
        routing.symlink_to(moved)
        with pytest.raises(InputError, match='is a link'):
            System.open(run)
    finally:
        routing.unlink()
        moved.rename(routing)
