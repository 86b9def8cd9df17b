"The search's rules, on histories that hypothesis generates, and its statistics, against the specification. Nothing is trained."

from collections import Counter
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ARCH, REFERENCE, ToyRun, info, toy_root_model

from munet_nb.checks import InputError
from munet_nb.models.accounting import accounted_params, params_per_task, users_of_models
from munet_nb.models.hparams import AUTO_TUNE, DATA_HPARAMS
from munet_nb.models.model import model_from_json
from munet_nb.search.ask import ask, generations_left, next_task
from munet_nb.search.config import Config
from munet_nb.search.journal import replay
from munet_nb.search.mutation import Surroundings, mutate_child
from munet_nb.search.selection import sample_parent

configs = st.builds(
    lambda seed, s, mu, per_task, per_generation, iterations, tune, trial: Config(
        seed=seed,
        scale_factor=s,
        mutation_prob=mu,
        children_per_task=per_task,
        children_per_generation=per_generation,
        task_iterations=iterations,
        auto_tune=tune,
        seed_segments=trial,
    ),
    st.integers(0, 2**32 - 1),
    st.sampled_from([1.0, 0.9, 0.3, 0.02]),
    st.sampled_from([0.0, 0.1, 0.5, 1.0]),
    st.integers(1, 9),
    st.integers(1, 4),
    st.integers(1, 3),
    st.booleans(),
    st.integers(0, 4),
)


@st.composite
def histories(draw):
    "A finished search over a few tasks, some private, one perhaps joining late; states before each record included."
    names = 'abcd'[: draw(st.integers(1, 4))]
    private = {n for n in names if draw(st.integers(0, 3)) == 0}
    run = ToyRun(
        draw(configs), [info(n, n in private) for n in names], salt=draw(st.integers(0, 99))
    )
    late = draw(st.integers(0, 12))
    states, pools = [run.state], [run.pool]
    for i in range(1000):
        if i == late:
            run.commit({'kind': 'task_added', 'task': info('late')})
            states.append(run.state)
            pools.append(run.pool)
        before = len(run.records)
        if not run.step():
            if i > late:
                break
            continue
        states += [replay(run.records[:k]) for k in range(before + 1, len(run.records) + 1)]
    return run, states


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
    run, states = history
    for before, record in zip(states, run.records[1:]):
        if record['kind'] != 'generation':
            continue
        task, others = record['task'], {d for m in before.others(record['task']) for d in m.digests}
        for c in record['children']:
            m = model_from_json(c['model'])
            assert {'head'} <= set(c['trained'])
            for ref in m.chain:
                if ref.name in c['trained']:
                    assert ref.trained_by == task and ref.digest not in others | set(
                        before.root.digests
                    )
                elif ref.name != 'posembed':
                    assert ref.digest in before.alive
            if m.parent and before.models[m.parent].task != task:
                assert c['accepted'] == bool(m.chain), (
                    'any score is enough for the child of another task'
                )


@settings(max_examples=40, deadline=None)
@given(histories())
def test_seeds_are_tried_first_newest_first_unmutated_and_private_models_never(history):
    run, states = history
    for before, record in zip(states, run.records[1:]):
        if record['kind'] != 'generation':
            continue
        tried = before.tried if before.task else frozenset()
        order = list(before.models)
        expected = [
            i
            for i in reversed(order)
            if i not in tried
            and (
                i == 'root'
                or (
                    before.kept.get(before.models[i].task) == i
                    and before.models[i].task != record['task']
                    and not before.tasks[before.models[i].task].private
                )
            )
        ]
        parents = [c['model']['parent'] for c in record['children']]
        n = min(len(expected), len(parents))
        assert (
            parents[:n] == expected[:n] == record['seeds_tried'][:n]
            and len(record['seeds_tried']) == n
        )
        for c in record['children'][:n]:
            parent, m = before.models[c['model']['parent']], model_from_json(c['model'])
            if m.chain:
                assert {r.name for r in m.chain if r.name != 'head'} == {
                    r.name for r in parent.chain if r.name != 'head'
                }
            resized = (
                m.hparams.image_size != parent.hparams.image_size
            )  # then an ancestor's position embedding may be this task's own
            assert {'head'} <= set(c['trained']) <= ({'head', 'posembed'} if resized else {'head'})
            assert all(
                getattr(m.hparams, f) == getattr(parent.hparams, f)
                for f in ('lr', 'momentum', 'adapter_dim', 'num_layers')
            )
        data = {tuple(c['model']['hparams'][f] for f in DATA_HPARAMS) for c in record['children']}
        assert len(data) == 1, 'the children of a generation share the data hyperparameters'


