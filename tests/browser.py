"""JupyterLab and a browser for tests.

As a program: whether there is a browser (exit status 0) or none (1).
"""

import json
import os
import shutil
import subprocess
import sys
import time
import urllib.request
from contextlib import contextmanager
from pathlib import Path

from playwright.sync_api import sync_playwright

NO_BROWSER = (
    'No Chromium was found. Install one: apt-get install chromium (Debian, Ubuntu), '
    'or: playwright install chromium.'
)
FLAGS = [
    '--no-sandbox',
    '--disable-gpu',
    '--disable-background-networking',
    '--disable-component-update',
    '--disable-sync',
    '--no-first-run',
]
PATIENCE = 300  # seconds that a busy machine may take; only what fails waits as long
SETTINGS = {
    'apputils-extension/notification': {
        'fetchNews': 'false',
        'checkForUpdates': False,
        'doNotDisturbMode': True,
    }
}


def find_browser(playwright) -> str | None:
    "The path of a Chromium: the system's, else the one that Playwright manages."
    for name in ('chromium', 'chromium-browser', 'google-chrome'):
        found = shutil.which(name)
        if found:
            return found
    managed = playwright.chromium.executable_path
    return managed if Path(managed).exists() else None


@contextmanager
def browser():
    """A Chromium without a window.

    Where there is none, it fails with a sentence that tells how to get one.
    """
    with sync_playwright() as playwright:
        path = find_browser(playwright)
        assert path, NO_BROWSER
        chromium = playwright.chromium.launch(executable_path=path, args=FLAGS)
        try:
            yield chromium
        finally:
            chromium.close()


@contextmanager
def lab(home: Path, theme: str = 'JupyterLab Light'):
    """The address of a JupyterLab that serves the folder home/work.

    It knows nobody's settings and asks no network for anything.
    """
    settings = SETTINGS | {'apputils-extension/themes': {'theme': theme}}
    for name, values in settings.items():
        path = home / 'settings/@jupyterlab' / f'{name}.jupyterlab-settings'
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(values))
    (home / 'work').mkdir(exist_ok=True)
    dirs = dict(
        JUPYTER_CONFIG_DIR='config',
        JUPYTER_DATA_DIR='data',
        JUPYTER_RUNTIME_DIR='runtime',
        JUPYTERLAB_SETTINGS_DIR='settings',
        JUPYTERLAB_WORKSPACES_DIR='workspaces',
        IPYTHONDIR='ipython',
    )
    env = {
        k: v for k, v in os.environ.items() if not k.startswith('JUPYTER') and k != 'MPLBACKEND'
    }
    env |= {k: str(home / v) for k, v in dirs.items()}
    options = [
        '--no-browser',
        '--allow-root',
        '--ip=127.0.0.1',
        '--port=8888',
        '--ServerApp.port_retries=100',
        f'--ServerApp.root_dir={home / "work"}',
        '--IdentityProvider.token=',
        '--LabApp.extension_manager=readonly',
        '--LabApp.news_url=',
        '--LabApp.check_for_updates_class=jupyterlab.NeverCheckForUpdate',
    ]
    with open(home / 'lab.log', 'w') as log:
        server = subprocess.Popen(
            [sys.executable, '-m', 'jupyterlab', *options],
            cwd=home,
            env=env,
            stdout=log,
            stderr=log,
        )
        try:
            address = wait_for(
                lambda: _address(server, home), lambda: (home / 'lab.log').read_text()
            )
            yield address
        finally:
            server.terminate()
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _address(server, home) -> str | None:
    assert server.poll() is None, (home / 'lab.log').read_text()
    for path in (home / 'runtime').glob('jpserver-*.json'):
        try:
            address = json.loads(path.read_text())['url']
            urllib.request.urlopen(address + 'api/status', timeout=5).close()
            return address
        except (OSError, ValueError):
            pass  # not yet


def wait_for(condition, tell=lambda: ''):
    "The first true value of a condition; where it never comes, it fails with what `tell` tells."
    end = time.monotonic() + PATIENCE
    while not (value := condition()):
        assert time.monotonic() < end, tell()
        time.sleep(0.05)
    return value


if __name__ == '__main__':
    with sync_playwright() as playwright:
        found = find_browser(playwright)
    if not found:
        print(NO_BROWSER, file=sys.stderr)
    sys.exit(not found)
