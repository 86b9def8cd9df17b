"Every notebook runs top to bottom, and reads as a document: no errors, times, devices or paths in its outputs."

import ast
import atexit
import json
import re
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import nbdev.config
import nbdev.test as notebooks
import pytest
import sync
from IPython.core.interactiveshell import InteractiveShell

TOP = Path(__file__).resolve().parents[1]
NOTEBOOKS = sorted((TOP / 'nbs').glob('*.ipynb'))


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_runs_top_to_bottom(path, monkeypatch):
    "As `nbdev_test` runs it, but in this process: a process of its own would import everything and compile anew what other notebooks run too."
    monkeypatch.chdir(TOP)
    monkeypatch.setenv('IN_TEST', '1')
    monkeypatch.setattr(sys, 'path', [*sys.path])
    monkeypatch.setitem(sys.modules, '__main__', sys.modules['__main__'])
    backend = plt.get_backend()
    try:
        with plt.rc_context():
            passed, _ = notebooks.test_nb(
                path, skip_flags=nbdev.config.get_config().tst_flags.split()
            )
    finally:
        stopped = clear_shell()
        plt.close('all')
        plt.switch_backend(backend)
    if stopped:
        raise KeyboardInterrupt
    assert passed, 'what went wrong is in the captured output'


def clear_shell() -> bool:
    "IPython keeps the shell that ran a notebook, and with it all that the notebook made, until the process ends. Returns whether Ctrl-C stopped it."
    shell, InteractiveShell._instance = InteractiveShell._instance, None
    if not shell:
        return False
    stopped = isinstance(getattr(shell, 'exc', None), KeyboardInterrupt)
    atexit.unregister(shell.atexit_operations)
    shell.atexit_operations()
    shell.reset(new_session=False)
    return stopped


def cells(path, kind):
    return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == kind]


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda p: p.stem)
def test_reads_as_a_document(path):
    nb = json.loads(path.read_text())
    first = ''.join(cells(path, 'markdown')[0]['source'])
    assert first.startswith('# ') and '\n> ' in first, 'a title and a subtitle'
    assert 'widgets' not in nb['metadata']
    for c in cells(path, 'code'):
        source = ''.join(c['source'])
        assert source.count('\n') <= 45, f'two ideas in one cell?\n{source[:200]}'
        for o in c['outputs']:
            assert o[
                'output_type'
            ] != 'error' and 'application/vnd.jupyter.widget-view+json' not in o.get('data', {})
            text = json.dumps(
                {k: v for k, v in o.get('data', o).items() if not k.startswith('image/')}
            )
            assert not re.search(
                r'/home/|/root/|/tmp/|/work/|CpuDevice|\d it/s|ms per loop', text
            ), text[:300]


def test_figures_are_committed():
    with_figures = {
        p.stem
        for p in NOTEBOOKS
        for c in cells(p, 'code')
        for o in c['outputs']
        if 'image/png' in o.get('data', {})
    }
    assert with_figures >= {
        '00_vit',
        '03_mutation',
        '04_selection',
        '05_tasks',
        '06_augment',
        '07_training',
        '09_evolution',
        '12_plots',
        '13_glyphs',
        '13_quality',
        '20_demo',
        '21_quality',
        '22_quickstart',
        '23_reader',
        '30_demo_data',
        '31_characters8',
        '32_glyph_root',
    }


def test_each_notebook_imports_only_from_lower_ones_and_public_names_are_documented():
    order = {
        re.search(r'default_exp (\w+)', p.read_text())[1]: i
        for i, p in enumerate(NOTEBOOKS)
        if 'default_exp' in p.read_text()
    }
    imported = []
    for module, place in order.items():
        tree = ast.parse((TOP / 'munet_nb' / f'{module}.py').read_text())
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and (
                node.level or (node.module or '').startswith('munet_nb')
            ):
                imported.append(node.module.split('.')[-1])
                assert order[imported[-1]] < place, f'{module} imports {node.module}'
        for node in tree.body:
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)) and not node.name.startswith('_'):
                assert (
                    ast.get_docstring(node)
                    or len(node.body) == 1
                    and node.lineno == node.body[0].lineno
                ), f'{module}.{node.name} has no docstring'
    assert len(imported) > 30, 'the imports were found'


def test_exported_code_uses_no_pickle_and_no_development_tools():
    for path in (TOP / 'munet_nb').glob('*.py'):
        text = path.read_text()
        assert not re.search(
            r'\bpickle\b|allow_pickle=True|\beval\(|\bexec\(|import nbdev|import fastcore|from fastcore|execnb',
            text,
        ), path


def test_the_badge_comes_from_the_settings():
    "One address, in settings.ini: it gives the badge and what Colab installs, and without one there is no badge."
    path, cfg = TOP / 'nbs/22_quickstart.ipynb', sync.settings(TOP)
    if not cfg['git_url']:
        assert not any('colab-badge' in p.read_text() for p in NOTEBOOKS)

    def published(url):
        nb = json.loads(path.read_text())
        for address in ('https://github.com/old/address', url):
            sync.publish(nb, {**cfg, 'git_url': address}, path.name)
        return nb, [''.join(c['source']) for c in nb['cells']]

    _, cells = published('https://github.com/example/project.git')
    assert cells[0].split('\n\n')[2:3] == [
        '[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/example/project/blob/main/nbs/22_quickstart.ipynb)'
    ]
    assert any(
        '\n    %pip install --quiet "munet_nb @ git+https://github.com/example/project.git"\n' in c
        for c in cells
    )
    _, elsewhere = published('https://git.example.org/project')
    assert not any('colab-badge' in c or 'old/address' in c for c in elsewhere) and any(
        'git+https://git.example.org/project"' in c for c in elsewhere
    )
    assert published(cfg['git_url'])[0] == json.loads(path.read_text())
    assert published('')[1][0].count('\n\n') == 2 and any(
        '\n    %pip install --quiet munet_nb\n' in c for c in published('')[1]
    )
