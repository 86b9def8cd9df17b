"""A search that goes on after its end.

By tasks, iterations, lists, presets; from Python and from a shell; killed on the way; refused.
"""

import shutil
from dataclasses import replace

import numpy as np
import pytest
from test_runs import contents, launch, lines, small_tasks, wait_for_lines
from test_runs import start as start_first
from test_strangers import TINY, make_folder
from toy import ARCH, ToyRun, info

from munet_nb import Config, Evolution, InputError, System
from munet_nb import load_benchmark, load_folder, load_root, task_from_arrays
from munet_nb.checks import Notice
from munet_nb.cli import main
from munet_nb.pictures.history import History, config_after
from munet_nb.pictures.progress import plot_progress
from munet_nb.pictures.tables import journal_table
from munet_nb.runs.repair import check_run, repair_run
from munet_nb.runs.rundir import RunDir
from munet_nb.search.ask import ask, generations_left, next_task
from munet_nb.search.config import with_fields
from munet_nb.search.extension import extended_config, extension
from munet_nb.search.journal import TaskInfo, open_records, trunk_shares

# Without training


def toy(tasks, **values) -> ToyRun:
    values = dict(children_per_task=8, children_per_generation=4, segments=2) | values
    config = with_fields(Config(), **values)
    run = ToyRun(config, tasks)
    run.state = replace(run.state, config=config)
    return run


def extend(run: ToyRun, tasks=(), preset=None, **values):
    infos = [TaskInfo(t, ('a', 'b'), False, '', '') for t in tasks]
    config = extended_config(run.config, preset, values)
    run.commit(extension(run.state, infos, config))
    run.config = run.state.config


def test_a_run_extended_by_iterations_is_the_run_that_had_them_from_the_beginning():
    once, twice = (toy([info('a'), info('b')], task_iterations=n) for n in (1, 2))
    twice.finish()
    once.finish()
    assert generations_left(once.state, once.config) == 0
    extend(once, task_iterations=2)
    assert generations_left(once.state, once.config) == 4
    once.finish()
    assert [r for r in once.records if r['kind'] != 'extended'] == twice.records
    assert replace(once.state, extensions=0) == twice.state and set(once.pool) == set(twice.pool)


def test_tasks_that_join_get_as_many_iterations_as_the_others_have():
    run = toy([info('a')], task_iterations=2)
    run.finish()
    extend(run, ['b', 'c'])
    assert 'config' not in run.records[-1]
    run.finish()
    ended = [r['task'] for r in run.records if r['kind'] == 'task_end']
    assert ended == ['a', 'a', 'b', 'c', 'b', 'c']


def spent_of(run, task) -> list[int]:
    "Segments that the children of each task iteration trained."
    told = [r for r in run.records if r['kind'] == 'generation' and r['task'] == task]
    spent = [0] * (1 + max(r['iteration'] for r in told))
    for r in told:
        spent[r['iteration']] += r['segments'] * len(r['children'])
    return spent


@pytest.mark.parametrize(
    ('done', 'spent'),
    [
        (0, [12, 12, 12]),  # of sixteen; 3, 3 and 4 are given up, and a child takes two
        (1, [16, 10, 10]),
        (2, [16, 16, 6]),
        (3, [16, 16, 16]),
    ],
)
def test_what_a_task_spends_on_common_trunks_is_taken_from_the_iterations_to_come(done, spent):
    run = toy([info('a')], task_iterations=3)
    while run.state.visits.get('a', 0) < done:
        run.step()
    run.state = replace(run.state, common={'a': 10})
    run.finish()
    assert spent_of(run, 'a') == spent


def test_a_search_without_end_is_asked_as_soon_as_a_short_one():
    run = toy([info('a')], task_iterations=10**9)
    run.state = replace(run.state, common={'a': 10**9 + 5})
    (many, share), (few, more) = trunk_shares(run.state, run.config, 'a')
    assert (many + few, share, more) == (10**9, 1, 2)
    assert many * share + few * more == 10**9 + 5
    assert ask(run.state, run.config, ARCH).children