@settings(max_examples=40, deadline=None)
@given(histories())
def test_a_child_is_accepted_if_it_beats_its_parent_and_the_best_model_is_kept(history):
    run, states = history

    def value(m, before, task):
        shared = users_of_models(before.others(task))
        charged = sum(r.n_params / len(shared.get(r.digest, frozenset()) | {task}) for r in m.chain)
        return max(m.evaluations) * run.config.scale_factor ** (charged / REFERENCE)

    for before, after, record in zip(states, states[1:], run.records[1:]):
        task = record.get('task')
        if record['kind'] == 'generation':
            for c in record['children']:
                m, parent = model_from_json(c['model']), before.models[c['model']['parent']]
                if not m.chain:
                    assert not c['accepted'] and c['score'] == 0, 'it diverged'
                else:
                    assert c['score'] == pytest.approx(value(m, before, task))
                    assert c['accepted'] == (
                        parent.task != task or value(m, before, task) > value(parent, before, task)
                    )
                assert (m.id in after.active) == c['accepted']
        if record['kind'] == 'task_end' and before.active:
            best = max(
                before.active, key=lambda i: value(before.models[i], before, task)
            )  # the older one of equals
            assert record['kept'] == best == after.kept[task] and record['best']['id'] == best


@settings(max_examples=40, deadline=None)
@given(histories())
def test_data_hyperparameters_start_from_the_best_model_and_stay_while_seeds_are_tried(history):
    run, states = history
    for before, record in zip(states, run.records[1:]):
        if record['kind'] != 'generation':
            continue
        task, tried = record['task'], before.tried if before.task else frozenset()
        active = [
            before.models[i]
            for i in (
                before.active if before.task else [before.kept[task]] if task in before.kept else []
            )
        ]
        shared = users_of_models(before.others(task))

        def value(m):
            return max(m.evaluations) * run.config.scale_factor ** (
                accounted_params(m, shared) / REFERENCE
            )

        start = max(active, key=value).hparams if active else run.config.defaults
        now = model_from_json(record['children'][0]['model']).hparams
        for f in DATA_HPARAMS:
            a, b, space = getattr(start, f), getattr(now, f), run.config.space(ARCH).get(f)
            if not space or any(m.id not in tried for m in before.seeds(task)):
                assert a == b
            else:
                assert abs(space.index(a) - space.index(b)) <= 1


@settings(max_examples=40, deadline=None)
@given(histories())
def test_bills_add_up_to_the_distinct_parameters(history):
    run, _ = history
    kept = run.state.others(None)
    if kept:
        assert sum(accounted_params(m, users_of_models(kept)) for m in kept) == pytest.approx(
            params_per_task(kept) * len(kept)
        )


@settings(max_examples=15, deadline=None)
@given(configs)
def test_every_task_gets_its_share_of_children(config):
    config = replace(config, seed_segments=0)
    run = ToyRun(config, [info(n) for n in 'abc'])
    while run.step():
        pass
    per_task = Counter(
        r['task'] for r in run.records if r['kind'] == 'generation' for _ in r['children']
    )
    assert per_task == dict.fromkeys('abc', config.children_per_task * config.task_iterations)
    ends = [r['task'] for r in run.records if r['kind'] == 'task_end']
    assert ends == list('abc') * config.task_iterations, (
        'the whole list is passed over, again and again'
    )


def test_test_accuracy_is_never_used_to_select():
    rng = np.random.default_rng(0)
    histories = []
    for test in (lambda r: 0.0, lambda r: float(rng.random())):
        run = ToyRun(
            Config(children_per_task=12, scale_factor=0.7), [info(n) for n in 'abc'], test=test
        )
        while run.step():
            pass
        histories.append([{k: v for k, v in r.items() if k != 'test'} for r in run.records])
    assert histories[0] == histories[1]


def test_a_late_task_catches_up_and_leaves_the_others_alone():
    run = ToyRun(Config(children_per_task=6, children_per_generation=3), [info(n) for n in 'ab'])
    while run.step():
        pass
    before = {t: run.state.models[i] for t, i in run.state.kept.items()}
    run.commit({'kind': 'task_added', 'task': info('c')})
    while run.step():
        pass
    assert [r['task'] for r in run.records if r['kind'] == 'task_end'] == [
        'a',
        'b',
        'a',
        'b',
        'c',
        'c',
    ]
    assert {t: run.state.models[run.state.kept[t]] for t in 'ab'} == before
    with pytest.raises(InputError, match='done'):
        ask(run.state, run.config, ARCH)
    assert next_task(run.state, run.config) is None


N = 4000


def children_of_root(mu=0.1, tune=True):
    config = Config(mutation_prob=mu, auto_tune=tune)
    root, _ = toy_root_model(config)
    around = Surroundings(ARCH, 10, frozenset(root.digests), frozenset())
    root = replace(
        root,
        hparams=replace(root.hparams, num_layers=2),
        chain=tuple(r for r in root.chain if r.name != 'block_2'),
    )
    deep, _ = toy_root_model(config)
    around = replace(around, alive=frozenset(deep.digests))
    rng = np.random.default_rng(0)
    return root, [
        mutate_child(
            rng, f't:0.0.{i}', 't', [root, deep], root.hparams, config.space(ARCH), mu, around
        )
        for i in range(N)
    ]


