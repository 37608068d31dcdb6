//! What is tried: the rows of the tables of docs/methods.md.

use crate::trials::Trial;

const fn blocks(title: &'static str, chain: &'static str) -> Trial<'static> {
    Trial { title, chain, embedding: None, head: None, is_sequential: false }
}

const fn whole(
    title: &'static str,
    chain: &'static str,
    embedding: &'static str,
) -> Trial<'static> {
    Trial { title, chain, embedding: Some(embedding), head: None, is_sequential: false }
}

/// With a chain for the embedding and one for the head.
const fn quip(
    title: &'static str,
    chain: &'static str,
    [embedding, head]: [&'static str; 2],
) -> Trial<'static> {
    Trial { title, chain, embedding: Some(embedding), head: Some(head), is_sequential: false }
}

/// Every method at 4 bits on the layers of the blocks, embedding and head kept; groups of 64.
pub static FOUR: &[Trial<'static>] = &[
    blocks("Round to nearest", "round-to-nearest bits=4 group_size=64"),
    blocks(
        "Round to nearest, clipped by least squares",
        "round-to-nearest bits=4 group_size=64 clipping=mse",
    ),
    blocks(
        "Round to nearest, clipping by inputs",
        "round-to-nearest bits=4 group_size=64 clipping=weighted",
    ),
    blocks("Round to nearest, polished", "round-to-nearest bits=4 group_size=64; polish"),
    blocks("HQQ", "hqq bits=4 group_size=64"),
    blocks("GPTQ", "gptq bits=4 group_size=64"),
    blocks("GPTQ, clipping by inputs", "gptq bits=4 group_size=64 clipping=weighted"),
    blocks(
        "GPTQ, clipping by inputs, polished",
        "gptq bits=4 group_size=64 clipping=weighted; polish",
    ),
    blocks(
        "GPTQ, the same with zero points",
        "gptq bits=4 group_size=64 clipping=weighted symmetry=asymmetric; polish",
    ),
    blocks(
        "GPTQ, the same with EoRA of rank 4",
        "gptq bits=4 group_size=64 clipping=weighted symmetry=asymmetric; polish; eora rank=4",
    ),
    blocks("AWQ", "awq bits=4 group_size=64"),
    blocks("AWQ, folded into norms", "awq bits=4 group_size=64 scales=folded"),
    blocks("HIGGS, single weights", "higgs bits=4 grid=scalars"),
    blocks("HIGGS, pairs", "higgs bits=4"),
    blocks("QuIP#, nearest points", "quip-sharp bits=4 rounding=nearest"),
    blocks("QuIP#", "quip-sharp bits=4"),
    blocks("SpQR", "spqr bits=4 group_size=16"),
    blocks("MixLLM, a tenth of the rows at 8 bits", "mixllm group_size=64 clipping=weighted"),
    blocks("Entropy-coded grid", "entropy-coded rate=4"),
    blocks("Entropy-coded grid, by inputs", "entropy-coded rate=4 nearest=outputs"),
    blocks("SeedLM", "seedlm"),
    blocks("Optimal palette, one table", "optimal-palette bits=4"),
    blocks("Optimal palette, 16 rows", "optimal-palette bits=4 granularity=rows"),
    blocks("NF4", "nf4"),
    blocks("MXFP4", "microscaling format=mxfp4"),
    blocks("NVFP4", "microscaling format=nvfp4"),
    blocks("Q4_0", "gguf-blocks type=Q4_0"),
    blocks("Q4_K", "gguf-blocks type=Q4_K"),
    blocks("Q4_K, by inputs", "gguf-blocks type=Q4_K importance=inputs"),
    blocks("Q4_K, by outputs", "gguf-blocks type=Q4_K importance=outputs"),
    blocks("Q4_K, by outputs, polished", "gguf-blocks type=Q4_K importance=outputs; polish"),
    blocks("IQ4_XS, by inputs", "gguf-blocks type=IQ4_XS importance=inputs"),
    blocks("IQ4_XS, by outputs, polished", "gguf-blocks type=IQ4_XS importance=outputs; polish"),
];

