"Root models from checkpoints as others write them, and models for other programs: whole depths, a whole run, a hub and a bucket on this machine, and files that lie."

import json
import os
import pickle
import shutil
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from dataclasses import replace
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from zlib import crc32

import jax
import numpy as np
import pytest
import torch
import transformers
from safetensors.numpy import load_file, save_file

from munet_nb import Config, Evolution, System, downloads, load_root, pretrained
from munet_nb import export as export_module
from munet_nb.checks import InputError
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef
from munet_nb.models.pool import LayerPool, make_layer
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import (
    Sizes,
    apply_chain,
    chain_kinds,
    count_params,
    init_chain,
    layer_names,
)
from munet_nb.roots.checkpoint import read_checkpoint
from munet_nb.roots.downloads import download
from munet_nb.roots.export import export_model
from munet_nb.roots.formats import AUGREG, TIMM, places, to_theirs
from munet_nb.search.config import TrainingSettings
from munet_nb.tasks.task import task_from_arrays

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()


def torch_vit(kind='ViTForImageClassification', **config):
    torch.manual_seed(0)
    config = (
        dict(
            hidden_size=192,
            num_hidden_layers=1,
            num_attention_heads=3,
            intermediate_size=768,
            image_size=32,
            patch_size=16,
            num_labels=7,
        )
        | config
    )
    model = getattr(transformers, kind)(
        getattr(transformers, kind.partition('For')[0].removesuffix('Model') + 'Config')(**config)
    ).eval()
    with torch.no_grad():
        for name, p in model.named_parameters():
            p.add_(torch.randn(p.shape) * 0.05)
    return model


def our_logits(root, head, images):
    names = [*root.layers, 'head']
    return np.asarray(
        jax.jit(lambda params, x: apply_chain(root.arch, chain_kinds(names), params, x))(
            [l.params for l in root.layers.values()] + [head], images
        )
    )


def head_of(model):
    return {
        'dense': {
            'kernel': model.classifier.weight.detach().numpy().T,
            'bias': model.classifier.bias.detach().numpy(),
        }
    }


def their_logits(model, images):
    with torch.no_grad():
        return model(
            torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
        ).logits.numpy()


def close(ours, theirs):
    assert np.abs(ours - theirs).max() < 2e-5 * np.abs(theirs).max()


def images_of(size, n=2, seed=0):
    return np.random.default_rng(seed).uniform(-1, 1, (n, size, size, 3)).astype('float32')


def augreg_arrays(arch, image_size, seed=0):
    names, rng = layer_names(arch.depth)[:-1], np.random.default_rng(seed)
    return {
        k: rng.normal(size=a.shape).astype('float32')
        for p in places(AUGREG, arch, names, Sizes(image_size))
        for k, a in to_theirs(p, np.zeros(p.shape, 'float32')).items()
    }


@pytest.mark.parametrize(
    'config',
    [
        dict(num_hidden_layers=12),
        dict(
            num_hidden_layers=12,
            hidden_size=768,
            num_attention_heads=12,
            intermediate_size=3072,
            patch_size=32,
        ),
    ],
    ids=['Ti/16', 'B/32'],
)
def test_whole_depth(tmp_path, config):
    "All blocks of a model: their order, and that small differences do not grow."
    model = torch_vit(**config)
    model.save_pretrained(tmp_path / 'a')
    root, images = load_root(tmp_path / 'a'), images_of(32)
    assert root.arch.depth == 12 and root.arch.name == (
        'Ti-erf-eps1e-12' if config.get('patch_size', 16) == 16 else 'B/32-erf-eps1e-12'
    )
    close(our_logits(root, head_of(model), images), their_logits(model, images))


def test_export_of_what_was_read(tmp_path):
    "The same arrays, to the bit, and so the same logits."
    (model := torch_vit(num_hidden_layers=2)).save_pretrained(tmp_path / 'a')
    root, images = load_root(tmp_path / 'a'), images_of(32)
    export_model(
        tmp_path / 'b',
        'huggingface',
        root.arch,
        {n: l.params for n, l in root.layers.items()} | {'head': head_of(model)},
        32,
        list('abcdefg'),
    )
    before, after = (load_file(tmp_path / n / 'model.safetensors') for n in 'ab')
    assert before.keys() == after.keys() and all(
        before[k].tobytes() == after[k].tobytes() for k in before
    )
    same = transformers.ViTForImageClassification.from_pretrained(tmp_path / 'b').eval()
    assert (their_logits(same, images) == their_logits(model, images)).all()


def test_first_blocks(tmp_path):
    "The first n blocks are those, with the last norm; a root of n blocks computes what a model of n blocks does."
    arch = get_arch('Ti')
    np.savez(tmp_path / 'ti.npz', **augreg_arrays(arch, 32))
    whole, three = load_root(tmp_path / 'ti.npz'), load_root(tmp_path / 'ti.npz', layers=3)
    assert three.arch == get_arch('Ti3') and [l.digest for l in three.layers.values()] == [
        whole.layers[n].digest for n in layer_names(3)[:-1]
    ]
    assert sum(l.n_params for l in three.layers.values()) == 1_484_162 - 386
    for bad in (0, 13, True, 2.0, '3'):
        with pytest.raises(InputError, match='layers = .*whole number from 1 to 12'):
            load_root(tmp_path / 'ti.npz', layers=bad)


