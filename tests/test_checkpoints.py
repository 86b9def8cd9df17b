"""Root models from checkpoints as others write them, and models for other programs.

Whole depths, a whole run, a hub and a bucket on this machine, and files that lie.
"""

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import tracemalloc
import urllib.error
import urllib.request
import zipfile
from dataclasses import replace
from functools import cache, partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zlib import crc32

import jax
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from munet_nb import Config, Evolution, System, load_root
from munet_nb.checks import InputError
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef
from munet_nb.models.pool import LayerPool, make_layer
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import (
    apply_chain,
    chain_kinds,
    count_params,
    init_chain,
    layer_names,
    root_names,
)
from munet_nb.network.kinds import Sizes
from munet_nb.roots import export as export_module
from munet_nb.roots import fetch
from munet_nb.roots.checkpoint import read_checkpoint
from munet_nb.roots.counterparts import counterparts, to_theirs
from munet_nb.roots.downloads import NeverToLess, download
from munet_nb.roots.export import export_model
from munet_nb.roots.formats import AUGREG, TIMM
from munet_nb.search.config import TrainingSettings
from munet_nb.tasks.task import task_from_arrays


SMALL = dict(
    hidden_size=192,
    num_hidden_layers=1,
    num_attention_heads=3,
    intermediate_size=768,
    image_size=32,
    patch_size=16,
    num_labels=7,
)


@cache
def pytorch():
    "PyTorch and transformers, for the tests that compare with them: the others run without."
    import torch
    import transformers

    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    return torch, transformers


def torch_vit(kind='ViTForImageClassification', **config):
    torch, transformers = pytorch()
    torch.manual_seed(0)
    name = kind.partition('For')[0].removesuffix('Model') + 'Config'
    made = getattr(transformers, name)(**SMALL | config)
    model = getattr(transformers, kind)(made).eval()
    with torch.no_grad():
        for _, p in model.named_parameters():
            p.add_(torch.randn(p.shape) * 0.05)
    return model


def digests(root):
    return [layer.digest for layer in root.layers.values()]


def our_logits(root, head, images):
    kinds = chain_kinds(layer_names(root.arch.depth))
    params = [layer.params for layer in root.layers.values()] + [head]
    run = jax.jit(lambda params, x: apply_chain(root.arch, kinds, params, x))
    return np.asarray(run(params, images))


def head_of(model):
    kernel = model.classifier.weight.detach().numpy().T
    return {'dense': {'kernel': kernel, 'bias': model.classifier.bias.detach().numpy()}}


def their_logits(model, images):
    torch, _ = pytorch()
    images = np.ascontiguousarray(images.transpose(0, 3, 1, 2))
    with torch.no_grad():
        return model(torch.from_numpy(images)).logits.numpy()


def close(ours, theirs):
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


def images_of(size, n=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, size, size, 3)).astype('float32')


def random_arrays(format, arch, image_size, seed=0):
    "The arrays of a root model in a file, by name."
    rng = np.random.default_rng(seed)
    names = root_names(arch)
    return {
        key: rng.normal(size=a.shape).astype('float32')
        for c in counterparts(format, arch, names, Sizes(image_size))
        for key, a in to_theirs(c, np.zeros(c.shape, 'float32')).items()
    }


WHOLE = {
    'Ti/16': dict(num_hidden_layers=12),
    'B/32': dict(
        num_hidden_layers=12,
        hidden_size=768,
        num_attention_heads=12,
        intermediate_size=3072,
        patch_size=32,
    ),
}


@pytest.mark.parametrize('variant', ['Ti/16', pytest.param('B/32', marks=pytest.mark.long)])
def test_whole_depth(tmp_path, variant):
    "All blocks of a model: their order, and that small differences do not grow."
    model = torch_vit(**WHOLE[variant])
    model.save_pretrained(tmp_path / 'a')
    root, images = load_root(tmp_path / 'a'), images_of(32)
    assert root.arch.depth == 12
    assert root.arch.name == variant.removesuffix('/16') + '-erf-eps1e-12'
    close(our_logits(root, head_of(model), images), their_logits(model, images))


def test_export_of_what_was_read(tmp_path):
    "The same arrays, to the bit, and so the same logits."
    model = torch_vit(num_hidden_layers=2)
    model.save_pretrained(tmp_path / 'a')
    root, images = load_root(tmp_path / 'a'), images_of(32)
    params = {n: layer.params for n, layer in root.layers.items()} | {'head': head_of(model)}
    export_model(tmp_path / 'b', 'huggingface', root.arch, params, 32, list('abcdefg'))
    before, after = (load_file(tmp_path / n / 'model.safetensors') for n in 'ab')
    assert before.keys() == after.keys()
    assert all(before[k].tobytes() == after[k].tobytes() for k in before)
    _, transformers = pytorch()
    same = transformers.ViTForImageClassification.from_pretrained(tmp_path / 'b').eval()
    assert (their_logits(same, images) == their_logits(model, images)).all()


@pytest.mark.core
def test_first_blocks(tmp_path):
    "A root of n blocks has the first n blocks, with the last norm, as a model of n blocks does."
    np.savez(tmp_path / 'ti.npz', **random_arrays(AUGREG, get_arch('Ti'), 32))
    whole, three = load_root(tmp_path / 'ti.npz'), load_root(tmp_path / 'ti.npz', layers=3)
    assert three.arch == get_arch('Ti3')
    assert digests(three) == [whole.layers[n].digest for n in layer_names(3)[:-1]]
    assert sum(layer.n_params for layer in three.layers.values()) == 1_484_162 - 386
    for bad in (0, 13, True, 2.0, '3'):
        with pytest.raises(InputError, match='layers = .*whole number from 1 to 12'):
            load_root(tmp_path / 'ti.npz', layers=bad)


