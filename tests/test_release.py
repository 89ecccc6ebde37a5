"What may be released: files, version, tag and changelog in step."
import release
from release import problem, section

LOG = '# Changelog\n\n## Unreleased\n\n- new\n\n## 1.2.0 (2026-11-27)\n\n### Fixed\n\n- a\n\n## 1.2.0rc1\n\n- b\n'
FILES = {'pet_classifier-1.2.0-py3-none-any.whl', 'pet_classifier-1.2.0.tar.gz'}


def test_section_of_a_version():
    assert section(LOG, '1.2.0') == '### Fixed\n\n- a' and section(LOG, '1.2.0rc1') == '- b'
    assert section(LOG, '1.2') == section(LOG, '1x2') == section(LOG, '') == ''


def test_what_is_refused():
    assert problem('1.2.0', '', LOG, FILES) == problem('1.2.0', 'v1.2.0', LOG, FILES) == ''
    assert 'expected v1.2.0' in problem('1.2.0', 'v1.2.1', LOG, FILES)
    assert 'no section' in problem('1.2.0', 'v1.2.0', LOG.replace('## 1.2.0 ', '## 1.2.0b '), FILES)
    assert 'dist has' in problem('1.2.0', '', LOG, FILES | {'pet_classifier-1.1.0.tar.gz'})


def test_the_notes_are_the_section(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(release, 'ROOT', tmp_path)
    for folder in ('dist', 'pet_classifier'): (tmp_path/folder).mkdir()
    for name in FILES: (tmp_path/'dist'/name).touch()
    (tmp_path/'pet_classifier'/'__init__.py').write_text('__version__ = "1.2.0"\n')
    (tmp_path/'CHANGELOG.md').write_text(LOG)
    release.main('v1.2.0')
    assert (tmp_path/'build'/'notes.md').read_text() == '### Fixed\n\n- a' and 'in step' in capsys.readouterr().out
