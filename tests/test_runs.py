"""Real runs on real images, tiny ones.

The same journal twice, killed and resumed, stopped by Ctrl-C, joined by a new task.
"""

import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from tqdm.auto import tqdm

from munet_nb import Config, Evolution, InputError, System
from munet_nb import load_benchmark, load_root, task_from_arrays
from munet_nb.runs.advance import Watch
from munet_nb.runs.files import StoredPool
from munet_nb.runs.repair import check_run
from munet_nb.runs.rundir import RunDir
from munet_nb.words import heard_by

CONFIG = dict(
    children_per_task=4,
    children_per_generation=2,
    batch_size=32,
    batches=4,
    segments=2,
    task_iterations=1,
    mutation_prob=0.3,
    seed_segments=0,
    common_trunks=False,
    probed_seeds=0,
    spread_rates=False,
    acceptance_errors=0.0,
)


def small_tasks():
    "Two tasks of real images, small enough to train in seconds."

    def first(split, n):
        images, labels = zip(*(split[i] for i in range(n)))
        return list(images), list(labels)

    out = []
    for t in load_benchmark('demo')[:2]:
        arrays = first(t.train, 300), first(t.validation, 100), first(t.test, 100)
        out.append(task_from_arrays(t.name, *arrays, classes=t.classes))
    return out


def start(path, seed=0):
    config = Config.preset('demo', seed=seed, **CONFIG)
    return Evolution.create(path, load_root('random:Ti1'), small_tasks(), config)


def contents(path):
    files = [*Path(path, 'pool').iterdir(), *Path(path, 'answers').glob('*/*')]
    layers = {p.parent.name + p.name: p.read_bytes() for p in sorted(files)}
    return {**layers, 'journal': Path(path, 'journal.jsonl').read_bytes()}


def lines(path):
    "Complete records of a run."
    return Path(path, 'journal.jsonl').read_bytes().count(b'\n')


@pytest.fixture(scope='module')
def whole(tmp_path_factory):
    "An uninterrupted run."
    path = tmp_path_factory.mktemp('runs') / 'whole'
    with start(path) as evo:
        evo.run()
    return path


def test_a_state_is_never_seen_without_its_layers(tmp_path, monkeypatch):
    with start(tmp_path / 'run') as evo:
        keep, before, seen = StoredPool.keep, (evo.state, evo.pool), []

        def looks(pool, digests):
            seen.append((evo.state, evo.pool))
            return keep(pool, digests)

        monkeypatch.setattr(StoredPool, 'keep', looks)
        evo.change(scale_factor=0.5)
        assert seen == [before] and evo.state is not before[0]


@pytest.mark.core
def test_the_same_seed_gives_the_same_run_and_another_seed_another(whole, tmp_path):
    with start(tmp_path / 'again') as evo:
        compiled, heard = evo.programs.compilations.total(), []
        with heard_by(heard.append):
            while not evo.done:
                evo.step()
        assert 'testing mnist' in heard and heard[-1] == ''
        now = evo.programs.compilations.total()
        assert now == compiled > 0, 'programs of the first run serve the second'
    assert contents(tmp_path / 'again') == contents(whole)
    with start(tmp_path / 'other', seed=1) as evo:
        evo.step()
    first, other = (
        (path / 'journal.jsonl').read_text().splitlines()[1] for path in (whole, tmp_path / 'other')
    )
    assert first != other


def test_resumed_after_every_generation_it_is_the_same_run(whole, tmp_path):
    start(tmp_path / 'r').close()
    for _ in range(20):
        with Evolution.resume(tmp_path / 'r', tasks=small_tasks()) as evo:
            if evo.done:
                break
            evo.step()
    assert contents(tmp_path / 'r') == contents(whole)


