"What can happen to a run's files, and that nothing is lost, or taken for whole, because of it."

import errno
import os
import random
import resource
import shutil
import signal
import threading
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from munet_nb import Config, Evolution, System, load_root, task_from_arrays
from munet_nb.checks import InputError
from munet_nb.cli import main
from munet_nb.pictures.panel import Dashboard
from munet_nb.runs.files import Head, head_file, read_head, sealed
from munet_nb.runs.repair import check_run, repair_run
from munet_nb.runs.rundir import RunDir, RunWriter
from munet_nb.search import records

IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16, 16), 'uint8')
FEW = dict(children_per_task=6, children_per_generation=2, batch_size=16, batches=2, segments=1)


def task(name='noise'):
    return task_from_arrays(name, (IMAGES, np.arange(60) % 2))


def start(path, **changes):
    config = Config.preset('demo', **{**FEW, 'task_iterations': 1, **changes})
    return Evolution.create(path, load_root('random:Ti1'), [task()], config)


def contents(path):
    "Every file of a run but its lock, and but what is only to look at."
    apart = ('.lock', 'costs.jsonl')
    files = (p for p in Path(path).rglob('*') if p.is_file() and p.name not in apart)
    return {str(p.relative_to(path)): p.read_bytes() for p in files}


@pytest.fixture(scope='module')
def half(tmp_path_factory):
    "A run that was closed after two generations of three."
    path = tmp_path_factory.mktemp('runs') / 'half'
    with start(path) as evo:
        evo.step()
        evo.step()
    return path


@pytest.fixture
def run(half, tmp_path):
    return Path(shutil.copytree(half, tmp_path / 'run'))


def resume(path):
    return Evolution.resume(path, tasks=[task()])


@contextmanager
def full_disk(size):
    "No file can grow beyond so many bytes: the write that would is cut, the next one refused."
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)


# A full disk


