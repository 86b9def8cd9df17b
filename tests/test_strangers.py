"""A run directory from a stranger.

Its journal names places to read from, holds records that no search writes, names that are made
to fool a page or a terminal, and layers that are none. Nothing of it may run, read what it should
not, or end in a traceback.
"""

import html
import json
import re
import shutil
import struct
from dataclasses import replace
from io import BytesIO
from xml.etree import ElementTree

import numpy as np
import pytest
from altered import altered
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from PIL import Image

from munet_nb import Config, Dashboard, Evolution, InputError, System
from munet_nb import load_benchmark, load_folder, load_root, load_tfds, task_from_arrays
from munet_nb.cli import main
from munet_nb.models.pool import Layer, params_digest
from munet_nb.pictures.controls import Line
from munet_nb.pictures.film import save_film
from munet_nb.pictures.history import History
from munet_nb.pictures.tables import journal_table, leaderboard
from munet_nb.pictures.tabs import OTHER_PICTURES, PICTURES, view_of
from munet_nb.runs.files import line_digest, load_layer, save_layer, seal
from munet_nb.runs.report import GenerationReport, GroupReport
from munet_nb.runs.rundir import RunDir, write_run
from munet_nb.runs.system import system_table
from munet_nb.search.ask import ask, next_task, probes_due
from munet_nb.search.groups import ask_groups, groups_due
from munet_nb.search.journal import open_first, open_records, replay
from munet_nb.search.records import check_records
from munet_nb.tasks.sources import SOURCES

TINY = dict(
    batch_size=8,
    batches=1,
    segments=1,
    children_per_task=2,
    children_per_generation=2,
    task_iterations=1,
    common_trunks=False,
)


def make_folder(path, n=12):
    "An image folder of two classes."
    for name, color in (('dark', 10), ('light', 200)):
        (path / name).mkdir(parents=True)
        for i in range(n):
            Image.new('L', (8, 8), color + i).save(path / name / f'{i}.png')
    return path


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    return make_folder(tmp_path_factory.mktemp('images') / 'shades')


@pytest.fixture(scope='module')
def run(folder, tmp_path_factory):
    "A small finished run on an image folder."
    path = tmp_path_factory.mktemp('runs') / 'my shades'
    config = Config.preset('demo', **TINY)
    with Evolution.create(path, load_root('random:Ti1'), [load_folder(folder)], config) as evo:
        evo.run()
    return path


HOSTILE = (
    '<img src=x onerror=alert(1)>',
    r'$\frac{x$ & $y^',
    '</td>|`%s {0} "a" \'b\'',
    '$' * 40,
)


@pytest.fixture(scope='module')
def hostile(tmp_path_factory):
    "A finished run in which everything happens, to tasks and classes with hostile names."
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (40, 8, 8), 'uint8'), [0, 1] * 20
    *tasks, late = [task_from_arrays(t, (images, labels), classes=HOSTILE) for t in HOSTILE]
    own = dict(common_trunks=True, group_generations=2, trial_segments=1, trunk_segments=1)
    more = dict(probed_seeds=1, acceptance_errors=1.0, keep='front')
    config = Config.preset('demo', **{**TINY, **own}, **more)
    path = tmp_path_factory.mktemp('runs') / 'hostile'
    with Evolution.create(path, load_root('random:Ti1'), tasks, config) as evo:
        evo.common_trunk()
        evo.step()
        evo.change(mutation_prob=0.3)
        evo.extend([late])
        evo.run()
        evo.extend(task_iterations=2, segments=1)
    return path


# What a journal says is read


@pytest.fixture
def loaded(monkeypatch):
    "What was loaded from sources of any kind."
    found = []

    def watched(kind, load):
        def watch(text, name):
            found.append(f'{kind}:{text}')
            return load(text, name)

        return watch

    for kind, row in list(SOURCES.items()):
        monkeypatch.setitem(SOURCES, kind, replace(row, load=watched(kind, row.load)))
    return found


def test_looking_at_a_run_reads_no_source(run, folder, loaded, capsys):
    image = str(folder / 'dark/0.png')
    assert main(['report', str(run)]) == 0
    assert main(['predict', str(run), '--task', 'shades', image]) == 0
    System.open(run)
    Dashboard.open(run)
    assert not loaded


