"""Whatever is given to a public function is used or refused in words.

A table of functions, what each of their arguments may be, and what it then may not be. Nothing
but an InputError is right, except the TypeError of Python itself where an argument is forgotten.
"""

import zipfile
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import numpy as np
import pytest

import munet_nb as mu
from munet_nb.checks import InputError
from munet_nb.engine.answers import Answers
from munet_nb.network.arch import get_arch
from munet_nb.pictures.history import History
from munet_nb.roots.checkpoint import read_checkpoint
from munet_nb.roots.export import export_model
from munet_nb.search.config import config_from_json, with_fields
from munet_nb.tasks.folders import read_idx

OF_ANSWERS = ('plot_confusion', 'plot_classes', 'plot_calibration', 'plot_attention')
GOLDEN = Path(__file__).parent / 'golden' / 'run_before_chapters.zip'
NAN = float('nan')
HUGE = 10**400


class Unprintable:
    "Not even its error message is easy."

    def __repr__(self):
        raise RuntimeError('no')


THINGS = (None, b'x', [[1], [2, 3]], {}, object(), int, np.zeros((2, 2)), Unprintable())
NUMBERS = (HUGE, 10**5000, NAN, float('inf'), -1, 1j)
BAD = {  # what an argument is -> what it may not be
    'path': (*THINGS, *NUMBERS, '', '\0', 'a\0b', '~no such user/x', '/nowhere/at/all', 'x' * 5000),
    'new path': (*THINGS, *NUMBERS, '', '\0', 'a\0b', '~no such user/x', 'x' * 5000),
    'text': (*THINGS, *NUMBERS, '', '\0', '~no such user/x', 'nothing of this name'),
    'name': (*THINGS[1:3], *THINGS[4:], HUGE, NAN, -1, '\0', 'a:b', 'root', 'x' * 101),  # None: its own
    'count': (*THINGS, *NUMBERS, 0, 1.5, '3', True),
    'size': (*THINGS, *NUMBERS, 0, 1.5, '32', 256_000_000, True),
    'number': (*THINGS, HUGE, 10**5000, NAN, float('inf'), 1j, '0.1', -3, True),
    'switch': (*THINGS, HUGE, NAN, 'no', 'yes', '', 0, 1),
    'things': (*(t for t in THINGS if t is not None), *NUMBERS, 'abc', 0, mu.Config()),
    'object': (*THINGS, *NUMBERS, '', 'abc', '\0', 0, mu.Config),
}
LISTS = (  # that no search can move in
    {'lr': 3}, {3: [1]}, {'lr': []}, {'lr': [[1], [2]]}, {'lr': [HUGE, 0.01]}, {'nothing': [1]},
    {'lr': None}, {'lr': 'ab'},
)


@dataclass
class Case:
    "A function, what is right for it, and what each of its arguments is."

    function: object
    right: dict
    arguments: dict  # name -> a kind of BAD, or the values that are wrong for it


def outcome(call) -> str:
    "'clear', 'silent', or the error that is none for a user."
    try:
        call()
    except InputError as e:
        return 'clear' if len(str(e)) < 2500 else f'a message of {len(str(e)):,} letters'
    except BaseException as e:
        return f'{type(e).__name__}: {str(e)[:90]}'
    return 'silent'


@pytest.fixture(scope='module')
def given(tmp_path_factory):
    "What functions are called with: a task, a root, a run, its system, a search."
    top = tmp_path_factory.mktemp('given')
    with zipfile.ZipFile(GOLDEN) as archive:
        archive.extractall(top / 'run')
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (40, 16, 16), np.uint8)
    labels = np.arange(40) % 2
    task = mu.task_from_arrays('t', (images, labels))
    root = mu.load_root('random:Ti1')
    config = mu.Config.preset('demo')
    evo = mu.Evolution.create(top / 'new', root, [task], config)
    for name in ('cat', 'dog'):
        for i in range(25):
            folder = top / 'pets' / name
            folder.mkdir(parents=True, exist_ok=True)
            mu.tasks.images.Image.fromarray(images[i]).save(folder / f'{i}.png')
    records = mu.runs.rundir.RunDir(mu.example_run()).records()
    yield dict(
        top=top,
        task=task,
        pair=(images, labels),
        root=root,
        config=config,
        evo=evo,
        system=mu.System.open(top / 'run'),
        records=records,
        panel=mu.Dashboard.open(mu.example_run()),
    )
    evo.close()


def settings(cls, kinds: dict) -> dict:
    "The fields of a configuration, each with what it is."
    by_type = {int: 'count', float: 'number', bool: 'switch', str: 'text'}
    return {f.name: kinds.get(f.name) or by_type[f.type] for f in fields(cls)}


