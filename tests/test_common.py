"""Tasks that train together: common trunks, probes of seed models, steps beyond noise.

What is trained is tiny; the search for groups is driven with pretended probes.
"""

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from statistics import fmean

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng
from test_runs import contents, launch, lines, small_tasks, wait_for_lines
from toy import ARCH, ToyRun, info, toy_layer

from munet_nb import Config, Evolution, InputError, System, load_root
from munet_nb.bench.protocol import lineage_examples
from munet_nb.engine import common as engine_common
from munet_nb.engine.common import CommonEngine, shared_settings, train_group
from munet_nb.engine.feeds import TaskFeed
from munet_nb.engine.programs import Programs, shared_programs
from munet_nb.engine.training import Times
from munet_nb.models.hparams import HParams
from munet_nb.models.ledger import Ledger
from munet_nb.models.model import Model, pack_correct, paired_error
from munet_nb.search.ask import ask, next_task, probes_due, spread_rates, to_try
from munet_nb.search.config import TrainingSettings, with_fields
from munet_nb.search.groups import (
    Group,
    TrainedGroup,
    ask_groups,
    assign,
    begin_groups,
    best_selection,
    propose_groups,
    selection_error,
    selection_score,
    tell_groups,
)
from munet_nb.search.journal import GroupSearch, Trial, kept_models
from munet_nb.search.records import record_schemas
from munet_nb.workers.worker import Worker

CONFIG = Config.preset(
    'demo',
    common_trunks=True,
    group_generations=2,
    trial_segments=4,
    trunk_segments=2,
    probed_seeds=1,
    spread_rates=True,
    acceptance_errors=1.0,
    children_per_task=14,
    children_per_generation=2,
    batch_size=32,
    batches=8,
    segments=2,
    seed_segments=0,
    task_iterations=1,
)


def three_tasks():
    "Two tasks of real digits, and the first again, private."
    first, second = small_tasks()
    return [first, second, replace(first, name='again', private=True)]


def start(path, config=CONFIG):
    return Evolution.create(path, load_root('random:Ti1'), three_tasks(), config)


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "An uninterrupted run."
    path = tmp_path_factory.mktemp('common') / 'whole'
    with start(path) as evo:
        evo.run()
    return path


def kinds(path):
    return [json.loads(line)['kind'] for line in Path(path, 'journal.jsonl').open()]


def test_a_trunk_joins_the_pool_and_its_tasks_have_a_model_at_once(whole):
    told = kinds(whole)
    assert told[:4] == ['run', 'groups_begun', 'groups', 'groups']
    assert 'common_trunk' in told, 'the two tasks of digits gain from each other'
    state = Evolution.resume(whole, tasks=three_tasks()).state
    (trunk,) = state.trunks
    model = state.models[trunk]
    assert model.task is None and model.parent == 'root'
    assert {ref.trained_by for ref in model.chain} == {trunk}
    assert not set(model.trunk) & set(state.root.trunk)
    assert {'mnist:trunk_1', 'digits:trunk_1'} <= set(state.models)
    assert state.models['digits:trunk_1'].parent == trunk


def test_what_came_with_a_trunk_trained_nothing_itself(whole):
    run = Evolution.resume(whole, tasks=three_tasks())
    state, train = run.state, {t.name: len(t.train) for t in three_tasks()}
    came = state.models['digits:trunk_1']
    assert lineage_examples(came, state, run.config, train) == 0
    child = replace(came, id='digits:0.0.0', parent=came.id, evaluations=(0.5,) * 3)
    segment = run.config.training.segment_batches(train['digits']) * 32
    assert lineage_examples(child, state, run.config, train) == 3 * segment


def test_probes_cost_time_and_asking_twice_forgets_nothing(tmp_path):
    config = with_fields(CONFIG, common_trunks=False)
    with start(tmp_path / 'run', config) as evo:
        generation = evo.ask()
        trained = evo.train(generation)
        assert evo.ask() == generation
        evo.tell(generation, trained)
        costs = evo.told_beside().costs
    told = [r['kind'] for r in evo.records[1:3]]
    assert told == ['probes', 'generation']
    for number in (1, 2):
        (cost,) = costs[number].values()
        assert cost.seconds > cost.compiling >= 0