def test_going_on_says_what_would_be_read_and_the_command_that_reads_it(
    run, folder, loaded, capsys
):
    assert main(['resume', str(run)]) == 2
    told = capsys.readouterr().err
    assert f"'shades' from 'folder:{folder}'" in told and not loaded
    assert 'type the same command with --trust-sources (' in told
    with pytest.raises(InputError, match='trust_sources=True'):
        Evolution.resume(run)
    assert not loaded
    assert main(['resume', str(run), '--trust-sources']) == 0
    assert loaded == [f'folder:{folder}']
    Evolution.resume(run, [load_folder(folder)]).close()
    assert main(['resume', str(run), '--moved', f'shades={folder}']) == 0


def test_tasks_that_come_with_the_package_go_on_without_a_word(tmp_path, loaded):
    tasks = [load_benchmark('demo', ['digits'])[0], load_benchmark('characters8', ['latin'])[0]]
    config = Config.preset('demo', **TINY)
    Evolution.create(tmp_path / 'r', load_root('random:Ti1'), tasks, config).close()
    Evolution.resume(tmp_path / 'r').close()
    assert loaded == ['benchmark:demo', 'benchmark:characters8']


def test_a_search_that_was_stopped_says_the_command_that_goes_on(folder, tmp_path, capsys):
    config = Config.preset('demo', **TINY)
    root = load_root('random:Ti1')
    for task, trust in ((load_folder(folder), ' --trust-sources'), (digits_task(), '')):
        path = tmp_path / task.name
        with Evolution.create(path, root, [task], config) as evo:
            evo.step = lambda count: pytest.fail('not wanted')
            with pytest.MonkeyPatch.context() as m:
                m.setattr('munet_nb.runs.advance.stop_on_interrupt', stopped)
                evo.run()
        told = capsys.readouterr().out
        assert told.rstrip().endswith(f'Go on with: munet resume {path}{trust}')


def digits_task():
    return load_benchmark('demo', ['digits'])[0]


class stopped:
    "Ctrl-C was pressed before anything began."

    def __enter__(self):
        return [True]

    def __exit__(self, *_):
        pass


@pytest.mark.parametrize(
    'source',
    [
        'folder:/etc',
        'idx:/etc',
        'hf:someone/data',
        'tfds:mnist@/tmp/x',
        'tfds:mnist',
        'tfds:mnist@gs://bucket/data',
        'benchmark:vit',
        'benchmark:characters',
        'nothing:x',
    ],
)
def test_no_other_source_is_read_unasked(run, source, tmp_path, loaded):
    path = with_records(run, tmp_path / 'r', lambda records: set_source(records, source))
    with pytest.raises(InputError, match='its journal names where to read') as e:
        Evolution.resume(path)
    assert repr(source) in str(e.value) and not loaded


def set_source(records, source):
    records[0]['tasks'][0]['source'] = source


def with_records(run, path, alter):
    "A copy of a run, its records altered."
    shutil.copytree(run, path)
    # A fresh copy: where a run reads them, equal references are one dict.
    records = json.loads(json.dumps(RunDir(path).records()))
    alter(records)
    for file in path.glob('journal.*'):
        file.unlink()
    write_run(path, records)
    return path


def test_no_code_is_run_that_a_data_set_names(tmp_path, monkeypatch):
    "Not even if its directory is trusted."
    from test_tasks import TinyShapes

    data = tmp_path / 'data'
    TinyShapes(data_dir=data, file_format='array_record').download_and_prepare()
    (tmp_path / 'code').mkdir()
    (tmp_path / 'code/stranger.py').write_text('import pathlib; pathlib.Path("ran").touch()')
    monkeypatch.syspath_prepend(tmp_path / 'code')
    monkeypatch.chdir(tmp_path)
    (data / 'tiny_shapes').rename(data / 'their_shapes')
    for version in (data / 'their_shapes').iterdir():
        for file in version.glob('tiny_shapes-*'):
            file.rename(version / file.name.replace('tiny', 'their'))
        info = version / 'dataset_info.json'
        info.write_text(info.read_text().replace('tiny_shapes', 'their_shapes'))
        features = version / 'features.json'
        as_it_was = features.read_text()
        own = 'tensorflow_datasets.core.features.image_feature.Image'
        assert own in as_it_was
        features.write_text(as_it_was.replace(own, 'stranger.Image'))
    with pytest.raises(InputError, match="feature of a TFDS data set = 'stranger.Image'"):
        load_tfds('their_shapes', data_dir=data)
    assert not (tmp_path / 'ran').exists()
    features.write_text(as_it_was)
    assert len(load_tfds('their_shapes', data_dir=data).train) == 57
    for name in ('ns:shapes', 'huggingface:mnist', 'their_shapes/data_dir=x', 'a.b', '../x'):
        with pytest.raises(InputError, match='must be NAME, NAME/CONFIG'):
            load_tfds(name, data_dir=data)