def assert_frequency(count, p, n=N):
    assert abs(count - n * p) < 5 * (n * p * (1 - p)) ** 0.5 + 1e-9, (
        f'{count / n:.4f} instead of {p}'
    )


def test_each_mutation_happens_with_probability_mu():
    root, children = children_of_root()
    for name in ('embedding', 'cls', 'posembed', 'block_0'):
        assert_frequency(sum(name in c.changes for c in children), 0.1)
    for name in ('norm', 'head'):
        assert all(name in c.changes for c in children)
    assert_frequency(sum(any(l.name == 'adapter_0' for l in c.layers) for c in children), 0.1)
    assert_frequency(
        sum(any(l.name == 'adapter_1' for l in c.layers) for c in children), 0.1 * 0.95
    )  # gone with its block in 1 of 20
    for field, space in {**AUTO_TUNE, 'num_layers': (1, 2, 3)}.items():
        values = Counter(getattr(c.hparams, field) for c in children)
        if field in DATA_HPARAMS:
            assert set(values) == {getattr(root.hparams, field)}, (
                'data hyperparameters belong to the generation'
            )
        else:
            i = space.index(getattr(root.hparams, field))
            for j, v in enumerate(space):
                p = {i - 1: 0.05, i + 1: 0.05}.get(j, 0)
                if j == i:
                    p = 0.9 + 0.05 * ((i == 0) + (i == len(space) - 1))  # a step past the end stays
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
    for f in DATA_HPARAMS:
        i, space = AUTO_TUNE[f].index(getattr(start, f)), AUTO_TUNE[f]
        assert_frequency(
            moved[f], 0.1 if 0 < i < len(space) - 1 else 0.05, n
        )  # at an end, half of the steps stay


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
    assert_frequency(sum('block_0' in c.changes and c.hparams.lr != 0.01 for c in children), 0.01)


def test_without_auto_tuning_only_the_depth_moves():
    root, children = children_of_root(tune=False)
    assert {replace(c.hparams, num_layers=2) for c in children} == {root.hparams}
    assert_frequency(sum(c.hparams.num_layers == 3 for c in children), 0.05)
    back = [l for c in children for l in c.layers if l.name == 'block_2']
    assert back and {l.digest for l in back} == {
        toy_root_model(Config())[0].layers['block_2'].digest
    }, 'taken back from the closest ancestor that has it'


def test_mu_of_zero_and_one():
    for mu, expected in (
        (0.0, {'norm', 'head'}),
        (1.0, {'embedding', 'cls', 'posembed', 'block_0', 'adapter_0', 'norm', 'head'}),
    ):
        _, children = children_of_root(mu)
        for c in children[:50]:
            assert expected <= set(c.changes) and (mu or set(c.changes) == expected)


@settings(max_examples=20, deadline=None)
@given(
    st.lists(st.tuples(st.floats(0, 1), st.integers(0, 4)), min_size=0, max_size=4),
    st.integers(1, 3),
    st.integers(0, 2**32 - 1),
)
def test_parents_are_drawn_with_the_specified_distribution(active, n_seeds, seed):
    root, _ = toy_root_model(Config())
    models = [
        replace(root, id=f'm{i}', task='t', evaluations=(q,)) for i, (q, _) in enumerate(active)
    ]
    seeds = [replace(root, id=f's{i}') for i in range(n_seeds)]
    scores, offspring = (
        {m.id: m.quality for m in models},
        {m.id: c for m, (_, c) in zip(models, active)},
    )
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


def test_offspring_of_the_running_generation_count_before_it_is_trained():
    run = ToyRun(
        Config(children_per_task=40, children_per_generation=20, mutation_prob=0.0), [info('a')]
    )
    run.step()
    root_child = [m for m in run.state.models.values() if m.task == 'a']
    run.step()
    second = Counter(c['model']['parent'] for c in run.records[2]['children'])
    assert (
        sum(second.values()) == 20
        and max(second.values()) < 20
        and len(second) >= min(4, len(root_child))
    ), 'one model is not the parent of all'


@settings(max_examples=60, deadline=None)
@given(histories())
def test_a_task_iteration_spends_what_it_may_and_seeds_are_tried_alone_if_they_are_tried_shortly(
    history,
):
    run, _ = history
    c, spent = run.config, 0
    for r in run.records:
        if r['kind'] == 'generation':
            n = len(r['children'])
            spent += n * r['segments']
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
    while (
        run.state.task
        or min(run.state.visits.get(t, 0) for t in run.state.tasks) < config.task_iterations
    ):
        seen.append(generations_left(run.state, config))
        run.step()
    if all(r['kept'] for r in run.records if r['kind'] == 'task_end'):
        assert seen == list(range(len(seen), 0, -1))
