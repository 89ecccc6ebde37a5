"A bundle whose predictions differ, shared by the tests of predictions for many files."
import pytest


@pytest.fixture(scope='module')
def bundle(tiny_dls, tiny_weights, tmp_path_factory):
    import torch

    from pet_classifier.model.bundle_writer import save_bundle
    from pet_classifier.training.learner import pet_learner
    learn = pet_learner(tiny_dls, 'test_resnet', str(tiny_weights))
    torch.manual_seed(0)
    torch.nn.init.normal_(learn.model[1][-1].weight, std=0.5)
    return save_bundle(learn, tmp_path_factory.mktemp('saved')/'model')
