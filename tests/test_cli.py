"The command line: what it prints and where, its exit codes, and an error that is one line."
import json
import os
import re
import shutil
import subprocess
import sys
from io import StringIO

import pandas as pd
import pytest
from PIL import Image
from safetensors.torch import load_file

from pet_classifier.check import labelled_images
from pet_classifier.cli import main
from pet_classifier.data.corrections import Corrections
from pet_classifier.options import parse_lr, parse_sizes

COMMANDS = ['sample', 'check', 'train', 'find-lr', 'predict', 'evaluate', 'report', 'compare', 'suggest', 'export', 'scale',
            'push', 'demo', 'web', 'cache']


@pytest.fixture
def cli(capsys):
    "A function that runs a command; gives the exit code, what was printed, and the errors, which never hold a traceback"
    def cli(*args):
        capsys.readouterr()
        code = main([str(a) for a in args])
        out, err = capsys.readouterr()
        err = re.sub('^note: .*\n', '', err, flags=re.M)  # how the labels were read
        assert 'Traceback' not in out + err and err.count('error: ') == (code == 2)
        return code, out, err
    return cli


@pytest.fixture(scope='module')
def bundle(tiny_run): return tiny_run.out/'model'


def rows(text): return pd.read_csv(StringIO(text), keep_default_na=False)


def test_help_needs_no_torch_and_lists_every_command():
    code = ('import sys; from pet_classifier.cli import main; code = main(["--help"]); '
            'print("LOADED", [m for m in ("torch", "fastai", "timm", "pandas", "matplotlib") if m in sys.modules], code)')
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stdout.endswith('LOADED [] 0\n') and not done.stderr
    assert all(f'\n  {command} ' in done.stdout for command in COMMANDS)


@pytest.mark.parametrize('command', COMMANDS)
def test_each_command_has_help(cli, command):
    code, out, err = cli(command, '--help')
    assert code == 0 and out.startswith(f'Usage: pet-classifier {command} ') and not err


@pytest.mark.parametrize('args, said', [
    ([], 'Missing command'), (['predcit'], "No such command 'predcit'"), (['predict'], "Missing argument 'bundle'"),
    (['train', 'data'], "Missing option '--out'"), (['train', 'data', '--out', 'o', '--size', '31'], '--size 31'),
    (['train', 'data', '--out', 'o', '--head-epochs', '0'], "'--head-epochs'"),
    (['train', 'data', '--out', 'o', '--epochs', '-1'], "'--epochs'"),
    (['check', 'data', '--nonsense'], 'No such option: --nonsense'), (['predict', 'b', 'i', '--top', '0'], "'--top'"),
])
def test_wrong_words_are_an_error_in_one_line(cli, args, said):
    code, out, err = cli(*args)
    assert code == 2 and not out and err.startswith('error: ') and said in err and err.count('\n') == 1


@pytest.mark.parametrize('text, sizes', [('224', [224]), ('224,288', [224, 288]), (' 64 , 32 ', [32, 64])])
def test_parse_sizes(text, sizes): assert parse_sizes(text) == sizes


@pytest.mark.parametrize('text', ['', 'large', '224,', '31', '224,2000', '224:288'])
def test_parse_sizes_refuses_what_is_no_size(text):
    with pytest.raises(ValueError, match='expected 32 to 1024 pixels'): parse_sizes(text)


@pytest.mark.parametrize('text, lr', [('1e-3', 1e-3), ('1e-6:1e-4', slice(1e-6, 1e-4)), (' 1 : 2 ', slice(1, 2))])
def test_parse_lr(text, lr): assert parse_lr(text) == lr


@pytest.mark.parametrize('text', ['', ':', '1e-6:', ':1e-4', '1:2:3', 'fast', '1e-6-1e-4'])
def test_what_is_no_rate_is_refused(cli, text):
    with pytest.raises(ValueError, match='expected LO:HI such as 1e-6:1e-4, or one number'): parse_lr(text)
    assert cli('train', 'nowhere', '--out', 'o', '--lr', text)[0] == 2


