"Comparing backbones: the same folds for all, differences image by image, nothing downloaded unasked."
import numpy as np
import pandas as pd
import pytest

from pet_classifier.model import pretrained
from pet_classifier.training import comparison
from pet_classifier.training.comparison import (
    COMPARISON_COLUMNS,
    SHORT_LIST,
    compare_backbones,
    is_local,
    local_backbones,
    on_pareto_front,
    paired_difference,
    plot_comparison,
    recommendation,
    weights_licence,
)


@pytest.fixture
def random_weights(monkeypatch, tiny_weights):
    "timm's test networks, with random weights, as if they were pretrained"
    def state(arch, weights):
        import timm
        return timm.create_model(arch).state_dict(), 'random'
    monkeypatch.setattr(pretrained, 'pretrained_state', state)


def test_one_row_per_backbone_and_size_the_best_first(random_weights, tiny_table):
    said = []
    archs = ['test_resnet', 'test_vit', 'test_resnet']
    result = compare_backbones(tiny_table, archs, sizes=(64,), folds=3, groups=None, say=said.append)
    assert list(result) == COMPARISON_COLUMNS and sorted(result.arch) == ['test_resnet', 'test_vit']
    assert result.error_rate.is_monotonic_increasing and result.difference[0] == result.standard_error[0] == 0
    assert (result.difference == result.error_rate - result.error_rate[0]).all() and result.pareto[0]
    assert (result.low <= result.error_rate).all() and (result.error_rate <= result.high).all()
    assert len(said) == 2 and 'test_resnet at 64 px' in said[0]


def test_all_are_evaluated_on_the_same_folds(random_weights, tiny_table, monkeypatch):
    folds, really = [], comparison.cross_validate
    def noted(*args, **kwargs):
        folds.append((result := really(*args, **kwargs)).fold)
        return result
    monkeypatch.setattr(comparison, 'cross_validate', noted)
    compare_backbones(tiny_table, ['test_resnet'], sizes=(32, 48), folds=3, groups=None)
    assert len(folds) == 2 and (folds[0] == folds[1]).all()


@pytest.mark.parametrize('archs, sizes, said', [
    ([], [32], 'expected at least one'), (['test_resnet'], [], 'expected at least one'),
    (['resnet_34'], [32], "no architecture 'resnet_34'"), (['test_vit'], [33], '33 px'),
])
def test_what_cannot_be_compared_is_refused_before_anything_is_computed(tiny_table, monkeypatch, archs, sizes, said):
    monkeypatch.setattr(comparison, 'pretrained_extractor', None)
    with pytest.raises(ValueError, match=said): compare_backbones(tiny_table, archs, sizes)


def test_only_what_is_here_is_compared_by_default(monkeypatch):
    monkeypatch.setattr(comparison, 'try_to_load_from_cache', lambda repo, name: None)
    monkeypatch.setattr(comparison.torch.hub, 'get_dir', lambda: '/nowhere')
    monkeypatch.setattr(comparison, 'packaged_weights', lambda arch: 'there' if arch == 'efficientnet_lite0' else None)
    assert local_backbones() == ['efficientnet_lite0'] and not any(map(is_local, ('resnet34', 'test_resnet', *SHORT_LIST)))
    monkeypatch.setattr(comparison, 'try_to_load_from_cache', lambda repo, name: name if 'dinov2' in repo else None)
    assert local_backbones() == ['efficientnet_lite0', 'vit_small_patch14_reg4_dinov2.lvd142m']


def test_the_short_list_is_known_to_timm_and_free_to_use():
    import timm
    assert all(timm.is_model_pretrained(arch) for arch in SHORT_LIST)
    assert {weights_licence(arch) for arch in SHORT_LIST} == {'apache-2.0'}


@pytest.mark.parametrize('arch, licence', [('efficientnet_lite2', 'apache-2.0'), ('resnet34', 'bsd-3-clause'),
                                           ('convnextv2_nano.fcmae_ft_in22k_in1k', 'cc-by-nc-4.0 (non-commercial)'),
                                           ('fastvit_t8.apple_in1k', 'fastvit-license')])
def test_licences(arch, licence): assert weights_licence(arch) == licence


def test_the_paired_difference_counts_only_where_they_differ():
    wrong = np.zeros(100, bool)
    wrong[:20] = True
    other = wrong.copy()
    other[:4] = False
    assert paired_difference(wrong, other) == pytest.approx((0.04, np.sqrt(0.04*0.96/99)))
    assert paired_difference(other, wrong)[0] == pytest.approx(-0.04)


def test_pareto_front():
    assert on_pareto_front([1, 2, 3], [3, 2, 1]).all()
    assert on_pareto_front([1, 2, 2], [1, 2, 1]).tolist() == [True, False, False]
    assert on_pareto_front([1, 1], [1, 1]).all()  # equals do not beat each other


def table(**columns):
    base = dict(arch=['slow', 'quick'], size=224, error_rate=[0.10, 0.11], low=[0.07, 0.08], high=[0.14, 0.15],
                difference=[0, 0.01], standard_error=[0, 0.02],
                seconds_per_1000=[50., 10.], megabytes=[100., 20.], licence='mit', pareto=True)
    return pd.DataFrame(base | columns)


def test_recommendation_is_the_quickest_within_one_standard_error():
    assert recommendation(table()).startswith('take quick at 224 px') and '5.0 times as long' in recommendation(table())
    assert recommendation(table(standard_error=[0, 0.005])).startswith('take slow at 224 px')
    assert recommendation(table(licence='x (non-commercial)')).endswith('its weights allow no commercial use')


def test_the_plot_names_each_backbone():
    assert [t.get_text() for t in plot_comparison(table()).axes[0].texts] == ['slow, 224 px', 'quick, 224 px']
