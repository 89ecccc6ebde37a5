"Sphinx's settings; the pages are what tools/docs.py writes to _proc"
import re
from pathlib import Path

ROOT = Path(__file__).parent.parent
project, author, html_title = 'pet_classifier', 'the pet_classifier contributors', 'pet_classifier'
release = re.search(r'^__version__ = "(.+)"$', (ROOT/'pet_classifier'/'__init__.py').read_text(encoding='utf-8'), re.M)[1]
extensions = ['myst_nb', 'sphinx_copybutton']
nb_execution_mode = 'off'  # the outputs are committed
nb_merge_streams = True
nb_render_markdown_format = 'myst'
nb_code_prompt_show, nb_code_prompt_hide = 'Source', 'Hide the source'
myst_enable_extensions = ['dollarmath']
myst_dmath_allow_space = myst_dmath_allow_digits = False  # `$5 and $6` is no formula
myst_heading_anchors = 4
html_theme, html_static_path, html_css_files = 'furo', ['site.css'], ['site.css']
html_copy_source = html_show_sourcelink = html_show_copyright = html_show_sphinx = False
