"Every picture of every moment: of nothing yet, of many tasks, of long names, on a dark page."

import re
import warnings
from threading import Thread
from xml.etree import ElementTree

import pytest
from PIL import Image
from toy import ARCH, ToyRun, info

from munet_nb import pictures
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef, Model, model_to_json
from munet_nb.network.arch import get_arch
from munet_nb.pictures.canvas import PAGE, new_picture, svg_of, task_colors, tell
from munet_nb.pictures.curves import changes_of, plot_running
from munet_nb.pictures.film import save_film
from munet_nb.pictures.history import History
from munet_nb.pictures.tables import COLUMNS
from munet_nb.pictures.tabs import OTHER_PICTURES, PICTURES, view_of
from munet_nb.runs.system import System, system_table
from munet_nb.search.ask import ask
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


def tuned(task, lr):
    return toy(task, ref('norm', task), ref('head', task), hparams=HParams(lr=lr))


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
    'twenty tuned': records_of(*(tuned(f'task{i}', [0.01, 0.02][i % 2]) for i in range(20))),
    'long names': records_of(*(plain(f'{i}' + 'x' * 60) for i in range(8))),
    'mathematics': records_of(plain('$a_b^c$')),
    'fronts': with_front(SHARED),
}


@pytest.mark.parametrize('name', RUNS)
def test_a_picture_is_drawn_and_its_legend_fits(name):
    for draw in DRAW:
        fig = draw(RUNS[name], theme=pictures.DARK if name == 'fronts' else pictures.LIGHT)
        fig.draw_without_rendering()
        for legend in fig.legends:
            assert fig.bbox.y0 <= legend.get_window_extent().y0, draw
        for ax in fig.axes:
            assert ax.title.get_window_extent().y1 <= fig.bbox.y1, draw


SVG = '{http://www.w3.org/2000/svg}'


def titles_of(svg: str) -> list[str]:
    return [e.text for e in ElementTree.fromstring(_as_file(svg)).iter(f'{SVG}title')]


def _as_file(svg: str) -> str:
    spaces = 'xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink"'
    return svg.replace('<svg ', f'<svg {spaces} ', 1)


@pytest.mark.parametrize('name', ['nothing yet', 'twenty tasks', 'fronts'])
def test_a_picture_for_a_page_has_the_pages_colors_and_tells_what_it_shows(name):
    for draw in DRAW:
        picture = draw(RUNS[name], theme=PAGE)
        svg = svg_of(picture)
        assert picture.alt and len(picture.alt) < 2000, draw
        said = ElementTree.fromstring(_as_file(svg)).get('aria-label')
        assert said == picture.alt
        assert not re.search('<(path|use|rect)[^>]*#(ffffff|000000)|<image|munet-t', svg), draw
        assert len(svg) < 220_000, draw
        said = picture.alt + svg
        same = 'all models have the root' in said or 'all children have the same values' in said
        says_so = name == 'nothing yet' or same
        if not says_so and draw is not pictures.plot_groups:
            titles = titles_of(svg)
            assert titles and None not in titles, draw


def test_what_is_under_the_pointer():
    "A layer: who trained it, from what, who uses it. A child: what it changed, its curve."
    told = titles_of(svg_of(pictures.plot_architectures(SHARED, theme=PAGE)))
    assert 'block_2: 400,000 parameters\ntrained by a: a 1.1.1\nused by a, b' in told
    lineage = titles_of(svg_of(pictures.plot_lineage(SHARED, theme=PAGE)))
    child = next(t for t in lineage if t.startswith('b 1.1.1, child of root'))
    assert 'inserted adapter_2' in child and 'accuracy 90.0%' in child and 'accepted' in child
    flow = titles_of(svg_of(pictures.plot_knowledge_flow(SHARED, theme=PAGE)))
    assert 'c has >99% of its parameters from root' in flow


def test_a_long_run_tells_of_some_of_its_children():
    begin, generation, end = records_of(plain('a'))
    (child,) = generation['children']

    def children(g):
        models = [{**child['model'], 'id': f'a:0.{g}.{i}', 'parent': 'root'} for i in range(8)]
        return [{**child, 'model': m, 'accepted': not i} for i, m in enumerate(models)]

    run = [begin]
    for g in range(125):
        best = {**generation['best'], 'id': f'a:0.{g}.0'}
        run.append({**generation, 'generation': g, 'children': children(g), 'best': best})
    for draw in (pictures.plot_lineage, pictures.plot_progress, pictures.plot_learning_curves):
        svg = svg_of(draw(run, theme=PAGE))
        assert svg.count('<title>') < 320 and len(svg) < 150_000, draw


