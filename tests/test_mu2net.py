"The rules of muNet's successors: each one's statistics, each off by default, and a whole search."

import json
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from test_runs import small_tasks
from toy import ARCH, ToyRun, info, pretend, toy_root_model

from munet_nb import Evolution, InputError, load_root

from munet_nb.engine.children import ChildInTraining
from munet_nb.models.hparams import DATA_HPARAMS, HParams
from munet_nb.models.model import Model, model_from_json
from munet_nb.search.ask import ask, seeds_in_turn
from munet_nb.runs.repair import check_run
from munet_nb.search.config import PRESETS, Config, config_to_json, with_fields
from munet_nb.search.extension import extension
from munet_nb.search.journal import FORMAT, replay
from munet_nb.search.mutation import mutate_child, probabilities
from munet_nb.search.records import check_records
from munet_nb.search.selection import choose
from munet_nb.search.plans import Surroundings
from munet_nb.search.tell import best_active, tell

GOLDEN = Path(__file__).parent / 'golden' / 'mu2net.jsonl'
N = 3000
LIST = (0.1, 0.2, 0.3)


def assert_frequency(count, p, n):
    far = 5 * (n * p * (1 - p)) ** 0.5 + 1e-9
    assert abs(count - n * p) < far, f'{count / n:.4f} instead of {p:.4f}'


def root_and_children(config, space, n=N, **values):
    "A root whose hyperparameters have these values, and its mutated children."
    root, _ = toy_root_model(config)
    root = replace(root, hparams=replace(root.hparams, **values))
    around = Surroundings(ARCH, 10, frozenset(root.digests), frozenset(root.digests), space)
    rng = np.random.default_rng(0)

    def chances(own):
        return probabilities(config, own)

    def child(i):
        return mutate_child(rng, f't:0.0.{i}', 't', [root], root.hparams, chances, around)

    return [child(i) for i in range(n)]


def trains(children, name):
    return sum(name in c.changes for c in children)


# The mutation probability


def test_mu_moves_with_probability_mu_and_its_new_value_governs_the_child():
    children = root_and_children(Config(mutation_prob=0.7), {'mu': LIST}, mu=0.2)
    of = {mu: [c for c in children if c.hparams.mu == mu] for mu in LIST}
    assert_frequency(len(of[0.1]), 0.1, N)
    assert_frequency(len(of[0.3]), 0.1, N)
    for mu, some in of.items():
        for name in ('embedding', 'block_0', 'block_2'):
            assert_frequency(trains(some, name), mu, len(some))
        inserted = sum('adapter_1' in c.changes for c in some)
        assert_frequency(inserted, mu, len(some))


def test_without_a_list_mu_stays_and_without_mu_the_configuration_rules():
    kept = root_and_children(Config(), {}, n=N, mu=0.3)
    assert {c.hparams.mu for c in kept} == {0.3}
    assert_frequency(trains(kept, 'block_1'), 0.3, N)
    paper = root_and_children(Config(), {})
    assert_frequency(trains(paper, 'block_1'), 0.1, N)


def test_the_probability_of_an_operator_moves_with_itself_before_the_operator_is_tried():
    children = root_and_children(Config(), {'mu_clone': (0.1, 0.5, 0.9)}, mu_clone=0.5)
    of = {p: [c for c in children if c.hparams.mu_clone == p] for p in (0.1, 0.5, 0.9)}
    assert_frequency(len(of[0.1]), 0.25, N)
    assert_frequency(len(of[0.5]), 0.5, N)
    for p, some in of.items():
        assert_frequency(trains(some, 'block_0'), p, len(some))
        assert_frequency(trains(some, 'adapter_0'), 0.1, len(some))  # another operator's