def test_the_root_is_told_with_the_first_trials(tmp_path):
    with start(tmp_path / 'run') as evo:
        first = evo.ask()
        root, *trials = evo.train(first)
        for some in (trials, [root], [root, *trials[::-1]]):
            with pytest.raises(InputError, match='must be what train made of groups of tasks'):
                evo.tell(first, some)
        evo.tell(first, [root, *trials])


def test_a_group_compiles_before_its_first_step_and_is_probed_by_the_roots_programs(
    tmp_path, monkeypatch
):
    programs, compiled = Programs(), []
    monkeypatch.setattr('munet_nb.workers.worker.shared_programs', lambda: programs)

    def watch(*_):
        compiled.append(programs.compilations.total())

    with start(tmp_path / 'run') as evo:
        root, group, *_ = evo._jobs_of(evo.ask())
        worker = Worker(evo.tasks)
        worker.do(root, evo.pool)
        worker.do(group, evo.pool, watch)
    watch()
    assert len(compiled) > 2 and len(set(compiled)) == 1


@pytest.mark.parametrize(
    'records',
    [
        pytest.param(2, marks=pytest.mark.long, id='in a trial'),
        pytest.param(4, id="in the trunk's training"),
    ],
)
def test_killed_hard_while_tasks_train_together_then_resumed_it_is_the_same_run(
    whole, tmp_path, records
):
    path = tmp_path / 'k'
    p = launch(path, 'test_common')
    wait_for_lines(path, records, p)
    p.kill()
    p.wait()
    assert records <= lines(path) < lines(whole)
    with Evolution.resume(path, tasks=three_tasks()) as evo:
        evo.run()
    assert contents(path) == contents(whole)


def test_private_tasks_never_train_with_others(whole):
    for line in Path(whole, 'journal.jsonl').open():
        record = json.loads(line)
        if record['kind'] in ('groups_begun', 'groups', 'common_trunk'):
            assert 'again' not in json.dumps(record)


def test_a_new_trunk_changes_nothing_that_is_in_use(tmp_path):
    config = replace(CONFIG, common_trunks=False, scale_factor=1.0)
    with start(tmp_path / 'r', config) as evo:
        evo.run()
        before = {t: m.digests for t, m in kept_models(evo.state).items()}
        predicted = evo.system.predict('mnist', three_tasks()[0].test[0][0][None])
        with pytest.raises(InputError, match="'again'"):
            evo.common_trunk(['mnist', 'again'])
        with pytest.raises(InputError, match='at least two'):
            evo.common_trunk(['mnist', 'mnist'])
        with pytest.raises(InputError, match="'nobody'"):
            evo.common_trunk(['mnist', 'nobody'])
        made = evo.common_trunk()
        assert evo.done
        assert {t: m.digests for t, m in kept_models(evo.state).items()} == before
        again = evo.system.predict('mnist', three_tasks()[0].test[0][0][None])
        np.testing.assert_array_equal(again, predicted)
        assert list(evo.state.trunks) == made
        assert set(evo.state.entrants) <= {'mnist', 'digits'}
        late = replace(three_tasks()[0], name='late')
        evo.add_task(late)
        evo.ask()
        assert {id for id in made} <= {m.id for m in evo.state.seeds('late')}
    again = System.open(tmp_path / 'r')
    assert {t: m.digests for t, m in again.models.items()} == before


def test_tasks_that_are_chosen_train_a_trunk_and_no_others(tmp_path):
    tasks = [*three_tasks()[:2], replace(three_tasks()[1], name='third')]
    config = replace(CONFIG, common_trunks=False, scale_factor=1.0)
    with Evolution.create(tmp_path / 'r', load_root('random:Ti1'), tasks, config) as evo:
        evo.common_trunk(['mnist', 'third'])
        told = [r for r in evo.records if r['kind'] in ('groups_begun', 'groups', 'common_trunk')]
        assert told and 'third' in json.dumps(told) and 'digits' not in json.dumps(told)
        assert 'digits' not in evo.state.entrants


