"Every notebook runs top to bottom, and reads as a document."

import ast
import atexit
import gc
import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbdev.config
import nbdev.test as runner
import pytest
import sync
from IPython.core.interactiveshell import InteractiveShell

from munet_nb import Config, Evolution
from munet_nb.search.config import with_fields

TOP = Path(__file__).resolve().parents[1]
NBS = TOP / 'nbs'
NOTEBOOKS = sync.notebooks(TOP)
MACHINE = r'/home/|/root/|/tmp/|/work/|CpuDevice|\d it/s|ms per loop'


LONG = {  # what they show on real data, tests show on less
    '50_engine/12_training',
    '60_roots/09_graph',
    '60_roots/10_export',
    '60_roots/11_parity',
    '90_bench/00_baselines',
    '90_bench/02_fitting',
    '90_bench/03_merging',
    '90_bench/08_rival_runs',
    '90_bench/09_comparison',
    '90_bench/11_work',
    '90_bench/13_pytorch',
    '90_bench/15_turns',
    '90_bench/20_serving',
    'guides/00_quickstart',  # test_browser.py runs all of it
    'guides/02_demo',
    'guides/05_living_system',
    'guides/06_cluster',
    'guides/07_your_pictures',
    'results/first_rounds',
}
LESS = dict(children_per_task=6, trial_segments=1, trunk_segments=2)
LESS_TRAINING = dict(segments=2, batches=2)


def name_of(path):
    return path.relative_to(NBS).with_suffix('').as_posix()


def marked(path):
    marks = [pytest.mark.long] if name_of(path) in LONG else []
    return pytest.param(path, marks=marks, id=name_of(path))


@pytest.mark.parametrize('path', [*map(marked, NOTEBOOKS)])
def test_runs_top_to_bottom(path, monkeypatch):
    "As `nbdev_test` runs it, but in this process: one of its own would compile everything anew."
    monkeypatch.chdir(TOP)
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])
    backend = plt.get_backend()
    flags = nbdev.config.get_config().tst_flags.split()
    if name_of(path).startswith('guides/'):
        train_less(monkeypatch)
    try:
        with plt.rc_context():
            passed, _ = runner.test_nb(path, skip_flags=flags)
    finally:
        plt.close('all')
        plt.switch_backend(backend)
        stopped = clear_shell()
    if stopped:
        raise KeyboardInterrupt
    assert passed, 'what went wrong is in the captured output'


def train_less(monkeypatch):
    """Have searches train less than a guide's page shows.

    That every cell runs is what is pinned here, and how good a long search is, elsewhere.
    """
    create = Evolution.create.__func__

    def create_small(cls, path, root, tasks, config=Config(), executor=None):
        least = {f: min(getattr(config, f), n) for f, n in LESS.items()}
        training = {f: min(getattr(config.training, f) or n, n) for f, n in LESS_TRAINING.items()}
        return create(cls, path, root, tasks, with_fields(config, **least, **training), executor)

    monkeypatch.setattr(Evolution, 'create', classmethod(create_small))


def clear_shell() -> bool:
    """IPython keeps the shell that ran a notebook, and all that it made, until the process ends.

    Returns whether Ctrl-C stopped it.
    """
    shell, InteractiveShell._instance = InteractiveShell._instance, None
    if not shell:
        return False
    stopped = isinstance(getattr(shell, 'exc', None), KeyboardInterrupt)
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    shell.reset(new_session=False)
    gc.freeze()  # a shell looks twice for garbage, among all that the notebooks before it imported
    return stopped


def cells(path, kind):
    return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]


def definitions(cell):
    "The public functions and classes that an export cell defines."
    text = sync.source(cell)
    if not text.startswith('#| export'):
        return []
    found = [n for n in ast.parse(text).body if isinstance(n, (ast.FunctionDef, ast.ClassDef))]
    return [n.name for n in found if not n.name.startswith('_')]


def faults_of_layout(path):
    "What keeps a notebook from being a document."
    first = sync.source(cells(path, 'markdown')[0])
    if not (first.startswith('# ') and '\n> ' in first):
        yield 'it has no title and subtitle'
    if 'widgets' in json.loads(path.read_text())['metadata']:
        yield 'it holds widget state'
    for c in cells(path, 'code'):
        text, together = sync.source(c), definitions(c)
        if len(together) > 4:
            yield f'a cell holds one definition or a tight group: {together}'
        for line in text.splitlines():
            if len(line) > 110:
                yield f'a line of more than 110 columns: {line}'
        for o in c['outputs']:
            shown = {k: v for k, v in o.get('data', o).items() if not k.startswith('image/')}
            if o['output_type'] == 'error' or sync.WIDGET in shown:
                yield 'an output is an error or a widget'
            if found := re.search(MACHINE, json.dumps(shown)):
                yield f'an output tells of the machine: {found[0]}'


