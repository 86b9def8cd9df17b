"What the README promises can be typed."

import re
import subprocess
import sys
from pathlib import Path

import sync
from munet_nb.cli import make_parser

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


def test_every_munet_command_of_the_readme_parses():
    typed = [line.split('#')[0].split() for line in lines()]
    commands = [words[1:] for words in typed if words[:1] == ['munet']]
    names = {'demo', 'evolve', 'resume', 'extend', 'report', 'check', 'repair', 'predict', 'bench'}
    names |= {'route', 'serve', 'add-task', 'evaluate', 'export', 'compare', 'look'}
    assert {c[0] for c in commands} == names
    for c in commands:
        make_parser().parse_args(c)


def test_the_python_snippet_runs(tmp_path):
    (code,) = blocks('python')
    out = subprocess.run([sys.executable, '-c', code], cwd=tmp_path, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    assert (tmp_path / 'runs/first/journal.jsonl').exists()


def test_links_to_files_lead_somewhere():
    for target in re.findall(r'\]\((?!http)([^)#]+)\)', README):
        assert (TOP / target).exists(), target
