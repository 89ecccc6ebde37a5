"""Write the pages of the documentation to _proc: nbs/ with public names documented and their source folded, and package pages.

    python tools/docs.py && sphinx-build -c docs _proc _docs     (make docs)
"""
import ast
import configparser
import os
import re
import shutil
import textwrap
from pathlib import Path

import nbformat

ROOT = Path(__file__).parents[1]
PAGES = ROOT/'_proc'
PACKAGES = {
    'top': ('Runs and the command line', 'A whole run in one call, its report, the command line, and widgets for notebooks.'),
    'data': ('Data', 'Data sets, images, labels, splits, and fastai `DataLoaders`.'),
    'model': ('Model', 'The network, its pretrained weights, features, heat maps, and the bundle it is saved as.'),
    'training': ('Training', 'The learner, the head, fine-tuning, checkpoints, and the comparison of backbones.'),
    'evaluation': ('Evaluation', 'Error rates and their intervals, calibration, label issues, and "none of these".'),
    'deploy': ('Deployment', 'Prediction in a program, in tables, on web pages, in ONNX, and on many machines.'),
    'review': ('Review', 'The page on which a person reviews images and corrects labels.'),
    'runs': ('Parts of a run', 'What a run decides, computes and writes to its folder.'),
    'core': ('Foundations', 'The cache, files, messages, devices and progress.')}


def repository():
    "Return owner/name on GitHub: `repository` in settings.ini, or what GitHub Actions says; empty if unknown."
    config = configparser.ConfigParser(delimiters=['='])
    config.read(ROOT/'settings.ini', encoding='utf-8')
    return config['DEFAULT'].get('repository', '') or os.environ.get('GITHUB_REPOSITORY', '')


def directives(cell): return dict(re.findall(r'^#\| *([\w-]+):? *(.*)$', cell.source, re.M)) if cell.cell_type == 'code' else {}


def public(tree):
    "Return the public functions and classes of a module or of a cell, and the public methods of a class that have a docstring."
    for node in tree.body:
        if not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) or node.name.startswith('_'): continue
        if not isinstance(tree, ast.ClassDef) or ast.get_docstring(node): yield node


def head(node, lines):
    "Return the lines from `def` or `class` to where the body begins."
    end = node.body[0]
    return '\n'.join([*lines[node.lineno-1:end.lineno-1], lines[end.lineno-1].encode()[:end.col_offset].decode()]).rstrip()


def signature(node, lines):
    "Return the head of a function; of a class its head, its fields, and the head of `__init__`."
    if not isinstance(node, ast.ClassDef): return head(node, lines)
    fields = [lines[field.lineno-1] for field in node.body if isinstance(field, ast.AnnAssign)]
    return '\n'.join([head(node, lines), *fields, *(head(f, lines) for f in node.body if getattr(f, 'name', '') == '__init__')])


def documentation(node, lines, level, owner=''):
    "Return Markdown: heading, signature with the meaning of each parameter, docstring; then the same for the methods of a class."
    text = textwrap.dedent(signature(node, lines))
    block = f'```{{code-block}} python\n:class: signature\n\n{text}\n```'
    yield '\n\n'.join([f'{"#"*level} `{owner}{node.name}`', block, ast.get_docstring(node) or ''])
    if isinstance(node, ast.ClassDef):
        for method in public(node): yield from documentation(method, lines, level+1, f'{node.name}.')


def reference(cells):
    "Return the cells of a page of the reference: each public name documented, its source folded."
    level = 1
    for cell in cells:
        if cell.cell_type == 'markdown':
            for heading in re.findall(r'^(#{1,2}) ', cell.source, re.M): level = len(heading)
        elif 'export' in directives(cell):
            for node in public(ast.parse(cell.source)):
                for text in documentation(node, cell.source.splitlines(), level+1): yield nbformat.v4.new_markdown_cell(text)
        yield cell


NBDEV = re.compile(r'^---\n\n(\[source\].*\n\n)?') # what nbdev's `show_doc` writes before a heading


def only_imports(source): return all(isinstance(node, (ast.Import, ast.ImportFrom)) for node in ast.parse(source).body)


def shown(cell):
    "Return the cell without its directives, tagged for MyST-NB; None if it is not to be shown."
    said = directives(cell)
    if {'hide', 'default_exp'} & said.keys() or ('export' in said and only_imports(cell.source)): return None
    if cell.cell_type == 'markdown':
        cell.source = cell.source.replace('](benchmarks)', '](benchmarks/index.md)')
        return cell
    cell.source = re.sub(r'^#\|.*\n?', '', cell.source, flags=re.M).strip('\n')
    without = said.get('echo') == 'false' or not cell.source
    cell.metadata['tags'] = ['remove-input'] if without else ['hide-input'] if {'export', 'exporti'} & said.keys() else []
    for data in (output.data for output in cell.outputs if 'data' in output):
        if 'text/markdown' in data: data['text/markdown'] = NBDEV.sub('', data['text/markdown'])
    return cell if cell.source or cell.outputs else None


