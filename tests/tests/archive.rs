//! Lapidary's archive: every encoding goes in and comes out to the bit, archives unpack to what a dense export would
//! have been, and what is cut or changed in them is a sentence.

use std::collections::BTreeMap;
use std::path::Path;

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::compare::{Counterpart, compare, layers, pairs};
use lapidary_engine::encoding::{
    Dense, Encoding, Layout, LowRank, Mask, Outliers, Scaled, Shifted, Signed, Sparse, Split,
    Stack, Sum,
};
use lapidary_engine::export::{Destination, Report, convert, export};
use lapidary_engine::format::archive::{self, Index};
use lapidary_engine::job::Limits;
use lapidary_engine::method::{METHODS, Stage, Step, chain_layout};
use lapidary_engine::network::{CheckpointWeights, Weights as _};
use lapidary_engine::plan::Plan;
use lapidary_engine::target::{self, Manifest};
use lapidary_engine::tensor::{DType, MatrixShape};
use lapidary_engine::{Result, Silent};
use lapidary_tests::{
    Weights, assert_says, compress, normal_matrix, plan, read, read_output, rtn, sample, write,
};
use proptest::prelude::*;
use tempfile::TempDir;

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn export_to(checkpoint: &Checkpoint, plan: &Plan, id: &str, folder: &Path) -> Report {
    let target = target::find(id).expect("a target");
    export(checkpoint, plan, target, to(folder), &Silent).unwrap_or_else(|e| panic!("{id}: {e}"))
}

/// Every method alone, and behind a mask; and chains that end in a correction.
fn chains() -> Vec<Vec<Step>> {
    let mask = || Step::new("magnitude").with("fraction", 0.6);
    let mut chains = Vec::new();
    for method in METHODS {
        let step = Step::new(method.about().id);
        let quantises = method.about().stage == Stage::Quantise;
        let before = match method.about().stage {
            Stage::Keep | Stage::Prune | Stage::Quantise => vec![],
            Stage::Refine => vec![Step::new("vector-quantisation").with("code_bits", 2)],
            _ => vec![rtn(4)],
        };
        chains.push([before, vec![step.clone()]].concat());
        // Some store no mask of single weights, and say so.
        let shape = MatrixShape { rows: 8, cols: 8 };
        let masked = vec![mask(), step];
        if quantises && chain_layout(&masked, shape, DType::BF16).is_ok() {
            chains.push(masked);
        }
    }
    for kind in lapidary_engine::encoding::BlockType::ALL {
        chains.push(vec![Step::new("gguf-blocks").with("type", kind.name())]);
    }
    chains.push(vec![Step::new("fp8").with("granularity", "square")]);
    for format in ["mxfp4", "nvfp4"] {
        chains.push(vec![Step::new("microscaling").with("format", format)]);
    }
    chains.push(vec![rtn(3).with("symmetry", "asymmetric"), Step::new("eora").with("rank", 3)]);
    chains.push(vec![Step::new("wanda"), Step::new("awq"), Step::new("eora").with("rank", 2)]);
    chains
}

fn bits(values: impl IntoIterator<Item = f32>) -> Vec<u32> {
    values.into_iter().map(f32::to_bits).collect()
}

