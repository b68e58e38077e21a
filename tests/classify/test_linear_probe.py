"""The linear probe: at its optimum by a solver of another kind, its strength chosen without the test."""

import numpy as np
import pytest

from simclr.classify import probe as probing
from simclr.classify.probe import LinearProbe, fit_probe


def clustered(count: int, classes: int, *, noise: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Unit vectors (count, 16) around the same directions for every seed, and their classes."""
    centres = np.random.default_rng(0).standard_normal((classes, 16))
    rng = np.random.default_rng(seed)
    labels = np.arange(count) % classes
    vectors = centres[labels] + noise * rng.standard_normal((count, 16))
    return (vectors / np.linalg.norm(vectors, axis=1, keepdims=True)).astype(np.float32), labels


def optimum_by_newton(x: np.ndarray, labels: np.ndarray, classes: int, strength: float) -> np.ndarray:
    """Logits at the minimum of C x (sum of cross-entropies) + |W|^2 / 2, the biases free, in float64."""
    x = np.hstack([x.astype(np.float64), np.ones((len(x), 1))])
    width = x.shape[1]
    penalty = np.ones((classes, width))
    penalty[:, -1] = 1e-9  # only a shift of all biases together is left undetermined
    target = np.eye(classes)[labels]
    weights = np.zeros((classes, width))
    for _ in range(50):
        logits = x @ weights.T
        p = np.exp(logits - logits.max(1, keepdims=True))
        p /= p.sum(1, keepdims=True)
        gradient = strength * (p - target).T @ x + penalty * weights
        hessian = np.zeros((classes, width, classes, width))
        for a in range(classes):
            for b in range(classes):
                curve = p[:, a] * ((a == b) - p[:, b])
                hessian[a, :, b, :] = strength * (x * curve[:, None]).T @ x
        hessian = hessian.reshape(classes * width, -1) + np.diag(penalty.ravel())
        step = np.linalg.solve(hessian, gradient.ravel()).reshape(classes, width)
        weights -= step
        if np.abs(step).max() < 1e-10:
            break
    return x @ weights.T


@pytest.mark.parametrize("classes", [2, 3, 5])
@pytest.mark.parametrize("strength", [0.01, 1.0])
def test_it_is_at_the_optimum_that_newton_finds(monkeypatch, classes, strength):
    vectors, labels = clustered(120, classes, noise=1.0, seed=1)
    monkeypatch.setattr(probing, "_chosen", lambda *a, **k: (strength, 1.0))
    found = fit_probe(vectors, labels, classes)
    x = (vectors - found.mean_D) / found.scale_D
    # of two classes scikit-learn has one weight vector: twice as much regularisation as of one for each
    expected = optimum_by_newton(x, labels, classes, strength / 2 if classes == 2 else strength)
    expected -= expected.mean(1, keepdims=True)
    logits = found.logits(vectors)
    np.testing.assert_allclose(logits - logits.mean(1, keepdims=True), expected, atol=5e-3)


def test_probabilities_are_those_of_the_logits():
    vectors, labels = clustered(90, 3, noise=1.0, seed=1)
    found = fit_probe(vectors, labels, 3)
    logits = found.logits(vectors).astype(np.float64) / found.temperature
    expected = np.array([[np.exp(a) / sum(np.exp(row)) for a in row] for row in logits])
    np.testing.assert_allclose(found.probabilities(vectors), expected, atol=1e-6)
    np.testing.assert_array_equal(found.predict(vectors), expected.argmax(1))


def test_large_logits_do_not_overflow():
    huge = LinearProbe(np.zeros(2, np.float32), np.ones(2, np.float32), np.array([[9e4, 0], [0, 9e4]], np.float32), np.zeros(2, np.float32), 1.0)  # fmt: skip
    np.testing.assert_allclose(huge.probabilities(np.array([[1, 0]], np.float32)), [[1, 0]])


def test_it_learns_what_can_be_learned():
    train, test = clustered(300, 5, noise=0.5, seed=1), clustered(200, 5, noise=0.5, seed=2)
    assert (fit_probe(*train, 5).predict(test[0]) == test[1]).mean() > 0.95


def test_noisy_vectors_get_more_regularisation_than_clean_ones():
    noisy, clean = clustered(100, 4, noise=4.0, seed=1), clustered(100, 4, noise=1.0, seed=1)
    assert fit_probe(*noisy, 4).strength < fit_probe(*clean, 4).strength


def test_the_strength_is_chosen_on_images_that_were_not_learned(monkeypatch):
    """Labels at random: what is right on the learned images would choose the largest strength."""
    vectors, _ = clustered(200, 4, noise=1.0, seed=1)
    labels = np.random.default_rng(3).permutation(np.arange(200) % 4)
    assert fit_probe(vectors, labels, 4).strength < 1


def test_the_same_seed_gives_the_same_probe():
    data = clustered(100, 3, noise=1.0, seed=1)
    one, two = fit_probe(*data, 3, seed=5), fit_probe(*data, 3, seed=5)
    np.testing.assert_array_equal(one.weight_CD, two.weight_CD)


def test_one_image_a_class_is_enough():
    vectors, labels = clustered(3, 3, noise=0.1, seed=1)
    found = fit_probe(vectors, labels, 3)
    assert found.predict(vectors).tolist() == [0, 1, 2]


def test_a_number_that_never_changes_does_not_matter():
    vectors, labels = clustered(90, 3, noise=0.5, seed=1)
    vectors[:, 3] = 0.25
    found = fit_probe(vectors, labels, 3)
    assert np.isfinite(found.logits(vectors)).all()
    np.testing.assert_array_equal(found.weight_CD[:, 3], 0)


@pytest.mark.parametrize("classes", [2, 3])
def test_a_class_that_is_out_of_the_question_has_a_likelihood_all_the_same(classes):
    """e to the -400 is 0 in float32, whose logarithm is no number and warns."""

    class Model:
        def decision_function(self, vectors: np.ndarray) -> np.ndarray:
            return vectors[:, 0] if classes == 2 else vectors

    logits = np.array([[-400.0, 0.0, 1.0], [3.0, 2.0, -400.0]], np.float32)
    full = np.stack([np.zeros(2), logits[:, 0]], axis=1) if classes == 2 else logits.astype(float)
    expected = [[one - np.logaddexp.reduce(row) for one in row] for row in full]
    np.testing.assert_allclose(probing._log_probabilities(Model(), logits), expected, rtol=1e-12, atol=1e-12)
