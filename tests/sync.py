"""Whether munet_nb/ is what the notebooks export and the notebooks are clean. `--clean` cleans them.

Cleaning also writes what depends on the project's public address, git_url in settings.ini: the badge that opens a notebook on Colab, and what it installs there.

The check runs on a copy, so it changes nothing and does not depend on what is committed.
"""

import filecmp
import json
import re
import shutil
import subprocess
import sys
import tempfile
from configparser import ConfigParser
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
WIDGET = 'application/vnd.jupyter.widget-view+json'


def settings(top: Path):
    "What setup.py reads."
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(top / 'settings.ini', encoding='utf-8')
    return config['DEFAULT']


def badge(cfg, name: str) -> str:
    "The line that opens a notebook on Colab. It reads public repositories of GitHub: for another address, or none, there is no badge."
    found = re.fullmatch(r'https://github\.com/([\w.-]+/[\w.-]+?)(\.git)?/?', cfg['git_url'])
    return (
        f"[![Open in Colab](https://colab.research.google.com/assets/colab-badge.svg)](https://colab.research.google.com/github/{found[1]}/blob/{cfg['branch']}/{cfg['nbs_path']}/{name})"
        if found
        else ''
    )


def requirement(cfg) -> str:
    "What pip installs on Colab: the public repository, else the package of that name."
    return f'"{cfg["lib_name"]} @ git+{cfg["git_url"]}"' if cfg['git_url'] else cfg['lib_name']


def publish(nb: dict, cfg, name: str):
    "Write badge and requirement into a notebook that has a cell for Colab."
    own = [
        c
        for c in nb['cells']
        if c['cell_type'] == 'code' and "'google.colab' in sys.modules" in ''.join(c['source'])
    ]
    if not own:
        return
    for c in own:
        c['source'] = re.sub(
            r'%pip install --quiet .*',
            lambda _: f'%pip install --quiet {requirement(cfg)}',
            ''.join(c['source']),
        ).splitlines(True)
    first = next(c for c in nb['cells'] if c['cell_type'] == 'markdown')
    title = re.sub(r'\n\n\[!\[Open in Colab\].*', '', ''.join(first['source']))
    if badge(cfg, name):
        title = re.sub(
            r'(\n> .*)', lambda subtitle: f'{subtitle[1]}\n\n{badge(cfg, name)}', title, count=1
        )
    first['source'] = title.splitlines(True)


def strip(path: Path, cfg):
    "Remove widget state and what progress bars left, which nbdev_clean keeps; write what depends on the project's address."
    nb = json.loads(path.read_text())
    publish(nb, cfg, path.name)
    nb['metadata'].pop('widgets', None)
    for cell in nb['cells']:
        if 'outputs' in cell:
            cell['outputs'] = [
                o
                for o in cell['outputs']
                if WIDGET not in o.get('data', {}) and o.get('name') != 'stderr'
            ]
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n')


def clean(top: Path):
    subprocess.run(['nbdev_clean'], cwd=top, check=True)
    for path in sorted((top / 'nbs').glob('*.ipynb')):
        strip(path, settings(top))


def exported(top: Path) -> list[Path]:
    return [p for p in sorted((top / 'munet_nb').glob('*.py')) if p.name != '__init__.py']


def main() -> int:
    if '--clean' in sys.argv:
        clean(TOP)
        return 0
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp) / 'munet_nb'
        shutil.copytree(
            TOP,
            copy,
            ignore=shutil.ignore_patterns(
                '.git', '.venv', 'runs', '__pycache__', '*.egg-info', '.*cache', '.hypothesis'
            ),
        )
        subprocess.run(
            ['git', 'init', '-q', str(copy)], check=True
        )  # nbdev looks for the top of a repository
        clean(copy)
        for p in exported(copy):
            p.unlink()  # nbdev_export leaves stale modules
        subprocess.run(['nbdev_export'], cwd=copy, check=True)

        def names(top):
            return {
                str(p.relative_to(top))
                for p in [
                    *exported(top),
                    top / 'munet_nb/__init__.py',
                    *(top / 'nbs').glob('*.ipynb'),
                ]
            }

        differ = sorted(
            n
            for n in names(TOP) | names(copy)
            if not (
                (TOP / n).exists()
                and (copy / n).exists()
                and filecmp.cmp(TOP / n, copy / n, shallow=False)
            )
        )
    for n in differ:
        print(f'{n}: is not what cleaning and exporting the notebooks gives', file=sys.stderr)
    if differ:
        print('Run: nbdev_export && python tests/sync.py --clean', file=sys.stderr)
    return bool(differ)


if __name__ == '__main__':
    sys.exit(main())
