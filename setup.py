"Builds the package from the metadata in settings.ini; the version stands in pet_classifier/__init__.py."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

here = Path(__file__).parent
config = ConfigParser(delimiters=['='])
config.read(here/'settings.ini', encoding='utf-8')
cfg = config['DEFAULT']
version = re.search(r'^__version__ = "(.+)"$', (here/cfg['lib_name']/'__init__.py').read_text(encoding='utf-8'), re.M)[1]

setup(
    name=cfg['dist_name'], version=version, description=cfg['description'], author=cfg['author'],
    license=cfg['license'], keywords=cfg['keywords'], python_requires=f'>={cfg["min_python"]}',
    url=f'https://github.com/{cfg["repository"]}' if cfg['repository'] else '',
    classifiers=['Framework :: Jupyter', 'Intended Audience :: Education', 'Intended Audience :: Developers',
                 'Programming Language :: Python :: 3', 'Topic :: Scientific/Engineering :: Artificial Intelligence',
                 'Topic :: Scientific/Engineering :: Image Recognition'],
    long_description=(here/'README.md').read_text(encoding='utf-8'), long_description_content_type='text/markdown',
    packages=find_packages(include=[cfg['lib_name'], f'{cfg["lib_name"]}.*']),
    package_data={cfg['lib_name']: ['templates/*.html', 'templates/*.css', 'templates/web/*', 'py.typed']},
    install_requires=cfg['requirements'].split(),
    extras_require={k.removesuffix('_requirements'): v.split() for k, v in cfg.items() if k.endswith('_requirements')},
    entry_points=dict(console_scripts=cfg['console_scripts'].split()),
)
