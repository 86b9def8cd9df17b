"What a search starts from, when nothing is said: by kind of data, machine, network, and minutes."

import re
import time
from dataclasses import replace
from threading import Event
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from PIL import Image

import munet_nb as mu
from munet_nb import choices
from munet_nb.choices import choose, for_minutes, measure_speed, plan
from munet_nb.cli import main
from munet_nb.roots import downloads, fetch
from munet_nb.roots.export import export_model
from munet_nb.roots.load import PAPER_ROOTS
from munet_nb.runs.rundir import RunDir
from munet_nb.search.config import PRESETS, Config, Speed, expected_seconds
from munet_nb.tasks.facts import Facts, facts_of
from munet_nb.workers import processes

TINY, BASE = PAPER_ROOTS['characters'][0], PAPER_ROOTS['decathlon'][0]
PHOTOS = Facts('pets', 2, (3000, 150, 150), True, (300, 400), (900, 1200), 480)
GLYPHS = Facts('letters', 26, (5000, 300, 300), False, (28, 28), (28, 28), 28)
ICONS = replace(PHOTOS, name='icons', smallest=(32, 32), largest=(32, 32), side=32)
SCANS = replace(GLYPHS, name='scans', smallest=(500, 700), largest=(500, 700), side=500)


def have(*specs):
    return lambda name: f'augreg:{name}' in specs


def drawn(n, *shape, name='t'):
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (n, *shape), 'uint8')
    return mu.task_from_arrays(name, (images, np.arange(n) % 3))


@pytest.mark.parametrize(
    'facts, accelerated, there, root, preset, size',
    [
        ([GLYPHS], False, (TINY, BASE), 'Ti3-glyphs', 'demo', 32),
        ([GLYPHS], True, (TINY, BASE), 'Ti3-glyphs', 'demo', 32),
        ([PHOTOS], False, (TINY, BASE), TINY, 'photos', 96),
        ([PHOTOS], True, (TINY, BASE), BASE, 'photos', 224),
        ([PHOTOS], False, (BASE,), BASE, 'photos', 96),
        ([PHOTOS], False, (), 'Ti3-glyphs', 'photos', 64),
        ([ICONS], False, (TINY,), TINY, 'photos', 32),
        ([ICONS], True, (), 'Ti3-glyphs', 'photos', 32),
        ([SCANS], False, (TINY,), TINY, 'photos', 96),
        ([GLYPHS, PHOTOS], False, (TINY,), TINY, 'photos', 96),
    ],
)
def test_root_preset_and_size_follow_from_the_data_and_the_machine(
    facts, accelerated, there, root, preset, size
):
    choice = plan(facts, accelerated, have(*there))
    assert (choice.root, choice.preset) == (root, preset)
    assert choice.config.defaults.image_size == size
    no_root = root == 'Ti3-glyphs' and preset == 'photos'
    assert ('knows letters only' in ' '.join(choice.warnings)) == no_root
    if no_root:
        assert f'--root {BASE if accelerated else TINY}' in choice.warnings[0]
    shown = repr(choice)
    for said in (f'Preset {preset}', f'Root {root}', f'{size} x {size} pixels', facts[0].name):
        assert said in shown and said in choice._repr_html_()
    assert 'not known until' in shown


def test_what_is_given_wins_and_what_does_not_fit_is_warned_of():
    given = plan([PHOTOS], False, have(), 'Ti3-glyphs', 2, None, dict(image_size=48, segments=2))
    assert (given.root, given.layers, given.preset) == ('Ti3-glyphs', 2, 'photos')
    assert (given.config.defaults.image_size, given.config.training.segments) == (48, 2)
    assert given.warnings == ('Ti3-glyphs knows letters only, and these are not: expect little.',)
    for name in PRESETS:
        choice = plan([GLYPHS], False, have(TINY), preset=name)
        if name != 'photos':  # which has the size of the images
            assert choice.config == Config.preset(name)
        assert (choice.root, choice.layers) == PAPER_ROOTS.get(name, (choice.root, None))
    demo = plan([PHOTOS], False, have(), preset='demo')
    assert demo.config == Config.preset('demo') and 'letters only' in demo.warnings[0]
    with pytest.raises(mu.InputError, match='unknown configuration field'):
        plan([PHOTOS], False, have(TINY), values=dict(colour=1))


def test_a_given_root_gets_images_of_whole_patches_whatever_its_name_tells(tmp_path):
    root = mu.load_root('random:Ti1/14', image_size=28)
    params = {name: layer.params for name, layer in root.layers.items()}
    params['head'] = {'dense': {'kernel': np.zeros((192, 2), 'f'), 'bias': np.zeros(2, 'f')}}
    export_model(tmp_path / 'vit', 'huggingface', root.arch, params, 28, ('a', 'b'))
    for facts, accelerated, size in ((PHOTOS, False, 84), (PHOTOS, True, 224), (GLYPHS, True, 42)):
        choice = plan([facts], accelerated, have(), str(tmp_path / 'vit'))
        assert choice.config.defaults.image_size == size
        choice.load_root()
    with pytest.raises(mu.InputError, match='no such file'):
        plan([PHOTOS], False, have(), 'nowhere')


