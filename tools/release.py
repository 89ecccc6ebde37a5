"""Check that dist/ has the files of `__version__`; with a tag, check it and the changelog, whose section goes to build/notes.md.

    python tools/release.py            (make dist)
    python tools/release.py v1.2.3     (the release workflow)
"""
import re
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]


def section(changelog, version):
    "Return the changelog's section of `version`, without its heading; empty if there is none."
    found = re.search(rf'^## {re.escape(version)}(?: [^\n]*)?\n(.*?)(?=^## |\Z)', changelog, re.M | re.S)
    return found[1].strip() if found else ''


def problem(version, tag, changelog, files):
    "Return why these files may not be released as `version`; empty if they may."
    expected = {f'pet_classifier-{version}-py3-none-any.whl', f'pet_classifier-{version}.tar.gz'}
    if files != expected: return f'dist has {sorted(files)}; expected {sorted(expected)}'
    if not tag: return ''
    if tag != f'v{version}': return f'the tag is {tag}, __version__ is {version}; expected v{version}'
    return '' if section(changelog, version) else f'CHANGELOG.md has no section "## {version}"; rename "## Unreleased"'


def main(tag=''):
    version = re.search(r'^__version__ = "(.+)"$', (ROOT/'pet_classifier'/'__init__.py').read_text(encoding='utf-8'), re.M)[1]
    changelog = (ROOT/'CHANGELOG.md').read_text(encoding='utf-8')
    if said := problem(version, tag, changelog, {p.name for p in (ROOT/'dist').iterdir()}): sys.exit(f'error: {said}')
    if tag:
        (ROOT/'build').mkdir(exist_ok=True)
        (ROOT/'build'/'notes.md').write_text(section(changelog, version), encoding='utf-8')
    print(f'version {version}: the files in dist' + (' and the changelog' if tag else '') + ' are in step')


if __name__ == '__main__': main(*sys.argv[1:])