/// The same at 3 bits.
pub static THREE: &[Trial<'static>] = &[
    blocks("Round to nearest", "round-to-nearest bits=3 group_size=64"),
    blocks(
        "Round to nearest, clipped by least squares",
        "round-to-nearest bits=3 group_size=64 clipping=mse",
    ),
    blocks(
        "Round to nearest, clipping by inputs",
        "round-to-nearest bits=3 group_size=64 clipping=weighted",
    ),
    blocks("Round to nearest, polished", "round-to-nearest bits=3 group_size=64; polish"),
    blocks("HQQ", "hqq bits=3 group_size=64"),
    blocks("GPTQ", "gptq bits=3 group_size=64"),
    blocks("GPTQ, clipping by inputs", "gptq bits=3 group_size=64 clipping=weighted"),
    blocks(
        "GPTQ, clipping by inputs, polished",
        "gptq bits=3 group_size=64 clipping=weighted; polish",
    ),
    blocks(
        "GPTQ, the same with zero points",
        "gptq bits=3 group_size=64 clipping=weighted symmetry=asymmetric; polish",
    ),
    blocks(
        "GPTQ, the same with EoRA of rank 4",
        "gptq bits=3 group_size=64 clipping=weighted symmetry=asymmetric; polish; eora rank=4",
    ),
    blocks("AWQ", "awq bits=3 group_size=64"),
    blocks("AWQ, folded into norms", "awq bits=3 group_size=64 scales=folded"),
    blocks("HIGGS, single weights", "higgs bits=3 grid=scalars"),
    blocks("HIGGS, pairs", "higgs bits=3"),
    blocks("QuIP#, nearest points", "quip-sharp bits=3 rounding=nearest"),
    blocks("QuIP#", "quip-sharp bits=3"),
    blocks("SpQR", "spqr bits=3"),
    blocks("SpQR, no outliers", "spqr bits=3 share=0"),
    blocks("GQSA, half of 4 bits", "gqsa"),
    blocks("Entropy-coded grid", "entropy-coded rate=3"),
    blocks("Entropy-coded grid, by inputs", "entropy-coded rate=3 nearest=outputs"),
    blocks("AQLM, 3 codebooks of 5 bits for 5", "aqlm codebooks=3 code_bits=5 run=5"),
    blocks("SeedLM, 12 inputs", "seedlm block=12 coefficients=4"),
    blocks("Optimal palette, one table", "optimal-palette bits=3"),
    blocks("Optimal palette, 16 rows", "optimal-palette bits=3 granularity=rows"),
    blocks("Q3_K", "gguf-blocks type=Q3_K"),
    blocks("Q3_K, by inputs", "gguf-blocks type=Q3_K importance=inputs"),
    blocks("Q3_K, by outputs", "gguf-blocks type=Q3_K importance=outputs"),
    blocks("Q3_K, by outputs, polished", "gguf-blocks type=Q3_K importance=outputs; polish"),
];

