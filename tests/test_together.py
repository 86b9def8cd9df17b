"""Models that answer together answer as each does by itself, and no layer runs twice.

Random trees of tiny models: layers shared or not, adapters, depths, image sizes, heads; random
images asked for random tasks.
"""

import io
from collections import Counter
from functools import cache

import jax
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from munet_nb import Config, InputError, System
from munet_nb.engine import together
from munet_nb.engine.predict import Network
from munet_nb.engine.programs import shared_programs
from munet_nb.engine.together import Forest, answers, nodes_of
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef, Model, Root, root_model
from munet_nb.models.pool import LayerPool, make_layer
from munet_nb.network.arch import Arch
from munet_nb.network.chain import apply_layer, chain_kinds, init_layer, layer_names, root_names
from munet_nb.network.kinds import Sizes
from munet_nb.search.journal import State, TaskInfo

ARCH = Arch('tiny', width=8, heads=2, mlp=16, depth=2, patch=8)
SIZES = (16, 24)  # of images, pixels
CLASSES = (2, 3)


@cache
def layer(name, size, classes, version):
    "One of several layers that could stand in a place."
    drawn = init_layer(jax.random.key(0), ARCH, name, Sizes(size, classes, adapter_dim=4))
    rng = np.random.default_rng([len(name), size, classes, version])
    return make_layer(jax.tree.map(lambda a: a + rng.normal(size=a.shape).astype('f'), drawn))


@st.composite
def networks(draw):
    "A model of layers of few versions, so that some are shared."
    names = layer_names(draw(st.integers(1, 2)), adapter=draw(st.sets(st.integers(0, 1))))
    size, classes = draw(st.sampled_from(SIZES)), draw(st.sampled_from(CLASSES))
    layers = []
    for name in names:
        own = size if name == 'posembed' else 16  # the others do not depend on it
        of_head = classes if name == 'head' else 2
        layers.append(layer(name, own, of_head, draw(st.sampled_from((0, 0, 1)))))
    params = [one.params for one in layers]
    return Network(ARCH, names, params, size, [one.digest for one in layers])


def noise(i):
    shape = ((9, 7, 1), (20, 30, 1))[i % 2]
    return np.random.default_rng(i).integers(0, 256, shape, np.uint8)


def alone(network, image, forest):
    "Class probabilities by the layers of one model."
    x = forest.load(network.image_size, [image])
    for kind, params in zip(chain_kinds(network.names), network.params):
        x = _layer(kind)(params, x)
    return jax.nn.softmax(x)[0]


@cache
def _layer(kind):
    return jax.jit(lambda params, x: apply_layer(ARCH, kind, params, x))


class Counting(Forest):
    "A forest that counts what it runs."

    def __init__(self, *args):
        super().__init__(*args)
        self.runs = Counter()

    def run_layer(self, node, x):
        self.runs[node] += 1
        return super().run_layer(node, x)


@settings(max_examples=25, deadline=None, derandomize=True)
@given(st.lists(networks(), min_size=1, max_size=5), st.data())
def test_answers_are_those_of_each_model_by_itself(models, data):
    models = {f't{i}': network for i, network in enumerate(models)}
    asked = st.lists(st.lists(st.sampled_from(sorted(models)), unique=True), min_size=1, max_size=2)
    wanted = data.draw(asked)
    forest = Counting(models, 'float32', shared_programs())
    found = list(answers(forest, [(noise(i), tasks) for i, tasks in enumerate(wanted)]))
    assert [list(own) for own in found] == wanted
    for i, own in enumerate(found):
        for task, p in own.items():
            np.testing.assert_allclose(p, alone(models[task], noise(i), forest), atol=2e-6)
    below = {task for tasks in wanted for task in tasks}
    nodes = [node for node in nodes_of(forest.roots) if node.tasks & below]
    assert forest.runs == Counter(nodes), 'each layer that is needed runs once'
    prefixes = {
        (n.image_size, *zip(chain_kinds(n.names)[:k], n.digests))
        for n in models.values()
        for k in range(1, len(n.names) + 1)
    }
    assert len(nodes_of(forest.roots)) == len(prefixes), 'once per image size'


