"The Colab notebooks, from the first cell to the last, with mocked data and a budget of seconds; then again, as after a disconnected runtime."
import os
from pathlib import Path
import nbformat
import pytest
from nbclient import NotebookClient
from munet_nb import preset
from munet_nb.pretrained import PAPER_ROOTS
from munet_nb.quality import COMPARISONS, authors_method, check_method, read_records
from munet_nb.rundir import RunDir
from munet_nb.tasks import BENCHMARKS

TOP = Path(__file__).resolve().parents[1]
NAMES = {'24_colab_characters': 'characters', '25_colab_decathlon': 'decathlon'}
MOCKED = "import paper_data\nmocks = paper_data.mocked('data', at_most=24)\nmocks.__enter__()"

def read(name): return nbformat.read(TOP / 'nbs' / f'{name}.ipynb', 4)
def code(nb): return [c for c in nb.cells if c.cell_type == 'code']

def execute(nb, folder):
    "Run a notebook in a kernel of its own; returns it with its outputs."
    nb.cells.insert(0, nbformat.v4.new_code_cell(MOCKED))
    path = os.pathsep.join([str(TOP), str(TOP / 'tests'), os.environ.get('PYTHONPATH', '')])
    NotebookClient(nb, timeout=500, kernel_name='python3', resources={'metadata': {'path': str(folder)}}).execute(env=os.environ | {'MUNET_SMOKE': '1', 'PYTHONPATH': path, 'MPLBACKEND': 'agg'})
    nb.cells.pop(0)
    return nb

def text(cell): return ''.join(o.get('text', '') + o.get('data', {}).get('text/plain', '') for o in cell.outputs)
def cell(nb, needle): return next(c for c in code(nb) if needle in c.source)

@pytest.mark.parametrize('name', NAMES)
def test_from_the_first_cell_to_the_last_and_on_after_a_disconnected_runtime(name, tmp_path):
    cut = read(name)
    stop = next(i for i, c in enumerate(cut.cells) if 'run_bench(' in c.source and 'import' not in c.source)
    cut.cells = cut.cells[:stop]                       # the runtime is lost once two generations are done
    first = execute(cut, tmp_path)
    assert '3 generations left' in (said := text(cell(first, 'open_evolution('))) and '2 generations left' in said
    folder = tmp_path / 'runs' / f'{NAMES[name]}-autotune'
    begun = RunDir(folder / 'work/runs/munet_1-0').records()
    assert sum(r['kind'] == 'generation' for r in begun) == 2
    second = execute(read(name), tmp_path)
    assert RunDir(folder / 'work/runs/munet_1-0').records()[:len(begun)] == begun, 'it went on'
    records = {r['method']: r for r in read_records(folder)}
    assert records.keys() == {'munet_1', 'finetune_all'}
    for r in records.values():
        assert len(r['tasks']) == 2 and r['root'] == 'random:Ti1' and r['seconds'] > 0
        assert all(0 <= t['test'] <= 1 for t in r['tasks'].values())
    table = next(o['data']['text/html'] for c in code(second) for o in c.outputs if 's per generation' in o.get('data', {}).get('text/html', ''))
    for word in ('muNet', 'Finetune all', 'mean', 'parameters per task', 'hours'): assert word in table
    assert sum('image/png' in o.get('data', {}) for c in code(second) for o in c.outputs) == 3, 'quality, architectures, progress'

@pytest.mark.parametrize('name', NAMES)
def test_what_a_reader_gets_without_an_edit_is_the_papers_experiment(name):
    nb = read(name)
    assert not any(c.outputs for c in code(nb)), 'no outputs of a run that did not happen'
    settings = cell(nb, 'CONFIGURATIONS = (')
    given = {}
    exec('from munet_nb import preset\n' + settings.source[settings.source.index('BENCHMARK, TASKS'):].rpartition('\n')[0], given)
    assert (given['BENCHMARK'], given['TASKS'], given['AUTO_TUNE']) == (NAMES[name], (), True) and given['BENCHMARK'] in BENCHMARKS
    assert given['config'] == preset(NAMES[name])
    assert (given['ROOT'], given['LAYERS']) == PAPER_ROOTS[NAMES[name]]
    methods, depth = [authors_method(c) for c in given['CONFIGURATIONS']], {'characters': 3, 'decathlon': 12}[NAMES[name]]
    for m in methods: check_method(m, COMPARISONS['quick'], depth)
    assert {19: 'nineteen', 18: 'eighteen'}[len(set(methods))] + ' configurations' in ''.join(c.source for c in nb.cells)
    assert {m for m in methods if 'munet' in m} == {f'munet_{s}' for s in ('1', '0.98', '0.95', '0.9', '0.7', '0.3', '0.02')}, 'the scale factors reported'
    assert {int(m.split('_')[1]) for m in methods if 'adapters' in m} == {8, 16, 32, 64, 128, 256, 512} and 'finetune_all' in methods