def test_a_search_for_groups_waits_for_the_end_of_a_task_iteration(tmp_path):
    with start(tmp_path / 'r', replace(CONFIG, common_trunks=False)) as evo:
        evo.step()
        with pytest.raises(InputError, match="'mnist' is going on"):
            evo.common_trunk()


def test_seed_models_are_probed_once_and_the_best_of_them_are_tried(whole):
    with Evolution.resume(whole, tasks=three_tasks()) as evo:
        records = evo.records
    by_task = {r['task']: r for r in records if r['kind'] == 'probes'}
    assert set(by_task) == {'mnist', 'digits', 'again'}
    for task, record in by_task.items():
        generations = [r for r in records if r['kind'] == 'generation' and r['task'] == task]
        tried = [id for r in generations for id in r['seeds_tried']]
        assert len(tried) <= CONFIG.probed_seeds
        assert set(tried) <= {p['seed'] for p in record['probes']}
        assert record['examples'] == record['segments'] * 256  # 8 batches of 32 a probe


def test_the_seed_model_that_is_probed_is_the_one_that_is_tried():
    "Two tasks use the same trunk, with hyperparameters of their own."
    config = Config(probed_seeds=2, defaults=HParams(lr=0.02))
    run = ToyRun(config, [info(t) for t in 'abc'])
    root = run.state.root
    chain = tuple(r if r.name == 'head' else replace(r, digest=f'own {r.name}') for r in root.chain)

    def model(task, parent, lr):
        hparams = replace(root.hparams, lr=lr)
        return Model(f'{task}:0.0.0', task, parent, chain, hparams, (0.9,))

    a = model('a', 'root', 0.2)
    b = model('b', a.id, 0.005)
    models = Ledger({m.id: m for m in (root, a, b)})
    kept, visits = {'a': a.id, 'b': b.id}, {'a': 2, 'b': 2}
    state = replace(run.state, models=models, kept=kept, visits=visits)
    seeds = probes_due(state, config)
    assert [m.id for m in seeds] == ['root', a.id]
    probed = {('c', m.trunk): 0.5 for m in seeds}
    tried = to_try(replace(state, probes=probed), config, 'c', ARCH)
    assert {m.id for m in tried} == {'root', a.id}


# Groups, with pretended probes


def rates(search):
    return Config(search={'lr': (0.05, 0.1, 0.2)}, defaults=HParams(lr=0.1))


@st.composite
def searches(draw):
    "A finished search for groups: what a trunk is worth to a task is drawn."
    tasks = tuple('abcdefg'[: draw(st.integers(2, 7))])
    accuracy = st.floats(0.1, 1, allow_nan=False)
    images = dict.fromkeys(tasks, 600)
    root = Trial('root', (), 0.0, {t: draw(accuracy) for t in tasks})
    search = GroupSearch(0, tasks, images, 0, (root,))
    factor, errors = draw(st.sampled_from([1.0, 0.9, 0.3])), draw(st.sampled_from([0.0, 1.0]))
    config = with_fields(rates(search), scale_factor=factor, acceptance_errors=errors)
    for generation in range(draw(st.integers(1, 4))):
        rng = default_rng([draw(st.integers(0, 99)), generation])
        proposals = propose_groups(rng, search, config, 1.0)
        trials = tuple(
            Trial(f'group:0.{generation}.{i}', own, lr, {t: draw(accuracy) for t in tasks})
            for i, (own, lr) in enumerate(proposals)
        )
        search = replace(search, generation=generation + 1, trials=search.trials + trials)
    return search, config


@settings(max_examples=60, deadline=None)
@given(searches())
def test_groups_are_of_two_or_more_tasks_and_nothing_is_tried_twice(found):
    search, config = found
    groups = [(t.tasks, t.lr) for t in search.trials[1:]]
    assert len(set(groups)) == len(groups)
    for tasks, lr in groups:
        assert len(set(tasks)) == len(tasks) >= 2
        assert set(tasks) <= set(search.tasks)
        assert lr in config.search['lr']
    for generation in range(1, search.generation):
        own = [t for t in search.trials if t.id.startswith(f'group:0.{generation}.')]
        assert sum(len(t.tasks) for t in own) <= len(search.tasks)