def test_notebooks_read_as_documents():
    faults = [f'{name_of(p)}: {fault}' for p in NOTEBOOKS for fault in faults_of_layout(p)]
    assert not faults, '\n'.join(faults)


def paragraphs(text):
    return re.split(r'\n\s*\n|\n(?=\s*(?:[-*|]|\d+\.) )', text)


def test_prose_comes_in_pieces():
    "A paragraph of more than 120 words is a list or a table that was not made yet."
    pages = {name_of(p): [sync.source(c) for c in cells(p, 'markdown')] for p in NOTEBOOKS}
    for name in ('README.md', 'CONTRIBUTING.md'):
        pages[name] = [(TOP / name).read_text()]
    walls = [
        f'{name}: {len(piece.split())} words in one piece: {piece[:80]} ...'
        for name, texts in pages.items()
        for text in texts
        for piece in paragraphs(text)
        if len(piece.split()) > 120 and not piece.lstrip().startswith('|')
    ]
    assert not walls, '\n'.join(walls)


def links(path):
    for c in cells(path, 'markdown'):
        yield from re.findall(r'\]\((?!http|#|attachment:)([^)#]+)', sync.source(c))


def test_links_lead_somewhere():
    dead = [
        f'{name_of(path)}: {target}'
        for path in NOTEBOOKS
        for target in links(path)
        if not (path.parent / target).exists()
    ]
    assert not dead, '\n'.join(dead)


def test_the_map_lists_every_notebook():
    on_it = set(links(NBS / 'index.ipynb'))
    assert on_it == {f'{name_of(p)}.ipynb' for p in NOTEBOOKS} - {'index.ipynb'}


def test_figures_are_committed():
    "Chapters and guides that are about something to look at show it."
    with_figures = {
        name_of(p)
        for p in NOTEBOOKS
        for c in cells(p, 'code')
        for o in c['outputs']
        if 'image/png' in o.get('data', {})
    }
    chapters = {n.split('/')[0] for n in with_figures}
    assert chapters >= {
        '10_network',
        '20_models',
        '30_tasks',
        '40_search',
        '50_engine',
        '80_pictures',
        '90_bench',
        'guides',
        'making',
        'results',
    }
    ideas = {
        '20_models/01_pool',
        '40_search/02_mutation',
        '40_search/03_selection',
        '50_engine/01_augment',
        '80_pictures/04_architectures',
        'guides/00_quickstart',
        'guides/01_reader',
        'guides/02_demo',
        'results/quality',
    }
    assert with_figures >= ideas, ideas - with_figures


def test_public_names_are_documented():
    "Each has a docstring, whose first line is at most 100 columns."
    count = 0
    for path in sync.exported(TOP):
        for node in ast.parse(path.read_text()).body:
            if not isinstance(node, (ast.FunctionDef, ast.ClassDef)) or node.name.startswith('_'):
                continue
            count += 1
            text = ast.get_docstring(node) or ''
            assert text, f'{path.stem}.{node.name} has no docstring'
            assert len(text.splitlines()[0]) <= 100, f'{path.stem}.{node.name}: a long first line'
    assert count > 200, 'the modules were found'


def test_exported_code_uses_no_pickle_and_no_development_tools():
    forbidden = (
        r'\bpickle\b|allow_pickle=True|\beval\(|\bexec\(|import nbdev|import fastcore|from fastcore'
        r'|execnb'
    )
    for path in sync.exported(TOP):
        assert not re.search(forbidden, path.read_text()), path


def test_the_badge_comes_from_the_settings():
    "One address, in settings.ini: it gives the badge and what Colab installs; without, no badge."
    path, cfg = NBS / 'guides/00_quickstart.ipynb', sync.settings(TOP)
    if not cfg['git_url']:
        assert not any('colab-badge' in p.read_text() for p in NOTEBOOKS)

    def published(url):
        nb = json.loads(path.read_text())
        for address in ('https://github.com/old/address', url):
            sync.publish(nb, {**cfg, 'git_url': address}, 'guides/00_quickstart.ipynb')
        return nb, [sync.source(c) for c in nb['cells']]

    _, texts = published('https://github.com/example/project.git')
    assert texts[0].split('\n\n')[2:3] == [
        '[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)]'
        '(https://colab.research.google.com/github/example/project/blob/main/nbs/'
        'guides/00_quickstart.ipynb)'
    ]
    installs = "\nPACKAGE = 'munet_nb @ git+https://github.com/example/project.git'  #"
    assert any(installs in t for t in texts)
    _, elsewhere = published('https://git.example.org/project')
    assert not any('colab-badge' in t or 'old/address' in t for t in elsewhere)
    assert any("git+https://git.example.org/project'" in t for t in elsewhere)
    assert published(cfg['git_url'])[0] == json.loads(path.read_text())
    _, none = published('')
    assert none[0].count('\n\n') == 2
    assert any("\nPACKAGE = ''  #" in t for t in none)
