"""The embedded data set: the same for the same seed, several classes, cases of one patient alike."""

import numpy as np
import pytest

from thrifty.config import Phantoms


def test_every_class_is_there_and_can_be_seen(phantoms) -> None:
    assert phantoms.labels == ("background", "organ 1", "organ 2", "organ 3")
    assert (len(phantoms.cases), len({case.patient for case in phantoms.cases})) == (24, 12)
    for index in range(24):
        assert phantoms.present(index) == (1, 2, 3)
        assert min(phantoms.places[index].class_pixels[1:]) >= 12
        assert phantoms.image(index).std() > 10


def test_the_seed_decides(build) -> None:
    small = {"cases": 8, "patients": 4, "size": 24}
    first = build("phantoms", "a", phantoms=Phantoms(**small))
    assert build("phantoms", "b", phantoms=Phantoms(**small)).fingerprint == first.fingerprint
    assert build("phantoms", "c", phantoms=Phantoms(**small, seed=1)).fingerprint != first.fingerprint
    assert build("phantoms", "d", phantoms=Phantoms(**small, seed=2**32 - 1)).fingerprint != first.fingerprint


@pytest.mark.parametrize("classes", range(2, 7))
@pytest.mark.parametrize("size", [16, 64])
def test_all_sizes(build, classes: int, size: int) -> None:
    store = build("phantoms", phantoms=Phantoms(cases=8, patients=8, size=size, classes=classes))
    assert store.classes == classes
    found = np.unique(np.concatenate([store.mask(i).ravel() for i in range(8)]))
    assert found.tolist() == list(range(classes))


def test_cases_of_a_patient_look_alike_and_are_not_equal(phantoms) -> None:
    def overlap(one: int, other: int) -> float:
        a, b = phantoms.mask(one) > 0, phantoms.mask(other) > 0
        return 2 * float((a & b).sum()) / float(a.sum() + b.sum())

    pairs = [(i, j) for i in range(24) for j in range(i + 1, 24)]
    same = [overlap(i, j) for i, j in pairs if phantoms.cases[i].patient == phantoms.cases[j].patient]
    different = [overlap(i, j) for i, j in pairs if phantoms.cases[i].patient != phantoms.cases[j].patient]
    assert len(same) == 12
    assert np.mean(same) > 0.75 > 0.65 > np.mean(different)
    assert max(same) < 1


def test_grey_values_alone_do_not_tell_the_class(phantoms) -> None:
    """The best threshold on grey values must be poor, or the task would be none."""
    image = np.concatenate([phantoms.image(i)[0].ravel() for i in range(24)])
    organ = np.concatenate([phantoms.mask(i).ravel() for i in range(24)]) == 1
    dice = [2 * (organ & near).sum() / (organ.sum() + near.sum()) for t in range(40, 200, 8) for near in [np.abs(image - t) < 25]]
    assert max(dice) < 0.6