@settings(max_examples=60, deadline=None)
@given(searches())
def test_the_selection_is_worth_its_price_and_every_trunk_is_shared(found):
    search, config = found
    root = search.trials[0]
    selection = best_selection(search, config, 1.0)
    worth = selection_score(selection, search.images, config, 1.0)
    assert worth >= selection_score([root], search.images, config, 1.0)
    taken = assign(selection, search.images, config, 1.0)
    for task, trial in taken.items():
        assert trial is root or task in trial.tasks
        best = max(t.probes[task] for t in selection if not t.tasks or task in t.tasks)
        shares = best, trial.probes[task]
        error = (sum(p * (1 - p) for p in shares) / 600) ** 0.5
        beyond = best - trial.probes[task] > config.acceptance_errors * error + 1e-9
        assert not beyond or config.scale_factor < 1
    to_the_point = config.scale_factor < 1 or not config.acceptance_errors
    for trial in selection if to_the_point else ():
        if not trial.tasks or set(trial.tasks) == set(search.tasks):
            alone = fmean(trial.probes.values()) * config.scale_factor ** (1 / len(search.tasks))
            assert worth >= alone - 1e-9, 'all tasks could have been there'
    for trial in selection[1:]:
        assert list(taken.values()).count(trial) >= 2


def test_alike_tasks_are_told_from_the_others_and_no_trunk_is_better_than_a_bad_one():
    tasks = tuple('abcdef')
    root = Trial('root', (), 0.0, dict.fromkeys(tasks, 0.5))
    alike = set('def')

    def pretend(id, own, lr):
        gain = {t: 0.1 if t in alike and alike & (set(own) - {t}) else -0.05 for t in own}
        return Trial(id, own, lr, {t: 0.5 + gain.get(t, -0.2) for t in tasks})

    images = dict.fromkeys(tasks, 600)
    search = GroupSearch(0, tasks, images, 0, (root,))
    for generation in range(3):
        proposals = propose_groups(default_rng(generation), search, rates(search), 1.0)
        made = [pretend(f'group:0.{generation}.{i}', *p) for i, p in enumerate(proposals)]
        search = replace(search, generation=generation + 1, trials=(*search.trials, *made))
    selection = best_selection(search, rates(search), 1.0)
    assert [set(t.tasks) for t in selection[1:]] in ([alike], [set(tasks)])
    taken = assign(selection, images, rates(search), 1.0)
    assert alike == {t for t, trial in taken.items() if trial is not root}
    lost = replace(search, generation=1, trials=(root,))  # all trials diverged
    assert propose_groups(default_rng(0), lost, rates(search), 1.0) == []
    bad = replace(search.trials[1], probes=dict.fromkeys(tasks, 0.4))
    assert best_selection(replace(search, trials=(root, bad)), rates(search), 1.0) == [root]


def pretend_group(group, tasks, diverges) -> TrainedGroup:
    "What training could have made of a group, or of the root, which never diverges."
    if diverges:
        return TrainedGroup(group, {}, -1, {}, {}, {}, {}, {})
    probes = {t: 0.5 + (0.1 + group.hparams.lr / 10) * (t in group.tasks) for t in tasks}
    return TrainedGroup(group, {}, 0, {'norm': toy_layer(group.id)}, {}, {}, {}, probes)


def test_a_trial_that_diverges_is_paid_for_and_not_tried_again():
    config = Config(
        common_trunks=True,
        group_generations=5,
        trial_segments=3,
        search={'lr': (0.05, 0.1, 0.2, 0.5)},
        defaults=HParams(lr=0.1),
    )
    run = ToyRun(config, [info(t) for t in 'abcd'])
    run.state = replace(run.state, config=config)
    run.commit(begin_groups(run.state, dict.fromkeys('abcd', 600)))
    proposed, cost = [], dict.fromkeys('abcd', 0)
    while not (generation := ask_groups(run.state, config, ARCH)).trial:
        groups = generation.children
        proposed += [(g.tasks, g.hparams.lr) for g in groups]
        root = [] if generation.generation else [Group('root', (), config.defaults)]
        tried = [*root, *groups]
        trained = [pretend_group(g, 'abcd', g.tasks and g.hparams.lr >= 0.2) for g in tried]
        probed = sum(bool(t.layers) for t in trained)
        for t in 'abcd':
            cost[t] += probed + 3 * sum(t in g.tasks for g in groups)
        record = tell_groups(generation, trained, dict.fromkeys('abcd', 0))
        record_schemas(ARCH, config)['groups'].check(record)
        run.commit(record)
    assert any(lr >= 0.2 for _, lr in proposed)
    assert len(set(proposed)) == len(proposed)
    assert run.state.common == cost