def test_sample_draws_into_a_new_folder_only(cli, tmp_path, monkeypatch):
    monkeypatch.setattr('pet_classifier.data.drawing.draw_pet', lambda breed, seed: Image.new('RGB', (8, 8)))
    code, out, _ = cli('sample', tmp_path/'s', '--per-breed', 1)
    assert code == 0 and out == f'37 drawn pets in {tmp_path/"s"}\n' and len(list((tmp_path/'s').iterdir())) == 37
    code, out, err = cli('sample', tmp_path/'s')
    assert code == 2 and not out and 'is not empty' in err


def test_check_of_good_images_only_counts_them(cli, tiny_folder):
    code, out, err = cli('check', tiny_folder)
    assert (code, err) == (0, '18 images of 3 classes, 6 to 6 images each; nothing to report\n')
    assert rows(out).problem.tolist() == ['blue: 6 images', 'green: 6 images', 'red: 6 images']
    assert cli('check', tiny_folder, '--quick') == (0, out, err)


def test_check_of_very_many_images_leaves_the_network_out_and_says_so(cli, tiny_folder, monkeypatch):
    monkeypatch.setattr('pet_classifier.check._FULL_UP_TO', 17)
    asked = []
    monkeypatch.setattr('pet_classifier.check.pretrained_features', lambda files: asked.append(len(files)))
    code, _, err = cli('check', tiny_folder)
    assert code == 0 and not asked
    assert err.startswith('more than 17 images: skipping cropped copies and label issues; --full')
    assert 'more than' not in cli('check', tiny_folder, '--full')[2] and asked == [18]


def test_check_shows_a_label_that_is_doubtful_but_it_is_an_opinion(cli, tiny_folder, monkeypatch):
    def doubts(table, features):
        assert len(features) == len(table)
        file = table.file[table.label == 'blue'].tolist()[:2]
        return pd.DataFrame(dict(file=file, label='blue', self_confidence=[0.01, 0.3], predicted_label='red',
                                 predicted_probability=[0.9, 0.5], is_issue=[True, False]))
    monkeypatch.setattr('pet_classifier.check.find_label_issues', doubts)
    code, out, err = cli('check', tiny_folder)
    assert code == 0 and err.endswith('label issue: 1\n')
    assert rows(out).problem[0] == 'labelled blue, looks more like red, 0.90 to 0.01'


def test_check_reports_everything_in_one_table(cli, tiny_folder, tmp_path):
    folder = tmp_path/'data'
    shutil.copytree(tiny_folder, folder)
    shutil.copy(folder/'red_0.jpg', folder/'blue_77.jpg')
    (folder/'red_99.jpg').write_text('no image')
    Image.open(folder/'red_1.jpg').rotate(90).save(folder/'red_98.jpg', 'GIF')
    (folder/'notes.txt').touch()
    code, out, err = cli('check', folder, '--quick', '--out', tmp_path/'all.csv')
    table = rows(out)
    assert code == 1 and err == ('20 images of 3 classes, 6 to 7 images each; broken: 1, duplicate: 1, format: 1, left out: 1\n')
    assert table.kind.tolist() == ['broken', 'duplicate', 'format', 'left out', 'count', 'count', 'count']
    assert table.file.tolist()[:4] == [str(folder/f) for f in ('red_99.jpg', 'red_0.jpg', 'red_98.jpg', 'notes.txt')]
    assert table.problem[1] == f'looks the same as {folder/"blue_77.jpg"}, which is labelled blue, not red'
    assert table.problem[2] == 'a GIF, though its name ends in .jpg' and table.problem[6] == 'red: 7 images'
    assert (tmp_path/'all.csv').read_text() == out
    assert cli('check', folder, '--quick', '--out', tmp_path/'all.json') == (code, out, err)
    assert pd.DataFrame(json.loads((tmp_path/'all.json').read_text())).equals(table)


