"What surrounds the code: the site, the citation, the list of changes, workflows and forms."

import importlib.util
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import sync
import yaml

from munet_nb.cli import main, make_parser

TOP = Path(__file__).resolve().parents[1]
VERSION = sync.settings(TOP)['version']
WORKFLOWS = sorted((TOP / '.github/workflows').glob('*.yml'))
FORMS = sorted((TOP / '.github/ISSUE_TEMPLATE').glob('*.yml'))


def read(path):
    return yaml.safe_load(path.read_text())


@pytest.fixture(scope='module')
def hooks():
    "docs/hooks.py, as MkDocs loads it."
    spec = importlib.util.spec_from_file_location('hooks', TOP / 'docs/hooks.py')
    module = sys.modules['hooks'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules['hooks']


def test_the_site_builds_without_warnings_and_no_link_is_dead(tmp_path):
    "All pages, but without the theme and what mkdocstrings writes, which take most of the time."
    (tmp_path / 'theme').mkdir()
    (tmp_path / 'theme/main.html').write_text('<title>{{ page.title }}</title>{{ page.content }}')
    extensions = read(TOP / 'mkdocs.yml')['markdown_extensions']
    extensions.remove('pymdownx.highlight')  # which takes long
    changes = {
        'INHERIT': str(TOP / 'mkdocs.yml'),
        'docs_dir': str(TOP / 'docs'),
        'hooks': [str(TOP / 'docs/hooks.py')],
        'watch': [],
        'plugins': [],
        'theme': {'name': None, 'custom_dir': str(tmp_path / 'theme')},
        'markdown_extensions': extensions,
    }
    (tmp_path / 'mkdocs.yml').write_text(json.dumps(changes))
    command = [sys.executable, '-m', 'mkdocs', 'build', '--quiet', '--strict']
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    pages = {p.relative_to(tmp_path / 'site').as_posix() for p in tmp_path.rglob('site/**/*.html')}
    names = {p.relative_to(TOP / 'nbs').as_posix() for p in sync.notebooks(TOP)}
    assert pages >= {n.replace('.ipynb', '.html') for n in names - {'index.ipynb'}}
    assert pages >= {'index.html', 'map.html', 'changelog.html', 'api/index.html', 'api/search.html'}
    assert (tmp_path / 'site/images/eight_tasks.png').exists()
    drawn = 0
    for page in tmp_path.rglob('site/**/*.html'):
        text = re.sub(r'<(pre|code)\b.*?</\1>', '', page.read_text(), flags=re.S)
        assert '$' not in text and 'arithmatex">\\' not in text, page
        drawn += text.count('</math>')
    assert drawn > 100
    quality = (tmp_path / 'site/results/quality.html').read_text()
    assert 'href="../90_bench/05_protocol.html#The-fourth-round"' in quality
    assert 'src="quality-0.png"' in quality and (tmp_path / 'site/results/quality-0.png').exists()


def test_a_dead_link_or_anchor_of_a_page_is_an_error():
    told = read(TOP / 'mkdocs.yml')
    assert {*told['validation']['links'].values(), *told['validation']['nav'].values()} == {'warn'}
    assert told['theme']['font'] is False
    workflow = (TOP / '.github/workflows/site.yml').read_text()
    assert 'run: mkdocs build --strict\n' in workflow


@pytest.mark.parametrize('tex', ['x^', r'\left( x', r'\foo x'])
def test_a_formula_that_cannot_be_drawn_is_told_with_its_page(hooks, caplog, tex):
    hooks.formula(tex, 'inline', 'some/page.md')
    assert 'some/page.md' in caplog.text and repr(tex) in caplog.text


def test_links_to_files_lead_to_their_pages_or_to_the_repository(hooks):
    text = (
        '[a](../90_bench/05_protocol.ipynb#The-third-round) [b](#Here) [c](https://example.org/x)'
        ' ![d](../images/eight_tasks.png) [e](../../tests/run) [f](../../README.md)'
    )
    path = TOP / 'nbs/results/quality.ipynb'
    alone = hooks.Links('')
    assert alone.turned(text, path) == (
        '[a](../90_bench/05_protocol.md#The-third-round) [b](#Here) [c](https://example.org/x)'
        ' ![d](../images/eight_tasks.png) e [f](../index.md)'
    )
    assert alone.shown == {TOP / 'nbs/images/eight_tasks.png'}
    public = hooks.Links('https://example.org/blob/main')
    assert '[e](https://example.org/blob/main/tests/run)' in public.turned(text, path)


def test_cells_are_shown_without_what_they_say_to_nbdev(hooks):
    def code(*lines):
        return {'cell_type': 'code', 'source': [f'{line}\n' for line in lines]}

    assert hooks.code_of(code('#| export', 'x = 1')) == 'x = 1'
    assert hooks.code_of(code('#| hide', 'x = 1')) == ''
    assert hooks.code_of(code('#| default_exp search.ask')) == ''
    assert hooks.fenced('a = "```"') == '````python\na = "```"\n````'
    shown, _ = hooks.output_of({'text': ['1 < 2\n']}, 'x.png')
    assert '<pre>1 &lt; 2\n</pre>' in shown


def test_the_navigation_is_the_map(hooks):
    chapters = hooks.chapters()
    listed = {path for notebooks in chapters.values() for path in notebooks.values()}
    assert listed == {*sync.notebooks(TOP)} - {hooks.MAP}
    assert list(chapters)[0] == 'Guides'
    assert '`mu.Evolution`' in hooks.face()


def test_one_version_is_told_everywhere(capsys):
    with pytest.raises(SystemExit) as end:
        main(['--version'])
    assert end.value.code == 0 and capsys.readouterr().out == f'munet_nb {VERSION}\n'
    assert read(TOP / 'CITATION.cff')['version'] == VERSION
    headings = re.findall(r'^## (.+)$', (TOP / 'CHANGELOG.md').read_text(), re.M)
    assert headings[:2] == ['Unreleased', VERSION]


def test_the_citation_names_the_paper():
    told = read(TOP / 'CITATION.cff')
    assert told['cff-version'] == '1.2.0' and told['message'] and told['title'] == 'munet_nb'
    assert told['authors'] == [{'name': sync.settings(TOP)['author']}]
    paper = told['preferred-citation']
    assert [a['family-names'] for a in paper['authors']] == ['Gesmundo', 'Dean']
    assert paper['url'].endswith('2205.10937')


def commands(workflow):
    return [
        step['run']
        for job in read(workflow)['jobs'].values()
        for step in job['steps']
        if 'run' in step
    ]


@pytest.mark.parametrize('path', WORKFLOWS, ids=lambda p: p.stem)
def test_what_workflows_run_is_there(path):
    "Scripts exist, commands of munet parse, modules that are not installed before are none of ours."
    for command in commands(path):
        words = shlex.split(command.split('&&')[-1], comments=True)
        program = Path(words[0]).name
        assert program in ('bash', 'python', 'mkdocs', 'munet', 'test'), command
        if program == 'bash':
            assert (TOP / words[1]).exists(), command
        if program == 'munet' and words[1:] != ['--version']:
            make_parser().parse_args(words[1:])
        extras = re.findall(r'\.\[(\w+)\]', command)
        assert all(f'{e}_requirements' in sync.settings(TOP) for e in extras), command


def test_only_a_tag_is_published_and_what_is_published_was_tried():
    release = read(TOP / '.github/workflows/release.yml')
    assert release[True] == {'push': {'tags': ['v*']}}  # YAML takes `on` for a switch
    build, publish = release['jobs']['build'], release['jobs']['publish']
    assert 'permissions' not in build and publish['permissions'] == {'id-token': 'write'}
    assert publish['needs'] == 'build' and publish['if'] == "startsWith(github.ref, 'refs/tags/v')"
    assert any('munet" demo' in step.get('run', '') for step in build['steps'])
    assert 'bash tests/run --all' in commands(TOP / '.github/workflows/test.yml')


def test_forms_ask_for_something():
    for form in (read(p) for p in FORMS if p.stem != 'config'):
        assert form['name'] and form['description']
        assert all(field['attributes']['label'] for field in form['body'])
        assert any(field.get('validations', {}).get('required') for field in form['body'])
