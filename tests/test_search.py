"""The search's rules, on histories that hypothesis generates, and its statistics.

Both against the specification. Nothing is trained.
"""

import hashlib
import json
from collections import Counter
from dataclasses import fields, make_dataclass, replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ARCH, REFERENCE, ToyRun, info, toy_root_model

from munet_nb.bench.folder import setting_digest
from munet_nb.bench.protocol import COMPARISONS, Comparison
from munet_nb.checks import InputError
from munet_nb.models.accounting import (
    accounted_params,
    params_per_task,
    prediction_flops,
    users_of_models,
)
from munet_nb.models.hparams import AUTO_TUNE, DATA_HPARAMS, MODEL_HPARAMS, HParams
from munet_nb.models.model import model_from_json
from munet_nb.network.chain import reference_flops
from munet_nb.pictures.hyperparameters import plot_hyperparameters, plot_tuned_values
from munet_nb.roots.load import load_root
from munet_nb.runs.report import GenerationReport
from munet_nb.runs.rundir import RunDir, example_run
from munet_nb.runs.start import first_record
from munet_nb.search.ask import (
    affordable_children,
    ask,
    generation_segments,
    generations_left,
    next_task,
    segments_to_spend,
)
from munet_nb.search.config import (
    PRESETS,
    Config,
    TrainingSettings,
    config_fields,
    config_from_json,
    config_to_json,
    with_fields,
)
from munet_nb.search.journal import TaskInfo, info_to_json, open_first, replay
from munet_nb.search.mutation import OPERATORS, mutate_child, mutations, probabilities
from munet_nb.search.plans import Race, Surroundings
from munet_nb.search.selection import sample_parent
from munet_nb.tasks.task import task_from_arrays

F = reference_flops(ARCH)


def config_of(race_segments, keep, **values) -> Config:
    "Nothing races where a task keeps a front."
    return Config(race_segments=race_segments if keep == 'best' else 0, keep=keep, **values)


configs = st.builds(
    config_of,
    seed=st.integers(0, 2**32 - 1),
    scale_factor=st.sampled_from([1.0, 0.9, 0.3, 0.02]),
    compute_factor=st.sampled_from([1.0, 0.9, 0.3]),
    mutation_prob=st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    children_per_task=st.integers(1, 9),
    children_per_generation=st.integers(1, 4),
    task_iterations=st.integers(1, 3),
    auto_tune=st.booleans(),
    seed_segments=st.integers(0, 4),
    race_segments=st.integers(0, 4),
    keep=st.sampled_from(['best', 'front']),
)


@st.composite
def histories(draw):
    """A finished search over a few tasks, some private, one perhaps joining late.

    The states after each record are included.
    """
    names = 'abcd'[: draw(st.integers(1, 4))]
    private = {n for n in names if draw(st.integers(0, 3)) == 0}
    tasks = [info(n, n in private) for n in names]
    run = ToyRun(draw(configs), tasks, salt=draw(st.integers(0, 99)))
    late = draw(st.integers(0, 12))
    for i in range(1000):
        if i == late:
            run.commit({'kind': 'extended', 'tasks': [info('late')]})
        if not run.step() and i > late:
            break
    return run, run.states


def generations(history):
    "The state before each generation, and its record."
    run, states = history
    pairs = zip(states, run.records[1:])
    return [(before, record) for before, record in pairs if record['kind'] == 'generation']


def worth(model, state, task, config):
    "A model's score, from the formula."
    users = users_of_models(state.others(task))
    charged = 0
    for ref in model.chain:
        charged += ref.n_params / len(users.get(ref.digest, frozenset()) | {task})
    computed = prediction_flops(model, ARCH, len(state.tasks[task].classes))
    size_price = config.scale_factor ** (charged / REFERENCE)
    return max(model.evaluations) * size_price * config.compute_factor ** (computed / F)


