"""The Colab notebooks, from the first cell to the last, with mocked data and a budget of seconds.

Each runs until its kernel is killed in the middle of a generation, then again, as after a
disconnected runtime.
"""

import importlib.util
import os
import re
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import nbformat
import pytest
from IPython.core.inputtransformer2 import TransformerManager
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError

from munet_nb import Config
from munet_nb.bench.protocol import COMPARISONS, authors_method, check_method
from munet_nb.bench.records import read_records
from munet_nb.roots.load import PAPER_ROOTS
from munet_nb.runs.rundir import RunDir
from munet_nb.tasks.benchmarks import BENCHMARKS

TOP = Path(__file__).resolve().parents[1]
NAMES = {'guides/03_colab_characters': 'characters', 'guides/04_colab_decathlon': 'decathlon'}
MOCKED = "import paper_data\nmocks = paper_data.mocked('data', at_most=24)\nmocks.__enter__()"
DISCONNECTED = """
import os, signal
from munet_nb import Evolution
def lost(self, *args, tell=Evolution.tell, generations=[]):
    # The children of the third generation are trained, and nothing of them is written yet.
    generations.append(1)
    if len(generations) == 3:
        os.kill(os.getpid(), signal.SIGKILL)
    return tell(self, *args)
Evolution.tell = lost
"""


def read(name):
    return nbformat.read(TOP / 'nbs' / f'{name}.ipynb', 4)


def code(nb):
    return [c for c in nb.cells if c.cell_type == 'code']


def execute(nb, folder, before=MOCKED):
    "Run a notebook in a kernel of its own; it gets its outputs, also if it fails."
    nb.cells.insert(0, nbformat.v4.new_code_cell(before))
    path = os.pathsep.join([str(TOP), str(TOP / 'tests'), os.environ.get('PYTHONPATH', '')])
    try:
        NotebookClient(
            nb, timeout=500, kernel_name='python3', resources={'metadata': {'path': str(folder)}}
        ).execute(env=os.environ | {'MUNET_SMOKE': '1', 'PYTHONPATH': path, 'MPLBACKEND': 'agg'})
    finally:
        nb.cells.pop(0)


def text(cell):
    return ''.join(
        o.get('text', '') + o.get('data', {}).get('text/plain', '') for o in cell.outputs
    )


def cell(nb, needle):
    return next(c for c in code(nb) if needle in c.source)


@pytest.mark.long
@pytest.mark.parametrize('name', NAMES)
def test_from_the_first_cell_to_the_last_and_on_after_a_disconnected_runtime(name, tmp_path):
    first, second = read(name), read(name)
    with pytest.raises(DeadKernelError):
        execute(first, tmp_path, MOCKED + DISCONNECTED)
    said = text(cell(first, 'open_evolution(bench'))
    assert '3 generations left' in said and '2 generations left' in said
    folder = tmp_path / 'runs' / f'{NAMES[name]}-autotune'
    run = RunDir(folder / 'work/runs/munet_1-0')
    begun = run.records()
    assert sum(r['kind'] == 'generation' for r in begun) == 2 and not list(folder.glob('*.json'))
    execute(second, tmp_path)
    assert run.records()[: len(begun)] == begun, 'it went on'
    assert sum(r['kind'] == 'generation' for r in run.records()) == 4
    assert begun[0]['arch'] == 'Ti1', 'one of the two blocks of the root'
    records = {r['method']: r for r in read_records(folder)}
    assert records.keys() == {'munet_1', 'finetune_all', 'freeze_bottom_1', 'adapters_8'}
    for r in records.values():
        assert len(r['tasks']) == 2 and r['root'] == 'random:Ti2' and r['seconds'] > 0
        assert all(0 <= t['test'] <= 1 for t in r['tasks'].values())
    outputs = [o for c in code(second) for o in c.outputs]
    pages = [o.get('data', {}).get('text/html', '') for o in outputs]
    table = next(page for page in pages if 's per generation' in page)
    methods = ('muNet', 'Finetune all', 'Freeze bottom layers:1', 'Adapters:8')
    for word in (*methods, 'mean', 'parameters per task', 'hours'):
        assert word in table
    pictures = sum('image/png' in o.get('data', {}) for o in outputs)
    assert pictures == 3, 'quality, architectures, progress'


