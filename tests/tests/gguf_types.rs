//! Types of GGUF that are only read here: decoded as gguf-py and llama.cpp do, opened, measured and given other types.

use std::path::Path;

use lapidary_engine::Silent;
use lapidary_engine::checkpoint::Checkpoint;
use lapidary_engine::disk::Source;
use lapidary_engine::export::{Destination, export, verify};
use lapidary_engine::format::gguf::{BLOCK_TYPES, BlockType, read_header};
use lapidary_engine::format::gguf_values::decode_row;
use lapidary_engine::job::Limits;
use lapidary_engine::method::Step;
use lapidary_engine::numeric::seeds::Random;
use lapidary_engine::plan::Plan;
use lapidary_engine::statistics::measure;
use lapidary_engine::target::{find, retype};
use lapidary_tests::gguf::{Hand, pair, text};
use lapidary_tests::networks::gguf_of;
use lapidary_tests::{plan, read, read_json, repository, write};
use serde_json::Value;
use tempfile::TempDir;

/// `tests/golden/make_read_types.py`: names, bytes and the values they decode to.
fn golden() -> Vec<(&'static BlockType, Vec<u8>, Vec<f32>)> {
    let found = read_json(&repository().join("tests/golden/read_types.json"));
    let of = |(name, value): (&String, &Value)| {
        let words = hex(value["f32_bits"].as_str().expect("hexadecimal"));
        let words = words.chunks_exact(4).map(|w| f32::from_le_bytes([w[0], w[1], w[2], w[3]]));
        let bytes = hex(value["bytes"].as_str().expect("hexadecimal"));
        (BlockType::named(name).expect("a type"), bytes, words.collect())
    };
    found.as_object().expect("types").iter().map(of).collect()
}

fn hex(text: &str) -> Vec<u8> {
    let digit = |at: usize| u8::from_str_radix(&text[at..at + 2], 16).expect("hexadecimal");
    (0..text.len()).step_by(2).map(digit).collect()
}

/// Rows of one type for each, of an architecture that nobody knows.
fn every_type(types: &[(&'static BlockType, Vec<u8>)]) -> Hand {
    let tensor = |(i, (kind, bytes)): (usize, &(&'static BlockType, Vec<u8>))| {
        let rows = bytes.len() as u64 / kind.bytes;
        (format!("blk.{i}.ffn_up.weight"), vec![kind.elements, rows], kind.id, bytes.clone())
    };
    let tensors = types.iter().enumerate().map(tensor).collect();
    let pairs = vec![pair("general.architecture", 8, &text("strange"))];
    Hand { pairs, tensors, alignment: 32 }
}

fn run(source: &Checkpoint, plan: &Plan, out: &Path) {
    let destination = Destination { folder: out, replace: false, limits: Limits::default() };
    export(source, plan, find("gguf").expect("a target"), destination, &Silent)
        .unwrap_or_else(|error| panic!("{}", error.sentence()));
}

#[test]
fn every_type_is_decoded_to_the_bit_as_others_do() {
    let golden = golden();
    assert_eq!(golden.len(), 13);
    for (kind, bytes, wanted) in golden {
        let mut found = vec![0.0_f32; wanted.len()];
        decode_row(kind.id, &bytes, &mut found).expect("it is read");
        let different = found.iter().zip(&wanted).filter(|(a, b)| a.to_bits() != b.to_bits());
        assert_eq!(different.count(), 0, "{}", kind.name);
    }
}

#[test]
fn every_type_opens_as_its_values_and_is_given_others() {
    let golden = golden();
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("types.gguf");
    let types: Vec<_> = golden.iter().map(|(kind, bytes, _)| (*kind, bytes.clone())).collect();
    write(&path, &every_type(&types).bytes());
    let file = Checkpoint::open(&path).unwrap();
    for (i, (kind, _, wanted)) in golden.iter().enumerate() {
        let index = file.find(&format!("blk.{i}.ffn_up.weight")).unwrap();
        let tensor = &file.tensors()[index];
        assert_eq!(tensor.type_name(), kind.name.to_uppercase());
        let bits = kind.bytes as f64 * 8.0 / kind.elements as f64;
        assert_eq!(tensor.stored_bits(), bits, "{}", kind.name);
        assert_eq!(file.weights(index, &Silent).unwrap().as_slice().unwrap(), wanted);
        let largest = wanted.iter().fold(0.0_f32, |most, value| most.max(value.abs()));
        assert_eq!(measure(&file, index, &Silent).unwrap().abs_max, f64::from(largest));
    }
    // In F32 every value is there; what is not asked for stays byte for byte.
    let wide = Step::new("gguf-blocks").with("type", "F32");
    let wish = plan(&file, &[("blk.*.ffn_up.weight", vec![wide])]).unwrap();
    let last = format!("blk.{}.ffn_up.weight", golden.len() - 1);
    let mut some = wish.clone();
    some.set(&last, lapidary_engine::plan::Assignment::keep());
    let out = folder.path().join("out");
    run(&file, &some, &out);
    verify(&out, &file, &Silent).unwrap();
    let written = read(&gguf_of(&out));
    let header = read_header(&Source::open(&gguf_of(&out)).unwrap()).unwrap();
    for (tensor, (kind, bytes, values)) in header.tensors.iter().zip(&golden) {
        let begin = (header.data + tensor.offset) as usize;
        let found = &written[begin..begin + tensor.bytes().unwrap() as usize];
        let values: Vec<u8> = values.iter().flat_map(|value| value.to_le_bytes()).collect();
        assert_eq!(found, if tensor.name == last { bytes } else { &values }, "{}", kind.name);
    }
    // By name, fitted to rows that 256 does not divide.
    let wish = retype(
        &file,
        "Q8_0",
        &|_| lapidary_engine::method::Needs::Weights,
        find("gguf").unwrap().into(),
    )
    .unwrap()
    .0;
    let out = folder.path().join("q8");
    run(&file, &wish, &out);
    let header = read_header(&Source::open(&gguf_of(&out)).unwrap()).unwrap();
    assert!(header.tensors.iter().all(|tensor| tensor.kind == 8));
}

#[test]
fn no_bytes_of_any_type_stop_it() {
    let folder = TempDir::new().unwrap();
    let path = folder.path().join("any.gguf");
    let mut random = Random::new(3);
    for round in 0..20 {
        let mut block = |kind: &'static BlockType| {
            let fill = [0_u8, 255, 127, 128];
            let mut byte = || match round {
                0..4 => fill[round],
                _ => random.bits() as u8,
            };
            (kind, (0..2 * kind.bytes).map(|_| byte()).collect::<Vec<u8>>())
        };
        let types: Vec<_> = BLOCK_TYPES.iter().map(&mut block).collect();
        write(&path, &every_type(&types).bytes());
        let file = Checkpoint::open(&path).unwrap();
        for (index, tensor) in file.tensors().iter().enumerate() {
            if tensor.matrix.is_some() {
                file.weights(index, &Silent).unwrap();
                measure(&file, index, &Silent).unwrap();
            }
        }
    }
}
