"""Torture: what can happen to a run, at random and over and over, counted by what came of it.

    python tests/torture.py --minutes 30 [--seed N]

Every trial ends in one of these ways:

    fine        nothing was harmed, and it was noticed that nothing was
    clear       refused with an error that says what is wrong, and nothing was changed
    silent      damage was taken for whole
    traceback   an error that is no InputError
    lost        something was lost that had been saved
"""

import argparse
import errno
import io
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import traceback
import warnings
from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import contextmanager
from copy import deepcopy
from dataclasses import dataclass
from pathlib import Path
from unittest.mock import patch

import numpy as np
import pandas as pd
from altered import altered
from PIL import Image

from munet_nb.checks import InputError
from munet_nb.models.pool import Layer
from munet_nb.runs.files import Head, head_file
from munet_nb.runs.repair import check_run, repair_run
from munet_nb.runs.rundir import RunDir, RunWriter, write_run
from munet_nb.search.journal import open_records

HARM = ('silent', 'traceback', 'lost')
OUTCOMES = ('fine', 'clear', *HARM)
IMAGES = np.random.default_rng(0).integers(0, 256, (60, 16, 16), 'uint8')
FEW = dict(
    children_per_task=8,
    children_per_generation=2,
    batch_size=16,
    batches=2,
    segments=1,
    inherit_momentum=True,
)


# A search to torture


def tasks():
    from munet_nb import task_from_arrays

    labels = np.arange(60)
    return [task_from_arrays(f'noise{n}', (IMAGES, labels % n)) for n in (2, 3)]


def start(path):
    from munet_nb import Config, Evolution, load_root

    config = Config.preset('demo', **FEW, task_iterations=1, keep='front')
    return Evolution.create(path, load_root('random:Ti1'), tasks(), config)


def resume(path):
    from munet_nb import Evolution

    return Evolution.resume(path, tasks=tasks())


@dataclass(frozen=True)
class Recorded:
    "A finished search: its directory, and what was written one after the other."

    path: Path
    appended: Sequence[tuple[dict, list[Layer]]]


def record(path: Path) -> Recorded:
    appended, append = [], RunWriter.append

    def note(self, record, layers=()):
        layers = list(layers)
        append(self, record, layers)
        appended.append((json.loads(json.dumps(record)), layers))

    with patch.object(RunWriter, 'append', note), start(path) as evo:
        while not evo.done:
            evo.step()
    return Recorded(path, appended)


def contents(path) -> dict[str, bytes]:
    "Every file of a run but its lock, and but what can be made again or is only to look at."
    top = Path(path)
    apart = ('.lock', 'costs.jsonl')
    files = (p for p in top.rglob('*') if p.is_file() and p.name not in apart)
    told = (p for p in files if p.relative_to(top).parts[0] not in ('routing', 'answers'))
    return {str(p.relative_to(top)): p.read_bytes() for p in told}


def write_all(path: Path, appended: Sequence[tuple[dict, list[Layer]]]):
    "Write a search as an Evolution would, from where the directory stands."
    writer = RunWriter(path)
    if writer.is_run():
        writer.lock()
        writer.go_on(len(writer.records()))
    else:
        (first, layers), *_ = appended
        writer.create(first, layers)
    done = writer.records()
    assert done == [record for record, _ in appended[: len(done)]], 'records were lost or changed'
    writer.sweep(open_records(done)[0].alive)
    for record, layers in appended[len(done) :]:
        writer.append(record, layers)
        done.append(record)
        if record['kind'] == 'task_end':
            writer.sweep(open_records(done)[0].alive)
    writer.close()


# Kinds of torture: each takes a generator of chance, what was recorded, and an empty folder


