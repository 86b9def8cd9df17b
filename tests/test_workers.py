"""A search that others train: processes of this machine, or a cluster. The same bits as alone.

Whoever is lost in the middle, and if the driver itself is; guides/06_cluster has a search in which
nobody is.
"""

import os
import subprocess
import sys
import time
from contextlib import contextmanager
from dataclasses import replace
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from unittest.mock import MagicMock

import pytest
from test_runs import contents, lines, small_tasks

from munet_nb import Config, Evolution, InputError, load_root
from munet_nb.tasks.splits import LazySplit
from munet_nb.workers import cluster as on_ray
from munet_nb.workers.cluster import Greeting, RayCrew, ray_workers, versions
from munet_nb.workers.crews import Dispatcher
from munet_nb.workers.jobs import ChildrenJob
from munet_nb.workers.processes import ProcessCrew, processes

CONFIG = dict(  # every kind of job: groups, a trunk, probes, children, tests
    children_per_task=9,
    children_per_generation=3,
    batch_size=32,
    batches=2,
    segments=2,
    task_iterations=1,
    mutation_prob=0.3,
    group_generations=2,
    trial_segments=1,
    trunk_segments=2,
    seed_segments=0,
)


def search(path, executor=None, **values):
    config = Config.preset('demo', seed=0, **CONFIG | values)
    return Evolution.create(path, load_root('random:Ti1'), small_tasks(), config, executor)


@pytest.fixture(scope='module')
def alone(tmp_path_factory):
    "What this process makes of the search."
    path = tmp_path_factory.mktemp('alone') / 'run'
    with search(path) as evo:
        evo.run()
    return contents(path)


@contextmanager
def at_the_first_children(crew, act):
    "Do something, once, when a worker of a crew has just begun to train children."
    begin, done = crew.begin, []

    def begin_and_act(worker, piece, pool, tasks):
        begin(worker, piece, pool, tasks)
        if isinstance(piece.job, ChildrenJob) and not done:
            done.append(True)
            act(worker)

    with pytest.MonkeyPatch.context() as m:
        m.setattr(crew, 'begin', begin_and_act)
        yield
    assert done


# Processes


@cache
def two_processes() -> Dispatcher:
    return processes(2)


@pytest.fixture(scope='module', autouse=True)
def let_go():
    yield
    if two_processes.cache_info().currsize:
        two_processes().close()


def test_a_process_that_is_killed_in_a_generation_is_replaced(alone, tmp_path):
    crew = two_processes().crew

    def kill(worker):
        crew._workers[worker].process.kill()

    with (
        pytest.warns(UserWarning, match='is lost: it ended with status -9'),
        at_the_first_children(crew, kill),
        search(tmp_path / 'run', two_processes()) as evo,
    ):
        evo.run()
    assert contents(tmp_path / 'run') == alone


@pytest.mark.parametrize('race', [0, 1])
def test_a_child_that_no_worker_can_train_is_recorded_and_the_others_are_trained(tmp_path, race):
    "A race is given up for it: its children are trained one by one, to the end."
    executor = two_processes()
    begin = ProcessCrew.begin

    def poisoned(self, worker, piece, pool, tasks):
        begin(self, worker, piece, pool, tasks)
        if any(plan.id.endswith('.1') for plan in getattr(piece.job, 'children', ())):
            self._workers[worker].process.kill()

    executor.crew._restarts += 6
    with (
        pytest.MonkeyPatch.context() as m,
        pytest.warns(UserWarning, match='is lost'),
        search(tmp_path / 'run', executor, race_segments=race) as evo,
    ):
        m.setattr(ProcessCrew, 'begin', poisoned)
        while not evo.state.generation:
            report = evo.step()
    children = evo.records[-1]['children']
    assert [bool(c.get('failed')) for c in children] == [False, True, False]
    assert [len(c['model']['evaluations']) for c in children] == [2, 2, 2]
    assert not children[1]['accepted'] and children[0]['accepted']
    assert 'status' in children[1]['failed']
    assert '1 could not be trained' in report.line()


