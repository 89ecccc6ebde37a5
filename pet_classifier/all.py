"What the lessons use and a user needs: `from pet_classifier.all import *`. Everything else is imported from its module."
from .data.augment import default_augment  # the lesson's augmentation of training images
from .data.breeds import BREEDS  # the 37 breeds of the data set
from .model.bundle import load_bundle, save_bundle, versions  # a trained model as a folder: weights and JSON, no pickle
from .core.cache import cache_table, clear_cache  # what is cached on disk, and deleting it
from .evaluation.calibration import calibrate, error_interval, fit_temperature, plot_reliability  # can its confidence be believed?
from .data.datasets import dataset, draw_sample  # a data set's folder, drawn or downloaded the first time
from .deploy.demo import page_answer, serve  # a web page to drop a photo on
from .evaluation.label_issues import body_features, doubtful_labels, duplicate_pairs  # label issues, and the same image twice
from .data.drawing import contact_sheet, draw_pet  # drawn pets
from .model.features import picture_features  # the frozen body's features, cached
from .model.gradcam import NoSpatialMaps, grad_cam  # which part of an image a prediction rests on
from .core.keywords import BELONGS, KEYWORDS  # fastai 1's keywords, and today's
from .training.head import fit_head  # train the head on features computed once
from .deploy.hub import push_to_hub  # a bundle on the Hugging Face Hub
from .data.images import ImageProblem, check_images, list_images, open_image  # find, check and open images
from .evaluation.interpretation import PetInterpretation, interpret  # what the model says of labelled images
from .data.labels import (PETS_PATTERN, label_by_folder, label_by_function, label_by_name, label_by_path, label_from_csv,
                     label_from_df, label_from_lists, preview_pattern)  # seven label sources, one labelled table
from .training.learner import frozen_groups, pet_learner  # a fastai Learner with a pretrained body
from .data.loaders import loaders  # fastai DataLoaders over a labelled table
from .training.lr_finder import SuggestedRate, find_lr  # suggest a learning rate, and plot why
from .deploy.onnx import export_onnx  # the model as one ONNX file
from .data.crops import read_square  # an image as the network sees it
from .deploy.predictor import Prediction, Predictor  # predict with a bundle
from .core.progress import history  # one row per epoch
from .report import write_report  # the report of a run
from .run import labelled_table, train_run  # a whole run from a folder of images
from .deploy.scale import predict_on_ray  # predict on all cores, or on a cluster
from .data.sources import labelled_images  # how a folder or a file of labels becomes a labelled table
from .deploy.space import write_space  # a Hugging Face Space with the web page
from .data.splits import load_split, official_split, random_split, save_split, split_summary  # training and validation
from .deploy.tables import predict_table  # predictions of very many images as a table
from .training.fine_tuning import fine_tune, group_rates, load_stage, save_stage  # unfreeze, train, save and go back
from .evaluation.ood import none_threshold  # from which logit on an image is none of the classes