@settings(max_examples=40, deadline=None)
@given(histories())
def test_what_a_kept_model_uses_never_changes_while_other_tasks_evolve(history):
    run, states = history
    for before, after, record in zip(states, states[1:], run.records[1:]):
        for task, kept in before.kept.items():
            if record.get('task') != task:
                assert after.models[after.kept[task]] == before.models[kept]
        assert after.root == before.root
        for m in before.others(record.get('task')):
            assert set(m.digests) <= after.alive
    for m in run.state.others(None):
        assert set(m.digests) <= set(run.pool)
    assert set(run.pool) == run.state.alive, 'the pool holds what is needed and nothing else'


@settings(max_examples=40, deadline=None)
@given(histories())
def test_children_train_only_what_no_other_task_and_no_root_uses(history):
    for before, record in generations(history):
        task = record['task']
        not_its_own = before.keeping.relied_on(task)
        for c in record['children']:
            m = model_from_json(c['model'])
            assert 'head' in c['trained']
            for ref in m.chain:
                if ref.name in c['trained']:
                    assert ref.trained_by == task and ref.digest not in not_its_own
                elif ref.name != 'posembed':
                    assert ref.digest in before.alive
            if before.models[m.parent].task != task:
                always = 'any score is enough for the child of another task'
                assert c['accepted'] == bool(m.chain), always


def expected_seeds(state, task):
    "The seed models that are to be tried, from the specification."
    tried = state.tried if state.task else frozenset()

    def is_seed(m):
        if m.id == 'root':
            return True
        kept = state.kept.get(m.task) == m.id
        return kept and m.task != task and not state.tasks[m.task].private

    newest_first = reversed(list(state.models.values()))
    return [m.id for m in newest_first if m.id not in tried and is_seed(m)]


@settings(max_examples=40, deadline=None)
@given(histories())
def test_seeds_are_tried_first_newest_first_unmutated_and_private_models_never(history):
    for before, record in generations(history):
        expected = expected_seeds(before, record['task'])
        parents = [c['model']['parent'] for c in record['children']]
        n = min(len(expected), len(parents))
        assert parents[:n] == expected[:n] == record['seeds_tried']
        for c in record['children'][:n]:
            check_unmutated(before.models[c['model']['parent']], c)
        data = {tuple(c['model']['hparams'].get(f) for f in DATA_HPARAMS) for c in record['children']}
        assert len(data) == 1, 'the children of a generation share the data hyperparameters'


def check_unmutated(parent, child):
    m = model_from_json(child['model'])
    if m.chain:
        names = [{r.name for r in x.chain if r.name != 'head'} for x in (m, parent)]
        assert names[0] == names[1]
    # With another image size, an ancestor's position embedding may be this task's own.
    resized = m.hparams.image_size != parent.hparams.image_size
    may_train = {'head', 'posembed'} if resized else {'head'}
    assert {'head'} <= set(child['trained']) <= may_train
    for name in ('lr', 'momentum', 'adapter_dim', 'num_layers'):
        assert getattr(m.hparams, name) == getattr(parent.hparams, name)


@settings(max_examples=40, deadline=None)
@given(histories())
def test_a_child_is_accepted_if_it_beats_its_parent_and_the_best_model_is_kept(history):
    run, states = history
    for before, after, record in zip(states, states[1:], run.records[1:]):
        task = record.get('task')

        def value(m):
            return worth(m, before, task, run.config)  # noqa: B023 - called in this turn alone

        if record['kind'] == 'generation':
            for c in record['children']:
                m, parent = model_from_json(c['model']), before.models[c['model']['parent']]
                assert (m.id in after.active) == c['accepted']
                if not m.chain:
                    assert not c['accepted'] and c['score'] == 0, 'it diverged'
                    continue
                assert c['score'] == pytest.approx(value(m))
                better = parent.task != task or value(m) > value(parent)
                if c['accepted'] and run.config.keep == 'front':  # or it is small for its worth
                    users = users_of_models(before.others(task))
                    smaller = accounted_params(m, users) < accounted_params(parent, users)
                    assert better or smaller
                else:
                    assert c['accepted'] == better
        if record['kind'] == 'task_end' and before.active:
            # max takes the first of equals, which is the older one
            best = max(before.active, key=lambda i: value(before.models[i]))
            assert record['kept'] == best == after.kept[task] and record['best']['id'] == best