/// Through parts and layout as text, by the restored encoding and by the reader of archives, in runs of any length.
fn assert_round_trip(encoding: &Encoding, what: &str) {
    let (layout, shape) = (encoding.layout(), encoding.shape());
    assert!(layout.is_valid(shape), "{what}: {layout:?} of {shape}");
    let text = serde_json::to_string(&layout).expect("it works");
    assert_eq!(serde_json::from_str::<Layout>(&text).expect("it works"), layout, "{what}");
    let parts = encoding.parts();
    let said: Vec<_> =
        layout.parts(shape).into_iter().map(|p| (p.name, p.dtype, p.elements)).collect();
    let elements = |part: &lapidary_engine::encoding::Part<'_>| {
        (part.bytes.len() as u64 * 8 / part.dtype.bits()) as usize
    };
    let held: Vec<_> = parts.iter().map(|p| (p.name.clone(), p.dtype, elements(p))).collect();
    assert_eq!(said, held, "{what}");
    let by_name: BTreeMap<&str, &[u8]> =
        parts.iter().map(|part| (part.name.as_str(), &*part.bytes)).collect();
    assert_eq!(by_name.len(), parts.len(), "{what}: two parts of one name");
    let get = |name: &str| by_name.get(name).copied();
    let restored = Encoding::from_parts(&layout, shape, &get).expect(what);
    assert_eq!(&restored, encoding, "{what}");
    let reader = archive::Reader::new(&layout, shape, &get).expect(what);
    let wanted = bits(encoding.decode());
    for run in [1, 7, shape.cols + 3, shape.elements()] {
        let mut first = 0;
        while first < shape.elements() {
            let mut out = vec![f32::NAN; run.min(shape.elements() - first)];
            reader.read(first, &mut out).expect(what);
            assert_eq!(
                bits(out.iter().copied()),
                wanted[first..first + out.len()],
                "{what} at {first}"
            );
            // Runs need not follow one another.
            first += run.max(shape.elements() / 9);
        }
    }
    assert!(reader.read(shape.elements(), &mut [0.0]).is_none(), "{what}: beyond the end");
    for missing in by_name.keys() {
        let get = |name: &str| get(name).filter(|_| name != *missing);
        assert!(archive::Reader::new(&layout, shape, &get).is_none(), "{what} without {missing}");
    }
}

#[test]
fn every_encoding_of_every_method_comes_back_to_the_bit() {
    let mut seen = 0;
    for (rows, cols) in [(8, 64), (13, 70), (1, 300), (33, 1), (256, 256)] {
        let weights = normal_matrix(7, rows, cols);
        for dtype in [DType::BF16, DType::F32] {
            for steps in chains() {
                let what = format!("{steps:?} of {rows} × {cols} in {dtype}");
                // Some methods refuse some shapes; none may refuse all.
                if let Ok(encoding) = compress(&steps, &weights, dtype) {
                    assert_round_trip(&encoding, &what);
                    seen += 1;
                }
            }
        }
    }
    let n = 10 * chains().len();
    assert!(seen > n * 3 / 5, "only {seen} of {n} were tried");
    for steps in chains() {
        let weights = normal_matrix(7, 256, 256);
        compress(&steps, &weights, DType::BF16).unwrap_or_else(|e| panic!("{steps:?}: {e}"));
    }
}