@pytest.mark.skipif((labelled_images.__doc__ or '').startswith('A stand-in'), reason='comes with `sources`')
def test_check_goes_on_behind_names_without_a_label(cli, tiny_folder, tmp_path):
    folder = tmp_path/'data'
    shutil.copytree(tiny_folder, folder)
    for name in 'stray.jpg', 'other one.jpg': shutil.copy(folder/'red_0.jpg', folder/name)
    (folder/'red_99.jpg').touch()
    code, out, err = cli('check', folder, '--quick')
    assert code == 1 and {'broken', 'name', 'count'} <= set(rows(out).kind) and rows(out).kind.value_counts()['name'] == 2


def test_check_cuts_long_lists_with_a_count_and_writes_them_whole(cli, tiny_folder, tmp_path):
    folder = tmp_path/'data'
    shutil.copytree(tiny_folder, folder)
    for i in range(30): (folder/f'red_{100+i}.jpg').touch()
    code, out, _ = cli('check', folder, '--quick', '--out', tmp_path/'all.csv')
    table = rows(out)
    assert code == 1 and table.kind.value_counts()['broken'] == 21
    assert table[table.kind == 'broken'].iloc[-1].tolist() == ['broken', '... and 10 more', '--out FILE.csv has all']
    assert rows((tmp_path/'all.csv').read_text()).kind.value_counts()['broken'] == 30


@pytest.mark.parametrize('args, said', [
    (['check', 'nowhere'], "nowhere' is neither a folder nor a data set"),
    (['train', '{data}', '--out', '{tmp}/out', '--pattern', '(\\d+)x'], '18 of 18 names do not match'),
    (['check', '{data}', '--pattern', '('], 'is not a regular expression'),
    (['train', 'nowhere', '--out', '{tmp}/out'], 'neither a folder'),
    (['train', '{data}', '--out', '{data}'], 'is not empty; a run never overwrites another'),
    (['train', '{data}', '--out', '{tmp}/out', '--arch', 'resnet43'], 'similar names: resnet'),
    (['train', '{data}', '--out', '{tmp}/out', '--lr', '1:0'], 'expected a rate above 0'),
    (['train', '{data}', '--out', '{tmp}/out', '--lr', 'nan'], 'expected a rate above 0'),
    (['train', '{data}', '--out', '{tmp}/out', '--weights', 'w.pth'], 'no weights file w.pth'),
    (['train', '{data}', '--out', '{tmp}/out', '--split', 's.csv'], 's.csv'),
    (['check', '{data}', '--out', '{tmp}/x.txt'], "'x.txt': expected a name that ends in .csv or .json"),
    (['check', '{data}', '--out', '{tmp}'], 'expected a name that ends in .csv or .json'),
    (['export', '{bundle}', '--onnx', '{tmp}'], 'expected a name that ends in .onnx'),
    (['export', '{bundle}'], 'nothing to write: give --onnx FILE.onnx, --openvino DIR, or both'),
    (['export', '{bundle}', '--openvino', '{data}'], 'is not an OpenVINO model'),
    (['export', '{bundle}', '--onnx', '{tmp}/a.onnx', '--pattern', 'x'], 'give --int8 DATA, too'),
    (['export', '{bundle}', '--onnx', '{tmp}/a.onnx', '--force'], 'give --int8 DATA, too'),
    (['export', '{bundle}', '--openvino', '{tmp}/a', '--int8', '{data}'], 'give --onnx FILE.onnx, too'),
    (['export', '{bundle}', '--onnx', '{tmp}/a.onnx', '--int8', 'nowhere'], 'neither a folder'),
    (['export', '{bundle}', '--onnx', '{tmp}/a.onnx', '--int8', '{data}', '--pattern', '(_)'], 'two classes'),
    (['find-lr', '{data}', '--out', '{tmp}/x.jpg'], 'expected a name that ends in .png'),
    (['find-lr', '{data}', '--arch', 'resnet43'], 'similar names: resnet'),
    (['predict', '{tmp}', '{data}'], 'not a bundle'),
    (['predict', '{bundle}', '{tmp}'], 'no image in'),
    (['predict', '{bundle}', '{data}', '--top', '4'], 'top=4: expected 1 to 3'),
    (['predict', '{bundle}', '{data}', '--engine', 'caffe'], "engine='caffe': expected one of auto, torch, openvino, onnx"),
    (['predict', 'nowhere', '{data}', '--out', '{tmp}/rows.txt'], "'rows.txt': expected a name that ends in .csv or .parquet"),
    (['predict', '{bundle}', '{data}/*.jpeg'], 'no file matches'),
    (['predict', '{bundle}', '{data}', '--top', '4', '--out', '{tmp}/rows.csv'], 'top=4: expected 1 to 3'),
    (['predict', '{bundle}', '{data}', '--out', '{data}'], 'expected a name that ends in'),
    (['predict', '{bundle}', '{data}', '--csv', '{data}/red_0.jpg/x.csv'], 'x.csv'),
    (['evaluate', '{bundle}', 'nowhere'], 'neither a folder'),
    (['evaluate', '{tmp}', '{data}'], 'not a bundle'),
    (['evaluate', '{bundle}', '{data}', '--pattern', '_(\\d)'], 'no label is one of the 3 classes of this bundle'),
    (['predict', '{bundle}', '{data}', '--device', 'cuda:99'], 'such GPUs here'),
    *[([*command, '--device', 'gpu'], "device='gpu': expected 'cpu', 'cuda', 'cuda:1' or 'mps'") for command in (
        ['train', '{data}', '--out', '{tmp}/out'], ['find-lr', '{data}'], ['predict', '{bundle}', '{data}'],
        ['evaluate', '{bundle}', '{data}'], ['suggest', '{bundle}', '{data}'], ['demo', '{bundle}'])],
])
@pytest.mark.slow
def test_what_cannot_be_done_is_an_error_and_leaves_nothing(cli, tiny_folder, bundle, tmp_path, args, said):
    code, out, err = cli(*[a.format(data=tiny_folder, tmp=tmp_path, bundle=bundle) for a in args])
    assert code == 2 and err.startswith('error: ') and said in err
    assert not any(tmp_path.iterdir())


