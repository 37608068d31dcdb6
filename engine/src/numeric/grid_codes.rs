//! Codes of a uniform grid, most of them small, as a range coder writes them: with probabilities that are learnt from the
//! codes before, by how large the neighbours are. And the choice of codes by what they leave and what they cost.
//!
//! A run of rows is coded by itself, row by row. With m = |q|, k the bits of m (0 for 0, 15 at most): bits "k > i" for
//! i = 0, 1, … until one is 0 (that for i = 15 is not written), learnt by i and by the *class* of the place; where k > 0 the sign (1 is minus),
//! learnt by the sign of the code to the left; the k − 1 bits of m below the highest, from the top, the first three learnt by k
//! and the bits above them, the others raw. Behind the last code [`END`] in 16 raw bits.
//!
//! The class says how large codes are around: row·column/all in half octaves. The three are means that fade, whole numbers of
//! 2⁻¹⁶: with every code each moves by ⌊(m·2¹⁶ − mean)/2ⁿ⌋, n = 10 for all codes, 4 for the row, which goes on from row
//! to row, 3 for the column. All and row are at first 0, a column what all is before its first code. With ⌊log₂ x⌋ = e of
//! x = max(mean, 2¹²), o(mean) is 2·(e − 12), one more where the bit below the highest of x is 1; the class
//! o(row) + o(column) − o(all), from 0 to 25.

use crate::numeric::range_coder::{Bit, Decoder, Encoder};

/// The largest magnitude.
pub const LARGEST: i16 = i16::MAX;
/// What stands behind the last code of a run, so that other bytes are told with 65,535 of 65,536.
pub const END: u32 = 0xa5c3;
/// Classes of places: half octaves from 1/16 to 512.
const CLASSES: usize = 26;
/// Bits of the largest magnitude.
const LENGTHS: usize = 15;
/// Bits below the highest that are learnt.
const LEARNT: usize = 3;
/// How far levels must be apart that codes are chosen for, in steps.
pub const APART: f64 = 0.9;
/// Levels of their own.
pub const LEVELS: usize = 8;

/// Probabilities of everything that is written of a code.
struct Model {
    longer: [[Bit; LENGTHS]; CLASSES],
    sign: [Bit; 3],
    below: [[Bit; 1 << LEARNT]; LENGTHS + 1],
}

impl Model {
    fn new() -> Self {
        Self {
            longer: [[Bit::default(); LENGTHS]; CLASSES],
            sign: [Bit::default(); 3],
            below: [[Bit::default(); 1 << LEARNT]; LENGTHS + 1],
        }
    }

    /// What the length of a magnitude costs, and its bits, in bits; the sign apart, which is the same for all but 0.
    fn price(&self, class: usize, magnitude: u16) -> f32 {
        let k = length(magnitude);
        let longer = &self.longer[class];
        let mut price: f32 = longer.iter().take(k).map(|bit| bit.price(true)).sum();
        price += longer.get(k).map_or(0.0, |bit| bit.price(false));
        let learnt = k.saturating_sub(1).min(LEARNT);
        let mut node = 1;
        for at in 0..learnt {
            let bit = magnitude >> (k - 2 - at) & 1 == 1;
            price += self.below[k][node].price(bit);
            node = 2 * node + usize::from(bit);
        }
        price + (k.saturating_sub(1) - learnt) as f32
    }

    fn write(&mut self, place: Place, code: i16, out: &mut Encoder) {
        let (magnitude, k) = (code.unsigned_abs(), length(code.unsigned_abs()));
        for (i, model) in self.longer[place.class].iter_mut().enumerate().take(k + 1) {
            out.bit(model, k > i);
        }
        if k == 0 {
            return;
        }
        out.bit(&mut self.sign[place.sign], code < 0);
        let mut node = 1;
        for at in (0..k - 1).rev() {
            let bit = magnitude >> at & 1;
            match self.below[k].get_mut(node) {
                Some(model) => out.bit(model, bit == 1),
                None => out.raw(u32::from(bit), 1),
            }
            node = (2 * node + usize::from(bit)).min(1 << LEARNT);
        }
    }

    fn read(&mut self, place: Place, from: &mut Decoder<'_>) -> i16 {
        let mut k = 0;
        while k < LENGTHS && from.bit(&mut self.longer[place.class][k]) {
            k += 1;
        }
        if k == 0 {
            return 0;
        }
        let is_minus = from.bit(&mut self.sign[place.sign]);
        let (mut magnitude, mut node) = (1_i16, 1);
        for _ in 0..k - 1 {
            let bit = match self.below[k].get_mut(node) {
                Some(model) => from.bit(model),
                None => from.raw(1) == 1,
            };
            magnitude = magnitude << 1 | i16::from(bit);
            node = (2 * node + usize::from(bit)).min(1 << LEARNT);
        }
        if is_minus { -magnitude } else { magnitude }
    }
}