def test_few_images_get_steps_enough():
    few = replace(PHOTOS, counts=(36, 12, 12))
    choice = plan([few, PHOTOS], False, have(TINY))
    training = choice.config.training
    assert training.segments * training.segment_batches(36) == 80
    said = 'Children train 40 segments instead of 8: with 36 images pets has 2 steps in each.'
    assert said == choice.longer and said in repr(choice)
    assert not plan([PHOTOS], False, have(TINY)).longer
    speed = Speed(head=0.001, whole=0.003, image=0.001, compiling=0.1, layers=7)
    assert 'Children train' not in repr(for_minutes(choice, 20, speed))
    assert plan([few], False, have(TINY), preset='demo').config == Config.preset('demo')


@pytest.mark.parametrize(
    'preset, children, warned',
    [('photos', 2, True), ('photos', 3, True), ('photos', 4, False)]
    + [('demo', 4, True), ('demo', 5, True), ('demo', 6, False), ('demo', 8, False)],
)
def test_it_is_warned_of_where_too_little_is_left_for_children(preset, children, warned):
    values = dict(children_per_task=children)
    choice = plan([GLYPHS, GLYPHS], False, have(TINY), preset=preset, values=values)
    assert (f'{children} children per task may be too few' in repr(choice)) == warned
    of_trunks = 'common trunks, probes and seed models' in repr(choice)
    assert of_trunks == (warned and preset == 'demo')


def test_steps_follow_what_is_given_and_what_is_given_stays():
    few, scans = (replace(f, counts=(36, 12, 12)) for f in (PHOTOS, GLYPHS))
    smaller = plan([few], False, have(TINY), values=dict(batch_size=8)).config.training
    assert smaller.segments * smaller.segment_batches(36) == 100  # not 40 segments of 5 batches
    given = plan([scans], False, have(), values=dict(segments=6)).config
    assert (given.trial_segments, given.trunk_segments) == (2, 12)  # the preset's, for 6 segments
    trials = plan([scans], False, have(), values=dict(trial_segments=3)).config
    assert (trials.training.segments, trials.trial_segments, trials.trunk_segments) == (40, 3, 80)


def test_facts_are_those_of_the_images():
    assert facts_of(drawn(30, 40, 30, 3)).sizes == 'color, 30 x 40'
    gray = np.repeat(np.random.default_rng(0).integers(0, 256, (30, 9, 9, 1), 'uint8'), 3, -1)
    assert not facts_of(mu.task_from_arrays('g', (gray, np.arange(30) % 2))).color
    mixed = [np.zeros((8, 20), 'uint8'), np.zeros((30, 10, 3), 'uint8')] * 15
    assert facts_of(mu.task_from_arrays('m', (mixed, [0, 1] * 15))).sizes == 'gray, 10 to 20 x 8 to 30'


@settings(max_examples=20, deadline=None)
@given(
    minutes=st.floats(0.5, 600),
    head=st.floats(1e-5, 1e-2),
    times=st.floats(1, 6),
    tasks=st.integers(1, 6),
    name=st.sampled_from(['demo', 'photos', 'characters8']),
)
@example(minutes=1.0, head=0.005675174661527654, times=4.0, tasks=1, name='demo')
@example(minutes=5.0, head=0.009494356187324427, times=5.0, tasks=1, name='characters8')
def test_a_budget_in_minutes_is_met_where_the_time_is_enough(minutes, head, times, tasks, name):
    """As far as whole numbers of children, segments and batches can meet it.

    In the examples a segment more or less is a third of the whole.
    """
    speed = Speed(head, head * times, head / 2, 0.1, 14)
    sizes = [(2000, 300, 300)] * tasks
    config = Config.preset(name)
    found = config.for_minutes(minutes, speed, sizes)
    took = expected_seconds(found, speed, sizes) / 60
    least = expected_seconds(config.for_minutes(1e-9, speed, sizes), speed, sizes) / 60
    most = expected_seconds(config.for_minutes(1e9, speed, sizes), speed, sizes) / 60
    if 2 * least < minutes < most / 2:
        assert abs(took / minutes - 1) < 0.4
    assert found.for_minutes(minutes, speed, sizes, ['batches', 'segments']).training == found.training
    assert found.defaults == config.defaults and found.search == config.search


def test_a_speed_is_measured_and_gives_a_budget():
    task, root = drawn(60, 16, 16), mu.load_root('random:Ti1')
    config = Config.preset('demo', batch_size=8, batches=2)
    speed = measure_speed(root, task, config)
    assert 0 < speed.head and 0 < speed.whole and 0 < speed.image and speed.layers == len(root.layers)
    choice = for_minutes(plan([facts_of(task)], False, have(), 'random:Ti1'), 1, speed)
    assert choice.seconds and 'Budget for 1 minute:' in repr(choice)


