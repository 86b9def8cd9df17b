"""The command line, as a user meets it.

Image folders in, tables and pictures out; one line and exit status 2 for a mistake.
"""

import argparse
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from munet_nb import Evolution, cli, load_benchmark
from munet_nb.checks import InputError
from munet_nb.cli import main, make_parser
from munet_nb.runs.rundir import RunDir, write_run
from munet_nb.search.config import PRESETS
from munet_nb.tasks.sources import SOURCES

SMALL = (
    '--root random:Ti1 --children-per-task 2 --children-per-generation 2 '
    '--batch-size 16 --batches 2 --segments 1 --task-iterations 1 '
    '--trial-segments 1 --trunk-segments 1'
).split()


def evolve(run, *args):
    "The exit status of a small search; of an option given twice the last one counts."
    return main(['evolve', '--run', str(run), *SMALL, *map(str, args)])


def save(image, path):
    path.parent.mkdir(parents=True, exist_ok=True)
    image.save(path)


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Two tasks of real digits: class/file, and split/class/file with images of different sizes."
    top = tmp_path_factory.mktemp('images')
    t = load_benchmark('demo')[0]
    for i in range(60):
        image, label = t.train[i]
        im = Image.fromarray(image[..., 0])
        save(im, top / 'odd' / ('even', 'odd')[label % 2] / f'{i}.png')
        split = ('train', 'val', 'test')[i % 3]
        size = ('large', 'small')[label < 5]
        resized = im.convert('RGB').resize((20 + i % 7, 24))
        save(resized, top / 'size' / split / size / f'{i}.png')
    return top