def test_a_torn_weights_file_is_an_error_in_one_line(cli, tiny_folder, tmp_path):
    (tmp_path/'w.safetensors').write_text('torn')
    words = '--out', tmp_path/'out', '--weights', tmp_path/'w.safetensors', '--arch', 'test_resnet'
    code, _, err = cli('train', tiny_folder, *words)
    assert code == 2 and 'w.safetensors' in err


@pytest.mark.slow
def test_train_does_what_train_run_does(cli, tiny_run, tiny_weights, tmp_path):
    out = tmp_path/'run'
    code, said, err = cli('train', tiny_run.data, '--out', out, '--arch', 'test_resnet', '--weights', tiny_weights, '--size', 32,
                          '--head-epochs', 3, '--epochs', 1, '--lr', '1e-4:1e-3')
    assert code == 0 and not err
    assert 'left out: red_90.jpg: not an image' in said
    assert said.startswith('loading PyTorch and fastai\n')
    assert said.endswith(f'report:  {out/"report.html"}\nfigures: {out/"figures"}\nmodel:   {out/"model"}\n')
    metrics = json.loads((out/'metrics.json').read_text())
    own = 'seconds', 'created', 'command'
    assert {k: v for k, v in metrics.items() if k not in own} == {k: v for k, v in tiny_run.metrics.items() if k not in own}
    assert metrics['command'].startswith(f'pet-classifier train {tiny_run.data} --out {out} --arch test_resnet --size 32 ')
    one, other = (load_file(o/'model'/'model.safetensors') for o in (out, tiny_run.out))
    assert all((v - other[k]).abs().max() <= 1e-6 for k, v in one.items())


