"Tiny real runs that keep their fronts: killed, resumed, swept, assembled, shown."

from math import ceil

import numpy as np
import pytest
from test_runs import CONFIG, contents, launch, lines, small_tasks, wait_for_lines

from munet_nb import Config, Dashboard, Evolution, InputError, System, load_root
from munet_nb.cli import main
from munet_nb.engine.programs import shared_programs
from munet_nb.engine.together import Forest, answers
from munet_nb.models.accounting import prediction_flops
from munet_nb.runs.files import StoredPool
from munet_nb.runs.repair import check_run, describe
from munet_nb.runs.rundir import RunDir
from munet_nb.runs.system import network_of
from munet_nb.search.journal import choices_of, open_records
from munet_nb.search.selection import MOST_KEPT

FRONT = dict(task_iterations=2, children_per_task=6, mutation_prob=0.5)
FRONT = CONFIG | FRONT | dict(keep='front', scale_factor=1.0)


def start(path, seed=0):
    config = Config.preset('demo', seed=seed, **FRONT)
    return Evolution.create(path, load_root('random:Ti2'), small_tasks(), config)


def bytes_of(path, models) -> dict:
    return {d: (path / 'pool' / f'{d}.safetensors').read_bytes() for m in models for d in m.digests}


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "An uninterrupted run; after every step nothing of the other tasks has changed."
    path = tmp_path_factory.mktemp('fronts') / 'whole'
    with start(path) as evo:
        while not evo.done:
            before = choices_of(evo.state)
            evo.ask()
            task = evo.ask().task
            others = [m for t, models in before.items() if t != task for m in models]
            stored = bytes_of(path, others)
            evo.step()
            assert bytes_of(path, others) == stored
            assert set(evo.pool) == evo.state.alive
            assert all(len(models) <= MOST_KEPT for models in choices_of(evo.state).values())
        assert {p.stem for p in (path / 'pool').iterdir()} == evo.state.alive, 'the rest is swept'
        assert evo.state.fronts, 'something is kept beside the best'
    return path


@pytest.mark.long
def test_killed_hard_and_resumed_it_is_the_same_run(whole, tmp_path):
    p = launch(tmp_path / 'k', 'test_front_runs')
    wait_for_lines(tmp_path / 'k', 6, p)  # one task has its front by now
    p.kill()
    p.wait()
    assert 6 <= lines(tmp_path / 'k') < lines(whole)
    with Evolution.resume(tmp_path / 'k', tasks=small_tasks()) as evo:
        evo.run()
    assert contents(tmp_path / 'k') == contents(whole)


def test_assembled_systems_predict_as_their_models_do(whole):
    state, arch, config = open_records(RunDir(whole).records())
    pool = StoredPool(whole / 'pool', state.alive)
    system = System.open(whole)
    sizes = system.sizes()
    assert len(sizes) > 1 and sizes.params_per_task.is_monotonic_increasing
    images = [small_tasks()[0].test[i][0] for i in range(5)]
    seen = set()
    for _, row in sizes.iterrows():
        chosen = system.at(params_per_task=row.params_per_task)
        assert chosen.gap == 0 and chosen.params_per_task <= row.params_per_task
        assert chosen.params_per_task == pytest.approx(row.params_per_task)
        for task, model in chosen.models.items():
            assert model in choices_of(state)[task]
            networks = {task: network_of(model, arch, pool)}
            forest = Forest(networks, config.training.precision, shared_programs())
            alone = [p[task] for p in answers(forest, [(image, [task]) for image in images])]
            assert np.array_equal(chosen.predict(task, images), alone)
            seen.add(model.id)
    assert len(seen) > len(state.kept)
    assert system.at(scale_factor=1).params_per_task == sizes.params_per_task.iloc[-1]


def test_the_journal_tells_test_accuracies_of_all_that_is_kept(whole, tmp_path):
    with Evolution.resume(whole, tasks=small_tasks()) as evo:
        system, state = evo.system, evo.state
        for s in (1.0, 0.5, 0.001):
            chosen = system.at(scale_factor=s)
            for task, model in chosen.models.items():
                told = {state.kept[task]: state.tests[task], **state.fronts.get(task, {})}
                assert chosen.evaluate(task) == told[model.id] == chosen.table().test[task]


def test_a_budget_that_no_system_meets_is_refused_with_the_smallest(whole):
    system = System.open(whole)
    least = system.sizes().params_per_task.iloc[0]
    with pytest.raises(InputError, match=f'at least {ceil(least):,} parameters per task'):
        system.at(params_per_task=least - 1)
    cheapest = min(
        prediction_flops(m, system._arch, len(system.classes[m.task]))
        for models in choices_of(system._state).values()
        for m in models
    )
    with pytest.raises(InputError, match='flops = 1: must be at least .* FLOPs per prediction'):
        system.at(flops=1)
    assert system.at(flops=1e12).models and cheapest > 1
    for wrong in ({}, {'flops': 1e9, 'scale_factor': 1}, {'scale_factor': 0}, {'flops': 'x'}):
        with pytest.raises(InputError):
            system.at(**wrong)


def test_disk_use_is_shown_and_a_lost_layer_of_a_front_is_noticed(whole, tmp_path):
    state = open_records(RunDir(whole).records())[0]
    told = describe(check_run(whole))
    assert f'kept beside the best models: {sum(map(len, state.fronts.values()))}' in told
    kept = {d for t, i in state.kept.items() for d in state.models[i].digests}
    task, front = next(iter(state.fronts.items()))
    beside = {d for i in front for d in state.models[i].digests} - kept - {*state.root.digests}
    lost = whole / 'pool' / f'{min(beside)}.safetensors'
    data = lost.read_bytes()
    lost.unlink()
    try:
        assert f'models that lack a layer: of the tasks {task}' in describe(check_run(whole))
        with pytest.raises(InputError, match='is missing'):
            System.open(whole)
    finally:
        lost.write_bytes(data)


def test_report_and_predict_know_the_sizes(whole, tmp_path, capsys):
    assert main(['report', str(whole)]) == 0
    told = capsys.readouterr().out
    assert 'Systems of other sizes' in told and 'front.png' in told
    assert (whole / 'front.png').read_bytes().startswith(b'\x89PNG')
    image, task = tmp_path / 'x.png', next(iter(System.open(whole).models))
    image.write_bytes((whole / 'front.png').read_bytes())
    common = ['predict', str(whole), '--task', task, str(image), '--scale-factor']
    assert main([*common, '0.001']) == 0
    assert main([*common, '2']) == 2
    assert 'scale_factor = 2.0: must be a number in (0, 1]' in capsys.readouterr().err
    for name in ('front', 'architectures', 'progress'):
        (whole / f'{name}.png').unlink()


def test_the_panel_slides_from_small_to_good(whole):
    panel = Dashboard.open(whole)
    panel.look('Size')
    pictures = []
    for position in (0, 100):
        panel.viewer.beside['Size'].value = position
        pictures.append(panel.views['Size'].value)
    assert all(p.startswith('<svg ') for p in pictures) and pictures[0] != pictures[1]
    panel.slider.value = 1  # nothing was kept yet
    assert panel.views['Size'].value not in pictures and 'error' not in panel.notice.value