def save_photos(folder, n=6):
    rng = np.random.default_rng(0)
    for name in ('cat', 'dog'):
        (folder / name).mkdir(parents=True)
        for i in range(n):
            pixels = rng.integers(0, 256, (40, 50, 3), 'uint8')
            Image.fromarray(pixels).save(folder / name / f'{i}.png')
    return folder


def test_the_shell_says_what_it_chose_before_it_trains(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(choices, 'can_be_fetched', lambda name: False)
    folder = save_photos(tmp_path / 'pets')
    small = '--root random:Ti1 --segments 1 --batches 1 --batch-size 8 --children-per-task 2'
    run = tmp_path / 'run'
    line = ['evolve', '--run', str(run), '--folder', str(folder), *small.split()]
    assert main(line) == 0
    said = capsys.readouterr().out
    assert said.index('Preset photos') < said.index('iteration 1')
    assert re.search(r'pets +2 +50.0% +8 +2 +2 +58.8% +color, 50 x 40', said)
    config = RunDir(run).records()[0]['config']
    assert config['defaults']['image_size'] == 48 and config['training']['segments'] == 1


def test_whether_a_root_can_be_had_is_asked_of_the_disk_first(tmp_path, monkeypatch):
    from munet_nb.roots.downloads import kept_at

    monkeypatch.setattr(fetch, 'cache_folder', lambda: tmp_path)
    name = TINY.partition(':')[2]
    monkeypatch.setattr(fetch, 'AUGREG_FILES', 'http://127.0.0.1:9/')  # where nobody answers
    assert not fetch.can_be_fetched(name)
    kept_at(f'http://127.0.0.1:9/{fetch.augreg_file(name)}', tmp_path).touch()
    assert fetch.can_be_fetched(name)


def test_whether_a_root_can_be_had_is_not_waited_for_however_many_addresses_there_are(
    tmp_path, monkeypatch
):
    over = Event()

    def nobody_answers(*_, **__):
        over.wait(20)
        raise OSError

    monkeypatch.setattr(downloads, 'PATIENCE', 0.05)
    monkeypatch.setattr(downloads, '_request', nobody_answers)
    started = time.perf_counter()
    assert not downloads.can_be_had('http://127.0.0.1:9/root.npz', tmp_path)
    assert time.perf_counter() - started < 10
    over.set()


def test_who_trains_tells_whether_there_is_an_accelerator(monkeypatch):
    monkeypatch.setattr(choices, 'can_be_fetched', lambda name: True)
    task = drawn(60, 300, 300, 3)
    elsewhere = SimpleNamespace(accelerated=True)  # this process was told to leave it alone
    found = choose([task], executor=elsewhere)
    assert (found.root, found.config.defaults.image_size) == (BASE, 224)
    assert choose([task]).root == TINY


def test_processes_have_an_accelerator_if_they_may_see_one_and_jax_can_use_it(monkeypatch):
    for name, found in (('accelerators', lambda: 2), ('entry_points', lambda group: [group])):
        monkeypatch.setattr(processes, name, found)
    no_device = dict(CUDA_VISIBLE_DEVICES=''), dict(CUDA_VISIBLE_DEVICES='-1')
    for environment in (dict(JAX_PLATFORMS='cpu'), *no_device):
        assert not processes.can_accelerate(environment)
    assert processes.can_accelerate(dict(JAX_PLATFORMS='cuda,cpu', CUDA_VISIBLE_DEVICES='1'))
    assert processes.can_accelerate({})
    monkeypatch.setattr(processes, 'entry_points', lambda group: [])
    assert not processes.can_accelerate({})


def test_choose_chooses_for_tasks_in_memory(monkeypatch):
    monkeypatch.setattr(choices, 'can_be_fetched', lambda name: True)
    choice = choose([drawn(60, 12, 12)])
    assert (choice.root, choice.preset) == ('Ti3-glyphs', 'demo')
    assert choice.load_root().arch.name == 'Ti3'
    assert choose([drawn(60, 90, 90, 3)], seed=4).config.seed == 4
    for name, value in (('minutes', -1), ('preset', 'x'), ('layers', 0)):
        with pytest.raises(mu.InputError, match=name):
            choose([drawn(60, 12, 12)], **{name: value})
    with pytest.raises(mu.InputError, match='tasks'):
        choose([])
    elsewhere = SimpleNamespace(accelerated=True)  # whose speed is not this process's
    with pytest.raises(mu.InputError, match='minutes = 3: .* give no other who trains'):
        choose([drawn(60, 12, 12)], minutes=3, executor=elsewhere)


def test_what_goes_with_nothing_is_told(tmp_path, capsys):
    line = ['evolve', '--run', str(tmp_path / 'run'), '--benchmark', 'demo']
    assert main([*line, '--minutes', '1', '--workers', '2']) == 2
    assert 'minutes = 1: the speed is measured in this process' in capsys.readouterr().err
    assert main([*line, '--cores', '2']) == 2
    assert '--cores 2: goes with --ray' in capsys.readouterr().err

