"""Several tasks worked on at the same time: the same journal whoever is faster, resumed anywhere.

A task of a round sees the start of the round and its own records, nothing else.
"""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_runs import contents, small_tasks
from test_workers import CONFIG
from toy import ARCH, ToyRun, info, pretend

from munet_nb import Config, Evolution, InputError, load_root
from munet_nb.runs.ahead import path_of
from munet_nb.search.ask import ask, generations_left, next_task, round_due, segments_left
from munet_nb.search.config import config_to_json
from munet_nb.search.journal import apply_record, replay
from munet_nb.search.tell import end_of_iteration, tell, with_tests
from munet_nb.tasks.splits import LazySplit
from munet_nb.workers.crews import Dispatcher, Event
from munet_nb.workers.jobs import ChildrenJob, EvaluateJob
from munet_nb.workers.worker import Worker

TASKS = ('a', 'b', 'c', 'd')


def config_of(concurrent_tasks, **values):
    values = dict(children_per_task=6, children_per_generation=2, mutation_prob=0.3) | values
    return Config(concurrent_tasks=concurrent_tasks, task_iterations=2, **values)


def next_records(state, config, salt=0):
    "What is written next: one record, or none if the search is done."
    if record := round_due(state, config):
        return record
    view = state.view(state.due)
    if view.task and segments_left(view, config) < config.training.segments:
        return with_tests(end_of_iteration(view, config, ARCH), lambda id: 0.5)
    if next_task(view, config) is None:
        return None
    generation = ask(view, config, ARCH)
    return tell(view, config, ARCH, generation, pretend(generation, salt))


def to_the_end(records, config):
    "A journal, gone on with."
    records = list(records)
    state = replay(records)
    while record := next_records(state, config):
        records.append(record)
        state = apply_record(state, record)
    return records


def begun(config, tasks=TASKS):
    (first,) = ToyRun(config, [info(t, private=t == 'c') for t in tasks]).records
    return [{**first, 'config': config_to_json(config)}]


def kinds(records):
    return [(r['kind'], r.get('task')) for r in records[1:]]


def test_one_task_at_a_time_writes_no_round_and_the_same_journal():
    records = to_the_end(begun(config_of(1)), config_of(1))
    assert all(r['kind'] != 'round' for r in records)
    alone = [r for r in records if r.get('task') == 'a'][:4]  # nobody was there before it
    together = to_the_end(begun(config_of(3)), config_of(3))
    assert [r for r in together if r.get('task') == 'a'][:4] == alone


def test_the_order_of_the_records_is_by_generation_and_then_by_task():
    config = config_of(3, children_per_task=4)
    records = to_the_end(begun(config), config)
    one = [('generation', t) for t in 'abc'] * 2 + [('task_end', t) for t in 'abc']
    assert kinds(records)[:10] == [('round', None), *one]
    assert kinds(records)[10:12] == [('round', None), ('generation', 'd')]
    assert [r['tasks'] for r in records if r['kind'] == 'round'] == [
        ['a', 'b', 'c'],
        ['d', 'a', 'b'],
        ['c', 'd'],
    ]


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 4), st.sampled_from(['best', 'front']), st.booleans(), st.data())
def test_resumed_after_any_record_it_is_the_same_journal(k, keep, scan, data):
    config = config_of(k, keep=keep, seed_scan=scan)
    whole = to_the_end(begun(config), config)
    cut = data.draw(st.integers(1, len(whole)))
    assert to_the_end(whole[:cut], config) == whole


@settings(max_examples=8, deadline=None)
@given(st.integers(2, 4), st.sampled_from(['best', 'front']), st.integers(0, 9))
def test_what_a_task_does_ahead_is_what_it_does_at_its_turn(k, keep, salt):
    "Told by its own records alone, a task asks for what the journal will ask it for."
    config = config_of(k, keep=keep)
    records = begun(config)
    state, asked, ahead = replay(records), {}, {}
    while record := next_records(state, config, salt):
        if record['kind'] == 'round':
            ahead = {}
        state = apply_record(state, record)
        if record['kind'] == 'round':
            for task in record['tasks']:
                view, ahead[task] = state.view(task), []
                while segments_left(view, config) >= config.training.segments:
                    generation = ask(view, config, ARCH)
                    told = tell(view, config, ARCH, generation, pretend(generation, salt))
                    ahead[task].append(told)
                    view = apply_record(view, told)
                ahead[task].append(end_of_iteration(view, config, ARCH))
            asked = {task: [] for task in ahead}
        else:
            plain = {k: v for k, v in record.items() if k != 'test'}
            if 'front' in plain:
                plain['front'] = [{'id': m['id']} for m in plain['front']]
            asked[record['task']].append(plain)
            if not state.round:
                assert asked == ahead


@settings(max_examples=5, deadline=None)
@given(st.integers(2, 4))
def test_a_view_does_not_change_when_others_go_on_and_the_pool_has_what_it_needs(k):
    config = config_of(k, keep='front')
    state = replay(begun(config))
    while record := next_records(state, config):
        before = state
        state = apply_record(state, record)
        for task in before.round.going if before.round and state.round else ():
            if task != record.get('task'):
                one, other = before.view(task), state.view(task)
                assert one.kept == other.kept and one.alive == other.alive
                assert one.seeds(task, True) == other.seeds(task, True)
                assert (one.active, one.tried, one.spent) == (other.active, other.tried, other.spent)
        for task in state.round.going if state.round else ():
            assert state.view(task).alive <= state.alive