@settings(max_examples=40, deadline=None)
@given(histories())
def test_data_hyperparameters_start_from_the_best_model_and_stay_while_seeds_are_tried(history):
    config = history[0].config
    for before, record in generations(history):
        task, active = record['task'], before.active
        if not before.task:
            active = before.population(task)
        values = {i: worth(before.models[i], before, task, config) for i in active}
        best = max(active, key=values.get) if active else None
        start = before.models[best].hparams if best else config.defaults
        now = model_from_json(record['children'][0]['model']).hparams
        for name in DATA_HPARAMS:
            old, new = getattr(start, name), getattr(now, name)
            space = config.space(ARCH).get(name)
            if not space or expected_seeds(before, task):
                assert old == new
            else:
                assert abs(space.index(old) - space.index(new)) <= 1


@settings(max_examples=40, deadline=None)
@given(histories())
def test_bills_add_up_to_the_distinct_parameters(history):
    run, _ = history
    kept = run.state.others(None)
    if kept:
        users = users_of_models(kept)
        bills = sum(accounted_params(m, users) for m in kept)
        assert bills == pytest.approx(params_per_task(kept) * len(kept))


@settings(max_examples=15, deadline=None)
@given(configs)
def test_every_task_gets_its_share_of_children(config):
    config = replace(config, seed_segments=0, race_segments=0)
    run = ToyRun(config, [info(n) for n in 'abc'])
    run.finish()
    per_task = Counter()
    for r in run.records:
        if r['kind'] == 'generation':
            per_task[r['task']] += len(r['children'])
    assert per_task == dict.fromkeys('abc', config.children_per_task * config.task_iterations)
    ends = [r['task'] for r in run.records if r['kind'] == 'task_end']
    again_and_again = list('abc') * config.task_iterations
    assert ends == again_and_again, 'the whole list is passed over, again and again'


@pytest.mark.core
def test_test_accuracy_is_never_used_to_select():
    rng = np.random.default_rng(0)
    without_test = []
    for test in (lambda r: 0.0, lambda r: float(rng.random())):
        config = Config(children_per_task=12, scale_factor=0.7)
        run = ToyRun(config, [info(n) for n in 'abc'], test=test)
        run.finish()
        without_test.append([{k: v for k, v in r.items() if k != 'test'} for r in run.records])
    assert without_test[0] == without_test[1]


@pytest.mark.core
def test_a_late_task_catches_up_and_leaves_the_others_alone():
    run = ToyRun(Config(children_per_task=6, children_per_generation=3), [info(n) for n in 'ab'])
    run.finish()
    before = {t: run.state.models[i] for t, i in run.state.kept.items()}
    run.commit({'kind': 'extended', 'tasks': [info('c')]})
    run.finish()
    assert [r['task'] for r in run.records if r['kind'] == 'task_end'] == list('ababcc')
    assert {t: run.state.models[run.state.kept[t]] for t in 'ab'} == before
    with pytest.raises(InputError, match='done'):
        ask(run.state, run.config, ARCH)
    assert next_task(run.state, run.config) is None


N = 4000


def children_of_root(mu=0.1, tune=True):
    "A parent that lacks the root's top block, and N mutated children of it."
    config = Config(mutation_prob=mu, auto_tune=tune)
    deep, _ = toy_root_model(config)
    alive = frozenset(deep.digests)
    around = Surroundings(ARCH, 10, alive, frozenset(), config.space(ARCH))
    hparams = replace(deep.hparams, num_layers=2)
    chain = tuple(r for r in deep.chain if r.name != 'block_2')
    parent = replace(deep, hparams=hparams, chain=chain)
    rng = np.random.default_rng(0)

    def chances(own):
        return probabilities(config, own)

    def child(i):
        return mutate_child(rng, f't:0.0.{i}', 't', [parent, deep], hparams, chances, around)

    return parent, [child(i) for i in range(N)]


def assert_frequency(count, p, n=N):
    far = 5 * (n * p * (1 - p)) ** 0.5 + 1e-9
    assert abs(count - n * p) < far, f'{count / n:.4f} instead of {p}'


