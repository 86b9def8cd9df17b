"A run in TensorBoard, MLflow and W&B: what was written is read back with their own formats."

import json
import os
import struct
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest

from munet_nb.checks import InputError
from munet_nb.cli import main
from munet_nb.runs.files import Head, head_file, sealed
from munet_nb.runs.rundir import RunDir, example_run
from munet_nb.search.costs import cost_line, images_line, Images
from munet_nb.tracking import events, sinks
from munet_nb.tracking import track as tracking
from munet_nb.tracking.track import track

RECORDS = RunDir(example_run()).records()[:9]  # two tasks, an iteration each
SEGMENT = 2048  # images


@pytest.fixture(autouse=True)
def one_picture(monkeypatch):
    "All of them are drawn by the notebook."
    one = {'Architectures': events.PICTURES['Architectures']}
    monkeypatch.setattr(events, 'PICTURES', one)


def put(path: Path, records) -> Path:
    "A run directory whose journal has these records, and what they cost."
    path.mkdir(exist_ok=True)
    lines, digest = [], ''
    costs = [images_line('mnist5k', Images(600, 1000))]
    for number, record in enumerate(records):
        line, digest = sealed(record, digest)
        lines.append(line)
        if record['kind'] == 'generation':
            segments = sum(len(c['model']['evaluations']) for c in record['children'])
            costs.append(cost_line(number, 1.0, 0.0, {record['task']: segments * SEGMENT}))
    run = RunDir(path)
    run.costs.write_text(''.join(json.dumps(told) + '\n' for told in costs))
    run.journal.write_bytes(b''.join(lines))
    head_file(run.journal).write_bytes(Head(len(lines), digest).to_bytes())
    return path


def files_of(path: Path) -> dict[str, bytes]:
    return {p.name: p.read_bytes() for p in path.rglob('*') if p.is_file()}


@pytest.fixture
def run(tmp_path):
    "The directory of a run, which must be the same afterwards."
    path = put(tmp_path / 'letters', RECORDS)
    before = files_of(path)
    yield path
    assert files_of(path) == before


def event_values(folder: Path):
    "All values of event files, by the folder that they lie in."
    from tensorboardX.proto.event_pb2 import Event

    for path in sorted(folder.rglob('events*')):
        data, at = path.read_bytes(), 0
        while at < len(data):
            (n,) = struct.unpack('<Q', data[at : at + 8])
            event = Event.FromString(data[at + 12 : at + 12 + n])
            at += n + 16
            for value in event.summary.value:
                yield path.parent.relative_to(folder).as_posix(), event.step, value


def scalars_of(folder: Path) -> Counter:
    "(folder, tag, step, value) -> how often it is there."
    return Counter(
        (where, v.tag, step, round(v.simple_value, 5))
        for where, step, v in event_values(folder)
        if v.WhichOneof('value') == 'simple_value'
    )


def curve(found, where: str, tag: str) -> list[tuple[int, float]]:
    return sorted((step, value) for w, t, step, value in found if (w, t) == (where, tag))


def test_tensorboard_has_curves_hyperparameters_texts_and_pictures(run, tmp_path):
    told = track(run, 'tensorboard', tmp_path / 'logs')
    assert (told.records, told.new) == (9, 9)
    (top,) = (tmp_path / 'logs').iterdir()
    found = scalars_of(top)
    accuracies = [round(r['best']['quality'], 5) for r in RECORDS[1:4]]
    own = curve(found, '2 tasks/mnist5k', 'validation_accuracy/by_generation')
    assert own == list(zip((1, 2, 3), accuracies))
    segments = [sum(len(c['model']['evaluations']) for c in r['children']) for r in RECORDS[1:4]]
    seen = [step for step, _ in curve(found, '2 tasks/mnist5k', 'validation_accuracy/by_examples')]
    assert seen == [SEGMENT * sum(segments[: n + 1]) for n in range(3)]
    child = RECORDS[2]['children'][1]['model']
    at = '3 children/mnist5k/1.2.2'
    learned = curve(found, at, 'validation_accuracy/by_segment')
    assert learned == [(i, round(v, 5)) for i, v in enumerate(child['evaluations'], 1)]
    assert curve(found, at, 'result/score') == [(0, round(RECORDS[2]['children'][1]['score'], 5))]
    rest = {(w, v.tag.removesuffix('/text_summary')) for w, _, v in event_values(top)}
    assert ('1 system', 'architectures') in rest and ('2 tasks/digits', 'model_card') in rest
    assert (at, '_hparams_/session_start_info') in rest and ('1 system', 'configuration') in rest