def test_what_a_task_cost_is_told_beside_the_journal_and_stops_nothing(whole, tmp_path, capsys):
    table = System.open(whole).table()
    assert (table.examples > 0).all() and (table.seconds > 0).all()
    assert table.compiling.between(0, 1).all() and 'examples' in repr(table)
    tasks = small_tasks()
    told = RunDir(whole).told_beside().images
    assert {t.name: (told[t.name].validation, told[t.name].test) for t in tasks} == {
        t.name: (len(t.validation), len(t.test)) for t in tasks
    }
    run, victim = tmp_path / 'r', tmp_path / 'victim'
    shutil.copytree(whole, run)
    costs = run / 'costs.jsonl'
    costs.write_bytes(b'\xff{"record": 1}\n')
    assert 'seconds' not in System.open(run).table()
    costs.unlink()
    victim.write_bytes(b'')
    costs.symlink_to(victim)
    with Evolution.resume(run, tasks) as evo:
        assert not evo.told_beside().costs
        evo.run()
        assert 'done: 100%' in capsys.readouterr().err  # a bar that is full
        assert Watch(evo).share == 1.0
        evo.change(scale_factor=0.5)
        costs.unlink()
        costs.mkdir()
        evo.change(scale_factor=0.6)
    assert check_run(run).whole and not victim.read_bytes()


SCRIPT = '''
import sys; sys.path.insert(0, {tests!r})
from {module} import start
evo = start({path!r})
print('ready', flush=True)
evo.run()
'''