/// The bits of a magnitude.
fn length(magnitude: u16) -> usize {
    (u16::BITS - magnitude.leading_zeros()) as usize
}

/// What probabilities of a code are learnt by.
#[derive(Clone, Copy)]
struct Place {
    class: usize,
    sign: usize,
}

/// How large the codes of a run have been: means of |q| that fade, in 2⁻¹⁶.
struct Sizes {
    all: i64,
    row: i64,
    columns: Vec<i64>,
    sign: usize,
    col: usize,
}

/// How fast means of all codes, of a row and of a column fade: each code counts for 2⁻ⁿ of them.
const FADES: [u32; 3] = [10, 4, 3];

impl Sizes {
    fn new(cols: usize) -> Self {
        Self { all: 0, row: 0, columns: vec![-1; cols], sign: 1, col: 0 }
    }

    /// Where the next code stands.
    fn place(&self) -> Place {
        let column = self.columns[self.col];
        let column = if column < 0 { self.all } else { column };
        let class = octaves(self.row) + octaves(column) - octaves(self.all);
        Place { class: class.clamp(0, CLASSES as i64 - 1) as usize, sign: self.sign }
    }

    fn add(&mut self, code: i16) {
        let size = i64::from(code.unsigned_abs()) << 16;
        let column = &mut self.columns[self.col];
        if *column < 0 {
            *column = self.all;
        }
        for (mean, fade) in [&mut self.all, &mut self.row, column].into_iter().zip(FADES) {
            *mean += (size - *mean) >> fade;
        }
        self.col += 1;
        self.sign = (code.signum() + 1) as usize;
        if self.col == self.columns.len() {
            (self.col, self.sign) = (0, 1);
        }
    }
}

/// Half octaves of a mean above 1/16.
fn octaves(mean: i64) -> i64 {
    let mean = mean.max(1 << 12);
    let whole = i64::from(mean.ilog2());
    2 * (whole - 12) + (mean >> (whole - 1) & 1)
}

/// The bytes of a run of rows of `cols` codes.
pub fn encode(codes: &[i16], cols: usize) -> Vec<u8> {
    let (mut model, mut sizes, mut out) = (Model::new(), Sizes::new(cols), Encoder::default());
    for &code in codes {
        model.write(sizes.place(), code, &mut out);
        sizes.add(code);
    }
    out.raw(END, 16);
    out.finish()
}

/// The `n` codes of a run of rows of `cols`; `None` where the bytes are not those of any.
pub fn decode(bytes: &[u8], n: usize, cols: usize) -> Option<Vec<i16>> {
    let (mut model, mut sizes, mut from) = (Model::new(), Sizes::new(cols), Decoder::new(bytes));
    let mut codes = vec![0; n];
    for code in &mut codes {
        *code = model.read(sizes.place(), &mut from);
        sizes.add(*code);
    }
    (from.raw(16) == END && from.is_whole()).then_some(codes)
}

/// The magnitudes that codes stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Levels {
    /// Of 1 to 8.
    pub first: [f32; LEVELS],
    /// How far those beyond lie apart.
    pub step: f32,
}

impl Levels {
    /// What a code stands for: sign(q)·first\[|q|\] up to 8, then sign(q)·(first\[8\] + step·(|q| − 8)).
    pub fn value(&self, code: i16) -> f32 {
        let magnitude = usize::from(code.unsigned_abs());
        let value = match magnitude {
            0 => return 0.0,
            1..=LEVELS => self.first[magnitude - 1],
            _ => (self.first[LEVELS - 1] + self.step * (magnitude - LEVELS) as f32).min(f32::MAX),
        };
        if code < 0 { -value } else { value }
    }

    /// The largest magnitude of a value up to `size`.
    fn below(&self, size: f32) -> u16 {
        let last = self.first[LEVELS - 1];
        if size < last {
            return self.first.iter().take_while(|&&level| level <= size).count() as u16;
        }
        let beyond = (size - last) / self.step;
        // What is not above 0 has no place beyond the last.
        LEVELS as u16
            + if beyond > 0.0 { beyond.min(f32::from(LARGEST) - LEVELS as f32) as u16 } else { 0 }
    }
}

