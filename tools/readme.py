"Makes README.md from nbs/index.ipynb; `python tools/readme.py` writes it, tests/test_in_step.py holds that it is current."
import re
from pathlib import Path

from nbconvert import MarkdownExporter

ROOT = Path(__file__).parent.parent


def render(root):
    "The text of README.md, and its images as a dict of path -> bytes."
    resources = dict(output_files_dir='nbs/images', unique_key='index')
    text, resources = MarkdownExporter(exclude_input=True).from_filename(str(root/'nbs'/'index.ipynb'), resources=resources)
    text = re.sub(r'\]\(([\w./]+\.ipynb)\)', r'](nbs/\1)', text)  # README.md lies a folder higher
    return re.sub(r'\n\s*\n', '\n\n', text).strip() + '\n', resources['outputs']


if __name__ == '__main__':
    text, images = render(ROOT)
    (ROOT/'README.md').write_text(text, encoding='utf-8')
    for name, data in images.items():
        (ROOT/name).parent.mkdir(exist_ok=True)
        (ROOT/name).write_bytes(data)