def test_positions_are_resized_as_the_authors_do(tmp_path):
    "Linearly between the grids' corners, the class token's apart."
    np.savez(tmp_path / 'ti.npz', **(arrays := augreg_arrays(get_arch('Ti1'), 224)))
    old = arrays['Transformer/posembed_input/pos_embedding'][0]
    for size in (16, 32, 80, 224, 384):
        new, g = (
            load_root(tmp_path / 'ti.npz', image_size=size)
            .layers['posembed']
            .params['embedding'][0],
            size // 16,
        )
        assert (
            new.shape == (1 + g * g, 192) and (new[0] == old[0]).all() and new.dtype == np.float32
        )
        if g == 1:
            continue
        at, grid = np.linspace(0, 13, g), old[1:].reshape(14, 14, 192).astype('float64')
        lines = np.apply_along_axis(lambda column: np.interp(at, np.arange(14), column), 0, grid)
        np.testing.assert_allclose(
            new[1:].reshape(g, g, 192),
            np.apply_along_axis(lambda row: np.interp(at, np.arange(14), row), 1, lines),
            atol=1e-5,
        )


def test_colors_that_a_model_was_trained_with(tmp_path):
    "A model of ImageNet's colors takes ours: the normalization is in the patch embedding."
    model, mean, std = (
        torch_vit(),
        np.array([0.485, 0.456, 0.406], 'float32'),
        np.array([0.229, 0.224, 0.225], 'float32'),
    )
    model.save_pretrained(tmp_path)
    (tmp_path / 'preprocessor_config.json').write_text(
        json.dumps(dict(image_mean=mean.tolist(), image_std=std.tolist()))
    )
    images = images_of(32)
    close(
        our_logits(load_root(tmp_path), head_of(model), images),
        their_logits(model, (((images + 1) / 2 - mean) / std)),
    )
    for bad in (dict(image_std=[0.2, 0.2, 0]), dict(image_mean=0.5), dict(image_mean=['x'] * 3)):
        (tmp_path / 'preprocessor_config.json').write_text(json.dumps(bad))
        with pytest.raises(InputError, match='preprocessor_config.json: image_(std|mean) = '):
            load_root(tmp_path)


def test_timm_with_a_second_token_and_colors(tmp_path):
    "timm's distilled DeiT: the token and its position are left out; the colors are in config.json."
    arch, rng = get_arch('Ti1/16-erf'), np.random.default_rng(0)
    arrays = {
        k: rng.normal(size=a.shape).astype('float32')
        for p in places(TIMM, arch, layer_names(1)[:-1], Sizes(32))
        for k, a in to_theirs(p, np.zeros(p.shape, 'float32')).items()
    }
    position = arrays['pos_embed']
    save_file(arrays, tmp_path / 'model.safetensors')
    for nothing in ({}, dict(pretrained_cfg=None), dict(pretrained_cfg=dict(mean=[0.5] * 3))):
        with pytest.raises(
            InputError,
            match='config.json: is missing, or does not tell the colors.*"pretrained_cfg": {"mean"',
        ):
            load_root(tmp_path)
        (tmp_path / 'config.json').write_text(json.dumps(nothing))
    (tmp_path / 'config.json').write_text(
        json.dumps(dict(pretrained_cfg=dict(mean=[0.5] * 3, std=[0.5] * 3)))
    )
    plain = load_root(tmp_path)
    arrays |= dict(
        dist_token=rng.normal(size=(1, 1, 192)).astype('float32'),
        pos_embed=np.insert(position, 1, 9.0, axis=1),
        **{'head_dist.weight': np.zeros((3, 192), 'float32')},
    )
    save_file(arrays, tmp_path / 'model.safetensors')
    assert {n: l.digest for n, l in load_root(tmp_path).layers.items()} == {
        n: l.digest for n, l in plain.layers.items()
    } and plain.arch == arch
    (tmp_path / 'config.json').write_text(
        json.dumps(dict(architecture='deit', pretrained_cfg=dict(mean=[0, 0, 0], std=[1, 1, 1])))
    )
    shifted = (
        load_root(tmp_path).layers['embedding'].params
    )  # takes c in [0, 1], which is (x + 1) / 2
    np.testing.assert_allclose(shifted['kernel'], plain.layers['embedding'].params['kernel'] / 2)
    np.testing.assert_allclose(
        shifted['bias'],
        plain.layers['embedding'].params['bias']
        + plain.layers['embedding'].params['kernel'].sum((0, 1, 2)) / 2,
        rtol=1e-4,
        atol=1e-4,
    )