def test_progress_that_raises_stops_the_training_and_not_the_workers(alone, tmp_path):
    class Enough(Exception):
        pass

    def stop(*told):
        raise Enough

    with search(tmp_path / 'run', two_processes()) as evo:
        while hasattr(evo.ask(), 'trial'):
            evo.step()
        with pytest.raises(Enough):
            evo.train(evo.ask(), stop)
        evo.run()
    assert contents(tmp_path / 'run') == alone


def test_children_that_race_are_the_same_wherever_they_do(tmp_path):
    "A race is run in one place, as who goes on depends on all of them, and pays for more children."
    config = Config.preset('demo', **CONFIG | dict(common_trunks=False, race_segments=1))
    for name, executor in (('here', None), ('there', two_processes())):
        given = tmp_path / name, load_root('random:Ti1'), small_tasks()[:1], config, executor
        with Evolution.create(*given) as evo:
            evo.run()
            told = [r for r in evo.records if r['kind'] == 'generation']
    assert contents(tmp_path / 'here') == contents(tmp_path / 'there')
    lengths = [[len(c['model']['evaluations']) for c in r['children']] for r in told]
    assert lengths[0] in ([2, 2, 1], [2, 1, 2], [1, 2, 2])
    # Of 18 segments one is for a probe. Without a race they pay for eight children.
    assert (sum(map(len, lengths)), sum(map(sum, lengths))) == (10, 17)


def test_a_mistake_in_the_data_is_raised_and_the_workers_stay(tmp_path):
    task = small_tasks()[0]
    own = LazySplit(200, lambda i: task.train[i], 'own')  # what cannot be sent
    config = Config.preset('demo', **{**CONFIG, 'common_trunks': False})
    given = tmp_path / 'run', load_root('random:Ti1'), [replace(task, train=own)], config
    with Evolution.create(*given, two_processes()) as evo:
        with pytest.raises(InputError, match="task 'mnist': its images cannot be read"):
            evo.step()
        with search(tmp_path / 'other', two_processes()) as other:
            other.step()


# Ray


@pytest.fixture(scope='module')
def cluster():
    "A head without cores, and two machines of one core each."
    ray = pytest.importorskip('ray')
    from ray.cluster_utils import Cluster

    memory = {'object_store_memory': 80 * 2**20}
    made = Cluster(initialize_head=True, head_node_args={'num_cpus': 0, **memory})
    for _ in range(2):
        made.add_node(num_cpus=1, **memory)
    ray.init(address=made.address, log_to_driver=False, logging_level='error')
    yield made
    ray.shutdown()
    made.shutdown()


DRIVER = """
import sys
sys.path.insert(0, sys.argv[1])
import ray
from test_workers import search
from munet_nb.workers.cluster import ray_workers
ray.init(address=sys.argv[3], log_to_driver=False)
search(sys.argv[2], ray_workers()).run()
"""


@pytest.mark.long
def test_a_driver_that_is_killed_is_resumed_without_the_cluster(alone, cluster, tmp_path):
    path = tmp_path / 'run'
    told = [str(Path(__file__).parent), str(path), cluster.address]
    driver = subprocess.Popen([sys.executable, '-c', DRIVER, *told], env=os.environ)
    while not (path / 'journal.jsonl').exists() or lines(path) < 5:
        assert driver.poll() is None
        time.sleep(0.02)
    driver.kill()
    driver.wait()
    with Evolution.resume(path, tasks=small_tasks()) as evo:
        evo.run()
    assert contents(path) == alone


@pytest.fixture(scope='module')
def actors(cluster):
    executor = ray_workers()
    yield executor
    executor.close()


@pytest.mark.long
def test_waiting_for_work_costs_the_driver_nothing(actors):
    while not actors.board.hands:
        time.sleep(0.1)
    used = time.process_time()
    time.sleep(2)
    assert time.process_time() - used < 0.6  # it span before, at the cost of what it trained