@pytest.fixture(scope='module')
def system():
    "Three tasks on one trunk: one has a block of its own, one looks at larger images."
    names = root_names(ARCH)
    root = Root('tiny', ARCH, {name: layer(name, 16, 2, 0) for name in names})
    start = root_model(root, HParams(image_size=16))
    pool, models = dict(root.layers), {}
    for task, size, classes, own in (
        ('a', 16, 2, ()),
        ('b', 16, 3, ('block_1', 'norm')),
        ('c', 24, 2, ('posembed',)),
    ):
        chain = []
        for name in (*names, 'head'):
            is_own = name in own or name == 'head'
            is_large = size if name == 'posembed' else 16
            one = layer(name, is_large, classes if name == 'head' else 2, int(is_own))
            pool[one.digest] = one
            chain.append(LayerRef(name, one.digest, one.n_params, task if is_own else None))
        hparams = HParams(image_size=size, num_layers=2)
        models[task] = Model(task, task, 'root', tuple(chain), hparams, (0.5,))
    state = State(
        root=start,
        tasks={t: TaskInfo(t, ('x', 'y', 'z')[: 3 if t == 'b' else 2], False, '', '') for t in 'abc'},
        models={'root': start, **models},
        kept={t: t for t in models},
    )
    return System(state, LayerPool(pool.values()), ARCH, Config.preset('demo').training)


def test_one_task_all_tasks_and_pairs_are_one_thing(system):
    photograph = np.random.default_rng(0).integers(0, 256, (600, 520, 1), np.uint8)
    images = [photograph, noise(1), noise(2), noise(3)]
    together_ = system.predict_all(images)
    assert list(together_) == ['a', 'b', 'c']
    for task, p in together_.items():
        assert p.dtype == np.float32 and p.shape == (4, len(system.classes[task]))
        assert np.array_equal(system.predict(task, images), p), 'as many images, the same bits'
    pairs = [('abc'[i % 3], image) for i, image in enumerate(images)]
    for i, p in enumerate(system.predict_mixed(iter(pairs))):
        np.testing.assert_allclose(p, together_['abc'[i % 3]][i], atol=1e-6)
    each = list(system.predict_each(iter(images), ['c', 'a', 'c']))
    assert all(list(found) == ['c', 'a'] for found in each)
    assert np.array_equal([found['c'] for found in each], together_['c'])


def test_what_pillow_opened_and_is_no_image_keeps_its_place(system, tmp_path):
    "Cut files, closed ones, crops without pixels, addresses, and files that are open."
    path = tmp_path / 'a.jpg'
    Image.fromarray(np.full((300, 200, 3), 90, np.uint8)).save(path)
    cut = Image.open(io.BytesIO(path.read_bytes()[:900]))
    closed = Image.open(path)
    closed.close()
    empty = Image.open(path).crop((5, 5, 5, 9))
    with open(path, 'rb') as file:
        wrong = {
            'can be decoded': cut,
            'closed': closed,
            'has 0 x 4 pixels': empty,
            'is an address': 'https://example.org/a.jpg',
            'is no image': file,
        }
        found = [*system.predict_each([*wrong.values(), Image.open(path)], skip_broken=True)]
        assert file.read(2) == b'\xff\xd8', 'whoever opened it can still read it'
    for message, error in zip(wrong, found):
        assert isinstance(error, InputError) and message in str(error)
    np.testing.assert_array_equal(found[-1]['a'], system.predict('a', [path])[0])


def test_any_number_of_images_in_bounded_memory(system, tmp_path, monkeypatch):
    "Images are asked for when they are needed; files that do not decode keep their place."
    monkeypatch.setattr(together, 'GROUP', 2)
    monkeypatch.setattr(together, 'AHEAD', 4)
    Image.fromarray(noise(0)[..., 0]).save(tmp_path / '0.png')
    (tmp_path / '1.png').write_text('no image')
    files = [tmp_path / f'{i}.png' for i in range(3)]
    taken = []

    def endless():
        while True:
            taken.append(0)
            yield files[len(taken) % 3]

    found = system.predict_each(endless(), ['a'], skip_broken=True)
    first = [next(found) for _ in range(30)]
    found.close()
    assert len(taken) <= 30 + 2 + 4
    kinds = [type(one) for one in first]
    assert kinds == ([InputError, InputError, dict] * 10)
    assert '1.png: is not an image' in str(first[0]) and 'there is no such file' in str(first[1])
    assert np.array_equal(first[2]['a'], first[5]['a'])
    with pytest.raises(InputError, match='1.png'):
        system.predict_all(files)
    found = system.predict_each(files)
    assert list(next(found)) == ['a', 'b', 'c'], 'what comes before a broken one'
    with pytest.raises(InputError, match='1.png'):
        next(found)
    images = [noise(i) for i in range(5)]
    assert system.predict('b', images).shape == (5, 3), 'in groups of two'