@pytest.mark.core
def test_positions_are_resized_as_the_authors_do(tmp_path):
    "Linearly between the grids' corners, the class token's apart."
    arrays = random_arrays(AUGREG, get_arch('Ti1'), 224)
    np.savez(tmp_path / 'ti.npz', **arrays)
    old = arrays['Transformer/posembed_input/pos_embedding'][0]
    for size in (16, 32, 80, 224, 384):
        root = load_root(tmp_path / 'ti.npz', image_size=size)
        new = root.layers['posembed'].params['embedding'][0]
        g = size // 16
        assert new.shape == (1 + g * g, 192) and new.dtype == np.float32
        assert (new[0] == old[0]).all()
        if g == 1:
            continue
        at, grid = np.linspace(0, 13, g), old[1:].reshape(14, 14, 192).astype('float64')

        def between(line, at=at):
            return np.interp(at, np.arange(14), line)

        columns = np.apply_along_axis(between, 0, grid)
        both = np.apply_along_axis(between, 1, columns)
        np.testing.assert_allclose(new[1:].reshape(g, g, 192), both, atol=1e-5)


def write_json(path, **config):
    path.write_text(json.dumps(config))


def test_colors_that_a_model_was_trained_with(tmp_path):
    "A model of ImageNet's colors takes ours: the normalization is in the patch embedding."
    model = torch_vit()
    mean = np.array([0.485, 0.456, 0.406], 'float32')
    std = np.array([0.229, 0.224, 0.225], 'float32')
    model.save_pretrained(tmp_path)
    file = tmp_path / 'preprocessor_config.json'
    write_json(file, image_mean=mean.tolist(), image_std=std.tolist())
    images = images_of(32)
    ours = our_logits(load_root(tmp_path), head_of(model), images)
    close(ours, their_logits(model, (((images + 1) / 2 - mean) / std)))
    for bad in (dict(image_std=[0.2, 0.2, 0]), dict(image_mean=0.5), dict(image_mean=['x'] * 3)):
        write_json(file, **bad)
        with pytest.raises(InputError, match='preprocessor_config.json: image_(std|mean) = '):
            load_root(tmp_path)


UNTOLD = 'is missing, or does not tell the colors.*'


@pytest.mark.core
def test_timm_with_a_second_token_and_colors(tmp_path):
    "timm's distilled DeiT: the token and its position are left out; config.json has the colors."
    arch, config = get_arch('Ti1/16-erf'), tmp_path / 'config.json'
    arrays = random_arrays(TIMM, arch, 32)
    position = arrays['pos_embed']
    save_file(arrays, tmp_path / 'model.safetensors')
    for nothing in ({}, dict(pretrained_cfg=None), dict(pretrained_cfg=dict(mean=[0.5] * 3))):
        message = f'config.json: {UNTOLD}"pretrained_cfg": {{"mean"'
        with pytest.raises(InputError, match=message):
            load_root(tmp_path)
        write_json(config, **nothing)
    write_json(config, pretrained_cfg=dict(mean=[0.5] * 3, std=[0.5] * 3))
    plain = load_root(tmp_path)
    arrays |= dict(
        dist_token=np.ones((1, 1, 192), 'float32'),
        pos_embed=np.insert(position, 1, 9.0, axis=1),
        **{'head_dist.weight': np.zeros((3, 192), 'float32')},
    )
    save_file(arrays, tmp_path / 'model.safetensors')
    distilled = load_root(tmp_path)
    assert plain.arch == distilled.arch == arch and digests(distilled) == digests(plain)
    colors = dict(mean=[0, 0, 0], std=[1, 1, 1])
    write_json(config, architecture='deit', pretrained_cfg=colors)
    shifted = load_root(tmp_path).layers['embedding'].params  # of c in [0, 1]: (x + 1) / 2
    before = plain.layers['embedding'].params
    bias = before['bias'] + before['kernel'].sum((0, 1, 2)) / 2
    np.testing.assert_allclose(shifted['kernel'], before['kernel'] / 2)
    np.testing.assert_allclose(shifted['bias'], bias, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize('kind', ['DeiTModel', 'Dinov2Model'])
def test_colors_are_not_guessed(tmp_path, kind):
    """Models that are trained with ImageNet's colors say so, or are refused.

    A ViT of transformers has [-1, 1] where nothing is said.
    """
    model = torch_vit(kind)
    model.save_pretrained(tmp_path)
    file = tmp_path / 'preprocessor_config.json'
    for nothing in ({}, dict(image_mean=[0.5] * 3)):
        message = f'preprocessor_config.json: {UNTOLD}"image_mean": '
        with pytest.raises(InputError, match=message):
            load_root(tmp_path)
        write_json(file, **nothing)
    told = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)
    write_json(file, **told, do_rescale=True, rescale_factor=1 / 255)
    kernel = model.embeddings.patch_embeddings.projection.weight.detach().numpy()
    read = load_root(tmp_path).layers['embedding'].params['kernel']
    assert (read == kernel.transpose(2, 3, 1, 0)).all()
    lies = (('do_rescale', False), ('rescale_factor', 1 / 127.5), ('rescale_factor', 'x'))
    for name, value in lies:
        write_json(file, **told, **{name: value})
        message = f'preprocessor_config.json: {name} = .*colors are in .0, 1. before'
        with pytest.raises(InputError, match=message):
            load_root(tmp_path)


