"""Pictures of all kinds and folders of all sorts.

Transparency, deep gray, photographs and their memory, one image given for many, what is left out
of a folder, images that are damaged late, and names in all scripts.
"""

import io
import os
import subprocess
import sys
import unicodedata
import warnings
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest
import torch
from PIL import Image

from munet_nb import Config, Evolution, InputError, System
from munet_nb import load_folder, load_root, task_from_arrays
from munet_nb.checks import Notice
from munet_nb.engine.feeds import Feed, eval_indices
from munet_nb.engine.pixels import shrink
from munet_nb.tasks import folders
from munet_nb.tasks.images import LARGEST_IMAGE, open_image, to_image, to_images

TINY = dict(
    children_per_task=2,
    children_per_generation=1,
    task_iterations=1,
    batches=2,
    segments=1,
    batch_size=8,
    validation_batches=1,
    common_trunks=False,
)


def start(path, task, **values):
    config = Config.preset('demo', **{**TINY, **values})
    return Evolution.create(path, load_root('Ti3-glyphs'), [task], config)


@pytest.fixture(scope='module')
def run(tmp_path_factory):
    "A run of one task of noise, whose model is seldom sure."
    path = tmp_path_factory.mktemp('run') / 'run'
    with start(path, task_from_arrays('t', (noise(80, 16, 16), [0, 1] * 40))) as evo:
        evo.run()
    return path


@pytest.fixture(scope='module')
def system(run):
    return System.open(run)


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, np.uint8)


# Transparency


