"Searches without training: every child pretends an accuracy, and each of its new layers is a few random numbers."

from dataclasses import asdict, replace
from zlib import crc32

import numpy as np

from munet_nb.models.model import Root, model_to_json, root_model
from munet_nb.models.pool import LayerPool, make_layer
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import Sizes, count_params, layer_names, reference_params
from munet_nb.search.ask import ask, next_task, segments_left
from munet_nb.search.config import Config
from munet_nb.search.journal import State, TaskInfo, apply_record, replay
from munet_nb.search.plans import TrainedChild
from munet_nb.search.tell import end_of_iteration, tell

ARCH = get_arch('Ti3')
REFERENCE = reference_params(ARCH)


def toy_layer(*seed) -> object:
    return make_layer(
        {'w': np.random.default_rng([crc32(str(s).encode()) for s in seed]).random(2)}
    )


def toy_root_model(config: Config):
    layers = {n: toy_layer('root', n) for n in layer_names(ARCH.depth)[:-1]}
    model = root_model(Root('toy', ARCH, layers), config.defaults)
    chain = tuple(
        replace(r, n_params=count_params(ARCH, r.name, Sizes(config.defaults.image_size)))
        for r in model.chain
    )
    return replace(model, chain=chain), layers.values()


def info(name: str, private: bool = False) -> dict:
    return asdict(TaskInfo(name, ('a', 'b'), private, '', ''))


def pretend(generation, salt=0) -> list[TrainedChild]:
    out = []
    for p in generation.children:
        rng = np.random.default_rng([crc32(p.id.encode()), salt])
        layers = {l.name: toy_layer(p.id, l.name, salt) for l in p.layers if l.trainable}
        layers |= {
            l.name: toy_layer(l.digest, p.hparams.image_size)
            for l in p.layers
            if l.resize and not l.trainable
        }
        diverged = rng.random() < 0.05
        out.append(
            TrainedChild(
                p, (0.0,) if diverged else tuple(rng.random(2)), {} if diverged else layers
            )
        )
    return out


class ToyRun:
    "A search and its pool, driven by hand."

    def __init__(self, config: Config, tasks, salt=0, test=lambda record: 0.5):
        root, layers = toy_root_model(config)
        self.config, self.salt, self.test, self.pool = config, salt, test, LayerPool(layers)
        self.records = [{'kind': 'run', 'root': model_to_json(root), 'tasks': list(tasks)}]
        self.state: State = replay(self.records)

    def commit(self, record, layers=()):
        self.records.append(record)
        self.state = apply_record(self.state, record)
        self.pool = self.pool.add(layers).keep(self.state.alive)

    def step(self) -> bool:
        "One generation; False if there is nothing to do."
        if next_task(self.state, self.config) is None:
            return False
        generation = ask(self.state, self.config, ARCH)
        trained = pretend(generation, self.salt)
        record = tell(self.state, self.config, REFERENCE, generation, trained)
        self.commit(
            record,
            [
                l
                for t, c in zip(trained, record['children'])
                if c['accepted']
                for l in t.layers.values()
            ],
        )
        if segments_left(self.state, self.config) < self.config.training.segments:
            end = end_of_iteration(self.state, self.config, REFERENCE)
            self.commit({**end, 'test': self.test(end)})
        return True