@pytest.mark.core
def test_a_name_that_the_arrays_do_not_have(tmp_path):
    "Our own file says which architecture it holds. If that is another, it is refused."
    layers = load_root('random:Ti1').layers
    arrays = {f'{n}/{k}': a for n, layer in layers.items() for k, a in layer.flat.items()}
    for name in ('B5/32', 'Ti', 'Ti1/14'):
        save_file(arrays, tmp_path / 'x.safetensors', {'arch': name})
        with pytest.raises(InputError, match=f"x.safetensors: arch = '{name}': must be 'Ti1"):
            load_root(tmp_path / 'x.safetensors')
    save_file(arrays, tmp_path / 'x.safetensors', {'arch': 'Ti1/16'})
    assert load_root(tmp_path / 'x.safetensors').arch == get_arch('Ti1')


def test_dinov2_counts():
    "Whole backbones at 518 pixels, counted without LayerScale and the mask's token."
    torch, transformers = pytorch()
    for name, heads, width in (('S/14', 6, 384), ('B/14', 12, 768)):
        config = transformers.Dinov2Config(
            hidden_size=width, num_attention_heads=heads, image_size=518, patch_size=14
        )
        with torch.device('meta'):
            model = transformers.Dinov2Model(config)
        left_out = ('lambda1', 'mask_token')
        counted = (p.numel() for n, p in model.named_parameters() if not n.endswith(left_out))
        ours = (count_params(get_arch(name), n, Sizes(518)) for n in layer_names(12)[:-1])
        assert sum(counted) == sum(ours)


@pytest.mark.parametrize('kind', ['float16', 'bfloat16'])
def test_half_precision(tmp_path, kind):
    torch, _ = pytorch()
    model = torch_vit().to(getattr(torch, kind))
    model.save_pretrained(tmp_path)
    scale = load_root(tmp_path).layers['norm'].params['norm']['scale']
    assert (scale == model.vit.layernorm.weight.detach().float().numpy()).all()


# What happens to a directory, and what load_root says of it then.


def edit(**changes):
    "Change fields of the configuration."

    def apply(folder):
        file = folder / 'config.json'
        write_json(file, **json.loads(file.read_text()) | changes)

    return apply


def arrays(**changes):
    "Put arrays in the place of others, by the names below; a function makes one of the old."

    def apply(folder):
        t = load_file(folder / 'model.safetensors')
        for name, change in changes.items():
            key = NAMES[name]
            t[key] = change(t[key]) if callable(change) else change
        save_file(t, folder / 'model.safetensors')

    return apply


def lacks(folder):
    t = load_file(folder / 'model.safetensors')
    t.pop(NAMES['mlp'])
    save_file(t, folder / 'model.safetensors')


def only_bin(folder):
    (folder / 'model.safetensors').unlink()
    (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(os.getcwd))


def in_several_files(folder):
    (folder / 'model.safetensors').rename(folder / 'model.safetensors.index.json')


def configuration(text):
    return lambda folder: (folder / 'config.json').write_text(text)


NAMES = {
    'mlp': 'vit.encoder.layer.0.output.dense.weight',
    'odd': 'vit.encoder.layer.0.ls1',
    'patches': 'vit.embeddings.patch_embeddings.projection.weight',
    'positions': 'vit.embeddings.position_embeddings',
}
LIES = {
    'missing key': (lacks, f"lacks {NAMES['mlp']}"),
    'shape': (
        arrays(mlp=lambda a: a[:, :5]),
        rf"{NAMES['mlp']} has shape \(192, 5\), must be \(192, 768\)",
    ),
    'another key': (
        arrays(odd=np.zeros(3)),
        'has vit.encoder.layer.0.ls1, which Ti1-erf-eps1e-12 has not',
    ),
    'width': (arrays(patches=np.zeros((100, 3, 16, 16))), 'tokens of length 100'),
    'patch': (
        arrays(patches=np.zeros((192, 3, 15, 15))),
        'model.safetensors: .*patches are 8, 14, 16, 32',
    ),
    'positions': (arrays(positions=np.zeros((1, 7, 192))), 'has 7 positions'),
    'integers': (arrays(mlp=lambda a: a.astype('int32')), 'has type I32'),
    'not finite': (arrays(mlp=lambda a: a * np.float32(np.inf)), 'NaN or infinity'),
    'another model': (
        edit(model_type='swin'),
        "model_type = 'swin': must be 'vit' or 'deit' or 'vit_msn'",
    ),
    'another model that we know': (
        edit(model_type='dinov2'),
        "model_type = 'dinov2': must be 'vit' or 'deit' or 'vit_msn'",
    ),
    'hidden units': (
        edit(intermediate_size=5),
        'intermediate_size = 5: must be 768, as the arrays of Ti1',
    ),
    'image size': (edit(image_size=999), 'image_size = 999: must be 32'),
    'heads': (
        edit(num_attention_heads=6),
        'num_attention_heads = 6: must be 3, as the arrays of Ti1',
    ),
    'depth': (edit(num_hidden_layers=2), 'num_hidden_layers = 2: must be 1'),
    'activation': (edit(hidden_act='relu'), "hidden_act = 'relu': must be one of gelu"),
    'epsilon': (edit(layer_norm_eps=2e-5), 'layer_norm_eps = 2e-05: must be a power of ten'),
    'a large epsilon': (
        edit(layer_norm_eps=1),
        'layer_norm_eps = 1: must be a power of ten from 1e-12 to 1e-03',
    ),
    'a small epsilon': (
        edit(layer_norm_eps=1e-100),
        'layer_norm_eps = 1e-100: must be a power of ten from 1e-12 to 1e-03',
    ),
    'no configuration': (lambda f: (f / 'config.json').unlink(), 'config.json: is missing'),
    'broken configuration': (configuration('{' * 5), 'config.json: is not a configuration'),
    'deep configuration': (configuration('[' * 100_000), 'config.json: is not a configuration'),
    'truncated': (
        lambda f: os.truncate(f / 'model.safetensors', 10_000),
        'not a safetensors file, or a truncated one',
    ),
    'a pickle by another name': (
        lambda f: pytorch()[0].save({}, f / 'model.safetensors'),
        'not a safetensors file',
    ),
    'only a pickle': (only_bin, 'pytorch_model.bin.*runs code.*save_pretrained'),
    'no index of several files': (in_several_files, 'index.json: is not a configuration'),
    'nothing': (lambda f: (f / 'model.safetensors').unlink(), r'has no model.safetensors\. .*numpy.savez'),
}


