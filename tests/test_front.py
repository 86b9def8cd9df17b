"All that is best for some scale factor: which models a task keeps, and what a budget can take."

from dataclasses import replace
from itertools import product
from math import ceil, exp, log

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from toy import ARCH, ToyRun, info, toy_layer

from munet_nb.checks import InputError
from munet_nb.models.accounting import accounted_params, params_per_task, users_of_models
from munet_nb.models.assembly import (
    all_sizes,
    best_choice,
    for_flops,
    for_scale_factor,
    for_size,
    make_problem,
)
from munet_nb.models.hparams import HParams
from munet_nb.models.model import LayerRef, Model
from munet_nb.search.ask import Generation
from munet_nb.search.config import Config
from munet_nb.search.journal import choices_of, replay
from munet_nb.search.plans import ChildPlan, LayerPlan, TrainedChild
from munet_nb.search.selection import MOST_KEPT, SCORES, front, thin
from munet_nb.search.tell import tell

P = 100


def alone(id, size, quality) -> Model:
    "A model of one layer that nobody shares."
    return Model(id, 'a', 'root', (LayerRef('head', id, size, 'a'),), HParams(), (quality,))


@st.composite
def populations(draw):
    "Models of whole percents and few sizes, so that many are equal or on a line."
    pairs = st.tuples(st.integers(1, 12), st.integers(0, 20))
    drawn = draw(st.lists(pairs, min_size=1, max_size=12))
    models = [alone(f'm{i}', 10 * size, q / 20) for i, (size, q) in enumerate(drawn)]
    charged, worth = {m.id: m.n_params for m in models}, {m.id: m.quality for m in models}
    return models, charged, worth


def scores(models, s, rule='product'):
    return {m.id: SCORES[rule](m, {}, s, P) for m in models}


def turning_points(models) -> list[float]:
    "A scale factor between each two at which two models change places, and the ends."
    prices = {0.0}
    for a in models:
        for b in models:
            if a.n_params < b.n_params and 0 < a.quality < b.quality:
                prices.add(P * log(b.quality / a.quality) / (b.n_params - a.n_params))
    prices = sorted(prices)
    between = [(x + y) / 2 for x, y in zip(prices, prices[1:])]
    return [exp(-price) for price in [1e-9, *between, prices[-1] + 1]]


@settings(max_examples=300, deadline=None)
@given(populations(), st.floats(0.001, 1))
def test_a_model_is_in_the_front_iff_it_is_the_best_for_some_scale_factor(population, s):
    models, charged, worth = population
    found = front(models, charged, worth)
    if found:  # for every scale factor, the best of the front is the best of all
        assert max(scores(found, s).values()) == pytest.approx(max(scores(models, s).values()))
    only_best = set()
    for s in turning_points(models):
        of = scores(models, s)
        best = [i for i in of if of[i] >= max(of.values()) * (1 - 1e-12)]
        of_same_kind = {(charged[i], of[i]) for i in best}
        if len(of_same_kind) == 1 and max(of.values()) > 0:
            only_best.add(best[0])
    assert {m.id for m in found} == only_best
    sizes, qualities = [m.n_params for m in found], [m.quality for m in found]
    assert sizes == sorted(set(sizes)) and qualities == sorted(set(qualities))


@settings(max_examples=200, deadline=None)
@given(populations())
def test_a_chebyshev_front_is_all_that_no_other_model_beats(population):
    models, charged, worth = population
    found = {(m.n_params, m.quality) for m in front(models, charged, worth, 'chebyshev')}
    unbeaten = {
        (m.n_params, m.quality)
        for m in models
        if m.quality > 0
        and not any(
            o.n_params <= m.n_params
            and o.quality >= m.quality
            and (o.n_params, o.quality) != (m.n_params, m.quality)
            for o in models
        )
    }
    assert found == unbeaten
    assert {(m.n_params, m.quality) for m in front(models, charged, worth)} <= found


@settings(max_examples=100, deadline=None)
@given(populations(), st.integers(3, 12))
def test_a_thinned_front_keeps_its_ends_and_what_it_must(population, most):
    models, charged, worth = population
    found = front(models, charged, worth, 'chebyshev')
    for needed in found or [None]:
        always = {needed.id} if needed else set()
        left = thin(found, most, always)
        assert len(left) <= most and (len(left) == most or left == found)
        assert found[:1] == left[:1] and found[-1:] == left[-1:]
        assert always <= {m.id for m in left}


