"""Roots of other families: CLIP, SigLIP, registers, means over patches, models in several files.

Each computes what its reference does, on random numbers, or is refused by name.
"""

import json
import re

import flax.linen as nn
import jax
import jax.export
import jax.numpy as jnp
import numpy as np
import onnxruntime
import pytest
import torch
import transformers
from flax.traverse_util import flatten_dict, unflatten_dict
from safetensors.numpy import load_file, save_file

from munet_nb import Config, Evolution, System, load_root
from munet_nb.checks import InputError
from munet_nb.engine.attention import attention_over
from munet_nb.engine.pixels import pack, resize, to_pixels
from munet_nb.engine.predict import Network
from munet_nb.engine.programs import shared_programs
from munet_nb.engine.routing import class_tokens_of, routing_trunk
from munet_nb.models.hparams import HParams
from munet_nb.models.pool import make_layer
from munet_nb.network.arch import VARIANTS, Arch, get_arch
from munet_nb.network.chain import apply_chain, chain_kinds, layer_names, layer_shapes
from munet_nb.network.kinds import Sizes, layer_kind
from munet_nb.roots.export import export_model
from munet_nb.search.config import TrainingSettings
from munet_nb.tasks.task import task_from_arrays

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()

WIDTH, HEADS, MLP, PATCH, SIDE = 32, 2, 64, 16, 48
VISION = dict(
    hidden_size=WIDTH,
    num_hidden_layers=2,
    num_attention_heads=HEADS,
    image_size=SIDE,
    patch_size=PATCH,
)
TEXT = VISION | dict(intermediate_size=MLP, vocab_size=9, max_position_embeddings=4)
HALVES = dict(image_mean=[0.5] * 3, image_std=[0.5] * 3)


@pytest.fixture(autouse=True)
def tiny(monkeypatch):
    "A variant that is small enough for tests."
    monkeypatch.setitem(VARIANTS, 'X', Arch('X', WIDTH, 2, HEADS, MLP))


def disturbed(model):
    "A model of transformers with random numbers everywhere, norms around 1."
    torch.manual_seed(0)
    with torch.no_grad():
        for _, p in model.named_parameters():
            p.add_(torch.randn(p.shape) * 0.1)
    return model.eval()


def torch_model(kind, **more):
    config = getattr(transformers, kind.removesuffix('Model') + 'Config')
    sizes = dict(mlp_ratio=2) if kind.startswith('Dinov2') else dict(intermediate_size=MLP)
    return disturbed(getattr(transformers, kind)(config(**VISION | sizes | more)))


def both_towers(name):
    vision, text = VISION | dict(intermediate_size=MLP), TEXT | dict(projection_size=WIDTH)
    config = getattr(transformers, f'{name}Config')(vision_config=vision, text_config=text)
    return disturbed(getattr(transformers, f'{name}Model')(config))


def write_json(path, value):
    path.write_text(json.dumps(value))


def images_of(n=2, side=SIDE):
    return np.random.default_rng(0).uniform(-1, 1, (n, side, side, 3)).astype('float32')


def theirs_of(model, images=None):
    "The outputs of a network for images, of transformers."
    images = images_of() if images is None else images
    pixels = torch.from_numpy(np.ascontiguousarray(images.transpose(0, 3, 1, 2)))
    with torch.no_grad():
        return model(pixels, output_hidden_states=True)


def ours_of(root, images=None):
    "What a head would read of images."
    kinds = chain_kinds(root.layers)
    params = [layer.params for layer in root.layers.values()]
    run = jax.jit(lambda params, x: apply_chain(root.arch, kinds, params, x))
    return np.asarray(run(params, images_of() if images is None else images))[:, 0]


def assert_same(root, theirs):
    theirs = np.asarray(theirs)
    ours = ours_of(root)
    assert theirs.std() > 0.1, 'there is something to compare'
    assert np.abs(ours - theirs).max() < 1e-4 * np.abs(theirs).max()


def saved(model, folder, colors=HALVES):
    model.save_pretrained(folder)
    write_json(folder / 'preprocessor_config.json', colors)
    return load_file(folder / 'model.safetensors')


def load(where):
    return load_root(where, image_size=SIDE)


def digests(root):
    return [layer.digest for layer in root.layers.values()]


