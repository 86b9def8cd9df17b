"Packaging, read from settings.ini: the one place where the project describes itself."

from configparser import ConfigParser
from pathlib import Path

import setuptools

TOP = Path(__file__).parent
EXTRAS = (
    'hf', 'glyphs', 'onnx', 'ray', 'serve', 'tensorboard', 'mlflow', 'wandb', 'docs', 'dev',
)

config = ConfigParser(delimiters=['='], interpolation=None)
config.read(TOP / 'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
package = cfg['lib_path']

setuptools.setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    keywords=cfg['keywords'].split(),
    author=cfg['author'],
    license='Apache-2.0',
    python_requires=f'>={cfg["min_python"]}',
    classifiers=[
        f'Programming Language :: Python :: {version}' for version in cfg['tested_pythons'].split()
    ],
    long_description=(TOP / 'README.md').read_text(encoding='utf-8'),
    long_description_content_type='text/markdown',
    packages=setuptools.find_packages(include=[package, f'{package}.*']),
    package_data={package: ['data/*', 'data/*/*']},
    install_requires=cfg['requirements'].split(),
    extras_require={extra: cfg[f'{extra}_requirements'].split() for extra in EXTRAS},
    entry_points={'console_scripts': cfg['console_scripts'].split()},
)