@pytest.mark.parametrize('k', [1, 2, 3])
def test_what_is_left_is_counted_right_at_every_record(k):
    config = config_of(k)
    records = to_the_end(begun(config), config)
    state = replay(records[:1])
    for number, record in enumerate(records[1:], 2):
        state = apply_record(state, record)
        left = sum(r['kind'] == 'generation' for r in records[number:])
        assert generations_left(state, config) == left


def test_a_record_out_of_turn_is_refused_and_another_configuration_in_a_round():
    config = config_of(2)
    records = to_the_end(begun(config), config)
    assert kinds(records)[1:3] == [('generation', 'a'), ('generation', 'b')]
    state = replay(records[:2])
    with pytest.raises(InputError, match="task = 'b' where 'a' was due"):
        apply_record(state, records[3])
    with pytest.raises(InputError, match="that of 'a' is going on"):
        apply_record(state, {'kind': 'extended', 'tasks': [], 'config': config_to_json(Config())})


# With real training


class Lazily:
    "A crew that does its jobs in this process, the newest first: a task overtakes the others."

    def __init__(self, workers=3):
        self.given = []
        self.events = [Event('joined', f'worker {i}', 'here') for i in range(workers)]

    def begin(self, worker, piece, pool, tasks):
        self.given.append((worker, piece, pool, tasks))

    def poll(self, seconds):
        events, self.events = self.events, []
        if self.given:
            worker, piece, pool, tasks = self.given.pop()
            done = Worker(tasks).do(piece.job, pool)
            events.append(Event('done', worker, done))
        return events

    def close(self):
        pass


def search(path, executor=None, **values):
    tasks = small_tasks()
    config = Config.preset('demo', seed=0, **{**CONFIG, 'concurrent_tasks': 2, **values})
    return Evolution.create(path, load_root('random:Ti1'), tasks, config, executor)


def test_workers_that_overtake_each_other_make_the_same_journal(tmp_path):
    with search(tmp_path / 'alone') as evo:
        evo.run()
    executor = Dispatcher(Lazily())
    with search(tmp_path / 'ahead', executor) as evo:
        evo.run()
    executor.close()
    assert contents(tmp_path / 'ahead') == contents(tmp_path / 'alone')
    assert [r['tasks'] for r in evo.records if r['kind'] == 'round'] == [['mnist', 'digits']]


def test_what_was_trained_ahead_is_held_until_its_turn_has_come(tmp_path):
    executor = Dispatcher(Lazily())
    with search(tmp_path / 'run', executor, children_per_task=18) as evo:
        most = 0
        while not evo.done:
            evo.step()
            walks = evo._ahead._walks
            most = max(most, sum(len(walk.layers) for walk in walks.values()))
        accepted = [r for r in evo.records if r['kind'] == 'generation']
        told = {d for r in accepted for c in r['children'] for d in digests(c) if c['accepted']}
        assert 0 < most < len(told) / 2
        assert not any(walk.layers for walk in walks.values())
    executor.close()


def digests(child):
    "Of the layers that a child has trained."
    own = set(child['trained'])
    return {ref['digest'] for ref in child['model']['chain'] if ref['name'] in own}


@pytest.mark.parametrize('when', ['before it trains', 'while it trains'])
def test_after_a_change_nothing_is_begun_that_is_never_told(tmp_path, when):
    executor = Dispatcher(Lazily())
    jobs, submit = [], executor.submit

    def watched(job, *given):
        jobs.append(job)
        return submit(job, *given)

    executor.submit = watched
    with search(tmp_path / 'run', executor, children_per_task=18, mutation_prob=0.3) as evo:
        while not evo.state.round:
            evo.step()
        generation, follow = evo.ask(), evo._follow

        def then_change(doing):
            follow(doing)
            evo._follow = follow
            evo.change(scale_factor=0.3)

        if when == 'before it trains':
            evo.change(scale_factor=0.3)
        else:
            evo._follow = then_change
        evo.tell(generation, evo.train(generation))
        while not evo.done:
            evo.step()
    executor.close()
    after = next(i for i, r in enumerate(evo.records) if r['kind'] == 'config_changed')
    told = [r for r in evo.records[after:] if r['kind'] == 'generation']
    turns = [(r['task'], r['iteration'], r['generation']) for r in told]
    own = [j for j in jobs if isinstance(j, ChildrenJob) and j.config == evo.config]
    begun = [(j.task, j.iteration, j.number) for j in own]
    assert sorted(begun) == sorted(turns[when == 'while it trains' :])


def test_a_round_that_is_stopped_anywhere_goes_on_to_the_same_journal(tmp_path):
    with search(tmp_path / 'whole') as evo:
        evo.run()
    search(tmp_path / 'run').close()
    done = False
    while not done:
        with Evolution.resume(tmp_path / 'run', tasks=small_tasks()) as evo:
            if not evo.done:
                evo.step()
            done = evo.done
    assert contents(tmp_path / 'run') == contents(tmp_path / 'whole')


def test_the_path_of_a_task_ends_with_the_tests_of_what_it_keeps():
    config = config_of(2, children_per_task=4)
    records = begun(config, 'ab')
    state = apply_record(replay(records), round_due(replay(records), config))

    class Named:
        name = 'a'
        train = LazySplit(10, None, 'none')

    path = path_of(state.view('a'), ARCH, Named, layers := {})
    job, jobs = path.send(None), []
    while True:
        jobs.append(type(job))
        made = pretend(job) if isinstance(job, ChildrenJob) else 0.5
        try:
            job = path.send(made)
        except StopIteration:
            break
    assert jobs == [ChildrenJob, ChildrenJob, EvaluateJob] and layers