@pytest.mark.parametrize('kind', ['DeiTModel', 'Dinov2Model'])
def test_colors_are_not_guessed(tmp_path, kind):
    "Models that are trained with ImageNet's colors say so, or are refused; a ViT of transformers has [-1, 1] where nothing is said."
    model = torch_vit(kind)
    model.save_pretrained(tmp_path)
    file = tmp_path / 'preprocessor_config.json'
    for nothing in ({}, dict(image_mean=[0.5] * 3)):
        with pytest.raises(
            InputError,
            match='preprocessor_config.json: is missing, or does not tell the colors.*"image_mean": ',
        ):
            load_root(tmp_path)
        file.write_text(json.dumps(nothing))
    file.write_text(
        json.dumps(
            dict(image_mean=[0.5] * 3, image_std=[0.5] * 3, do_rescale=True, rescale_factor=1 / 255)
        )
    )
    kernel = (
        model.embeddings.patch_embeddings.projection.weight.detach().numpy().transpose(2, 3, 1, 0)
    )
    assert (load_root(tmp_path).layers['embedding'].params['kernel'] == kernel).all()
    for name, value in (
        ('do_rescale', False),
        ('rescale_factor', 1 / 127.5),
        ('rescale_factor', 'x'),
    ):
        file.write_text(json.dumps(dict(image_mean=[0.5] * 3, image_std=[0.5] * 3) | {name: value}))
        with pytest.raises(
            InputError, match=f'preprocessor_config.json: {name} = .*colors are in .0, 1. before'
        ):
            load_root(tmp_path)


def test_a_name_that_the_arrays_do_not_have(tmp_path):
    "Our own file says which architecture it holds. If that is another, it is refused."
    arch = get_arch('Ti1')
    arrays = {
        f'{n}/{k}': a for n, l in load_root('random:Ti1').layers.items() for k, a in l.flat.items()
    }
    for name in ('B5/32', 'Ti', 'Ti1/14'):
        save_file(arrays, tmp_path / 'x.safetensors', {'arch': name})
        with pytest.raises(InputError, match=f"x.safetensors: arch = '{name}': must be 'Ti1"):
            load_root(tmp_path / 'x.safetensors')
    save_file(arrays, tmp_path / 'x.safetensors', {'arch': 'Ti1/16'})
    assert load_root(tmp_path / 'x.safetensors').arch == arch


def test_dinov2_counts():
    "Whole DINOv2 backbones, as transformers counts them without LayerScale and the mask's token, at their 518 pixels."
    for name, heads, width in (('S/14', 6, 384), ('B/14', 12, 768)):
        with torch.device('meta'):
            model = transformers.Dinov2Model(
                transformers.Dinov2Config(
                    hidden_size=width, num_attention_heads=heads, image_size=518, patch_size=14
                )
            )
        theirs = sum(
            p.numel()
            for n, p in model.named_parameters()
            if not n.endswith(('lambda1', 'mask_token'))
        )
        assert theirs == sum(
            count_params(get_arch(name), n, Sizes(518)) for n in layer_names(12)[:-1]
        )


@pytest.mark.parametrize('kind', ['float16', 'bfloat16'])
def test_half_precision(tmp_path, kind):
    model = torch_vit().to(getattr(torch, kind))
    model.save_pretrained(tmp_path)
    root = load_root(tmp_path)
    assert (
        root.layers['norm'].params['norm']['scale']
        == model.vit.layernorm.weight.detach().float().numpy()
    ).all()


def edit(**changes):
    return lambda folder: (folder / 'config.json').write_text(
        json.dumps(
            {
                k: v
                for k, v in (json.loads((folder / 'config.json').read_text()) | changes).items()
                if v is not None
            }
        )
    )


def arrays(change):
    def apply(folder):
        t = load_file(folder / 'model.safetensors')
        change(t)
        save_file(t, folder / 'model.safetensors')

    return apply


def only_bin(folder):
    (folder / 'model.safetensors').unlink()
    (folder / 'pytorch_model.bin').write_bytes(pickle.dumps(os.getcwd))


