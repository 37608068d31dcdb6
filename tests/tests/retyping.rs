//! GGUF files written again with tensors in other types: keys, names, order, alignment and every other byte as they were;
//! and GGUF files opened as what they hold.

use std::path::{Path, PathBuf};

use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk::Source;
use lapidary_engine::export::{Destination, Report, export, verify};
use lapidary_engine::format::gguf::{Header, read_header};
use lapidary_engine::job::{self, Encodings as _, Limits};
use lapidary_engine::method::{Needs, Step};
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::measure;
use lapidary_engine::target::{Aim, Case, Manifest, Severity, find, lints, retype};
use lapidary_engine::{Observer, Result, Silent};
use lapidary_tests::gguf::{Hand, list, pair, text};
use lapidary_tests::{assert_says, names_in, normals, on_threads, plan, read, sample, write};
use tempfile::TempDir;

fn aim(shard_bytes: u64) -> Aim {
    Aim { shard_bytes, ..find("gguf").expect("a target").into() }
}

fn to(folder: &Path) -> Destination<'_> {
    Destination { folder, replace: false, limits: Limits::default() }
}

fn run(source: &Checkpoint, plan: &Plan, aim: Aim, out: &Path) -> Report {
    export(source, plan, aim, to(out), &Silent)
        .unwrap_or_else(|error| panic!("{}", error.sentence()))
}

/// The GGUF files of a folder, in order.
fn files(folder: &Path) -> Vec<PathBuf> {
    let is_gguf = |name: &String| Path::new(name).extension() == Some("gguf".as_ref());
    names_in(folder).into_iter().filter(is_gguf).map(|name| folder.join(name)).collect()
}

fn blocks(kind: &str) -> Vec<Step> {
    vec![Step::new("gguf-blocks").with("type", kind)]
}

fn header(path: &Path) -> Header {
    read_header(&Source::open(path).expect("a file")).expect("a header")
}

/// Bytes of a tensor of a file.
fn tensor(path: &Path, name: &str) -> Vec<u8> {
    let header = header(path);
    let found = header.tensors.iter().find(|tensor| tensor.name == name);
    let found = found.unwrap_or_else(|| panic!("no {name}"));
    let begin = (header.data + found.offset) as usize;
    read(path)[begin..begin + found.bytes().expect("a known type") as usize].to_vec()
}

/// The sample as a GGUF file of several types.
fn mixed(folder: &Path) -> PathBuf {
    let sample = sample();
    let rules = [
        ("*.self_attn.*_proj.weight", blocks("Q8_0")),
        ("*.mlp.gate_proj.weight", blocks("Q5_K")),
        ("*.mlp.up_proj.weight", vec![Step::new("microscaling").with("format", "mxfp4")]),
        ("lm_head.weight", blocks("Q6_K")),
    ];
    run(&sample, &plan(&sample, &rules).expect("a plan"), aim(0), folder);
    files(folder).remove(0)
}

/// `Q8_0` as llama.cpp's reference writes it.
fn q8_0(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in values.chunks_exact(32) {
        let d = block.iter().fold(0.0_f32, |most, value| most.max(value.abs())) / 127.0;
        bytes.extend(half::f16::from_f32(d).to_le_bytes());
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        bytes.extend(block.iter().map(|value| (value * inverse).round() as i8 as u8));
    }
    bytes
}

fn decoded_q8_0(bytes: &[u8]) -> Vec<f32> {
    let block = |block: &[u8]| {
        let d = half::f16::from_le_bytes([block[0], block[1]]).to_f32();
        block[2..].iter().map(|&code| d * f32::from(code as i8)).collect::<Vec<_>>()
    };
    bytes.chunks_exact(34).flat_map(block).collect()
}

/// `Q4_0` as llama.cpp's reference writes it.
fn q4_0(values: &[f32]) -> Vec<u8> {
    let mut bytes = Vec::new();
    for block in values.chunks_exact(32) {
        let largest =
            block.iter().fold(0.0_f32, |most, &v| if v.abs() > most.abs() { v } else { most });
        let d = largest / -8.0;
        bytes.extend(half::f16::from_f32(d).to_le_bytes());
        let inverse = if d == 0.0 { 0.0 } else { 1.0 / d };
        let code = |value: f32| ((value * inverse + 8.5) as i8).min(15) as u8;
        bytes.extend((0..16).map(|j| code(block[j]) | code(block[j + 16]) << 4));
    }
    bytes
}