configs = st.builds(
    Config,
    seed=st.integers(0, 99),
    scale_factor=st.sampled_from([1.0, 0.3]),
    mutation_prob=st.sampled_from([0.1, 0.5]),
    children_per_task=st.integers(1, 24),
    children_per_generation=st.integers(1, 8),
    task_iterations=st.integers(1, 3),
    acceptance_errors=st.sampled_from([0.0, 1.0]),
    keep=st.just('front'),
    selection=st.sampled_from(['product', 'chebyshev']),
)


@settings(max_examples=40, deadline=None)
@given(configs, st.integers(0, 99))
def test_a_run_keeps_its_front_and_no_more(config, salt):
    run = ToyRun(config, [info('a'), info('b'), info('c', private=True)], salt=salt)
    run.finish()
    state = None
    for record in run.records:
        before, state = state, replay([record], state)
        if record['kind'] != 'task_end':
            continue
        task = record['task']
        assert task not in before.fronts or set(before.fronts[task]) <= set(before.active)
        active = [before.models[i] for i in before.active]
        users = users_of_models(before.others(task))
        charged = {m.id: accounted_params(m, users) for m in active}
        worth = {m.id: m.quality for m in active}
        found = [m.id for m in front(active, charged, worth, config.selection)]
        kept = [record['kept'], *(m['id'] for m in record.get('front', ()))]
        assert len(kept) <= MOST_KEPT
        assert set(kept) - {record['kept']} <= set(found)
        if len(found) < MOST_KEPT:
            assert set(kept) - {record['kept']} == set(found) - {record['kept']}
        for m in choices_of(state).get(task, ()):
            assert set(m.digests) <= state.alive
        for other, models in choices_of(before).items():
            assert other == task or choices_of(state)[other] == models, 'others keep what they had'
    assert set(run.pool) == run.state.alive, 'what left a front is swept'
    assert not any(m.task == 'c' for m in run.state.seeds('a', fronts=True)), 'it is private'


@pytest.mark.parametrize(
    'blocks, quality, keep, accepted',
    [
        (1, 0.75, 'front', True),  # smaller and worse
        (1, 0.75, 'best', False),
        (1, 0.40, 'front', False),  # another model is as small and better
        (3, 0.75, 'front', False),  # not smaller
        (3, 0.85, 'best', True),
    ],
)
def test_a_smaller_child_that_widens_the_front_is_accepted(blocks, quality, keep, accepted):
    config = Config(keep=keep)
    run = ToyRun(config, [info('a')])
    root, own = run.state.root, {'norm', 'head'}

    def model(id, blocks, quality):
        names = [n for n in root.layers if not n.startswith('block') or int(n[-1]) < blocks]
        chain = tuple(root.layers[n] for n in names)
        return Model(id, 'a', 'root', chain, HParams(num_layers=blocks), (quality,))

    large, small = model('a:0.0.90', 3, 0.8), model('a:0.0.91', 1, 0.5)
    models = {**run.state.models, large.id: large, small.id: small}
    state = replace(run.state, models=models, active=(large.id, small.id), task='a', generation=1)
    child = model('a:0.1.0', blocks, quality)
    layers = tuple(
        LayerPlan(ref.name, ref.n_params, ref.name in own, ref.digest) for ref in child.chain
    )
    plan = ChildPlan(child.id, 'a', large.id, child.hparams, layers)
    trained = TrainedChild(plan, (quality,), {n: toy_layer(n) for n in own})
    generation = Generation('a', 0, 1, (plan,), (), 5)
    record = tell(state, config, ARCH, generation, [trained])
    assert record['children'][0]['accepted'] == accepted


def test_by_default_nothing_is_kept_beside_the_best():
    run = ToyRun(Config(children_per_task=8), [info('a'), info('b')])
    run.finish()
    assert not run.state.fronts
    assert not any('front' in record for record in run.records)