def test_where_size_counts_all_tasks_take_the_one_trunk_that_is_better_for_all_together():
    "No task gains by leaving the root alone, and half of them would not if they chose by probes."
    root = Trial('root', (), 0.1, {'a': 0.97, 'b': 0.85, 'c': 0.37, 'd': 0.42})
    every = Trial('group:0.0.0', tuple('abcd'), 0.2, {'a': 0.96, 'b': 0.84, 'c': 0.52, 'd': 0.56})
    search = GroupSearch(0, every.tasks, dict.fromkeys('abcd', 600), 1, (root, every))
    for s, there in ((1.0, 'cd'), (0.7, 'abcd'), (0.3, 'abcd')):
        config = Config(scale_factor=s, acceptance_errors=1.0)
        selection = best_selection(search, config, 1.0)
        assert selection == [root, every]
        taken = assign(selection, search.images, config, 1.0)
        assert ''.join(t for t, trial in taken.items() if trial is every) == there


def probes_of(*percent):
    "Of five tasks, of which d, e and f are alike."
    return dict(zip('abdef', (p / 100 for p in percent)))


def test_a_point_or_two_takes_no_task_away_from_those_that_it_gains_from():
    """`d` is two points better with everybody, less than a standard error; `e` and `f` are not.

    Everybody's trunk, selected after theirs, is worth having for `a` and `b`. If `d` left for it,
    `e` and `f` would train without it, and it with two tasks that have nothing to give it.
    """
    root = Trial('root', (), 0.1, probes_of(84, 83, 37, 42, 35))
    every = Trial('group:0.0.0', tuple('abdef'), 0.2, probes_of(88, 87, 50.5, 55.7, 41.5))
    alike = Trial('group:0.1.0', tuple('def'), 0.2, probes_of(63, 59, 48.5, 59.5, 42.5))
    images = dict.fromkeys('abdef', 600)
    config = Config(acceptance_errors=1.0)
    taken = assign([root, alike, every], images, config, 1.0)
    assert taken == {'a': every, 'b': every, 'd': alike, 'e': alike, 'f': alike}
    by_probe = assign([root, alike, every], images, Config(acceptance_errors=0.0), 1.0)
    assert by_probe == taken | {'d': every}


def test_two_groups_keep_the_members_that_gain_little_by_themselves():
    "`b` and `e` gain a point over the root, less than a standard error, and their groups more."
    root = Trial('root', (), 0.1, probes_of(60, 60, 40, 40, 40))
    light = Trial('group:0.1.0', tuple('ab'), 0.1, probes_of(70, 61, 30, 30, 30))
    dark = Trial('group:0.1.1', tuple('def'), 0.2, probes_of(50, 50, 50, 41, 50))
    images = dict.fromkeys('abdef', 600)
    taken = assign([root, light, dark], images, Config(acceptance_errors=1.0), 1.0)
    assert taken == {'a': light, 'b': light, 'd': dark, 'e': dark, 'f': dark}


def test_the_error_of_a_selection_is_that_of_independent_samples():
    "By hand: two tasks of 600 images at 50% on the root and on the trunk, of five tasks."
    root = Trial('root', (), 0.1, probes_of(50, 50, 50, 50, 50))
    pair = Trial('group:0.1.0', tuple('de'), 0.1, probes_of(50, 50, 50, 50, 50))
    taken = dict.fromkeys('abf', root) | dict.fromkeys('de', pair)
    error = selection_error(pair, root, taken, dict.fromkeys('abdef', 600))
    assert error == pytest.approx((2 * (0.25 + 0.25) / 600) ** 0.5 / 5)