def launch(path, module='test_runs'):
    "A process that runs the search which `start` of a module of tests begins."
    tests = str(Path(__file__).parent)
    code = SCRIPT.format(tests=tests, module=module, path=str(path))
    pipes = dict(stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    p = subprocess.Popen([sys.executable, '-c', code], **pipes)
    assert p.stdout.readline().strip() == 'ready', p.stderr.read()
    return p


def wait_for_lines(path, n, process):
    deadline = time.monotonic() + 120
    while lines(path) < n:
        assert time.monotonic() < deadline and process.poll() is None, process.stderr.read()
        time.sleep(0.02)


def test_a_system_tells_what_it_cost_until_its_moment_and_stays_when_its_run_is_gone(tmp_path):
    with start(tmp_path / 'run') as evo:
        for _ in range(2):
            evo.step()
        early = System.open(evo.path)
        told = early.table()
        while not evo.done:
            evo.step()
        assert early.table().equals(told), 'costs of a later moment beside accuracies of this one'
    late = System.open(tmp_path / 'run')
    assert 'examples' in late.table()
    shutil.rmtree(tmp_path / 'run')
    assert 'examples' not in late.table() and repr(late)


def test_tasks_may_come_from_a_generator(tmp_path):
    tasks = small_tasks()
    config = Config.preset('demo', **CONFIG)
    with Evolution.create(tmp_path / 'run', load_root('random:Ti1'), iter(tasks[:1]), config) as evo:
        evo.extend(iter(tasks[1:]))
        assert list(evo.tasks) == [t.name for t in tasks]
        evo.step()


def test_killed_hard_during_a_generation_then_resumed_it_is_the_same_run(whole, tmp_path):
    p = launch(tmp_path / 'k')
    # One generation is in the journal, the next one is being trained.
    wait_for_lines(tmp_path / 'k', 2, p)
    p.kill()
    p.wait()
    assert 2 <= lines(tmp_path / 'k') < 7
    with Evolution.resume(tmp_path / 'k', tasks=small_tasks()) as evo:
        evo.run()
    assert contents(tmp_path / 'k') == contents(whole)


class Killed(Exception):
    pass


def die(*args, **kwargs):
    raise Killed


def test_dying_before_the_end_of_a_task_iteration_or_in_a_commit(whole, tmp_path, monkeypatch):
    """The generation is in the journal, the end of its task iteration is not.

    Then, a record is half written.
    """
    from munet_nb.runs import rundir

    path = tmp_path / 'd'
    evo = start(path)
    with monkeypatch.context() as m:
        m.setattr('munet_nb.workers.worker.examine', die)
        evo.step()
        with pytest.raises(Killed):
            evo.step()
    evo.close()
    with Evolution.resume(path, tasks=small_tasks()) as evo:

        def full_disk(file):
            if evo.state.task == 'digits':
                die()

        with monkeypatch.context() as m:
            m.setattr(rundir.os, 'fsync', full_disk)
            with pytest.raises(Killed):
                while True:
                    evo.step()
        evo.run()  # the same object goes on: what failed has not happened
    assert contents(path) == contents(whole)


def test_dying_before_the_very_last_record(whole, tmp_path, monkeypatch):
    evo = start(tmp_path / 'l')
    for _ in range(3):
        evo.step()
    with monkeypatch.context() as m:
        m.setattr('munet_nb.workers.worker.examine', die)
        with pytest.raises(Killed):
            evo.step()
    evo.close()
    with Evolution.resume(tmp_path / 'l', tasks=small_tasks()) as evo:
        assert evo.done and len(evo.run().models) == 2
    assert contents(tmp_path / 'l') == contents(whole)


class NoBar(tqdm):
    "As tqdm is with TQDM_DISABLE=1."

    def __init__(self, *args, **kwargs):
        super().__init__(*args, **{**kwargs, 'disable': True})


def test_a_search_runs_where_bars_are_switched_off(tmp_path, monkeypatch):
    monkeypatch.setattr('munet_nb.runs.advance.tqdm', NoBar)
    with start(tmp_path / 'run') as evo:
        evo.run()
        assert evo.done


def test_only_what_a_generation_made_can_be_told_of_it(tmp_path):
    with start(tmp_path / 'run') as evo:
        first = evo.ask()
        children = evo.train(first)
        for some in (children[:1], children[::-1], [*children, children[0]], [], ['x', 'y']):
            with pytest.raises(InputError, match=f'must be what train made of {first.title}'):
                evo.tell(first, some)
        evo.tell(first, children)
        second = evo.ask()
        with pytest.raises(InputError, match=f'must be what train made of {second.title}'):
            evo.tell(second, children)
        assert len(evo.records) == 2


def test_a_closed_run_takes_no_more_records(tmp_path):
    evo = start(tmp_path / 'c')
    evo.close()
    before = contents(tmp_path / 'c')
    with pytest.raises(InputError, match='was closed'):
        evo.step()
    assert contents(tmp_path / 'c') == before


@pytest.mark.core
def test_torn_last_record_and_left_over_files_do_not_matter(whole, tmp_path):
    with start(tmp_path / 't') as evo:
        evo.step()
    with open(tmp_path / 't/journal.jsonl', 'ab') as f:
        f.write(b'{"kind": "generation", "chil')
    (tmp_path / f"t/pool/.{'1' * 64}.safetensors.0123abcd").write_bytes(b'half')
    (tmp_path / f"t/pool/{'0' * 64}.safetensors").write_bytes(b'unused')
    with Evolution.resume(tmp_path / 't', tasks=small_tasks()) as evo:
        evo.run()
    assert contents(tmp_path / 't') == contents(whole)


def test_ctrl_c_saves_the_generation_and_stops(whole, tmp_path):
    p = launch(tmp_path / 'c')
    wait_for_lines(tmp_path / 'c', 2, p)  # a generation: by then it listens to Ctrl-C
    p.send_signal(signal.SIGINT)
    out, err = p.communicate(timeout=120)
    assert p.returncode == 0, err
    again = f"Evolution.resume({str(tmp_path / 'c')!r}, tasks=[...]).run(), with mnist, digits as before"
    assert 'Stopped; everything is saved' in out and again in out
    assert 'Traceback' not in err
    assert 2 <= lines(tmp_path / 'c') < 7
    with Evolution.resume(tmp_path / 'c', tasks=small_tasks()) as evo:
        evo.run()
    assert contents(tmp_path / 'c') == contents(whole)


def test_a_run_can_have_one_writer_and_many_readers(whole, tmp_path):
    with start(tmp_path / 'w') as evo:
        evo.step()
        with pytest.raises(InputError, match='in use by another process'):
            Evolution.resume(tmp_path / 'w', tasks=small_tasks())
        System.open(tmp_path / 'w')


@pytest.mark.core
def test_refused_resumes_change_nothing(whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'r')
    path = tmp_path / 'r'
    victim = next((path / 'pool').iterdir())
    good = victim.read_bytes()
    for data, message in ((good[:-7], 'truncated'), (good[:-1] + b'\x55', 'altered')):
        victim.write_bytes(data)
        before = contents(path)
        with pytest.raises(InputError, match=message) as e:
            Evolution.resume(path, tasks=small_tasks())
        assert victim.name in str(e.value)
        assert contents(path) == before
        victim.write_bytes(good)
    other = small_tasks()
    black = np.zeros((128, 28, 28), 'uint8')
    other[0] = task_from_arrays('mnist', (black, [0, 1] * 64), classes=other[0].classes)
    for tasks, message in (
        (other, 'not those'),
        (small_tasks()[:1], 'arrays in memory'),
        (small_tasks() * 2, 'named'),
    ):
        with pytest.raises(InputError, match=message):
            Evolution.resume(path, tasks=tasks)
    assert contents(path) == contents(whole)
    with pytest.raises(InputError, match='holds a run already'):
        start(path, seed=5)
    assert contents(path) == contents(whole)


def test_a_new_task_joins_and_what_finished_tasks_use_stays_bit_identical(whole, tmp_path):
    shutil.copytree(whole, tmp_path / 'j')
    rng = np.random.default_rng(0)
    shapes = [(*rng.integers(8, 40, 2), channels) for channels in rng.choice([1, 3], 80)]
    colorful = [rng.integers(0, 256, shape, 'uint8') for shape in shapes]
    color = task_from_arrays('color', (colorful, list(rng.integers(0, 3, 80))))

    def snapshot(system):
        return {
            task: (
                system.models[task].digests,
                system.predict(task, images).tobytes(),
                system.evaluate(task),
            )
            for task in ('mnist', 'digits')
        }

    with Evolution.resume(tmp_path / 'j', tasks=small_tasks()) as evo:
        assert evo.done
        images = [evo.tasks['mnist'].test[i][0] for i in range(30)]
        before = snapshot(evo.system)
        evo.add_task(color)
        assert not evo.done
        while not evo.done:
            evo.step()
        assert snapshot(evo.system) == before and 'color' in evo.system.models
        assert evo.system.predict('color', [color.test[0][0]]).shape == (1, 3)
    journal = (tmp_path / 'j/journal.jsonl').read_bytes()
    assert journal.startswith((whole / 'journal.jsonl').read_bytes())


def test_saving_costs_only_what_is_new(tmp_path):
    "A step writes the files of new layers, appends to the journal, and touches nothing else."
    path = tmp_path / 's'

    def pool():
        stats = {p.name: p.stat() for p in (path / 'pool').iterdir()}
        return {name: (stat.st_ino, stat.st_mtime_ns) for name, stat in stats.items()}

    with start(path) as evo:
        evo.step()
        before = pool()
        journal = (path / 'journal.jsonl').read_bytes()
        evo.step()  # the task iteration ends: what no kept model needs goes
        after = pool()
        both = before.keys() & after.keys()
        assert both and all(before[name] == after[name] for name in both)
        assert (path / 'journal.jsonl').read_bytes().startswith(journal)
        assert {name.split('.')[0] for name in after} == evo.state.alive


def test_a_change_of_the_working_directory_does_not_move_the_run(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with start('relative') as evo:
        (tmp_path / 'elsewhere').mkdir()
        monkeypatch.chdir(tmp_path / 'elsewhere')
        evo.step()
    assert lines(tmp_path / 'relative') == 2
    assert not list((tmp_path / 'elsewhere').iterdir())


def test_a_change_on_the_way_is_in_the_journal_and_outlives_a_restart(tmp_path):
    with start(tmp_path / 'c') as evo:
        evo.step()
        evo.change(scale_factor=0.5, compute_factor=0.7, mutation_prob=0.9)
        before = evo.ask()
        for bad in (dict(lr=0.1), dict(scale_factor=2.0), dict(compute_factor=0.0), dict(seed=3)):
            with pytest.raises(InputError):
                evo.change(**bad)
    with Evolution.resume(tmp_path / 'c', tasks=small_tasks()) as evo:
        config = evo.config
        factors = (config.scale_factor, config.compute_factor, config.mutation_prob)
        assert factors == (0.5, 0.7, 0.9)
        assert evo.ask() == before
        evo.run()
    assert [r['kind'] for r in evo.records].count('config_changed') == 1
    assert System.open(tmp_path / 'c').models.keys() == evo.state.kept.keys()
