"Every picture of every moment: of nothing yet, of many tasks, of long names, on a dark page."

import pytest
from PIL import Image

from munet_nb import pictures
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef, Model, model_to_json
from munet_nb.network.arch import get_arch
from munet_nb.pictures.canvas import task_colors
from munet_nb.pictures.film import save_film
from munet_nb.pictures.history import History
from munet_nb.pictures.tables import COLUMNS
from munet_nb.pictures.tabs import OTHER_PICTURES, PICTURES, view_of
from munet_nb.runs.system import System, system_table
from munet_nb.search.config import Config, config_to_json
from munet_nb.search.journal import FORMAT, TaskInfo, info_to_json

DRAW = [*PICTURES.values(), *(draw for _, draw in OTHER_PICTURES.values())]


def ref(name, by, n_params=1000) -> LayerRef:
    return LayerRef(name, f'{name} of {by}', n_params, by)


BASE = [ref(n, None, 150_000) for n in ('embedding', 'cls', 'posembed', 'block_0', 'block_1')]
ROOT = Model('root', None, None, tuple(BASE), HParams())


def toy(task, *own, hparams=HParams()) -> Model:
    return Model(f'{task}:0.0.0', task, 'root', (*BASE, *own), hparams, (0.9,))


def plain(task) -> Model:
    return toy(task, ref('norm', task), ref('head', task))


def records_of(*models) -> list[dict]:
    "The journal of a run with one generation of one child per task, which is kept."
    tasks = [info_to_json(TaskInfo(m.task, ('x', 'y'), False, '', '')) for m in models]
    told = {'format': FORMAT, 'arch': 'Ti3', 'config': config_to_json(Config())}
    records = [{'kind': 'run', **told, 'root': model_to_json(ROOT), 'tasks': tasks}]
    for m in models:
        common = {'task': m.task, 'iteration': 0}
        worth = {'score': 0.9, 'accounted': 1000}
        trained = [r.name for r in m.chain if r.trained_by == m.task]
        child = {'model': model_to_json(m), 'trained': trained, **worth, 'accepted': True}
        best = {'id': m.id, **worth, 'quality': 0.9}
        generation = {'generation': 0, 'segments': 1, 'seeds_tried': [], 'children': [child]}
        records.append({'kind': 'generation', **common, **generation, 'best': best})
        end = {'kept': m.id, 'validation': 0.9, **worth, 'test': 0.9}
        records.append({'kind': 'task_end', **common, **end})
    return records


def with_front(records) -> list[dict]:
    "The same run, in which each task had a second child, smaller and worse, and kept it as well."
    wider = []
    for r in records:
        if r['kind'] == 'generation':
            (first,) = r['children']
            model = first['model']
            id = f"{model['task']}:0.0.1"
            chain = [d for d in model['chain'] if d['name'] != 'block_1']
            other = {**model, 'id': id, 'chain': chain, 'evaluations': [0.8]}
            r = {**r, 'children': [first, {**first, 'model': other, 'accounted': 500}]}
        elif r['kind'] == 'task_end':
            r = {**r, 'front': [{'id': f"{r['task']}:0.0.1", 'test': 0.75}]}
        wider.append(r)
    return wider


BLOCK = ref('block_2', 'a', 400_000)
SHARED = records_of(
    toy('a', BLOCK, ref('norm', 'a'), ref('head', 'a'), hparams=HParams(lr=0.02)),
    toy('b', ref('adapter_2', 'b', 30_000), BLOCK, ref('norm', 'b'), ref('head', 'b')),
    plain('c'),
)
RUNS = {
    'three tasks': SHARED,
    'nothing yet': SHARED[:1],
    'one generation': SHARED[:2],
    'one task': records_of(plain('a')),
    'twenty tasks': records_of(*(plain(f'set/task{i}') for i in range(20))),
    'long names': records_of(*(plain(f'{i}' + 'x' * 60) for i in range(8))),
    'mathematics': records_of(plain('$a_b^c$')),
    'fronts': with_front(SHARED),
}


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize('theme', [pictures.LIGHT, pictures.DARK], ids=['light', 'dark'])
def test_a_picture_is_drawn_and_its_legend_fits(name, theme):
    for draw in DRAW:
        fig = draw(RUNS[name], theme=theme)
        fig.draw_without_rendering()
        for legend in fig.legends:
            assert fig.bbox.y0 <= legend.get_window_extent().y0, draw


def together(number, *tasks) -> list[dict]:
    "A search for groups among tasks, all of which take its trunk; another trunk diverges."
    id = f'trunk:{number + 1}'
    chain = tuple(ref(r.name, id, r.n_params) for r in BASE)

    def trial(id, tasks, lr, probe):
        return {'id': id, 'tasks': tasks, 'lr': lr, 'probes': dict.fromkeys(told, probe)}

    told, name = list(tasks), f'group:{number}.0.0'
    common = {'number': number, 'segments': 2, 'examples': dict.fromkeys(told, 100)}
    trials = [trial('root', [], 0.0, 0.5), trial(name, told, 0.2, 0.4 + number)]
    later = [trial(f'group:{number}.1.0', told[:2], 0.05, 0.6)]
    trunk = Model(id, None, 'root', chain, HParams(lr=0.2))
    models = [
        Model(
            f'{t}:trunk_{number + 1}',
            t,
            id,
            (*chain, LayerRef('head', f'head of {t} on {id}', 1000, t)),
            HParams(),
            (0.7,),
        )
        for t in tasks
    ]
    made = {
        'trial': name,
        'tasks': told,
        'trunk': model_to_json(trunk),
        'evaluations': {t: [0.6, 0.7] for t in tasks},
        'models': [model_to_json(m) for m in models],
    }
    diverged = {
        'trial': f'group:{number}.1.0',
        'tasks': told[:2],
        'trunk': None,
        'evaluations': {t: [0.0] for t in told[:2]},
        'models': [],
    }
    return [
        {'kind': 'groups_begun', 'tasks': told, 'images': {}},
        {'kind': 'groups', 'generation': 0, 'trials': trials, **common},
        {'kind': 'groups', 'generation': 1, 'trials': later, **common},
        {'kind': 'common_trunk', **made, **common},
        {'kind': 'common_trunk', **diverged, **common},
        {'kind': 'groups_end'},
    ]