@pytest.mark.core
def test_each_mutation_happens_with_probability_mu():
    root, children = children_of_root()
    trained = Counter(name for c in children for name in c.changes)
    there = Counter(layer.name for c in children for layer in c.layers)
    for name in ('embedding', 'cls', 'posembed', 'block_0'):
        assert_frequency(trained[name], 0.1)
    for name in ('norm', 'head'):
        assert trained[name] == N
    assert_frequency(there['adapter_0'], 0.1)
    assert_frequency(there['adapter_1'], 0.1 * 0.95)  # gone with its block in 1 of 20
    for field, space in {**AUTO_TUNE, 'num_layers': (1, 2, 3)}.items():
        values = Counter(getattr(c.hparams, field) for c in children)
        if field in DATA_HPARAMS:
            generation = {getattr(root.hparams, field)}
            assert set(values) == generation, 'data hyperparameters belong to the generation'
        else:
            check_steps(values, space, space.index(getattr(root.hparams, field)))


def check_steps(values, space, start):
    "One step up or down, each with probability 1/20; a step past the end stays."
    for j, v in enumerate(space):
        p = 0.05 if abs(j - start) == 1 else 0
        if j == start:
            p = 0.9 + 0.05 * ((j == 0) + (j == len(space) - 1))
        assert_frequency(values[v], p)


def test_data_hyperparameters_move_with_probability_mu_per_generation():
    run = ToyRun(Config(children_per_task=10**6, children_per_generation=1), [info('a')])
    run.step()
    state, n, moved = run.state, 1500, Counter()
    start = state.models[state.active[0]].hparams if state.active else state.root.hparams
    for g in range(n):
        child = ask(replace(state, generation=g), run.config, ARCH).children[0]
        for f in DATA_HPARAMS:
            moved[f] += getattr(child.hparams, f) != getattr(start, f)
    assert moved.keys() - AUTO_TUNE == {'crop'} and not moved['crop']  # not tuned in the paper
    for f in AUTO_TUNE.keys() & DATA_HPARAMS:
        space = AUTO_TUNE[f]
        inside = 0 < space.index(getattr(start, f)) < len(space) - 1
        assert_frequency(moved[f], 0.1 if inside else 0.05, n)  # at an end half of the steps stay


@pytest.mark.core
def test_a_generation_out_of_turn_is_refused():
    run = ToyRun(Config(children_per_task=8, children_per_generation=4), [info('a'), info('b')])
    run.step()
    with pytest.raises(InputError, match='was due'):
        replay([*run.records, run.records[-1]])
    run.step()
    with pytest.raises(InputError, match='was due'):
        replay(run.records[:1] + run.records[2:])


def test_independent_mutations():
    _, children = children_of_root()
    assert_frequency(sum({'embedding', 'cls'} <= set(c.changes) for c in children), 0.01)
    both = sum('block_0' in c.changes and c.hparams.lr != 0.01 for c in children)
    assert_frequency(both, 0.01)


def test_without_auto_tuning_only_the_depth_moves():
    root, children = children_of_root(tune=False)
    assert {replace(c.hparams, num_layers=2) for c in children} == {root.hparams}
    assert_frequency(sum(c.hparams.num_layers == 3 for c in children), 0.05)
    back = {layer.digest for c in children for layer in c.layers if layer.name == 'block_2'}
    roots = toy_root_model(Config())[0].layers['block_2'].digest
    assert back == {roots}, 'taken back from the closest ancestor that has it'


def test_mu_of_zero_and_one():
    always = {'norm', 'head'}
    for c in children_of_root(0.0)[1][:50]:
        assert set(c.changes) == always
    for c in children_of_root(1.0)[1][:50]:
        assert {'embedding', 'cls', 'posembed', 'block_0', 'adapter_0', *always} <= set(c.changes)


def test_a_probability_of_its_own_or_mu():
    assert probabilities(Config(), HParams()) == {'step': 0.1, 'insert': 0.1, 'clone': 0.1}
    config = Config(mutation_prob=0.2, cloning_prob=0.5, adapter_prob=1.0)
    assert probabilities(config, HParams()) == {'step': 0.2, 'insert': 1.0, 'clone': 0.5}
    assert set(probabilities(Config(mutation_prob=0.0), HParams())) == set(OPERATORS)