TOWERS = {
    'CLIP': ('CLIPVisionModel', {}, 'X-quick-eps1e-5-prenorm'),
    'CLIP of LAION': ('CLIPVisionModel', dict(hidden_act='gelu'), 'X-erf-eps1e-5-prenorm'),
    'SigLIP': ('SiglipVisionModel', {}, 'X-front0-map'),
    'registers': ('Dinov2WithRegistersModel', dict(num_register_tokens=3), 'X-erf-front4'),
}


@pytest.mark.parametrize('tower', TOWERS)
def test_a_network_of_transformers(tmp_path, tower):
    "The features that its own head would read."
    kind, more, arch = TOWERS[tower]
    model = torch_model(kind, **more)
    saved(model, tmp_path)
    root = load(tmp_path)
    assert root.arch.name == arch
    assert_same(root, theirs_of(model).pooler_output)


@pytest.mark.parametrize('name', ['CLIP', 'Siglip'])
def test_a_network_beside_that_for_text(tmp_path, name):
    "The network for captions is left out; the configuration of ours is a part of the whole."
    model = both_towers(name)
    saved(model, tmp_path)
    root = load(tmp_path)
    assert_same(root, theirs_of(model.vision_model).pooler_output)
    config = json.loads((tmp_path / 'config.json').read_text())
    config['vision_config']['num_attention_heads'] = 4
    write_json(tmp_path / 'config.json', config)
    with pytest.raises(InputError, match='num_attention_heads = 4: must be 2'):
        load(tmp_path)


def test_siglip_without_its_pooling(tmp_path):
    "As transformers classifies with it: the mean of the normed tokens."
    model = torch_model('SiglipVisionModel', vision_use_head=False)
    saved(model, tmp_path)
    root = load(tmp_path)
    assert root.arch.name == 'X-front0-gap'
    assert_same(root, theirs_of(model).last_hidden_state.mean(1))


OPEN_CLIP_NAMES = [
    ('embeddings.class_embedding', 'class_embedding'),
    ('embeddings.patch_embedding', 'conv1'),
    ('embeddings.position_embedding.weight', 'positional_embedding'),
    ('encoder.layers', 'transformer.resblocks'),
    ('self_attn.out_proj', 'attn.out_proj'),
    ('layer_norm', 'ln_'),
    ('mlp.fc1', 'mlp.c_fc'),
    ('mlp.fc2', 'mlp.c_proj'),
    ('pre_layrnorm', 'ln_pre'),
    ('post_layernorm', 'ln_post'),
]


def to_open_clip(tensors):
    "The names of OpenCLIP, for a network of transformers."
    out = {}
    for key, a in tensors.items():
        if '.q_proj.' in key:
            parts = [tensors[key.replace('q_proj', f'{n}_proj')] for n in 'qkv']
            a = np.concatenate(parts)
            key = key.replace('self_attn.q_proj.', 'attn.in_proj_')
        for old, new in OPEN_CLIP_NAMES:
            key = key.replace(old, new)
        if not re.search('[kv]_proj', key):
            out[f'visual.{key}'] = a
    return out


VISION_CFG = dict(
    image_size=SIDE, layers=2, width=WIDTH, head_width=16, patch_size=PATCH, mlp_ratio=2.0
)


def test_the_names_of_open_clip(tmp_path):
    model = torch_model('CLIPVisionModel', hidden_act='gelu')
    arrays = to_open_clip(saved(model, tmp_path / 'hf'))
    arrays |= {'visual.proj': np.ones((WIDTH, 4), 'f'), 'ln_final.bias': np.ones(3, 'f')}
    save_file(arrays, tmp_path / 'open_clip_model.safetensors')
    config = dict(
        model_cfg=dict(vision_cfg=VISION_CFG), preprocess_cfg=dict(mean=[0.5] * 3, std=[0.5] * 3)
    )
    write_json(tmp_path / 'open_clip_config.json', config)
    root = load(tmp_path)
    assert root.arch.name == 'X-erf-eps1e-5-prenorm'
    assert_same(root, theirs_of(model).pooler_output)
    for change, message in (
        (dict(pool_type='avg'), "pool_type = 'avg': must be 'tok'"),
        (dict(timm_model_name='x'), "timm_model_name = 'x': must be None or False"),
        (dict(width=64), 'width = 64: must be 32'),
    ):
        changed = config | dict(model_cfg=dict(vision_cfg=VISION_CFG | change))
        write_json(tmp_path / 'open_clip_config.json', changed)
        with pytest.raises(InputError, match=message):
            load(tmp_path)
    config['model_cfg']['quick_gelu'] = True
    write_json(tmp_path / 'open_clip_config.json', config)
    assert load(tmp_path).arch.gelu == 'quick'