/// A file of an architecture nobody knows, with a key of every type, aligned to 64 bytes.
fn by_hand() -> Hand {
    let floats = |values: &[f32]| values.iter().flat_map(|v| v.to_le_bytes()).collect::<Vec<u8>>();
    let mut texts = Vec::new();
    for word in ["a", "", "ü\u{0}b"] {
        texts.extend(text(word));
    }
    let pairs = vec![
        pair("general.architecture", 8, &text("strange")),
        pair("z.first", 0, &[250]),
        pair("general.alignment", 4, &64_u32.to_le_bytes()),
        pair("a.i8", 1, &[0x80]),
        pair("a.u16", 2, &60_000_u16.to_le_bytes()),
        pair("a.i16", 3, &(-3_i16).to_le_bytes()),
        pair("a.i32", 5, &(-70_000_i32).to_le_bytes()),
        pair("a.f32", 6, &f32::NAN.to_bits().to_le_bytes()),
        pair("a.bool", 7, &[1]),
        pair("general.file_type", 4, &7_u32.to_le_bytes()),
        pair("a.u64", 10, &u64::MAX.to_le_bytes()),
        pair("a.i64", 11, &i64::MIN.to_le_bytes()),
        pair("a.f64", 12, &0.1_f64.to_le_bytes()),
        pair("tokenizer.chat_template", 8, &text("{% for m in messages %}ß{% endfor %}\n")),
        pair("l.u8", 9, &list(0, 3, &[1, 2, 3])),
        pair("l.i16", 9, &list(3, 2, &[1, 2, 3, 4])),
        pair("l.bool", 9, &list(7, 2, &[0, 1])),
        pair("l.f64", 9, &list(12, 1, &0.5_f64.to_le_bytes())),
        pair("l.text", 9, &list(8, 3, &texts)),
        pair("l.none", 9, &list(4, 0, &[])),
    ];
    let tensors = vec![
        ("blk.0.attn_norm.weight".into(), vec![64], 0, floats(&normals(1, 64))),
        ("blk.0.ffn_up.weight".into(), vec![64, 5], 8, q8_0(&normals(2, 320))),
        ("blk.0.strange.bias".into(), vec![3], 1, vec![1, 2, 3, 4, 5, 6]),
        ("blk.0.ffn_down.weight".into(), vec![96, 2], 8, q8_0(&normals(3, 192))),
        ("blk.0.ffn_up_exps.weight".into(), vec![64, 2, 3], 8, q8_0(&normals(4, 384))),
        // Two bits from a grid.
        ("blk.0.ffn_gate.weight".into(), vec![256, 1], 16, (0..66).collect()),
        ("counts".into(), vec![2], 26, vec![9, 0, 0, 0, 255, 255, 255, 255]),
    ];
    Hand { pairs, tensors, alignment: 64 }
}

#[test]
fn nothing_asked_is_the_same_file() {
    let folder = TempDir::new().unwrap();
    let path = mixed(&folder.path().join("first"));
    let source = Checkpoint::open(&path).unwrap();
    let out = folder.path().join("out");
    let report = run(&source, &Plan::default(), aim(0), &out);
    assert_eq!(report.totals.copied, source.tensors().len());
    assert!(read(&files(&out)[0]) == read(&path));
    let hand = folder.path().join("hand.gguf");
    write(&hand, &by_hand().bytes());
    let source = Checkpoint::open(&hand).unwrap();
    let out = folder.path().join("hand");
    run(&source, &Plan::default(), aim(0), &out);
    assert!(read(&files(&out)[0]) == read(&hand));
    assert!(verify(&out, &source, &Silent).is_ok());
}

