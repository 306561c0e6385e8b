"""Single examples as a person looks at them."""

import base64
import io

import numpy as np
import pandas as pd
from PIL import Image

from dptrain.config import compose
from dptrain.data import splits
from dptrain.data.shown import image, shown
from dptrain.pipeline.plan import plan


def of(overrides, places, tmp_path):
    ready = plan(compose.load("sweep", [*overrides, f"output={tmp_path / 'out'}"]))
    config = ready.config
    dataset = splits.load(ready.source, config.dataset, config.seed)
    rows, _, _ = splits.parts(config.dataset, config.seed, ready.source)
    return dataset, shown(ready.source, dataset, rows, places)


def test_images_are_the_bytes_of_the_data_set(tmp_path):
    dataset, examples = of(["dataset=mnist5k"], [0, 5], tmp_path)
    for place, example in examples.items():
        drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(example["image"]))))
        assert drawn.shape == (28, 28)
        assert drawn.max() > 200
        assert drawn.min() == 0
        assert example["label"] == str(dataset.pool.labels[place])
        inputs = dataset.pool.inputs[place, 0]
        assert np.corrcoef(drawn.ravel(), inputs.ravel())[0, 1] > 0.999


def test_colours_stay_in_their_places():
    pixels = np.zeros((3, 2, 2))
    pixels[2] = 1
    drawn = np.asarray(Image.open(io.BytesIO(base64.b64decode(image(pixels)))))
    assert drawn[0, 0].tolist() == [0, 0, 255]


def test_rows_are_those_of_the_file(tmp_path):
    rng = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "age": rng.integers(20, 90, 300),
            "town": rng.choice(["x", "y", "z"], 300),
            "ill": rng.choice(["no", "yes"], 300),
        }
    )
    frame.loc[::7, "ill"] = None  # rows that cannot be used shift all others
    frame.to_csv(tmp_path / "t.csv", index=False)
    overrides = [
        *("dataset=csv", f"dataset.path={tmp_path / 't.csv'}", "dataset.target=ill"),
        *("dataset.pool=100", "dataset.population=40", "dataset.test=40"),
        *("model=logistic", "training.batch_size=16"),
    ]
    dataset, examples = of(overrides, [0, 1, 2, 50], tmp_path)
    for place, example in examples.items():
        row = frame.iloc[int(dataset.pool.ids[place])]
        assert example["label"] == row["ill"]
        assert float(example["row"]["age"]) == row["age"]
        assert example["row"]["town"] == row["town"]