@pytest.mark.slow
def test_find_lr_prints_a_rate_and_draws_the_plot(cli, tiny_folder, tiny_weights, tmp_path):
    args = 'find-lr', tiny_folder, '--arch', 'test_resnet', '--weights', tiny_weights, '--size', 32
    code, out, err = cli(*args, '--out', tmp_path/'lr.png')
    assert code == 0 and 1e-7 < float(out) < 10 and not err
    with Image.open(tmp_path/'lr.png') as im: assert im.format == 'PNG'
    assert [f.name for f in tmp_path.iterdir()] == ['lr.png']
    assert cli(*args)[1] == out and [f.name for f in tmp_path.iterdir()] == ['lr.png']


def test_predict_prints_a_row_an_image(cli, bundle, tiny_folder):
    code, out, err = cli('predict', bundle, tiny_folder/'red_1.jpg', tiny_folder, tiny_folder/'blue_0.jpg')
    table = rows(out)
    assert code == 0 and not err and len(table) == 18
    assert list(table) == ['file', 'label', 'probability', 'none_of_these', 'problem']
    in_folder = sorted(map(str, tiny_folder.iterdir()))
    first = str(tiny_folder/'red_1.jpg')
    assert table.file.tolist() == [first, *(f for f in in_folder if f != first)]  # each once
    assert set(table.label) <= {'red', 'green', 'blue'} and (table.problem == '').all()
    assert table.probability.between(1/3, 1).all()


def test_predict_evaluate_and_suggest_compute_on_the_device(cli, bundle, tiny_folder, monkeypatch):
    monkeypatch.setattr('fastai.torch_core._has_mps', lambda: pytest.fail('the best device was looked for'))
    monkeypatch.setattr('torch.cuda.is_available', lambda: pytest.fail('the best device was looked for'))
    for command in 'predict', 'evaluate', 'suggest': assert cli(command, bundle, tiny_folder, '--device', 'cpu')[0] == 0


def test_predict_top_has_two_columns_more_for_each_class(cli, bundle, tiny_folder):
    _, out, _ = cli('predict', bundle, tiny_folder, '--top', 3)
    table = rows(out)
    assert list(table) == ['file', 'label', 'probability', 'label2', 'probability2', 'label3', 'probability3',
                           'none_of_these', 'problem']
    assert (table.probability >= table.probability2).all() and (table.probability2 >= table.probability3).all()
    assert all({a, b, c} == {'red', 'green', 'blue'} for a, b, c in zip(table.label, table.label2, table.label3))


def test_predict_csv_writes_what_it_would_print(cli, bundle, tiny_folder, tmp_path):
    _, printed, _ = cli('predict', bundle, tiny_folder)
    code, out, err = cli('predict', bundle, tiny_folder, '--csv', tmp_path/'new'/'rows.csv')
    assert code == 0 and not out and not err and (tmp_path/'new'/'rows.csv').read_text() == printed


def test_predict_takes_patterns_and_writes_parquet(cli, bundle, tiny_folder, tmp_path):
    _, printed, _ = cli('predict', bundle, tiny_folder/'red_*.jpg', '--top', 2)
    code, out, err = cli('predict', bundle, tiny_folder/'red_*.jpg', '--top', 2, '--out', tmp_path/'rows.parquet')
    table = pd.read_parquet(tmp_path/'rows.parquet')
    assert code == 0 and not out and not err and len(table) == 6 and [f.name for f in tmp_path.iterdir()] == ['rows.parquet']
    assert table.to_csv(index=False) == printed


def test_a_name_that_is_no_utf8_is_printed_and_written(cli, bundle, tiny_folder, tmp_path):
    odd = tmp_path/os.fsdecode(b'caf\xe9.jpg')
    try: odd.write_bytes((tiny_folder/'red_0.jpg').read_bytes())
    except OSError: pytest.skip('this disk refuses such names')
    assert 'caf\\xe9.jpg,' in cli('predict', bundle, odd)[1]
    assert cli('predict', bundle, tmp_path, '--csv', tmp_path/'rows.csv')[0] == 0
    assert b'caf\xe9.jpg,' in (tmp_path/'rows.csv').read_bytes()