@pytest.mark.parametrize('lie', LIES)
def test_a_directory_that_lies(tmp_path, lie):
    torch_vit().save_pretrained(tmp_path)
    load_root(tmp_path)
    change, message = LIES[lie]
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        load_root(tmp_path)


@pytest.fixture
def archive(tmp_path):
    "Arrays of a good archive, and the path where altered ones go."
    return random_arrays(AUGREG, get_arch('Ti1'), 32), tmp_path / 'x.npz'


@pytest.mark.core
def test_arrays_that_lie(archive):
    "An archive is refused by what it says of itself, and nothing in it is run."
    good, path = archive

    class Trap:
        def __reduce__(self):
            return Path.touch, (path.parent / 'sprung',)

    query = 'encoderblock_0/MultiHeadDotProductAttention_1/query/kernel'
    for key, array, message in (
        ('head/kernel', np.array([Trap()], object), 'must be floating-point'),
        ('cls', np.zeros((1, 1, 192), complex), 'must be floating-point'),
        (
            f'Transformer/{query}',
            np.zeros((192, 2, 96)),
            rf'{query} has shape \(192, 2, 96\), must be \(192, 3, 64\)',
        ),
    ):
        np.savez(path, **good | {key: array})
        with pytest.raises(InputError, match=message):
            load_root(path)
    assert not (path.parent / 'sprung').exists()


@pytest.mark.core
def test_files_that_are_no_archives(archive):
    good, path = archive
    np.savez(path, **good)
    with zipfile.ZipFile(path, 'a') as z:
        z.writestr('readme.txt', 'hello')
    with pytest.raises(InputError, match="'readme.txt', which is not an array"):
        load_root(path)
    path.write_bytes(b'\x80\x04' + bytes(100))
    with pytest.raises(InputError, match='is not a NumPy archive'):
        load_root(path)
    with pytest.raises(InputError, match='no such file'):
        load_root(path.with_name('y.npz'))
    text = path.with_name('x.txt')
    text.write_text('hello')
    with pytest.raises(InputError, match='must be a .npz or .safetensors file'):
        load_root(text)


def test_nothing_large_is_unpacked_in_vain(archive):
    "1 GB of zeros in 1 MB, of a shape that is honest but no ViT's."
    good, path = archive
    shape = (16, 16, 3, 325_000)
    big = np.lib.stride_tricks.as_strided(np.zeros(1, 'float32'), shape, (0, 0, 0, 0))
    with zipfile.ZipFile(path, 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for k, a in (good | {'embedding/kernel': big}).items():
            with z.open(f'{k}.npy', 'w', force_zip64=True) as f:
                np.lib.format.write_array(f, a)
    tracemalloc.start()
    try:
        with pytest.raises(InputError, match='tokens of length 325000'):
            load_root(path)
        assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    finally:
        tracemalloc.stop()


@pytest.fixture
def closed():
    "A folder that this process may not look into, nor write to, even if it is the superuser's."
    superuser = not os.geteuid()
    folder = Path(tempfile.mkdtemp())
    if superuser:
        os.chown(folder, 65534, -1)
        os.seteuid(65534)
    (folder / 'in').mkdir()
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)
    if superuser:
        os.seteuid(0)
    shutil.rmtree(folder)


UNUSABLE = {
    'nobody': '~nobody-of-this-name/x',
    'long': 'x' * 300,
    'null': 'a\0b',
    'surrogate': 'a\ud800',
    'empty': '',
}


def export_nothing(path):
    export_model(path, 'safetensors', get_arch('Ti1'), {'block_0': {}}, 32, ['a'])


@pytest.mark.parametrize('path', UNUSABLE.values(), ids=UNUSABLE)
def test_text_that_is_no_path(path):
    for use in (load_root, read_checkpoint, export_nothing):
        with pytest.raises(InputError, match='is no path that can be used'):
            use(path)


def test_a_closed_folder(closed):
    for path in (closed, closed / 'in', closed / 'in' / 'x.npz'):
        with pytest.raises(InputError, match='can(not)? be (read|used)'):
            load_root(path)
        with pytest.raises(InputError, match='can(not)? be (written|used)'):
            export_nothing(path)
    closed.chmod(0o500)
    with pytest.raises(InputError, match='cannot keep downloads'):
        download('http://127.0.0.1:9/x.npz', closed)
    with pytest.raises(InputError, match='cannot be written'):
        export_nothing(closed / 'x')


@pytest.mark.parametrize('size', ['32', 32.0, 48.0, True, 0, -16, 16 * 10**6])
def test_image_sizes_that_are_none(size):
    message = 'image_size = .*: must be a whole number of pixels from 1 to 4096'
    for spec in ('random:Ti1', 'Ti3-glyphs'):
        with pytest.raises(InputError, match=message):
            load_root(spec, image_size=size)


@pytest.mark.parametrize(
    'address',
    [
        'https://127.0.0.1:9/é.npz',
        'https://ü.example/x.npz',
        'https://[::1/x.npz',
        f"https://{'a' * 70}.invalid/x.npz",
        'https://127.0.0.1:99999/x.npz',
        'https://127.0.0.1:x/x.npz',
        'https://127.0.0.1:9/x.npz',
    ],
)
def test_addresses_that_lead_nowhere(monkeypatch, tmp_path, address):
    monkeypatch.setattr(fetch, 'cache_folder', lambda: tmp_path)
    with pytest.raises(InputError, match='must be the address of a file|cannot be reached'):
        load_root(address)


