"""Whether munet_nb/ is what the notebooks export, and both are clean. `--clean` cleans them.

Cleaning also writes what depends on the project's public address, git_url in settings.ini: the
badge that opens a notebook on Colab, and what it installs there.

The check runs on a copy, so it changes nothing and does not depend on what is committed.
"""

import ast
import filecmp
import json
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path
from textwrap import fill

TOP = Path(__file__).resolve().parents[1]
WIDGET = 'application/vnd.jupyter.widget-view+json'
COLAB = 'https://colab.research.google.com'
NOT_COPIED = ('.git', '.venv', '__pycache__', '*.egg-info', '.*cache', '.hypothesis')


def not_copied(folder: str, names: list[str]) -> set[str]:
    "What a copy of the tree leaves out: what tools left, and the runs that somebody made."
    left = shutil.ignore_patterns(*NOT_COPIED)(folder, names)
    return left | ({'runs'} if Path(folder) == TOP else set())


def settings(top: Path):
    "What setup.py reads."
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(top / 'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def notebooks(top: Path) -> list[Path]:
    "All notebooks of the project, chapter by chapter."
    return sorted((top / 'nbs').rglob('[!.]*.ipynb'))


def exported(top: Path) -> list[Path]:
    "The modules that notebooks export; the faces of packages are written by hand."
    return [p for p in sorted((top / 'munet_nb').rglob('*.py')) if p.name != '__init__.py']


def badge(cfg, name: str) -> str:
    "The line that opens a notebook on Colab, which reads public repositories of GitHub; else ''."
    found = re.fullmatch(r'https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?', cfg['git_url'])
    if not found:
        return ''
    address = f'{COLAB}/github/{found[1]}/blob/{cfg["branch"]}/{cfg["nbs_path"]}/{name}'
    return f'[![Open in Colab]({COLAB}/assets/colab-badge.svg)]({address})'


def requirement(cfg) -> str:
    "What pip installs on Colab: the public repository; nothing, while there is none."
    return f'{cfg["lib_name"]} @ git+{cfg["git_url"]}' if cfg['git_url'] else ''


def source(cell: dict) -> str:
    "A cell's text."
    return ''.join(cell['source'])


def publish(nb: dict, cfg, name: str):
    "Write badge and requirement into a notebook that has a cell for Colab."
    code = [c for c in nb['cells'] if c['cell_type'] == 'code']
    own = [c for c in code if "'google.colab' in sys.modules" in source(c)]
    if not own:
        return
    package = f'PACKAGE = {requirement(cfg)!r}'
    for c in own:
        text = re.sub(r"^PACKAGE = '.*?'", lambda _: package, source(c), flags=re.M)
        c['source'] = text.splitlines(True)
    first = next(c for c in nb['cells'] if c['cell_type'] == 'markdown')
    title = re.sub(r'\n\n\[!\[Open in Colab\].*', '', source(first))
    line = badge(cfg, name)
    if line:
        title = re.sub(r'(\n> .*)', lambda subtitle: f'{subtitle[1]}\n\n{line}', title, count=1)
    first['source'] = title.splitlines(True)


def strip(path: Path, top: Path):
    "Remove what nbdev_clean keeps: widget state, progress bars; write what depends on the address."
    nb = json.loads(path.read_text())
    publish(nb, settings(top), path.relative_to(top / 'nbs').as_posix())
    nb['metadata'].pop('widgets', None)
    for cell in nb['cells']:
        if 'outputs' in cell:
            cell['outputs'] = [
                o
                for o in cell['outputs']
                if WIDGET not in o.get('data', {}) and o.get('name') != 'stderr'
            ]
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n')


def wrap_names(path: Path):
    "Break a module's `__all__` at 100 columns; nbdev writes lines of up to 130."
    text = path.read_text()
    found = re.search(r'^__all__ = (\[.*?\])$', text, re.S | re.M)
    names = ', '.join(map(repr, ast.literal_eval(found[1]))) if found else ''
    if len(names) > 80:
        names = fill(names, 100, initial_indent='    ', subsequent_indent='    ')
        path.write_text(text.replace(found[0], f'__all__ = [\n{names},\n]'))


def clean(top: Path):
    "Clean every notebook and every exported module in place."
    subprocess.run(['nbdev_clean'], cwd=top, check=True)
    for path in notebooks(top):
        strip(path, top)
    for path in exported(top):
        if path.name != '_modidx.py':
            wrap_names(path)


def compared(top: Path) -> set[str]:
    "The files that cleaning and exporting write."
    return {p.relative_to(top).as_posix() for p in [*exported(top), *notebooks(top)]}


def same(name: str, copy: Path) -> bool:
    "Whether a file is there in both trees, with the same bytes."
    both = (TOP / name, copy / name)
    return all(p.exists() for p in both) and filecmp.cmp(*both, shallow=False)


def main() -> int:
    "Clean, or compare this tree with what a cleaned and exported copy holds."
    if '--clean' in sys.argv:
        clean(TOP)
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp) / 'munet_nb'
        shutil.copytree(TOP, copy, ignore=not_copied)
        subprocess.run(['git', 'init', '-q', str(copy)], check=True)  # nbdev looks for its top
        for p in exported(copy):
            p.unlink()  # nbdev_export leaves stale modules
        subprocess.run(['nbdev_clean'], cwd=copy, check=True)
        subprocess.run(['nbdev_export'], cwd=copy, check=True)
        clean(copy)
        differ = sorted(n for n in compared(TOP) | compared(copy) if not same(n, copy))
    for n in differ:
        print(f'{n}: is not what cleaning and exporting the notebooks gives', file=sys.stderr)
    if differ:
        print('Run: nbdev_export && python tests/sync.py --clean', file=sys.stderr)
    return bool(differ)


if __name__ == '__main__':
    sys.exit(main())