/// Codes that were chosen for a run, and what says how to choose better ones.
#[derive(Clone, Debug)]
pub struct Chosen {
    /// The codes.
    pub codes: Vec<i16>,
    /// Their bytes.
    pub bytes: Vec<u8>,
    /// What went where.
    pub sums: Sums,
}

impl Chosen {
    /// Whether no code is anything but zero.
    pub fn is_zero(&self) -> bool {
        self.codes.iter().all(|&code| code == 0)
    }
}

/// How large the weights are that went to each magnitude, in steps.
#[derive(Clone, Copy, Debug, Default)]
pub struct Sums {
    /// Of each magnitude from 1 to 8: Σ |w|/step and how many there are.
    first: [(f64, u64); LEVELS],
    /// Of those beyond, t = |q| − 8: Σ t·|w|/step, Σ t, Σ t².
    beyond: [f64; 3],
}

impl Sums {
    fn add(&mut self, magnitude: u16, size: f64) {
        match usize::from(magnitude) {
            0 => {}
            near @ 1..=LEVELS => {
                self.first[near - 1].0 += size;
                self.first[near - 1].1 += 1;
            }
            far => {
                let t = (far - LEVELS) as f64;
                for (sum, term) in self.beyond.iter_mut().zip([t * size, t, t * t]) {
                    *sum += term;
                }
            }
        }
    }

    /// With those of another run.
    pub fn with(mut self, other: &Self) -> Self {
        for (a, b) in self.first.iter_mut().zip(other.first) {
            *a = (a.0 + b.0, a.1 + b.1);
        }
        for (a, b) in self.beyond.iter_mut().zip(other.beyond) {
            *a += b;
        }
        self
    }

    /// The means of what went to each magnitude, in steps, where nothing did a step beyond the one before; the line
    /// of least squares from the last for those beyond. What lies nearer to the one before than `apart` is moved off it: levels
    /// that few weights went to would otherwise join.
    pub fn levels(&self, apart: f64) -> Levels {
        let mut before = 0.0;
        let first = self.first.map(|(sum, n)| {
            let mean = if n > 0 { sum / n as f64 } else { before + 1.0 };
            before = mean.max(before + apart);
            before as f32
        });
        let [products, sum, squares] = self.beyond;
        let step = if squares > 0.0 { (products - before * sum) / squares } else { 1.0 };
        Levels { first, step: step as f32 }
    }
}

/// Chooses codes of a run of `weights`, rows of `cols`, one after the other, each to the least of (|w|/step − level)² +
/// `price`·bits under the probabilities learnt so far: 0, the level below |w|/step, the one above. A weight of 0 has the code 0.
/// `levels` are in steps, ascending. Cost: some 60 ns a weight.
pub fn choose(weights: &[f32], cols: usize, step: f32, (levels, price): (&Levels, f32)) -> Chosen {
    let (mut model, mut sizes, mut out) = (Model::new(), Sizes::new(cols), Encoder::default());
    let (mut codes, mut sums) = (Vec::with_capacity(weights.len()), Sums::default());
    for &weight in weights {
        let place = sizes.place();
        let mut code = 0;
        if weight != 0.0 {
            let size = (weight.abs() / step).min(f32::from(LARGEST));
            let magnitude = nearest(&model, place, size, (levels, price, weight < 0.0));
            sums.add(magnitude, f64::from(size));
            code = if weight < 0.0 { -(magnitude as i16) } else { magnitude as i16 };
        }
        model.write(place, code, &mut out);
        sizes.add(code);
        codes.push(code);
    }
    out.raw(END, 16);
    Chosen { codes, bytes: out.finish(), sums }
}

