//! What formats can hold: no form holds values in fewer bits than Shannon allows, and what is known of scalar codes is found.

use lapidary_engine::Silent;
use lapidary_engine::job::{Sample, Source, capacity, entropy_coded, forms};
use lapidary_engine::method::{METHODS, Stage};
use lapidary_engine::tensor::DType;

/// Every 5th form on normal and Laplace values; all of them take a minute in this profile.
#[test]
fn no_form_is_below_shannons_bound() {
    let all = forms();
    let some: Vec<_> = all.iter().step_by(5).cloned().collect();
    let tried = |method: &str| all.iter().filter(|steps| steps[0].method == method).count();
    for method in METHODS.iter().map(|method| method.about()) {
        let has_data = ["gptq", "awq", "spqr", "gqsa", "mixllm", "ptq161"].contains(&method.id);
        let is_tried = method.stage == Stage::Quantise && !has_data;
        assert_eq!(tried(method.id) > 0, is_tried, "{}", method.id);
    }
    for source in Source::ALL {
        let found = capacity(&source.sample(), &some, &Silent).unwrap();
        assert!(found.len() > 50, "only {} forms hold {}", found.len(), source.title());
        for held in &found {
            // Of 2^18 values the mean distortion is found to half a percent; lossless forms have none.
            let bound = source.bound(held.bits) * 0.99;
            assert!(held.distortion > bound || held.bits > 8.0, "{held:?} is below {bound}");
        }
        let best: Vec<_> = found.iter().filter(|held| held.is_best).collect();
        assert!(best.windows(2).all(|pair| pair[1].distortion < pair[0].distortion));
        assert!(best.len() > 5, "{} are best", best.len());
    }
}

/// What is no number is refused, rather than held by no form at all.
#[test]
fn values_that_are_not_finite_are_an_error() {
    let mut values = Source::Normal.sample().weights().to_owned();
    values[[3, 5]] = f32::NAN;
    let sample = Sample::of_values("broken", values, DType::BF16);
    let error = capacity(&sample, &forms(), &Silent).unwrap_err();
    assert!(error.sentence().contains("broken"), "{}", error.sentence());
}

/// The entropy-coded scalar quantiser of normal values: 0.3483, 0.1777, 0.0889, 0.0222 at 1, 1.5, 2, 3 bits.
#[test]
fn entropy_coded_scalars_are_where_they_are_known_to_be() {
    let sample = Source::Normal.sample();
    let points = entropy_coded(sample.weights());
    for (bits, known) in [(1.0, 0.3483), (1.5, 0.1777), (2.0, 0.0889), (3.0, 0.0222)] {
        let [found_bits, found] = points
            .iter()
            .copied()
            .min_by(|a, b| (a[0] - bits).abs().total_cmp(&(b[0] - bits).abs()))
            .unwrap();
        // The steps are those of the table: 2.42, 1.61, 1.082, 0.522.
        assert!((found_bits - bits).abs() < 0.02, "{found_bits} for {bits}");
        assert!((found / known - 1.0).abs() < 0.02, "{found} for {known} at {bits}");
    }
    assert!(points.iter().all(|&[bits, found]| found > Source::Normal.bound(bits)));
    let laplace = entropy_coded(Source::Laplace.sample().weights());
    assert!(laplace.iter().all(|&[bits, found]| found > Source::Laplace.bound(bits) * 0.99));
}