/// Encodings in one another, deeper than any chain: parts of equal names must not hide one another.
#[test]
fn encodings_within_encodings_come_back_to_the_bit() {
    let (rows, cols) = (12, 40);
    let weights = normal_matrix(3, rows, cols);
    let of = |rows: usize, cols: usize, steps: &[Step]| {
        compress(steps, &normal_matrix(4, rows, cols), DType::BF16).expect("it compresses")
    };
    let four = || of(rows, cols, &[rtn(4).with("symmetry", "asymmetric")]);
    let product = |left: Encoding, right: Encoding| LowRank::new(left, right);
    let factors = || [of(rows, 3, &[rtn(8)]), of(3, cols, &[Step::new("nf4")])];
    let thin = || {
        let [left, right] = factors();
        Encoding::LowRank(product(left, right))
    };
    let mask = |seed: usize| {
        let keep: Vec<bool> = (0..rows * cols).map(|i| (i * 7 + seed) % 5 < 3).collect();
        Mask::new(&keep)
    };
    let masked = |seed, inner| Encoding::Sparse(Sparse::new(mask(seed), inner));
    let scaled = |inner: Encoding| {
        let scales = (0..inner.shape().cols).map(|j| 0.5 + j as f32 / 8.0).collect();
        Encoding::Scaled(Scaled::new(DType::F32, scales, inner))
    };
    let shifted = |inner: Encoding| {
        let shift: Vec<f32> = (0..rows).map(|row| row as f32 - 4.5).collect();
        Encoding::Shifted(Shifted::new(DType::BF16, &shift, inner))
    };
    // What a mask drops must be zero underneath, as methods leave it.
    let zeroed = |seed: usize| {
        let mask = mask(seed);
        let values: Vec<f32> =
            weights.iter().enumerate().map(|(i, &w)| if mask.keeps(i) { w } else { 0.0 }).collect();
        Encoding::Dense(Dense::new(four().shape(), DType::BF16, &values))
    };
    let sum = |base: Encoding, correction: Encoding| Encoding::Sum(Sum::new(base, correction));
    let few = || {
        let places = [1, 39, 40, 200, rows * cols - 1];
        let values = [2.0, -3.0, 0.5, 8.0, -0.25];
        Encoding::Outliers(Outliers::new(four().shape(), DType::BF16, &places, &values))
    };
    let cases = [
        ("sum of sum", sum(sum(four(), thin()), thin())),
        ("three sums", sum(sum(sum(four(), thin()), thin()), thin())),
        ("sum over a product", sum(thin(), thin())),
        ("outliers", few()),
        ("base, product and outliers", sum(sum(four(), thin()), few())),
        ("outliers twice", sum(sum(four(), few()), few())),
        ("a correction of integers", sum(four(), four())),
        ("scaled twice", scaled(scaled(four()))),
        ("outputs shifted", shifted(sum(four(), thin()))),
        ("outputs shifted over scaled inputs", shifted(scaled(four()))),
        ("mask over a mask", masked(1, masked(1, zeroed(1)))),
        ("mask over a sum", masked(2, sum(four(), thin()))),
        (
            "product of products",
            Encoding::LowRank(product(
                Encoding::LowRank(product(of(rows, 2, &[rtn(8)]), of(2, 3, &[rtn(8)]))),
                scaled(of(3, cols, &[rtn(6)])),
            )),
        ),
        (
            "rank 0",
            Encoding::LowRank(product(
                Encoding::Dense(Dense::new(
                    lapidary_engine::tensor::MatrixShape { rows, cols: 0 },
                    DType::F16,
                    &[],
                )),
                Encoding::Dense(Dense::new(
                    lapidary_engine::tensor::MatrixShape { rows: 0, cols },
                    DType::F16,
                    &[],
                )),
            )),
        ),
    ];
    for (what, encoding) in cases {
        assert_round_trip(&encoding, what);
    }
}

#[test]
fn levels_signs_and_splits_come_back_to_the_bit() {
    let (rows, cols) = (12, 40);
    let of = |rows: usize, cols: usize, steps: &[Step]| {
        compress(steps, &normal_matrix(4, rows, cols), DType::BF16).expect("it compresses")
    };
    let four = || of(rows, cols, &[rtn(4).with("symmetry", "asymmetric")]);
    let thin = || of(rows, cols, &[Step::new("low-rank").with("rank", 3)]);
    let few = || {
        let places = [1, 39, 40, 200, rows * cols - 1];
        let values = [2.0, -3.0, 0.5, 8.0, -0.25];
        Encoding::Outliers(Outliers::new(four().shape(), DType::BF16, &places, &values))
    };
    let sum = |base: Encoding, correction: Encoding| Encoding::Sum(Sum::new(base, correction));
    let stack = |levels: Vec<Encoding>| Encoding::Stack(Stack::new(levels));
    let scaled = |inner: Encoding| {
        let scales = (0..inner.shape().cols).map(|j| 0.5 + j as f32 / 8.0).collect();
        Encoding::Scaled(Scaled::new(DType::F32, scales, inner))
    };
    let signed = |inner: Encoding| {
        let minus: Vec<bool> = (0..rows * cols).map(|i| i * 11 % 7 < 3).collect();
        Encoding::Signed(Signed::new(&minus, inner))
    };
    let split = |apart: Encoding, rest: Encoding| {
        let columns: Vec<bool> = (0..cols).map(|j| j * 3 % 5 == 1).collect();
        Encoding::Split(Split::new(columns, apart, rest))
    };
    let turned = || of(rows, cols, &[Step::new("higgs").with("group_size", 32)]);
    let part = |cols: usize| of(rows, cols, &[Step::new("ternary").with("group_size", 16)]);
    let inner = || Split::new(vec![false; 32], of(rows, 0, &[rtn(4)]), part(32));
    let apart = || scaled(of(rows, 8, &[rtn(4)]));
    let cases = [
        ("levels of anything", stack(vec![four(), thin(), few()])),
        (
            "a stack in a stack and in a sum",
            sum(stack(vec![stack(vec![four(), signed(thin())]), turned()]), stack(vec![four()])),
        ),
        ("signs over signs of a turned basis", signed(signed(turned()))),
        ("inputs apart, and none apart of the rest", split(apart(), Encoding::Split(inner()))),
    ];
    for (what, encoding) in cases {
        assert_round_trip(&encoding, what);
    }
}

