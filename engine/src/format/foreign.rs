//! What a file is that is no safetensors file: told from its first bytes, so that a person learns what to do instead.
//! In: the beginning of a file. Out: what it is, and the mend. Never reads such a file.

/// Bytes that are looked at.
pub(super) const LOOKED_AT: usize = 512;

/// A file of another kind.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Foreign {
    /// Half a sentence: "it is a zip archive".
    pub(super) what: &'static str,
    /// What to do instead.
    pub(super) mend: &'static str,
}

const TORCH_MEND: &str = "convert it to safetensors first, where you trust it: such files can run code when they are loaded";

/// First bytes, what they are the first bytes of, and the mend.
const MAGICS: [(&[u8], &str, &str); 8] = [
    (
        b"GGUF",
        "it is a GGUF file, as llama.cpp loads",
        "open the safetensors checkpoint it was made from; GGUF is not read",
    ),
    (
        b"PK\x03\x04",
        "it is a zip archive, most likely weights saved by PyTorch (.bin, .pt, .pth)",
        TORCH_MEND,
    ),
    (b"\x80\x02", "it is a Python pickle, most likely weights saved by PyTorch", TORCH_MEND),
    (b"\x80\x03", "it is a Python pickle, most likely weights saved by PyTorch", TORCH_MEND),
    (b"\x80\x04", "it is a Python pickle", TORCH_MEND),
    (b"\x80\x05", "it is a Python pickle", TORCH_MEND),
    (b"\x89HDF", "it is an HDF5 file, as Keras saves (.h5)", "convert it to safetensors first"),
    (
        b"version https://git-lfs",
        "it is a pointer of Git LFS, which stands for the file itself",
        "fetch the file with `git lfs pull`, or download it",
    ),
];

/// What the file is that begins with these bytes, where that can be told.
pub(super) fn recognise(first: &[u8]) -> Option<Foreign> {
    let of_magic = MAGICS.iter().find(|(magic, ..)| first.starts_with(magic));
    if let Some(&(_, what, mend)) = of_magic {
        return Some(Foreign { what, mend });
    }
    let text = text(first)?.trim_start();
    let mend = "open the .safetensors file, or the folder it lies in";
    Some(if text.starts_with('{') || text.starts_with('[') {
        Foreign { what: "it is a JSON text", mend }
    } else if text.starts_with('<') {
        let mend = "download the file itself; this is a page about it, or about an error";
        Foreign { what: "it is a web page", mend }
    } else {
        Foreign { what: "it is a text", mend }
    })
}

/// The bytes as text, if every one of them is printable; a last letter that is cut off does not count.
fn text(first: &[u8]) -> Option<&str> {
    let whole = match std::str::from_utf8(first) {
        Ok(text) => text,
        Err(error) if error.error_len().is_none() => {
            std::str::from_utf8(&first[..error.valid_up_to()]).ok()?
        }
        Err(_no_text) => return None,
    };
    let is_printable = |c: char| !c.is_control() || c.is_whitespace();
    (!whole.is_empty() && whole.chars().all(is_printable)).then_some(whole)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_end_anywhere_and_hold_no_control_characters() {
        let is_text = |bytes: &[u8]| recognise(bytes).is_some_and(|of| of.what.contains("text"));
        assert!(is_text("a café".as_bytes()) && is_text(b"a caf\xc3") && is_text(b" {}\n"));
        assert!(!is_text(b"\x10\x00\x00\x00") && !is_text(b"abc\xff\xff") && !is_text(b""));
    }
}
