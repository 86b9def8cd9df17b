"The page of a run, and that of two: whole by itself, readable, and safe whoever made the run."

import json
from html.parser import HTMLParser

import pytest

from munet_nb import example_run
from munet_nb.bench.beside import compare_with
from munet_nb.checks import InputError
from munet_nb.pictures.compare import compare
from munet_nb.pictures.report import report
from munet_nb.runs.rundir import RunDir, write_run
from munet_nb.search.costs import costly_tasks

MARKUP = '<img src=x onerror=alert(1)>'


class Seen(HTMLParser):
    "The elements of a page with their attributes, and its text."

    def __init__(self, text: str):
        super().__init__()
        self.elements, self.text = [], ''
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_data(self, data):
        self.text += data

    def of(self, tag):
        return [attrs for name, attrs in self.elements if name == tag]


def check_page(text: str) -> Seen:
    "What holds of every page."
    seen = Seen(text)
    for _, attrs in seen.elements:
        for name in ('src', 'href', 'xlink:href'):
            assert attrs.get(name, '#').startswith(('#', 'data:')), attrs
        assert not [name for name in attrs if name.startswith('on')], attrs
    assert 'url(http' not in text and '@import' not in text
    pictures = seen.of('svg')
    assert all(p['role'] == 'img' and p['aria-label'] for p in pictures)
    ids = [attrs['id'] for _, attrs in seen.elements if 'id' in attrs]
    assert len(ids) == len(set(ids))
    assert {link['href'][1:] for link in seen.of('a')} <= set(ids)
    assert 'viewport' in [meta.get('name') for meta in seen.of('meta')]
    assert len(seen.of('script')) == 1 and 'aria-sort' in text
    assert 'prefers-color-scheme: dark' in text and '@media print' in text
    return seen


def renamed(path, **names):
    "The example run under other names of tasks and classes, in a directory of its own."
    text = json.dumps(RunDir(example_run()).records(), ensure_ascii=False)
    for old, new in names.items():
        text = text.replace(old, json.dumps(new)[1:-1])
    path.mkdir()
    write_run(path, json.loads(text))
    return path


def test_a_report_is_whole_by_itself_and_tells_all(tmp_path):
    page = report(example_run(), tmp_path / 'page.html')
    seen = check_page(page.path.read_text())
    assert len(seen.of('svg')) == 10 and len(seen.of('table')) == 5
    for told in ('Ti3-glyphs', 'devanagari', 'scale factor', 'task iteration 2 ends', 'munet_nb'):
        assert told in seen.text, told


def test_names_of_a_stranger_are_text(tmp_path):
    run = renamed(tmp_path / 'run', mnist5k=MARKUP, latin='한국어 ' + 'x' * 40, telugu='a"b&c$d_{e}$')
    seen = check_page(report(run).path.read_text())
    assert (run / 'report.html').exists()
    assert not seen.of('img') and MARKUP in seen.text and 'a"b&c$d_{e}$' in seen.text


def test_a_run_that_only_began_has_a_report(tmp_path):
    path = tmp_path / 'begun'
    path.mkdir()
    write_run(path, RunDir(example_run()).records()[:1])
    seen = check_page(report(path).path.read_text())
    assert 'not finished' in seen.text and 'No task has a model yet' in seen.text


def test_two_runs_are_compared_from_their_journals(tmp_path):
    first = renamed(tmp_path / 'first', mnist5k=MARKUP)
    second = renamed(tmp_path / 'second', mnist5k=MARKUP, telugu='another')
    page = compare(first, second)
    assert page.path == first / 'compare_second.html' and 'saved' in repr(page)
    seen = check_page(page.path.read_text())
    assert len(seen.of('svg')) == 7 and not seen.of('img')
    assert 'only here: telugu' in seen.text and 'only here: another' in seen.text
    assert 'not kept' in seen.text and 'the same configuration and the same root' in seen.text


def test_runs_are_called_otherwise_than_columns(tmp_path):
    first, second = (renamed(tmp_path / name) for name in ('from', 'task'))
    page = compare(first, second)
    assert 'from (run)' in page.summary and 'task (run)' in page.summary
    rows = page.summary.splitlines()
    assert rows[0].split()[0] == 'task' and 'digits' in page.summary


def test_the_report_has_what_is_told_beside_the_journal(tmp_path):
    run = renamed(tmp_path / 'run')
    costly = [n for n, r in enumerate(RunDir(run).records()) if 'digits' in costly_tasks(r)]
    nothing = {'seconds': 0.0, 'compiling': 0.0, 'examples': {'digits': 0}}
    lines = [{'record': n, **nothing} for n in costly]
    lines[0] |= {'seconds': 12.0, 'compiling': 3.0, 'examples': {'digits': 1234567}}
    few = {'task': 'digits', 'validation': 2, 'test': 2, 'largest': 1.0}

    def told(lines):
        (run / 'costs.jsonl').write_text('\n'.join(map(json.dumps, [*lines, few])))
        page = report(run)
        return check_page(page.path.read_text()).text, page.summary

    for said in told(lines):
        assert all(text in said for text in ('1,234,567', '25.0%', 'near chance'))
    for said in told(lines[:-1]):
        assert '1,234,567' not in said and 'near chance' in said, 'a sum with a hole in it'


def test_what_cannot_be_compared_is_refused(tmp_path):
    run = renamed(tmp_path / 'run')
    begun = tmp_path / 'begun'
    begun.mkdir()
    write_run(begun, RunDir(run).records()[:1])
    for other, told in ((run, 'are the same run'), (begun, 'no task in common')):
        with pytest.raises(InputError, match=told):
            compare(run, other)
    with pytest.raises(InputError, match='finetune_all'):
        compare_with(run, 'finetune')
    with pytest.raises(InputError, match='no task has a model'):
        compare_with(begun, 'finetune_all')
    assert not list(tmp_path.glob('*/*.html'))