/// The magnitude of least distance and price.
fn nearest(
    model: &Model,
    place: Place,
    size: f32,
    (levels, price, is_minus): (&Levels, f32, bool),
) -> u16 {
    let below = levels.below(size);
    let sign = model.sign[place.sign].price(is_minus);
    let cost = |magnitude: u16| {
        let off = size - levels.value(magnitude as i16);
        let bits = model.price(place.class, magnitude) + if magnitude > 0 { sign } else { 0.0 };
        off * off + price * bits
    };
    let (mut best, mut least) = (0, cost(0));
    for magnitude in below.max(1)..=(below + 1).min(LARGEST as u16) {
        let cost = cost(magnitude);
        if cost < least {
            (best, least) = (magnitude, cost);
        }
    }
    best
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    /// Bits a code of independent ones, of a histogram that is known.
    fn entropy(codes: &[i16]) -> f64 {
        let mut counts = std::collections::BTreeMap::new();
        for code in codes {
            *counts.entry(code).or_insert(0_u64) += 1;
        }
        let n = codes.len() as f64;
        counts.values().map(|&count| -(count as f64 / n).log2() * count as f64 / n).sum()
    }

    #[test]
    fn independent_codes_cost_their_entropy_and_come_back() {
        let mut random = Random::new(1);
        for size in [0.2, 0.5, 1.0, 4.0, 30.0, 500.0] {
            let code = |_| (random.normal() * size).round() as i16;
            let codes: Vec<i16> = (0..512 * 300).map(code).collect();
            let bytes = encode(&codes, 300);
            let (bits, least) = (bytes.len() as f64 * 8.0 / codes.len() as f64, entropy(&codes));
            assert!(
                bits > least * 0.999 && bits < least * 1.01 + 0.004,
                "{size}: {bits} of {least}"
            );
            assert_eq!(decode(&bytes, codes.len(), 300), Some(codes));
        }
    }

    /// Of rows and columns of very different size each is coded by its own.
    #[test]
    fn sizes_that_vary_are_followed() {
        let mut random = Random::new(2);
        let size = |i: usize| if i / 256 % 50 < 25 { 0.4 } else { 20.0 };
        let code = |i: usize| (random.normal() * size(i)).round() as i16;
        let codes: Vec<i16> = (0..400 * 256).map(code).collect();
        let (small, large): (Vec<_>, Vec<_>) = (0..codes.len()).partition(|&i| size(i) < 1.0);
        let of =
            |places: Vec<usize>| entropy(&places.iter().map(|&i| codes[i]).collect::<Vec<_>>());
        let least = f64::midpoint(of(small), of(large));
        let bits = encode(&codes, 256).len() as f64 * 8.0 / codes.len() as f64;
        assert!(bits < 1.02 * least && bits < entropy(&codes) - 0.5, "{bits} of {least}");
    }

    #[test]
    fn the_largest_codes_come_back_and_other_bytes_are_refused() {
        let codes = [0, 1, -1, i16::MAX, -i16::MAX, 0, 16_384, 255, -256, 3, 0, 0];
        for cols in [1, 2, 3, 12] {
            let bytes = encode(&codes, cols);
            assert_eq!(decode(&bytes, 12, cols).as_deref(), Some(&codes[..]));
            let mut refused = 0;
            for bit in 0..8 * bytes.len() {
                let mut other = bytes.clone();
                other[bit / 8] ^= 1 << (bit % 8);
                let found = decode(&other, 12, cols);
                // The last bits may say the same of the last interval.
                refused += u32::from(found.is_none());
                assert!(found.is_none_or(|found| found == codes), "bit {bit}");
            }
            assert!(refused > 8 * bytes.len() as u32 - 8, "{cols}");
            assert!(decode(&bytes[1..], 12, cols).is_none());
        }
        assert_eq!(decode(&encode(&[], 1), 0, 1), Some(Vec::new()));
    }

    #[test]
    fn a_price_of_nothing_is_rounding_and_a_price_saves_bits() {
        let mut random = Random::new(4);
        let weights: Vec<f32> = (0..60_000).map(|_| random.normal() as f32).collect();
        let first = std::array::from_fn(|i| i as f32 + 1.0);
        let levels = Levels { first, step: 1.0 };
        let plain = choose(&weights, 200, 0.25, (&levels, 0.0));
        for (&code, weight) in plain.codes.iter().zip(&weights) {
            assert_eq!(code, (weight / 0.25).round() as i16);
        }
        assert_eq!(encode(&plain.codes, 200), plain.bytes);
        // D·4^R at some 2 bits: the grid alone 0.0976·16, the best scalar quantiser 0.0889·16.
        let left = |chosen: &Chosen, levels: &Levels| {
            let pairs = chosen.codes.iter().zip(&weights);
            let off = pairs.map(|(&c, &w)| f64::from(w - levels.value(c)).powi(2)).sum::<f64>();
            let bits = chosen.bytes.len() as f64 * 8.0 / 60_000.0;
            off / 60_000.0 * (2.0 * bits).exp2()
        };
        let grid = left(&choose(&weights, 200, 1.0, (&levels, 0.0)), &levels);
        let mut fitted = levels;
        for _ in 0..6 {
            fitted = choose(&weights, 200, 1.0, (&fitted, 0.11)).sums.levels(APART);
        }
        let chosen = choose(&weights, 200, 1.0, (&fitted, 0.11));
        let best = left(&chosen, &chosen.sums.levels(0.0));
        assert!(best < 0.94 * grid && best < 16.0 * 0.0889 * 1.02, "{best} {grid}");
    }
}