def glyph(mode):
    "A black square of 4 x 4 on 8 x 8 transparent pixels that are black beneath, in a mode."
    alpha = np.zeros((8, 8), np.uint8)
    alpha[2:6, 2:6] = 255
    black = np.zeros((8, 8), np.uint8)
    if mode in ('RGBA', 'RGBa'):
        return Image.fromarray(np.dstack([black, black, black, alpha]), 'RGBA').convert(mode)
    if mode in ('LA', 'La'):
        return Image.fromarray(np.dstack([black, alpha]), 'LA').convert(mode)
    indexed = Image.fromarray(alpha // 255, 'P')
    indexed.putpalette([0] * 768)
    return indexed


def stored(image, kind, **options):
    f = io.BytesIO()
    image.save(f, kind, **options)
    return Image.open(f)


def chunk(name, data):
    import zlib

    return len(data).to_bytes(4) + name + data + zlib.crc32(name + data).to_bytes(4)


def deep_with_transparency():
    "A PNG of 16 bits of gray in which one gray is transparent; Pillow writes none."
    import zlib

    header = (2).to_bytes(4) + (1).to_bytes(4) + bytes([16, 0, 0, 0, 0])
    rows = zlib.compress(b'\0' + (0).to_bytes(2) + (0x8000).to_bytes(2))
    chunks = ((b'IHDR', header), (b'tRNS', b'\0\0'), (b'IDAT', rows), (b'IEND', b''))
    png = b'\x89PNG\r\n\x1a\n' + b''.join(chunk(*c) for c in chunks)
    return Image.open(io.BytesIO(png))


def animation(kind):
    frames = [Image.new('RGBA', (8, 8), (255, 0, 0, 128))]
    return stored(glyph('RGBA'), kind, save_all=True, append_images=frames)


@pytest.mark.parametrize(
    'image, gray',
    [
        (glyph('RGBA'), False),
        (glyph('RGBa'), False),
        (glyph('LA'), True),
        (glyph('La'), True),
        (stored(glyph('RGBA'), 'PNG'), False),
        (stored(glyph('LA'), 'PNG'), True),
        (stored(glyph('P'), 'PNG', transparency=0), False),
        (stored(glyph('P'), 'PNG', transparency=bytes([0, 255])), False),
        (stored(glyph('P'), 'GIF', transparency=0), False),
        (stored(glyph('RGBA'), 'WEBP', lossless=True), False),
        (stored(glyph('RGBA'), 'TIFF'), False),
        (stored(glyph('RGBA'), 'TGA'), False),
        (animation('PNG'), False),
        (animation('GIF'), False),
        (animation('WEBP'), False),
    ],
)
def test_a_black_glyph_on_nothing_is_black_on_white(image, gray):
    (seen,) = to_images([image])
    assert seen.shape == (8, 8, 1 if gray else 3)
    assert (seen[2:6, 2:6] == 0).all()
    assert seen.sum() == 48 * 255 * seen.shape[-1]


@pytest.mark.parametrize('mode, colors', [('L', 0), ('RGB', (0, 0, 0)), ('1', 0)])
def test_a_color_that_a_file_calls_transparent_is_white(mode, colors):
    image = stored(Image.new(mode, (4, 4), colors), 'PNG', transparency=colors)
    assert set(to_images([image])[0].ravel()) == {255}


def test_half_transparent_is_half_white_and_deep_gray_is_no_exception():
    half = Image.new('RGBA', (1, 1), (0, 0, 0, 128))
    assert set(to_images([half])[0].ravel()) == {127}
    assert to_images([deep_with_transparency()])[0].ravel().tolist() == [255, 128]


def test_opaque_pixels_stay_what_they_are():
    pixels = noise(9, 7, 3)
    opaque = np.dstack([pixels, np.full((9, 7), 255, np.uint8)])
    assert np.array_equal(to_images([Image.fromarray(opaque)])[0], pixels)


# Deep gray


@pytest.mark.parametrize('kind', ['PNG', 'PPM', 'TIFF', 'big-endian TIFF'])
@pytest.mark.parametrize('top', [255, 4095, 65535])
def test_gray_of_16_bits_keeps_its_upper_8_in_every_format(kind, top, tmp_path):
    ramp = np.linspace(0, top, 64).astype(np.uint16).reshape(8, 8)
    image = Image.fromarray(ramp)
    if kind.startswith('big'):
        image = Image.frombytes('I;16B', (8, 8), ramp.astype('>u2').tobytes())
    image.save(tmp_path / 'deep', kind.split()[-1])
    seen = open_image(tmp_path / 'deep')
    assert np.array_equal(seen, ramp >> (int(top).bit_length() - 8))
    assert seen.max() == 255


def test_a_pgm_says_its_own_range(tmp_path):
    header = b'P5\n4 1\n4095\n'
    pixels = np.array([0, 16, 2048, 4095], '>u2')
    (tmp_path / 'a.pgm').write_bytes(header + pixels.tobytes())
    assert open_image(tmp_path / 'a.pgm').tolist() == [[0, 1, 128, 255]]


def test_one_limit_to_the_size_of_an_image_and_it_is_ours(tmp_path):
    large = Image.new('1', (LARGEST_IMAGE // 2**12 + 1, 2**12))
    large.save(tmp_path / 'bomb.png')
    assert (tmp_path / 'bomb.png').stat().st_size < 10_000
    for give in (lambda: open_image(tmp_path / 'bomb.png'), lambda: to_images([large])):
        with pytest.raises(InputError, match='at most 67,108,864'):
            give()
    for c in 'ab':
        (tmp_path / 'f' / c).mkdir(parents=True)
        os.link(tmp_path / 'bomb.png', tmp_path / 'f' / c / '1.png')
    with pytest.raises(InputError, match='1.png: has 16,385 x 4,096 = 67,112,960 pixels'):
        load_folder(tmp_path / 'f')


# Photographs

PEAK = """
import re, resource, sys
from pathlib import Path
import jax
import numpy as np
from munet_nb import System, load_folder
from munet_nb.engine.feeds import Feed, eval_indices
def peak():  # KiB
    status = Path('/proc/self/status')
    if status.exists():  # on Linux, where what getrusage calls the peak begins with the parent's
        return int(re.search(r'VmHWM:\\s+(\\d+)', status.read_text())[1])
    most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return most // 1024 if sys.platform == 'darwin' else most
"""
PREDICTS = """
system = System.open(sys.argv[1])
system.predict('t', [np.zeros((8, 8), np.uint8)])
system.predict('t', [np.zeros((8, 8, 3), np.uint8)])
before = peak()
p = system.predict('t', [sys.argv[2]] * int(sys.argv[3]))
print((peak() - before) // 1024, *p[0])
"""
FEEDS = """
import grain
from munet_nb.tasks import folders
folders.DECODE_PIXELS = 0  # as if they were too many to be kept
task = load_folder(sys.argv[1])
jax.devices()
before = peak()
feed = Feed(task.train, float(sys.argv[2]), 2)
for chunk in feed.chunks(eval_indices(len(task.train), 8), 1, 224):
    chunk.on(jax.devices()[0])
print((peak() - before) // 1024, feed.resident is not None)
"""


def told_by(code, *args):
    command = [sys.executable, '-c', PEAK + code, *map(str, args)]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()


def save_photograph(path, height, width):
    coarse = Image.fromarray(noise(height // 100, width // 100, 3))
    coarse.resize((width, height)).save(path)


@pytest.mark.parametrize(
    'height, width, copies, most',
    [(3000, 4000, 3, 120), (6000, 8000, 1, 60)],
)
def test_a_photograph_is_predicted_in_little_memory(run, tmp_path, height, width, copies, most):
    "Measured: one of 12 megapixels takes 14 MiB, and so does one of 48; three together 70."
    save_photograph(tmp_path / 'photo.jpg', height, width)
    mebibytes, *p = map(float, told_by(PREDICTS, run, tmp_path / 'photo.jpg', copies))
    assert mebibytes < most
    small = Image.open(tmp_path / 'photo.jpg').resize((width // 10, height // 10), Image.BOX)
    expected = System.open(run).predict('t', [small])[0]
    assert np.abs(expected - p).max() < 0.05, 'but for interpolation it is the same'


@pytest.mark.parametrize('budget, resident, most', [(2**30, 'True', 180), (0, 'False', 500)])
def test_photographs_are_trained_on_in_bounded_memory(tmp_path, budget, resident, most):
    "Measured, of 12 megapixels each: 91 MiB for 24 that become resident, 268 for as many streamed."
    for c in 'ab':
        (tmp_path / 'f' / c).mkdir(parents=True)
    save_photograph(tmp_path / 'f' / 'a' / '0.jpg', 3000, 4000)
    for i in range(1, 24):
        os.link(tmp_path / 'f' / 'a' / '0.jpg', tmp_path / 'f' / 'ab'[i % 2] / f'{i}.jpg')
    mebibytes, how = told_by(FEEDS, tmp_path / 'f', budget)
    assert how == resident and int(mebibytes) < most


def test_images_that_are_small_already_are_not_touched(system):
    for shape in ((28, 28, 1), (511, 900, 3), (511, 4000, 3)):
        image = noise(*shape)
        assert shrink(image, 32) is image
    one = noise(300, 400, 3)
    company = [noise(20, 30, 3, seed=i) for i in range(70)]
    alone, among = system.predict('t', [one]), system.predict('t', [one, *company])
    np.testing.assert_allclose(alone[0], among[0], atol=1e-6)  # fewer go through together
    np.testing.assert_allclose(system.predict('t', company), among[1:], atol=1e-6)


def test_training_evaluating_and_predicting_see_one_image(system):
    "What is streamed, resident and given to predict is shrunk alike, for every image size."
    large = [noise(1100, 1300, 3), noise(700, 1300, 1, seed=1), noise(40, 50, 3, seed=2)]
    task = task_from_arrays('t', (large * 8, [0, 1, 1] * 8))
    for size in (32, 224, 32):
        seen = []
        for budget in (2**30, 0):
            index = eval_indices(len(task.train), 4)
            (c,) = Feed(task.train, budget, 2).chunks(index, len(index), size)
            pixels = c.on(None)
            starts = pixels.start[c.place.ravel()[c.labels.ravel() >= 0]]
            seen.append([np.asarray(pixels.pixels[s : s + 40]) for s in starts])
        expected = [shrink(task.train[i][0], size) for i in range(len(task.train))]
        for resident, streamed, image in zip(*seen, expected, strict=True):
            first = np.broadcast_to(image, (*image.shape[:2], 3)).reshape(-1, 3)[:40]
            assert np.array_equal(resident, first) and np.array_equal(streamed, first)


def test_a_search_over_a_folder_of_photographs(tmp_path, monkeypatch):
    for c, shade in (('day', 200), ('night', 0)):
        (tmp_path / 'f' / c).mkdir(parents=True)
        coarse = Image.fromarray(noise(15, 20, 3) // 6 + np.uint8(shade))
        coarse.resize((800, 600)).save(tmp_path / 'f' / c / '0.jpg')
        for i in range(1, 20):
            os.link(tmp_path / 'f' / c / '0.jpg', tmp_path / 'f' / c / f'{i}.jpg')
    monkeypatch.setattr(folders, 'DECODE_PIXELS', 0)
    digests = []
    for budget in (4096.0, 1.0):
        task = load_folder(tmp_path / 'f')
        with start(tmp_path / str(budget), task, device_budget=budget, batches=1) as evo:
            evo.run()
            (kept,) = evo.system.models.values()
            digests.append(kept.digests)
            test = evo.system.evaluate('f')
            images = [task.test[i] for i in range(len(task.test))]
            p = evo.system.predict('f', [image for image, _ in images])
            assert test == np.mean(p.argmax(1) == [label for _, label in images])
    assert digests[0] == digests[1], 'memory makes no difference'


# One image, many images, paths


def test_one_image_is_told_from_many_whatever_it_is_given_as(system, tmp_path):
    color, gray = noise(20, 30, 3), noise(20, 30)
    Image.fromarray(color).save(tmp_path / 'a.png')
    for one in (color, gray, color[..., :1]):
        for give in (np.asarray, jnp.asarray, torch.tensor, np.ndarray.tolist, list):
            with pytest.raises(InputError, match='give .image. if this is one image'):
                system.predict('t', give(one))
            with pytest.raises(InputError, match='give .image. if this is one image'):
                task_from_arrays('x', (give(one), [0, 1] * 10))
    for path in (tmp_path / 'a.png', str(tmp_path / 'a.png')):
        with pytest.raises(InputError, match='the path .*give .image.'):
            system.predict('t', path)
        assert np.array_equal(system.predict('t', [path]), system.predict('t', [color]))
    for nothing in (None, 3, b'\x89PNG', {'a': color}, {'a.png'}):
        with pytest.raises(InputError, match='is no list or array of images'):
            system.predict('t', nothing)
        with pytest.raises(InputError, match='is no list or array of images'):
            task_from_arrays('x', (nothing, [0, 1] * 10))
    with pytest.raises(InputError, match='nowhere.png'):
        system.predict('t', ['nowhere.png'])


def test_many_images_are_the_same_whatever_they_are_given_as(system):
    for many in (noise(4, 20, 30), noise(4, 20, 30, 3)):
        expected = system.predict('t', many)
        for given in (
            jnp.asarray(many),
            torch.tensor(many),
            many.tolist(),
            list(many),
            (im for im in many),
            [Image.fromarray(im) for im in many],
            [torch.tensor(im) for im in many],
            torch.tensor(many / 255.0, dtype=torch.float64),
            torch.tensor(many / 255.0, requires_grad=True),
        ):
            assert np.array_equal(system.predict('t', given), expected)


# Folders


def folder_of(path, *names, n=20, suffix='png'):
    for name in names:
        (path / name).mkdir(parents=True, exist_ok=True)
        for i in range(n):
            Image.fromarray(noise(16, 16, seed=i)).save(path / name / f'{i}.{suffix}')
    return path


def sizes(task):
    return len(task.train) + len(task.validation) + len(task.test)


def told(folder):
    with warnings.catch_warnings(record=True) as found:
        warnings.simplefilter('always')
        task = load_folder(folder)
    return task, ' '.join(str(w.message) for w in found if w.category is Notice)


KINDS = {
    'jfif': 'JPEG', 'jpe': 'JPEG', 'JPG': 'JPEG', 'avif': 'AVIF', 'apng': 'PNG', 'tga': 'TGA',
    'jp2': 'JPEG2000', 'j2k': 'JPEG2000', 'pnm': 'PPM', 'pbm': 'PPM', 'dib': 'BMP', 'ico': 'ICO',
    'pcx': 'PCX', 'qoi': 'QOI', 'webp': 'WEBP', 'tif': 'TIFF',
}  # fmt: skip


def test_what_pillow_reads_is_read(tmp_path):
    f = folder_of(tmp_path / 'f', 'cat', 'dog')
    for suffix, kind in KINDS.items():
        mode = '1' if suffix == 'pbm' else 'RGB'
        Image.new(mode, (16, 16)).save(f / 'cat' / f'x.{suffix}', format=kind)
    task, notice = told(f)
    assert sizes(task) == 40 + len(KINDS) and 'left out' not in notice


def test_everything_that_is_left_out_is_counted_and_named(tmp_path):
    f = folder_of(tmp_path / 'f', 'cat', 'dog', '.NET', 'dog/deep', '__MACOSX/cat', 'dog/@eaDir')
    folder_of(tmp_path, 'elsewhere')
    (f / 'dog/again').symlink_to(f / 'dog')  # followed it would have no end
    (f / 'dog/more').symlink_to(tmp_path / 'elsewhere')
    (f / 'bird').symlink_to(tmp_path / 'elsewhere')
    (f / 'dog/gone.png').symlink_to('/nonexistent/gone.png')
    (f / 'dog/itself.png').symlink_to('itself.png')
    os.mkfifo(f / 'dog/pipe.png')
    for name in ('cat/._1.png', 'cat/x.heic', 'cat/y.HEIC', 'cat/notes', 'README.md'):
        (f / name).write_bytes(b'0')
    task, notice = told(f)
    assert task.classes == ('bird', 'cat', 'dog') and sizes(task) == 80
    for part in (
        "hidden: 2 ('.NET', ...)",
        "the system's own: 2 ('__MACOSX', ...)",
        "links to folders: 2 ('dog/again', ...)",
        "broken links: 2 ('dog/gone.png', ...)",
        "neither files nor folders: 1 ('dog/pipe.png')",
        "photographs as '.heic', to be saved as JPEG first: 2 ('cat/x.heic', ...)",
        "no images by their suffix '': 1 ('cat/notes')",
        "outside of classes: 1 ('README.md')",
    ):
        assert part in notice, (part, notice)


@pytest.mark.parametrize(('folders', 'given', 'told'), [
    (['cat'], '', "has one class only, 'cat', and a task needs two or more, each a folder of images$"),
    (['2023/trip/cat', '2023/trip/dog'], '', 'the classes those in .*trip. Then give that folder'),
    (['cat', 'dog'], 'cat/0.png', 'is a file; give the folder that holds the classes'),
    (
        ['cars/train/van', 'cars/.cache', 'pets/test/cat'],
        '',
        'cars would be a class, and has train in it. If cars is a task, give its folder',
    ),
    (['cat', 'dog'], '', "nothing is left to train on in 'cat', 'dog'.*three or more into each class"),
])  # fmt: skip
def test_a_folder_that_is_no_task_says_what_to_do(tmp_path, folders, given, told):
    for folder in folders:
        (tmp_path / folder).mkdir(parents=True)
        if not folder.endswith('.cache'):
            Image.new('RGB', (16, 16)).save(tmp_path / folder / '0.png')
    with pytest.raises(InputError, match=told):
        load_folder(tmp_path / given)


def test_a_folder_in_a_class_may_be_called_like_a_split(tmp_path):
    for name in ('cat', 'cat/test', 'dog', 'dog/val'):
        folder_of(tmp_path, name, n=5)
    task = load_folder(tmp_path)
    assert task.classes == ('cat', 'dog') and sizes(task) == 20


def test_the_command_line_tells_it_in_one_line(tmp_path, capsys):
    from munet_nb.cli import main

    f = folder_of(tmp_path / 'f', 'cat', n=3)
    (f / 'cat/x.heic').touch()
    (f / 'dog').mkdir()
    assert main(['evolve', '--run', str(tmp_path / 'run'), '--folder', str(f)]) == 2
    notice, error = capsys.readouterr().err.splitlines()
    told = "'.heic', to be saved as JPEG first: 1 ('cat/x.heic')"
    assert notice.startswith('munet: ') and told in notice
    assert error.startswith('munet: ') and "there are no images in 'dog'" in error


@pytest.mark.parametrize('empty', ['new folder', 'annotations', 'a/b'])
def test_a_class_without_images_is_refused_in_train_and_allowed_elsewhere(tmp_path, empty):
    f = folder_of(tmp_path / 'f', 'train/cat', 'train/dog', 'test/cat')
    (f / 'test/dog').mkdir()
    assert load_folder(f).classes == ('cat', 'dog')
    (f / 'train' / empty).mkdir(parents=True)
    (f / 'train' / empty / 'labels.xml').touch()
    with pytest.raises(InputError, match=f"there are no images in '{empty[:1]}.*take away"):
        load_folder(f)


# Damage


@pytest.mark.parametrize('suffix', ['jpg', 'png'])
@pytest.mark.parametrize('left', [0.2, 0.9])
def test_a_file_that_was_cut_off_is_found_before_the_search(tmp_path, suffix, left, monkeypatch):
    monkeypatch.setattr(folders, 'DECODE_PIXELS', 0)  # as a folder that is too large to decode
    f = folder_of(tmp_path / 'f', 'cat', 'dog', suffix=suffix)
    for victim in sorted(f.glob('*/*'))[::3]:
        whole = victim.read_bytes()
        victim.write_bytes(whole[: int(len(whole) * left)])
        with pytest.raises(InputError, match=f'{victim.name}: is not an image'):
            load_folder(f)
        victim.write_bytes(whole)
    trailing = f / 'cat' / f'0.{suffix}'
    trailing.write_bytes(trailing.read_bytes() + b'\0' * 5000)  # as some telephones write
    assert sizes(load_folder(f)) == 40


@pytest.mark.parametrize('harm, budget', [('damaged', 4096.0), ('deleted', 0.001)])
def test_an_image_that_is_lost_during_a_search_is_named_and_the_run_goes_on(
    tmp_path, monkeypatch, harm, budget
):
    monkeypatch.setattr(folders, 'DECODE_PIXELS', 0)
    f = folder_of(tmp_path / 'f', 'cat', 'dog', n=60)
    task = load_folder(f)
    seen = {int(i) for i in np.linspace(0, len(task.train) - 1, 64)}
    seen |= {int(i) for i in np.linspace(0, len(task.train) - 1, 16)}
    number = next(i for i in range(len(task.train)) if i not in seen)
    pixels, label = task.train[number]
    found = (p for p in f.glob(f'{task.classes[label]}/*') if p.is_file())
    victim = next(p for p in found if np.array_equal(open_image(p), pixels[..., 0]))
    with start(tmp_path / 'run', task, device_budget=budget, batches=20) as evo:
        whole = victim.read_bytes()
        victim.unlink()
        if harm == 'damaged':
            victim.write_bytes(whole[:40] + b'damage' + whole[46:])
        with pytest.raises(InputError, match=f'{victim}.*put a whole copy of it, or another image'):
            evo.run()
    if harm == 'deleted':
        with pytest.raises(InputError, match='if files were taken away or added, undo that'):
            Evolution.resume(tmp_path / 'run', trust_sources=True)
    victim.write_bytes((victim.parent / '1.png').read_bytes())
    with Evolution.resume(tmp_path / 'run', trust_sources=True) as evo:
        evo.run()
        assert evo.done


# Names


@pytest.mark.parametrize(
    'name',
    [
        'می\u200cخواهم',  # Persian, with a non-joiner
        'ශ්\u200dරී',  # Sinhala, with a joiner
        '\N{MAN}\u200d\N{WOMAN}\u200d\N{GIRL}',
        'two\u3000words',
        '10\u00a0kg',
        'café',
    ],
)
def test_names_of_all_scripts_are_allowed_and_kept(tmp_path, name):
    for spelled in (unicodedata.normalize(form, name) for form in ('NFC', 'NFD')):
        task = load_folder(folder_of(tmp_path / spelled / spelled, spelled, 'other'))
        assert task.name == spelled and set(task.classes) == {spelled, 'other'}


@pytest.mark.parametrize('name', ['', '\u200d', '\x1b[2J', 'a\nb', '\u202eabc', '\u2066x', '\ufeffx'])
def test_names_that_deceive_are_refused(name):
    x = (noise(40, 8, 8), [0, 1] * 20)
    with pytest.raises(InputError, match='printable'):
        task_from_arrays(name, x)
    with pytest.raises(InputError, match='printable'):
        task_from_arrays('t', x, classes=['a', name])


def test_one_name_in_two_spellings_is_one_name(tmp_path):
    composed, apart = (unicodedata.normalize(form, 'café') for form in ('NFC', 'NFD'))
    f = folder_of(tmp_path / 'f', f'train/{composed}', 'train/tea', f'test/{apart}', 'test/tea')
    task = load_folder(f, apart)
    assert task.classes == (composed, 'tea') and len(task.test) == 40
    copied = folder_of(tmp_path / 'g', f'train/{apart}', 'train/tea', f'test/{composed}', 'test/tea')
    assert load_folder(copied).fingerprint == task.fingerprint, 'by a system that spells otherwise'
    with pytest.raises(InputError, match='different names'):
        task_from_arrays('t', (noise(40, 8, 8), [0, 1] * 20), classes=[composed, apart])
    with start(tmp_path / 'run', task) as evo:
        evo.run()
        with pytest.raises(InputError, match='of that name already'):
            evo.add_task(load_folder(f, composed))
    given = [load_folder(copied, composed)]
    with Evolution.resume(tmp_path / 'run', given) as evo:
        assert list(evo.tasks) == [evo.tasks[apart].name] == [apart]
        assert evo.system.evaluate(composed) == evo.system.evaluate(apart)
        assert np.array_equal(*(evo.system.predict(n, noise(2, 8, 8)) for n in (composed, apart)))
    from munet_nb.cli import main

    image = next(Path(f).glob('train/tea/*.png'))
    assert main(['predict', str(tmp_path / 'run'), '--task', composed, str(image)]) == 0


def test_a_picture_that_needs_another_program_is_refused_whatever_its_name(tmp_path):
    eps = b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n'
    (tmp_path / 'a.png').write_bytes(eps)
    with pytest.raises(InputError, match='is not an image that can be decoded'):
        open_image(tmp_path / 'a.png')


def test_a_pillow_image_that_does_not_decode_is_refused_by_its_number(tmp_path):
    Image.fromarray(noise(64, 64)).save(tmp_path / 'a.jpg')
    cut = (tmp_path / 'a.jpg').read_bytes()[:-500]
    opened = Image.open(io.BytesIO(cut))
    whole = Image.new('L', (8, 8), 3)
    with pytest.raises(InputError, match='image 1 of train of task .t.: is not an image that can be'):
        task_from_arrays('t', ([whole, opened] * 10, [0, 1] * 10))


@pytest.mark.parametrize('suffix', ['png', 'webp', 'jpg'])
def test_notes_in_a_picture_that_nobody_can_read_do_not_spoil_it(tmp_path, suffix):
    path = tmp_path / f'a.{suffix}'
    Image.new('RGB', (8, 6), (9, 9, 9)).save(path, exif=b'garbage!')
    assert open_image(path).shape == (6, 8, 3)
    unreadable = Image.new('RGB', (8, 6))
    unreadable.info['exif'] = b'Exif\0\0garbage'
    assert to_image(unreadable, 'x').shape == (6, 8, 3)


def test_two_folders_that_mean_one_split_are_told_as_that(tmp_path):
    f = folder_of(tmp_path / 'f', *(f'{s}/{c}' for s in ('train', 'val', 'validation') for c in 'ab'))
    with pytest.raises(InputError, match='val and validation both mean validation'):
        load_folder(f)


def test_a_class_whose_name_is_spelled_in_two_ways_is_refused_as_that(tmp_path):
    for name in ('caf\u00e9', 'cafe\u0301', 'tea'):
        folder_of(tmp_path / 'f', name)
    with pytest.raises(InputError, match='spelled in two ways'):
        load_folder(tmp_path / 'f')


def test_a_notice_of_many_reasons_stays_short(tmp_path):
    f = folder_of(tmp_path / 'f', 'cat', 'dog')
    for i in range(100):
        (f / f'cat/scan.{i:04}').touch()
    with pytest.warns(Notice) as told:
        load_folder(f)
    assert len(str(told[0].message)) < 1500 and '92 other reasons' in str(told[0].message)
