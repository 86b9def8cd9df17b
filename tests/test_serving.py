"""A run that is served: by the app in this process, and by `munet serve`, to a browser."""

import io
import os
import re
import signal
import socket
import struct
import subprocess
import sys
import threading
import zlib
from contextlib import contextmanager
from dataclasses import replace
from types import SimpleNamespace

import httpx
import jax
import numpy as np
import pandas as pd
import pytest
import uvicorn
from browser import PATIENCE, browser, wait_for
from fastapi.testclient import TestClient
from PIL import Image
from playwright.sync_api import expect

from munet_nb.checks import InputError
from munet_nb.cli import main
from munet_nb.models.hparams import sizes_of
from munet_nb.models.pool import make_layer
from munet_nb.network.chain import init_layer
from munet_nb.roots.load import load_root
from munet_nb.runs.rundir import RunWriter
from munet_nb.runs.start import first_record
from munet_nb.runs.system import System
from munet_nb.search.ask import ask
from munet_nb.search.config import Config
from munet_nb.search.journal import replay
from munet_nb.search.plans import TrainedChild
from munet_nb.search.tell import end_of_iteration, tell, with_tests
from munet_nb.serving import app as app_module
from munet_nb.serving import service as service_module
from munet_nb.serving.app import make_app
from munet_nb.serving.service import Limits, Service
from munet_nb.tasks.benchmarks import load_benchmark

PNG = {'content-type': 'image/png'}
ROOT = load_root('random:Ti1')
CONFIG = Config(children_per_task=1, children_per_generation=1, task_iterations=1)


class GrowingRun:
    "A run whose children have layers that nobody trained, and pretend an accuracy."

    def __init__(self, path, tasks):
        self.records = [first_record(ROOT, tasks, CONFIG)]
        self.writer = RunWriter(path)
        self.writer.create(self.records[0], ROOT.layers.values())

    def _append(self, record, layers=()):
        self.writer.append(record, layers)
        self.records.append(record)

    def _pretend(self, plan):
        sizes = sizes_of(plan.hparams, len(replay(self.records).tasks[plan.task].classes))
        new = [layer.name for layer in plan.layers if layer.trainable]
        rng = np.random.default_rng(len(self.records))

        def other(array):
            return (array + rng.normal(0, 0.1, array.shape)).astype(array.dtype)

        key = jax.random.key(len(self.records))
        drawn = {n: jax.tree.map(other, init_layer(key, ROOT.arch, n, sizes)) for n in new}
        layers = {n: make_layer(params) for n, params in drawn.items()}
        return TrainedChild(plan, (0.9,) * CONFIG.training.segments, layers)

    def solve_next_task(self):
        "A task iteration of one child."
        state = replay(self.records)
        generation = ask(state, CONFIG, ROOT.arch)
        trained = [self._pretend(plan) for plan in generation.children]
        layers = [layer for child in trained for layer in child.layers.values()]
        self._append(tell(state, CONFIG, ROOT.arch, generation, trained), layers)
        end = end_of_iteration(replay(self.records), CONFIG, ROOT.arch)
        self._append(with_tests(end, lambda id: 0.5))


@pytest.fixture
def growing(tmp_path):
    "A run of two tasks, the first of which is solved."
    run = GrowingRun(tmp_path / 'run', load_benchmark('demo', ['digits', 'parity']))
    run.solve_next_task()
    yield run
    run.writer.close()


@pytest.fixture(scope='module')
def run_path(tmp_path_factory):
    "A run of two tasks that are both solved."
    path = tmp_path_factory.mktemp('served') / 'run'
    run = GrowingRun(path, load_benchmark('demo', ['digits', 'parity']))
    run.solve_next_task()
    run.solve_next_task()
    run.writer.close()
    return path


@pytest.fixture(scope='module')
def served(run_path):
    return Service(run_path)


@pytest.fixture(scope='module')
def client(served):
    with client_of(served) as client:
        yield client


def client_of(service, limits=Limits(), token=None) -> TestClient:
    return TestClient(make_app(service, limits, token), raise_server_exceptions=False)


def encoded(image: np.ndarray, kind='PNG') -> bytes:
    out = io.BytesIO()
    Image.fromarray(image).save(out, kind)
    return out.getvalue()


def pixels(*shape) -> np.ndarray:
    return np.random.default_rng(0).integers(0, 256, shape, 'uint8')