def test_what_is_told_in_pieces_is_what_is_told_at_once_and_nothing_twice(tmp_path):
    logs = tmp_path / 'logs'
    for n in (2, 5, 9, 9):
        told = track(put(tmp_path / 'copy', RECORDS[:n]), 'tensorboard', logs)
    assert (told.records, told.new) == (9, 0)
    os.rename(tmp_path / 'copy', tmp_path / 'elsewhere')  # it is the same run
    assert track(tmp_path / 'elsewhere', 'tensorboard', logs).new == 0
    track(put(tmp_path / 'whole', RECORDS), 'tensorboard', tmp_path / 'once')
    in_pieces, once = ((next(p.iterdir())) for p in (logs, tmp_path / 'once'))
    assert scalars_of(in_pieces) == scalars_of(once)
    assert set(scalars_of(once).values()) == {1}


def test_a_run_that_goes_on_is_followed_until_ctrl_c(tmp_path, monkeypatch):
    path = put(tmp_path / 'live', RECORDS[:2])
    later = [3, 6, 9]

    def sleep(seconds):  # another process writes
        if not later:
            raise KeyboardInterrupt
        put(path, RECORDS[: later.pop(0)])

    monkeypatch.setattr(tracking, 'time', SimpleNamespace(sleep=sleep))  # other threads sleep on
    told = track(path, 'tensorboard', tmp_path / 'logs', follow=True)
    assert (told.records, told.new) == (9, 9)
    (top,) = (tmp_path / 'logs').iterdir()
    assert len(curve(scalars_of(top), '2 tasks/digits', 'validation_accuracy/by_generation')) == 3
    steps = {step for _, step, v in event_values(top) if v.tag == 'architectures'}
    assert steps == {4, 6}  # with the first end of a task iteration, and with the second


def test_a_record_whose_cost_is_not_told_yet_waits_for_the_next_look(tmp_path, monkeypatch):
    path = put(tmp_path / 'live', RECORDS[:3])
    costs = (path / 'costs.jsonl').read_text()
    (path / 'costs.jsonl').write_text(''.join(costs.splitlines(True)[:-1]))
    ticks = iter([lambda: (path / 'costs.jsonl').write_text(costs)])

    def sleep(seconds):
        tick = next(ticks, None)
        if not tick:
            raise KeyboardInterrupt
        tick()

    monkeypatch.setattr(tracking, 'time', SimpleNamespace(sleep=sleep))  # other threads sleep on
    track(path, 'tensorboard', tmp_path / 'logs', follow=True)
    found = scalars_of(tmp_path / 'logs')
    where = next(w for w, *_ in found if w.endswith('2 tasks/mnist5k'))
    assert len(curve(found, where, 'validation_accuracy/by_examples')) == 2


def test_two_processes_do_not_tell_one_place_at_once(run, tmp_path, monkeypatch):
    told = []

    def second(*given):
        if not told:
            told.append(1)
            with pytest.raises(InputError, match='another process tells'):
                track(run, 'tensorboard', tmp_path / 'board')
        return tell_all(*given)

    tell_all = tracking._tell_all
    monkeypatch.setattr(tracking, '_tell_all', second)
    track(run, 'tensorboard', tmp_path / 'board')
    assert track(run, 'tensorboard', tmp_path / 'board').new == 0


