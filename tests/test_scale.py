"Thousands of workers on a simulated clock, and the board that serves them."

from collections import Counter
from time import sleep

from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.random import default_rng

from munet_nb.checks import InputError
from munet_nb.bench.scale import Scene, _job, simulate
from munet_nb.engine.training import Times
from munet_nb.search.plans import TrainedChild
from munet_nb.workers.board import Board
from munet_nb.workers.crews import Dispatcher, Event
from munet_nb.workers.worker import Done

SMALL = Scene(8, 6, 3, generations=2, children=4)


def test_enough_tasks_at_once_keep_64_workers_busy():
    sim = simulate(Scene(64, 256, 256, generations=8), default_rng(0))
    assert sim.useful / (64 * sim.now) >= 0.9


def test_a_seed_gives_one_simulation():
    one, same, other = (simulate(SMALL, default_rng(seed)) for seed in (1, 1, 2))
    assert (one.now, one.bytes, one.trained) == (same.now, same.bytes, same.trained)
    assert one.now != other.now


def test_no_child_is_lost_when_workers_die():
    scene = Scene(8, 6, 3, generations=2, children=4, between_deaths=2000.0)
    sim = simulate(scene, default_rng(0))
    assert sim._workers > 8  # some died
    wanted = {f't{t}:0.{g}.{i}' for t in range(6) for g in range(2) for i in range(4)}
    assert Counter(sim.trained) == Counter(wanted)


def _done(piece):
    return Done([TrainedChild(p, (0.5,), {}) for p in piece.job.children], Times())


def test_a_worker_that_fails_at_once_does_not_use_up_the_tries_of_all_children():
    board, now = Board(), 0.0
    for name in ('bad', 'good'):
        board.joined(name)
    orders = [board.order(_job(SMALL, number, 0)) for number in range(3)]
    while not all(order.finished for order in orders):
        now += 1.0
        for worker, _ in board.assign(now):
            if worker == 'bad':
                board.failed(worker, 'no disk')
        if board.hands['good'].piece and int(now) % 3 == 0:
            board.finished('good', _done(board.hands['good'].piece), now)
    assert not [c.failed for order in orders for c in order.result.result if c.failed]


def test_where_all_children_fail_nothing_is_recorded():
    board = Board()
    order = board.order(_job(SMALL, 0, 0))
    board.joined('only')
    while not order.finished:
        for worker, _ in board.assign(0.0):
            board.failed(worker, 'no disk')
    assert order.failed == 'all its children failed; the first one: no disk'


class Scripted:
    "A crew that does nothing but what it is told happened."

    def __init__(self, *events):
        self.events = list(events)
        self.begun = []
        self.closed = False

    def begin(self, worker, piece, pool, tasks):
        self.begun.append(piece)

    def poll(self, seconds):
        sleep(0.001)
        events, self.events = self.events, []
        return events

    def close(self):
        self.closed = True


def test_what_nobody_waits_for_any_more_is_not_begun():
    crew = Scripted(Event('joined', 'one', 'here'))
    dispatcher = Dispatcher(crew)
    first, second, third = [dispatcher.submit(_job(SMALL, n, 0), {}, {}) for n in range(3)]
    while not crew.begun:
        sleep(0.001)
    assert first.running() and not first.cancel()
    assert second.cancel() and not third.running()
    crew.events.append(Event('done', 'one', _done(crew.begun[0])))
    while len(crew.begun) < 2:
        sleep(0.001)
    assert first.result().result and third.running()
    assert crew.begun[1].job.task == 't2'
    dispatcher.close()


def test_what_was_dropped_may_be_in_pieces_for_several_workers():
    crew = Scripted()
    dispatcher = Dispatcher(crew)
    dropped, wanted = [dispatcher.submit(_job(SMALL, n, 0), {}, {}) for n in range(2)]
    assert dropped.cancel()
    crew.events += [Event('joined', name, 'here') for name in ('one', 'two', 'three', 'four')]
    while not crew.begun and not wanted.done():
        sleep(0.001)
    assert not wanted.done() and {piece.job.task for piece in crew.begun} == {'t1'}
    dispatcher.close()


def test_workers_are_let_go_though_an_order_was_dropped_before_any_came():
    crew = Scripted()
    dispatcher = Dispatcher(crew)
    dropped, waiting = [dispatcher.submit(_job(SMALL, n, 0), {}, {}) for n in range(2)]
    assert dropped.cancel()
    dispatcher.close()
    assert crew.closed
    assert isinstance(waiting.exception(), InputError)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.sampled_from('jofxl'), st.integers(0, 9)), max_size=40))
def test_whatever_happens_every_order_finishes_once(steps):
    board, orders, ended, joined, now = Board(), [], [], 0, 0.0
    for what, which in [*steps, *[('j', 0), ('f', 0)] * 200]:
        now += 1.0 + which
        busy = [h.id for h in board.hands.values() if h.piece]
        told = None
        if what == 'j':
            board.joined(f'w{joined}')
            joined += 1
        elif what == 'o':
            orders.append(board.order(_job(SMALL, len(orders), 0)))
        elif busy:
            worker = busy[which % len(busy)]
            if what == 'f':
                told = board.finished(worker, _done(board.hands[worker].piece), now)
            else:
                told = (board.failed if what == 'x' else board.lost)(worker, f'{now}')
        ended += [told] if told else []
        free = {hand.id for hand in board.idle}
        begun = [worker for worker, _ in board.assign(now)]
        assert len(set(begun)) == len(begun) and set(begun) <= free
    assert Counter(o.number for o in ended) == Counter(o.number for o in orders)
    for order in orders:
        assert [c.plan for c in order.result.result] == list(order.job.children)
        reasons = [c.failed.split('; ') for c in order.result.result if c.failed]
        assert all(len(r) == 3 for r in reasons)
