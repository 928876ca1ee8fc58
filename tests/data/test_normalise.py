"""Normalisation is learnt from the given cases and from nothing else."""

from collections.abc import Callable

import numpy as np
import pytest

from thrifty.data import normalise
from thrifty.data.normalise import Normalisation, learn
from thrifty.errors import ThriftyError


@pytest.fixture
def colours(build: Callable, some_cases: Callable, write_pairs: Callable):
    def make(change: str | None = None, name: str = "data"):
        _, masks = some_cases()
        random = np.random.default_rng(3)
        images = {n: random.integers((0, 50, 100), (100, 90, 255), (12, 10, 3), dtype=np.uint8) for n in masks}
        if change:
            images[change] = 255 - images[change]
        return build(write_pairs(images, masks), name)

    return make


def test_against_numpy(colours) -> None:
    store = colours()
    got = learn(store, [0, 2, 5], "dataset")
    for channel in range(3):
        pixels = np.concatenate([store.image(i)[channel].ravel() for i in (0, 2, 5)]).astype(float)
        low, high = np.percentile(pixels, [0.5, 99.5])
        kept = np.clip(pixels, low, high)
        np.testing.assert_allclose(got.mean[channel], kept.mean(), rtol=1e-5)
        np.testing.assert_allclose(got.std[channel], kept.std(), rtol=1e-5)
    together = np.concatenate([got.apply(store.image(i)).reshape(3, -1) for i in (0, 2, 5)], axis=1)
    assert together.dtype == np.float32
    np.testing.assert_allclose(together.mean(axis=1), 0, atol=1e-4)
    np.testing.assert_allclose(together.std(axis=1), 1, rtol=1e-4)


def test_changing_a_test_image_changes_nothing(colours) -> None:
    plain = colours()
    test_changed, training_changed = colours("c4", "second"), colours("c2", "third")
    assert test_changed.fingerprint != plain.fingerprint
    assert learn(plain, [0, 2, 5], "dataset") == learn(test_changed, [0, 2, 5], "dataset")
    assert learn(plain, [0, 2, 5], "dataset") != learn(training_changed, [0, 2, 5], "dataset")


def test_outliers_are_clipped() -> None:
    way = Normalisation("dataset", (10.0,), (2.0,), (6.0,), (14.0,))
    got = way.apply(np.array([[[6, 10, 14, 200, 0]]], np.uint8))
    np.testing.assert_allclose(got, [[[-2, 0, 2, 2, -2]]])


@pytest.mark.parametrize("kind", ["dataset", "case"])
@pytest.mark.parametrize("value", [0, 77, 255])
def test_constant_channel(build, some_cases, write_pairs, kind: str, value: int) -> None:
    images, masks = some_cases()
    store = build(write_pairs({name: np.full_like(image, value) for name, image in images.items()}, masks))
    np.testing.assert_array_equal(learn(store, range(6), kind).apply(store.image(1)), 0)


def test_case_is_by_itself(colours) -> None:
    store = colours()
    way = learn(store, [0], "case")
    for index in range(6):
        got = way.apply(store.image(index))
        np.testing.assert_allclose(got.mean(axis=(1, 2)), 0, atol=1e-4)
        np.testing.assert_allclose(got.std(axis=(1, 2)), 1, rtol=1e-4)
    brighter = store.image(3).astype(np.float32) * 3 + 500
    np.testing.assert_allclose(way.apply(brighter), way.apply(store.image(3)), atol=1e-4)


def test_patch_of_a_case_is_normalised_with_the_whole(colours) -> None:
    store = colours()
    way = learn(store, [0], "case")
    part = way.apply(store.image(1)[:, 2:5, 3:7], way.statistics(store.image(1)))
    np.testing.assert_array_equal(part, way.apply(store.image(1))[:, 2:5, 3:7])


def test_many_pixels_are_thinned(phantoms, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = learn(phantoms, range(12), "dataset")
    monkeypatch.setattr(normalise, "MOST_PIXELS", 5000)
    thin = learn(phantoms, range(12), "dataset")
    assert thin != whole
    np.testing.assert_allclose(thin.mean, whole.mean, rtol=0.05)
    np.testing.assert_allclose(thin.std, whole.std, rtol=0.05)


@pytest.mark.parametrize("kind", ["dataset", "case"])
def test_travels_as_json(colours, kind: str) -> None:
    import json

    way = learn(colours(), [1, 2], kind)
    assert Normalisation.from_json(json.loads(json.dumps(way.as_json()))) == way


@pytest.mark.parametrize("change", [{"kind": "other"}, {"std": [0.0]}, {"mean": []}, {"low": "x"}])
def test_bad_json(change: dict) -> None:
    good = Normalisation("dataset", (1.0,), (1.0,), (0.0,), (2.0,)).as_json()
    with pytest.raises(ThriftyError, match="no normalisation"):
        Normalisation.from_json({**good, **change})
    with pytest.raises(ThriftyError, match="no normalisation"):
        Normalisation.from_json({"kind": "case"})


def test_another_number_of_channels(colours) -> None:
    way = learn(colours(), [0], "dataset")
    with pytest.raises(ThriftyError, match="1 channels, the normalisation was learnt with 3"):
        way.apply(np.zeros((1, 4, 4), np.uint8))


def test_no_training_case(phantoms) -> None:
    with pytest.raises(ThriftyError, match="at least one training case"):
        learn(phantoms, [], "dataset")