def test_a_model_hands_on_its_mu_and_the_data_of_a_generation_move_with_the_configurations():
    config = with_fields(
        PRESETS['mu2net_ti3'],
        children_per_task=10**6,
        children_per_generation=1,
        mutation_prob=0.3,
        mu=0.1,
        search={'mu': LIST, 'flip': (False, True), 'brightness': (0.0, 0.1, 0.2)},
        brightness=0.1,
    )
    root, _ = toy_root_model(config)
    state = ToyRun(config, [info('a')]).state
    moved, n = Counter(), 1000
    for g in range(n):
        (child,) = ask(replace(state, generation=g), config, ARCH).children
        for name in DATA_HPARAMS:
            moved[name] += getattr(child.hparams, name) != getattr(root.hparams, name)
        moved['mu'] += child.hparams.mu != 0.1
    # In the first generation as well, and not with the model's own mu.
    assert_frequency(moved['brightness'], 0.3, n)
    assert_frequency(moved['flip'], 0.15, n)  # half of the steps end where they began
    assert_frequency(moved['mu'], 0.05, n)


# Seed models


def scanning(tasks='abcd', **values):
    "A search in which these tasks have kept models, and the last of them is to be worked on."
    values = dict(children_per_task=4, children_per_generation=2, task_iterations=1) | values
    config = Config(seed_scan=True, **values)
    run = ToyRun(config, [info(t) for t in tasks])
    while next(t for t in tasks if not run.state.visits.get(t)) != tasks[-1]:
        run.step()
    return run


def test_no_seed_model_is_tried_first_and_all_children_are_mutated():
    run = scanning()
    for record in run.records:
        if record['kind'] == 'generation':
            assert record['seeds_tried'] == []
            for child in record['children']:
                assert {'norm', 'head'} <= set(child['trained'])


def test_seed_models_take_turns_in_a_shuffled_order():
    run = scanning()
    orders = set()
    for seed in range(40):
        config = replace(run.config, seed=seed, children_per_generation=4)
        order = [m.id for m in seeds_in_turn(run.state, config, 'd')]
        assert sorted(order) == sorted(m.id for m in run.state.seeds('d'))
        generation = ask(run.state, config, ARCH)
        # Nobody had a child, so that each one that is offered is taken, in turn.
        assert [c.parent for c in generation.children] == order and generation.turned == 4
        orders.add(tuple(order))
    assert len(orders) > 15


def test_a_seed_model_is_offered_with_half_the_chance_for_every_child_it_had_for_the_task():
    run = scanning(tasks='ab')
    n, parents = 2000, Counter()
    had = {m.id: k for k, m in enumerate(run.state.seeds('b'), 1)}
    state = replace(run.state, offspring={'b': had})
    (first, second) = run.state.seeds('b')
    for seed in range(n):
        config = replace(run.config, seed=seed, children_per_generation=1)
        (child,) = ask(state, config, ARCH).children
        parents[child.parent] += 1
    # By hand: the order is either way with 1/2; first has 1 child, second 2.
    taken_first = 1 / 2 * 1 / 2 + 1 / 2 * 3 / 4 * 1 / 2
    nobody = 1 / 2 * 3 / 4
    assert_frequency(parents[first.id], taken_first + nobody / 2, n)
    assert parents[second.id] == n - parents[first.id]


def test_the_order_goes_on_in_the_next_generation_and_begins_anew_in_the_next_iteration():
    run = scanning(task_iterations=2, children_per_task=6)
    before = seeds_in_turn(run.state, run.config, 'd')
    run.step()
    assert run.records[-1]['turned'] == run.state.turned == 2
    after = seeds_in_turn(run.state, run.config, 'd')
    assert after == before[2:] + before[:2]
    while run.state.task:
        run.step()
    assert run.state.turned == 0


def test_offspring_count_over_all_iterations_and_for_seed_models_too():
    run = scanning(task_iterations=3)
    run.finish()
    counted = {}
    for record in run.records:
        for child in record.get('children', ()):
            of_task = counted.setdefault(record['task'], Counter())
            of_task[child['model']['parent']] += 1
    assert run.state.offspring == counted
    iterations = Counter(
        (r['task'], c['model']['parent'], r['iteration'])
        for r in run.records
        for c in r.get('children', ())
    )
    assert len(iterations) > sum(map(len, counted.values())), 'a model was a parent in two iterations'


# Ties


