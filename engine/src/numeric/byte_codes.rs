//! Bytes by how often each occurs: what has less than eight bits of entropy becomes as small as that.

use crate::numeric::range_coder::{Decoder, Encoder};

/// Bits of the shares.
const BITS: u32 = 16;
/// How bytes are held: as they are, as one that all are, or coded.
const RAW: u8 = 0;
const SAME: u8 = 1;
const CODED: u8 = 2;

/// Appends `bytes` to `out` in the fewest bytes of three ways: 0 and they themselves; 1 and the one that all are; 2, 32 bytes with a bit for each
/// value that occurs, lowest first, their shares of 2¹⁶ in two bytes each, and what the range coder makes of all. Never more than one byte longer.
pub fn encode(bytes: &[u8], out: &mut Vec<u8>) {
    let counts = counts(bytes);
    let most = most(&counts);
    if !bytes.is_empty() && counts[most] == bytes.len() as u64 {
        out.extend([SAME, most as u8]);
        return;
    }
    let begun = out.len();
    if is_worth_it(&counts, bytes.len()) {
        code(bytes, &counts, out);
        if out.len() - begun <= bytes.len() {
            return;
        }
    }
    out.truncate(begun);
    out.push(RAW);
    out.extend_from_slice(bytes);
}

/// Whether coded bytes would be fewer, told from the entropy alone.
fn is_worth_it(counts: &[u64; 256], n: usize) -> bool {
    let used = counts.iter().filter(|&&count| count > 0).count();
    let n = n as f64;
    let bits = |&c: &u64| if c == 0 { 0.0 } else { -libm::log2(c as f64 / n) * c as f64 };
    let entropy: f64 = counts.iter().map(bits).sum();
    entropy / 8.0 + ((33 + 2 * used) as f64) < n
}

fn code(bytes: &[u8], counts: &[u64; 256], out: &mut Vec<u8>) {
    let sizes = shares(counts, bytes.len() as u64);
    let starts = starts(&sizes);
    out.push(CODED);
    out.extend(sizes.chunks(8).map(|run| {
        let bit = |(at, &size): (usize, &u32)| u8::from(size > 0) << at;
        run.iter().enumerate().map(bit).sum::<u8>()
    }));
    let present = sizes.iter().filter(|&&size| size > 0);
    out.extend(present.flat_map(|&size| (size as u16).to_le_bytes()));
    let choices: [(u32, u32); 256] = std::array::from_fn(|at| (starts[at], sizes[at]));
    let mut encoder = Encoder::default();
    encoder.reserve(bytes.len());
    encoder.choose_each(bytes.iter().map(|&byte| choices[usize::from(byte)]), BITS);
    out.extend(encoder.finish());
}

/// The value that occurs most often, the first of several.
fn most(counts: &[u64; 256]) -> usize {
    (0..256).max_by_key(|&at| (counts[at], 255 - at)).unwrap_or(0)
}

/// How often each value occurs; four counts of each, since one that was just written is slow to read.
fn counts(bytes: &[u8]) -> [u64; 256] {
    let mut counts = [[0_u64; 4]; 256];
    let (runs, rest) = bytes.as_chunks::<4>();
    for run in runs {
        for (at, &byte) in run.iter().enumerate() {
            counts[usize::from(byte)][at] += 1;
        }
    }
    for &byte in rest {
        counts[usize::from(byte)][0] += 1;
    }
    counts.map(|counts| counts.iter().sum())
}

/// Shares of 2¹⁶ near to the counts, none of what occurs 0; the most frequent value takes what rounding leaves.
fn shares(counts: &[u64; 256], n: u64) -> [u32; 256] {
    let share = |count: u64| if count == 0 { 0 } else { ((count << BITS) / n).max(1) as u32 };
    let mut sizes = counts.map(share);
    let most = most(counts);
    let others: u32 = sizes.iter().sum::<u32>() - sizes[most];
    // At least 1/256 of 2¹⁶, and others have at most one too many each.
    sizes[most] = (1 << BITS) - others;
    sizes
}

fn starts(sizes: &[u32; 256]) -> [u32; 256] {
    let mut at = 0;
    sizes.map(|size| {
        at += size;
        at - size
    })
}