def test_a_broken_image_is_a_row_and_exit_code_1(cli, bundle, tiny_folder, tmp_path):
    (tmp_path/'a.jpg').touch()
    for more in [], ['--csv', tmp_path/'rows.csv']:
        code, out, _ = cli('predict', bundle, tmp_path/'a.jpg', tiny_folder/'red_0.jpg', tmp_path/'gone.jpg', *more)
        table = rows((tmp_path/'rows.csv').read_text() if more else out)
        assert code == 1 and table.problem.tolist() == ['empty', '', 'not found']
        assert [bool(x) for x in table.label] == [p != '' for p in table.probability] == [False, True, False]


def test_evaluate_agrees_with_predict(cli, bundle, tiny_folder):
    code, out, err = cli('evaluate', bundle, tiny_folder)
    table, said = rows(out), rows(cli('predict', bundle, tiny_folder)[1])
    wrong = sum(not file.rsplit('/')[-1].startswith(f'{label}_') for file, label in zip(said.file, said.label))
    assert code == 0 and ', 0 left out\n' in err
    assert err.startswith(f'error rate {wrong/18:.1%} on 18 images (95 % confidence interval: ')
    assert table.breed.tolist() == ['blue', 'green', 'red'] and table.support.tolist() == [6]*3 and table.errors.sum() == wrong


def test_evaluate_with_broken_images_is_exit_code_1(cli, bundle, tiny_run):
    code, out, err = cli('evaluate', bundle, tiny_run.data)
    assert code == 1 and ' on 18 images (' in err and ', 2 left out\n' in err and rows(out).support.sum() == 18


def test_a_terminal_gets_an_aligned_table(cli, bundle, tiny_folder, monkeypatch):
    monkeypatch.setattr(sys.stdout, 'isatty', lambda: True)
    _, out, _ = cli('evaluate', bundle, tiny_folder)
    head, *lines = out.splitlines()
    assert head.split() == ['breed', 'precision', 'recall', 'support', 'errors'] and len(lines) == 3
    assert {len(line) for line in lines} == {len(head)}


@pytest.mark.parametrize('name', ['sample', 'check'])
def test_an_interrupt_is_no_traceback(cli, monkeypatch, tmp_path, name):
    def interrupt(*args, **kwargs): raise KeyboardInterrupt
    monkeypatch.setattr('pet_classifier.data.datasets.draw_sample', interrupt)
    monkeypatch.setattr('pet_classifier.check.labelled_images', interrupt)
    code, out, err = cli(name, tmp_path)
    assert code == 130 and not out and err.strip() in ('', 'interrupted')


def test_compare_prints_one_row_per_size_and_a_recommendation(cli, tiny_folder, tmp_path, monkeypatch):
    import timm

    from pet_classifier.model import pretrained
    from pet_classifier.training import comparison
    monkeypatch.setattr(pretrained, 'pretrained_state', lambda arch, weights: (timm.create_model(arch).state_dict(), 'random'))
    really = comparison.cross_validate
    monkeypatch.setattr(comparison, 'cross_validate', lambda *args, **kwargs: really(*args, **(kwargs | dict(groups=None))))
    code, out, err = cli('compare', tiny_folder, '--arch', 'test_resnet', '--size', '32,48')
    assert code == 0 and sorted(rows(out)['size']) == [32, 48] and err.splitlines()[-1].startswith('take test_resnet at ')
    code, out, err = cli('compare', tiny_folder, '--arch', 'test_resnet', '--size', '32', '--out', tmp_path/'found.csv')
    assert code == 0 and not out and len(pd.read_csv(tmp_path/'found.csv')) == 1 and (tmp_path/'found.png').is_file()
    data = shutil.copytree(tiny_folder, tmp_path/'data')
    (data/'red_91.jpg').write_text('not an image')
    code, out, err = cli('compare', data, '--arch', 'test_resnet', '--size', '32')
    assert code == 1 and '1 images cannot be read and are left out' in err and 'red_91.jpg' in err