@pytest.mark.parametrize('done', [0, 1, 2])
def test_it_is_taken_once_and_an_extension_takes_what_is_left(done):
    run = toy([info('a')], task_iterations=2)
    while run.state.visits.get('a', 0) < done:
        run.step()
    run.state = replace(run.state, common={'a': 10})
    extend(run, task_iterations=4)
    shares = trunk_shares(run.state, run.config, 'a')
    assert sum(n * share for n, share in shares) == 10
    run.finish()
    assert run.state.common == {'a': 0}
    extend(run, task_iterations=5)
    assert trunk_shares(run.state, run.config, 'a') == [(1, 0)]


def test_a_child_of_the_root_takes_the_new_defaults_and_of_a_model_the_models_own():
    run = toy([info('a')], task_iterations=1, mutation_prob=0.0)
    run.finish()
    extend(run, ['b'], lr=0.05, adapter_dim=64)
    children = {c.parent: c.hparams for c in ask(run.state, run.config, ARCH).children}
    assert (children['root'].lr, children['root'].adapter_dim) == (0.05, 64)
    assert children.pop(run.state.kept['a']).lr == 0.01


def test_images_that_a_run_has_already_join_with_a_notice(tmp_path):
    with start_first(tmp_path / 'run') as evo:
        again = replace(evo.tasks['mnist'], name='again')
        told = "task 'again': its classes and images are those of 'mnist'"
        with pytest.warns(Notice, match=told):
            evo.add_task(again)
        assert list(evo.state.tasks) == ['mnist', 'digits', 'again']


def test_an_extension_in_the_middle_of_something_is_refused():
    run = toy([info('a')])
    run.step()
    with pytest.raises(InputError, match="that of 'a' is going on"):
        extend(run, task_iterations=5)
    extend(run, ['b'])  # a task may join at any moment
    assert next_task(run.state, run.config) == 'a'


def test_lists_must_hold_what_children_may_start_from():
    run = toy([info('a'), info('b', private=True)], task_iterations=1, auto_tune=False)
    run.finish()
    hparams = replace(run.state.models[run.state.kept['b']].hparams, lr=0.002)
    models = dict(run.state.models)
    models[run.state.kept['b']] = replace(models[run.state.kept['b']], hparams=hparams)
    run.state = replace(run.state, models=models)
    lists = {'lr': (0.01, 0.02), 'momentum': (0.9,)}
    more = dict(task_iterations=2, auto_tune=True)
    with pytest.raises(InputError, match=r'lr of model b:.* = 0.002: must be in its search list'):
        extend(run, **more, search=lists)
    extend(run, **more, search={**lists, 'lr': (0.002, 0.01, 0.02)})
    run.finish()


@pytest.mark.parametrize(
    ('values', 'told'),
    (
        ({}, 'nothing to extend by'),
        ({'task_iterations': 1}, 'nothing to extend by'),
        ({'scale_factor': 0.5}, 'nothing would be trained'),
        ({'tasks': ['a']}, "task 'a': the system has a task of that name already"),
        ({'task_iterations': 2, 'seed': 4}, 'seed = 4: must be 0, as in the whole run'),
        ({'task_iterations': 2, 'image_size': 48}, 'image_size = 48: must be 32'),
        ({'task_iterations': 2, 'precision': 'bfloat16'}, "precision = 'bfloat16': must be"),
        ({'task_iterations': 2, 'search': {'lr': (0.02, 0.05)}}, 'default of lr = 0.01'),
        ({'task_iterations': 0}, 'task_iterations = 0'),
        ({'preset': 'dmeo'}, "did you mean 'demo'"),
        ({'learning_rate': 0.1}, "unknown configuration field 'learning_rate'"),
    ),
)
def test_what_cannot_be_or_would_do_nothing_is_refused_in_words(values, told):
    run = toy([info('a')], task_iterations=1)
    run.finish()
    with pytest.raises(InputError, match=told):
        extend(run, **values)


