"Models and systems as programs that need nothing of this package: the same logits, layers once."

import json
import sys
from dataclasses import replace

import jax.export
import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import transformers
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file

from munet_nb.checks import InputError
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef, Model, Root, model_to_json, root_model
from munet_nb.models.pool import LayerPool, make_layer
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import layer_names, layer_shapes
from munet_nb.network.kinds import Sizes, layer_kind
from munet_nb.roots import export as export_module
from munet_nb.runs.system import System
from munet_nb.search.config import Config
from munet_nb.search.journal import replay
from toy import info

transformers.utils.logging.set_verbosity_error()
transformers.utils.logging.disable_progress_bar()
ARCH = get_arch('Ti2')
SHAPES = ((1, 32, 32), (3, 28, 20), (2, 90, 131), (1, 530, 777))


def drawn(names, classes=2, image_size=32, seed=0):
    "Layers with random numbers everywhere, by name."
    rng = np.random.default_rng(seed)
    sizes = Sizes(image_size, classes, adapter_dim=8)

    def layer(name):
        shapes = layer_shapes(ARCH, layer_kind(name), sizes)
        arrays = {
            path: (path.endswith('scale') + rng.normal(scale=0.08, size=shape)).astype('float32')
            for path, shape in shapes.items()
        }
        return make_layer(unflatten_dict(arrays, sep='/'))

    return {name: layer(name) for name in names}


def four_tasks():
    "Layers by name of four tasks that share a trunk: depths, adapters and an image size differ."
    common = drawn(layer_names(2))
    top = ['norm', 'head']
    return {
        'as it is': (32, common | drawn(['head'], 3, seed=1)),
        'adapted': (32, common | drawn(['adapter_1', *top], 4, seed=2)),
        'shallow/1': (32, {n: common[n] for n in layer_names(1)} | drawn(top, 5, seed=3)),
        'larger': (48, common | drawn(['posembed', *top], 2, 48, seed=4)),
    }


def made_system(tasks):
    "A system of models made by hand, without a search."
    layers = [layer for _, chain in tasks.values() for layer in chain.values()]
    root_layers = {n: a for n, a in tasks['as it is'][1].items() if n != 'head'}
    start = root_model(Root('toy', ARCH, root_layers), Config().defaults)
    infos = [{**info(t), 'classes': [f'{t} {i}' for i in range(n)]} for t, n in classes(tasks)]
    state = replay([{'kind': 'run', 'root': model_to_json(start), 'tasks': infos}])
    models = {}
    for task, (size, chain) in tasks.items():
        names = sorted(chain, key=[*layer_names(2, adapter=(0, 1))].index)
        refs = (LayerRef(n, chain[n].digest, chain[n].n_params, task) for n in names)
        hparams = HParams(image_size=size, adapter_dim=8)
        models[f'{task}:0.0.0'] = Model(f'{task}:0.0.0', task, 'root', tuple(refs), hparams, (0.5,))
    kept = {m.task: m.id for m in models.values()}
    state = replace(state, models={**state.models, **models}, kept=kept)
    return System(state, LayerPool(layers), ARCH, Config().training)


def classes(tasks):
    return [(t, chain['head'].flat['dense/bias'].shape[0]) for t, (_, chain) in tasks.items()]


@pytest.fixture(scope='module')
def system():
    return made_system(four_tasks())


def photographs(shape):
    "Smooth images and a little noise: colors that change over a few pixels."
    rng = np.random.default_rng(0)
    n, h, w = shape
    y, x = np.mgrid[:h, :w]
    waves = np.sin(y / 9 + np.arange(n)[:, None, None]) * np.cos(x / 7)
    colors = 127 + 80 * waves[..., None] * [1, 0.5, -1] + rng.normal(scale=20, size=(n, h, w, 3))
    return colors.clip(0, 255).astype('uint8')


def assert_same(system, task, images, logits):
    "Logits are those of the system, as far as its probabilities tell: but for a sum per image."
    ours = np.log(system.predict(task, images))
    theirs = np.asarray(logits)
    differences = theirs - ours
    assert theirs.std() > 0.1, 'there is something to compare'
    assert np.abs(differences - differences.mean(1, keepdims=True)).max() < 1e-4


def distinct_bytes(system):
    layers = {r.digest: r.n_params for m in system.models.values() for r in m.chain}
    return 4 * sum(layers.values())


