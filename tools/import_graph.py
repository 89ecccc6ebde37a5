"""Draw nbs/images/architecture.svg: the modules by package, and what each package imports; read from the source.

    python tools/import_graph.py
"""
import ast
from collections import Counter
from html import escape
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGE, PICTURE = ROOT/'pet_classifier', ROOT/'nbs'/'images'/'architecture.svg'
ROWS = [['top'], ['review'], ['runs'], ['training', 'deploy'], ['evaluation'], ['model'], ['data'], ['core']] # imports lead down


def import_graph(package=PACKAGE):
    "Return module -> set of (module, name) for each import of ours in it, those inside functions included"
    files = {'.'.join(f.relative_to(package).with_suffix('').parts): f for f in sorted(package.rglob('*.py'))
             if f.name not in ('__init__.py', '_modidx.py', 'all.py')}
    return {name: set(_imports(name.split('.'), file)) for name, file in files.items()}


def _imports(here, file):
    for node in ast.walk(ast.parse(file.read_text(encoding='utf-8'))):
        if not isinstance(node, ast.ImportFrom): continue
        if node.level: module = '.'.join([*here[:len(here)-node.level], node.module or '']).strip('.')
        elif (node.module or '').startswith('pet_classifier.'): module = node.module.removeprefix('pet_classifier.')
        else: continue
        yield from ((module, alias.name) for alias in node.names)


def targets(found, graph):
    "Return the modules in `graph` that the imports in `found` lead to"
    return {m if m in graph else f'{m}.{n}' for m, n in found} & graph.keys()


def package_of(module): return module.split('.')[0] if '.' in module else 'top'


def draw(graph):
    "Return the graph as SVG: a box for each package with its modules, and how many imports lead from it to which package"
    counts = Counter((package_of(m), package_of(t)) for m, found in graph.items() for t in targets(found, graph))
    width, out, y = 960, [], 10
    for row in ROWS:
        each = (width - 20*(len(row)+1))/len(row)
        lines = {p: _wrapped([m.split('.')[-1] for m in graph if package_of(m) == p], each) for p in row}
        height = 34 + 18*max(map(len, lines.values()))
        for i, p in enumerate(row):
            x, below = 20 + i*(each+20), [f'{q} {counts[p, q]}' for r in ROWS for q in r if q != p and counts[p, q]]
            out.append(f'<rect x="{x:.0f}" y="{y}" width="{each:.0f}" height="{height}" rx="8" fill="#f2f6f7" stroke="#477"/>')
            name = 'pet_classifier' if p == 'top' else p
            out.append(f'<text x="{x+12:.0f}" y="{y+21}" font-weight="bold" fill="#244">{name}</text>')
            if below: out.append(f'<text x="{x+each-12:.0f}" y="{y+21}" text-anchor="end" fill="#777" font-size="12">'
                                 f'imports from {", ".join(below)}</text>')
            out += [f'<text x="{x+12:.0f}" y="{y+41+18*n}" fill="#333">{escape(line)}</text>' for n, line in enumerate(lines[p])]
        y += height + 14
    head = [f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {y}" font-family="sans-serif" font-size="13">',
            '<title>The packages of pet_classifier: each imports only from packages below it</title>',
            f'<rect width="{width}" height="{y}" fill="white"/>']
    return '\n'.join([*head, *out, '</svg>', ''])


def _wrapped(names, width):
    "Return `names` in lines of about `width` pixels"
    lines = ['']
    for name in names:
        if len(lines[-1] + name) > width/7.2: lines.append('')
        lines[-1] += name + '  '
    return [line.strip() for line in lines]


if __name__ == '__main__': PICTURE.write_text(draw(import_graph()), encoding='utf-8')
