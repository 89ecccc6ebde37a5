"What the lessons use and a user needs: `from pet_classifier.all import *`. Everything else is imported from its module."
from .augment import default_augment  # the lesson's augmentation of training images
from .breeds import BREEDS  # the 37 breeds of the data set
from .bundle import load_bundle, save_bundle, versions  # a trained model as a folder: weights and JSON, no pickle
from .cache import cache_table, clear_cache  # what is cached on disk, and deleting it
from .calibration import calibrate, error_interval, fit_temperature, plot_reliability  # can its confidence be believed?
from .datasets import dataset, draw_sample  # a data set's folder, drawn or downloaded the first time
from .demo import page_answer, serve  # a web page to drop a photo on
from .doubts import body_features, doubtful_labels, duplicate_pairs  # label issues, and the same image twice
from .drawing import contact_sheet, draw_pet  # drawn pets
from .features import picture_features  # the frozen body's features, cached
from .gradcam import NoSpatialMaps, grad_cam  # which part of an image a prediction rests on
from .guard import BELONGS, KEYWORDS  # fastai 1's keywords, and today's
from .head import fit_head  # train the head on features computed once
from .hub import push_to_hub  # a bundle on the Hugging Face Hub
from .images import ImageProblem, check_images, list_images, open_image  # find, check and open images
from .interpret import PetInterpretation, interpret  # what the model says of labelled images
from .labels import (PETS_PATTERN, label_by_folder, label_by_function, label_by_name, label_by_path, label_from_csv,
                     label_from_df, label_from_lists, preview_pattern)  # seven label sources, one labelled table
from .learner import frozen_groups, pet_learner  # a fastai Learner with a pretrained body
from .loaders import loaders  # fastai DataLoaders over a labelled table
from .lr import SuggestedRate, find_lr  # suggest a learning rate, and plot why
from .onnx_file import export_onnx  # the model as one ONNX file
from .pixels import read_square  # an image as the network sees it
from .predict import Prediction, Predictor  # predict with a bundle
from .progress import history  # one row per epoch
from .report import write_report  # the report of a run
from .run import labelled_table, train_run  # a whole run from a folder of images
from .scale import predict_on_ray  # predict on all cores, or on a cluster
from .sources import labelled_images  # how a folder or a file of labels becomes a labelled table
from .space import write_space  # a Hugging Face Space with the web page
from .splits import load_split, official_split, random_split, save_split, split_summary  # training and validation
from .tables import predict_table  # predictions of very many images as a table
from .training import fine_tune, group_rates, load_stage, save_stage  # unfreeze, train, save and go back
from .unknown import none_threshold  # from which logit on an image is none of the classes