def test_those_who_gain_are_told_from_the_others_however_much_they_gain():
    "`f` gains least of three, less than they differ among themselves."
    root = Trial('root', (), 0.1, probes_of(84, 83, 35, 39, 35))
    every = Trial('group:0.0.0', tuple('abdef'), 0.2, probes_of(82, 83, 48, 57, 41))
    search = GroupSearch(0, every.tasks, dict.fromkeys('abdef', 600), 1, (root, every))
    config = with_fields(rates(search), acceptance_errors=1.0)
    proposals = propose_groups(default_rng(0), search, config, 1.0)
    assert [tasks for tasks, _ in proposals] == [tuple('def'), tuple('ab')]


def test_a_group_attracts_whom_its_trunk_helps_without_having_been_there():
    root = Trial('root', (), 0.1, probes_of(84, 83, 35, 39, 35))
    every = Trial('group:0.0.0', tuple('abdef'), 0.2, probes_of(82, 83, 48, 57, 36))
    pair = Trial('group:0.1.0', tuple('de'), 0.2, probes_of(58, 59, 49, 58, 39))
    rest = Trial('group:0.1.1', tuple('abf'), 0.2, probes_of(84, 84, 37, 41, 36))
    trials = (root, every, pair, rest)
    search = GroupSearch(0, every.tasks, dict.fromkeys('abdef', 600), 2, trials)
    config = with_fields(rates(search), acceptance_errors=1.0)
    proposals = propose_groups(default_rng(0), search, config, 1.0)
    assert proposals[0] == (tuple('def'), 0.2)


def test_a_task_trains_in_one_trunk_the_one_that_it_takes():
    "So what it spends on trunks stays within its budget."
    root = Trial('root', (), 0.1, dict.fromkeys('abcd', 0.5))
    every = Trial('group:0.0.0', tuple('abcd'), 0.1, dict(zip('abcd', (0.6, 0.6, 0.55, 0.55))))
    pair = Trial('group:0.1.0', tuple('cd'), 0.1, dict(zip('abcd', (0.4, 0.4, 0.7, 0.7))))
    images = dict.fromkeys('abcd', 600)
    search = GroupSearch(0, tuple('abcd'), images, 1, (root, every, pair))
    config = Config(group_generations=1, search={'lr': (0.05, 0.1, 0.2)}, defaults=HParams(lr=0.1))
    state = replace(ToyRun(config, [info(t) for t in 'abcd']).state, groups=search)
    trained = []
    while generation := ask_groups(state, config, ARCH):
        trained.append(generation.children[0].tasks)
        made = (*state.groups.trunks, generation.trial)
        state = replace(state, groups=replace(state.groups, trunks=made))
    assert sorted(trained) == [('a', 'b'), ('c', 'd')]


# Training on several tasks


def common(device_budget=4096.0, devices=()):
    tasks = small_tasks()
    settings = TrainingSettings(
        batch_size=32, batches=3, segments=2, device_budget=device_budget
    )
    feeds = [TaskFeed(t, shared_settings(settings, 2)) for t in tasks]
    root = load_root('random:Ti1')
    engine = CommonEngine(root.arch, root.layers, feeds, settings, shared_programs(), devices)
    group = Group('trunk:1', tuple(t.name for t in tasks), HParams(num_layers=1, lr=0.1))
    made = train_group(engine, group, default_rng(0), jax.random.key(0), Times())
    layers = [*made.layers.values(), *made.heads.values()]
    return [layer.digest for layer in layers], made


DEVICES = '''
import json, sys
sys.path.insert(0, {tests!r})
import jax, test_common
print(json.dumps([len(jax.devices()), test_common.common()[0]]))
'''


@pytest.mark.long
def test_eight_devices_train_the_same_trunk_as_one():
    expected, made = common()
    assert made.best >= 0
    flags = os.environ.get('XLA_FLAGS', '') + ' --xla_force_host_platform_device_count=8'
    env = {**os.environ, 'XLA_FLAGS': flags, 'JAX_PLATFORMS': 'cpu'}
    code = DEVICES.format(tests=str(Path(__file__).parent))
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    devices, got = json.loads(out.stdout.strip().splitlines()[-1])
    assert devices == 8
    assert got == expected