def told(config, quality, parent_quality):
    "Whether a child of this quality is accepted, whose parent of the same task has the other."
    run = ToyRun(config, [info('a')])
    run.step()
    chain = run.state.root.chain
    parent = Model('a:0.0.99', 'a', 'root', chain, HParams(), (parent_quality,))
    state = replace(
        run.state,
        models={**run.state.models, parent.id: parent},
        active=(parent.id,),
        tried=frozenset({'root'}),
    )
    generation = ask(state, config, ARCH)
    (child, *_) = pretend(generation)
    child = replace(child, plan=replace(child.plan, parent=parent.id), evaluations=(quality,))
    one = replace(generation, children=(child.plan,))
    record = tell(state, config, ARCH, one, [child])
    return record['children'][0]['accepted']


@pytest.mark.parametrize('ties', [False, True])
def test_an_equal_score_is_accepted_with_ties_alone(ties):
    config = Config(accept_ties=ties)
    assert told(config, 0.5, 0.5) == ties
    assert told(config, 0.6, 0.5)
    assert not told(config, 0.4, 0.5)


@pytest.mark.parametrize('newest', [False, True])
def test_of_equal_scores_the_most_recent_is_kept_if_it_is_wanted(newest):
    config = Config(newest_best=newest)
    run = ToyRun(config, [info('a')])
    run.step()
    twins = [
        Model(f'a:0.0.{i}', 'a', 'root', run.state.root.chain, HParams(), (0.5,)) for i in (90, 91)
    ]
    models = {**run.state.models, **{m.id: m for m in twins}}
    state = replace(run.state, models=models, active=tuple(m.id for m in twins))
    assert best_active(state, 'a', config, ARCH)['id'] == twins[newest].id
    parents = ask(replace(state, tried=frozenset({'root'})), config, ARCH).children
    assert parents[0].parent == twins[0].id, 'parents are offered by score, the older first'


# Layers


def test_a_resized_position_embedding_is_always_trained_if_that_is_wanted():
    for always in (False, True):
        config = Config(defaults=HParams(image_size=32), mutation_prob=0.0)
        root, _ = toy_root_model(config)
        around = Surroundings(
            ARCH, 10, frozenset(root.digests), frozenset(), clone_resized=always
        )
        hparams = replace(root.hparams, image_size=48)
        child = mutate_child(
            np.random.default_rng(0), 't:0.0.0', 't', [root], hparams, lambda _: {}, around
        )
        (posembed,) = [layer for layer in child.layers if layer.name == 'posembed']
        assert posembed.resize and posembed.trainable == always


def test_adapters_are_inserted_only_if_they_may():
    config = Config(mutation_prob=0.5, mutate_adapters=False)
    children = root_and_children(config, {}, n=200)
    assert not any('adapter' in layer.name for c in children for layer in c.layers)
    assert trains(children, 'block_0')


def test_a_root_without_blocks_grows_fresh_ones():
    config = with_fields(
        PRESETS['mu2net_ti0'], children_per_task=40, task_iterations=2, mu=0.9, search={'mu': (0.9,)}
    )
    run = ToyRun(config, [info('a'), info('b')])
    root = run.state.root
    bare = tuple(ref for ref in root.chain if not ref.name.startswith('block'))
    root = replace(root, chain=bare, hparams=replace(root.hparams, num_layers=0))
    run.state = replace(run.state, root=root, models={'root': root})
    depths = Counter()
    while run.step():
        for child in run.records[-1].get('children', ()):
            model = model_from_json(child['model'])
            blocks = [r for r in model.chain if r.name.startswith('block')]
            depths[len(blocks)] += bool(model.chain)
            assert all(r.trained_by for r in blocks), 'none is of the root'
    assert set(depths) == {0, 1, 2, 3}


# A whole search


def mu2net_run() -> list[dict]:
    "A small search by all rules of mu2Net, as its journal tells it."
    config = with_fields(
        PRESETS['mu2net_ti3'],
        children_per_task=8,
        children_per_generation=4,
        mu=0.2,
        search=dict(PRESETS['mu2net_ti3'].search) | {'mu': LIST},
    )
    run = ToyRun(config, [info('a'), info('b'), info('c', private=True)])
    run.finish()
    assert replay(run.records) == run.state
    return json.loads(json.dumps(run.records, default=lambda number: number.item()))


@pytest.mark.core
def test_a_search_by_all_rules_is_the_one_on_record():
    golden = [json.loads(line) for line in GOLDEN.read_text().splitlines()]
    now = mu2net_run()
    assert len(now) == len(golden)
    for number, (record, before) in enumerate(zip(now, golden), 1):
        assert record == before, f'record {number} differs'


