"""The comparison of methods: a tiny run of the benchmark as it was committed.

And `munet bench quality` as a user meets it.
"""

import json
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from munet_nb import Config, Evolution, System, load_benchmark, load_root
from munet_nb.bench.comparison import Stopped, run_method
from munet_nb.bench.folder import Bench
from munet_nb.bench.protocol import ABLATIONS, COMPARISONS, EARLIER, Comparison, charged_plans
from munet_nb.bench.protocol import check_method, evolution_config
from munet_nb.bench.records import mean_test, read_records
from munet_nb.bench.results import difference_table
from munet_nb.bench.rivals import halving, race
from munet_nb.cli import main
from munet_nb.search.config import with_fields

GOLDEN = Path(__file__).parent / 'golden' / 'characters8.jsonl'
RESULTS = Path(__file__).parents[1] / 'nbs' / 'results'


def golden_run(path) -> list[dict]:
    tasks = [t for t in load_benchmark('characters8') if t.name in ('digits', 'devanagari')]
    values = dict(
        children_per_task=4,
        children_per_generation=2,
        seed_segments=1,
        batches=6,
        segments=2,
        batch_size=32,
        validation_batches=4,
        seed=1,
    )
    config = Config.preset('characters8', **{**EARLIER, **values})
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
    values = dict(
        batch_size=32,
        batches=4,
        segments=1,
        children_per_task=2,
        children_per_generation=2,
        task_iterations=1,
        common_trunks=False,
        probed_seeds=0,
    )
    config = Config.preset('demo', **values)
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


def test_the_charged_comparison_is_made_on_tasks_of_ones_own(tiny, monkeypatch, capsys):
    monkeypatch.setitem(COMPARISONS, 'charged', COMPARISONS['quick'])
    sources = ['benchmark:demo/parity', 'benchmark:demo/digits']
    words = ['bench', 'quality', '--out', str(tiny), '--tasks', *sources]
    run = ['--method', 'munet_1', '--seed', '1']
    assert main([*words, *run]) == 0
    (record,) = read_records(tiny)
    assert record['tasks'].keys() == {'digits', 'parity'}
    assert record['command'] == f'munet bench quality --tasks {" ".join(sources)} {" ".join(run)}'
    capsys.readouterr()
    for sources_given, said in {
        (*sources, 'nowhere'): 'nowhere',
        (sources[0], sources[0]): "2 tasks are named 'parity'",
        (sources[0],): 'choose another folder',  # other tasks, the same folder
    }.items():
        given = ['--tasks', *sources_given, *run]
        assert main(['bench', 'quality', '--out', str(tiny), *given]) == 2
        err = capsys.readouterr().err
        assert said in err and err.count('\n') == 1
    with pytest.raises(SystemExit):
        main([*words, '--quick'])


def test_image_folders_of_any_name_are_compared_and_their_records_say_how(
    tiny, monkeypatch, tmp_path
):
    few = replace(COMPARISONS['quick'], rates=(0.05, 0.1))
    longer = with_fields(few.config, segments=4)
    monkeypatch.setitem(COMPARISONS, 'charged', replace(few, config=longer))
    names = ['two words', 'a' * 90, 'b' * 90, 'c' * 90]  # together longer than a file's name may be
    rng = np.random.default_rng(0)
    for name in names:
        for cls in 'xy':
            folder = tmp_path / name / cls
            folder.mkdir(parents=True)
            for i in range(10):
                pixels = rng.integers(0, 255, (8, 8), np.uint8)
                Image.fromarray(pixels).save(folder / f'{i}.png')
    sources = [str(tmp_path / name) for name in names]
    words = ['bench', 'quality', '--out', str(tiny), '--tasks', *sources, '--seed', '1']
    methods = ['--method', 'munet_1', '--method', 'joint@charged']
    assert main([*words, *methods]) == 0
    for record in read_records(tiny):
        assert record['tasks'].keys() == set(names)
        told = shlex.split(record['command'])
        assert told[: told.index('--method')] == ['munet', 'bench', 'quality', '--tasks', *sources]