/// The same at 2 bits.
pub static TWO: &[Trial<'static>] = &[
    blocks("Round to nearest", "round-to-nearest bits=2 group_size=64"),
    blocks(
        "Round to nearest, clipped by least squares",
        "round-to-nearest bits=2 group_size=64 clipping=mse",
    ),
    blocks(
        "Round to nearest, clipping by inputs",
        "round-to-nearest bits=2 group_size=64 clipping=weighted",
    ),
    blocks("Round to nearest, polished", "round-to-nearest bits=2 group_size=64; polish"),
    blocks("HQQ", "hqq bits=2 group_size=64"),
    blocks("GPTQ", "gptq bits=2 group_size=64"),
    blocks("GPTQ, clipping by inputs", "gptq bits=2 group_size=64 clipping=weighted"),
    blocks(
        "GPTQ, clipping by inputs, polished",
        "gptq bits=2 group_size=64 clipping=weighted; polish",
    ),
    blocks(
        "GPTQ, the same with zero points",
        "gptq bits=2 group_size=64 clipping=weighted symmetry=asymmetric; polish",
    ),
    blocks(
        "GPTQ, the same with EoRA of rank 4",
        "gptq bits=2 group_size=64 clipping=weighted symmetry=asymmetric; polish; eora rank=4",
    ),
    blocks("AWQ", "awq bits=2 group_size=64"),
    blocks("AWQ, folded into norms", "awq bits=2 group_size=64 scales=folded"),
    blocks("HIGGS, single weights", "higgs bits=2 grid=scalars"),
    blocks("HIGGS, pairs", "higgs bits=2"),
    blocks("QuIP#, nearest points", "quip-sharp bits=2 rounding=nearest"),
    blocks("QuIP#", "quip-sharp bits=2"),
    blocks("CCQ, WINT2", "ccq form=wint2"),
    blocks("CCQ, WINT2 with feedback", "ccq form=wint2 rounding=feedback"),
    blocks("CCQ, words alone", "ccq form=wint2.286"),
    blocks("CCQ, words alone with feedback", "ccq form=wint2.286 rounding=feedback"),
    blocks("Entropy-coded grid", "entropy-coded rate=2"),
    blocks("Entropy-coded grid, by inputs", "entropy-coded rate=2 nearest=outputs"),
    blocks("Binary codes", "bcq bits=2 group_size=64"),
    blocks("Binary codes, by inputs", "bcq bits=2 group_size=64 counted=by-inputs"),
    blocks("Dual binary", "db-llm group_size=64"),
    blocks("BitStack, 2 levels of rank 4", "bitstack levels=2 rank=4"),
    blocks("BitStack, the same by inputs", "bitstack levels=2 rank=4 counted=by-inputs"),
    blocks("AQLM, 4 codebooks of 4 bits for 8", "aqlm codebooks=4 code_bits=4"),
    blocks("AQLM, the same without data", "aqlm codebooks=4 code_bits=4 nearest=weights"),
    blocks(
        "AQLM, the same without data, polished",
        "aqlm codebooks=4 code_bits=4 nearest=weights; polish",
    ),
    blocks("Vectors of 4, 8 bits", "vector-quantisation code_bits=8 run=4"),
    blocks("Vectors of 4, 8 bits, polished", "vector-quantisation code_bits=8 run=4; polish"),
    blocks("SeedLM, 16 inputs", "seedlm block=16"),
    blocks("Optimal palette, one table", "optimal-palette bits=2"),
    blocks("Optimal palette, 16 rows", "optimal-palette bits=2 granularity=rows"),
    blocks("Q2_K", "gguf-blocks type=Q2_K"),
    blocks("Q2_K, by inputs", "gguf-blocks type=Q2_K importance=inputs"),
    blocks("Q2_K, by outputs", "gguf-blocks type=Q2_K importance=outputs"),
    blocks("Q2_K, by outputs, polished", "gguf-blocks type=Q2_K importance=outputs; polish"),
];

/// About 2.5 bits.
pub static TWO_AND_A_HALF: &[Trial<'static>] = &[
    blocks(
        "Round to nearest, groups of 32, clipping by inputs",
        "round-to-nearest bits=2 group_size=32 clipping=weighted",
    ),
    blocks(
        "GPTQ, groups of 32, clipping by inputs",
        "gptq bits=2 group_size=32 clipping=weighted; polish",
    ),
    blocks(
        "GPTQ, the same with zero points",
        "gptq bits=2 group_size=32 clipping=weighted symmetry=asymmetric; polish",
    ),
    blocks("SpQR, no outliers", "spqr bits=2 share=0"),
    blocks("SpQR, 2 in 1000 outliers", "spqr bits=2 share=0.002"),
    blocks("CCQ, WINT2.5", "ccq"),
    blocks("CCQ, WINT2.5 with feedback", "ccq rounding=feedback"),
    blocks("Entropy-coded grid", "entropy-coded rate=2.5"),
    blocks("Entropy-coded grid, by inputs", "entropy-coded rate=2.5 nearest=outputs"),
    blocks("AQLM, 4 codebooks of 5 bits for 8", "aqlm codebooks=4 code_bits=5"),
    blocks("Vectors of 4, 10 bits", "vector-quantisation code_bits=10 run=4"),
];

