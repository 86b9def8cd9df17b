"""The pages of the site: what `mkdocs build` calls, by mkdocs.yml.

A notebook becomes a page of Markdown, with its outputs as they are stored: nothing runs. MkDocs
checks the links and anchors of these pages itself; mkdocstrings writes what stands about code.
"""

import ast
import html
import json
import os
import re
from base64 import b64decode
from collections.abc import Iterator
from configparser import ConfigParser
from dataclasses import dataclass, field
from pathlib import Path

from latex2mathml.converter import convert
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import get_plugin_logger
from mkdocs.structure.files import File, Files
from mkdocs.structure.pages import Page

from munet_nb import _HOMES as HOMES  # public name -> the module that defines it

log = get_plugin_logger('hooks')  # what it warns of ends a strict build

TOP = Path(__file__).resolve().parents[1]
NBS = TOP / 'nbs'
MAP = NBS / 'index.ipynb'
PLAIN = {
    TOP / 'README.md': 'index.md',
    MAP: 'map.md',
    TOP / 'CONTRIBUTING.md': 'contributing.md',
    TOP / 'CHANGELOG.md': 'changelog.md',
}


def address_of(path: Path) -> str | None:
    "The page that a file of the repository becomes; None if it becomes none."
    if path in PLAIN:
        return PLAIN[path]
    if path.suffix in ('.ipynb', '.md') and path.is_relative_to(NBS):
        return path.relative_to(NBS).with_suffix('.md').as_posix()
    return None


# Links


@dataclass(frozen=True)
class Links:
    "What files of the repository say of each other, turned into what pages say."

    repository: str  # where its files can be read; '' if nowhere
    shown: set[Path] = field(default_factory=set)  # files that pages show as they are

    def turned(self, text: str, path: Path) -> str:
        "The text of a file with its links turned."

        def turn(found: re.Match) -> str:
            words, target, anchor = found.groups(default='')
            address = self.address(path, (path.parent / target).resolve())
            return f'{words}({address}{anchor})' if address else words.strip('[]')

        return re.sub(r'(!?\[[^\]]*\])\((?![a-z]+:|#)([^)#\s]+)(#[^)]*)?\)', turn, text)

    def address(self, path: Path, to: Path) -> str | None:
        "How a file's page names another file; None if nobody can read it there."
        page = address_of(to)
        if not page and to.is_relative_to(NBS) and to.is_file():
            self.shown.add(to)
            page = to.relative_to(NBS).as_posix()
        if page:
            return os.path.relpath(page, Path(address_of(path)).parent)
        return f'{self.repository}/{to.relative_to(TOP).as_posix()}' if self.repository else None


# Notebooks


def cells(path: Path) -> list[dict]:
    "The cells of a notebook."
    return json.loads(path.read_text(encoding='utf-8'))['cells']


def source(cell: dict) -> str:
    "A cell's text."
    return ''.join(cell['source'])


def code_of(cell: dict) -> str:
    "A cell's code without what it says to nbdev; '' if readers do not see the cell."
    text = source(cell)
    if re.search(r'^#\| *(hide|default_exp)', text, re.M):
        return ''
    return re.sub(r'^#\|.*\n?', '', text, flags=re.M).strip('\n')


def fenced(code: str) -> str:
    "Code as a block of Markdown; its fence is longer than any in it."
    fence = '`' * max(3, 1 + max(map(len, re.findall('`+', code)), default=0))
    return f'{fence}python\n{code}\n{fence}'


def output_of(stored: dict, picture: str) -> tuple[str, bytes]:
    "What a cell put out, as HTML, and the bytes of its picture, if it is one."
    data = stored.get('data', {'text/plain': stored.get('text', '')})
    drawn = b64decode(data.get('image/png', ''))
    if drawn:
        inner = f'<img src="{picture}" alt="what the cell draws" loading="lazy">'
    elif 'text/html' in data:
        inner = ''.join(data['text/html'])
    else:
        inner = f'<pre>{html.escape("".join(data["text/plain"]))}</pre>'
    return f'<div class="output">\n{inner}\n</div>', drawn


def page_of(path: Path, links: Links) -> tuple[str, dict[str, bytes]]:
    "A notebook as Markdown, and its pictures by name, which lie beside the page."
    blocks, pictures = [], {}
    for cell in cells(path):
        if cell['cell_type'] == 'markdown':
            # Markdown knows a formula of its own line by the empty lines around it.
            text = re.sub(r'^\$\$.+\$\$$', r'\n\g<0>\n', source(cell), flags=re.M)
            blocks.append(links.turned(text, path))
        elif cell['cell_type'] == 'code' and (code := code_of(cell)):
            blocks.append(fenced(code))
            for stored in cell['outputs']:
                name = f'{path.stem}-{len(pictures)}.png'
                shown, drawn = output_of(stored, name)
                blocks.append(shown)
                pictures |= {name: drawn} if drawn else {}
    return '\n\n'.join(blocks), pictures


# Formulas