@pytest.fixture(scope='module')
def run(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp('runs') / 'pets'
    tasks = ['--folder', folders / 'odd', '--folder', f"size={folders / 'size'}"]
    config = ['--scale-factor', '.9', '--mutation-prob', '0.2', '--private', 'size']
    assert evolve(path, *tasks, *config) == 0
    return path


def test_evolve_from_folders_prints_a_table_and_saves_pictures(run, folders, capsys):
    assert main(['report', str(run)]) == 0
    out = capsys.readouterr().out
    assert 'odd' in out and 'size' in out and 'parameters per task' in out
    assert f"saved {run / 'report.html'}" in out and (run / 'report.html').exists()
    for name in ('architectures', 'progress'):
        with Image.open(run / f'{name}.png') as im:
            assert im.size[0] > 300 and len(np.unique(np.asarray(im.convert('L')))) > 10


@pytest.mark.parametrize('command, status', [('resume', 141), ('report', 0)])
def test_a_search_whose_output_nobody_reads_is_no_success(run, tmp_path, command, status):
    shutil.copytree(run, tmp_path / 'run')
    code = 'from munet_nb.cli import main; import sys; sys.exit(main())'
    more = ['--trust-sources'] if command == 'resume' else []
    read, write = os.pipe()
    os.close(read)
    typed = [sys.executable, '-c', code, command, str(tmp_path / 'run'), *more]
    ended = subprocess.run(typed, stdout=write, stderr=subprocess.PIPE, text=True)
    os.close(write)
    assert ended.returncode == status, ended.stderr
    assert ('nobody reads what this prints' in ended.stderr) == bool(status)


def test_closed_outputs_are_no_mistake(run):
    command = f'{sys.executable} -c "from munet_nb.cli import main; main()" check {run} >&- 2>&-'
    assert subprocess.run(command, shell=True).returncode == 0


STOPPED = {'quality': 'goes on with what is finished', 'growth': 'begins anew'}


@pytest.mark.parametrize('what, told', STOPPED.items())
def test_a_benchmark_that_was_stopped_says_what_is_left(what, told, monkeypatch, capsys):
    def stopped(args):
        raise KeyboardInterrupt

    real = cli.make_parser

    def make_parser(words):
        parser = real(words)
        parse = parser.parse_known_args

        def parse_known_args(words):
            args, strange = parse(words)
            args.do = stopped
            return args, strange

        parser.parse_known_args = parse_known_args
        return parser

    monkeypatch.setattr(cli, 'make_parser', make_parser)
    more = ['--method', 'munet_1', '--seed', '1', '--out', 'x'] if what == 'quality' else []
    assert main(['bench', what, *more]) == 130
    assert told in capsys.readouterr().err


def test_a_report_needs_the_journal_alone(run, tmp_path, capsys):
    for name in ('journal.jsonl', 'journal.head'):
        shutil.copy(run / name, tmp_path / name)
    assert main(['report', str(tmp_path)]) == 0
    assert 'parameters per task' in capsys.readouterr().out and (tmp_path / 'report.html').exists()


def test_a_run_is_compared_with_a_copy_and_with_a_baseline_that_is_trained_once(
    run, tmp_path, capsys, monkeypatch
):
    pets = shutil.copytree(run, tmp_path / 'pets')
    shutil.copytree(run, tmp_path / 'copy')
    assert main(['compare', str(pets), str(tmp_path / 'copy'), '--trust-sources']) == 0
    assert capsys.readouterr().out.count('paired not told apart') == 2
    with monkeypatch.context() as m:  # what both runs keep is not asked again, nor trust needed
        m.setattr(sys.modules['munet_nb.pictures.compare'], 'right_answers', None)
        assert main(['compare', str(pets), str(tmp_path / 'copy')]) == 0
    assert capsys.readouterr().out.count('paired not told apart') == 2
    assert 'Gained and lost' in (pets / 'compare_copy.html').read_text()
    shutil.rmtree(tmp_path / 'copy' / 'answers')
    assert main(['compare', str(pets), str(tmp_path / 'copy')]) == 0
    assert capsys.readouterr().out.count('not kept') == 2
    assert main(['compare', str(pets), str(tmp_path / 'copy'), '--trust-sources']) == 0
    assert capsys.readouterr().out.count('paired not told apart') == 2

    with_baseline = ['compare', str(pets), '--with', 'norm_head']
    assert main(with_baseline) == 2
    assert '--trust-sources' in capsys.readouterr().err and not (pets / 'baselines').exists()
    for trains in (2, 0):
        assert main([*with_baseline, '--trust-sources']) == 0
        out = capsys.readouterr().out
        assert out.count('training norm_head') == trains and out.count('paired') == 2
    assert (pets / 'compare_norm_head.html').exists()
    for path in (pets / 'baselines').rglob('*.json'):
        path.write_text('{}')
    assert main([*with_baseline, '--trust-sources']) == 2
    assert 'delete it to train again' in capsys.readouterr().err


def test_a_private_task_is_marked_in_the_journal(run):
    tasks = json.loads((run / 'journal.jsonl').read_text().splitlines()[0])['tasks']
    assert {t['name']: t['private'] for t in tasks} == {'odd': False, 'size': True}


def test_predict_shows_classes_and_probabilities(run, folders, capsys):
    file = next((folders / 'odd' / 'odd').iterdir())
    assert main(['predict', str(run), '--task', 'odd', '--top', '2', str(file)]) == 0
    name, _, rest = capsys.readouterr().out.strip().rpartition(': ')
    assert name == str(file)
    probabilities = [float(p.split()[1]) for p in rest.split(', ')]
    assert sum(probabilities) == pytest.approx(1, abs=0.002)


def test_route_shows_a_line_per_file_and_refuses_what_is_none(run, folders, tmp_path, capsys):
    files = [str(next((folders / name).rglob('*.png'))) for name in ('odd', 'size')]
    assert main(['route', str(run), *files]) == 0
    lines = capsys.readouterr().out.splitlines()
    for file, line in zip(files, lines, strict=True):
        name, _, rest = line.rpartition(': ')
        shares = dict(share.split() for share in rest.split(', '))
        assert name == file and shares.keys() == {'odd', 'size', 'none'}
        assert sum(map(float, shares.values())) == pytest.approx(1, abs=0.002)
    folder = tmp_path / 'photos'
    shutil.copytree(Path(files[0]).parent, folder)
    (folder / 'broken\n.png').write_text('no image')
    assert main(['route', str(run), str(folder)]) == 1
    told = capsys.readouterr()
    assert len(told.out.splitlines()) == len(list(folder.glob('*.png'))) - 1 > 1
    assert 'broken\\n.png' in told.err and '1 of ' in told.err
    for where, file, message in (
        (run, tmp_path / 'none.png', 'none.png'),
        (tmp_path, files[0], 'holds no run'),
    ):
        assert main(['route', str(where), str(file)]) == 2
        assert message in capsys.readouterr().err


def test_evaluate_tells_how_many_images_and_an_interval(run, folders, tmp_path, capsys):
    evaluate = ['evaluate', str(run), '--task', 'odd']
    assert main(evaluate) == 2
    assert 'Nothing was read' in capsys.readouterr().err
    assert main([*evaluate, '--trust-sources', '--split', 'train', '--json']) == 0
    told = json.loads(capsys.readouterr().out)
    assert told['task'] == 'odd' and told['images'] == 'train' and told['n'] == 36
    assert 0 <= told['low'] <= told['accuracy'] == told['correct'] / told['n'] <= told['high'] <= 1
    new = tmp_path / 'new'
    shutil.copytree(folders / 'odd', new)
    (new / 'odd' / 'note.png').write_text('no image')
    assert main([*evaluate, '--folder', str(new)]) == 0
    out, err = capsys.readouterr()
    assert out.splitlines()[1].split()[:3] == ['odd', str(new), '60'] and '% to ' in out
    assert 'note.png' in err and err.count('\n') == 1
    (new / '__MACOSX').mkdir()
    assert main([*evaluate, '--folder', str(new)]) == 0
    assert "the system's own: 1 ('__MACOSX')" in capsys.readouterr().err
    (new / 'odd').rename(new / 'Train')
    assert main([*evaluate, '--folder', str(new)]) == 2
    assert 'has splits in it' in capsys.readouterr().err
    (new / 'Train').rename(new / 'uneven')
    assert main([*evaluate, '--folder', str(new), '--csv']) == 2
    assert "'uneven'" in capsys.readouterr().err
    assert main(['evaluate', str(run), '--folder', str(new)]) == 2
    assert 'goes with one --task' in capsys.readouterr().err


def test_export_tells_what_it_wrote_and_how_to_load_it_and_overwrites_nothing(run, tmp_path, capsys):
    out = tmp_path / 'odd'
    export = ['export', str(run), '--task', 'odd', '--format', 'safetensors', '--out', str(out)]
    assert main(export) == 0
    told = capsys.readouterr().out
    assert f"wrote {out / 'model.safetensors'} (" in told
    loaded = {}
    exec(told.partition('Next, in Python:\n')[2], loaded)
    assert any(name.startswith('head/') for name in loaded['params'])
    before = contents(out)
    assert main(export) == 2
    assert 'not an empty directory' in capsys.readouterr().err and contents(out) == before
    every = ['export', str(run), '--all-tasks', '--out', str(tmp_path / 'all')]
    assert main([*every, '--format', 'huggingface']) == 2
    assert "must be 'onnx' or 'stablehlo'" in capsys.readouterr().err
    assert main([*every, '--format', 'onnx']) == 0
    typed = {'images': np.zeros((2, 20, 20, 3), 'uint8')}
    exec(capsys.readouterr().out.partition('Next, in Python:\n')[2], typed)
    assert {task: logits.shape for task, logits in typed['logits'].items()} == {
        'odd': (2, 2),
        'size': (2, 2),
    }
    assert not list(tmp_path.glob('.*'))


@pytest.mark.parametrize('typed', ['report r', 'check r', 'repair r', 'route r x.png', 'look x'])
def test_ctrl_c_in_what_does_not_search_tells_of_no_search(typed, monkeypatch, capsys):
    def interrupted(args):
        raise KeyboardInterrupt

    monkeypatch.setattr(cli, f'_{typed.split()[0]}', interrupted)
    assert main(typed.split()) == 130
    told = capsys.readouterr().err
    assert told.startswith('munet: stopped; ') and 'resume' not in told


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_resume_of_a_finished_run_reports_and_changes_nothing(run, capsys):
    before = (run / 'journal.jsonl').read_bytes()
    assert main(['resume', str(run), '--trust-sources']) == 0
    assert 'odd' in capsys.readouterr().out
    assert (run / 'journal.jsonl').read_bytes() == before


def test_resume_says_when_the_images_are_gone_or_others(run, folders, tmp_path, capsys):
    moved = tmp_path / 'moved'
    (folders / 'odd').rename(moved)
    try:
        resume = ['resume', str(run), '--trust-sources']
        assert main(resume) == 2
        assert 'does not exist' in capsys.readouterr().err
        assert main([*resume, '--moved', f'odd={moved}']) == 0
        for reads in ('evaluate', 'compare --with norm_head', 'compare --with finetune_all'):
            command, *more = reads.split()
            typed = [command, str(run), *more, '--trust-sources']
            assert main(typed) == 2
            assert '(--moved odd=DIR, ' in capsys.readouterr().err
        assert main(['evaluate', str(run), '--moved', f'odd={moved}', '--trust-sources']) == 0
        copy = shutil.copytree(run, tmp_path / 'copy')
        own = ['evaluate', str(run), '--task', 'odd', '--moved', f'odd={moved}']
        assert main(own) == 0, 'a place that is given is trusted'
        capsys.readouterr()
        assert main(['evaluate', str(run), '--folder', 'new', '--moved', 'odd=x']) == 2
        assert 'gives others' in capsys.readouterr().err
        assert main([*resume, '--moved', 'odd=x', '--moved', 'odd=y']) == 2
        assert "gives the place of 'odd' 2 times" in capsys.readouterr().err
        assert main(['compare', str(copy), str(run), '--moved', f'odd={moved}']) == 0
        beside = ['compare', str(copy), '--with', 'norm_head', '--moved', f'odd={moved}']
        assert main([*beside, '--trust-sources']) == 0
        joins = ['add-task', str(copy), '--folder', f'new={moved}', '--moved', f'odd={moved}']
        assert main([*joins, '--trust-sources']) == 0
        assert main([*resume, '--moved', str(moved)]) == 2
        assert "must be NAME=PLACE" in capsys.readouterr().err
        next((moved / 'odd').iterdir()).unlink()
        assert main([*resume, '--moved', f'odd={moved}']) == 2
        assert 'not those' in capsys.readouterr().err
    finally:
        moved.rename(folders / 'odd')


def bad_inputs(folders, tmp):
    "Messages, and the arguments that each is the answer to."
    gray = Image.new('L', (8, 8))
    for i in range(30):
        save(gray, tmp / 'broken' / 'a' / f'{i}.png')
        save(gray, tmp / 'broken' / 'b' / f'{i}.png')
        save(gray, tmp / 'single' / 'a' / f'{i}.png')
    (tmp / 'broken' / 'a' / '0.png').write_bytes(b'GIF89a nonsense')
    for folder in ('train/b', 'test/a'):
        (tmp / 'empty' / folder).mkdir(parents=True)
    for i in range(3):
        save(gray, tmp / 'empty' / 'train' / 'a' / f'{i}.png')
    odd = ['--folder', folders / 'odd']
    return {
        'scale_factor = 2.0: must be a number in (0, 1]': [*odd, '--scale-factor', '2'],
        'compute_factor = 0.0: must be a number in (0, 1]': [*odd, '--compute-factor', '0'],
        'mutation_prob = -0.1': [*odd, '--mutation-prob=-0.1'],
        'default of lr = 0.03: must be in its own search list': [*odd, '--lr', '0.03'],
        'image_size = 40: must be a multiple of 16': [
            *odd, '--image-size', '40'
        ],
        'momentum = 1.5': [*odd, '--momentum', '1.5'],
        'batch_size = 0': [*odd, '--batch-size', '0'],
        'no tasks: give at least one of --benchmark, --folder, --table, --idx, --tfds, --vtab': [],
        "2 tasks are named 'odd'": [*odd, *odd],
        '0.png: is not an image that can be decoded': ['--folder', tmp / 'broken'],
        'needs two or more': ['--folder', tmp / 'single'],
        "split 'test' of task 'empty' is empty": ['--folder', tmp / 'empty'],
        'unknown ViT variant': [*odd, '--root', 'random:Giant'],
        'invalid choice': [*odd, '--preset', 'huge'],
        "--search 'speed=1': must be NAME=V1,V2": [*odd, '--search', 'speed=1'],
        'the values must be of type float': [*odd, '--search', 'lr=fast'],
        'unrecognized arguments: --learning-rate 1; see munet evolve --help': [
            *odd, '--scale', '1', '--learning-rate', '1'
        ],
        'unrecognized arguments: --batchs 4, did you mean --batches?; see': [*odd, '--batchs', '4'],
        "unrecognized arguments: --scale_factor 0.5, did you mean --scale-factor?": [
            *odd, '--scale_factor', '0.5'
        ],
        'unrecognized arguments: images (image folders are given by --folder)': [*odd, 'images'],
    }


@pytest.mark.core
def test_bad_input_is_one_line_exit_status_2_and_writes_nothing(folders, tmp_path, capsys):
    for message, args in bad_inputs(folders, tmp_path).items():
        try:
            status = evolve(tmp_path / 'run', *args)
        except SystemExit as e:
            status = e.code
        err = capsys.readouterr().err
        assert status == 2 and message in err and 'Traceback' not in err, (message, err)
        assert not (tmp_path / 'run').exists(), message


def test_a_search_that_was_stopped_has_the_exit_status_of_ctrl_c(folders, tmp_path, monkeypatch):
    args = ['--folder', folders / 'odd']
    run = Evolution.run
    monkeypatch.setattr(Evolution, 'run', lambda evo: evo.system)
    assert evolve(tmp_path / 'run', *args) == 130
    monkeypatch.setattr(Evolution, 'run', run)
    resume = ['resume', str(tmp_path / 'run'), '--trust-sources']
    assert main(resume) == 0
    assert main(resume) == 0


@pytest.mark.parametrize(
    'mistake, told',
    [
        ('--minutes nan', 'minutes = nan: must be a positive number'),
        ('--layers 0', 'layers = 0: must be a whole number'),
        ('--scale-factor 3', 'scale_factor = 3.0: must be a number in (0, 1]'),
        ('--search pace=1', "--search 'pace=1': must be NAME=V1,V2"),
    ],
)
def test_mistakes_in_options_are_told_before_images_are_read(mistake, told, tmp_path, capsys):
    words = ['evolve', '--run', str(tmp_path / 'run'), '--folder', str(tmp_path / 'nowhere')]
    assert main([*words, *mistake.split()]) == 2
    assert told in capsys.readouterr().err


def test_a_run_that_is_there_is_refused_before_images_are_read(folders, tmp_path, capsys):
    (tmp_path / 'run').mkdir()
    (tmp_path / 'run' / 'mine.txt').write_text('x')
    assert evolve(tmp_path / 'run', '--folder', tmp_path / 'nowhere') == 2
    assert 'mine.txt' in capsys.readouterr().err


def test_images_that_are_cut_off_are_named(folders, tmp_path, capsys):
    for i in range(30):
        noise = np.random.default_rng(i).integers(0, 256, (32, 32), 'uint8')
        for c in 'ab':
            save(Image.fromarray(noise), tmp_path / 'cut' / c / f'{i}.png')
    victim = tmp_path / 'cut' / 'a' / '7.png'
    victim.write_bytes(victim.read_bytes()[:-300])
    assert evolve(tmp_path / 'run', '--folder', tmp_path / 'cut') == 2
    assert '7.png: is not an image that can be decoded' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_a_search_list_can_be_given(folders, tmp_path):
    lists = ['--search', 'lr=0.01,0.03,0.1', '--search', 'momentum=', '--lr', '0.03']
    assert evolve(tmp_path / 'run', '--folder', folders / 'odd', *lists) == 0
    first = (tmp_path / 'run/journal.jsonl').read_text().splitlines()[0]
    config = json.loads(first)['config']
    assert config['search']['lr'] == [0.01, 0.03, 0.1]
    assert 'momentum' not in config['search']
    assert config['defaults']['lr'] == 0.03


def test_what_is_not_a_file_of_its_kind_is_named(folders, tmp_path, capsys):
    (tmp_path / 'idx').mkdir()
    torn = gzip.compress(bytes(50000))[:-20] + b'xx'
    for n in ('images-idx3', 'labels-idx1'):
        (tmp_path / f'idx/train-{n}-ubyte.gz').write_bytes(torn)
    assert evolve(tmp_path / 'run', '--idx', tmp_path / 'idx') == 2
    assert 'train-images-idx3-ubyte.gz' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()
    (tmp_path / 'file').touch()
    assert evolve(tmp_path / 'file' / 'run', '--folder', folders / 'odd') == 2
    assert 'file: is a file, not a directory' in capsys.readouterr().err


def test_predict_refuses_what_it_cannot_use(run, folders, tmp_path, capsys):
    file = str(next((folders / 'odd' / 'odd').iterdir()))
    text = tmp_path / 'text.png'
    text.write_text('hello')
    for args, status, message in (
        ([str(run), '--task', 'od', file], 2, "did you mean 'odd'?"),
        ([str(run), '--task', 'odd', str(text)], 1, 'text.png: is not an image'),
        ([str(run), '--task', 'odd', 'nothing.png'], 2, 'nothing.png: is not a file'),
        ([str(tmp_path), '--task', 'odd', file], 2, 'holds no run'),
    ):
        assert main(['predict', *args]) == status
        assert message in capsys.readouterr().err


def altered_journals(lines):
    "What is wrong, and the journal's lines that have it."
    first = json.loads(lines[0])
    at = next(i for i, line in enumerate(lines) if json.loads(line)['kind'] == 'generation')
    generation = json.loads(lines[at])
    child = generation['children'][0]
    orphan = {**child, 'model': {**child['model'], 'parent': 'nobody'}}
    root = first['root']
    outside = {**root['chain'][0], 'digest': '../../../etc/passwd'}
    config = first['config']

    def begins(**changes):
        return [json.dumps({**first, **changes}), *lines[1:]]

    return {
        'truncated line': [lines[0], lines[1][:50]],
        'unknown parent': [*lines[:at], json.dumps({**generation, 'children': [orphan]})],
        'digest as path': begins(root={**root, 'chain': [outside, *root['chain'][1:]]}),
        'another format': begins(format=99),
        'unknown field': begins(config={**config, 'color': 1}),
        'wrong type': begins(config={**config, 'training': 3}),
        'not a record': ['[]', *lines[1:]],
    }


def seal_again(path, lines):
    "Write lines into a run as a stranger would: with digests that are right, if they are records."
    for file in path.glob('journal.*'):
        file.unlink()
    try:
        write_run(path, map(json.loads, lines))
    except ValueError:  # no JSON
        (path / 'journal.jsonl').write_text('\n'.join(lines) + '\n')


def test_an_altered_journal_is_refused_without_a_traceback(run, tmp_path, capsys):
    lines = [json.dumps(r) for r in RunDir(run).records()]
    copy = tmp_path / 'r'
    for what, new in altered_journals(lines).items():
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(run, copy)
        seal_again(copy, new)
        text = (copy / 'journal.jsonl').read_text()
        before = sorted((copy / 'pool').iterdir())
        assert main(['resume', str(copy)]) == 2, what
        err = capsys.readouterr().err
        assert err.startswith('munet: ') and err.count('\n') == 1, (what, err)
        assert sorted((copy / 'pool').iterdir()) == before
        assert (copy / 'journal.jsonl').read_text() == text


def test_the_installed_command_answers():
    munet = Path(sys.executable).with_name('munet')
    out = subprocess.run([munet, '--help'], capture_output=True, text=True)
    assert out.returncode == 0
    for command in ('demo', 'evolve', 'resume', 'add-task', 'report', 'predict', 'bench'):
        assert command in out.stdout


HEAVY = ('jax', 'flax', 'optax', 'scipy', 'pandas', 'matplotlib', 'ipywidgets', 'tensorflow', 'ray')
HELP = f"""
import sys

import munet_nb.cli as cli

def answer(line):
    try:
        cli.main(line.split())
    except SystemExit:
        pass

def heavy():
    return [name for name in {HEAVY} if name in sys.modules]

commands = next(a for a in cli.make_parser()._actions if a.dest == 'command').choices
for line in ('--help', 'evovle', *(f'{{name}} --help' for name in commands), 'bench speed --help'):
    answer(line)
    assert not heavy(), (line, heavy())
"""


@pytest.mark.core
def test_help_and_a_mistyped_command_load_nothing_heavy():
    "What takes seconds to import is imported by the command that needs it."
    done = subprocess.run([sys.executable, '-c', HELP], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_what_help_says_of_measurements_is_what_there_is():
    from munet_nb.bench.turns import WAYS
    from munet_nb.bench.work import CASES, GPU_CASES
    from munet_nb.serving.deploy import TOKEN

    commands = next(a for a in make_parser()._actions if a.dest == 'command').choices
    assert TOKEN in commands['serve'].format_help()
    what = next(a for a in commands['bench']._actions if a.dest == 'what').choices
    told = {a.dest: a.help for a in what['speed']._actions}
    assert {*CASES, *GPU_CASES} <= set(re.findall(r'[\w-]+', told['case']))
    assert {*WAYS} - {'munet'} <= set(re.findall(r'\w+', told['way']))


def options_of(parser):
    "Every option and argument of a parser and of the commands in it, with the command's name."
    for action in parser._actions:
        if isinstance(action.choices, dict) and action.nargs == argparse.PARSER:
            for command in action.choices.values():
                yield from options_of(command)
        else:
            yield parser.prog, action


def test_help_says_of_every_option_what_it_means():
    found = list(options_of(make_parser()))
    assert len(found) > 100
    unsaid = [(prog, action.dest) for prog, action in found if not action.help]
    assert not unsaid


def help_of(line, capsys):
    with pytest.raises(SystemExit) as stopped:
        main([*line.split(), '--help'])
    assert stopped.value.code == 0
    return ' '.join(capsys.readouterr().out.split())


def test_help_tells_the_values_of_the_preset_that_is_on_the_line(capsys):
    for name, config in PRESETS.items():
        told = help_of(f'evolve --preset {name}', capsys)
        assert f'as in the preset {name};' in told
        assert f'in one such iteration (default: {config.children_per_task})' in told
        assert f'peak learning rate (default: {config.defaults.lr:g}' in told
    assert 'in the preset mu2net_l;' in help_of('evolve --benchmark=mu2net69', capsys)
    assert '(default: 0.9; tuned over 3 values, 0.8 to 0.95)' in help_of(
        'evolve --benchmark characters8', capsys
    )
    told = help_of('evolve', capsys)
    assert 'What is not given is chosen from the images:' in told
    assert 'in one such iteration --' in told  # no value: it depends on the images
    told = help_of('extend runs/pets', capsys)
    assert 'in one such iteration --' in told and 'What is not given is as in the run;' in told
    assert 'in one such iteration (default: 8)' in help_of('extend runs/pets --preset demo', capsys)


CTRL_C = """
import os, signal, sys

class CtrlC:
    def find_spec(self, name, *where):
        if name == 'MODULE':
            os.kill(os.getpid(), signal.SIGINT)

sys.meta_path.insert(0, CtrlC())
from munet_nb.start import main
sys.exit(main())
"""


@pytest.mark.parametrize('module', ['munet_nb.cli', 'numpy', 'jax'])
def test_ctrl_c_during_an_import_is_one_line(module, tmp_path):
    code = CTRL_C.replace('MODULE', module)
    done = subprocess.run(
        [sys.executable, '-c', code, 'demo'], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 130
    assert done.stderr.startswith('munet: stopped') and done.stderr.count('\n') == 1
    assert not (tmp_path / 'runs').exists()


def test_a_hugging_face_directory_can_be_moved_before_a_resume(folders, tmp_path, capsys):
    import datasets

    datasets.disable_progress_bars()
    images = [Image.open(p) for p in sorted((folders / 'odd').rglob('*.png'))]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=['even', 'odd'])
    )
    rows = {'image': images, 'label': [i % 2 for i in range(len(images))]}
    here, there = tmp_path / 'digits', tmp_path / 'moved'
    datasets.Dataset.from_dict(rows, features=features).save_to_disk(here)
    run = tmp_path / 'run'
    assert evolve(run, '--hf', f'pets={here}') == 0
    here.rename(there)
    capsys.readouterr()
    assert main(['resume', str(run), '--trust-sources']) == 2
    assert '--moved pets=DIR' in capsys.readouterr().err
    assert main(['resume', str(run), '--moved', f'pets={there}']) == 0


def test_tasks_stand_in_a_run_in_one_order_however_they_are_given(folders, tmp_path, monkeypatch):
    for kind in ('tfds', 'hf'):
        as_folder = replace(SOURCES[kind], load=SOURCES['folder'].load)
        monkeypatch.setitem(SOURCES, kind, as_folder)
    given = ['--tfds', folders / 'odd', '--hf', f"h={folders / 'odd'}"]
    given += ['--folder', f"f={folders / 'odd'}"]
    assert evolve(tmp_path / 'run', *given) == 0
    first = (tmp_path / 'run/journal.jsonl').read_text().splitlines()[0]
    assert [t['name'] for t in json.loads(first)['tasks']] == ['f', 'h', 'odd']


def test_the_papers_presets_start_from_the_papers_roots(folders, tmp_path, capsys, monkeypatch):
    asked = []

    def load(spec, *, layers, image_size):
        asked.append((spec, image_size, layers))
        raise InputError('no network here')

    monkeypatch.setattr('munet_nb.choices.load_root', load)
    tasks = ['--run', str(tmp_path / 'run'), '--folder', str(folders / 'odd')]
    for args in (
        [],
        ['--preset', 'characters'],
        ['--preset', 'vit'],
        ['--preset', 'decathlon', '--layers', '6'],
        ['--preset', 'vit', '--root', 'random:Ti'],
        ['--root', ''],
    ):
        assert main(['evolve', *tasks, *args]) == 2
    assert asked == [
        ('Ti3-glyphs', 32, None),
        ('augreg:Ti/16-i21k-light1-wd0.1-sd0.0', 32, 3),
        ('augreg:L/16-i21k-medium2-wd0.03-sd0.1', 384, None),
        ('augreg:B/16-i21k-medium1-wd0.1-sd0.0', 80, 6),
        ('random:Ti', 384, None),
    ]  # no root is called '': that is refused before
    assert 'no network here' in capsys.readouterr().err
