"What the README promises can be typed."

import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import sync
from PIL import Image

import munet_nb as mu
from munet_nb.cli import make_parser
from munet_nb.roots.export import export_model, how_to_load

TOP = Path(__file__).resolve().parents[1]
README = (TOP / 'README.md').read_text()
SETUP = 'python3 -m venv .venv && .venv/bin/pip install -e . && .venv/bin/munet demo'


def blocks(language):
    return re.findall(rf'```{language}\n(.*?)```', README, re.S)


def lines():
    return [line for block in blocks('sh') for line in block.splitlines()]


def test_the_two_lines_are_there_and_ci_runs_the_second():
    assert SETUP in lines()
    assert 'bash tests/run' in lines()
    assert 'bash tests/run' in (TOP / '.ci/run').read_text().splitlines()


def test_the_pythons_it_names_are_those_that_are_tested():
    cfg = sync.settings(TOP)
    *others, last = tested = cfg['tested_pythons'].split()
    told = f"Python {cfg['min_python']} or newer, tested with {', '.join(others)} and {last}"
    assert told in README and tested[0] == cfg['min_python']


def test_the_lowest_versions_it_names_are_those_of_the_settings():
    row = next(line for line in README.splitlines() if 'the lowest' in line and '|' in line)
    required = dict(r.split('>=') for r in sync.settings(TOP)['requirements'].split() if '>=' in r)
    told = row.strip('| ').split(' | ')[1:]
    for name, version in zip(('jax', 'flax', 'optax', 'numpy', 'pandas'), told, strict=True):
        assert f'{version}.'.startswith(f'{required[name]}.'), name


def test_every_munet_command_of_the_readme_parses():
    typed = [line.split('#')[0].split() for line in lines()]
    commands = [words[1:] for words in typed if words[:1] == ['munet']]
    names = {'demo', 'evolve', 'resume', 'extend', 'report', 'check', 'repair', 'predict', 'bench'}
    names |= {'route', 'serve', 'add-task', 'evaluate', 'export', 'compare', 'look', 'track'}
    assert {c[0] for c in commands} == names
    for c in commands:
        make_parser().parse_args(c)


def test_the_python_snippet_runs(tmp_path):
    (code,) = (block for block in blocks('python') if 'load_benchmark' in block)
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert (tmp_path / 'runs/first/journal.jsonl').exists()


def made_root(folder):
    "A model directory, as transformers would have it."
    root = mu.load_root('random:Ti1', image_size=16)
    layers = {name: layer.params for name, layer in root.layers.items()}
    zeros = {'kernel': np.zeros((192, 2), np.float32), 'bias': np.zeros(2, np.float32)}
    export_model(folder, 'huggingface', root.arch, layers | {'head': {'dense': zeros}}, 16, ['a', 'b'])


def made_images(folder):
    for i in range(16):
        path = folder / 'train' / 'ab'[i % 2] / f'{i}.png'
        path.parent.mkdir(parents=True, exist_ok=True)
        noise = np.random.default_rng(i).integers(0, 256, (16, 16, 3), np.uint8)
        Image.fromarray(noise).save(path)


def test_own_folders_and_an_own_vit_are_three_lines(tmp_path, monkeypatch):
    "With 16 pixels, and the search made but not run."
    monkeypatch.chdir(tmp_path)
    made_root(tmp_path / 'my_vit')
    for name in ('pets', 'cars'):
        made_images(tmp_path / 'images' / name)
    (code,) = (block for block in blocks('python') if 'my_vit' in block)
    assert len(code.splitlines()) == 5 and code.count('224') == code.count('.run()') == 1
    exec(code.replace('224', '16').replace('.run()', '.close()'), {})
    assert list(mu.Evolution.resume('runs/mine', trust_sources=True).tasks) == ['pets', 'cars']


@pytest.mark.parametrize('format', ['onnx', 'stablehlo', 'huggingface'])
def test_exports_are_loaded_as_munet_export_tells(format):
    "Whether these lines work is tested where exports are."
    assert how_to_load(f'as_{format}', format) in [block.rstrip() for block in blocks('python')]


def test_links_to_files_lead_somewhere():
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', README):
        assert (TOP / target).exists(), target