/// The `n` bytes of what [`encode`] made; `None` where it did not.
pub fn decode(coded: &[u8], n: usize) -> Option<Vec<u8>> {
    let (&way, rest) = coded.split_first()?;
    match (way, rest) {
        (RAW, _) => (rest.len() == n).then(|| rest.to_vec()),
        (SAME, &[byte]) => Some(vec![byte; n]),
        (CODED, _) => decode_shares(rest, n),
        _ => None,
    }
}

fn decode_shares(rest: &[u8], n: usize) -> Option<Vec<u8>> {
    let (present, mut rest) = rest.split_at_checked(32)?;
    let mut sizes = [0_u32; 256];
    for (value, size) in sizes.iter_mut().enumerate() {
        if present[value / 8] >> (value % 8) & 1 == 1 {
            let (share, behind) = rest.split_first_chunk::<2>()?;
            *size = u32::from(u16::from_le_bytes(*share));
            rest = behind;
        }
    }
    if sizes.iter().sum::<u32>() != 1 << BITS {
        return None;
    }
    let starts = starts(&sizes);
    let mut values = vec![0_u8; 1 << BITS];
    for (value, (&start, &size)) in starts.iter().zip(&sizes).enumerate() {
        values[start as usize..(start + size) as usize].fill(value as u8);
    }
    let mut decoder = Decoder::new(rest);
    let bytes = (0..n).map(|_| {
        let value = values[decoder.share(BITS) as usize];
        let at = usize::from(value);
        decoder.take(starts[at], sizes[at], BITS);
        value
    });
    let bytes = bytes.collect();
    decoder.is_whole().then_some(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::numeric::seeds::Random;

    fn encoded(bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        encode(bytes, &mut out);
        out
    }

    #[test]
    fn bytes_come_back_in_their_entropy() {
        let mut random = Random::new(1);
        for size in [0.3, 3.0, 25.0] {
            let bytes: Vec<u8> =
                (0..100_000).map(|_| (random.normal() * size + 100.0) as u8).collect();
            let mut counts = [0_u32; 256];
            for &byte in &bytes {
                counts[usize::from(byte)] += 1;
            }
            let shares = counts.iter().filter(|&&c| c > 0).map(|&c| f64::from(c) / 1e5);
            let entropy: f64 = shares.map(|p| -p * p.log2() * 1e5 / 8.0).sum();
            let coded = encoded(&bytes);
            let over = coded.len() as f64 - entropy;
            assert!((0.0..500.0 + 0.001 * entropy).contains(&over), "{size}: {over} of {entropy}");
            assert_eq!(decode(&coded, bytes.len()), Some(bytes));
        }
    }

    #[test]
    fn what_has_no_entropy_to_lose_is_held_as_it_is() {
        let mut random = Random::new(2);
        let bytes: Vec<u8> = (0..50_000).map(|_| random.bits() as u8).collect();
        assert_eq!(encoded(&bytes).len(), 50_001);
        for bytes in [&bytes[..], &[], &[7], &[7; 1000], &[1, 2], &bytes[..300]] {
            let coded = encoded(bytes);
            assert!(coded.len() <= bytes.len() + 1 || bytes.len() < 2);
            assert_eq!(decode(&coded, bytes.len()).as_deref(), Some(bytes));
        }
        // One byte among very many others, and all values in turn.
        let mut rare = vec![9; 300_000];
        rare[1234] = 1;
        let every: Vec<u8> =
            (0..300_000).map(|i| if i % 300 < 256 { i as u8 } else { 3 }).collect();
        for bytes in [rare, every] {
            assert_eq!(decode(&encoded(&bytes), bytes.len()), Some(bytes));
        }
    }

    #[test]
    fn other_bytes_are_refused_or_read_but_never_more() {
        let bytes: Vec<u8> = (0..4000).map(|i| (i * i % 7) as u8).collect();
        let coded = encoded(&bytes);
        assert!(coded.len() < 2000);
        for at in 0..coded.len() {
            let mut other = coded.clone();
            other[at] ^= 0x55;
            assert!(decode(&other, 4000).is_none_or(|read| read.len() == 4000));
            assert!(decode(&coded[..at], 4000).is_none_or(|read| read.len() == 4000));
        }
        assert!(decode(&[3, 4], 1).is_none() && decode(&[1, 2, 3], 2).is_none());
    }
}