def is_read(path) -> bool:
    try:
        load_root(path)
    except InputError:
        return False
    return True


def altered_archives(folder):
    "Bytes changed at random, in headers above all."
    zeros = {k: a * 0 for k, a in random_arrays(AUGREG, get_arch('Ti1'), 32).items()}
    np.savez_compressed(folder / 'zeros.npz', **zeros)
    raw, rng = (folder / 'zeros.npz').read_bytes(), np.random.default_rng(0)
    spots = [i for i in range(len(raw)) if raw[i : i + 2] == b'PK']
    for _ in range(100):
        altered = bytearray(raw)
        at = min(len(raw) - 1, rng.choice(spots) + rng.integers(90))
        altered[at] = rng.integers(256)
        (folder / 'x.npz').write_bytes(altered)
        yield folder / 'x.npz'


CONFIGURED = ('model_type', 'hidden_act', 'layer_norm_eps', 'hidden_size', 'num_attention_heads')


def altered_configurations(folder):
    "Values of every type."
    torch_vit().save_pretrained(folder)
    config = json.loads((folder / 'config.json').read_text())
    for name in CONFIGURED:
        for value in (None, [], {}, 'x', -1, 0, 10**400, float('inf')):
            write_json(folder / 'config.json', **config | {name: value})
            yield folder
    write_json(folder / 'config.json', **config)
    for value in (None, 'x', [10**400] * 3, [1e300] * 3, [1e-300] * 3):
        for name in ('image_mean', 'image_std'):
            write_json(folder / 'preprocessor_config.json', **{name: value})
            yield folder


def test_altered_files_are_refused_or_read(tmp_path):
    "Nothing but InputError comes of them."
    outcomes = [is_read(path) for path in altered_archives(tmp_path)]
    outcomes += [is_read(path) for path in altered_configurations(tmp_path / 'hf')]
    assert 20 < sum(outcomes) < len(outcomes) - 60


class Files(BaseHTTPRequestHandler):
    """Serves a dictionary of paths to bytes, as a bucket or the hub does, or to another address.

    Counts. A path with 'cut' gives half of it, one with 'long' more than it announces.
    """

    def __init__(self, files, asked, *args):
        self.files, self.asked = files, asked
        super().__init__(*args)

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.do_GET(False)

    def do_GET(self, body=True):
        self.asked.append(f'{self.command} {self.path}')
        content = self.files.get(self.path)
        if isinstance(content, str):
            self.redirect(content)
            return
        self.announce(content, body)
        if not body:
            return
        content = content or b''
        self.wfile.write(content[: len(content) // 2 if 'cut' in self.path else None])
        if 'long' in self.path:
            self.go_on()

    def redirect(self, address):
        self.send_response(302)
        self.send_header('Location', address)
        self.send_header('Content-Length', 0)
        self.end_headers()

    def announce(self, content, body):
        self.send_response(200 if content is not None else 404)
        if not (body and 'long' in self.path):
            self.send_header('Content-Length', len(content or b''))
        self.send_header('ETag', f'"{crc32(content or b"")}"')
        self.send_header('X-Repo-Commit', 'c' * 40)
        if content is None:
            missing = 'EntryNotFound' if self.path.startswith('/own/') else 'RepoNotFound'
            self.send_header('X-Error-Code', missing)
        self.end_headers()

    def go_on(self):
        try:
            for _ in range(200):
                self.wfile.write(bytes(2**20))
        except OSError:
            return
        self.asked.append('all of it was taken')


@pytest.fixture
def serve():
    servers = []

    def start(files):
        asked = []
        server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Files, files, asked))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}', asked

    yield start
    for s in servers:
        s.shutdown()
        s.server_close()


S32 = 'augreg:S/32-i21k-none-wd0.1-sd0.0'
S32_FILE = 'S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0.npz'


def not_loaded(spec, message, **more):
    with pytest.raises(InputError, match=message):
        load_root(spec, **more)


def test_augreg_by_name(tmp_path, monkeypatch, serve):
    """By name, from a bucket, once; the cache needs no network.

    A name without a file, and a file that is another model, are refused.
    """
    np.savez(tmp_path / 's.npz', **random_arrays(AUGREG, get_arch('S/32'), 64))
    content = (tmp_path / 's.npz').read_bytes()
    other = S32_FILE.replace('S_32', 'B_32')
    address, asked = serve({f'/{S32_FILE}': content, f'/{other}': content})
    monkeypatch.setattr(fetch, 'AUGREG_FILES', f'{address}/')
    monkeypatch.setattr(fetch, 'cache_folder', lambda: tmp_path / 'cache')
    root = load_root(S32, image_size=64, layers=2)
    assert root.name == S32 and root.arch == get_arch('S2/32')
    assert digests(root) == digests(load_root(tmp_path / 's.npz', image_size=64, layers=2))
    before = len(asked)
    assert load_root(S32).arch == get_arch('S/32')
    assert len(asked) == before
    b32 = 'B/32-i21k-none-wd0.1-sd0.0'
    not_loaded(f'augreg:{b32}', f'{b32}: the file holds another architecture, S/32')
    not_loaded('augreg:L/16-i21k-none-wd0.1-sd0.0', 'L_16-i21k-300ep.*404')
    for bad in ('augreg:B/16', 'augreg:B/16-i21k-medium9-wd0.1-sd0.0', 'augreg:../../etc/passwd'):
        not_loaded(bad, 'augreg:B/16-i21k-medium1-wd0.1-sd0.0')
    monkeypatch.setattr(fetch, 'AUGREG_FILES', 'http://127.0.0.1:9/')
    not_loaded('augreg:Ti/16-i21k-none-wd0.1-sd0.0', 'cannot be reached.*give the path')
    suffixes = {p.suffix for p in (tmp_path / 'cache').iterdir()}
    assert suffixes <= {'.lock', '.npz'}