def test_an_operator_that_is_off_leaves_every_search_as_it_is(monkeypatch):
    journals = []
    for _ in range(2):
        run = ToyRun(Config(children_per_task=12, mutation_prob=0.3), [info(n) for n in 'ab'])
        run.finish()
        journals.append(run.records)
        off = replace(OPERATORS['clone'], name='off', switch='seed_scan')  # which is off
        monkeypatch.setitem(OPERATORS, 'off', off)
    assert 'off' in OPERATORS and journals[0] == journals[1]


@settings(max_examples=20, deadline=None)
@given(histories())
def test_what_the_operators_did_is_told_of_every_child(history):
    for before, record in generations(history):
        for c in record['children']:
            m = model_from_json(c['model'])
            parent = before.models[m.parent]
            told = '; '.join(mutations(parent, m, c['trained']))
            for name in MODEL_HPARAMS + DATA_HPARAMS:
                moved = getattr(m.hparams, name) != getattr(parent.hparams, name)
                assert (f'{name} from' in told) == moved
            for name in m.layers:
                if name.startswith('adapter') and name not in parent.layers:
                    assert name in told.split('inserted')[1]
            assert 'head' not in told


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=0, max_size=4),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_parents_are_drawn_with_the_specified_distribution(active, n_seeds, seed):
    root, _ = toy_root_model(Config())

    def model(i, quality):
        return replace(root, id=f'm{i}', task='t', evaluations=(quality,))

    models = [model(i, quality) for i, (quality, _) in enumerate(active)]
    seeds = [replace(root, id=f's{i}') for i in range(n_seeds)]
    scores = {m.id: m.quality for m in models}
    offspring = {m.id: children for m, (_, children) in zip(models, active)}
    exact, reach = Counter(), 1.0
    for m in sorted(models, key=lambda m: -m.quality):
        exact[m.id] += reach * 0.5 ** offspring[m.id]
        reach *= 1 - 0.5 ** offspring[m.id]
    for m in (*models, *seeds):
        exact[m.id] += reach / (len(models) + len(seeds))
    rng, n = np.random.default_rng(seed), 2000
    counts = Counter(sample_parent(rng, models, seeds, scores, offspring).id for _ in range(n))
    for i, p in exact.items():
        assert_frequency(counts[i], min(p, 1.0), n)


@pytest.mark.core
def test_offspring_of_the_running_generation_count_before_it_is_trained():
    config = Config(children_per_task=40, children_per_generation=20, mutation_prob=0.0)
    run = ToyRun(config, [info('a')])
    run.step()
    of_the_root = [m for m in run.state.models.values() if m.task == 'a']
    run.step()
    second = Counter(c['model']['parent'] for c in run.records[2]['children'])
    assert sum(second.values()) == 20
    assert max(second.values()) < 20, 'one model is not the parent of all'
    assert len(second) >= min(4, len(of_the_root))


@settings(max_examples=60, deadline=None)
@given(histories())
def test_a_task_iteration_spends_what_it_may_and_short_trials_are_trained_alone(history):
    run, _ = history
    c, spent = run.config, 0
    for r in run.records:
        if r['kind'] == 'generation':
            n = len(r['children'])
            lengths = [len(child['model']['evaluations']) for child in r['children']]
            spent += sum(lengths) if c.race_segments else n * r['segments']
            assert 1 <= n <= c.children_per_generation
            trial = bool(c.seed_segments and r['seeds_tried'])
            assert r['segments'] == (c.seed_segments if trial else c.training.segments)
            if trial:
                assert n == len(r['seeds_tried'])
        if r['kind'] == 'task_end':
            budget = c.children_per_task * c.training.segments
            assert budget - c.training.segments < spent <= budget
            spent = 0


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(1, 5))
def test_generations_left_is_exact_unless_a_task_ends_without_a_model(config, n):
    run = ToyRun(config, [info(name, name == 'b') for name in 'abcde'[:n]])
    seen = []
    while next_task(run.state, run.config):
        seen.append(generations_left(run.state, config))
        run.step()
    if all(r['kept'] for r in run.records if r['kind'] == 'task_end'):
        assert seen == list(range(len(seen), 0, -1))