def test_another_preset_changes_all_but_what_the_run_is():
    run = toy([info('a')], task_iterations=1, seed=3)
    run.finish()
    extend(run, ['b'], preset='decathlon')
    assert run.config == Config.preset('decathlon', seed=3, image_size=32)
    assert run.state.root.hparams == replace(run.config.defaults, num_layers=3)


# With real images


def third():
    "A third task, of real images."
    t = load_benchmark('demo')[2]
    images, labels = zip(*(t.train[i] for i in range(120)))
    return task_from_arrays('third', (list(images), list(labels)), classes=t.classes)


def start(path):
    "A finished run goes on. What `launch` calls."
    evo = Evolution.resume(path, small_tasks())
    wider = {**evo.config.search, 'lr': (0.05, 0.1, 0.2, 0.3, 0.5)}
    evo.extend([third()], task_iterations=2, search=wider, lr=0.1, scale_factor=0.9, segments=1)
    return evo


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    path = tmp_path_factory.mktemp('runs') / 'finished'
    with start_first(path) as evo:
        evo.run()
    return path


@pytest.fixture(scope='module')
def extended(finished, tmp_path_factory):
    "The same, extended and trained to its new end."
    path = tmp_path_factory.mktemp('runs') / 'extended'
    shutil.copytree(finished, path)
    with start(path) as evo:
        evo.run()
        assert evo.done and evo.state.visits == {'mnist': 2, 'digits': 2, 'third': 2}
    return path


def test_what_is_finished_stays_bit_identical(finished, tmp_path):
    path = tmp_path / 'run'
    shutil.copytree(finished, path)
    before = System.open(path)
    images = [small_tasks()[0].test[i][0] for i in range(10)]
    answers = before.predict('mnist', images)
    with start(path) as evo:
        evo.step()  # of the third task
        assert evo.system.models['mnist'] == before.models['mnist']
        assert np.array_equal(evo.system.predict('mnist', images), answers)
    was, now = contents(finished), contents(path)
    assert now['journal'].startswith(was.pop('journal'))
    assert all(now[name] == layer for name, layer in was.items())
    journal = path / 'journal.jsonl'  # a generation that is lost does not take the extension along
    journal.write_bytes(journal.read_bytes()[:-2000] + b'x' * 2000)
    condition, _ = repair_run(path)
    assert (condition.saved, condition.told) == (lines(finished) + 1, lines(finished) + 2)
    assert check_run(path).whole and check_run(path).state.config.task_iterations == 2


def test_killed_hard_in_an_extension_then_resumed_it_is_the_same_run(finished, extended, tmp_path):
    path = tmp_path / 'k'
    shutil.copytree(finished, path)
    p = launch(path, 'test_extend')
    wait_for_lines(path, lines(finished) + 2, p)  # it is extended, and trained a generation
    p.kill()
    p.wait()
    assert lines(path) < lines(extended)
    with Evolution.resume(path, [*small_tasks(), third()]) as evo:
        evo.run()
    assert contents(path) == contents(extended)


def test_a_refused_extension_leaves_journal_and_pool_alone(finished, tmp_path):
    path = tmp_path / 'r'
    shutil.copytree(finished, path)
    twice = [third(), third()]
    narrow = {'lr': (0.2, 0.5)}
    long = task_from_arrays('x' * 100, ([np.zeros((8, 8), 'uint8')] * 40, [0, 1] * 20))
    with Evolution.resume(path, small_tasks()) as evo:
        before = contents(path), evo.state
        for tasks, values, told in (
            (small_tasks(), {}, 'already'),
            (twice, {}, 'names must differ'),
            ([], {}, 'nothing to extend by'),
            ([third()], dict(search=narrow), 'default of lr'),
            ([third()], dict(search=narrow, lr=0.5), 'children may start from'),
            ([third()], dict(search={'image_size': (16, 24, 32)}), 'image_size 24'),
            ([third(), replace(long, classes=('a', 'b' * 400))], {}, 'classes'),
            (third(), {}, 'a list of tasks'),
        ):
            with pytest.raises(InputError, match=told):
                evo.extend(tasks, **values)
            assert (contents(path), evo.state) == before
        assert evo.done and list(evo.tasks) == ['mnist', 'digits']