def test_a_server_that_sends_more_than_it_announces(tmp_path, serve):
    "Is left after one byte too many; nothing is kept. One that announces nothing is not asked."
    address, asked = serve({'/long.npz': b'0123456789', '/empty.npz': b''})
    with pytest.raises(InputError, match='is longer than the 10 bytes'):
        download(f'{address}/long.npz', tmp_path)
    with pytest.raises(InputError, match='Content-Length is 0'):
        download(f'{address}/empty.npz', tmp_path)
    assert asked == ['HEAD /long.npz', 'GET /long.npz', 'HEAD /empty.npz']
    assert {p.suffix for p in tmp_path.iterdir()} <= {'.lock'}


def test_where_a_server_may_send_us(tmp_path, serve):
    """From http on to http; from https to nothing less; to files and ftp never.

    The request that came by https only says that it did.
    """
    address, _ = serve({'/here.npz': b'content'})
    elsewhere = {
        '/x.npz': f'{address}/here.npz',
        '/ftp.npz': 'ftp://127.0.0.1:9/x.npz',
        '/file.npz': 'file:///etc/passwd',
    }
    first, _ = serve(elsewhere)
    assert download(f'{first}/x.npz', tmp_path).read_bytes() == b'content'
    for name in ('ftp', 'file'):
        with pytest.raises(InputError, match='it answers 302'):
            download(f'{first}/{name}.npz', tmp_path)
    request = urllib.request.Request('https://example.org/x.npz')

    def follow(to):
        return NeverToLess().redirect_request(request, None, 302, 'Found', {}, to)

    assert follow('https://example.com/y.npz').full_url == 'https://example.com/y.npz'
    message = 'sends us to http://example.org/x.npz, which is not https'
    with pytest.raises(urllib.error.HTTPError, match=message):
        follow('http://example.org/x.npz')


def test_a_wrong_file_in_the_cache(tmp_path, monkeypatch, serve):
    "What a captive portal gave is there to stay: the message says what to do, and that helps."
    files = {f'/{S32_FILE}': b'<html>Welcome to our hotel</html>'}
    address, asked = serve(files)
    monkeypatch.setattr(fetch, 'AUGREG_FILES', f'{address}/')
    monkeypatch.setattr(fetch, 'cache_folder', lambda: tmp_path)
    message = 'is not a NumPy archive.*delete .*npz, and it is fetched again'
    for _ in range(2):
        with pytest.raises(InputError, match=message) as e:
            load_root(S32)
    np.savez(tmp_path / 's.npz', **random_arrays(AUGREG, get_arch('S/32'), 32))
    files[f'/{S32_FILE}'] = (tmp_path / 's.npz').read_bytes()
    os.unlink(str(e.value).split('delete ')[1].split(', and')[0])
    assert load_root(S32).arch == get_arch('S/32')
    before = len(asked)
    b32 = 'augreg:B/32-i21k-none-wd0.1-sd0.0'
    not_loaded(b32, 'layers = 13: must be .* from 1 to 12', layers=13)
    for spec in ('gs://x/pytorch_model.bin', 'https://127.0.0.1:9/model.safetensors'):
        not_loaded(spec, 'by its address a .npz')
    assert len(asked) == before


def test_a_bucket_by_its_address(monkeypatch, tmp_path):
    asked = []

    def pretend(url, folder):
        asked.append(url)
        return tmp_path / 'none.npz'

    monkeypatch.setattr(fetch, 'download', pretend)
    https = 'https://storage.googleapis.com/vit_models/augreg/x.npz'
    for spec in ('gs://vit_models/augreg/x.npz', https):
        not_loaded(spec, 'no such file')
    assert set(asked) == {https}


HUB = """
import time; time.sleep = lambda seconds: None   # between the library's attempts
from munet_nb import load_root
from munet_nb.checks import InputError
import sys
for spec in sys.argv[1:]:
    try: print(load_root(spec).arch.name)
    except InputError as e: print(e)
"""


def test_hub(tmp_path, serve):
    "One revision; again from the cache, without the hub; what it does not have, by name."
    torch_vit().save_pretrained(tmp_path / 'm')
    commit = 'c' * 40
    files = {f'/own/cut/resolve/{commit}/model.safetensors': bytes(2_000_000)}
    for name in ('config.json', 'model.safetensors'):
        for revision in ('main', commit):
            files[f'/own/model/resolve/{revision}/{name}'] = (tmp_path / 'm' / name).read_bytes()
    torch_vit().save_pretrained(tmp_path / 's', max_shard_size='2MB')
    for path in (tmp_path / 's').iterdir():
        for revision in ('main', commit):
            files[f'/own/shards/resolve/{revision}/{path.name}'] = path.read_bytes()
    clip = {'model_cfg': {'vision_cfg': {'image_size': 32, 'patch_size': 16}}}
    for revision in ('main', commit):
        files[f'/own/clip/resolve/{revision}/open_clip_config.json'] = json.dumps(clip).encode()
    files[f'/own/clip/resolve/{commit}/open_clip_model.safetensors'] = b'no arrays'
    for model in ('code', 'cut'):
        files[f'/own/{model}/resolve/main/config.json'] = b'{"model_type": "vit"}'
    address, _ = serve(files)
    hub = dict(HF_ENDPOINT=address, HF_HOME=str(tmp_path / 'hf'), HF_HUB_DISABLE_XET='1')

    def roots(*specs, **env):
        command = [sys.executable, '-c', HUB, *specs]
        env = {**os.environ, **hub, **env}
        out = subprocess.run(command, capture_output=True, text=True, env=env)
        assert out.returncode == 0, out.stderr
        return out.stdout.splitlines()

    models = 'own/model', 'own/shards', 'own/code', 'other/model', '../x', 'own/cut', 'own/clip'
    arch, shards, code, missing, bad, cut, clip = roots(*(f'hf:{name}' for name in models))
    assert arch == shards == 'Ti1-erf-eps1e-12'
    assert 'has no model.safetensors' in code and 'save_pretrained' in code
    assert 'hf:other/model: config.json cannot be had from the hub' in missing
    assert 'hf:OWNER/MODEL' in bad
    assert 'open_clip_model.safetensors: is not a safetensors file' in clip, 'both of its files came'
    assert 'cannot be had from the hub' in cut and '/cut' in cut
    again, new = roots('hf:own/model', 'hf:own/new', HF_HUB_OFFLINE='1')
    assert again == arch
    assert 'hf:own/new: config.json cannot be had' in new and 'Without a network' in new