def test_a_run_that_was_cut_since_is_not_told_on(run, tmp_path):
    track(run, 'tensorboard', tmp_path / 'board')
    (tmp_path / 'cut').mkdir()
    put(tmp_path / 'cut' / 'letters', RECORDS[:4])
    with pytest.raises(InputError, match='has 4 records, and tensorboard was told of 9'):
        track(tmp_path / 'cut' / 'letters', 'tensorboard', tmp_path / 'board')


def test_of_many_tasks_few_files_are_open(run, tmp_path, monkeypatch):
    track(run, 'tensorboard', tmp_path / 'all')
    monkeypatch.setattr(sinks, '_MOST_OPEN', 1)
    track(run, 'tensorboard', tmp_path / 'few')

    def values(place):
        return Counter((where, step, value.tag) for where, step, value in event_values(place))

    assert values(tmp_path / 'few') == values(tmp_path / 'all')


def test_names_of_strangers_stay_below_the_place_and_are_no_markup(tmp_path):
    text = json.dumps(RECORDS).replace('mnist5k', '../../<b>x').replace('digits', '/etc/a|b')
    track(put(tmp_path / 'strange', json.loads(text)), 'tensorboard', tmp_path / 'logs')
    assert {p.name for p in tmp_path.iterdir()} == {'strange', 'logs'}
    texts = [
        v.tensor.string_val[0].decode()
        for _, _, v in event_values(tmp_path / 'logs')
        if v.tag.endswith('/text_summary')
    ]
    assert texts and not any('<b>' in t or 'a|b' in t.replace('a\\|b', '') for t in texts if '```' not in t)


def test_mlflow_has_runs_below_runs_with_parameters_tables_and_cards(run, tmp_path, monkeypatch):
    monkeypatch.setenv('MLFLOW_ALLOW_FILE_STORE', 'true')  # it needs no data base
    monkeypatch.setenv('MLFLOW_DISABLE_TELEMETRY', 'true')
    place = f'file:{tmp_path / "mlruns"}'
    part = put(tmp_path / 'part', RECORDS[:5])
    assert [track(p, 'mlflow', place).new for p in (part, run, run)] == [5, 4, 0]
    from mlflow import MlflowClient

    client = MlflowClient(tracking_uri=place)
    (experiment,) = (e for e in client.search_experiments() if e.name.startswith('part-'))
    runs = {r.info.run_name: r for r in client.search_runs([experiment.experiment_id])}
    children = sum(len(r.get('children', ())) for r in RECORDS)
    assert len(runs) == 1 + 2 + children
    task, child = runs['mnist5k'], runs['mnist5k 1.2.2']
    assert child.data.tags['mlflow.parentRunId'] == task.info.run_id
    assert child.data.params['momentum'] == '0.8' and child.info.status == 'FINISHED'
    curve = client.get_metric_history(child.info.run_id, 'validation accuracy/by segment')
    told = RECORDS[2]['children'][1]['model']['evaluations']
    assert [(m.step, m.value) for m in curve] == list(enumerate(told, 1))
    own = client.get_metric_history(task.info.run_id, 'validation accuracy/by generation')
    assert [m.step for m in own] == [1, 2, 3]
    assert task.data.metrics['result/test accuracy'] == RECORDS[4]['test']
    assert task.data.tags['lr'] == '0.1' and '# mnist5k' in task.data.tags['mlflow.note.content']
    system = runs['system'].info.run_id
    kept = {a.path for top in ('tables', 'pictures') for a in client.list_artifacts(system, top)}
    assert {'tables/system.csv', 'tables/children.csv', 'pictures/architectures.png'} <= kept


def logged(data: bytes):
    "The entries of a LevelDB log, which W&B keeps offline; it has no reader for them in Python."
    at, entry = 7, b''  # after W&B's own header
    while at < len(data):
        left = 2**15 - at % 2**15  # of a block
        if left < 7:
            at += left
            continue
        _, n, kind = struct.unpack('<IHB', data[at : at + 7])
        entry += data[at + 7 : at + 7 + n]
        at += 7 + n
        if kind in (1, 4):  # whole, or its last part
            yield entry
            entry = b''


