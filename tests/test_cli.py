"The command line, as a user meets it: image folders in, tables and pictures out, one line and exit status 2 for a mistake."

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from munet_nb import load_benchmark
from munet_nb.checks import InputError
from munet_nb.cli import main

SMALL = '--root random:Ti1 --children-per-task 2 --children-per-generation 2 --batch-size 16 --batches 2 --segments 1 --task-iterations 1'.split()


@pytest.fixture(scope='module')
def folders(tmp_path_factory):
    "Two tasks of real digits as image folders: class/file, and split/class/file with images of different sizes."
    top, t = tmp_path_factory.mktemp('images'), load_benchmark('demo')[0]
    for i in range(60):
        image, label = t.train[i]
        im = Image.fromarray(image[..., 0])
        for path, im in (
            (top / 'odd' / ('even', 'odd')[label % 2], im),
            (
                top / 'size' / ('train', 'val', 'test')[i % 3] / ('large', 'small')[label < 5],
                im.convert('RGB').resize((20 + i % 7, 24)),
            ),
        ):
            path.mkdir(parents=True, exist_ok=True)
            im.save(path / f'{i}.png')
    return top


@pytest.fixture(scope='module')
def run(folders, tmp_path_factory):
    path = tmp_path_factory.mktemp('runs') / 'pets'
    assert (
        main(
            [
                'evolve',
                '--run',
                str(path),
                '--folder',
                str(folders / 'odd'),
                '--folder',
                f"size={folders / 'size'}",
                '--scale-factor',
                '.9',
                '--mutation-prob',
                '0.2',
                '--private',
                'size',
                *SMALL,
            ]
        )
        == 0
    )
    return path


def test_evolve_from_folders_prints_a_table_and_saves_pictures(run, folders, capsys):
    assert main(['report', str(run)]) == 0
    out = capsys.readouterr().out
    assert 'odd' in out and 'size' in out and 'parameters per task' in out
    for name in ('architectures', 'progress'):
        with Image.open(run / f'{name}.png') as im:
            assert im.size[0] > 300 and len(np.unique(np.asarray(im.convert('L')))) > 10


def test_a_private_task_is_marked_in_the_journal(run):
    import json

    tasks = json.loads((run / 'journal.jsonl').read_text().splitlines()[0])['tasks']
    assert {t['name']: t['private'] for t in tasks} == {'odd': False, 'size': True}


def test_predict_shows_classes_and_probabilities(run, folders, capsys):
    file = next((folders / 'odd' / 'odd').iterdir())
    assert main(['predict', str(run), '--task', 'odd', '--top', '2', str(file)]) == 0
    line = capsys.readouterr().out.strip()
    name, _, rest = line.rpartition(': ')
    assert name == str(file) and sum(
        float(p.split()[1]) for p in rest.split(', ')
    ) == pytest.approx(1, abs=0.002)


def test_resume_of_a_finished_run_reports_and_changes_nothing(run, capsys):
    before = (run / 'journal.jsonl').read_bytes()
    assert main(['resume', str(run)]) == 0
    assert 'odd' in capsys.readouterr().out and (run / 'journal.jsonl').read_bytes() == before


def test_resume_says_when_the_images_are_gone_or_others(run, folders, tmp_path, capsys):
    moved = tmp_path / 'moved'
    (folders / 'odd').rename(moved)
    try:
        assert main(['resume', str(run)]) == 2 and 'does not exist' in capsys.readouterr().err
        assert main(['resume', str(run), '--folder', f'odd={moved}']) == 0
        next((moved / 'odd').iterdir()).unlink()
        assert (
            main(['resume', str(run), '--folder', f'odd={moved}']) == 2
            and 'not those' in capsys.readouterr().err
        )
    finally:
        moved.rename(folders / 'odd')


