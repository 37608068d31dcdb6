//! What llama.cpp makes of the sample, beside ours.

use crate::trials::{Bench, Measured, count, markdown};

/// A type of llama.cpp with its file's bytes and its perplexity over that of bf16.
///
/// llama.cpp of llama-cpp-python 0.3.36, importance matrix of the same text in 200 windows of 256 tokens, scored on the
/// second half of 240 windows of 256 tokens of the same held-out text, where bf16 has 20.251.
static PEERS: [(&str, u64, f64); 15] = [
    ("Q8_0", 6_204_160, 1.0002),
    ("Q6_K", 4_807_424, 1.0021),
    ("Q5_K_M", 4_172_032, 1.0029),
    ("Q4_K_M", 3_574_016, 1.0029),
    ("Q4_K_S", 3_472_128, 1.0038),
    ("Q4_0", 3_455_744, 1.0071),
    ("IQ4_XS", 3_291_904, 1.0079),
    ("Q3_K_M", 3_002_624, 1.0112),
    ("IQ3_S", 2_759_424, 1.0169),
    ("IQ3_XXS", 2_450_176, 1.0334),
    ("Q2_K", 2_406_656, 1.0598),
    ("IQ2_S", 2_109_184, 1.0778),
    ("IQ2_XS", 1_980_672, 1.0942),
    ("IQ2_XXS", 1_839_360, 1.1157),
    ("IQ1_M", 1_678_080, 1.2612),
];

/// Bytes of the same model's file in bf16.
const BF16_BYTES: u64 = 11_610_624;

/// One of llama.cpp's files.
#[derive(Clone, Copy, Debug)]
pub struct Peer {
    /// Its type.
    pub name: &'static str,
    /// Bytes of its tensors: what a file holds beside them is that of its bf16 file, and counts for nobody.
    pub bytes: u64,
    /// Its perplexity over that of bf16.
    pub ratio: f64,
}

/// All of them, the largest first.
pub fn peers(bench: &Bench) -> impl Iterator<Item = Peer> {
    let beside = BF16_BYTES.saturating_sub(bench.original_bytes());
    PEERS.iter().map(move |&(name, file, ratio)| Peer { name, bytes: file - beside, ratio })
}

/// How our ratio, with half of its interval, stands to theirs.
pub fn verdict((ratio, margin): (f64, f64), theirs: f64) -> String {
    match ratio - theirs {
        better if better <= 0.0 => "better".to_owned(),
        worse if worse <= margin => format!("{worse:.4} worse, within the error"),
        worse => format!("{worse:.4} worse"),
    }
}

/// For each of llama.cpp's types the best of ours in no more bytes.
pub fn table(bench: &Bench, found: &[Measured<'_>]) -> String {
    let row = |peer: Peer| {
        let held = found.iter().filter(|ours| ours.bytes <= peer.bytes);
        let best = held.min_by(|a, b| a.ratio().total_cmp(&b.ratio()));
        let theirs = format!("{:.4}", peer.ratio);
        let mut cells = vec![peer.name.to_owned(), count(peer.bytes), theirs];
        match best {
            None => cells.extend(["–"; 4].map(str::to_owned)),
            Some(ours) => {
                let (ratio, margin) = (ours.ratio(), ours.margin());
                cells.extend([
                    ours.trial.title.to_owned(),
                    count(ours.bytes),
                    format!("{ratio:.4} ± {margin:.4}"),
                    verdict((ratio, margin), peer.ratio),
                ]);
            }
        }
        cells
    };
    let rows: Vec<Vec<String>> = peers(bench).map(row).collect();
    let heading = ["llama.cpp", "bytes", "× bf16", "ours", "bytes", "× bf16", ""];
    markdown(&heading, &rows)
}