def table(g):
    no_mappings = [b for b in BAD['object'] if b is not THINGS[3]]
    natural = tuple(b for b in BAD['count'] if not (type(b) is int and b == 0))
    kinds = dict.fromkeys(('seed', 'seed_segments', 'race_segments', 'probed_seeds'), natural)
    kinds |= dict(training='object', defaults='object')
    kinds |= dict(root_layers=tuple(b for b in natural if b is not None))
    kinds |= dict(search=(*no_mappings, *LISTS))
    sizes = dict(image_size='size', num_layers=natural, adapter_dim='count')
    top, task, root, records = g['top'], g['task'], g['root'], g['records']
    evo, system, panel = g['evo'], g['system'], g['panel']
    loaders = {'name': 'name', 'private': 'switch'}
    past = dict(records=records)
    cases = [
        Case(mu.Config, {}, settings(mu.Config, kinds)),
        Case(mu.HParams, {}, settings(mu.HParams, sizes)),
        Case(mu.TrainingSettings, {}, settings(mu.TrainingSettings, {})),
        Case(mu.Config.preset, dict(name='demo'), {
            'name': 'text', 'seed': natural, 'image_size': 'size', 'nothing': (1,), 'lr': 'number',
        }),
        Case(with_fields, dict(config=g['config']), {'lr': 'number', 'batch_size': 'count'}),
        Case(config_from_json, {}, {'d': (
            *no_mappings, {'a': 1}, {1: 2}, {'training': 3}, {'search': 3}, {'defaults': {'lr': 'x'}},
        )}),
        Case(mu.load_root, dict(spec='random:Ti1'), {
            'spec': 'text', 'image_size': tuple(b for b in BAD['size'] if b is not None),
            'layers': tuple(b for b in BAD['count'] if b is not None),
        }),
        Case(get_arch, {}, {'name': 'text'}),
        Case(read_checkpoint, {}, {'path': 'path'}),
        Case(mu.load_folder, dict(folder=top / 'pets'), {
            'folder': 'path', 'skip_broken': 'switch', **loaders,
        }),
        Case(mu.load_idx, dict(folder=top / 'pets'), {'folder': 'path'}),
        Case(read_idx, {}, {'path': 'path'}),
        Case(mu.load_task, dict(text=str(top / 'pets')), {'text': 'path', **loaders}),
        Case(mu.load_tfds, dict(dataset='mnist'), {
            'dataset': 'text', 'data_dir': tuple(b for b in BAD['new path'] if b is not None),
        }),
        Case(mu.load_benchmark, dict(name='demo'), {'name': 'text', 'tasks': (
            None, b'x', 'mnist', HUGE, NAN, object(), [None], [[1]], ['nothing'], {'x': 1}, 0.5,
        )}),
        Case(mu.task_from_arrays, dict(name='t', train=g['pair']), {
            'name': (*BAD['name'], None, ''),
            'train': (*BAD['object'], (None, None), (1, 2), (g['pair'][0], None), (g['pair'],),
                      (g['pair'][0], [[1], [2, 3]]), ([None] * 40, g['pair'][1]),
                      (g['pair'][0], ['a'] * 40), (b'x', b'y'), ([[1], [2, 3]], [0, 1]),
                      (g['pair'][0], [NAN] * 40), (g['pair'][0], [HUGE] * 40)),
            'validation': 'things', 'test': 'things', 'private': 'switch',
            'classes': (*(b for b in BAD['things']), ['a'], [None, None], [[1], [1]]),
        }),
        Case(mu.Task, dict(name='t', classes=('a', 'b'), train=task.train,
                           validation=task.validation, test=task.test), {
            'name': (*BAD['name'], None, ''), 'classes': 'object', 'train': 'object',
            'validation': 'object', 'test': 'object', 'private': 'switch',
            'source': tuple(b for b in BAD['text'] if not isinstance(b, str)),
        }),
        Case(mu.Evolution.create, dict(path=top / 'never', root=root, tasks=[task]), {
            'path': (*BAD['new path'], top / 'run', Path(__file__)), 'root': 'object',
            'tasks': (*BAD['object'], task, [None], [[task]], [], 'task', [task, task]),
            'config': 'object',
        }),
        Case(mu.Evolution.resume, dict(path=top / 'run'), {
            'path': 'path',
            'tasks': (*(b for b in BAD['things']), task, [None], [[task]], [task]),
        }),
        Case(evo.change, {}, {'scale_factor': 'number', 'compute_factor': 'number',
                              'mutation_prob': 'number', 'lr': (0.1,)}),
        Case(evo.add_task, {}, {'task': (*BAD['object'], [task], task)}),
        Case(evo.extend, {}, {
            'tasks': (*(b for b in BAD['object'] if b is not None), task, [None], [[task]], [task]),
            'preset': tuple(b for b in BAD['text'] if b is not None),
            'task_iterations': 'count', 'search': (*no_mappings, *LISTS), 'lr': 'number',
            'seed': (1,),
        }),
        Case(evo.common_trunk, {}, {'tasks': (*(b for b in BAD['things']), 't', ['x', 'y'],
                                              [None, None], [[1], [2]], ['t'], ['t', 't'])}),
        Case(evo.train, {}, {'generation': 'object'}),
        Case(evo.tell, dict(generation=evo.ask(), trained=[]), {
            'generation': 'object', 'trained': (*BAD['object'], [None], [1, 2]),
        }),
        Case(mu.System.open, {}, {'path': 'path'}),
        Case(system.predict, dict(task='digits', images=g['pair'][0][:1]), {
            'task': 'text',
            'images': (*BAD['object'], [None], [[1], [2, 3]], ['a.png'],
                       [b'x'], [HUGE], [NAN]),
        }),
        Case(system.evaluate, dict(task='digits', split='test'), {
            'task': 'text', 'split': 'text',
        }),
        Case(system.at, {}, {
            'scale_factor': 'number', 'params_per_task': 'number', 'flops': 'number',
        }),
        Case(system.export, dict(task='digits', folder=top / 'exported', format='safetensors'), {
            'task': 'text', 'folder': (*BAD['new path'], Path(__file__), top), 'format': 'text',
        }),
        Case(system.export_all, dict(folder=top / 'together'), {
            'folder': (*BAD['new path'], Path(__file__), top), 'format': 'text',
        }),
        Case(export_model, dict(folder=top / 'e', format='safetensors', arch=root.arch,
                                params={}, image_size=32, classes=['a']), {
            'folder': 'new path', 'format': 'text',
        }),
        Case(mu.Dashboard, {}, {'search': (*BAD['object'], system, mu.Evolution, top)}),
        Case(mu.Dashboard.open, dict(path=top / 'run'), {'path': 'path'}),
        Case(mu.Dashboard(evo).run, {}, {'until': 'text'}),
        Case(panel.run, {}, {'until': ('end',)}),
        Case(panel.change, {}, {'scale_factor': (0.5,)}),
        Case(panel.extend, {}, {'task_iterations': (3,)}),
        Case(panel.add_task, {}, {'source': ('x',)}),
        Case(panel.common_trunk, {}, {'tasks': (None,)}),
        Case(mu.plots.leaderboard, past, {'records': 'object', 'by': 'text'}),
        Case(mu.plots.journal_table, past, {'records': 'object', 'last': 'count'}),
        Case(mu.plots.save_film, dict(past, path=top / 'film.gif'), {
            'records': 'object', 'path': 'new path', 'seconds': (*BAD['number'], 0),
            'theme': 'object',
        }),
        Case(mu.plots.plot_lineage, past, {
            'records': 'object', 'theme': 'object',
            'task': tuple(b for b in BAD['text'] if b is not None),
        }),
        Case(mu.plots.plot_system, past, {'position': 'number'}),
        Case(History, {}, {'records': 'object'}),
        Case(mu.plots.plot_sizes, past, {'size': 'text'}),
        Case(mu.plots.plot_architectures, past, {'size': 'text'}),
    ]
    for name in mu.plots.__all__:
        if name.startswith('plot_') and name not in ('plot_lineage', *OF_ANSWERS):
            cases.append(Case(getattr(mu.plots, name), past, {
                'records': (None, b'x', '', [[1]], {}, object(), HUGE, [], [None], [{}], ['x']),
                'theme': (None, 'x', 1, object(), mu.Config()),
            }))
    one, sure = np.zeros((1, 2), int), np.ones((1, 2))
    given = {'answers': Answers(one[:, 0], one, sure, sure[:, 0], 2)}
    wrong = {'answers': 'object', 'theme': 'object'}
    cases += [
        Case(mu.plots.plot_confusion, given | {'classes': ('a', 'b')}, wrong),
        Case(mu.plots.plot_classes, given | {'classes': ('a', 'b')}, wrong),
        Case(mu.plots.plot_calibration, given, wrong),
        Case(mu.plots.hyperparameter_table, past, {'records': 'object'}),
        Case(mu.plots.knowledge_flow, past, {'records': 'object'}),
    ]
    return cases


