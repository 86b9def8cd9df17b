"What kept models answer: the same everywhere, kept with a run, and never in the way of a search."

import errno
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from munet_nb.checks import InputError, Notice
from munet_nb.engine.answers import answers_to_layer
from munet_nb.models.pool import make_layer
from munet_nb.pictures.mistakes import ERROR_VIEWS, error_view
from munet_nb.roots.load import load_root
from munet_nb.runs import rundir
from munet_nb.runs.evolution import Evolution
from munet_nb.runs.repair import check_run, describe
from munet_nb.runs.rundir import RunWriter
from munet_nb.runs.system import System, key_of_answers
from munet_nb.search.config import Config
from munet_nb.tasks.benchmarks import load_benchmark
from munet_nb.tasks.splits import part

CONFIG = Config.preset(
    'demo',
    children_per_task=3,
    children_per_generation=1,
    batch_size=32,
    batches=2,
    segments=1,
    common_trunks=False,
    probed_seeds=0,
    spread_rates=False,
    acceptance_errors=0,
    accept_ties=True,
    validation_batches=2,
    scale_factor=1.0,
)


def few(task):
    return replace(
        task,
        classes=('<i>none</i>', *task.classes[1:]),
        train=part(task.train, range(400)),
        validation=part(task.validation, range(100)),
        test=part(task.test, range(40)),
    )


@pytest.fixture(scope='module')
def tasks():
    return [few(task) for task in load_benchmark('demo', ['mnist', 'digits'])]


def start(path, tasks):
    return Evolution.create(path, load_root('Ti3-glyphs'), tasks, CONFIG)


@pytest.fixture(scope='module')
def whole(tmp_path_factory, tasks):
    "A finished run, as it was left."
    path = tmp_path_factory.mktemp('answers') / 'run'
    with start(path, tasks) as evo:
        while not evo.done:
            evo.step()
    return path


@pytest.fixture
def run(whole, tmp_path):
    "A copy to spoil."
    return Path(shutil.copytree(whole, tmp_path / 'copy'))


def kept_by(path):
    return {p.relative_to(path): p.read_bytes() for p in sorted(path.glob('answers/*/*'))}


def key_file(run, system, task, split='test'):
    "Where the answers of a task's model are."
    key = key_of_answers(system.models[task], system._state, CONFIG.training, split)
    (found,) = (run / 'answers' / key).iterdir()
    return found


def test_they_are_what_the_models_answer_and_what_the_journal_tells(whole, tasks):
    system = System.open(whole)
    for task in tasks:
        model, answers = system.models[task.name], system.answers(task.name)
        assert answers.accuracy == system.table().test[task.name]
        shown = system.predict(task.name, [task.test[i][0] for i in range(40)])
        assert np.allclose(answers.probabilities, -np.sort(-shown)[:, :5], atol=1e-3)
        assert answers.labels.tolist() == [task.test[i][1] for i in range(40)]
        own = shown[np.arange(40), answers.labels]
        assert np.allclose(answers.of_label, own, atol=1e-3)
        seen = system.answers(task.name, 'validation')
        assert len(seen) == 64  # those that models are selected by, not the others
        assert abs(seen.accuracy - model.quality) <= 1 / 64
    with pytest.raises(InputError, match="= 'train': must be"):
        system.answers('mnist', 'train')


def test_what_a_model_was_made_from_can_be_compared_with_it_and_nothing_older_is_kept(whole, tasks):
    system = System.open(whole)
    made = {t.name: system.ancestor(t.name) for t in tasks}
    assert any(made.values()), 'a run in which a child of a child is kept'
    count = len(tasks) + sum(m is not None for m in made.values())
    assert len(kept_by(whole)) == 2 * count
    for task, ancestor in made.items():
        if ancestor:
            assert ancestor.task == task
            before = system.answers(task, 'validation', ancestor=True)
            assert abs(before.accuracy - ancestor.quality) <= 1 / 64
            assert np.array_equal(before.labels, system.answers(task, 'validation').labels)
        else:
            with pytest.raises(InputError, match='made from none'):
                system.answers(task, ancestor=True)


