"The panel over a long run, and what pictures cost that do not need it."

import gc
import json
import shutil
import subprocess
import sys
import warnings
import weakref
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import replace
from io import BytesIO
from statistics import median
from threading import Event, Thread, current_thread
from time import perf_counter, sleep
from types import SimpleNamespace

import pytest
from matplotlib.figure import Figure
from toy import ARCH, ToyRun, info

from munet_nb.checks import Notice
from munet_nb.pictures import panel, tabs, worker
from munet_nb.pictures.panel import Dashboard
from munet_nb.pictures.worker import Listener
from munet_nb.pictures.tabs import OTHER_PICTURES, PICTURES, VIEWS, WORKERS
from munet_nb.roots.load import load_root
from munet_nb.runs.evolution import Evolution
from munet_nb.runs.rundir import RunDir, example_run, write_run
from munet_nb.search.config import Config, config_to_json
from munet_nb.search.groups import GroupGeneration
from munet_nb.search.journal import FORMAT, open_records
from munet_nb.tasks.benchmarks import load_benchmark
from munet_nb.tasks.splits import part
from munet_nb.workers.executors import Inline


def seconds(act) -> float:
    "What an action takes."
    started = perf_counter()
    act()
    return perf_counter() - started


def empty_axes():
    """What matplotlib takes on this machine to draw eight pairs of axes with nothing in them.

    Some 0.2 s, where a redraw may take 0.3.
    """
    gc.disable()  # a pause in the yardstick would hide one in the panel
    figure = Figure(figsize=(10, 4))
    figure.subplots(2, 4)
    figure.savefig(BytesIO(), format='png', dpi=90)
    gc.enable()


def in_empty_axes(act) -> float:
    """What an action takes, as a multiple of the empty axes, measured right after it.

    The machine's speed varies more than the panel's.
    """
    return seconds(act) / seconds(empty_axes)


@pytest.fixture(scope='module')
def long_run(tmp_path_factory):
    "A run directory with 1,024 generations of 4 children over 8 tasks, which pretend to train."
    config = Config(children_per_task=32, children_per_generation=4, task_iterations=16, seed=3)
    run = ToyRun(config, [info(f'task{i}') for i in range(8)])
    while run.step():
        pass
    about = {'format': FORMAT, 'arch': ARCH.name, 'root_name': 'toy'}
    run.records[0] |= {**about, 'config': config_to_json(config)}
    assert sum(r['kind'] == 'generation' for r in run.records) >= 1000
    folder = tmp_path_factory.mktemp('long')
    lines = [json.dumps(r, default=lambda number: number.item()) for r in run.records]
    write_run(folder, map(json.loads, lines))
    return folder


def redraw(panel, name: str) -> float:
    "What a view takes to show another moment, at the end of the run: there is most to draw."
    drawn = []
    for n in range(panel.slider.max - 2, panel.slider.max):
        panel.views[name].value = ''
        drawn.append(in_empty_axes(lambda n=n: setattr(panel.slider, 'value', n)))
        assert panel.views[name].value.startswith('<svg '), f'{name} was not drawn again'
    return median(drawn)


@pytest.mark.long
def test_a_journal_of_1000_generations_opens_at_once_and_its_slider_answers(long_run, capsys):
    opened = median(in_empty_axes(lambda: Dashboard.open(long_run)) for _ in range(2))
    panel = Dashboard.open(long_run)
    first, second = {}, {}
    for name in PICTURES:
        panel.look(name)
        first[name] = redraw(panel, name)
    for name, (text, _) in OTHER_PICTURES.items():
        panel.look(name)
        panel.viewer.beside[name].value = True
        second[text] = redraw(panel, name)
    with capsys.disabled():
        times = ', '.join(f'{v:.1f} ({k})' for k, v in {**first, **second}.items())
        what = f'opens in {opened:.1f} times what eight empty pairs of axes take'
        print(f'\n{what}, redraws in', times)
    assert opened < 8
    assert max(first.values()) < 2.5, first  # as SVG, with what 300 points say
    # Fifteen hyperparameters were tuned here: twice as many axes.
    assert max(second.values()) < 2.5, second


