"""Writes meta.mat beside itself: an array of structures as in ImageNet's development kit, with made-up synsets.

    pip install scipy && python3 meta.py        # meta.mat is of scipy 1.17.1

Identifiers up to 3 are classes, the other is of a node above them.
"""
import pathlib

import numpy as np
import scipy.io

synsets = [
    (3, "n00000001", "ant, emmet", "a social insect", 0),
    (1, "n00000002", "bee", "a winged insect; \N{LATIN SMALL LETTER E WITH ACUTE}", 0),
    (2, "n00000003", "cat", "a feline", 0),
    (4, "n00000009", "animal", "a living thing", 3),
]
fields = ["ILSVRC2012_ID", "WNID", "words", "gloss", "num_children", "children", "wordnet_height", "num_train_images"]
array = np.zeros((len(synsets), 1), dtype=[(f, object) for f in fields])
for i, (number, wnid, words, gloss, children) in enumerate(synsets):
    below = np.array([[1.0, 2.0, 3.0]]) if children else np.zeros((1, 0))
    array[i, 0] = (float(number), wnid, words, gloss, float(children), below, float(children > 0), 2.0)
scipy.io.savemat(pathlib.Path(__file__).with_name("meta.mat"), {"before": np.eye(3), "synsets": array}, do_compression=True, long_field_names=True)
