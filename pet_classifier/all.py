"What the lessons use and a user needs: `from pet_classifier.all import *`. Everything else is imported from its module."
from .data.augment import default_augment  # the lesson's augmentation of training images
from .data.breeds import BREEDS  # the 37 breeds of the data set
from .data.datasets import dataset, draw_sample  # a data set's folder, drawn or downloaded the first time
from .data.drawing import contact_sheet, draw_pet  # drawn pets
from .data.images import check_images, ImageProblem, list_images, open_image  # find, check and open images
from .data.labels import (  # seven label sources, one labelled table
    label_by_folder, label_by_function, label_by_name, label_by_path, label_from_csv, label_from_df,
    label_from_lists, PETS_PATTERN, preview_pattern,
)
from .data.loaders import loaders  # fastai DataLoaders over a labelled table
from .data.crops import load_image  # an image as the network sees it
from .data.sources import labelled_images  # how a folder or a file of labels becomes a labelled table
from .data.splits import load_split, official_split, random_split, save_split, split_summary  # training and validation
from .model.bundle import load_bundle  # a trained model from a folder of weights and JSON
from .model.bundle_writer import save_bundle, versions  # a trained model as such a folder, without pickle
from .model.pretrained import pretrained_features  # features by a pretrained body, cached
from .model.gradcam import grad_cam, NoSpatialMaps  # which part of an image a prediction rests on
from .evaluation.calibration import (  # can its confidence be believed?
    calibrate, error_interval, fit_temperature, plot_reliability,
)
from .evaluation.label_issues import duplicate_pairs, find_label_issues  # label issues, and the same image twice
from .evaluation.interpretation import interpret, PetInterpretation  # what the model says of labelled images
from .evaluation.ood import ood_threshold  # from which logit on an image is none of the classes
from .training.learner_features import image_features  # features by the body of a learner, cached
from .training.cross_validation import cross_validate  # the error on every image, by heads that did not see it
from .training.head import fit_head  # train the head on features computed once
from .training.learner import frozen_groups, pet_learner  # a fastai Learner with a pretrained body
from .training.lr_finder import find_lr, SuggestedRate  # suggest a learning rate, and plot why
from .training.fine_tuning import fine_tune, group_rates, load_stage, save_stage  # unfreeze, train, save and go back
from .deploy.demo import page_answer, serve  # a web page to drop a photo on
from .deploy.hub import push_to_hub  # a bundle on the Hugging Face Hub
from .deploy.onnx import export_onnx  # the model as one ONNX file
from .deploy.predictions import Prediction  # a label, its probability, and those of all classes
from .deploy.predictor import Predictor  # predict with a bundle
from .deploy.scale import predict_on_ray  # predict on all cores, or on a cluster
from .deploy.space import write_space  # a Hugging Face Space with the web page
from .deploy.tables import predict_table  # predictions of very many images as a table
from .deploy.suggestion import suggest_images  # which unlabelled images to label next
from .training.comparison import compare_backbones  # cross-validated error and cost of several backbones
from .training.learning_curve import learning_curve  # would more images help?
from .core.cache import cache_table, clear_cache  # what is cached on disk, and deleting it
from .core.keywords import BELONGS, KEYWORDS  # fastai 1's keywords, and today's
from .core.progress import history  # one row per epoch
from .report import write_report  # the report of a run
from .run import labelled_table, train_run  # a whole run from a folder of images