def png_header(width: int, height: int) -> bytes:
    "A PNG of so many pixels that has none of them."
    chunks = b'IHDR' + struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0), b'IDAT'
    sized = (struct.pack('>I', len(c) - 4) + c + struct.pack('>I', zlib.crc32(c)) for c in chunks)
    return b'\x89PNG\r\n\x1a\n' + b''.join(sized)


GOOD = encoded(pixels(12, 16, 3))


def test_all_tasks_answer_as_predict_does(served, run_path):
    client = client_of(served)
    found = client.post('/predict?top=1000', content=GOOD, headers=PNG).json()
    system = System.open(run_path)
    assert [a['task'] for a in found['answers']] == ['digits', 'parity']
    for told in found['answers']:
        expected = system.predict(told['task'], [pixels(12, 16, 3)])[0]
        by_name = {c['name']: c['probability'] for c in told['classes']}
        in_order = [by_name[name] for name in system.classes[told['task']]]
        np.testing.assert_allclose(in_order, expected, atol=1e-6)
        assert [c['probability'] for c in told['classes']] == sorted(in_order, reverse=True)
    form = {'image': ('a.png', GOOD)}
    by_form = client.post('/predict?tasks=parity&top=1', files=form).json()
    by_path = client.post('/predict/parity?top=1', content=GOOD, headers=PNG).json()
    assert by_form['answers'] == by_path['answers']
    (alone,), (among, _) = by_form['answers'][0]['classes'], found['answers'][1]['classes']
    assert alone['name'] == among['name']
    np.testing.assert_allclose(alone['probability'], among['probability'], atol=1e-6)


def test_a_batch_has_an_answer_or_a_reason_for_each_image(served):
    images = {'gray': encoded(pixels(9, 9)), 'broken': GOOD[:-30], 'jpeg': encoded(pixels(64, 64, 3), 'JPEG')}
    files = [('image', (name, data)) for name, data in images.items()]
    found = client_of(served).post('/batch?tasks=digits', files=files).json()['images']
    assert [image['name'] for image in found] == list(images)
    assert [image['error'] is None for image in found] == [True, False, True]
    assert [len(image['answers']) for image in found] == [1, 0, 1]


def test_a_parameter_that_an_address_does_not_have_is_refused(served):
    client = client_of(served)
    for address, allowed in (('/predict?task=parity', 'one of tasks, top'), ('/predict/parity?k=3', 'top')):
        answer = client.post(address, content=GOOD, headers=PNG)
        assert answer.status_code == 422 and allowed in answer.json()['error']
    assert client.get('/tasks?top=3').status_code == 422


def test_monitors_may_ask_for_heads(served):
    client = client_of(served)
    for address in ('/', '/healthz'):
        answer = client.head(address)
        assert answer.status_code == 200 and not answer.content


def test_what_is_told_of_tasks(served):
    told = client_of(served).get('/tasks').json()
    assert [t['name'] for t in told['tasks']] == ['digits', 'parity']
    assert all(t['test_accuracy'] == 0.5 for t in told['tasks'])
    names = {layer['name'] for t in told['tasks'] for layer in t['layers']}
    assert set(told['rows']) == names and told['rows'][0] == 'embedding'
    makers = {m['trained_by'] for m in told['makers']}
    assert {layer['trained_by'] for t in told['tasks'] for layer in t['layers']} <= makers


def test_a_task_that_joins_is_served_and_no_request_fails(growing, monkeypatch):
    monkeypatch.setattr(service_module, 'LOOK_EVERY', 0.02)
    service = Service(growing.writer.path)
    service.watch()
    stop, statuses = threading.Event(), []

    def ask_on():
        while not stop.is_set():
            statuses.append(client.post('/predict', content=GOOD, headers=PNG).status_code)

    threads = [threading.Thread(target=ask_on) for _ in range(3)]
    with client_of(service) as client:  # one loop for all its requests
        try:
            for thread in threads:
                thread.start()
            assert client.get('/healthz').json()['tasks'] == 1
            growing.solve_next_task()
            wait_for(lambda: client.get('/healthz').json()['tasks'] == 2)
            already = len(statuses)
            wait_for(lambda: len(statuses) > already + 5)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
            service.close()
        assert len(client.post('/predict', content=GOOD, headers=PNG).json()['answers']) == 2
    assert set(statuses) == {200}