def formula(tex: str, display: str, page: str) -> str:
    """A formula in MathML, which browsers draw themselves: no script, nothing to fetch.

    One that cannot be drawn is a warning that names its page.
    """
    apart = re.sub(r'(\\(?:log|ln)\b)(?! *\()', r'\1\\,', html.unescape(tex))
    try:
        drawn = convert(apart, display=display)
    except Exception as e:  # of whatever kind: its messages do not say which formula it was
        log.warning(f'{page}: the formula {tex!r} cannot be read ({type(e).__name__})')
        return tex
    if '\\' in drawn:
        log.warning(f'{page}: the formula {tex!r} has a command that is not known')
    return drawn


def on_page_content(content: str, page: Page, **_) -> str:
    "Draw what arithmatex marked."
    for left, right, display in ((r'\(', r'\)', 'inline'), (r'\[', r'\]', 'block')):
        marked = rf'(<(?:span|div) class="arithmatex">){re.escape(left)}(.+?){re.escape(right)}(?=<)'

        def draw(found, display=display):
            return found[1] + formula(found[2], display, page.file.src_uri)

        content = re.sub(marked, draw, content, flags=re.S)
    return content


# The map, and what is made of it


def chapters() -> dict[str, dict[str, Path]]:
    "The map: title of a chapter -> title of a notebook -> its file, in the order of reading."
    found, chapter = {}, None
    for line in '\n'.join(map(source, cells(MAP))).splitlines():
        if line.startswith('### '):
            chapter = found.setdefault(re.sub(r' \(.*', '', line[4:]), {})
        elif row := re.match(r'\| \[(.+?)\]\((.+?\.ipynb)\)', line):
            chapter[row[1]] = NBS / row[2]
    return {title: notebooks for title, notebooks in found.items() if notebooks}


def module_of(path: Path) -> str | None:
    "The module that a notebook exports, 'munet_nb.search.ask'; None if it exports none."
    found = re.search(r'^#\| default_exp (\S+)', '\n'.join(map(source, cells(path))), re.M)
    return f'munet_nb.{found[1]}' if found else None


def code_pages() -> Iterator[tuple[str, str, str]]:
    "Of every chapter that exports modules: its title, its page about code, and what stands there."
    for title, notebooks in chapters().items():
        blocks = []
        for name, path in notebooks.items():
            if module := module_of(path):
                written = f'Written in [{name}](../{address_of(path)}).'
                blocks.append(f'## `{module}`\n\n{written}\n\n::: {module}')
        if blocks:
            yield title, f'api/{title.lower().replace(" ", "_")}.md', '\n\n'.join(blocks)


def first_line(home: str, name: str) -> str:
    "What a module says of one of its names."
    tree = ast.parse((TOP / 'munet_nb' / f'{home.replace(".", "/")}.py').read_text())
    (node,) = (n for n in tree.body if getattr(n, 'name', None) == name)
    return ast.get_docstring(node).splitlines()[0]


def face() -> str:
    "The page about `import munet_nb as mu`."
    rows = [
        f'| [`mu.{name}`][munet_nb.{home}.{name}] | {first_line(home, name)} |'
        for name, home in HOMES.items()
    ]
    return '\n'.join(['# What `import munet_nb as mu` offers', '', '| name | |', '|---|---|', *rows])


# What MkDocs calls


def settings() -> dict[str, str]:
    "What setup.py reads."
    config = ConfigParser(delimiters=['='], interpolation=None)
    config.read(TOP / 'settings.ini', encoding='utf-8')
    return dict(config['DEFAULT'])


def anchor_of(title: str, separator: str) -> str:
    "The anchor that Jupyter gives a title."
    return title.replace(' ', separator)


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    "Take addresses from settings.ini, anchors as Jupyter makes them, and the order of the map."
    told = settings()
    config.site_description = told['description']
    config.repo_url = told['git_url'] or None
    config.site_url = told['doc_host'] + told['doc_baseurl'] if told['doc_host'] else None
    config.mdx_configs.setdefault('toc', {})['slugify'] = anchor_of
    pages = [
        {title: [{name: address_of(path)} for name, path in notebooks.items()]}
        for title, notebooks in chapters().items()
    ]
    code = [{title: address} for title, address, _ in code_pages()]
    more = [{'Contributing': 'contributing.md'}, {'Changes': 'changelog.md'}]
    config.nav = [
        {'Home': 'index.md'}, {'Map': 'map.md'}, *pages,
        {'Reference': [{'munet_nb': 'api/index.md'}, *code]}, {'Project': more},
    ]
    return config


def on_files(files: Files, config: MkDocsConfig) -> Files:
    "Make the pages."
    told = settings()
    blob = f'{told["git_url"]}/blob/{told["branch"]}' if told['git_url'] else ''
    links = Links(blob)

    def add(address: str, **of):
        files.append(File.generated(config, address, **of))

    for path in sorted({*NBS.rglob('[!.]*.ipynb'), *NBS.rglob('*.md'), *PLAIN}):
        if path.suffix == '.md':
            add(address_of(path), content=links.turned(path.read_text(encoding='utf-8'), path))
            continue
        text, pictures = page_of(path, links)
        page = address_of(path)
        add(page, content=text)
        for name, drawn in pictures.items():
            add((Path(page).parent / name).as_posix(), content=drawn)
    for path in sorted(links.shown):
        add(path.relative_to(NBS).as_posix(), abs_src_path=str(path))
    add('api/index.md', content=face())
    for title, address, text in code_pages():
        add(address, content=f'# {title}\n\n{text}')
    return files