#[test]
fn other_types_hold_what_the_source_decodes_to_and_all_else_stays() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hand.gguf");
    let hand = by_hand();
    write(&path, &hand.bytes());
    let source = Checkpoint::open(&path).unwrap();
    let rules = [
        ("blk.0.ffn_up.weight", blocks("Q4_0")),
        ("blk.0.ffn_up_exps.weight", blocks("Q4_0")),
        ("blk.0.ffn_down.weight", blocks("F16")),
    ];
    let wish = plan(&source, &rules).unwrap();
    let manifest = Manifest::new(&source, &wish, find("gguf").unwrap()).unwrap();
    let out = folder.path().join("out");
    let report = run(&source, &wish, aim(0), &out);
    let path = &files(&out)[0];
    assert_eq!(manifest.weight_file_bytes(), read(path).len() as u64);
    assert_eq!(report.totals.compressed, 3);
    let found = header(path);
    assert_eq!((found.alignment, found.tensors.len()), (64, hand.tensors.len()));
    for (found, (name, extents, _, _)) in found.tensors.iter().zip(&hand.tensors) {
        assert_eq!((&found.name, &found.extents), (name, extents));
        assert_eq!((found.offset % 64, found.offset >= 64 || found.offset == 0), (0, true));
    }
    // Every pair stands where it stood, byte for byte, but for the type that most weights have.
    let bytes = read(path);
    for ((key, place), before) in found.pairs.iter().zip(&hand.pairs) {
        let now = &bytes[place.start as usize..place.end as usize];
        if key == "general.file_type" {
            assert_eq!(now, pair(key, 4, &2_u32.to_le_bytes()));
        } else {
            assert_eq!(now, before, "{key}");
        }
    }
    let added: Vec<&str> =
        found.pairs[hand.pairs.len()..].iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!(added, ["general.quantization_version"]);
    for (name, _, _, data) in &hand.tensors {
        let now = tensor(path, name);
        match name.as_str() {
            "blk.0.ffn_up.weight" | "blk.0.ffn_up_exps.weight" => {
                assert_eq!(now, q4_0(&decoded_q8_0(data)), "{name}");
            }
            "blk.0.ffn_down.weight" => {
                let halves = decoded_q8_0(data).into_iter().map(half::f16::from_f32);
                assert_eq!(now, halves.flat_map(half::f16::to_le_bytes).collect::<Vec<u8>>());
            }
            _ => assert_eq!(&now, data, "{name}"),
        }
    }
}

#[test]
fn rows_of_heads_stay_woven_and_threads_change_nothing() {
    let folder = TempDir::new().unwrap();
    let path = mixed(&folder.path().join("first"));
    let source = Checkpoint::open(&path).unwrap();
    let (wish, fitted) = retype(&source, "q4_0", &|_| Needs::Weights, aim(0)).unwrap();
    assert!(fitted.is_empty(), "{fitted:?}");
    let outputs: Vec<Vec<u8>> = [1, 2, 7]
        .map(|threads| {
            let out = folder.path().join(threads.to_string());
            on_threads(threads, || run(&source, &wish, aim(0), &out));
            read(&files(&out)[0])
        })
        .to_vec();
    assert!(outputs[0] == outputs[1] && outputs[0] == outputs[2]);
    // Row by row as they lie in the file, whatever order they have.
    let out = files(&folder.path().join("1")).remove(0);
    for name in ["blk.0.attn_q.weight", "blk.5.attn_k.weight", "blk.2.attn_v.weight"] {
        assert_eq!(tensor(&out, name), q4_0(&decoded_q8_0(&tensor(&path, name))), "{name}");
    }
    assert_eq!(header(&out).unsigned("general.file_type"), Some(2));
    // What has the type already is not encoded again.
    let again = Checkpoint::open(&out).unwrap();
    let (wish, _) = retype(&again, "Q4_0", &|_| Needs::Weights, aim(0)).unwrap();
    assert!(wish.iter().all(|(_, assignment)| assignment.is_keep()));
    let twice = folder.path().join("twice");
    run(&again, &wish, aim(0), &twice);
    assert!(read(&files(&twice)[0]) == read(&out));
}

#[test]
fn blocks_that_do_not_fit_a_row_become_the_nearest_that_do() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hand.gguf");
    write(&path, &by_hand().bytes());
    let source = Checkpoint::open(&path).unwrap();
    let (wish, fitted) = retype(&source, "Q4_K", &|_| Needs::Weights, aim(0)).unwrap();
    assert!(fitted.iter().any(|lint| lint.what.contains("blocks of 256")), "{fitted:?}");
    let out = folder.path().join("out");
    run(&source, &wish, aim(0), &out);
    let header = header(&files(&out)[0]);
    let kind = |name: &str| header.tensors.iter().find(|t| t.name == name).map(|t| t.kind);
    let now = kind("blk.0.ffn_up.weight").unwrap();
    assert!([2, 3, 6, 7, 20].contains(&now), "{now}");
    assert_eq!(kind("blk.0.attn_norm.weight"), Some(0));
    assert_eq!(kind("blk.0.ffn_gate.weight"), Some(12), "what is only read here too");
    assert_says(retype(&source, "Q9", &|_| Needs::Weights, aim(0)), &["Q9", "Q4_K", "Q4_K_M"]);
    assert_says(retype(&sample(), "Q4_K", &|_| Needs::Weights, aim(0)), &["no GGUF file"]);
}