def test_a_run_that_is_damaged_is_served_as_it_was(growing):
    service = Service(growing.writer.path)
    client = client_of(service)
    journal = growing.writer.journal
    right = journal.read_bytes()
    journal.write_bytes(right[:-9] + b'123456"}\n')
    service.refresh()
    health = client.get('/healthz')
    assert health.json()['status'] == 'stale' and 'altered' in health.json()['reason']
    assert str(growing.writer.path) not in health.text
    assert 'munet_stale{replica=""} 1.0' in client.get('/metrics').text
    assert client.post('/predict', content=GOOD, headers=PNG).status_code == 200
    journal.write_bytes(right)
    service.refresh()
    assert client.get('/healthz').json() == {'status': 'ok', 'reason': None, 'system': 1, 'tasks': 1}


def test_a_run_without_a_model_waits_for_one(tmp_path):
    run = GrowingRun(tmp_path / 'run', load_benchmark('demo', ['digits']))
    client = client_of(Service(run.writer.path))
    run.writer.close()
    assert client.get('/tasks').json()['tasks'] == []
    refused = client.post('/predict', content=GOOD, headers=PNG)
    assert refused.status_code == 404 and 'no task has a model yet' in refused.text


JPEG = encoded(pixels(64, 64, 3), 'JPEG')
TEXT = b'--b\r\nContent-Disposition: form-data; name="image"\r\n\r\nx\r\n--b--\r\n'
FORM = {'content-type': 'multipart/form-data; boundary=b'}
BAD = {  # what is sent -> its status and a word of its reason
    'empty': (422, 'empty', dict(content=b'', headers=PNG)),
    'text': (422, 'no image', dict(content=b'hello', headers=PNG)),
    'pdf': (422, 'no image', dict(content=b'%PDF-1.7\n', headers=PNG)),
    'postscript': (422, 'no image', dict(content=b'%!PS-Adobe-3.0 EPSF-3.0\n', headers=PNG)),
    'svg': (422, 'no image', dict(content=b'<svg xmlns="http://www.w3.org/2000/svg"/>', headers=PNG)),
    'zip': (422, 'no image', dict(content=b'PK\x03\x04' + bytes(99), headers=PNG)),
    'half a jpeg': (422, 'does not decode', dict(content=JPEG[: len(JPEG) // 2], headers=PNG)),
    'a jpeg header': (422, '', dict(content=JPEG[:30], headers=PNG)),
    'half a png': (422, 'does not decode', dict(content=GOOD[:-40], headers=PNG)),
    'turned bits': (422, '', dict(content=GOOD[:60] + b'\xff' * 20 + GOOD[80:], headers=PNG)),
    'half a gif': (422, '', dict(content=encoded(pixels(9, 9), 'GIF')[:20], headers=PNG)),
    'float tiff': (422, '32 bits', dict(content=encoded(np.zeros((4, 4), 'float32'), 'TIFF'), headers=PNG)),
    'no pixels': (422, '', dict(content=png_header(0, 0), headers=PNG)),
    'many pixels': (413, 'pixels', dict(content=png_header(9000, 9000), headers=PNG)),
    'a bomb': (413, 'pixels', dict(content=png_header(2**30, 2**30), headers=PNG)),
    'json': (415, 'image/', dict(json={'image': 'x'})),
    'no type': (415, 'image/', dict(content=GOOD)),
    'bytes of anything': (415, '', dict(content=GOOD, headers={'content-type': 'application/pdf'})),
    'strange type': (415, '', dict(content=GOOD, headers={'content-type': '\x7f;;=\x01'})),
    'url encoded': (415, '', dict(data={'image': 'x'})),
    'form of text': (422, 'no file', dict(content=TEXT, headers=FORM)),
    'form without boundary': (400, '', dict(content=b'x', headers={'content-type': 'multipart/form-data'})),
    'broken form': (400, '', dict(content=b'no form at all', headers=FORM)),
    'empty form': (422, 'no file', dict(content=b'--b--\r\n', headers=FORM)),
    'form that ends early': (422, 'no file', dict(content=b'--b\r\n', headers=FORM)),
    'other field': (422, 'no file', dict(files={'photo': ('a.png', GOOD)})),
    'empty file': (422, 'empty', dict(files={'image': ('a.png', b'')})),
    'two images': (422, 'must be one', dict(files=[('image', ('a', GOOD)), ('image', ('b', GOOD))])),
    'too many files': (400, '', dict(files=[('image', ('a', b'x'))] * 70)),
    'top 0': (422, 'top', dict(params={'top': 0}, content=GOOD, headers=PNG)),
    'top -1': (422, 'top', dict(params={'top': -1}, content=GOOD, headers=PNG)),
    'top words': (422, 'top', dict(params={'top': 'all'}, content=GOOD, headers=PNG)),
    'top huge': (422, 'top', dict(params={'top': '9' * 5000}, content=GOOD, headers=PNG)),
    'unknown task': (404, 'digits', dict(params={'tasks': 'cats'}, content=GOOD, headers=PNG)),
    'one unknown': (404, 'cats', dict(params={'tasks': ['digits', 'cats']}, content=GOOD, headers=PNG)),
    'empty task': (404, '', dict(params={'tasks': ''}, content=GOOD, headers=PNG)),
    'a null': (404, '', dict(params={'tasks': '\0'}, content=GOOD, headers=PNG)),
}  # fmt: skip


@pytest.mark.parametrize('name', BAD)
def test_a_bad_request_is_told_why(client, name):
    status, word, request = BAD[name]
    found = client.post('/predict', **request)
    assert found.status_code == status, found.text
    assert list(found.json()) == ['error'] and word in found.json()['error']
    assert not re.search('Traceback|/site-packages|/tmp/|0x[0-9a-f]{6}', found.text)


@pytest.mark.parametrize(
    ('method', 'address', 'status'),
    [
        ('POST', '/predict/cats', 404),
        ('POST', '/predict/%ff%fe', 404),
        ('POST', '/predict/../../etc/passwd', 404),
        ('GET', '/predict', 405),
        ('DELETE', '/tasks', 405),
        ('GET', '/nothing', 404),
        ('GET', '/data/serve.html', 404),
        ('POST', '/predict?tasks=%ff', 404),
        ('POST', '/predict?tasks=%ed%a0%80', 404),
    ],
)
def test_a_bad_address_is_told_so(client, method, address, status):
    found = client.request(method, address, content=GOOD, headers=PNG)
    assert found.status_code == status and found.json()['error']


def test_a_token_is_wanted_everywhere_but_on_the_pages(served):
    client = client_of(served, token='open sesame')
    wrong = ({}, {'authorization': 'Bearer open'}, {'authorization': 'Basic x'})
    for headers in (*wrong, {'authorization': 'Bearer \xff'.encode('latin-1')}):
        for address in ('/tasks', '/metrics'):
            assert client.get(address, headers=headers).status_code == 401
        refused = client.post('/predict', content=GOOD, headers={**PNG, **headers})
        assert refused.status_code == 401 and 'token' in refused.json()['error']
    right = {'authorization': 'Bearer open sesame'}
    assert client.post('/predict', content=GOOD, headers={**PNG, **right}).status_code == 200
    for address in ('/', '/docs', '/openapi.json', '/healthz'):
        assert client.get(address).status_code == 200


def test_there_is_an_end_to_what_is_taken(served):
    small = client_of(served, Limits(bytes=1000, pixels=100))
    many = small.post('/predict', content=bytes(1001), headers=PNG)
    assert many.status_code == 413 and '1,000 bytes' in many.text
    assert small.post('/predict', content=GOOD, headers=PNG).status_code == 413  # 192 pixels


class Waiting:
    "A system that answers when it is told to."

    def __init__(self, served):
        self._served = served
        self.go_on = threading.Event()
        self.batches = []  # tasks of the images of each

    def __getattr__(self, name):
        return getattr(self._served.system, name)

    def predict_asked(self, asked):
        asked = list(asked)
        self.batches.append([list(tasks) for _, tasks in asked])
        self.go_on.wait(20)
        return self._served.system.predict_asked(asked)


@pytest.fixture
def waiting(served):
    "A service of such a system."
    system = Waiting(served.current)
    yield SimpleNamespace(current=replace(served.current, system=system), trouble=None)
    system.go_on.set()


def in_threads(client, addresses) -> tuple[list, list]:
    "Requests on their way, and the list that their answers come to."
    found = []

    def ask_for(address):
        found.append(client.post(address, content=GOOD, headers=PNG))

    threads = [threading.Thread(target=ask_for, args=(address,)) for address in addresses]
    for thread in threads:
        thread.start()
    return threads, found


def test_who_waits_makes_up_the_next_batch_whatever_the_tasks(waiting, monkeypatch):
    system = waiting.current.system
    queued, ask = [], app_module.Batcher.ask

    async def counted(batcher, *told):
        queued.append(told)
        return await ask(batcher, *told)

    monkeypatch.setattr(app_module.Batcher, 'ask', counted)
    with client_of(waiting) as client:  # one loop for all its requests
        first, _ = in_threads(client, ['/predict/parity'])
        wait_for(lambda: system.batches)
        others, found = in_threads(client, ['/predict', '/predict/digits', '/predict/parity'])
        wait_for(lambda: len(queued) == 4)
        assert 'munet_in_progress{replica=""} 4.0' in client.get('/metrics').text
        system.go_on.set()
        for thread in (*first, *others):
            thread.join()
        assert 'munet_batch_images_count{replica=""} 2.0' in client.get('/metrics').text
    assert system.batches[0] == [['parity']]
    once = [['digits'], ['digits', 'parity'], ['parity']]  # an image for two tasks is one image
    assert sorted(system.batches[1]) == once
    assert [answer.status_code for answer in found] == [200, 200, 200]


def test_more_than_the_limit_come_again_and_nobody_waits_for_ever(waiting):
    with client_of(waiting, Limits(requests=1, seconds=3)) as client:
        threads, found = in_threads(client, ['/predict'])
        wait_for(lambda: waiting.current.system.batches)
        refused = client.post('/predict', content=GOOD, headers=PNG)
        threads[0].join()
        waiting.current.system.go_on.set()
    assert refused.status_code == 429 and refused.headers['retry-after'] == '1'
    assert found[0].status_code == 503 and 'no answer after 3 s' in found[0].text


def test_a_fault_of_the_server_is_told_in_a_sentence(waiting):
    def broken(asked):
        list(asked)
        raise RuntimeError('/a/place of this machine')

    waiting.current.system.predict_asked = broken
    found = client_of(waiting).post('/predict', content=GOOD, headers=PNG)
    assert found.status_code == 500 and 'its log says what' in found.json()['error']
    assert 'place' not in found.text


def test_limits_are_checked():
    with pytest.raises(InputError, match='seconds'):
        Limits(seconds=0)


# On a socket, for a browser


@contextmanager
def on_a_socket(app):
    "The address of an app that is served for a while."
    server = uvicorn.Server(uvicorn.Config(app, port=0, log_level='warning'))
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        wait_for(lambda: server.started)
        (own,) = server.servers[0].sockets
        yield f'http://127.0.0.1:{own.getsockname()[1]}/'
    finally:
        server.should_exit = True
        thread.join()


@pytest.fixture
def page(served):
    with on_a_socket(client_of(served, token='open sesame').app) as address, browser() as chromium:
        page = chromium.new_page(viewport={'width': 360, 'height': 740})
        page.set_default_timeout(1000 * PATIENCE)
        expect.set_options(timeout=1000 * PATIENCE)
        page.complaints = []
        page.on('console', lambda m: page.complaints.append(m.text))
        page.on('pageerror', lambda e: page.complaints.append(str(e)))
        page.goto(address)
        yield page


def tell_the_token(page):
    "The server wants a token, so the page asks for it."
    expect(page.get_by_role('alert')).to_contain_text('A token is needed')
    expect(page.get_by_label('This server wants a token')).to_be_focused()
    page.keyboard.type('open sesame')
    page.keyboard.press('Enter')
    expect(page.get_by_text('One image, 2 tasks')).to_be_visible()
    expect(page.get_by_role('alert')).to_be_empty()
    page.complaints.clear()  # of the browser, about the status 401


def choose(page, label, name, kind, data):
    page.get_by_label(label).set_input_files({'name': name, 'mimeType': kind, 'buffer': data})


def fits(page) -> bool:
    return page.evaluate('document.documentElement.scrollWidth <= innerWidth')


def test_an_image_is_answered_by_all_tasks_on_the_page(page):
    tell_the_token(page)

    # An image is chosen, with the keyboard's way to it open.
    page.keyboard.press('Tab')
    expect(page.get_by_label('Choose an image')).to_be_focused()
    expect(page.locator('svg')).to_be_visible()
    assert page.locator('.lit').count() == 0
    choose(page, 'Choose an image', 'a.png', 'image/png', GOOD)
    expect(page.get_by_role('status')).to_contain_text('2 tasks answered in')
    for task in ('digits', 'parity'):
        card = page.get_by_role('region', name=task)
        expect(card.locator('.percent').first).to_have_text(re.compile(r'^\d+\.\d%$'))
    widths = page.locator('.bar').evaluate_all('bars => bars.map(bar => parseFloat(bar.style.width))')
    assert widths == [float(text[:-1]) for text in page.locator('.percent').all_inner_texts()]
    expect(page.get_by_role('img', name='The image: a.png')).to_be_visible()

    # Its path is lit, shared layers are drawn as one, and a list says it in words.
    layers = page.locator('.layer').count()
    wait_for(lambda: page.locator('.lit').count() == layers)
    boxes = page.locator('g.layer').count()
    assert boxes < page.evaluate('system.tasks.flatMap(t => t.layers).length')
    assert page.locator('#in-words li').count() == 2

    # It fits a phone and a desk.
    assert fits(page)
    page.set_viewport_size({'width': 1200, 'height': 800})
    expect(page.locator('svg')).to_be_visible()
    assert fits(page)
    assert page.complaints == []


def test_what_is_no_image_is_told_on_the_page(page):
    tell_the_token(page)
    choose(page, 'Take a photograph', 'a.txt', 'text/plain', b'hello')
    expect(page.get_by_role('alert')).to_contain_text('These bytes are no image')
    expect(page.locator('#results')).to_be_hidden()


# In a process of its own


def free_port() -> int:
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


@pytest.mark.long
@pytest.mark.parametrize('ends', [signal.SIGINT, signal.SIGTERM])
def test_munet_serve_answers_until_it_is_told_to_end(run_path, ends):
    code = 'import sys; from munet_nb.cli import main; sys.exit(main())'
    words = [sys.executable, '-c', code, 'serve', str(run_path), '--port', str(free_port())]
    pipes = {'stdout': subprocess.PIPE, 'stderr': subprocess.PIPE, 'text': True}
    env = {**os.environ, 'PYTHONUNBUFFERED': '1', 'MUNET_TOKEN': 'sesame12'}
    process = subprocess.Popen(words, env=env, start_new_session=True, **pipes)
    try:
        assert process.stdout.readline().startswith('starting to serve')
        said = process.stdout.readline()
        assert 'serving' in said and '2 tasks' in said, process.communicate()
        with httpx.Client(base_url=re.search(r'http://\S+/', said)[0], timeout=60) as client:
            assert 'Every task at once' in client.get('/').text
            assert client.post('/predict', content=GOOD, headers=PNG).status_code == 401
            client.headers['authorization'] = 'Bearer sesame12'
            files = [('image', ('good', GOOD)), ('image', ('bad', b'bad'))]
            good, bad = client.post('/batch', files=files).json()['images']
            assert [a['task'] for a in good['answers']] == ['digits', 'parity'] and bad['error']
            assert client.post('/predict', content=b'', headers=PNG).status_code == 422
            assert re.search(r'munet_batch_images_sum\S+ 1.0', client.get('/metrics').text)
        process.send_signal(ends)
        out, error = process.communicate(timeout=60)
        assert process.returncode == 0 and error == '' and 'stopping' in out
    finally:
        process.kill()
        process.wait()


def test_where_no_task_is_named_the_likeliest_comes_first_as_soon_as_that_is_known(
    run_path, monkeypatch
):
    service = Service(run_path)
    client = client_of(service)
    plain = client.post('/predict', content=GOOD, headers=PNG).json()
    assert not service.current.routes and plain['likely'] == {}
    assert [a['task'] for a in plain['answers']] == ['digits', 'parity']

    likely = {'digits': 0.25, 'parity': 0.5, 'none': 0.25}

    def route(self, images):
        return pd.DataFrame([likely for _ in images])

    monkeypatch.setattr(System, 'route', route)
    service.refresh()
    found = client.post('/predict', content=GOOD, headers=PNG).json()
    assert found['likely'] == likely and found['system'] == plain['system']
    assert [a['task'] for a in found['answers']] == ['parity', 'digits']
    named = client.post('/predict?tasks=digits', content=GOOD, headers=PNG).json()
    assert named['likely'] == {}
    files = [('image', ('good', GOOD)), ('image', ('bad', b'bad'))]
    good, bad = client.post('/batch', files=files).json()['images']
    assert (good['likely'], bad['likely']) == (likely, {})


def test_a_mistake_is_told_before_anything_starts(run_path, tmp_path, capsys):
    (tmp_path / 'token').write_text('too short')
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        s.listen()
        taken = str(s.getsockname()[1])
        wrong = {
            'holds no run': [str(tmp_path)],
            'cannot be listened at': [str(run_path), '--port', taken],
            'from 1 to 65535': [str(run_path), '--port', '70000'],
            'must hold a token': [str(run_path), '--token-file', str(tmp_path / 'token')],
            'a positive whole number': [str(run_path), '--replicas', '0'],
        }
        for message, words in wrong.items():
            assert main(['serve', *words]) == 2
            assert message in capsys.readouterr().err
