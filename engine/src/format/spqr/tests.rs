//! `SpQR`'s layout bit by bit, and what it does not hold.

use super::*;
use crate::numeric::seeds::Random;

/// Two by two tiles with numbers of F32, one of them flat, and three single weights.
fn layer(kept: &[(usize, f32)]) -> Encoding {
    let shape = MatrixShape { rows: 32, cols: 32 };
    let mut random = Random::new(7);
    let mut codes = |n: usize| (0..n).map(|_| (random.bits() % 8) as u8).collect::<Vec<u8>>();
    let data = BilevelData {
        codes: codes(1024),
        scales: codes(64),
        zeros: codes(64),
        statistics: vec![
            [0.001, 0.01, 0.5, 1.25],
            [0.002, -0.003, 0.3, 0.1],
            [0.0, 0.125, 0.0, 3.0],
            [1e-4, 0.0, 1.0, 0.0],
        ],
    };
    let base = Encoding::Bilevel(Bilevel::new(shape, groups(DType::F32), data));
    if kept.is_empty() {
        return base;
    }
    let (places, values): (Vec<usize>, Vec<f32>) = kept.iter().copied().unzip();
    let few = Outliers::new(shape, DType::F32, &places, &values);
    Encoding::Sum(Sum::new(base, Encoding::Outliers(few)))
}

fn parts(encoding: &Encoding) -> Vec<(&'static str, Vec<u8>)> {
    let suffixes = ["dense_weights", "row_offsets", "col_vals", "in_perm"];
    suffixes.map(|suffix| (suffix, pack(encoding, suffix).unwrap())).to_vec()
}

#[test]
fn what_is_held_is_near_and_unpacks_to_itself() {
    for kept in [vec![], vec![(3, 1.5), (31, -0.1), (1023, 0.333)]] {
        let before = layer(&kept);
        let after = held(&before).unwrap().unwrap();
        for (a, b) in before.decode().iter().zip(&after.decode()) {
            assert!((a - b).abs() < 2e-3 * a.abs().max(0.01), "{a} became {b}");
        }
        assert_eq!(held(&after), Some(Ok(after.clone())), "held once, held for good");
        let form = Form::of(&after.layout()).unwrap();
        assert_eq!(form.kept, kept.len());
        let parts = parts(&after);
        for ((suffix, bytes), stored) in parts.iter().zip(form.stored(after.shape()).unwrap()) {
            let promised = stored.1.bytes(stored.2.elements().unwrap());
            assert_eq!((*suffix, Some(bytes.len() as u64)), (stored.0, promised));
        }
        let get = |name: &str| {
            let (_, bytes) = parts.iter().find(|(suffix, _)| *suffix == name)?;
            Some(bytes.as_slice())
        };
        let reader = Reader::new(form, after.shape(), &get).unwrap();
        let mut out = vec![0.0; 1024];
        reader.read(0, &mut out).unwrap();
        assert_eq!(out, after.decode().iter().copied().collect::<Vec<f32>>());
        let mut middle = [0.0; 40];
        reader.read(21, &mut middle).unwrap();
        assert_eq!(middle, out[21..61]);
        let again = reader.encoding().unwrap();
        assert_eq!((again.decode(), again.layout()), (after.decode(), after.layout()));
    }
}

#[test]
fn a_tile_lies_in_its_words_as_the_authors_describe() {
    let encoding = held(&layer(&[(37, 2.0)])).unwrap().unwrap();
    let parts = parts(&encoding);
    let Encoding::Sum(sum) = &encoding else { panic!("a sum") };
    let Encoding::Bilevel(base) = sum.base() else { panic!("small groups") };
    let words: Vec<u64> =
        parts[0].1.as_chunks().0.iter().map(|word| u64::from_le_bytes(*word)).collect();
    // Output 17 in the second tile down, inputs 16 to 31: the fourth tile, its second word.
    let word = words[3 * 16 + 1];
    assert_eq!(
        (word & 7, word >> 3 & 7),
        (u64::from(base.data().scales[17 * 2 + 1]), u64::from(base.data().zeros[17 * 2 + 1]),)
    );
    for i in 0..16 {
        assert_eq!(word >> (6 + 3 * i) & 7, u64::from(base.codes()[17 * 32 + 16 + i]));
    }
    // 0.5 and 1.25 of the first tile's zero points: F16 of the unit is the second number, bytes 2 and 3.
    let byte = |output: usize| words[output] >> 54;
    let unit = byte(4) | byte(6) << 8;
    assert_eq!((unit, byte(4), byte(6)), (0x3800, byte(5), byte(7)));
    // −1.25 over 0.5 is the last: −2.5.
    assert_eq!(byte(12) | byte(14) << 8, 0xc100);
    let offsets: Vec<u8> = parts[1].1.iter().step_by(4).copied().collect();
    assert_eq!((offsets[1], offsets[2], offsets[32]), (0, 1, 1), "row 1 has it");
    assert_eq!(parts[2].1, [5, 0, 0, 0x40], "column 5, 2.0 in F16");
}

/// Suffixes and bytes of what a layer is stored in.
type Parts = Vec<(&'static str, Vec<u8>)>;

#[test]
fn single_weights_out_of_order_are_refused() {
    let encoding = held(&layer(&[(3, 1.0), (4, 2.0), (40, 3.0)])).unwrap().unwrap();
    let form = Form { kept: 3 };
    let read = |change: &dyn Fn(&mut Parts)| {
        let mut parts = parts(&encoding);
        change(&mut parts);
        let get = |name: &str| {
            let (_, bytes) = parts.iter().find(|(suffix, _)| *suffix == name)?;
            Some(bytes.as_slice())
        };
        Reader::new(form, encoding.shape(), &get).is_some()
    };
    assert!(read(&|_| {}));
    assert!(!read(&|parts| parts[2].1[0] = 4), "the same column twice");
    assert!(!read(&|parts| parts[2].1[1] = 1), "a column beyond the last");
    assert!(!read(&|parts| parts[1].1[4] = 4), "a row that ends behind the next");
    assert!(!read(&|parts| parts[1].1[0] = 1), "a first row that begins late");
    assert!(!read(&|parts| parts[3].1 = vec![0; 4]), "inputs in another order");
    let beyond = held(&layer(&[(3, 1e6)]));
    assert_eq!(beyond, Some(Err(1e6)));
}

#[test]
fn other_tiles_and_ragged_layers_are_named() {
    let shape = MatrixShape { rows: 16, cols: 32 };
    let value = quantization_config(&[("m", Form { kept: 5 }, shape)], &["h".to_owned()]);
    assert_eq!(check_config(&value), Ok(()));
    let shapes = json!({"m.dense_weights.shape": 32, "m.row_offsets.shape": 17,
        "m.col_vals.shape": 5, "m.in_perm.shape": 0});
    assert_eq!(value["shapes"], shapes);
    let why = check_config(&json!({"bits": 4, "beta2": 8})).unwrap_err();
    assert_eq!(why, "its SpQR layers have 4 bits in tiles of 16 by 8");
    let why = |rows, cols| Form { kept: 1 }.stored(MatrixShape { rows, cols }).unwrap_err();
    assert_eq!(why(16, 40), "its 40 inputs are no multiple of 16");
    assert_eq!(why(8, 32), "its 8 outputs are no multiple of 16");
    assert!(why(16, 1 << 16).contains("too many"));
    let other = BilevelLayout { bits: 4, ..groups(DType::F16) };
    assert_eq!(Form::of(&Layout::Bilevel(other)), None);
    assert_eq!(Form::of(&Layout::Bilevel(groups(DType::BF16))), Some(Form { kept: 0 }));
}
