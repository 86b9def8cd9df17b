"Every picture of every moment: of nothing yet, of many tasks, of long names, on a dark page."

import pytest

from munet_nb import pictures
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef, Model, model_to_json
from munet_nb.pictures.tabs import OTHER_PICTURES, PICTURES
from munet_nb.search.journal import TaskInfo, info_to_json

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
    records = [{'kind': 'run', 'root': model_to_json(ROOT), 'tasks': tasks}]
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
}


@pytest.mark.parametrize('name', RUNS)
@pytest.mark.parametrize('theme', [pictures.LIGHT, pictures.DARK], ids=['light', 'dark'])
def test_a_picture_is_drawn_and_its_legend_fits(name, theme):
    for draw in DRAW:
        fig = draw(RUNS[name], theme=theme)
        fig.draw_without_rendering()
        for legend in fig.legends:
            assert fig.bbox.y0 <= legend.get_window_extent().y0, draw.__name__