def test_one_run_that_keeps_its_fronts_tells_of_four_sizes(tiny, capsys):
    method = 'munet_1+keep=front+children_per_task=4+mutation_prob=0.5'
    assert bench_quality(tiny, '--method', method) == 0
    (record,) = read_records(tiny)
    assert list(record['sizes']) == ['0.3', '0.7', '0.9', '1']
    system = System.open(tiny / 'work' / 'runs' / f'{method}-0')
    for s, told in record['sizes'].items():
        chosen = system.at(scale_factor=float(s))
        assert told['kept'] == {t: m.id for t, m in chosen.models.items()}
        assert told['params_per_task'] == chosen.params_per_task and told['gap'] == 0
        assert set(told['kept'].values()) <= record['models'].keys()
        for task, of in told['tasks'].items():
            assert of['test'] == chosen.table().test[task]
            assert of['examples'] == record['tasks'][task]['examples']
    assert f'munet_0.3 of {method}' in capsys.readouterr().out


@pytest.mark.parametrize(
    'bad',
    [
        ['--method', 'nothing'],
        ['--method', 'munet_7'],
        ['--method', 'taps_'],
        ['--method', 'munet_1+seed_segments=99'],
        ['--method', 'munet_1+root_layers=x'],
        ['--method', 'joint+norm_head'],
        ['--method', 'joint+joint@charged'],
        ['--method', 'adamerging@charged'],
        ['--method', 'polytropon_4'],
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
    blocks = evolution_config('munet_1+root_layers=2', c.config)
    assert blocks == replace(base, root_layers=2)
    paper = replace(base, seed_segments=0, mutation_prob=0.1, cloning_prob=0.0)
    assert evolution_config(ABLATIONS[0], c.config) == paper
    for method in (*c.methods, *ABLATIONS):
        check_method(method, c, 3)

def test_a_budget_that_is_charged_for_everything_is_used_up_and_never_exceeded():
    plan = halving(6, 160)
    assert plan.rungs == ((6, 5), (3, 10)) and plan.final == 100
    for rates in range(1, 9):
        for budget in range(40, 200, 7):
            assert halving(rates, budget).segments == budget


def test_of_rates_that_are_tied_the_lower_goes_on_and_longer_rungs_decide():
    long = {0.01: 0.4, 0.02: 0.5, 0.05: 0.5}
    lr, rungs = race(
        (0.5, 0.2, 0.1, 0.05, 0.02, 0.01), halving(6, 160), lambda lr, n: long.get(lr, 0.9) * (n > 5)
    )
    assert lr == 0.02
    assert [r['rates'] for r in rungs][1] == [0.01, 0.02, 0.05]


@pytest.fixture
def charged(tiny, monkeypatch):
    "The tiny comparison with two rates to choose from and eight segments a task."
    config = with_fields(COMPARISONS['quick'].config, children_per_task=8)
    changes = {'rates': (0.2, 0.05), 'config': config}
    monkeypatch.setitem(COMPARISONS, 'quick', replace(COMPARISONS['quick'], **changes))
    return tiny


CHARGED = (
    'norm_head@charged', 'joint@charged', 'polytropon_2_3@charged', 'joint+norm_head@charged',
    'joint+adapters_4@charged', 'joint+lora_2@charged', 'joint+finetune_all@charged',
)  # fmt: skip


def test_an_evolution_with_common_trunks_tells_all_examples_it_took(tiny, monkeypatch):
    "Those of trials, trunks, probes and children, of whichever task."
    quick = COMPARISONS['quick']
    together = dict(common_trunks=True, group_generations=1, trial_segments=1, trunk_segments=1)
    config = with_fields(quick.config, **together, probed_seeds=1, children_per_task=4)
    changed = replace(quick, config=config, methods=('munet_1',))
    monkeypatch.setitem(COMPARISONS, 'quick', changed)
    assert bench_quality(tiny) == 0
    (record,) = read_records(tiny)
    journal = tiny / 'work/runs/munet_1-0/journal.jsonl'
    segments = dict.fromkeys(record['tasks'], 0)
    for r in map(json.loads, journal.open()):
        if r['kind'] == 'groups':
            for task in segments:  # a trial's probe is a segment, and so is the root's
                own = [t for t in r['trials'] if task in t['tasks']]
                segments[task] += len(r['trials']) + r['segments'] * len(own)
        elif r['kind'] == 'common_trunk':
            for task in r['tasks']:
                segments[task] += r['segments'] + 1
        elif r['kind'] == 'probes':
            segments[r['task']] += r['segments']
        elif r['kind'] == 'generation':
            segments[r['task']] += r['segments'] * len(r['children'])
    for task, told in record['tasks'].items():
        assert told['examples'] == segments[task] * 4 * 32
        assert told['lineage_examples'] > 0


@pytest.mark.long
def test_with_everything_charged_a_record_tells_all_examples_and_the_rungs(charged, capsys):
    assert bench_quality(charged, *(a for m in CHARGED for a in ('--method', m))) == 0
    capsys.readouterr()
    records = {r['method']: r for r in read_records(charged)}
    assert records.keys() == set(CHARGED)
    segment = 4 * 32
    for method, record in records.items():
        stages = len(charged_plans(method, COMPARISONS['quick']))
        assert stages == (2 if '+' in method else 1)
        plan = halving(2, 8 // stages)
        for t in record['tasks'].values():
            assert t['examples'] == 8 * segment
            assert t['lineage_examples'] == stages * plan.final * segment
            for stage in (t, t['trunk']) if stages == 2 else (t,):
                assert stage['segments'] == plan.final
                (rung,) = stage['rungs']
                assert rung['rates'] == [0.05, 0.2]
                assert rung['segments'] == plan.rungs[0][1]
                found = dict(zip(rung['rates'], rung['accuracies']))
                assert stage['lr'] == max(sorted(found), key=found.get)
    trunks = [r['tasks']['digits']['trunk'] for m, r in records.items() if '+' in m]
    assert all(trunk == trunks[0] for trunk in trunks)  # one for all rivals of a seed


def test_a_common_trunk_is_shared_and_what_follows_it_is_the_tasks_own(charged, capsys):
    methods = ('joint+norm_head@charged', 'joint+finetune_all@charged', 'polytropon_2_3@charged')
    assert bench_quality(charged, *(a for m in methods for a in ('--method', m))) == 0
    capsys.readouterr()
    light, whole, mixed = (json.loads((charged / f'{m}-0.json').read_text()) for m in methods)

    def shared(record):
        digits, parity = (t['parts'] for t in record['tasks'].values())
        return digits.keys() & parity.keys()

    assert {n.partition('/')[0] for n in shared(light)} == {'trunk'}
    assert shared(whole) == set()
    assert {n for n in shared(mixed) if not n.startswith('root/')} == {
        'inventory', 'polytropon norm'
    }  # fmt: skip
    own = {t: r['parts'][f'{t}/logits'] for t, r in mixed['tasks'].items()}
    assert own == {'digits': 2, 'parity': 2}
    assert light['params_per_task'] < whole['params_per_task']


def test_a_run_that_is_stopped_in_a_race_goes_on_behind_its_last_trial(charged, monkeypatch):
    comparison = COMPARISONS['quick']
    whole = Bench(comparison, charged)
    record = run_method(whole, 'polytropon_2_3@charged', 0)
    bench, ticks = Bench(comparison, charged.with_name('other')), []

    def stop_in_the_second(n):
        ticks.append(n)
        if len(ticks) == 2:
            raise Stopped

    assert halving(2, 8).rungs == ((2, 1),)  # two trials of a segment
    bench.progress = stop_in_the_second
    with pytest.raises(Stopped):
        run_method(bench, 'polytropon_2_3@charged', 0)
    bench.progress = ticks.append
    assert run_method(bench, 'polytropon_2_3@charged', 0)['tasks'] == record['tasks']
    assert len(ticks) == 8 + 1
    assert not list((bench.work / 'replicas').rglob('*.*'))


def test_the_interval_of_a_difference_holds_it_and_narrows_with_more_seeds():
    rng = np.random.default_rng(0)

    def record(method, seed, shift):
        tasks = {f't{i}': {'test': 0.5 + shift + noise} for i, noise in enumerate(noises[seed])}
        return {'method': method, 'seed': seed, 'tasks': tasks, 'params_per_task': 1}

    noises = rng.normal(0, 0.2, (12, 8))  # of a seed and a task, the same for both methods
    own = rng.normal(0.03, 0.02, 12)
    records = [record('a', s, 0) for s in range(12)] + [record('b', s, own[s]) for s in range(12)]
    few = [r for r in records if r['seed'] < 3]
    (narrow,), (wide,) = (
        difference_table(rs, 'a', 1).itertuples() for rs in (records, few)
    )
    a, b = ([mean_test(r) for r in records if r['method'] == m] for m in 'ab')
    assert narrow.difference == pytest.approx(100 * (np.mean(b) - np.mean(a)))
    assert narrow.low < narrow.difference < narrow.high
    # What the two have in common (20 points of noise) is not in the interval.
    assert narrow.high - narrow.low < 4
    assert (narrow.seeds, wide.seeds) == (12, 3)


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