@pytest.mark.long
def test_an_actor_that_is_killed_in_a_generation_is_replaced(alone, actors, tmp_path):
    import ray

    def kill(worker):
        ray.kill(actors.crew._actors[worker].handle)

    with (
        pytest.warns(UserWarning, match='is lost'),
        at_the_first_children(actors.crew, kill),
        search(tmp_path / 'run', actors) as evo,
    ):
        evo.run()
    assert contents(tmp_path / 'run') == alone


@pytest.mark.long
def test_a_machine_that_is_removed_in_a_generation_is_done_without(
    alone, cluster, actors, tmp_path
):
    def remove(worker):
        cluster.remove_node(node, allow_graceful=False)

    with search(tmp_path / 'run', actors) as evo:
        before = actors.crew.store.sent
        while actors.workers < 2:
            time.sleep(0.1)
        node = cluster.add_node(num_cpus=1, object_store_memory=80 * 2**20)
        while actors.workers < 3:
            time.sleep(0.1)
        with at_the_first_children(actors.crew, remove):
            evo.run()
        layers = [evo.pool[d] for d in evo.state.alive]
    assert contents(tmp_path / 'run') == alone
    total = sum(a.nbytes for layer in layers for a in layer.flat.values())
    # A layer travels once: not again where a search before had the same ones.
    assert 0 < actors.crew.store.sent and actors.crew.store.sent - before < 3 * total


def test_no_cluster_is_a_mistake_of_the_users(tmp_path):
    code = 'from munet_nb.cli import main; raise SystemExit(main())'
    wish = ['evolve', '--benchmark', 'demo', '--run', str(tmp_path / 'run'), '--ray', '127.0.0.1:1']
    told = subprocess.run([sys.executable, '-c', code, *wish], capture_output=True, text=True)
    assert told.returncode == 2
    assert told.stderr.startswith("munet: ray = '127.0.0.1:1': no cluster answers there")
    assert not (tmp_path / 'run').exists()


class ActorGone(Exception):
    "What Ray raises for an actor that is gone."


class Unavailable(ActorGone):
    "What Ray raises for an actor that cannot be reached."


@pytest.fixture
def pretended_ray(monkeypatch):
    "In place of Ray: actors that say hello at once, on machines that are told."
    ray = MagicMock()
    ray.exceptions.RayTaskError = ConnectionError
    ray.exceptions.RayError = ActorGone
    ray.exceptions.ActorUnavailableError = Unavailable
    ray.wait.side_effect = lambda results, **_: (results, [])
    ray.get.return_value = Greeting('node 1', 'its name', versions(), 'cpu')
    ray.nodes.return_value = []
    monkeypatch.setattr(on_ray, 'connect', lambda address: False)
    monkeypatch.setattr(on_ray, '_import_ray', lambda: ray)
    monkeypatch.setattr(on_ray, '_LOOK_EVERY', 0.0)
    return ray


def test_a_cluster_whose_machines_come_later_is_waited_for(pretended_ray):
    with pytest.warns(UserWarning, match='no machine of the cluster has cores yet; waiting'):
        crew = RayCrew()
    assert crew.poll(0) == []
    pretended_ray.nodes.return_value = [{'Alive': True, 'Resources': {'CPU': 2.0}}]
    (event,) = crew.poll(0)
    assert (event.kind, event.told) == ('joined', 'node 1')


def test_a_worker_that_leaves_its_accelerator_alone_is_refused(pretended_ray):
    pretended_ray.nodes.return_value = [{'Alive': True, 'Resources': {'CPU': 2.0, 'GPU': 1.0}}]
    with pytest.raises(InputError, match='node 1 has an accelerator, and JAX computes on the CPU'):
        RayCrew().poll(0)
    pretended_ray.get.return_value = Greeting('node 1', 'its name', versions(), 'gpu')
    assert [event.kind for event in RayCrew().poll(0)] == ['joined']