TIMM_NAMES = [
    ('encoder.layer.', 'blocks.'),
    ('attention.output.dense', 'attn.proj'),
    ('layernorm_before', 'norm1'),
    ('layernorm_after', 'norm2'),
    ('intermediate.dense', 'mlp.fc1'),
    ('output.dense', 'mlp.fc2'),
    ('layer_scale1.lambda1', 'ls1.gamma'),
    ('layer_scale2.lambda1', 'ls2.gamma'),
    ('layernorm', 'norm'),
    ('embeddings.patch_embeddings.projection', 'patch_embed.proj'),
    ('embeddings.cls_token', 'cls_token'),
    ('embeddings.register_tokens', 'reg_token'),
    ('embeddings.position_embeddings', 'pos_embed'),
]


def to_timm(tensors):
    "timm's names, for a network of transformers."
    out = {}
    for key, a in tensors.items():
        if '.attention.attention.query.' in key:
            a = np.concatenate(
                [tensors[key.replace('query', n)] for n in ('query', 'key', 'value')]
            )
            key = key.replace('attention.attention.query', 'attn.qkv')
        for old, new in TIMM_NAMES:
            key = key.replace(old, new)
        if not re.search('attention|pooler|mask', key):
            out[key] = np.ascontiguousarray(a)
    return out


def save_timm(folder, arrays, **told):
    save_file(arrays, folder / 'model.safetensors')
    colors = dict(mean=[0.5] * 3, std=[0.5] * 3)
    write_json(folder / 'config.json', dict(pretrained_cfg=colors) | told)


def test_means_over_patches_of_timm(tmp_path):
    "Of normed tokens; with `fc_norm` the norm comes after the mean. The class token is not in it."
    model, seen = torch_model('ViTModel', layer_norm_eps=1e-6), []
    arrays = to_timm(saved(model, tmp_path / 'hf'))
    hook = model.layernorm.register_forward_pre_hook(lambda module, inputs: seen.append(inputs[0]))
    theirs_of(model)
    hook.remove()
    patches = seen[0][:, 1:]
    with torch.no_grad():
        normed, after = model.layernorm(patches).mean(1), model.layernorm(patches.mean(1))
    save_timm(tmp_path, arrays, global_pool='avg')
    root = load(tmp_path)
    assert root.arch.name == 'X-erf-gap'
    assert_same(root, normed)
    renamed = {re.sub(r'^norm\.', 'fc_norm.', k): a for k, a in arrays.items()}
    save_timm(tmp_path, renamed, global_pool='avg')
    root = load(tmp_path)
    assert root.arch.name == 'X-erf-gapnorm'
    assert_same(root, after)
    save_timm(tmp_path, arrays, global_pool='map')
    with pytest.raises(InputError, match="global_pool = 'map': must be one of 'token', 'avg'"):
        load(tmp_path)


def test_registers_of_timm(tmp_path):
    "Neither the class token nor registers have positions there: what it has is added beforehand."
    model = torch_model('Dinov2WithRegistersModel', num_register_tokens=3)
    arrays = to_timm(saved(model, tmp_path / 'hf'))
    arrays['cls_token'] = arrays['cls_token'] + arrays['pos_embed'][:, :1]
    arrays['pos_embed'] = np.ascontiguousarray(arrays['pos_embed'][:, 1:])
    save_timm(tmp_path, arrays)
    root = load(tmp_path)
    assert root.arch.name == 'X-erf-front4'
    assert (root.layers['posembed'].params['embedding'][:, :4] == 0).all()
    assert_same(root, theirs_of(model).pooler_output)
    alone = {key: a for key, a in arrays.items() if key != 'cls_token'}
    save_timm(tmp_path / 'hf', alone, global_pool='avg')
    assert load(tmp_path / 'hf').arch.name == 'X-erf-front3-gap'
    save_timm(tmp_path / 'hf', alone)
    assert load(tmp_path / 'hf').arch.name == 'X-erf-front3-gap', 'no head reads a register'
    larger = load_root(tmp_path, image_size=80)  # the grid is stretched, what stands before it not
    assert larger.layers['posembed'].params['embedding'].shape == (1, 4 + 25, WIDTH)