@pytest.mark.parametrize('preset', PRESETS)
def test_what_a_search_of_a_preset_writes_can_be_read_again(preset):
    config = with_fields(
        PRESETS[preset], children_per_task=6, children_per_generation=6, common_trunks=False
    )
    run = ToyRun(config, [info('a'), info('b')])
    first = {
        **run.records[0],
        'format': FORMAT,
        'arch': ARCH.name,
        'root_name': 'toy',
        'config': config_to_json(config),
    }
    for _ in range(2):
        run.step()
    generations = [r for r in run.records if r['kind'] == 'generation']
    written = json.dumps([first, *generations], default=lambda number: number.item())
    read = json.loads(written)
    if config.root_layers is not None:  # the toy's root has all blocks
        with pytest.raises(InputError, match='root.chain'):
            check_records(read)
        read[0]['root']['chain'] = [
            ref for ref in read[0]['root']['chain'] if not ref['name'].startswith('block')
        ]
        read[0]['root']['hparams']['num_layers'] = config.root_layers
    check_records(read)


def test_a_real_search_from_a_root_without_blocks(tmp_path):
    config = Config.preset(
        'mu2net_ti0',
        children_per_task=12,
        children_per_generation=6,
        task_iterations=1,
        batch_size=16,
        batches=2,
        segments=1,
        mu=0.3,
    )
    with Evolution.create(tmp_path / 'r', load_root('random:Ti1'), small_tasks(), config) as evo:
        assert evo.state.root.hparams.num_layers == 0
        with pytest.raises(InputError, match='root_layers = 0: must be None for common trunks'):
            evo.common_trunk()
        evo.step()
    with Evolution.resume(tmp_path / 'r', small_tasks()) as evo:
        while not evo.done:
            evo.step()
        depths = {c['model']['hparams']['num_layers'] for r in evo.records for c in children_in(r)}
        assert depths == {0, 1}
        system = evo.system
        assert check_run(tmp_path / 'r').whole
    for task, model in system.models.items():
        images = np.zeros((2, 8, 8), np.uint8)
        assert system.predict(task, images).shape == (2, len(system.classes[task]))
        system.export(task, tmp_path / f'{task} arrays', 'safetensors')
        system.export(task, tmp_path / f'{task} hf')
        told = json.loads((tmp_path / f'{task} hf' / 'config.json').read_text())
        assert told['num_hidden_layers'] == max(1, model.hparams.num_layers)


def children_in(record):
    return record.get('children', ())


def test_a_search_without_mu_goes_on_with_one_that_evolves():
    run = ToyRun(Config(children_per_task=4), [info('a')])
    run.finish()
    config = with_fields(run.config, search={'mu': LIST}, mu=0.2, task_iterations=4)
    extended = extension(run.state, [], config)
    state = replay([extended], run.state)
    children = ask(state, config, ARCH).children
    assert {c.hparams.mu for c in children} <= set(LIST)


def test_of_equally_good_and_large_models_the_newest_is_best_within_the_noise_as_well():
    run = ToyRun(Config(), [info('a')])
    twins = [Model(i, 'a', 'root', run.state.root.chain, HParams(), (0.5,)) for i in ('old', 'new')]
    same = {m.id: 1.0 for m in twins}
    for errors in (0.0, 1.0):
        assert choose(twins, same, same, errors, newest=True).id == 'new'
        assert choose(twins, same, same, errors).id == 'old'


def test_with_ties_the_latest_of_equal_evaluations_is_kept():
    def kept(keep_latest):
        child = ChildInTraining(*[None] * 10)
        for fit, right in zip('abcd', ([0, 1], [1, 1], [1, 1], [0, 1])):
            child.fit = type('Fit', (), {'params': fit})
            child.close_segment(np.array(right, bool), True, keep_latest)
        return child.best

    assert (kept(False), kept(True)) == ('b', 'c')


if __name__ == '__main__':  # write the golden journal anew: python tests/test_mu2net.py
    lines = [json.dumps(r, sort_keys=True) + '\n' for r in mu2net_run()]
    GOLDEN.write_text(''.join(lines))