@pytest.mark.parametrize('name', NAMES)
def test_what_a_reader_gets_without_an_edit_is_the_papers_experiment(name):
    nb = read(name)
    assert not any(c.outputs for c in code(nb)), 'no outputs of a run that did not happen'
    source = cell(nb, 'CONFIGURATIONS = (').source
    settings = source[source.index('BENCHMARK, TASKS') :].rpartition('\n')[0]
    given = {}
    exec(f'from munet_nb import Config\n{settings}', given)
    assert given['BENCHMARK'] == NAMES[name] and given['BENCHMARK'] in BENCHMARKS
    assert (given['TASKS'], given['AUTO_TUNE']) == ((), True)
    assert given['config'] == Config.preset(NAMES[name])
    assert (given['ROOT'], given['LAYERS']) == PAPER_ROOTS[NAMES[name]]
    methods = [authors_method(c) for c in given['CONFIGURATIONS']]
    depth = {'characters': 3, 'decathlon': 12}[NAMES[name]]
    for m in methods:
        check_method(m, COMPARISONS['quick'], depth)
    written = {19: 'nineteen', 18: 'eighteen'}[len(set(methods))]
    assert f'{written} configurations' in ''.join(c.source for c in nb.cells)
    reported = ('1', '0.98', '0.95', '0.9', '0.7', '0.3', '0.02')
    assert {m for m in methods if 'munet' in m} == {f'munet_{s}' for s in reported}
    widths = {int(m.split('_')[1]) for m in methods if 'adapters' in m}
    assert widths == {8, 16, 32, 64, 128, 256, 512}
    assert 'finetune_all' in methods


INSTALLING = sorted(
    p.relative_to(TOP / 'nbs').with_suffix('').as_posix()
    for p in (TOP / 'nbs').rglob('*.ipynb')
    if '%pip' in p.read_text()
)


def run_cells(cells, package: str, monkeypatch) -> list[str]:
    "What cells ask pip for, on a machine that looks like Colab; `package` was typed into the first."
    asked = []
    shell = SimpleNamespace(run_line_magic=lambda magic, line: asked.append((magic, line)))
    names = {'get_ipython': lambda: shell}
    monkeypatch.setitem(sys.modules, 'google.colab', ModuleType('google.colab'))
    for cell in cells:
        source = re.sub(r"^PACKAGE = '.*?'", f'PACKAGE = {package!r}', cell.source, flags=re.M)
        exec(TransformerManager().transform_cell(source), names)
    assert all(magic == 'pip' for magic, _ in asked)
    return [line.format(**names) for _, line in asked]


@pytest.mark.parametrize('name', INSTALLING)
def test_nothing_is_installed_by_our_name_and_what_is_missing_is_said(name, monkeypatch):
    "A name of ours in an index may belong to anybody."
    nb = read(name)
    assert not re.search(r'pip install(?! -e).*munet_nb', '\n'.join(c.source for c in code(nb)))
    install, check = code(nb)[:2]
    with pytest.raises(SystemExit, match='PACKAGE, in this cell, is empty: set it to .*wheel'):
        run_cells([install], '', monkeypatch)
    for package in ('/content/munet_nb-0.1.0-py3-none-any.whl', 'git+https://example.org/x'):
        asked = run_cells([install, check], package, monkeypatch)
        assert asked[0] == f'install --quiet "{package}"'
    monkeypatch.setattr(importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(SystemExit, match='munet_nb is not installed.*PACKAGE.*both cells'):
        run_cells([install, check], 'a wheel', monkeypatch)