def probes(task, *seeds) -> dict:
    head = {'name': 'head', 'digest': f'probe of {task}', 'n_params': 10, 'trained_by': task}
    told = [{'seed': id, 'accuracy': 0.5, 'head': head} for id in seeds]
    return dict(kind='probes', task=task, iteration=0, segments=1, examples=64, probes=told)


def with_trunks() -> list[dict]:
    "Trunk 1 of a, b and c comes first; a stays on it, b does better from the root; then trunk 2."
    begin, *rest = records_of(toy('a', ref('norm', 'a'), ref('head', 'a')), plain('b'), plain('c'))
    config = config_to_json(Config(scale_factor=0.9))
    first = {**begin, 'arch': 'Ti1', 'config': config}
    of_a, end_of_a, of_b, end_of_b = rest[:4]
    of_a['best'] |= {'id': 'a:trunk_1'}
    end_of_a |= {'kept': 'a:trunk_1'}
    return [
        first,
        *together(0, 'a', 'b', 'c'),
        probes('a', 'trunk:1', 'root'),
        of_a,
        end_of_a,
        {'kind': 'config_changed', 'values': {'scale_factor': 0.8}},
        of_b,
        end_of_b,
        *together(1, 'b', 'c'),
        probes('c', 'trunk:2'),
        *rest[4:],
    ]


@pytest.fixture(scope='module')
def trunks() -> History:
    return History(with_trunks())


def test_every_picture_of_every_moment_of_a_run_with_common_trunks(trunks):
    for n in range(1, len(trunks) + 1):
        past = trunks.at(n)
        for draw in DRAW:
            fig = draw(past)
            fig.draw_without_rendering()
            for legend in fig.legends:
                assert fig.bbox.y0 <= legend.get_window_extent().y0, (n, draw)


def test_tables_of_every_moment_of_a_run_with_common_trunks(trunks):
    for n in range(1, len(trunks) + 1):
        for by in COLUMNS:
            assert 'None' not in view_of('Leaderboard', trunks.at(n), by)
        assert len(pictures.journal_table(trunks.at(n))) == n
        pictures.hyperparameter_table(trunks.at(n))


def test_a_common_trunk_is_seen(trunks):
    "In its color, by its name, before any task was worked on."
    past = trunks.at(5)
    assert past[-1]['trunk'] and not past.state.visits
    slate = task_colors('abc', ['trunk:1'])['trunk:1']
    shares, ancestors = pictures.knowledge_flow(past)
    assert (shares['trunk:1'] > 0.9).all() and (ancestors['trunk:1'] == 1).all()
    lr = HParams().lr
    assert pictures.hyperparameter_table(past).lr.tolist() == [lr, 0.2, lr, lr, lr]
    columns = pictures.plot_architectures(past).axes[0]
    assert [t.get_text() for t in columns.get_xticklabels()] == ['1 a', '2 b', '3 c']
    assert [t.get_text() for t in columns.texts].count('–') == 3
    for draw in (pictures.plot_lineage, pictures.plot_progress, pictures.plot_sizes):
        squares = [
            line for ax in draw(past).axes for line in ax.lines if line.get_marker() == 's'
        ]
        assert [line.get_markerfacecolor() for line in squares] == [slate] * 3, draw.__name__
    names = {t.get_text() for t in pictures.plot_flow_graph(past).axes[0].texts}
    assert names == {'root', 'trunk 1', '1 a', '2 b', '3 c'}


def test_a_task_in_its_first_iteration_shows_its_best_model_though_a_trunk_gave_it_one(trunks):
    def names(n):
        axes = pictures.plot_architectures(trunks.at(n)).axes[0]
        return [t.get_text() for t in axes.get_xticklabels()]

    (of_b,) = [i for i, r in enumerate(trunks.records) if r['kind'] == 'generation' and i > 9][:1]
    assert names(of_b) == ['1 a', '2 b', '3 c']
    assert names(of_b + 1) == ['1 a', '2 b (so far)', '3 c']
    assert names(of_b + 2) == ['1 a', '2 b', '3 c']


def test_the_film_shows_when_a_trunk_came(trunks, tmp_path):
    save_film(trunks.at(len(trunks)), tmp_path / 'film.gif')
    with Image.open(tmp_path / 'film.gif') as gif:
        assert gif.n_frames == 4  # a trunk, three task iterations; trunk 2 changed no kept model


def test_a_system_that_only_common_trunks_made_shows_itself(trunks):
    state = trunks.at(7).state
    arch = get_arch('Ti1')
    table = system_table(state, arch)
    assert table.test.isna().all() and set(table['from']) == {'trunk 1 (5)'}
    system = System(state, {}, arch, None)
    for shown in (repr(system), system._repr_html_()):
        assert 'trunk 1 (5)' in shown and 'None' not in shown and 'NaN' not in shown
