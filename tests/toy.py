"Searches without training: a child pretends an accuracy, its new layers are random numbers."

from dataclasses import replace
from zlib import crc32

import numpy as np

from munet_nb.models.model import Root, model_to_json, root_model
from munet_nb.models.pool import Layer, LayerPool, make_layer
from munet_nb.network.arch import get_arch
from munet_nb.network.chain import count_params, reference_params, root_names
from munet_nb.network.kinds import Sizes
from munet_nb.search.ask import ask, next_task, segments_left
from munet_nb.search.config import Config, config_to_json
from munet_nb.search.journal import State, TaskInfo, apply_record, info_to_json, replay
from munet_nb.search.plans import TrainedChild
from munet_nb.search.tell import end_of_iteration, tell, with_tests

ARCH = get_arch('Ti3')
REFERENCE = reference_params(ARCH)


def toy_layer(*seed) -> Layer:
    rng = np.random.default_rng([crc32(str(s).encode()) for s in seed])
    return make_layer({'w': rng.random(2)})


def toy_root_model(config: Config):
    "A root, which is charged as if its layers were whole, and its layers."
    layers = {n: toy_layer('root', n) for n in root_names(ARCH)}
    model = root_model(Root('toy', ARCH, layers), config.defaults)
    sizes = Sizes(config.defaults.image_size)

    def whole(ref):
        return replace(ref, n_params=count_params(ARCH, ref.name, sizes))

    return replace(model, chain=tuple(map(whole, model.chain))), layers.values()


def info(name: str, private: bool = False) -> dict:
    return info_to_json(TaskInfo(name, ('a', 'b'), private, '', ''))


def pretend_child(plan, salt) -> TrainedChild:
    "What training could have made of a plan; one child in twenty diverges."
    rng = np.random.default_rng([crc32(plan.id.encode()), salt])
    layers = {}
    for layer in plan.layers:
        if layer.trainable:
            layers[layer.name] = toy_layer(plan.id, layer.name, salt)
        elif layer.resize:
            layers[layer.name] = toy_layer(layer.digest, plan.hparams.image_size)
    if rng.random() < 0.05:
        return TrainedChild(plan, (0.0,), {})
    return TrainedChild(plan, tuple(rng.random(2)), layers)


def pretend(generation, salt=0) -> list[TrainedChild]:
    return [pretend_child(plan, salt) for plan in generation.children]


def as_long_as_asked(generation, trained) -> list[TrainedChild]:
    "What was trained, with as many evaluations as its generation asks for, and its race leaves."

    def seen(child, segments):
        return (child.evaluations * generation.segments)[:segments]

    race, lengths = generation.race, [generation.segments] * len(trained)
    if race:
        survivors = race.survivors([max(seen(child, race.after)) for child in trained])
        lengths = [n if i in survivors else race.after for i, n in enumerate(lengths)]
    return [replace(t, evaluations=seen(t, n)) for t, n in zip(trained, lengths)]


class ToyRun:
    "A search and its pool, driven by hand."

    def __init__(
        self, config: Config, tasks, salt=0, test=lambda record: 0.5, pretend_child=pretend_child
    ):
        root, layers = toy_root_model(config)
        self.config = config
        self.salt = salt
        self.test = test
        self.pretend_child = pretend_child
        self.pool = LayerPool(layers)
        first = {'kind': 'run', 'root': model_to_json(root), 'tasks': list(tasks)}
        told = {'config': config_to_json(config)} if config.race_segments else {}
        self.records = [first | told]
        self.state: State = replay(self.records)
        self.states = [self.state]  # after each record

    def commit(self, record, layers=()):
        self.records.append(record)
        self.state = apply_record(self.state, record)
        self.states.append(self.state)
        self.pool = self.pool.add(layers).keep(self.state.alive)

    def step(self) -> bool:
        "One generation; False if there is nothing to do."
        if next_task(self.state, self.config) is None:
            return False
        generation = ask(self.state, self.config, ARCH)
        trained = [self.pretend_child(plan, self.salt) for plan in generation.children]
        if self.config.race_segments:  # then their number tells who lost
            trained = as_long_as_asked(generation, trained)
        record = tell(self.state, self.config, ARCH, generation, trained)
        accepted = [t for t, c in zip(trained, record['children']) if c['accepted']]
        self.commit(record, [layer for t in accepted for layer in t.layers.values()])
        if segments_left(self.state, self.config) < self.config.training.segments:
            end = end_of_iteration(self.state, self.config, ARCH)
            self.commit(with_tests(end, lambda id: self.test(end)))
        return True

    def finish(self):
        "Every generation that there is."
        while self.step():
            pass