def page(notebook):
    "Write the page of a notebook."
    where = notebook.relative_to(ROOT/'nbs')
    nb = nbformat.read(notebook, 4)
    cells = nb.cells
    if where.parts[0] == 'api':
        cells = [cells[0], nbformat.v4.new_markdown_cell(f'Module `pet_classifier.{notebook.stem}`'), *reference(cells[1:])]
    if where.parts[0] == 'lessons': cells.insert(1, nbformat.v4.new_markdown_cell(buttons(where)))
    if where.name == 'index.ipynb': cells.append(nbformat.v4.new_markdown_cell(contents()))
    nb.cells = [kept for cell in cells if cell.source and (kept := shown(cell))]
    nb.metadata.pop('widgets', None)
    (PAGES/where).parent.mkdir(parents=True, exist_ok=True)
    nbformat.write(nb, PAGES/where)


def buttons(where):
    "Return links that open the lesson on Colab, Kaggle and GitHub; empty while the repository's address is unknown."
    if not (repo := repository()): return ''
    file = f'github.com/{repo}/blob/main/nbs/{where.as_posix()}'
    return ' · '.join([f'[Open in Colab](https://colab.research.google.com/{file.replace(".com", "", 1)})',
                       f'[Open in Kaggle](https://kaggle.com/kernels/welcome?src=https://{file})', f'[View on GitHub](https://{file})'])


def toctree(caption, pages): return '\n'.join(['```{toctree}', ':hidden:', f':caption: {caption}', '', *pages, '```'])


def contents():
    lessons = sorted(p.stem for p in (ROOT/'nbs'/'lessons').glob('*.ipynb'))
    return '\n\n'.join([
        toctree('Lessons', [f'lessons/{name}' for name in lessons]),
        toctree('Reference', ['api/all', *(f'api/{name}' for name in PACKAGES)]),
        toctree('Project', ['benchmarks/index', 'CONTRIBUTING', 'CHANGELOG'])])


def package(name):
    "Write the page of a package: what it is for, and a table of its modules."
    title, what = PACKAGES[name]
    rows = []
    for module in (ROOT/'nbs'/'api').glob('[!.]*.ipynb' if name == 'top' else f'{name}.*.ipynb'):
        if name == 'top' and '.' in module.stem: continue
        heading, _, about = nbformat.read(module, 4).cells[0].source.partition('\n\n> ')
        rows.append((heading.removeprefix('# '), module.stem, about.partition('\n\n')[0].replace('\n> ', ' ')))
    rows.sort(key=lambda row: row[0].lower())
    table = ['| module | |', '|---|---|', *(f'| [{heading}]({stem}.ipynb) | {about} |' for heading, stem, about in rows)]
    text = [f'# {title}', what, '\n'.join(table), toctree(title, [stem for _, stem, _ in rows])]
    (PAGES/'api'/f'{name}.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')


def names():
    "Write the page of the names that `from pet_classifier.all import *` brings."
    rows, package = [], ROOT/'pet_classifier'
    for imported in ast.parse((package/'all.py').read_text(encoding='utf-8')).body[1:]:
        source = (package/f'{imported.module.replace(".", "/")}.py').read_text(encoding='utf-8')
        documented = {node.name: ast.get_docstring(node) or '' for node in public(ast.parse(source))}
        for name in (alias.name for alias in imported.names):
            link = f'{imported.module}.ipynb' + (f'#{name.lower()}' if name in documented else '')
            constant = re.search(rf'^{name} *=.*?(?:#  *(.*))?$', source, re.M)
            about = (documented.get(name) or (constant and constant[1]) or '').partition('\n\n')[0].replace('\n', ' ')
            rows.append((name.lower(), f'| [`{name}`]({link}) | {about.replace("|", chr(92) + "|")} |'))
    table = ['| name | |', '|---|---|', *(row for _, row in sorted(rows))]
    text = ['# Names for notebooks', 'What `from pet_classifier.all import *` brings.', '\n'.join(table)]
    (PAGES/'api'/'all.md').write_text('\n\n'.join(text) + '\n', encoding='utf-8')


def main():
    shutil.rmtree(PAGES, ignore_errors=True)
    for images in ('images', 'lessons/images'): shutil.copytree(ROOT/'nbs'/images, PAGES/images)
    shutil.copytree(ROOT/'benchmarks', PAGES/'benchmarks', ignore=shutil.ignore_patterns('__pycache__'))
    (PAGES/'benchmarks'/'README.md').rename(PAGES/'benchmarks'/'index.md')
    for name in ('CONTRIBUTING.md', 'CHANGELOG.md'): shutil.copy(ROOT/name, PAGES)
    for notebook in sorted((ROOT/'nbs').rglob('*.ipynb')):
        if '.ipynb_checkpoints' not in notebook.parts: page(notebook)
    for name in PACKAGES: package(name)
    names()


if __name__ == '__main__': main()