def bad_inputs(folders, tmp):
    broken, single, empty = tmp / 'broken' / 'a', tmp / 'single' / 'a', tmp / 'empty' / 'train'
    for d in (
        broken,
        tmp / 'broken' / 'b',
        single,
        empty / 'a',
        empty / 'b',
        empty.parent / 'test' / 'a',
    ):
        d.mkdir(parents=True)
    for d in (broken, tmp / 'broken' / 'b', single):
        for i in range(30):
            Image.new('L', (8, 8)).save(d / f'{i}.png')
    for i in range(3):
        Image.new('L', (8, 8)).save(empty / 'a' / f'{i}.png')
    (broken / '0.png').write_bytes(b'GIF89a nonsense')
    odd = ['--folder', str(folders / 'odd')]
    return {
        'scale_factor = 2.0: must be a number in (0, 1]': [*odd, '--scale-factor', '2'],
        'mutation_prob = -0.1': [*odd, '--mutation-prob=-0.1'],
        'default of lr = 0.03: must be in its own search list': [*odd, '--lr', '0.03'],
        'image_size 40: must be a positive multiple of the patch size': [
            *odd,
            '--image-size',
            '40',
        ],
        'momentum = 1.5': [*odd, '--momentum', '1.5'],
        'batch_size = 0': [*odd, '--batch-size', '0'],
        'no tasks': [],
        "2 tasks are named 'odd'": [*odd, *odd],
        '0.png: is not an image that can be decoded': ['--folder', str(tmp / 'broken')],
        'at least two': ['--folder', str(tmp / 'single')],
        "split 'test' of task 'empty' is empty": ['--folder', str(tmp / 'empty')],
        'unknown ViT variant': [*odd, '--root', 'random:Giant'],
        'invalid choice': [*odd, '--preset', 'huge'],
        "--search 'speed=1': must be NAME=V1,V2": [*odd, '--search', 'speed=1'],
        'the values must be of type float': [*odd, '--search', 'lr=fast'],
        'unrecognized arguments': [*odd, '--scale', '1', '--learning-rate', '1'],
    }


def test_bad_input_is_one_line_exit_status_2_and_writes_nothing(folders, tmp_path, capsys):
    for message, args in bad_inputs(folders, tmp_path).items():
        try:
            status = main(
                ['evolve', '--run', str(tmp_path / 'run'), *SMALL, *args]
            )  # of an option given twice the last one counts
        except SystemExit as e:
            status = e.code
        err = capsys.readouterr().err
        assert status == 2 and message in err and 'Traceback' not in err, (message, err)
        assert not (tmp_path / 'run').exists(), message


def test_images_that_are_cut_off_are_named(folders, tmp_path, capsys):
    for c in 'ab':
        (tmp_path / 'cut' / c).mkdir(parents=True)
        for i in range(30):
            Image.fromarray(np.random.default_rng(i).integers(0, 256, (32, 32), 'uint8')).save(
                tmp_path / 'cut' / c / f'{i}.png'
            )
    victim = tmp_path / 'cut' / 'a' / '7.png'
    victim.write_bytes(victim.read_bytes()[:-300])
    status = main(
        ['evolve', '--run', str(tmp_path / 'run'), '--folder', str(tmp_path / 'cut'), *SMALL]
    )
    assert status == 2 and '7.png: is not an image that can be decoded' in capsys.readouterr().err
    assert not (tmp_path / 'run').exists()


def test_a_search_list_can_be_given(folders, tmp_path):
    status = main(
        [
            'evolve',
            '--run',
            str(tmp_path / 'run'),
            *SMALL,
            '--folder',
            str(folders / 'odd'),
            '--search',
            'lr=0.01,0.03,0.1',
            '--search',
            'momentum=',
            '--lr',
            '0.03',
        ]
    )
    import json

    config = json.loads((tmp_path / 'run/journal.jsonl').read_text().splitlines()[0])['config']
    assert (
        status == 0
        and config['search']['lr'] == [0.01, 0.03, 0.1]
        and 'momentum' not in config['search']
        and config['defaults']['lr'] == 0.03
    )


def test_what_is_not_a_file_of_its_kind_is_named(folders, tmp_path, capsys):
    (tmp_path / 'idx').mkdir()
    import gzip

    for n in ('images-idx3', 'labels-idx1'):
        (tmp_path / f'idx/train-{n}-ubyte.gz').write_bytes(
            gzip.compress(bytes(50000))[:-20] + b'xx'
        )
    assert (
        main(['evolve', '--run', str(tmp_path / 'run'), '--idx', str(tmp_path / 'idx'), *SMALL])
        == 2
    )
    assert (
        'train-images-idx3-ubyte.gz' in capsys.readouterr().err and not (tmp_path / 'run').exists()
    )
    (tmp_path / 'file').touch()
    assert (
        main(
            [
                'evolve',
                '--run',
                str(tmp_path / 'file' / 'run'),
                '--folder',
                str(folders / 'odd'),
                *SMALL,
            ]
        )
        == 2
    )
    assert 'cannot be made a run directory' in capsys.readouterr().err


def test_predict_refuses_what_it_cannot_use(run, folders, tmp_path, capsys):
    file = str(next((folders / 'odd' / 'odd').iterdir()))
    (tmp_path / 'text.png').write_text('hello')
    for args, message in (
        ([str(run), '--task', 'od', file], "did you mean 'odd'?"),
        ([str(run), '--task', 'odd', str(tmp_path / 'text.png')], 'text.png: is not an image'),
        ([str(run), '--task', 'odd', 'nothing.png'], 'nothing.png: is not a file'),
        ([str(tmp_path), '--task', 'odd', file], 'holds no run'),
    ):
        assert main(['predict', *args]) == 2 and message in capsys.readouterr().err