/// A family of methods on each role of the sample.
fn mixed(sample: &Checkpoint) -> Plan {
    let rules = [
        ("*.q_proj.weight", vec![Step::new("low-rank").with("rank", 16)]),
        ("*.k_proj.weight", vec![Step::new("optimal-palette").with("bits", 3)]),
        ("*.v_proj.weight", vec![Step::new("magnitude").with("fraction", 0.5), rtn(3)]),
        ("*.o_proj.weight", vec![Step::new("magnitude").with("fraction", 0.7)]),
        ("*.gate_proj.weight", vec![Step::new("microscaling").with("format", "nvfp4")]),
        ("*.up_proj.weight", vec![Step::new("gguf-blocks").with("type", "Q4_0")]),
        ("*.down_proj.weight", vec![Step::new("hqq")]),
        ("model.embed_tokens.weight", vec![rtn(5).with("granularity", "tensor")]),
        ("lm_head.weight", vec![Step::new("nf4")]),
    ];
    plan(sample, &rules).expect("a plan")
}

#[test]
fn archives_unpack_to_the_bytes_of_the_dense_export_and_compare_like_it() {
    let sample = sample();
    let plan = mixed(&sample);
    let folder = TempDir::new().unwrap();
    let [packed, dense, unpacked] = ["packed", "dense", "unpacked"].map(|n| folder.path().join(n));
    let report = export_to(&sample, &plan, "archive", &packed);
    let manifest = Manifest::new(&sample, &plan, target::find("archive").unwrap()).unwrap();
    let on_disk: u64 = read_output(&packed).values().map(|b| b.len() as u64).sum();
    assert_eq!((report.totals.total_bytes, manifest.total_bytes()), (on_disk, on_disk));
    assert_eq!(report.totals.dense, 0, "everything is held");
    assert!(report.totals.tensor_bytes * 3 < report.totals.source_bytes);
    let twin = export_to(&sample, &plan, "dense", &dense);
    let archive = Checkpoint::open(&packed).unwrap();
    let target = target::find("dense").unwrap();
    convert(&archive, target, to(&unpacked), &Silent).unwrap();
    assert_eq!(read_output(&unpacked), read_output(&dense));
    // Compared with the source, it is as far from it as was measured; the dense twin is, but for its rounding.
    let both = pairs(&sample, &archive);
    for ((tensor, counterpart), reported) in sample.tensors().iter().zip(&both).zip(&report.tensors)
    {
        let index = sample.find(&tensor.name).unwrap();
        let found =
            compare(&sample, index, &archive, counterpart.as_ref().unwrap(), &Silent).unwrap();
        let (a, b) = (found.relative_error, reported.relative_error);
        assert!((a - b).abs() <= 1e-12 * (a + b), "{}: {a} and {b}", tensor.name);
    }
    for (a, b) in report.tensors.iter().zip(&twin.tensors) {
        assert!((a.relative_error - b.relative_error).abs() < 1e-3, "{}", a.name);
    }
    // A network reads it as it reads the dense one, but for that rounding.
    let name = "model.layers.0.self_attn.v_proj.weight";
    let weights = CheckpointWeights::new(&archive);
    let extents = weights.extents(name).unwrap();
    let mut row = vec![0.0; extents[1]];
    weights.read(name, 2 * extents[1], &mut row, &Silent).unwrap();
    let plain = Checkpoint::open(&dense).unwrap();
    let wanted = plain.weights(plain.find(name).unwrap(), &Silent).unwrap();
    assert!(row.iter().zip(wanted.row(2)).all(|(a, b)| (a - b).abs() <= 0.01 * b.abs()));
    // Parts have the places of their layer, and no matrix of their own.
    let part = &archive.tensors()[archive.find(&format!("{name}.codes")).unwrap()];
    assert_eq!((part.place.block, part.place.role.name()), (Some(0), "v"));
    assert!(part.matrix.is_none());
    // An archive against itself is identical, also where a layer has one part only.
    for (index, pair) in pairs(&archive, &archive).iter().enumerate() {
        let same = compare(&archive, index, &archive, pair.as_ref().unwrap(), &Silent).unwrap();
        assert!(same.identical, "{}", archive.tensors()[index].name);
    }
}