#[test]
fn starting_points_of_a_gguf_file_are_blocks() {
    let folder = TempDir::new().unwrap();
    let source = Checkpoint::open(&mixed(&folder.path().join("first"))).unwrap();
    let (wish, _) = retype(&source, "Q4_K_M", &|_| Needs::Weights, aim(0)).unwrap();
    let out = folder.path().join("out");
    let report = run(&source, &wish, aim(0), &out);
    assert_eq!(report.totals.dense, 0);
    assert!(report.totals.compressed > 20, "{:?}", report.totals);
    // What llama-quantize gives a model of six blocks: block 5 and, of those between, every third one more bits.
    let header = header(&files(&out)[0]);
    let kind = |name: &str| header.tensors.iter().find(|t| t.name == name).map(|t| t.kind);
    for block in 0..6 {
        let more = [2, 5].contains(&block);
        for tail in ["attn_v", "ffn_down"] {
            let wanted = if more { 14 } else { 12 };
            assert_eq!(kind(&format!("blk.{block}.{tail}.weight")), Some(wanted), "{block} {tail}");
        }
        assert_eq!(kind(&format!("blk.{block}.ffn_up.weight")), Some(12));
    }
    assert_eq!(kind("output.weight"), Some(14));
    assert_eq!(kind("token_embd.weight"), Some(12));
}

#[test]
fn parts_stay_parts_or_are_dealt_out_anew() {
    let folder = TempDir::new().unwrap();
    let whole = mixed(&folder.path().join("whole"));
    let source = Checkpoint::open(&whole).unwrap();
    let parts = folder.path().join("parts");
    run(&source, &Plan::default(), aim(2_000_000), &parts);
    let split = files(&parts);
    assert!(split.len() > 2, "{split:?}");
    // Nothing asked: every part as it is.
    let source = Checkpoint::open(&split[1]).unwrap();
    let same = folder.path().join("same");
    run(&source, &Plan::default(), aim(0), &same);
    for (before, after) in split.iter().zip(files(&same)) {
        assert_eq!(before.file_name(), after.file_name());
        assert!(read(before) == read(&after), "{}", before.display());
    }
    // One file again, as it was before it was split.
    let joined = folder.path().join("joined");
    run(&source, &Plan::default(), aim(1 << 40), &joined);
    assert!(read(&files(&joined)[0]) == read(&whole));
    // Other types in parts hold what they hold in one file.
    let wish = plan(&source, &[("*.down_proj.weight", blocks("Q3_K"))]).unwrap();
    for (name, size) in [("some", 0), ("many", 900_000), ("one", 1 << 40)] {
        let out = folder.path().join(name);
        run(&source, &wish, aim(size), &out);
        let file = Checkpoint::open(&files(&out)[0]).unwrap();
        let down = file.find("model.layers.3.mlp.down_proj.weight").unwrap();
        assert_eq!(file.tensors()[down].type_name(), "Q3_K");
        assert!(verify(&out, &source, &Silent).is_ok(), "{name}");
    }
}

#[test]
fn a_damaged_or_changed_file_is_refused() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hand.gguf");
    let bytes = by_hand().bytes();
    for cut in [3, 200, bytes.len() - 400] {
        write(&path, &bytes[..cut]);
        assert_says(Checkpoint::open(&path), &["hand.gguf"]);
    }
    write(&path, &bytes);
    let source = Checkpoint::open(&path).unwrap();
    write(&path, &bytes);
    let out = folder.path().join("out");
    let done: Result<Report> = export(&source, &Plan::default(), aim(0), to(&out), &Silent);
    assert_says(done, &["hand.gguf", "changed"]);
    assert!(!out.exists());
}

#[test]
fn lints_say_that_codes_are_encoded_again_and_which_target_takes_them() {
    #[derive(Default)]
    struct Told(std::sync::Mutex<Vec<String>>);
    impl Observer for Told {
        fn warn(&self, text: String) {
            self.0.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(text);
        }
    }
    let folder = TempDir::new().unwrap();
    let source = Checkpoint::open(&mixed(&folder.path().join("first"))).unwrap();
    let wish = plan(&source, &[("*.self_attn.*_proj.weight", blocks("Q4_K"))]).unwrap();
    let found = |id: &str| {
        let aim = Aim::from(find(id).unwrap());
        let manifest = Manifest::new(&source, &wish, aim.target).unwrap();
        let case = Case { checkpoint: &source, plan: &wish, aim, entries: &manifest.entries };
        lints(&case).into_iter().map(|lint| (lint.id, lint.severity)).collect::<Vec<_>>()
    };
    assert_eq!(found("gguf"), [("encoded-again", Severity::Warning)]);
    for id in ["dense", "compressed-tensors", "mlx", "archive"] {
        assert_eq!(found(id)[0], ("finished-gguf", Severity::Error), "{id}");
    }
    let told = Told::default();
    export(&source, &wish, aim(0), to(&folder.path().join("out")), &told).unwrap();
    let told = told.0.into_inner().unwrap();
    assert!(
        told.len() == 1 && told[0].contains("24 layers") && told[0].contains("Q8_0"),
        "{told:?}"
    );
    // To the type that decodes to the same values nothing is lost, and nothing is said.
    let wish = plan(&source, &[("*.self_attn.*_proj.weight", blocks("F32"))]).unwrap();
    let told = Told::default();
    let report = export(&source, &wish, aim(0), to(&folder.path().join("wide")), &told).unwrap();
    assert!(told.0.into_inner().unwrap().is_empty());
    assert!(report.tensors.iter().all(|tensor| tensor.relative_error == 0.0));
}