shares = st.floats(0, 1)


@given(st.integers(1, 9), st.lists(st.tuples(shares, shares), min_size=1, max_size=9))
def test_the_better_half_of_a_race_goes_on(after, told):
    accuracies, worth = zip(*told)
    survivors = Race(after, worth).survivors(accuracies)
    scores = [a * w for a, w in told]
    lost = set(range(len(told))) - set(survivors)
    assert survivors == sorted(survivors) and len(lost) == len(told) // 2
    for loser in lost:
        assert all((scores[s], loser) >= (scores[loser], s) for s in survivors)


@given(configs, st.integers(0, 400))
def test_what_is_left_is_spent_by_as_many_children_as_it_pays_for(config, left):
    spent = 0
    while n := affordable_children(left - spent, config):
        assert n <= config.children_per_generation
        more = n == config.children_per_generation
        assert more or generation_segments(n + 1, config) > left - spent
        spent += generation_segments(n, config)
    assert spent == segments_to_spend(left, config)
    assert left - spent < config.training.segments


@settings(max_examples=40, deadline=None)
@given(configs)
def test_a_race_spends_what_it_trains_and_the_sum_stays_in_the_budget(config):
    config = replace(config, keep='best', race_segments=1)
    run = ToyRun(config, [info('a'), info('b', private=True)])
    run.finish()
    for task in 'ab':
        for iteration in range(config.task_iterations):
            told = [r for r in run.records if r.get('task') == task and r['kind'] == 'generation']
            told = [r for r in told if r['iteration'] == iteration]
            trained = sum(len(c['model']['evaluations']) for r in told for c in r['children'])
            budget = config.children_per_task * config.training.segments
            assert budget - config.training.segments < trained <= budget


@settings(max_examples=40, deadline=None)
@given(configs)
def test_what_a_race_takes_a_child_to_be_worth_is_what_it_is_charged_for(config):
    config = replace(config, keep='best', race_segments=1)
    run = ToyRun(config, [info('a'), info('b')])
    while next_task(run.state, run.config):
        generation = ask(run.state, run.config, ARCH)
        run.step()
        record = [r for r in run.records[-2:] if r['kind'] == 'generation'][-1]
        for i, child in enumerate(record['children']):
            if generation.race and child['model']['chain']:
                quality = max(child['model']['evaluations'])
                # A stretched position embedding may turn out to be another task's as well.
                expected = pytest.approx(quality * generation.race.worth[i], rel=0.01)
                assert child['score'] == expected


@pytest.fixture
def grown(monkeypatch):
    "Config as a later version may have it: a new field in itself and in each of its sections."

    def later(cls, *more):
        return make_dataclass(cls.__name__, more, bases=(cls,), frozen=True)

    training = later(TrainingSettings, ('rest', float, 0.0))
    hparams = later(HParams, ('decay', float, 0.0))
    sections = ('training', training, training()), ('defaults', hparams, hparams())
    config = later(Config, ('added', int, 0), *sections)
    monkeypatch.setattr('munet_nb.search.config.Config', config)
    monkeypatch.setattr('munet_nb.models.model.HParams', hparams)
    return config


def as_grown(config, cls):
    "The same configuration in the class that has more fields."

    def values(value):
        return {f.name: getattr(value, f.name) for f in fields(value)}

    default = cls()
    training = type(default.training)(**values(config.training))
    defaults = type(default.defaults)(**values(config.defaults))
    return cls(**values(config) | {'training': training, 'defaults': defaults})


def digest(value) -> str:
    return hashlib.sha256(json.dumps(value, default=float).encode()).hexdigest()


@pytest.mark.parametrize('preset', PRESETS)
def test_a_new_field_with_a_neutral_default_changes_no_written_configuration(grown, preset):
    config = PRESETS[preset]
    later = as_grown(config, grown)
    assert config_to_json(later) == config_to_json(config)
    assert digest(config_to_json(later)) == digest(config_to_json(config))
    read = config_from_json(config_to_json(config))
    assert read == later and (read.added, read.training.rest, read.defaults.decay) == (0, 0, 0)


