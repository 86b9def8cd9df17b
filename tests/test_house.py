"The house is a book: what its imports must be, read off the modules themselves."

import ast
import re
import sys
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import sync

TOP = Path(__file__).resolve().parents[1]
PACKAGE = 'munet_nb'
CHAPTERS = (
    'checks', 'words', 'network', 'models', 'tasks', 'search', 'engine', 'roots', 'workers', 'runs',
    'pictures', 'serving', 'tracking', 'bench', 'choices', 'evaluation', 'predict_files', 'options',
    'cli', 'start', 'classifier',
)
APART = 'making'  # of packaged data: it uses the chapters, and they do not use it
MAY_DRAW = ('pictures', APART)
MAY_DRAW_INSIDE = ('munet_nb.bench.results',)  # in functions alone, so that it loads without


@dataclass(frozen=True)
class Import:
    "One name that a module imports."

    module: str  # 'munet_nb.search.ask', 'numpy'
    name: str | None  # 'ask'; None: the module itself
    line: int
    inside: bool  # a function or a class

    @property
    def full(self) -> str:
        "The imported module, if it is one of ours that the name says."
        longer = f'{self.module}.{self.name}'
        return longer if longer in modules() else self.module


def name_of(path: Path) -> str:
    "'munet_nb.search.ask' for munet_nb/search/ask.py, 'munet_nb.search' for its __init__.py."
    parts = path.relative_to(TOP).with_suffix('').parts
    return '.'.join(parts[:-1] if parts[-1] == '__init__' else parts)


@cache
def modules() -> dict[str, Path]:
    "Every module of the package and its file, the generated index left out."
    paths = sorted((TOP / PACKAGE).rglob('*.py'))
    return {name_of(p): p for p in paths if p.name != '_modidx.py'}


@cache
def tree_of(module: str) -> ast.Module:
    return ast.parse(modules()[module].read_text())


def base_of(module: str, node: ast.ImportFrom) -> str:
    "The module that a `from ... import` names, its dots resolved."
    if not node.level:
        return node.module
    package = module.split('.')
    if modules()[module].name != '__init__.py':
        package = package[:-1]
    package = package[: len(package) - (node.level - 1)]
    return '.'.join([*package, *([node.module] if node.module else [])])