class MlpBlock(nn.Module):
    "The MLP of a block, named by Flax."

    @nn.compact
    def __call__(self, x):
        hidden = nn.gelu(nn.Dense(MLP)(x))
        return nn.Dense(WIDTH)(hidden)


class EncoderBlock(nn.Module):
    "A block, its modules named by Flax."

    @nn.compact
    def __call__(self, x):
        y = nn.LayerNorm()(x)
        x = x + nn.MultiHeadDotProductAttention(HEADS)(y, y)
        return x + MlpBlock()(nn.LayerNorm()(x))


class AddPositions(nn.Module):
    "Positions."

    @nn.compact
    def __call__(self, x):
        drawn = nn.initializers.normal(0.02)
        return x + self.param('pos_embedding', drawn, (1, *x.shape[1:]))


class Encoder(nn.Module):
    "Positions, blocks, and the last norm."

    @nn.compact
    def __call__(self, x):
        x = AddPositions(name='posembed_input')(x)
        for i in range(2):
            x = EncoderBlock(name=f'encoderblock_{i}')(x)
        return nn.LayerNorm(name='encoder_norm')(x)


class Original(nn.Module):
    "A Vision Transformer with the structure of the original code, for its class token or a mean."

    token: bool

    @nn.compact
    def __call__(self, x):
        x = nn.Conv(WIDTH, (PATCH, PATCH), (PATCH, PATCH), 'VALID', name='embedding')(x)
        x = x.reshape(len(x), -1, WIDTH)
        if self.token:
            cls = self.param('cls', nn.initializers.zeros, (1, 1, WIDTH))
            x = jnp.concatenate([jnp.tile(cls, (len(x), 1, 1)), x], axis=1)
        x = Encoder(name='Transformer')(x)
        return x[:, 0] if self.token else x.mean(1)


@pytest.mark.parametrize('token', [True, False], ids=['class token', 'mean'])
def test_what_todays_flax_saves(tmp_path, token):
    "The names are those that the installed Flax gives the modules of the original structure."
    rng, model = np.random.default_rng(0), Original(token)
    drawn = flatten_dict(model.init(jax.random.key(0), images_of())['params'], sep='/')
    drawn = {k: np.asarray(a + rng.normal(scale=0.1, size=a.shape), 'f') for k, a in drawn.items()}
    assert 'Transformer/encoderblock_0/LayerNorm_1/scale' in drawn
    np.savez(tmp_path / 'x.npz', **drawn)
    root = load(tmp_path / 'x.npz')
    assert root.arch.name == ('X' if token else 'X-front0-gap')
    theirs = jax.jit(model.apply)({'params': unflatten_dict(drawn, sep='/')}, images_of())
    assert_same(root, theirs)
    np.savez(tmp_path / 'y.npz', **{f'params/{k}': a for k, a in drawn.items()})
    assert digests(load(tmp_path / 'y.npz')) == digests(root)


def test_what_is_refused_by_name(tmp_path):
    model = torch_model('DINOv3ViTModel')
    saved(model, tmp_path)
    with pytest.raises(InputError, match=r'rotary or relative .*\(DINOv3.*with registers is read'):
        load(tmp_path)
    arrays = to_timm(saved(torch_model('ViTModel'), tmp_path / 'hf'))
    for name, message in (
        ('attn_pool.q.weight', 'pools by attention .SigLIP.*for transformers is read'),
        ('norm_pre.weight', 'form of CLIP.*for transformers or OpenCLIP is read'),
        ('blocks.0.attn.q_norm.weight', 'normalises queries and keys'),
        ('blocks.0.mlp.fc1_g.weight', 'SwiGLU'),
    ):
        save_timm(tmp_path, arrays | {name: np.ones(WIDTH, 'f')})
        with pytest.raises(InputError, match=f'has {name}, so it is .*{message}'):
            load(tmp_path)
    wide = arrays | {'pos_embed': np.ones((1, 1 + 3 * 4, WIDTH), 'f')}
    save_timm(tmp_path, wide)
    with pytest.raises(InputError, match='has 13 positions, which are not.*square grid'):
        load(tmp_path)


