//! Logistic regression against scikit-learn (`scripts/make_latent_fixtures.py`).

use dcgan_cuda::latent::logistic;

use crate::fixture;

#[test]
fn logistic_regression_is_that_of_scikit_learn() {
    for case in ["one", "seven", "hundred", "soft", "separable", "scaled"] {
        let get = |key: &str| fixture(&format!("logistic/{case}/{key}"));
        let (x, y, l2) = (get("x"), get("y"), get("l2").data[0]);
        // As scikit-learn was told: the penalties are not exact in f32.
        let l2 = (f64::from(l2) * 1e6).round() / 1e6;
        let model = logistic::fit(&x.data, x.shape[1], &y.data, l2).unwrap();
        let expected = get("weights").data;
        assert_eq!(model.weights.len(), expected.len());
        let bias = (model.bias, get("bias").data[0]);
        let weights = model.weights.iter().copied().zip(expected);
        for (ours, theirs) in weights.chain([bias]) {
            let theirs = f64::from(theirs);
            let error = (ours - theirs).abs() / theirs.abs().max(1.0);
            assert!(error < 1e-5, "{case}: {ours} and not {theirs}");
        }
    }
}
