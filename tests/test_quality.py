"""The comparison of methods: a tiny run of the benchmark as it was committed.

And `munet bench quality` as a user meets it.
"""

import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from munet_nb import Config, Evolution, load_benchmark, load_root
from munet_nb.bench.folder import Bench
from munet_nb.bench.protocol import ABLATIONS, COMPARISONS, Comparison, check_method
from munet_nb.bench.protocol import evolution_config
from munet_nb.bench.records import read_records
from munet_nb.cli import main

GOLDEN = Path(__file__).parent / 'golden' / 'characters8.jsonl'
RESULTS = Path(__file__).parents[1] / 'nbs' / 'results'


def golden_run(path) -> list[dict]:
    tasks = [t for t in load_benchmark('characters8') if t.name in ('digits', 'devanagari')]
    config = Config.preset(
        'characters8',
        children_per_task=4,
        children_per_generation=2,
        seed_segments=1,
        batches=6,
        segments=2,
        batch_size=32,
        validation_batches=4,
        seed=1,
    )
    with Evolution.create(path, load_root('Ti3-glyphs'), tasks, config) as evo:
        while not evo.done:
            evo.step()
        return json.loads(json.dumps(evo.records))


def read_golden() -> list[dict]:
    return [json.loads(line) for line in GOLDEN.read_text().splitlines()]


def differences(a, b, where='journal'):
    """Where two journals differ, accuracies but by rounding.

    Digests of trained parameters may differ from machine to machine.
    """
    if isinstance(a, dict) and isinstance(b, dict):
        if a.keys() != b.keys():
            yield f'{where}: {a.keys() ^ b.keys()}'
        for k in a.keys() & b.keys():
            if k != 'digest':
                yield from differences(a[k], b[k], f'{where}.{k}')
    elif isinstance(a, list) and isinstance(b, list):
        if len(a) != len(b):
            yield f'{where}: {len(a)} and {len(b)} long'
        for i, (x, y) in enumerate(zip(a, b)):
            yield from differences(x, y, f'{where}[{i}]')
    elif isinstance(a, float) and isinstance(b, float):
        if abs(a - b) > max(0.03, 1e-6 * abs(a)):
            yield f'{where}: {a} and {b}'
    elif a != b:
        yield f'{where}: {a} and {b}'


def test_a_tiny_run_of_the_benchmark_gives_the_committed_journal(tmp_path):
    assert not list(differences(read_golden(), golden_run(tmp_path / 'run')))


def test_a_different_journal_would_be_noticed():
    golden, (first, other, *rest) = read_golden(), read_golden()
    other['children'][0]['model']['parent'] = 'somebody else'
    assert list(differences(golden, [first, other, *rest]))


@pytest.fixture
def tiny(monkeypatch, tmp_path):
    "The quick comparison made tiny; the folder that its records go to."
    config = Config.preset(
        'demo',
        batch_size=32,
        batches=4,
        segments=1,
        children_per_task=2,
        children_per_generation=2,
        task_iterations=1,
    )
    comparison = Comparison(
        benchmark='demo',
        root='random:Ti1',
        config=config,
        rates=(0.05,),
        methods=('munet_1', 'norm_head'),
        seeds=(0,),
        tasks=('digits', 'parity'),
    )
    monkeypatch.setitem(COMPARISONS, 'quick', comparison)
    return tmp_path / 'quality'


def bench_quality(folder, *args):
    return main(['bench', 'quality', '--quick', '--out', str(folder), *args])


def test_bench_quality_writes_a_record_per_run_a_table_and_a_picture(tiny, capsys):
    assert bench_quality(tiny) == 0
    out = capsys.readouterr().out
    for said in ('munet_1', 'norm_head', 'parameters per task'):
        assert said in out
    assert (tiny / 'quality.png').exists()
    records = {r['method']: r for r in read_records(tiny)}
    assert records.keys() == {'munet_1', 'norm_head'}
    for r in records.values():
        assert r['seed'] == 0
        assert r['versions']['jax']
        assert r['config']['training']['batches'] == 4
        assert r['seconds'] > 0
        assert f'--method {r["method"]} ' in r['command']
        for t in r['tasks'].values():
            assert {'validation', 'test', 'examples', 'lineage_examples'} <= t.keys()
            assert 0 <= t['test'] <= 1
            assert t['examples'] == 2 * 4 * 32
    before = (tiny / 'munet_1-0.json').read_bytes()
    assert bench_quality(tiny, '--method', 'munet_1', '--method', 'norm_head') == 0
    assert (tiny / 'munet_1-0.json').read_bytes() == before


@pytest.mark.parametrize(
    'bad',
    [
        ['--method', 'nothing'],
        ['--method', 'munet_7'],
        ['--method', 'taps_'],
        ['--method', 'munet_1+seed_segments=99'],
        ['--seed', '-1'],
    ],
)
def test_a_mistake_is_one_line_and_runs_nothing(tiny, bad, capsys):
    assert bench_quality(tiny, *bad) == 2
    err = capsys.readouterr().err
    assert err.startswith('munet: ') and err.count('\n') == 1
    assert not list(tiny.glob('*.json'))


def test_the_protocol_lists_methods_that_exist_and_configurations_that_differ_as_they_say():
    c = COMPARISONS['characters8']
    base = evolution_config('munet_1', c.config)
    assert base.scale_factor == 1
    assert evolution_config('munet_0.3', c.config) == replace(base, scale_factor=0.3)
    paper = replace(base, seed_segments=0, mutation_prob=0.1, cloning_prob=0.0)
    assert evolution_config(ABLATIONS[0], c.config) == paper
    for method in (*c.methods, *ABLATIONS):
        check_method(method, c, 3)


@pytest.mark.parametrize('name', COMPARISONS)
def test_the_committed_records_are_of_the_comparison_as_it_is(name, tmp_path):
    setting = Bench(COMPARISONS[name], tmp_path).setting
    assert {r['setting'] for r in read_records(RESULTS / name)} == {setting}


if __name__ == '__main__':  # write the golden journal anew: python tests/test_quality.py FOLDER
    # What changes this journal changes the demo's system too: the figures and the picture that
    # the README tells of `munet demo` are then to be made again.
    GOLDEN.parent.mkdir(exist_ok=True)
    lines = [json.dumps(r, sort_keys=True) + '\n' for r in golden_run(sys.argv[1])]
    GOLDEN.write_text(''.join(lines))