def test_without_the_hub_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match=r'pip install "munet_nb\[hf\]"'):
        load_root('hf:google/vit-base-patch16-224')


@pytest.fixture(scope='module')
def system(tmp_path_factory):
    "A system over a root with other patches, GELU and epsilon, opened from its run."
    labels = np.arange(60) % 3
    noise = np.random.default_rng(0).integers(0, 60, (60, 40, 40, 3))
    images = (noise + labels[:, None, None, None] * 90).astype('uint8')
    classes = ['dark', 'gray', 'light']
    task = task_from_arrays('stripes', (images, labels), classes=classes)
    folder = tmp_path_factory.mktemp('runs') / 'run'
    config = Config(
        children_per_task=1,
        children_per_generation=1,
        task_iterations=1,
        mutation_prob=0.0,
        auto_tune=False,
        training=TrainingSettings(16, 2, 1, 2),
        defaults=HParams(image_size=28, lr=0.1, area_min=1.0),
    )
    root = load_root('random:Ti2/14-erf-eps1e-12', image_size=28)
    with Evolution.create(folder, root, [task], config) as evo:
        evo.run()
    return System.open(folder)


def test_a_search_with_patches_of_14_pixels(tmp_path):
    "Children that share programs have stand-ins, whose shapes no image size of other patches gives."
    rng = np.random.default_rng(0)
    task = task_from_arrays('noise', (rng.integers(0, 256, (40, 28, 28), 'uint8'), np.arange(40) % 2))
    config = Config(
        children_per_task=8,
        children_per_generation=4,
        task_iterations=1,
        mutation_prob=0.3,
        search={'lr': (0.05, 0.1, 0.2), 'adapter_dim': (8, 16, 32)},
        training=TrainingSettings(8, 1, 1, 2),
        defaults=HParams(image_size=28, lr=0.1, area_min=1.0),
    )
    root = load_root('random:Ti2/14', image_size=28)
    with Evolution.create(tmp_path / 'run', root, [task], config) as evo:
        evo.run()
        children = [c['model'] for r in evo.records for c in r.get('children', ())]
    assert len(children) == 8
    assert any('adapter_' in ref['name'] for model in children for ref in model['chain'])
    arch, sizes = get_arch('Ti2/14'), Sizes(28, 2, 8)
    layers = init_chain(jax.random.key(0), arch, layer_names(2, adapter=[1]), sizes)
    export_model(tmp_path / 'hf', 'huggingface', arch, layers, 28, ['a', 'b'])
    assert json.loads((tmp_path / 'hf/config.json').read_text())['num_hidden_layers'] == 3


def changed(system, change):
    "The system with another chain for its one task: `change` gives layers by name."
    ((task, model),) = system.models.items()
    layers = change({r.name: system._pool[r.digest] for r in model.chain})
    names = sorted(layers, key=[*layer_names(2, adapter=(0, 1))].index)
    refs = (LayerRef(n, layers[n].digest, layers[n].n_params, task) for n in names)
    model = replace(model, chain=tuple(refs))
    state = replace(system._state, models={**system._state.models, model.id: model})
    return System(state, LayerPool(layers.values()), system._arch, system._training)


def an_adapter(layers):
    chain = init_chain(jax.random.key(0), get_arch('Ti/14'), ['adapter_1'], Sizes(28, 3, 8))
    disturbed = jax.tree.map(lambda a: a + np.float32(0.1), chain['adapter_1'])
    return {**layers, 'adapter_1': make_layer(disturbed)}


CHANGES = {
    'as it is': dict,
    'an adapter': an_adapter,
    'one block': lambda layers: {n: a for n, a in layers.items() if n != 'block_1'},
}
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), 'uint8')


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


def flat_params(system):
    return {
        f'{r.name}/{k}': a
        for r in system.models['stripes'].chain
        for k, a in system._pool[r.digest].flat.items()
    }


IN_CORE = pytest.param('an adapter', marks=pytest.mark.core)  # the longest chain: half a minute less


@pytest.mark.parametrize('change', ['as it is', IN_CORE, 'one block'])
def test_export_of_a_system(system, tmp_path, change):
    "Our own formats hold what the system has, to the bit."
    system = changed(system, CHANGES[change])
    flat = flat_params(system)
    for format in ('safetensors', 'stablehlo'):
        system.export('stripes', tmp_path / format, format)
        stored = load_file(tmp_path / format / 'model.safetensors')
        assert stored.keys() == flat.keys()
        assert all(stored[k].tobytes() == a.tobytes() for k, a in flat.items())
        told = json.loads((tmp_path / format / 'model.json').read_text())
        assert told['classes'] == ['dark', 'gray', 'light']
    if change != 'as it is':
        expected = system.predict('stripes', IMAGES)
        np.testing.assert_allclose(expected, served(tmp_path / 'stablehlo'), atol=1e-6)