def test_colors_of_networks_for_captions_are_not_guessed(tmp_path):
    "The message tells what they usually are."
    for kind, usual in (('CLIPVisionModel', '0.48145466'), ('SiglipVisionModel', '0.5, 0.5')):
        torch_model(kind).save_pretrained(tmp_path / kind)
        message = rf'is missing, or does not tell the colors.*"image_mean": \[{usual}'
        with pytest.raises(InputError, match=message):
            load(tmp_path / kind)


@pytest.fixture
def in_files(tmp_path):
    "A model in several files, and the same in one."
    model = torch_model('ViTModel')
    model.save_pretrained(tmp_path / 'one')
    model.save_pretrained(tmp_path / 'many', max_shard_size='20KB')
    assert len(list((tmp_path / 'many').glob('*.safetensors'))) > 2
    return tmp_path / 'one', tmp_path / 'many'


def test_a_model_in_several_files(in_files):
    one, many = in_files
    index = many / 'model.safetensors.index.json'
    assert digests(load(many)) == digests(load(index)) == digests(load(one))


def test_an_index_that_lies(in_files):
    "A name in it is never a path; what it names is there."
    _, many = in_files
    index = many / 'model.safetensors.index.json'
    told = json.loads(index.read_text())
    first, shard = next(iter(told['weight_map'].items()))
    (many.parent / 'secret.safetensors').write_bytes((many / shard).read_bytes())
    link = many / 'link.safetensors'
    link.mkdir()
    lies = {
        '../secret.safetensors': 'must be the name of a .safetensors file beside it',
        str(many / shard): 'must be the name of a .safetensors file beside it',
        'config.json': 'must be the name of a .safetensors file beside it',
        '..': 'must be the name of',
        None: 'is in None: must be',
        'gone.safetensors': 'gone.safetensors: is missing, which model.safetensors.index',
        'link.safetensors': 'link.safetensors: is missing',
    }
    for name, message in lies.items():
        write_json(index, told | {'weight_map': told['weight_map'] | {first: name}})
        with pytest.raises(InputError, match=message):
            load(many)
    write_json(index, told | {'weight_map': told['weight_map'] | {'odd': shard}})
    with pytest.raises(InputError, match=f'{shard}: lacks odd, which'):
        load(many)
    for bad in ({}, {'weight_map': {}}, {'weight_map': [1]}):
        write_json(index, bad)
        with pytest.raises(InputError, match='lists no arrays'):
            load(many)


# What else reads architectures: exports, attention, routing, a whole search.

ARCHS = ('X-quick-eps1e-5-prenorm', 'X-erf-front4', 'X-front0-map', 'X-front2-gap', 'X-gapnorm')


def drawn_model(arch):
    "Layers with random numbers everywhere, by name, with a head of three classes."
    rng, sizes = np.random.default_rng(0), Sizes(SIDE, 3)

    def layer(name):
        shapes = layer_shapes(arch, layer_kind(name), sizes)
        arrays = {
            path: (path.endswith('scale') + rng.normal(scale=0.1, size=shape)).astype('f')
            for path, shape in shapes.items()
        }
        return unflatten_dict(arrays, sep='/')

    return {name: layer(name) for name in layer_names(2, arch)}


def exported(tmp_path, arch, params, format):
    export_model(tmp_path / format, format, arch, params, SIDE, list('abc'))
    return tmp_path / format


@pytest.mark.parametrize('name', ARCHS)
def test_exports(tmp_path, name):
    "ONNX and StableHLO compute the same; what was exported is a root again, to the bit."
    arch = get_arch(name)
    params = drawn_model(arch)
    images = np.random.default_rng(1).integers(0, 256, (2, SIDE, SIDE, 3), 'uint8')
    kinds = chain_kinds(params)
    x = images.astype('f') / np.float32(127.5) - 1
    run = jax.jit(lambda params, x: apply_chain(arch, kinds, params, x))
    ours = np.asarray(run(list(params.values()), x))
    onnx = exported(tmp_path, arch, params, 'onnx') / 'model.onnx'
    (theirs,) = onnxruntime.InferenceSession(onnx).run(['logits'], {'images': images})
    np.testing.assert_allclose(theirs, ours, atol=1e-4 * np.abs(ours).max())
    folder = exported(tmp_path, arch, params, 'stablehlo')
    program = jax.export.deserialize((folder / 'model.stablehlo').read_bytes())
    logits = program.call(load_file(folder / 'model.safetensors'), images)['logits']
    np.testing.assert_allclose(logits, ours, atol=1e-4 * np.abs(ours).max())
    root = load(folder)
    assert root.arch == arch
    layers = [make_layer(params[n]).digest for n in root.layers]
    assert digests(root) == layers and 'head' not in root.layers
    if name == 'X-quick-eps1e-5-prenorm':
        message = 'no place for prenorm'
    else:
        message = 'no place for (registers|pool|a mean over patches)'
    with pytest.raises(InputError, match=message):
        exported(tmp_path, arch, params, 'huggingface')