@st.composite
def several_models(draw):
    "A few tasks with a few models each, whose layers are shared in any way."
    choices = {}
    for t in range(draw(st.integers(1, 4))):
        models = []
        for n in range(draw(st.integers(1, 4))):
            places = draw(st.lists(st.integers(0, 3), min_size=1, max_size=3, unique=True))
            chain = [
                LayerRef(f'block_{i}', f'{i} of {i % 2 and draw(st.integers(0, 2))}', 10 + i, None)
                for i in places
            ]
            quality = draw(st.integers(0, 20)) / 20
            own = LayerRef('head', f'head {t} {draw(st.integers(0, 1))}', 5, f't{t}')
            model = Model(f't{t}:{n}', f't{t}', 'root', (*chain, own), HParams(), (quality,))
            models.append(model)
        choices[f't{t}'] = models
    return choices


def every_system(choices):
    return [dict(zip(choices, models)) for models in product(*choices.values())]


def log_scores(system, s) -> float:
    "The logarithm of the product of the paper's scores, model by model."
    users = users_of_models(system.values())
    qualities = [max(m.quality, 5e-324) for m in system.values()]
    charged = [accounted_params(m, users) for m in system.values()]
    return sum(log(q) + c / P * log(s) for q, c in zip(qualities, charged))


def mean_quality(system) -> float:
    return sum(m.quality for m in system.values()) / len(system)


@settings(max_examples=150, deadline=None)
@given(several_models(), st.floats(0.01, 1))
def test_the_system_for_a_scale_factor_has_the_greatest_product_of_scores(choices, s):
    found = for_scale_factor(choices, s, P)
    best = max(log_scores(system, s) for system in every_system(choices))
    assert found.gap == 0
    assert log_scores(found.models, s) == pytest.approx(best, abs=1e-9)


@settings(max_examples=150, deadline=None)
@given(several_models(), st.integers(10, 60))
def test_the_system_for_a_size_is_the_best_that_keeps_it(choices, budget):
    fitting = [s for s in every_system(choices) if params_per_task(s.values()) <= budget]
    least = min(params_per_task(s.values()) for s in every_system(choices))
    if not fitting:
        with pytest.raises(InputError, match=f'at least {ceil(least):,} parameters per task'):
            for_size(choices, budget)
        return
    found = for_size(choices, budget)
    assert found.gap == 0 and found.params_per_task <= budget
    best = max(map(mean_quality, fitting))
    assert found.quality == pytest.approx(best)
    as_good = [s for s in fitting if mean_quality(s) > best - 1e-6]
    assert found.params_per_task == min(params_per_task(s.values()) for s in as_good)
    assert for_size(choices, least).params_per_task == least


@settings(max_examples=100, deadline=None)
@given(several_models(), st.integers(1, 30), st.integers(0, 99))
def test_the_system_for_a_price_of_predictions_is_the_best_that_keeps_it(choices, budget, salt):
    rng = np.random.default_rng(salt)
    flops = {m.id: float(rng.integers(1, 30)) for models in choices.values() for m in models}

    def price(system):
        return sum(flops[m.id] for m in system.values()) / len(system)

    fitting = [s for s in every_system(choices) if price(s) <= budget]
    if not fitting:
        with pytest.raises(InputError, match='FLOPs per prediction'):
            for_flops(choices, budget, flops)
        return
    found = for_flops(choices, budget, flops)
    assert found.gap == 0 and price(found.models) <= budget
    assert found.quality == pytest.approx(max(map(mean_quality, fitting)))


@settings(max_examples=60, deadline=None)
@given(several_models(), st.floats(0.01, 0.9999))
def test_all_sizes_hold_the_best_system_of_every_scale_factor(choices, s):
    sizes = all_sizes(choices)
    assert [a.params_per_task for a in sizes] == sorted({a.params_per_task for a in sizes})
    best = max(log_scores(system, s) for system in every_system(choices))
    assert max(log_scores(a.models, s) for a in sizes) == pytest.approx(best, abs=1e-6)


def test_a_search_that_is_cut_short_says_by_how_much_it_may_be_wrong():
    rng = np.random.default_rng(0)
    options, weights = [], {}
    for _ in range(7):
        of_task = []
        for _ in range(4):
            items = frozenset(rng.integers(0, 12, 4).tolist())
            weights |= {i: 10.0 + i for i in items}
            of_task.append((float(rng.random()), items))
        options.append(of_task)
    problem = make_problem(options, weights, price=0.02)
    best = best_choice(problem, [0] * 7)
    assert best.gap == 0
    for steps in (1, 3, 10):
        cut = best_choice(problem, [0] * 7, most_steps=steps)
        assert cut.worth <= best.worth + 1e-9 <= cut.worth + cut.gap + 2e-9