FOREIGN = ('मराठी अक्षरे', '日本語の手書き文字', 'emoji 😀🎉', 'اسم طويل', '\U000f0000', '<b>&"\'', r'\1 \d')


def test_names_in_any_script_are_text_in_a_page_and_at_most_one_notice_elsewhere(tmp_path):
    run = records_of(*(plain(name) for name in FOREIGN))
    with warnings.catch_warnings(record=True) as told:
        warnings.simplefilter('always')
        warnings.filterwarnings('ignore', 'Glyph')  # as the canvas does when it is imported
        for draw in DRAW:
            svg = svg_of(draw(run, theme=PAGE))
            if draw in (pictures.plot_architectures, pictures.plot_flow_graph):
                assert '2 日本語の手書き文字' in svg and FOREIGN[0] in svg
        assert not told
        pictures.plot_progress(run).savefig(tmp_path / 'progress.png')
    assert len(told) <= 1 and all('no installed font' in str(w.message) for w in told)


def test_names_are_whole_under_the_pointer_and_apart_in_the_picture():
    names = [f'{i} photographs of my garden in all seasons of the year' for i in range(5)]
    run = records_of(*map(plain, names))
    for draw in (pictures.plot_architectures, pictures.plot_graph, pictures.plot_flow_graph):
        picture = draw(run, theme=PAGE)
        assert set(names) <= set(titles_of(svg_of(picture))), draw
        picture.draw_without_rendering()
        ax = picture.axes[0]
        texts = [t for t in [*ax.get_xticklabels(), *ax.texts] if '…' in t.get_text()]
        boxes = [t.get_window_extent() for t in texts]
        assert len(boxes) == 5, draw
        for box in boxes:
            assert 0 <= box.x0 and box.x1 <= picture.bbox.x1 + 1, draw
        if not any(t.get_rotation() for t in texts):
            crossing = [(a, b) for i, a in enumerate(boxes) for b in boxes[:i] if a.overlaps(b)]
            assert not crossing, draw


def test_pictures_are_drawn_at_the_same_time_in_several_threads():
    "Matplotlib's settings are the process's: text of one must not become outlines by another."
    found = []

    def draw():
        for _ in range(3):
            found.append(svg_of(pictures.plot_groups(SHARED[:1], theme=PAGE), 'a'))

    threads = [Thread(target=draw) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 12 and len(set(found)) == 1 and '>nothing yet</text>' in found[0]


def test_no_point_has_the_title_of_another():
    picture, (ax,) = new_picture(3, 2, PAGE)
    (dots,) = ax.plot([0.1, 0.5, 0.7], [0.1, 0.5, 0.6], 'o')
    tell(dots, 'first', '', 'third')
    assert titles_of(svg_of(picture, 'dots')) == ['first', 'third']
    dots.set_data([0.1, float('nan'), 0.7], [0.1, 0.5, 0.6])  # the second is not drawn
    assert titles_of(svg_of(picture, 'dots')) == []


def test_accuracies_end_at_all_and_a_change_of_the_scale_factor_is_marked(trunks):
    past = trunks.at(len(trunks))
    for draw in (pictures.plot_lineage, pictures.plot_progress, pictures.plot_sizes):
        for ax in draw(past).axes:
            low, high = ax.get_ylim()
            assert 0 <= low < high <= 1, draw
    of_a, of_b, _ = pictures.plot_progress(past).axes
    assert [t.get_text() for t in of_a.texts] == ['scale factor 0.8']
    assert not of_b.texts  # it had no generation before


def test_curves_in_training_say_what_their_child_changed_and_equal_ones_are_seen():
    toy = ToyRun(Config(task_iterations=1), [info('a')])
    toy.step()
    generation = ask(toy.state, toy.config, ARCH)
    changes = changes_of(generation, toy.state)
    assert list(changes) == list(range(len(generation.children))) and all(changes.values())
    so_far = {0: [0.5, 0.6], 1: [0.5, 0.6], 2: [0.5, 1.0]}
    picture = plot_running(so_far, 3, theme=PAGE, changes={0: 'moved lr from 0.1 to 0.2'})
    first, second, third = picture.axes[0].lines
    assert first.get_linestyle() == second.get_linestyle() == '--' != third.get_linestyle()
    names = [t.get_text() for t in picture.legends[0].get_texts()]
    assert names == ['child 1: moved lr from 0.1 to 0.2', 'child 2', 'child 3']
    assert picture.axes[0].get_ylim()[1] == 1


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
    told = [{'seed': id, 'accuracy': 0.5} for id in seeds]
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


@pytest.mark.long
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
    assert names == {'root', 'trunk\n1', '1 a', '2 b', '3 c'}


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