def killed_while_writing(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "SIGKILL at a random moment while records are written, a few times, then to the end."
    path = folder / 'run'
    for _ in range(rng.randint(1, 4)):
        with warnings.catch_warnings():
            warnings.simplefilter('ignore')  # JAX warns of forks; the child does not use it
            pid = os.fork()
        if not pid:
            try:
                write_all(path, recorded.appended)
            finally:
                os._exit(0)
        time.sleep(rng.uniform(0, 0.2))
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
    write_all(path, recorded.appended)
    return 'fine' if contents(path) == contents(recorded.path) else 'lost'


def killed_while_searching(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "SIGKILL at a random moment of a real search, then on to the end."
    path = folder / 'run'
    code = (
        f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        f'import torture; evo = torture.start({str(path)!r})\n'
        'print("ready", flush=True)\n'
        'while not evo.done: evo.step()\n'
    )
    p = subprocess.Popen([sys.executable, '-c', code], stdout=subprocess.PIPE)
    p.stdout.readline()
    time.sleep(rng.uniform(0, 3))
    p.kill()
    p.communicate()
    with resume(path) as evo:
        while not evo.done:
            evo.step()
    return 'fine' if contents(path) == contents(recorded.path) else 'lost'


def flipped_bits(rng: random.Random, recorded: Recorded, folder: Path) -> Counter:
    "One bit of one byte of one file, two hundred times; of costs nothing is decided."
    path = Path(shutil.copytree(recorded.path, folder / 'run'))
    files = [p for p in path.rglob('*') if p.is_file() and p.stat().st_size]
    files = [p for p in files if p.name != 'costs.jsonl']
    found = Counter()
    for _ in range(200):
        file = rng.choice(files)
        good = file.read_bytes()
        at = rng.randrange(len(good))
        bad = bytearray(good)
        bad[at] ^= 1 << rng.randrange(8)
        file.write_bytes(bad)
        run = RunDir(path)
        try:
            state = open_records(run.records())[0]
            if file.parent == run.pool:
                run.load([file.stem])
            if file.parent.parent in (run.routing, run.answers):
                run.noted(file.parent.parent, file.parent.name)
            assert state
            found['silent'] += 1
        except InputError:
            found['clear'] += 1
        file.write_bytes(good)
    return found


def cut_or_moved_lines(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "A journal cut at any byte, or with lines that were left out, repeated or exchanged."
    path = Path(shutil.copytree(recorded.path, folder / 'run'))
    journal = path / 'journal.jsonl'
    data = journal.read_bytes()
    lines = data.splitlines(keepends=True)
    i, j = rng.randrange(len(lines)), rng.randrange(len(lines))
    how = rng.choice(['cut', 'left out', 'repeated', 'exchanged', 'no head', 'older head'])
    if how == 'cut':
        journal.write_bytes(data[: rng.randrange(len(data))])
    if how == 'left out':
        journal.write_bytes(b''.join(lines[:i] + lines[i + 1 :]))
    if how == 'repeated':
        journal.write_bytes(b''.join(lines[:i] + [lines[j]] + lines[i:]))
    if how == 'exchanged':
        lines[i], lines[j] = lines[j], lines[i]
        journal.write_bytes(b''.join(lines))
    if how == 'no head':
        (path / 'journal.head').unlink()
    if how == 'older head':  # a kill leaves one that is a record behind, which is no loss
        links = check_run(path).links
        head = Head(len(links) - 1, links[-2])
        head_file(journal).write_bytes(head.to_bytes())
        resume(path).close()
        return 'fine' if contents(path) == contents(recorded.path) else 'lost'
    before = contents(path)
    same = before == contents(recorded.path)
    try:
        resume(path).close()
    except InputError:
        if contents(path) != before:
            return 'lost'
        repaired = repair_and_look(path, before)
        return repaired if same is False else 'lost'
    return 'fine' if same and contents(path) == before else 'silent'


def repair_and_look(path: Path, before: dict[str, bytes]) -> str:
    "Repair a run, if anything can be saved: all that was there must still be there."
    try:
        repair_run(path)
    except InputError:
        return 'clear' if contents(path) == before else 'lost'
    after = set(contents(path).values())
    if not check_run(path).whole or not all(data in after for data in before.values()):
        return 'lost'
    return 'clear'


@contextmanager
def failing(number: int, error: int):
    "The sync or move number `number` fails."
    left = [number]
    real = os.fsync, os.replace

    def due():
        left[0] -= 1
        return left[0] == 0

    def fail():
        raise OSError(error, os.strerror(error))

    def fsync(handle):
        return fail() if due() else real[0](handle)

    def replace(a, b):
        return fail() if due() else real[1](a, b)

    with patch.object(os, 'fsync', fsync), patch.object(os, 'replace', replace):
        yield


def refused_writes(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "A sync or a move fails at a random place; what was saved stays, and it goes on."
    path = folder / 'run'
    error = rng.choice([errno.ENOSPC, errno.EDQUOT, errno.EIO])
    outcome = 'fine'
    try:
        with failing(rng.randrange(1, 60), error):
            write_all(path, recorded.appended)
    except InputError:
        outcome = 'clear'
    write_all(path, recorded.appended)
    return outcome if contents(path) == contents(recorded.path) else 'lost'


def full_disk(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "No file can grow beyond a random size: real short writes."
    import resource

    path = folder / 'run'
    sizes = [p.stat().st_size for p in recorded.path.rglob('*') if p.is_file()]
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    outcome = 'fine'
    try:
        resource.setrlimit(resource.RLIMIT_FSIZE, (rng.randrange(max(sizes)), before[1]))
        write_all(path, recorded.appended)
    except InputError:
        outcome = 'clear'
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        signal.signal(signal.SIGXFSZ, handler)
    write_all(path, recorded.appended)
    return outcome if contents(path) == contents(recorded.path) else 'lost'


def two_writers(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "Two write one run, the second after the lock file was removed; both believe to be alone."
    path = folder / 'run'
    at = rng.randrange(1, len(recorded.appended) - 1)
    (first, layers), *rest = recorded.appended
    one = RunWriter(path)
    one.create(first, layers)
    for record, layers in rest[: at - 1]:
        one.append(record, layers)
    if rng.random() < 0.5:
        other = RunWriter(path)
        try:
            other.lock()
        except InputError:
            one.close()
            return 'clear'
        return 'silent'
    (path / '.lock').unlink()
    write_all(path, recorded.appended)
    try:
        one.append(*recorded.appended[at])
    except InputError:
        one.close()
        return 'clear' if contents(path) == contents(recorded.path) else 'lost'
    return 'silent'


def threads(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "Three threads step one search."
    path = folder / 'run'
    evo, errors = start(path), []

    deadline = time.monotonic() + 120

    def step():
        while not evo.done and time.monotonic() < deadline:
            time.sleep(rng.uniform(0, 0.05))
            try:
                evo.step()
            except InputError:
                pass
            except Exception as e:
                errors.append(e)
                return

    running = [threading.Thread(target=step) for _ in range(3)]
    for t in running:
        t.start()
    for t in running:
        t.join()
    evo.close()
    if errors:
        raise errors[0]
    return 'fine' if contents(path) == contents(recorded.path) else 'lost'


def outcome_of(act: Callable) -> str:
    "What comes of reading a damaged thing; what is False is taken for whole though it is none."
    try:
        return 'silent' if act() is False else 'fine'
    except InputError:
        return 'clear'
    except Exception:
        traceback.print_exc(limit=-3)
        return 'traceback'


def show(path: Path):
    from munet_nb import System

    system = System.open(path)
    system._repr_html_()
    repr(system)


def is_image(array: np.ndarray) -> bool:
    shape_is_right = array.ndim == 2 or array.ndim == 3 and array.shape[2] in (1, 3)
    return array.dtype == np.uint8 and shape_is_right


def altered_records(rng: random.Random, recorded: Recorded, folder: Path) -> Counter:
    "Records changed by somebody who seals them again, as a stranger can."
    original = RunDir(recorded.path).records()
    found = Counter()
    for n in range(30):
        path = folder / f'run{n}'
        shutil.copytree(recorded.path / 'pool', path / 'pool', copy_function=os.link)
        try:
            write_run(path, altered(original, rng.choice))
        except ValueError:  # what JSON or UTF-8 do not have
            continue
        found[outcome_of(lambda path=path: show(path))] += 1
        shutil.rmtree(path)
    return found


def damage(rng: random.Random, data: bytes) -> bytes:
    "Bytes that were flipped, cut off, put in or overwritten."
    bad = bytearray(data)
    how = rng.choice(['flip', 'cut', 'insert', 'overwrite'])
    at = rng.randrange(len(bad))
    if how == 'flip':
        for _ in range(rng.choice([1, 1, 5, 50])):
            bad[rng.randrange(len(bad))] ^= 1 << rng.randrange(8)
    if how == 'cut':
        del bad[at:]
    if how == 'insert':
        bad[at:at] = rng.randbytes(rng.choice([1, 4, 100]))
    if how == 'overwrite':
        bad[at : at + 8] = rng.choice([b'\xff' * 8, b'\0' * 8, rng.randbytes(8)])
    return bytes(bad)


FORMATS = (
    ('PNG', 'L'), ('PNG', 'RGBA'), ('PNG', 'P'), ('PNG', 'I;16'), ('JPEG', 'RGB'), ('JPEG', 'L'),
    ('GIF', 'P'), ('BMP', 'RGB'), ('TIFF', 'RGB'), ('TIFF', 'F'), ('WEBP', 'RGBA'), ('PPM', 'L'),
    ('TGA', 'RGB'), ('ICO', 'RGBA'),
)  # fmt: skip


def bad_images(rng: random.Random, recorded: Recorded, folder: Path) -> Counter:
    "Images of many formats, damaged."
    from munet_nb.tasks.images import open_image

    found = Counter()
    for _ in range(60):
        kind, mode = rng.choice(FORMATS)
        pixels = np.frombuffer(rng.randbytes(20 * 16), 'uint8').reshape(20, 16)
        image = Image.fromarray(pixels)
        image = image.convert('I').convert(mode) if mode == 'I;16' else image.convert(mode)
        buffer = io.BytesIO()
        image.save(buffer, kind)
        path = folder / f'image.{kind.lower()}'
        path.write_bytes(damage(rng, buffer.getvalue()))
        found[outcome_of(lambda path=path: is_image(open_image(path)))] += 1
    return found


def bad_checkpoints(rng: random.Random, recorded: Recorded, folder: Path) -> Counter:
    "A model in Hugging Face's format, its files damaged."
    from munet_nb import System, load_root

    whole = recorded.path.parent / 'exported'
    if not whole.exists():
        System.open(recorded.path).export('noise2', whole)
    found = Counter()
    for n in range(20):
        path = Path(shutil.copytree(whole, folder / f'model{n}'))
        file = rng.choice([p for p in path.iterdir() if p.is_file()])
        data = file.read_bytes()
        header = 8 + int.from_bytes(data[:8], 'little')
        head = file.suffix == '.safetensors' and rng.random() < 0.8
        cut = header if head else len(data)
        file.write_bytes(damage(rng, data[:cut]) + data[cut:])
        found[outcome_of(lambda path=path: load_root(str(path)))] += 1
    return found


def torn_compilation_cache(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "A search finds the compiled programs of an earlier one, damaged."
    code = (
        f'import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n'
        'import torture\n'
        'evo = torture.start(sys.argv[1])\n'
        'while not evo.done: evo.step()\n'
    )
    cache = recorded.path.parent / 'cache'
    settings = {
        **os.environ,
        'JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS': '0',
        'JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES': '-1',
    }

    def search(where, path):
        command = [sys.executable, '-c', code, str(path)]
        env = {**settings, 'JAX_COMPILATION_CACHE_DIR': str(where)}
        return subprocess.run(command, env=env, capture_output=True, text=True)

    if not cache.exists():
        search(cache, folder / 'first')
    torn = Path(shutil.copytree(cache, folder / 'cache'))
    for file in torn.iterdir():
        if file.is_file() and file.stat().st_size > 100 and rng.random() < 0.5:
            data = file.read_bytes()
            file.write_bytes(data[: rng.randrange(len(data))])
    done = search(torn, folder / 'run')
    if done.returncode:
        raise RuntimeError(done.stderr[-2000:])
    return 'fine' if contents(folder / 'run') == contents(recorded.path) else 'lost'


def tasks_join(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "A finished system goes on, with tasks and other numbers: what it had must stay the same bits."
    from munet_nb import task_from_arrays

    path = Path(shutil.copytree(recorded.path, folder / 'run'))
    with resume(path) as evo:
        before = {t: evo.system.predict(t, IMAGES[:9]).tobytes() for t in evo.state.kept}
        layers = {name: data for name, data in contents(path).items() if name.startswith('pool/')}
        for n in range(rng.randint(1, 2)):
            task = task_from_arrays(f'more{n}', (IMAGES, np.arange(60) % rng.randint(2, 5)))
            evo.extend([task], scale_factor=rng.choice((1.0, 0.9)), lr=rng.choice((0.1, 0.2)))
            while not evo.done:
                evo.step()
        after = {t: evo.system.predict(t, IMAGES[:9]).tobytes() for t in before}
    return 'fine' if after == before and contents(path).items() >= layers.items() else 'lost'


SAYINGS = ('\x1b[2J', '<script>alert(1)</script>', '$\\frac{', '\u202e', '`', '|', '&lt;', '%s{}')


def hostile_names(rng: random.Random, recorded: Recorded, folder: Path) -> str:
    "Names that mean something to a terminal, a browser or a table."
    from munet_nb import System

    records = deepcopy(RunDir(recorded.path).records())
    name = ''.join(rng.choice(SAYINGS) for _ in range(2))
    records[0]['tasks'][0]['classes'][0] = name
    path = Path(shutil.copytree(recorded.path, folder / 'run'))
    for file in path.glob('journal.*'):
        file.unlink()
    write_run(path, records)
    try:
        system = System.open(path)
    except InputError as e:
        return 'silent' if '\x1b' in str(e) or '\u202e' in str(e) else 'clear'
    shown = repr(system) + system._repr_html_()
    return 'silent' if '<script>' in shown or '\x1b' in shown else 'fine'


Torture = Callable[[random.Random, Recorded, Path], str | Counter]
KINDS: tuple[Torture, ...] = (
    killed_while_writing, killed_while_searching, flipped_bits, cut_or_moved_lines, refused_writes,
    full_disk, two_writers, threads, altered_records, bad_images, bad_checkpoints,
    torn_compilation_cache, tasks_join, hostile_names,
)  # fmt: skip


# The driver


def trial(kind: Torture, rng: random.Random, recorded: Recorded) -> Counter:
    "One trial, in a folder of its own that goes afterwards; a failure is printed."
    with tempfile.TemporaryDirectory() as folder:
        try:
            found = kind(rng, recorded, Path(folder))
        except Exception:
            traceback.print_exc()
            return Counter(traceback=1)
    return found if isinstance(found, Counter) else Counter([found])


def torture(seconds: float, seed: int) -> pd.DataFrame:
    "Trials of all kinds until the time is over, each kind at least once: outcomes by kind."
    found = {kind.__name__: Counter() for kind in KINDS}
    taken = dict.fromkeys(found, 0.0)
    with tempfile.TemporaryDirectory() as folder:
        recorded = record(Path(folder) / 'recorded')
        began, number = time.monotonic(), 0
        while time.monotonic() < began + seconds or not all(taken.values()):
            kind = min(KINDS, key=lambda kind: taken[kind.__name__])  # equal shares of the time
            started = time.monotonic()
            name = kind.__name__
            outcome = trial(kind, random.Random(f'{seed} {name} {number}'), recorded)
            bad = {k: n for k, n in outcome.items() if k in HARM}
            if bad:
                print(f'{name}, seed {seed}, number {number}: {bad}', file=sys.stderr)
            found[name] += outcome
            taken[name] += time.monotonic() - started
            number += 1
    rows = {name: [counts[o] for o in OUTCOMES] for name, counts in found.items()}
    table = pd.DataFrame.from_dict(rows, orient='index', columns=OUTCOMES)
    table.insert(0, 'seconds', [round(taken[name]) for name in table.index])
    return table


def main():
    parser = argparse.ArgumentParser(description=__doc__.partition('\n')[0])
    parser.add_argument('--minutes', type=float, default=3)
    parser.add_argument('--seed', type=int, default=0)
    args = parser.parse_args()
    table = torture(60 * args.minutes, args.seed)
    print(table.to_string())
    print(f'\n{int(table[list(OUTCOMES)].to_numpy().sum())} trials')
    harm = int(table[list(HARM)].to_numpy().sum())
    sys.exit(bool(harm))


if __name__ == '__main__':
    main()