@pytest.mark.parametrize('change', ['as it is', 'one block'])
def test_export_of_a_system_to_transformers(system, tmp_path, change):
    "PyTorch computes what the system predicts; what was exported can be a root model."
    torch, transformers = pytorch()
    system = changed(system, CHANGES[change])
    system.export('stripes', tmp_path / 'safetensors', 'safetensors')
    system.export('stripes', tmp_path / 'hf')
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / 'hf').eval()
    preprocessor = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'hf')
    small = IMAGES[:, 6:34, 6:34]  # of the model's own size, so that nothing is resized
    with torch.no_grad():
        logits = model(**preprocessor(list(small), return_tensors='pt')).logits.numpy()
    np.testing.assert_allclose(softmax(logits), system.predict('stripes', small), atol=1e-5)
    blocks = 1 if change == 'one block' else 2
    for again in ('hf', 'safetensors'):
        root = load_root(tmp_path / again, image_size=28)
        assert root.arch == get_arch(f'Ti{blocks}/14-erf-eps1e-12')
        assert digests(root) == list(system.models['stripes'].digests[:-1])


def test_transformers_have_no_adapters_beside_blocks_of_another_gelu(system, tmp_path):
    message = "no place for adapter_1 beside the blocks of .*; must be 'onnx', 'stablehlo' or"
    with pytest.raises(InputError, match=message):
        changed(system, an_adapter).export('stripes', tmp_path / 'hf')
    assert not (tmp_path / 'hf').exists()


SERVER = """
import sys
sys.modules['munet_nb'] = sys.modules['flax'] = None
import jax, jax.export, numpy as np
from safetensors.numpy import load_file
program = jax.export.deserialize(open('model.stablehlo', 'rb').read())
logits = program.call(load_file('model.safetensors'), np.load('in.npy'))
np.save('out.npy', jax.nn.softmax(logits['logits']))
assert program.platforms == ('cpu', 'cuda', 'rocm', 'tpu')
"""


def served(folder):
    "Probabilities by the exported program, in a process that cannot import this package or Flax."
    np.save(folder / 'in.npy', IMAGES)
    command = [sys.executable, '-c', SERVER]
    out = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return np.load(folder / 'out.npy')


@pytest.mark.core
@pytest.mark.parametrize('format', ['huggingface', 'stablehlo', 'safetensors'])
def test_a_failed_export_leaves_nothing(system, tmp_path, monkeypatch, format):
    def full(arrays, path, *_):
        Path(path).write_bytes(b'half')
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(export_module, 'save_file', full)
    with pytest.raises(InputError, match='out: cannot be written.*No space left'):
        system.export('stripes', tmp_path / 'new' / 'deep' / 'out', format)
    assert not list(tmp_path.iterdir())


def test_a_model_that_a_format_cannot_hold_leaves_nothing(system, tmp_path):
    with pytest.raises(InputError, match='no place for adapter_1'):
        changed(system, an_adapter).export('stripes', tmp_path / 'new' / 'deep' / 'x')
    layers = {r.name: system._pool[r.digest].params for r in system.models['stripes'].chain}
    classes = ['a', 'b', '\udce4']
    for format in ('huggingface', 'onnx', 'safetensors'):
        with pytest.raises(InputError, match='x: cannot be written.*surrogates'):
            export_model(tmp_path / 'new' / 'x', format, system._arch, layers, 28, classes)
    assert not list(tmp_path.iterdir())


def test_two_exports_to_one_place(system, tmp_path, monkeypatch):
    "The one that is there first stays, whole; the other is refused, and leaves nothing."
    save = export_module.save_file

    def meanwhile(*args):
        monkeypatch.setattr(export_module, 'save_file', save)
        system.export('stripes', tmp_path / 'out', 'safetensors')  # while the first is at work
        save(*args)

    monkeypatch.setattr(export_module, 'save_file', meanwhile)
    with pytest.raises(InputError, match='out: cannot be written'):
        system.export('stripes', tmp_path / 'out', 'huggingface')
    assert [p.name for p in tmp_path.iterdir()] == ['out']
    written = sorted(p.name for p in (tmp_path / 'out').iterdir())
    assert written == ['model.json', 'model.safetensors']


def test_an_export_to_where_one_stands(system, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match='is the current directory'):
        system.export('stripes', '.', 'safetensors')
    system.export('stripes', 'x', 'safetensors')
    assert os.getcwd() == str(tmp_path) and len(list((tmp_path / 'x').iterdir())) == 2
    (tmp_path / 'usual').mkdir()
    assert (tmp_path / 'x').stat().st_mode == (tmp_path / 'usual').stat().st_mode


def test_an_export_replaces_nothing(system, tmp_path):
    (tmp_path / 'letter.txt').write_text('dear')
    with pytest.raises(InputError, match='not an empty directory'):
        system.export('stripes', tmp_path)
    with pytest.raises(InputError, match="unknown task 'stripe', did you mean 'stripes'"):
        system.export('stripe', tmp_path / 'x')
    with pytest.raises(InputError, match="format = 'pickle': must be 'huggingface' or"):
        system.export('stripes', tmp_path / 'x', 'pickle')
    assert [p.name for p in tmp_path.iterdir()] == ['letter.txt']
    (tmp_path / 'empty').mkdir()
    system.export('stripes', tmp_path / 'empty', 'safetensors')
    written = sorted(p.name for p in (tmp_path / 'empty').iterdir())
    assert written == ['model.json', 'model.safetensors']


def test_what_was_exported_with_adapters_is_no_root(system, tmp_path):
    changed(system, an_adapter).export('stripes', tmp_path / 'x', 'safetensors')
    with pytest.raises(InputError, match='has adapter_1/.*which Ti2/14-erf-eps1e-12 has not'):
        load_root(tmp_path / 'x')