def test_a_journal_of_1000_generations_is_checked_and_replayed_in_a_few_times_its_reading(long_run):
    "Half a second in all, on a machine of our own."
    lines = (long_run / 'journal.jsonl').read_text().splitlines()

    def compared():
        reading = seconds(lambda: [json.loads(line) for line in lines])
        return seconds(lambda: open_records(RunDir(long_run).records())) / reading

    assert min(compared() for _ in range(5)) < 8  # others' work can only make it more


def test_pictures_do_not_load_the_panel():
    code = (
        'import sys; from munet_nb import pictures; '
        'assert all(getattr(pictures, name).__doc__ for name in pictures.__all__); '
        'assert set(pictures.__all__) <= set(dir(pictures)); '
        'print([m for m in ("ipywidgets", "munet_nb.pictures.panel") if m in sys.modules])'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert found.stdout.strip() == '[]', found.stderr


def small_search(folder, **values) -> Evolution:
    "Two tasks of a few real digits; training a generation takes a moment."
    tasks = [
        replace(
            task,
            train=part(task.train, range(64)),
            validation=part(task.validation, range(32)),
            test=part(task.test, range(32)),
        )
        for task in load_benchmark('demo')[:2]
    ]
    config = Config.preset(
        'demo',
        group_generations=1,
        trial_segments=2,
        trunk_segments=2,
        children_per_task=10,
        children_per_generation=2,
        batch_size=32,
        batches=1,
        segments=2,
        task_iterations=1,
        **values,
    )
    return Evolution.create(folder / 'run', load_root('random:Ti1'), tasks, config)


@pytest.mark.core
def test_a_panel_is_shown_by_ipywidgets_7_and_8_alike(tmp_path):
    "Colab has 7: no class, method or argument of 8 alone (of an argument it only warns)."
    with small_search(tmp_path) as evo, warnings.catch_warnings():
        warnings.filterwarnings('error', 'Passing unrecognized arguments')
        for panel in (Dashboard(evo), Dashboard.open(evo.path)):
            shown = panel._repr_mimebundle_()['application/vnd.jupyter.widget-view+json']
            assert shown == {'version_major': 2, 'version_minor': 0, 'model_id': panel.panel.model_id}


class Fails(Listener):
    "Cannot show what it hears."

    def answer(self, text, error=False):
        raise RuntimeError('no picture')


def test_who_looks_on_cannot_end_a_training(monkeypatch):
    def no_changes(generation, state):
        raise RuntimeError('no words')

    trains, heard = worker.Worker(SimpleNamespace()), []
    sees = Listener()
    sees.answer = lambda text, error: heard.append(text)
    trains.listeners = Fails(), sees
    with pytest.warns(Notice, match='looks on failed: RuntimeError: no picture'):
        trains.answer('joined')
    assert heard == ['joined']  # whoever comes after it hears all the same
    monkeypatch.setattr(worker, 'changes_of', no_changes)
    generation = SimpleNamespace(title='mnist', children_by_segment=(2, 2, 2))
    assert worker.Training.of(generation, None).changes == {}


def kinds(evo) -> list[str]:
    return [r['kind'] for r in evo.records]


class Watch:
    "Has the trials of a search win, notes how far the bar is, and does something on the way."

    def __init__(self, board):
        self.board = board
        self.seen = []  # title, value of the bar, what can be pressed
        self.act = lambda: None
        self._train, board.evo.train = board.evo.train, self

    def __call__(self, generation, progress):
        def watched(*evaluation):
            self.act()
            progress(*evaluation)
            controls = self.board.controls
            buttons = (controls.pause_button, controls.stop_button, controls.trunk_button)
            pressable = [b.description for b in buttons if not b.disabled]
            self.seen.append((self.board.worker.latest.title, controls.bar.value, pressable))

        trained = self._train(generation, watched)
        if isinstance(generation, GroupGeneration) and not generation.trial:
            root, *trials = trained
            return [root, *(replace(t, probes=dict.fromkeys(t.probes, 1.0)) for t in trials)]
        return trained


def test_the_panel_trains_common_trunks(tmp_path):
    with small_search(tmp_path) as evo:
        board = Dashboard(evo)
        watch, controls = Watch(board), board.controls
        board.common_trunk(['nobody'])
        board.wait()
        assert 'nobody' in board.notice.value and 'error-color' in board.notice.value
        assert len(evo.records) == 1 and not board.running

        controls.trunk_button.click()
        board.wait()
        assert kinds(evo)[1:] == ['groups_begun', 'groups', 'common_trunk', 'groups_end']
        assert 'trunk 1' in board.message.value and not board.notice.value
        assert board.slider.value == board.slider.max == len(evo.records)
        titles, bar, pressable = zip(*watch.seen)
        assert titles[0].startswith('groups of tasks') and 'common trunk of' in titles[-1]
        assert list(bar) == sorted(bar) and 0 < bar[-1] < 1  # of the whole search
        assert pressable[0] == ['Pause', 'Stop']
        assert controls.curves.value.startswith('<svg ')
        for name in VIEWS:
            board.look(name)
            assert board.views[name].value, name
        assert not board.notice.value  # nothing could not be drawn

        controls.step_button.click()
        board.wait()
        before = list(evo.records)
        controls.trunk_button.click()
        board.wait()
        assert 'between task iterations' in board.notice.value
        assert evo.records == before and not board.running


def test_a_search_for_groups_can_be_stopped_or_paused_and_steps_go_on_with_it(tmp_path):
    with small_search(tmp_path) as evo:
        board = Dashboard(evo)
        watch, controls = Watch(board), board.controls
        watch.act = board.stop
        controls.trunk_button.click()
        board.wait()
        assert kinds(evo)[1:] == ['groups_begun'] and 'rests' in board.message.value
        assert 'common trunks first' in controls.left.value and not board.running
        watch.act = lambda: None
        controls.step_button.click()
        board.wait()
        assert kinds(evo)[2:] == ['groups']
        controls.step_button.click()
        board.wait()
        assert kinds(evo)[3:] == ['common_trunk', 'groups_end']
        controls.step_button.click()
        board.wait()
        assert kinds(evo)[5:] == ['probes', 'generation']
        controls.iteration_button.click()
        board.wait()
        n = len(evo.records)
        watch.act = board.pause
        controls.trunk_button.click()
        board.wait()
        assert kinds(evo)[n:] == ['groups_begun', 'groups'] and not board.running
        watch.act = lambda: None
        controls.run_button.click()
        board.wait()
        assert evo.done and len(evo.state.trunks) == 2


def watched_training(evo) -> list[str]:
    "The titles of the generations that are trained from now on."
    titles = []
    train = evo.train

    def watch(generation, *progress):
        titles.append(generation.title)
        return train(generation, *progress)

    evo.train = watch
    return titles


def test_two_panels_of_a_search_and_a_cell_train_nothing_twice_and_show_the_same(tmp_path):
    with small_search(tmp_path, common_trunks=False, probed_seeds=0) as evo:
        first = Dashboard(evo)
        second = Dashboard(evo)
        assert 'follows' in second.notice.value and not first.notice.value
        titles = watched_training(evo)
        begun, go_on = Event(), Event()

        def hold(training):
            begun.set()
            go_on.wait(60)

        first.worker.listeners[0].begins = hold
        first.run('end')
        begun.wait(60)
        second.run('end')  # the first does already
        assert second.running and second.controls.step_button.disabled
        steps = ThreadPoolExecutor(1).submit(evo.step)  # a cell beside them: has its turn after
        second.pause()
        go_on.set()
        second.wait()
        report = steps.result(60)
        assert len(titles) == len(set(titles)) == 2 and report.record is evo.records[-1]
        first.refresh()
        second.refresh()
        first.change(scale_factor=0.5)
        first.wait()
        for panel in (first, second):
            assert panel.slider.value == len(evo.records) and panel.controls.scale.value == 0.5
            assert 'changed: scale_factor = 0.5' in panel.notice.value
            assert panel.message.value == first.message.value
            assert panel.views['Architectures'].value == first.views['Architectures'].value


def test_the_last_picture_is_the_last_though_another_thread_fails_to_draw_an_earlier_one():
    panel = Dashboard.open(example_run())
    last = panel.slider.max
    shown = panel.views['Graph']
    panel.look('Graph')
    right = shown.value
    slow, done, draw = Event(), Event(), PICTURES['Graph']

    def late(records, theme):
        if len(records) == last:
            done.set()
            page.join()
            return draw(records, theme)
        slow.set()
        done.wait(60)
        raise RuntimeError('late and broken')

    with pytest.MonkeyPatch.context() as m:
        m.setattr(tabs, '_one_draws', nullcontext())
        m.setitem(PICTURES, 'Graph', late)
        page = Thread(target=lambda: setattr(panel.slider, 'value', 3))
        page.start()
        slow.wait(60)
        shown.value = ''
        panel.slider.value = last
    assert shown.value == right


@pytest.mark.parametrize('look', [True, False], ids=['only looks', 'trains'])
def test_a_run_directory_that_was_deleted_is_told_as_such(tmp_path, look):
    with small_search(tmp_path) as evo:
        panel = Dashboard.open(evo.path) if look else Dashboard(evo)
        titles = watched_training(evo)
        shutil.rmtree(evo.path)
        if look:
            panel.refresh()
        else:
            panel.controls.step_button.click()
            panel.wait()
        told = panel.notice.value if look else panel.message.value
        assert 'deleted or moved' in told and 'error-color' in told
        assert not titles and panel.views['Architectures'].value


@pytest.mark.core
def test_a_value_out_of_range_is_answered_not_changed(tmp_path):
    with small_search(tmp_path) as evo:
        panel = Dashboard(evo)
        panel.controls.scale.value = 2
        panel.controls.change_button.click()
        assert 'must be a number in (0, 1]' in panel.notice.value and panel.controls.scale.value == 2
        panel.controls.more.value = -1
        panel.controls.extend_button.click()
        panel.wait()
        assert 'error-color' in panel.notice.value and len(evo.records) == 1


def test_a_panel_is_not_shown_the_end_of_another_run(tmp_path):
    records = example_run_records()
    run = written(tmp_path / 'run', records[:5])
    board = Dashboard.open(run)
    other = {**records[0], 'root_name': 'another'}
    written(run, [other, *records[1:7]])
    board.refresh()
    assert 'another run lies there by now' in board.notice.value
    assert len(board.history) == 5
    written(run, records[:6])
    board.refresh()
    assert len(board.history) == 6 and board.notice.value == panel.FOLLOWS


def example_run_records():
    return RunDir(example_run()).records()


def written(path, records):
    "A run directory with these records, in place of one that is there."
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir()
    write_run(path, records)
    return path


def test_what_is_written_while_a_panel_is_made_is_shown(tmp_path, monkeypatch):
    monkeypatch.setattr(panel, 'WATCH', 0.02)
    records = example_run_records()
    run = written(tmp_path / 'run', records[:9])
    later = written(tmp_path / 'later', records)
    opened = Dashboard._open_history

    def grows(board):
        history = opened(board)
        for name in ('journal.jsonl', 'journal.head'):
            shutil.copy(later / name, run / name)
        return history

    monkeypatch.setattr(Dashboard, '_open_history', grows)
    board = Dashboard.open(run)
    for _ in range(3000):
        if board.slider.value == len(records):
            break
        sleep(0.02)
    assert board.slider.value == len(board.history) == len(records)


def test_a_task_that_joins_leaves_the_choice_of_another_as_it_is(tmp_path):
    with small_search(tmp_path) as evo:
        board = Dashboard(evo)
        chosen = list(evo.tasks)[1]
        lists = [board.viewer.beside[name] for name in ('Lineage', 'Confusion')]
        for choice in lists:
            choice.value = chosen
        evo.add_task(replace(evo.tasks[chosen], name='new', source=''))
        board.refresh()
        assert [choice.value for choice in lists] == [chosen] * 2
        assert all('new' in choice.options for choice in lists)


def test_errors_are_read_again_when_asked_for_and_not_at_every_moment(tmp_path, monkeypatch):
    shutil.copytree(example_run(), tmp_path / 'run')
    board = Dashboard.open(tmp_path / 'run')
    opened = []
    system = tabs.System.open
    monkeypatch.setattr(tabs.System, 'open', lambda path: opened.append(path) or system(path))
    board.look('Confusion')
    for moment in (3, 4, 5):
        board.slider.value = moment
    assert len(opened) == 1
    board.refresh()
    assert len(opened) == 2


def test_a_panel_that_is_closed_is_freed_and_the_search_with_it(tmp_path):
    with small_search(tmp_path) as evo:
        first, second = Dashboard(evo), Dashboard(evo)
        first.close()
        assert len(second.worker.listeners) == 1
        second.run('generation')
        second.wait()
        assert len(second.history) > 1
        second.close()
    known = weakref.ref(first), weakref.ref(second), weakref.ref(evo)
    del first, second, evo
    gc.collect()
    assert [ref() for ref in known] == [None] * 3


def test_play_pause_play_moves_one_step_at_a_time(monkeypatch):
    from munet_nb.pictures import viewer

    monkeypatch.setattr(viewer, 'PLAY', 0.05)
    moves, move = {}, viewer.Viewer._move  # turn -> who moves

    def moved(shown, turn):
        moves[turn] = current_thread()
        move(shown, turn)

    monkeypatch.setattr(viewer.Viewer, '_move', moved)
    board = Dashboard.open(example_run())
    board.slider.value = 1
    for pressed in (True, False, True, False, True):
        board.viewer.play.value = pressed
    while len(moves) < 3:
        sleep(0.01)
    first, second, last = (moves[turn] for turn in sorted(moves))
    for told_to_stop in (first, second):
        told_to_stop.join(60)
    assert last.is_alive() and not (first.is_alive() or second.is_alive())
    board.viewer.play.value = False
    last.join(60)
    assert not last.is_alive()


def test_two_wishes_for_more_iterations_are_both_granted(tmp_path):
    with small_search(tmp_path) as evo:
        board = Dashboard(evo)
        slow = Event()
        board.worker.request(lambda: slow.wait(60), 'waiting')
        before = evo.config.task_iterations
        for _ in range(2):
            board.controls.extend_button.click()
        slow.set()
        board.wait()
        assert evo.config.task_iterations == before + 2 and 'error-color' not in board.notice.value


def test_a_value_that_is_being_typed_stays_when_another_one_changes(tmp_path):
    with small_search(tmp_path) as evo:
        board = Dashboard(evo)
        board.controls.scale.value = 0.33
        evo.change(mutation_prob=0.4)
        board.refresh()
        assert (board.controls.scale.value, board.controls.mu.value) == (0.33, 0.4)


def test_a_stop_where_nothing_trains_is_over_when_the_wish_is(tmp_path):
    with small_search(tmp_path) as evo:
        board = Dashboard(evo)
        slow = Event()
        board.worker.request(lambda: slow.wait(60), 'waiting')
        board.stop()
        slow.set()
        board.wait()
        assert board.message.value == 'stopped; nothing was training'


class Elsewhere:
    "An executor that trains here and says that others do."

    workers = 2

    def __init__(self):
        self.rows = []
        self.submit = Inline().submit

    def status(self):
        return self.rows


def test_the_view_of_workers_tells_what_each_does_now_and_while_it_is_watched(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(panel, 'WATCH', 0.01)
    with small_search(tmp_path) as evo:
        assert WORKERS not in Dashboard(evo).views
        evo.executor = Elsewhere()
        board = Dashboard(evo)
        board.look(WORKERS)
        assert 'no worker has joined' in board.views[WORKERS].value
        idle = {'worker': '1', 'machine': 'a', 'does': '', 'segment': '', 'seconds': 0.0}
        evo.executor.rows = [idle, {**idle, 'worker': '2', 'does': '<cats>', 'seconds': 8.2}]
        board.draw()
        told = board.views[WORKERS].value
        assert '1 of 2 workers busy, on one machine' in told
        assert told.index('&lt;cats&gt;') < told.index('idle')

        *_, news = board.worker.listeners  # the first panel is there as well
        news.starts()
        evo.executor.rows = [idle]
        while '0 of 1' not in board.views[WORKERS].value:
            sleep(0.01)
        news.rests()
        assert board.viewer.group.value == 'Search' and board.viewer.name == WORKERS