@cache
def imports(module: str) -> tuple[Import, ...]:
    "All that a module imports, inside its functions too."
    tree = tree_of(module)
    outside, found = set(tree.body), []
    for node in ast.walk(tree):
        inside = node not in outside
        if isinstance(node, ast.Import):
            found += [Import(a.name, None, node.lineno, inside) for a in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = base_of(module, node)
            found += [Import(base, a.name, node.lineno, inside) for a in node.names]
    return tuple(found)


def is_ours(name: str) -> bool:
    return name.split('.')[0] == PACKAGE


def chapter_of(module: str) -> str | None:
    "'search' for 'munet_nb.search.ask'; None for the package's face."
    return (module.split('.') + [None])[1]


@cache
def notebook_of(module: str) -> str | None:
    "'40_search/05_ask' for 'munet_nb.search.ask'; None for the face of a package."
    found = re.search(r'File to edit: [./]*nbs/(.+)\.ipynb', modules()[module].read_text())
    return found and found[1]


EXPORTED = [name_of(p) for p in sync.exported(TOP) if p.name != '_modidx.py']


def ours(module: str) -> set[str]:
    "The modules of the package that a module imports."
    return {i.full for i in imports(module) if is_ours(i.full)} - {module}


def test_every_module_belongs_to_a_chapter_and_is_exported_from_a_notebook_of_it():
    assert len(EXPORTED) > 40
    for module in EXPORTED:
        chapter, notebook = chapter_of(module), notebook_of(module)
        assert chapter in (*CHAPTERS, APART), f'{module}: no chapter is called {chapter}'
        assert notebook, f'{module}: does not say which notebook it comes from'
        told = re.sub(r'^\d+_', '', notebook.split('/')[0])
        assert told == chapter, f'{module}: comes from {notebook}, a notebook of another chapter'


def test_the_numbers_of_the_notebooks_are_the_order_of_the_chapters():
    first = {}
    for module in EXPORTED:
        if chapter_of(module) != APART:
            first.setdefault(chapter_of(module), notebook_of(module).split('/')[0])
    assert sorted(first, key=first.get) == list(CHAPTERS)
    numbers = [re.match(r'(.*/)?\d+', notebook_of(m))[0] for m in EXPORTED]
    twice = {n for n in numbers if numbers.count(n) > 1}
    assert not twice, f'two notebooks have the number {twice}'


def wrong_way(module: str, other: str) -> str | None:
    "Why a module must not import another one; None if it may."
    here, there = chapter_of(module), chapter_of(other)
    if here == APART:
        return None
    if there == APART:
        return 'which only makes packaged data'
    if not there:
        return 'the face of the package, which stands after everything'
    if there != here:
        later = CHAPTERS.index(there) > CHAPTERS.index(here)
        return 'of a later chapter' if later else None
    if not notebook_of(other):
        return 'the face of its own chapter'
    return 'which comes after it' if notebook_of(other) >= notebook_of(module) else None


def test_nothing_imports_upward():
    "Neither between chapters nor inside one, where a notebook's number is the order."
    pairs = [(module, other) for module in EXPORTED for other in sorted(ours(module))]
    assert len(pairs) > 200, 'the imports were found'
    wrong = [f'{m} imports {o}, {wrong_way(m, o)}' for m, o in pairs if wrong_way(m, o)]
    assert not wrong, '\n'.join(wrong)


def test_an_upward_import_would_be_noticed():
    assert wrong_way('munet_nb.search.ask', 'munet_nb.engine.steps')
    assert wrong_way('munet_nb.engine.steps', 'munet_nb.engine.training')
    assert wrong_way('munet_nb.engine.steps', 'munet_nb.making.glyphs')
    assert not wrong_way('munet_nb.engine.steps', 'munet_nb.search.plans')


def test_the_face_of_a_chapter_shows_that_chapter_alone():
    for face in sorted(set(modules()) - set(EXPORTED) - {PACKAGE}):
        for other in sorted(ours(face)):
            assert chapter_of(other) == chapter_of(face), f'{face} imports {other}'


def private(name: str | None) -> bool:
    return bool(name) and name.startswith('_') and not name.endswith('__')


def test_no_private_name_crosses_a_module():
    for module in sorted(modules()):
        bound = set()  # names that are modules of ours here
        for i in imports(module):
            if not is_ours(i.module):
                continue
            said = f'{module}, line {i.line}, imports {i.name} of {i.module}'
            assert not private(i.name), said
            if i.name and i.full != i.module:
                bound.add(i.name)
        for node in ast.walk(tree_of(module)):
            if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                reaches = node.value.id in bound and private(node.attr)
                said = f'{module}, line {node.lineno}, uses {node.attr} of {node.value.id}'
                assert not reaches, said


@cache
def defined(module: str) -> frozenset[str]:
    "The public names that a module defines itself."
    text = modules()[module].read_text()
    found = re.search(r'^__all__ = (\[.*?\])$', text, re.S | re.M)
    return frozenset(ast.literal_eval(found[1])) if found else frozenset()


def test_names_are_imported_from_where_they_are_defined():
    for module in EXPORTED:
        for i in imports(module):
            if i.name and i.full in EXPORTED and i.full == i.module:
                said = f'{module}, line {i.line}: {i.name} is not defined in {i.module}'
                assert i.name in defined(i.module), said


def test_the_search_knows_no_arrays_and_no_device():
    "Of other packages it has numpy's generators alone; of ours, what it is built on."
    searching = [m for m in EXPORTED if chapter_of(m) == 'search']
    assert len(searching) > 5
    for module in searching:
        for i in imports(module):
            said = f'{module}, line {i.line}, imports {i.full}'
            if is_ours(i.full):
                assert chapter_of(i.full) in ('checks', 'words', 'network', 'models', 'search'), said
            else:
                standard = i.module.split('.')[0] in sys.stdlib_module_names
                assert standard or i.module == 'numpy.random', said


def test_only_pictures_draw():
    for module in sorted(modules()):
        for i in imports(module):
            if i.module.split('.')[0] != 'matplotlib' or chapter_of(module) in MAY_DRAW:
                continue
            allowed = i.inside and module in MAY_DRAW_INSIDE
            assert allowed, f'{module}, line {i.line}, imports {i.module}, which only pictures may'


def test_imports_are_read_right():
    "What the rules above stand on."
    plans = 'munet_nb.search.plans'
    assert {'munet_nb.models.pool', 'munet_nb.network.kinds'} <= ours(plans)
    assert Import('munet_nb.network.arch', 'Arch', 1, False).full == 'munet_nb.network.arch'
    assert Import('munet_nb.engine', 'steps', 1, False).full == 'munet_nb.engine.steps'
    dots = ast.parse('from ..engine import steps; from .arch import _x').body
    assert [base_of(plans, n) for n in dots] == ['munet_nb.engine', 'munet_nb.search.arch']
    assert private('_x') and not private('__version__')
