//! Sizes as people write them.

use lapidary_engine::{Error, Result};

/// A number of bytes with or without a unit.
///
/// # Errors
/// [`Error::Plan`] for what is no size.
pub fn bytes_of(text: &str) -> Result<u64> {
    let malformed = || {
        Error::plan(
            format!("{text:?} is no size"),
            "write it as 3200000, 3.2MB, 3.2MiB, 1.5GB or 1.5GiB",
        )
    };
    let text = text.trim();
    let end = text.find(|c: char| c.is_ascii_alphabetic()).unwrap_or(text.len());
    let (number, unit) = text.split_at(end);
    let number: f64 = number.trim().parse().map_err(|_not_a_number| malformed())?;
    let factor = match unit.to_ascii_lowercase().as_str() {
        "" | "b" => 1.0,
        "kb" => 1e3,
        "mb" => 1e6,
        "gb" => 1e9,
        "kib" => 1024.0,
        "mib" => 1_048_576.0,
        "gib" => 1_073_741_824.0,
        _ => return Err(malformed()),
    };
    let bytes = number * factor;
    if bytes.is_finite() && bytes >= 0.0 { Ok(bytes as u64) } else { Err(malformed()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_units() {
        let read = |text: &str| bytes_of(text).ok();
        assert_eq!([read("3200000"), read("3.2MB"), read("3.2 MB")], [Some(3_200_000); 3]);
        assert_eq!([read("1KiB"), read("1.5GiB")], [Some(1024), Some(1_610_612_736)]);
        assert_eq!([read("-1"), read("MB"), read("3 parsecs"), read("inf")], [None; 4]);
    }
}