def test_a_record_that_does_not_fit_on_the_disk_leaves_the_journal_as_it_was(tmp_path):
    writer = RunWriter(tmp_path / 'r')
    writer.create({'kind': 'run'}, [])
    for size in (10, 5000, 9000, 70_000):
        record = {'kind': 'x' * size}
        length = writer.journal.stat().st_size
        line = len(sealed(record, '')[0])
        before = contents(writer.path)
        for fits in (0, 1, line // 2, line - 1):
            with full_disk(length + fits), pytest.raises(InputError) as e:
                writer.append(record)
            assert str(writer.path) in str(e.value) and 'munet resume' in str(e.value)
            assert contents(writer.path) == before
        writer.append(record)  # there is room again
        assert writer.read().records[-1] == record
    writer.close()


def test_a_head_that_does_not_fit_takes_its_record_back(tmp_path, monkeypatch):
    writer = RunWriter(tmp_path / 'r')
    writer.create({'kind': 'run'}, [])
    before = contents(writer.path)

    def full(path, data):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as m:
        m.setattr('munet_nb.runs.files.write_atomic', full)
        with pytest.raises(InputError, match='No space left'):
            writer.append({'kind': 'x'})
    assert contents(writer.path) == before
    writer.append({'kind': 'x'})
    writer.close()


def test_a_search_on_a_full_disk_says_so_and_goes_on_when_there_is_room(run, half):
    with resume(run) as evo:
        generation = evo.ask()
        trained = evo.train(generation)
        before = contents(run)
        with full_disk(1000), pytest.raises(InputError, match='make room'):
            evo.tell(generation, trained)
        assert {k: v for k, v in contents(run).items() if k in before} == before
        evo.tell(generation, trained)
        assert evo.done
    assert check_run(run).whole


def test_pictures_on_a_full_disk_name_their_file_and_leave_the_run_alone(run, capsys):
    with resume(run) as evo:
        evo.run()
    before = contents(run)
    with full_disk(2000):
        assert main(['report', str(run)]) == 2
    assert f"{run / 'architectures.png'}" in capsys.readouterr().err
    assert contents(run) == before


def test_a_run_that_does_not_fit_from_the_start_can_be_begun_in_the_same_place(tmp_path):
    with full_disk(100_000), pytest.raises(InputError, match='nothing was begun|make room'):
        start(tmp_path / 'r')
    start(tmp_path / 'r').close()
    assert check_run(tmp_path / 'r').whole


# Two threads


def test_threads_that_step_one_search_never_write_a_generation_twice(tmp_path):
    evo = start(tmp_path / 'r', children_per_task=12)
    refused = []

    def step_to_the_end():
        while not evo.done:
            try:
                evo.step()
            except InputError as e:
                refused.append(str(e))

    threads = [threading.Thread(target=step_to_the_end) for _ in range(3)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    evo.close()
    assert all('moved on' in text or 'is done' in text for text in refused)
    kinds = [r['kind'] for r in RunDir(tmp_path / 'r').records()]
    assert kinds.count('task_end') == 1
    assert check_run(tmp_path / 'r').whole
    assert resume(tmp_path / 'r').state == evo.state


def test_two_panels_of_one_search_do_not_spoil_it(tmp_path):
    evo = start(tmp_path / 'r', children_per_task=8)
    one, other = Dashboard(evo), Dashboard(evo)  # the cell that shows the panel was run twice
    for _ in range(3):
        one.run('generation')
        other.run('generation')
        one.wait()
        other.wait()
    evo.close()
    assert check_run(tmp_path / 'r').whole
    resume(tmp_path / 'r').close()


def test_a_generation_that_was_told_by_another_is_not_trained_again(tmp_path):
    with start(tmp_path / 'r') as evo:
        generation = evo.ask()
        evo.step()
        with pytest.raises(InputError, match='moved on'):
            evo.train(generation)


def test_an_end_that_failed_is_made_up_for_by_the_same_search(run, monkeypatch):
    "A generation is saved, the test of its task iteration is interrupted: stepping goes on."
    evo = resume(run)
    with monkeypatch.context() as m:
        m.setattr('munet_nb.workers.worker.examine', interrupted)
        with pytest.raises(KeyboardInterrupt):
            evo.step()
    assert not evo.done
    evo.run()
    assert evo.done
    evo.close()
    assert RunDir(run).records()[-1]['kind'] == 'task_end' and check_run(run).whole


def interrupted(*args):
    raise KeyboardInterrupt


# Files that are removed or replaced while a search runs


def test_a_second_writer_that_came_in_while_the_first_read_its_data_stops_it(run):
    first = RunWriter(run)
    first.lock()
    records = first.records()
    (run / '.lock').unlink()
    with resume(run) as second:
        second.step()
    before = contents(run)
    with pytest.raises(InputError, match='.lock was removed'):
        first.go_on(len(records))
    assert contents(run) == before and check_run(run).whole


def test_a_second_writer_that_came_in_without_the_lock_file_stops_the_first(run):
    first = resume(run)
    (run / '.lock').unlink()
    second = resume(run)
    with pytest.raises(InputError, match='.lock was removed'):
        first.step()
    second.step()
    before = contents(run)
    with pytest.raises(InputError, match='.lock was removed'):
        first.step()
    first.close()
    second.close()
    assert contents(run) == before and check_run(run).whole


@pytest.mark.parametrize('how', ['removed', 'replaced', 'written to', 'cut'])
def test_a_journal_that_is_not_the_same_takes_no_record(run, how):
    evo = resume(run)
    journal = run / 'journal.jsonl'
    data = journal.read_bytes()
    if how == 'removed':
        journal.unlink()
    if how == 'replaced':
        shutil.copy(journal, run / 'copy')
        os.replace(run / 'copy', journal)
    if how == 'written to':
        journal.write_bytes(data + b'{"kind": "x"}\n')
    if how == 'cut':
        os.truncate(journal, len(data) - 9)
    before = contents(run)
    with pytest.raises(InputError, match='while this search had it open'):
        evo.step()
    evo.close()
    after = contents(run)
    assert after.items() >= before.items() and 'journal.jsonl' in after or how == 'removed'
    with pytest.raises(InputError, match='holds a run already'):
        start(run)


# A byte that turned, a line that went


def opens(path):
    "Whether a run is taken for whole."
    try:
        RunDir(path).read()
        return check_run(path).whole
    except InputError:
        return False


def test_no_flipped_bit_of_any_file_is_accepted(run):
    rng = random.Random(0)
    assert opens(run)
    for path in [run / 'journal.jsonl', run / 'journal.head', *(run / 'pool').iterdir()]:
        good = path.read_bytes()
        for at in {0, len(good) - 1, *(rng.randrange(len(good)) for _ in range(40))}:
            bad = bytearray(good)
            bad[at] ^= 1 << rng.randrange(8)
            path.write_bytes(bad)
            assert not opens(run), (path.name, at)
        path.write_bytes(good)
    assert opens(run)


CUTS = {
    'its last newline': lambda lines: b''.join(lines)[:-1],
    'its tail': lambda lines: b''.join(lines[:-1]),
    'half of its last line': lambda lines: b''.join(lines)[: -len(lines[-1]) // 2],
    'a line in the middle': lambda lines: b''.join([lines[0], *lines[2:]]),
    'all': lambda lines: b'',
}


@pytest.mark.parametrize('what', CUTS)
def test_a_journal_that_lost_something_is_refused_and_no_layer_is_swept(run, what, capsys):
    journal = run / 'journal.jsonl'
    lines = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(CUTS[what](lines))
    (run / f'pool/{"0" * 64}.safetensors').write_bytes(b'half-written')
    before = contents(run)
    with pytest.raises(InputError):
        resume(run)
    with pytest.raises(InputError):
        System.open(run)
    with pytest.raises(InputError, match='holds a run already'):
        start(run)
    assert main(['check', str(run)]) == 2
    assert contents(run) == before
    assert 'is not whole' in capsys.readouterr().err


def test_a_repeated_first_line_is_refused(run):
    journal = run / 'journal.jsonl'
    first, *rest = journal.read_bytes().splitlines(keepends=True)
    journal.write_bytes(b''.join([first, first, *rest]))
    assert not opens(run)


def test_what_a_kill_leaves_at_the_end_is_forgiven(run, half):
    whole = contents(half)
    journal, *_ = run.glob('journal.jsonl')
    *before, last = journal.read_bytes().splitlines(keepends=True)
    # Between a record and its head:
    head = read_head(journal)
    digest = check_run(run).links[-2]
    head_file(journal).write_bytes(Head(head.records - 1, digest).to_bytes())
    resume(run).close()
    assert contents(run) == whole
    # In the middle of a record:
    head_file(journal).write_bytes(Head(head.records - 1, digest).to_bytes())
    journal.write_bytes(b''.join(before) + last[: len(last) // 2])
    with resume(run) as evo:
        evo.step()
    assert contents(run)['journal.jsonl'] == whole['journal.jsonl']


# Repair


def test_a_check_reads_the_configuration_once_and_not_for_every_record(run, monkeypatch):
    made = []
    schemas = records.record_schemas
    monkeypatch.setattr(records, 'record_schemas', lambda *given: made.append(1) or schemas(*given))
    assert main(['check', str(run)]) == 0
    assert len(made) <= 3


def test_repair_saves_what_is_whole_and_deletes_nothing(run, half, capsys):
    journal = run / 'journal.jsonl'
    data = bytearray(journal.read_bytes())
    data[-200:-196] = b'oops'
    journal.write_bytes(data)
    before = contents(run)
    assert main(['repair', str(run)]) == 0
    assert 'saved 3 of 4 records' in capsys.readouterr().out
    after = contents(run)
    assert after['damaged-1/journal.jsonl'] == bytes(data)
    kept = {name.removeprefix('damaged-1/'): data for name, data in after.items()}
    assert kept.keys() >= before.keys()
    assert all(kept[name] == before[name] for name in before if name.startswith('pool/'))
    with resume(run) as evo:
        evo.step()
    assert contents(run)['journal.jsonl'] == contents(half)['journal.jsonl']


@pytest.mark.parametrize('line', range(6))
def test_repair_turns_a_bit_back_and_loses_nothing(run, line, tmp_path):
    with resume(run) as evo:
        evo.step()
        assert evo.done
    whole = contents(run)
    journal = run / 'journal.jsonl'
    lines = journal.read_bytes().splitlines(keepends=True)
    bad = bytearray(lines[line])
    bad[random.Random(line).randrange(len(bad) - 1)] ^= 1 << line
    journal.write_bytes(b''.join([*lines[:line], bytes(bad), *lines[line + 1 :]]))
    assert not opens(run)
    condition, _ = repair_run(run)
    assert condition.mended == (line + 1,)
    assert contents(run).items() >= whole.items()


def test_repair_of_a_lost_head_loses_nothing(run, half):
    (run / 'journal.head').unlink()
    assert not opens(run)
    condition, _ = repair_run(run)
    assert condition.saved == condition.told == 4
    resume(run).close()
    assert contents(run).items() >= contents(half).items()


def test_repair_goes_back_to_before_a_layer_that_is_lost(run):
    with resume(run) as evo:
        root = {ref.digest for ref in evo.state.root.chain}
        lost = next(d for d in sorted(evo.state.alive) if d not in root)
    (run / 'pool' / f'{lost}.safetensors').unlink()
    assert lost in check_run(run).damaged
    condition, _ = repair_run(run)
    assert 1 <= condition.saved < 4
    with resume(run) as evo:
        evo.run()
    assert check_run(run).whole


# Links


@pytest.mark.parametrize('name', ['pool', 'journal.jsonl', 'journal.head', '.lock'])
def test_a_link_in_the_place_of_a_file_of_the_run_is_refused(run, half, tmp_path, name):
    victim = tmp_path / 'victim'
    shutil.copytree(half, victim)
    (victim / '.lock').touch()
    path = run / name
    shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
    path.symlink_to(victim / name)
    before = contents(victim)
    for use in (resume, System.open, start, check_run, repair_run):
        with pytest.raises(InputError, match='is a link'):
            use(run)
    assert contents(victim) == before


@pytest.mark.parametrize('name', ['journal.jsonl', 'journal.head', '.lock'])
def test_a_pipe_in_the_place_of_a_file_is_refused_not_waited_for(run, name):
    (run / name).unlink(missing_ok=True)
    os.mkfifo(run / name)
    for use in (resume, System.open, start, check_run, repair_run):
        with pytest.raises(InputError, match='is no file'):
            use(run)


def test_a_run_that_is_begun_again_takes_nothing_from_the_one_before(tmp_path):
    start(tmp_path / 'r').close()
    layer = max((tmp_path / 'r/pool').iterdir(), key=lambda p: p.stat().st_size)
    layer.write_bytes(layer.read_bytes()[:-1] + b'x')
    start(tmp_path / 'r').close()
    assert check_run(tmp_path / 'r').whole


def test_what_could_not_be_read_again_is_not_written(tmp_path):
    long = task_from_arrays('long', (IMAGES, np.arange(60) % 2), classes=['a' * 301, 'b'])
    config = Config.preset('demo', **FEW)
    with pytest.raises(InputError, match='classes'):
        Evolution.create(tmp_path / 'r', load_root('random:Ti1'), [long], config)
    assert not (tmp_path / 'r').exists()
    with start(tmp_path / 's') as evo:
        before = contents(tmp_path / 's')
        with pytest.raises(InputError, match='classes'):
            evo.add_task(long)
        odd = replace(task('odd'), source='folder:pets\udcff')
        with pytest.raises(InputError, match='no text that can be written'):
            evo.add_task(odd)
        assert contents(tmp_path / 's') == before


def test_a_linked_layer_is_refused(run, tmp_path):
    with resume(run) as evo:
        digest = min(evo.state.alive)
    layer = run / 'pool' / f'{digest}.safetensors'
    outside = tmp_path / 'outside'
    layer.rename(outside)
    layer.symlink_to(outside)
    with pytest.raises(InputError, match='is a link'):
        resume(run)
    assert outside.exists()
