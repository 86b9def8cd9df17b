"The panel over a long run, and what pictures cost that do not need it."

import gc
import json
import subprocess
import sys
from io import BytesIO
from statistics import median
from time import perf_counter

import pytest
from matplotlib.figure import Figure
from toy import ARCH, ToyRun, info

from munet_nb.pictures.panel import Dashboard
from munet_nb.pictures.tabs import OTHER_PICTURES, PICTURES, TABS
from munet_nb.search.config import Config, config_to_json
from munet_nb.search.journal import FORMAT


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
    run.records[0] |= {'format': FORMAT, 'arch': ARCH.name, 'config': config_to_json(config)}
    assert sum(r['kind'] == 'generation' for r in run.records) >= 1000
    folder = tmp_path_factory.mktemp('long')
    lines = [json.dumps(r, default=lambda number: number.item()) + '\n' for r in run.records]
    (folder / 'journal.jsonl').write_text(''.join(lines))
    return folder


def redraw(panel, name: str) -> float:
    "What a tab takes to show another moment, at the end of the run: there is most to draw."
    drawn = []
    for n in range(panel.slider.max - 3, panel.slider.max):
        panel.views[name].value = b''
        drawn.append(in_empty_axes(lambda n=n: setattr(panel.slider, 'value', n)))
        again = bytes(panel.views[name].value).startswith(b'\x89PNG')
        assert again, f'{name} was not drawn again'
    return median(drawn)


def test_a_journal_of_1000_generations_opens_at_once_and_its_slider_answers(long_run, capsys):
    opened = median(in_empty_axes(lambda: Dashboard.open(long_run)) for _ in range(3))
    panel = Dashboard.open(long_run)
    first, second = {}, {}
    for name in PICTURES:
        panel.tabs.selected_index = TABS.index(name)
        first[name] = redraw(panel, name)
    for name, (text, _) in OTHER_PICTURES.items():
        panel.tabs.selected_index = TABS.index(name)
        panel.viewer.beside[name].value = True
        second[text] = redraw(panel, name)
    with capsys.disabled():
        times = ', '.join(f'{v:.1f} ({k})' for k, v in {**first, **second}.items())
        what = f'opens in {opened:.1f} times what eight empty pairs of axes take'
        print(f'\n{what}, redraws in', times)
    assert opened < 8
    assert max(first.values()) < 1.8, first
    # Fifteen hyperparameters were tuned here: twice as many axes.
    assert max(second.values()) < 2.5, second


def test_pictures_do_not_load_the_panel():
    code = (
        'import sys; from munet_nb import pictures; '
        'assert all(getattr(pictures, name).__doc__ for name in pictures.__all__); '
        'assert set(pictures.__all__) <= set(dir(pictures)); '
        'print([m for m in ("ipywidgets", "munet_nb.pictures.panel") if m in sys.modules])'
    )
    found = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert found.stdout.strip() == '[]', found.stderr