def test_a_new_field_with_a_neutral_default_changes_no_journal(grown):
    config = Config(children_per_task=12, mutation_prob=0.3)
    journals = []
    for c in (config, as_grown(config, grown)):
        run = ToyRun(c, [info(n) for n in 'ab'])
        run.finish()
        journals.append(run.records)
    assert type(run.state.root.hparams) is type(grown().defaults)
    assert digest(journals[0]) == digest(journals[1])


def test_a_new_field_is_written_and_read_back_where_it_is_not_the_default(grown):
    config = with_fields(grown(), added=3, rest=0.5, decay=0.1)
    written = json.loads(json.dumps(config_to_json(config)))
    plain = config_to_json(Config())
    assert written == plain | {
        'added': 3,
        'training': plain['training'] | {'rest': 0.5},
        'defaults': plain['defaults'] | {'decay': 0.1},
    }
    assert config_from_json(written) == config
    assert config_fields()['decay'] == 0
    run = ToyRun(config, [info('a')])
    run.step()
    assert all(c['model']['hparams']['decay'] == 0.1 for c in run.records[1]['children'])
    assert run.state.root.hparams.decay == 0.1


def test_a_section_that_is_not_written_has_its_defaults():
    written = config_to_json(Config(seed=3))
    for name in ('training', 'defaults', 'search'):
        assert config_from_json({k: v for k, v in written.items() if k != name}) == Config(seed=3)


def test_a_new_field_of_what_is_known_of_a_task_changes_no_first_record(grown, monkeypatch):
    images = np.zeros((20, 8, 8, 3), 'uint8')
    tasks = [task_from_arrays('a', (images, np.arange(20) % 2))]
    config = Config(auto_tune=False)
    records = [first_record(load_root('random:Ti3'), tasks, config)]
    later = make_dataclass('TaskInfo', [('added', int, 0)], bases=(TaskInfo,), frozen=True)
    monkeypatch.setattr('munet_nb.runs.start.TaskInfo', later)
    monkeypatch.setattr('munet_nb.search.journal.TaskInfo', later)
    records.append(first_record(load_root('random:Ti3'), tasks, as_grown(config, grown)))
    assert digest(records[0]) == digest(records[1])
    (read,) = replay(records[:1]).tasks.values()
    assert read.added == 0
    assert info_to_json(replace(read, added=2)) == info_to_json(read) | {'added': 2}


@pytest.mark.parametrize('name', COMPARISONS)
def test_a_new_field_with_a_neutral_default_changes_no_setting(grown, name):
    comparison = COMPARISONS[name]
    cls = make_dataclass('Comparison', [('added', int, 0)], bases=(Comparison,), frozen=True)
    values = {f.name: getattr(comparison, f.name) for f in fields(comparison)}
    later = cls(**values | {'config': as_grown(comparison.config, grown)})
    assert setting_digest(later, {}) == setting_digest(comparison, {})
    assert setting_digest(replace(later, added=1), {}) != setting_digest(comparison, {})


def test_a_run_written_before_a_hyperparameter_existed_can_be_drawn_and_told():
    records = RunDir(example_run()).records()
    old = json.loads(json.dumps(records))
    models = [old[0]['root']]
    models += [c['model'] for r in old if r['kind'] == 'generation' for c in r['children']]
    for model in models:
        del model['hparams']['hue']
    for run in (records, old):
        plot_tuned_values(run).draw_without_rendering()
        plot_hyperparameters(run).draw_without_rendering()
    first, generation = old[:1], old[1]
    arch, _ = open_first(records[0])
    assert GenerationReport(generation, replay(first), arch).table().equals(
        GenerationReport(records[1], replay(records[:1]), arch).table()
    )


def test_an_unknown_field_is_refused(grown):
    for part in ({'magic': 1}, {'training': {'magic': 1}}, {'defaults': {'magic': 1}}):
        with pytest.raises(InputError, match='magic'):
            config_from_json(config_to_json(Config()) | part)