def told(value) -> str:
    "A value in the name of a call."
    try:
        return repr(value)[:40]
    except Exception:
        return f'a {type(value).__name__} that cannot be written'


def calls(g):
    "Every bad value of every argument, as what is called."
    for case in table(g):
        where = getattr(case.function, '__qualname__', str(case.function))
        for name, kind in case.arguments.items():
            for value in BAD[kind] if isinstance(kind, str) else kind:
                arguments = {**case.right, name: value}
                yield f'{where}({name}={told(value)})', partial(case.function, **arguments)


def test_whatever_is_given_is_refused_in_words(given, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    found = [(call, outcome(act)) for call, act in calls(given)]
    assert len(found) > 2000
    bad = [f'{call}: {what}' for call, what in found if what != 'clear']
    assert not bad, '\n'.join(bad)
    assert not list(tmp_path.iterdir()), 'nothing was written'


FORGOTTEN = (
    mu.Config.preset, mu.load_root, mu.load_folder, mu.load_idx, mu.load_tfds, mu.load_hf,
    mu.load_task, mu.load_benchmark, mu.task_from_arrays, mu.Task, mu.Evolution.create,
    mu.Evolution.resume, mu.System.open, mu.Dashboard, mu.plots.plot_progress,
)


@pytest.mark.parametrize('function', FORGOTTEN)
def test_a_forgotten_argument_is_told_by_python(function):
    with pytest.raises(TypeError, match='required positional argument'):
        function()