def offline_records(path):
    "What W&B wrote of a run."
    from wandb.proto.wandb_internal_pb2 import Record

    return [Record.FromString(data) for data in logged(path.read_bytes())]


def test_wandb_offline_has_a_row_per_record_tables_and_a_config(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, value in {'MODE': 'offline', 'SILENT': 'true', 'DIR': str(tmp_path)}.items():
        monkeypatch.setenv(f'WANDB_{name}', value)
    assert [track(run, 'wandb').new for _ in range(2)] == [9, 0]
    assert track(run, 'wandb', 'other').new == 9, 'another project was told nothing so far'
    projects = {}
    for path in tmp_path.glob('wandb/offline-run-*/*.wandb'):
        records = offline_records(path)
        projects[next(r.run.project for r in records if r.HasField('run'))] = records
    assert set(projects) == {'munet', 'other'}
    rows, config = [], {}
    for record in projects['munet']:
        if record.HasField('history'):
            items = record.history.item
            rows.append({'|'.join(i.nested_key): json.loads(i.value_json) for i in items})
        for changed in (record.run.config, record.config):
            config |= {u.key: json.loads(u.value_json) for u in changed.update}
    assert [r['_step'] for r in rows] == [*range(2, 19, 2), 19], 'the records, and how it stands'
    name = 'tasks/mnist5k/validation accuracy'
    told = [(r['tasks/mnist5k/generation'], r[name]) for r in rows if name in r]
    assert told == [(n, RECORDS[n]['best']['quality']) for n in (1, 2, 3)]
    assert config['root'] == 'Ti3-glyphs' and config['tasks/digits kept lr'] == 0.1
    last = rows[-1]
    assert last['system/children|nrows'] == sum(len(r.get('children', ())) for r in RECORDS)
    assert last['system/architectures|format'] == 'png'
    assert last['tasks/digits/model card|_type'] == 'html-file'
    monkeypatch.setenv('WANDB_DIR', str(tmp_path / 'moved'))
    assert track(run, 'wandb').new == 9, 'what it was told is noted beside what was written'
    assert len([*tmp_path.glob('moved/wandb/offline-run-*/*.wandb')]) == 1


def test_what_is_wrong_is_told_before_anything_is_written(run, tmp_path, monkeypatch, capsys):
    with pytest.raises(InputError, match='writes nothing'):
        track(run, 'tensorboard', run / 'logs')
    other = [*RECORDS[:2], {**RECORDS[2], 'best': {**RECORDS[2]['best'], 'score': 0.5}}]
    track(put(tmp_path / 'other', other), 'tensorboard', tmp_path / 'logs')
    with pytest.raises(InputError, match='began as a run'):
        track(run, 'tensorboard', tmp_path / 'logs')
    assert main(['track', str(run), '--to', 'tensorbord']) == 2
    assert 'tensorboard' in capsys.readouterr().err
    monkeypatch.setattr(sinks, 'find_spec', lambda name: None)
    assert main(['track', str(run), '--to', 'mlflow']) == 2
    assert capsys.readouterr().err == "munet: mlflow needs mlflow: pip install 'munet_nb[mlflow]'\n"


def test_a_service_that_fails_ends_with_a_sentence(run, tmp_path, monkeypatch, capsys):
    class Full(sinks.TensorBoard):
        def tell(self, event):
            raise OSError(28, 'No space left on device')

    full = {'tensorboard': replace(sinks.SINKS['tensorboard'], open=Full)}
    monkeypatch.setattr(sinks, 'SINKS', full)
    assert main(['track', str(run), '--to', 'tensorboard', '--place', str(tmp_path / 'a')]) == 2
    assert 'No space left' in capsys.readouterr().err
    monkeypatch.undo()
    assert main(['track', str(run), '--to', 'tensorboard', '--place', str(tmp_path / 'a')]) == 0
    assert '9 records of letters told to tensorboard, 9 now' in capsys.readouterr().out