def test_what_was_asked_before_an_extension_is_not_told_after_it(finished, tmp_path):
    path = tmp_path / 'a'
    shutil.copytree(finished, path)
    with Evolution.resume(path, small_tasks()) as evo:
        evo.extend(task_iterations=2)
        asked = evo.ask()
        faster = (replace(c, hparams=replace(c.hparams, lr=0.2)) for c in asked.children)
        asked = replace(asked, children=tuple(faster))
        lists = {**evo.config.search, 'lr': (0.05, 0.1)}
        evo.extend(search=lists)
        before = contents(path)
        with pytest.raises(InputError, match='the search moved on'):
            evo.train(asked)
        assert contents(path) == before
        evo.step()
    open_records(RunDir(path).records())


def test_an_extended_run_is_read_checked_and_drawn_like_any_other(finished, extended):
    records = RunDir(extended).records()
    at = lines(finished)
    line = journal_table(records[: at + 1], 1).iloc[0]
    assert line.what == 'extended'
    assert line.tells == (
        'scale_factor 0.98 -> 0.9; task_iterations 1 -> 2; segments 2 -> 1; search lr '
        '0.01, 0.02, 0.05, 0.1, 0.2, 0.5 -> 0.05, 0.1, 0.2, 0.3, 0.5; tasks third'
    )
    history = History(records)
    for n in (at, at + 1, len(records)):
        past = history.at(n)
        assert past.state.config == config_after(past)
        plot_progress(past)
    assert history.at(at).state.config.task_iterations == 1
    assert check_run(extended).whole


def test_python_and_the_command_line_extend_alike(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    shades = load_folder(make_folder(tmp_path / 'shades'))
    make_folder(tmp_path / 'more')
    with Evolution.create('first', load_root('random:Ti1'), [shades], Config.preset(
        'demo', **TINY, mutation_prob=0.0
    )) as evo:
        evo.run()
    shutil.copytree('first', 'shell')
    shutil.copytree('first', 'python')
    with Evolution.resume('python', trust_sources=True) as evo:
        lists = {**evo.config.search, 'lr': (0.05, 0.1), 'hue': (0.0, 0.1)}
        evo.add_task(load_folder('more', 'late'))
        evo.run()
        evo.extend(task_iterations=2, search=lists)
        evo.run()
    joins = 'add-task shell --folder late=more'.split()
    assert main(joins) == 2
    assert 'Nothing was read' in capsys.readouterr().err
    assert contents('shell') == contents('first')
    assert main([*joins, '--trust-sources']) == 0
    assert 'joined: late; tasks of the run: 2' in capsys.readouterr().out
    assert main([*joins, '--trust-sources']) == 2
    assert 'a task of that name already' in capsys.readouterr().err
    command = 'extend shell --task-iterations 2 --search lr=0.05,0.1 --search hue=0,0.1'.split()
    assert main([*command, '--trust-sources']) == 0
    assert 'extended: task_iterations 1 -> 2; search lr' in capsys.readouterr().out
    assert contents('shell') == contents('python')
    with Evolution.resume('shell', trust_sources=True) as evo:
        evo.extend(task_iterations=3, children_per_generation=1)
        evo.step()
    command = ['extend', 'shell', '--trust-sources', '--task-iterations', '4']
    assert main(command) == 2
    assert 'is going on, finish it first' in capsys.readouterr().err
    shutil.rmtree('shell')
    shutil.copytree('python', 'shell')
    again = ['extend', 'shell', '--trust-sources', '--preset', 'demo', '--task-iterations', '3']
    monkeypatch.setattr(Evolution, 'run', lambda self: None)
    assert main(again + ['--segments', '1', '--search', 'lr=0.05,0.1']) == 130  # it did not run
    config = open_records(RunDir('shell').records())[2]
    lists = {**Config.preset('demo').search, 'lr': (0.05, 0.1)}
    assert config == Config.preset('demo', task_iterations=3, segments=1, search=lists)