KEY = 'vit.encoder.layer.0.output.dense.weight'
LIES = {
    'missing key': (arrays(lambda t: t.pop(KEY)), f'lacks {KEY}'),
    'shape': (
        arrays(lambda t: t.update({KEY: t[KEY][:, :5]})),
        rf'{KEY} has shape \(192, 5\), must be \(192, 768\)',
    ),
    'another key': (
        arrays(lambda t: t.update({'vit.encoder.layer.0.ls1': np.zeros(3)})),
        'has vit.encoder.layer.0.ls1, which Ti1-erf-eps1e-12 has not',
    ),
    'width': (
        arrays(
            lambda t: t.update(
                {'vit.embeddings.patch_embeddings.projection.weight': np.zeros((100, 3, 16, 16))}
            )
        ),
        'tokens of length 100',
    ),
    'patch': (
        arrays(
            lambda t: t.update(
                {'vit.embeddings.patch_embeddings.projection.weight': np.zeros((192, 3, 15, 15))}
            )
        ),
        'model.safetensors: .*patches are 8, 14, 16, 32',
    ),
    'positions': (
        arrays(lambda t: t.update({'vit.embeddings.position_embeddings': np.zeros((1, 7, 192))})),
        'has 7 positions',
    ),
    'integers': (arrays(lambda t: t.update({KEY: t[KEY].astype('int32')})), 'has type I32'),
    'not finite': (
        arrays(lambda t: t.update({KEY: t[KEY] * np.float32(np.inf)})),
        'NaN or infinity',
    ),
    'another model': (edit(model_type='swin'), "model_type = 'swin': must be 'vit' or 'deit'"),
    'another model that we know': (
        edit(model_type='dinov2'),
        "model_type = 'dinov2': must be 'vit' or 'deit'",
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
    'broken configuration': (
        lambda f: (f / 'config.json').write_text('{' * 5),
        'config.json: is not a configuration',
    ),
    'deep configuration': (
        lambda f: (f / 'config.json').write_text('[' * 100_000),
        'config.json: is not a configuration',
    ),
    'truncated': (
        lambda f: os.truncate(f / 'model.safetensors', 10_000),
        'not a safetensors file, or a truncated one',
    ),
    'a pickle by another name': (
        lambda f: torch.save({}, f / 'model.safetensors'),
        'not a safetensors file',
    ),
    'only a pickle': (only_bin, 'pytorch_model.bin.*runs code.*save_pretrained'),
    'in several files': (
        lambda f: (f / 'model.safetensors').rename(f / 'model.safetensors.index.json'),
        'in several files',
    ),
    'nothing': (lambda f: (f / 'model.safetensors').unlink(), 'has no model.safetensors$'),
}


@pytest.mark.parametrize('lie', LIES)
def test_a_directory_that_lies(tmp_path, lie):
    torch_vit().save_pretrained(tmp_path)
    load_root(tmp_path)
    change, message = LIES[lie]
    change(tmp_path)
    with pytest.raises(InputError, match=message):
        load_root(tmp_path)


def test_archives_that_lie(tmp_path):
    "An archive is refused by what it says of itself, before anything large is unpacked, and nothing in it is run."
    import tracemalloc
    import zipfile

    good = augreg_arrays(get_arch('Ti1'), 32)

    def refused(message, **change):
        np.savez(tmp_path / 'x.npz', **good | change)
        with pytest.raises(InputError, match=message):
            load_root(tmp_path / 'x.npz')

    class Trap:
        def __reduce__(self):
            return Path.touch, (tmp_path / 'sprung',)

    refused('must be floating-point', **{'head/kernel': np.array([Trap()], object)})
    assert not (tmp_path / 'sprung').exists()
    refused('must be floating-point', cls=np.zeros((1, 1, 192), complex))
    refused(
        r'encoderblock_0/MultiHeadDotProductAttention_1/query/kernel has shape \(192, 2, 96\), must be \(192, 3, 64\)',
        **{
            'Transformer/encoderblock_0/MultiHeadDotProductAttention_1/query/kernel': np.zeros(
                (192, 2, 96)
            )
        },
    )
    np.savez(tmp_path / 'x.npz', **good)
    with zipfile.ZipFile(tmp_path / 'x.npz', 'a') as z:
        z.writestr('readme.txt', 'hello')
    with pytest.raises(InputError, match="'readme.txt', which is not an array"):
        load_root(tmp_path / 'x.npz')
    (tmp_path / 'x.npz').write_bytes(b'\x80\x04' + bytes(100))
    with pytest.raises(InputError, match='is not a NumPy archive'):
        load_root(tmp_path / 'x.npz')
    # 1 GB of zeros in 1 MB, of a shape that is honest but no ViT's: refused without being unpacked
    big = np.lib.stride_tricks.as_strided(
        np.zeros(1, 'float32'), (16, 16, 3, 325_000), (0, 0, 0, 0)
    )
    with zipfile.ZipFile(tmp_path / 'x.npz', 'w', zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for k, a in good.items():
            with z.open(f'{k}.npy', 'w', force_zip64=True) as f:
                np.lib.format.write_array(f, big if k == 'embedding/kernel' else a)
    tracemalloc.start()
    with pytest.raises(InputError, match='tokens of length 325000'):
        load_root(tmp_path / 'x.npz')
    assert tracemalloc.get_traced_memory()[1] < 50 * 2**20
    tracemalloc.stop()
    with pytest.raises(InputError, match='no such file'):
        load_root(tmp_path / 'y.npz')
    (tmp_path / 'x.txt').write_text('hello')
    with pytest.raises(InputError, match='must be a .npz or .safetensors file'):
        load_root(tmp_path / 'x.txt')


@pytest.fixture
def closed():
    "A folder that this process may not look into, nor write to, even if it is the superuser's."
    superuser = not os.geteuid()
    if superuser:
        os.seteuid(65534)
    folder = Path(tempfile.mkdtemp())
    (folder / 'in').mkdir()
    folder.chmod(0)
    yield folder
    folder.chmod(0o700)
    shutil.rmtree(folder)
    if superuser:
        os.seteuid(0)


UNUSABLE = {
    'nobody': '~nobody-of-this-name/x',
    'long': 'x' * 300,
    'null': 'a\0b',
    'surrogate': 'a\ud800',
    'empty': '',
}


@pytest.mark.parametrize('path', UNUSABLE.values(), ids=UNUSABLE)
def test_text_that_is_no_path(path):
    arch = get_arch('Ti1')
    for use in (
        load_root,
        read_checkpoint,
        lambda p: export_model(p, 'safetensors', arch, {'block_0': {}}, 32, ['a']),
    ):
        with pytest.raises(InputError, match='is no path that can be used'):
            use(path)


def test_a_closed_folder(closed):
    arch = get_arch('Ti1')
    for path in (closed, closed / 'in', closed / 'in' / 'x.npz'):
        with pytest.raises(InputError, match='can(not)? be (read|used)'):
            load_root(path)
        with pytest.raises(InputError, match='can(not)? be (written|used)'):
            export_model(path, 'safetensors', arch, {'block_0': {}}, 32, ['a'])
    closed.chmod(0o500)
    with pytest.raises(InputError, match='cannot keep downloads'):
        download('http://127.0.0.1:9/x.npz', closed)
    with pytest.raises(InputError, match='cannot be written'):
        export_model(closed / 'x', 'safetensors', arch, {'block_0': {}}, 32, ['a'])


@pytest.mark.parametrize('size', ['32', 32.0, 48.0, None, True, 0, -16, 16 * 10**6])
def test_image_sizes_that_are_none(size):
    for spec in ('random:Ti1', 'Ti3-glyphs'):
        with pytest.raises(
            InputError, match='image_size = .*: must be a whole number of pixels from 1 to 4096'
        ):
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
    monkeypatch.setattr(pretrained, 'cache_folder', lambda: tmp_path)
    with pytest.raises(InputError, match='must be the address of a file|cannot be reached'):
        load_root(address)


def test_altered_files_are_refused_or_read(tmp_path):
    "Bytes changed at random, in headers above all, and configurations with values of every type: nothing but InputError comes of it."
    rng, outcomes = np.random.default_rng(0), []

    def attempt(path):
        try:
            load_root(path)
            outcomes.append(True)
        except InputError:
            outcomes.append(False)

    np.savez_compressed(
        tmp_path / 'zeros.npz', **{k: a * 0 for k, a in augreg_arrays(get_arch('Ti1'), 32).items()}
    )
    raw = (tmp_path / 'zeros.npz').read_bytes()
    spots = [i for i in range(len(raw)) if raw[i : i + 2] == b'PK']
    for _ in range(100):
        altered = bytearray(raw)
        at = min(len(raw) - 1, rng.choice(spots) + rng.integers(90))
        altered[at] = rng.integers(256)
        (tmp_path / 'x.npz').write_bytes(altered)
        attempt(tmp_path / 'x.npz')
    torch_vit().save_pretrained(tmp_path / 'hf')
    config = json.loads((tmp_path / 'hf/config.json').read_text())
    for name in (
        'model_type',
        'hidden_act',
        'layer_norm_eps',
        'hidden_size',
        'num_attention_heads',
    ):
        for value in (None, [], {}, 'x', -1, 0, 10**400, float('inf')):
            (tmp_path / 'hf/config.json').write_text(json.dumps(config | {name: value}))
            attempt(tmp_path / 'hf')
    (tmp_path / 'hf/config.json').write_text(json.dumps(config))
    for value in (None, 'x', [10**400] * 3, [1e300] * 3, [1e-300] * 3):
        for name in ('image_mean', 'image_std'):
            (tmp_path / 'hf/preprocessor_config.json').write_text(json.dumps({name: value}))
            attempt(tmp_path / 'hf')
    assert 20 < sum(outcomes) < len(outcomes) - 60


class Files(BaseHTTPRequestHandler):
    "Serves a dictionary of paths to bytes, as a bucket or the hub does, or to another address. Counts. A path with 'cut' gives half of it, one with 'long' more than it announces."

    def __init__(self, files, asked, *args):
        self.files, self.asked = files, asked
        super().__init__(*args)

    def log_message(self, *_):
        pass

    def do_GET(self, body=True):
        self.asked.append(f'{self.command} {self.path}')
        content = self.files.get(self.path)
        if isinstance(content, str):
            self.send_response(302)
            self.send_header('Location', content)
            self.send_header('Content-Length', 0)
            self.end_headers()
            return
        self.send_response(200 if content is not None else 404)
        if not (body and 'long' in self.path):
            self.send_header('Content-Length', len(content or b''))
        self.send_header('ETag', f'"{crc32(content or b"")}"')
        self.send_header('X-Repo-Commit', 'c' * 40)
        if content is None:
            self.send_header(
                'X-Error-Code', 'EntryNotFound' if self.path.startswith('/own/') else 'RepoNotFound'
            )
        self.end_headers()
        if not body:
            return
        self.wfile.write(
            (content or b'')[: len(content or b'') // 2 if 'cut' in self.path else None]
        )
        if 'long' not in self.path:
            return
        try:
            [self.wfile.write(bytes(2**20)) for _ in range(200)]
        except OSError:
            return
        self.asked.append('all of it was taken')

    def do_HEAD(self):
        self.do_GET(False)


@pytest.fixture
def serve():
    servers = []

    def start(files):
        server = ThreadingHTTPServer(('127.0.0.1', 0), partial(Files, files, asked := []))
        threading.Thread(target=server.serve_forever, daemon=True).start()
        servers.append(server)
        return f'http://127.0.0.1:{server.server_port}', asked

    yield start
    for s in servers:
        s.shutdown()
        s.server_close()


def test_augreg_by_name(tmp_path, monkeypatch, serve):
    "By name, from a bucket, once; the cache needs no network; a name without a file, and a file that is another model, are refused."
    np.savez(tmp_path / 's.npz', **augreg_arrays(get_arch('S/32'), 64))
    content = (tmp_path / 's.npz').read_bytes()
    name = 'S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0.npz'
    address, asked = serve({f'/{name}': content, f"/{name.replace('S_32', 'B_32')}": content})
    monkeypatch.setattr(pretrained, 'AUGREG_FILES', f'{address}/')
    monkeypatch.setattr(pretrained, 'cache_folder', lambda: tmp_path / 'cache')
    root = load_root('augreg:S/32-i21k-none-wd0.1-sd0.0', image_size=64, layers=2)
    assert root.name == 'augreg:S/32-i21k-none-wd0.1-sd0.0' and root.arch == get_arch('S2/32')
    assert [l.digest for l in root.layers.values()] == [
        l.digest for l in load_root(tmp_path / 's.npz', image_size=64, layers=2).layers.values()
    ]
    before = len(asked)
    assert (
        load_root('augreg:S/32-i21k-none-wd0.1-sd0.0').arch == get_arch('S/32')
        and len(asked) == before
    )
    with pytest.raises(
        InputError, match='B/32-i21k-none-wd0.1-sd0.0: the file holds another architecture, S/32'
    ):
        load_root('augreg:B/32-i21k-none-wd0.1-sd0.0')
    with pytest.raises(InputError, match='L_16-i21k-300ep.*404'):
        load_root('augreg:L/16-i21k-none-wd0.1-sd0.0')
    for bad in ('augreg:B/16', 'augreg:B/16-i21k-medium9-wd0.1-sd0.0', 'augreg:../../etc/passwd'):
        with pytest.raises(InputError, match='augreg:B/16-i21k-medium1-wd0.1-sd0.0'):
            load_root(bad)
    monkeypatch.setattr(pretrained, 'AUGREG_FILES', 'http://127.0.0.1:9/')
    with pytest.raises(InputError, match='cannot be reached.*give the path'):
        load_root('augreg:Ti/16-i21k-none-wd0.1-sd0.0')
    assert [
        p.suffix for p in (tmp_path / 'cache').iterdir() if p.suffix not in ('.lock', '.npz')
    ] == []


def test_a_server_that_sends_more_than_it_announces(tmp_path, serve):
    "Is left after one byte too many; nothing of it is kept. One that announces nothing is not asked."
    address, asked = serve({'/long.npz': b'0123456789', '/empty.npz': b''})
    with pytest.raises(InputError, match='is longer than the 10 bytes'):
        download(f'{address}/long.npz', tmp_path)
    with pytest.raises(InputError, match='Content-Length is 0'):
        download(f'{address}/empty.npz', tmp_path)
    assert asked == ['HEAD /long.npz', 'GET /long.npz', 'HEAD /empty.npz'] and not [
        p for p in tmp_path.iterdir() if p.suffix != '.lock'
    ]


def test_where_a_server_may_send_us(tmp_path, serve):
    "From http on to http; from https (here: a request that says it is one) to nothing less; to files and ftp never."
    address, asked = serve({'/here.npz': b'content'})
    first, _ = serve(
        {
            '/x.npz': f'{address}/here.npz',
            '/ftp.npz': 'ftp://127.0.0.1:9/x.npz',
            '/file.npz': 'file:///etc/passwd',
        }
    )
    assert download(f'{first}/x.npz', tmp_path).read_bytes() == b'content'
    for name in ('ftp', 'file'):
        with pytest.raises(InputError, match='it answers 302'):
            download(f'{first}/{name}.npz', tmp_path)
    request = urllib.request.Request('https://example.org/x.npz')

    def follow(to):
        return downloads._NeverToLess().redirect_request(request, None, 302, 'Found', {}, to)

    assert follow('https://example.com/y.npz').full_url == 'https://example.com/y.npz'
    with pytest.raises(
        urllib.error.HTTPError, match='sends us to http://example.org/x.npz, which is not https'
    ):
        follow('http://example.org/x.npz')


def test_a_wrong_file_in_the_cache(tmp_path, monkeypatch, serve):
    "What a captive portal gave is there to stay: the message says what to do, and that helps."
    name = 'S_32-i21k-300ep-lr_0.001-aug_none-wd_0.1-do_0.0-sd_0.0.npz'
    address, asked = serve(files := {f'/{name}': b'<html>Welcome to our hotel</html>'})
    monkeypatch.setattr(pretrained, 'AUGREG_FILES', f'{address}/')
    monkeypatch.setattr(pretrained, 'cache_folder', lambda: tmp_path)
    for _ in range(2):
        with pytest.raises(
            InputError, match='is not a NumPy archive.*delete .*npz, and it is fetched again'
        ) as e:
            load_root('augreg:S/32-i21k-none-wd0.1-sd0.0')
    np.savez(tmp_path / 's.npz', **augreg_arrays(get_arch('S/32'), 32))
    files[f'/{name}'] = (tmp_path / 's.npz').read_bytes()
    os.unlink(str(e.value).split('delete ')[1].split(', and')[0])
    assert load_root('augreg:S/32-i21k-none-wd0.1-sd0.0').arch == get_arch('S/32')
    before = len(asked)
    with pytest.raises(InputError, match='layers = 13: must be .* from 1 to 12'):
        load_root('augreg:B/32-i21k-none-wd0.1-sd0.0', layers=13)
    for spec in ('gs://x/pytorch_model.bin', 'https://127.0.0.1:9/model.safetensors'):
        with pytest.raises(InputError, match='by its address a .npz'):
            load_root(spec)
    assert len(asked) == before


def test_a_bucket_by_its_address(monkeypatch, tmp_path):
    asked = []
    monkeypatch.setattr(
        pretrained, 'download', lambda url, folder: asked.append(url) or tmp_path / 'none.npz'
    )
    for spec in (
        'gs://vit_models/augreg/x.npz',
        'https://storage.googleapis.com/vit_models/augreg/x.npz',
    ):
        with pytest.raises(InputError, match='no such file'):
            load_root(spec)
    assert set(asked) == {'https://storage.googleapis.com/vit_models/augreg/x.npz'}


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
    "From a hub: what is wanted of one revision; again from the cache, without it; what it does not have, by name."
    torch_vit().save_pretrained(tmp_path / 'm')
    files = {
        f'/own/model/resolve/{rev}/{n}': (tmp_path / 'm' / n).read_bytes()
        for rev in ('main', 'c' * 40)
        for n in ('config.json', 'model.safetensors')
    }
    files |= {
        f'/own/{rest}/resolve/main/config.json': b'{"model_type": "vit"}'
        for rest in ('code', 'cut')
    }
    files |= {f"/own/cut/resolve/{'c' * 40}/model.safetensors": bytes(2_000_000)}
    address, asked = serve(files)

    def roots(*specs, **env):
        out = subprocess.run(
            [sys.executable, '-c', HUB, *specs],
            capture_output=True,
            text=True,
            env={
                **os.environ,
                'HF_ENDPOINT': address,
                'HF_HOME': str(tmp_path / 'hf'),
                'HF_HUB_DISABLE_XET': '1',
                **env,
            },
        )
        assert out.returncode == 0, out.stderr
        return out.stdout.splitlines()

    arch, code, missing, bad, cut = roots(
        'hf:own/model', 'hf:own/code', 'hf:other/model', 'hf:../x', 'hf:own/cut'
    )
    assert arch == 'Ti1-erf-eps1e-12'
    assert 'has no model.safetensors' in code and 'save_pretrained' in code
    assert (
        'hf:other/model: config.json cannot be had from the hub' in missing
        and 'hf:OWNER/MODEL' in bad
    )
    assert 'cannot be had from the hub' in cut and '/cut' in cut
    again, new = roots('hf:own/model', 'hf:own/new', HF_HUB_OFFLINE='1')
    assert (
        again == arch
        and 'hf:own/new: config.json cannot be had' in new
        and 'Without a network' in new
    )


def test_without_the_hub_library(monkeypatch):
    monkeypatch.setitem(sys.modules, 'huggingface_hub', None)
    with pytest.raises(InputError, match=r'pip install "munet_nb\[hf\]"'):
        load_root('hf:google/vit-base-patch16-224')


@pytest.fixture(scope='module')
def system(tmp_path_factory):
    "A system over a root with other patches, GELU and epsilon, opened from its run."
    rng, labels = np.random.default_rng(0), np.arange(60) % 3
    task = task_from_arrays(
        'stripes',
        (
            (rng.integers(0, 60, (60, 40, 40, 3)) + labels[:, None, None, None] * 90).astype(
                'uint8'
            ),
            labels,
        ),
        classes=['dark', 'gray', 'light'],
    )
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
    with Evolution.create(
        folder, load_root('random:Ti2/14-erf-eps1e-12', image_size=28), [task], config
    ) as evo:
        evo.run()
    return System.open(folder)


def changed(system, change):
    "The system with another chain for its one task: `change` gives layers by name."
    ((task, model),) = system.models.items()
    layers = change({r.name: system._pool[r.digest] for r in model.chain})
    model = replace(
        model,
        chain=tuple(
            LayerRef(n, layers[n].digest, layers[n].n_params, task)
            for n in sorted(layers, key=[*layer_names(2, (0, 1))].index)
        ),
    )
    return System(
        replace(system._state, models={**system._state.models, model.id: model}),
        LayerPool(layers.values()),
        system._arch,
        system._training,
    )


def an_adapter(layers):
    adapter = init_chain(jax.random.key(0), get_arch('Ti/14'), ['adapter_1'], Sizes(28, 3, 8))[
        'adapter_1'
    ]
    return {**layers, 'adapter_1': make_layer(jax.tree.map(lambda a: a + np.float32(0.1), adapter))}


CHANGES = {
    'as it is': dict,
    'an adapter': an_adapter,
    'one block': lambda layers: {n: l for n, l in layers.items() if n != 'block_1'},
}
IMAGES = np.random.default_rng(1).integers(0, 256, (3, 40, 40, 3), 'uint8')


def softmax(x):
    return np.exp(x) / np.exp(x).sum(-1, keepdims=True)


@pytest.mark.parametrize('change', CHANGES)
def test_export_of_a_system(system, tmp_path, change):
    "What other programs compute from an export is what the system predicts; what they hold is what it has, to the bit."
    system = changed(system, CHANGES[change])
    expected, flat = (
        system.predict('stripes', IMAGES),
        {
            f'{r.name}/{k}': a
            for r in system.models['stripes'].chain
            for k, a in system._pool[r.digest].flat.items()
        },
    )
    for format in ('safetensors', 'stablehlo'):
        system.export('stripes', tmp_path / format, format)
        stored = load_file(tmp_path / format / 'model.safetensors')
        assert stored.keys() == flat.keys() and all(
            stored[k].tobytes() == a.tobytes() for k, a in flat.items()
        )
        assert json.loads((tmp_path / format / 'model.json').read_text())['classes'] == [
            'dark',
            'gray',
            'light',
        ]
    if change != 'as it is':
        np.testing.assert_allclose(expected, served(tmp_path / 'stablehlo'), atol=1e-6)
    if change == 'an adapter':
        with pytest.raises(
            InputError, match="no place for adapter_1; must be 'stablehlo' or 'safetensors'"
        ):
            system.export('stripes', tmp_path / 'hf')
        assert not (tmp_path / 'hf').exists()
        return
    system.export('stripes', tmp_path / 'hf')
    model = transformers.ViTForImageClassification.from_pretrained(tmp_path / 'hf').eval()
    small = IMAGES[:, 6:34, 6:34]  # of the model's own size, so that nothing is resized
    x = transformers.AutoImageProcessor.from_pretrained(tmp_path / 'hf')(
        list(small), return_tensors='pt'
    )
    with torch.no_grad():
        np.testing.assert_allclose(
            softmax(model(**x).logits.numpy()), system.predict('stripes', small), atol=1e-5
        )
    for again in ('hf', 'safetensors'):
        root = load_root(tmp_path / again, image_size=28)
        assert [l.digest for l in root.layers.values()] == list(
            system.models['stripes'].digests[:-1]
        ) and root.arch == get_arch(f'Ti{1 if change == "one block" else 2}/14-erf-eps1e-12')


def served(folder):
    "Probabilities by the exported program, in a process that cannot import this package or Flax."
    code = (
        "import sys; sys.modules['munet_nb'] = sys.modules['flax'] = None\n"
        "import jax, jax.export, numpy as np; from safetensors.numpy import load_file\n"
        "program = jax.export.deserialize(open('model.stablehlo', 'rb').read())\n"
        "np.save('out.npy', jax.nn.softmax(program.call(load_file('model.safetensors'), np.load('in.npy'))))\n"
        "assert program.platforms == ('cpu', 'cuda', 'rocm', 'tpu')"
    )
    np.save(folder / 'in.npy', IMAGES)
    out = subprocess.run([sys.executable, '-c', code], cwd=folder, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return np.load(folder / 'out.npy')


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
    for format in ('huggingface', 'safetensors'):
        with pytest.raises(InputError, match='x: cannot be written.*surrogates'):
            export_model(
                tmp_path / 'new' / 'x', format, system._arch, layers, 28, ['a', 'b', '\udce4']
            )
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
    assert [p.name for p in tmp_path.iterdir()] == ['out'] and sorted(
        p.name for p in (tmp_path / 'out').iterdir()
    ) == ['model.json', 'model.safetensors']


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
    with pytest.raises(InputError, match="format = 'onnx': must be 'huggingface' or"):
        system.export('stripes', tmp_path / 'x', 'onnx')
    assert [p.name for p in tmp_path.iterdir()] == ['letter.txt']
    (tmp_path / 'empty').mkdir()
    system.export('stripes', tmp_path / 'empty', 'safetensors')
    assert sorted(p.name for p in (tmp_path / 'empty').iterdir()) == [
        'model.json',
        'model.safetensors',
    ]


def test_what_was_exported_with_adapters_is_no_root(system, tmp_path):
    changed(system, an_adapter).export('stripes', tmp_path / 'x', 'safetensors')
    with pytest.raises(InputError, match='has adapter_1/.*which Ti2/14-erf-eps1e-12 has not'):
        load_root(tmp_path / 'x')