def test_a_system_as_one_graph(system, tmp_path):
    "Dynamic batches and sizes, all tasks at once; each layer is in the file once, and computed once."
    system.export_all(tmp_path / 'all')
    assert [p.name for p in (tmp_path / 'all').iterdir()] == ['model.onnx']
    path = tmp_path / 'all' / 'model.onnx'
    onnx.checker.check_model(path, full_check=True)
    session = onnxruntime.InferenceSession(path)
    assert [o.name for o in session.get_outputs()] == list(system.models)
    for shape in SHAPES:
        images = photographs(shape)
        answers = session.run(list(system.models), {'images': images})
        for task, logits in zip(system.models, answers):
            assert_same(system, task, images, logits)
    told = json.loads(session.get_modelmeta().custom_metadata_map['tasks'])
    assert told['larger']['image_size'] == 48
    assert told['adapted']['classes'] == [f'adapted {i}' for i in range(4)]
    model = onnx.load(path)
    distinct = distinct_bytes(system)
    total = 4 * sum(m.n_params for m in system.models.values())
    assert distinct < path.stat().st_size < distinct + 120_000 < total
    # Blocks: the two of the common trunk, one on top of the adapter, two of the larger images.
    assert sum(node.op_type == 'Softmax' for node in model.graph.node) == 5
    assert sum(node.op_type == 'Range' for node in model.graph.node) == 2  # image sizes


def test_a_system_as_one_program_of_jax(system, tmp_path):
    system.export_all(tmp_path / 'all', 'stablehlo')
    program = jax.export.deserialize((tmp_path / 'all' / 'model.stablehlo').read_bytes())
    params = load_file(tmp_path / 'all' / 'model.safetensors')
    assert sum(a.nbytes for a in params.values()) == distinct_bytes(system)
    images = photographs((2, 530, 777))
    answers = program.call(params, images)
    for task in system.models:
        assert_same(system, task, images, answers[task])
    told = json.loads((tmp_path / 'all' / 'model.json').read_text())
    assert {f'{d}/token' for t in told['tasks'].values() for d in [t['layers']['cls']]} <= set(params)


@pytest.mark.parametrize('limit', [None, 1000])
def test_a_model_with_an_adapter_as_a_graph(system, tmp_path, monkeypatch, limit):
    "One that is too large for a file has its arrays beside it."
    if limit:
        monkeypatch.setattr(export_module, 'ONNX_BYTES', limit)
    system.export('adapted', tmp_path / 'x', 'onnx')
    assert len(list((tmp_path / 'x').iterdir())) == (2 if limit else 1)
    session = onnxruntime.InferenceSession(tmp_path / 'x' / 'model.onnx')
    images = photographs((3, 32, 32))
    (logits,) = session.run(['logits'], {'images': images})
    assert_same(system, 'adapted', images, logits)


def test_adapters_and_no_blocks_in_transformers(system, tmp_path):
    "Exactly what the system predicts, in plain transformers: an adapter is a block more."
    tasks = four_tasks()
    root = {n: a for n, a in tasks['as it is'][1].items() if layer_kind(n) != 'block'}
    flat = made_system({'as it is': (32, root), 'adapted': tasks['adapted']})
    images = photographs((2, 32, 32))
    for task, blocks in (('adapted', 3), ('as it is', 1)):
        flat.export(task, tmp_path / task)
        model = transformers.ViTForImageClassification.from_pretrained(tmp_path / task).eval()
        preprocessor = transformers.AutoImageProcessor.from_pretrained(tmp_path / task)
        with torch.no_grad():
            logits = model(**preprocessor(list(images), return_tensors='pt')).logits.numpy()
        assert_same(flat, task, images, logits)
        assert model.config.num_hidden_layers == blocks


def test_what_cannot_be_exported(system, tmp_path, monkeypatch):
    with pytest.raises(InputError, match="format = 'huggingface': must be 'onnx' or 'stablehlo'"):
        system.export_all(tmp_path / 'x', 'huggingface')
    nothing = System(replace(system._state, kept={}), system._pool, ARCH, Config().training)
    with pytest.raises(InputError, match='no task has a model yet'):
        nothing.export_all(tmp_path / 'x')
    tasks = four_tasks()
    named = made_system({'as it is': tasks['as it is'], 'images': tasks['adapted']})
    with pytest.raises(InputError, match="a task cannot be called 'images'"):
        named.export_all(tmp_path / 'x')
    monkeypatch.setitem(sys.modules, 'onnx', None)
    for export in (system.export_all, lambda x: system.export('adapted', x, 'onnx')):
        with pytest.raises(InputError, match=r'pip install "munet_nb\[onnx\]"'):
            export(tmp_path / 'x')
    assert not list(tmp_path.iterdir())