@pytest.mark.parametrize('args, said', [(['--size', 'large'], '--size large'), (['--out', 'found.xlsx'], 'ends in .csv'),
                                        (['--arch', 'resnet_34'], "no architecture 'resnet_34'")])
def test_compare_refuses_what_it_cannot_do(cli, tiny_folder, args, said):
    code, out, err = cli('compare', tiny_folder, *args)
    assert code == 2 and not out and said in err


def test_suggest_prints_or_writes_n_rows_and_names_what_is_broken(cli, bundle, tiny_folder, tmp_path):
    code, out, err = cli('suggest', bundle, tiny_folder, '--n', 4)
    assert code == 0 and len(rows(out)) == 4 and not err
    assert list(rows(out)) == ['file', 'predicted_label', 'probability', 'reason']
    shutil.copytree(tiny_folder, tmp_path/'new')
    (tmp_path/'new'/'broken.jpg').touch()
    code, out, err = cli('suggest', bundle, tmp_path/'new', '--n', 3, '--out', tmp_path/'next.csv')
    assert code == 1 and not out and len(pd.read_csv(tmp_path/'next.csv')) == 3 and '1 of 19 images cannot be read' in err
    (tmp_path/'empty').mkdir()
    assert cli('suggest', bundle, tmp_path/'empty')[0] == 2


@pytest.fixture
def corrections(tiny_folder, tmp_path):
    log = Corrections(tmp_path/'corrections.csv', tiny_folder)
    log.append('red_0.jpg', 'red', 'relabel', 'green')
    log.append('red_1.jpg', 'red', 'exclude')
    return log


def test_evaluate_check_and_compare_apply_corrections(cli, bundle, tiny_folder, corrections, capsys, monkeypatch):
    monkeypatch.setattr('pet_classifier.training.comparison.compare_backbones',
                        lambda table, *args, **kwargs: pd.DataFrame(dict(n=[len(table)], red=[(table.label == 'red').sum()])))
    monkeypatch.setattr('pet_classifier.training.comparison.recommendation', lambda result: 'none')
    code, out, err = cli('evaluate', bundle, tiny_folder, '--corrections', corrections.path)
    assert code == 0 and 'on 17 images' in err
    code, out, _ = cli('compare', tiny_folder, '--arch', 'a', '--corrections', corrections.path)
    assert code == 0 and rows(out).iloc[0].tolist() == [17, 4]
    code, out, _ = cli('check', tiny_folder, '--quick', '--corrections', corrections.path)
    assert code == 0 and {'red: 4 images', 'green: 7 images'} <= {*rows(out).problem}
    main(['evaluate', str(bundle), str(tiny_folder), '--corrections', str(corrections.path)])
    assert "note: 'corrections.csv': 1 label corrected, 1 image excluded" in capsys.readouterr().err


def test_check_reports_stale_corrections(cli, tiny_folder, corrections):
    corrections.append('gone.jpg', 'red', 'keep')
    code, out, _ = cli('check', tiny_folder, '--quick', '--corrections', corrections.path)
    assert code == 1 and ('correction', 'gone.jpg') in set(zip(rows(out).kind, rows(out).file))


def test_train_hands_corrections_on(cli, tiny_folder, tmp_path, monkeypatch):
    given = {}
    monkeypatch.setattr('pet_classifier.run.train_run', lambda *args, **kwargs: given.update(kwargs))
    assert cli('train', tiny_folder, '--out', tmp_path/'run', '--corrections', 'c.csv')[0] == 0
    assert str(given['corrections']) == 'c.csv'


@pytest.mark.parametrize('file, said', [('nowhere.csv', 'no file of corrections'), ('l.csv', 'is not a file of corrections')])
def test_corrections_that_are_none_are_exit_code_2(cli, bundle, tiny_folder, tmp_path, file, said):
    (tmp_path/'l.csv').write_text('file,label\na.jpg,cat\n')
    code, _, err = cli('evaluate', bundle, tiny_folder, '--corrections', tmp_path/file)
    assert code == 2 and said in err