@pytest.mark.parametrize('finite', [True, False])
def test_a_task_with_no_right_answer_does_not_make_a_trunk_diverged(monkeypatch, finite):
    monkeypatch.setattr(engine_common, 'feed_marks', lambda *given: (np.zeros(40, bool), finite))
    _, made = common()
    assert bool(made.layers) == (made.best >= 0) == finite


def test_streamed_images_train_the_same_trunk():
    assert common(device_budget=0.05)[0] == common()[0]


# Steps beyond noise, and rates far apart


def test_the_error_of_a_difference_is_that_of_the_images_that_differ():
    bits = np.zeros((2, 200), bool)
    bits[0, :150] = True
    bits[1, 10:150] = True
    a, b = (Model(n, 't', 'root', (), HParams(), (0.7,), pack_correct(x)) for n, x in zip('ab', bits))
    assert paired_error(a, b) == pytest.approx(np.sqrt(0.05 - 0.05**2) / np.sqrt(200))
    assert paired_error(a, replace(b, correct='')) == 0
    fewer = replace(b, correct=pack_correct(bits[1, :100]))
    apart = np.sqrt(0.75 * 0.25 / 200 + 0.9 * 0.1 / 100)
    assert paired_error(a, fewer) == pytest.approx(apart), 'those of one configuration and another'


def test_the_first_mutated_children_try_rates_two_steps_apart():
    lrs = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)
    config = Config(
        spread_rates=True,
        seed_segments=1,
        children_per_generation=3,
        defaults=HParams(lr=0.1),
        search={'lr': lrs, 'momentum': (0.8, 0.9, 0.95), 'area_min': (0.05, 0.5)},
        mutation_prob=1.0,
    )
    run = ToyRun(config, [info('a')])
    generations = []
    while run.state.generation < 3:
        generations.append(ask(run.state, config, ARCH))
        run.step()
    trial, spread, later = generations
    assert trial.seeds_tried and [c.hparams.lr for c in trial.children] == [0.1]
    assert [c.hparams.lr for c in spread.children] == [0.1, 0.02, 0.5]
    assert len({c.parent for c in spread.children}) == 1, 'they differ in their rates only'
    assert len({replace(c.hparams, lr=0.1) for c in spread.children}) == 1
    assert spread_rates(run.state, config) == []
    assert len(later.children) == 3


@pytest.mark.parametrize(
    ('children', 'spread'),  # a generation; which number tries rates apart, of two seed models
    [(1, 2), (2, 1), (3, 0), (4, 0)],
)
def test_they_do_so_where_whole_children_try_the_seed_models(children, spread):
    config = Config(
        spread_rates=True,
        children_per_generation=children,
        task_iterations=1,
        defaults=HParams(lr=0.1),
        search={'lr': (0.01, 0.02, 0.05, 0.1, 0.2, 0.5)},
        mutation_prob=0.0,
    )
    run = ToyRun(config, [info('a'), info('b')])
    while next_task(run.state, config) == 'a':
        run.step()
    rates = []  # of mutated children
    while run.state.generation <= spread:
        generation = ask(run.state, config, ARCH)
        rates.append([c.hparams.lr for c in generation.children[len(generation.seeds_tried) :]])
        run.step()
    far = [0.1, 0.02, 0.5, 0.1][:children][-len(rates[spread]) :]
    assert rates == [[]] * spread + [far]


def test_rates_begin_at_that_of_the_best_trial_in_a_group(whole):
    rates = CONFIG.search['lr']
    records = [json.loads(line) for line in Path(whole, 'journal.jsonl').open()]
    trials = [t for r in records if r['kind'] == 'groups' for t in r['trials'] if t['tasks']]
    for task in ('mnist', 'digits'):
        own = [t for t in trials if task in t['tasks']]
        best = max(own, key=lambda t: t['probes'][task])['lr']
        first = next(r for r in records if r['kind'] == 'generation' and r['task'] == task)
        assert best != CONFIG.defaults.lr, 'where rates begin without groups'
        _, second = first['children']  # the first child tries a seed model
        lr = second['model']['hparams']['lr']
        assert abs(rates.index(lr) - rates.index(best)) == 2