/// Below 2 bits.
pub static ONE: &[Trial<'static>] = &[
    blocks("Ternary, mean size", "ternary group_size=64 scale=mean-size"),
    blocks("Ternary", "ternary group_size=64"),
    blocks("Ternary, by inputs", "ternary group_size=64 counted=by-inputs"),
    blocks("PTQ1.61", "ptq161"),
    blocks("PTQ1.61, no scales of inputs", "ptq161 rounds=0"),
    blocks("Binary codes, 1 bit", "bcq bits=1 group_size=64"),
    blocks("OneBit", "onebit"),
    blocks("OneBit, by inputs", "onebit counted=by-inputs"),
    blocks("BitStack, 1 level of rank 4", "bitstack levels=1 rank=4"),
    blocks("BitStack, the same by inputs", "bitstack levels=1 rank=4 counted=by-inputs"),
];

/// Methods that have no such bits.
pub static OTHERS: &[Trial<'static>] = &[
    blocks("Magnitude, 2 of 4", "magnitude pattern=n-of-m"),
    blocks("Wanda, 2 of 4", "wanda pattern=n-of-m"),
    blocks("SparseGPT, 2 of 4", "sparsegpt pattern=n-of-m"),
    blocks("SparseGPT, 2 of 4, GPTQ 4 bits", "sparsegpt pattern=n-of-m; gptq bits=4 group_size=64"),
    blocks("Low rank 64, of weights", "low-rank rank=64"),
    blocks("Low rank 64, of outputs", "low-rank rank=64 nearest=outputs"),
    blocks("Low rank 112 in 8 and 16 bits, of weights", "low-rank rank=112 factors=remapped"),
    blocks(
        "Low rank 112 in 8 and 16 bits, of outputs",
        "low-rank rank=112 nearest=outputs factors=remapped",
    ),
    blocks("Sparse dictionary, of weights", "sparse-dictionary atoms=96"),
    blocks("Sparse dictionary, of outputs", "sparse-dictionary atoms=96 nearest=outputs"),
    blocks("Tensor train, two cores", "tensor-train rank=64"),
    blocks("Tensor train, three cores", "tensor-train rank=64 cores=three"),
    blocks(
        "Low rank 64, of outputs, mean in a bias",
        "low-rank rank=64 nearest=outputs centre=bias",
    ),
    blocks("FP8 E4M3", "fp8"),
    blocks("MXFP8", "microscaling format=mxfp8"),
];