#[test]
fn a_file_opens_as_what_it_holds() {
    let sample = sample();
    let rules = [("*.mlp.*_proj.weight", blocks("Q4_K")), ("*.k_proj.weight", blocks("Q5_0"))];
    let wish = plan(&sample, &rules).unwrap();
    let folder = TempDir::new().unwrap();
    let out = folder.path().join("out");
    run(&sample, &wish, aim(0), &out);
    let file = Checkpoint::open(&files(&out)[0]).unwrap();
    let store = job::run(&sample, &wish, Limits::default(), None, &Silent).unwrap();
    assert_eq!(file.parameters(), sample.parameters());
    assert_eq!(file.fused_groups().len(), sample.fused_groups().len());
    for (index, tensor) in file.tensors().iter().enumerate() {
        let source = sample.find(&tensor.name).unwrap();
        let before = &sample.tensors()[source];
        assert_eq!(tensor.shape, before.shape, "{}", tensor.name);
        assert_eq!(tensor.matrix, before.matrix, "{}", tensor.name);
        assert_eq!(tensor.place, before.place, "{}", tensor.name);
        let Some(matrix) = tensor.matrix.filter(|_| store.has(source)) else { continue };
        let bits = if tensor.name.contains("mlp") { 4.5 } else { 5.5 };
        assert_eq!(tensor.stored_bits(), bits, "{}", tensor.name);
        let wanted = store.encoding(source).unwrap().decode();
        assert_eq!(file.weights(index, &Silent).unwrap(), wanted, "{}", tensor.name);
        // Pieces that begin and end anywhere are the same values.
        let rows = matrix.shape.rows / 3..matrix.shape.rows / 3 + 5;
        let cols = 7..matrix.shape.cols - 9;
        let piece = file.weight_block(index, rows.clone(), cols.clone()).unwrap();
        assert_eq!(piece, wanted.slice(ndarray::s![rows, cols]));
        let mean = wanted.iter().map(|&w| f64::from(w)).sum::<f64>() / wanted.len() as f64;
        let largest = wanted.iter().fold(0.0_f32, |most, w| most.max(w.abs()));
        let found = measure(&file, index, &Silent).unwrap();
        assert!((found.mean - mean).abs() < 1e-9, "{}", tensor.name);
        assert_eq!(found.abs_max, f64::from(largest), "{}", tensor.name);
    }
}

#[test]
fn files_of_any_architecture_open_and_say_why_they_do_not_run() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("hand.gguf");
    write(&path, &by_hand().bytes());
    let file = Checkpoint::open(&path).unwrap();
    let told = file.gguf().unwrap().check_runs();
    assert_says(told, &["hand.gguf", "architecture is strange"]);
    let of = |name: &str| &file.tensors()[file.find(name).unwrap()];
    let up = of("blk.0.ffn_up.weight");
    assert_eq!((up.type_name(), up.shape.0.as_slice()), ("Q8_0", &[5, 64][..]));
    assert_eq!((up.place.block, up.place.role.name()), (Some(0), "up"));
    assert_eq!((up.stored_bits(), up.parameters(), up.bytes()), (8.5, 320, 340));
    let experts = of("blk.0.ffn_up_exps.weight");
    let matrix = experts.matrix.unwrap().shape;
    assert_eq!((experts.shape.0.as_slice(), matrix.rows, matrix.cols), (&[3, 2, 64][..], 6, 64));
    let gate = of("blk.0.ffn_gate.weight");
    assert_eq!((gate.type_name(), gate.is_readable()), ("IQ2_XXS", true));
    assert_eq!(gate.matrix.unwrap().shape.cols, 256);
    let counts = file.find("counts").unwrap();
    assert_eq!(file.values(counts).unwrap(), [9.0, -1.0]);
}