def test_an_altered_journal_is_refused_without_a_traceback(run, tmp_path, capsys):
    import json
    import shutil

    lines = (run / 'journal.jsonl').read_text().splitlines()
    first, second = json.loads(lines[0]), json.loads(lines[1])
    child = second['children'][0]['model']
    altered = {
        'truncated line': [lines[0], lines[1][:50]],
        'unknown parent': [
            lines[0],
            json.dumps(
                {
                    **second,
                    'children': [{**second['children'][0], 'model': {**child, 'parent': 'nobody'}}],
                }
            ),
        ],
        'digest as path': [
            json.dumps(
                {
                    **first,
                    'root': {
                        **first['root'],
                        'chain': [
                            {**first['root']['chain'][0], 'digest': '../../../etc/passwd'},
                            *first['root']['chain'][1:],
                        ],
                    },
                }
            ),
            *lines[1:],
        ],
        'another format': [json.dumps({**first, 'format': 99}), *lines[1:]],
        'unknown field': [
            json.dumps({**first, 'config': {**first['config'], 'color': 1}}),
            *lines[1:],
        ],
        'wrong type': [
            json.dumps({**first, 'config': {**first['config'], 'training': 3}}),
            *lines[1:],
        ],
        'not a record': ['[]', *lines[1:]],
    }
    for what, new in altered.items():
        shutil.rmtree(tmp_path / 'r', ignore_errors=True)
        shutil.copytree(run, tmp_path / 'r')
        (tmp_path / 'r/journal.jsonl').write_text('\n'.join(new) + '\n')
        before = sorted((tmp_path / 'r/pool').iterdir())
        assert main(['resume', str(tmp_path / 'r')]) == 2, what
        err = capsys.readouterr().err
        assert err.startswith('munet: ') and err.count('\n') == 1, (what, err)
        assert (
            sorted((tmp_path / 'r/pool').iterdir()) == before
            and (tmp_path / 'r/journal.jsonl').read_text() == '\n'.join(new) + '\n'
        )


def test_the_installed_command_answers():
    out = subprocess.run(
        [Path(sys.executable).with_name('munet'), '--help'], capture_output=True, text=True
    )
    assert out.returncode == 0 and all(
        c in out.stdout for c in ('demo', 'evolve', 'resume', 'report', 'predict')
    )


def test_a_hugging_face_directory_from_the_command_line_and_moved_before_a_resume(
    folders, tmp_path, capsys
):
    import datasets

    datasets.disable_progress_bars()
    images = [Image.open(p) for p in sorted((folders / 'odd').rglob('*.png'))]
    features = datasets.Features(
        image=datasets.Image(), label=datasets.ClassLabel(names=['even', 'odd'])
    )
    datasets.Dataset.from_dict(
        {'image': images, 'label': [i % 2 for i in range(len(images))]}, features=features
    ).save_to_disk(tmp_path / 'digits')
    assert (
        main(
            [
                'evolve',
                '--run',
                str(tmp_path / 'run'),
                '--hf',
                f"pets={tmp_path / 'digits'}",
                *SMALL,
            ]
        )
        == 0
    )
    (tmp_path / 'digits').rename(tmp_path / 'moved')
    capsys.readouterr()
    assert main(['resume', str(tmp_path / 'run')]) == 2
    assert 'munet resume --hf pets=DIR' in capsys.readouterr().err
    assert main(['resume', str(tmp_path / 'run'), '--hf', f"pets={tmp_path / 'moved'}"]) == 0


def test_the_papers_presets_start_from_the_papers_roots(folders, tmp_path, capsys, monkeypatch):
    asked = []

    def load(spec, *, layers, image_size):
        asked.append((spec, image_size, layers))
        raise InputError('no network here')

    monkeypatch.setattr('munet_nb.cli.load_root', load)
    evolve = ['evolve', '--run', str(tmp_path / 'run'), '--folder', str(folders / 'odd')]
    for args in (
        [],
        ['--preset', 'characters'],
        ['--preset', 'vit'],
        ['--preset', 'decathlon', '--layers', '6'],
        ['--preset', 'vit', '--root', 'random:Ti'],
        ['--root', ''],
    ):
        assert main([*evolve, *args]) == 2
    assert asked == [
        ('Ti3-glyphs', 32, None),
        ('augreg:Ti/16-i21k-light1-wd0.1-sd0.0', 32, 3),
        ('augreg:L/16-i21k-medium2-wd0.03-sd0.1', 384, None),
        ('augreg:B/16-i21k-medium1-wd0.1-sd0.0', 80, 6),
        ('random:Ti', 384, None),
        ('', 32, None),
    ]
    assert 'no network here' in capsys.readouterr().err
