//! `lapidary inspect` from outside.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use tempfile::TempDir;

use crate::{json, keys, run, sample, weights, works};

const HEADER_FIELDS: [&str; 7] = ["name", "shape", "dtype", "block", "role", "parameters", "bytes"];
const VALUE_FIELDS: [&str; 8] =
    ["mean", "std", "min", "max", "abs_max", "kurtosis", "outlier_fraction", "zeros"];
/// Beyond the contract: what is not finite is counted, and what bits carry.
const COUNT_FIELDS: [&str; 7] = [
    "nan",
    "positive_infinity",
    "negative_infinity",
    "mean_abs_deviation",
    "super_weights",
    "lossless_floor_bits",
    "narrowest_type",
];
const SPECTRUM_FIELDS: [&str; 3] = ["singular_values", "stable_rank", "effective_rank"];

#[test]
fn inspect_prints_one_json_array_with_the_promised_fields() {
    let home = TempDir::new().unwrap();
    let inspect = |options: &[&str]| {
        let mut arguments = vec![OsStr::new("inspect").to_owned(), sample().into()];
        arguments.extend(options.iter().map(Into::into));
        json(&run(home.path(), arguments))
    };
    let all = |sets: &[&[&'static str]]| -> BTreeSet<&str> { sets.concat().into_iter().collect() };

    let headers = inspect(&["--headers", "--json"]);
    assert_eq!(headers.len(), 57);
    for row in &headers {
        assert_eq!(keys(row), all(&[&HEADER_FIELDS]));
    }
    let rows = inspect(&["--json"]);
    assert_eq!(rows.len(), 57);
    for (row, header) in rows.iter().zip(&headers) {
        assert_eq!(keys(row), all(&[&HEADER_FIELDS, &VALUE_FIELDS, &COUNT_FIELDS]));
        for field in HEADER_FIELDS {
            assert_eq!(row[field], header[field]);
        }
        for field in VALUE_FIELDS {
            assert!(row[field].is_number(), "{field} of {}", row["name"]);
        }
    }
    let down =
        rows.iter().find(|row| row["name"] == "model.layers.3.mlp.down_proj.weight").unwrap();
    assert_eq!(down["shape"], serde_json::json!([256, 768]));
    assert_eq!(
        (&down["dtype"], &down["block"], &down["role"]),
        (&"BF16".into(), &3.into(), &"down".into())
    );
    assert_eq!((&down["parameters"], &down["bytes"]), (&196_608.into(), &393_216.into()));
    let embedding = rows.iter().find(|row| row["name"] == "model.embed_tokens.weight").unwrap();
    assert!(embedding["block"].is_null());

    let spectra = inspect(&["--spectrum", "--json"]);
    for row in &spectra {
        let fields: [&[&str]; 4] = [&HEADER_FIELDS, &VALUE_FIELDS, &COUNT_FIELDS, &SPECTRUM_FIELDS];
        assert_eq!(keys(row), all(&fields));
        let is_matrix = row["shape"].as_array().unwrap().len() == 2;
        let values = row["singular_values"].as_array();
        assert_eq!(
            values.map(Vec::len),
            is_matrix.then_some(if row["role"] == "k" || row["role"] == "v" { 128 } else { 256 })
        );
        assert_eq!(row["stable_rank"].is_number(), is_matrix);
        assert_eq!(row["effective_rank"].is_number(), is_matrix);
    }
}

#[test]
fn inspect_says_how_weights_are_arranged() {
    let home = TempDir::new().unwrap();
    let arguments = ["inspect", "--structure", "--json"].map(OsStr::new);
    let rows = json(&run(home.path(), [&arguments[..], &[sample().as_os_str()]].concat()));
    for row in &rows {
        let is_matrix = row["shape"].as_array().unwrap().len() == 2;
        assert_eq!(row["group_peaks"]["128"].is_number(), is_matrix, "{}", row["name"]);
        assert_eq!(row["largest"].as_array().map(Vec::len), is_matrix.then_some(32));
        let floor = row["lossless_floor_bits"].as_f64();
        assert!(if is_matrix { floor.unwrap() < 16.0 } else { floor.is_none_or(|f| f < 16.0) });
        assert!(row["narrowest_type"].is_null(), "BF16 is what the sample needs");
        let shares = ["outliers_in_columns", "outliers_in_rows", "outliers_scattered"];
        let sum: f64 = shares.iter().filter_map(|share| row[share].as_f64()).sum();
        assert!(!is_matrix || sum == 0.0 || (sum - 1.0).abs() < 1e-9, "{}", row["name"]);
    }
    let down =
        rows.iter().find(|row| row["name"] == "model.layers.3.mlp.down_proj.weight").unwrap();
    assert_eq!(down["hot_rows"], serde_json::json!([116]));
    let first = &down["largest"][0];
    assert_eq!((&first[0], &first[1]), (&116.into(), &514.into()));
    assert_eq!(first[2].as_f64().unwrap().abs(), down["abs_max"].as_f64().unwrap());
    assert_eq!(down["matrix"]["transposed"], false);
}

/// GPT-2 stores `[in, out]`: coordinates are those of the matrix `[out, in]`, and that is said.
#[test]
fn inspect_says_where_rows_and_columns_are_not_those_of_the_file() {
    let home = TempDir::new().unwrap();
    let mut values = vec![0.5_f32; 8 * 24];
    values[2 * 24 + 17] = -9.0;
    let name = "h.0.attn.c_attn.weight";
    let layers: [(&str, &[usize], &[f32]); 2] =
        [(name, &[8, 24], &values), ("h.0.ln_1.weight", &[8], &[1.0; 8])];
    weights(&home.path().join("m.safetensors"), &layers);
    let rows = json(&run(home.path(), ["inspect", "--structure", "--json", "m.safetensors"]));
    let row = rows.iter().find(|row| row["name"] == name).unwrap();
    assert_eq!(row["shape"], serde_json::json!([8, 24]));
    let matrix = serde_json::json!({"rows": 24, "cols": 8, "transposed": true});
    assert_eq!(row["matrix"], matrix);
    assert_eq!(row["largest"][0], serde_json::json!([17, 2, -9.0]));
    let norm = rows.iter().find(|row| row["name"] == "h.0.ln_1.weight").unwrap();
    assert!(norm["matrix"].is_null());
}

#[test]
fn inspect_without_json_prints_a_table() {
    let home = TempDir::new().unwrap();
    let output = run(home.path(), [OsStr::new("inspect"), sample().as_os_str()]);
    let table = works(&output);
    assert_eq!(table.lines().filter(|line| line.contains("BF16")).count(), 57);
    assert!(table.contains("model.layers.5.self_attn.o_proj.weight"));
    let headers =
        run(home.path(), [OsStr::new("inspect"), sample().as_os_str(), OsStr::new("--headers")]);
    assert!(!works(&headers).contains("kurtosis"));
}