/// Every matrix compressed: what is held against llama.cpp.
pub static WHOLE: &[Trial<'static>] = &[
    whole(
        "GPTQ 8 bits, rows",
        "gptq bits=8 granularity=channel",
        "round-to-nearest bits=8 group_size=128 clipping=mse",
    ),
    whole(
        "GPTQ 6 bits, groups of 64",
        "gptq bits=6 group_size=64 clipping=weighted; polish",
        "round-to-nearest bits=6 group_size=64 clipping=mse",
    ),
    whole(
        "GPTQ 5 bits, groups of 32, zero points",
        "gptq bits=5 group_size=32 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=5 group_size=32 clipping=mse",
    ),
    whole(
        "GPTQ 5 bits, groups of 64",
        "gptq bits=5 group_size=64 clipping=weighted; polish",
        "round-to-nearest bits=5 group_size=64 clipping=mse",
    ),
    whole(
        "Q4_K by inputs, embedding Q6_K",
        "gguf-blocks type=Q4_K importance=inputs",
        "gguf-blocks type=Q6_K",
    ),
    whole(
        "GPTQ 4 bits, groups of 32, zero points",
        "gptq bits=4 group_size=32 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=5 group_size=32 clipping=mse",
    ),
    whole(
        "GPTQ 4 bits, groups of 32",
        "gptq bits=4 group_size=32 clipping=weighted; polish",
        "round-to-nearest bits=5 group_size=64 clipping=mse",
    ),
    whole("Q4_K by inputs", "gguf-blocks type=Q4_K importance=inputs", "gguf-blocks type=Q4_K"),
    whole(
        "IQ4_XS by inputs",
        "gguf-blocks type=IQ4_XS importance=inputs",
        "gguf-blocks type=IQ4_XS",
    ),
    whole(
        "GPTQ 4 bits, groups of 64",
        "gptq bits=4 group_size=64 clipping=weighted; polish",
        "round-to-nearest bits=4 group_size=32 clipping=mse",
    ),
    whole(
        "GPTQ 4 bits, groups of 128",
        "gptq bits=4 group_size=128 clipping=weighted; polish",
        "round-to-nearest bits=4 group_size=64 clipping=mse",
    ),
    whole(
        "GPTQ 4 bits, rows",
        "gptq bits=4 granularity=channel clipping=weighted; polish",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "GPTQ 3 bits, groups of 32, zero points",
        "gptq bits=3 group_size=32 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=4 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "RTN 3 bits, groups of 32, zero points, polished",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=weighted; polish rounds=6",
        "round-to-nearest bits=4 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "GPTQ 3 bits, groups of 64, zero points",
        "gptq bits=3 group_size=64 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "GPTQ 3 bits, groups of 128, zero points",
        "gptq bits=3 group_size=128 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "GPTQ 3 bits, rows, zero points",
        "gptq bits=3 granularity=channel symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole("Q2_K by inputs", "gguf-blocks type=Q2_K importance=inputs", "gguf-blocks type=Q3_K"),
    whole(
        "GPTQ 2 bits, groups of 16, zero points",
        "gptq bits=2 group_size=16 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "GPTQ 2 bits, groups of 32, zero points",
        "gptq bits=2 group_size=32 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "GPTQ 2 bits, groups of 64, zero points",
        "gptq bits=2 group_size=64 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=3 group_size=32 symmetry=asymmetric clipping=mse",
    ),
    whole(
        "GPTQ 2 bits, groups of 128, zero points",
        "gptq bits=2 group_size=128 symmetry=asymmetric clipping=weighted; polish",
        "round-to-nearest bits=2 group_size=16 symmetry=asymmetric clipping=mse",
    ),
    quip(
        "Q4_K by outputs, polished, head Q6_K",
        "gguf-blocks type=Q4_K importance=outputs; polish",
        ["gguf-blocks type=Q4_K", "gguf-blocks type=Q6_K"],
    ),
    quip(
        "IQ4_XS by outputs, polished, head Q5_K, embedding Q4_K",
        "gguf-blocks type=IQ4_XS importance=outputs; polish",
        ["gguf-blocks type=Q4_K", "gguf-blocks type=Q5_K importance=outputs; polish"],
    ),
    quip(
        "Q3_K by outputs, polished, head Q5_K, embedding Q4_K",
        "gguf-blocks type=Q3_K importance=outputs; polish",
        ["gguf-blocks type=Q4_K", "gguf-blocks type=Q5_K importance=outputs; polish"],
    ),
    quip(
        "Q2_K by outputs, polished, head Q5_K, embedding Q4_K",
        "gguf-blocks type=Q2_K importance=outputs; polish",
        ["gguf-blocks type=Q4_K", "gguf-blocks type=Q5_K importance=outputs; polish"],
    ),
    quip(
        "QuIP# 4 bits, head GPTQ 5, embedding 3",
        "quip-sharp bits=4",
        [
            "round-to-nearest bits=3 group_size=128 symmetry=asymmetric clipping=mse",
            "gptq bits=5 group_size=64 clipping=weighted; polish",
        ],
    ),
    quip(
        "QuIP# 3 bits, head Q5_K, embedding Q4_K",
        "quip-sharp bits=3",
        ["gguf-blocks type=Q4_K", "gguf-blocks type=Q5_K importance=outputs; polish"],
    ),
    quip(
        "QuIP# 2 bits and EoRA of rank 10 in 4 bits, head GPTQ 5, embedding 4",
        "quip-sharp bits=2; eora rank=10 factors=integers factor_bits=4",
        [
            "round-to-nearest bits=4 group_size=64 clipping=mse",
            "gptq bits=5 group_size=64 clipping=weighted; polish",
        ],
    ),
    quip(
        "QuIP# 2 bits and EoRA of rank 8 in 4 bits, head and embedding 4",
        "quip-sharp bits=2; eora rank=8 factors=integers factor_bits=4",
        ["quip-sharp bits=4 rounding=nearest outputs=kept", "quip-sharp bits=4 outputs=kept"],
    ),
    quip(
        "QuIP# 4 bits, embedding 8",
        "quip-sharp bits=4",
        ["round-to-nearest bits=8 group_size=128 clipping=mse", "quip-sharp bits=4 outputs=kept"],
    ),
    quip(
        "QuIP# 4 bits, embedding 4",
        "quip-sharp bits=4",
        ["quip-sharp bits=4 rounding=nearest outputs=kept", "quip-sharp bits=4 outputs=kept"],
    ),
    quip(
        "QuIP# 3 bits, head 4, embedding 8",
        "quip-sharp bits=3",
        ["round-to-nearest bits=8 group_size=128 clipping=mse", "quip-sharp bits=4 outputs=kept"],
    ),
    quip(
        "QuIP# 3 bits, head and embedding 4",
        "quip-sharp bits=3",
        ["quip-sharp bits=4 rounding=nearest outputs=kept", "quip-sharp bits=4 outputs=kept"],
    ),
    quip(
        "QuIP# 3 bits, embedding 3",
        "quip-sharp bits=3",
        ["quip-sharp bits=3 rounding=nearest outputs=kept", "quip-sharp bits=3 outputs=kept"],
    ),
    quip(
        "QuIP# 2 bits, head 4, embedding 6",
        "quip-sharp bits=2",
        ["round-to-nearest bits=6 group_size=128 clipping=mse", "quip-sharp bits=4 outputs=kept"],
    ),
    quip(
        "QuIP# 2 bits, head and embedding 4",
        "quip-sharp bits=2",
        ["quip-sharp bits=4 rounding=nearest outputs=kept", "quip-sharp bits=4 outputs=kept"],
    ),
    quip(
        "QuIP# 2 bits, head and embedding 3",
        "quip-sharp bits=2",
        ["quip-sharp bits=3 rounding=nearest outputs=kept", "quip-sharp bits=3 outputs=kept"],
    ),
];

#[cfg(test)]
mod tests {
    use lapidary_engine::plan::Assignment;
    use lapidary_engine::tensor::{DType, MatrixShape};

    use super::*;

    #[test]
    fn every_row_is_a_chain_that_can_be_run() {
        let shape = MatrixShape { rows: 256, cols: 768 };
        let all = [FOUR, THREE, TWO, TWO_AND_A_HALF, ONE, OTHERS, WHOLE];
        for trial in all.into_iter().flatten() {
            for chain in [Some(trial.chain), trial.embedding, trial.head].into_iter().flatten() {
                let assignment: Assignment = chain.parse().unwrap();
                let layout = assignment.layout(shape, DType::BF16);
                assert!(layout.is_ok(), "{}: {chain}: {layout:?}", trial.title);
            }
        }
    }
}
