"""Whether munet_nb/ is what the notebooks export and the notebooks are clean. `--clean` cleans them.

The check runs on a copy, so it changes nothing and does not depend on what is committed.
"""
import filecmp
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

TOP = Path(__file__).resolve().parents[1]
WIDGET = 'application/vnd.jupyter.widget-view+json'

def strip(path: Path):
    "Remove widget state and what progress bars left, which nbdev_clean keeps."
    nb = json.loads(path.read_text())
    nb['metadata'].pop('widgets', None)
    for cell in nb['cells']:
        if 'outputs' in cell:
            cell['outputs'] = [o for o in cell['outputs'] if WIDGET not in o.get('data', {}) and o.get('name') != 'stderr']
    path.write_text(json.dumps(nb, indent=1, ensure_ascii=False) + '\n')

def clean(top: Path):
    subprocess.run(['nbdev_clean'], cwd=top, check=True)
    for path in sorted((top / 'nbs').glob('*.ipynb')): strip(path)

def exported(top: Path) -> list[Path]:
    return [p for p in sorted((top / 'munet_nb').glob('*.py')) if p.name != '__init__.py']

def main() -> int:
    if '--clean' in sys.argv: clean(TOP); return 0
    with tempfile.TemporaryDirectory() as tmp:
        copy = Path(tmp) / 'munet_nb'
        shutil.copytree(TOP, copy, ignore=shutil.ignore_patterns('.git', '.venv', 'runs', '__pycache__', '*.egg-info', '.*cache', '.hypothesis'))
        subprocess.run(['git', 'init', '-q', str(copy)], check=True)   # nbdev looks for the top of a repository
        clean(copy)
        for p in exported(copy): p.unlink()                            # nbdev_export leaves stale modules
        subprocess.run(['nbdev_export'], cwd=copy, check=True)
        names = lambda top: {str(p.relative_to(top)) for p in [*exported(top), top / 'munet_nb/__init__.py', *(top / 'nbs').glob('*.ipynb')]}
        differ = sorted(n for n in names(TOP) | names(copy) if not ((TOP / n).exists() and (copy / n).exists() and filecmp.cmp(TOP / n, copy / n, shallow=False)))
    for n in differ: print(f'{n}: is not what cleaning and exporting the notebooks gives', file=sys.stderr)
    if differ: print('Run: nbdev_export && python tests/sync.py --clean', file=sys.stderr)
    return bool(differ)

if __name__ == '__main__': sys.exit(main())