def test_a_strangers_file_is_refused_by_name_and_made_again(run, tasks):
    system = System.open(run)
    before, good = kept_by(run), system.answers('mnist')
    file = key_file(run, system, 'mnist')
    data = file.read_bytes()
    file.write_bytes(data[:-1] + bytes([data[-1] ^ 1]))
    with pytest.raises(InputError, match=f'{file.name}: .*altered.*munet resume'):
        system.answers('mnist')
    told = describe(check_run(run))
    assert file.name in told and 'munet resume makes it again' in told and check_run(run).whole
    file.unlink()
    with pytest.raises(InputError, match='does not keep what .* munet resume'):
        system.answers('mnist')
    writer, records = RunWriter(run), System.open(run)
    writer.lock()
    writer.go_on(len(writer.records()))
    flat = answers_to_layer(good).flat
    for other in (
        {**flat, 'labels': flat['labels'] + np.uint8(50)},
        {**flat, 'classes': flat['classes'][:, :3]},
        {'weights': np.zeros((3, 3), 'float32')},
    ):
        writer.note(writer.answers, file.parent.name, make_layer(other))
        with pytest.raises(InputError, match='holds no answers.*munet resume'):
            records.answers('mnist')
    writer.close()
    shutil.rmtree(run / 'answers')
    Evolution.resume(run, tasks).close()
    again = kept_by(run)
    assert again.items() <= before.items() and len(again) == 4  # the ancestors' layers are gone
    assert np.array_equal(System.open(run).answers('mnist').given, good.given)


def test_what_is_not_needed_goes_and_what_is_not_ours_stays(run, tasks):
    before = kept_by(run)
    first = next(iter(before))
    stale = run / 'answers' / ('0' * 64) / first.name
    stale.parent.mkdir()
    stale.write_bytes(before[first])
    half = run / first.parent / f'.{first.name}.0123456789abcdef'
    half.write_bytes(b'half')
    foreign = run / 'answers' / 'notes' / 'mine.txt'
    foreign.parent.mkdir()
    foreign.write_text('mine')
    Evolution.resume(run, tasks).close()
    assert not stale.parent.exists() and not half.exists() and foreign.exists()
    foreign.unlink()
    assert kept_by(run) == before


def test_a_full_disk_stops_no_search(whole, tmp_path, tasks, monkeypatch):
    save = rundir.save_layer

    def full(folder, layer):
        if folder.parent.name == 'answers':
            raise OSError(errno.ENOSPC, 'No space left on device')
        save(folder, layer)

    monkeypatch.setattr(rundir, 'save_layer', full)
    with start(tmp_path / 'f', tasks) as evo, pytest.warns(Notice, match='answers is not kept'):
        while not evo.done:
            evo.step()
        with pytest.raises(InputError, match='munet resume'):
            evo.system.answers('mnist')
    assert (tmp_path / 'f' / 'journal.jsonl').read_bytes() == (whole / 'journal.jsonl').read_bytes()


def test_a_link_in_the_place_of_a_folder_is_not_followed(run, tmp_path):
    (run / 'answers').rename(tmp_path / 'elsewhere')
    (run / 'answers').symlink_to(tmp_path / 'elsewhere')
    with pytest.raises(InputError, match='is a link'):
        System.open(run)


def test_the_views_of_a_task_with_its_images_and_without(run, tasks):
    with Evolution.resume(run, tasks) as evo:
        system = evo.system
        made = {name: error_view(name, system, 'mnist') for name in ERROR_VIEWS}
        for name in ('Mistakes', 'Attention'):  # of the images that models are selected by
            assert '<img' in error_view(name, system, 'mnist', 'validation')
        looks = system.attention('mnist', [tasks[0].test[0][0], np.zeros((9, 30, 3), np.uint8)])
    assert looks.shape == (2, 2, 2) and (looks.sum((1, 2)) < 1).all() and looks.min() >= 0
    wrong = int((~system.answers('mnist').right).sum())
    assert made['Mistakes'].count('<img') == min(wrong, 24)
    assert made['Attention'].count('<img') == min(wrong, 12)
    assert all('<svg' in made[name] for name in ('Confusion', 'Classes', 'Calibration'))
    assert not any('<i>' in html or 'src="http' in html for html in made.values())
    assert any('&lt;i&gt;none' in html for html in made.values())
    system._data = {'mnist': replace(tasks[0], test=part(tasks[0].test, range(39, -1, -1)))}
    for name in ('Mistakes', 'Attention'):
        assert 'the data changed since the model answered' in error_view(name, system, 'mnist')
    alone = System.open(run)  # without the images
    assert 'not loaded' in error_view('Mistakes', alone, 'mnist')
    kin = error_view('Gained and lost', alone, 'mnist')
    assert ('gets' if alone.ancestor('mnist') else 'made from none') in kin and '<img' not in kin
    shutil.rmtree(run / 'answers')
    assert 'munet resume' in error_view('Confusion', alone, 'mnist')
    with pytest.raises(InputError, match='unknown view'):
        error_view('confusion', alone, 'mnist')