/// Two shards, layers of the GPT-2 family, and a convolution: names, transposition and extents survive.
#[test]
fn shards_transposed_layers_and_convolutions_come_back() {
    let folder = TempDir::new().unwrap();
    let model = folder.path().join("model");
    Weights::new()
        .normal("h.0.attn.c_attn.weight", &[16, 48])
        .normal("h.0.attn.c_proj.weight", &[16, 16])
        .write(&model.join("model-1.safetensors"));
    Weights::new()
        .normal("layer1.0.conv1.weight", &[8, 4, 3, 3])
        .normal("h.0.ln_1.weight", &[16])
        .write(&model.join("model-2.safetensors"));
    let map = serde_json::json!({"weight_map": {
        "h.0.attn.c_attn.weight": "model-1.safetensors", "h.0.attn.c_proj.weight": "model-1.safetensors",
        "layer1.0.conv1.weight": "model-2.safetensors", "h.0.ln_1.weight": "model-2.safetensors",
    }});
    write(&model.join("model.safetensors.index.json"), map.to_string().as_bytes());
    let checkpoint = Checkpoint::open(&model).unwrap();
    let everything = plan(&checkpoint, &[("*", vec![rtn(4).with("group_size", 16)])]).unwrap();
    let [packed, dense, unpacked] = ["packed", "dense", "unpacked"].map(|n| folder.path().join(n));
    let report = export_to(&checkpoint, &everything, "archive", &packed);
    export_to(&checkpoint, &everything, "dense", &dense);
    let archive = Checkpoint::open(&packed).unwrap();
    convert(&archive, target::find("dense").unwrap(), to(&unpacked), &Silent).unwrap();
    let (a, b) = (read_output(&unpacked), read_output(&dense));
    assert_eq!(a, b);
    assert_eq!(a.len(), 3, "two shards and an index");
    for (index, pair) in pairs(&checkpoint, &archive).iter().enumerate() {
        let found = compare(&checkpoint, index, &archive, pair.as_ref().unwrap(), &Silent).unwrap();
        let reported = report.tensors[index].relative_error;
        assert!(
            (found.relative_error - reported).abs() < 1e-12,
            "{}",
            checkpoint.tensors()[index].name
        );
    }
    // A shard alone is an archive of its own.
    let alone = Checkpoint::open(&packed.join("model-2.safetensors")).unwrap();
    assert!(alone.is_archive() && alone.archived("layer1.0.conv1.weight").is_some());
}

/// A small archive with a mask, a palette and a sum in it.
fn small() -> Vec<u8> {
    let folder = TempDir::new().expect("it works");
    let model = folder.path().join("model.safetensors");
    Weights::new()
        .normal("a.q_proj.weight", &[6, 20])
        .normal("a.k_proj.weight", &[6, 20])
        .normal("a.v_proj.weight", &[6, 20])
        .normal("a.norm.weight", &[6])
        .write(&model);
    let checkpoint = Checkpoint::open(&model).expect("it works");
    let rules = [
        ("*.q_proj.weight", vec![Step::new("magnitude").with("fraction", 0.5), rtn(3)]),
        ("*.k_proj.weight", vec![Step::new("optimal-palette").with("bits", 2)]),
        ("*.v_proj.weight", vec![Step::new("low-rank").with("rank", 2)]),
    ];
    let out = folder.path().join("out");
    export_to(&checkpoint, &plan(&checkpoint, &rules).expect("it works"), "archive", &out);
    read(&out.join("model.safetensors"))
}

/// Opens bytes as an archive and reads every layer in every way.
fn try_out(bytes: &[u8]) -> Result<usize> {
    let folder = TempDir::new().expect("a folder");
    let path = folder.path().join("model.safetensors");
    write(&path, bytes);
    let archive = Checkpoint::open(&path)?;
    let weights = CheckpointWeights::new(&archive);
    let mut n = 0;
    for (name, stored) in layers(&archive) {
        if let Counterpart::Compressed { layer, .. } = stored {
            n += 1;
            layer.encoding(&archive, &Silent)?;
            let mut row = vec![0.0; layer.shape.cols];
            weights.read(&name, 0, &mut row, &Silent)?;
        }
    }
    let out = folder.path().join("out");
    if n > 0 {
        convert(&archive, target::find("dense")?, to(&out), &Silent)?;
    }
    Ok(n)
}