# Records that no search writes


@pytest.fixture(scope='module')
def all_kinds(hostile):
    "The records of a run in which everything happens: groups, a trunk, probes, a change, a task."
    records = RunDir(hostile).records()
    assert len({r['kind'] for r in records}) >= 9
    return records


def use(records):
    "All that is made of records: by opening, by reporting, and by going on."
    check_records(records)
    state, arch, config = open_records(records)
    system_table(state, arch)
    leaderboard(records)
    journal_table(records, len(records))
    for i, record in enumerate(records):
        if record['kind'] == 'generation':
            repr(GenerationReport(record, replay(records[:i]), arch))
        elif record['kind'] in ('groups', 'common_trunk'):
            repr(GroupReport(record))
    if groups_due(state, config):
        if state.groups:
            ask_groups(state, config, arch)
    elif next_task(state, config) and not probes_due(state, config):
        ask(state, config, arch)


@settings(
    max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_altered_records_are_used_as_they_are_or_refused_by_line(all_kinds, data):
    "A record is never half believed: there is no other exception, and no half of a state."
    new = altered(all_kinds, lambda choices: data.draw(st.sampled_from(choices)))
    try:
        use(new)
    except InputError as e:
        assert str(e).startswith('journal.jsonl, line '), e
        assert '\x1b' not in str(e) and '\u202e' not in str(e)


def test_what_is_read_is_checked_wherever_a_run_is_opened(run, tmp_path, capsys):
    path = tmp_path / 'r'

    def damage(records):
        records[2]['children'][0]['model']['chain'][2]['digest'] = None

    with_records(run, path, damage)
    told = 'line 3: children[0].model.chain[2].digest = None: must be 64 hexadecimal digits'
    for command in ('report', 'resume'):
        assert main([command, str(path)]) == 2
        assert told in capsys.readouterr().err
    for open_it in (System.open, Dashboard.open, Evolution.resume, lambda p: RunDir(p).records()):
        with pytest.raises(InputError) as e:
            open_it(path)
        assert told in str(e.value)
    deep = b'{"kind":' + b'[' * 100_000
    (path / 'journal.jsonl').write_bytes(deep + seal(line_digest('', deep)) + b'\n')
    with pytest.raises(InputError, match='line 1: is not a journal record'):
        System.open(path)


# Layers that are none


def with_layer(run, path, name, change):
    "A copy of a run in which the kept model has another layer of that name, of the right digest."
    model = System.open(run).models['shades']
    old = model.layers[name].digest
    flat = {k: np.array(a) for k, a in load_layer(run / 'pool', old).flat.items()}
    change(flat)
    new = Layer(flat, params_digest(flat))

    def replaced(records):
        text = json.dumps(records).replace(old, new.digest)
        records[:] = json.loads(text)

    with_records(run, path, replaced)
    save_layer(path / 'pool', new)
    return path


def set_first(flat, value):
    next(iter(flat.values())).flat[0] = value


def each(flat, act):
    flat.update({k: act(a) for k, a in flat.items()})


LAYERS = {
    'NaN': ('head', lambda flat: set_first(flat, np.nan), 'holds NaN or infinity'),
    'infinity': ('block_0', lambda flat: set_first(flat, -np.inf), 'holds NaN or infinity'),
    'float64': ('norm', lambda flat: each(flat, lambda a: a.astype('float64')), 'type float64'),
    'int32': ('cls', lambda flat: each(flat, lambda a: a.astype('int32')), 'type int32'),
    'a shape': ('cls', lambda flat: each(flat, lambda a: a.reshape(-1)), 'its shape must be'),
    'another grid': (
        'posembed', lambda flat: each(flat, lambda a: a[:, :2]), 'parameters, not'
    ),
    'a name': ('norm', lambda flat: flat.update(x=flat.pop('norm/bias')), "parameter 'norm/bias'"),
    'turned': ('head', lambda flat: each(flat, lambda a: a.T), 'must be'),
    'none': ('head', lambda flat: flat.clear(), 'parameters, not'),
    'both': ('head', lambda flat: flat.update({'dense': flat['dense/bias'][:0]}), 'kind head'),
}


@pytest.mark.parametrize('what', LAYERS)
def test_a_layer_that_is_none_is_refused_when_it_is_read(run, folder, tmp_path, what, capsys):
    name, change, told = LAYERS[what]
    path = with_layer(run, tmp_path / 'r', name, change)
    with pytest.raises(InputError, match=told) as e:
        System.open(path)
    assert f'layer {name}, ' in str(e.value)
    with pytest.raises(InputError, match=told):
        Evolution.resume(path, [load_folder(folder)])
    image = str(folder / 'dark/0.png')
    assert main(['predict', str(path), '--task', 'shades', image]) == 2
    assert 'nan' not in capsys.readouterr().out


@pytest.mark.parametrize('kind', ['BF16', 'F8_E5M2', 'BOOL'])
def test_numbers_that_numpy_does_not_have_are_refused(run, tmp_path, kind):
    path = tmp_path / 'r'
    shutil.copytree(run, path)
    digest = System.open(run).models['shades'].layers['cls'].digest
    header = {'token': {'dtype': kind, 'shape': [1, 2, 1], 'data_offsets': [0, 2]}}
    header['token']['data_offsets'][1] = 4 if kind == 'BF16' else 2
    text = json.dumps(header).encode()
    file = path / 'pool' / f'{digest}.safetensors'
    file.write_bytes(struct.pack('<Q', len(text)) + text + b'\1' * 4)
    with pytest.raises(InputError, match='altered'):
        System.open(path)


# Names that are made to fool a page, a picture or a terminal

COMMANDS = '\x1b]0;mine\x07\x1b[2J\u202e\u2066'


def is_safe_html(text):
    "Whether a page made of this shows the names and has none of their tags."
    assert '<img' not in text and '</td>|' not in text
    return html.escape(HOSTILE[0]) in text


def texts_of(figure):
    "What a picture shows, as an SVG that a browser reads."
    out = BytesIO()
    figure.savefig(out, format='svg')
    ElementTree.fromstring(out.getvalue())
    return [t.get_text() for t in figure.findobj(lambda a: hasattr(a, 'get_text'))]


def test_pictures_show_names_as_they_are(hostile):
    records = RunDir(hostile).records()
    for draw in (*PICTURES.values(), *(draw for _, draw in OTHER_PICTURES.values())):
        for text in texts_of(draw(records)):
            assert not re.search(r'(?<!\\)\$.*(frac|y\^)', text), (draw, text)


def test_pages_show_names_as_they_are(hostile):
    system, records = System.open(hostile), RunDir(hostile).records()
    arch, _ = open_first(records[0])
    assert is_safe_html(system._repr_html_())
    shown = 0
    for i, record in enumerate(records):
        if record['kind'] == 'generation':
            report = GenerationReport(record, replay(records[:i]), arch)
            shown += is_safe_html(report._repr_html_())
    assert shown
    history = History(records)
    past = history.at(len(records))
    for tab, how in (('Leaderboard', 'test'), ('Journal', None)):
        assert is_safe_html(view_of(tab, past, how))
    line = Line('notice')
    for error in (False, True):
        line.show(f'{HOSTILE[0]}{COMMANDS}', error)
        assert is_safe_html(line.value) and not commands_in(line.value)


def commands_in(text):
    return set(text) & set(COMMANDS) - set('0;mine]J[2')


def test_no_command_reaches_a_terminal(hostile, run, folder, tmp_path, capsys):
    "Neither of a journal, which is refused, nor of records in memory, a path or an option."
    path = with_records(
        run, tmp_path / 'r', lambda records: records[0]['tasks'][0].update(name=COMMANDS)
    )
    image = str(folder / 'dark/0.png')
    for args in (
        ['report', str(path)],
        ['resume', str(path)],
        ['report', str(tmp_path / COMMANDS)],
        ['predict', str(run), '--task', COMMANDS, image],
        ['predict', str(run), '--task', 'shades', str(tmp_path / COMMANDS)],
        ['resume', str(run), '--moved', f'{COMMANDS}={folder}'],
        ['evolve', '--run', str(tmp_path / 'x'), '--folder', str(tmp_path / COMMANDS)],
    ):
        assert main(args) == 2, args
        out = capsys.readouterr()
        assert not commands_in(out.out + out.err), args
        assert out.err.startswith('munet: ') and out.err.count('\n') == 1, args
    named = tmp_path / COMMANDS.replace('/', '') / 'run'
    shutil.copytree(run, named)
    assert main(['report', str(named)]) == 0
    assert not commands_in(capsys.readouterr().out)
    with pytest.raises(InputError) as e:
        RunDir(tmp_path / COMMANDS).records()
    assert not commands_in(str(e.value))


def test_reports_of_hostile_records_print_no_command(hostile):
    records = json.loads(json.dumps(RunDir(hostile).records()).replace(HOSTILE[0], 'xyz'))
    text = json.dumps(records).replace('"xyz', f'"{COMMANDS}'.encode('unicode_escape').decode())
    records = json.loads(text.replace('\\x', '\\u00'))
    state, arch, _ = open_records(records)
    assert COMMANDS in state.tasks
    system = System(state, {}, arch, None)
    assert not commands_in(repr(system) + system._repr_html_())
    for i, record in enumerate(records):
        if record['kind'] == 'generation':
            report = GenerationReport(record, replay(records[:i]), arch)
        elif record['kind'] in ('groups', 'common_trunk'):
            report = GroupReport(record)
        else:
            continue
        assert not commands_in(repr(report))
    for draw in (*PICTURES.values(), *(draw for _, draw in OTHER_PICTURES.values())):
        assert not commands_in(' '.join(texts_of(draw(records))))


def test_the_progress_of_a_search_prints_no_command(tmp_path, capsys, monkeypatch):
    task = replace(digits_task(), name='digits')
    monkeypatch.setattr('munet_nb.runs.advance.next_task', lambda *_: COMMANDS)
    monkeypatch.setattr(GenerationReport, 'line', lambda self: COMMANDS)
    config = Config.preset('demo', **{**TINY, 'children_per_task': 1})
    path = tmp_path / 'r'
    with Evolution.create(path, load_root('random:Ti1'), [task], config) as evo:
        evo.run()
    out = capsys.readouterr()
    told = re.sub('\x1b\\[A', '', out.out + out.err)  # how tqdm goes up a line
    assert r'\x1b]0;mine\x07' in told and not commands_in(told)


# Links in place of what is written


def test_what_is_written_replaces_links_and_never_follows_them(run, tmp_path, monkeypatch):
    path = tmp_path / 'r'
    shutil.copytree(run, path)
    mine = tmp_path / 'mine.txt'
    mine.write_text('mine')
    monkeypatch.setattr('munet_nb.bench.speed.measure_speed', lambda *_: {})
    monkeypatch.setattr('munet_nb.bench.speed.show_speed', lambda record: '')
    names = ('architectures.png', 'progress.png', 'speed.json', 'film.gif')
    for name in names:
        (path / name).unlink(missing_ok=True)
        (path / name).symlink_to(mine)
    assert main(['report', str(path)]) == 0
    assert main(['bench', 'speed', '--json', str(path / 'speed.json')]) == 0
    save_film(RunDir(path).records(), path / 'film.gif')
    System.open(path).export('shades', path / 'exported', 'safetensors')
    assert mine.read_text() == 'mine'
    for name in names:
        assert (path / name).is_file() and not (path / name).is_symlink(), name
    (path / 'progress.png').unlink()
    (path / 'progress.png').symlink_to(tmp_path / 'nowhere')
    assert main(['report', str(path)]) == 0
    assert not (tmp_path / 'nowhere').exists()
    for name in ('exported', 'linked'):
        folder = path / name
        if name == 'linked':
            folder.symlink_to(tmp_path)
        with pytest.raises(InputError):
            System.open(path).export('shades', folder, 'safetensors')