def test_a_worker_that_goes_with_its_machine_says_nothing_against_what_it_did(pretended_ray):
    node = {'NodeID': 'its name', 'Alive': True, 'Resources': {'CPU': 2.0}}
    pretended_ray.nodes.return_value = [node]
    died, gone = 'The actor died', 'its machine is gone (The actor died)'
    for alive, told in ((True, ('lost', died)), (False, ('removed', gone))):
        pretended_ray.nodes.return_value = [node]
        crew = RayCrew()
        assert [event.kind for event in crew.poll(0)] == ['joined']
        crew.begin('worker 1', MagicMock(job=MagicMock(digests=(), tasks=())), {}, {})
        pretended_ray.nodes.return_value = [{**node, 'Alive': alive}]
        with pytest.MonkeyPatch.context() as m:
            m.setattr(pretended_ray.get, 'side_effect', ActorGone(died))
            assert [(e.kind, e.told) for e in crew.poll(0)] == [told]


def test_a_worker_that_owes_an_answer_for_a_minute_is_replaced_and_a_slow_driver_loses_none(
    pretended_ray, monkeypatch
):
    pretended_ray.nodes.return_value = [
        {'NodeID': 'its name', 'Alive': True, 'Resources': {'CPU': 2.0}}
    ]
    now = [0.0]
    clock = SimpleNamespace(monotonic=lambda: now[0], sleep=time.sleep)
    monkeypatch.setattr(on_ray, 'time', clock)  # its own alone: others wait by the real one
    crew = RayCrew()
    assert [event.kind for event in crew.poll(0)] == ['joined']
    pretended_ray.wait.side_effect = lambda results, **_: ([], results)
    now[0] = 1000.0  # the driver slept
    assert crew.poll(0) == []
    now[0] += 59.0
    assert crew.poll(0) == []
    now[0] += 2.0
    (event,) = crew.poll(0)
    assert (event.kind, event.told) == ('removed', 'no answer for 60 s')
    crew.poll(0)
    assert list(crew._actors) == ['worker 2']


def test_a_worker_that_cannot_compute_is_told_with_its_reason(pretended_ray):
    pretended_ray.nodes.return_value = [{'Alive': True, 'Resources': {'CPU': 2.0}}]
    lost = ConnectionError()
    lost.cause = InputError("JAX_PLATFORMS = 'cuda': there is no device to compute on")
    pretended_ray.get.side_effect = lost
    with pytest.raises(InputError, match="worker 1 cannot compute: JAX_PLATFORMS = 'cuda'"):
        RayCrew().poll(0)


def test_a_cluster_that_does_not_take_this_process_is_told_and_none_is_begun(
    monkeypatch, tmp_path
):
    class Refused(Exception):
        "What Ray raises for a token that is missing."

    ray = MagicMock()
    ray.is_initialized.return_value = False
    ray.exceptions.RayError = Refused
    monkeypatch.setattr(on_ray, '_import_ray', lambda: ray)
    monkeypatch.setenv('RAY_TMPDIR', str(tmp_path))
    monkeypatch.delenv('RAY_ADDRESS', raising=False)
    ray.init.side_effect = ConnectionError('Failed to connect')
    with pytest.raises(InputError, match=r'no cluster takes this process \(Failed to connect\)'):
        on_ray.connect('auto')
    ray.init.side_effect = Refused('no token\nwas found')
    with pytest.raises(InputError, match="ray = 'auto': no token was found"):
        on_ray.connect('auto')
    assert [call.args for call in ray.init.call_args_list] == [(None,), (None,)]
    ray.init.side_effect = None
    (tmp_path / 'ray').mkdir()
    (tmp_path / 'ray/ray_current_cluster').write_text('127.0.0.1:1')  # one that died
    assert on_ray.connect('auto') and ray.init.call_args.args == ('local',)