def test_where_it_looks(tmp_path):
    "Registers are no patches; without a class token that is read there is nothing to show."
    images = [np.zeros((SIDE, SIDE, 3), 'uint8')]
    for name, message in (('X-erf-front4', ''), ('X-gapnorm', 'reads all patches')):
        arch = get_arch(name)
        params = drawn_model(arch)
        network = Network(arch, list(params), list(params.values()), SIDE)
        if message:
            with pytest.raises(InputError, match=message):
                attention_over(images, network, 'float32', shared_programs())
            continue
        seen = attention_over(images, network, 'float32', shared_programs())
        assert seen.shape == (1, 3, 3) and 0 < seen.sum() < 1


def test_what_tells_tasks_apart():
    "The class token of the last block where there is one, else the mean of its patches."
    images = [np.full((SIDE, SIDE, 3), c, 'uint8') for c in (0, 200)]
    for name in ('X-erf-front4', 'X-front0-map'):
        arch = get_arch(name)
        params = {n: p for n, p in drawn_model(arch).items() if n != 'head'}
        trunk = routing_trunk(arch, params, SIDE)
        assert trunk.names[-1] == 'block_1'
        features = class_tokens_of(images, trunk, 'float32', shared_programs())
        kinds = ['block' if k == 'top_block' else k for k in chain_kinds(trunk.names)]
        x = jnp.stack([jnp.full((SIDE, SIDE, 3), c / 127.5 - 1, 'float32') for c in (0, 200)])
        tokens = apply_chain(arch, kinds, trunk.params, x)
        expected = tokens[:, 0] if arch.pool == 'token' else tokens.mean(1)
        np.testing.assert_allclose(features, expected, atol=1e-4)


@pytest.mark.long
def test_a_search_from_a_root_that_pools(tmp_path):
    "Depths, adapters, probes, records, reopening, predictions and routing."
    labels = np.arange(40) % 2
    noise = np.random.default_rng(0).integers(0, 60, (40, 40, 40, 3))
    images = (noise + labels[:, None, None, None] * 90).astype('uint8')
    task = task_from_arrays('stripes', (images, labels), classes=['dark', 'light'])
    config = Config(
        children_per_task=4,
        children_per_generation=2,
        task_iterations=1,
        mutation_prob=0.5,
        auto_tune=False,
        probed_seeds=1,
        compute_factor=0.9,
        training=TrainingSettings(8, 2, 1, 2),
        defaults=HParams(image_size=32, lr=0.1, area_min=1.0),
    )
    root = load_root('random:X-quick-prenorm-front0-map', image_size=32)
    assert list(root.layers) == [
        'embedding', 'posembed', 'prenorm', 'block_0', 'block_1', 'norm', 'pool'
    ]
    with Evolution.create(tmp_path / 'run', root, [task], config) as evo:
        evo.run()
    system = System.open(tmp_path / 'run')
    chain = [ref.name for ref in system.models['stripes'].chain]
    assert chain[-3:] == ['norm', 'pool', 'head'] and 'cls' not in chain
    assert system.predict('stripes', images[:3]).shape == (3, 2)
    with pytest.raises(InputError, match='reads all patches'):
        system.attention('stripes', images[:1])


def test_images_that_are_not_square_are_stretched():
    "The whole image, its sides each to the model's: nothing is cut off, the aspect is not kept."
    wide = np.repeat(np.array([[[0], [50], [100], [150]]], 'uint8'), 2, axis=0)
    x = resize(to_pixels(pack([(wide, 0)])), jnp.array([0]), 2)
    np.testing.assert_allclose((x[0, :, :, 0] + 1) * 127.5, [[25, 125], [25, 125]], atol=1e-4)
