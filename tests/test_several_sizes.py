"A run with several sizes, from the command line to the report: what it was asked for, what came out, and going on with it."
import json

import pytest

from pet_classifier.model.bundle import load_bundle
from pet_classifier.options import parse_size
from pet_classifier.run import train_run
from pet_classifier.runs.config import RunConfig
from pet_classifier.runs.results import read_metrics


@pytest.mark.parametrize('text, size', [('224', 224), ('224,352', (224, 352)), ('352,224', (224, 352)), ('32, 1024', (32, 1024))])
def test_sizes_of_the_command_line(text, size): assert parse_size(text) == size


@pytest.mark.parametrize('text', ['', '31', '1025', '224,', '224,224', '224x352', '-224', '1e2', '32,2000'])
def test_what_is_no_size_is_named(text):
    with pytest.raises(ValueError, match=f'--size {text}: expected 32 to 1024 pixels'): parse_size(text)


def test_the_command_line_that_makes_the_run_names_all_sizes():
    assert '--size 224,352' in RunConfig(size=(352, 224)).command('data', 'out')
    assert RunConfig(size=(224,)).options() == RunConfig(size=224).options()


def test_a_run_with_two_sizes_says_so_everywhere_and_is_finished_when_asked_again(tiny_folder, tiny_weights, tmp_path):
    out, said = tmp_path/'run', []
    asked = dict(arch='test_resnet', weights=str(tiny_weights), size=(48, 32), epochs=0)
    metrics = train_run(tiny_folder, out, say=said.append, **asked)
    assert (metrics['size'], metrics['sizes'], read_metrics(out)['sizes']) == (48, [32, 48], [32, 48])
    assert json.loads((out/'run.json').read_text())['options']['--size'] == '32,48'
    assert load_bundle(out/'model').model.sizes == (32, 48)
    for name in 'report.html', 'model/README.md': assert '32 x 32 and 48 x 48 pixels' in (out/name).read_text()
    again = train_run(tiny_folder, out, say=said.append, resume=True, **asked | dict(size=(32, 48)))
    assert again == metrics and 'nothing is left to do' in said[-1]
    with pytest.raises(ValueError, match='--size'):
        train_run(tiny_folder, out, say=said.append, resume=True, **asked | dict(size=48))