fn with_index(index: &str) -> Vec<u8> {
    let bytes = small();
    let header_bytes = u64::from_le_bytes(bytes[..8].try_into().expect("it works")) as usize;
    let mut header: serde_json::Value =
        serde_json::from_slice(&bytes[8..8 + header_bytes]).expect("it works");
    header["__metadata__"][archive::KEY] = index.into();
    lapidary_tests::raw_file(&header.to_string(), &bytes[8 + header_bytes..])
}

#[test]
fn what_is_false_in_an_index_is_named() {
    assert_eq!(try_out(&small()).unwrap(), 3);
    let good = {
        let bytes = small();
        let header_bytes = u64::from_le_bytes(bytes[..8].try_into().unwrap()) as usize;
        let header: serde_json::Value =
            serde_json::from_slice(&bytes[8..8 + header_bytes]).unwrap();
        header["__metadata__"][archive::KEY].as_str().unwrap().to_owned()
    };
    assert!(Index::read(&BTreeMap::from([(archive::KEY.to_owned(), good.clone())])).is_ok());
    let changed = |from: &str, to: &str| {
        assert!(good.contains(from), "{from} is not in {good}");
        try_out(&with_index(&good.replacen(from, to, 1)))
    };
    let q = "a.q_proj.weight";
    assert_says(try_out(&with_index("{")), &["index is not understood"]);
    assert_says(changed("\"version\":1", "\"version\":2"), &["version 2"]);
    assert_says(
        changed(&format!("\"{q}\""), "\"b.q_proj.weight\""),
        &["b.q_proj.weight", "has no tensor"],
    );
    assert_says(changed(&format!("\"{q}\""), "\"a.norm.weight\""), &["a.norm.weight", "twice"]);
    assert_says(changed("\"bits\":3", "\"bits\":0"), &[q, "makes no sense"]);
    assert_says(changed("\"bits\":3", "\"bits\":200"), &[q, "makes no sense"]);
    assert_says(changed("\"bits\":3", "\"bits\":4"), &["a.q_proj.weight.codes", "layout says"]);
    assert_says(
        changed("\"rank\":2", "\"rank\":18446744073709551615"),
        &["v_proj", "makes no sense"],
    );
    assert_says(
        changed("\"shape\":[6,20]", "\"shape\":[20,6]"),
        &["matrix is not that of its shape"],
    );
    assert_says(changed("\"kept\":60", "\"kept\":61"), &["a.q_proj", "do not fit together"]);
    let deep = format!(
        "{}{{\"dense\":\"F32\"}}{}",
        "{\"sparse\":{\"kept\":0,\"inner\":".repeat(60),
        "}}".repeat(60)
    );
    let deep = format!(
        "{{\"version\":1,\"layers\":{{\"x\":{{\"dtype\":\"F32\",\"shape\":[1,1],\"matrix\":{{\"rows\":1,\"cols\":1}},\"layout\":{deep}}}}}}}"
    );
    assert_says(try_out(&with_index(&deep)), &["layer", "makes no sense"]);
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]
    #[test]
    fn archives_cut_or_changed_never_panic(
        cut in 0..4000_usize,
        changes in prop::collection::vec((8..4000_usize, any::<u8>()), 0..6),
        is_cut: bool,
    ) {
        let mut bytes = small_once().clone();
        for (at, byte) in changes {
            let n = bytes.len();
            bytes[at % n] = byte;
        }
        if is_cut {
            let n = bytes.len();
            bytes.truncate(cut % n);
        }
        if let Err(error) = try_out(&bytes) {
            prop_assert!(!error.sentence().contains('\n'), "{}", error.sentence());
        }
    }
}

fn small_once() -> &'static Vec<u8> {
    static SMALL: std::sync::OnceLock<Vec<u8>> = std::sync::OnceLock::new();
    SMALL.get_or_init(small)
}
