//! The entropy-coded grid: its error on normal weights is the known one, its bytes are those that were asked for.

use super::*;

fn rate(rate: f64) -> Step {
    Step::new("entropy-coded").with("rate", rate)
}

fn coded(encoding: &Encoding) -> &crate::encoding::Coded {
    match encoding {
        Encoding::Coded(coded) => coded,
        Encoding::Scaled(scaled) => coded(scaled.inner()),
        other => panic!("{:?}", other.layout()),
    }
}

fn left(weights: &Array2<f32>, encoding: &Encoding) -> f64 {
    let decoded = encoding.decode();
    let off: f64 = weights.iter().zip(&decoded).map(|(&w, &d)| f64::from(w - d).powi(2)).sum();
    off / weights.iter().map(|&w| f64::from(w).powi(2)).sum::<f64>()
}

#[test]
fn normal_weights_leave_what_the_entropy_coded_scalar_quantiser_does() {
    let weights = normals(7, 768, 1024);
    let known =
        [(1.0, 0.3483), (1.5, 0.1777), (2.0, 0.0889), (2.5, 0.0445), (3.0, 0.0222), (4.0, 0.00556)];
    for (bits, known) in known {
        let encoding = try_compress(&[rate(bits)], &weights, None).unwrap();
        let effective = encoding.bytes() as f64 * 8.0 / weights.len() as f64;
        assert!(effective <= bits && effective > bits - 1e-3, "{effective}");
        let used = coded(&encoding).used() as f64 / coded(&encoding).layout().bytes as f64;
        assert!(used > 0.999, "{bits} bits: {used} used");
        let found = left(&weights, &encoding);
        assert!(found > (-2.0 * bits).exp2(), "{bits} bits are below Shannon's bound: {found}");
        assert!((0.99..1.02).contains(&(found / known)), "{bits} bits: {found}");
    }
}

/// Rows of very different size: water-filling gives each its own bits, Σ error·2^{2·rate} as of the geometric mean.
#[test]
fn rows_of_different_size_share_the_bits() {
    let mut weights = normals(8, 512, 512);
    for (i, mut row) in weights.rows_mut().into_iter().enumerate() {
        row *= if i % 2 == 0 { 1.0 } else { 16.0 };
    }
    let found = left(&weights, &try_compress(&[rate(3.0)], &weights, None).unwrap());
    // Both leave D: ½log₂(1/D) + ½log₂(256/D) = 6 bits, relative to a mean square of 128.5, at 1.42 of Shannon's.
    let known = 1.42 * 16.0 * (-6.0_f64).exp2() / 128.5;
    assert!((0.97..1.2).contains(&(found / known)), "{found} for {known}");
}

#[test]
fn inputs_count_by_their_mean_squares() {
    let weights = normals(9, 256, 512);
    let x = Array2::from_shape_fn((512, 512), |(t, j)| {
        if t == j { if j % 2 == 0 { 1.0 } else { 8.0 } } else { 0.0 }
    });
    let inputs = inputs_of(x.view());
    let of = |nearest: &str| {
        let encoding = compress(&[rate(2.5).with("nearest", nearest)], &weights, &inputs);
        let bits = encoding.bytes() as f64 * 8.0 / weights.len() as f64;
        assert!(bits <= 2.5 && bits > 2.49, "{bits}");
        damage(&weights, &encoding, &inputs)
    };
    // The arithmetic mean of 1 and 64 against the geometric: 32.5 to 8.
    let gain = of("weights") / of("outputs");
    assert!((3.4..4.2).contains(&gain), "{gain}");
}

#[test]
fn dropped_weights_stay_zero_and_cost_their_entropy() {
    let weights = normals(10, 256, 512);
    let mask = Step::new("magnitude").with("fraction", 0.9);
    let encoding = try_compress(&[mask.clone(), rate(1.0)], &weights, None).unwrap();
    let kept = try_compress(&[mask], &weights, None).unwrap().decode();
    let decoded = encoding.decode();
    assert!(kept.iter().zip(&decoded).all(|(k, d)| *k != 0.0 || *d == 0.0));
    let of_kept = left(&kept, &encoding);
    // 0.469 bits say which; 5.3 are left for each that stays, and theirs are the tails alone.
    assert!(of_kept < 0.001, "{of_kept}");
}

#[test]
fn bytes_are_met_whatever_the_weights_and_other_bytes_are_refused() {
    let tails = normals(11, 64, 300).mapv(|w| w.powi(5));
    let spike =
        Array2::from_shape_fn((64, 300), |(i, j)| if (i, j) == (3, 7) { 1e6 } else { 1e-3 });
    for weights in [tails, spike, Array2::from_elem((64, 300), -0.75), normals(12, 64, 300) + 40.0]
    {
        for bits in [0.25, 1.0, 6.0] {
            let encoding = try_compress(&[rate(bits)], &weights, None).unwrap();
            let shape = encoding.shape();
            assert_eq!(encoding.bytes(), encoding.layout().bytes(shape));
            assert!(encoding.bytes() as f64 * 8.0 <= bits * 19_200.0);
            assert!(left(&weights, &encoding) <= 1.0);
        }
    }
    let weights = normals(13, 20, 90);
    let encoding = try_compress(&[rate(2.0)], &weights, None).unwrap();
    let parts = encoding.parts();
    for (which, part) in parts.iter().enumerate().take(2) {
        for at in 0..part.bytes.len() {
            let mut other = parts.clone();
            other[which].bytes.to_mut()[at] ^= 0x41;
            let get = |name: &str| {
                let part = other.iter().find(|part| part.name == name)?;
                Some(&*part.bytes)
            };
            let restored = Encoding::from_parts(&encoding.layout(), encoding.shape(), &get);
            // The last bits may say the same of the last interval.
            let is_same = |restored: Encoding| restored.decode() == encoding.decode();
            assert!(restored.is_none_or(is_same), "byte {at} of {}", part.name);
        }
    }
}

/// At a quarter of a bit two levels of one size cost more than they are worth, and heavy tails do not.
#[test]
fn it_is_said_where_every_weight_becomes_zero() {
    #[derive(Default)]
    struct Heard(Mutex<Vec<String>>);
    impl Observer for Heard {
        fn warn(&self, text: String) {
            self.0.lock().expect("nobody panics").push(text);
        }
    }
    let signs = normals(3, 64, 256).mapv(f32::signum);
    for (weights, is_said) in [(&signs, true), (&normals(3, 64, 256), false)] {
        let heard = Heard::default();
        let task = Task { observer: &heard, ..plain_task(weights) };
        let encoding = run_chain(&[rate(0.25)], &task).unwrap();
        let is_zero = encoding.decode().iter().all(|&weight| weight == 0.0);
        assert_eq!(is_zero, is_said);
        let heard = heard.0.into_inner().unwrap();
        assert_eq!(heard.iter().any(|text| text.contains("becomes zero")), is_said, "{heard:?}");
    }
}
